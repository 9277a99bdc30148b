//! Real HAProxy, FastAPI, Redis and OIDC provider, with the files of `haproxy/` unmodified.
//!
//! `who` (tokens and identity headers), `limits` (memory and Redis), `faults` (parts that stop and come back), `rolling`
//! (agents that are restarted or die under load, with each HAProxy line).

mod api_keys;
mod certificates;
mod faults;
mod limits;
mod rolling;
mod who;

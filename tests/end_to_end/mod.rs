//! Real HAProxy, FastAPI, Redis and OIDC provider, with the files of `haproxy/` unmodified.
//!
//! `who` (tokens and identity headers), `bound` (tokens whose bearer proves to hold a key), `limits` (memory and Redis), `faults` (parts that stop and come back), `rolling`
//! (agents that are restarted or die under load, with each HAProxy line).

mod bound;
mod faults;
mod limits;
mod rolling;
mod who;

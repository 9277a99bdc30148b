//! Real HAProxy, FastAPI, Redis and OIDC provider, with the files of `haproxy/` unmodified.
//!
//! `who` (tokens and identity headers), `limits` (memory and Redis), `faults` (parts that stop and come back).

mod faults;
mod limits;
mod who;

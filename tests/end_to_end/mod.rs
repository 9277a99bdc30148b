//! Real HAProxy, FastAPI, Redis and OIDC provider, with the files of `haproxy/` unmodified.
//!
//! `who` (tokens and identity headers), `bound` (tokens whose bearer proves to hold a key), `opaque` (tokens that their
//! issuer is asked about), `directories` (LDAP passwords, groups that no token has), `requirements` (what else rules ask
//! for), `paths` (every spelling of what is guarded), `limits` (memory and Redis), `kinds` (limits that the response has a say in, and of refused credentials), `granting` and `revoking` (`tollgate grant` and `tollgate
//! revoke` under way), `faults` (parts that stop and come back),
//! `rolling` (agents that are restarted or die under load, with each HAProxy line), `secrets` (what comes out of none of
//! it), `generated` (what `tollgate haproxy` writes for each HAProxy line, booted), `audit` (a line for each answer).

mod api_keys;
mod audit;
mod bound;
mod certificates;
mod directories;
mod faults;
mod generated;
mod granting;
mod kinds;
mod limits;
mod opaque;
mod paths;
mod requirements;
mod revoking;
mod rolling;
mod secrets;
mod who;

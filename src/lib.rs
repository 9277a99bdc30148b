//! Tollgate.

pub mod clock;
pub mod config;
pub mod decision;
pub mod dev_idp;
pub mod explain;
pub mod extract;
pub mod identity;
pub mod limit;
pub mod pipeline;
pub mod policy;
pub mod request;
pub mod respond;
pub mod secret;
pub mod server;
pub mod spop;
pub mod telemetry;
pub mod trace;

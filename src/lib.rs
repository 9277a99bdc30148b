//! Tollgate.

pub mod clock;
pub mod dev_idp;
pub mod identity;
pub mod limit;
pub mod request;
pub mod secret;
pub mod spop;
pub mod trace;

//! Permit -> Budget: has the caller any left?
//!
//! All limits of a request are tested together, then charged together, or not at all. Reading order: `quota` (what is
//! allowed), `gcra`, `sliding`, `calendar` and `slots` (the arithmetic of each kind, exact functions), `counter` (the kinds
//! behind one face), `key` (which counter), `memory` and `redis` (where counters live, the same arithmetic in each),
//! `denied` (what is known to have no room), `settle` and `receipt` (what only the response makes known), `store` (which of them is asked, and what a failure is).

pub mod calendar;
mod counter;
mod denied;
mod gcra;
mod key;
#[cfg(test)]
mod ledger_tests;
mod lua;
mod memory;
pub mod quota;
mod receipt;
mod redis;
mod settle;
mod sliding;
mod slots;
mod store;
#[cfg(test)]
mod store_tests;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

pub use calendar::{Calendar, Unit};
pub use key::{CounterKey, KeyWriter};
pub use quota::{Concurrent, Quota, Rate, Sliding};
pub use slots::Holder;
pub use store::{Budget, Charge, Charges, CountFuture, Counted, Counters, Exceeded, How, MemoryFigures, State};

pub use crate::link::{RedisSettings, StoreError, StoreStatus};

/// One entry of the config's `limits:`, as far as counting is concerned. Which requests it counts, by which key and
/// with which tier is policy's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The config's name for it.
    pub name: Arc<str>,
    /// The base quota; a charge carries the one that applies.
    pub quota: Quota,
    /// What holds when the store cannot answer. Carried here, acted upon by the pipeline.
    pub on_failure: OnFailure,
    /// Counted and told of, but never a reason to refuse.
    pub shadow: bool,
    /// How long a counter refuses whatever comes, once it has no room for another; only of a [`Quota::Rate`].
    pub ban: Option<Duration>,
    /// What HAProxy calls the header field in which the response says what the request cost. It is charged then, whatever
    /// is left.
    pub settles: Option<Arc<str>>,
    /// Changes whenever the limit's own definition changes, so that no counter is inherited from another definition.
    pub generation: u32,
}

impl Limit {
    /// One that refuses, bans nobody and knows its cost beforehand.
    pub fn new(name: &str, quota: Quota, on_failure: OnFailure, generation: u32) -> Limit {
        Limit { name: name.into(), quota, on_failure, shadow: false, ban: None, settles: None, generation }
    }
}

/// What holds for a limit while the store cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Everything passes it.
    Allow,
    /// Nothing does: an error, 503, `store_unavailable`.
    Deny,
    /// Each agent enforces its share, 1/agents of the quota, in its own memory.
    #[default]
    Local,
}

/// Where counters live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSettings {
    /// Redis, or this process's memory where `None`.
    pub redis: Option<RedisSettings>,
    /// How many agents share the limits; `OnFailure::Local` gives each 1/agents.
    pub agents: NonZeroU64,
    /// Bound of the counters held in this process's memory, in bytes.
    pub memory_bytes_max: u64,
}

//! Permit -> Budget: has the caller any left?
//!
//! All limits of a request are tested together, then charged together, or not at all. Reading order: `quota` (what is
//! allowed), `gcra` (the arithmetic, one exact function), `key` (which counter), `memory` and `redis` (where counters
//! live, the same arithmetic in each), `store` (which of them is asked, and what a failure is).

mod gcra;
mod key;
mod memory;
pub mod quota;
mod redis;
mod store;
#[cfg(test)]
mod store_tests;

use std::num::NonZeroU64;
use std::sync::Arc;

pub use key::{CounterKey, KeyWriter};
pub use quota::Quota;
pub use store::{Budget, Charge, Charges, CountFuture, Counted, Counters, Exceeded, MemoryFigures, State};

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
    /// Changes whenever the limit's own definition changes, so that no counter is inherited from another definition.
    pub generation: u32,
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

//! Which counters are asked, and what their answer means.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::gcra::{Cell, Tat};
use super::key::CounterKey;
use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::{CounterSettings, Limit, Quota};
use crate::clock::Now;
use crate::link::{Link, StoreError, StoreStatus};

/// What one limit takes for one request.
#[derive(Clone, Debug)]
pub struct Charge {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The quota that applies to this caller.
    pub quota: Quota,
    /// Which counter.
    pub key: CounterKey,
    /// How much; at most the quota's burst, or it can never pass.
    pub cost: u32,
}

/// All charges of a request. Two limits a request is what most have.
pub type Charges = SmallVec<[Charge; 2]>;

/// What is left after all charges were made.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// One for each charge, in order.
    pub states: SmallVec<[State; 2]>,
}

/// No charge was made, because at least one has no room.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// One for each charge, in order.
    pub states: SmallVec<[State; 2]>,
    /// The limit with the longest wait.
    pub limit: Arc<Limit>,
    /// When all of them could pass, if nobody else is charged meanwhile.
    pub retry_after: Duration,
}

/// How a limit stands.
#[derive(Clone, Debug)]
pub struct State {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The quota that applies to this caller.
    pub quota: Quota,
    /// How many could pass right now.
    pub remaining: u64,
    /// How long until all of the burst could.
    pub reset: Duration,
}

/// What became of a charge.
pub enum Counted {
    /// Memory answered.
    Now(Result<Budget, Exceeded>),
    /// Redis is being asked.
    Later(CountFuture),
    /// Redis is known not to answer.
    Failed(StoreError),
}

/// Redis's answer. It comes within the store's timeout.
pub type CountFuture = Pin<Box<dyn Future<Output = Result<Result<Budget, Exceeded>, StoreError>> + Send>>;

/// What this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Counters in memory.
    pub live: u64,
    /// Counters forgotten before they were full again.
    pub evicted_live: u64,
}

/// The counters of this agent.
#[derive(Debug)]
pub struct Counters {
    /// All counters, or, with Redis, this agent's shares while Redis is away.
    memory: MemoryStore,
    redis: Option<RedisStore>,
    agents: NonZeroU64,
}

impl Counters {
    /// Makes them. Redis is not asked yet: an agent starts with it down.
    pub fn new(settings: &CounterSettings) -> Result<Counters, StoreError> {
        Ok(Counters {
            memory: MemoryStore::new(settings.memory_bytes_max),
            redis: settings.redis.as_ref().map(Link::new).transpose()?.map(RedisStore::new),
            agents: settings.agents,
        })
    }

    /// Tests all charges, then makes all or none.
    pub fn charge(&self, charges: &Charges, now: Now, deadline: Instant) -> Counted {
        if charges.is_empty() {
            return Counted::Now(Ok(Budget::default()));
        }
        let Some(redis) = &self.redis else {
            return Counted::Now(self.memory.charge(charges, now, true).read(charges));
        };
        match redis.charge(charges.clone(), now, deadline) {
            Ok(counted) => Counted::Later(counted),
            Err(error) => Counted::Failed(error),
        }
    }

    /// The same against this agent's share of each quota, in memory: what `on_failure: local` means.
    pub fn charge_share(&self, charges: &Charges, now: Now) -> Result<Budget, Exceeded> {
        let shares: Charges =
            charges.iter().map(|charge| Charge { quota: charge.quota.share(self.agents), ..charge.clone() }).collect();
        self.memory.charge(&shares, now, true).read(&shares)
    }

    /// How the limits stand, without charging them.
    pub async fn peek(&self, charges: &Charges, now: Now) -> Result<Result<Budget, Exceeded>, StoreError> {
        match &self.redis {
            Some(redis) => redis.peek(charges.clone()).await,
            None => Ok(self.memory.charge(charges, now, false).read_standing(charges)),
        }
    }

    /// Asks Redis how it does; for a timer, so that an outage ends without traffic. Does nothing without Redis.
    pub async fn probe(&self) {
        if let Some(redis) = &self.redis {
            redis.link().probe().await;
        }
    }

    /// How Redis does; `None` without one.
    pub fn status(&self) -> Option<StoreStatus> {
        self.link().map(Link::status)
    }

    /// The Redis that all agents share, for whoever else has something to tell them; `None` without one.
    pub fn link(&self) -> Option<&Link> {
        self.redis.as_ref().map(RedisStore::link)
    }

    /// What this process holds.
    pub fn memory_figures(&self) -> MemoryFigures {
        MemoryFigures { live: self.memory.len(), evicted_live: self.memory.evicted_live() }
    }
}

/// What a store found, before it is put into words.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The store's clock.
    pub(super) now_us: u64,
    /// One for each charge, in order.
    pub(super) trials: SmallVec<[Trial; 2]>,
}

/// One charge, tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// The TAT that it found.
    pub(super) begin: Tat,
    /// The TAT that it leaves; `None` where it has no room.
    pub(super) after: Option<Tat>,
}

impl Outcome {
    /// Whether every charge has room.
    pub(super) fn passed(&self) -> bool {
        self.trials.iter().all(|trial| trial.after.is_some())
    }

    /// As the answer to a charge.
    pub(super) fn read(&self, charges: &[Charge]) -> Result<Budget, Exceeded> {
        self.say(charges, self.passed())
    }

    /// As the answer to a look: nothing was taken.
    pub(super) fn read_standing(&self, charges: &[Charge]) -> Result<Budget, Exceeded> {
        self.say(charges, false)
    }

    fn say(&self, charges: &[Charge], charged: bool) -> Result<Budget, Exceeded> {
        let mut worst: Option<(Duration, &Charge)> = None;
        let mut states = SmallVec::new();
        for (charge, trial) in charges.iter().zip(&self.trials) {
            let cell = Cell::new(charge.quota, charge.cost);
            let stands = trial.after.filter(|_| charged).unwrap_or(trial.begin);
            states.push(State {
                limit: Arc::clone(&charge.limit),
                quota: charge.quota,
                remaining: cell.remaining(stands, self.now_us),
                reset: cell.reset(stands, self.now_us),
            });
            if let Err(wait) = cell.charge(trial.begin, self.now_us)
                && worst.is_none_or(|(longest, _)| wait > longest)
            {
                worst = Some((wait, charge));
            }
        }
        match worst {
            None => Ok(Budget { states }),
            Some((retry_after, charge)) => Err(Exceeded { states, limit: Arc::clone(&charge.limit), retry_after }),
        }
    }
}

//! Which counters are asked, and what their answer means.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::counter::{Ask, Stand, StoreTime};
use super::key::CounterKey;
use super::memory::MemoryStore;
use super::receipt::{self, Place};
use super::redis::RedisStore;
use super::slots::Holder;
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
    /// How much; at most what the quota lets pass at once, or it can never pass. A place is one, whatever this says.
    pub cost: u32,
    /// Who holds a place; of no meaning to other kinds.
    pub holder: Holder,
    /// What is done with it.
    pub how: How,
}

/// What is done with a charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// There has to be room for it, and it is charged.
    #[default]
    Take,
    /// There has to be room for it, and nothing is charged: of what refused credentials spend.
    Look,
    /// It is charged where there is room for it, whatever becomes of the others: what refused credentials spend. Where
    /// there is none, that is told all the same.
    Try,
}

impl How {
    /// Whether something is charged.
    pub(super) fn takes(self) -> bool {
        self != How::Look
    }
}

impl Charge {
    /// Whether nothing is charged at all where it has no room.
    pub(super) fn is_required(&self) -> bool {
        !self.limit.shadow && self.how != How::Try
    }
}

/// All charges of a request. Two limits a request is what most have.
pub type Charges = SmallVec<[Charge; 2]>;

/// What is left after all charges were made.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// One for each limit that was charged and can refuse, in order.
    pub states: SmallVec<[State; 2]>,
    /// Shadow limits that would have refused.
    pub shadowed: SmallVec<[Arc<Limit>; 1]>,
    /// What is to be kept until the response is there, for [`Counters::settle`]; `None` where nothing is owed.
    pub receipt: Option<Box<[u8]>>,
}

/// No charge was made, because at least one has no room.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// One for each limit that is charged and can refuse, in order.
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
        if let Some(exceeded) = redis.recall(charges, now) {
            return Counted::Now(Err(exceeded));
        }
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

    /// Settles what a request owed, now that its response is there: gives places back, and charges what the response says
    /// it cost, by header field. Does not wait: with Redis it is done in the background. False where it is no receipt.
    pub fn settle(&self, receipt: &[u8], cost_of: impl Fn(&str) -> Option<u32>, now: Now) -> bool {
        let Some((place, settlements)) = receipt::read(receipt, cost_of) else { return false };
        match (place, &self.redis) {
            (Place::Memory, _) => self.memory.settle(&settlements, now),
            (Place::Redis, Some(redis)) => redis.settle(settlements),
            // The config knew a Redis when it was charged, and knows none any more.
            (Place::Redis, None) => {}
        }
        true
    }

    /// How the limits stand, without charging them.
    pub async fn peek(&self, charges: &Charges, now: Now) -> Result<Result<Budget, Exceeded>, StoreError> {
        match &self.redis {
            Some(redis) => redis.peek(charges.clone(), now).await,
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

    /// What responses made known and Redis never heard of.
    pub fn settlements_lost(&self) -> u64 {
        self.redis.as_ref().map_or(0, RedisStore::settlements_lost)
    }

    /// What this process holds.
    pub fn memory_figures(&self) -> MemoryFigures {
        MemoryFigures { live: self.memory.len(), evicted_live: self.memory.evicted_live() }
    }
}

/// What a store found, before it is put into words.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Where the counters are.
    pub(super) place: Place,
    /// One for each charge, in order.
    pub(super) trials: SmallVec<[Trial; 2]>,
}

/// One charge, tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// The clock of the store that tried it; in a Cluster each shard has its own.
    pub(super) time: StoreTime,
    /// The charge in numbers.
    pub(super) ask: Ask,
    /// Where it began.
    pub(super) begin: Stand,
    /// What it leaves; `None` where it has no room.
    pub(super) after: Option<Stand>,
}

impl Outcome {
    /// Whether every charge that can refuse has room.
    pub(super) fn passed(&self, charges: &[Charge]) -> bool {
        charges.iter().zip(&self.trials).all(|(charge, trial)| !charge.is_required() || trial.after.is_some())
    }

    /// As the answer to a charge.
    pub(super) fn read(&self, charges: &[Charge]) -> Result<Budget, Exceeded> {
        self.say(charges, self.passed(charges))
    }

    /// As the answer to a look: nothing was taken.
    pub(super) fn read_standing(&self, charges: &[Charge]) -> Result<Budget, Exceeded> {
        self.say(charges, false)
    }

    fn say(&self, charges: &[Charge], charged: bool) -> Result<Budget, Exceeded> {
        let mut worst: Option<(Duration, &Charge)> = None;
        let mut budget = Budget::default();
        let mut receipt = receipt::Writer::default();
        for (charge, trial) in charges.iter().zip(&self.trials) {
            if charged && charge.how.takes() && trial.after.is_some() {
                receipt.add(charge, self.place, trial.time.flow_us);
            }
            if charge.limit.shadow {
                if trial.after.is_none() {
                    budget.shadowed.push(Arc::clone(&charge.limit));
                }
                continue;
            }
            let stands = trial.after.filter(|_| charged).unwrap_or(trial.begin);
            if charge.how == How::Take {
                budget.states.push(State {
                    limit: Arc::clone(&charge.limit),
                    quota: charge.quota.clone(),
                    remaining: trial.ask.remaining(stands, trial.time),
                    reset: trial.ask.reset(stands, trial.time),
                });
            }
            if trial.after.is_none() {
                // What stands there has no room, so this says how long it has none.
                let wait = trial.ask.charge(trial.begin, trial.time).err().unwrap_or(Duration::ZERO);
                if worst.is_none_or(|(longest, _)| wait > longest) {
                    worst = Some((wait, charge));
                }
            }
        }
        match worst {
            None => Ok(Budget { receipt: receipt.finish(), ..budget }),
            Some((retry_after, charge)) => {
                Err(Exceeded { states: budget.states, limit: Arc::clone(&charge.limit), retry_after })
            }
        }
    }
}

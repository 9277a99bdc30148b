//! Many conversations at a time, one well-behaved connection beside them, and what to do when something is found: stop,
//! and find out by one conversation at a time which it was and how little of it is enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tollgate::spop::recording::Recording;

use super::PATIENCE;
use super::generate::script;
use super::play::play;
use super::script::{Replay, Script, Seed};
use super::trial::{Ground, Symptom, minimise, try_one};
use super::witness::{Calm, Trouble, Witness};
use crate::question::Question;
use crate::target::Target;

/// Something found.
#[derive(Debug)]
pub struct Finding {
    pub what: String,
    /// `None` where a replay found nothing.
    pub symptom: Option<Symptom>,
    /// How often it, or what is alike, was found.
    pub times: usize,
    /// What shows it again.
    pub replay: Replay,
    /// Where no conversation alone shows it: those of that moment.
    pub candidates: Vec<Seed>,
    /// Of the smallest conversation.
    pub recording: Recording,
    /// The smallest conversation.
    pub script: Script,
}

/// A run.
#[derive(Debug)]
pub struct Campaign {
    question: Arc<Question>,
    calm: Arc<Calm>,
    seed: u64,
    connections: usize,
    events_max: usize,
    next: u64,
    events: usize,
    time: Duration,
    looks: u64,
    late: u64,
    slowest: Duration,
}

/// What the connections of one stretch have in common.
struct Stretch {
    target: Target,
    question: Arc<Question>,
    seed: u64,
    next: AtomicU64,
    events: AtomicUsize,
    events_max: usize,
    over: CancellationToken,
    /// The last conversations, those that are not over among them, oldest first.
    recent: Mutex<VecDeque<Seed>>,
    recent_max: usize,
    found: Mutex<Option<(Option<Seed>, Symptom)>>,
}

impl Stretch {
    /// The first thing found ends the stretch.
    fn found(&self, seed: Option<Seed>, symptom: Symptom) {
        self.found.lock().get_or_insert((seed, symptom));
        self.over.cancel();
    }

    async fn converse(self: Arc<Self>) {
        while !self.over.is_cancelled() && self.events.load(Ordering::Relaxed) < self.events_max {
            let seed = Seed::of(self.seed, self.next.fetch_add(1, Ordering::Relaxed));
            {
                let mut recent = self.recent.lock();
                recent.push_back(seed);
                if recent.len() > self.recent_max {
                    recent.pop_front();
                }
            }
            let played = play(&self.target, &script(seed, &self.question), PATIENCE).await;
            self.events.fetch_add(played.events, Ordering::Relaxed);
            if let Err(fault) = played.verdict {
                self.found(Some(seed), Symptom::Own(fault));
            }
        }
    }
}

impl Campaign {
    pub fn new(question: &Question, calm: Calm, seed: u64, connections: usize, events_max: usize) -> Campaign {
        Campaign {
            question: Arc::new(question.clone()),
            calm: Arc::new(calm),
            seed,
            connections: connections.max(1),
            events_max,
            next: 0,
            events: 0,
            time: Duration::ZERO,
            looks: 0,
            late: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Fuzzes until all events are played or so many things are found, those that are alike counted each.
    pub async fn run(&mut self, ground: &mut Ground, findings_max: usize) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let times = |findings: &[Finding]| findings.iter().map(|finding| finding.times).sum::<usize>();
        while self.events < self.events_max && times(&findings) < findings_max {
            let Some((seed, symptom, recent)) = self.stretch(&ground.target(), times(&findings)).await else { break };
            eprintln!("spop-harness: {symptom}; looking for the conversation");
            let Some(finding) = self.attribute(ground, seed, symptom, recent, &mut findings).await else { continue };
            let gone = finding.replay.kept.is_none() && !ground.revive().await;
            findings.push(finding);
            if gone {
                break;
            }
        }
        if times(&findings) < findings_max {
            findings.extend(self.last_look(ground).await);
        }
        findings
    }

    /// One conversation, minimised where it shows something.
    pub async fn only(&mut self, ground: &mut Ground, seed: Seed) -> Option<Finding> {
        let whole = script(seed, &self.question);
        self.next += 1;
        self.events += whole.len();
        let symptom = try_one(ground, &self.calm, &whole, PATIENCE).await.symptom?;
        Some(self.smallest(ground, seed, symptom).await)
    }

    pub fn figures(&self) -> serde_json::Value {
        json!({
            "conversations": self.next, "events": self.events, "connections": self.connections,
            "seconds": (self.time.as_secs_f64() * 10.0).round() / 10.0, "looks": self.looks, "late": self.late,
            "slowest_us": u64::try_from(self.slowest.as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Goes on until something is found or all is played. Gives what was found, by which conversation if it is known, and
    /// the conversations of that moment.
    async fn stretch(&mut self, target: &Target, findings: usize) -> Option<(Option<Seed>, Symptom, Vec<Seed>)> {
        let stretch = Arc::new(Stretch {
            target: target.clone(),
            question: Arc::clone(&self.question),
            seed: self.seed,
            next: AtomicU64::new(self.next),
            events: AtomicUsize::new(self.events),
            events_max: self.events_max,
            over: CancellationToken::new(),
            recent: Mutex::new(VecDeque::new()),
            recent_max: CANDIDATES_MAX.max(2 * self.connections),
            found: Mutex::new(None),
        });
        let begun = Instant::now();
        let mut peers = JoinSet::new();
        for _ in 0..self.connections {
            peers.spawn(Arc::clone(&stretch).converse());
        }
        let witness = tokio::spawn(look(Arc::clone(&stretch), Arc::clone(&self.calm)));
        let mut said = tokio::time::interval_at(tokio::time::Instant::now() + SAY_EVERY, SAY_EVERY);
        let mut conversations = self.next;
        loop {
            tokio::select! {
                // What is under way no longer matters, and may hang as the agent does.
                () = stretch.over.cancelled() => break peers.abort_all(),
                peer = peers.join_next() => if peer.is_none() { break },
                _ = said.tick() => {
                    let before = std::mem::replace(&mut conversations, stretch.next.load(Ordering::Relaxed));
                    let (rate, events) = (conversations - before, stretch.events.load(Ordering::Relaxed));
                    eprintln!(
                        "spop-harness: {conversations} conversations, {events} events, {rate}/s, {findings} findings"
                    );
                }
            }
        }
        stretch.over.cancel();
        let (looks, slowest) = witness.await.unwrap_or_default();
        self.looks += looks;
        self.slowest = self.slowest.max(slowest);
        self.time += begun.elapsed();
        self.next = stretch.next.load(Ordering::Relaxed);
        self.events = stretch.events.load(Ordering::Relaxed);
        let (seed, symptom) = stretch.found.lock().take()?;
        let recent = stretch.recent.lock().iter().copied().collect();
        Some((seed, symptom, recent))
    }

    /// Which conversation it was. `None` where it is one more of what is known, which is counted, or was not even the agent:
    /// what only a busy machine explains.
    async fn attribute(
        &mut self,
        ground: &mut Ground,
        seed: Option<Seed>,
        symptom: Symptom,
        recent: Vec<Seed>,
        known: &mut [Finding],
    ) -> Option<Finding> {
        // The newest first, that which noticed before all.
        let candidates: Vec<_> = seed.into_iter().chain(recent.into_iter().rev()).collect();
        let until = Instant::now() + ATTRIBUTE_TIME;
        let revived = ground.revive().await;
        for seed in &candidates {
            if !revived || Instant::now() > until {
                break;
            }
            let whole = script(*seed, &self.question);
            let Some(first) = try_one(ground, &self.calm, &whole, PATIENCE).await.symptom else { continue };
            // Once more: what time can bring about must come again.
            if !first.is_of_time() || try_one(ground, &self.calm, &whole, PATIENCE).await.symptom.is_some() {
                let alike =
                    |known: &&mut Finding| known.symptom.as_ref().is_some_and(|one| one.is_same_violation(&first));
                if let Some(known) = known.iter_mut().find(alike) {
                    known.times += 1;
                    return None;
                }
                return Some(self.smallest(ground, *seed, first).await);
            }
        }
        if revived && matches!(symptom, Symptom::Beside(Trouble::Late(_))) {
            self.late += 1;
            return None;
        }
        let first = candidates.first().copied().unwrap_or(Seed(0));
        let replay = Replay { seed: first, kept: None };
        let script = script(first, &self.question);
        let what = symptom.to_string();
        let recording = Recording::default();
        Some(Finding { what, symptom: Some(symptom), times: 1, replay, candidates, recording, script })
    }

    async fn smallest(&self, ground: &mut Ground, seed: Seed, symptom: Symptom) -> Finding {
        let whole = script(seed, &self.question);
        let kept = minimise(ground, &self.calm, &whole, &symptom).await;
        let least = whole.keep(&kept);
        let tried = try_one(ground, &self.calm, &least, PATIENCE).await;
        // Where the smaller one was luck, the whole one stands.
        let (kept, least, tried) = match tried.symptom {
            Some(_) => (Some(kept), least, tried),
            None => (None, whole.clone(), try_one(ground, &self.calm, &whole, PATIENCE).await),
        };
        let symptom = tried.symptom.unwrap_or(symptom);
        Finding {
            what: symptom.to_string(),
            symptom: Some(symptom),
            times: 1,
            replay: Replay { seed, kept },
            candidates: Vec::new(),
            recording: tried.recording,
            script: least,
        }
    }

    /// A fresh connection is served as before.
    async fn last_look(&mut self, ground: &Ground) -> Option<Finding> {
        let target = ground.target();
        let look = async { Witness::connect(&target, PATIENCE).await?.look(&self.calm).await };
        match look.await {
            Ok(took) => {
                self.slowest = self.slowest.max(took);
                None
            }
            Err(trouble) => Some(Finding {
                what: format!("after the run: {trouble}"),
                symptom: Some(Symptom::Beside(trouble)),
                times: 1,
                replay: Replay { seed: Seed::of(self.seed, self.next.saturating_sub(1)), kept: None },
                candidates: Vec::new(),
                recording: Recording::default(),
                script: Script::default(),
            }),
        }
    }
}

/// The well-behaved connection; gives how often it looked, and its slowest answer.
async fn look(stretch: Arc<Stretch>, calm: Arc<Calm>) -> (u64, Duration) {
    let (mut looks, mut slowest) = (0, Duration::ZERO);
    let mut witness = match Witness::connect(&stretch.target, PATIENCE).await {
        Ok(witness) => witness,
        Err(trouble) => {
            stretch.found(None, Symptom::Beside(trouble));
            return (looks, slowest);
        }
    };
    while !stretch.over.is_cancelled() {
        match witness.look(&calm).await {
            Ok(took) => slowest = slowest.max(took),
            Err(trouble) => {
                stretch.found(None, Symptom::Beside(trouble));
                break;
            }
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    (looks, slowest)
}

const SAY_EVERY: Duration = Duration::from_secs(1);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Conversations that may have been the one.
const CANDIDATES_MAX: usize = 300;

/// However many candidates there are.
const ATTRIBUTE_TIME: Duration = Duration::from_secs(60);

//! One thread of the generator: it sends what is due on each of its connections, and sleeps until the next request is
//! due or something comes.
//!
//! Few system calls: everything that is due on a connection leaves in one write, a read takes all the ACKs that are
//! there, and nothing is allocated for a request once the buffers have grown. Nothing spins: on a small machine that
//! would take the processor from the agent. Instead the kernel's timer is asked for its best, some microseconds, while
//! Linux' default rounds a sleep up by 50 µs and tokio's timer to the next millisecond.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;
use rustix::time::{ClockId, clock_gettime};
use smallvec::SmallVec;
use tollgate::spop::frame::{Flags, FrameType};

use super::connection::{Came, Connection};
use super::flight::{Answer, Flight, Request};
use super::question::{FRAME_ID, Questions};
use super::schedule::Schedule;
use super::tally::{Fault, Tally, Verifier};
use crate::target::Target;

/// What all threads of a run share.
#[derive(Debug)]
pub struct Plan {
    /// The agent.
    pub target: Target,
    /// What is asked.
    pub questions: Questions,
    /// NOTIFYs in flight on one connection.
    pub window: usize,
    /// How long a request may take, from when it is due.
    pub timeout: Duration,
    /// How long requests are not counted at the beginning.
    pub warmup: Duration,
    /// How long they are after that.
    pub duration: Duration,
}

impl Plan {
    fn end(&self) -> Duration {
        self.warmup + self.duration
    }
}

/// When a connection asks.
#[derive(Debug)]
pub enum Pace {
    /// At times fixed beforehand.
    Open(Schedule),
    /// Whenever its window has room.
    Closed,
}

/// What a run came to so far, for whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests with their answer.
    pub answered: AtomicU64,
    /// Requests without.
    pub failed: AtomicU64,
    /// Connections that ended.
    pub broken: AtomicU64,
}

/// A thread's connections and what became of their requests.
#[derive(Debug)]
pub struct Worker<'a> {
    plan: &'a Plan,
    lanes: Vec<Lane>,
    results: Results,
}

/// One connection with the requests that are to be asked on it.
#[derive(Debug)]
struct Lane {
    connection: Connection,
    flight: Flight,
    pace: Pace,
    /// Since when the window has room, where it has: before that a request that is due is not this program's delay.
    room_since: Duration,
    /// Whether it was open when somebody last looked.
    was_open: bool,
}

#[derive(Debug)]
struct Results {
    tally: Tally,
    verifier: Verifier,
}

impl<'a> Worker<'a> {
    /// One connection for each pace.
    pub fn new(plan: &'a Plan, paces: Vec<Pace>, verifier: Verifier) -> Worker<'a> {
        let lane = |pace| Lane {
            connection: Connection::new(plan.questions.frame_bytes_max()),
            flight: Flight::default(),
            pace,
            room_since: Duration::ZERO,
            was_open: false,
        };
        let results = Results { tally: Tally::new(plan.duration), verifier };
        Worker { plan, lanes: paces.into_iter().map(lane).collect(), results }
    }

    /// Waits until all connections are open. The error says why one is not.
    pub fn connect(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        let mut scratch = vec![0; SCRATCH_BYTES];
        while !self.lanes.iter().all(|lane| lane.connection.is_open()) {
            for lane in &mut self.lanes {
                lane.connection.turn(&self.plan.target, begin.elapsed());
            }
            if let Some(trouble) = self.lanes.iter().find_map(|lane| lane.connection.trouble()) {
                return Err(trouble.to_owned());
            }
            if begin.elapsed() > CONNECT_TIMEOUT {
                return Err("not all connections were accepted within 5 s".to_owned());
            }
            self.wait(begin, Some(begin.elapsed() + Duration::from_millis(10)), &mut scratch)?;
        }
        for lane in &mut self.lanes {
            lane.room_since = Duration::ZERO;
        }
        Ok(())
    }

    /// Runs to the end, which is when the last request has its answer or has waited for its timeout. The error is this
    /// program's own.
    pub fn run(mut self, begin: Instant, progress: &Progress) -> Result<Tally, String> {
        // Without it (an old kernel, a sandbox) sends are 50 µs late, and the report shows it.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
        let cpu = cpu_time();
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            let mut wake: Option<Duration> = None;
            for lane in &mut self.lanes {
                lane.turn(self.plan, begin, &mut self.results);
                wake = wake.into_iter().chain(lane.wake(self.plan, begin.elapsed())).min();
            }
            let tally = &self.results.tally;
            progress.answered.store(tally.answered, Ordering::Relaxed);
            progress.failed.store(tally.lost + tally.unsent + tally.wrong() + tally.warmup_wrong(), Ordering::Relaxed);
            progress.broken.store(tally.broken, Ordering::Relaxed);
            if self.lanes.iter().all(|lane| lane.is_over(self.plan, begin.elapsed())) {
                break;
            }
            self.wait(begin, wake, &mut scratch)?;
        }
        self.results.tally.cpu = cpu_time().saturating_sub(cpu);
        for lane in self.lanes {
            lane.connection.goodbye();
        }
        Ok(self.results.tally)
    }

    /// Sleeps until `wake` or until a connection has something, and reads that.
    fn wait(&mut self, begin: Instant, wake: Option<Duration>, scratch: &mut [u8]) -> Result<(), String> {
        // On the stack up to 64 connections; beyond, one allocation for as many as are polled.
        let mut polled = SmallVec::<[PollFd<'_>; 64]>::new();
        let mut indices = SmallVec::<[usize; 64]>::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some((descriptor, writes)) = lane.connection.interest() {
                let writing = if writes { PollFlags::OUT } else { PollFlags::empty() };
                polled.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN | writing));
                indices.push(index);
            }
        }
        let sleep = wake.map(|wake| wake.saturating_sub(begin.elapsed()).min(SLEEP_MAX)).unwrap_or(SLEEP_MAX);
        match poll(&mut polled, Some(&timespec(sleep))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for {} connections: {error}", indices.len())),
        }
        let ready: SmallVec<[(usize, PollFlags); 64]> =
            indices.iter().zip(&polled).map(|(index, polled)| (*index, polled.revents())).collect();
        drop(polled);
        for (index, events) in ready {
            let Some(lane) = self.lanes.get_mut(index).filter(|_| !events.is_empty()) else { continue };
            if events.contains(PollFlags::OUT) {
                let now = begin.elapsed();
                lane.connection.flush(now);
                lane.room_since = now;
                lane.look(self.plan, &mut self.results.tally);
            }
            if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                lane.read(self.plan, begin, scratch, &mut self.results);
            }
        }
        Ok(())
    }
}

impl Lane {
    /// Sends what is due and gives up what is overdue.
    fn turn(&mut self, plan: &Plan, begin: Instant, results: &mut Results) {
        let now = begin.elapsed();
        if !self.connection.is_open() && !self.is_over(plan, now) {
            self.connection.turn(&plan.target, now);
            self.room_since = now;
        }
        if let Some(due_max) = now.checked_sub(plan.timeout) {
            self.give_up(plan, due_max, now, &mut results.tally);
        }
        self.send(plan, begin, now, &mut results.tally);
        self.look(plan, &mut results.tally);
    }

    fn give_up(&mut self, plan: &Plan, due_max: Duration, now: Duration, tally: &mut Tally) {
        let was_full = self.flight.waiting() >= self.connection.window(plan.window);
        while let Some(request) = self.flight.expire(due_max) {
            lost(request, plan, tally);
            if was_full {
                self.room_since = now;
            }
        }
        if let Pace::Open(schedule) = &mut self.pace {
            while schedule.next() <= due_max && schedule.next() < plan.end() {
                if schedule.next() >= plan.warmup {
                    tally.unsent += 1;
                    tally.record(schedule.next() - plan.warmup, plan.timeout);
                }
                schedule.advance();
            }
        }
    }

    fn send(&mut self, plan: &Plan, begin: Instant, now: Duration, tally: &mut Tally) {
        // What the socket did not take before goes first, and until then the agent is not reading.
        if self.connection.is_blocked() {
            return;
        }
        let window = self.connection.window(plan.window);
        let mut left: SmallVec<[Duration; 64]> = SmallVec::new();
        while self.flight.waiting() < window {
            let due = match &mut self.pace {
                Pace::Open(schedule) if schedule.next() <= now && schedule.next() < plan.end() => {
                    let due = schedule.next();
                    schedule.advance();
                    due
                }
                Pace::Closed if now < plan.end() => now,
                _ => break,
            };
            let request = Request { due, counts: due >= plan.warmup };
            let (number, stream_id) = self.flight.ask(request);
            plan.questions.encode(number, stream_id, self.connection.unsent());
            if request.counts {
                tally.sent += 1;
                left.push(due.max(self.room_since));
            }
        }
        if self.connection.is_blocked() && self.connection.flush(now) && matches!(self.pace, Pace::Open(_)) {
            let sent = begin.elapsed();
            for due in left {
                tally.lateness.saturating_record(lateness_ns(sent.saturating_sub(due)));
            }
        }
    }

    /// Reads what came and judges it.
    fn read(&mut self, plan: &Plan, begin: Instant, scratch: &mut [u8], results: &mut Results) {
        // Without a connection there is no room either.
        let was_full = self.flight.waiting() >= self.connection.window(plan.window);
        self.connection.read(scratch, begin.elapsed());
        // After the read, which is when the ACKs are complete.
        let now = begin.elapsed();
        let Results { tally, verifier } = results;
        // What no request is known for counts by when it came.
        let counts = now >= plan.warmup;
        let mut trouble = None;
        while let Some(came) = self.connection.next() {
            let frame = match came {
                Came::Frame(frame) => frame,
                Came::TooBig | Came::Undecodable => {
                    let fault = if came == Came::TooBig { Fault::TooBig } else { Fault::Undecodable };
                    tally.fault(fault, counts);
                    trouble = Some("the agent sent what is no frame");
                    break;
                }
            };
            match frame.kind {
                FrameType::Ack if !frame.flags.has(Flags::FIN) => tally.fault(Fault::Unfinished, counts),
                FrameType::Ack if frame.frame_id != FRAME_ID => tally.fault(Fault::Unasked, counts),
                FrameType::Ack => match self.flight.answer(frame.stream_id) {
                    Answer::To(request) => {
                        if let Err(fault) = verifier.verify(frame.payload) {
                            tally.fault(fault, request.counts);
                        }
                        answered(request, now, plan, tally);
                    }
                    Answer::Late => tally.late += 1,
                    Answer::Wrong(fault) => tally.fault(fault, counts),
                },
                FrameType::AgentDisconnect => {
                    trouble = Some("the agent said goodbye");
                    break;
                }
                _ => tally.fault(Fault::Unexpected, counts),
            }
        }
        if let Some(trouble) = trouble {
            self.connection.end(now, trouble.to_owned());
        }
        if was_full {
            self.room_since = now;
        }
        self.look(plan, tally);
    }

    /// Notices that the connection has opened, or has ended, when what waited on it has no answer.
    fn look(&mut self, plan: &Plan, tally: &mut Tally) {
        tally.one_at_a_time |= self.connection.window(2) == 1;
        if self.was_open && !self.connection.is_open() {
            tally.broken += 1;
            for request in self.flight.end() {
                lost(request, plan, tally);
            }
        }
        self.was_open = self.connection.is_open();
    }

    /// When [`Lane::turn`] has something to do though nothing comes.
    fn wake(&self, plan: &Plan, now: Duration) -> Option<Duration> {
        if self.is_over(plan, now) {
            return None;
        }
        let next = match &self.pace {
            Pace::Open(schedule) if schedule.next() < plan.end() => {
                let has_room =
                    self.flight.waiting() < self.connection.window(plan.window) && !self.connection.is_blocked();
                // Without room there is nothing to do until its time is over.
                Some(if has_room { schedule.next() } else { schedule.next() + plan.timeout })
            }
            _ => None,
        };
        let oldest = self.flight.oldest_due().map(|due| due + plan.timeout);
        next.into_iter().chain(oldest).chain(self.connection.wake()).min()
    }

    /// Whether nothing is left to be asked or answered.
    fn is_over(&self, plan: &Plan, now: Duration) -> bool {
        let asked_all = match &self.pace {
            Pace::Open(schedule) => schedule.next() >= plan.end(),
            Pace::Closed => now >= plan.end(),
        };
        asked_all && self.flight.waiting() == 0
    }
}

fn answered(request: Request, now: Duration, plan: &Plan, tally: &mut Tally) {
    if !request.counts {
        return;
    }
    tally.answered += 1;
    tally.record(request.due - plan.warmup, now.saturating_sub(request.due));
    tally.last_answer = now - plan.warmup;
}

fn lost(request: Request, plan: &Plan, tally: &mut Tally) {
    if request.counts {
        tally.lost += 1;
        tally.record(request.due - plan.warmup, plan.timeout);
    }
}

fn lateness_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// What this thread has had of a processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn timespec(duration: Duration) -> Timespec {
    // At most `SLEEP_MAX`, so the seconds fit.
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

/// About a thousand ACKs.
const SCRATCH_BYTES: usize = 64 * 1024;

/// All connections of a thread, at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A closed loop ends at a time at which nothing need come.
const SLEEP_MAX: Duration = Duration::from_millis(100);

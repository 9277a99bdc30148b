//! What is counted and measured. Each thread has a tally of its own; they are added up at the end.

use std::time::Duration;

use hdrhistogram::Histogram;
use tollgate::spop::{Action, DecodeError, TypedData, ack};

/// The result of one run, or one thread's part of it.
#[derive(Debug)]
pub struct Tally {
    /// Requests whose NOTIFY left.
    pub sent: u64,
    /// Whose ACK came in time.
    pub answered: u64,
    /// Whose ACK did not: `sent` is `answered` and these.
    pub lost: u64,
    /// Requests that never left, because no window had room, or no connection was there, before their time was over.
    pub unsent: u64,
    /// ACKs of lost requests that came after all.
    pub late: u64,
    /// What the agent sent and should not have, by [`Fault`].
    pub faults: [u64; FAULTS.len()],
    /// The same of the warm-up, whose requests are not among those above.
    pub warmup_faults: [u64; FAULTS.len()],
    /// Connections that ended while they were needed.
    pub broken: u64,
    /// Whether an agent did not announce pipelining, so that its window was 1 whatever was asked for.
    pub one_at_a_time: bool,
    /// Due time to complete ACK, in nanoseconds. A request without an answer stands in it with the timeout, the least
    /// that it took.
    pub latency: Histogram<u64>,
    /// How late NOTIFYs left though their window had room, in nanoseconds: this program's own share.
    pub lateness: Histogram<u64>,
    /// The same latency by when the request was due.
    pub timeline: Timeline,
    /// When the last answer came, since the run began.
    pub last_answer: Duration,
    /// Processor time of the threads.
    pub cpu: Duration,
}

/// What an agent must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An ACK for what was never asked on that connection.
    Unasked,
    /// A second ACK.
    Twice,
    /// An ACK without FIN.
    Unfinished,
    /// A frame or a list of actions that does not decode.
    Undecodable,
    /// A frame beyond the negotiated size.
    TooBig,
    /// A frame of another type.
    Unexpected,
    /// An ACK without the verdict that is expected.
    Verdict,
}

/// All of them with their names, in the order of their numbers.
pub const FAULTS: [(Fault, &str); 7] = [
    (Fault::Unasked, "unasked"),
    (Fault::Twice, "twice"),
    (Fault::Unfinished, "unfinished"),
    (Fault::Undecodable, "undecodable"),
    (Fault::TooBig, "too_big"),
    (Fault::Unexpected, "unexpected"),
    (Fault::Verdict, "verdict"),
];

impl Tally {
    /// For a run of this length.
    pub fn new(duration: Duration) -> Tally {
        Tally {
            sent: 0,
            answered: 0,
            lost: 0,
            unsent: 0,
            late: 0,
            faults: [0; FAULTS.len()],
            warmup_faults: [0; FAULTS.len()],
            broken: 0,
            one_at_a_time: false,
            latency: histogram(3),
            lateness: histogram(3),
            timeline: Timeline::new(duration),
            last_answer: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }

    /// Requests that were due.
    pub fn requests(&self) -> u64 {
        self.sent + self.unsent
    }

    /// Everything that the agent should not have sent, the warm-up aside.
    pub fn wrong(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// The same of the warm-up.
    pub fn warmup_wrong(&self) -> u64 {
        self.warmup_faults.iter().sum()
    }

    /// Whether every request got its one right answer.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.unsent == 0 && self.wrong() == 0 && self.warmup_wrong() == 0
    }

    /// Counts a fault, of what `counts` or of the warm-up.
    pub fn fault(&mut self, fault: Fault, counts: bool) {
        let faults = if counts { &mut self.faults } else { &mut self.warmup_faults };
        if let Some(count) = faults.get_mut(fault as usize) {
            *count += 1;
        }
    }

    /// Records what a request took that was due at `due` since the run began.
    pub fn record(&mut self, due: Duration, took: Duration) {
        self.latency.saturating_record(nanoseconds(took));
        self.timeline.record(due, took);
    }

    /// Adds another thread's part.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.lost += other.lost;
        self.unsent += other.unsent;
        self.late += other.late;
        let (faults, warmup_faults) = (&mut self.faults, &mut self.warmup_faults);
        let more = other.faults.iter().chain(&other.warmup_faults);
        for (count, more) in faults.iter_mut().chain(warmup_faults).zip(more) {
            *count += more;
        }
        self.broken += other.broken;
        self.one_at_a_time |= other.one_at_a_time;
        add(&mut self.latency, &other.latency);
        add(&mut self.lateness, &other.lateness);
        for (bucket, more) in self.timeline.buckets.iter_mut().zip(&other.timeline.buckets) {
            add(bucket, more);
        }
        self.last_answer = self.last_answer.max(other.last_answer);
        self.cpu += other.cpu;
    }

    /// Answers a second.
    pub fn rate(&self, duration: Duration) -> f64 {
        self.answered as f64 / self.last_answer.max(duration).as_secs_f64()
    }
}

/// Latency over time.
#[derive(Debug)]
pub struct Timeline {
    /// How long a bucket is.
    pub width: Duration,
    /// In order.
    pub buckets: Vec<Histogram<u32>>,
}

impl Timeline {
    /// A hundred buckets, of 100 ms to 1 s. The longest run of an hour has 3600, each of about 16 KiB: 57 MiB a thread.
    fn new(duration: Duration) -> Timeline {
        let width = (duration / 100).clamp(Duration::from_millis(100), Duration::from_secs(1));
        let count = duration.as_nanos().div_ceil(width.as_nanos());
        Timeline { width, buckets: (0..count).map(|_| histogram(2)).collect() }
    }

    fn record(&mut self, due: Duration, took: Duration) {
        let index = usize::try_from(due.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.saturating_record(nanoseconds(took));
        }
    }
}

/// Nanoseconds of a duration; a histogram holds none below 1.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn histogram<T: hdrhistogram::Counter>(digits: u8) -> Histogram<T> {
    // The bounds and the digits are constants that the crate accepts.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).expect("1 ns to a minute with 2 or 3 digits is a histogram")
}

fn add<T: hdrhistogram::Counter>(sum: &mut Histogram<T>, more: &Histogram<T>) {
    sum.add(more).expect("histograms of the same bounds add up");
}

/// A minute, the longest timeout.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Looks at what ACKs say.
#[derive(Debug)]
pub struct Verifier {
    verdict: Option<Vec<u8>>,
    /// The last payload that was right. Most agents answer the same question with the same bytes, and comparing them
    /// needs neither decoding nor memory.
    right: Vec<u8>,
}

impl Verifier {
    /// The variable `verdict`, in any scope, must be this string.
    pub fn new(verdict: Option<&str>) -> Verifier {
        Verifier { verdict: verdict.map(|verdict| verdict.as_bytes().to_vec()), right: Vec::new() }
    }

    /// What is wrong with the payload of an ACK.
    pub fn verify(&mut self, payload: &[u8]) -> Result<(), Fault> {
        if !self.right.is_empty() && self.right == payload {
            return Ok(());
        }
        let actions = ack::decode(payload).map_err(|_: DecodeError| Fault::Undecodable)?;
        if let Some(expected) = &self.verdict {
            let is_verdict = |action: &Action<'_>| match action {
                Action::SetVar { name: "verdict", value: TypedData::Str(value), .. } => value == expected,
                _ => false,
            };
            if !actions.iter().any(is_verdict) {
                return Err(Fault::Verdict);
            }
        }
        self.right.clear();
        self.right.extend_from_slice(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tollgate::spop::Scope;
    use tollgate::spop::frame::Frame;

    use super::*;

    #[test]
    fn an_ack_is_right_only_where_it_decodes_and_says_the_verdict() {
        let payload = |value: TypedData<'_>| {
            let mut out = BytesMut::new();
            ack::encode(1, 1, &[Action::SetVar { scope: Scope::Transaction, name: "verdict", value }], &mut out);
            Frame::decode(&out[4..]).unwrap().payload.to_vec()
        };
        let allow = payload(TypedData::Str(b"allow"));
        let cut = allow[..allow.len() - 1].to_vec();
        for (verdict, payload, expected) in [
            (None, &allow, Ok(())),
            (Some("allow"), &allow, Ok(())),
            (Some("deny"), &allow, Err(Fault::Verdict)),
            (Some("1"), &payload(TypedData::Int32(1)), Err(Fault::Verdict)),
            (Some("allow"), &vec![], Err(Fault::Verdict)),
            (None, &vec![], Ok(())),
            (None, &cut, Err(Fault::Undecodable)),
        ] {
            let mut verifier = Verifier::new(verdict);
            // The second time may come from memory, and is no other.
            assert_eq!(verifier.verify(payload), expected, "{verdict:?} {payload:?}");
            assert_eq!(verifier.verify(payload), expected, "{verdict:?} {payload:?}");
        }
    }

    #[test]
    fn tallies_of_threads_add_up() {
        let duration = Duration::from_secs(1);
        let (mut one, mut two) = (Tally::new(duration), Tally::new(duration));
        for tally in [&mut one, &mut two] {
            tally.sent += 2;
            tally.answered += 1;
            tally.lost += 1;
            tally.record(Duration::from_millis(150), Duration::from_millis(1));
            tally.record(Duration::from_millis(950), Duration::from_secs(1));
            tally.fault(Fault::Twice, true);
            tally.fault(Fault::Verdict, false);
        }
        one.add(&two);
        assert_eq!((one.warmup_wrong(), one.warmup_faults[Fault::Verdict as usize]), (2, 2));
        assert_eq!((one.requests(), one.answered, one.lost, one.wrong()), (4, 2, 2, 2));
        assert_eq!(one.latency.len(), 4);
        let counts: Vec<_> = one.timeline.buckets.iter().map(Histogram::len).collect();
        assert_eq!(counts, [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]);
        for (number, (fault, name)) in FAULTS.into_iter().enumerate() {
            assert_eq!(fault as usize, number, "{name}");
        }
    }
}

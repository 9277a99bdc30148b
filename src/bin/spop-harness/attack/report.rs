//! How an attack is shown.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::hostile::Attack;
use super::process::Held;

/// One attack, as it looked from outside.
pub struct Row {
    pub attack: Attack,
    pub peers: usize,
    pub closed: u64,
    /// The steady connection's latencies before the attack, in microseconds.
    pub calm: Histogram<u64>,
    /// The same during the attack.
    pub attacked: Histogram<u64>,
    /// What new connections took, from connecting to an answer, in microseconds.
    pub newcomers: Histogram<u64>,
    /// Only of a process that was named.
    pub memory: Option<Memory>,
}

/// What the process held.
pub struct Memory {
    pub before: Held,
    pub most: Held,
    pub after: Held,
}

/// The table's head.
pub fn heading() -> String {
    format!(
        "{:<8} {:>6} {:>8} | {:>8} {:>8} | {:>8} {:>8} {:>8} {:>7} {:>8} | {:>8} {:>5} | {:>8} {:>8} {:>8} {:>6}\n\
         {:<8} {:>6} {:>8} | {:>8} {:>8} | {:>8} {:>8} {:>8} {:>7} {:>8} | {:>8} {:>5} | {:>8} {:>8} {:>8} {:>6}",
        "",
        "",
        "",
        "before",
        "",
        "during",
        "",
        "",
        "",
        "",
        "new",
        "",
        "RSS KiB",
        "",
        "",
        "", //
        "attack",
        "peers",
        "closed",
        "p50 µs",
        "p99 µs",
        "p50 µs",
        "p99 µs",
        "max µs",
        "p99 ×",
        "answers",
        "max µs",
        "count",
        "before",
        "most",
        "after",
        "fds",
    )
}

/// What the columns are.
pub const LEGEND: &str = "\
closed: how often the agent closed or refused a hostile connection; some come back each time
p99 ×: p99 during the attack over p99 before it, of one well-behaved connection; latency counts from when a question was due
new: connections that came during the attack, from connecting to the answer of one question; max is the slowest
most, fds: the most memory and open descriptors of the agent (--pid), of ten looks a second until a second after the attack";

impl Row {
    fn factor(&self) -> f64 {
        self.attacked.value_at_quantile(0.99) as f64 / self.calm.value_at_quantile(0.99).max(1) as f64
    }

    /// The same as a document.
    pub fn json(&self) -> Value {
        let latency = |of: &Histogram<u64>| {
            json!({
                "answers": of.len(), "p50_us": of.value_at_quantile(0.5), "p99_us": of.value_at_quantile(0.99),
                "max_us": of.max(),
            })
        };
        let memory = self.memory.as_ref();
        json!({
            "attack": self.attack.to_string(), "peers": self.peers, "closed": self.closed,
            "calm": latency(&self.calm), "attacked": latency(&self.attacked), "p99_factor": self.factor(),
            "newcomers": latency(&self.newcomers),
            "rss_kib": memory.map(|memory| json!({
                "before": memory.before.rss_kib, "most": memory.most.rss_kib, "after": memory.after.rss_kib,
            })),
            "descriptors_most": memory.map(|memory| memory.most.descriptors),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held =
            |of: fn(&Memory) -> u64| self.memory.as_ref().map_or("-".to_owned(), |memory| of(memory).to_string());
        write!(
            f,
            "{:<8} {:>6} {:>8} | {:>8} {:>8} | {:>8} {:>8} {:>8} {:>7.1} {:>8} | {:>8} {:>5} | {:>8} {:>8} {:>8} {:>6}",
            self.attack,
            self.peers,
            self.closed,
            self.calm.value_at_quantile(0.5),
            self.calm.value_at_quantile(0.99),
            self.attacked.value_at_quantile(0.5),
            self.attacked.value_at_quantile(0.99),
            self.attacked.max(),
            self.factor(),
            self.attacked.len(),
            self.newcomers.max(),
            self.newcomers.len(),
            held(|memory| memory.before.rss_kib),
            held(|memory| memory.most.rss_kib),
            held(|memory| memory.after.rss_kib),
            held(|memory| memory.most.descriptors),
        )
    }
}

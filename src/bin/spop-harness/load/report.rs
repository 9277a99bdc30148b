//! A run as a person and as a program reads it.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Args;
use super::tally::{FAULTS, Tally};

/// One run.
#[derive(Debug)]
pub struct Row {
    /// NOTIFYs in flight on one connection.
    pub window: usize,
    /// What came out.
    pub tally: Tally,
}

/// What is done, for a heading and the plots.
pub fn title(args: &Args) -> String {
    let connections = args.connections;
    let plural = if connections == 1 { "" } else { "s" };
    match args.rate {
        Some(rate) => format!("open loop, {rate} requests/s over {connections} connection{plural}"),
        None => format!("closed loop, {connections} connection{plural} with full windows"),
    }
}

/// The lines above the rows.
pub fn heading(args: &Args) -> String {
    let counts = match args.rate {
        Some(_) => "latency counts from when a request was due, whatever kept it waiting",
        None => "latency counts from when a request left, so it hides stalls: see --rate",
    };
    let mut out = format!("{} of {}: {counts}\n", title(args), args.target);
    let _ = write!(
        out,
        "{:>6} {:>9} {:>9} | {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} | {:>6} {:>6} {:>6} {:>6} | {:>8} {:>8} {:>5}",
        "window",
        "requests",
        "answers/s",
        "mean µs",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "lost",
        "unsent",
        "wrong",
        "broken",
        "own p50",
        "own p99",
        "CPU"
    );
    out
}

/// One row.
pub fn line(args: &Args, row: &Row) -> String {
    let tally = &row.tally;
    let latency = |quantile| microseconds(tally.latency.value_at_quantile(quantile));
    let own = |quantile| {
        if tally.lateness.is_empty() {
            "-".to_owned()
        } else {
            microseconds(tally.lateness.value_at_quantile(quantile))
        }
    };
    format!(
        "{:>6} {:>9} {:>9.0} | {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} | {:>6} {:>6} {:>6} {:>6} | {:>8} {:>8} {:>4.0}%",
        row.window,
        tally.requests(),
        tally.rate(args.duration),
        format!("{:.1}", tally.latency.mean() / 1000.0),
        latency(0.5),
        latency(0.9),
        latency(0.99),
        latency(0.999),
        latency(0.9999),
        microseconds(tally.latency.max()),
        tally.lost,
        tally.unsent,
        tally.wrong(),
        tally.broken,
        own(0.5),
        own(0.99),
        100.0 * cpu_share(args, tally)
    )
}

/// What the columns leave open; each line only where it says something.
pub fn remarks(rows: &[Row]) -> String {
    let mut out =
        "own: how late NOTIFYs left though their window had room; CPU: what this program took of one processor\n"
            .to_owned();
    for Row { window, tally } in rows {
        if tally.one_at_a_time && *window > 1 {
            let _ = writeln!(out, "window {window}: the agent does not announce pipelining, so its window was 1");
        }
        if tally.lost + tally.unsent > 0 {
            let _ = writeln!(
                out,
                "window {window}: {} without an answer stand in the latencies with the timeout, the least they took; \
                 {} came after it",
                tally.lost + tally.unsent,
                tally.late
            );
        }
        for (faults, when) in [(&tally.faults, ""), (&tally.warmup_faults, " in the warm-up")] {
            for (fault, name) in FAULTS {
                if let Some(count @ 1..) = faults.get(fault as usize) {
                    let _ = writeln!(out, "window {window}: {count} wrong{when}: {name}");
                }
            }
        }
    }
    out
}

/// Everything. Durations are in microseconds.
pub fn json(args: &Args, rows: &[Row]) -> Value {
    let run = |row: &Row| {
        let tally = &row.tally;
        let timeline = tally.timeline.buckets.iter().enumerate().map(|(number, bucket)| {
            let begin = tally.timeline.width * u32::try_from(number).unwrap_or(u32::MAX);
            json!({
                "at_ms": u64::try_from(begin.as_millis()).unwrap_or(u64::MAX), "requests": bucket.len(),
                "p50_us": us(bucket.value_at_quantile(0.5)), "p99_us": us(bucket.value_at_quantile(0.99)),
                "max_us": us(bucket.max()),
            })
        });
        let timeline: Vec<_> = timeline.collect();
        let by_name = |faults: &[u64]| -> serde_json::Map<_, _> {
            FAULTS.iter().map(|(fault, name)| ((*name).to_owned(), json!(faults.get(*fault as usize)))).collect()
        };
        json!({
            "window": row.window, "pipelining": !tally.one_at_a_time, "requests": tally.requests(),
            "sent": tally.sent, "unsent": tally.unsent, "answered": tally.answered, "lost": tally.lost,
            "late": tally.late, "wrong": tally.wrong(),
            "faults": by_name(&tally.faults), "warmup_wrong": tally.warmup_wrong(),
            "warmup_faults": by_name(&tally.warmup_faults), "broken": tally.broken, "clean": tally.is_clean(),
            "answers_per_s": tally.rate(args.duration),
            "latency": percentiles(&tally.latency), "own_lateness": percentiles(&tally.lateness),
            "own_cpu_share": cpu_share(args, tally), "timeline": timeline,
        })
    };
    json!({
        "target": args.target.to_string(), "loop": if args.rate.is_some() { "open" } else { "closed" },
        "latency_from": if args.rate.is_some() { "due" } else { "sent" },
        "rate": args.rate, "connections": args.connections, "threads": args.threads,
        "duration_s": args.duration.as_secs_f64(), "timeout_s": args.timeout.as_secs_f64(),
        "runs": rows.iter().map(run).collect::<Vec<_>>(),
    })
}

/// `null` where nothing was measured.
fn percentiles(of: &Histogram<u64>) -> Value {
    if of.is_empty() {
        return Value::Null;
    }
    json!({
        "count": of.len(), "mean_us": of.mean() / 1000.0, "p50_us": us(of.value_at_quantile(0.5)),
        "p90_us": us(of.value_at_quantile(0.9)), "p99_us": us(of.value_at_quantile(0.99)),
        "p99_9_us": us(of.value_at_quantile(0.999)), "p99_99_us": us(of.value_at_quantile(0.9999)),
        "max_us": us(of.max()),
    })
}

/// Of one processor, over the run with its warm-up.
fn cpu_share(args: &Args, tally: &Tally) -> f64 {
    let elapsed: Duration = args.warmup + tally.last_answer.max(args.duration);
    tally.cpu.as_secs_f64() / elapsed.as_secs_f64()
}

fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// With a decimal where it says something.
fn microseconds(nanoseconds: u64) -> String {
    let us = us(nanoseconds);
    if us < 1000.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

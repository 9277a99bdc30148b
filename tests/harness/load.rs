//! `spop-harness load`, against the agent and against agents that stall, lose and lie.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tollgate::spop::frame::{Flags, Frame, FrameType};
use tollgate::spop::hello::{AgentHello, HaproxyHello};
use tollgate::spop::{Action, Messages, Scope, TypedData, ack};

use crate::support::{folder, free_port, stack};

/// What a run of the harness said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.out, self.err))
    }
}

async fn load(target: &str, arguments: &[&str]) -> Said {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_spop-harness"))
        .args(["load", "--target", target, "--warmup", "0s"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await.expect("the harness ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What every run must say of itself, whatever the agent did.
fn adds_up(run: &Value) {
    let number = |name: &str| run[name].as_u64().unwrap_or_else(|| panic!("{name} of {run}"));
    assert_eq!(number("sent"), number("answered") + number("lost"), "{run}");
    assert_eq!(number("requests"), number("sent") + number("unsent"), "{run}");
    assert_eq!(run["latency"]["count"], run["requests"], "every request stands in the latencies: {run}");
    let buckets = run["timeline"].as_array().unwrap();
    let in_buckets: u64 = buckets.iter().map(|bucket| bucket["requests"].as_u64().unwrap()).sum();
    assert_eq!(in_buckets, number("requests"), "and in those over time: {run}");
    let faults: u64 = run["faults"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(faults, number("wrong"), "{run}");
}

const ANYONE: &str = r#"
rules:
  - { name: public, path: /public/**, allow: anyone }
"#;

#[tokio::test]
async fn the_agent_answers_every_request_of_every_window() {
    let agent = stack::Agent::start(ANYONE).await;
    agent.ready().await;
    let folder = folder();
    let svg = folder.path().join("plots");
    let arguments = [
        "--rate",
        "400",
        "--connections",
        "3",
        "--window",
        "1,5,20",
        "--duration",
        "700ms",
        "--timeout",
        "30s",
        "--arg",
        "path=/public/x",
        "--expect-verdict",
        "allow",
        "--json",
        "--svg",
        svg.to_str().unwrap(),
    ];
    let said = load(&agent.spop, &arguments).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let report = said.json();
    assert_eq!(report["latency_from"], "due");
    let runs = report["runs"].as_array().unwrap();
    let windows: Vec<_> = runs.iter().map(|run| run["window"].as_u64().unwrap()).collect();
    assert_eq!(windows, [1, 5, 20]);
    for run in runs {
        adds_up(run);
        // 400 a second for 0.7 s, over however many connections.
        assert_eq!((&run["answered"], &run["wrong"], &run["broken"]), (&280.into(), &0.into(), &0.into()), "{run}");
    }

    // Each window is a curve of its own in the one, and a panel of three curves in the other.
    let percentiles = svg_of(&svg.join("latency-percentiles.svg"));
    assert_eq!(percentiles.curves, 3);
    let over_time = svg_of(&svg.join("latency-over-time.svg"));
    assert_eq!(over_time.curves, 9);
    for window in ["window 1", "window 5", "window 20"] {
        assert!(percentiles.texts.contains(window) && over_time.texts.contains(window), "{window}");
    }
    for text in ["Latency by percentile", "open loop, 400 requests/s over 3 connections", "90 %"] {
        assert!(percentiles.texts.contains(text), "{text} of {:?}", percentiles.texts);
    }
    for text in ["p50", "p99", "max"] {
        assert!(over_time.texts.contains(text), "{text} of {:?}", over_time.texts);
    }
}

#[tokio::test]
async fn the_table_has_a_row_for_each_window_and_a_refusal_is_a_failure_where_an_allowance_is_expected() {
    let agent = stack::Agent::start(ANYONE).await;
    agent.ready().await;
    let common = ["--window", "1,2", "--duration", "200ms", "--timeout", "30s", "--expect-verdict", "allow", "--max"];
    let table = |said: &Said| {
        let rows = said.out.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        rows.collect::<Vec<_>>()
    };
    let allowed = load(&agent.spop, &[&common[..], &["--arg", "path=/public/x"]].concat()).await;
    assert_eq!((allowed.code, table(&allowed)), (Some(0), vec![1, 2]), "{}{}", allowed.out, allowed.err);
    assert!(allowed.out.contains("closed loop"), "{}", allowed.out);
    let refused = load(&agent.spop, &[&common[..], &["--arg", "path=/private"]].concat()).await;
    assert_eq!((refused.code, table(&refused)), (Some(1), vec![1, 2]), "{}{}", refused.out, refused.err);
    assert!(refused.out.contains("wrong: verdict"), "{}", refused.out);
}

#[tokio::test]
async fn a_stall_shows_in_every_request_that_was_due_in_it_and_a_closed_loop_hides_it() {
    const STALL: Duration = Duration::from_millis(300);
    let stalling = || {
        let mut asked = 0;
        let stalled = Arc::new(Mutex::new(Duration::ZERO));
        let measured = Arc::clone(&stalled);
        let agent = Broken::start(move |stream_id, frame_id, out| {
            asked += 1;
            if asked == 300 {
                let begun = Instant::now();
                std::thread::sleep(STALL);
                *measured.lock().unwrap() = begun.elapsed();
            }
            allow(stream_id, frame_id, out);
        });
        (agent, stalled)
    };
    // A request each millisecond, so 300 are due in the stall; all but one of them must wait, whatever the window.
    let (agent, stalled) = stalling();
    let common = ["--window", "4", "--duration", "1s", "--timeout", "30s", "--json"];
    let open = load(&agent.address, &[&common[..], &["--rate", "1000"]].concat()).await;
    assert_eq!(open.code, Some(0), "{}{}", open.out, open.err);
    let open = open.json()["runs"][0].clone();
    adds_up(&open);
    assert_eq!(open["answered"], 1000);
    let stall_us = stalled.lock().unwrap().as_secs_f64() * 1e6;
    assert!(open["latency"]["max_us"].as_f64().unwrap() >= 0.99 * stall_us, "{open}");
    // Of 1000 requests 300 waited 0 to 300 ms, and 100 of those at least 200 ms: the tenth that is slowest.
    assert!(open["latency"]["p90_us"].as_f64().unwrap() >= 195_000.0, "{open}");
    assert!(open["latency"]["p99_us"].as_f64().unwrap() >= 280_000.0, "{open}");

    // The same agent in a closed loop, with the same number in flight: only those few notice.
    let (agent, _) = stalling();
    let closed = load(&agent.address, &[&common[..], &["--max"]].concat()).await;
    assert_eq!(closed.code, Some(0), "{}{}", closed.out, closed.err);
    let closed = closed.json()["runs"][0].clone();
    adds_up(&closed);
    assert!(closed["latency"]["max_us"].as_f64().unwrap() >= 0.99 * 300_000.0, "{closed}");
    let requests = closed["requests"].as_u64().unwrap();
    assert!(requests > 500, "it went on asking: {requests}");
    assert!(closed["latency"]["p99_us"].as_f64().unwrap() < 150_000.0, "{closed}");
}

#[tokio::test]
async fn an_ack_that_never_comes_is_a_lost_request_with_the_timeout_for_its_latency() {
    let mut asked = 0;
    let agent = Broken::start(move |stream_id, frame_id, out| {
        asked += 1;
        if asked % 10 != 0 {
            allow(stream_id, frame_id, out);
        }
    });
    // The window is large enough that nothing waits for room behind a lost one.
    let arguments = ["--rate", "200", "--window", "100", "--duration", "1s", "--timeout", "3s", "--json"];
    let said = load(&agent.address, &arguments).await;
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let run = said.json()["runs"][0].clone();
    adds_up(&run);
    assert_eq!((&run["lost"], &run["answered"], &run["wrong"]), (&20.into(), &180.into(), &0.into()), "{run}");
    // A tenth was lost, so the slowest hundredth is made of them.
    let p99 = run["latency"]["p99_us"].as_f64().unwrap();
    assert!((2_990_000.0..3_010_000.0).contains(&p99), "{run}");
}

#[tokio::test]
async fn an_ack_after_the_timeout_is_late_and_not_wrong() {
    let mut held = Vec::new();
    let agent = Broken::start(move |stream_id, frame_id, out| {
        held.push((stream_id, frame_id));
        // The first waits until the last.
        if held.len() > 1 {
            allow(stream_id, frame_id, out);
        }
        if held.len() == 100 {
            let (stream_id, frame_id) = held[0];
            allow(stream_id, frame_id, out);
        }
    });
    // It comes two seconds after it was due, one after it was given up, and long before the last would be.
    let arguments = ["--rate", "50", "--window", "50", "--duration", "2s", "--timeout", "1s", "--json"];
    let said = load(&agent.address, &arguments).await;
    let run = said.json()["runs"][0].clone();
    adds_up(&run);
    assert_eq!(said.code, Some(1), "{run}");
    assert!(run["lost"].as_u64().unwrap() >= 1 && run["late"].as_u64().unwrap() >= 1, "{run}");
    assert_eq!(run["wrong"], 0, "{run}");
}

#[tokio::test]
async fn acks_with_wrong_ids_twice_or_unreadable_are_counted_by_what_is_wrong() {
    type Answer = fn(u64, u64, &mut BytesMut);
    let cases: [(&str, Answer); 7] = [
        ("unasked", |stream_id, frame_id, out| {
            allow(stream_id, frame_id, out);
            allow(stream_id + 2000, frame_id, out);
        }),
        ("unasked", |stream_id, frame_id, out| {
            allow(stream_id, frame_id, out);
            allow(stream_id, frame_id + 1, out);
        }),
        ("twice", |stream_id, frame_id, out| {
            allow(stream_id, frame_id, out);
            allow(stream_id, frame_id, out);
        }),
        ("unfinished", |stream_id, frame_id, out| {
            Frame::encode(FrameType::Ack, Flags::NONE, stream_id, frame_id, out, |_| {});
            allow(stream_id, frame_id, out);
        }),
        ("undecodable", |stream_id, frame_id, out| {
            Frame::encode(FrameType::Ack, Flags::FIN, stream_id, frame_id, out, |out| {
                out.extend_from_slice(&[1, 3, 9, 0, 0]);
            });
        }),
        ("verdict", |stream_id, frame_id, out| ack::encode(stream_id, frame_id, &[], out)),
        ("unexpected", |stream_id, frame_id, out| {
            Frame::encode(FrameType::Unset, Flags::FIN, 0, 0, out, |_| {});
            allow(stream_id, frame_id, out);
        }),
    ];
    for (fault, answer) in cases {
        let agent = Broken::start(answer);
        let arguments = [
            "--rate",
            "100",
            "--window",
            "5",
            "--duration",
            "200ms",
            "--timeout",
            "30s",
            "--json",
            "--expect-verdict",
            "allow",
        ];
        let said = load(&agent.address, &arguments).await;
        assert_eq!(said.code, Some(1), "{fault}: {}{}", said.out, said.err);
        let run = said.json()["runs"][0].clone();
        adds_up(&run);
        assert_eq!((&run["answered"], &run["wrong"]), (&20.into(), &20.into()), "{fault}: {run}");
        assert_eq!(run["faults"][fault], 20, "{run}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_and_what_was_on_it_is_lost() {
    let mut asked = 0;
    // Every fifth question is answered by a frame that is longer than was agreed on, which ends the connection.
    let agent = Broken::start(move |stream_id, frame_id, out| {
        asked += 1;
        if asked % 5 == 0 {
            out.extend_from_slice(&(1_000_000u32).to_be_bytes());
        } else {
            allow(stream_id, frame_id, out);
        }
    });
    let arguments = ["--rate", "50", "--window", "1", "--duration", "1s", "--timeout", "30s", "--json"];
    let said = load(&agent.address, &arguments).await;
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let run = said.json()["runs"][0].clone();
    adds_up(&run);
    assert_eq!(
        (&run["requests"], &run["lost"], &run["faults"]["too_big"]),
        (&50.into(), &10.into(), &10.into()),
        "{run}"
    );
    assert_eq!(run["broken"], 10, "{run}");
    // One at the beginning and one after each break but perhaps the last, when nothing is left to ask.
    assert!((10..=11).contains(&agent.accepted.load(Ordering::Relaxed)), "{:?}", agent.accepted);
}

#[tokio::test]
async fn an_agent_that_does_not_pipeline_is_asked_one_at_a_time() {
    let in_flight = Arc::new(AtomicU64::new(0));
    let most = Arc::clone(&in_flight);
    // What arrives together is answered together, so a window above 1 would show in one call.
    let agent = Broken::without_pipelining(move |stream_id, frame_id, out| {
        most.fetch_max(u64::from(!out.is_empty()) + 1, Ordering::Relaxed);
        allow(stream_id, frame_id, out);
    });
    let said = load(&agent.address, &["--max", "--window", "20", "--duration", "200ms", "--timeout", "30s"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("does not announce pipelining"), "{}", said.out);
    assert_eq!(in_flight.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_cannot_begin_says_why_with_2() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let agent = Broken::start(allow);
    let missing = folder();
    let missing = missing.path().join("tokens");
    let long = format!("path={}", "x".repeat(20_000));
    for (target, arguments, expected) in [
        (&*nobody, vec!["--max", "--duration", "1s"], "cannot connect to 127.0.0.1"),
        (&agent.address, vec![], "--rate"),
        (&agent.address, vec!["--max", "--rate", "5"], "--rate"),
        (&agent.address, vec!["--rate", "0"], "expected 0.001"),
        (&agent.address, vec!["--max", "--duration", "2h"], "at most 1h"),
        (&agent.address, vec!["--max", "--window", "0"], "window"),
        (&agent.address, vec!["--max", "--arg", "port=int:x"], "a whole number"),
        (&agent.address, vec!["--max", "--arg", &long], "does not fit the agent's max-frame-size of 16380"),
        (&agent.address, vec!["--max", "--token-file", missing.to_str().unwrap()], "cannot read"),
        ("192.0.2.1:9001", vec!["--max"], "not an address of this machine"),
    ] {
        let said = load(target, &arguments).await;
        assert_eq!(said.code, Some(2), "{arguments:?}: {}{}", said.out, said.err);
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
}

/// An agent that answers as a test says, on any number of connections.
struct Broken {
    address: String,
    accepted: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Broken {
    fn start(answer: impl FnMut(u64, u64, &mut BytesMut) + Send + 'static) -> Broken {
        Broken::announcing(true, answer)
    }

    fn without_pipelining(answer: impl FnMut(u64, u64, &mut BytesMut) + Send + 'static) -> Broken {
        Broken::announcing(false, answer)
    }

    fn announcing(pipelining: bool, answer: impl FnMut(u64, u64, &mut BytesMut) + Send + 'static) -> Broken {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (over, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counts) = (Arc::clone(&over), Arc::clone(&accepted));
        let answer = Arc::new(Mutex::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                counts.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                // A peer that goes away is how each of them ends.
                std::thread::spawn(move || stream.and_then(|stream| converse(stream, pipelining, &*answer)));
            }
        });
        Broken { address, accepted, over }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // So that it looks.
        let _ = TcpStream::connect(&self.address);
    }
}

fn converse(
    mut stream: TcpStream,
    pipelining: bool,
    answer: &Mutex<impl FnMut(u64, u64, &mut BytesMut)>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut greeted = false;
    let mut received = BytesMut::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let mut out = BytesMut::new();
        received.extend_from_slice(&piece[..read]);
        while let Some(prefix) = received.first_chunk::<4>() {
            let length = u32::from_be_bytes(*prefix) as usize;
            if received.len() < 4 + length {
                break;
            }
            let bytes = received.split_to(4 + length);
            let frame = Frame::decode(&bytes[4..]).unwrap();
            match frame.kind {
                FrameType::HaproxyHello => {
                    assert!(!greeted && HaproxyHello::decode(frame.payload).is_ok_and(|hello| hello.pipelining));
                    greeted = true;
                    AgentHello { max_frame_size: 16380, pipelining, fragmentation: false }.encode(&mut out);
                }
                FrameType::Notify => {
                    assert!(greeted && frame.flags == Flags::FIN && Messages::decode(frame.payload).is_ok());
                    let mut answer = answer.lock().unwrap();
                    answer(frame.stream_id, frame.frame_id, &mut out);
                }
                _ => return Ok(()),
            }
        }
        while out.has_remaining() {
            let written = stream.write(&out)?;
            out.advance(written);
        }
    }
}

/// The right answer.
fn allow(stream_id: u64, frame_id: u64, out: &mut BytesMut) {
    let verdict = Action::SetVar { scope: Scope::Transaction, name: "verdict", value: TypedData::Str(b"allow") };
    ack::encode(stream_id, frame_id, &[verdict], out);
}

/// What a picture holds.
struct Svg {
    /// Lines of many points: legends are lines of two, and grids are no polylines of colour.
    curves: usize,
    texts: BTreeSet<String>,
}

/// Reads an SVG file; fails where it is not well-formed: a tag without its end, an attribute without quotes, a bare `<`
/// or `&` in a text.
fn svg_of(file: &Path) -> Svg {
    let source = std::fs::read_to_string(file).unwrap();
    let mut open: Vec<String> = Vec::new();
    let mut svg = Svg { curves: 0, texts: BTreeSet::new() };
    let mut rest = source.trim();
    while !rest.is_empty() {
        let text_end = rest.find('<').unwrap_or(rest.len());
        let (text, after) = rest.split_at(text_end);
        assert!(text.trim().is_empty() || !open.is_empty(), "text outside of the root: {text}");
        for reference in text.split('&').skip(1) {
            assert!(
                ["lt;", "gt;", "amp;", "quot;", "apos;", "#"].iter().any(|name| reference.starts_with(name)),
                "{text}"
            );
        }
        if open.last().is_some_and(|name| name == "text") {
            svg.texts.insert(text.trim().to_owned());
        }
        if after.is_empty() {
            break;
        }
        let (tag, after) = after[1..].split_once('>').expect("a tag ends");
        rest = after.trim_start();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name.trim()), "the tag that ends");
            assert!(!open.is_empty() || rest.is_empty(), "one root");
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(!open.is_empty() || name == "svg", "the root is svg: {name}");
        // Name, `=`, and a value in quotes, again and again.
        let pieces: Vec<_> = attributes.trim().split('"').collect();
        assert!(pieces.len() % 2 == 1 && pieces.last().is_some_and(|last| last.trim().is_empty()), "{tag}");
        assert!(pieces.iter().step_by(2).all(|name| name.trim().is_empty() || name.trim().ends_with('=')), "{tag}");
        if name == "polyline" {
            let points = attributes.split("points=\"").nth(1).and_then(|points| points.split('"').next());
            svg.curves += usize::from(points.unwrap().split_whitespace().count() > 2);
        }
        if !closed {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty() && source.trim().starts_with("<svg"), "not closed: {open:?}");
    svg
}

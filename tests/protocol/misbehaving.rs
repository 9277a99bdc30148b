//! An agent that misbehaves, behind the files of `haproxy/` as they ship and as they are written for the line: whatever it
//! does, nobody gets in without a whole `allow`, nobody waits for long, and a good agent in its place is enough to serve
//! again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tollgate::spop::frame::{Flags, FrameType};
use tollgate::spop::{Action, Scope, TypedData};

use super::is_old;
use crate::each_line;
use crate::support::generated::generate;
use crate::support::scripted::{Question, Script, Scripted, Step, actions, frame};
use crate::support::stack::Haproxy;
use crate::support::web::{self, Application};
use crate::support::{eventually, root};

each_line! {
    whatever_an_agent_does_nobody_gets_in_without_an_allow,
    nor_do_they_with_the_files_that_are_written_for_the_line,
}

async fn whatever_an_agent_does_nobody_gets_in_without_an_allow(line: &str, program: &str) {
    nobody_gets_in(line, program, &root().join("haproxy/haproxy.cfg")).await;
}

async fn nor_do_they_with_the_files_that_are_written_for_the_line(line: &str, program: &str) {
    let settings = std::fs::read_to_string(root().join("haproxy/tollgate.yaml")).unwrap();
    let files = generate(&settings, line);
    if !is_old(line) {
        return nobody_gets_in(line, program, &files.cfg).await;
    }
    // Up to 3.0 only their comments differ, and what holds for the ones holds for the others.
    let words = |path: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| line.split(" #").next().unwrap().trim_end());
        lines.filter(|line| !line.is_empty() && !line.trim_start().starts_with('#')).map(str::to_owned).collect()
    };
    for name in ["haproxy.cfg", "spoe-tollgate.conf"] {
        assert_eq!(words(&files.cfg.with_file_name(name)), words(&root().join("haproxy").join(name)));
    }
}

async fn nobody_gets_in(line: &str, program: &str, file: &Path) {
    let app = Application::start().await;
    let agent = Scripted::start(good()).await;
    let address = format!("127.0.0.1:{}", agent.port);
    let haproxy = Haproxy::start_file(file, program, &[&address], &[app.port], &[]).await;
    served_again(&haproxy).await;
    let mut wrong = Vec::new();
    for (index, row) in rows().into_iter().enumerate() {
        let (name, script) = (row.name, Arc::new(row.script));
        let expected = if is_old(line) { row.old } else { row.new };
        for time in 1..=TIMES_MAX {
            // `maxconnrate 50` of spoe-tollgate.conf must not be what refuses the row.
            eventually("HAProxy may connect again", async || (agent.connections_in_a_second() < 20).then_some(()))
                .await;
            agent.play(Arc::clone(&script)).await;
            app.take_heads();
            let asked = ask(&haproxy, &app, &format!("/row/{index}/{time}"), expected).await;
            agent.play(good()).await;
            served_again(&haproxy).await;
            let Err(surprise) = asked else { break };
            if !surprise.only_timeouts || time == TIMES_MAX {
                wrong.push(format!("{name}: {}", surprise.seen));
                break;
            }
            println!("HAProxy {line}: once more: {name}: {}", surprise.seen);
        }
    }

    // And one that is not there at all, until another takes its port.
    let port = agent.port;
    drop(agent);
    app.take_heads();
    let gone = Refused(&[1, 2, 257]);
    let asked = ask(&haproxy, &app, "/down", gone).await;
    wrong.extend(asked.err().map(|surprise| format!("agent down: {}", surprise.seen)));
    let _agent = Scripted::start_on(port, good());
    served_again(&haproxy).await;
    assert!(wrong.is_empty(), "HAProxy {line}:\n{}", wrong.join("\n"));
}

/// How often a row is played at most. The agent runs in the test's own process, and on a busy machine it may have no
/// processor for the 250 ms after which HAProxy gives up with error 1. That says nothing about the row, so it is played
/// again, twice at most, where such timeouts are all that surprises. Whatever reached the application and should not have,
/// was refused with another error, or took too long, fails at once.
const TIMES_MAX: u32 = 3;

/// How a row differs from what is expected.
struct Surprise {
    /// HAProxy's timeouts in place of other ends are all there is.
    only_timeouts: bool,
    seen: String,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// 503 or the refusal that the agent worded; HAProxy's `set-on-error` value is one of these, 0 for none.
    Refused(&'static [i64]),
    /// It reaches the application, and no identity but `user` does.
    Served,
}

use Expected::{Refused, Served};

struct Row {
    name: &'static str,
    /// With HAProxy up to 3.0.
    old: Expected,
    /// With HAProxy from 3.1 on.
    new: Expected,
    script: Script,
}

/// Three requests at once; the error says how they differ from what is expected.
async fn ask(haproxy: &Haproxy, app: &Application, path: &str, expected: Expected) -> Result<(), Surprise> {
    const REQUESTS: usize = 3;
    // HAProxy's `timeout processing` is 250 ms and only a connection's end is asked about again; the rest is for a busy
    // machine.
    const TOOK_MAX: Duration = Duration::from_secs(4);
    // HAProxy's error for a question that was not answered in time.
    const TIMED_OUT: i64 = 1;
    let replies = join_all((0..REQUESTS).map(|_| web::get(haproxy.port, path, &[]))).await;
    let answered = Instant::now();
    let logged: Vec<Value> = eventually("HAProxy logs the requests", async || {
        let log = haproxy.program.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["path"] == path).collect();
        // Threads that log at the same moment may lose a line, so after a second one is enough.
        (lines.len() >= REQUESTS || !lines.is_empty() && answered.elapsed() > Duration::from_secs(1)).then_some(lines)
    })
    .await;
    let heads = app.take_heads();
    let errors: Vec<i64> =
        logged.iter().map(|line| line["spoe_error"].as_str().unwrap().parse().unwrap_or(0)).collect();
    let seen: Vec<_> = replies
        .iter()
        .map(|reply| reply.as_ref().map(|reply| (reply.status, reply.took)).map_err(String::as_str))
        .collect();
    let refused =
        |reply: &web::Reply| reply.status == 403 || reply.status == 503 && reply.body.contains("agent_unreachable");
    let served = replies.iter().flatten().filter(|reply| reply.status == 200).count();
    // Whether all is well but for timeouts, and whether it is without them.
    let (only_timeouts, as_expected) = match expected {
        Refused(codes) => {
            let all_refused = heads.is_empty() && replies.iter().flatten().all(refused);
            let known = |but: Option<i64>| errors.iter().all(|error| codes.contains(error) || Some(*error) == but);
            (all_refused && known(Some(TIMED_OUT)), all_refused && known(None))
        }
        Served => {
            let known = heads.iter().all(|head| {
                let identity = |line: &&str| line.to_ascii_lowercase().starts_with("x-auth-");
                head.lines().filter(identity).all(|line| line.to_ascii_lowercase().starts_with("x-auth-user: "))
            });
            let known = known && heads.len() == served;
            let others_timed_out = errors.contains(&TIMED_OUT)
                && errors.iter().all(|error| [0, TIMED_OUT].contains(error))
                && replies.iter().flatten().all(|reply| reply.status == 200 || refused(reply));
            (known && others_timed_out, known && served == REQUESTS)
        }
    };
    let in_time = seen.iter().all(|reply| matches!(reply, Ok((_, took)) if *took < TOOK_MAX));
    if as_expected && in_time {
        return Ok(());
    }
    let reached = heads.len();
    Err(Surprise {
        only_timeouts: only_timeouts && in_time,
        seen: format!(
            "expected {expected:?}, saw {seen:?}, errors {errors:?}, {reached} reached the application {heads:?}"
        ),
    })
}

/// Waits until a request is served; "some seconds" is what an agent's restart may cost.
async fn served_again(haproxy: &Haproxy) {
    let since = Instant::now();
    eventually("requests are served again", async || {
        let reply = web::get(haproxy.port, "/good", &[]).await;
        matches!(reply, Ok(reply) if reply.status == 200).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(5), "served again only after {:?}", since.elapsed());
}

const ALLOW: Action<'static> = set(Scope::Transaction, "verdict", TypedData::Str(b"allow"));
const USER: Action<'static> = set(Scope::Transaction, "user", TypedData::Str(b"mallory"));

const fn set<'a>(scope: Scope, name: &'a str, value: TypedData<'a>) -> Action<'a> {
    Action::SetVar { scope, name, value }
}

fn good() -> Script {
    acks([USER, ALLOW])
}

/// A good agent but for these actions.
fn acks<const N: usize>(actions: [Action<'static>; N]) -> Script {
    Script::answering(move |question| vec![Step::Write(question.ack(&actions))])
}

/// The identity, and this verdict.
fn says(verdict: TypedData<'static>) -> Script {
    acks([USER, set(Scope::Transaction, "verdict", verdict)])
}

/// The identity, and `allow` under another name or in another scope.
fn allows_elsewhere(scope: Scope, name: &'static str) -> Script {
    acks([USER, set(scope, name, TypedData::Str(b"allow"))])
}

/// A good agent but for these bytes instead of an ACK.
fn writes(bytes: impl Fn(&Question) -> Vec<u8> + Send + Sync + 'static) -> Script {
    Script::answering(move |question| vec![Step::Write(bytes(question))])
}

/// An ACK with ids that are not the question's.
fn misdirected(stream_id: fn(u64) -> u64, frame_id: fn(u64) -> u64) -> Script {
    writes(move |question| {
        let ids = (stream_id(question.stream_id), frame_id(question.frame_id));
        frame(FrameType::Ack, Flags::FIN, ids.0, ids.1, &actions(&[USER, ALLOW]))
    })
}

/// An ACK of exactly `len` bytes whose first actions allow.
fn long_ack(question: &Question, len: usize) -> Vec<u8> {
    let mut payload = actions(&[USER, ALLOW]);
    // Another variable takes the rest: its value's length is three bytes of varint from 2288 to 264,431.
    let head = frame(FrameType::Ack, Flags::FIN, question.stream_id, question.frame_id, &[]).len() - 4;
    let around = 3 + 1 + "more".len() + 1 + 3;
    let value = vec![b'x'; len - head - payload.len() - around];
    payload.extend(actions(&[set(Scope::Transaction, "more", TypedData::Str(&value))]));
    let ack = question.ack_of(&payload);
    assert_eq!(ack.len() - 4, len);
    ack
}

/// The identity, then these bytes where the next action should be, then nothing or more.
fn broken_after_identity(bytes: &'static [u8]) -> Script {
    writes(move |question| question.ack_of(&[&actions(&[USER]), bytes, &actions(&[ALLOW])].concat()))
}

/// A HELLO of these pairs, and a good agent otherwise.
fn greets(pairs: &[(&str, TypedData<'_>)]) -> Script {
    let mut payload = bytes::BytesMut::new();
    for (key, value) in pairs {
        tollgate::spop::kv_list::encode(key, *value, &mut payload);
    }
    let hello = frame(FrameType::AgentHello, Flags::FIN, 0, 0, &payload);
    Script::greeting(vec![Step::Write(hello)], |question| vec![Step::Write(question.ack(&[USER, ALLOW]))])
}

fn rows() -> Vec<Row> {
    const CAPABILITIES: (&str, TypedData<'static>) = ("capabilities", TypedData::Str(b"pipelining"));
    const VERSION: (&str, TypedData<'static>) = ("version", TypedData::Str(b"2.0"));
    const SIZE: (&str, TypedData<'static>) = ("max-frame-size", TypedData::UInt32(16380));
    let row = |name, old, new, script| Row { name, old, new, script };
    // `-m found` would not do: these leave no error.
    const SILENT: Expected = Refused(&[0]);
    const TIMEOUT: Expected = Refused(&[1]);
    let late =
        |question: &Question| vec![Step::Pause(Duration::from_millis(400)), Step::Write(question.ack(&[USER, ALLOW]))];
    let half = |question: &Question, end: Step| {
        let ack = question.ack(&[USER, ALLOW]);
        vec![Step::Write(ack[..ack.len() / 2].to_vec()), end]
    };
    let in_two_writes = |hello: &tollgate::spop::hello::HaproxyHello| {
        let bytes = crate::support::scripted::good_hello(hello);
        let (head, rest) = bytes.split_at(11);
        vec![Step::Write(head.to_vec()), Step::Pause(Duration::from_millis(50)), Step::Write(rest.to_vec())]
    };
    let disconnect = |code: u32| {
        let mut payload = bytes::BytesMut::new();
        tollgate::spop::kv_list::encode("status-code", TypedData::UInt32(code), &mut payload);
        tollgate::spop::kv_list::encode("message", TypedData::Str(b"no"), &mut payload);
        let bytes = frame(FrameType::AgentDisconnect, Flags::FIN, 0, 0, &payload);
        Script::answering(move |_| vec![Step::Write(bytes.clone()), Step::Close])
    };
    vec![
        // Controls: what must be let in, so that a row above or below cannot pass because nothing is.
        row("allow", Served, Served, good()),
        row(
            "allow, twice the same ACK",
            Served,
            Served,
            writes(|q| [q.ack(&[USER, ALLOW]), q.ack(&[USER, ALLOW])].concat()),
        ),
        row("HELLO in two writes", Served, Served, Script { hello: Box::new(in_two_writes), ..good() }),
        // HAProxy compares bytes and does not tell the two types apart: this is the whole word, from the agent.
        row("verdict of type bin", Served, Served, says(TypedData::Bin(b"allow"))),
        row(
            "CR LF NUL in `user`, with allow",
            Served,
            Served,
            acks([set(Scope::Transaction, "user", TypedData::Str(b"alice\r\nX-Auth-Groups: ops\0")), ALLOW]),
        ),
        // No answer, or the end instead of one.
        row("silent", TIMEOUT, TIMEOUT, Script::answering(|_| Vec::new())),
        row("an allow that comes too late", TIMEOUT, TIMEOUT, Script::answering(late)),
        row("AGENT-DISCONNECT 4", Refused(&[260]), Refused(&[1, 260]), disconnect(4)),
        row("AGENT-DISCONNECT 99", Refused(&[355]), Refused(&[1, 355]), disconnect(99)),
        row("closes", Refused(&[256, 257]), Refused(&[257]), Script::answering(|_| vec![Step::Close])),
        row(
            "half an ACK, then close",
            Refused(&[256, 257]),
            Refused(&[1, 257, 260]),
            Script::answering(move |q| half(q, Step::Close)),
        ),
        row(
            "half an ACK, then reset",
            Refused(&[256, 257]),
            Refused(&[1, 257, 260]),
            Script::answering(move |q| half(q, Step::Reset)),
        ),
        // An answer to something else.
        row("wrong frame-id", TIMEOUT, TIMEOUT, misdirected(|stream| stream, |frame| frame + 1)),
        row("frame-id 0", TIMEOUT, TIMEOUT, misdirected(|stream| stream, |_| 0)),
        row("wrong stream-id", TIMEOUT, TIMEOUT, misdirected(|stream| stream + 1000, |frame| frame)),
        row("for a stream long over", TIMEOUT, TIMEOUT, misdirected(|stream| stream.saturating_sub(50), |frame| frame)),
        // Frames that are none.
        row(
            "no FIN",
            Refused(&[1, 256, 266]),
            TIMEOUT,
            writes(|q| frame(FrameType::Ack, Flags::NONE, q.stream_id, q.frame_id, &actions(&[USER, ALLOW]))),
        ),
        row("a frame of 3 bytes", Refused(&[1, 260]), TIMEOUT, writes(|_| vec![0, 0, 0, 3, 103, 0, 0])),
        row("bytes that are no frame", Refused(&[259]), TIMEOUT, writes(|_| vec![0xff; 64])),
        row(
            "a frame of another type",
            TIMEOUT,
            TIMEOUT,
            writes(|q| frame(FrameType::Unknown(110), Flags::FIN, q.stream_id, q.frame_id, &actions(&[USER, ALLOW]))),
        ),
        row("an ACK of 17,000 bytes", Refused(&[259]), TIMEOUT, writes(|q| long_ack(q, 17_000))),
        row("an ACK of max-frame-size", Served, TIMEOUT, writes(|q| long_ack(q, 16_380))),
        // Three at once fit the buffer together.
        row("an ACK of 5,000 bytes", Served, Served, writes(|q| long_ack(q, 5_000))),
        // The list of actions ends early, without an error.
        row("no action", SILENT, SILENT, writes(|q| q.ack_of(&[]))),
        row("identity and no verdict", SILENT, SILENT, acks([USER])),
        row("identity, unknown action", SILENT, SILENT, broken_after_identity(&[9, 3, 2])),
        row("identity, wrong count", SILENT, SILENT, broken_after_identity(&[1, 2, 2, 1, b'x', 0])),
        row("identity, unknown scope", SILENT, SILENT, broken_after_identity(&[1, 3, 9, 1, b'x', 0])),
        row("identity, a name beyond the end", SILENT, SILENT, broken_after_identity(&[1, 3, 2, 239])),
        row("identity, a value beyond the end", SILENT, SILENT, broken_after_identity(&[1, 3, 2, 1, b'x', 8, 239])),
        row(
            "an ACK cut inside the verdict",
            SILENT,
            SILENT,
            writes(|q| {
                let payload = actions(&[USER, ALLOW]);
                q.ack_of(&payload[..payload.len() - 1])
            }),
        ),
        // A verdict that is not `allow`.
        row(
            "verdict unset after it was set",
            SILENT,
            SILENT,
            acks([USER, ALLOW, Action::UnsetVar { scope: Scope::Transaction, name: "verdict" }]),
        ),
        row(
            "verdict deny after allow",
            SILENT,
            SILENT,
            acks([USER, ALLOW, set(Scope::Transaction, "verdict", TypedData::Str(b"deny"))]),
        ),
        row("verdict of type bool", SILENT, SILENT, says(TypedData::Bool(true))),
        row("verdict of type int", SILENT, SILENT, says(TypedData::Int32(1))),
        row("verdict of type null", SILENT, SILENT, says(TypedData::Null)),
        row(
            "verdict of an unknown type",
            SILENT,
            SILENT,
            broken_after_identity(&[1, 3, 2, 7, b'v', b'e', b'r', b'd', b'i', b'c', b't', 12, 9]),
        ),
        row("verdict empty", SILENT, SILENT, says(TypedData::Str(b""))),
        row("verdict `Allow`", SILENT, SILENT, says(TypedData::Str(b"Allow"))),
        row("verdict `ALLOW`", SILENT, SILENT, says(TypedData::Str(b"ALLOW"))),
        row("verdict `allowed`", SILENT, SILENT, says(TypedData::Str(b"allowed"))),
        row("verdict `allow `", SILENT, SILENT, says(TypedData::Str(b"allow "))),
        row("verdict ` allow`", SILENT, SILENT, says(TypedData::Str(b" allow"))),
        row("verdict `allow` CR LF", SILENT, SILENT, says(TypedData::Str(b"allow\r\n"))),
        row("verdict `allow` NUL", SILENT, SILENT, says(TypedData::Str(b"allow\0"))),
        row("verdict `allow` NUL `deny`", SILENT, SILENT, says(TypedData::Str(b"allow\0deny"))),
        // A variable that is not the verdict.
        row("verdict in scope proc", SILENT, SILENT, allows_elsewhere(Scope::Process, "verdict")),
        row("verdict in scope sess", SILENT, SILENT, allows_elsewhere(Scope::Session, "verdict")),
        row("verdict in scope req", SILENT, SILENT, allows_elsewhere(Scope::Request, "verdict")),
        row("verdict in scope res", SILENT, SILENT, allows_elsewhere(Scope::Response, "verdict")),
        row("a name with the prefix", SILENT, SILENT, allows_elsewhere(Scope::Transaction, "tollgate.verdict")),
        row("a name in other case", SILENT, SILENT, allows_elsewhere(Scope::Transaction, "Verdict")),
        // With `txn.tollgate.` it has 64 bytes.
        row(
            "a name of 64 bytes",
            SILENT,
            SILENT,
            allows_elsewhere(Scope::Transaction, "verdictverdictverdictverdictverdictverdictverdictve"),
        ),
        row(
            "the error variable, with allow",
            Refused(&[1]),
            Refused(&[1]),
            acks([set(Scope::Transaction, "error", TypedData::Int32(1)), USER, ALLOW]),
        ),
        // A HELLO that does not do.
        row("no HELLO", Refused(&[1, 2]), TIMEOUT, Script::greeting(Vec::new(), |_| Vec::new())),
        row(
            "HELLO: version 1.0",
            Refused(&[1, 2]),
            Refused(&[1, 257]),
            greets(&[("version", TypedData::Str(b"1.0")), SIZE, CAPABILITIES]),
        ),
        row("HELLO: no version", Refused(&[1, 2]), Refused(&[1, 257]), greets(&[SIZE, CAPABILITIES])),
        row(
            "HELLO: max-frame-size too large",
            Refused(&[1, 2]),
            Refused(&[1, 257]),
            greets(&[VERSION, ("max-frame-size", TypedData::UInt32(16_381)), CAPABILITIES]),
        ),
        row(
            "HELLO: max-frame-size too small",
            Refused(&[1, 2]),
            Refused(&[1, 257]),
            greets(&[VERSION, ("max-frame-size", TypedData::UInt32(255)), CAPABILITIES]),
        ),
        row("HELLO: no max-frame-size", Refused(&[1, 2]), Served, greets(&[VERSION, CAPABILITIES])),
        row("HELLO: no capabilities", Served, Served, greets(&[VERSION, SIZE])),
        row(
            "a DISCONNECT instead of the HELLO",
            Refused(&[1, 2, 269]),
            Refused(&[1, 257, 260, 269]),
            Script {
                hello: Box::new(|_| {
                    let mut out = bytes::BytesMut::new();
                    tollgate::spop::disconnect::encode_agent(tollgate::spop::Status::ResourceAllocation, &mut out);
                    vec![Step::Write(out.to_vec()), Step::Close]
                }),
                ..good()
            },
        ),
    ]
}

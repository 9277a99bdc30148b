//! Tollgate behind every HAProxy line, in each configuration that changes what is on the wire.

use std::fmt;

use futures_util::future::join_all;
use tollgate::spop::Messages;

use super::is_old;
use super::server::{Server, text};
use crate::each_line;
use crate::support::eventually;
use crate::support::web::{self, Reply};
use crate::support::written::{Settings, Written};

each_line! {
    every_configuration_is_answered,
    a_token_is_answered_up_to_the_frame_and_refused_alone_beyond_it,
    fragments_are_put_together,
}

const MESSAGE: &str =
    "spoe-message request\n args method=method host=req.fhdr(host) path=path authorization=req.fhdr(authorization)\n";
const GROUP: &str = "spoe-group check\n messages request\n";
const ASK: &str = " http-request send-spoe-group written check\n";
/// What came of it, in the answer's fields.
const ANSWER: &str = " http-request return status 503 hdr X-Error %[var(txn.tollgate.error)] if { var(txn.tollgate.error) -m found }\n \
                      http-request return status 200 hdr X-Verdict %[var(txn.tollgate.verdict)] hdr X-User %[var(txn.tollgate.user)]\n";

fn settings() -> Settings {
    Settings {
        agent: " groups check\n".to_owned(),
        messages: format!("{MESSAGE}{GROUP}"),
        front: format!("{ASK}{ANSWER}"),
        ..Settings::default()
    }
}

/// An answer that was not right.
#[derive(Debug)]
struct Wrong {
    path: String,
    reply: Result<Reply, String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path, self.reply)
    }
}

/// How one path was answered, `None` where it was right.
async fn wrong(haproxy: &Written, path: &str, fields: &[(&str, &str)]) -> Option<Wrong> {
    let reply = web::get(haproxy.port, path, fields).await;
    let right = reply.as_ref().is_ok_and(|reply| {
        reply.status == 200 && reply.field("x-verdict") == Some("allow") && reply.field("x-user") == Some(path)
    });
    (!right).then(|| Wrong { path: path.to_owned(), reply })
}

/// Whether HAProxy 2.6.12 kept a question to itself until its timeout: about one in three hundred without pipelining, one
/// in thirty beside questions that are too large. What never arrived nobody can answer; later lines do not do it.
fn never_sent(line: &str, answer: &Wrong, arrived: &[Vec<u8>]) -> bool {
    let timed_out = answer.reply.as_ref().is_ok_and(|reply| reply.field("x-error") == Some("1"));
    let arrived = arrived.iter().any(|payload| text(&Messages::decode(payload).unwrap(), "path") == answer.path);
    line == "2.6" && timed_out && !arrived
}

/// Of the sixty or so questions of one configuration.
const UNSENT_MAX: usize = 6;

struct Variant {
    name: &'static str,
    settings: Settings,
    /// Messages in one NOTIFY.
    messages: usize,
}

fn variants() -> Vec<Variant> {
    let variant = |name, change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Variant { name, settings, messages: 1 }
    };
    let sized =
        |size: u32| move |settings: &mut Settings| settings.agent.push_str(&format!(" max-frame-size {size}\n"));
    let buffers =
        |size: u32| move |settings: &mut Settings| settings.global.push_str(&format!(" tune.bufsize {size}\n"));
    let checked = |settings: &mut Settings| settings.server.push_str("check inter 200ms");
    let option = |line: &'static str| move |settings: &mut Settings| settings.agent.push_str(line);
    vec![
        variant("as it comes", &|_| {}),
        variant("checked", &checked),
        // HAProxy still says 16380 in the check, and refuses an answer above its own 8188.
        variant("checked, with small buffers", &|settings| {
            buffers(8192)(settings);
            checked(settings);
        }),
        variant("one at a time", &option(" no option pipelining\n")),
        variant("async", &option(" option async\n")),
        variant("no async", &option(" no option async\n")),
        variant("no capabilities", &option(" no option pipelining\n no option async\n")),
        variant("one waiting frame", &option(" max-waiting-frames 1\n")),
        variant("by event", &|settings| {
            settings.agent = " messages request\n".to_owned();
            settings.messages = format!("{MESSAGE} event on-frontend-http-request\n");
            settings.front = ANSWER.to_owned();
        }),
        Variant {
            messages: 3,
            ..variant("three messages", &|settings| {
                settings.messages = format!(
                    "spoe-message before\n args path=str(/before) x=int(1)\n{MESSAGE}spoe-message after\n args y=src\n\
                     spoe-group check\n messages request before after\n"
                );
            })
        },
        variant("a message that is left out", &|settings| {
            settings.messages = format!(
                "{MESSAGE}spoe-message never\n args x=int(1)\n acl nobody src 192.0.2.1\n event on-frontend-http-request if nobody\n\
                 spoe-group check\n messages request never\n"
            );
        }),
        variant("arguments nobody knows", &|settings| {
            settings.messages =
                settings.messages.replace("method=method", "unknown=int(-1) bin(00) n=var(txn.no) method=method");
        }),
        variant("max-frame-size 256", &sized(256)),
        variant("max-frame-size 1024", &sized(1024)),
        variant("max-frame-size 8192", &sized(8192)),
        variant("max-frame-size 65532", &buffers(65_536)),
        variant("max-frame-size 262140", &buffers(262_144)),
        variant("max-frame-size above ours", &buffers(524_288)),
    ]
}

async fn every_configuration_is_answered(line: &str, program: &str) {
    const REQUESTS: usize = 60;
    const AT_ONCE: usize = 12;
    let mut failed = Vec::new();
    for Variant { name, settings, messages } in variants() {
        let server = Server::start().await;
        let haproxy = Written::start(program, server.port, &settings).await;
        if settings.server.contains("check") {
            eventually("the health check succeeds", async || {
                (haproxy.agent_state().await.as_deref() == Some("UP L7OK")).then_some(())
            })
            .await;
        }
        let before = server.connections();
        let (mut asked, mut unsent) = (Vec::new(), 0);
        for first in (0..REQUESTS).step_by(AT_ONCE) {
            let paths: Vec<_> = (first..first + AT_ONCE)
                .map(|n| if n % 5 == 0 { format!("/slow/{n}") } else { format!("/{n}") })
                .collect();
            let answers = join_all(paths.iter().map(|path| wrong(&haproxy, path, &[]))).await;
            let arrived = server.take_asked();
            for answer in answers.into_iter().flatten() {
                if never_sent(line, &answer, &arrived) {
                    unsent += 1;
                } else {
                    failed.push(format!("{name}: {answer}"));
                }
            }
            asked.extend(arrived);
        }
        let counts: Vec<_> = asked.iter().map(|payload| Messages::decode(payload).unwrap().iter().count()).collect();
        if counts != vec![messages; REQUESTS - unsent] || unsent > UNSENT_MAX {
            failed.push(format!("{name}: {unsent} not sent, {} NOTIFYs with {counts:?} messages", asked.len()));
        }
        // Each request of the first burst may open one, on each of two threads; health checks are ten a second at most.
        let opened = server.connections() - before;
        if opened > 2 * AT_ONCE as u64 + 10 {
            failed.push(format!("{name}: {opened} connections"));
        }
        if server.counter("tollgate_protocol_errors_total") > 0 {
            failed.push(format!("{name}: a protocol error"));
        }
    }
    assert!(failed.is_empty(), "HAProxy {line}:\n{}", failed.join("\n"));
}

/// `send-frag-payload` off, as in spoe-tollgate.conf, and the frame sizes that HAProxy's buffers allow.
async fn a_token_is_answered_up_to_the_frame_and_refused_alone_beyond_it(line: &str, program: &str) {
    // Buffer size, max-frame-size, tokens that fit, one that does not. What else the NOTIFY holds is below 200 bytes.
    let rows: [(u32, u32, &[usize], usize); 5] = [
        (16_384, 1024, &[100, 800], 1100),
        (16_384, 8192, &[4000, 7990], 8192),
        (16_384, 16_380, &[8192, 15_000], 0),
        (65_536, 65_532, &[15_000, 60_000], 0),
        // Ours is the smaller one here: 262,144.
        (524_288, 524_284, &[100_000, 261_800], 262_200),
    ];
    let mut failed = Vec::new();
    for (buffer, size, fitting, beyond) in rows {
        let mut settings = settings();
        settings.global = format!(" tune.bufsize {buffer}\n");
        settings.agent.push_str(&format!(" max-frame-size {size}\n no option send-frag-payload\n no option async\n"));
        let server = Server::start().await;
        let haproxy = Written::start(program, server.port, &settings).await;
        let token = |len: usize| "t".repeat(len);
        // The first question of a connection is encoded for HAProxy's own size, so one goes ahead.
        failed.extend(wrong(&haproxy, "/first", &[]).await.map(|answer| format!("{size}: {answer}")));
        for len in fitting {
            let token = token(*len);
            let answer = wrong(&haproxy, "/fits", &[("Authorization", &token)]).await;
            failed.extend(answer.map(|answer| format!("{size}, a token of {len}: {answer}")));
            let asked = server.take_asked();
            let got = asked.last().map(|payload| text(&Messages::decode(payload).unwrap(), "authorization").len());
            if got != Some(*len) {
                failed.push(format!("{size}, a token of {len}: {got:?} bytes arrived"));
            }
        }
        if beyond == 0 {
            // Larger is refused by HAProxy before anybody is asked.
            let token = token(buffer as usize);
            let reply = web::get(haproxy.port, "/beyond", &[("Authorization", &token)]).await;
            if !matches!(&reply, Ok(reply) if [400, 431].contains(&reply.status)) || !server.take_asked().is_empty() {
                failed.push(format!("{size}, beyond the buffer: {reply:?}"));
            }
            continue;
        }
        let before = server.connections();
        let mut unsent = 0;
        for round in 0..10 {
            let token = token(beyond);
            let fields = [("Authorization", token.as_str())];
            let too_large = join_all((0..2).map(|_| web::get(haproxy.port, "/beyond", &fields)));
            let paths: Vec<_> = (0..4).map(|n| format!("/slow/{round}/{n}")).collect();
            let others = join_all(paths.iter().map(|path| wrong(&haproxy, path, &[])));
            let (too_large, others) = tokio::join!(too_large, others);
            let arrived = server.take_asked();
            for answer in others.into_iter().flatten() {
                if never_sent(line, &answer, &arrived) {
                    unsent += 1;
                } else {
                    failed.push(format!("{size}, beside one too large: {answer}"));
                }
            }
            for reply in too_large {
                // 259: the first question of a connection may be cut to HAProxy's own size, before it knows ours.
                let error =
                    reply.as_ref().ok().filter(|reply| reply.status == 503).and_then(|reply| reply.field("x-error"));
                if !matches!(error, Some("3" | "259")) {
                    failed.push(format!("{size}, too large: {reply:?}"));
                }
            }
        }
        if unsent > UNSENT_MAX {
            failed.push(format!("{size}: {unsent} not sent"));
        }
        let opened = server.connections() - before;
        if opened > 30 {
            failed.push(format!("{size}: {opened} connections for 60 requests"));
        }
    }
    assert!(failed.is_empty(), "HAProxy {line}:\n{}", failed.join("\n"));
}

/// HAProxy up to 3.0 cuts a NOTIFY that is too large in pieces, as we announce; 3.1 and later refuse it.
async fn fragments_are_put_together(line: &str, program: &str) {
    let mut settings = settings();
    settings.agent.push_str(" max-frame-size 1024\n");
    let server = Server::start().await;
    let haproxy = Written::start(program, server.port, &settings).await;
    let mut failed = Vec::new();
    for round in 0..5 {
        // Every length that puts a cut at another place, some in one piece.
        let questions: Vec<_> =
            (0..8).map(|n| (format!("/{round}/{n}"), "t".repeat(300 + 1237 * n + 31 * round))).collect();
        let fields: Vec<_> = questions.iter().map(|(_, token)| [("Authorization", token.as_str())]).collect();
        let asking = questions.iter().zip(&fields).map(|((path, _), fields)| wrong(&haproxy, path, fields));
        let answers = join_all(asking).await;
        for ((path, token), answer) in questions.iter().zip(answers) {
            let large = token.len() > 1000;
            match answer {
                Some(Wrong { reply: Ok(reply), .. })
                    if large && !is_old(line) && reply.field("x-error") == Some("3") => {}
                Some(answer) => failed.push(format!("{} bytes: {answer}", token.len())),
                None if large && !is_old(line) => failed.push(format!("{path}: {} bytes were answered", token.len())),
                None => {}
            }
        }
        let asked = server.take_asked();
        for (path, token) in &questions {
            let whole = asked.iter().any(|payload| {
                let messages = Messages::decode(payload).unwrap();
                text(&messages, "path") == *path && text(&messages, "authorization") == *token
            });
            if whole != (is_old(line) || token.len() <= 1000) {
                failed.push(format!("{path}: {} bytes arrived whole: {whole}", token.len()));
            }
        }
    }
    assert!(failed.is_empty(), "HAProxy {line}:\n{}", failed.join("\n"));
    // An engine that opens one a fragment (P25) is in its rights; one that storms (P9) opens a thousand a second.
    assert!(server.connections() < 400, "HAProxy {line}: {} connections for 40 requests", server.connections());
}

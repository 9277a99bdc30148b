//! `spop-harness conform`: this agent passes every case, and an agent with one defect fails those that are meant to
//! see it.

mod broken;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use self::broken::{Broken, Defect};
use crate::support::stack;

/// Everybody may do everything: what is tried here is the protocol.
const CONFIG: &str = "rules:\n  - { name: all, path: /**, allow: anyone }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_agent_passes_every_case() {
    let agent = stack::Agent::start(CONFIG).await;
    let run = conform(&["--target", &agent.spop, "--json"]).await;
    let report = run.report();
    let cases = report["cases"].as_array().unwrap();
    let flaws: Vec<_> = cases.iter().filter(|case| case["result"] != "pass").collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
    assert!(cases.len() >= 120, "{} cases", cases.len());
    assert_eq!((run.code, &report["passed"]), (0, &Value::from(cases.len())));
    assert_eq!((&report["failed"], &report["warned"]), (&Value::from(0), &Value::from(0)));
    let names: BTreeSet<_> = cases.iter().map(|case| case["case"].as_str().unwrap()).collect();
    assert_eq!(names.len(), cases.len(), "every name once");
    for case in cases {
        assert!(["spec", "haproxy", "advice"].contains(&case["level"].as_str().unwrap()), "{case}");
        assert_eq!(case["level"] == "haproxy", case["haproxy"].is_string(), "{case}");
        assert!(case["section"].as_str().unwrap().starts_with("3."), "{case}");
        assert!(!case["expected"].as_str().unwrap().is_empty() && !case["seen"].as_str().unwrap().is_empty(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_says_the_same_and_fits_120_columns() {
    let folder = crate::support::folder();
    let socket = format!("unix@{}", folder.path().join("spop.sock").display());
    let agent = stack::Agent::start_on(CONFIG, &socket).await;
    let run = conform(&["--target", &agent.spop, "--only", "check/"]).await;
    let lines: Vec<_> = run.out.lines().collect();
    let passed = lines.iter().filter(|line| line.starts_with("pass  check/")).count();
    assert!(passed > 10, "{}", run.out);
    let last = lines.last().unwrap();
    assert!(last.starts_with(&format!("{passed} passed, 0 failed, 0 warned in ")), "{last}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{}", run.out);
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn cases_are_listed_without_an_agent() {
    let run = conform(&["--list", "--json", "--only", "fragments/"]).await;
    let report = run.report();
    let cases = report["cases"].as_array().unwrap();
    assert!(cases.len() > 10 && cases.iter().all(|case| case["case"].as_str().unwrap().starts_with("fragments/")));
    assert!(cases.iter().all(|case| case["result"].is_null()), "none was tried");
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn what_cannot_be_tried_is_2() {
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let run = conform(&["--target", &nobody]).await;
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.error.contains(&format!("cannot connect to {nobody}: ")), "{}", run.error);

    let run = conform(&["--target", &nobody, "--only", "no-such-case"]).await;
    assert_eq!(run.code, 2);
    assert!(run.error.contains("no case has \"no-such-case\" in its name"), "{}", run.error);

    let run = conform(&["--target", "192.0.2.1:9001"]).await;
    assert_eq!(run.code, 2);
    assert!(run.error.contains("not an address of this machine"), "{}", run.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_question_is_the_callers() {
    let broken = Broken::start(Defect::None).await;
    let target = broken.address.to_string();
    let question = ["--message", "check-ip", "--arg", "ip=ipv4:192.0.2.7", "--arg", "who=a=b"];
    let run = conform(&[&["--target", &target, "--only", "message/usual"][..], &question].concat()).await;
    assert_eq!(run.code, 0, "{}{}", run.out, run.error);
    assert_eq!(*broken.asked.lock().unwrap(), ["check-ip ip=Ipv4(192.0.2.7) who=Str([97, 61, 98])"]);
}

/// Each defect, what must fail for it, and what must be warned of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_agent_fails_the_cases_that_are_meant_to_see_it() {
    // Several at once: most of a run is waiting for what a broken agent never says.
    let runs = stream::iter(DEFECTS).map(async |(defect, only, failed, warned)| {
        let broken = Broken::start(*defect).await;
        let target = broken.address.to_string();
        let run = conform(&["--target", &target, "--only", only, "--json", "--timeout", "1500"]).await;
        let report = run.report();
        let with = |result: &str| -> BTreeSet<String> {
            let cases = report["cases"].as_array().unwrap().iter().filter(|case| case["result"] == result);
            cases.map(|case| case["case"].as_str().unwrap().to_owned()).collect()
        };
        let expected = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (seen_failed, seen_warned) = (with("fail"), with("warn"));
        let mut wrong = String::new();
        if (&seen_failed, &seen_warned) != (&expected(failed), &expected(warned)) {
            wrong = format!("{defect:?}: failed {seen_failed:#?}, warned {seen_warned:#?}\n");
        }
        if run.code != i32::from(!failed.is_empty()) || report["failed"] != seen_failed.len() {
            wrong.push_str(&format!("{defect:?}: exit code {}\n", run.code));
        }
        wrong
    });
    let wrong: Vec<_> = runs.buffer_unordered(8).collect().await;
    assert!(wrong.iter().all(String::is_empty), "{}", wrong.concat());
}

/// The defect, the cases to try (all of them where empty), what fails, what is warned of.
type Row = (Defect, &'static str, &'static [&'static str], &'static [&'static str]);

const DEFECTS: &[Row] = &[
    (Defect::None, "", &[], &[]),
    (
        Defect::AlwaysFrame1,
        "",
        &[
            "ids/frames-1-2-3-of-a-stream",
            "ids/stream-and-frame-swapped",
            "varint/frame-id-1-byte",
            "varint/frame-id-2-bytes",
            "varint/frame-id-3-bytes",
            "varint/frame-id-4-bytes",
            "varint/frame-id-5-bytes",
            "varint/frame-id-up-to-10",
        ],
        &[],
    ),
    (Defect::HelloInTwoWrites, "", &["hello/answer-in-one-piece"], &[]),
    (Defect::EmptyAck, "", &["ack/never-empty"], &[]),
    (
        Defect::AnswersTwice,
        "",
        &[
            "frame/ten-in-one-write",
            "frame/three-in-two-halves",
            "ids/falling",
            "ids/frames-1-2-3-of-a-stream",
            "ids/same-frame-of-many-streams",
            "ids/same-of-another-engine",
            "ids/same-on-two-connections",
            "ids/stream-0",
            "ids/stream-and-frame-swapped",
            "pace/reads-500-answers-late",
            "pipelining/2-at-once",
            "pipelining/20-at-once",
            "pipelining/200-at-once",
            "pipelining/answered-once",
            "pipelining/ids-in-no-order",
            "pipelining/large-and-small",
        ],
        &["half-close/after-20-questions", "half-close/after-a-question"],
    ),
    (
        Defect::IgnoresDisconnect,
        "",
        &[
            "disconnect/after-a-refused-hello",
            "disconnect/answered",
            "disconnect/answered-with-0",
            "disconnect/behind-20-questions",
            "disconnect/behind-a-question",
            "disconnect/closed-behind-it",
            "disconnect/cut",
            "disconnect/message-not-utf-8",
            "disconnect/questions-behind-it",
            "disconnect/status-not-a-number",
            "disconnect/with-a-long-message",
            "disconnect/with-an-error",
            "disconnect/with-ids",
            "disconnect/with-nothing-in-it",
            "disconnect/with-unknown-key",
            "disconnect/with-unknown-status",
            "disconnect/without-a-message",
            "disconnect/without-a-status-code",
            "hello/disconnect-first",
        ],
        &[],
    ),
    (
        Defect::WrapsVarints,
        "",
        &["varint/frame-id-2-to-the-64", "varint/stream-id-2-to-the-64", "varint/stream-id-of-11-bytes"],
        &[],
    ),
    (
        Defect::LargerFrameSize,
        "",
        &[
            "check/size-of-1024",
            "check/size-small",
            "check/size-usual",
            // It does not take what it announces either.
            "frame/as-large-as-agreed",
            "frame/one-byte-below-it",
            "hello/answers-size-1024",
            "hello/answers-size-16380",
            "hello/answers-size-256",
            "hello/answers-size-65532",
        ],
        &["check/fits-a-small-buffer"],
    ),
    (
        Defect::ClosesOnUnknownTypes,
        "",
        &["frame/unknown-type-104", "frame/unknown-type-255", "frame/unknown-type-4", "frame/unknown-type-50"],
        &[],
    ),
    (Defect::AckWithoutFin, "", &["ids/ack-has-fin"], &["ids/ack-has-no-other-flags"]),
    (
        Defect::HelloWithoutCapabilities,
        "",
        // It puts fragments together all the same.
        &["check/has-every-key", "fragments/not-announced", "hello/answer-says-capabilities"],
        &[],
    ),
    (Defect::KeepsChecksOpen, "", &[], &["check/closed-by-the-agent"]),
    (
        Defect::ForgetsWhoHalfCloses,
        "half-close/",
        &[],
        &["half-close/after-20-questions", "half-close/after-a-question", "half-close/after-hello"],
    ),
    (Defect::LargeAck, "", &["ack/20-fit-a-buffer-at-16380", "ack/at-most-256-bytes", "ack/below-the-frame-size"], &[]),
    (Defect::LongName, "", &["ack/names-fit-63-bytes"], &[]),
    (Defect::NameWithHyphen, "", &["ack/names-of-right-characters"], &[]),
    (Defect::UnknownScope, "", &["ack/actions-decode", "ack/scopes-are-known"], &[]),
    (
        Defect::TakesAnyVersion,
        "",
        &[
            "check/version-1.0",
            "hello/version-1.0-only",
            "hello/version-3.0-only",
            "hello/versions-empty",
            "hello/versions-not-numbers",
        ],
        &["hello/versions-binary"],
    ),
    (
        Defect::AnswersTheFirstPiece,
        "",
        &["fragments/silence-before-last"],
        &[
            "fragments/interlaced-notify",
            "fragments/of-another-frame",
            "fragments/of-another-stream",
            "fragments/whole-is-unreadable",
            "fragments/without-end",
        ],
    ),
    (
        Defect::OneQuestionARead,
        "pipelining/",
        &[
            "pipelining/2-at-once",
            "pipelining/20-at-once",
            "pipelining/200-at-once",
            "pipelining/ids-in-no-order",
            "pipelining/large-and-small",
        ],
        &[],
    ),
    (
        Defect::SilentOnUnknownMessages,
        "",
        &["message/known-behind-unknown", "message/unknown-behind-known", "message/unknown-name"],
        &[],
    ),
    (Defect::OneErrorEndsAll, "others/one-says-garbage", &["others/one-says-garbage"], &[]),
];

/// What a run of the harness printed.
struct Run {
    code: i32,
    out: String,
    error: String,
}

impl Run {
    fn report(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{}{}", self.out, self.error))
    }
}

async fn conform(args: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_spop-harness"));
    command.arg("conform").args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
    let ended = ended.expect("conform does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: ended.status.code().unwrap(), out: text(ended.stdout), error: text(ended.stderr) }
}

//! A trail as it is written, and every way of spoiling one.

mod faults;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::chain::Link;
use super::export::{Format, Wanted, export, find};
use super::verify::{Report, verify};
use super::*;
use crate::decision::{DecisionId, Reason};
use crate::identity::{CredentialKind, Identity, Rejection};

const NOW_S: u64 = 1_800_000_000;

fn settings(path: &Path) -> Settings {
    Settings {
        target: Target::File(path.to_owned()),
        rotation: Rotation { bytes: 100 << 20, every: None, keep: 10 },
        sampled_ppm: PPM,
        hashed: Vec::new(),
        hash_key: None,
        chain_key: None,
        queue: 10_000,
    }
}

fn begun(settings: &Settings) -> Audit {
    let audit = Audit::new(Clock::system(), 7);
    let change = audit.prepare(Some(settings)).unwrap();
    audit.apply(change, 1).unwrap();
    audit
}

fn decision(n: u32) -> Decision {
    let mut identity = Identity::anonymous();
    identity.user = format!("user-{}", n % 5);
    identity.subject = format!("s-{n}");
    identity.credential = CredentialKind::Jwt;
    let reason = if n.is_multiple_of(3) { Reason::Rejected(Rejection::TokenExpired) } else { Reason::Allowed };
    let id = DecisionId::new(i64::try_from(NOW_S).unwrap(), 7, n);
    let mut decision = Decision::new(id, reason, Arc::new(identity)).by(Some(&"api".into()));
    let summary = Summary { path: format!("/v1/{n}"), src: "192.0.2.1".to_owned(), config: 9, ..Summary::default() };
    decision.summary = Some(Box::new(summary));
    decision
}

fn record(audit: &Audit, numbers: std::ops::Range<u32>) {
    let now = Clock::system().now();
    numbers.for_each(|n| audit.record(decision(n), now, Duration::from_micros(70)));
}

/// A trail of so many decisions, begun and ended.
fn written(settings: &Settings, decisions: std::ops::Range<u32>) {
    let audit = begun(settings);
    record(&audit, decisions);
    assert!(audit.stop(Duration::from_secs(10)));
}

fn report(path: &Path, seal: &Seal) -> Report {
    verify(&trail::open(path).unwrap(), seal, None).unwrap()
}

fn kinds(report: &Report) -> BTreeSet<&'static str> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

fn records(path: &Path) -> Vec<Value> {
    let files = trail::files(path).unwrap();
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(path: &Path) -> Vec<String> {
    records(path).iter().filter_map(|record| Some(record["event"].as_str()?.to_owned())).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }
}

#[test]
fn every_line_that_is_changed_removed_moved_or_repeated_is_found() {
    let folder = Folder::new();
    let path = folder.file();
    for seal in [None, Some(Secret::new("k".repeat(32)))] {
        let settings = Settings { chain_key: seal, ..settings(&path) };
        let _ = fs::remove_file(&path);
        written(&settings, 0..198);
        let seal = settings.seal();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 200);
        let good = report(&path, &seal);
        assert!(good.is_whole() && good.notes.is_empty() && good.lines == 200, "{good:?}");

        let check = |what: &str, at: usize, lines: &[&str], expected: &[&str]| {
            fs::write(&path, lines.join("\n") + "\n").unwrap();
            let report = report(&path, &seal);
            let found = kinds(&report);
            assert!(expected.iter().any(|kind| found.contains(kind)), "{what} of line {at}: {report:?}");
            // Where it is, give or take the line that follows.
            let line = report.findings.first().unwrap().line as usize;
            assert!((at..=at + 2).contains(&line), "{what} of line {at}: {report:?}");
        };
        let last = lines.len();
        // A key makes no difference to where; some of the places will do.
        let step = if settings.chain_key.is_some() { 7 } else { 1 };
        for index in (0..last).step_by(step) {
            let at = index + 1;
            let mut spoilt = lines.clone();
            let edited = lines[index].replacen(['3', '7', 'e'], "0", 1);
            spoilt[index] = &edited;
            check("edit", at, &spoilt, &["edited", "no_record"]);
            // The end is what a chain alone cannot show: see the next test.
            if at != last {
                let mut spoilt = lines.clone();
                spoilt.remove(index);
                check("removal", at, &spoilt, &["removed"]);
            }
            if at != last {
                let mut spoilt = lines.clone();
                spoilt.swap(index, index + 1);
                check("swap", at, &spoilt, &["moved", "begins_anew"]);
            }
            let mut spoilt = lines.clone();
            spoilt.insert(index, lines[index]);
            check("repetition", at, &spoilt, &["repeated", "begins_anew"]);
            let mut spoilt = lines.clone();
            spoilt.insert(index, "{\"v\":1}");
            check("insertion", at, &spoilt, &["no_record"]);
            if at != last {
                // Made by somebody who knows how, where there is no key to know.
                let mut forged = Vec::new();
                let mut before = Link::read(lines[index].as_bytes()).unwrap().last();
                before.append(
                    "\"time\":\"2027-01-15T08:00:00.000000Z\",\"verdict\":\"allow\"",
                    &Seal::Plain,
                    &mut forged,
                );
                let forged = String::from_utf8(forged).unwrap();
                let mut spoilt = lines.clone();
                spoilt.insert(index + 1, forged.trim_end());
                check("forgery", at, &spoilt, &["repeated", "edited"]);
            }
        }
        // Some bits of every line, and its newline.
        let bytes = text.as_bytes();
        let mut at = 0;
        for (index, line) in lines.iter().enumerate() {
            let newline = line.len();
            if index % step != 0 {
                at += newline + 1;
                continue;
            }
            for (byte, bit) in
                [(0, 0), (newline / 3, 1), (newline / 2, 4), (newline - 20, 2), (newline - 1, 6), (newline, 0)]
            {
                let mut spoilt = bytes.to_vec();
                spoilt[at + byte] ^= 1 << bit;
                fs::write(&path, &spoilt).unwrap();
                assert!(!report(&path, &seal).is_whole(), "bit {bit} of byte {byte} of {line}");
            }
            at += newline + 1;
        }
    }
}

#[test]
fn what_is_cut_from_the_end_is_found_by_whoever_knows_a_later_hash() {
    let folder = Folder::new();
    let path = folder.file();
    written(&settings(&path), 0..10);
    let whole = report(&path, &Seal::Plain);
    let (_, _, last) = whole.last.unwrap();
    let files = trail::open(&path).unwrap();
    assert!(verify(&files, &Seal::Plain, Some(last)).unwrap().is_whole());
    let text = fs::read_to_string(&path).unwrap();
    let cut: String = text.lines().take(8).map(|line| format!("{line}\n")).collect();
    fs::write(&path, cut).unwrap();
    assert!(report(&path, &Seal::Plain).is_whole(), "a chain alone does not show it");
    assert_eq!(kinds(&verify(&files, &Seal::Plain, Some(last)).unwrap()), ["expected_missing"].into());
    // While the agent that wrote it runs it is found anyway: the next line does not follow.
    written(&settings(&path), 10..12);
    assert_eq!(kinds(&verify(&files, &Seal::Plain, Some(last)).unwrap()), ["expected_missing"].into());
}

#[test]
fn who_has_no_key_can_neither_make_a_keyed_trail_anew_nor_take_it_for_good() {
    let folder = Folder::new();
    let path = folder.file();
    let keyed = Settings { chain_key: Some(Secret::new("k".repeat(32))), ..settings(&path) };
    written(&keyed, 0..5);
    assert!(report(&path, &keyed.seal()).is_whole());
    let without = report(&path, &Seal::Plain);
    assert_eq!((without.unverified, without.lines), (7, 7));
    fs::remove_file(&path).unwrap();
    written(&settings(&path), 0..5);
    assert!(!report(&path, &keyed.seal()).is_whole());
    // Another key in the same file is another trail.
    let audit = begun(&settings(&path));
    assert!(matches!(audit.prepare(Some(&keyed)), Err(SinkError::KeyChanged { .. })));
    audit.stop(Duration::from_secs(10));
}

#[test]
fn a_trail_goes_on_over_rotation_and_restart() {
    let folder = Folder::new();
    let path = folder.file();
    let small = Settings { rotation: Rotation { bytes: 64 * 1024, every: None, keep: 3 }, ..settings(&path) };
    for run in 0..4 {
        let audit = begun(&small);
        for part in 0..5 {
            let first = (run * 5 + part) * 200;
            record(&audit, first..first + 200);
            // A batch is written as a whole before the file is looked at.
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(audit.stop(Duration::from_secs(10)));
        let report = report(&path, &Seal::Plain);
        assert!(report.is_whole(), "{report:?}");
    }
    let files = trail::open(&path).unwrap();
    assert_eq!(files.len(), 4, "as many as are kept, and the one being written: {files:?}");
    let report = report(&path, &Seal::Plain);
    assert!(report.notes.iter().any(|note| note.kind == "begins_later"), "{report:?}");
    let records = records(&path);
    let rotated: Vec<_> = records.iter().filter(|record| record["event"] == "rotated").collect();
    assert!(rotated.iter().any(|event| event["removed"].is_array()), "{rotated:?}");
    // The last 600 decisions are there, once each and in order.
    let paths: Vec<_> = records.iter().filter_map(|record| record["path"].as_str()).collect();
    let expected: Vec<String> = (3400..4000).map(|n| format!("/v1/{n}")).collect();
    assert_eq!(paths[paths.len() - 600..], expected);
    // A run that ended between two files.
    fs::rename(&path, trail::rotated_name(&path, records[records.len() - 1]["seq"].as_u64().unwrap())).unwrap();
    written(&small, 0..1);
    assert!(verify(&trail::open(&path).unwrap(), &Seal::Plain, None).unwrap().is_whole());
}

#[test]
fn a_line_that_a_crash_has_torn_is_kept_named_and_bridged() {
    let folder = Folder::new();
    let path = folder.file();
    written(&settings(&path), 0..3);
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.trim_end().rfind('\n').unwrap() + 1;
    for end in begin..text.len() {
        fs::write(&path, &text[..end]).unwrap();
        written(&settings(&path), 3..4);
        let after = fs::read_to_string(&path).unwrap();
        assert!(after.starts_with(&text[..end]), "nothing is mended");
        let report = report(&path, &Seal::Plain);
        assert!(report.is_whole(), "cut at {end}: {report:?}");
        let is_torn = end > begin && end < text.len() - 1;
        let noted: Vec<_> = report.notes.iter().map(|note| note.kind).collect();
        assert_eq!(noted.contains(&"torn"), is_torn, "cut at {end}: {noted:?}");
        if is_torn {
            // Neither the torn line nor the one that names it can be changed.
            let spoilt = after.replacen(&text[begin..end], &"x".repeat(end - begin), 1);
            fs::write(&path, spoilt).unwrap();
            assert!(!super::tests::report(&path, &Seal::Plain).is_whole());
        }
    }
    // As is what was changed while nobody ran.
    fs::write(&path, text.replace("\"why\":\"stop\"", "\"why\":\"none\"")).unwrap();
    written(&settings(&path), 3..4);
    assert!(events(&path).contains(&"gap".to_owned()));
    assert_eq!(kinds(&report(&path, &Seal::Plain)), ["edited"].into());
}

#[test]
fn a_file_that_is_anothers_is_not_written() {
    let folder = Folder::new();
    let path = folder.file();
    let audit = begun(&settings(&path));
    let refused = |path: &Path| Audit::new(Clock::system(), 8).prepare(Some(&settings(path))).unwrap_err();
    assert!(matches!(refused(&path), SinkError::Locked { .. }));
    assert!(audit.stop(Duration::from_secs(10)));
    let link = folder.0.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link), SinkError::Symlink { .. }));
    for text in ["root:x:0:0\n", "{\"v\":1}\n", "no newline", "\n"] {
        let other = folder.0.path().join("other");
        fs::write(&other, text).unwrap();
        assert!(matches!(refused(&other), SinkError::NotATrail { .. }), "{text:?}");
        assert_eq!(fs::read_to_string(&other).unwrap(), text);
    }
    assert!(matches!(refused(Path::new("/nowhere/audit.jsonl")), SinkError::Io { .. }));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Reads what comes out of a pipe until it ends in a newline and `until` is in it.
fn drain(pipe: &mut File, until: &str) -> String {
    let mut text = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = pipe.read(&mut piece).unwrap();
        text.extend_from_slice(&piece[..read]);
        let so_far = String::from_utf8_lossy(&text);
        if so_far.ends_with('\n') && so_far.contains(until) {
            return so_far.into_owned();
        }
    }
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_time_and_flows_again() {
    let folder = Folder::new();
    let pipe = folder.0.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let audit = begun(&Settings { queue: 1000, ..settings(&pipe) });
    let begun = Clock::system().now();
    record(&audit, 0..20_000);
    let took = Clock::system().now().instant() - begun.instant();
    assert!(took < Duration::from_secs(5), "{took:?} for 20,000 decisions");
    let status = audit.status().unwrap();
    assert!(!status.up && status.dropped > 10_000 && status.queued <= 1000, "{status:?}");
    let text = drain(&mut reader, "\"event\":\"dropped\"");
    let dropped: Value = serde_json::from_str(text.lines().find(|line| line.contains("\"dropped\"")).unwrap()).unwrap();
    assert_eq!(dropped["count"], status.dropped, "{dropped}");
    // Everything else came, in a chain.
    let decisions = text.lines().filter(|line| line.contains("decision_id")).count() as u64;
    assert_eq!(decisions + status.dropped, 20_000);
    fs::write(folder.file(), &text).unwrap();
    assert!(report(&folder.file(), &Seal::Plain).is_whole());
    record(&audit, 0..1);
    drain(&mut reader, "decision_id");
    assert!(audit.status().unwrap().up);
    // A pipe that is full again does not keep the agent.
    record(&audit, 0..20_000);
    assert!(!audit.stop(Duration::from_millis(300)));
}

#[test]
fn a_full_disk_costs_lines_and_another_file_ends_it() {
    let folder = Folder::new();
    let full = Settings { queue: 1000, ..settings(Path::new("/dev/full")) };
    let audit = begun(&full);
    record(&audit, 0..5_000);
    let down = || audit.status().unwrap();
    for _ in 0..500 {
        if !down().up && down().dropped > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!down().up && down().dropped >= 3_000 && down().lines == 0, "{:?}", down());
    let change = audit.prepare(Some(&settings(&folder.file()))).unwrap();
    audit.apply(change, 2).unwrap();
    record(&audit, 5_000..5_010);
    assert!(audit.stop(Duration::from_secs(10)));
    let records = records(&folder.file());
    let decisions = records.iter().filter(|record| record["decision_id"].is_string()).count();
    assert_eq!(decisions, 10);
    // All that went before is accounted for, with the old sink's own two events.
    let dropped: u64 = records.iter().filter_map(|record| record["count"].as_u64()).sum();
    assert!((5_000..=5_003).contains(&dropped), "{dropped}");
    assert!(report(&folder.file(), &Seal::Plain).is_whole());
}

#[test]
fn a_new_file_is_begun_between_two_decisions() {
    let folder = Folder::new();
    let (a, b) = (folder.file(), folder.0.path().join("other.jsonl"));
    let audit = begun(&settings(&a));
    let decided = std::thread::scope(|scope| {
        let recording: Vec<_> = (0..2)
            .map(|thread| {
                let audit = audit.clone();
                scope.spawn(move || {
                    for part in 0..200 {
                        let first = thread * 100_000 + part * 10;
                        record(&audit, first..first + 10);
                        std::thread::sleep(Duration::from_micros(500));
                    }
                })
            })
            .collect();
        for turn in 0..20 {
            let next = settings(if turn % 2 == 0 { &b } else { &a });
            // The old file is let go of when its last line is written.
            let change = loop {
                match audit.prepare(Some(&next)) {
                    Ok(change) => break change,
                    Err(SinkError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
                    Err(error) => panic!("{error}"),
                }
            };
            audit.apply(change, turn).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        recording.into_iter().for_each(|thread| thread.join().unwrap());
        4_000
    });
    assert!(audit.stop(Duration::from_secs(10)));
    let mut paths = BTreeSet::new();
    for file in [&a, &b] {
        let report = report(file, &Seal::Plain);
        assert!(report.is_whole() && report.dropped == 0, "{report:?}");
        let records = records(file);
        paths.extend(records.iter().filter_map(|record| Some(record["path"].as_str()?.to_owned())));
    }
    assert_eq!(paths.len(), decided);
}

#[test]
fn other_settings_for_the_same_file_are_in_force_from_a_line_on() {
    let folder = Folder::new();
    let path = folder.file();
    let audit = begun(&settings(&path));
    record(&audit, 0..3);
    let hashed =
        Settings { hashed: vec![Personal::User], hash_key: Some(Secret::new("h".repeat(32))), ..settings(&path) };
    for next in [Some(&hashed), None, Some(&settings(&path))] {
        // Where it was turned off, its file is let go of when the last line is written.
        let change = loop {
            match audit.prepare(next) {
                Ok(change) => break change,
                Err(SinkError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        };
        audit.apply(change, 2).unwrap();
        record(&audit, 3..6);
    }
    assert!(audit.stop(Duration::from_secs(10)));
    assert_eq!(events(&path), ["start", "stop", "start", "reload", "stop", "start", "stop"]);
    let users: Vec<_> = records(&path).iter().filter_map(|record| Some(record["user"].as_str()?.len())).collect();
    assert_eq!(users, [6, 6, 6, 37, 37, 37, 6, 6, 6]);
    let report = report(&path, &Seal::Plain);
    assert!(report.is_whole() && report.notes.is_empty(), "{report:?}");
}

/// As a shell writes it that runs the agent twice.
#[test]
fn standard_output_of_two_runs_is_two_chains_and_a_file_is_not() {
    let folder = Folder::new();
    let path = folder.file();
    for (to, kinds_expected) in [("stdout", vec![]), ("file", vec!["begins_anew"])] {
        written(&settings(&path), 0..2);
        let mut run = Vec::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let content = line.split_once("\"time\"").unwrap().1.split_once(",\"prev\"").unwrap().0;
            let content = format!("\"time\"{content}").replace("\"to\":\"file\"", &format!("\"to\":\"{to}\""));
            run.push(content);
        }
        let mut out = Vec::new();
        for _ in 0..2 {
            let mut last = chain::Last::NONE;
            run.iter().for_each(|content| last.append(content, &Seal::Plain, &mut out));
        }
        fs::write(&path, out).unwrap();
        assert_eq!(kinds(&report(&path, &Seal::Plain)), kinds_expected.into_iter().collect());
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_another() {
    let folder = Folder::new();
    let path = folder.file();
    let audit = begun(&settings(&path));
    record(&audit, 0..3);
    let moved = trail::rotated_name(&path, 1);
    let written = || audit.status().unwrap().lines;
    while written() < 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::rename(&path, &moved).unwrap();
    // As a reload does.
    let change = audit.prepare(Some(&settings(&path))).unwrap();
    audit.apply(change, 5).unwrap();
    record(&audit, 3..5);
    assert!(audit.stop(Duration::from_secs(10)));
    assert_eq!(events(&path), ["start", "reload", "rotated", "stop"]);
    let report = report(&path, &Seal::Plain);
    assert!(report.is_whole() && report.first.unwrap().0 == 1, "with the file that was moved");
    assert_eq!(records(&path).last().unwrap()["config"], "0000000000000005");
}

#[test]
fn refusals_are_all_written_and_of_what_is_allowed_a_sample() {
    let folder = Folder::new();
    let path = folder.file();
    written(&Settings { sampled_ppm: 100_000, ..settings(&path) }, 0..3_000);
    let records = records(&path);
    let of = |verdict: &str| records.iter().filter(|record| record["verdict"] == verdict).count() as u64;
    let left_out: u64 = records
        .iter()
        .filter(|record| record["event"] == "sampled_out")
        .filter_map(|record| record["count"].as_u64())
        .sum();
    assert_eq!((of("challenge"), of("allow") + left_out), (1_000, 2_000));
    assert!((120..=280).contains(&of("allow")), "{}", of("allow"));
    assert!(report(&path, &Seal::Plain).is_whole());
}

#[test]
fn people_are_hashed_with_a_key_and_found_by_it() {
    let folder = Folder::new();
    let path = folder.file();
    let key = "h".repeat(32);
    let hashing = |fields: &[Personal], path: &Path| Settings {
        hashed: fields.to_vec(),
        hash_key: Some(Secret::new(key.as_str())),
        ..settings(path)
    };
    written(&hashing(&[Personal::User, Personal::Src], &path), 0..20);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("user-1") && !text.contains("192.0.2.1") && text.contains("\"user\":\"hmac:"), "{text}");
    // By default the user is the subject, and of a client that acts for itself the client too: one would tell the other.
    for named in [Personal::User, Personal::Subject] {
        let same = folder.0.path().join(named.name());
        let audit = begun(&hashing(&[named], &same));
        let mut identity = Identity::anonymous();
        (identity.user, identity.subject) = ("alice".to_owned(), "alice".to_owned());
        identity.client_id = "alice".to_owned();
        let decided = Decision { identity: Arc::new(identity), ..decision(1) };
        audit.record(decided, Clock::system().now(), Duration::ZERO);
        assert!(audit.stop(Duration::from_secs(10)));
        let text = fs::read_to_string(&same).unwrap();
        assert!(!text.contains("alice") && text.contains("\"hashed\":[\"user\",\"subject\"]"), "{text}");
    }
    let files = trail::open(&path).unwrap();
    let exported = |hash_key: Option<&str>, user: Option<&str>, unknown: u64| {
        let hash_key = hash_key.map(|key| key.as_bytes().to_vec());
        let wanted = Wanted { user: user.map(str::to_owned), hash_key, ..Wanted::default() };
        let mut out = Vec::new();
        let exported = export(&files, &Seal::Plain, &wanted, Format::Jsonl, &mut out).unwrap();
        assert!(exported.report.is_whole());
        assert_eq!(exported.unknown, unknown);
        exported.written
    };
    assert_eq!(exported(Some(&key), Some("user-1"), 0), 4);
    assert_eq!(exported(None, Some("user-1"), 20), 0);
    assert_eq!(exported(Some("another"), Some("user-1"), 0), 0);
    assert_eq!(exported(Some(&key), Some("s-3"), 0), 1);
    assert_eq!(exported(None, None, 0), 22);
}

#[test]
fn a_period_and_a_user_are_exported_over_all_files() {
    let folder = Folder::new();
    let path = folder.file();
    let small = Settings { rotation: Rotation { bytes: 64 * 1024, every: None, keep: 10 }, ..settings(&path) };
    let audit = begun(&small);
    let clock = Clock::by_hand(NOW_S);
    for n in 0..600 {
        audit.record(decision(n), clock.now(), Duration::ZERO);
        clock.advance(Duration::from_secs(1));
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(audit.stop(Duration::from_secs(10)));
    let files = trail::open(&path).unwrap();
    assert!(files.len() > 2, "{files:?}");
    let wanted = Wanted {
        from_us: Some((NOW_S + 100) * 1_000_000),
        to_us: Some((NOW_S + 200) * 1_000_000),
        user: Some("user-2".to_owned()),
        hash_key: None,
    };
    let mut out = Vec::new();
    let exported = export(&files, &Seal::Plain, &wanted, Format::Csv, &mut out).unwrap();
    assert!(exported.written == 20 && exported.report.is_whole(), "{exported:?}");
    let text = String::from_utf8(out).unwrap();
    let rows: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 21);
    assert!(rows[0].starts_with("\"time\",\"event\",\"decision_id\"") && rows[1].contains("\"user-2\""), "{text}");
    for n in [0, 599] {
        let id = decision(n).id;
        let found = find(&files, &Seal::Plain, id.as_str()).unwrap().found.unwrap();
        assert!(found.is_whole && found.record["path"] == format!("/v1/{n}"));
    }
    let search = find(&files, &Seal::Plain, decision(600).id.as_str()).unwrap();
    assert!(search.found.is_none() && search.lines > 600 && search.period.is_some());
}

#[test]
fn the_queue_is_bounded_in_bytes() {
    let folder = Folder::new();
    let pipe = folder.0.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _unread = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let audit = begun(&Settings { queue: 1000, ..settings(&pipe) });
    let now = Clock::system().now();
    for n in 0..3_000 {
        let mut decision = decision(n);
        decision.summary.as_mut().unwrap().path = "x".repeat(5_000);
        audit.record(decision, now, Duration::ZERO);
    }
    let status = audit.status().unwrap();
    assert!(status.queued < 1000 * 1024 / 5_000, "{status:?}");
    assert!(!audit.stop(Duration::from_millis(100)));
}

#[test]
fn without_a_trail_nothing_is_kept() {
    let audit = Audit::new(Clock::system(), 7);
    record(&audit, 0..10);
    assert_eq!(audit.0.lines_queued.load(Ordering::Relaxed), 0);
    assert_eq!(audit.status(), None);
    assert!(audit.stop(Duration::ZERO));
}

/// A file, which reads from wherever it stands.
fn rewind(file: &mut File) {
    file.seek(SeekFrom::Start(0)).unwrap();
}

#[test]
fn lines_may_come_while_somebody_reads() {
    let folder = Folder::new();
    let path = folder.file();
    written(&settings(&path), 0..2);
    let mut file = File::options().read(true).append(true).open(&path).unwrap();
    file.write_all(b"{\"v\":1,\"seq\":5,\"time\":\"2027").unwrap();
    rewind(&mut file);
    let report = report(&path, &Seal::Plain);
    assert_eq!(kinds(&report), ["torn"].into(), "said, since nobody can tell whether it will be whole");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// One line an event, whatever claims and arguments are made of (faults.md O13).
    #[test]
    fn a_line_is_an_event_and_reads_back(
        texts in proptest::collection::vec(hostile(), 8),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let folder = Folder::new();
        let path = folder.file();
        let audit = begun(&settings(&path));
        let mut identity = Identity::anonymous();
        identity.credential = CredentialKind::Jwt;
        let [user, subject, issuer, client, scope, rule, backend, limit] = &texts[..] else { unreachable!() };
        (identity.user, identity.subject, identity.client_id) = (user.clone(), subject.clone(), client.clone());
        identity.issuer_name = issuer.as_str().into();
        identity.scopes = vec![scope.clone(), user.clone()];
        let mut decision = decision(1);
        decision.identity = Arc::new(identity);
        decision.rule = Some(rule.as_str().into());
        decision.backend = Some(backend.as_str().into());
        decision.limit = Some(limit.as_str().into());
        let printable = Summary::printable(&bytes);
        decision.summary = Some(Box::new(Summary { path: printable.clone(), host: user.clone(), ..Summary::default() }));
        audit.record(decision, Clock::system().now(), Duration::ZERO);
        prop_assert!(audit.stop(Duration::from_secs(10)));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        prop_assert_eq!(lines.len(), 4, "three events and what is behind the last newline: {}", text);
        let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        prop_assert!(!text.contains(odd), "{}", text);
        let record: Value = serde_json::from_str(lines[1]).unwrap();
        for (name, value) in [("user", user), ("subject", subject), ("issuer", issuer), ("client_id", client),
            ("rule", rule), ("backend", backend), ("limit", limit), ("path", &printable)] {
            prop_assert_eq!(record[name].as_str().unwrap_or_default(), value.as_str(), "{}", name);
        }
        prop_assert_eq!(&record["scopes"][0], scope.as_str());
        prop_assert!(report(&path, &Seal::Plain).is_whole());
    }
}

/// Text of characters that are something else to a terminal, a line reader or a parser, and any others.
fn hostile() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        '\n',
        '\r',
        '\t',
        '\0',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{feff}',
        '"',
        '\\',
        '{',
        '}',
        ',',
        ':',
        '\u{fffd}',
        '\u{10ffff}',
        '\u{e0001}',
        '=',
    ]);
    proptest::collection::vec(prop_oneof![odd, any::<char>()], 0..40).prop_map(String::from_iter)
}

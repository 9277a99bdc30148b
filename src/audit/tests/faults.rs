//! What goes wrong around a trail, and what nobody is to take for a forgery.

use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::identity::grants::{Became, Grant, GrantId};

#[test]
fn a_status_does_not_wait_for_a_file_that_is_slow_to_open() {
    let folder = Folder::new();
    let audit = begun(&settings(&folder.file()));
    // Opened for what its last line is, and nobody writes to it.
    let next = folder.0.path().join("next.jsonl");
    let slow = trail::rotated_name(&next, 1);
    assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
    let preparing = thread::spawn({
        let (audit, next) = (audit.clone(), settings(&next));
        move || drop(audit.prepare(Some(&next)))
    });
    while !next.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    let (said, status) = channel();
    thread::spawn({
        let audit = audit.clone();
        move || said.send(audit.status())
    });
    let status = status.recv_timeout(Duration::from_secs(5));
    assert!(!preparing.is_finished());
    let _ = OpenOptions::new().write(true).open(&slow).unwrap();
    preparing.join().unwrap();
    assert!(status.is_ok_and(|status| status.is_some()));
    assert!(audit.stop(Duration::from_secs(10)));
}

#[test]
fn another_chain_key_is_refused_wherever_lines_go() {
    let folder = Folder::new();
    let keyed = |target: &Target, key: Option<&str>| Settings {
        target: target.clone(),
        chain_key: key.map(|key| Secret::new(key.repeat(32))),
        ..settings(&folder.file())
    };
    for target in [Target::Stdout, Target::File(folder.file())] {
        for (before, after) in [(None, Some("a")), (Some("a"), Some("b")), (Some("a"), None)] {
            let audit = Audit::new(Clock::system(), 7);
            audit.0.control.lock().settings = Some(keyed(&target, before));
            let refused = audit.prepare(Some(&keyed(&target, after))).unwrap_err();
            let expected = match target {
                Target::Stdout => matches!(refused, SinkError::StdoutKeyChanged),
                Target::File(_) => matches!(refused, SinkError::KeyChanged { .. }),
            };
            assert!(expected, "{refused}");
        }
    }
}

#[test]
fn a_file_whose_own_beginning_was_cut_is_found_wherever_it_was_cut() {
    let folder = Folder::new();
    let path = folder.file();
    let check = |cut_from: usize, files: Vec<PathBuf>| {
        let first = files.first().unwrap();
        let text = fs::read_to_string(first).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for from in 1..lines.len() {
            fs::write(first, lines[from..].join("\n") + "\n").unwrap();
            let report = report(&path, &Seal::Plain);
            assert!(kinds(&report).contains("removed"), "from line {from} on: {report:?}");
        }
        fs::write(first, &text).unwrap();
        let whole = report(&path, &Seal::Plain);
        assert!(whole.is_whole() && whole.first.as_ref().unwrap().0 >= cut_from as u64, "{whole:?}");
    };
    // Events are in its middle: of a reload, and of the runs that followed.
    for run in 0..3 {
        let audit = begun(&settings(&path));
        record(&audit, run * 3..run * 3 + 3);
        let change = audit.prepare(Some(&Settings { queue: 500, ..settings(&path) })).unwrap();
        audit.apply(change, 2).unwrap();
        assert!(audit.stop(Duration::from_secs(10)));
    }
    check(1, trail::files(&path).unwrap());
    // One that begins later because others are gone says so itself.
    fs::rename(&path, trail::rotated_name(&path, 1)).unwrap();
    written(&settings(&path), 9..12);
    written(&settings(&path), 12..15);
    fs::remove_file(trail::rotated_name(&path, 1)).unwrap();
    check(10, trail::files(&path).unwrap());
    let report = report(&path, &Seal::Plain);
    assert_eq!(report.notes.iter().map(|note| note.kind).collect::<Vec<_>>(), ["begins_later"]);
}

#[test]
fn a_crash_in_the_first_line_of_a_file_does_not_end_the_chain() {
    let folder = Folder::new();
    let path = folder.file();
    written(&settings(&path), 0..3);
    fs::rename(&path, trail::rotated_name(&path, 1)).unwrap();
    let first = "{\"v\":1,\"seq\":6,\"time\":\"2027-01";
    for torn in 1..first.len() {
        fs::write(&path, &first[..torn]).unwrap();
        written(&settings(&path), 3..5);
        let report = report(&path, &Seal::Plain);
        assert!(report.is_whole() && report.last.as_ref().unwrap().0 == 10, "{torn} bytes: {report:?}");
        assert!(report.notes.iter().any(|note| note.kind == "torn"), "{report:?}");
    }
}

#[test]
fn a_full_file_that_cannot_be_removed_is_no_reason_to_hide_a_rotation() {
    let folder = Folder::new();
    let path = folder.file();
    let audit = begun(&Settings { rotation: Rotation { bytes: 64 * 1024, every: None, keep: 1 }, ..settings(&path) });
    // A folder of that name cannot be removed as a file can.
    let stuck = trail::rotated_name(&path, 0);
    fs::create_dir(&stuck).unwrap();
    for part in 0..4 {
        record(&audit, part * 200..part * 200 + 200);
        let lines = || audit.status().unwrap().lines;
        while lines() < u64::from(part + 1) * 200 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(audit.stop(Duration::from_secs(10)));
    fs::remove_dir(&stuck).unwrap();
    let report = report(&path, &Seal::Plain);
    assert!(report.is_whole() && report.first.as_ref().unwrap().0 == 1, "{report:?}");
    let records = records(&path);
    let rotated: Vec<_> = records.iter().filter(|record| record["event"] == "rotated").collect();
    assert_eq!(rotated.len(), trail::files(&path).unwrap().len() - 1);
    assert!(rotated.iter().all(|event| event["from"].is_string() && event["first"] == true), "{rotated:?}");
}

fn granted(user: &str, became: Became) -> GrantChange {
    let grant = Grant {
        issuer: "acme".to_owned(),
        user: user.to_owned(),
        group: "ops".to_owned(),
        at_s: 1_800_000_000,
        until_s: 1_800_003_600,
        reason: "INC-7 of alice".to_owned(),
        by: "bob".to_owned(),
    };
    GrantChange { id: GrantId::parse("00000000000000ff").unwrap(), grant, became }
}

#[test]
fn what_becomes_of_a_grant_is_a_line() {
    let folder = Folder::new();
    let key = "h".repeat(32);
    let clear = settings(&folder.file());
    let subject =
        Settings { hashed: vec![Personal::Subject], hash_key: Some(Secret::new(key.as_str())), ..clear.clone() };
    for (settings, user) in [(clear, "alice"), (subject, "hmac:5b3041d038299a791724131b0b3d3d94")] {
        let audit = begun(&settings);
        for became in [Became::Granted, Became::Revoked, Became::Ended] {
            audit.grant(granted("alice", became));
        }
        assert!(audit.stop(Duration::from_secs(10)));
        let lines: Vec<Value> = records(&folder.file())
            .into_iter()
            .filter(|record| record["grant"].is_string())
            .map(|mut record| {
                let chain = ["v", "seq", "time", "agent", "config", "prev", "hash"];
                chain.iter().for_each(|name| assert!(record.as_object_mut().unwrap().remove(*name).is_some()));
                record
            })
            .collect();
        let expected = ["granted", "grant_revoked", "grant_ended"].map(|event| {
            serde_json::json!({
                "event": event, "grant": "00000000000000ff", "issuer": "acme", "user": user, "group": "ops",
                "until": "2027-01-15T09:00:00.000000Z", "reason": "INC-7 of alice", "by": "bob",
            })
        });
        assert_eq!(lines, expected);
        assert!(report(&folder.file(), &settings.seal()).is_whole());
        fs::remove_file(folder.file()).unwrap();
    }
}

/// A trail that nobody reads, until it is dropped.
fn blocked(folder: &Folder) -> (Audit, File) {
    let pipe = folder.0.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let unread = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    (begun(&Settings { queue: 1000, ..settings(&pipe) }), unread)
}

#[test]
fn grants_and_reloads_have_no_more_room_than_decisions() {
    let folder = Folder::new();
    let (audit, _unread) = blocked(&folder);
    for _ in 0..3_000 {
        audit.grant(granted(&"x".repeat(2_000), Became::Granted));
        audit.reload_refused(&"x".repeat(500));
    }
    let status = audit.status().unwrap();
    assert!(status.queued <= 1000 && status.dropped > 4_000, "{status:?}");
    assert!(audit.0.bytes.load(Ordering::Relaxed) <= 1000 * LINE_BYTES);
    assert!(!audit.stop(Duration::from_millis(100)));
}

#[test]
fn an_identity_counts_in_the_queue_once_for_all_that_share_it() {
    let folder = Folder::new();
    let (audit, _unread) = blocked(&folder);
    let now = Clock::system().now();
    let with = |n: u32, identity: &Arc<Identity>| Decision { identity: Arc::clone(identity), ..decision(n) };
    let large = || {
        let mut identity = Identity::anonymous();
        identity.scopes = vec!["x".repeat(5_000)];
        Arc::new(identity)
    };
    let shared = large();
    for n in 0..900 {
        audit.record(with(n, &shared), now, Duration::ZERO);
    }
    assert_eq!(audit.status().unwrap().dropped, 0);
    for n in 0..3_000 {
        audit.record(with(n, &large()), now, Duration::ZERO);
    }
    // What the writer has taken by then counts no more.
    let status = audit.status().unwrap();
    assert!(status.dropped > 3_000 - 1000 * 1024 / 5_000, "{status:?}");
    assert!(!audit.stop(Duration::from_millis(100)));
}

#[test]
fn a_rotation_while_somebody_verifies_is_no_finding() {
    let folder = Folder::new();
    let path = folder.file();
    let small = Settings { rotation: Rotation { bytes: 64 * 1024, every: None, keep: 1 }, ..settings(&path) };
    let audit = begun(&small);
    let fill = |first: u32| {
        record(&audit, first..first + 200);
        let files = trail::files(&path).unwrap();
        while audit.status().unwrap().queued > 0 || trail::files(&path).unwrap() == files {
            thread::sleep(Duration::from_millis(1));
        }
    };
    fill(0);
    let opened = trail::open(&path).unwrap();
    let listed = trail::files(&path).unwrap();
    // By now each name has another file, or none.
    [200, 400, 600].into_iter().for_each(fill);
    let report = verify(&opened, &Seal::Plain, None).unwrap();
    assert!(report.is_whole() && report.first.as_ref().unwrap().0 == 1, "{report:?}");
    assert!(report.last.as_ref().unwrap().0 > 200 && !listed[0].exists());
    assert!(audit.stop(Duration::from_secs(10)));
}

#[test]
fn a_file_that_is_rotated_while_the_trail_is_opened_is_read_once() {
    let folder = Folder::new();
    let path = folder.file();
    written(&settings(&path), 0..3);
    // As between the opening of the live file and the listing of the others, with all that may follow.
    fs::hard_link(&path, trail::rotated_name(&path, 1)).unwrap();
    fs::write(trail::rotated_name(&path, 6), "of a moment after").unwrap();
    let files = trail::open(&path).unwrap();
    assert_eq!(files.iter().map(|file| &file.path).collect::<Vec<_>>(), [&trail::rotated_name(&path, 1)]);
    let report = verify(&files, &Seal::Plain, None).unwrap();
    assert!(report.is_whole() && report.lines == 5, "{report:?}");
    // As between the renaming and the new file.
    fs::remove_file(&path).unwrap();
    assert_eq!(trail::open(&path).unwrap().len(), 2);
    assert_eq!(trail::open(&folder.0.path().join("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_trail_without_a_line_is_not_whole() {
    let folder = Folder::new();
    let path = folder.file();
    fs::write(&path, "").unwrap();
    assert_eq!(kinds(&report(&path, &Seal::Plain)), ["empty"].into());
    let mut out = Vec::new();
    let files = trail::open(&path).unwrap();
    let exported = export(&files, &Seal::Plain, &Wanted::default(), Format::Jsonl, &mut out).unwrap();
    assert!(!exported.report.is_whole());
}

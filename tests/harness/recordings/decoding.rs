//! `decode`: the same bytes in every form have the same reading, and what is wrong has its place.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tollgate::spop::recording::{Recording, Side};

use super::{Fixture, harness, stderr, stdout};
use crate::support::folder;

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

/// As xxd prints it.
fn xxd(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate() {
        let pairs = bytes.chunks(2).map(|pair| hex(pair, "")).collect::<Vec<_>>().join(" ");
        let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        let _ = writeln!(out, "{:08x}: {pairs:<39}  {}", row * 16, bytes.iter().map(shown).collect::<String>());
    }
    out
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn hex_raw_bytes_and_a_recording_have_the_same_reading() {
    let folder = folder();
    let bytes = Fixture::named("spec/values").recording.sent_by(Side::Haproxy);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &bytes).unwrap();
    let reading = harness(&["decode", text(&raw)]).await;
    assert_eq!(reading.status.code(), Some(0), "{}", stderr(&reading));
    let expected = stdout(&reading);
    assert!(expected.contains("int64 -9223372036854775808"), "{expected}");
    assert_eq!(Recording::parse(&expected).unwrap().sent_by(Side::Haproxy), bytes);
    let objects = harness(&["decode", "--json", text(&raw)]).await;

    let file = folder.path().join("other");
    for (format, content) in [
        ("hex", hex(&bytes, "").into_bytes()),
        ("hex", hex(&bytes, " ").into_bytes()),
        ("hex", xxd(&bytes).into_bytes()),
        ("recording", expected.clone().into_bytes()),
        ("raw", bytes),
    ] {
        std::fs::write(&file, content).unwrap();
        for format in [format, "auto"] {
            let reading = harness(&["decode", "--format", format, text(&file)]).await;
            assert_eq!((stdout(&reading), reading.status.code()), (expected.clone(), Some(0)), "{format}");
        }
        let read = harness(&["decode", "--json", text(&file)]).await;
        assert_eq!(stdout(&read), stdout(&objects).replace(text(&raw), text(&file)), "{format}");
    }
}

#[tokio::test]
async fn json_has_every_value_with_its_type() {
    let fixture = Fixture::named("spec/values");
    let read = harness(&["decode", "--json", text(&fixture.path)]).await;
    let frames: Vec<Value> = stdout(&read).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 4);
    assert_eq!((&frames[1]["type"], &frames[1]["from"]), (&"AGENT-HELLO".into(), &"agent".into()));
    let arguments = frames[2]["messages"][0]["arguments"].as_array().unwrap();
    let argument = |name: &str| arguments.iter().find(|argument| argument["name"] == name).unwrap();
    assert_eq!(argument("int32 min")["value"], -2_147_483_648_i64);
    assert_eq!(argument("uint64 max")["value"], u64::MAX);
    assert_eq!((&argument("null")["type"], &argument("null")["value"]), (&"null".into(), &Value::Null));
    assert_eq!(argument("str of any bytes")["value_hex"], "000a0d225c7f80ff");
    assert_eq!(frames[3]["actions"][0]["scope"], "txn");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_place_and_the_next_frame_is_read() {
    let folder = folder();
    let mut bytes = Fixture::named("spec/hello").recording.sent_by(Side::Haproxy);
    let begins = bytes.len();
    // Length, head, and a message whose name of five bytes is two bytes long.
    bytes.extend_from_slice(b"\0\0\0\x0a\x03\0\0\0\x01\x01\x01\x05ab");
    bytes.extend_from_slice(&Fixture::named("spec/haproxy-disconnect").recording.sent_by(Side::Haproxy)[begins..]);
    let file = folder.path().join("broken");
    std::fs::write(&file, &bytes).unwrap();

    let reading = harness(&["decode", text(&file)]).await;
    let place = begins + 11;
    let expected = format!("{}: byte {place} of HAProxy: the input ends inside a value\n", text(&file));
    assert_eq!((reading.status.code(), stderr(&reading)), (Some(1), expected));
    let read = harness(&["decode", "--json", text(&file)]).await;
    let read = stdout(&read);
    let frames: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames[1]["error"]["offset"], place);
    assert_eq!(frames[1]["type"], "NOTIFY");
    assert!(frames[2].get("error").is_none() && frames[2]["type"] != "NOTIFY", "{read}");

    for (content, format, expected) in [
        ("00 0g", "auto", "line 1: `0g`: expected pairs of hex digits"),
        ("> soon", "recording", "line 1: `soon`: expected seconds, `closed` or `reset`"),
    ] {
        std::fs::write(&file, content).unwrap();
        let reading = harness(&["decode", "--format", format, text(&file)]).await;
        assert_eq!(reading.status.code(), Some(2));
        assert!(stderr(&reading).contains(expected), "{}", stderr(&reading));
    }
    let missing = harness(&["decode", text(&folder.path().join("missing"))]).await;
    assert_eq!(missing.status.code(), Some(2));
}

#[tokio::test]
async fn blessing_writes_the_reading_anew_and_leaves_the_rest() {
    let folder = folder();
    let fixture = Fixture::named("invalid/string-past-end");
    let file = folder.path().join("stale.txt");
    std::fs::write(&file, fixture.text.replace("message \"request\"", "something else")).unwrap();
    let blessed = harness(&["decode", "--bless", text(&file)]).await;
    assert_eq!((blessed.status.code(), stdout(&blessed)), (Some(0), String::new()), "{}", stderr(&blessed));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), fixture.text);

    let raw = folder.path().join("raw");
    std::fs::write(&raw, [0, 0, 0, 0]).unwrap();
    assert_eq!(harness(&["decode", "--bless", text(&raw)]).await.status.code(), Some(2));
    assert_eq!(std::fs::read(&raw).unwrap(), [0, 0, 0, 0]);
}

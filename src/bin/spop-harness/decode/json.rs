//! Frames as JSON, for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use tollgate::spop::annotate;
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::recording::{Recording, Side};
use tollgate::spop::{Action, DecodeError, Messages, TypedData, ack, kv_list};

/// Appends one line for each frame.
pub fn frames(recording: &Recording, file: &Path, out: &mut String) {
    super::each_frame(recording, |item, offset, bytes| {
        let mut object = Map::new();
        object.insert("file".to_owned(), json!(file.display().to_string()));
        object.insert("from".to_owned(), json!(if item.from == Side::Haproxy { "haproxy" } else { "agent" }));
        if let Some(at) = item.at {
            object.insert("at_ms".to_owned(), json!(at.as_millis()));
        }
        object.insert("offset".to_owned(), json!(offset));
        object.insert("bytes".to_owned(), json!(bytes.len()));
        if let Some(frame) = bytes.get(PREFIX_BYTES..).and_then(|frame| Frame::decode(frame).ok()) {
            object.insert("type".to_owned(), json!(annotate::kind(frame.kind)));
            object.insert("flags".to_owned(), json!(annotate::flags(frame.flags)));
            object.insert("stream_id".to_owned(), json!(frame.stream_id));
            object.insert("frame_id".to_owned(), json!(frame.frame_id));
            if let Ok((key, value)) = payload(&frame) {
                object.insert(key.to_owned(), value);
            }
        }
        if let Some((at, problem)) = super::broken(bytes) {
            object.insert("error".to_owned(), json!({ "offset": offset + at, "problem": problem }));
        }
        let _ = writeln!(out, "{}", Value::Object(object));
    });
}

fn payload(frame: &Frame<'_>) -> Result<(&'static str, Value), DecodeError> {
    match frame.kind {
        FrameType::HaproxyHello | FrameType::HaproxyDisconnect | FrameType::AgentHello | FrameType::AgentDisconnect => {
            let mut pairs = Vec::new();
            kv_list::decode(frame.payload, |key, value| pairs.push(named("key", &text(key), &value)))?;
            Ok(("pairs", json!(pairs)))
        }
        FrameType::Notify if frame.flags.has(Flags::FIN) && !frame.flags.has(Flags::ABORT) => {
            let messages = Messages::decode(frame.payload)?;
            let messages = messages.iter().map(|message| {
                let arguments = message.arguments().map(|(name, value)| named("name", &text(name), &value));
                json!({ "name": text(message.name), "arguments": arguments.collect::<Vec<_>>() })
            });
            Ok(("messages", messages.collect()))
        }
        FrameType::Ack => {
            let actions = ack::decode(frame.payload)?;
            let actions = actions.iter().map(|action| match action {
                Action::SetVar { scope, name, value } => {
                    let mut object = named("name", name, value);
                    object["action"] = json!("set-var");
                    object["scope"] = json!(scope.name());
                    object
                }
                Action::UnsetVar { scope, name } => {
                    json!({ "action": "unset-var", "scope": scope.name(), "name": name })
                }
            });
            Ok(("actions", actions.collect()))
        }
        FrameType::Notify | FrameType::Unset | FrameType::Unknown(_) => Ok(("payload_hex", json!(hex(frame.payload)))),
    }
}

/// A value beside its name; what is no text is hex.
fn named(key: &str, name: &str, value: &TypedData<'_>) -> Value {
    let (kind, key_of_value, value) = match *value {
        TypedData::Null => ("null", "value", Value::Null),
        TypedData::Bool(value) => ("bool", "value", json!(value)),
        TypedData::Int32(value) => ("int32", "value", json!(value)),
        TypedData::UInt32(value) => ("uint32", "value", json!(value)),
        TypedData::Int64(value) => ("int64", "value", json!(value)),
        TypedData::UInt64(value) => ("uint64", "value", json!(value)),
        TypedData::Ipv4(value) => ("ipv4", "value", json!(value.to_string())),
        TypedData::Ipv6(value) => ("ipv6", "value", json!(value.to_string())),
        TypedData::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => ("str", "value", json!(text)),
            Err(_) => ("str", "value_hex", json!(hex(bytes))),
        },
        TypedData::Bin(bytes) => ("bin", "value_hex", json!(hex(bytes))),
    };
    json!({ key: name, "type": kind, key_of_value: value })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

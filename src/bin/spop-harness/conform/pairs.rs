//! The list of keys and values that an AGENT-HELLO or AGENT-DISCONNECT holds.

use tollgate::spop::{TypedData, kv_list};

use super::case::{Flaw, Seen, failed};
use crate::peer::Received;

/// Looks at the value of a key that must be there once.
pub fn one(frame: &Received, key: &str, right: impl Fn(&TypedData<'_>) -> bool) -> Seen {
    let mut found = Vec::new();
    each(frame, |name, value| {
        if name == key.as_bytes() {
            found.push((right(&value), words(&value)));
        }
    })?;
    match found.as_slice() {
        [(true, value)] => Ok(format!("{key}: {value}")),
        [(false, value)] => failed(format!("{key}: {value}")),
        [] => failed(format!("no {key}")),
        _ => failed(format!("{key}: {} times", found.len())),
    }
}

/// The keys in order.
pub fn keys(frame: &Received) -> Result<Vec<String>, Flaw> {
    let mut keys = Vec::new();
    each(frame, |key, _| keys.push(String::from_utf8_lossy(key).into_owned()))?;
    Ok(keys)
}

/// The capabilities in order.
pub fn capabilities(frame: &Received) -> Result<Vec<String>, Flaw> {
    let mut all = Vec::new();
    each(frame, |key, value| {
        if let (b"capabilities", TypedData::Str(list)) = (key, value) {
            let list = String::from_utf8_lossy(list);
            all.extend(list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()));
        }
    })?;
    Ok(all)
}

fn each(frame: &Received, each: impl FnMut(&[u8], TypedData<'_>)) -> Result<(), Flaw> {
    let read = frame.decode().and_then(|frame| kv_list::decode(frame.payload, each));
    read.or_else(|error| failed(format!("its list does not decode: {error}")))
}

fn words(value: &TypedData<'_>) -> String {
    match value {
        TypedData::Str(text) => String::from_utf8_lossy(text).into_owned(),
        TypedData::UInt32(number) => number.to_string(),
        // Of a type that none of the keys has: which one matters.
        other => format!("{other:?}"),
    }
}

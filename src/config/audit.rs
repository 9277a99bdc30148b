//! `audit:`: where a line for each decision goes, which of them, and what of people is in it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::read::{At, quote};
use super::secrets;
use super::values::{show_duration, show_size};
use crate::audit::{LINE_BYTES, PPM, Personal, Rotation, Settings, Target, show_share};
use crate::secret::{Secret, SecretSource};

/// Where its keys were written, for `check --expanded`.
#[derive(Debug, Default)]
pub(super) struct WrittenAudit {
    hash_key: Option<SecretSource>,
    chain_key: Option<SecretSource>,
}

/// Reads `audit:`.
pub(super) fn read(at: &At<'_>, directory: &Path) -> Option<(Settings, WrittenAudit)> {
    let mut section = at.section("a map: `audit: { file: /var/log/tollgate/audit.jsonl }`")?;
    let file_at = section.need("file", "/var/log/tollgate/audit.jsonl");
    let rotate_at = section.take("rotate");
    let sample_at = section.take("sample_allows");
    let [hash_at, hash_key_at, chain_key_at] = ["hash", "hash_key", "chain_key"].map(|key| section.take(key));
    let queue = section.take("queue").map_or(Some(QUEUE), |at| at.integer(100, 1_000_000));
    section.finish();

    let target = file_at.as_ref().and_then(|at| at.text(FILE)).map(|text| match text {
        "stdout" => Target::Stdout,
        path => Target::File(directory.join(path)),
    });
    let rotation = rotate_at.as_ref().map_or(ROTATION, rotation);
    if let Some(at) = rotate_at.filter(|_| target == Some(Target::Stdout)) {
        at.refuse("standard output is no file that could be rotated", "`file: PATH`, or no `rotate`");
    }
    let sampled_ppm = sample_at.map_or(Some(PPM), |at| at.parsed("a share", SHARE, share));
    let hashed = hash_at.as_ref().map(hashed).map(Personal::with_twins).unwrap_or_default();
    let hash_key = hash_key_at.as_ref().and_then(|at| key(at, directory));
    let chain_key = chain_key_at.as_ref().and_then(|at| key(at, directory));
    match (&hash_at, &hash_key_at) {
        (Some(at), None) => at.refuse(
            "without a key whoever guesses a name can check the guess",
            "`hash_key: file:…` beside it, the same for all agents",
        ),
        (None, Some(at)) => {
            at.refuse("`hash_key` is for `hash`, and nothing is hashed", "`hash: [user, src]` beside it")
        }
        _ => {}
    }
    // Where only what is never written is to be hashed, there is nothing to do.
    let (hash_key, hash_key_place) = hash_key.filter(|_| !hashed.is_empty()).unzip();
    let (chain_key, chain_key_place) = chain_key.unzip();
    let settings = Settings {
        target: target?,
        rotation,
        sampled_ppm: sampled_ppm?,
        hashed,
        hash_key,
        chain_key,
        queue: usize::try_from(queue?).unwrap_or(usize::MAX),
    };
    Some((settings, WrittenAudit { hash_key: hash_key_place, chain_key: chain_key_place }))
}

fn rotation(at: &At<'_>) -> Rotation {
    let mut rotation = ROTATION;
    let Some(mut section) = at.section("a map: `rotate: { size: 100MiB, keep: 10 }`") else { return rotation };
    if let Some(bytes) = section.take("size").and_then(|at| at.size(64 * 1024, 1024 * 1024 * 1024 * 1024)) {
        rotation.bytes = bytes;
    }
    let every = |at: At<'_>| at.duration(Duration::from_secs(60), Duration::from_secs(366 * 86_400));
    rotation.every = section.take("every").and_then(every);
    if let Some(keep) = section.take("keep").and_then(|at| at.integer(1, 100_000)) {
        rotation.keep = usize::try_from(keep).unwrap_or(usize::MAX);
    }
    section.finish();
    rotation
}

/// `email` may be asked for by whoever hashes all that is personal; it is not in the trail at all.
fn hashed(at: &At<'_>) -> Vec<Personal> {
    let mut fields = Vec::new();
    for item in at.one_or_many(FIELDS) {
        let Some(name) = item.text(FIELDS) else { continue };
        match Personal::NAMES.into_iter().find(|(known, _)| *known == name) {
            Some((_, field)) if fields.contains(&field) => item.refuse(format!("{} is here twice", quote(name)), ""),
            Some((_, field)) => fields.push(field),
            None if ["email", "name"].contains(&name) => item.warn(format!("`{name}` is never in the audit trail")),
            None => item.refuse_name(name, "a field that can be hashed", Personal::NAMES.map(|(name, _)| name)),
        }
    }
    fields
}

fn key(at: &At<'_>, directory: &Path) -> Option<(Secret, SecretSource)> {
    let (place, key) = secrets::read(at, directory)?;
    let bytes = key.expose().len();
    if bytes < KEY_BYTES_MIN {
        at.refuse(
            format!("this key is {bytes} of {KEY_BYTES_MIN} bytes long, and could be guessed"),
            "what `openssl rand -base64 32` gives",
        );
        return None;
    }
    Some((key, place))
}

/// `10%`, `0.5%`, in parts in a million.
fn share(text: &str) -> Option<u32> {
    let (whole, part) = match text.strip_suffix('%')?.split_once('.') {
        Some((whole, part)) if (1..=4).contains(&part.len()) => (whole, part),
        Some(_) => return None,
        None => (text.strip_suffix('%')?, "0"),
    };
    if !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) || whole.is_empty() || whole.len() > 3 {
        return None;
    }
    let ppm = whole.parse::<u32>().ok()? * 10_000 + format!("{part:0<4}").parse::<u32>().ok()?;
    (ppm <= PPM).then_some(ppm)
}

/// The section written out.
pub(super) fn expand(settings: &Settings, written: &WrittenAudit, out: &mut String) {
    let text = |text: &str| Value::from(text).to_string();
    let file = match &settings.target {
        Target::Stdout => "stdout".to_owned(),
        Target::File(path) => text(&secrets::absolute(path).to_string_lossy()),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\naudit:\n  file: {file}");
    if settings.target != Target::Stdout {
        let Rotation { bytes, every, keep } = settings.rotation;
        let every = every.map(|every| format!(", every: {}", show_duration(every))).unwrap_or_default();
        let _ = writeln!(out, "  rotate: {{ size: {}{every}, keep: {keep} }}", show_size(bytes));
    }
    let _ = writeln!(out, "  sample_allows: {}", show_share(settings.sampled_ppm));
    if !settings.hashed.is_empty() {
        let fields: Vec<_> = settings.hashed.iter().map(|field| field.name()).collect();
        let _ = writeln!(out, "  hash: [{}]", fields.join(", "));
    }
    for (key, place) in [("hash_key", &written.hash_key), ("chain_key", &written.chain_key)] {
        if let Some(place) = place {
            let _ = writeln!(out, "  {key}: {}", text(&secrets::show(place)));
        }
    }
    let _ = writeln!(out, "  queue: {}", settings.queue);
}

/// What `check` says of it.
pub(super) fn fact(settings: &Settings) -> String {
    let target = match &settings.target {
        Target::Stdout => "standard output".to_owned(),
        Target::File(path) => path.display().to_string(),
    };
    let sampled = match settings.sampled_ppm {
        PPM => "every decision".to_owned(),
        ppm => format!("every refusal and {} of what is allowed", show_share(ppm)),
    };
    let queue = show_size((settings.queue as u64).saturating_mul(LINE_BYTES as u64));
    format!(
        "audit trail: {sampled} to {target}; {} lines ({queue}) wait for a slow disk, what is more is dropped",
        settings.queue
    )
}

const FILE: &str = "the path of a file, such as `/var/log/tollgate/audit.jsonl`, or `stdout`";
const FIELDS: &str = "fields about people: user, subject, client_id, src";
const SHARE: &str = "a percentage from 0% to 100%, such as `10%` or `0.5%`";
const QUEUE: u64 = 10_000;
const ROTATION: Rotation = Rotation { bytes: 100 * 1024 * 1024, every: None, keep: 10 };

/// As many as the MAC has (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_subject_are_hashed_together() {
        use Personal::{ClientId, Src, Subject, User};
        for (named, hashed) in [
            (vec![User], vec![User, Subject]),
            (vec![Src, Subject], vec![Src, User, Subject]),
            (vec![Subject, User], vec![Subject, User]),
            (vec![ClientId, Src], vec![ClientId, Src]),
        ] {
            assert_eq!(Personal::with_twins(named), hashed);
        }
    }

    #[test]
    fn a_share_is_a_percentage() {
        for (text, ppm) in [
            ("100%", Some(PPM)),
            ("10%", Some(100_000)),
            ("0.5%", Some(5_000)),
            ("0.0001%", Some(1)),
            ("0%", Some(0)),
            ("101%", None),
            ("100.0001%", None),
            ("10", None),
            ("%", None),
            (".5%", None),
            ("1.%", None),
            ("0.00001%", None),
            ("-1%", None),
            ("1e1%", None),
        ] {
            assert_eq!(share(text), ppm, "{text}");
            assert_eq!(ppm.and_then(|ppm| share(&show_share(ppm))), ppm, "{text}");
        }
    }
}

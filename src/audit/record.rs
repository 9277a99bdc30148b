//! What a line says: a decision, or an event of the trail itself, as JSON members. docs/audit.md has the table.
//!
//! Every line is ASCII without control bytes but for printable text of other scripts: what a terminal or a line reader
//! would take for something else is escaped the way JSON escapes, so that reading it gives back what was there.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::hmac;
use percent_encoding::percent_decode_str;
use x509_cert::der::DateTime;

use super::chain::Hash;
use crate::clock::Now;
use crate::decision::{Decision, Reason};
use crate::identity::grants::GrantChange;

/// One decision, as it was made.
pub(super) struct Entry {
    pub(super) decision: Decision,
    pub(super) asked: Now,
    pub(super) latency: Duration,
}

/// What happened to the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The agent begins to write.
    Start { to: &'static str, chain: &'static str, sampled_ppm: u32, hashed: Vec<Personal> },
    /// It ends, or goes on elsewhere.
    Stop { why: &'static str },
    /// Another config is in force.
    Reload,
    /// A config was refused.
    ReloadRefused { problem: String },
    /// Lines had no room.
    Dropped { count: u64, since_us: u64, until_us: u64 },
    /// Allows that were not asked for.
    SampledOut { count: u64 },
    /// A new file; `removed` are those beyond `keep`.
    Rotated { from: Option<String>, removed: Vec<String> },
    /// Something has become of a group that is granted for a time.
    Grant(Box<GrantChange>),
    /// The line before is not what it should be.
    Gap { what: Gap },
}

/// What is wrong with the line before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// A run ended in the middle of writing it.
    Torn { bytes: u64, sha256: Hash },
    /// Its hash is not that of its content, or was made with another key.
    Unverified,
    /// The file was replaced while it was written.
    Replaced,
}

/// A field about a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personal {
    /// `user`.
    User,
    /// `subject`.
    Subject,
    /// `client_id`.
    ClientId,
    /// `src`.
    Src,
}

impl Personal {
    /// The config's words.
    pub const NAMES: [(&'static str, Personal); 4] = [
        ("user", Personal::User),
        ("subject", Personal::Subject),
        ("client_id", Personal::ClientId),
        ("src", Personal::Src),
    ];

    /// The config's word, which is the field's name.
    pub fn name(self) -> &'static str {
        Personal::NAMES.into_iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }
}

impl Personal {
    /// `fields` and those that would give them away: by default `user` is `sub`, and where an API key has a user both are
    /// that name, so that either in the clear tells what the other hides.
    pub fn with_twins(mut fields: Vec<Personal>) -> Vec<Personal> {
        for (one, other) in [(Personal::User, Personal::Subject), (Personal::Subject, Personal::User)] {
            if let Some(at) = fields.iter().position(|field| *field == one)
                && !fields.contains(&other)
            {
                fields.insert(if one == Personal::User { at + 1 } else { at }, other);
            }
        }
        fields
    }
}

/// Which fields are written as a keyed hash.
#[derive(Clone, Default)]
pub(super) struct Hashing(pub(super) Option<(Vec<Personal>, hmac::Key)>);

impl Hashing {
    fn has(&self, field: Personal) -> bool {
        self.0.as_ref().is_some_and(|(fields, _)| fields.contains(&field))
    }

    fn of(&self, field: Personal, value: &str) -> Option<String> {
        let (_, key) = self.0.as_ref().filter(|(fields, _)| fields.contains(&field))?;
        Some(hashed(key, value))
    }
}

/// `hmac:` and 32 hex digits: the first half of HMAC-SHA-256.
pub(super) fn hashed(key: &hmac::Key, value: &str) -> String {
    let mut text = HASHED.to_owned();
    for byte in hmac::sign(key, value.as_bytes()).as_ref().iter().take(16) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// How a hashed field begins.
pub(super) const HASHED: &str = "hmac:";

/// JSON members, put together one behind the other.
#[derive(Default)]
pub(super) struct Members(String);

impl Members {
    /// What every line begins with, behind `v` and `seq`.
    pub(super) fn begin(time_us: u64, agent: u32, config: u64) -> Members {
        let mut members = Members::default();
        members.text("time", &show_time(time_us));
        members.text("agent", &format!("{agent:08x}"));
        members.text("config", &format!("{config:016x}"));
        members
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A decision. What is absent is left out.
    pub(super) fn decision(&mut self, entry: &Entry, hashing: &Hashing) {
        let Entry { decision, latency, .. } = entry;
        let identity = &*decision.identity;
        let summary = decision.summary.as_deref();
        self.text("decision_id", decision.id.as_str());
        self.text("verdict", decision.verdict().name());
        self.text("reason", decision.reason.code());
        self.some("rule", decision.rule.as_deref().unwrap_or_default());
        self.personal("user", &identity.user, Personal::User, hashing);
        self.personal("subject", &identity.subject, Personal::Subject, hashing);
        self.some("issuer", &identity.issuer_name);
        // Of a client that acts for itself the subject is often the client.
        let is_user = identity.client_id == identity.user || identity.client_id == identity.subject;
        let client_as = if is_user && hashing.has(Personal::User) { Personal::User } else { Personal::ClientId };
        self.personal("client_id", &identity.client_id, client_as, hashing);
        if !identity.groups_joined.is_empty() {
            // `,` and `%` inside a name are encoded there.
            let names = identity.groups_joined.split(',').map(|name| percent_decode_str(name).decode_utf8_lossy());
            self.texts("groups", names);
        }
        if !identity.granted.is_empty() {
            self.texts("granted", &identity.granted);
        }
        self.flag("groups_unknown", !identity.groups_known);
        if !identity.scopes.is_empty() {
            self.texts("scopes", &identity.scopes);
        }
        // Where it proved nothing the caller is anonymous, and what was shown is known by its scheme.
        let credential = if identity.is_anonymous() { decision.presented } else { identity.credential };
        self.text("credential", credential.name());
        if let Some(summary) = summary {
            self.some("token", &summary.token);
            self.some("method", &summary.method);
            self.some("host", &summary.host);
            self.some("path", &summary.path);
            self.personal("src", &summary.src, Personal::Src, hashing);
            self.some("request_id", &summary.request_id);
            self.some("problem", summary.problem.as_deref().unwrap_or_default());
        }
        self.some("limit", decision.limit.as_deref().unwrap_or_default());
        if !decision.budget.states.is_empty() {
            self.key("limits");
            for (index, state) in decision.budget.states.iter().enumerate() {
                self.0.push_str(if index == 0 { "[{\"name\":" } else { ",{\"name\":" });
                quote(&state.limit.name, &mut self.0);
                let (count, remaining, reset_s) = (state.quota.count(), state.remaining, whole_seconds(state.reset));
                let _ = write!(self.0, ",\"limit\":{count}");
                if let Some(period_us) = state.quota.period_us() {
                    let _ = write!(self.0, ",\"window_s\":{}", period_us.div_ceil(1_000_000));
                }
                let _ = write!(self.0, ",\"remaining\":{remaining},\"reset_s\":{reset_s}}}");
            }
            self.0.push(']');
        }
        if let Some(wait) = decision.retry_after {
            self.number("retry_after_s", whole_seconds(wait).max(1));
        }
        self.some("backend", decision.backend.as_deref().unwrap_or_default());
        if let Some(shadows) = &decision.shadows {
            self.key("shadow");
            for (index, shadowed) in shadows.iter().enumerate() {
                self.0.push_str(if index == 0 { "[{\"rule\":" } else { ",{\"rule\":" });
                quote(&shadowed.rule, &mut self.0);
                let reason = shadowed.refusal.clone().map_or(Reason::Allowed, Reason::Refused);
                let _ = write!(self.0, ",\"reason\":\"{}\"}}", reason.code());
            }
            self.0.push_str(if shadows.is_empty() { "[]" } else { "]" });
        }
        if !decision.budget.shadowed.is_empty() {
            self.key("shadow_limits");
            for (index, limit) in decision.budget.shadowed.iter().enumerate() {
                self.0.push(if index == 0 { '[' } else { ',' });
                quote(&limit.name, &mut self.0);
            }
            self.0.push(']');
        }
        self.flag("degraded", decision.degraded);
        self.number("latency_us", u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// An event of the trail.
    pub(super) fn event(&mut self, event: &Event, hashing: &Hashing) {
        match event {
            Event::Start { to, chain, sampled_ppm, hashed } => {
                self.text("event", "start");
                self.text("version", env!("CARGO_PKG_VERSION"));
                self.text("to", to);
                self.text("chain", chain);
                if *sampled_ppm < PPM {
                    self.text("sample_allows", &show_share(*sampled_ppm));
                }
                if !hashed.is_empty() {
                    self.texts("hashed", hashed.iter().map(|field| field.name()));
                }
            }
            Event::Stop { why } => {
                self.text("event", "stop");
                self.text("why", why);
            }
            Event::Reload => self.text("event", "reload"),
            Event::ReloadRefused { problem } => {
                self.text("event", "reload_refused");
                self.text("problem", problem);
            }
            Event::Dropped { count, since_us, until_us } => {
                self.text("event", "dropped");
                self.number("count", *count);
                self.text("since", &show_time(*since_us));
                self.text("until", &show_time(*until_us));
            }
            Event::SampledOut { count } => {
                self.text("event", "sampled_out");
                self.number("count", *count);
            }
            Event::Rotated { from, removed } => {
                self.text("event", "rotated");
                self.some("from", from.as_deref().unwrap_or_default());
                if !removed.is_empty() {
                    self.texts("removed", removed);
                }
            }
            Event::Grant(change) => {
                let GrantChange { id, grant, became } = &**change;
                self.text("event", became.name());
                self.text("grant", &id.to_string());
                self.text("issuer", &grant.issuer);
                self.personal("user", &grant.user, Personal::User, hashing);
                self.text("group", &grant.group);
                let until_us = u64::try_from(grant.until_s).unwrap_or(0).saturating_mul(1_000_000);
                self.text("until", &show_time(until_us));
                self.text("reason", &grant.reason);
                self.text("by", &grant.by);
            }
            Event::Gap { what } => {
                self.text("event", "gap");
                self.text("what", what.name());
                if let Gap::Torn { bytes, sha256 } = what {
                    self.number("bytes", *bytes);
                    self.text("sha256", &sha256.to_string());
                }
            }
        }
    }

    /// Marks the event that begins a file: where a file begins with another line, its own beginning was cut off.
    pub(super) fn first(&mut self) {
        self.flag("first", true);
    }

    fn key(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{key}\":");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        quote(value, &mut self.0);
    }

    fn some(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    fn personal(&mut self, key: &str, value: &str, field: Personal, hashing: &Hashing) {
        if !value.is_empty() {
            self.text(key, hashing.of(field, value).as_deref().unwrap_or(value));
        }
    }

    fn texts(&mut self, key: &str, values: impl IntoIterator<Item = impl AsRef<str>>) {
        self.key(key);
        for (index, value) in values.into_iter().enumerate() {
            self.0.push(if index == 0 { '[' } else { ',' });
            quote(value.as_ref(), &mut self.0);
        }
        self.0.push(']');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.0, "{value}");
    }

    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.key(key);
            self.0.push_str("true");
        }
    }
}

impl Gap {
    /// The word in the trail.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Gap::Torn { .. } => "torn_line",
            Gap::Unverified => "line_unverified",
            Gap::Replaced => "file_replaced",
        }
    }
}

/// A JSON string. Whatever does not print is escaped: control characters of both blocks, line and paragraph separators,
/// marks that turn the direction of writing, and what else `char::escape_debug` knows.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c if c.escape_debug().len() == 1 => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// RFC 3339 in UTC with microseconds, always of the same length, so that it sorts as text.
pub fn show_time(unix_us: u64) -> String {
    let seconds = Duration::from_secs(unix_us / 1_000_000);
    // Beyond the year 9999 the clock is broken.
    let date =
        DateTime::from_unix_duration(seconds).map_or_else(|_| "9999-12-31T23:59:59Z".to_owned(), |d| d.to_string());
    format!("{}.{:06}Z", date.trim_end_matches('Z'), unix_us % 1_000_000)
}

/// The microseconds since 1970 of a time as [`show_time`] writes it.
pub(super) fn read_time(text: &str) -> Option<u64> {
    let (date, fraction) = text.strip_suffix('Z')?.split_once('.')?;
    let date: DateTime = format!("{date}Z").parse().ok()?;
    let fraction: u64 = fraction.parse().ok().filter(|_| fraction.len() == 6)?;
    date.unix_duration().as_secs().checked_mul(1_000_000)?.checked_add(fraction)
}

/// Parts in a million as a percentage.
pub fn show_share(ppm: u32) -> String {
    let (whole, part) = (ppm / 10_000, ppm % 10_000);
    if part == 0 {
        return format!("{whole}%");
    }
    format!("{whole}.{}%", format!("{part:04}").trim_end_matches('0'))
}

/// All of it, in parts in a million.
pub const PPM: u32 = 1_000_000;

/// Rounded up: a caller that waits this long is never early.
fn whole_seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_line_and_reads_back_as_it_was() {
        for text in [
            "",
            "plain",
            "a\"b\\c",
            "\r\n\t\0\x1b[2J\x7f",
            "\u{85}\u{9b}31m",
            "\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}",
            "é漢字🦀",
            "\u{e0001}\u{10ffff}\u{fff9}",
            "\\u000a\\n",
        ] {
            let mut out = String::new();
            quote(text, &mut out);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
            assert!(
                out.chars().all(|c| !c.is_control() && !matches!(c, '\u{2028}'..='\u{202f}' | '\u{feff}')),
                "{out}"
            );
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (unix_us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_800_000_000_000_001, "2027-01-15T08:00:00.000001Z"),
            (1_800_000_000_999_999, "2027-01-15T08:00:00.999999Z"),
        ] {
            assert_eq!(show_time(unix_us), text);
            assert_eq!(read_time(text), Some(unix_us));
        }
        assert_eq!(show_time(u64::MAX).len(), 27);
        for text in ["", "2027-01-15T08:00:00Z", "2027-01-15T08:00:00.1Z", "2027-01-15T08:00:00.00000xZ", "x.000000Z"] {
            assert_eq!(read_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_hashed_field_is_what_openssl_says() {
        // printf alice | openssl dgst -sha256 -hmac key
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        assert_eq!(hashed(&key, "alice"), "hmac:76fb55e929c06b97b01c35950ee5f72f");
        assert_eq!([show_share(100_000), show_share(1), show_share(5_000)], ["10%", "0.0001%", "0.5%"]);
    }
}

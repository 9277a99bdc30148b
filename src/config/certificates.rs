//! `certificates:`: whom client certificates name.

use super::expanded::{list, put, text};
use super::file::Kind;
use super::read::{At, nearest, one_of, quote};
use crate::identity::settings::{ALTERNATIVES, ATTRIBUTES, CertificateSettings, ClaimPath};

/// Reads `certificates:`: the names of all, and those without a mistake.
pub(super) fn read(at: &At<'_>, taken: &[String]) -> (Vec<String>, Vec<CertificateSettings>) {
    let mut names = Vec::new();
    let mut checked: Vec<CertificateSettings> = Vec::new();
    for (name, key, at) in at.with_names("a sort of certificates", "a map of sorts of certificates by name") {
        // Groups and counters are told apart by it.
        if taken.iter().any(|known| known == name) {
            let what = format!("{} is also the name of an issuer, a directory or a file of keys", quote(name));
            key.refuse(what, "a name of its own");
        }
        names.push(name.to_owned());
        if let Some(all) = checked.iter().find(|before| before.require.is_empty()) {
            key.warn(format!(
                "{} is never looked at: every certificate is one of {} before it",
                quote(name),
                quote(&all.name)
            ));
        }
        checked.extend(certificate(name, &at));
    }
    (names, checked)
}

fn certificate(name: &str, at: &At<'_>) -> Option<CertificateSettings> {
    let mut section = at.section("a map with `user:`")?;
    let user = section.need("user", "subject.CN").and_then(|at| path(&at));
    let strip = section.take("strip").map(|at| at.text(STRIP).map(str::to_owned));
    let email = section.take("email").map(|at| path(&at));
    let display_name = section.take("name").map(|at| path(&at));
    let groups_at = section.take("groups");
    let groups = groups_at.map(|at| at.one_or_many(PATH).iter().filter_map(path).collect()).unwrap_or_default();
    let require = section.take("require").map(|at| require(&at)).unwrap_or_default();
    section.finish();
    Some(CertificateSettings {
        name: name.into(),
        require,
        user: user?,
        strip: strip.map_or(Some(String::new()), |strip| strip)?,
        email: email.map_or(Some(None), |path| path.map(Some))?,
        display_name: display_name.map_or(Some(None), |path| path.map(Some))?,
        groups,
    })
}

fn require(at: &At<'_>) -> Vec<(ClaimPath, Vec<String>)> {
    let named = at.named("a map of what a certificate must say: `{ issuer.CN: Fleet CA }`");
    if matches!(at.kind(), Kind::Map(entries) if entries.is_empty()) {
        at.refuse("nothing is required here", "something that a certificate must say, or no `require` at all");
    }
    let values = |at: &At<'_>| -> Vec<String> {
        at.one_or_many(VALUES).iter().filter_map(|at| at.text(VALUES).map(str::to_owned)).collect()
    };
    named.iter().filter_map(|(written, key, at)| Some((place(written, key)?, values(at)))).collect()
}

fn path(at: &At<'_>) -> Option<ClaimPath> {
    place(at.text(PATH)?, at)
}

/// The place in a certificate that `written` names.
fn place(written: &str, at: &At<'_>) -> Option<ClaimPath> {
    let path = ClaimPath::parse(written);
    let steps = path.as_ref().map(ClaimPath::steps).unwrap_or_default();
    match steps {
        [part, name] if part == "san" && ALTERNATIVES.contains(&name.as_str()) => return path,
        [part, name] if part == "subject" || part == "issuer" => {
            if ATTRIBUTES.iter().any(|(known, _)| known == name) || is_other_oid(name) {
                return path;
            }
            let known = ATTRIBUTES.map(|(known, _)| known);
            let near = nearest(name, known).map(|near| format!("{part}.{near}"));
            let expected = format!("{}; or an object identifier in quotes", one_of(&known));
            at.refuse_for(format!("{} is not an attribute of a name", quote(name)), &expected, near);
        }
        _ => {
            let near = nearest(written, ALTERNATIVE_PATHS);
            at.refuse_for(format!("{} is no place in a certificate", quote(written)), PATH, near);
        }
    }
    None
}

/// An object identifier of an attribute that has no name here: two numbers at least, none with a zero in front.
fn is_other_oid(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    text.contains('.') && text.split('.').all(number) && !ATTRIBUTES.iter().any(|(_, oid)| *oid == text)
}

/// `expanded`'s part.
pub(super) fn expand(certificates: &[CertificateSettings], out: &mut String) {
    for (index, of) in certificates.iter().enumerate() {
        *out += if index == 0 { "\ncertificates:\n" } else { "" };
        put(out, format_args!("  {}:\n    user: {}\n", text(&of.name), text(&of.user.to_string())));
        if !of.strip.is_empty() {
            put(out, format_args!("    strip: {}\n", text(&of.strip)));
        }
        for (key, path) in [("email", &of.email), ("name", &of.display_name)] {
            if let Some(path) = path {
                put(out, format_args!("    {key}: {}\n", text(&path.to_string())));
            }
        }
        if !of.groups.is_empty() {
            put(out, format_args!("    groups: {}\n", list(of.groups.iter().map(ToString::to_string))));
        }
        if !of.require.is_empty() {
            *out += "    require:\n";
            for (path, values) in &of.require {
                put(out, format_args!("      {}: {}\n", text(&path.to_string()), list(values)));
            }
        }
    }
}

/// What `check` says of them.
pub(super) fn facts(certificates: &[CertificateSettings]) -> impl Iterator<Item = String> {
    certificates.iter().map(|of| {
        let required: Vec<String> =
            of.require.iter().map(|(path, values)| format!("{path} is {}", values.join(" or "))).collect();
        let which = match required.as_slice() {
            [] => "every certificate that HAProxy verified".to_owned(),
            required => format!("certificates whose {}", required.join(" and ")),
        };
        format!("certificates {}: {which}; the user is {}", of.name, of.user)
    })
}

const PATH: &str = "a place in a certificate, such as `subject.CN`, `issuer.O`, `san.uri`, `san.email` or `san.dns`";
const STRIP: &str = "what the user's name begins with and is not part of it, such as `spiffe://acme.example/`";
const VALUES: &str = "a value, or a list of values";
const ALTERNATIVE_PATHS: [&str; 5] = ["san.uri", "san.email", "san.dns", "san.upn", "san.ip"];

//! `api_keys:`, and the files that it names.
//!
//! A file is a YAML list, as strict as the config. It is read at the start, at a reload, and by the running agent
//! whenever it changes. A line of it is never shown: whoever takes a key for its hash writes a secret there.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::error::{ConfigErrors, Problem};
use super::expanded::{put, text};
use super::file::{Node, each_item};
use super::read::{At, Report, quote};
use super::{rules, secrets, values};
use crate::identity::api_key::{KeyPrefix, redact};
use crate::identity::settings::{ApiKey, FileStamp, KeyFile};

/// A file of keys, and what is to be said about it.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub file: KeyFile,
    /// Whom its mode lets do more than it should.
    pub exposed: Option<&'static str>,
}

/// Reads the file of keys at `path`, at most 32 MiB and 100,000 keys, under the config's name for it.
pub fn read_file(name: &str, path: &Path) -> Result<Checked, ConfigErrors> {
    let unreadable = |what: String| {
        let problem =
            Problem { place: None, key: String::new(), what, expected: None, nearest: None, source_line: None };
        ConfigErrors::new(path, vec![problem])
    };
    let (written, metadata) =
        read_text(path).map_err(|error| unreadable(format!("cannot read the API keys: {error}")))?;
    check(name, path, &written, &metadata)
}

/// The same of a file that was read with [`read_text`].
pub fn check(name: &str, path: &Path, written: &str, metadata: &std::fs::Metadata) -> Result<Checked, ConfigErrors> {
    let keys = parse(written, path)?;
    let digest = digest(written);
    let file = KeyFile { name: name.into(), path: path.to_owned(), stamp: FileStamp::of(metadata), digest, keys };
    Ok(Checked { file, exposed: exposed(metadata.permissions().mode()) })
}

/// What tells one version of a file from another.
pub fn digest(written: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, written.as_bytes()).as_ref());
    digest
}

/// The keys that `written` lists. `path` is where it is from, for messages.
pub fn parse(written: &str, path: &Path) -> Result<Vec<ApiKey>, ConfigErrors> {
    parse_some(written, path, KEYS_MAX)
}

fn parse_some(written: &str, path: &Path, keys_max: usize) -> Result<Vec<ApiKey>, ConfigErrors> {
    let written = written.strip_prefix('\u{feff}').unwrap_or(written);
    let nodes_max = keys_max.saturating_mul(NODES_OF_KEY);
    // One after the other, where all is well; the whole tree of a hundred thousand keys takes ten times their memory.
    let (mut good, mut prefixes) = (Vec::new(), HashSet::new());
    let all_good = each_item(written, nodes_max, |node| {
        let report = Report::new("");
        let Some((key, _)) = key(&report.at(&node)) else { return false };
        let is_good = report.errors() == 0 && good.len() < keys_max && prefixes.insert(key.prefix);
        good.push(key);
        is_good
    });
    if all_good {
        return Ok(good);
    }
    let root = Node::parse_list(written, nodes_max).map_err(|error| {
        let what = redact(&format!("this is not YAML: {}", error.message));
        let place = Some(error.place);
        let problem = Problem { place, key: String::new(), what, expected: None, nearest: None, source_line: None };
        ConfigErrors::new(path, vec![problem])
    })?;
    let report = Report::new(written);
    let keys = keys(&report.at(&root), &report, keys_max);
    let (mut errors, _) = report.finish();
    if errors.is_empty() {
        return Ok(keys);
    }
    for problem in &mut errors {
        problem.source_line = None;
        problem.what = redact(&problem.what);
        problem.key = redact(&problem.key);
    }
    Err(ConfigErrors::new(path, errors))
}

/// One entry as it stands in a file, each line but the first indented as the first, which begins with `- `.
pub fn entry(key: &ApiKey, indent: &str) -> String {
    let mut out = String::new();
    // Everything in quotes: a prefix of digits is text, and a reader of another kind must not take it for a number.
    put(&mut out, format_args!("{indent}- prefix: \"{}\"\n", key.prefix));
    put(&mut out, format_args!("{indent}  sha256: \"{}\"\n", hex(&key.sha256)));
    put(&mut out, format_args!("{indent}  user: {}\n", text(&key.user)));
    for (name, list) in [("groups", &key.groups), ("scopes", &key.scopes)] {
        if !list.is_empty() {
            put(&mut out, format_args!("{indent}  {name}: {}\n", super::expanded::list(list)));
        }
    }
    if let Some(expires) = key.expires_at_s {
        put(&mut out, format_args!("{indent}  expires: {}\n", values::show_date(expires)));
    }
    if let Some(note) = &key.note {
        put(&mut out, format_args!("{indent}  note: {}\n", text(note)));
    }
    out
}

/// Reads `api_keys:`: the names of all, and the files without a mistake.
pub(super) fn read(at: &At<'_>, directory: &Path, taken: &[String]) -> (Vec<String>, Vec<KeyFile>) {
    let mut names = Vec::new();
    let mut files: Vec<KeyFile> = Vec::new();
    for (name, key, at) in at.with_names("a file of API keys", "a map of files of API keys by name") {
        // Groups and counters are told apart by it.
        if taken.iter().any(|known| known == name) {
            key.refuse(format!("{} is also the name of an issuer or a directory", quote(name)), "a name of its own");
        }
        names.push(name.to_owned());
        let Some(mut section) = at.section("a map: `partners: { file: partners.keys }`") else { continue };
        let file_at = section.need("file", "partners.keys");
        section.finish();
        let Some(path) = file_at.as_ref().and_then(|at| at.text(FILE)) else { continue };
        let Some(file_at) = file_at else { continue };
        let path = directory.join(path);
        match read_file(name, &path) {
            Err(errors) => refuse(&file_at, &errors),
            Ok(Checked { file, exposed }) => {
                if let Some(exposed) = exposed {
                    file_at.warn(format!("{}: {exposed}", path.display()));
                }
                let seen = files.iter().flat_map(|file| &file.keys);
                let seen: HashMap<KeyPrefix, ()> = seen.map(|key| (key.prefix, ())).collect();
                if let Some(twice) = file.keys.iter().find(|key| seen.contains_key(&key.prefix)) {
                    file_at.refuse(format!("the prefix {} is in another file too", twice.prefix), "each key once");
                }
                files.push(file);
            }
        }
    }
    (names, files)
}

/// What is wrong with a file, at the place of the config that names it.
fn refuse(at: &At<'_>, errors: &ConfigErrors) {
    let problems = errors.problems();
    let Some(first) = problems.first() else { return };
    let what = first.in_file(errors.file());
    // The problem's own expectation is in its second line.
    let (what, expected) = what.split_once("\n  expected ").unwrap_or((&what, ""));
    let what = what.lines().next().unwrap_or_default();
    let more = match problems.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    at.refuse(format!("{what}{more}"), expected.lines().next().unwrap_or_default());
}

/// `expanded`'s part.
pub(super) fn expand(files: &[KeyFile], out: &mut String) {
    for (index, file) in files.iter().enumerate() {
        *out += if index == 0 { "\napi_keys:\n" } else { "" };
        let path = secrets::absolute(&file.path);
        put(out, format_args!("  {}: {{ file: {} }}\n", text(&file.name), text(&path.to_string_lossy())));
    }
}

/// What `check` says of them.
pub(super) fn facts(files: &[KeyFile]) -> impl Iterator<Item = String> {
    files.iter().map(|file| {
        let lasting = file.keys.iter().filter(|key| key.expires_at_s.is_none()).count();
        let mut fact = format!("API keys {}: {} in {}", file.name, file.keys.len(), file.path.display());
        if lasting > 0 {
            // Writing to a String cannot fail.
            let _ = write!(fact, ", {lasting} of them without an end");
        }
        fact
    })
}

fn keys(at: &At<'_>, report: &Report<'_>, keys_max: usize) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    let mut lines: HashMap<KeyPrefix, u32> = HashMap::new();
    let Some(items) = at.list_or_none(LIST) else { return keys };
    if items.len() > keys_max {
        at.refuse(format!("these are {} keys", items.len()), format!("at most {keys_max}"));
        return keys;
    }
    for at in items {
        if report.errors() >= PROBLEMS_MAX {
            break;
        }
        let Some((key, prefix_at)) = key(&at) else { continue };
        if let Some(line) = lines.insert(key.prefix, prefix_at.place.line) {
            prefix_at.refuse(format!("{} is also the prefix of the key on line {line}", key.prefix), "each key once");
        }
        keys.push(key);
    }
    keys
}

fn key<'a>(at: &At<'a>) -> Option<(ApiKey, At<'a>)> {
    let mut section = at.section(ENTRY)?;
    let prefix_at = section.need("prefix", "Ab3dE5g7");
    let prefix = prefix_at.as_ref().and_then(|at| unshown(at, PREFIX, KeyPrefix::parse));
    let sha256 = section.need("sha256", "…").and_then(|at| unshown(&at, SHA256, unhex));
    let user = section.need("user", "alice").and_then(|at| at.text(USER).map(str::to_owned));
    let several = |at: Option<At<'_>>, read: &dyn Fn(&At<'_>) -> Option<String>, expected: &str| -> Vec<String> {
        at.map(|at| at.one_or_many(expected)).unwrap_or_default().iter().filter_map(read).collect()
    };
    let groups = several(section.take("groups"), &|at| at.text(GROUPS).map(str::to_owned), GROUPS);
    let scopes = several(section.take("scopes"), &rules::scope, "a list of scopes");
    let expires = section.take("expires").map(|at| at.parsed("a date", EXPIRES, values::date));
    let note = section.take("note").map(|at| at.text("a note").map(str::to_owned));
    section.finish();
    let key = ApiKey {
        prefix: prefix?,
        sha256: sha256?,
        user: user?,
        groups,
        scopes,
        expires_at_s: expires.map_or(Some(None), |expires| expires.map(Some))?,
        note: note.unwrap_or(None),
    };
    Some((key, prefix_at?))
}

/// A value that may be a secret in the wrong place.
fn unshown<T>(at: &At<'_>, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let value = at.as_text().and_then(parse);
    if value.is_none() {
        at.refuse_unshown("this is something else", expected);
    }
    value
}

/// The text of a file of keys, with what the system says about that very file.
pub fn read_text(path: &Path) -> std::io::Result<(String, std::fs::Metadata)> {
    // Before it is opened: opening a pipe would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let file = std::fs::File::open(path)?;
    // Of what is open, not of what has the name by now.
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {} MiB", BYTES_MAX / (1024 * 1024))));
    }
    let text = String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))?;
    Ok((text, metadata))
}

/// Hashes of 256 random bits help nobody who reads them, but names, groups and notes are nobody else's business. That its
/// group reads it is how a file of root's is given to the agent.
pub fn exposed(mode: u32) -> Option<&'static str> {
    match mode {
        _ if mode & 0o022 != 0 => Some("others than its owner may write it, and whoever does makes keys; `chmod go-w`"),
        _ if mode & 0o004 != 0 => Some("everybody may read it; `chmod o-r`"),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The date as an entry has it.
pub fn show_expiry(seconds: i64) -> String {
    values::show_date(seconds)
}

const FILE: &str = "the path of a file of API keys, relative to the config's directory";
const LIST: &str = "a list of keys, as `tollgate api-key new` writes them; `[]` for none";
const ENTRY: &str = "a map with `prefix:`, `sha256:` and `user:`";
const PREFIX: &str = "the eight letters and digits between `tg_` and the next `_` of the key, in quotes";
const SHA256: &str = "64 hexadecimal digits: the SHA-256 of the whole key";
const USER: &str = "the name of a user";
const GROUPS: &str = "a list of groups";
const EXPIRES: &str = "the first moment at which it is refused, in UTC: `2027-01-01` or `2027-01-01T12:00:00Z`";

/// Room for 330 bytes a key; as they are made, with a note, they have some 180.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Some 800 bytes each, once they are in force.
const KEYS_MAX: usize = 100_000;

/// A key has some 18: a map, seven members with their names and values, two lists, and what is in them.
const NODES_OF_KEY: usize = 25;

/// Whoever gave the wrong file has seen enough.
const PROBLEMS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::api_key::make;

    #[test]
    fn an_entry_reads_back_as_it_was() {
        let made = make().unwrap();
        for (prefix, expires_at_s, note) in [
            (made.prefix, None, None),
            (
                KeyPrefix::parse("12345678").unwrap(),
                Some(1_800_000_000),
                Some("CI: \"main\" # not a comment".to_owned()),
            ),
            (KeyPrefix::parse("1e999999").unwrap(), Some(1_798_761_600), Some("yes".to_owned())),
        ] {
            let key = ApiKey {
                prefix,
                sha256: made.sha256,
                user: "a: b, \"c\"".to_owned(),
                groups: vec!["ops".to_owned(), "no".to_owned(), "x, y".to_owned()],
                scopes: vec!["read".to_owned()],
                expires_at_s,
                note,
            };
            for indent in ["", "  "] {
                let text = format!("# keys\n{}{}", entry(&key, indent), entry(&key, indent).replace("user", "note"));
                let errors = parse(&text, Path::new("k")).unwrap_err();
                assert!(errors.to_string().contains("`user` is missing"), "{errors}");
                assert_eq!(parse(&entry(&key, indent), Path::new("k")), Ok(vec![key.clone()]), "{text}");
            }
        }
    }

    #[test]
    fn every_mistake_in_a_file_has_its_place() {
        let hash = "ab".repeat(32);
        let good = format!("- {{ prefix: Ab3dE5g7, sha256: {hash}, user: alice }}\n");
        for (text, expected) in [
            ("".to_owned(), "k:1:1: there is nothing here"),
            ("# nothing\n".to_owned(), "there is nothing here"),
            ("a: 1".to_owned(), "k:1:1: this is a map"),
            ("- a".to_owned(), "k:1:3: [0]: `a` is text"),
            ("- [".to_owned(), "this is not YAML"),
            (format!("{good}{good}"), "k:2:13: [1].prefix: Ab3dE5g7 is also the prefix of the key on line 1"),
            (good.replace("user", "usr"), "k:1:97: [0].usr: unknown key `usr`"),
            (good.replace("alice }", "alice, groups: [] }"), "[0].groups: this list is empty"),
            (good.replace("alice }", "alice, expires: 2027-02-30 }"), "[0].expires: `2027-02-30` is not a date"),
            (good.replace("alice }", "alice, expires: 90d }"), "[0].expires: `90d` is not a date"),
            (good.replace("alice }", "alice, scopes: 'a b' }"), "[0].scopes: `a b` is not one scope"),
            (good.replace("alice", "\"a\\n\""), "[0].user: `a\\n` has a control character"),
            (good.replace("alice", "7"), "[0].user: `7` is a number"),
            (good.replace("Ab3dE5g7", "12345678"), "[0].prefix: this is something else\n  expected the eight letters"),
            (good.replace("Ab3dE5g7", "Ab3dE5g"), "[0].prefix: this is something else"),
            (good.replace(&hash, &hash[1..]), "[0].sha256: this is something else"),
            (good.replace(&hash, &hash.replace('a', "g")), "[0].sha256: this is something else"),
        ] {
            let errors = parse(&text, Path::new("k")).expect_err(&text).to_string();
            assert!(errors.contains(expected), "{text}\n{errors}");
        }
        assert_eq!(parse("[]", Path::new("k")), Ok(Vec::new()));
        let one = parse(&good.replace(&hash, &hash.to_uppercase()), Path::new("k")).unwrap();
        assert_eq!((one[0].sha256, &*one[0].user, one[0].expires_at_s), ([0xab; 32], "alice", None));
        let many = parse(&format!("{}\n", "- x\n".repeat(1000)), Path::new("k")).unwrap_err();
        assert_eq!(many.problems().len(), PROBLEMS_MAX);
    }

    #[test]
    fn a_key_in_the_wrong_place_is_in_no_message() {
        let key = make().unwrap();
        let (secret, key) = (key.text[12..].to_owned(), &*key.text);
        for text in [
            format!("- {{ prefix: {key}, sha256: x, user: a }}"),
            format!("- {{ prefix: Ab3dE5g7, sha256: {key}, user: a }}"),
            format!("- {{ {key}: alice }}"),
            format!("- {key}"),
            format!("{key}: {{ user: alice }}"),
            format!("- {{ prefix: Ab3dE5g7, {key}: 1, {key}: 2 }}"),
            format!("- {{ prefix: Ab3dE5g7, expires: {key} }}"),
            format!("- {{ prefix: \"{key}"),
            format!("- *{key}"),
        ] {
            let errors = parse(&text, Path::new("k")).expect_err(&text).to_string();
            assert!(!errors.contains(&secret), "{text}\n{errors}");
        }
    }

    #[test]
    fn as_many_keys_as_may_be_are_read_and_no_more() {
        let line = |index: usize| {
            let hash = format!("{index:064x}");
            format!(
                "- {{ prefix: \"{index:08}\", sha256: \"{hash}\", user: u, groups: [a, b, c], scopes: [d, e], \
                 expires: 2027-01-01, note: n }}\n"
            )
        };
        let text: String = (0..1000).map(line).collect();
        assert_eq!(parse_some(&text, Path::new("k"), 1000).map(|keys| keys.len()), Ok(1000));
        let errors = parse_some(&(text + &line(1000)), Path::new("k"), 1000).unwrap_err();
        assert!(errors.to_string().contains("these are 1001 keys"), "{errors}");
    }

    #[test]
    fn what_others_may_do_is_said() {
        for (mode, expected) in [
            (0o100600, None),
            (0o100640, None),
            (0o100644, Some("everybody may read it")),
            (0o100660, Some("others than its owner may write it")),
            (0o100602, Some("others than its owner may write it")),
        ] {
            let said = exposed(mode);
            assert_eq!(
                said.map(|said| expected.is_some_and(|expected| said.starts_with(expected))),
                expected.map(|_| true)
            );
        }
    }
}

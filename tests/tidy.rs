//! The walls between modules (docs/architecture.md), as data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which module may name which, tests aside. `lib` is the map of all.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("secret", &[]),
    ("request", &[]),
    ("trace", &[]),
    ("spop", &[]),
    ("supervise", &[]),
    ("link", &["clock", "secret", "supervise"]),
    ("limit", &["clock", "link", "secret", "trace"]),
    ("identity", &["clock", "link", "request", "secret", "trace"]),
    ("extract", &["request", "spop"]),
    ("policy", &["clock", "identity", "limit", "request", "trace"]),
    ("decision", &["identity", "limit", "policy"]),
    ("respond", &["decision", "identity", "limit", "policy", "spop"]),
    (
        "pipeline",
        &["clock", "decision", "extract", "identity", "limit", "policy", "request", "respond", "spop", "trace"],
    ),
    ("replay", &["clock", "decision", "identity", "policy", "request", "trace"]),
    ("explain", &["clock", "decision", "identity", "pipeline", "respond", "secret", "spop", "trace"]),
    ("top", &["clock", "decision"]),
    ("telemetry", &["decision", "top"]),
    ("audit", &["clock", "decision", "identity", "secret", "supervise"]),
    // `decision` and `respond` are the words that `pipeline` speaks in.
    ("haproxy", &["policy", "server"]),
    ("server", &["audit", "clock", "decision", "pipeline", "respond", "secret", "spop", "supervise", "telemetry"]),
    ("config", &["audit", "decision", "haproxy", "identity", "limit", "link", "policy", "secret", "server"]),
    ("dev_idp", &["clock"]),
    ("doctor", &[]),
];

/// What may stand only in some files: the text, the files (prefixes under `src/`), and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("Instant::now", &["clock.rs", "bin/spop-harness/"], "a request is decided on one `Now`; the harness measures"),
    ("SystemTime::now", &["clock.rs"], "a request is decided on one `Now`"),
    ("UNIX_EPOCH", &["clock.rs"], "a request is decided on one `Now`"),
    ("nom::", &["spop/"], "nom is spop's own affair"),
    ("reqwest", &["identity/outbound.rs"], "outbound HTTP has one place"),
    (" redis::", &["link/", "limit/lua.rs", "limit/redis.rs", "limit/settle.rs"], "Redis has one place"),
    (
        "tokio_rustls",
        &["identity/ldap/", "identity/tests/", "link/dial.rs"],
        "outbound TLS that is not HTTP is LDAP's and Redis's",
    ),
    ("WWW-Authenticate", &["respond.rs"], "HTTP's words for a refusal have one place"),
    ("prometheus_client", &["telemetry.rs"], "metric names have one place"),
    ("thread_rng", &[], "randomness comes from the operating system through aws-lc-rs"),
    (" rand::", &[], "randomness comes from the operating system through aws-lc-rs"),
    ("(rand::", &[], "randomness comes from the operating system through aws-lc-rs"),
    ("fastrand", &["bin/spop-harness/"], "randomness comes from the operating system through aws-lc-rs"),
    ("unsafe ", &[], "our own code is safe code"),
];

#[test]
fn modules_name_only_what_the_architecture_lets_them() {
    let mut breaches = Vec::new();
    let allowed: BTreeMap<_, _> = MAY_NAME.iter().copied().collect();
    for (file, code) in library() {
        let module = module_of(&file);
        let Some(allowed) = allowed.get(module.as_str()) else {
            breaches.push(format!("{}: module `{module}` has no row in MAY_NAME", file.display()));
            continue;
        };
        for named in names(&code) {
            if named != module && !allowed.contains(&named.as_str()) {
                breaches.push(format!("{}: `{module}` may not name `{named}`", file.display()));
            }
        }
        let depth = file.components().count();
        let escape = "super::".repeat(depth);
        if code.contains(&escape) {
            breaches.push(format!("{}: `{escape}` goes around the wall", file.display()));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn what_has_one_place_stands_there_only() {
    let mut breaches = Vec::new();
    for (file, code) in library().into_iter().chain(programs()) {
        for (text, places, why) in ONLY_IN {
            let at_home = places.iter().any(|place| file.to_string_lossy().starts_with(place));
            if !at_home && code.lines().any(|line| !is_comment(line) && line.contains(text)) {
                breaches.push(format!("{}: `{text}`: {why}", file.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_module_has_a_row_and_every_row_a_module() {
    let mut modules: Vec<_> = library().iter().map(|(file, _)| module_of(file)).collect();
    modules.sort();
    modules.dedup();
    let mut rows: Vec<_> = MAY_NAME.iter().map(|(module, _)| (*module).to_owned()).collect();
    rows.sort();
    assert_eq!(modules, rows);
}

#[test]
fn the_wall_test_sees_a_breach() {
    assert_eq!(names("use crate::limit::{Quota};\nlet x = crate::spop::Agent;"), ["limit", "spop"]);
    assert!(names("#[cfg(test)]\nuse crate::limit::Quota;").is_empty(), "tests may name anything");
}

/// The modules that code before its tests names.
fn names(code: &str) -> Vec<String> {
    without_tests(code)
        .split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Tests stand last in a file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]").next().unwrap_or_default()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Files of the library with their code, without the map and without files that are tests as a whole.
fn library() -> Vec<(PathBuf, String)> {
    let mut files = sources(|file| {
        let first = file.components().next().map(|part| part.as_os_str().to_owned());
        let program = ["main.rs", "commands", "bin"].into_iter().any(|name| first.as_deref() == Some(name.as_ref()));
        let tests = file.file_stem().is_some_and(|stem| {
            let stem = stem.to_string_lossy();
            stem == "tests" || stem == "testing" || stem.ends_with("_tests")
        });
        !program && !tests && file != Path::new("lib.rs")
    });
    for (_, code) in &mut files {
        *code = without_tests(code).to_owned();
    }
    files
}

fn programs() -> Vec<(PathBuf, String)> {
    sources(|file| file.starts_with("commands") || file.starts_with("bin") || file == Path::new("main.rs"))
}

fn sources(wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&root).unwrap().to_owned();
                if wanted(&file) {
                    found.push((file, fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    assert!(!found.is_empty(), "no sources found");
    found
}

fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

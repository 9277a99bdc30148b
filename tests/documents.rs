//! README, docs and the files of `haproxy/` say what is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tollgate::config;

use crate::support::root;

#[test]
fn every_shipped_config_loads() {
    for file in ["tollgate.yaml", "tollgate-redis.yaml"] {
        let path = root().join("haproxy").join(file);
        let loaded = config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty(), "{file}: {:?}", loaded.warnings);
    }
}

#[test]
fn every_config_in_the_documents_loads() {
    let mut loaded = 0;
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for block in blocks(&text, "yaml") {
            // As if it stood beside the shipped files, which is where a reader would put it.
            let path = root().join("haproxy/tollgate.yaml");
            config::parse(block, &path).unwrap_or_else(|errors| panic!("in {}:\n{block}\n{errors}", file.display()));
            loaded += 1;
        }
    }
    assert!(loaded > 0, "no config found");
}

#[test]
fn the_haproxy_lines_in_the_readme_are_the_shipped_ones() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shipped: String = ["haproxy.cfg", "spoe-tollgate.conf"]
        .map(|file| fs::read_to_string(root().join("haproxy").join(file)).unwrap())
        .concat();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shipped: BTreeSet<_> = shipped.lines().map(words).collect();
    let mut compared = 0;
    for block in blocks(&readme, "haproxy") {
        for line in block.lines().map(words).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert!(shipped.contains(&line), "not in haproxy/: {line}");
            compared += 1;
        }
    }
    assert!(compared > 10, "the README shows how to wire HAProxy");
}

/// Whoever writes the README's lines into their own files has nothing left open.
#[test]
fn the_doctor_finds_nothing_in_the_lines_of_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (backends, front): (Vec<_>, Vec<_>) =
        blocks(&readme, "haproxy").into_iter().partition(|block| block.trim_start().starts_with("backend "));
    let front: String = front
        .concat()
        .lines()
        .filter(|line| !line.starts_with("default-path"))
        .fold(String::new(), |front, line| front + "    " + line + "\n");
    let text = format!(
        "global\n    default-path config\n\ndefaults base\n    mode http\n    timeout client 1m\n    timeout connect 1s\n    \
         timeout server 1m\n\nfrontend public from base\n    bind 127.0.0.1:8080\n{front}    default_backend std\n\n\
         backend std from base\n    server w1 127.0.0.1:8001\n\nbackend fast from base\n    server w1 127.0.0.1:8002\n\n{}",
        backends.concat()
    );
    let folder = crate::support::folder();
    let cfg = folder.path().join("haproxy.cfg");
    fs::write(&cfg, &text).unwrap();
    fs::copy(root().join("haproxy/spoe-tollgate.conf"), folder.path().join("spoe-tollgate.conf")).unwrap();
    let report = crate::doctor::examine(&cfg, &crate::doctor::settings());
    assert!(report.findings.is_empty(), "{:#?}\n{text}", report.findings);
}

#[test]
fn the_names_of_expressions_are_listed() {
    use tollgate::policy::condition::{FUNCTIONS, MACROS, NAMES};
    let text = fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let table: Vec<_> = text.lines().skip_while(|line| !line.starts_with("| name | type |")).skip(2).collect();
    let rows = NAMES.map(|(name, kind, what)| format!("| `{name}` | {kind} | {what} |"));
    assert_eq!(table.iter().take(NAMES.len()).collect::<Vec<_>>(), rows.iter().collect::<Vec<_>>());
    assert_eq!(table.get(NAMES.len()), Some(&""));
    for name in FUNCTIONS.into_iter().chain(MACROS) {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_readme_explains_every_reason_and_no_other() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let start = readme.find("| reason |").expect("README has a table of reasons");
    let explained: BTreeSet<_> = readme[start..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('`').nth(1).expect("a code in the first column").to_owned())
        .collect();
    let mut coded: BTreeSet<String> = tollgate::decision::Reason::CODES.iter().map(|code| (*code).to_owned()).collect();
    coded.extend(tollgate::identity::Rejection::ALL.iter().map(|rejection| rejection.code().to_owned()));
    // HAProxy's own two, in the bodies that the shipped config words.
    coded.extend(["duplicate_field", "agent_unreachable"].map(str::to_owned));
    assert_eq!(explained, coded);
}

#[test]
fn the_documents_name_files_that_are_there() {
    let mut missing = Vec::new();
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !file.parent().unwrap().join(target).exists() {
                missing.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_command_lines_in_the_documents_have_flags_that_the_programs_know() {
    let programs = [("tollgate", env!("CARGO_BIN_EXE_tollgate")), ("spop-harness", env!("CARGO_BIN_EXE_spop-harness"))];
    let canaries = said(programs[1].1, &["fuzz", "--list-canaries"]).unwrap();
    let canaries: BTreeSet<_> = canaries.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let (mut flags_known, mut wrong, mut checked) = (BTreeMap::new(), Vec::new(), 0);
    for file in documents() {
        for line in command_lines(&fs::read_to_string(&file).unwrap()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let Some((_, program)) = programs.iter().find(|(name, _)| words[0] == *name) else { continue };
            // These have subcommands of their own.
            let subcommand = &words[1..if ["api-key", "audit"].contains(&words[1]) { 3 } else { 2 }];
            let known = flags_known.entry((words[0].to_owned(), subcommand.join(" "))).or_insert_with(|| {
                let help = said(program, &[subcommand, &["--help"]].concat()).unwrap_or_default();
                let words = help.split([' ', ',', '\n', '[', ']', '=']);
                words.filter(|word| word.starts_with("--")).map(str::to_owned).collect::<BTreeSet<_>>()
            });
            let mut complain = |what: &str| wrong.push(format!("{}: {what}: {line}", file.display()));
            // A subcommand that is not one has no help.
            if known.is_empty() {
                complain("no such subcommand");
            }
            for (index, word) in words.iter().enumerate().filter(|(_, word)| word.starts_with("--")) {
                let (flag, value) = word.split_once('=').unwrap_or((word, words.get(index + 1).unwrap_or(&"")));
                if !known.contains(flag) {
                    complain(&format!("no such flag as {flag}"));
                }
                if flag == "--canary" && !canaries.contains(value) {
                    complain(&format!("no such canary as {value}"));
                }
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 15, "only {checked} lines found");
}

/// What a program prints; `None` where it fails.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// The lines of fenced blocks that begin with the name of a program and a subcommand, without their comments; lines that
/// end in a backslash go on in the next.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        for line in block.replace("\\\n", " ").lines().skip(1) {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let mut words = line.split_whitespace();
            let program = words.next().is_some_and(|word| ["tollgate", "spop-harness"].contains(&word));
            let subcommand =
                words.next().is_some_and(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
            lines.extend((program && subcommand).then(|| line.to_owned()));
        }
    }
    lines
}

#[test]
fn command_lines_are_found() {
    let text = "a\n```sh\ntollgate run --x y  # why\ntollgate.yaml is good\n```\ntollgate no\n```\n  spop-harness fuzz \\\n  --seed 1\n```\n";
    assert_eq!(command_lines(text), ["tollgate run --x y", "spop-harness fuzz    --seed 1"]);
}

fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    found.extend(files(&root().join("docs"), "md"));
    found
}

/// The files of a folder and all below it that end so.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension() == Some(extension.as_ref()) {
            found.push(path);
        }
    }
    found
}

/// The fenced blocks whose info string is exactly `language`.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence as &str).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn blocks_are_found() {
    assert_eq!(blocks("a\n```yaml\nx: 1\n```\n```yaml fragment\ny\n```\n", "yaml"), ["x: 1\n"]);
    assert!(Path::new(root()).is_dir());
}

/// docs/spop.md says of each rule which test shows it, docs/identity.md of each failure.
#[test]
fn the_tests_that_the_documents_name_exist() {
    let mut named = BTreeSet::new();
    for (file, tests_min) in [("docs/spop.md", 20), ("docs/identity.md", 20), ("docs/operations.md", 27)] {
        let before = named.len();
        for row in fs::read_to_string(root().join(file)).unwrap().lines().filter(|line| line.starts_with('|')) {
            named.extend(tests_in(row));
        }
        assert!(named.len() > before + tests_min, "{file}: {named:?}");
    }
    let mut sources = String::new();
    for file in ["src", "tests"].into_iter().flat_map(|folder| files(&root().join(folder), "rs")) {
        sources.push_str(&fs::read_to_string(file).unwrap());
    }
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");
}

/// A test's name is a sentence; nothing else in these tables has so many underscores.
fn tests_in(row: &str) -> impl Iterator<Item = String> {
    let words = row.split('`').skip(1).step_by(2).map(str::to_owned);
    let metric = |word: &str| word.starts_with("issuer_") || word.starts_with("tollgate_");
    words.filter(move |word| word.matches('_').count() >= 3 && !metric(word) && !word.contains([' ', '.', ':']))
}

#[test]
fn every_failure_of_a_provider_and_of_redis_names_its_test() {
    for (file, section, rows_min) in
        [("docs/identity.md", "## When the provider fails", 20), ("docs/operations.md", "## When Redis fails", 15)]
    {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let table = text.split(section).nth(1).expect("the section is there");
        let rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
        assert!(rows.len() > rows_min, "{} rows of {section}", rows.len());
        for row in rows {
            assert!(tests_in(row).next().is_some(), "{row}");
        }
    }
}

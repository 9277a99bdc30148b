//! The programs as a person runs them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{folder, root};

fn tollgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).current_dir(root()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const SHIPPED: &str = "haproxy/tollgate.yaml";

#[test]
fn exit_codes_say_whose_fault_it_was() {
    let folder = folder();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "rulez: []\n").unwrap();
    let bad = bad.to_str().unwrap();
    for (arguments, code) in [
        (vec!["check", "--config", SHIPPED], 0),
        (vec!["check", "--config", bad], 64),
        (vec!["run", "--config", bad], 64),
        (vec!["explain", "--config", bad, "--method", "GET", "--url", "http://a/"], 64),
        (vec!["check", "--config", "/nowhere.yaml"], 64),
        (vec!["check"], 2),
        (vec!["chekc"], 2),
        (vec!["dev-idp", "--listen", "192.0.2.1:9400"], 1),
        (vec!["run", "--config", SHIPPED, "--spop-listen", "unix:/nowhere/x.sock"], 1),
        (vec!["run", "--config", SHIPPED, "--spop-listen", "tcp:0.0.0.0:0"], 64),
        (vec!["run", "--config", SHIPPED, "--admin-listen", "tcp:0.0.0.0:0"], 64),
        // Without Redis nobody would hear of it.
        (vec!["revoke", "--config", SHIPPED, "list"], 64),
        (vec!["revoke", "--config", SHIPPED], 2),
        (vec!["revoke", "--config", SHIPPED, "token", "eyJ.e30.x"], 2),
        (vec!["completions", "bash"], 0),
        (vec!["--help"], 0),
    ] {
        let output = tollgate(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}{}", stdout(&output), stderr(&output));
    }
    let said = stderr(&tollgate(&["check", "--config", bad]));
    assert!(said.contains("bad.yaml:1:1") && said.contains("rulez") && said.contains("did you mean `rules`"), "{said}");
}

#[test]
fn check_prints_what_follows_from_the_config_and_expands_it() {
    let output = tollgate(&["check", "--config", SHIPPED]);
    let said = stdout(&output);
    assert!(said.contains("per-user") && said.contains("at most"), "the bound of each limit: {said}");
    let output = tollgate(&["check", "--config", SHIPPED, "--expanded"]);
    let expanded = stdout(&output);
    // The expansion is a config of its own.
    let folder = folder();
    let path = folder.path().join("expanded.yaml");
    std::fs::write(&path, &expanded).unwrap();
    let again = tollgate(&["check", "--config", path.to_str().unwrap(), "--expanded"]);
    assert_eq!(stdout(&again), expanded, "{}", stderr(&again));
}

#[test]
fn explain_says_each_step_and_holds_itself_to_an_expectation() {
    let explain = |more: &[&str]| {
        let mut arguments = vec!["explain", "--config", SHIPPED, "--offline"];
        arguments.extend(more);
        tollgate(&arguments)
    };
    let health = ["--method", "GET", "--url", "http://127.0.0.1:8080/healthz"];
    let admin = ["--method", "GET", "--url", "http://127.0.0.1:8080/admin/x"];
    let output = explain(&[&health[..], &["--expect", "allow"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("rule `health`"), "{}", stdout(&output));
    assert_eq!(explain(&[&admin[..], &["--expect", "401"]].concat()).status.code(), Some(0));
    assert_eq!(explain(&[&admin[..], &["--expect", "allow"]].concat()).status.code(), Some(3));

    let output = explain(&[&admin[..], &["--json"]].concat());
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!([&said["verdict"], &said["reason"], &said["rule"]], ["challenge", "credential_missing", "admin"]);
    assert!(said["steps"].as_array().unwrap().len() > 2, "{said}");

    // A token is never said back.
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjk0MDAifQ.c2lnbmF0dXJl";
    let output = explain(&[&admin[..], &["--token", token, "--json"]].concat());
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!([&said["verdict"], &said["reason"]], ["error", "no_keys"], "offline and without a key set");
    assert!(!stdout(&output).contains("c2lnbmF0dXJl"));
}

#[test]
fn explain_takes_the_path_as_typed() {
    let output = tollgate(&[
        "explain",
        "--config",
        SHIPPED,
        "--offline",
        "--method",
        "GET",
        "--url",
        "http://a/public/../admin",
        "--expect",
        "400",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("dot segment"), "{}", stdout(&output));
}

#[test]
fn the_configs_own_tests_run_and_fail_when_they_should() {
    let folder = folder();
    let write = |expect: &str| {
        let path = folder.path().join("t.yaml");
        let text = std::fs::read_to_string(root().join(SHIPPED)).unwrap();
        let tests = format!(
            "\ntests:\n  - {{ as: {{ issuer: acme, groups: [platform-ops] }}, request: GET https://a.example/admin/x, expect: allow }}\n  - {{ as: anonymous, request: GET https://a.example/admin/x, expect: {expect} }}\n"
        );
        std::fs::write(&path, text + &tests).unwrap();
        path
    };
    let run = |path: &Path| tollgate(&["test", "--config", path.to_str().unwrap()]);
    let good = run(&write("401"));
    assert_eq!(good.status.code(), Some(0), "{}{}", stdout(&good), stderr(&good));
    assert!(stdout(&good).contains("2 passed, 0 failed"), "{}", stdout(&good));
    let bad = run(&write("allow"));
    assert_eq!(bad.status.code(), Some(3));
    assert!(stdout(&bad).contains("1 passed, 1 failed") && stdout(&bad).contains("challenge"), "{}", stdout(&bad));
}

#[test]
fn revoking_says_what_it_cannot_do() {
    let folder = folder();
    let path = folder.path().join("t.yaml");
    let text = std::fs::read_to_string(root().join(SHIPPED)).unwrap();
    // Nobody listens there.
    let redis = format!("redis+unix://{}/no.sock", folder.path().display());
    std::fs::write(&path, format!("{text}\ncounters: {{ redis: \"{redis}\" }}\n")).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (two, empty) = (write("two", "eyJ.e30.x\neyJ.e30.y\n"), write("empty", "\n"));
    for (arguments, code, expected) in [
        (vec!["list"], 1, "cannot be changed or read: Redis"),
        (vec!["subject", "acme", "alice"], 1, "cannot be changed or read: Redis"),
        (vec!["subject", "acmee", "alice"], 1, "no issuer \"acmee\", expected one of: `acme`"),
        (vec!["token", "--token-file", &two], 1, "does not hold one token"),
        (vec!["token", "--token-file", &empty], 1, "does not hold one token"),
        (vec!["token", "--token-file", "/nowhere/token"], 1, "cannot read /nowhere/token"),
        (vec!["undo", "7"], 2, "sixteen hex digits"),
    ] {
        let output = tollgate(&[&["revoke", "--config", path.to_str().unwrap()][..], &arguments].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn completions_know_every_subcommand() {
    let output = tollgate(&["completions", "bash"]);
    for name in ["run", "check", "explain", "test", "revoke", "dev-idp", "completions"] {
        assert!(stdout(&output).contains(name), "{name}");
    }
}

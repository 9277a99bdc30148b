//! The programs as a person runs them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::tls::{Ca, Says};
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
fn explain_says_of_each_part_of_a_requirement_whether_it_is_met() {
    let folder = crate::support::folder();
    let config = folder.path().join("tollgate.yaml");
    let text = r#"
rules:
  - name: app
    allow:
      anyone: true
      any: [{ src: 10.0.0.0/8, time: { after: 2126-01-01 } }, { when: "path.startsWith('/y')" }]
      not: { src: 192.0.2.0/24 }
"#;
    std::fs::write(&config, text).unwrap();
    let arguments = ["explain", "--offline", "--url", "https://a.example/x", "--src", "10.1.2.3", "--config"];
    let output = tollgate(&[&arguments[..], &[config.to_str().unwrap()]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "ok  authorize  any[0].src: met",
        "--  authorize  any[0].time: not met",
        "any[1].when: false",
        "not.src: not met",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
}

#[test]
fn explain_takes_every_credential_and_says_none_back() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let made =
        tollgate(&["api-key", "new", "--user", "carol", "--group", "ops", "--expires", "1d", "--file", &at("k.keys")]);
    let key = stdout(&made);
    write("key", &key);
    let authority = Ca::new("Clients CA");
    write("cert.pem", authority.client(&Says { common_name: "edge-7", ..Says::default() }).pem());
    write("basic", "Basic YW5uOmh1bnRlcjI=\n");
    write("dpop", "DPoP abc");
    write("proof", "a.b.c");
    let config = "
api_keys: { partners: { file: k.keys } }
certificates: { fleet: { user: subject.CN } }
groups: { ops: ['partners:ops'] }
rules:
  - { name: admin, path: /admin, allow: { groups: [ops] } }
  - { name: all, allow: authenticated }
";
    write("t.yaml", config);
    for (more, status, reason) in [
        (vec!["--url", "https://a/admin"], 401, "credential_missing"),
        (vec!["--url", "https://a/admin", "--api-key-file", &at("key")], 200, "allowed"),
        (vec!["--url", "https://a/x", "--certificate", &at("cert.pem")], 200, "allowed"),
        (vec!["--url", "https://a/admin", "--certificate", &at("cert.pem")], 403, "group_missing"),
        (vec!["--url", "https://a/x", "--authorization-file", &at("basic")], 401, "credential_unsupported"),
        (
            vec!["--url", "https://a/x", "--authorization-file", &at("dpop"), "--dpop-file", &at("proof")],
            401,
            "credential_unsupported",
        ),
    ] {
        let output = tollgate(&[&["explain", "--config", &at("t.yaml"), "--offline", "--json"], &more[..]].concat());
        let said: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        assert_eq!(
            (said["status"].as_i64(), said["reason"].as_str()),
            (Some(status), Some(reason)),
            "{more:?}: {said}"
        );
        assert!(!stdout(&output).contains("YW5uOmh1bnRlcjI") && !stdout(&output).contains(&key.trim()[12..]));
    }
    let output = tollgate(&["explain", "--config", &at("t.yaml"), "--url", "https://a/", "--certificate", &at("key")]);
    assert!(stderr(&output).contains("is no certificate"), "{}", stderr(&output));
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
    for name in ["run", "check", "explain", "test", "revoke", "top", "dev-idp", "completions"] {
        assert!(stdout(&output).contains(name), "{name}");
    }
}

#[test]
fn a_key_is_printed_once_and_its_file_keeps_what_people_wrote() {
    let folder = folder();
    let file = folder.path().join("partners.keys");
    let path = file.to_str().unwrap();
    let new = |more: &[&str]| tollgate(&[&["api-key", "new", "--user", "alice", "--expires", "90d"], more].concat());

    // Without a file: the key, and what belongs into one.
    let output = new(&["--group", "ops", "--group", "a, b", "--note", "CI: \"main\""]);
    let said = stdout(&output);
    let (key, entry) = said.split_once("\n\n").unwrap();
    assert!(key.len() == 61 && key.starts_with("tg_") && !entry.contains(&key[12..]), "{said}");
    assert!(
        entry.contains(&format!("prefix: \"{}\"", &key[3..11])) && entry.contains("groups: [ops, \"a, b\"]"),
        "{entry}"
    );

    // Into a file that is not there, then behind what is.
    let first = stdout(&new(&["--file", path]));
    let second = stdout(&new(&["--file", path, "--scope", "read"]));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# API keys") && text.matches("- prefix").count() == 2, "{text}");
    let listed = stdout(&tollgate(&["api-key", "list", "--file", path]));
    let rows: Vec<&str> = listed.lines().skip(1).collect();
    for (row, key) in rows.iter().zip([&first, &second]) {
        assert!(row.starts_with(&key[3..11]) && row.contains("alice") && !listed.contains(&key[12..55]), "{listed}");
    }
    assert_eq!(rows.len(), 2, "{listed}");

    let hash = "ab".repeat(32);
    for (written, expected) in [
        ("[]\n".to_owned(), Some("- prefix")),
        ("# none yet\n[]".to_owned(), Some("# none yet\n- prefix")),
        (
            format!("  # of Bob\n  - {{ prefix: Ab3dE5g7, sha256: {hash}, user: bob }} # the first"),
            Some("# the first\n  - prefix"),
        ),
        (format!("- {{ prefix: Ab3dE5g7, sha256: {hash}, user: bob }}\n\n# end\n\n"), Some("# end\n\n- prefix")),
        (format!("[{{ prefix: Ab3dE5g7, sha256: {hash}, user: bob }}]\n"), None),
    ] {
        std::fs::write(&file, &written).unwrap();
        let output = new(&["--file", path]);
        let text = std::fs::read_to_string(&file).unwrap();
        match expected {
            Some(expected) => {
                assert!(output.status.success() && text.contains(expected), "{written}\n{text}\n{output:?}")
            }
            None => {
                assert_eq!(
                    (output.status.code(), stdout(&output)),
                    (Some(1), String::new()),
                    "no key that is in no file"
                );
                assert_eq!(text, written);
            }
        }
    }
    for (written, code) in [("- { user: bob }\n", 64), ("", 64)] {
        std::fs::write(&file, written).unwrap();
        for arguments in [vec!["api-key", "new", "--user", "a", "--expires", "1d"], vec!["api-key", "list"]] {
            let output = tollgate(&[&arguments[..], &["--file", path]].concat());
            assert_eq!(
                (output.status.code(), stdout(&output)),
                (Some(code), String::new()),
                "{written:?} {arguments:?}"
            );
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    }
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let output = tollgate(&["api-key", "new", "--user", "a", "--expires", "2020-01-01"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("over already"), "{output:?}");
}

#[test]
fn keys_made_at_once_are_all_in_the_file() {
    let folder = folder();
    let file = folder.path().join("partners.keys");
    let mut keys: Vec<String> = std::thread::scope(|scope| {
        let make = || {
            let user = ["api-key", "new", "--user", "alice", "--expires", "never", "--file"];
            stdout(&tollgate(&[&user[..], &[file.to_str().unwrap()]].concat()))[3..11].to_owned()
        };
        let made: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        made.into_iter().map(|made| made.join().unwrap()).collect()
    });
    let text = std::fs::read_to_string(&file).unwrap();
    keys.retain(|prefix| !text.contains(prefix));
    assert_eq!(keys, Vec::<String>::new(), "{text}");
}

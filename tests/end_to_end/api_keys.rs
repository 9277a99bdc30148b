//! API keys, made by the program and replaced under a running agent.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::stack::{Agent, App, Haproxy};
use crate::support::{eventually, folder};

struct Keys {
    file: PathBuf,
    _folder: TempDir,
}

impl Keys {
    fn new() -> Keys {
        let folder = folder();
        Keys { file: folder.path().join("partners.keys"), _folder: folder }
    }

    /// A key that the program makes, and appends.
    fn make(&self, more: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["api-key", "new", "--file", self.file.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        assert!(key.len() == 61 && !String::from_utf8(output.stderr).unwrap().contains(&key[12..]));
        key
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }
}

fn config(file: &Path) -> String {
    format!(
        r#"
api_keys: {{ partners: {{ file: {} }} }}
groups: {{ ops: ["partners:platform"], paid: ["partners:pro"] }}
admin: {{ listen: tcp:127.0.0.1:9003 }}
limits: {{ per-key: {{ key: [client_id], rate: 2/1h }} }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: open, path: /open/**, allow: anyone, ignore_credentials: true }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops], scopes: [write] }} }}
  - {{ name: limited, path: /limited/**, allow: authenticated, limits: [per-key] }}
  - {{ name: api, path: /v1/**, allow: authenticated }}
"#,
        file.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_names_its_user_and_stays_out_of_everything() {
    let keys = Keys::new();
    let alice = keys.make(&["--user", "alice", "--group", "platform", "--scope", "write", "--expires", "90d"]);
    let second = keys.make(&["--user", "alice", "--expires", "never", "--note", "while the first is replaced"]);
    let ended = keys.make(&["--user", "old", "--expires", "1d"]);
    let lines = keys.text();
    assert!(!lines.contains(&alice[12..55]) && lines.contains(&alice[3..11]), "{lines}");
    assert_eq!(std::fs::metadata(&keys.file).unwrap().permissions().mode() & 0o777, 0o600);
    let line = lines.lines().rfind(|line| line.contains("expires: ")).unwrap().to_owned();
    std::fs::write(&keys.file, lines.replace(&line, "  expires: 2026-01-01")).unwrap();

    let settings = config(&keys.file);
    let (agent, app) = tokio::join!(Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let get = async |path: &str, key: &str| haproxy.get(path, &[("x-api-key", key)]).await;

    let answer = get("/admin/x", &alice).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-auth-user"), ["alice"]);
    assert_eq!(answer.seen("x-auth-groups"), ["ops"]);
    assert_eq!(answer.seen("x-auth-issuer"), ["partners"]);
    assert_eq!(answer.seen("x-auth-client"), [&alice[3..11]]);
    assert_eq!(answer.seen("x-api-key"), Vec::<&str>::new(), "the key goes no further");
    let answer = get("/admin/x", &second).await;
    assert_eq!((answer.status, answer.reason()), (403, "group_missing"), "groups are of the key");

    let mut wrong = alice.clone().into_bytes();
    wrong[30] = if wrong[30] == b'x' { b'y' } else { b'x' };
    let (wrong, unknown) = (String::from_utf8(wrong).unwrap(), Keys::new().make(&["--user", "a", "--expires", "1d"]));
    for (key, reason) in [
        (&*unknown, "api_key_unknown"),
        (&wrong, "api_key_unknown"),
        ("", "api_key_unknown"),
        ("alice", "api_key_unknown"),
        (&ended, "api_key_expired"),
    ] {
        let answer = get("/v1/x", key).await;
        assert_eq!((answer.status, answer.reason()), (401, reason), "{key}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert_eq!(challenge.split(' ').next(), Some("Bearer"));
        assert!(!challenge.contains("error="), "no token was presented: {challenge}");
    }
    let twice = [("x-api-key", alice.as_str()), ("x-api-key", second.as_str())];
    let answer = haproxy.get("/v1/x", &twice).await;
    assert_eq!((answer.status, answer.reason()), (400, "duplicate_field"));
    // What a rule does not look at is the application's.
    let answer = get("/open/x", "the-application's-own").await;
    assert_eq!(answer.seen("x-api-key"), ["the-application's-own"]);

    // The limit counts each key of the same user by itself.
    for key in [&alice, &second] {
        let statuses = [get("/limited/x", key).await, get("/limited/x", key).await].map(|answer| answer.status);
        assert_eq!(statuses, [200, 200]);
    }
    for _ in 0..2 {
        get("/limited/x", &alice).await;
    }
    assert_eq!(get("/limited/x", &alice).await.status, 429);

    for log in [agent.program.log(), haproxy.program.log(), agent.admin("/metrics").await.1] {
        for key in [&alice, &second, &ended, &unknown, &wrong] {
            assert!(!log.contains(&key[12..55]), "{log}");
        }
    }
    let named = agent.decisions().into_iter().find(|line| line["user"] == "alice").unwrap();
    let hash =
        keys.text().lines().find_map(|line| line.trim().strip_prefix("sha256: \"").map(|hash| hash[..8].to_owned()));
    assert_eq!((named["credential"].as_str(), named["token"].as_str()), (Some("api_key"), hash.as_deref()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_and_go_while_the_agent_runs() {
    let keys = Keys::new();
    let first = keys.make(&["--user", "alice", "--expires", "90d"]);
    std::fs::set_permissions(&keys.file, Permissions::from_mode(0o640)).unwrap();
    let settings = config(&keys.file);
    let (agent, app) = tokio::join!(Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let becomes = async |what: &str, key: &str, status: u16| {
        eventually(what, || async {
            (haproxy.get("/v1/x", &[("x-api-key", key)]).await.status == status).then_some(())
        })
        .await;
    };
    let metric = async |name: &str| agent.metric(&format!("tollgate_api_keys{name}{{file=\"partners\"}}")).await;
    let refusals = || agent.program.log().matches("the API keys were refused").count();
    becomes("the first key is known", &first, 200).await;

    let second = keys.make(&["--user", "bob", "--expires", "90d"]);
    let both = keys.text();
    assert_eq!(std::fs::metadata(&keys.file).unwrap().permissions().mode() & 0o777, 0o640, "the mode is kept");
    becomes("a new key is known", &second, 200).await;
    assert_eq!((metric("").await, metric("_current").await), (2.0, 1.0));

    // In place, as an editor may.
    let only_second = {
        let at = both.rfind("- prefix").unwrap();
        both[at..].to_owned()
    };
    std::fs::write(&keys.file, &only_second).unwrap();
    becomes("a removed key is unknown", &first, 401).await;
    becomes("the other key is known", &second, 200).await;

    // A version that cannot be used changes nothing, and is said once.
    for broken in [both.replace("user", "usr"), String::new(), both.replace("sha256", &first)] {
        let before = refusals();
        std::fs::write(&keys.file, broken).unwrap();
        eventually("the broken file is noticed", async || (refusals() > before).then_some(())).await;
        assert_eq!((metric("").await, metric("_current").await), (1.0, 0.0));
    }
    let log = agent.program.log();
    assert!(log.contains("partners.keys:5:3: [0].usr: unknown key `usr`"), "{log}");
    assert!(!log.contains(&first[12..55]), "a key in the wrong place is in no log");
    std::fs::remove_file(&keys.file).unwrap();
    let before = refusals();
    eventually("the missing file is noticed", async || (refusals() > before).then_some(())).await;
    // Three more looks, at least, say nothing new.
    let looks = std::time::Instant::now();
    while looks.elapsed() < std::time::Duration::from_millis(3200) {
        assert_eq!(haproxy.get("/v1/x", &[("x-api-key", &second)]).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(refusals(), before + 1);

    // A reload holds the file to the same, and changes nothing where it is bad.
    agent.program.signal("HUP");
    eventually("the reload is refused", async || {
        (agent.metric("tollgate_config_last_reload_ok").await == 0.0
            && agent.metric("tollgate_config_reloads_total").await == 1.0)
            .then_some(())
    })
    .await;
    std::fs::write(&keys.file, &both).unwrap();
    agent.program.signal("HUP");
    becomes("both keys are known again", &first, 200).await;
    becomes("both keys are known again", &second, 200).await;
    eventually("it is current", async || (metric("_current").await == 1.0).then_some(())).await;
}

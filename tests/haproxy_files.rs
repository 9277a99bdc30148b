//! What `tollgate haproxy` writes: the shipped files are its output, every HAProxy line takes it without a warning, and it
//! replaces nothing that somebody has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tollgate::config;
use tollgate::haproxy::{Line, render};

use crate::support::generated::{Generated, generate, generate_at};
use crate::support::{folder, root};
use crate::{doctor, each_line};

#[test]
fn the_shipped_files_are_what_it_writes() {
    let bless = std::env::var_os("BLESS").is_some();
    let config = root().join("haproxy/tollgate.yaml");
    let site = config::load(&config).unwrap().haproxy_site(&config).unwrap();
    let files = render(&site, Line::V2_6);
    for (name, written) in [("haproxy.cfg", files.cfg), ("spoe-tollgate.conf", files.spoe)] {
        let path = root().join("haproxy").join(name);
        if bless {
            std::fs::write(&path, &written).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap();
        let differs = shipped.lines().zip(written.lines()).position(|(shipped, written)| shipped != written);
        assert!(shipped == written, "{name} differs, first after line {differs:?}; BLESS=1 writes it");
    }
}

each_line! { haproxy_takes_the_files_of_every_policy }

async fn haproxy_takes_the_files_of_every_policy(line: &str, program: &str) {
    let mut wrong = Vec::new();
    for (name, settings, path) in policies() {
        // What is written for 2.6 is good for all.
        for written_for in if line == "2.6" { vec!["2.6"] } else { vec!["2.6", line] } {
            let files = generate_at(&settings, &path, written_for);
            // With the addresses of the file, then with all that it leaves open.
            for env in [BTreeMap::new(), left_open(&files)] {
                let output = Command::new(program)
                    .args(["-dW", "-c", "-f", files.cfg.to_str().unwrap()])
                    .envs(&env)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                // `-dW` makes an error of each warning; a notice may be about the machine.
                let complains = said.lines().any(|line| line.contains("[WARNING]") || line.contains("[ALERT]"));
                if !output.status.success() || complains {
                    wrong.push(format!("{name}, written for {written_for}, {env:?}:\n{said}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "HAProxy {line}:\n{}", wrong.join("\n"));
}

/// For each policy and line; what is the same for several is looked at once.
#[test]
fn the_doctor_finds_nothing_in_what_is_written() {
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for (name, settings, path) in policies() {
        for line in Line::ALL.map(Line::name) {
            let files = generate_at(&settings, &path, line);
            let text = std::fs::read_to_string(&files.cfg).unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') || line.starts_with("# For "));
            if !seen.insert(lines.map(|line| format!("{line}\n")).collect::<String>()) {
                continue;
            }
            let report = doctor::examine(&files.cfg, &doctor::settings());
            if !report.findings.is_empty() || !report.notes.is_empty() {
                found.push(format!("{name}, for {line}: {report:?}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(seen.len() > 50, "{}", seen.len());
}

/// The addresses that the header says are not set.
fn left_open(files: &Generated) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(&files.cfg).unwrap();
    let mut open = BTreeMap::new();
    for row in text.lines().filter(|row| row.starts_with("#   TOLLGATE_") && row.contains(" not set ")) {
        let name = row.split([' ', ',']).find(|word| word.starts_with("TOLLGATE_")).unwrap();
        let Some(before) = name.strip_suffix("_1") else {
            open.extend(name.starts_with("TOLLGATE_AGENT_").then(|| (name.to_owned(), "127.0.0.1:9009".to_owned())));
            continue;
        };
        open.extend((1..=2).map(|number| (format!("{before}_{number}"), format!("127.0.0.1:900{number}"))));
    }
    assert!(!open.is_empty(), "a second agent is always left open");
    open
}

/// Policies with a name each, and where they are from.
fn policies() -> Vec<(String, String, PathBuf)> {
    let beside = root().join("haproxy/tollgate.yaml");
    let mut policies: Vec<_> = [root().join("haproxy"), root().join("tests/config/good")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap(), path))
        .collect();
    assert!(policies.len() >= 8, "the configs of the tests and the shipped ones");
    let all = "rules: [{ name: all, allow: anyone }]";
    let to = |backend: &str| {
        format!(
            "groups: {{ paid: [\"c:g\"] }}\ncertificates: {{ c: {{ user: subject.CN, groups: subject.OU }} }}\nrules:\n  - {{ name: all, allow: authenticated, backend: {backend} }}"
        )
    };
    // Names that HAProxy, its shell of old or this program could take for something else.
    let odd = [
        "-f",
        "-i",
        "--",
        "--x",
        ".",
        ":",
        "from",
        "if",
        "unless",
        "or",
        "public",
        "stats",
        "base",
        "workers",
        "app",
        "tollgate-agents",
        "tollgate-agents-2",
        "GLOBAL",
        "MASTER",
        "agent",
        "AGENT",
        "a.b",
        "a-b",
        "A_B",
        "nbsrv",
        "0",
    ];
    let many = |names: &[&str]| {
        let rules = names.iter().enumerate().map(|(index, name)| {
            format!("  - {{ name: r{index}, path: /{index}, allow: anyone, backend: \"{name}\" }}\n")
        });
        format!("rules:\n{}", rules.collect::<String>())
    };
    let hundred: Vec<String> = (0..100).map(|number| format!("{}{number}", "n".repeat(60))).collect();
    let hundred: Vec<&str> = hundred.iter().map(String::as_str).collect();
    let written = [
        ("no backend", all.to_owned()),
        ("one backend for all", to("std")),
        ("a backend for some", to("{ paid: fast }")),
        ("a backend for some that is called as the default is", to("{ paid: app }")),
        ("backends with odd names", many(&odd)),
        ("a hundred backends with long names", many(&hundred)),
        ("a short deadline", format!("spop: {{ deadline: 5ms }}\n{all}")),
        ("a long deadline", format!("spop: {{ deadline: 10s }}\n{all}")),
        ("a unix socket", format!("spop: {{ listen: unix:/run/tollgate/spop.sock }}\n{all}")),
        ("a unix socket with an odd name", format!("spop: {{ listen: \"unix:/run/a b#c'd\\\"e\\\\f}}~ü\" }}\n{all}")),
        (
            "IPv6",
            format!("spop: {{ listen: [\"tcp:[::1]:9001\", \"tcp:[::]:9002\"], allow_from: [\"fd00::/8\"] }}\n{all}"),
        ),
        (
            "several listeners",
            format!(
                "spop: {{ listen: [tcp:10.0.0.2:9001, tcp:0.0.0.0:9002, unix:/run/s], allow_from: 10.0.0.0/8 }}\n{all}"
            ),
        ),
        ("small frames", format!("spop: {{ max_frame_size: 256 }}\n{all}")),
        ("ambiguous paths", format!("ambiguous_paths: allow\n{all}")),
        ("the older fields for limits", format!("ratelimit_headers: legacy\n{all}")),
        ("all fields for limits", format!("ratelimit_headers: both\n{all}")),
        ("no fields for limits", format!("ratelimit_headers: none\n{all}")),
    ];
    policies.extend(written.map(|(name, settings)| (name.to_owned(), settings, beside.clone())));
    policies.push((
        "a file with an odd name".to_owned(),
        all.to_owned(),
        Path::new("/etc/it's\nglobal # x.yaml").to_owned(),
    ));
    policies
}

fn tollgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("haproxy").args(arguments).current_dir(root()).output().unwrap()
}

const SHIPPED: &str = "haproxy/tollgate.yaml";

#[test]
fn files_are_written_once_and_what_differs_is_replaced_only_by_force() {
    let folder = folder();
    let out = folder.path().join("a/b");
    let (cfg, spoe) = (out.join("haproxy.cfg"), out.join("spoe-tollgate.conf"));
    let write = |more: &[&str]| {
        tollgate(&[&["--config", SHIPPED, "--for", "2.6", "--out", out.to_str().unwrap()], more].concat())
    };
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let shipped = |name: &str| read(&root().join("haproxy").join(name));

    assert_eq!(write(&[]).status.code(), Some(0), "the folder is made");
    assert_eq!([read(&cfg), read(&spoe)], [shipped("haproxy.cfg"), shipped("spoe-tollgate.conf")]);
    let output = write(&[]);
    assert_eq!(output.status.code(), Some(0), "what is the same may stay");
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("is up to date").count(), 2);

    // Whichever was changed, both stay as they are.
    std::fs::remove_file(&cfg).unwrap();
    std::fs::write(&spoe, "mine\n").unwrap();
    let output = write(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(spoe.to_str().unwrap()) && said.contains("--force"), "{said}");
    assert!(!cfg.exists() && read(&spoe) == "mine\n");

    // By force: a link stays one, and the mode as it was; nothing else is left behind.
    let elsewhere = folder.path().join("elsewhere.conf");
    std::fs::rename(&spoe, &elsewhere).unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&elsewhere, &spoe).unwrap();
    assert_eq!(write(&["--force"]).status.code(), Some(0));
    assert_eq!([read(&cfg), read(&elsewhere)], [shipped("haproxy.cfg"), shipped("spoe-tollgate.conf")]);
    assert!(spoe.is_symlink());
    assert_eq!(std::fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn without_a_folder_both_files_are_printed() {
    let output = tollgate(&["--config", SHIPPED, "--for", "3.2"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let (cfg, spoe) = said.split_once("# ==> spoe-tollgate.conf <==\n").unwrap();
    let cfg = cfg.strip_prefix("# ==> haproxy.cfg <==\n").unwrap();
    assert!(cfg.contains("\n# For HAProxy 3.2.\n") && cfg.ends_with("stats refresh 5s\n"), "{cfg}");
    assert!(spoe.contains("\n# For HAProxy 3.2.\n") && spoe.ends_with("messages response\n"), "{spoe}");
}

#[test]
fn each_line_has_what_it_knows() {
    let written = |line: &str| String::from_utf8(tollgate(&["--config", SHIPPED, "--for", line]).stdout).unwrap();
    for (line, has, has_not) in [
        ("2.6", &["For HAProxy 2.6 and later.", "mode tcp ", "maxconnrate", ".if version_atleast(3.2)"][..], &[][..]),
        ("2.8", &["mode tcp\n", "timeout     idle", "timeout server  6m"], &["ignored by", "mode spop"]),
        ("3.0", &["mode tcp\n", "maxconnrate", ".if version_atleast(3.2)"], &["ignored by", "mode spop"]),
        (
            "3.2",
            &["mode spop\n", "\n    option http-drop-request-trailers"],
            &["version_atleast", "maxconnrate", "timeout     idle", "async"],
        ),
        ("3.4", &["mode spop\n", "timeout server  30s"], &["version_atleast", "mode tcp", "timeout     hello"]),
    ] {
        let text = written(line);
        let (lacks, knows_not): (Vec<_>, Vec<_>) = (
            has.iter().filter(|has| !text.contains(**has)).collect(),
            has_not.iter().filter(|has| text.contains(**has)).collect(),
        );
        assert!(lacks.is_empty() && knows_not.is_empty(), "{line}: lacks {lacks:?}, has {knows_not:?}");
        assert!(text.contains("processing 250ms"));
    }
}

#[test]
fn what_haproxy_cannot_be_told_is_a_mistake_in_the_config() {
    let folder = folder();
    let path = folder.path().join("c.yaml");
    for (listen, expected) in [("tcp:127.0.0.1:0", "any free port"), ("unix:/run/$HOME/s", "no `$`")] {
        std::fs::write(&path, format!("spop: {{ listen: \"{listen}\" }}\nrules: [{{ name: all, allow: anyone }}]\n"))
            .unwrap();
        let output = tollgate(&["--config", path.to_str().unwrap(), "--for", "3.2"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("c.yaml: spop.listen") && said.contains(expected), "{said}");
    }
    assert_eq!(tollgate(&["--config", SHIPPED, "--for", "3.1"]).status.code(), Some(2));
}

#[test]
fn the_fields_that_tell_of_limits_are_those_of_the_policy() {
    for (chosen, draft, legacy) in
        [("draft", true, false), ("legacy", false, true), ("both", true, true), ("none", false, false)]
    {
        let settings = format!("ratelimit_headers: {chosen}\nrules: [{{ name: r, allow: anyone }}]\n");
        let files = generate(&settings, "3.2");
        let cfg = std::fs::read_to_string(&files.cfg).unwrap();
        let sets = |field: &str| cfg.lines().any(|line| line.contains(&format!("set-header {field} ")));
        assert_eq!(["RateLimit", "RateLimit-Policy"].map(sets), [draft; 2], "{chosen}");
        let older = ["X-RateLimit-Limit    ", "X-RateLimit-Remaining", "X-RateLimit-Reset    "];
        assert_eq!(older.map(sets), [legacy; 3], "{chosen}");
    }
}

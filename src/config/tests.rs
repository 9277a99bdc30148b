//! Configs in `tests/config/`: `bad/*.yaml` with one mistake each and its message in a `.err` beside it, `good/*.yaml`
//! that load. `BLESS=1` writes the messages anew; read every one of them before it is committed.

use std::path::{Path, PathBuf};

use super::*;
use crate::identity::directory::DirectoryKind;

#[test]
fn every_mistake_has_its_message() {
    let bless = std::env::var_os("BLESS").is_some();
    let files = yaml_files("bad");
    assert!(files.len() >= 45, "{} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let Err(errors) = load(&file) else {
            wrong.push(format!("{} loads", file.display()));
            continue;
        };
        let directory = file.parent().unwrap().display().to_string() + "/";
        let message = errors.to_string().replace(&directory, "") + "\n";
        let beside = file.with_extension("err");
        if bless {
            std::fs::write(&beside, &message).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if message != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- got\n{message}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_good_config_loads_and_its_expansion_means_the_same() {
    for file in yaml_files("good") {
        let config = load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let expanded = config.expanded();
        // Somewhere else, so that no file may be named from the old place.
        let again = parse(&expanded, Path::new("/nowhere/expanded.yaml"))
            .unwrap_or_else(|errors| panic!("{}: {errors}\n{expanded}", file.display()));
        assert_eq!(meaning(&again), meaning(&config), "{}\n{expanded}", file.display());
        assert_eq!(again.groups, config.groups, "{}\n{expanded}", file.display());
        assert_eq!(again.expanded(), expanded, "{}", file.display());
    }
}

#[test]
fn a_presets_key_hosts_are_shown_and_a_list_takes_their_place() {
    for (preset, written, expected) in [
        ("google", "", "key_hosts: [www.googleapis.com]"),
        ("entra", "", "key_hosts: [login.microsoftonline.com, login.windows.net]"),
        ("keycloak", "", "key_hosts: []"),
        ("google", "key_hosts: [], ", "key_hosts: []"),
        ("google", "key_hosts: Keys.Example., ", "key_hosts: [keys.example.]"),
    ] {
        let issuer = format!("{{ preset: {preset}, {written}issuer: https://h, audiences: a }}");
        let text = format!("issuers: {{ acme: {issuer} }}\nrules: [{{ name: r, allow: authenticated }}]\n");
        let expanded = parse(&text, Path::new("tollgate.yaml")).unwrap().expanded();
        assert!(expanded.contains(expected), "{expanded}");
    }
}

#[test]
fn no_secret_is_in_what_check_prints() {
    let asked = load(&folder("good").join("introspection.yaml")).unwrap();
    let introspection = asked.identity.issuers[0].introspection.as_ref().unwrap();
    assert!(introspection.client_secret.expose().contains("hunter2"), "the secret is used");
    let printed = format!("{}\n{:?}\n{:?}\n{asked:?}", asked.expanded(), asked.facts(), asked.warnings);
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(
        asked.facts()[1..3],
        [
            "issuer acme: preset generic, keys by discovery at https://login.acme.example/realms/main; asked about other \
             tokens as client tollgate, and believed for 1m",
            "issuer beta: preset generic, no JWTs of https://auth.beta.example; asked about tokens that begin with \
             `beta_` as client true, and believed for 10s",
        ]
    );
    let kinds: Vec<_> = asked.policy.rules().iter().map(|rule| rule.credentials.kinds().to_vec()).collect();
    assert_eq!(
        kinds,
        [
            vec![CredentialKind::Dpop, CredentialKind::Jwt, CredentialKind::Opaque],
            vec![CredentialKind::Opaque, CredentialKind::Jwt]
        ],
        "a rule that does not say takes what there is"
    );
    let config = load(&folder("good").join("secrets.yaml")).unwrap();
    let redis = config.counters.redis.as_ref().unwrap();
    assert!(redis.login.password.as_ref().unwrap().expose().contains("hunter2"), "the password is used");
    let printed = format!("{}\n{:?}\n{:?}\n{config:?}", config.expanded(), config.facts(), config.warnings);
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn no_secret_written_into_a_config_is_in_its_errors() {
    for text in [
        "admin: { listen: tcp:127.0.0.1:1, token: hunter2 }",
        "counters: { redis: redis://u:hunter2@h:1 }",
        "counters: { redis: redi://u:hunter2@h:1 }",
        "counters: { redis: redis://h:1, password: hunter2, timout: 1s }",
        "counters: { redis: redis://h:1, pasword: hunter2 }",
        "counters: { redis: redis://h:1, password: [hunter2] }",
        "counters:\n  redis: redis+unix:///r?pass=hunter2",
        "issuers:\n  acme: { issuer: https://u:hunter2@h, audiences: [a] }",
        "issuers:\n  acme: { client_secret: hunter2 }",
        "issuers:\n  acme: { introspection: { client_id: a, client_secret: hunter2 } }",
        "issuers:\n  acme: { introspection: { client_id: a, clientsecret: hunter2 } }",
        "issuers:\n  acme: { introspection: { endpoint: 'https://u:hunter2@h/' } }",
        "directories:\n  d: { entra: { client_secret: hunter2 } }",
        "directories:\n  d: { google: { service_account: hunter2 } }",
        "directories:\n  d: { google: { endpoint: https://u:hunter2@h } }",
        "issuers:\n  acme: { issuer: https://h, audiences: a, proxy: http://u:hunter2@h }",
        "issuers:\n  acme: { issuer: https://h, audiences: a, proxy: { url: http://u:hunter2@h } }",
        "issuers:\n  acme: { issuer: https://h, audiences: a, proxy: { url: http://h, username: u, password: hunter2 } }",
        "dpop: { nonce: required, nonce_key: hunter2 }",
        "audit: { file: x, hash: user, hash_key: hunter2 }",
        "audit: { file: x, chainkey: hunter2 }",
        "counters: { password: hunter2, b: [ }",
        "counters: { password: hunter2, password: hunter2 }",
    ] {
        let errors = parse(text, Path::new("tollgate.yaml")).unwrap_err().to_string();
        assert!(!errors.contains("hunter2"), "{text}\n{errors}");
    }
}

#[test]
fn all_mistakes_come_in_one_run_in_the_order_of_the_file() {
    let text = "spop: { deadline: 1w }\nrulez: []\nrules:\n  - { name: a b, path: x, allow: nobody, limits: [none] }\n";
    let errors = parse(text, Path::new("tollgate.yaml")).unwrap_err();
    let keys: Vec<&str> = errors.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        ["spop.deadline", "rulez", "rules[0].name", "rules[0].path", "rules[0].allow", "rules[0].limits[0]"]
    );
}

#[test]
fn a_google_directory_loads_from_its_key_file_and_its_expansion_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let key = crate::identity::directory::testing::key_file("https://oauth2.googleapis.com/token");
    std::fs::write(folder.path().join("sa.json"), key).unwrap();
    let text = "directories:\n  people:\n    google: { service_account: file:sa.json, admin: a@acme.example }\n\
                issuers:\n  acme: { preset: google, issuer: https://accounts.google.com, audiences: [a], \
                groups_from: people, require: { hd: acme.example } }\n\
                groups: { eng: \"people:Eng@Acme.Example\" }\n\
                rules: [{ name: all, allow: { groups: eng } }]\n";
    let config = parse(text, &folder.path().join("tollgate.yaml")).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    // As the answers have it.
    assert_eq!(config.groups.of("people", "eng@acme.example").len(), 1);
    let settings = &config.identity.directories[0];
    let DirectoryKind::Google(google) = &settings.kind else { panic!("{settings:?}") };
    assert_eq!(google.endpoint.as_str(), "https://admin.googleapis.com/");
    assert!(google.nested && !google.outbound.insecure);
    assert_eq!((settings.refresh.as_secs(), settings.keep.as_secs()), (300, 3600));
    let fact = "groups of people: Google's at https://admin.googleapis.com/, asked by \
                tollgate@acme.iam.gserviceaccount.com for a@acme.example; asked again after 5m, and while it is away \
                what it said counts for 1h; groups of people it does not know are unknown";
    assert!(config.facts().iter().any(|known| known == fact), "{:#?}", config.facts());
    let expanded = config.expanded();
    let again = parse(&expanded, Path::new("/nowhere/expanded.yaml")).unwrap_or_else(|e| panic!("{e}\n{expanded}"));
    assert_eq!(again.identity.directories, config.identity.directories);
    assert_eq!(again.groups, config.groups);
    assert_eq!(again.expanded(), expanded);
    let shown = format!("{expanded}{config:?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn the_example_means_what_it_says() {
    let config = load(&folder("good").join("example.yaml")).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(|warning| warning.what.clone()).collect();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        config.facts(),
        [
            "SPOP on tcp:127.0.0.1:9001, every NOTIFY answered within 40ms; admin on tcp:127.0.0.1:9003",
            "issuer acme: preset keycloak, keys by discovery at https://login.acme.example/realms/main",
            "any group can be granted for up to 1d by whoever can write to Redis (`grants: { key: file:… }` has them sealed, \
             `grants: false` none at all)",
            "counted in Redis at redis://127.0.0.1:6379, asked for at most 10ms a request; shared by 2 agents",
            "limit per-user: at most 120 in any 1m (100 + burst 20); while Redis cannot answer at most 120 (2 × 60), \
             and at most 240 in the window in which it goes",
            "limit per-user, group paid: at most 2000 in any 1m (1000 + burst 1000); while Redis cannot answer at most \
             2000 (2 × 1000), and at most 4000 in the window in which it goes",
            "limit per-user, group ops: unlimited",
            "limit per-ip: at most 100 in any 1s (50 + burst 50); while Redis cannot answer at most 100 (2 × 50), and \
             at most 200 in the window in which it goes",
            "3 rules; a request that none matches is denied",
        ]
    );
    assert_eq!(config.identity.issuers[0].claims.user.to_string(), "preferred_username");
    assert_eq!(config.tests.len(), 2);
    assert_eq!(config.policy.rules()[2].limits.len(), 2);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let config = load(&folder("good").join("warnings.yaml")).unwrap();
    let file = Path::new("warnings.yaml");
    let shown: Vec<String> = config.warnings.iter().map(|warning| warning.in_file(file)).collect();
    let folder = folder("good").display().to_string();
    let shown: Vec<String> =
        shown.iter().filter_map(|block| Some(block.lines().next()?.replace(&folder, "DIR"))).collect();
    assert_eq!(
        shown,
        [
            "warnings.yaml:2:48: spop.allow_from: `0.0.0.0/0` lets every machine ask, and whoever asks is believed",
            "warnings.yaml:3:18: ambiguous_paths: paths that proxies and applications read in different ways pass: \
             `/a/..%2fadmin` is then under `/a`",
            "warnings.yaml:8:11: issuers.google: whoever has an account at Google passes; `require: { hd: DOMAIN }` keeps \
             it to one organisation",
            "warnings.yaml:11:3: groups.paid: no rule, limit or backend uses the group `paid`; it still leaves in `groups`",
            "warnings.yaml:12:11: counters: without `redis` each of the 3 agents counts for itself, so every limit \
             holds 3 times over",
            "warnings.yaml:12:11: counters: without `counters.redis` each of the 3 agents knows only the DPoP proofs that \
             it has seen itself, so one can be used 3 times",
            "warnings.yaml:14:3: limits.unused: no rule uses the limit `unused`",
            "warnings.yaml:17:5: rules[1]: rule `never` can never match: every request it is for is decided by `all` \
             (line 16) before it",
            "warnings.yaml:17:43: rules[1].methods[0]: `GTE` is a method that HTTP does not define; `GET` is one that \
             it does",
            "warnings.yaml:19:5: rules[3]: rule `partly` never decides `GET /x`: `read` (line 18) does, before it; nor 2 more \
             of its combinations of host, path and method",
            "warnings.yaml:20:5: rules[4]: rule `between` can never match: every request it is for is decided before it, \
             `GET /y` by `read` (line 18) and so on",
            "warnings.yaml:21:58: rules[5].anonymous: this rule asks nobody for a credential",
            "warnings.yaml:22:28: rules[6].path: `/a%2Fb` is compared with the path as the application sees it: \
             decoded, and without a query",
            "warnings.yaml:25:5: rules[9]: rule `inner` can never match: every request it is for is decided by `writes` \
             (line 24) before it",
            "warnings.yaml:27:5: rules[11]: rule `inner2` never decides GET: `reads2` (line 26) does, before it, and for more \
             paths",
            "warnings.yaml:28:38: rules[12].allow: `no_groups` and `not` say nothing about somebody without a credential, \
             whom `anyone: true` lets through: who is refused can leave theirs out",
            "warnings.yaml:29:10: sign_in: `/v1/start` is for rule `all`, which sends whoever comes there back to it, for \
             ever",
            "warnings.yaml:31:36: tests[0].as.groups[0]: `ops` is a name of this config; a token has groups as its \
             issuer writes them",
            "warnings.yaml:33:3: directories.unused: no issuer has `unused` in its `groups_from`, so nobody's groups are \
             asked for there",
            "warnings.yaml:34:3: directories.empty: no issuer has `empty` in its `groups_from`, so nobody's groups are \
             asked for there",
            "warnings.yaml:34:18: directories.empty.file: nobody is in DIR/nobody.yml",
        ]
    );
}

#[test]
fn a_key_that_falls_to_the_source_address_is_a_fact() {
    let config = load(&folder("good").join("everything.yaml")).unwrap();
    let facts = config.facts();
    for expected in [
        "limit by-claim: on anonymous requests issuer, subject, client_id, group, claim:org.id, claim:\"a.b\".c of its \
         key is the source address (rules open); where a token does not say client_id, group, claim:org.id, \
         claim:\"a.b\".c, that part of its key is the source address",
        "limit by-claim: at most 50007 in any 30d (50000 + burst 7); its window moves with the clock and knows no \
         calendar: a month is 30 days, a year 365",
        "counted in this process's memory: counters are lost with it and not shared",
    ] {
        assert!(facts.iter().any(|fact| fact == expected), "{expected}\n{facts:#?}");
    }
}

#[test]
fn what_redis_being_away_means_depends_on_the_limit() {
    let text = |on_failure: &str| {
        format!(
            "counters: {{ redis: redis://h:1, agents: 3 }}\nlimits: {{ l: {{ key: src, rate: 10/1s, on_failure: {on_failure} }} }}\n\
             rules: [{{ name: r, allow: anyone, limits: l }}]\n"
        )
    };
    for (on_failure, expected) in [
        ("allow", "while Redis cannot answer it does not hold at all"),
        ("deny", "while Redis cannot answer nothing that it counts passes"),
        ("local", "while Redis cannot answer at most 24 (3 × 8), and at most 44 in the window in which it goes"),
    ] {
        let config = parse(&text(on_failure), Path::new("tollgate.yaml")).unwrap();
        let expected = format!("limit l: at most 20 in any 1s (10 + burst 10); {expected}");
        assert!(config.facts().contains(&expected), "{:#?}", config.facts());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = load(Path::new("/nowhere/tollgate.yaml")).unwrap_err().to_string();
    assert!(errors.starts_with("/nowhere/tollgate.yaml: cannot read the config: "), "{errors}");
}

/// Everything that the rest of the program is given. Secrets are compared by what they are.
fn meaning(config: &Config) -> String {
    let tests: Vec<PolicyTest> = config.tests.iter().map(|test| PolicyTest { line: 0, ..test.clone() }).collect();
    let redis = config.counters.redis.as_ref().map(|redis| redis.url.expose());
    let proxies: Vec<_> = config.identity.issuers.iter().filter_map(|issuer| issuer.outbound.proxy.as_ref()).collect();
    let proxies: Vec<_> = proxies.iter().filter_map(|proxy| Some(proxy.credentials.as_ref()?.1.expose())).collect();
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref()).map(|token| token.expose());
    let Config { spop, admin, identity, counters, policy, audit, .. } = config;
    format!("{spop:#?}{admin:#?}{identity:#?}{counters:#?}{policy:#?}{audit:#?}{tests:#?}{redis:?}{token:?}{proxies:?}")
}

fn yaml_files(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(name)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

#[test]
fn ten_thousand_rules_load_and_of_as_many_mistakes_a_few_are_shown() {
    let rules = |count: usize, allow: &str| {
        let rule =
            |n| format!("- {{ name: r{n}, host: h{}.example, path: /v1/p{}/**, allow: {allow} }}\n", n / 100, n % 100);
        "rules:\n".to_owned() + &(0..count).map(rule).collect::<String>()
    };
    let config = parse(&rules(10_000, "anyone"), Path::new("tollgate.yaml")).unwrap();
    assert_eq!((config.policy.rules().len(), config.warnings.len()), (10_000, 0));
    let errors = parse(&rules(1000, "anybody"), Path::new("tollgate.yaml")).unwrap_err().to_string();
    assert!(errors.ends_with("950 more mistakes are not shown"), "{}", &errors[errors.len() - 200..]);
    assert!(errors.matches("does not say who may pass").count() == 50);
}

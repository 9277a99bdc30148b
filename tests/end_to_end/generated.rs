//! What `tollgate haproxy` writes for each HAProxy line, booted beside the agent with nothing but the addresses that the
//! config does not have.

use std::process::Command;

use serde_json::Value;

use crate::each_line;
use crate::support::generated::generate;
use crate::support::stack::{Agent, Haproxy};
use crate::support::web::{self, Application, Reply};
use crate::support::{eventually, folder};

each_line! { the_files_of_a_policy_hold_it }

async fn the_files_of_a_policy_hold_it(line: &str, program: &str) {
    let folder = folder();
    let keys = folder.path().join("partners.keys");
    let key = |user: &str, group: &str| {
        let file = keys.to_str().unwrap();
        let arguments = ["api-key", "new", "--file", file, "--user", user, "--group", group, "--expires", "1d"];
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let (alice, bob, carol) = (key("alice", "platform"), key("bob", "pro"), key("carol", "none"));
    // HAProxy finds the agent by the config alone, whatever the socket is called.
    let socket = folder.path().join("a b#'.sock");
    let settings = format!(
        r#"
spop: {{ listen: "unix:{}" }}
api_keys: {{ partners: {{ file: {} }} }}
groups: {{ ops: ["partners:platform"], paid: ["partners:pro"] }}
admin: {{ listen: tcp:127.0.0.1:9003 }}
ratelimit_headers: both
sign_in: {{ location: "https://login.acme.example/start?rd={{url}}" }}
limits: {{ two: {{ key: [user], rate: 2/1h }} }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops] }} }}
  - {{ name: limited, path: /limited/**, allow: authenticated, limits: [two] }}
  - {{ name: api, path: /v1/**, allow: authenticated, backend: {{ paid: fast.lane, else: public }}, sticky: [user] }}
  - {{ name: away, path: /away/**, allow: anyone, backend: -other }}
"#,
        socket.display(),
        keys.display()
    );
    let files = generate(&settings, line);
    let mut agent = Agent::start_on(&settings, &format!("unix@{}", socket.display())).await;
    let (app, fast, other) = (Application::start().await, Application::start().await, Application::start().await);
    let second = Application::start().await;
    let second_address = format!("127.0.0.1:{}", second.port);
    let (fast_address, other_address) = (format!("127.0.0.1:{}", fast.port), format!("127.0.0.1:{}", other.port));
    let env = [
        ("TOLLGATE_FAST_LANE_1", fast_address.as_str()),
        ("TOLLGATE_FAST_LANE_2", &second_address),
        ("TOLLGATE__OTHER_1", &other_address),
    ];
    let haproxy = Haproxy::start_file(&files.cfg, program, &[], &[app.port], &env).await;
    agent.ready().await;
    haproxy.answering().await;
    let take = || {
        let [app, fast, second, other] = [&app, &fast, &second, &other].map(|app| app.take_heads().len());
        [app, fast + second, other]
    };
    let get = async |path: &str, key: &str, more: &[(&str, &str)]| -> Reply {
        let own = [("X-API-Key", key)];
        let fields = if key.is_empty() { more.to_vec() } else { [&own, more].concat() };
        web::get(haproxy.port, path, &fields).await.unwrap()
    };
    // A backend's own worker is up once its first check is over.
    eventually("each backend has a worker", async || {
        let statuses = [get("/v1/x", &bob, &[]).await.status, get("/away/x", "", &[]).await.status];
        (statuses == [200, 200]).then_some(())
    })
    .await;
    take();

    for (path, key, status, reached) in [
        ("/admin/x", &alice, 200, [1, 0, 0]),
        ("/admin/x", &bob, 403, [0, 0, 0]),
        ("/admin/x", &String::new(), 401, [0, 0, 0]),
        ("/nowhere", &alice, 403, [0, 0, 0]),
        ("/admin/../v1/x", &alice, 400, [0, 0, 0]),
        ("/v1/x#/healthz", &alice, 400, [0, 0, 0]),
        ("/limited/x", &carol, 200, [1, 0, 0]),
        ("/limited/x", &carol, 200, [1, 0, 0]),
        ("/limited/x", &carol, 429, [0, 0, 0]),
        // Routed by the policy's names, whatever they are.
        ("/v1/x", &alice, 200, [1, 0, 0]),
        ("/v1/x", &bob, 200, [0, 1, 0]),
        ("/away/x", &String::new(), 200, [0, 0, 1]),
    ] {
        let reply = get(path, key, &[]).await;
        assert_eq!((reply.status, take()), (status, reached), "HAProxy {line}: {path}: {reply:?}");
        if status == 401 {
            assert!(reply.field("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
        }
    }

    // Whoever has been throttled is told so in both forms.
    let reply = get("/limited/x", &carol, &[]).await;
    assert_eq!((reply.status, reply.field("x-ratelimit-limit"), reply.field("x-ratelimit-remaining")), LIMITED);
    let reset: u64 = reply.field("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!((3590..=3600).contains(&reset), "HAProxy {line}: {reply:?}");
    assert_eq!(reply.field("ratelimit"), Some(format!("\"two\";r=0;t={reset}").as_str()), "HAProxy {line}: {reply:?}");
    assert_eq!(reply.field("ratelimit-policy"), Some("\"two\";q=2;w=3600"));
    let reply = get("/v1/x", &carol, &[]).await;
    assert_eq!((reply.field("ratelimit"), reply.field("x-ratelimit-limit")), (None, None), "nothing is counted here");
    take();

    // A browser is sent to sign in, with where it came from; a program is not.
    let browser = [("Accept", "text/html,*/*;q=0.8")];
    let reply = get("/admin/x?y=1", "", &browser).await;
    assert_eq!((reply.status, take()), (302, [0, 0, 0]), "HAProxy {line}: {reply:?}");
    let location = "https://login.acme.example/start?rd=http%3A%2F%2Fapp%2Fadmin%2Fx%3Fy%3D1";
    assert_eq!(reply.field("location"), Some(location));
    assert!(reply.field("x-tollgate-decision").is_some(), "{reply:?}");
    let reply = get("/admin/x", "", &[("Accept", "*/*")]).await;
    assert_eq!((reply.status, reply.field("location")), (401, None), "HAProxy {line}: {reply:?}");

    // One caller's requests go to one worker of two.
    eventually("both are up", async || {
        let servers = haproxy.servers("fast.lane").await;
        (servers == ["UP", "UP"]).then_some(())
    })
    .await;
    take();
    for _ in 0..8 {
        assert_eq!(get("/v1/x", &bob, &[]).await.status, 200);
    }
    let mut each = [&fast, &second].map(|app| app.take_heads().len());
    each.sort_unstable();
    assert_eq!(each, [0, 8], "HAProxy {line}");

    // Nobody says who they are but by what they can prove, and nobody says it twice.
    let spoofed =
        [("X-Auth-User", "root"), ("x_auth_groups", "ops"), ("X.Auth.Email", "r@x"), ("Connection", "X-Auth-User")];
    assert_eq!(get("/v1/x", &carol, &spoofed).await.status, 200);
    let head = app.take_heads().pop().unwrap().to_ascii_lowercase();
    let says: Vec<_> = head.lines().filter(|line| line.starts_with('x') && line.contains("auth")).collect();
    let client = format!("x-auth-client: {}", &carol[3..11]).to_ascii_lowercase();
    let expected = ["x-auth-user: carol", "x-auth-subject: carol", "x-auth-issuer: partners", &client];
    assert!(says.iter().all(|line| expected.contains(line)) && says.contains(&expected[0]), "{says:?}");
    assert!(!head.contains("tg_") && !head.contains("root"), "{head}");
    let reply = get("/v1/x", &carol, &[("X-API-Key", &alice)]).await;
    assert_eq!((reply.status, take()), (400, [0, 0, 0]), "{reply:?}");

    // Without the agent nobody gets in, not even anyone; with it again they do.
    agent.program.kill();
    for path in ["/v1/x", "/away/x", "/healthz"] {
        let reply = get(path, &alice, &[]).await;
        assert_eq!((reply.status, take()), (503, [0, 0, 0]), "HAProxy {line}: {path}: {reply:?}");
        assert!(reply.body.contains("agent_unreachable"), "{reply:?}");
    }
    let _agent = Agent::start_on(&settings, &agent.spop).await;
    eventually("the agent answers again", async || (get("/v1/x", &alice, &[]).await.status == 200).then_some(())).await;

    let logged = haproxy.program.log();
    let logged: Vec<Value> = logged.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let fast = logged.iter().find(|line| line["user"] == "bob" && line["status"] == 200).unwrap();
    assert_eq!(
        [&fast["backend"], &fast["server"], &fast["groups"]],
        ["fast.lane", fast["server"].as_str().unwrap(), "paid"],
        "{fast}"
    );
}

/// Two an hour, and none is left.
const LIMITED: (u16, Option<&str>, Option<&str>) = (429, Some("2"), Some("0"));

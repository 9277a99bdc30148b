//! The path and the host that policy saw are those that the application serves, however they are spelt.
//!
//! The spellings are of the kinds that are public as bypasses of proxies' and applications' access rules: dot segments,
//! encoded slashes and dots, encoded twice, backslashes, semicolons, doubled slashes, case, trailing dots and slashes, NUL and
//! other control bytes, overlong and full-width UTF-8, absolute and authority forms, hosts with ports, dots, cases and
//! user names, several hosts, and headers that replace the path. Each goes through HAProxy with the shipped files to a
//! real application, whose handlers say what reached them.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::stack::{AUDIENCE, Agent, App, Haproxy, shared_idp};
use crate::support::{client, free_port};

/// What may stand before the guarded path.
const BEFORE: [&str; 44] = [
    "/",
    "//",
    "///",
    "/./",
    "/.//",
    "/../",
    "/public/../",
    "/public/x/../../",
    "/public/./../",
    "/%2e/",
    "/%2e%2e/",
    "/public/%2e%2e/",
    "/public/.%2e/",
    "/public/%2E./",
    "/public/..%2f",
    "/public/..%2F",
    "/public/%2e%2e%2f",
    "/%2f",
    "/public%2f..%2f",
    "/%5c",
    "/public/..%5c",
    "/public\\..\\",
    "\\",
    "/\\",
    "/;/",
    "/;x=1/",
    "/.;/",
    "/public/..;/",
    "/public;/../",
    "/%3b/",
    "/%252e%252e/",
    "/public/..%252f",
    "/%c0%ae%c0%ae/",
    "/public/..%c0%af",
    "/%e0%80%af",
    "/%ef%bc%8f",
    "/%u002e%u002e/",
    "/%00/",
    "/%0a",
    "/%0d%0a/",
    "/%09",
    "/%20",
    "/~/",
    "/?/",
];

/// Spellings of what is guarded, whose path is `admin/secret` or `mounted/secret`.
const GUARDED: [&str; 58] = [
    "admin",
    "admin/",
    "admin/secret",
    "admin/secret/",
    "admin/secret//",
    "admin/secret/.",
    "admin/secret/..",
    "admin/x/../secret",
    "admin/./secret",
    "admin//secret",
    "Admin/secret",
    "ADMIN/SECRET",
    "aDmin/Secret",
    "%61dmin/secret",
    "adm%69n/secret",
    "%61%64%6d%69%6e/secret",
    "%2561dmin/secret",
    "%41dmin/secret",
    "admin%2fsecret",
    "admin%2Fsecret",
    "admin%252fsecret",
    "admin%5csecret",
    "admin\\secret",
    "admin;/secret",
    "admin;x=1/secret",
    "admin/;x/secret",
    "admin/secret;x",
    "admin/secret;.css",
    "admin/secret%3b",
    "admin/secret.",
    "admin/secret..",
    "admin./secret",
    "admin/secret.json",
    "admin/secret%00",
    "admin/secret%00.css",
    "admin%00/secret",
    "admin/secret%20",
    "admin/secret%09",
    "admin/secret%0a",
    "admin/secret%0d%0aX:",
    "admin/secret%23",
    "admin/secret%3f",
    "admin/secret#x",
    "admin/secret?x",
    "admin/s%65cret",
    "admin%c0%afsecret",
    "admin%e0%80%afsecret",
    "admin/secret%2f",
    "admin/secret%2e",
    "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}/secret",
    "adm\u{131}n/secret",
    "admin\u{2215}secret",
    "%EF%BC%A1dmin/secret",
    "mounted/secret",
    "mounted//secret",
    "mounted/%73ecret",
    "mounted/./secret",
    "mounted/secret/x",
];

/// Hosts, each a whole set of `Host` fields, that may be taken for `admin.example`.
const HOSTS: [&str; 22] = [
    "Host: admin.example\r\n",
    "Host: admin.example:80\r\n",
    "Host: admin.example:443\r\n",
    "Host: admin.example:\r\n",
    "Host: admin.example:x\r\n",
    "Host: ADMIN.example\r\n",
    "Host: Admin.Example:80\r\n",
    "Host: admin.example.\r\n",
    "Host: admin.example.:80\r\n",
    "Host: admin.example..\r\n",
    "Host: .admin.example\r\n",
    "Host: user@admin.example\r\n",
    "Host: admin.example@app\r\n",
    "Host: app@admin.example:80\r\n",
    "Host: admin.example/\r\n",
    "Host: admin.example#\r\n",
    "Host: admin%2eexample\r\n",
    "Host:\tadmin.example\t\r\n",
    "Host: admin.example,app\r\n",
    "Host: app\r\nHost: admin.example\r\n",
    "Host: admin.example\r\nHost: app\r\n",
    "hOST: app\r\nX-Forwarded-Host: admin.example\r\n",
];

/// Every request, as bytes.
fn requests() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    let mut add = |target: &str, fields: &str| {
        requests.push(format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n").into_bytes());
    };
    let app = "Host: app\r\n";
    for before in BEFORE {
        for guarded in GUARDED {
            add(&format!("{before}{guarded}"), app);
        }
    }
    for guarded in GUARDED {
        for form in [
            "http://app/",
            "https://app/",
            "HTTP://app/",
            "http://app:80//",
            "http://admin.example/",
            "http://u@app/",
            "http:///",
            "http:/",
            "app:80/",
            "",
        ] {
            add(&format!("{form}{guarded}"), app);
        }
        // What some frameworks take for the path.
        for name in [
            "X-Original-URL",
            "X-Rewrite-URL",
            "X_Original_URL",
            "X-Forwarded-Prefix",
            "X-Forwarded-Path",
            "X-Http-Method-Override",
        ] {
            add("/public/x", &format!("{app}{name}: /{guarded}\r\n"));
        }
    }
    for host in HOSTS {
        for target in [
            "/",
            "/x",
            "/public/x",
            "http://app/",
            "http://app/public/x",
            "http://admin.example/",
            "http://admin.example:80/x",
            "http://ADMIN.EXAMPLE./x",
            "//admin.example/x",
            "*",
        ] {
            add(target, host);
        }
    }
    // Without a host at all, and in HTTP/1.0.
    for target in ["/admin/secret", "http://admin.example/x", "http://admin.example/admin/secret"] {
        requests.push(format!("GET {target} HTTP/1.0\r\n\r\n").into_bytes());
    }
    requests
}

/// Sends one, and gives the status; 0 where the connection was closed without.
async fn send(port: u16, request: Vec<u8>) -> u16 {
    let exchange = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut answer = Vec::new();
        // A refusal may come, and close, before all is written.
        let _ = socket.write_all(&request).await;
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    };
    let shown = String::from_utf8_lossy(&request).into_owned();
    tokio::time::timeout(Duration::from_secs(10), exchange).await.unwrap_or_else(|_| panic!("no answer to {shown}"))
}

async fn send_all(port: u16) -> Vec<u16> {
    futures_util::stream::iter(requests()).map(|request| send(port, request)).buffered(16).collect().await
}

async fn reached(app: &App, handler: &str) -> Vec<Value> {
    let url = format!("http://127.0.0.1:{}/_reached", app.port);
    let text = client().get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[handler].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_reaches_a_handler_that_its_rule_refuses() {
    let idp = shared_idp().await;
    let issuer = &idp.issuer;
    // What is not guarded is for everybody: whatever policy reads differently than the application gets in.
    let config = |rest: &str| {
        format!(
            r#"
spop: {{ deadline: 200ms }}
issuers:
  acme: {{ issuer: {issuer}, insecure: true, audiences: [{AUDIENCE}] }}
groups: {{ ops: ["acme:platform-ops"] }}
{rest}
  - {{ name: rest, allow: anyone }}
"#
        )
    };
    let guarded = config(
        r#"rules:
  - { name: host, host: admin.example, allow: { groups: [ops] } }
  - { name: admin, path: /admin/**, allow: { groups: [ops] } }
  - { name: mounted, path: /mounted/secret/**, allow: { groups: [ops] } }"#,
    );
    let open = config("ambiguous_paths: allow\nrules:");
    let start = async |config: &str| {
        let (agent, app) = tokio::join!(Agent::start(config), App::start_module("guarded:app", free_port()));
        let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
        agent.ready().await;
        haproxy.answering().await;
        (agent, app, haproxy)
    };

    let (_agent, app, haproxy) = start(&guarded).await;
    let answers = send_all(haproxy.port).await;
    for handler in ["admin", "mounted", "hosted"] {
        assert_eq!(reached(&app, handler).await, Vec::<Value>::new(), "{handler} was reached by nobody in particular");
    }
    let count = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    let counts = [200, 307, 400, 401, 403, 404].map(|status| (status, count(status)));
    eprintln!("{} requests: {counts:?}", answers.len());
    assert!(count(200) > 50 && count(400) > 1000 && count(401) > 50, "{counts:?}");
    assert_eq!(count(503) + count(500) + count(504), 0, "{counts:?}");
    // Whoever may is let in, by the plain spelling and by one that reads the same.
    let token = idp.mint(json!({ "user": "alice" })).await;
    for path in ["/admin/secret", "/%61dmin/secret", "/mounted/secret"] {
        assert_eq!(haproxy.get_as(&token, path).await.status, 200, "{path}");
    }
    assert_eq!((reached(&app, "admin").await.len(), reached(&app, "mounted").await.len()), (2, 1));

    // The same where nothing is guarded, so that the requests above are known to be dangerous.
    let (_agent, app, haproxy) = start(&open).await;
    send_all(haproxy.port).await;
    let dangerous = [reached(&app, "admin").await, reached(&app, "mounted").await, reached(&app, "hosted").await];
    let dangerous = dangerous.map(|all| all.len());
    eprintln!("unguarded, {dangerous:?} reach the handlers");
    assert!(dangerous.iter().all(|count| *count >= 10), "{dangerous:?}");
}

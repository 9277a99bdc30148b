//! Everything that is secret, through one whole run that logs all it can: none of it comes out anywhere (faults.md O12).

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::dpop::Client;
use crate::support::slapd::{ACCOUNT, ACCOUNT_PASSWORD, SUFFIX, Slapd, password_of};
use crate::support::stack::{AUDIENCE, Agent, App, Haproxy, Redis, shared_idp};
use crate::support::{client, eventually, folder, free_port};

/// What is planted, by what it is. A value is looked for as it stands, and in the forms that it goes out in.
#[derive(Default)]
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// One more. Of a token only the part that makes it one counts: its first part is the same for all.
    fn plant(&mut self, what: &'static str, value: impl Into<String>) -> String {
        let value = value.into();
        self.0.push((what, value.rsplit('.').next().unwrap().to_owned()));
        value
    }

    fn assert_none_in(&self, place: &str, text: &str) {
        assert!(!text.is_empty(), "{place} is empty, and proves nothing");
        for (what, value) in &self.0 {
            let base64 = STANDARD.encode(value);
            for form in [value.as_str(), base64.trim_end_matches('='), &value.replace(' ', "%20")] {
                assert!(form.len() >= 8, "{what} is too short to be looked for");
                let found = text.lines().find(|line| line.contains(form));
                assert!(found.is_none(), "{what} is in {place}: {}", found.unwrap_or_default());
            }
        }
    }
}

/// A provider, API and proxy that refuses everything and sends back all that it was told: what quotes an answer in an
/// error quotes our own secrets.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = vec![0; 64 * 1024];
                while let Ok(read) = socket.read(&mut received).await
                    && read > 0
                {
                    let said = String::from_utf8_lossy(&received[..read]).into_owned();
                    let body = json!({ "error": said, "error_description": said }).to_string();
                    let answer = format!(
                        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn rsa_key() -> String {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    STANDARD.encode(der.as_ref())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_comes_out_of_a_run_that_logs_everything() {
    let mut canaries = Canaries::default();
    let idp = shared_idp().await;
    let (slapd, echo, folder) = (Slapd::start().await, echo().await, folder());
    let at = folder.path();
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();

    let redis_password = canaries.plant("the Redis password", "canary-of-redis");
    let redis = Redis::start_with(&["--requirepass", &redis_password]).await;
    write("redis", &redis_password);
    let admin_token = canaries.plant("the admin token", "canary-of-the-admin-side");
    write("ldap", &canaries.plant("the LDAP account's password", ACCOUNT_PASSWORD));
    // What the test provider wants.
    write("introspection", &canaries.plant("the introspection secret", "tollgate-secret"));
    write("entra", &canaries.plant("Entra's client secret", "canary-of-entra"));
    write("proxy", &canaries.plant("the proxy's password", "canary-of-the-proxy"));
    write("nonce", &canaries.plant("the nonce key", "canary-of-the-nonces-canary-of-the-nonces"));
    write("hash", &canaries.plant("the audit trail's key for people", "canary-of-hashes-canary-of-hashes-"));
    write("chain", &canaries.plant("the audit trail's key", "canary-of-chains-canary-of-chains-"));
    let key = rsa_key();
    canaries.plant("Google's private key", &key[200..264]);
    let account = json!({
        "type": "service_account", "private_key_id": "k1", "client_email": "groups@acme.example",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"),
        "token_uri": format!("http://127.0.0.1:{echo}/token"),
    });
    write("google", &account.to_string());
    std::fs::write(at.join("ca.pem"), &*slapd.ca).unwrap();
    let api_key = canaries.plant("an API key", new_key(&at.join("partners.keys")));

    let yaml = config(at, &idp.issuer, slapd.tls_port, redis.port, echo);
    let spop = format!("127.0.0.1:{}", free_port());
    let token_env = format!("CANARY_ADMIN={admin_token}");
    let agent = Agent::start_under(&["env", "TOLLGATE_LOG_FILTER=trace", &token_env], &yaml, &spop).await;
    let app = App::start().await;
    let mut haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    haproxy.answering().await;
    let ask = async |what: &[(&str, &str)]| haproxy.get("/v1/x", what).await;
    let bearer = |token: &str| format!("Bearer {token}");

    // What is right.
    // With more groups than fit, so that Entra is asked too.
    let claims = json!({ "preferred_username": "alice@acme.example", "_claim_names": { "groups": "src1" } });
    let alice = json!({ "user": "alice", "claims": claims });
    let jwt = canaries.plant("a token", idp.mint(alice).await);
    eventually("the token is taken", async || (haproxy.get_as(&jwt, "/v1/x").await.status == 200).then_some(())).await;
    let opaque = canaries.plant("an opaque token", idp.mint(json!({ "user": "alice", "alg": "opaque" })).await);
    eventually("the opaque one is", async || (haproxy.get_as(&opaque, "/v1/x").await.status == 200).then_some(()))
        .await;
    assert_eq!(ask(&[("x-api-key", &api_key)]).await.status, 200);
    let password = canaries.plant("a password", password_of("ann").expose());
    let basic = canaries.plant("a name and a password", STANDARD.encode(format!("ann:{password}")));
    assert_eq!(ask(&[("authorization", &format!("Basic {basic}"))]).await.status, 200);
    let holder = Client::new();
    let bound =
        canaries.plant("a bound token", idp.mint(json!({ "user": "bob", "claims": { "cnf": holder.cnf() } })).await);
    let bound = format!("DPoP {bound}");
    let url = haproxy.url("/v1/x");
    let token = &bound["DPoP ".len()..];
    let asked = ask(&[("authorization", &bound), ("dpop", &holder.proof("GET", &url, token, json!({})))]).await;
    assert_eq!(asked.reason(), "dpop_nonce_needed", "{asked:?}");
    let nonce = canaries.plant("a nonce", asked.header("dpop-nonce").unwrap());
    let proof = canaries.plant("a proof", holder.proof("GET", &url, token, json!({ "nonce": nonce })));
    assert_eq!(ask(&[("authorization", &bound), ("dpop", &proof)]).await.status, 200);
    assert_eq!(ask(&[("authorization", &bound), ("dpop", &proof)]).await.reason(), "dpop_replayed");

    // What is not.
    let forged = format!("{}{}", &jwt[..jwt.len() - 24], "canaryOfForgersAAAAAAAAAA");
    let forged = canaries.plant("a token with another's signature", forged);
    let made_up = canaries.plant("an opaque token that is none", "canary-of-opaque-tokens");
    let scheme = canaries.plant("a credential of no known kind", "canary-of-a-scheme");
    let wrong = canaries.plant("a wrong password", STANDARD.encode("ann:canary of wrong passwords"));
    let wrong_key = canaries.plant("a wrong API key", format!("tg_{}", "canaryOfWrongKeys".repeat(4)));
    for (value, status) in [
        (bearer(&forged), 401),
        (bearer(&made_up), 401),
        (format!("Kerberos {scheme}"), 401),
        (format!("Basic {wrong}"), 401),
        (bearer(&format!("{jwt}, {made_up}")), 401),
    ] {
        let answer = ask(&[("authorization", &value)]).await;
        assert_eq!(answer.status, status, "{value}: {answer:?}");
    }
    assert_eq!(ask(&[("x-api-key", &wrong_key)]).await.status, 401);
    let cookie = canaries.plant("a session", "canary-of-sessions");
    let other = canaries.plant("a cookie", "canary-of-cookies");
    let query = canaries.plant("a query", "canary-of-queries");
    let cookies = format!("__Host-tollgate={cookie}; other={other}");
    let path = format!("/v1/x?access_token={query}");
    haproxy.get(&path, &[("cookie", &cookies), ("authorization", &bearer(&jwt))]).await;
    haproxy.get(&format!("/nowhere/{}?code={query}", "%41".repeat(3)), &[("cookie", &cookies)]).await;

    // The failures of others, which quote us, have been told of; so are secrets that are read once more.
    for name in ["workspace", "graph"] {
        eventually(&format!("{name} has been asked"), async || {
            let metric = format!("tollgate_directory_failures_total{{directory=\"{name}\"}}");
            (metric_of(&agent, &admin_token, &metric).await >= 1.0).then_some(())
        })
        .await;
    }
    eventually("the proxy has been asked", async || {
        let failed = "tollgate_issuer_key_fetch_failures_total{issuer=\"behind\"}";
        (metric_of(&agent, &admin_token, failed).await >= 1.0).then_some(())
    })
    .await;
    agent.program.signal("HUP");
    eventually("the config is read again", async || {
        (metric_of(&agent, &admin_token, "tollgate_config_reloads_total").await == 1.0).then_some(())
    })
    .await;
    std::fs::write(&agent.config, yaml.replace("rules:", "rulez:")).unwrap();
    agent.program.signal("HUP");
    eventually("the bad one is refused", async || agent.program.log().contains("rulez").then_some(())).await;

    assert!(canaries.0.len() >= 20);
    for path in ["/metrics", "/status", "/readyz", "/livez", "/nothing"] {
        canaries.assert_none_in(path, &page(&agent, &admin_token, path).await);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/limits", agent.program.pid())).unwrap();
    let cores = status.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "memory would be written to disk: {cores}");
    for (place, arguments) in [("check", vec!["check"]), ("check --expanded", vec!["check", "--expanded"])] {
        std::fs::write(&agent.config, &yaml).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let command = command.args(arguments).arg("--config").arg(&agent.config).env("CANARY_ADMIN", &admin_token);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        canaries.assert_none_in(place, &said);
    }
    let mut agent = agent;
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(std::time::Duration::from_secs(10)), Some(0));
    haproxy.program.kill();
    let log = agent.program.log();
    assert!(log.contains(r#""level":"TRACE""#) && log.contains(r#""level":"DEBUG""#), "it did not log all it can");
    canaries.assert_none_in("the agent's log", &log);
    let trail = std::fs::read_to_string(at.join("audit.jsonl")).unwrap();
    assert!(trail.contains("\"reload_refused\"") && trail.lines().count() > 15, "{trail}");
    canaries.assert_none_in("the audit trail", &trail);
    canaries.assert_none_in("HAProxy's log", &haproxy.program.log());
}

fn new_key(file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let command = command.args(["api-key", "new", "--user", "partner", "--expires", "1d", "--file"]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

async fn page(agent: &Agent, token: &str, path: &str) -> String {
    let request = client().get(format!("http://127.0.0.1:{}{path}", agent.admin_port)).bearer_auth(token);
    let response = request.send().await.unwrap();
    let head = format!("{:?}", response.headers());
    head + &response.text().await.unwrap()
}

async fn metric_of(agent: &Agent, token: &str, name: &str) -> f64 {
    let text = page(agent, token, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn config(at: &Path, issuer: &str, ldap: u16, redis: u16, echo: u16) -> String {
    let at = at.display();
    format!(
        r#"
spop: {{ deadline: 200ms }}
admin: {{ listen: tcp:127.0.0.1:9003, token: env:CANARY_ADMIN }}
audit: {{ file: {at}/audit.jsonl, hash: [subject], hash_key: "file:{at}/hash", chain_key: "file:{at}/chain" }}
counters: {{ redis: "redis://127.0.0.1:{redis}", password: "file:{at}/redis", timeout: 50ms }}
dpop: {{ nonce: required, nonce_key: "file:{at}/nonce" }}
api_keys: {{ partners: {{ file: {at}/partners.keys }} }}
basic: {{ directory: people }}
directories:
  people:
    ldap:
      url: ldaps://127.0.0.1:{ldap}
      ca_file: {at}/ca.pem
      bind_dn: {ACCOUNT}
      bind_password: file:{at}/ldap
      users: {{ base: "ou=people,{SUFFIX}", filter: "(uid={{user}})" }}
      groups: {{ base: "{SUFFIX}", filter: "(member={{dn}})" }}
  workspace:
    google: {{ service_account: "file:{at}/google", admin: admin@acme.example, endpoint: "http://127.0.0.1:{echo}", insecure: true }}
  graph:
    entra:
      tenant: acme.onmicrosoft.com
      client_id: 11111111-2222-3333-4444-555555555555
      client_secret: file:{at}/entra
      endpoint: http://127.0.0.1:{echo}
      login: http://127.0.0.1:{echo}
      insecure: true
issuers:
  acme:
    issuer: {issuer}
    insecure: true
    audiences: [{AUDIENCE}, web]
    claims: {{ user: preferred_username, audience: [aud, client_id] }}
    introspection: {{ client_id: tollgate, client_secret: "file:{at}/introspection" }}
    groups_from: [workspace, graph]
  behind:
    issuer: http://login.acme.example
    insecure: true
    audiences: [{AUDIENCE}]
    proxy: {{ url: "http://127.0.0.1:{echo}", username: tollgate, password: "file:{at}/proxy" }}
limits:
  many: {{ key: [user], rate: 1000/1h }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: api, path: /v1/**, allow: authenticated, limits: [many], credentials: [dpop, jwt, opaque, api_key, basic] }}
"#
    )
}

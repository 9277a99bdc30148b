//! Client certificates, verified by HAProxy and mapped here.

use serde_json::json;

use crate::support::eventually;
use crate::support::stack::{self, Agent, App, Haproxy, shared_idp};
use crate::support::tls::{Ca, Client, Files, Owned, Says};

const CONFIG: &str = r#"
certificates:
  fleet:
    user: san.uri
    strip: spiffe://acme.example/
    groups: subject.OU
    email: san.email
    require: { issuer.CN: Clients CA, subject.OU: fleet }
  people: { user: subject.CN, groups: subject.OU }
groups:
  ops: ["fleet:ops, \"eu\"", "people:staff"]
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: public, path: /public/**, allow: anyone, credentials: certificate }
  - { name: admin, path: /admin/**, allow: { groups: [ops] } }
  - { name: claims, path: /claims/**, allow: { claims: { subject.CN: edge-7 } } }
  - { name: api, allow: authenticated }
"#;

struct Stack {
    haproxy: Haproxy,
    agent: Agent,
    _app: App,
    clients: Ca,
    servers: Ca,
    _files: Files,
}

impl Stack {
    /// `verify` is how HAProxy treats what clients show.
    async fn start(verify: &str) -> Stack {
        Stack::start_with(verify, CONFIG).await
    }

    async fn start_with(verify: &str, config: &str) -> Stack {
        let (clients, servers) = (Ca::new("Clients CA"), Ca::new("Servers CA"));
        let files = Files::new(&servers.server(), &clients);
        let tls = format!("ssl crt {} ca-file {} {verify}", files.server.display(), files.clients.display());
        let (agent, app) = tokio::join!(Agent::start(config), App::start());
        let env = [("TOLLGATE_TLS", tls.as_str())];
        let haproxy = Haproxy::start_with_env("haproxy", &[&agent.spop], &[app.port], &env).await;
        agent.ready().await;
        let stack = Stack { haproxy, agent, _app: app, clients, servers, _files: files };
        let anonymous = stack.client(None);
        eventually("an agent answers through HAProxy", || async {
            let reply = anonymous.get(stack.haproxy.port, "/healthz").await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        stack
    }

    fn client(&self, own: Option<&Owned>) -> Client {
        Client::new(&self.servers, own, &rustls::version::TLS13)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_certificate_names_its_owner() {
    let stack = Stack::start("verify optional").await;
    let port = stack.haproxy.port;
    let device = stack.clients.client(&Says {
        common_name: "edge-7",
        units: &["fleet", "ops, \"eu\""],
        uris: &["spiffe://acme.example/ns/prod/sa/edge", "https://other.example/"],
        emails: &["edge@acme.example"],
        ..Says::default()
    });
    let device = stack.client(Some(&device));
    let reply = device.get(port, "/admin/x").await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.seen("x-auth-user"), ["ns/prod/sa/edge"]);
    assert_eq!(reply.seen("x-auth-groups"), ["ops"]);
    assert_eq!(reply.seen("x-auth-email"), ["edge@acme.example"]);
    assert_eq!(reply.seen("x-auth-issuer"), ["fleet"]);
    assert_eq!(device.get(port, "/claims/x").await.unwrap().status, 200);

    let person = stack.clients.client(&Says { common_name: "J\u{f6}rg, \"Jim\" + 1", ..Says::default() });
    let person = stack.client(Some(&person));
    let reply = person.get(port, "/v1/x").await.unwrap();
    assert_eq!((reply.status, reply.seen("x-auth-issuer")), (200, vec!["people"]), "{reply:?}");
    // Python's server reads header fields as Latin-1.
    let user: Vec<u8> = reply.seen("x-auth-user")[0].chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    assert_eq!(String::from_utf8(user).unwrap(), "J\u{f6}rg, \"Jim\" + 1");
    let reply = person.get(port, "/admin/x").await.unwrap();
    assert_eq!((reply.status, reply.reason()), (403, "group_missing"));
    let reply = person.get(port, "/claims/x").await.unwrap();
    assert_eq!((reply.status, reply.reason()), (403, "claim_unmet"));

    let two = ["spiffe://acme.example/a", "spiffe://acme.example/b"];
    for (says, reason) in [
        (Says { common_name: "two", units: &["fleet"], uris: &two, ..Says::default() }, "certificate_unmapped"),
        (Says { common_name: "none", units: &["fleet"], ..Says::default() }, "certificate_unmapped"),
    ] {
        let client = stack.client(Some(&stack.clients.client(&says)));
        for path in ["/v1/x", "/public/x"] {
            let reply = client.get(port, path).await.unwrap();
            assert_eq!((reply.status, reply.reason()), (401, reason), "{} {path}", says.common_name);
        }
    }
    assert_eq!(stack.agent.metric("tollgate_certificates_known").await, 4.0);

    // Without one, and with one that HAProxy refuses before there is any request.
    let nobody = stack.client(None);
    let reply = nobody.get(port, "/v1/x").await.unwrap();
    assert_eq!((reply.status, reply.reason()), (401, "credential_missing"));
    assert_eq!(nobody.get(port, "/public/x").await.unwrap().status, 200);
    let foreign = Ca::new("Clients CA").client(&Says::default());
    let expired = stack.clients.client(&Says { since_s: 3600, for_s: -60, ..Says::default() });
    for own in [&foreign, &expired] {
        let refused = stack.client(Some(own)).get(port, "/public/x").await.unwrap_err();
        assert!(refused.contains("alert"), "{refused}");
    }
}

/// Operators who want to see the requests of those clients too tell HAProxy to overlook what is wrong with their
/// certificates. That makes none of them somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_haproxy_was_told_to_overlook_proves_nothing() {
    let stack = Stack::start("verify optional ca-ignore-err all crt-ignore-err all").await;
    let good = stack.clients.client(&Says { common_name: "good", ..Says::default() });
    let reply = stack.client(Some(&good)).get(stack.haproxy.port, "/v1/x").await.unwrap();
    assert_eq!((reply.status, reply.seen("x-auth-user")), (200, vec!["good"]));
    let foreign = Ca::new("Clients CA").client(&Says::default());
    let expired = stack.clients.client(&Says { since_s: 3600, for_s: -60, ..Says::default() });
    let future = stack.clients.client(&Says { since_s: -3600, for_s: 7200, ..Says::default() });
    for own in [&foreign, &expired, &future] {
        let client = stack.client(Some(own));
        // In a session of its own and in a resumed one.
        for _ in 0..3 {
            let reply = client.get(stack.haproxy.port, "/public/x").await.unwrap();
            assert_eq!((reply.status, reply.reason()), (401, "certificate_unverified"), "{reply:?}");
        }
    }
}

/// HAProxy verifies a certificate once a session, and a session is resumed without it. What it knew then it still says,
/// so the end of the validity has to be looked at here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_does_not_outlive_its_certificate() {
    let stack = Stack::start("verify optional").await;
    let port = stack.haproxy.port;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let short = stack.clients.client(&Says { common_name: "short", for_s: 4, ..Says::default() });
        let client = Client::new(&stack.servers, Some(&short), version);
        let first = client.get(port, "/v1/x").await.unwrap();
        assert_eq!(
            (first.resumed, first.status, first.seen("x-auth-user")),
            (false, 200, vec!["short"]),
            "{version:?}"
        );
        let resumed = client.get(port, "/v1/x").await.unwrap();
        assert_eq!((resumed.resumed, resumed.status), (true, 200), "{version:?}: {resumed:?}");
        assert_eq!(resumed.seen("x-auth-user"), ["short"], "a resumed session brings the certificate along");
        eventually("the certificate's end is noticed", || async {
            let reply = client.get(port, "/v1/x").await.unwrap();
            assert!(reply.resumed, "{version:?}: {reply:?}");
            (reply.status == 401).then(|| assert_eq!(reply.reason(), "certificate_expired"))
        })
        .await;
        let anew = Client::new(&stack.servers, Some(&short), version).get(port, "/v1/x").await;
        assert!(anew.is_err(), "HAProxy itself refuses it in a session of its own: {anew:?}");
    }
}

/// A token with `cnf.x5t#S256` (RFC 8705) is good on connections of that certificate and on no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_needs_its_certificate() {
    let idp = shared_idp().await;
    // The certificate need not name anybody: there is no `certificates:`.
    let stack =
        Stack::start_with("verify optional ca-ignore-err all crt-ignore-err all", &stack::config(&idp.issuer, ""))
            .await;
    let port = stack.haproxy.port;
    let own = stack.clients.client(&Says::default());
    let expired = stack.clients.client(&Says { since_s: 3600, for_s: -60, ..Says::default() });
    let token = async |owned: &Owned| idp.mint(json!({ "user": "alice", "claims": { "cnf": owned.cnf() } })).await;
    let (bound, bound_to_expired) = (token(&own).await, token(&expired).await);
    let unbound = idp.mint(json!({ "user": "alice" })).await;
    let holder = stack.client(Some(&own));
    // In a session of its own and in resumed ones.
    for _ in 0..3 {
        let reply = holder.get_as(&bound, port, "/v1/x").await.unwrap();
        assert_eq!((reply.status, reply.seen("x-auth-user")), (200, vec!["alice"]), "{reply:?}");
    }
    let other = stack.client(Some(&stack.clients.client(&Says::default())));
    let (nobody, late) = (stack.client(None), stack.client(Some(&expired)));
    for (what, client, token, status, reason) in [
        ("none", &nobody, &bound, 401, "proof_missing"),
        ("another, of the same name and CA", &other, &bound, 401, "proof_invalid"),
        ("its own, which HAProxy does not trust: the key is what counts", &late, &bound_to_expired, 200, ""),
        ("a token that is not bound, of someone with a certificate", &holder, &unbound, 200, ""),
        ("the same without", &nobody, &unbound, 200, ""),
    ] {
        let reply = client.get_as(token, port, "/v1/x").await.unwrap();
        assert_eq!((reply.status, reply.reason()), (status, reason), "{what}: {reply:?}");
    }
    // What anyone may see is refused too: a stolen token is no anonymous caller.
    let reply = nobody.get_as(&bound, port, "/public/x").await.unwrap();
    assert_eq!((reply.status, reply.reason()), (401, "proof_missing"), "{reply:?}");
}

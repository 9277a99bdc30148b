//! Request + token + state -> decision, at the pipeline's boundary: what HAProxy would be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::decision::{Decision, Reason};
use tollgate::identity::Identities;
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Pipeline, Step};
use tollgate::respond::{Scratch, respond};
use tollgate::spop::engine::request_payload;
use tollgate::spop::{Action, Messages, TypedData};

use crate::support::dpop::Client;

const NOW_S: u64 = 1_800_000_000;

/// A pipeline with a pinned key, a clock that the test moves, and what HAProxy would be told.
struct Bench {
    pipeline: Arc<Pipeline>,
    clock: Clock,
    key: EncodingKey,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(yaml: &str) -> Bench {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let folder = crate::support::folder();
        let (key, jwks) = key_pair("k1");
        std::fs::write(folder.path().join("keys.json"), jwks).unwrap();
        let config =
            config::parse(yaml, &folder.path().join("tollgate.yaml")).unwrap_or_else(|errors| panic!("{errors}"));
        let pipeline = Pipeline {
            identities: Identities::new(config.identity, config.groups, None).unwrap(),
            policy: config.policy,
            counters: Arc::new(Counters::new(&config.counters).unwrap()),
            ids: Arc::new(DecisionIds::new(7)),
            deadline: config.spop.deadline,
            version: config.version,
            audited: false,
        };
        Bench { pipeline: Arc::new(pipeline), clock: Clock::by_hand(NOW_S), key, _folder: folder }
    }

    fn token(&self, claims: Value) -> String {
        let mut all = json!({
            "iss": "https://login.acme.example", "aud": "https://api.acme.example", "sub": "u-1",
            "preferred_username": "alice", "exp": NOW_S + 600,
        });
        for (name, value) in claims.as_object().unwrap() {
            if value.is_null() {
                all.as_object_mut().unwrap().remove(name);
            } else {
                all[name] = value.clone();
            }
        }
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &all, &self.key).unwrap()
    }

    /// Nothing here comes from the network; the signature of an unseen token is waited for.
    fn decide(&self, messages: &Messages<'_>) -> Decision {
        match self.pipeline.decide(messages, self.clock.now()) {
            Step::Done(decision) => decision,
            Step::Wait(decision) => {
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(decision)
            }
            Step::Noted => panic!("it is a question"),
        }
    }

    fn ask(&self, arguments: &[(&str, TypedData<'_>)]) -> BTreeMap<String, String> {
        self.ask_within(790, arguments)
    }

    /// The same where the ACK has so much room.
    fn ask_within(&self, action_bytes_max: usize, arguments: &[(&str, TypedData<'_>)]) -> BTreeMap<String, String> {
        let mut payload = BytesMut::new();
        request_payload(arguments, &mut payload);
        let messages = Messages::decode(&payload).unwrap();
        let decision = self.decide(&messages);
        let mut scratch = Scratch::default();
        let answer = respond(&decision, action_bytes_max, &mut scratch);
        let last = answer.actions.last().copied();
        let len: usize = answer.actions.iter().map(Action::encoded_len).sum();
        assert!(len <= action_bytes_max, "{len} bytes of actions, {action_bytes_max} fit");
        for action in &answer.actions {
            let (Action::SetVar { name, .. } | Action::UnsetVar { name, .. }) = action;
            let name = format!("txn.tollgate.{name}");
            assert!(name.len() <= 63 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.'), "{name}");
        }
        assert!(
            matches!(last, Some(Action::SetVar { name: "verdict", .. })),
            "the verdict comes last, whatever was decided"
        );
        answer
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::SetVar { name, value: TypedData::Str(text), .. } => {
                    Some(((*name).to_owned(), String::from_utf8(text.to_vec()).unwrap()))
                }
                Action::SetVar { name, value: TypedData::Bool(value), .. } => {
                    Some(((*name).to_owned(), value.to_string()))
                }
                Action::SetVar { name, value, .. } => {
                    Some(((*name).to_owned(), value.as_integer().unwrap().to_string()))
                }
                Action::UnsetVar { .. } => None,
            })
            .collect()
    }

    /// Asks `METHOD HOST/PATH`.
    fn request(&self, line: &str, token: Option<&str>) -> BTreeMap<String, String> {
        let (method, url) = line.split_once(' ').unwrap();
        let (host, path) = url.split_at(url.find('/').unwrap());
        let authorization = token.map(|token| format!("Bearer {token}"));
        let authorization = authorization.as_ref().map_or(TypedData::Null, |value| TypedData::Str(value.as_bytes()));
        self.ask(&[
            ("method", TypedData::Str(method.as_bytes())),
            ("host", TypedData::Str(host.as_bytes())),
            ("path", TypedData::Str(path.as_bytes())),
            ("src", TypedData::Ipv4([192, 0, 2, 7].into())),
            ("authorization", authorization),
        ])
    }
}

#[test]
fn rules_decide_by_host_path_and_method_and_then_by_who_asks() {
    let bench = Bench::new(POLICY);
    let none = None;
    let carol = Some(json!({ "preferred_username": "carol" }));
    let ops = Some(json!({ "groups": ["platform-ops"] }));
    let both = Some(json!({ "groups": ["platform-ops", "auditors"] }));
    let scoped = Some(json!({ "scope": "orders:read profile" }));
    let german = Some(json!({ "realm": { "country": "DE" }, "amr": ["pwd", "mfa"] }));
    let overage = Some(json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": {} }));
    for (line, claims, status, reason, rule) in [
        ("GET a.example/healthz", &none, "200", "allowed", "health"),
        ("POST a.example/healthz", &none, "200", "allowed", "health"),
        ("GET a.example/healthz/", &none, "403", "no_rule", ""),
        ("GET a.example/admin", &none, "401", "credential_missing", "admin"),
        ("GET a.example/admin", &carol, "403", "group_missing", "admin"),
        ("GET a.example/admin/x/y", &ops, "200", "allowed", "admin"),
        ("GET a.example/admin", &overage, "403", "groups_unknown", "admin"),
        ("GET a.example/later", &ops, "200", "allowed", "later"),
        ("GET a.example/later", &carol, "403", "group_missing", "later"),
        ("GET a.example/later", &none, "401", "credential_missing", "later"),
        ("GET a.example/later", &overage, "503", "groups_unavailable", "later"),
        ("GET a.example/both", &ops, "403", "group_missing", "both"),
        ("GET a.example/both", &both, "200", "allowed", "both"),
        ("GET a.example/scoped", &carol, "403", "scope_missing", "scoped"),
        ("GET a.example/scoped", &scoped, "200", "allowed", "scoped"),
        ("GET a.example/claims", &carol, "403", "claim_unmet", "claims"),
        ("GET a.example/claims", &german, "200", "allowed", "claims"),
        // The first that matches decides: no falling through to `anything`.
        ("GET api.example/v1/a", &carol, "200", "allowed", "api"),
        ("GET API.example:443/v1/a", &carol, "200", "allowed", "api"),
        ("GET api.example./v1/a", &carol, "200", "allowed", "api"),
        ("DELETE api.example/v1/a", &carol, "403", "no_rule", ""),
        ("get api.example/v1/a", &carol, "403", "no_rule", ""),
        ("GET a.example/v1/a", &carol, "403", "no_rule", ""),
        ("GET api.example/v1/a/b", &carol, "403", "no_rule", ""),
        ("GET a.example/public/../admin", &none, "400", "path_ambiguous", ""),
        ("GET a.example/%61dmin", &carol, "403", "group_missing", "admin"),
    ] {
        let token = claims.as_ref().map(|claims| bench.token(claims.clone()));
        let told = bench.request(line, token.as_deref());
        let rule_told = told.get("rule").cloned().unwrap_or_default();
        assert_eq!([&*told["status"], &told["reason"], &rule_told], [status, reason, rule], "{line} {claims:?}");
        assert_eq!(told["allow"], (told["verdict"] == "allow").to_string());
        assert_eq!(told["verdict"] == "allow", status == "200");
        assert_eq!(told["degraded"], (status == "503").to_string(), "{line} {claims:?}");
    }
}

#[test]
fn a_requirement_is_a_tree_and_says_what_is_missing() {
    let head = POLICY.split("limits:").next().unwrap();
    let bench = Bench::new(&format!("{head}{REQUIREMENTS}"));
    let none = None;
    let carol = Some(json!({ "preferred_username": "carol" }));
    let ops = Some(json!({ "groups": ["platform-ops"] }));
    let both = Some(json!({ "groups": ["platform-ops", "auditors"] }));
    let overage = Some(json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": {} }));
    let strong = Some(json!({ "acr": "gold", "auth_time": 1, "amr": ["hwk"] }));
    let recent = Some(json!({ "acr": "silver", "auth_time": NOW_S - 10, "level": 3 }));
    let future = Some(json!({ "acr": "gold", "auth_time": NOW_S + 600 }));
    for (line, claims, status, reason) in [
        ("GET a.example/inside", &none, "200", "allowed"),
        ("GET a.example/inside", &carol, "200", "allowed"),
        ("GET a.example/outside", &none, "403", "source_refused"),
        ("GET a.example/outside", &ops, "403", "source_refused"),
        ("GET a.example/elsewhere", &none, "403", "source_refused"),
        ("GET a.example/elsewhere", &ops, "403", "source_refused"),
        ("GET a.example/closed", &none, "403", "time_refused"),
        ("GET a.example/closed", &ops, "403", "time_refused"),
        ("GET a.example/ended", &carol, "200", "allowed"),
        ("GET a.example/own/carol", &none, "401", "credential_missing"),
        ("GET a.example/own/carol", &carol, "200", "allowed"),
        ("GET a.example/own/bob", &carol, "403", "condition_unmet"),
        ("GET a.example/level", &carol, "403", "condition_failed"),
        ("GET a.example/level", &recent, "200", "allowed"),
        ("GET a.example/unlevel", &carol, "403", "condition_failed"),
        ("GET a.example/member", &ops, "200", "allowed"),
        ("GET a.example/member", &carol, "403", "condition_unmet"),
        ("GET a.example/member", &overage, "403", "groups_unknown"),
        ("GET a.example/either", &none, "401", "credential_missing"),
        ("GET a.example/either", &carol, "403", "condition_unmet"),
        ("GET a.example/either", &ops, "200", "allowed"),
        ("GET a.example/either", &overage, "403", "groups_unknown"),
        ("GET a.example/except", &ops, "200", "allowed"),
        ("GET a.example/except", &both, "403", "group_missing"),
        ("GET a.example/except", &carol, "403", "group_missing"),
        ("GET a.example/except", &overage, "403", "groups_unknown"),
        ("GET a.example/nobody", &carol, "403", "condition_unmet"),
        ("GET a.example/strong", &none, "401", "credential_missing"),
        ("GET a.example/strong", &carol, "401", "authentication_insufficient"),
        ("GET a.example/strong", &strong, "200", "allowed"),
        ("GET a.example/recent", &strong, "401", "authentication_insufficient"),
        ("GET a.example/recent", &recent, "200", "allowed"),
        ("GET a.example/recent", &future, "401", "authentication_insufficient"),
        ("GET b.below.example/host", &carol, "200", "allowed"),
        ("GET below.example/host", &carol, "403", "no_rule"),
    ] {
        let token = claims.as_ref().map(|claims| bench.token(claims.clone()));
        let told = bench.request(line, token.as_deref());
        assert_eq!([&*told["status"], &told["reason"]], [status, reason], "{line} {claims:?}");
        assert_eq!(told["verdict"] == "allow", status == "200", "{line} {claims:?}");
    }
    // RFC 9470, section 3: what another sign-in would have to be.
    let told = bench.request("GET a.example/recent", Some(&bench.token(json!({ "acr": "gold" }))));
    let challenge = &told["challenge"];
    let says = r#"error="insufficient_user_authentication", acr_values="gold silver", max_age="300""#;
    assert!(challenge.contains(says), "{challenge}");
}

#[test]
fn a_shadow_rule_says_what_it_would_decide_and_decides_nothing() {
    let head = POLICY.split("limits:").next().unwrap();
    let bench = Bench::new(&format!(
        "{head}limits: {{ none: {{ key: [rule], rate: 1/1h }} }}
rules:
  - {{ name: stricter, path: /a, allow: {{ groups: [ops] }}, shadow: true, limits: [none] }}
  - {{ name: network, path: /a/**, allow: {{ anyone: true, src: 192.0.2.0/24 }}, shadow: true }}
  - {{ name: a, path: /a, allow: authenticated }}
  - {{ name: late, path: /a, allow: anyone, shadow: true }}
  - {{ name: alone, path: /b, allow: anyone, shadow: true }}
"
    ));
    let ops = bench.token(json!({ "groups": ["platform-ops"] }));
    let carol = bench.token(json!({}));
    for (path, token, reason, shadows) in [
        ("/a", Some(&ops), "allowed", "stricter=allowed network=allowed"),
        ("/a", Some(&ops), "allowed", "stricter=allowed network=allowed"),
        ("/a", Some(&carol), "allowed", "stricter=group_missing network=allowed"),
        ("/a", None, "credential_missing", "stricter=credential_missing network=allowed"),
        ("/b", Some(&carol), "no_rule", "alone=allowed"),
        ("/a/x", Some(&carol), "no_rule", "network=allowed"),
        ("/c", Some(&carol), "no_rule", ""),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut payload = BytesMut::new();
        request_payload(
            &[
                ("method", TypedData::Str(b"GET")),
                ("path", TypedData::Str(path.as_bytes())),
                ("src", TypedData::Ipv4([192, 0, 2, 7].into())),
                ("authorization", authorization.as_ref().map_or(TypedData::Null, |v| TypedData::Str(v.as_bytes()))),
            ],
            &mut payload,
        );
        let decision = bench.decide(&Messages::decode(&payload).unwrap());
        let said: Vec<_> = decision
            .shadows
            .iter()
            .flatten()
            .map(|shadowed| {
                let reason = shadowed.refusal.clone().map_or(Reason::Allowed, Reason::Refused);
                format!("{}={}", shadowed.rule, reason.code())
            })
            .collect();
        assert_eq!((decision.reason.code(), said.join(" ")), (reason, shadows.to_owned()), "{path}");
        assert_eq!(decision.rule.as_deref(), (path == "/a").then_some("a"), "{path}");
    }
}

#[test]
fn a_credential_is_looked_at_unless_the_rule_says_otherwise() {
    let bench = Bench::new(POLICY);
    let told = bench.request("GET a.example/healthz", Some("abc"));
    assert_eq!([&*told["verdict"], &told["reason"], &told["rule"]], ["challenge", "token_malformed", "health"]);
    let told = bench.request("GET a.example/open", Some("abc"));
    assert_eq!([&*told["verdict"], &told["user"]], ["allow", ""]);
    let told = bench.request("GET a.example/open", Some(&bench.token(json!({}))));
    assert_eq!([&*told["verdict"], &told["user"]], ["allow", ""], "not even a good one");
}

#[test]
fn every_identity_variable_is_told_even_when_empty() {
    let bench = Bench::new(POLICY);
    let claims = json!({
        "groups": ["platform-ops", "auditors"], "email": "alice@acme.example", "name": "Alice Ä", "azp": "cli",
    });
    let told = bench.request("GET a.example/admin", Some(&bench.token(claims)));
    for (name, value) in [
        ("user", "alice"),
        ("subject", "u-1"),
        ("email", "alice@acme.example"),
        ("name", "Alice Ä"),
        ("issuer", "https://login.acme.example"),
        ("client_id", "cli"),
        ("groups", "auditors,ops"),
        ("backend", "fast"),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    let told = bench.request("GET a.example/healthz", None);
    for name in ["user", "subject", "email", "name", "issuer", "client_id", "groups"] {
        assert_eq!(told[name], "", "{name}: what is left of an earlier event must not survive");
    }
}

#[test]
fn a_name_that_is_unsafe_in_a_header_never_leaves() {
    let bench = Bench::new(POLICY);
    for name in ["alice\r\nX-Evil: 1", "alice\u{0}", "alice\u{7f}", "alice\u{85}", "\u{1b}[2J"] {
        for claim in ["preferred_username", "name", "email", "sub", "azp"] {
            let told = bench.request("GET a.example/healthz", Some(&bench.token(json!({ claim: name }))));
            assert_eq!([&*told["verdict"], &told["reason"], &told["status"]], ["deny", "identity_unsafe", "403"]);
            assert!(!format!("{told:?}").contains("Evil"), "{told:?}");
        }
    }
}

#[test]
fn a_token_that_was_verified_is_believed_no_longer_than_it_says() {
    let bench = Bench::new(POLICY);
    let token = bench.token(json!({ "exp": NOW_S + 30 }));
    let ask = || bench.request("GET a.example/open2", Some(&token));
    assert_eq!(ask()["verdict"], "allow");
    bench.clock.advance(std::time::Duration::from_secs(89));
    assert_eq!(ask()["verdict"], "allow", "within the leeway of 60 seconds");
    bench.clock.advance(std::time::Duration::from_secs(2));
    let told = ask();
    assert_eq!([&*told["verdict"], &told["reason"]], ["challenge", "token_expired"]);
    assert!(told["challenge"].contains("error=\"invalid_token\""), "{}", told["challenge"]);
}

#[test]
fn limits_are_counted_together_or_not_at_all() {
    let bench = Bench::new(POLICY);
    let ask = |user: &str| {
        bench.request(
            "GET a.example/limited",
            Some(&bench.token(json!({ "preferred_username": user, "exp": NOW_S + 86_400 }))),
        )
    };
    for user in ["alice", "alice", "bob"] {
        assert_eq!(ask(user)["verdict"], "allow");
    }
    // Alice's own budget of two is spent: refused, and nothing taken from the shared one of four.
    for _ in 0..10 {
        let told = ask("alice");
        assert_eq!([&*told["verdict"], &told["limit"], &told["retry_after"]], ["throttle", "own", "1800"]);
    }
    assert_eq!(ask("carol")["verdict"], "allow");
    let told = ask("dora");
    assert_eq!([&*told["verdict"], &told["limit"], &told["reason"]], ["throttle", "shared", "limit_exceeded"]);
    bench.clock.advance(std::time::Duration::from_secs(1800));
    assert_eq!(ask("alice")["verdict"], "allow");
}

#[test]
fn a_limit_without_a_user_falls_to_the_source_address() {
    let bench = Bench::new(POLICY);
    let ask = |last: u8| {
        bench.ask(&[
            ("method", TypedData::Str(b"GET")),
            ("path", TypedData::Str(b"/anonymous")),
            ("src", TypedData::Ipv4([192, 0, 2, last].into())),
        ])["verdict"]
            .clone()
    };
    assert_eq!([ask(1), ask(1), ask(1), ask(2)], ["allow", "allow", "throttle", "allow"]);
}

#[test]
fn a_question_that_is_no_request_is_an_error_and_not_a_silence() {
    let bench = Bench::new(POLICY);
    let method = ("method", TypedData::Str(b"GET"));
    for arguments in [vec![method], vec![method, method, ("path", TypedData::Str(b"/"))], vec![]] {
        let told = bench.ask(&arguments);
        assert_eq!([&*told["verdict"], &told["reason"], &told["status"]], ["error", "bad_request", "400"]);
    }
}

#[test]
fn a_decision_that_no_stage_made_has_its_log_line_too() {
    let bench = Bench::new(POLICY);
    for reason in [Reason::DeadlineExceeded, Reason::Internal] {
        let decision = bench.pipeline.without_stages(reason, bench.clock.now());
        assert!(decision.summary.is_some() && decision.degraded, "{decision:?}");
    }
}

#[test]
fn what_has_no_room_goes_empty_and_the_verdict_never() {
    let bench = Bench::new(POLICY);
    let long = "x".repeat(700);
    let told =
        bench.request("GET a.example/admin", Some(&bench.token(json!({ "groups": ["platform-ops"], "name": long }))));
    assert_eq!([&*told["verdict"], &told["name"], &told["degraded"]], ["allow", "", "true"]);
    assert_eq!([&*told["user"], &told["groups"], &told["backend"]], ["alice", "ops", "fast"], "what counts is kept");
}

/// A frame of 256 bytes, the smallest that HAProxy may be told to use, less its head.
#[test]
fn the_smallest_ack_still_holds_the_whole_verdict_of_every_kind() {
    let bench = Bench::new(POLICY);
    let long = "x".repeat(300);
    let long =
        bench.token(json!({ "name": long, "email": format!("{long}@acme.example"), "preferred_username": long }));
    let alice = bench.token(json!({}));
    let expired = bench.token(json!({ "exp": NOW_S - 600 }));
    let cases = [
        ("/healthz", None, "allow", "200"),
        ("/limited", Some(&long), "allow", "200"),
        ("/limited", Some(&alice), "allow", "200"),
        ("/limited", Some(&alice), "allow", "200"),
        ("/limited", Some(&alice), "throttle", "429"),
        ("/open2", None, "challenge", "401"),
        ("/open2", Some(&expired), "challenge", "401"),
        ("/admin", Some(&alice), "deny", "403"),
        ("/scoped", Some(&alice), "deny", "403"),
        ("/a/../b", None, "deny", "400"),
    ];
    for (path, token, verdict, status) in cases {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let authorization = authorization.as_ref().map_or(TypedData::Null, |value| TypedData::Str(value.as_bytes()));
        let arguments = [
            ("method", TypedData::Str(b"GET")),
            ("path", TypedData::Str(path.as_bytes())),
            ("authorization", authorization),
        ];
        let told = bench.ask_within(256 - 1 - 7, &arguments);
        assert_eq!([&*told["verdict"], &told["status"]], [verdict, status], "{path}");
        assert!(told.contains_key("user") && told.contains_key("groups"), "set, be it empty: {told:?}");
    }
    assert!(!bench.ask_within(248, &[])["reason"].is_empty());
}

/// RFC 6750, section 3, and RFC 9449, section 7.1.
#[test]
fn a_challenge_says_what_was_wrong_in_the_scheme_that_was_presented() {
    let bench = Bench::new(&POLICY.replace(
        "allow: { all_groups: [ops, auditors] }",
        "allow: { all_groups: [ops, auditors] }, credentials: dpop",
    ));
    let client = Client::new();
    let (plain, bound) = (bench.token(json!({})), bench.token(json!({ "cnf": client.cnf() })));
    let proof = |changes: Value| {
        let mut all = json!({ "iat": NOW_S });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        client.proof("GET", "http://api.example/open2", &bound, all)
    };
    let (good, stale) = (proof(json!({})), proof(json!({ "iat": 1 })));
    let algs = "algs=\"ES256 ES384 ES512 EdDSA PS256 PS384 PS512 RS256 RS384 RS512\"";
    let dpop = format!("DPoP realm=\"tollgate\", {algs}");
    let bearer = "Bearer realm=\"tollgate\"".to_owned();
    for (path, authorization, proof, reason, challenge) in [
        ("/open2", None, None, "credential_missing", format!("{dpop}, {bearer}")),
        ("/open2", Some("Digest x".to_owned()), None, "credential_unsupported", format!("{dpop}, {bearer}")),
        (
            "/open2",
            Some("Bearer x".to_owned()),
            Some(&good),
            "token_malformed",
            format!(
                "{dpop}, {bearer}, error=\"invalid_token\", error_description=\"The token is not a well-formed JWT\""
            ),
        ),
        (
            "/open2",
            Some(format!("DPoP {bound}")),
            None,
            "proof_missing",
            format!(
                "{dpop}, error=\"invalid_dpop_proof\", error_description=\"The token is bound to a key whose possession was \
                 not proved\", {bearer}"
            ),
        ),
        (
            "/open2",
            Some(format!("DPoP {bound}")),
            Some(&stale),
            "dpop_proof_invalid",
            format!(
                "{dpop}, error=\"invalid_dpop_proof\", error_description=\"The DPoP proof is not valid for this request\", \
                 {bearer}"
            ),
        ),
        (
            "/scoped",
            Some(format!("Bearer {plain}")),
            None,
            "scope_missing",
            format!("{dpop}, {bearer}, error=\"insufficient_scope\", scope=\"orders:read orders:write\""),
        ),
        // Where only one scheme is taken, it says what was wrong with the other.
        ("/both", None, None, "credential_missing", dpop.clone()),
        ("/both", Some(format!("Bearer {plain}")), None, "credential_unsupported", dpop.clone()),
        (
            "/both",
            Some("Bearer".to_owned()),
            None,
            "credential_malformed",
            format!("{dpop}, error=\"invalid_request\", error_description=\"The Authorization field is malformed\""),
        ),
        ("/open2", Some(format!("DPoP {bound}")), Some(&good), "allowed", String::new()),
    ] {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (authorization, dpop) = (authorization.clone(), proof.cloned());
        let (field, proof) = (text(&authorization), text(&dpop));
        let told = bench.ask(&[
            ("method", TypedData::Str(b"GET")),
            ("host", TypedData::Str(b"api.example")),
            ("path", TypedData::Str(path.as_bytes())),
            ("authorization", authorization.map_or(TypedData::Null, |_| TypedData::Str(field.as_bytes()))),
            ("dpop", dpop.map_or(TypedData::Null, |_| TypedData::Str(proof.as_bytes()))),
        ]);
        let said = told.get("challenge").map(String::as_str).unwrap_or_default();
        assert_eq!((&*told["reason"], said), (reason, &*challenge), "{path} {field}");
    }
}

/// RFC 8705, with the arguments as HAProxy sends them: a hash where there is a certificate, and a boolean.
#[test]
fn a_token_that_is_bound_to_a_certificate_comes_with_that_certificate() {
    use base64::Engine;
    let bench = Bench::new(POLICY);
    let mine = [7; 32];
    let x5t = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(mine);
    let token = bench.token(json!({ "cnf": { "x5t#S256": x5t } }));
    let field = format!("Bearer {token}");
    // Cached from the second on.
    for _ in 0..2 {
        for (cert, used, reason) in [
            (TypedData::Null, false, "proof_missing"),
            (TypedData::Bin(&mine), false, "proof_missing"),
            (TypedData::Bin(&[8; 32]), true, "proof_invalid"),
            (TypedData::Bin(&mine), true, "allowed"),
        ] {
            let told = bench.ask(&[
                ("method", TypedData::Str(b"GET")),
                ("path", TypedData::Str(b"/open2")),
                ("authorization", TypedData::Str(field.as_bytes())),
                ("cert", cert),
                ("cert_used", TypedData::Bool(used)),
            ]);
            assert_eq!(&*told["reason"], reason, "{cert:?} {used}");
        }
    }
}

fn key_pair(kid: &str) -> (EncodingKey, String) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some(kid.to_owned());
    (key, json!({ "keys": [jwk] }).to_string())
}

#[test]
fn a_credential_that_cannot_be_looked_into_is_what_the_rule_says() {
    // Nobody fetches keys here, and nobody can be asked.
    let bench = Bench::new(UNAVAILABLE);
    let jwt = bench.token(json!({}));
    for (path, token, status, reason, degraded) in [
        ("/closed", Some(jwt.as_str()), "503", "no_keys", "true"),
        ("/closed", Some("opaque"), "503", "introspection_unavailable", "true"),
        ("/open", Some(&jwt), "200", "allowed", "true"),
        ("/open", Some("opaque"), "200", "allowed", "true"),
        ("/open", None, "200", "allowed", "false"),
        // What can be looked into, and proves nothing, is refused as ever.
        ("/open", Some("ey.not.jose"), "401", "token_malformed", "false"),
        ("/limited", Some("opaque"), "200", "allowed", "true"),
        ("/limited", Some("opaque"), "429", "limit_exceeded", "true"),
        ("/nowhere", Some("opaque"), "503", "introspection_unavailable", "true"),
    ] {
        let told = bench.request(&format!("GET a.example{path}"), token);
        let seen = [&told["status"], &told["reason"], &told["degraded"]];
        assert_eq!(seen, [status, reason, degraded], "{path} {token:?}");
        assert_eq!(told["user"], "", "{path}");
    }
}

const UNAVAILABLE: &str = r#"
issuers:
  acme:
    issuer: https://login.acme.example
    audiences: [https://api.acme.example]
    introspection: { client_id: tollgate, client_secret: "file:keys.json" }
limits:
  once: { key: [src], rate: 1/1h, burst: 1 }
rules:
  - { name: closed, path: /closed, allow: anyone }
  - { name: open, path: /open, allow: anyone, identity_unavailable: anonymous }
  - { name: limited, path: /limited, allow: anyone, identity_unavailable: anonymous, limits: [once] }
"#;

/// `Bench::request` comes from 192.0.2.7.
const REQUIREMENTS: &str = r#"rules:
  - { name: inside, path: /inside, allow: { anyone: true, src: [192.0.2.0/24] } }
  - { name: outside, path: /outside, allow: { anyone: true, src: [10.0.0.0/8, 'fd00::/8'] } }
  - { name: elsewhere, path: /elsewhere, allow: { src: 10.0.0.0/8, groups: [ops] } }
  - { name: closed, path: /closed, allow: { groups: [ops], time: { after: 2126-01-01 } } }
  - { name: ended, path: /ended, allow: { not: { time: { before: 2020-01-01 } } } }
  - { name: own, path: /own/**, allow: { when: "path == '/own/' + user" } }
  - { name: level, path: /level, allow: { when: claims.level >= 3 } }
  - { name: unlevel, path: /unlevel, allow: { not: { when: claims.level >= 3 } } }
  - { name: member, path: /member, allow: { when: "'ops' in groups" } }
  - { name: either, path: /either, allow: { any: [{ groups: [ops] }, { src: 10.0.0.0/8 }] } }
  - { name: except, path: /except, allow: { groups: [ops], no_groups: [auditors] } }
  - { name: nobody, path: /nobody, allow: { not: { src: 192.0.2.7 } } }
  - { name: strong, path: /strong, allow: { acr: [gold], amr: hwk } }
  - { name: recent, path: /recent, allow: { acr: [gold, silver], max_login_age: 5m } }
  - { name: host, host: '*.below.example', path: /host, allow: authenticated }
"#;

const POLICY: &str = r#"
issuers:
  acme:
    issuer: https://login.acme.example
    audiences: [https://api.acme.example]
    jwks_file: keys.json
    claims: { user: preferred_username }
groups:
  ops: ["acme:platform-ops"]
  auditors: ["acme:auditors"]
limits:
  own: { key: [user], rate: 2/1h }
  shared: { key: [rule], rate: 4/1h }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: open, path: /open, allow: anyone, ignore_credentials: true }
  - { name: open2, path: /open2, allow: authenticated }
  - { name: admin, path: /admin/**, allow: { groups: [ops] }, backend: { ops: fast, else: std } }
  - { name: later, path: /later, allow: { groups: [ops] }, groups_unknown: unavailable }
  - { name: both, path: /both, allow: { all_groups: [ops, auditors] } }
  - { name: scoped, path: /scoped, allow: { scopes: ["orders:read", "orders:write"] } }
  - { name: claims, path: /claims, allow: { claims: { realm.country: [DE, FR], amr: mfa } } }
  - { name: api, host: api.example, path: "/v1/*", methods: [GET, POST], allow: authenticated }
  - { name: limited, path: /limited, allow: authenticated, limits: [own, shared] }
  - { name: anonymous, path: /anonymous, allow: anyone, limits: [own] }
"#;

#[test]
fn what_is_left_is_told_in_the_fields_that_the_config_chooses() {
    let both = ["limit_quota", "limit_remaining", "limit_reset", "ratelimit", "ratelimit_policy"];
    for (chosen, expected) in [
        ("", &["limit_remaining", "ratelimit", "ratelimit_policy"][..]),
        ("draft", &["limit_remaining", "ratelimit", "ratelimit_policy"]),
        ("legacy", &["limit_quota", "limit_remaining", "limit_reset"]),
        ("both", &both),
        ("none", &["limit_remaining"]),
    ] {
        let setting = if chosen.is_empty() { String::new() } else { format!("ratelimit_headers: {chosen}\n") };
        let bench = Bench::new(&format!("{setting}{POLICY}"));
        let token = bench.token(json!({}));
        let answer = bench.request("GET a.example/limited", Some(&token));
        let told: Vec<_> = both.into_iter().filter(|name| answer.contains_key(*name)).collect();
        assert_eq!(told, expected, "{chosen}");
        // Two an hour of one's own, four of everybody's: the first has least left.
        let numbers = ["limit_quota", "limit_remaining", "limit_reset"].map(|name| answer.get(name).map(|n| &**n));
        let legacy = chosen == "legacy" || chosen == "both";
        assert_eq!(numbers, [legacy.then_some("2"), Some("1"), legacy.then_some("1800")], "{chosen}");
        // Once nothing is left of it, it is the one that was hit.
        bench.request("GET a.example/limited", Some(&token));
        let answer = bench.request("GET a.example/limited", Some(&token));
        assert_eq!((&*answer["verdict"], &*answer["limit"], &*answer["limit_remaining"]), ("throttle", "own", "0"));
        assert_eq!(answer.get("limit_reset").map(|n| &**n), legacy.then_some("3600"), "{chosen}");
        // Where nothing is counted nothing is told.
        let answer = bench.request("GET a.example/open", None);
        assert!(both.iter().all(|name| !answer.contains_key(*name)), "{answer:?}");
    }
}

#[test]
fn a_token_that_is_known_is_decided_and_answered_without_an_allocation() {
    let bench = Bench::new(
        r#"
issuers:
  acme:
    preset: keycloak
    issuer: https://login.acme.example
    audiences: [https://api.acme.example]
    jwks_file: keys.json
groups: { ops: ["acme:platform-ops"] }
rules:
  - { name: api, host: api.acme.example, path: /v1/**, allow: { groups: [ops] } }
"#,
    );
    let token = format!("Bearer {}", bench.token(json!({ "realm_access": { "roles": ["platform-ops"] } })));
    let mut payload = BytesMut::new();
    let arguments = [
        ("method", TypedData::Str(b"GET")),
        ("host", TypedData::Str(b"api.acme.example")),
        ("path", TypedData::Str(b"/v1/things")),
        ("src", TypedData::Ipv4([192, 0, 2, 1].into())),
        ("authorization", TypedData::Str(token.as_bytes())),
    ];
    request_payload(&arguments, &mut payload);
    let messages = Messages::decode(&payload).unwrap();
    let mut scratch = Scratch::default();
    let first = bench.decide(&messages);
    assert_eq!(first.reason, Reason::Allowed);
    respond(&first, 790, &mut scratch);
    let mut allocating = 0;
    for _ in 0..2000 {
        let measured = allocation_counter::measure(|| match bench.pipeline.decide(&messages, bench.clock.now()) {
            Step::Done(decision) => assert!(respond(&decision, 790, &mut scratch).actions.len() > 10),
            Step::Wait(_) | Step::Noted => panic!("it is known"),
        });
        allocating += usize::from(measured.count_total > 0);
    }
    // The cache notes which tokens are asked for, and puts its notes in order once in a while.
    assert!(allocating <= 2000 / 50, "{allocating} of 2000");
}

//! The whole provider over HTTP, as a client sees it. Tokens are checked with `jsonwebtoken` and the published keys.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;
use url::form_urlencoded::Serializer;

use super::*;

const API: &str = "https://api.acme.example";
const CALLBACK: &str = "http://127.0.0.1:8080/cb";
/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

#[tokio::test]
async fn the_configuration_is_complete_and_says_where_things_are() {
    let idp = Idp::start().await;
    let issuer = idp.base.clone();
    let configuration = idp.json("/.well-known/openid-configuration").await;
    for (field, value) in [
        ("issuer", json!(issuer)),
        ("authorization_endpoint", json!(format!("{issuer}/authorize"))),
        ("token_endpoint", json!(format!("{issuer}/token"))),
        ("userinfo_endpoint", json!(format!("{issuer}/userinfo"))),
        ("jwks_uri", json!(format!("{issuer}/jwks"))),
        ("end_session_endpoint", json!(format!("{issuer}/end_session"))),
        ("response_types_supported", json!(["code"])),
        ("subject_types_supported", json!(["public"])),
        ("id_token_signing_alg_values_supported", json!(["RS256"])),
        ("code_challenge_methods_supported", json!(["S256"])),
        ("request_uri_parameter_supported", json!(false)),
    ] {
        assert_eq!(configuration[field], value, "{field}");
    }
    assert_eq!(idp.http.get(format!("{issuer}/livez")).send().await.unwrap().status(), 200);
    let front = idp.http.get(format!("{issuer}/")).send().await.unwrap().text().await.unwrap();
    assert!(front.contains(&format!("{issuer}/mint?user=alice")), "{front}");
}

#[tokio::test]
async fn an_issuer_with_a_path_and_a_slash_keeps_both() {
    let idp = Idp::start_with(Some("http://localhost:9400/realms/main/"), Clock::system()).await;
    let at = format!("http://{}/realms/main", idp.address);
    let configuration: Value =
        serde_json::from_str(&idp.text(&format!("{at}/.well-known/openid-configuration")).await).unwrap();
    assert_eq!(configuration["issuer"], "http://localhost:9400/realms/main/");
    assert_eq!(configuration["jwks_uri"], "http://localhost:9400/realms/main/jwks");
    let token = idp.text(&format!("{at}/mint?user=alice")).await;
    assert_eq!(unverified(&token)["iss"], "http://localhost:9400/realms/main/");
}

#[tokio::test]
async fn each_algorithm_verifies_with_the_published_keys() {
    let idp = Idp::start().await;
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("PS256", Algorithm::PS256),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
    ] {
        let (header, claims) = idp.verify(&idp.mint(&format!("user=alice&alg={name}")).await, API).await.unwrap();
        assert_eq!(header.alg, algorithm);
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(claims["groups"], json!(["platform-ops", "plan-pro"]));
        assert_eq!(claims["realm_access"]["roles"], claims["groups"]);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
        for (claim, value) in [
            ("iss", idp.base.as_str()),
            ("aud", API),
            ("client_id", "tollgate-dev"),
            ("scope", "openid profile email groups"),
            ("preferred_username", "alice"),
            ("email", "alice@acme.example"),
            ("name", "Alice"),
        ] {
            assert_eq!(claims[claim], value, "{claim}");
        }
    }
    let subject = |token: String| unverified(&token)["sub"].clone();
    assert_eq!(subject(idp.mint("user=bob").await), subject(idp.mint("user=bob&alg=ES256").await));
    assert_ne!(subject(idp.mint("user=bob").await), subject(idp.mint("user=carol").await));
    assert_eq!(unverified(&idp.mint("user=carol").await)["groups"], json!([]));
}

#[tokio::test]
async fn mint_says_whatever_it_is_asked_to_say() {
    let clock = Clock::by_hand(1_700_000_000);
    let idp = Idp::start_with(None, clock).await;
    let merged = "%7B%22groups%22%3A%5B%22x%22%5D%2C%22email%22%3Anull%7D"; // {"groups":["x"],"email":null}
    let token =
        idp.mint(&format!("user=bob&aud=a&ttl=-60&nbf=30&kid=nobody&iss=https://x.example/&claims={merged}")).await;
    let claims = unverified(&token);
    for (claim, value) in [
        ("aud", json!("a")),
        ("iat", json!(1_700_000_000)),
        ("exp", json!(1_699_999_940)),
        ("nbf", json!(1_700_000_030)),
        ("iss", json!("https://x.example/")),
        ("groups", json!(["x"])),
        ("email", Value::Null),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some("nobody"));

    for (query, status, why) in [
        ("", 400, "user"),
        ("user=mallory", 404, "expected one of alice, bob, carol"),
        ("user=bob&alg=HS256", 400, "RS256, PS256, ES256, ES384, EdDSA"),
        ("user=bob&alg=none", 400, "expected one of"),
        ("user=bob&ttl=soon", 400, "ttl"),
        ("user=bob&tll=5", 400, "tll"),
        ("user=bob&claims=5", 400, "JSON object"),
    ] {
        let answer = idp.http.get(format!("{}/mint?{query}", idp.base)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{query}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(why), "{query}: {text}");
    }
}

#[tokio::test]
async fn a_browser_signs_in_with_pkce_and_the_code_works_once() {
    let idp = Idp::start().await;
    let back = idp.sign_in(&[]).await;
    assert_eq!(back["state"], "s&t=a te");
    assert_eq!(back["iss"], idp.base);

    let redeem = [
        ("grant_type", "authorization_code"),
        ("client_id", "app"),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("code", &back["code"]),
    ];
    let (status, tokens) = idp.token(&redeem).await;
    assert_eq!(status, 200, "{tokens}");
    let access = tokens["access_token"].as_str().unwrap();
    let (_, claims) = idp.verify(access, API).await.unwrap();
    assert_eq!(claims["client_id"], "app");

    let (header, id) = idp.verify(tokens["id_token"].as_str().unwrap(), "app").await.unwrap();
    assert_eq!(header.typ.as_deref(), Some("JWT"));
    assert_eq!(id["nonce"], "n-1");
    assert_eq!(id["sub"], claims["sub"]);
    let hash = digest::digest(&digest::SHA256, access.as_bytes());
    assert_eq!(id["at_hash"], URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]));

    let info = idp.userinfo(access).await.unwrap();
    assert_eq!(info["preferred_username"], "alice");
    assert_eq!(info["sub"], claims["sub"]);
    assert_eq!(idp.userinfo(tokens["id_token"].as_str().unwrap()).await, None, "an ID token is no access token");

    let (status, again) = idp.token(&redeem).await;
    assert_eq!((status, again["error"].as_str()), (400, Some("invalid_grant")), "a code works once");

    // The refresh token is rotated, its ID token has no nonce, and its scope can only shrink.
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let form = [("grant_type", "refresh_token"), ("client_id", "app"), ("refresh_token", refresh)];
    let (status, refreshed) = idp.token(&form).await;
    assert_eq!(status, 200, "{refreshed}");
    assert_eq!(unverified(refreshed["id_token"].as_str().unwrap())["nonce"], Value::Null);
    let (_, again) = idp.token(&form).await;
    assert_eq!(again["error"], "invalid_grant");
    let next = refreshed["refresh_token"].as_str().unwrap();
    let wider = [("grant_type", "refresh_token"), ("refresh_token", next), ("scope", "openid admin")];
    assert_eq!(idp.token(&wider).await.1["error"], "invalid_scope");
}

#[tokio::test]
async fn a_code_is_refused_to_whoever_did_not_ask_for_it() {
    let idp = Idp::start().await;
    let wrong_verifier = VERIFIER.replace('d', "e");
    for (field, value) in [
        ("code_verifier", wrong_verifier.as_str()),
        ("client_id", "another"),
        ("redirect_uri", "http://127.0.0.1:8080/elsewhere"),
    ] {
        let code = idp.sign_in(&[]).await["code"].clone();
        let mut form = HashMap::from([
            ("grant_type", "authorization_code"),
            ("client_id", "app"),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
            ("code", &code),
        ]);
        let right = form.insert(field, value).unwrap();
        let form_of = |form: &HashMap<&'static str, &str>| form.iter().map(|(&k, &v)| (k, v.to_owned())).collect();
        let wrong: Vec<(&str, String)> = form_of(&form);
        form.insert(field, right);
        let right: Vec<(&str, String)> = form_of(&form);
        for form in [wrong, right] {
            let form: Vec<_> = form.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let (status, answer) = idp.token(&form).await;
            assert_eq!((status, answer["error"].as_str()), (400, Some("invalid_grant")), "{field}: a code has one try");
        }
    }
}

#[tokio::test]
async fn a_code_and_an_open_login_page_grow_old() {
    let clock = Clock::by_hand(1_700_000_000);
    let idp = Idp::start_with(None, clock.clone()).await;
    let code = idp.sign_in(&[]).await["code"].clone();
    clock.advance(CODE_AGE_MAX);
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", "app"),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("code", &code),
    ];
    assert_eq!(idp.token(&form).await.1["error"], "invalid_grant");

    let page = idp.text(&idp.authorize_url(&[])).await;
    clock.advance(LOGIN_AGE_MAX);
    let answer = idp.login(&page, "alice").await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn a_wrong_password_asks_again_and_then_lets_in() {
    let idp = Idp::start().await;
    let page = idp.text(&idp.authorize_url(&[("login_hint", "bob")])).await;
    assert!(page.contains("<option value=\"bob\" selected>"), "{page}");
    let again = idp.login(&page, "guess").await;
    assert_eq!(again.status(), 403);
    let again = again.text().await.unwrap();
    assert!(again.contains("role=\"alert\""));
    assert_eq!(idp.login(&page, "alice").await.status(), 400, "the first form is used up");
    assert_eq!(idp.login(&again, "alice").await.status(), 303);
}

#[tokio::test]
async fn an_authorization_request_is_refused_where_the_fault_can_be_told() {
    let idp = Idp::start().await;
    // Not to the client while the redirect URI is not trusted.
    for change in [("redirect_uri", "https://acme.example/cb"), ("redirect_uri", ""), ("client_id", "")] {
        let answer = idp.http.get(idp.authorize_url(&[change])).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{change:?}");
        assert!(!answer.headers().contains_key("location"), "{change:?}");
    }
    for (change, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", "short"), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("prompt", "none"), "login_required"),
        (("request", "x"), "request_not_supported"),
    ] {
        let answer = idp.http.get(idp.authorize_url(&[change])).send().await.unwrap();
        let back = query_of_location(&answer);
        assert_eq!(back["error"], error, "{change:?}");
        assert_eq!(back["state"], "s&t=a te", "{change:?}");
    }
    let long = "x".repeat(REQUEST_BYTES_MAX);
    let answer = idp.http.get(idp.authorize_url(&[("nonce", &long)])).send().await.unwrap();
    assert_eq!(answer.status(), 414);
    let answer = idp.post("/token", &[("grant_type", &long)]).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn curl_gets_tokens_without_a_browser() {
    let idp = Idp::start().await;
    let (status, tokens) =
        idp.token(&[("grant_type", "password"), ("username", "bob"), ("password", "bob"), ("audience", "x")]).await;
    assert_eq!(status, 200, "{tokens}");
    let (_, claims) = idp.verify(tokens["access_token"].as_str().unwrap(), "x").await.unwrap();
    assert_eq!(claims["preferred_username"], "bob");

    let (_, tokens) =
        idp.token(&[("grant_type", "client_credentials"), ("client_id", "batch"), ("scope", "r w")]).await;
    let (_, claims) = idp.verify(tokens["access_token"].as_str().unwrap(), API).await.unwrap();
    assert_eq!(
        (&claims["sub"], &claims["client_id"], &claims["scope"]),
        (&json!("batch"), &json!("batch"), &json!("r w"))
    );
    assert_eq!(tokens.get("id_token").or(tokens.get("refresh_token")), None);
    assert_eq!(idp.userinfo(tokens["access_token"].as_str().unwrap()).await, None, "a client is no user");

    let answer = idp
        .http
        .post(format!("{}/token", idp.base))
        .basic_auth("ba%20tch", Some("anything"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let tokens: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(unverified(tokens["access_token"].as_str().unwrap())["sub"], "ba tch");

    for (form, status, error) in [
        (vec![("grant_type", "password"), ("username", "bob"), ("password", "alice")], 400, "invalid_grant"),
        (vec![("grant_type", "client_credentials")], 401, "invalid_client"),
        (vec![("grant_type", "implicit")], 400, "unsupported_grant_type"),
        (vec![("grant_type", "password"), ("grant_type", "password")], 400, "invalid_request"),
        (vec![], 400, "invalid_request"),
    ] {
        let (was, answer) = idp.token(&form).await;
        assert_eq!((was, answer["error"].as_str()), (status, Some(error)), "{form:?}");
    }
}

#[tokio::test]
async fn rotating_drops_the_old_keys_or_keeps_them_published() {
    let idp = Idp::start().await;
    let first = idp.mint("user=alice").await;
    idp.verify(&first, API).await.unwrap();

    assert_eq!(idp.post("/rotate?keep=1", &[]).await.status(), 200);
    let second = idp.mint("user=alice").await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid;
    assert_ne!(kid(&first), kid(&second));
    idp.verify(&first, API).await.expect("kept");
    idp.verify(&second, API).await.unwrap();

    assert_eq!(idp.post("/rotate", &[]).await.status(), 200);
    assert_eq!(idp.verify(&first, API).await.err().as_deref(), Some("no such key"));
    assert_eq!(idp.verify(&second, API).await.err().as_deref(), Some("no such key"));
    assert_eq!(idp.userinfo(&second).await, None);
    idp.verify(&idp.mint("user=alice").await, API).await.unwrap();
    assert_eq!(idp.json("/jwks").await["keys"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn userinfo_takes_only_current_tokens_of_its_own() {
    let clock = Clock::by_hand(1_700_000_000);
    let idp = Idp::start_with(None, clock.clone()).await;
    let token = idp.mint("user=alice&alg=ES384").await;
    assert!(idp.userinfo(&token).await.is_some());
    for query in ["user=alice&iss=https://x.example", "user=alice&ttl=-1", "user=alice&nbf=5", "user=alice&kid=x"] {
        assert_eq!(idp.userinfo(&idp.mint(query).await).await, None, "{query}");
    }
    clock.advance(Duration::from_secs(600));
    assert_eq!(idp.userinfo(&token).await, None, "expired");
    assert_eq!(idp.userinfo("no.token.atall").await, None);
}

#[tokio::test]
async fn signing_out_leads_back_to_this_machine_only() {
    let idp = Idp::start().await;
    for (uri, status) in [("http://localhost:8080/bye", 303), ("https://acme.example/", 400), ("", 200)] {
        let query = Serializer::new(String::new()).append_pair("post_logout_redirect_uri", uri).finish();
        let answer = idp.http.get(format!("{}/end_session?{query}&state=z", idp.base)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{uri}");
        if status == 303 {
            assert_eq!(answer.headers()["location"], "http://localhost:8080/bye?state=z");
        }
    }
}

#[tokio::test]
async fn beyond_loopback_it_does_not_listen() {
    for listen in ["0.0.0.0:0", "192.0.2.1:9400", "[::]:0", "[2001:db8::1]:9400", "[::ffff:127.0.0.1]:9400"] {
        let listen: SocketAddr = listen.parse().unwrap();
        let error = bind(Options { listen, issuer: None, users: None }, Clock::system()).await.err();
        assert!(matches!(error, Some(DevIdpError::NotLoopback { .. })), "{listen}: {error:?}");
        assert!(error.unwrap().to_string().contains(&listen.to_string()));
    }
}

#[test]
fn an_issuer_must_be_a_plain_url() {
    for (issuer, path) in [
        ("http://127.0.0.1:9400", Some("")),
        ("http://127.0.0.1:9400/", Some("")),
        ("https://idp.acme.example/a/b/", Some("/a/b")),
        ("http://x/{a}", None),
        ("http://x//a", None),
        ("http://x/?a", None),
        ("http://x/#a", None),
        ("ftp://x/", None),
        ("login.acme.example", None),
    ] {
        assert_eq!(issuer_path(issuer).ok().as_deref(), path, "{issuer}");
    }
}

/// A provider of its own for each test, ended with it.
struct Idp {
    address: SocketAddr,
    base: String,
    http: reqwest::Client,
    _stop: DropGuard,
}

impl Idp {
    async fn start() -> Idp {
        Idp::start_with(None, Clock::system()).await
    }

    async fn start_with(issuer: Option<&str>, clock: Clock) -> Idp {
        let options =
            Options { listen: "127.0.0.1:0".parse().unwrap(), issuer: issuer.map(str::to_owned), users: None };
        let idp = bind(options, clock).await.unwrap();
        let address = idp.address();
        assert!(issuer.is_some() || idp.issuer() == format!("http://{address}"));
        let stop = CancellationToken::new();
        tokio::spawn(idp.serve(stop.clone()));
        let http = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
        Idp { address, base: format!("http://{address}"), http, _stop: stop.drop_guard() }
    }

    async fn text(&self, url: &str) -> String {
        let answer = self.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{}{path}", self.base)).await).unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        self.http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Serializer::new(String::new()).extend_pairs(form).finish())
            .send()
            .await
            .unwrap()
    }

    async fn mint(&self, query: &str) -> String {
        self.text(&format!("{}/mint?{query}", self.base)).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let answer = self.post("/token", form).await;
        (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    async fn userinfo(&self, token: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}/userinfo", self.base)).bearer_auth(token).send().await.unwrap();
        if answer.status() == 401 {
            assert!(answer.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
            return None;
        }
        assert_eq!(answer.status(), 200);
        Some(serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    /// A good authorization request, but for `changes`; an empty value leaves the parameter out.
    fn authorize_url(&self, changes: &[(&str, &str)]) -> String {
        let mut query = HashMap::from([
            ("response_type", "code"),
            ("client_id", "app"),
            ("redirect_uri", CALLBACK),
            ("scope", "openid email"),
            ("state", "s&t=a te"),
            ("nonce", "n-1"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        query.extend(changes.iter().copied());
        format!("{}/authorize?{}", self.base, Serializer::new(String::new()).extend_pairs(query).finish())
    }

    /// Submits the page's form as alice would.
    async fn login(&self, page: &str, password: &str) -> reqwest::Response {
        let request = page.split("name=\"request\" value=\"").nth(1).unwrap().split('"').next().unwrap();
        self.post("/login", &[("request", request), ("username", "alice"), ("password", password)]).await
    }

    /// From the authorization request to what the client's redirect URI is called with.
    async fn sign_in(&self, changes: &[(&str, &str)]) -> HashMap<String, String> {
        let page = self.text(&self.authorize_url(changes)).await;
        query_of_location(&self.login(&page, "alice").await)
    }

    /// Header and claims of a token, checked as a relying party would: key by `kid`, signature, `exp`, `iss`, `aud`.
    async fn verify(&self, token: &str, audience: &str) -> Result<(Header, Value), String> {
        let header = jsonwebtoken::decode_header(token).unwrap();
        let keys: JwkSet = serde_json::from_value(self.json("/jwks").await).unwrap();
        let key = keys.find(header.kid.as_deref().unwrap()).ok_or("no such key")?;
        assert_eq!(key.common.key_algorithm.unwrap().to_string(), format!("{:?}", header.alg));
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.base]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation);
        decoded.map(|decoded| (header, decoded.claims)).map_err(|why| why.to_string())
    }
}

fn query_of_location(answer: &reqwest::Response) -> HashMap<String, String> {
    assert_eq!(answer.status(), 303);
    let location = answer.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(CALLBACK), "{location}");
    Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

fn unverified(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

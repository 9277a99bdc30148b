//! Directories on loopback, after the public documentation of their APIs, that behave as each test tells them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::super::settings::OutboundSettings;
use super::{AccountKey, EntraSettings, GoogleSettings};
use crate::secret::Secret;

/// What is said instead of a good answer.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A status, a `Retry-After` and a body.
    Says(u16, Option<&'static str>, String),
    /// A status of 200 and this.
    Instead(String),
    /// One byte every 20 ms, for ever.
    Drips,
    /// Nothing, for ever.
    Hangs,
    /// The connection breaks in the middle of the body.
    Breaks,
}

/// Google's or Entra's servers.
pub(super) struct Fake {
    pub(super) script: Arc<Script>,
    address: SocketAddr,
    _serving: DropGuard,
}

#[derive(Default)]
pub(super) struct Script {
    /// Google: member -> groups, as their addresses. Entra: person -> objects, as `type:id`.
    pub(super) groups_of: Mutex<BTreeMap<String, Vec<String>>>,
    /// How many a page has at most; 0 for as many as are asked for.
    pub(super) page: AtomicUsize,
    /// For the requests to come; after that all is well.
    pub(super) faults: Mutex<VecDeque<Fault>>,
    pub(super) token_faults: Mutex<VecDeque<Fault>>,
    /// In place of Entra's own.
    pub(super) next_link: Mutex<Option<String>>,
    /// `path?query` of each request to the API.
    pub(super) asked: Mutex<Vec<String>>,
    /// The fields of each request for a token.
    pub(super) forms: Mutex<Vec<BTreeMap<String, String>>>,
    /// Tokens below that number are good no more.
    pub(super) withdrawn: AtomicUsize,
    /// Requests that were shown no good token.
    pub(super) unauthorized: AtomicUsize,
}

impl Fake {
    pub(super) async fn start() -> Fake {
        let script = Arc::new(Script::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let app = Router::new().fallback(answer).with_state((Arc::clone(&script), address));
        // Not gracefully: some of its answers never end.
        let serving = axum::serve(listener, app).into_future();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped => {}
                _ = serving => {}
            }
        });
        Fake { script, address, _serving: stop.drop_guard() }
    }

    pub(super) fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }

    pub(super) fn google(&self) -> GoogleSettings {
        GoogleSettings {
            key: AccountKey::parse(&Secret::new(key_file(&format!("{}token", self.url()))), true).unwrap(),
            admin: ADMIN.to_owned(),
            nested: true,
            endpoint: self.url(),
            outbound: OutboundSettings { insecure: true, ..OutboundSettings::default() },
        }
    }

    pub(super) fn entra(&self) -> EntraSettings {
        EntraSettings {
            tenant: "acme.example".to_owned(),
            client_id: "tollgate".to_owned(),
            client_secret: Secret::new(CLIENT_SECRET),
            endpoint: self.url(),
            login: self.url(),
            outbound: OutboundSettings { insecure: true, ..OutboundSettings::default() },
        }
    }

    pub(super) fn has(&self, member: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self.script.groups_of.lock().insert(member.to_owned(), groups);
    }

    pub(super) fn fails_with(&self, fault: Fault) {
        self.script.faults.lock().push_back(fault);
    }

    pub(super) fn tokens_given(&self) -> usize {
        self.script.forms.lock().len()
    }

    pub(super) fn times_asked(&self) -> usize {
        self.script.asked.lock().len()
    }
}

/// A service account's key file.
pub(crate) fn key_file(token_uri: &str) -> String {
    json!({
        "type": "service_account",
        "project_id": "acme",
        "private_key_id": "k1",
        "private_key": &*PEM,
        "client_email": ACCOUNT,
        "client_id": "1234567890",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    })
    .to_string()
}

pub(super) const ACCOUNT: &str = "tollgate@acme.iam.gserviceaccount.com";
pub(super) const ADMIN: &str = "groups-reader@acme.example";
pub(super) const CLIENT_SECRET: &str = "hunter2~&=+ é";

static PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let generated = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    generated.as_der().unwrap().as_ref().to_vec()
});

pub(super) static PEM: LazyLock<String> = LazyLock::new(|| {
    let text = STANDARD.encode(&*PKCS8);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
});

/// The claims of a JWT that the test key has signed with RS256.
pub(super) fn read_assertion(assertion: &str) -> (Value, Value) {
    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let pair = RsaKeyPair::from_pkcs8(&PKCS8).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (read(header), read(claims))
}

type Serving = (Arc<Script>, SocketAddr);

async fn answer(
    State((script, address)): State<Serving>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let path = uri.path();
    if method == Method::POST && path.ends_with("/token") || path == "/token" {
        let fields: BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
        let number = {
            let mut forms = script.forms.lock();
            forms.push(fields);
            forms.len()
        };
        let fault = script.token_faults.lock().pop_front();
        return match fault {
            Some(fault) => faulty(fault).await,
            None => said(
                200,
                None,
                json!({ "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 3599 })
                    .to_string(),
            ),
        };
    }
    script.asked.lock().push(uri.path_and_query().unwrap().to_string());
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let number: usize = shown.strip_prefix("Bearer token-").and_then(|number| number.parse().ok()).unwrap_or(0);
    if number == 0 || number < script.withdrawn.load(Ordering::SeqCst) {
        script.unauthorized.fetch_add(1, Ordering::SeqCst);
        return said(401, None, json!({ "error": { "code": 401, "message": "x" } }).to_string());
    }
    let fault = script.faults.lock().pop_front();
    if let Some(fault) = fault {
        return faulty(fault).await;
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    if path == "/admin/directory/v1/groups" { google(&script, &query) } else { entra(&script, address, path, &query) }
}

/// `groups.list` of the Directory API.
fn google(script: &Script, query: &BTreeMap<String, String>) -> Response<Body> {
    let Some(groups) = script.groups_of.lock().get(&query["userKey"]).cloned() else {
        let reason = json!([{ "domain": "global", "reason": "notFound", "message": "Resource Not Found: userKey" }]);
        return said(404, None, json!({ "error": { "code": 404, "message": "x", "errors": reason } }).to_string());
    };
    let size: usize = query["maxResults"].parse().unwrap();
    assert!(size <= 200, "more than the API gives");
    let (listed, next) = page(script, &groups, size, query.get("pageToken"));
    let mut answer = json!({ "kind": "admin#directory#groups", "etag": "\"x\"" });
    if !listed.is_empty() {
        let group = |email: &String| json!({ "email": email, "id": "01", "name": "x", "directMembersCount": "3" });
        answer["groups"] = listed.iter().map(group).collect();
    }
    if let Some(next) = next {
        answer["nextPageToken"] = next.to_string().into();
    }
    said(200, None, answer.to_string())
}

/// `transitiveMemberOf` of Microsoft Graph.
fn entra(script: &Script, address: SocketAddr, path: &str, query: &BTreeMap<String, String>) -> Response<Body> {
    let person = path.strip_prefix("/v1.0/users/").and_then(|rest| rest.strip_suffix("/transitiveMemberOf"));
    let person = person.map(|person| percent_encoding::percent_decode_str(person).decode_utf8_lossy().into_owned());
    let found = person.and_then(|person| script.groups_of.lock().get(&person).cloned());
    let Some(objects) = found else {
        let error = json!({ "code": "Request_ResourceNotFound", "message": "x", "innerError": { "date": "x" } });
        return said(404, None, json!({ "error": error }).to_string());
    };
    let size: usize = query["$top"].parse().unwrap();
    assert!(size <= 999, "more than the API gives");
    let (listed, next) = page(script, &objects, size, query.get("$skiptoken"));
    let object = |object: &String| {
        let (kind, id) = object.split_once(':').unwrap();
        json!({ "@odata.type": format!("#microsoft.graph.{kind}"), "id": id })
    };
    let value: Vec<Value> = listed.iter().map(object).collect();
    let mut answer = json!({ "@odata.context": "x", "value": value });
    if let Some(next) = next {
        let own = format!("http://{address}{path}?$select=id&$top={size}&$skiptoken={next}");
        answer["@odata.nextLink"] = script.next_link.lock().clone().unwrap_or(own).into();
    }
    said(200, None, answer.to_string())
}

fn page<'a>(script: &Script, all: &'a [String], asked: usize, from: Option<&String>) -> (&'a [String], Option<usize>) {
    let size = match script.page.load(Ordering::SeqCst) {
        0 => asked,
        size => size.min(asked),
    };
    let from = from.map_or(0, |from| from.parse().unwrap());
    let to = (from + size).min(all.len());
    (&all[from..to], (to < all.len()).then_some(to))
}

async fn faulty(fault: Fault) -> Response<Body> {
    match fault {
        Fault::Says(status, retry_after, body) => said(status, retry_after, body),
        Fault::Instead(body) => said(200, None, body),
        Fault::Drips => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, std::io::Error>(" "), ()))
            });
            Response::new(Body::from_stream(drops))
        }
        Fault::Hangs => std::future::pending().await,
        Fault::Breaks => {
            let parts = [Ok("{\"groups\": ["), Err(std::io::Error::other("a test asked for it"))];
            Response::new(Body::from_stream(futures_util::stream::iter(parts)))
        }
    }
}

fn said(status: u16, retry_after: Option<&str>, body: String) -> Response<Body> {
    let mut answer = Response::builder().status(status).header("content-type", "application/json; charset=utf-8");
    if let Some(wait) = retry_after {
        answer = answer.header("retry-after", wait);
    }
    answer.body(Body::from(body)).unwrap()
}

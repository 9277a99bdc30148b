//! Google's and Entra's directories, asked over HTTP.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::super::outbound::chain;
use super::entra::Entra;
use super::google::{DEPTH_MAX, GROUPS_MAX, Google};
use super::testing::{ACCOUNT, ADMIN, CLIENT_SECRET, Fake, Fault, PEM, key_file, read_assertion};
use super::{AccountKey, Directory, DirectoryError};
use crate::clock::Clock;
use crate::secret::Secret;

const NOW_S: u64 = 1_800_000_000;
const REFRESH: Duration = Duration::from_secs(300);
const ALICE: &str = "alice@acme.example";
const ALICE_OID: &str = "11111111-2222-3333-4444-555555555555";

async fn ask(directory: &impl Directory, user: &str) -> Result<Vec<String>, DirectoryError> {
    directory.groups_of(user, &Clock::by_hand(NOW_S)).await
}

fn guid(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012x}")
}

#[tokio::test]
async fn google_gives_groups_of_groups_page_by_page_and_a_circle_ends() {
    let fake = Fake::start().await;
    fake.script.page.store(2, Ordering::SeqCst);
    fake.has(ALICE, &["Eng@Acme.Example", "a,b@acme.example", "\"q uoted\"@acme.example", "x'y@acme.example"]);
    fake.has("eng@acme.example", &["staff@acme.example"]);
    fake.has("staff@acme.example", &["all@acme.example", "eng@acme.example"]);
    fake.has("all@acme.example", &["eng@acme.example", "staff@acme.example", "all@acme.example"]);
    for group in ["a,b@acme.example", "\"q uoted\"@acme.example"] {
        fake.has(group, &[]);
    }
    // `x'y@acme.example` is not known any more when it is asked about.
    let google = Google::new(&fake.google(), REFRESH);
    let expected = [
        "\"q uoted\"@acme.example",
        "a,b@acme.example",
        "all@acme.example",
        "eng@acme.example",
        "staff@acme.example",
        "x'y@acme.example",
    ];
    assert_eq!(ask(&google, ALICE).await.unwrap(), expected);
    // Two pages of alice's, one each of four groups, and two of `all`.
    assert_eq!(fake.times_asked(), 2 + 5 + 2);
    assert_eq!(fake.tokens_given(), 1);

    fake.has("bob@acme.example", &["staff@acme.example"]);
    assert_eq!(ask(&google, "bob@acme.example").await.unwrap().len(), 3);
    assert_eq!(fake.times_asked(), 9 + 1, "what groups are in is known from before");

    let direct = Google::new(&super::GoogleSettings { nested: false, ..fake.google() }, REFRESH);
    assert_eq!(ask(&direct, ALICE).await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_google_groups_are_in_is_asked_for_again_after_half_the_refresh() {
    let fake = Fake::start().await;
    fake.has(ALICE, &["eng@acme.example"]);
    fake.has("eng@acme.example", &[]);
    let (google, clock) = (Google::new(&fake.google(), REFRESH), Clock::by_hand(NOW_S));
    let mut asked = Vec::new();
    for wait_s in [0, 149, 1] {
        clock.advance(Duration::from_secs(wait_s));
        google.groups_of(ALICE, &clock).await.unwrap();
        asked.push(fake.times_asked());
    }
    assert_eq!(asked, [2, 3, 5]);
}

#[tokio::test]
async fn the_assertion_to_google_is_what_rfc_7523_wants() {
    let fake = Fake::start().await;
    fake.has(ALICE, &[]);
    assert!(ask(&Google::new(&fake.google(), REFRESH), ALICE).await.unwrap().is_empty());
    let form = fake.script.forms.lock()[0].clone();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let (header, claims) = read_assertion(&form["assertion"]);
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
    let scope = "https://www.googleapis.com/auth/admin.directory.group.readonly";
    assert_eq!(
        claims,
        json!({ "iss": ACCOUNT, "sub": ADMIN, "scope": scope, "aud": format!("{}token", fake.url()),
                "iat": NOW_S, "exp": NOW_S + 3600 })
    );
    let asked = fake.script.asked.lock()[0].clone();
    assert_eq!(
        asked,
        "/admin/directory/v1/groups?userKey=alice%40acme.example&maxResults=200\
         &fields=nextPageToken%2Cgroups%28email%29"
    );
}

#[tokio::test]
async fn more_groups_than_are_read_are_not_some_of_them() {
    let fake = Fake::start().await;
    let google = Google::new(&super::GoogleSettings { nested: false, ..fake.google() }, REFRESH);
    for (count, expected) in [(300, Some(300)), (GROUPS_MAX, Some(GROUPS_MAX)), (GROUPS_MAX + 1, None)] {
        let groups: Vec<String> = (0..count).map(|n| format!("g{n}@acme.example")).collect();
        fake.has(ALICE, &groups.iter().map(String::as_str).collect::<Vec<_>>());
        match (ask(&google, ALICE).await, expected) {
            (Ok(groups), Some(expected)) => assert_eq!(groups.len(), expected),
            (Err(DirectoryError::TooMany { .. }), None) => {}
            (outcome, _) => panic!("{count}: {outcome:?}"),
        }
    }
    let nested = Google::new(&fake.google(), REFRESH);
    for (depth, is_read) in [(DEPTH_MAX, true), (DEPTH_MAX + 1, false)] {
        let name = |n: usize| format!("d{depth}-{n}@acme.example");
        fake.has(ALICE, &[&name(0)]);
        for n in 0..=depth {
            if n < depth { fake.has(&name(n), &[&name(n + 1)]) } else { fake.has(&name(n), &[]) }
        }
        let outcome = ask(&nested, ALICE).await;
        assert_eq!(outcome.is_ok_and(|groups| groups.len() == depth + 1), is_read, "{depth}");
    }

    let entra = Entra::new(&fake.entra());
    for (count, is_read) in [(300, true), (super::entra::GROUPS_MAX, true), (super::entra::GROUPS_MAX + 1, false)] {
        let groups: Vec<String> = (0..count).map(|n| format!("group:{}", guid(n))).collect();
        fake.has(ALICE_OID, &groups.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ask(&entra, ALICE_OID).await.is_ok_and(|groups| groups.len() == count), is_read, "{count}");
    }
}

#[tokio::test]
async fn entra_gives_groups_page_by_page_and_nothing_else() {
    let fake = Fake::start().await;
    fake.script.page.store(2, Ordering::SeqCst);
    let (a, b, c) = (guid(0xa), guid(0xb), guid(0xc));
    let objects = [
        format!("group:{}", a.to_uppercase()),
        format!("directoryRole:{}", guid(1)),
        format!("administrativeUnit:{}", guid(2)),
        format!("group:{b}"),
        format!("group:{c}"),
    ];
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    fake.has(ALICE_OID, &objects);
    fake.has("o'brien_x#EXT#@acme.example", &objects[3..]);
    let entra = Entra::new(&fake.entra());
    assert_eq!(ask(&entra, ALICE_OID).await.unwrap(), [a, b.clone(), c.clone()]);
    assert_eq!(ask(&entra, "o'brien_x#EXT#@acme.example").await.unwrap(), [b, c]);
    let asked = fake.script.asked.lock().clone();
    assert_eq!(asked[0], format!("/v1.0/users/{ALICE_OID}/transitiveMemberOf?$select=id&$top=999"));
    assert_eq!(asked.len(), 4);
    let form = fake.script.forms.lock()[0].clone();
    assert_eq!(
        form.into_iter().collect::<Vec<_>>(),
        [
            ("client_id", "tollgate"),
            ("client_secret", CLIENT_SECRET),
            ("grant_type", "client_credentials"),
            ("scope", &format!("{}.default", fake.url())),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn the_next_page_is_never_fetched_from_another_origin() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    let objects: Vec<String> = (0..3).map(|n| format!("group:{}", guid(n))).collect();
    for server in [&fake, &other] {
        server.has(ALICE_OID, &objects.iter().map(String::as_str).collect::<Vec<_>>());
    }
    fake.script.page.store(2, Ordering::SeqCst);
    let entra = Entra::new(&fake.entra());
    let rest = format!("/v1.0/users/{ALICE_OID}/transitiveMemberOf?$skiptoken=2&$top=999");
    let own = fake.url().as_str().trim_end_matches('/').to_owned();
    let elsewhere = other.url().as_str().trim_end_matches('/').to_owned();
    for (link, is_followed) in [
        (format!("{own}{rest}"), true),
        (format!("{elsewhere}{rest}"), false),
        (format!("{}{rest}", own.replace("http:", "https:")), false),
        (format!("{}{rest}", own.replace("127.0.0.1", "localhost")), false),
        (format!("{}{rest}", own.replace("http://", "http://user:x@")), false),
        (format!("{}@{}{rest}", own, other.url().authority()), false),
        (rest.clone(), false),
        (String::new(), false),
    ] {
        *fake.script.next_link.lock() = Some(link.clone());
        let outcome = ask(&entra, ALICE_OID).await;
        match &outcome {
            Ok(groups) => assert!(is_followed && groups.len() == 3, "{link}"),
            Err(error) => assert!(!is_followed && matches!(error, DirectoryError::Answer { .. }), "{link}: {error}"),
        }
    }
    assert_eq!((other.times_asked(), other.tokens_given()), (0, 0));
}

#[tokio::test]
async fn an_access_token_is_asked_for_once_and_again_before_its_end() {
    let fake = Fake::start().await;
    fake.has(ALICE_OID, &[]);
    let (entra, clock) = (Entra::new(&fake.entra()), Clock::by_hand(NOW_S));
    let several = || futures_util::future::join_all((0..20).map(|_| entra.groups_of(ALICE_OID, &clock)));
    let mut given = Vec::new();
    // It lives for 3599 seconds.
    for wait_s in [0, 3538, 1] {
        clock.advance(Duration::from_secs(wait_s));
        assert!(several().await.iter().all(Result::is_ok));
        given.push(fake.tokens_given());
    }
    assert_eq!(given, [1, 1, 2]);

    // Withdrawn before its time: one asks for the next, and all go on.
    fake.script.withdrawn.store(3, Ordering::SeqCst);
    assert!(several().await.iter().all(Result::is_ok));
    assert_eq!(fake.tokens_given(), 3);

    // Whatever token is shown, it is refused: each is renewed once, and that is that.
    fake.script.withdrawn.store(usize::MAX, Ordering::SeqCst);
    let before = fake.script.unauthorized.load(Ordering::SeqCst);
    let outcome = entra.groups_of(ALICE_OID, &clock).await;
    assert!(matches!(outcome, Err(DirectoryError::Refused { status: 401, .. })), "{outcome:?}");
    assert_eq!(fake.script.unauthorized.load(Ordering::SeqCst) - before, 2);
    assert_eq!(fake.tokens_given(), 4);
}

#[tokio::test]
async fn who_waits_for_a_token_that_does_not_come_does_not_ask_too() {
    let fake = Fake::start().await;
    let refused = json!({ "error": "invalid_client", "error_description": "AADSTS7000215" }).to_string();
    // One for whoever asks first, and plenty for any who ask though they need not.
    for _ in 0..20 {
        fake.script.token_faults.lock().push_back(Fault::Says(401, None, refused.clone()));
    }
    let (entra, clock) = (Entra::new(&fake.entra()), Clock::by_hand(NOW_S));
    let outcomes = futures_util::future::join_all((0..20).map(|_| entra.groups_of(ALICE_OID, &clock))).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, DirectoryError::NoAccess { code, .. } if code == "invalid_client"), "{error}");
    }
    assert_eq!((fake.tokens_given(), fake.times_asked()), (1, 0));
}

/// What became of a question, in a word; and for how long to stay away.
fn kind(outcome: &Result<Vec<String>, DirectoryError>) -> (&'static str, Option<u64>) {
    let Err(error) = outcome else { return ("groups", None) };
    let kind = match error {
        DirectoryError::NoSuchUser => "nobody",
        DirectoryError::Throttled { .. } => "slower",
        DirectoryError::NoAccess { .. } => "no access",
        DirectoryError::Refused { .. } if error.is_of_user() => "not this one",
        DirectoryError::Refused { .. } => "refused",
        DirectoryError::Fetch(_) => "unreachable",
        DirectoryError::Answer { .. } => "garbage",
        _ => "other",
    };
    (kind, error.retry_after().map(|wait| wait.as_secs()))
}

#[tokio::test]
async fn each_fault_of_google_has_its_meaning() {
    let fake = Fake::start().await;
    fake.has(ALICE, &["eng@acme.example"]);
    fake.has("eng@acme.example", &[]);
    let error = |code: u16, reason: &str| {
        json!({ "error": { "code": code, "message": "x", "errors": [{ "domain": "global", "reason": reason }] } })
            .to_string()
    };
    let page = |value: serde_json::Value| Fault::Instead(value.to_string());
    for (fault, expected, wait_s) in [
        (Fault::Says(403, None, error(403, "rateLimitExceeded")), "slower", None),
        (Fault::Says(403, None, error(403, "userRateLimitExceeded")), "slower", None),
        (Fault::Says(403, None, error(403, "quotaExceeded")), "slower", None),
        (Fault::Says(403, None, error(403, "forbidden")), "not this one", None),
        (Fault::Says(403, None, "<html>".to_owned()), "not this one", None),
        (Fault::Says(400, None, error(400, "invalid")), "not this one", None),
        (Fault::Says(429, Some("17"), error(429, "rateLimitExceeded")), "slower", Some(17)),
        (Fault::Says(429, Some("Fri, 31 Dec 1999 23:59:59 GMT"), String::new()), "slower", Some(60)),
        (Fault::Says(503, Some("7"), error(503, "backendError")), "slower", Some(7)),
        (Fault::Says(500, None, error(500, "backendError")), "refused", None),
        (Fault::Says(502, None, "x".repeat(100_000)), "refused", None),
        (Fault::Says(404, None, error(404, "notFound")), "nobody", None),
        (Fault::Says(404, None, "<html>Not Found</html>".to_owned()), "refused", None),
        (Fault::Says(302, None, String::new()), "refused", None),
        (Fault::Breaks, "unreachable", None),
        (Fault::Instead("<html>".to_owned()), "garbage", None),
        (Fault::Instead(String::new()), "garbage", None),
        (Fault::Instead("{\"groups\": [".to_owned()), "garbage", None),
        (Fault::Instead("{} {}".to_owned()), "garbage", None),
        (Fault::Instead("[".repeat(100_000)), "garbage", None),
        (Fault::Instead(format!("{{\"x\": \"{}\"}}", "x".repeat(2 * 1024 * 1024))), "unreachable", None),
        (Fault::Instead("{\"groups\": [], \"groups\": []}".to_owned()), "garbage", None),
        (page(json!({ "groups": {} })), "garbage", None),
        (page(json!({ "groups": ["eng@acme.example"] })), "garbage", None),
        (page(json!({ "groups": [{ "id": "01" }] })), "garbage", None),
        (page(json!({ "groups": [{ "email": "" }] })), "garbage", None),
        (page(json!({ "groups": [{ "email": 7 }] })), "garbage", None),
        (page(json!({ "groups": [{ "email": "x".repeat(255) }] })), "garbage", None),
        (page(json!({ "nextPageToken": 7 })), "garbage", None),
        (page(json!({ "nextPageToken": "x".repeat(5000) })), "garbage", None),
        (page(json!({})), "groups", None),
    ] {
        let google = Google::new(&fake.google(), REFRESH);
        fake.fails_with(fault.clone());
        let outcome = ask(&google, ALICE).await;
        assert_eq!(kind(&outcome), (expected, wait_s), "{fault:.200?} {outcome:?}");
        // Nothing of it stays.
        assert_eq!(ask(&google, ALICE).await.unwrap(), ["eng@acme.example"], "{fault:.200?}");
    }
    // A fault on the second level is no "none" of what it would have brought.
    let google = Google::new(&fake.google(), REFRESH);
    fake.fails_with(page(json!({ "groups": [{ "email": "eng@acme.example" }] })));
    fake.fails_with(Fault::Says(500, None, String::new()));
    assert_eq!(kind(&ask(&google, ALICE).await), ("refused", None));
    // Pages that do not end.
    for _ in 0..60 {
        fake.fails_with(page(json!({ "nextPageToken": "again" })));
    }
    assert_eq!(kind(&ask(&google, ALICE).await), ("garbage", None));
    fake.script.faults.lock().clear();

    let before = fake.times_asked();
    for user in ["", "alice", "me", "customer:my_customer", "12x"] {
        assert_eq!(kind(&ask(&google, user).await), ("nobody", None), "{user}");
    }
    assert_eq!(fake.times_asked(), before, "what can be nobody's name is not asked for");
    assert_eq!(kind(&ask(&google, "mallory@acme.example").await), ("nobody", None));
}

#[tokio::test]
async fn each_fault_of_entra_has_its_meaning() {
    let fake = Fake::start().await;
    fake.has(ALICE_OID, &[&format!("group:{}", guid(1))]);
    let error = |code: &str| json!({ "error": { "code": code, "message": "x" } }).to_string();
    let page = |value: serde_json::Value| Fault::Instead(value.to_string());
    let of_type = |kind: &str, id: &str| page(json!({ "value": [{ "@odata.type": kind, "id": id }] }));
    for (fault, expected, wait_s) in [
        (Fault::Says(429, Some("10"), error("TooManyRequests")), "slower", Some(10)),
        (Fault::Says(429, None, String::new()), "slower", None),
        (Fault::Says(503, Some("99999999"), error("serviceNotAvailable")), "slower", Some(99_999_999)),
        (Fault::Says(500, None, error("InternalServerError")), "refused", None),
        (Fault::Says(504, None, error("UnknownError")), "refused", None),
        (Fault::Says(403, None, error("Authorization_RequestDenied")), "not this one", None),
        (Fault::Says(400, None, error("Request_BadRequest")), "not this one", None),
        (Fault::Says(404, None, error("Request_ResourceNotFound")), "nobody", None),
        (Fault::Says(404, None, error("itemNotFound")), "refused", None),
        (Fault::Says(404, None, String::new()), "refused", None),
        (Fault::Breaks, "unreachable", None),
        (Fault::Instead("null".to_owned()), "garbage", None),
        (page(json!({})), "garbage", None),
        (page(json!({ "value": {} })), "garbage", None),
        (page(json!({ "value": [null] })), "garbage", None),
        (page(json!({ "value": [{ "id": guid(1) }] })), "garbage", None),
        (of_type("#microsoft.graph.group", "ops"), "garbage", None),
        (of_type("#microsoft.graph.group", ""), "garbage", None),
        (of_type("#microsoft.graph.directoryRole", "ops"), "groups", None),
        (page(json!({ "value": [], "@odata.nextLink": 7 })), "garbage", None),
        (page(json!({ "value": [], "@odata.nextLink": "::" })), "garbage", None),
    ] {
        let entra = Entra::new(&fake.entra());
        fake.fails_with(fault.clone());
        let outcome = ask(&entra, ALICE_OID).await;
        assert_eq!(kind(&outcome), (expected, wait_s), "{fault:.200?} {outcome:?}");
        assert_eq!(ask(&entra, ALICE_OID).await.unwrap(), [guid(1)], "{fault:.200?}");
    }
    let entra = Entra::new(&fake.entra());
    assert_eq!(kind(&ask(&entra, &guid(7)).await), ("nobody", None));
    let before = fake.times_asked();
    for user in ["", "alice", "..", "a/../b@acme.example"] {
        assert_eq!(kind(&ask(&entra, user).await), ("nobody", None), "{user}");
    }
    assert_eq!(fake.times_asked(), before);
}

#[tokio::test]
async fn each_fault_of_the_token_endpoint_has_its_meaning_and_tells_no_secret() {
    let fake = Fake::start().await;
    let oauth = |error: &str| json!({ "error": error, "error_description": "x" }).to_string();
    let token = |token: &str| json!({ "access_token": token, "token_type": "Bearer" }).to_string();
    for (fault, expected, wait_s) in [
        (Fault::Says(400, None, oauth("invalid_grant")), "no access", None),
        (Fault::Says(401, None, oauth("unauthorized_client")), "no access", None),
        (Fault::Says(404, None, oauth("Request_ResourceNotFound")), "no access", None),
        (Fault::Says(429, Some("3"), oauth("slow_down")), "slower", Some(3)),
        (Fault::Says(500, None, "<html>".to_owned()), "no access", None),
        (Fault::Breaks, "unreachable", None),
        (Fault::Instead("{".to_owned()), "garbage", None),
        (Fault::Instead(token("a b")), "garbage", None),
        (Fault::Instead("x".repeat(100_000)), "unreachable", None),
    ] {
        let google: Box<dyn Directory> = Box::new(Google::new(&fake.google(), REFRESH));
        let entra: Box<dyn Directory> = Box::new(Entra::new(&fake.entra()));
        for (directory, user) in [(google, ALICE), (entra, ALICE_OID)] {
            fake.script.token_faults.lock().push_back(fault.clone());
            let outcome = directory.groups_of(user, &Clock::by_hand(NOW_S)).await;
            assert_eq!(kind(&outcome), (expected, wait_s), "{fault:.200?} {outcome:?}");
            let error = outcome.unwrap_err();
            let shown = format!("{error} {error:?} {}", chain(&error));
            for secret in [CLIENT_SECRET, "assertion", "eyJ", "token-", "a b"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }
    assert_eq!(fake.times_asked(), 0);
    let settings = format!("{:?} {:?}", fake.google(), fake.entra());
    assert!(!settings.contains("hunter2") && !settings.contains("PRIVATE") && settings.contains(ACCOUNT), "{settings}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_says_so() {
    let gone = Fake::start().await;
    let (google, entra) = (gone.google(), gone.entra());
    drop(gone);
    assert_eq!(kind(&ask(&Google::new(&google, REFRESH), ALICE).await), ("unreachable", None));
    assert_eq!(kind(&ask(&Entra::new(&entra), ALICE_OID).await), ("unreachable", None));
    // Without `insecure` neither http nor loopback is asked at all.
    let strict = super::EntraSettings { outbound: Default::default(), ..entra };
    assert_eq!(kind(&ask(&Entra::new(&strict), ALICE_OID).await), ("unreachable", None));
}

#[test]
fn an_account_key_is_googles_and_can_sign() {
    use super::AccountKeyError::*;
    let good: serde_json::Value = serde_json::from_str(&key_file("https://oauth2.googleapis.com/token")).unwrap();
    let with = |name: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed.to_string()
    };
    let elsewhere = |url: &str| with("token_uri", url.into());
    for (file, insecure, expected) in [
        (good.to_string(), false, None),
        (elsewhere("https://accounts.google.com/o/oauth2/token"), false, None),
        (elsewhere("https://evil.example/token"), false, Some(TokenUri { host: "evil.example".to_owned() })),
        (elsewhere("https://evil.example/token"), true, None),
        (
            elsewhere("http://oauth2.googleapis.com/token"),
            false,
            Some(TokenUri { host: "oauth2.googleapis.com".to_owned() }),
        ),
        (
            elsewhere("https://oauth2.googleapis.com:444/"),
            false,
            Some(TokenUri { host: "oauth2.googleapis.com:444".to_owned() }),
        ),
        (
            elsewhere("https://googleapis.com.evil.example/"),
            false,
            Some(TokenUri { host: "googleapis.com.evil.example".to_owned() }),
        ),
        (elsewhere("https://evilgoogleapis.com/"), false, Some(TokenUri { host: "evilgoogleapis.com".to_owned() })),
        (elsewhere("oauth2.googleapis.com"), false, Some(TokenUri { host: "not a URL".to_owned() })),
        (with("type", "authorized_user".into()), false, Some(Type)),
        (with("client_email", "".into()), false, Some(Missing("client_email"))),
        (with("private_key", 7.into()), false, Some(Missing("private_key"))),
        (
            with("private_key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into()),
            false,
            Some(Key),
        ),
        (with("private_key", PEM.replace("PRIVATE", "PUBLIC").into()), false, Some(Key)),
        (with("private_key", "hunter2".into()), false, Some(Key)),
        ("[]".to_owned(), false, Some(Json)),
        ("hunter2".to_owned(), false, Some(Json)),
    ] {
        let read = AccountKey::parse(&Secret::new(file.as_str()), insecure);
        let shown = read.as_ref().map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(shown, expected.map_or_else(String::new, |error| error.to_string()), "{file}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let parse = |file: &str| AccountKey::parse(&Secret::new(file), false).unwrap();
    assert_eq!(parse(&good.to_string()), parse(&good.to_string()));
    assert_ne!(parse(&good.to_string()), parse(&with("private_key_id", "k2".into())));
}

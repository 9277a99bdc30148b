//! Google Workspace: the Admin SDK's Directory API, asked by a service account in the name of an administrator.
//!
//! Nested groups are found by asking for the groups of each group, since `groups.list` takes a group's address as its
//! `userKey` too and gives direct memberships only. Cloud Identity's `searchTransitiveGroups` would be one request, but
//! only some editions have it, and a directory that works in the pilot and not for the customer is worse than one that
//! asks more often. What a group itself is in is the same for all its members, so it is kept for a while, and people
//! after the first cost one or two requests each.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt as _, TryStreamExt as _};
use moka::sync::Cache;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};
use url::Url;
use zeroize::Zeroize as _;

use super::super::json;
use super::super::outbound::{Ask, host_of};
use super::super::settings::OutboundSettings;
use super::api::{Api, Grant};
use super::{Answering, Directory, DirectoryError};
use crate::clock::{Clock, Now};
use crate::secret::Secret;

/// How Google Workspace is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct GoogleSettings {
    /// The service account's key.
    pub key: AccountKey,
    /// The administrator in whose name the account asks (domain-wide delegation); one who may read groups is enough.
    pub admin: String,
    /// Whether groups of groups count.
    pub nested: bool,
    /// Where the API is: `https://admin.googleapis.com`.
    pub endpoint: Url,
    /// How it may be asked over HTTP.
    pub outbound: OutboundSettings,
}

/// The key of a service account, as Google's console gives it out: a JSON file with an RSA key.
#[derive(Clone)]
pub struct AccountKey {
    email: String,
    key_id: String,
    token_url: Url,
    /// What makes two keys the same.
    pem: Secret,
    pair: Arc<RsaKeyPair>,
}

/// Why a text is no key of a service account. Repeats nothing of it but hosts.
#[derive(Debug, thiserror::Error)]
pub enum AccountKeyError {
    /// Not JSON, or not an object.
    #[error("it is not one JSON object")]
    Json,
    /// Another sort of credential.
    #[error("`type` is not `service_account`")]
    Type,
    /// Something is not there.
    #[error("`{0}` is missing, or not a text")]
    Missing(&'static str),
    /// The key cannot sign.
    #[error("`private_key` is not an RSA key of 2048 to 8192 bits in PKCS #8")]
    Key,
    /// A token from elsewhere would not be Google's.
    #[error("`token_uri` is not https at a host of Google ({host}); \"insecure: true\" allows others")]
    TokenUri {
        /// Where it leads.
        host: String,
    },
}

impl AccountKey {
    /// Reads the JSON file. `insecure` allows any token endpoint, for tests.
    pub fn parse(file: &Secret, insecure: bool) -> Result<AccountKey, AccountKeyError> {
        let members = json::object(file.expose().as_bytes()).map_err(|_| AccountKeyError::Json)?;
        if members.get("type").is_none_or(|kind| kind != "service_account") {
            return Err(AccountKeyError::Type);
        }
        let text = |name| match members.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
            _ => Err(AccountKeyError::Missing(name)),
        };
        let token_uri = text("token_uri")?;
        let elsewhere = |host: String| AccountKeyError::TokenUri { host };
        let token_url = Url::parse(token_uri).map_err(|_| elsewhere("not a URL".to_owned()))?;
        // Whoever answers there is handed an assertion, and gives the token that is shown to the API.
        let is_google =
            token_url.host_str().is_some_and(|host| host == "accounts.google.com" || host.ends_with(".googleapis.com"));
        let is_good = is_google && token_url.scheme() == "https" && token_url.port().is_none();
        if !is_good && !insecure {
            return Err(elsewhere(host_of(&token_url)));
        }
        let pem = Secret::new(text("private_key")?);
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| AccountKeyError::Key)?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der());
        der.zeroize();
        let pair = Arc::new(pair.map_err(|_| AccountKeyError::Key)?);
        let (email, key_id) = (text("client_email")?.to_owned(), text("private_key_id")?.to_owned());
        Ok(AccountKey { email, key_id, token_url, pem, pair })
    }

    /// The account's address, by which the console knows it.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// A JWT (RFC 7523, section 3) that asks for a token in the name of `admin`.
    fn assertion(&self, admin: &str, now: Now) -> Result<String, DirectoryError> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key_id });
        let claims = json!({
            "iss": self.email,
            "sub": admin,
            "scope": SCOPE,
            "aud": self.token_url.as_str(),
            "iat": now.unix_s(),
            // An hour is the most that Google takes, and what it documents.
            "exp": now.unix_s().saturating_add(3600),
        });
        let part = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = [part(header), part(claims)].join(".");
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| DirectoryError::Broken)?;
        Ok([message, URL_SAFE_NO_PAD.encode(signature)].join("."))
    }
}

impl PartialEq for AccountKey {
    fn eq(&self, other: &AccountKey) -> bool {
        (&self.email, &self.key_id, &self.token_url, &self.pem)
            == (&other.email, &other.key_id, &other.token_url, &other.pem)
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountKey").field("email", &self.email).finish_non_exhaustive()
    }
}

/// The directory.
pub(super) struct Google {
    api: Api<Assertion>,
    endpoint: Url,
    nested: bool,
    /// Group -> the groups that it is in, and when that was so.
    parents: Cache<String, (Instant, Arc<[String]>)>,
    parents_age_max: Duration,
}

struct Assertion {
    key: AccountKey,
    admin: String,
}

impl Google {
    /// What groups are in is asked for again after half of `refresh`, so that nobody's groups are older than one and a
    /// half of it.
    pub(super) fn new(settings: &GoogleSettings, refresh: Duration) -> Google {
        let grant = Assertion { key: settings.key.clone(), admin: settings.admin.clone() };
        Google {
            api: Api::new(grant, settings.outbound.clone()),
            endpoint: settings.endpoint.clone(),
            nested: settings.nested,
            parents: Cache::new(PARENTS_MAX),
            parents_age_max: refresh / 2,
        }
    }

    /// Every group of `user`, and every group that one of these is in, level by level. Each group is asked for once,
    /// however often it is met, so that a circle ends.
    async fn all(&self, user: &str, clock: &Clock) -> Result<Vec<String>, DirectoryError> {
        let mut found = BTreeSet::new();
        let mut level = self.direct(user, clock).await?;
        for depth in 0.. {
            let fresh: Vec<String> = level.into_iter().filter(|group| found.insert(group.clone())).collect();
            if found.len() > GROUPS_MAX {
                return Err(DirectoryError::TooMany { groups_max: GROUPS_MAX });
            }
            if fresh.is_empty() || !self.nested {
                break;
            }
            if depth > DEPTH_MAX {
                // To leave out what is deeper would make "unknown" a "none".
                return Err(DirectoryError::TooDeep { depth_max: DEPTH_MAX });
            }
            let parents = futures_util::stream::iter(fresh).map(|group| self.parents(group, clock));
            let parents: Vec<Arc<[String]>> = parents.buffer_unordered(AT_ONCE).try_collect().await?;
            level = parents.iter().flat_map(|groups| groups.iter().cloned()).collect();
        }
        Ok(found.into_iter().collect())
    }

    async fn parents(&self, group: String, clock: &Clock) -> Result<Arc<[String]>, DirectoryError> {
        let now = clock.now().instant();
        if let Some((at, parents)) = self.parents.get(&group)
            && now.saturating_duration_since(at) < self.parents_age_max
        {
            return Ok(parents);
        }
        let parents: Arc<[String]> = match self.direct(&group, clock).await {
            Ok(parents) => parents.into(),
            // Deleted since its member's groups were listed, or another organisation's.
            Err(DirectoryError::NoSuchUser) => Arc::default(),
            Err(error) => return Err(error),
        };
        self.parents.insert(group, (now, Arc::clone(&parents)));
        Ok(parents)
    }

    /// The groups that `member`, a person or a group, is in itself; page by page.
    async fn direct(&self, member: &str, clock: &Clock) -> Result<Vec<String>, DirectoryError> {
        let mut groups = Vec::new();
        let mut page_token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut url = self.endpoint.clone();
            url.set_path(&format!("{}/admin/directory/v1/groups", self.endpoint.path().trim_end_matches('/')));
            url.query_pairs_mut()
                .append_pair("userKey", member)
                .append_pair("maxResults", "200")
                .append_pair("fields", "nextPageToken,groups(email)");
            if let Some(token) = &page_token {
                url.query_pairs_mut().append_pair("pageToken", token);
            }
            let page = self.api.get(url, clock).await?;
            page_token = self.read_page(&page, &mut groups)?;
            if groups.len() > GROUPS_MAX {
                return Err(DirectoryError::TooMany { groups_max: GROUPS_MAX });
            }
            if page_token.is_none() {
                return Ok(groups);
            }
        }
        Err(self.problem("its pages do not end"))
    }

    fn read_page(&self, page: &Map<String, Value>, groups: &mut Vec<String>) -> Result<Option<String>, DirectoryError> {
        // Where there is no group there is no `groups`.
        if let Some(listed) = page.get("groups") {
            for group in listed.as_array().ok_or_else(|| self.problem("`groups` is no list"))? {
                match group.get("email") {
                    Some(Value::String(email)) if (1..=NAME_BYTES_MAX).contains(&email.len()) => {
                        groups.push(group_name(email));
                    }
                    _ => return Err(self.problem("a group has no `email`")),
                }
            }
        }
        match page.get("nextPageToken") {
            None => Ok(None),
            Some(Value::String(token)) if (1..=PAGE_TOKEN_BYTES_MAX).contains(&token.len()) => Ok(Some(token.clone())),
            Some(_) => Err(self.problem("`nextPageToken` is no text")),
        }
    }

    fn problem(&self, problem: &'static str) -> DirectoryError {
        DirectoryError::Answer { host: host_of(&self.endpoint), problem }
    }
}

impl Directory for Google {
    fn groups_of<'a>(&'a self, user: &'a str, clock: &'a Clock) -> Answering<'a> {
        Box::pin(async move {
            // What `userKey` can be: an address, or the number of an account.
            let is_number = !user.is_empty() && user.bytes().all(|b| b.is_ascii_digit());
            if !user.contains('@') && !is_number {
                return Err(DirectoryError::NoSuchUser);
            }
            self.all(user, clock).await
        })
    }
}

impl Grant for Assertion {
    fn ask(&self, now: Now) -> Result<Ask, DirectoryError> {
        let assertion = self.key.assertion(&self.admin, now)?;
        let fields = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
        Ok(Ask::form(self.key.token_url.clone(), &fields, TOKEN_ANSWER_BYTES_MAX))
    }

    fn host(&self) -> String {
        host_of(&self.key.token_url)
    }
}

/// Addresses are the same in either case; these are compared letter by letter.
pub(super) fn group_name(email: &str) -> String {
    email.to_lowercase()
}

const SCOPE: &str = "https://www.googleapis.com/auth/admin.directory.group.readonly";

/// Who is in more groups is an account of a script; a list of them all has 250 KiB at most.
pub(super) const GROUPS_MAX: usize = 1_000;

/// A group in a group is common, in a group again not rare; beyond five it is an accident.
pub(super) const DEPTH_MAX: usize = 5;

/// 1,000 groups are five pages of 200; a server may give shorter ones.
const PAGES_MAX: usize = 50;

/// Requests for one person at once: of eight people 32, far below the 2,400 a minute that Google allows by default.
const AT_ONCE: usize = 4;

/// 10,000 groups with five parents of 40 bytes each have some 3 MiB.
const PARENTS_MAX: u64 = 10_000;

/// An e-mail address has 254 (RFC 5321, section 4.5.3.1.3, less its brackets).
const NAME_BYTES_MAX: usize = 254;

const PAGE_TOKEN_BYTES_MAX: usize = 4 * 1024;

const TOKEN_ANSWER_BYTES_MAX: usize = 64 * 1024;

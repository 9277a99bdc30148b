//! The stage itself: a request goes in, an identity or a rejection comes out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::api_keys::{ApiKeys, KeyFileStatus, PrefixTaken};
use super::basic::{self, Passwords};
use super::cache::{Grounds, TokenCache};
use super::certificates::Certificates;
use super::credential::{self, Presented};
use super::directory::{Directories, DirectoryKind, DirectorySettings, DirectoryStatus, Look};
use super::dpop::{Nonces, Seen};
use super::grants::{GrantChange, Grants};
use super::keys::{Choice, Key, KeySetError};
use super::ldap::{Basic, Ldap, LdapError};
use super::opaque::Introspector;
use super::revocation::{RevocationStatus, Revocations};
use super::settings::{FileStamp, IssuerSettings, KeyFile, Settings, TokenUse};
use super::source::{IssuerStatus, KeySource, KeyWait, Pace};
use super::token::{self, Token};
use super::wait::{Answer, Answered, Answers, Wait};
use super::{Accepted, Assumed, CredentialKind, Groups, Identity, Rejection, assume, breaker, claims};
use crate::clock::{Clock, Now};
use crate::link::{Link, StoreError};
use crate::request::Request;
use crate::trace::{Outcome, Trace};

/// All issuers, their keys, and the tokens seen.
pub struct Identities {
    settings: Settings,
    groups: Arc<Groups>,
    /// Beside `settings.issuers`, by index.
    sources: Vec<Arc<KeySource>>,
    /// `iss` -> index.
    by_iss: HashMap<String, usize>,
    directories: Directories,
    passwords: Option<Passwords>,
    pub(super) cache: TokenCache,
    /// Of the issuers that are asked about tokens, in the config's order.
    pub(super) introspectors: Vec<Arc<Introspector>>,
    revocations: Option<Arc<Revocations>>,
    grants: Option<Arc<Grants>>,
    api_keys: ApiKeys,
    certificates: Certificates,
    anonymous: Arc<Identity>,
    /// Where proofs must hold a nonce.
    pub(super) nonces: Option<Nonces>,
    /// Proofs seen, whatever the config says of them now.
    pub(super) seen: Arc<Seen>,
    /// The Redis that all agents share.
    pub(super) link: Option<Link>,
}

/// What became of a request's credential.
#[derive(Debug)]
pub enum Identified {
    /// The caller, or nobody in particular if nothing was presented.
    Known(Arc<Identity>),
    /// Something was presented, and it proves nothing.
    Rejected(Rejection),
    /// Something that is needed may be there in a moment: await it within the request's deadline, add what it gives to
    /// the answers, and ask again.
    Wait(Wait),
}

/// Why [`Identities::new`] cannot work with its settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Tokens could not be told apart.
    #[error("issuers.{first} and issuers.{second} have the same issuer {issuer:?}, expected each only once")]
    DuplicateIssuer {
        /// The config's name of one.
        first: Arc<str>,
        /// The config's name of the other.
        second: Arc<str>,
        /// The `iss` value.
        issuer: String,
    },
    /// No token of the issuer could ever be verified.
    #[error("the pinned keys of issuers.{name} are of no use: {reason}")]
    PinnedKeys {
        /// The config's name of the issuer.
        name: Arc<str>,
        /// What is wrong with them.
        reason: String,
    },
    /// Names and passwords are to be tried against something that is no LDAP directory.
    #[error("directories.{name} is no LDAP directory, and only those can be asked about a password")]
    NotLdap {
        /// The config's name of the directory.
        name: Arc<str>,
    },
    /// The directory for names and passwords can never be asked.
    #[error("directories.{name} cannot be asked")]
    Directory {
        /// The config's name of the directory.
        name: Arc<str>,
        /// Why not.
        source: LdapError,
    },
    /// The Redis of the grants has no address that is one.
    #[error("grants cannot be had: {source}")]
    Grants {
        /// Why.
        source: StoreError,
    },
    /// The Redis of the revocations has no address that is one.
    #[error("revocations cannot be had: {source}")]
    Revocations {
        /// Why.
        source: StoreError,
    },
}

impl Identities {
    /// Builds the stage.
    ///
    /// On a reload `previous` is the stage it replaces: an issuer whose keys come from the same place keeps them and its
    /// task, and where nothing that a verdict rests on has changed the verified tokens are kept too.
    pub fn new(
        settings: Settings,
        groups: Arc<Groups>,
        previous: Option<&Identities>,
    ) -> Result<Identities, SetupError> {
        Identities::with_pace(settings, groups, previous, Pace::PRODUCTION)
    }

    pub(super) fn with_pace(
        settings: Settings,
        groups: Arc<Groups>,
        previous: Option<&Identities>,
        pace: Pace,
    ) -> Result<Identities, SetupError> {
        Identities::with_paces(settings, groups, previous, pace, breaker::Pace::PRODUCTION)
    }

    /// `pace` is for keys, `asking` for questions about tokens.
    pub(super) fn with_paces(
        mut settings: Settings,
        groups: Arc<Groups>,
        previous: Option<&Identities>,
        pace: Pace,
        asking: breaker::Pace,
    ) -> Result<Identities, SetupError> {
        let mut by_iss = HashMap::new();
        let mut sources = Vec::new();
        let mut introspectors = Vec::new();
        for (index, issuer) in settings.issuers.iter().enumerate() {
            // One that has no JWTs is not named by any.
            let has_jwts = issuer.tokens != TokenUse::Opaque;
            for iss in std::iter::once(&issuer.issuer).chain(&issuer.aliases).filter(|_| has_jwts) {
                if let Some(first) = by_iss.insert(iss.clone(), index) {
                    return Err(SetupError::DuplicateIssuer {
                        first: Arc::clone(&settings.issuers[first].name),
                        second: Arc::clone(&issuer.name),
                        issuer: iss.clone(),
                    });
                }
            }
            let source = match previous.and_then(|previous| previous.source_of(issuer)) {
                Some(kept) => kept,
                None => Arc::new(
                    KeySource::new(issuer, settings.state_dir.as_deref(), pace)
                        .map_err(|error| pinned_keys(issuer, &error))?,
                ),
            };
            sources.push(source);
            let kept = previous.into_iter().flat_map(|previous| &previous.introspectors);
            let kept = kept.into_iter().find(|kept| kept.rests_on(issuer, &groups, settings.cache)).cloned();
            let new = || Introspector::new(issuer, &groups, settings.cache, asking).map(Arc::new);
            introspectors.extend(kept.or_else(new));
        }
        // No cached verdict rests on them.
        let api_keys = ApiKeys::new(std::mem::take(&mut settings.api_keys), &groups);
        // A cached identity holds policy groups as numbers, so the same groups are part of what it rests on.
        let (cache, certificates) = match previous {
            Some(previous) if previous.settings == settings && *previous.groups == *groups => {
                (previous.cache.clone(), previous.certificates.clone())
            }
            _ => (TokenCache::new(settings.cache), Certificates::default()),
        };
        let directories = Directories::new(&settings.directories, previous.map(|previous| &previous.directories));
        let passwords = passwords(&settings, &groups, previous)?;
        let revocations = match &settings.revocations {
            None => None,
            Some(wanted) => {
                let previous = previous.and_then(|previous| previous.revocations.as_ref());
                Some(
                    Revocations::new(wanted, settings.state_dir.as_deref(), previous)
                        .map_err(|source| SetupError::Revocations { source })?,
                )
            }
        };
        let grants = match &settings.grants {
            None => None,
            Some(wanted) => {
                let previous = previous.and_then(|previous| previous.grants.as_ref());
                Some(Grants::new(wanted, previous).map_err(|source| SetupError::Grants { source })?)
            }
        };
        let anonymous = Arc::new(Identity::anonymous());
        Ok(Identities {
            directories,
            passwords,
            nonces: settings.dpop.nonce.as_ref().map(Nonces::new),
            seen: previous.map(|previous| Arc::clone(&previous.seen)).unwrap_or_default(),
            link: None,
            settings,
            groups,
            sources,
            by_iss,
            cache,
            introspectors,
            revocations,
            grants,
            api_keys,
            certificates,
            anonymous,
        })
    }

    /// The same, sharing what all agents must know of each other through that Redis.
    pub fn sharing(self, link: Option<Link>) -> Identities {
        Identities { link, ..self }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts fetching keys in the background, for each issuer that is not being served already. Needs a Tokio runtime.
    /// A task ends with `stop`, or when the last stage that has its issuer is dropped.
    pub fn spawn(&self, clock: &Clock, stop: &CancellationToken) {
        self.seen.begin(clock.now());
        for source in &self.sources {
            source.spawn(clock.clone(), stop.clone());
        }
        for introspector in &self.introspectors {
            introspector.spawn(clock, stop);
        }
        self.directories.spawn(clock, stop);
        if let Some(revocations) = &self.revocations {
            revocations.spawn(clock, stop);
        }
        if let Some(grants) = &self.grants {
            grants.spawn(clock, stop);
        }
    }

    /// Who is calling? Never blocks and never fetches: where something that may help is under way, or may start now, it
    /// gives a future to wait for. `accepted` are the kinds of credential that the rule takes, `answers` what this
    /// request has waited for so far.
    pub fn identify(
        &self,
        request: &Request<'_>,
        accepted: &Accepted,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Identified {
        match self.decide(request, accepted, answers, now, trace) {
            Ok(identity) => Identified::Known(identity),
            Err(Obstacle::Rejected(rejection)) => Identified::Rejected(rejection),
            Err(Obstacle::Wait(wait)) => Identified::Wait(wait),
        }
    }

    /// Nobody in particular, for whoever decides without looking at credentials.
    pub fn anonymous(&self) -> Arc<Identity> {
        Arc::clone(&self.anonymous)
    }

    /// The identity that a token with these claims would bring, or a key or a certificate with these groups, for policy
    /// tests; `None` where nothing is called so.
    pub fn assume(&self, issuer_name: &str, assumed: &Assumed, now: Now) -> Option<Result<Arc<Identity>, Rejection>> {
        let certificates = self.settings.certificates.iter().map(|of| &of.name).find(|name| ***name == *issuer_name);
        let named = self.api_keys.named(issuer_name).map(|name| (CredentialKind::ApiKey, name));
        if let Some((kind, name)) = named.or(certificates.map(|name| (CredentialKind::Certificate, name))) {
            return Some(Ok(assume::assume_of(assumed, kind, name, &self.groups)));
        }
        let issuer = self.settings.issuers.iter().find(|issuer| *issuer.name == *issuer_name)?;
        Some(assume::assume(assumed, issuer, &self.groups, now))
    }

    /// Whether every issuer of JWTs has keys.
    pub fn ready(&self) -> bool {
        self.sources.iter().all(|source| !source.has_keys_at_all() || source.keys().is_some())
    }

    /// How the keys of each issuer of JWTs are doing, in the config's order.
    pub fn status(&self, now: Now) -> Vec<IssuerStatus> {
        self.sources.iter().filter(|source| source.has_keys_at_all()).map(|source| source.status(now)).collect()
    }

    /// How each directory that is asked for groups is doing, in the config's order.
    pub fn directories(&self, now: Now) -> Vec<DirectoryStatus> {
        self.directories.status(now)
    }

    /// Whether names and passwords could be tried when they last were; `None` where they never are.
    pub fn passwords_up(&self) -> Option<bool> {
        self.passwords.as_ref().map(|passwords| passwords.basic().ldap().failure().is_none())
    }

    /// Why names and passwords cannot be tried at present; `None` where they can, or never are.
    pub fn passwords_failure(&self) -> Option<LdapError> {
        self.passwords.as_ref()?.basic().ldap().failure()
    }

    /// Verified tokens held, and their weight in bytes.
    pub fn cached(&self) -> (u64, u64) {
        self.cache.size()
    }

    /// How each file of API keys is doing, in the config's order.
    pub fn key_files(&self) -> Vec<KeyFileStatus> {
        self.api_keys.status()
    }

    /// Puts another version of a file of API keys in force at once.
    pub fn replace_key_file(&self, file: &KeyFile) -> Result<(), PrefixTaken> {
        self.api_keys.replace(file)
    }

    /// Notes that the file of API keys with this stamp has the bytes that are in force.
    pub fn confirm_key_file(&self, name: &str, digest: &[u8; 32], stamp: FileStamp) {
        self.api_keys.confirm(name, digest, stamp);
    }

    /// Notes that the file of API keys as it is now is refused; the version in force stays.
    pub fn refuse_key_file(&self, name: &str) {
        self.api_keys.refuse(name);
    }

    /// Client certificates whose owners are known.
    pub fn certificates_known(&self) -> u64 {
        self.certificates.len()
    }

    /// Waits until each issuer's first fetch has ended, well or badly; after [`Identities::spawn`].
    pub async fn fetched(&self) {
        for source in &self.sources {
            source.fetched().await;
        }
    }

    /// Waits until revocations were read from Redis, for as long as that takes; after [`Identities::spawn`].
    pub async fn revocations_read(&self) {
        if let Some(revocations) = &self.revocations {
            revocations.pulled().await;
        }
    }

    /// Waits until grants were read from Redis, for as long as that takes; after [`Identities::spawn`].
    pub async fn grants_read(&self) {
        if let Some(grants) = &self.grants {
            grants.read().await;
        }
    }

    /// How the list of revocations does; `None` without one.
    pub fn revocation_status(&self, now: Now) -> Option<RevocationStatus> {
        self.revocations.as_ref().map(|revocations| revocations.status(now))
    }

    /// What has become of grants since this was asked last, of the latest thousand.
    pub fn take_grant_changes(&self) -> Vec<GrantChange> {
        self.grants.as_ref().map(|grants| grants.take_changes()).unwrap_or_default()
    }

    /// How many grants hold; `None` where groups cannot be granted.
    pub fn grants(&self) -> Option<u64> {
        self.grants.as_ref().map(|grants| grants.count())
    }

    fn decide(
        &self,
        request: &Request<'_>,
        accepted: &Accepted,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let presented = credential::choose(request, accepted)
            .map_err(|rejection| rejected(trace, rejection, || "what the request presents".to_owned()))?;
        let identity = match presented {
            Presented::Nothing => {
                trace.step(STAGE, Outcome::Note, || "no credential: anonymous".to_owned());
                return Ok(Arc::clone(&self.anonymous));
            }
            Presented::Jwt(token) => by_bearer(self.jwt(token, answers, now, trace)?, request, trace),
            Presented::Opaque(token) => by_bearer(self.opaque(request, token, answers, now, trace)?, request, trace),
            Presented::Dpop(token) => self.dpop(token, request, accepted, answers, now, trace),
            Presented::Basic(encoded) => self.basic(encoded, request.src, answers, now, trace),
            Presented::ApiKey(key) => Ok(self.api_keys.find(key, now, trace)?),
            Presented::Certificate => {
                let settings = &self.settings.certificates;
                Ok(self.certificates.find(&request.certificate, settings, &self.groups, now, trace)?)
            }
        }?;
        self.check_revoked(&identity, &presented, now, trace)?;
        Ok(match &self.grants {
            Some(grants) => grants.apply(identity, &self.groups, now, trace),
            None => identity,
        })
    }

    /// Holds whoever was identified, by whatever it was, against what is revoked.
    fn check_revoked(
        &self,
        identity: &Identity,
        presented: &Presented<'_>,
        now: Now,
        trace: &mut Trace,
    ) -> Result<(), Rejection> {
        let Some(revocations) = &self.revocations else { return Ok(()) };
        let credential = match presented {
            Presented::Jwt(token) | Presented::Opaque(token) | Presented::Dpop(token) => Some(token.as_bytes()),
            Presented::ApiKey(key) => Some(*key),
            // A password is no token; whose it is can be revoked.
            Presented::Nothing | Presented::Certificate | Presented::Basic(_) => None,
        };
        revocations
            .check(identity, credential, now)
            .map_err(|rejection| rejected(trace, rejection, || "held against the revocations".to_owned()))
    }

    fn basic(
        &self,
        encoded: &str,
        source: Option<IpAddr>,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let Some(passwords) = &self.passwords else {
            return Err(rejected(trace, Rejection::CredentialUnsupported, || "no directory".to_owned()).into());
        };
        let verdict = match &answers.identity {
            Some(verdict) => verdict.clone(),
            None => {
                let pair = basic::read(encoded)
                    .map_err(|rejection| rejected(trace, rejection, || "the name and the password".to_owned()))?;
                match passwords.find(&pair, now) {
                    Some(verdict) => verdict,
                    None if answers.may_ask_for_identity() => {
                        return Err(Obstacle::Wait(passwords.ask(pair, source, now)));
                    }
                    None => Err(Rejection::DirectoryUnavailable),
                }
            }
        };
        let identity =
            verdict.map_err(|rejection| rejected(trace, rejection, || "what the directory says".to_owned()))?;
        claims::check_safe(&identity, trace)?;
        trace.step(STAGE, Outcome::Pass, || format!("the directory has {} with this password", identity.user));
        Ok(identity)
    }

    /// Verifies a JWT, or remembers having done so. What it is bound to is another question, which each request answers.
    pub(super) fn jwt(
        &self,
        token: &str,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        match self.cache.find(token.as_bytes(), now) {
            Some(Ok(identity)) => {
                trace.step(STAGE, Outcome::Pass, || "the same token was verified before, and still holds".to_owned());
                return Ok(identity);
            }
            Some(Err(rejection)) => {
                return Err(rejected(trace, rejection, || "the same token, just before".to_owned()).into());
            }
            None => {}
        }
        match self.verify(token, answers, now, trace) {
            Ok(Verdict { identity, grounds, ends_at_s }) => {
                let identity = Arc::new(identity);
                if let Some(grounds) = grounds {
                    self.cache.keep(token.as_bytes(), Arc::clone(&identity), grounds, ends_at_s, now);
                }
                Ok(identity)
            }
            Err(Obstacle::Rejected(rejection)) => {
                self.cache.keep_failed(token.as_bytes(), rejection, now);
                Err(rejection.into())
            }
            Err(wait) => Err(wait),
        }
    }

    /// Everything that a token proves.
    fn verify(&self, token: &str, answers: &Answers, now: Now, trace: &mut Trace) -> Result<Verdict, Obstacle> {
        let token =
            token::read(token).map_err(|rejection| rejected(trace, rejection, || "reading the token".to_owned()))?;
        let (issuer, source) = self.issuer_of(&token, trace)?;
        if !issuer.algorithms.contains(&token.algorithm) {
            return Err(rejected(trace, Rejection::AlgorithmNotAllowed, || {
                format!("{} for issuer {}", token.algorithm.name(), issuer.name)
            })
            .into());
        }
        if token.is_access && issuer.tokens == TokenUse::Id {
            return Err(rejected(trace, Rejection::TokenType, || "typ is an access token's".to_owned()).into());
        }
        let key = find_key(&token, issuer, source, now, trace, answers.may_wait_for_keys())?;
        let holds = match answers.signature_by(&key) {
            Some(holds) => holds,
            None if key.is_slow() && answers.may_check_elsewhere() => return Err(check_elsewhere(key, &token)),
            None => key.verifies(&token.signature, token.message, token.algorithm),
        };
        if !holds {
            return Err(rejected(trace, Rejection::SignatureInvalid, || format!("by {key:?}")).into());
        }
        trace.step(STAGE, Outcome::Pass, || format!("the signature holds, by {key:?}"));
        // Only now: what a stranger writes must not look like the provider's clock.
        if let Some(iat_s) = token.claims.get("iat").and_then(serde_json::Value::as_f64) {
            source.issued(iat_s, now);
        }
        let mut identity = claims::check(token.claims, issuer, &self.groups, now, trace)
            .map_err(|rejection| rejected(trace, rejection, || format!("the claims, for issuer {}", issuer.name)))?;
        let leeway_s = i64::try_from(issuer.leeway.as_secs()).unwrap_or(i64::MAX);
        let ends_at_s = identity.expires_at_s.saturating_add(leeway_s);
        let mut grounds = Some(Grounds::new());
        if let Some(grounds) = &mut grounds {
            grounds.push(key);
        }
        self.add_groups(&mut identity, issuer, &mut grounds, answers, now, trace)?;
        Ok(Verdict { identity, grounds, ends_at_s })
    }

    /// Adds what the issuer's directories know of the caller's groups. What one of them cannot say leaves the groups
    /// unknown; `grounds` become `None` where nothing would tell that it can.
    pub(super) fn add_groups(
        &self,
        identity: &mut Identity,
        issuer: &IssuerSettings,
        grounds: &mut Option<Grounds>,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<(), Obstacle> {
        let mut waits = Vec::new();
        let mut all_known = true;
        for name in &issuer.groups_from {
            let Some(directory) = self.directories.find(name) else { continue };
            let stands_in = directory.settings().kind.stands_in_for_the_token();
            if stands_in && identity.groups_known {
                trace.step(STAGE, Outcome::Note, || format!("the token holds all groups: {name} is not asked"));
                continue;
            }
            match directory.look(&identity.user, now) {
                Look::Known(membership) => {
                    trace.step(STAGE, Outcome::Pass, || format!("{name} knows the groups of {}", identity.user));
                    for id in membership.groups().iter().flat_map(|group| self.groups.of(name, group)) {
                        identity.groups.insert(*id);
                    }
                    identity.groups_known |= stands_in;
                    if let Some(grounds) = grounds {
                        grounds.push(membership);
                    }
                }
                Look::Unknown { wait: Some(wait), .. } if answers.may_wait_for_groups() => waits.push(wait),
                Look::Unknown { ignorance, .. } => {
                    trace.step(STAGE, Outcome::Note, || format!("{name} does not know the groups: unknown, not none"));
                    all_known = false;
                    match (ignorance, grounds.as_mut()) {
                        (Some(ignorance), Some(grounds)) => grounds.push(ignorance),
                        _ => *grounds = None,
                    }
                }
            }
        }
        if !waits.is_empty() {
            return Err(Obstacle::Wait(Wait::new(async {
                futures_util::future::join_all(waits).await;
                Answer(Answered::Groups)
            })));
        }
        identity.groups_known &= all_known;
        identity.groups_joined = self.groups.join(&identity.groups);
        Ok(())
    }

    /// The issuer that the token names. Its word is enough to pick whose keys to try, and for nothing else.
    fn issuer_of(&self, token: &Token<'_>, trace: &mut Trace) -> Result<(&IssuerSettings, &Arc<KeySource>), Rejection> {
        let iss = match token.claims.get("iss") {
            None => return Err(rejected(trace, Rejection::ClaimMissing, || "iss".to_owned())),
            Some(serde_json::Value::String(iss)) => iss,
            Some(_) => return Err(rejected(trace, Rejection::ClaimMalformed, || "iss, expected a string".to_owned())),
        };
        let found = self.by_iss.get(iss).and_then(|i| Some((self.settings.issuers.get(*i)?, self.sources.get(*i)?)));
        match found {
            Some((issuer, source)) => {
                trace.step(STAGE, Outcome::Pass, || format!("iss is issuer {}", issuer.name));
                Ok((issuer, source))
            }
            None => Err(rejected(trace, Rejection::IssuerUnknown, || format!("iss {iss:?}"))),
        }
    }

    fn source_of(&self, issuer: &IssuerSettings) -> Option<Arc<KeySource>> {
        let index = self.settings.issuers.iter().position(|known| known.has_keys_as(issuer))?;
        self.sources.get(index).cloned()
    }
}

/// What a token proved.
struct Verdict {
    identity: Identity,
    /// What that rests on; `None` where it must not be kept.
    grounds: Option<Grounds>,
    /// The second at which it ends.
    ends_at_s: i64,
}

/// The directory for names and passwords. On a reload it goes on with all that it knows, if it is asked in the same way
/// and its groups mean the same.
fn passwords(
    settings: &Settings,
    groups: &Arc<Groups>,
    previous: Option<&Identities>,
) -> Result<Option<Passwords>, SetupError> {
    let Some(name) = &settings.basic else { return Ok(None) };
    let of_name = |directory: &&DirectorySettings| directory.name == *name;
    let Some(DirectoryKind::Ldap(ldap)) = settings.directories.iter().find(of_name).map(|known| &known.kind) else {
        return Err(SetupError::NotLdap { name: Arc::clone(name) });
    };
    let kept = previous.and_then(|previous| previous.passwords.as_ref()).map(Passwords::basic);
    let basic = match kept.filter(|basic| basic.ldap().settings() == &**ldap) {
        Some(basic) => Ok(basic.clone()),
        None => Ldap::new((**ldap).clone()).map(Arc::new).and_then(Basic::new),
    };
    let basic = basic.map_err(|source| SetupError::Directory { name: Arc::clone(name), source })?;
    Ok(Some(Passwords::new(Arc::clone(name), basic, Arc::clone(groups))))
}

/// Why there is no identity yet.
pub(super) enum Obstacle {
    Rejected(Rejection),
    Wait(Wait),
}

impl From<Rejection> for Obstacle {
    fn from(rejection: Rejection) -> Obstacle {
        Obstacle::Rejected(rejection)
    }
}

/// A token that was presented by itself, if it may be.
fn by_bearer(identity: Arc<Identity>, request: &Request<'_>, trace: &mut Trace) -> Result<Arc<Identity>, Obstacle> {
    identity.binding.check_bearer(request, trace)?;
    Ok(identity)
}

fn find_key(
    token: &Token<'_>,
    issuer: &IssuerSettings,
    source: &KeySource,
    now: Now,
    trace: &mut Trace,
    may_wait: bool,
) -> Result<Arc<Key>, Obstacle> {
    let keys = source.keys();
    let Some(keys) = &*keys else {
        // Retries go on in the background at their own pace; a request only joins one.
        return match source.under_way().filter(|_| may_wait) {
            Some(wait) => Err(for_keys(wait)),
            None => Err(rejected(trace, Rejection::NoKeys, || format!("of issuer {}", issuer.name)).into()),
        };
    };
    match keys.choose(token.kid.as_deref(), token.algorithm) {
        Choice::Key(key) => Ok(key),
        Choice::WrongAlgorithm => Err(rejected(trace, Rejection::AlgorithmNotAllowed, || {
            format!("{} for the key named {:?}", token.algorithm.name(), token.kid)
        })
        .into()),
        Choice::Ambiguous => {
            Err(rejected(trace, Rejection::KeyUnknown, || "the token names none, and several would fit".to_owned())
                .into())
        }
        Choice::Unknown => match may_wait.then(|| source.ask(token.kid.as_deref(), now)).flatten() {
            Some(wait) => Err(for_keys(wait)),
            None => Err(rejected(trace, Rejection::KeyUnknown, || format!("kid {:?}", token.kid)).into()),
        },
    }
}

/// Checks the signature as a task of its own, so that the others on the same connection do not wait for it.
fn check_elsewhere(key: Arc<Key>, token: &Token<'_>) -> Obstacle {
    let (signature, message, algorithm) = (token.signature.clone(), token.message.to_vec(), token.algorithm);
    Obstacle::Wait(Wait::new(async move {
        let verifier = Arc::clone(&key);
        let checking = tokio::spawn(async move { verifier.verifies(&signature, &message, algorithm) });
        // Where the task is gone nothing was shown.
        let holds = checking.await.unwrap_or(false);
        Answer(Answered::Signature(key, holds))
    }))
}

fn for_keys(keys: KeyWait) -> Obstacle {
    Obstacle::Wait(Wait::new(async {
        keys.await;
        Answer(Answered::Keys)
    }))
}

fn pinned_keys(issuer: &IssuerSettings, error: &KeySetError) -> SetupError {
    let reason = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    SetupError::PinnedKeys { name: Arc::clone(&issuer.name), reason }
}

pub(super) fn rejected(trace: &mut Trace, rejection: Rejection, about: impl FnOnce() -> String) -> Rejection {
    trace.step(STAGE, Outcome::Fail, || format!("{}: {}", rejection.code(), about()));
    rejection
}

pub(super) const STAGE: &str = "identify";

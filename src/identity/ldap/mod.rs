//! LDAP: a name and a password to a person with groups, and a person's groups alone.
//!
//! Reading order: this file (what is asked, and what an answer means), `settings`, `error`, `filter` and `dn` (how a
//! stranger's name gets into a question without becoming a part of it), `throttle` (guessing), `cache` (asking once and
//! not again), `pool`, `connection`, and `message` over `ber` (the protocol, RFC 4511).
//!
//! The protocol is our own, as far as bind, search and StartTLS go: what the server sends is read without recursion and
//! within bounds, also before TLS, when it may be anybody's (docs/decisions/0010).

mod ber;
mod cache;
mod connection;
mod dn;
mod error;
mod filter;
mod message;
mod pool;
mod settings;
mod throttle;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub use cache::Basic;
pub use dn::DnTemplate;
pub use error::{LdapError, Refusal};
pub use filter::{FilterError, FilterTemplate};
pub use settings::{
    Account, BasicCacheSettings, GroupName, GroupSource, LdapSettings, Scope, Security, Server, UserAttributes, Users,
};
pub use throttle::Attempt;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::clock::Now;
use crate::secret::Secret;
use connection::{Answer, Opener};
use filter::Values;
use message::{Entry, Operation, Search, What};
use pool::{Lease, Pool, Reach};
use throttle::Throttle;

/// Somebody whom the directory knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The entry's DN.
    pub dn: String,
    /// The name as the directory writes it: 1 to 256 bytes without control characters.
    pub user: String,
    /// The e-mail address, empty where there is none.
    pub email: String,
    /// The display name, empty where there is none.
    pub name: String,
    /// Names of the groups, sorted, each once.
    pub groups: Vec<String>,
}

/// One directory.
pub struct Ldap {
    settings: LdapSettings,
    searches: Pool,
    binds: Pool,
    reach: Arc<Reach>,
    throttle: Throttle,
}

impl std::fmt::Debug for Ldap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ldap").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Ldap {
    /// Does not connect yet. Loads certificates, which takes milliseconds: call it where blocking is allowed.
    pub fn new(settings: LdapSettings) -> Result<Ldap, LdapError> {
        let opener = Arc::new(Opener::new(&settings)?);
        let reach = Arc::new(Reach::default());
        let pool = |account| {
            let (opener, reach) = (Arc::clone(&opener), Arc::clone(&reach));
            Pool::new(opener, reach, account, settings.connections_max, settings.operation_timeout)
        };
        Ok(Ldap {
            searches: pool(settings.account.clone()),
            binds: pool(None),
            reach,
            throttle: Throttle::new(),
            settings,
        })
    }

    /// What it was made with.
    pub fn settings(&self) -> &LdapSettings {
        &self.settings
    }

    /// Why the directory cannot be asked; `None` if it could be when it was last tried.
    pub fn failure(&self) -> Option<LdapError> {
        self.reach.failure()
    }

    /// Who has this name and password.
    ///
    /// An answer comes within the sum that [`Ldap::question_timeout`] states.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &Secret,
        attempt: Attempt,
        now: Now,
    ) -> Result<Person, LdapError> {
        check_user(user)?;
        if password.expose().is_empty() {
            return Err(LdapError::Refused(Refusal::EmptyPassword));
        }
        if password.expose().len() > PASSWORD_BYTES_MAX || password.expose().contains('\0') {
            return Err(LdapError::Refused(Refusal::Unusable));
        }
        let admitted = self.throttle.admit_name(user, attempt, now)?;
        let answered = self.in_time(self.prove(user, password, attempt, now)).await;
        if answered.as_ref().is_err_and(LdapError::is_refusal) {
            admitted.was_wrong(now);
        }
        answered
    }

    async fn prove(&self, user: &str, password: &Secret, attempt: Attempt, now: Now) -> Result<Person, LdapError> {
        match &self.settings.users {
            Users::Search { base, .. } => {
                let proved = match self.find(user, attempt, now).await {
                    // Its lease ends here: whoever waits for a connection that searches does not wait for the bind.
                    Ok(entry) => self.bind_as(&entry.dn, password, attempt, now).await.map(|_| entry),
                    Err(error) => Err(error),
                };
                match proved {
                    Ok(entry) => {
                        let mut lease = self.searches.lease(attempt, now).await?;
                        self.person(&mut lease, entry).await
                    }
                    // The bind itself was refused, which took its time.
                    Err(error @ LdapError::Refused(Refusal::Bind(_))) => Err(error),
                    Err(error @ (LdapError::Refused(_) | LdapError::Throttled { .. })) => {
                        // So that the time to answer does not tell which names there are: a bind as the entry that
                        // holds them all, which has no password. Whatever comes of it, the answer is the refusal.
                        let mut lease = self.binds.lease(attempt, now).await?;
                        let _ = bind(&mut lease, base, password).await;
                        Err(error)
                    }
                    Err(error) => Err(error),
                }
            }
            Users::Template(template) => {
                let dn = template.fill(user);
                let mut as_user = self.bind_as(&dn, password, attempt, now).await?;
                if self.settings.account.is_some() {
                    drop(as_user);
                    let mut lease = self.searches.lease(attempt, now).await?;
                    let entry = self.read(&mut lease, &dn).await?;
                    self.person(&mut lease, entry).await
                } else {
                    // On the connection that the user has just bound, and before it is given back.
                    let entry = self.read(&mut as_user, &dn).await?;
                    self.person(&mut as_user, entry).await
                }
            }
        }
    }

    /// The groups of a user who proved the name otherwise, looked up with the search account. A name that the directory
    /// does not know is refused: not knowing somebody is not knowing the groups. So is one that the directory takes for
    /// another, such as `ann` for `änn`: the password would prove who is meant, and here is none.
    pub async fn groups_of(&self, user: &str, now: Now) -> Result<Vec<String>, LdapError> {
        check_user(user)?;
        self.in_time(async {
            let entry = match &self.settings.users {
                Users::Search { filter, .. } => {
                    let entry = self.find(user, Attempt::Known, now).await?;
                    self.check_spelling(user, &entry, &filter.spellings(user))?;
                    entry
                }
                Users::Template(_) if self.settings.account.is_none() => return Err(LdapError::NoAccount),
                Users::Template(template) => {
                    let mut lease = self.searches.lease(Attempt::Known, now).await?;
                    let entry = match self.read(&mut lease, &template.fill(user)).await {
                        Err(LdapError::Answer { code: NO_SUCH_OBJECT, .. }) => {
                            return Err(LdapError::Refused(Refusal::UnknownUser));
                        }
                        read => read?,
                    };
                    self.check_spelling(user, &entry, &[])?;
                    entry
                }
            };
            let mut lease = self.searches.lease(Attempt::Known, now).await?;
            Ok(self.person(&mut lease, entry).await?.groups)
        })
        .await
    }

    /// Whether the entry that was found has the name that was asked for, but for case: as its user, or where the filter
    /// looked for it. How a server compares text is its own affair, and Active Directory looks past accents.
    fn check_spelling(&self, user: &str, entry: &Entry, spellings: &[(&str, Vec<u8>)]) -> Result<(), LdapError> {
        let mut expected = spellings.iter().filter_map(|(name, text)| Some((*name, std::str::from_utf8(text).ok()?)));
        let has = |name: &str, text: &str| entry.texts(name).any(|value| is_same(value, text));
        if has(&self.settings.attributes.user, user) || expected.any(|(name, text)| has(name, text)) {
            return Ok(());
        }
        tracing::debug!(dn = entry.dn, "the entry that the directory found has another name than was asked for");
        Err(LdapError::Refused(Refusal::UnknownUser))
    }

    /// The longest that a question takes: connecting once for the search and once for the bind, and six operations or
    /// waits for a connection: search, bind, groups and two levels of nested ones, at their worst. A directory that is
    /// that slow throughout is as good as down.
    pub fn question_timeout(&self) -> Duration {
        let servers = u32::try_from(self.settings.servers.len()).unwrap_or(u32::MAX);
        let connecting = self.settings.connect_timeout.saturating_mul(servers.saturating_mul(2));
        connecting.saturating_add(self.settings.operation_timeout.saturating_mul(6))
    }

    async fn in_time<T>(&self, question: impl Future<Output = Result<T, LdapError>>) -> Result<T, LdapError> {
        let timeout = self.question_timeout();
        tokio::time::timeout(timeout, question).await.unwrap_or_else(|_| {
            Err(LdapError::Timeout {
                server: self.settings.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                operation: "whole question",
                timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            })
        })
    }

    /// Binds as `dn`, if it may be tried. The lease is bound as that user.
    async fn bind_as(&self, dn: &str, password: &Secret, attempt: Attempt, now: Now) -> Result<Lease<'_>, LdapError> {
        let admitted = self.throttle.admit_entry(dn, attempt, now)?;
        let mut lease = self.binds.lease(attempt, now).await?;
        match bind(&mut lease, dn, password).await {
            Ok(()) => Ok(lease),
            Err(error) => {
                if error.is_refusal() {
                    admitted.was_wrong(now);
                }
                Err(error)
            }
        }
    }

    /// The one entry that the user filter matches.
    async fn find(&self, user: &str, attempt: Attempt, now: Now) -> Result<Entry, LdapError> {
        let Users::Search { base, scope, filter } = &self.settings.users else { return Err(LdapError::NoAccount) };
        let mut lease = self.searches.lease(attempt, now).await?;
        let Answer { mut entries, outcome } = self
            .search(
                &mut lease,
                Search {
                    name: "search for the user",
                    base,
                    scope: *scope,
                    what: What::One(filter, Values { user, dn: "" }),
                    attributes: &self.attributes(),
                    // The second one tells that there are several.
                    entries_max: 2,
                    seconds_max: 0,
                },
            )
            .await?;
        let entry = match (outcome.code, entries.len()) {
            (SIZE_LIMIT_EXCEEDED, _) | (0, 2..) => return Err(LdapError::Refused(Refusal::Ambiguous)),
            (0, 0) => return Err(LdapError::Refused(Refusal::UnknownUser)),
            (0, _) => entries.swap_remove(0),
            _ => return Err(failed("search for the user", outcome)),
        };
        if entry.dn.is_empty() || entry.dn.len() > dn::DN_BYTES_MAX {
            let server = lease.server().to_owned();
            return Err(LdapError::Garbage { server, operation: "search for the user", what: "an entry's DN" });
        }
        Ok(entry)
    }

    /// The entry with that DN.
    async fn read(&self, lease: &mut Lease<'_>, dn: &str) -> Result<Entry, LdapError> {
        let Answer { mut entries, outcome } = self
            .search(
                lease,
                Search {
                    name: "search for the user",
                    base: dn,
                    scope: Scope::Base,
                    what: What::Itself,
                    attributes: &self.attributes(),
                    entries_max: 1,
                    seconds_max: 0,
                },
            )
            .await?;
        if outcome.code != 0 {
            return Err(failed("search for the user", outcome));
        }
        // Whoever may bind need not be one who may read.
        entries.pop().ok_or_else(|| LdapError::Unreadable { attribute: self.settings.attributes.user.clone() })
    }

    /// Reads a person off their entry and looks up their groups.
    async fn person(&self, lease: &mut Lease<'_>, entry: Entry) -> Result<Person, LdapError> {
        let UserAttributes { user, email, name } = &self.settings.attributes;
        let first = |attribute: &str| {
            let usable = entry.texts(attribute).find(|text| is_usable(text, TEXT_BYTES_MAX));
            usable.map(str::to_owned)
        };
        let user = first(user).ok_or_else(|| LdapError::Unreadable { attribute: user.clone() })?;
        let (email, name) = (first(email).unwrap_or_default(), first(name).unwrap_or_default());
        let groups = self.groups(lease, &entry, &user).await?;
        Ok(Person { dn: entry.dn, user, email, name, groups })
    }

    async fn groups(&self, lease: &mut Lease<'_>, entry: &Entry, user: &str) -> Result<Vec<String>, LdapError> {
        let mut names = BTreeSet::new();
        match &self.settings.groups {
            None => {}
            Some(GroupSource::Attribute { attribute, name }) => {
                if entry.is_ranged(attribute) {
                    // Active Directory gives 1,500 values and says in the attribute's name that there are more.
                    return Err(TOO_MANY_GROUPS);
                }
                for dn in entry.texts(attribute) {
                    let named = match name {
                        GroupName::FirstValue => dn::first_value(dn),
                        GroupName::Dn | GroupName::Attribute(_) => Some(dn.to_owned()),
                    };
                    keep(&mut names, named)?;
                }
            }
            Some(GroupSource::Search { base, scope, filter, name, nested }) => {
                let attribute = match name {
                    GroupName::Attribute(attribute) => attribute.as_str(),
                    // Section 4.5.1.8: no attribute at all, since the DN comes anyway.
                    GroupName::Dn | GroupName::FirstValue => "1.1",
                };
                let mut seen = HashSet::new();
                let mut members = vec![entry.dn.clone()];
                for level in 0..=*nested {
                    let mut found = Vec::new();
                    for some in members.chunks(DNS_PER_SEARCH) {
                        let what = match level {
                            0 => What::One(filter, Values { user, dn: &entry.dn }),
                            _ => What::AnyOf(filter, user, some),
                        };
                        let search = Search {
                            name: "search for groups",
                            base,
                            scope: *scope,
                            what,
                            attributes: &[attribute],
                            // One more than are believed tells that there are too many.
                            entries_max: u32::try_from(GROUPS_MAX + 1).unwrap_or(u32::MAX),
                            seconds_max: 0,
                        };
                        let Answer { entries, outcome } = self.search(lease, search).await?;
                        match outcome.code {
                            0 => {}
                            SIZE_LIMIT_EXCEEDED => return Err(TOO_MANY_GROUPS),
                            _ => return Err(failed("search for groups", outcome)),
                        }
                        for group in entries {
                            // A group that is in itself, by whatever way, is looked at once.
                            if !seen.insert(group.dn.to_lowercase()) {
                                continue;
                            }
                            if seen.len() > GROUPS_MAX {
                                return Err(TOO_MANY_GROUPS);
                            }
                            match name {
                                GroupName::Dn => keep(&mut names, Some(group.dn.clone()))?,
                                GroupName::FirstValue => keep(&mut names, dn::first_value(&group.dn))?,
                                GroupName::Attribute(attribute) => {
                                    for value in group.texts(attribute) {
                                        keep(&mut names, Some(value.to_owned()))?;
                                    }
                                }
                            }
                            found.push(group.dn);
                        }
                    }
                    members = found;
                    if members.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    async fn search(&self, lease: &mut Lease<'_>, search: Search<'_>) -> Result<Answer, LdapError> {
        // The server stops working for us when we stop waiting, give or take what it rounds.
        let seconds = self.settings.operation_timeout.as_secs().saturating_add(1);
        let seconds_max = u32::try_from(seconds).unwrap_or(u32::MAX);
        lease.exchange(&Operation::search(&Search { seconds_max, ..search })).await
    }

    /// What is read from a user's entry.
    fn attributes(&self) -> Vec<&str> {
        let UserAttributes { user, email, name } = &self.settings.attributes;
        let groups = match &self.settings.groups {
            Some(GroupSource::Attribute { attribute, .. }) => Some(attribute.as_str()),
            _ => None,
        };
        let mut attributes: Vec<_> = [user.as_str(), email, name].into_iter().chain(groups).collect();
        if let Users::Search { filter, .. } = &self.settings.users {
            attributes.extend(filter.spellings("").into_iter().map(|(name, _)| name));
        }
        // RFC 4511, section 4.5.1.8: each once.
        let mut seen = HashSet::new();
        attributes.retain(|name| seen.insert(name.to_ascii_lowercase()));
        attributes
    }
}

/// Binds the connection; what the server refuses is the caller's name or password.
async fn bind(lease: &mut Lease<'_>, dn: &str, password: &Secret) -> Result<(), LdapError> {
    let operation = Operation::bind(dn, password).ok_or(LdapError::Refused(Refusal::EmptyPassword))?;
    let outcome = lease.exchange(&operation).await?.outcome;
    match outcome.code {
        0 => Ok(()),
        // invalidCredentials and inappropriateAuthentication (no password there); noSuchObject and invalidDNSyntax where
        // a server says so in place of the former; constraintViolation, unwillingToPerform and insufficientAccessRights
        // are how servers refuse an account that is locked, expired or disabled.
        19 | NO_SUCH_OBJECT | 34 | 48 | 49 | 50 | 53 => {
            tracing::debug!(code = outcome.code, message = outcome.message, "the directory refuses a bind");
            Err(LdapError::Refused(Refusal::Bind(outcome.code)))
        }
        // busy, unavailable, operationsError, confidentialityRequired, a referral …: nothing about the password.
        _ => Err(failed("bind", outcome)),
    }
}

/// Whether two names differ in case at most. Folded both ways, because folded one way the Kelvin sign is a `k` and a long
/// `s` is an `S`.
fn is_same(value: &str, asked: &str) -> bool {
    let value = ComposingNormalizerBorrowed::new_nfc().normalize(value);
    value.to_lowercase() == asked.to_lowercase() && value.to_uppercase() == asked.to_uppercase()
}

/// Whether it can be a user's name: not empty, not long, without what a directory would not tell from nothing or from a
/// space (RFC 4518, sections 2.2 and 2.6), so that one user has one spelling but for its case.
fn check_user(user: &str) -> Result<(), LdapError> {
    let ignored = |c: char| {
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || matches!(c, '\u{ad}' | '\u{34f}' | '\u{1806}' | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2063}' | '\u{206a}'..='\u{206f}')
            || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' | '\u{e0000}'..='\u{e007f}')
    };
    let good = is_usable(user, TEXT_BYTES_MAX)
        && !user.starts_with(' ')
        && !user.ends_with(' ')
        && !user.contains("  ")
        && !user.chars().any(ignored)
        // RFC 4518, section 2.3: to a directory full-width letters and ligatures are what they are compatible with.
        && ComposingNormalizerBorrowed::new_nfkc().is_normalized(user);
    if good { Ok(()) } else { Err(LdapError::Refused(Refusal::Unusable)) }
}

fn is_usable(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Keeps a group's name. One that no config can name, because it is empty, has a control character or is longer than any
/// DN, decides nothing and is left out.
fn keep(names: &mut BTreeSet<String>, name: Option<String>) -> Result<(), LdapError> {
    if let Some(name) = name.filter(|name| is_usable(name, dn::DN_BYTES_MAX)) {
        names.insert(name);
    }
    if names.len() > GROUPS_MAX { Err(TOO_MANY_GROUPS) } else { Ok(()) }
}

fn failed(operation: &'static str, outcome: message::Outcome) -> LdapError {
    LdapError::Answer { operation, code: outcome.code, message: outcome.message }
}

/// RFC 4511, section 4.1.9.
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const NO_SUCH_OBJECT: u32 = 32;

const TOO_MANY_GROUPS: LdapError = LdapError::TooManyGroups { groups_max: GROUPS_MAX };

/// Ten times what anybody is in; at 1 KiB each they are 1 MiB at the worst.
const GROUPS_MAX: usize = 1000;

/// A filter of 50 DNs is some 5 KiB, and a thousand groups are 20 searches.
const DNS_PER_SEARCH: usize = 50;

/// Names and addresses: RFC 5321's longest address is 254.
const TEXT_BYTES_MAX: usize = 256;

/// Directories take 127 (Active Directory) to 1,000 or so.
const PASSWORD_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        for (name, good) in [
            ("ann", true),
            ("Ann Lee", true),
            ("ann@acme.example", true),
            ("jürgen", true),
            ("*)(uid=*", true),
            ("", false),
            (" ann", false),
            ("ann ", false),
            ("ann  lee", false),
            ("ann\0", false),
            ("ann\n", false),
            ("a\u{ad}nn", false),
            ("ann\u{200b}", false),
            ("ann\u{a0}lee", false),
            ("\u{feff}ann", false),
            ("ａｎｎ", false),
            ("ﬁnn", false),
            ("anſelm", false),
            ("\u{212a}ate", false),
            ("ju\u{308}rgen", false),
            ("ⅳ", false),
        ] {
            assert_eq!(check_user(name).is_ok(), good, "{name:?}");
        }
        assert!(check_user(&"x".repeat(256)).is_ok());
        assert!(check_user(&"x".repeat(257)).is_err());
    }

    #[test]
    fn names_are_the_same_but_for_case_and_nothing_else() {
        for (value, asked, same) in [
            ("ann", "ann", true),
            ("ann", "ANN", true),
            ("Jürgen", "jÜRGEN", true),
            ("ju\u{308}rgen", "jürgen", true),
            ("ann", "änn", false),
            ("kate", "\u{212a}ate", false),
            ("sam", "ſam", false),
            ("groß", "gross", false),
            ("straße", "STRASSE", false),
            ("ann", "anne", false),
            ("ｗ", "w", false),
        ] {
            assert_eq!(is_same(value, asked), same, "{value} {asked}");
        }
    }

    #[test]
    fn refusals_look_the_same_from_outside() {
        let shown = |refusal| LdapError::Refused(refusal).to_string();
        for refusal in
            [Refusal::EmptyPassword, Refusal::Unusable, Refusal::Ambiguous, Refusal::Bind(49), Refusal::Bind(53)]
        {
            assert_eq!(shown(refusal), shown(Refusal::UnknownUser));
        }
    }
}

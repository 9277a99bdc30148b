//! People's groups from elsewhere than their token.
//!
//! Reading order: `memberships` (who is in what, as far as it is known: asked in the background, kept, retired), `google`
//! and `entra` (the two HTTP APIs), `ldap`, `api` (what the two have in common: a token of our own, and what their errors mean),
//! `file` (groups that the operator wrote down). Another kind of directory is another `Directory`.
//!
//! "Unknown" is never "none": a directory that cannot answer, does not know the person, or has more to say than we read
//! leaves the groups unknown, and no part of them counts.

mod api;
mod entra;
mod file;
mod google;
mod ldap;
mod memberships;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod memberships_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use entra::EntraSettings;
pub use file::FileError;
pub use google::{AccountKey, AccountKeyError, GoogleSettings};
pub use memberships::{DirectoryStatus, Ignorance, Look, Membership, MembershipWait, Memberships};

use super::ldap::{LdapError, LdapSettings};
use super::outbound::FetchError;
use crate::clock::{Clock, Now};

/// One entry of `directories:`.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectorySettings {
    /// The config's name for it (`people`); its groups are qualified by it.
    pub name: Arc<str>,
    /// What it is, and how it is asked.
    pub kind: DirectoryKind,
    /// What is known of somebody who is there is asked for again after this.
    pub refresh: Duration,
    /// While the directory cannot answer, what is known counts up to this age; then it is unknown.
    pub keep: Duration,
    /// What it means that the directory does not know somebody.
    pub absent: Absent,
}

/// What a directory is.
#[derive(Clone, Debug, PartialEq)]
pub enum DirectoryKind {
    /// Google Workspace, by the Directory API.
    Google(Box<GoogleSettings>),
    /// Microsoft Entra ID, by Microsoft Graph.
    Entra(Box<EntraSettings>),
    /// An LDAP directory.
    Ldap(Box<LdapSettings>),
    /// A file with everybody's groups. `refresh` and `keep` have no part in it: it is looked at each second, and the last
    /// that could be read counts.
    File(PathBuf),
}

impl DirectoryKind {
    /// The name of a group as the directory's answers have it, for one that an operator wrote; `None` where it has no
    /// such names, so that nobody could ever be in it.
    pub fn group_name(&self, written: &str) -> Option<String> {
        match self {
            DirectoryKind::Google(_) => written.contains('@').then(|| google::group_name(written)),
            DirectoryKind::Entra(_) => entra::is_guid(written).then(|| entra::group_name(written)),
            DirectoryKind::Ldap(_) | DirectoryKind::File(_) => Some(written.to_owned()),
        }
    }

    /// Whether it has what the token left out, and nothing else: a token that holds all groups needs no question. Graph
    /// gives the very groups that Entra would have put into the token (overage); any other directory has groups of its
    /// own.
    pub fn stands_in_for_the_token(&self) -> bool {
        matches!(self, DirectoryKind::Entra(_))
    }

    /// What names of groups are like.
    pub fn group_names(&self) -> &'static str {
        match self {
            DirectoryKind::Google(_) => "the group's e-mail address",
            DirectoryKind::Entra(_) => "the group's object id, a GUID",
            DirectoryKind::Ldap(_) => "the group's name, as the directory's `groups:` says what that is",
            DirectoryKind::File(_) => "the group as it is written in the file",
        }
    }
}

/// What it means that a directory does not know somebody who has proved who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// Their groups are unknown: they may be new, of another tenant, or known there by another name.
    #[default]
    Unknown,
    /// They are in no group, because the directory has everybody.
    NoGroups,
}

impl Absent {
    /// Both, with the config's word for each.
    pub const NAMES: [(&'static str, Absent); 2] = [("unknown", Absent::Unknown), ("no_groups", Absent::NoGroups)];
}

/// Reads a file of groups as [`DirectoryKind::File`] would, and says how many people are in it. Blocks.
pub fn check_file(path: &Path) -> Result<usize, FileError> {
    file::read(path).map(|people| people.len())
}

/// All directories of a config.
#[derive(Default)]
pub struct Directories {
    each: Vec<Arc<Memberships>>,
}

impl Directories {
    /// On a reload `previous` are the directories that these replace: one whose settings are the same goes on with all
    /// that it knows. Blocks while files are read.
    pub fn new(settings: &[DirectorySettings], previous: Option<&Directories>) -> Directories {
        let each = settings.iter().map(|settings| {
            let same = |known: &&Arc<Memberships>| known.settings() == settings;
            let kept = previous.and_then(|previous| previous.each.iter().find(same));
            kept.cloned().unwrap_or_else(|| Arc::new(Memberships::new(settings)))
        });
        Directories { each: each.collect() }
    }

    /// Starts the background task of each that has none yet. Needs a Tokio runtime. A task ends with `stop`, or when
    /// nobody holds its directory any more.
    pub fn spawn(&self, clock: &Clock, stop: &CancellationToken) {
        for memberships in &self.each {
            memberships.spawn(clock.clone(), stop.clone());
        }
    }

    /// The directory of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Memberships>> {
        self.each.iter().find(|memberships| *memberships.settings().name == *name)
    }

    /// How each is doing, in the config's order.
    pub fn status(&self, now: Now) -> Vec<DirectoryStatus> {
        self.each.iter().map(|memberships| memberships.status(now)).collect()
    }
}

/// Somebody's groups, on their way.
pub(crate) type Answering<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, DirectoryError>> + Send + 'a>>;

/// Whoever can be asked in which groups somebody is. [`Memberships`] sees to it that this happens rarely, in the
/// background and not for too long; an implementation bounds what it reads.
pub(crate) trait Directory: Send + Sync {
    /// All groups of `user`, by the names that the config's `groups:` has for them; in any order, perhaps twice.
    fn groups_of<'a>(&'a self, user: &'a str, clock: &'a Clock) -> Answering<'a>;
}

/// Why somebody's groups are not known. Says hosts and documented codes; holds no secret.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum DirectoryError {
    #[error("the directory knows nobody of that name")]
    NoSuchUser,
    #[error("{host} asks us to be slower (status {status})")]
    Throttled { host: String, status: u16, retry_after: Option<Duration> },
    #[error("{host} gives no access token{}", said(*.status, .code))]
    NoAccess { host: String, status: Option<u16>, code: String },
    #[error("{host} refuses{}", said(Some(*.status), .code))]
    Refused { host: String, status: u16, code: String },
    #[error(transparent)]
    Fetch(Arc<FetchError>),
    #[error(transparent)]
    Ldap(LdapError),
    #[error("the answer of {host} is not as documented: {problem}")]
    Answer { host: String, problem: &'static str },
    #[error("one person is in more than {groups_max} groups")]
    TooMany { groups_max: usize },
    #[error("groups are nested more than {depth_max} deep")]
    TooDeep { depth_max: usize },
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("the attempt itself failed: this is a bug")]
    Broken,
}

impl DirectoryError {
    /// Whether it tells something about one person, so that there is no reason to leave the directory alone.
    fn is_of_user(&self) -> bool {
        match self {
            DirectoryError::NoSuchUser | DirectoryError::TooMany { .. } | DirectoryError::TooDeep { .. } => true,
            // Google answers 403 for people of another domain and 400 for names that cannot be; if instead it is the
            // directory that is set up wrongly, each person costs one request a minute.
            DirectoryError::Refused { status, .. } => matches!(status, 400 | 403),
            // An ambiguous name, or an entry that cannot be read.
            DirectoryError::Ldap(error) => error.is_refusal() || matches!(error, LdapError::Unreadable { .. }),
            _ => false,
        }
    }

    /// How long we were asked to stay away.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            DirectoryError::Throttled { retry_after, .. } => *retry_after,
            DirectoryError::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }
}

fn said(status: Option<u16>, code: &str) -> String {
    match (status, code) {
        (None, "") => String::new(),
        (None, code) => format!(": {code}"),
        (Some(status), "") => format!(" (status {status})"),
        (Some(status), code) => format!(" (status {status}): {code}"),
    }
}

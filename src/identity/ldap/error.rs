//! Why a directory gave no person.

use std::sync::Arc;
use std::time::Duration;

/// Why there is no person. A clone is cheap: everybody who waited for the same answer gets one.
///
/// Refusals are the caller's doing, all others are ours or the directory's: [`LdapError::is_refusal`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum LdapError {
    /// Not this name with this password. The text is the same for whatever reason, so that nobody learns which names
    /// there are; [`Refusal::reason`] is for a trace.
    #[error("the directory has no such user name with such a password")]
    Refused(Refusal),
    /// Too many wrong passwords for this user; the directory was not asked.
    #[error("too many wrong passwords for this user name")]
    Throttled {
        /// When another may be tried.
        retry_after: Duration,
    },
    /// All connections are in use, and so many wait already, or waited too long.
    #[error("every connection to the directory is in use")]
    Busy,
    /// Too many names and passwords that were not right before are being tried, or were lately; the directory was not
    /// asked.
    #[error("too many new names and passwords, from there or in all")]
    Crowded,
    /// No answer in time.
    #[error("{server} did not answer the {operation} within {timeout_ms} ms")]
    Timeout {
        /// Which server.
        server: String,
        /// Which operation.
        operation: &'static str,
        /// The bound.
        timeout_ms: u64,
    },
    /// No connection.
    #[error("cannot connect to {server}")]
    Unreachable {
        /// Which server.
        server: String,
        /// What the system or TLS said.
        source: Arc<std::io::Error>,
    },
    /// The server does not speak TLS on this port, and was told nothing.
    #[error("{server} refuses StartTLS (LDAP result {code}: {message})")]
    StartTlsRefused {
        /// Which server.
        server: String,
        /// RFC 4511, section 4.1.9.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The search account cannot bind.
    #[error("{server} does not let the search account in (LDAP result {code}: {message})")]
    AccountRefused {
        /// Which server.
        server: String,
        /// RFC 4511, section 4.1.9.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The connection ended before the answer.
    #[error("{server} closed the connection before it answered the {operation}")]
    Lost {
        /// Which server.
        server: String,
        /// Which operation.
        operation: &'static str,
    },
    /// What came is not LDAP, or not an answer to what was asked.
    #[error("{server} sent what is no answer to the {operation}: {what}")]
    Garbage {
        /// Which server.
        server: String,
        /// Which operation.
        operation: &'static str,
        /// What was wrong with it.
        what: &'static str,
    },
    /// The server answered that it cannot.
    #[error("the {operation} failed (LDAP result {code}: {message})")]
    Answer {
        /// Which operation.
        operation: &'static str,
        /// RFC 4511, section 4.1.9.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The user's entry can be found, but not what it says.
    #[error("the user's entry has no attribute `{attribute}` that can be read and used")]
    Unreadable {
        /// Which attribute.
        attribute: String,
    },
    /// More groups than are believed; unknown groups are not no groups.
    #[error("the user has more than {groups_max} groups")]
    TooManyGroups {
        /// The bound.
        groups_max: usize,
    },
    /// Nobody may search: there is neither an account nor a user who has bound.
    #[error("groups cannot be looked up without `bind_dn`")]
    NoAccount,
    /// The authorities' certificates cannot be read.
    #[error("the certificates in `ca_file` cannot be used: {what}")]
    Authorities {
        /// Why.
        what: String,
    },
    /// The system gives no randomness, and without it nothing may be remembered.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// Whoever asked ended without an answer.
    #[error("the question to the directory ended without an answer")]
    Unanswered,
}

/// Which refusal it was. Not for whoever was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An empty password, which many servers would let pass (RFC 4513, section 5.1.2).
    EmptyPassword,
    /// A name or password that is too long, or a name that no directory can mean.
    Unusable,
    /// No entry matches.
    UnknownUser,
    /// Several entries match, so none is proved.
    Ambiguous,
    /// The server refused the bind, with this LDAP result: a wrong password, a locked account, no password at all.
    Bind(u32),
}

impl LdapError {
    /// Whether the caller's name and password are what is wrong.
    pub fn is_refusal(&self) -> bool {
        matches!(self, LdapError::Refused(_) | LdapError::Throttled { .. })
    }

    /// Whether another connection may have a better answer.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, LdapError::Lost { .. })
    }
}

impl Refusal {
    /// The reason in words, for a trace.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::EmptyPassword => "the password is empty",
            Refusal::Unusable => "the name or the password is not one that a directory can hold",
            Refusal::UnknownUser => "no entry matches the user filter",
            Refusal::Ambiguous => "several entries match the user filter",
            Refusal::Bind(49) => "the bind was refused: wrong password, or an account that is locked",
            Refusal::Bind(48) => "the bind was refused: the entry has no password",
            Refusal::Bind(_) => "the bind was refused",
        }
    }
}

//! How a directory is asked, as checked by `config`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::dn::DnTemplate;
use super::filter::FilterTemplate;
use crate::secret::Secret;

/// One directory. Two that are equal are the same directory asked in the same way, so a reload keeps its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapSettings {
    /// Its servers, tried in this order. Never empty.
    pub servers: Vec<Server>,
    /// How the connections are protected.
    pub security: Security,
    /// Who may sign the servers' certificates, in PEM; without it the system's authorities may.
    pub ca: Option<Arc<[u8]>>,
    /// Who searches. Without it searches are anonymous, or with [`Users::Template`] made as the user.
    pub account: Option<Account>,
    /// Where a user's entry is.
    pub users: Users,
    /// What is read from a user's entry.
    pub attributes: UserAttributes,
    /// Where a user's groups are; `None` where the directory gives none.
    pub groups: Option<GroupSource>,
    /// Connections that search, and as many again that bind. At least 1.
    pub connections_max: usize,
    /// From resolving a server's name to the end of TLS's handshake.
    pub connect_timeout: Duration,
    /// One operation: a bind or a search with all its entries. Also what a question waits for a free connection.
    pub operation_timeout: Duration,
    /// How long answers are believed.
    pub cache: BasicCacheSettings,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, or an address without brackets. It is what the certificate must be for.
    pub host: String,
    /// 389, and 636 for `ldaps`.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (`ldaps://`).
    Tls,
    /// TLS before anything else is said (RFC 4511, section 4.14); a server that refuses it is not talked to.
    StartTls,
    /// None: passwords go in clear. `config` wants `insecure: true` for it.
    Plain,
}

/// Who searches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its DN. Never empty.
    pub dn: String,
    /// Its password. Never empty.
    pub password: Secret,
}

/// Where a user's entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// It is the one entry below `base` that the filter matches.
    Search {
        /// Where to look.
        base: String,
        /// How deep.
        scope: Scope,
        /// Has a place for `{user}`.
        filter: FilterTemplate,
    },
    /// It has this DN.
    Template(DnTemplate),
}

/// How deep a search goes (RFC 4511, section 4.5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// The base itself.
    Base = 0,
    /// What is directly below the base.
    One = 1,
    /// The base and all below it.
    Subtree = 2,
}

/// What is read from a user's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAttributes {
    /// The user's name as the directory writes it, whatever case was typed.
    pub user: String,
    /// The e-mail address.
    pub email: String,
    /// The display name.
    pub name: String,
}

/// Where a user's groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupSource {
    /// Entries below `base` that the filter matches.
    Search {
        /// Where to look.
        base: String,
        /// How deep.
        scope: Scope,
        /// Has a place for `{dn}` or `{user}`.
        filter: FilterTemplate,
        /// What a group is called.
        name: GroupName,
        /// Groups of groups: how many levels more are looked at, 0 for none. Needs `{dn}` in the filter.
        nested: u8,
    },
    /// An attribute of the user's entry that holds the groups' DNs.
    Attribute {
        /// `memberOf`.
        attribute: String,
        /// What a group is called; an attribute's value cannot be had without asking for the group's entry.
        name: GroupName,
    },
}

/// What a group is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupName {
    /// Its DN, as the directory writes it.
    Dn,
    /// The value of the first part of its DN: `ops` of `cn=ops,ou=groups,dc=acme`. Only where no two groups below
    /// different parents share it.
    FirstValue,
    /// The values of this attribute.
    Attribute(String),
}

/// How long the directory's word is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicCacheSettings {
    /// A name and password that were right.
    pub age_max: Duration,
    /// A name and password that were refused.
    pub refused_age_max: Duration,
    /// Upper bound of the people remembered, in bytes.
    pub bytes_max: u64,
}

impl Default for BasicCacheSettings {
    fn default() -> BasicCacheSettings {
        // A minute bounds how long a password outlives its change; five seconds spare a directory a client that retries.
        // 16 MiB hold some 20,000 people of ten groups.
        BasicCacheSettings {
            age_max: Duration::from_secs(60),
            refused_age_max: Duration::from_secs(5),
            bytes_max: 16 * 1024 * 1024,
        }
    }
}

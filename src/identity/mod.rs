//! Request -> Identity: who is calling, proved or refused.
//!
//! Reading order: `identities` (the stage itself), `credential` (what was presented), `wait` (what a request may wait
//! for), `token` (what makes it a JWT), `jws` (strict reading of what is signed, by `json`), `keys` (what may verify it),
//! `claims` (what it must say, and what it says about the caller), `binding` (what its bearer must prove to hold, with
//! `dpop` where that is a key), `groups` (issuer-qualified group names to policy
//! groups), `cache` (tokens seen before), `source` (an issuer's keys over time, with `unknown`, `skew` and `keep`),
//! `provider` (where they come from), `directory` (groups that are not in the token), `ldap` and `basic`
//! (names, passwords and groups of an LDAP server), `outbound` (the only outbound HTTP), `presets` (what well-known providers write).
//!
//! Of tokens that are no JWT: `opaque` (what an issuer says of one), `introspection` (how it is asked), `inquiries` (once
//! at a time), `strangers` (so many, and so often), `breaker` (not while it does not answer).
//!
//! Of other credentials: `api_key` (what one looks like), `api_keys` (whom each names), `certificates` (whom a client
//! certificate names), `x509` (what it says).
//!
//! After all of that: `revocation` (what is refused although it was good), `grants` (groups for a time).
//!
//! "Present" is never "verified": an [`Identity`] with an issuer can only be built by the verifier in this module.

pub mod api_key;
mod api_keys;
mod assume;
mod basic;
mod binding;
mod breaker;
mod cache;
mod certificates;
mod claim_path;
mod claims;
mod credential;
pub mod directory;
pub mod dpop;
pub mod grants;
mod group_names;
pub mod groups;
mod identities;
mod inquiries;
mod introspection;
mod json;
mod jws;
mod keep;
mod keys;
pub mod ldap;
mod opaque;
mod outbound;
pub mod presets;
mod provider;
mod rejection;
pub mod revocation;
pub mod settings;
mod skew;
mod source;
mod strangers;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token;
mod unknown;
mod wait;
mod x509;

use std::sync::Arc;

pub use api_keys::{KeyFileStatus, PrefixTaken};
pub use assume::{Assumed, Recorded};
pub use credential::{Accepted, CredentialKind, presented, token_id};
pub use groups::{GroupId, GroupSet, Groups};
pub use identities::{Identified, Identities, SetupError};
pub use opaque::IntrospectionStatus;
pub use rejection::Rejection;
pub use source::IssuerStatus;
pub use wait::{Answer, Answers, Wait};

use binding::Binding;

/// Who is calling. Anonymous is an identity too: nobody presented a credential.
///
/// Every string that can leave in a variable is free of control bytes; [`Rejection::IdentityUnsafe`] is what a token
/// with such a value gets instead of an identity.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// What proved it.
    pub credential: CredentialKind,
    /// The config's name of the issuer (`acme`); empty when anonymous.
    pub issuer_name: Arc<str>,
    /// The `iss` value; empty when anonymous. So are all the following where the token does not say.
    pub issuer: String,
    /// The claim named by `claims.user`, `sub` by default.
    pub user: String,
    /// `sub`.
    pub subject: String,
    /// The e-mail address, only where the issuer says it is verified or does not say at all.
    pub email: String,
    /// The display name.
    pub name: String,
    /// The client the token was issued to (`azp`, `client_id`, `cid`, `appid`).
    pub client_id: String,
    /// Policy groups.
    pub groups: GroupSet,
    /// Names of `groups`, sorted, `,` and `%` inside a name percent-encoded, joined by commas.
    pub groups_joined: String,
    /// False where the token says that it does not hold all groups (Entra overage): "unknown" is never "none".
    pub groups_known: bool,
    /// Those of `groups` that were granted for a time.
    pub granted: Vec<String>,
    /// OAuth scopes.
    pub scopes: Vec<String>,
    /// The verified claims, for rules and limit keys that name one.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// `exp` in Unix seconds; `i64::MAX` when anonymous.
    pub expires_at_s: i64,
    /// What revocations may know it by.
    pub marks: revocation::Marks,
    /// What must be proved besides, on every request.
    binding: Binding,
}

impl Identity {
    /// Nobody in particular.
    pub fn anonymous() -> Identity {
        Identity { groups_known: true, expires_at_s: i64::MAX, ..Identity::default() }
    }

    /// Whether nothing was presented.
    pub fn is_anonymous(&self) -> bool {
        self.credential == CredentialKind::Anonymous
    }
}

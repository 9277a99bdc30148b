//! What an issuer is allowed to prove, as checked by `config`.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

pub use super::api_keys::{ApiKey, FileStamp, KeyFile};
pub use super::certificates::{ALTERNATIVES, ATTRIBUTES, CertificateSettings};
pub use super::claim_path::{ClaimPath, ClaimPattern};

/// Everything `identity` needs to know, besides the groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The issuers, in the config's order.
    pub issuers: Vec<IssuerSettings>,
    /// The verified-token cache.
    pub cache: CacheSettings,
    /// Files of API keys; the stage takes them out.
    pub api_keys: Vec<KeyFile>,
    /// Whom client certificates name, in the config's order.
    pub certificates: Vec<CertificateSettings>,
}

/// Bounds of the verified-token cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Upper bound of its weight (token and identity) in bytes.
    pub bytes_max: u64,
    /// No entry is believed longer than this, whatever its `exp`.
    pub age_max: Duration,
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        // 128 MiB hold about 60,000 tokens of 900 bytes with their claims; five minutes bound how long a token
        // outlives its revocation at the provider.
        CacheSettings { bytes_max: 128 * 1024 * 1024, age_max: Duration::from_secs(300) }
    }
}

/// One issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerSettings {
    /// The config's name for it (`acme`).
    pub name: Arc<str>,
    /// The exact `iss` value; compared byte for byte (a trailing slash counts).
    pub issuer: String,
    /// Other values of `iss` that mean this issuer, compared as exactly (Google's without a scheme).
    pub aliases: Vec<String>,
    /// Acceptable audiences, any of. Never empty.
    pub audiences: Vec<String>,
    /// Which of its JWTs are taken.
    pub tokens: TokenUse,
    /// The clients that a token may be issued to, where that is restricted; empty where not. ID tokens are always:
    /// without a list, to the audiences.
    pub clients: Vec<String>,
    /// Where its keys come from.
    pub keys: KeyOrigin,
    /// How its provider is asked.
    pub outbound: OutboundSettings,
    /// Signature algorithms that may be used at all.
    pub algorithms: Vec<Algorithm>,
    /// Which claims say what.
    pub claims: ClaimMap,
    /// Claims that must equal a value (`hd: acme.example`).
    pub require: Vec<(ClaimPath, serde_json::Value)>,
    /// Claims that must be there, besides `iss`, `sub`, `aud`, `exp` and the user.
    pub required_claims: Vec<ClaimPath>,
    /// What of a group's name counts.
    pub group_form: GroupForm,
    /// Clock skew allowed at `exp`, `nbf` and `iat`; at most 300 s.
    pub leeway: Duration,
}

/// How a provider or a directory may be asked over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundSettings {
    /// Allows `http://` and private addresses, for a provider on loopback.
    pub insecure: bool,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// OpenID Connect Discovery 1.0, section 4: `{issuer}/.well-known/openid-configuration`.
    Discovery {
        /// The issuer as a URL, to fetch from.
        issuer: Url,
    },
    /// A key set (RFC 7517, section 5) from a file, read by `config`: no discovery, no outbound call.
    Pinned {
        /// The file's bytes.
        jwks: Arc<[u8]>,
    },
}

/// A JWS algorithm (RFC 7518, section 3.1; RFC 8037) that a public key verifies. `none` and HMAC have no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

impl Algorithm {
    /// All of them, in the order of their names' first use in RFC 7518.
    pub const ALL: [Algorithm; 10] = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::ES512,
        Algorithm::EdDSA,
    ];

    /// The name in a JWS header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::ES512 => "ES512",
            Algorithm::EdDSA => "EdDSA",
        }
    }

    /// The algorithm of exactly that name; case counts (RFC 7515, section 4.1.1).
    pub fn parse(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// What of a group's name, as its issuer writes it, the config's `groups:` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupForm {
    /// All of it, letter by letter.
    #[default]
    AsWritten,
    /// The common name of a distinguished name (RFC 4514): `ops` of `cn=ops,ou=groups`. What is no distinguished name
    /// counts as it is.
    CommonName,
    /// What follows the last slash: `ops` of `/staff/ops`.
    LastSegment,
}

impl GroupForm {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, GroupForm); 3] = [
        ("as_written", GroupForm::AsWritten),
        ("common_name", GroupForm::CommonName),
        ("last_segment", GroupForm::LastSegment),
    ];
}

/// Which of an issuer's JWTs are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenUse {
    /// Access tokens (RFC 9068, or what the issuer writes as such). What shows itself as an ID token is refused.
    #[default]
    Access,
    /// ID tokens (OpenID Connect Core 1.0, section 2), for an issuer that has no other JWT. What shows itself as an
    /// access token is refused.
    Id,
}

impl TokenUse {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, TokenUse); 2] = [("access", TokenUse::Access), ("id", TokenUse::Id)];
}

/// Which claims say what. Where several paths are given the first that leads to a value counts, but for groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMap {
    /// Identity's `user`. A token without it is refused.
    pub user: ClaimPath,
    /// Group names, of all these places together: see [`GroupForm`].
    pub groups: Vec<ClaimPattern>,
    /// Scopes: an array of strings or a space-separated string.
    pub scopes: Vec<ClaimPath>,
    /// E-mail address.
    pub email: ClaimPath,
    /// Display name.
    pub name: ClaimPath,
    /// The client the token was issued to.
    pub client_id: Vec<ClaimPath>,
    /// What stands for `aud` (Cognito's access tokens have `client_id` in its place).
    pub audience: Vec<ClaimPath>,
}

//! What an issuer is allowed to prove, as checked by `config`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use url::Url;

pub use super::api_keys::{ApiKey, FileStamp, KeyFile};
pub use super::certificates::{ALTERNATIVES, ATTRIBUTES, CertificateSettings};
pub use super::claim_path::{ClaimPath, ClaimPattern};
use super::directory::DirectorySettings;
use super::dpop::DpopSettings;
pub use super::grants::GrantSettings;
use crate::link::RedisSettings;
use crate::secret::Secret;

/// Everything `identity` needs to know, besides the groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The issuers, in the config's order.
    pub issuers: Vec<IssuerSettings>,
    /// Where groups come from that are not in a token, in the config's order.
    pub directories: Vec<DirectorySettings>,
    /// The directory that names and passwords are tried against, by its name; it is one of kind LDAP.
    pub basic: Option<Arc<str>>,
    /// The verified-token cache.
    pub cache: CacheSettings,
    /// What proofs of tokens that are bound to a key must be like.
    pub dpop: DpopSettings,
    /// A folder for what should outlive the process: each issuer's last key set, for a start without its provider.
    pub state_dir: Option<PathBuf>,
    /// Where revocations are, if anywhere.
    pub revocations: Option<RevocationSettings>,
    /// Where groups are granted for a time, if anywhere.
    pub grants: Option<GrantSettings>,
    /// Files of API keys; the stage takes them out.
    pub api_keys: Vec<KeyFile>,
    /// Whom client certificates name, in the config's order.
    pub certificates: Vec<CertificateSettings>,
}

impl Settings {
    /// What revocations know an issuer or another source by: an issuer by its `iss` value, which may be said by the
    /// config's name for it, by that value or by an alias of it; any other source by its name.
    pub fn issuer_named(&self, named: &str) -> Option<&str> {
        let by_name = self.issuers.iter().find(|issuer| *issuer.name == *named);
        let by_value = || {
            let is = |issuer: &&IssuerSettings| issuer.issuer == named || issuer.aliases.iter().any(|it| it == named);
            self.issuers.iter().find(is)
        };
        let issuer = by_name.or_else(by_value).map(|issuer| issuer.issuer.as_str());
        issuer.or_else(|| self.other_sources().find(|name| *name == named))
    }

    /// The config's names of everything that identities come from.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| &*issuer.name).chain(self.other_sources())
    }

    /// The names of what is no issuer, and still says who somebody is.
    fn other_sources(&self) -> impl Iterator<Item = &str> {
        let keys = self.api_keys.iter().map(|file| &*file.name);
        let certificates = self.certificates.iter().map(|certificates| &*certificates.name);
        self.basic.as_deref().into_iter().chain(keys).chain(certificates)
    }
}

/// Where revocations are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationSettings {
    /// The Redis that all agents share.
    pub redis: RedisSettings,
    /// What holds before they were read for the first time.
    pub at_start: AtStart,
}

/// What an agent does that starts while Redis cannot be reached, and has no copy either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// It decides as if nothing were revoked.
    #[default]
    Open,
    /// Whoever presents a credential is answered 503 until it knows.
    Wait,
}

impl AtStart {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, AtStart); 2] = [("open", AtStart::Open), ("wait", AtStart::Wait)];
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
    /// Whether an access token must say that it is one, because nothing in its ID tokens says that they are not.
    pub access_must_show: bool,
    /// The clients that a token may be issued to, where that is restricted; empty where not. ID tokens are always:
    /// without a list, to the audiences.
    pub clients: Vec<String>,
    /// Where its keys come from.
    pub keys: KeyOrigin,
    /// Hosts where its key set may be, besides the issuer's own.
    pub key_hosts: Vec<String>,
    /// How old fetched keys may become while the provider cannot be asked.
    pub key_age_max: Duration,
    /// How its provider is asked.
    pub outbound: OutboundSettings,
    /// How it is asked about tokens that are no JWTs; `None` where it is not.
    pub introspection: Option<IntrospectionSettings>,
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
    /// The directories that know its users' groups, by the config's names for them.
    pub groups_from: Vec<Arc<str>>,
    /// Clock skew allowed at `exp`, `nbf` and `iat`; at most 300 s.
    pub leeway: Duration,
}

impl IssuerSettings {
    /// Whether the keys of this issuer are good for `other`: fetched from the same place, in the same way, under the same
    /// name, and none left out that `other` has an algorithm for. What else a reload changes, a leeway say, must not cost
    /// an issuer its keys while its provider is down. An algorithm that it takes away need not either: that is held
    /// against each token too.
    pub(crate) fn has_keys_as(&self, other: &IssuerSettings) -> bool {
        self.name == other.name
            && self.issuer == other.issuer
            && self.keys == other.keys
            && self.key_hosts == other.key_hosts
            && self.key_age_max == other.key_age_max
            && self.outbound == other.outbound
            && (self.algorithms == other.algorithms
                || matches!(self.keys, KeyOrigin::Discovery { .. })
                    && other.algorithms.iter().all(|algorithm| self.algorithms.contains(algorithm)))
    }
}

/// How a provider or a directory may be asked over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundSettings {
    /// Allows `http://` and private addresses, for a provider on loopback.
    pub insecure: bool,
    /// Whose certificates count, in place of the system's roots.
    pub roots: Option<Roots>,
    /// Through which everything goes. None is ever taken from the environment.
    pub proxy: Option<ProxySettings>,
}

/// An HTTP proxy (RFC 9110, section 9.3.6: it is sent CONNECT for https, and the request itself for http).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// `http` or `https`, a host and a port; no credentials.
    pub url: Url,
    /// User name and password, for HTTP Basic.
    pub credentials: Option<(String, Secret)>,
}

/// Certificates of authorities, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Roots(Arc<[CertificateDer<'static>]>);

impl Roots {
    /// Reads all certificates of a PEM text (RFC 7468), passing over what else is in it. Each must be one that TLS can
    /// start from.
    pub fn parse(pem: &[u8]) -> Result<Roots, RootsError> {
        let mut read: Vec<CertificateDer<'static>> = Vec::new();
        let mut store = rustls::RootCertStore::empty();
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(|error| RootsError::Pem(error.to_string()))?;
            store.add(certificate.clone()).map_err(|source| RootsError::Certificate { number: index + 1, source })?;
            read.push(certificate);
        }
        if read.is_empty() { Err(RootsError::None) } else { Ok(Roots(read.into())) }
    }

    /// Each in DER.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roots({} certificates)", self.0.len())
    }
}

/// Why a text gives no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// There is no certificate in it.
    #[error("there is no certificate in it")]
    None,
    /// Not PEM.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// One that nothing can be verified with.
    #[error("certificate {number} in it is of no use: {source}")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
}

/// How an issuer is asked about its opaque tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// Who we are to the issuer.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// Where that stands in the request.
    pub auth: ClientAuth,
    /// The issuer as a URL, for what is discovered.
    pub issuer_url: Url,
    /// The introspection endpoint; by discovery where `None`.
    pub endpoint: Option<Url>,
    /// Who is asked for groups where the introspection's answer has none.
    pub userinfo: Userinfo,
    /// No answer is believed longer than this, whatever its `exp`.
    pub age_max: Duration,
    /// How the issuer's tokens begin. A token names no issuer, and must not be shown to anybody else's.
    pub prefix: String,
}

/// How a client proves itself to an endpoint (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `Authorization: Basic`.
    #[default]
    Basic,
    /// In the form.
    Post,
}

impl ClientAuth {
    /// All of them, with the names of OpenID Connect Core 1.0, section 9.
    pub const NAMES: [(&'static str, ClientAuth); 2] =
        [("client_secret_basic", ClientAuth::Basic), ("client_secret_post", ClientAuth::Post)];
}

/// An issuer's userinfo endpoint (OpenID Connect Core 1.0, section 5.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Userinfo {
    /// Not asked.
    #[default]
    Off,
    /// Where discovery says that it is.
    Discovered,
    /// There.
    At(Url),
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
    /// Nowhere: none of its tokens is a JWT.
    None,
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

    /// The algorithm of exactly that name; case counts (RFC 7515, section 4.1.1). `Ed25519` is what RFC 9864, section 2.2,
    /// calls the one kind of `EdDSA` that there are keys of here.
    pub fn parse(name: &str) -> Option<Algorithm> {
        if name == "Ed25519" {
            return Some(Algorithm::EdDSA);
        }
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

/// What stands between the names where a claim has several groups in one string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupSeparator {
    /// Nothing: a string is one name, whatever is in it.
    #[default]
    None,
    /// A comma; blanks around a name do not count.
    Comma,
    /// A space, or several.
    Space,
}

impl GroupSeparator {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, GroupSeparator); 3] =
        [("none", GroupSeparator::None), ("comma", GroupSeparator::Comma), ("space", GroupSeparator::Space)];
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
    /// None: its tokens are opaque.
    Opaque,
}

impl TokenUse {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, TokenUse); 3] =
        [("access", TokenUse::Access), ("id", TokenUse::Id), ("opaque", TokenUse::Opaque)];
}

/// Which claims say what. Where several paths are given the first that leads to a value counts, but for groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMap {
    /// Identity's `user`. A token without it is refused.
    pub user: ClaimPath,
    /// Group names, of all these places together: see [`GroupForm`].
    pub groups: Vec<ClaimPattern>,
    /// What stands between group names in one string.
    pub groups_separator: GroupSeparator,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_whole_certificates_or_an_error() {
        let good = std::fs::read_to_string("tests/config/good/ca.pem").unwrap();
        let roots = Roots::parse(format!("an authority\n{good}{good}").as_bytes()).unwrap();
        assert_eq!((roots.certificates().count(), &*format!("{roots:?}")), (2, "Roots(2 certificates)"));
        let cut = good.replace("-----END", "AAAA\n-----EN");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, expected) in [
            ("", "no certificate"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate"),
            (&cut, "not PEM"),
            (nonsense, "certificate 1"),
            (&format!("{good}{nonsense}"), "certificate 2"),
        ] {
            let error = Roots::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

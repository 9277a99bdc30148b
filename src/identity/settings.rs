//! What an issuer is allowed to prove, as checked by `config`.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

/// Everything `identity` needs to know, besides the groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The issuers, in the config's order.
    pub issuers: Vec<IssuerSettings>,
    /// The verified-token cache.
    pub cache: CacheSettings,
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
    /// Acceptable audiences, any of. Never empty.
    pub audiences: Vec<String>,
    /// Where its keys come from.
    pub keys: KeyOrigin,
    /// Allows `http://` and private addresses, for a provider on loopback.
    pub insecure: bool,
    /// Signature algorithms that may be used at all.
    pub algorithms: Vec<Algorithm>,
    /// Which claims say what.
    pub claims: ClaimMap,
    /// Claims that must equal a value (`hd: acme.example`).
    pub require: Vec<(ClaimPath, serde_json::Value)>,
    /// Clock skew allowed at `exp`, `nbf` and `iat`; at most 300 s.
    pub leeway: Duration,
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

/// A way into the claims, one member name a step: `realm_access.roles`, `cognito:groups`.
///
/// As written in a config, dots separate steps; a claim whose own name holds a dot or a slash (`https://x.example/roles`)
/// is written in double quotes: `"\"https://x.example/roles\""`. A path that begins with `http://` or `https://` is one
/// step as it stands, since no provider nests below a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Parses the config's notation; `None` where a step is empty or a quote is not closed.
    pub fn parse(text: &str) -> Option<ClaimPath> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Some(ClaimPath(vec![text.to_owned()]));
        }
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let (step, after) = if let Some(quoted) = rest.strip_prefix('"') {
                let (step, after) = quoted.split_once('"')?;
                (step, after)
            } else {
                rest.split_at(rest.find('.').unwrap_or(rest.len()))
            };
            if step.is_empty() {
                return None;
            }
            steps.push(step.to_owned());
            match after.strip_prefix('.') {
                Some(more) => rest = more,
                None if after.is_empty() => return Some(ClaimPath(steps)),
                None => return None,
            }
        }
    }

    /// The value it leads to, `None` where a step is missing or is not an object.
    pub fn find<'a>(&self, claims: &'a serde_json::Map<String, serde_json::Value>) -> Option<&'a serde_json::Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, step| value.as_object()?.get(step))
    }

    /// The steps.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(step)?;
        }
        Ok(())
    }
}

/// Which claims say what. Where several paths are given the first that leads to a value counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMap {
    /// Identity's `user`. A token without it is refused.
    pub user: ClaimPath,
    /// Group names: an array of strings, or one string with names separated by spaces or commas.
    pub groups: Vec<ClaimPath>,
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
    fn claim_paths_read_as_written() {
        for (text, steps) in [
            ("sub", Some(vec!["sub"])),
            ("realm_access.roles", Some(vec!["realm_access", "roles"])),
            ("cognito:groups", Some(vec!["cognito:groups"])),
            ("https://corp.example/roles", Some(vec!["https://corp.example/roles"])),
            ("resource_access.\"my.client\".roles", Some(vec!["resource_access", "my.client", "roles"])),
            ("", None),
            ("a..b", None),
            ("a.", None),
            ("\"a", None),
            ("\"a\"b", None),
        ] {
            let read = ClaimPath::parse(text);
            let read = read.as_ref().map(|path| path.steps().iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(read, steps, "{text}");
        }
    }
}

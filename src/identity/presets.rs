//! What is known about the tokens of well-known providers, as defaults that a config can overrule.

use serde_json::Value;

use super::settings::{ClaimMap, ClaimPath, ClaimPattern, GroupSeparator, TokenUse};

/// Defaults for one kind of provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Which claims say what.
    pub claims: ClaimMap,
    /// Claims that must equal a value.
    pub require: Vec<(ClaimPath, Value)>,
    /// Which of its JWTs are taken.
    pub tokens: TokenUse,
    /// Whether an access token must say that it is one.
    pub access_must_show: bool,
    /// Other values of `iss`: each goes with the issuer that stands before it, and with no other.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Hosts where the provider keeps its key sets, besides the issuer's own.
    pub key_hosts: Vec<String>,
}

/// The preset of that name, `None` where there is none.
pub fn preset(name: &str) -> Option<Preset> {
    let row = ROWS.iter().find(|row| row.name == name)?;
    // One table, one test that parses every path of it: a preset cannot be half there.
    let one = |path: &str| ClaimPath::parse(path);
    let many = |paths: &[&str]| paths.iter().map(|path| one(path)).collect::<Option<Vec<_>>>();
    Some(Preset {
        claims: ClaimMap {
            user: one(row.user)?,
            groups: row.groups.iter().map(|path| ClaimPattern::parse(path)).collect::<Option<Vec<_>>>()?,
            // None of them documents several groups in one string.
            groups_separator: GroupSeparator::None,
            scopes: many(row.scopes)?,
            email: one("email")?,
            name: one("name")?,
            client_id: many(row.client_id)?,
            audience: many(row.audience)?,
        },
        require: row
            .require
            .iter()
            .map(|(path, value)| Some((one(path)?, Value::from(*value))))
            .collect::<Option<Vec<_>>>()?,
        tokens: row.tokens,
        access_must_show: row.access_must_show,
        aliases: row.aliases,
        key_hosts: row.key_hosts.iter().map(|host| (*host).to_owned()).collect(),
    })
}

/// The names [`preset`] knows, in the order of the documentation.
pub const PRESET_NAMES: [&str; 7] = ["generic", "okta", "google", "entra", "keycloak", "auth0", "cognito"];

struct Row {
    name: &'static str,
    user: &'static str,
    groups: &'static [&'static str],
    scopes: &'static [&'static str],
    client_id: &'static [&'static str],
    audience: &'static [&'static str],
    require: &'static [(&'static str, &'static str)],
    tokens: TokenUse,
    access_must_show: bool,
    aliases: &'static [(&'static str, &'static str)],
    key_hosts: &'static [&'static str],
}

/// RFC 7519 and RFC 9068 names, and the ones several providers share.
const GENERIC: Row = Row {
    name: "generic",
    user: "sub",
    groups: &["groups"],
    scopes: &["scope", "scp"],
    client_id: &["azp", "client_id", "cid", "appid"],
    audience: &["aud"],
    require: &[],
    tokens: TokenUse::Access,
    access_must_show: false,
    aliases: &[],
    key_hosts: &[],
};

const ROWS: [Row; 7] = [
    GENERIC,
    // A custom authorization server: `sub` is the login name in access tokens.
    Row { name: "okta", scopes: &["scp"], client_id: &["cid"], ..GENERIC },
    // Access tokens are opaque, so these are ID tokens. There is no groups claim at all; restrict the domain with
    // `require: { hd: … }`. A token whose address is not verified has no user.
    // Keys are not on the issuer's host.
    Row {
        name: "google",
        user: "email",
        groups: &[],
        scopes: &[],
        client_id: &["azp"],
        tokens: TokenUse::Id,
        aliases: &[("https://accounts.google.com", "accounts.google.com")],
        key_hosts: &["www.googleapis.com"],
        ..GENERIC
    },
    // `oid` is the one name of a user that never changes and is the same for every application: `sub` differs by
    // application, and `preferred_username` can be given to somebody else. Groups are GUIDs; `appid` is of version 1,
    // whose issuer `sts.windows.net` has its keys with the others. ID tokens have the same issuer, and the same audience
    // where a client is its own API, and nothing in them says what they are.
    Row {
        name: "entra",
        user: "oid",
        groups: &["groups", "roles"],
        scopes: &["scp"],
        client_id: &["azp", "appid"],
        access_must_show: true,
        key_hosts: &["login.microsoftonline.com", "login.windows.net"],
        ..GENERIC
    },
    // Roles of a client are named `CLIENT:ROLE`; `groups` is there by a mapper, as `/full/path`.
    Row {
        name: "keycloak",
        user: "preferred_username",
        groups: &["groups", "realm_access.roles", "resource_access.*.roles"],
        scopes: &["scope"],
        client_id: &["azp"],
        ..GENERIC
    },
    // Roles come in a claim of the tenant's own naming (`https://corp.example/roles`), so there is no default for
    // groups. `permissions` is what the API's access control granted; `scopes: permissions` makes rules see it.
    Row { name: "auth0", groups: &[], scopes: &["scope"], client_id: &["azp", "client_id"], ..GENERIC },
    // Access tokens have `client_id` where others have `aud`; ID tokens are not for APIs.
    Row {
        name: "cognito",
        user: "username",
        groups: &["cognito:groups"],
        scopes: &["scope"],
        client_id: &["client_id"],
        audience: &["aud", "client_id"],
        require: &[("token_use", "access")],
        ..GENERIC
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_whole_preset() {
        assert_eq!(ROWS.map(|row| row.name), PRESET_NAMES);
        for name in PRESET_NAMES {
            let preset = preset(name).unwrap_or_else(|| panic!("{name} has a path that does not parse"));
            assert!(!preset.claims.audience.is_empty(), "{name}");
        }
        assert_eq!(preset("Generic"), None);
    }
}

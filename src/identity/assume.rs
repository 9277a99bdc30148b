//! Identities without a token, for the policy tests that a config holds.
//!
//! The claims go through the same reading as a verified token's, so that a test sees what a token of that shape would
//! bring. No request is ever decided on one.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::settings::{ClaimPath, ClaimPattern, IssuerSettings};
use super::{CredentialKind, GroupSet, Groups, Identity, Rejection, claims};
use crate::clock::Now;
use crate::trace::Trace;

/// What a made-up token says, beyond what every token of its issuer must.
#[derive(Clone, Debug, Default)]
pub struct Assumed {
    /// The user; `sub` too. Somebody where `None`.
    pub user: Option<String>,
    /// Groups as the issuer writes them.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// Further claims, over everything else.
    pub claims: Vec<(String, Value)>,
}

/// The identity that a token of `issuer` with these claims would bring.
pub(super) fn assume(
    assumed: &Assumed,
    issuer: &IssuerSettings,
    groups: &Groups,
    now: Now,
) -> Result<Arc<Identity>, Rejection> {
    let mut token = Map::new();
    let user = Value::from(assumed.user.as_deref().unwrap_or("somebody"));
    token.insert("iss".to_owned(), issuer.issuer.as_str().into());
    token.insert("sub".to_owned(), user.clone());
    token.insert("exp".to_owned(), now.unix_s().saturating_add(60).into());
    for (path, value) in &issuer.require {
        put(&mut token, path, value.clone());
    }
    if let Some(path) = issuer.claims.audience.first() {
        put(&mut token, path, issuer.audiences.clone().into());
    }
    put(&mut token, &issuer.claims.user, user);
    if let Some(path) = issuer.claims.groups.iter().find_map(ClaimPattern::as_path) {
        put(&mut token, &path, assumed.groups.clone().into());
    }
    if let Some(path) = issuer.claims.scopes.first() {
        put(&mut token, path, assumed.scopes.clone().into());
    }
    for (name, value) in &assumed.claims {
        token.insert(name.clone(), value.clone());
    }
    claims::check(token, issuer, groups, now, &mut Trace::off()).map(Arc::new)
}

/// The identity that a key of a file, or a certificate, with these groups would bring. Neither has claims of its own to
/// get wrong.
pub(super) fn assume_of(
    assumed: &Assumed,
    credential: CredentialKind,
    name: &Arc<str>,
    groups: &Groups,
) -> Arc<Identity> {
    let user = assumed.user.as_deref().unwrap_or("somebody");
    let mut set = GroupSet::default();
    for id in assumed.groups.iter().flat_map(|group| groups.of(name, group)) {
        set.insert(*id);
    }
    Arc::new(Identity {
        credential,
        issuer_name: Arc::clone(name),
        issuer: name.to_string(),
        user: user.to_owned(),
        subject: user.to_owned(),
        groups_joined: groups.join(&set),
        groups: set,
        scopes: assumed.scopes.clone(),
        claims: assumed.claims.iter().cloned().collect(),
        ..Identity::anonymous()
    })
}

fn put(claims: &mut Map<String, Value>, path: &ClaimPath, value: Value) {
    let Some((last, parents)) = path.steps().split_last() else { return };
    let mut place = claims;
    for step in parents {
        let next = place.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(next) = next else { return };
        place = next;
    }
    place.insert(last.clone(), value);
}

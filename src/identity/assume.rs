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

/// Who somebody was, as a log says.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What they showed.
    pub credential: CredentialKind,
    /// The config's name of the issuer.
    pub issuer: Arc<str>,
    /// The user.
    pub user: String,
    /// `sub`.
    pub subject: String,
    /// The client.
    pub client_id: String,
    /// Policy groups by their names; those that the config does not have are left out.
    pub groups: Vec<String>,
    /// Whether that is all of them.
    pub groups_known: bool,
    /// Scopes.
    pub scopes: Vec<String>,
}

impl Recorded {
    /// The identity that they had, but for the claims, which no log holds. No request is ever decided on one.
    pub fn identity(self, groups: &Groups) -> Arc<Identity> {
        let mut set = GroupSet::default();
        self.groups.iter().filter_map(|name| groups.id(name)).for_each(|id| set.insert(id));
        Arc::new(Identity {
            credential: self.credential,
            issuer: self.issuer.to_string(),
            issuer_name: self.issuer,
            user: self.user,
            subject: self.subject,
            client_id: self.client_id,
            groups_joined: groups.join(&set),
            groups: set,
            groups_known: self.groups_known,
            scopes: self.scopes,
            ..Identity::anonymous()
        })
    }
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

//! Microsoft Entra ID: Microsoft Graph, asked by an application with its own secret.
//!
//! Where somebody is in too many groups for a token (200), Entra leaves them out and names a place to ask in
//! `_claim_sources`. That place is never asked: it is the word of a token, and would have us show the application's own
//! access token to any host that the word names; it also still leads to a Graph that was switched off. The config says
//! where Graph is, and the token says no more than that there is something to ask for.
//!
//! `transitiveMemberOf` gives nested groups in pages. It is asked without the OData cast to groups: that would be
//! answered from an index that lags behind. What is no group (directory roles, administrative units) is passed over here.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::Url;

use super::super::outbound::{Ask, host_of};
use super::super::settings::OutboundSettings;
use super::api::{Api, Grant};
use super::{Answering, Directory, DirectoryError};
use crate::clock::{Clock, Now};
use crate::secret::Secret;

/// How Microsoft Graph is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct EntraSettings {
    /// The tenant's GUID, or a domain of it.
    pub tenant: String,
    /// The application (`GroupMember.Read.All`, as an application permission).
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// Where Graph is: `https://graph.microsoft.com`.
    pub endpoint: Url,
    /// Where its tokens come from: `https://login.microsoftonline.com`.
    pub login: Url,
    /// How both may be asked over HTTP.
    pub outbound: OutboundSettings,
}

/// The directory.
pub(super) struct Entra {
    api: Api<ClientCredentials>,
    endpoint: Url,
}

struct ClientCredentials {
    token_url: Url,
    client_id: String,
    client_secret: Secret,
    scope: String,
}

impl Entra {
    pub(super) fn new(settings: &EntraSettings) -> Entra {
        let mut token_url = settings.login.clone();
        let base = settings.login.path().trim_end_matches('/');
        token_url.set_path(&format!("{base}/{}/oauth2/v2.0/token", segment(&settings.tenant)));
        let grant = ClientCredentials {
            token_url,
            client_id: settings.client_id.clone(),
            client_secret: settings.client_secret.clone(),
            scope: format!("{}/.default", settings.endpoint.as_str().trim_end_matches('/')),
        };
        Entra { api: Api::new(grant, settings.outbound.clone()), endpoint: settings.endpoint.clone() }
    }

    async fn all(&self, user: &str, clock: &Clock) -> Result<Vec<String>, DirectoryError> {
        let mut url = self.endpoint.clone();
        let base = self.endpoint.path().trim_end_matches('/');
        url.set_path(&format!("{base}/v1.0/users/{}/transitiveMemberOf", segment(user)));
        url.set_query(Some("$select=id&$top=999"));
        let mut groups = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.api.get(url, clock).await?;
            let next = self.read_page(&page, &mut groups)?;
            if groups.len() > GROUPS_MAX {
                return Err(DirectoryError::TooMany { groups_max: GROUPS_MAX });
            }
            match next {
                None => return Ok(groups),
                Some(next) => url = next,
            }
        }
        Err(self.problem("its pages do not end"))
    }

    fn read_page(&self, page: &Map<String, Value>, groups: &mut Vec<String>) -> Result<Option<Url>, DirectoryError> {
        let listed =
            page.get("value").and_then(Value::as_array).ok_or_else(|| self.problem("it has no list `value`"))?;
        for object in listed {
            match (object.get("@odata.type").and_then(Value::as_str), object.get("id").and_then(Value::as_str)) {
                (Some("#microsoft.graph.group"), Some(id)) if is_guid(id) => groups.push(group_name(id)),
                (Some("#microsoft.graph.group"), _) => return Err(self.problem("a group has no GUID as its `id`")),
                (Some(_), _) => {}
                (None, _) => return Err(self.problem("an object does not say what it is")),
            }
        }
        match page.get("@odata.nextLink") {
            None => Ok(None),
            Some(link) => {
                let next = link.as_str().and_then(|link| Url::parse(link).ok());
                let next = next.ok_or_else(|| self.problem("`@odata.nextLink` is no URL"))?;
                // Our token goes with the request.
                if next.origin() != self.endpoint.origin() || !next.username().is_empty() || next.password().is_some() {
                    return Err(self.problem("`@odata.nextLink` leads to another origin, and is not followed"));
                }
                Ok(Some(next))
            }
        }
    }

    fn problem(&self, problem: &'static str) -> DirectoryError {
        DirectoryError::Answer { host: host_of(&self.endpoint), problem }
    }
}

impl Directory for Entra {
    fn groups_of<'a>(&'a self, user: &'a str, clock: &'a Clock) -> Answering<'a> {
        Box::pin(async move {
            // `oid`, or a user principal name. Nothing else is asked for: it stands in a path.
            if !is_guid(user) && !is_principal_name(user) {
                return Err(DirectoryError::NoSuchUser);
            }
            self.all(user, clock).await
        })
    }
}

impl Grant for ClientCredentials {
    fn ask(&self, _: Now) -> Result<Ask, DirectoryError> {
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose()),
            ("scope", &self.scope),
        ];
        Ok(Ask::form(self.token_url.clone(), &fields, TOKEN_ANSWER_BYTES_MAX))
    }

    fn host(&self) -> String {
        host_of(&self.token_url)
    }
}

/// In lower case, as tokens have them.
pub(super) fn group_name(id: &str) -> String {
    id.to_ascii_lowercase()
}

/// Whether it is a GUID with its hyphens, in either case.
pub(super) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether it could be a user principal name: the characters that Entra allows, and one `@`, before which guests have
/// `#EXT#`.
fn is_principal_name(text: &str) -> bool {
    let Some((name, domain)) = text.split_once('@') else { return false };
    let of_name = |b: u8| b.is_ascii_alphanumeric() || b".-_!#^~'".contains(&b);
    let of_domain = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
    !name.is_empty()
        && !domain.is_empty()
        && text.len() <= 256
        && name.bytes().all(of_name)
        && domain.bytes().all(of_domain)
}

/// As one segment of a path.
fn segment(text: &str) -> String {
    const OTHERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, OTHERS).to_string()
}

/// Entra lets a person be in some thousand groups; 5,000 GUIDs are 180 KiB.
pub(super) const GROUPS_MAX: usize = 5_000;

/// At the least page that Graph documents, 100 objects, 5,000 groups are 50; as many again for what is no group.
const PAGES_MAX: usize = 100;

const TOKEN_ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_entra_can_know_is_asked_for() {
        for (user, expected) in [
            ("11111111-2222-3333-4444-55555555abCD", true),
            ("alice@acme.example", true),
            ("o'brien_x#EXT#@acme.onmicrosoft.com", true),
            ("", false),
            ("alice", false),
            ("..", false),
            ("../groups@acme.example", false),
            ("a/b@acme.example", false),
            ("a@b/..", false),
            ("a@b@c", false),
            ("@acme.example", false),
            ("a@", false),
            ("$batch@acme.example", false),
            ("me", false),
            ("11111111-2222-3333-4444-55555555abc", false),
            ("11111111-2222-3333-4444_55555555abcd", false),
        ] {
            assert_eq!(is_guid(user) || is_principal_name(user), expected, "{user}");
        }
        assert_eq!(segment("o'b#EXT#@x.y"), "o%27b%23EXT%23%40x.y");
    }
}

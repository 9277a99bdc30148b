//! Who may sign in.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::DevIdpError;

/// Someone who may sign in. No `Debug`: it holds a password, if a poor one.
pub(super) struct User {
    /// What is typed into the form; `preferred_username`.
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    /// `sub`: in the shape of a UUID, the same at each start.
    pub(super) subject: String,
    email: String,
    full_name: String,
    password: String,
    /// Further claims, as they are.
    extra: Map<String, Value>,
}

impl User {
    /// What tokens and `/userinfo` say about the user (OpenID Connect Core, section 5.1), with the groups twice: as
    /// most providers name them, and where Keycloak puts them.
    pub(super) fn claims(&self) -> Map<String, Value> {
        let mut claims = self.extra.clone();
        claims.insert("sub".into(), self.subject.clone().into());
        claims.insert("preferred_username".into(), self.name.clone().into());
        claims.insert("name".into(), self.full_name.clone().into());
        claims.insert("email".into(), self.email.clone().into());
        claims.insert("email_verified".into(), true.into());
        claims.insert("groups".into(), self.groups.clone().into());
        claims.insert("realm_access".into(), serde_json::json!({ "roles": self.groups }));
        claims
    }
}

/// All of them, in the file's order. Never empty.
pub(super) struct Users(Vec<Arc<User>>);

impl Users {
    /// alice, bob and carol; each one's password is the name.
    pub(super) fn demo() -> Users {
        let user = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|&group| group.to_owned()).collect();
            Arc::new(UserAsWritten { groups, ..UserAsWritten::named(name) }.fill())
        };
        Users(vec![user("alice", &["platform-ops", "plan-pro"]), user("bob", &["plan-pro"]), user("carol", &[])])
    }

    /// Reads a file of the shape `users: [{ name, password, groups, email, full_name, sub, claims }]`, of which only
    /// `name` is needed; the password is then the name too.
    pub(super) fn from_file(path: PathBuf) -> Result<Users, DevIdpError> {
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Ok(len) if len as u64 > FILE_BYTES_MAX => {
                let what = format!("it is larger than {FILE_BYTES_MAX} bytes");
                return Err(DevIdpError::UsersUnusable { path, what });
            }
            Ok(_) => {}
            Err(source) => return Err(DevIdpError::UsersUnreadable { path, source }),
        }
        let file: FileAsWritten = match serde_saphyr::from_str(&text) {
            Ok(file) => file,
            Err(source) => return Err(DevIdpError::UsersMalformed { path, source: Box::new(source) }),
        };
        let users: Vec<_> = file.users.into_iter().map(|user| Arc::new(user.fill())).collect();
        let (mut names, mut subjects) = (HashSet::new(), HashSet::new());
        let fault = if users.is_empty() {
            Some("users: is empty, expected at least one".to_owned())
        } else {
            users.iter().find_map(|user| {
                if user.name.is_empty() {
                    Some("a user's name is empty".to_owned())
                } else if !names.insert(&user.name) {
                    Some(format!("the user {} is there twice", user.name))
                } else if !subjects.insert(&user.subject) {
                    Some(format!("the sub of user {} is another user's too", user.name))
                } else {
                    None
                }
            })
        };
        match fault {
            Some(what) => Err(DevIdpError::UsersUnusable { path, what }),
            None => Ok(Users(users)),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<User>> {
        self.0.iter()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Arc<User>> {
        self.0.iter().find(|user| user.name == name)
    }

    pub(super) fn with_subject(&self, subject: &str) -> Option<&Arc<User>> {
        self.0.iter().find(|user| user.subject == subject)
    }

    /// The user, if the password is right. Compared plainly: it is written on the page.
    pub(super) fn sign_in(&self, name: &str, password: &str) -> Option<&Arc<User>> {
        self.named(name).filter(|user| user.password == password)
    }

    /// The names, for a message that says what could have been asked for.
    pub(super) fn names(&self) -> String {
        self.0.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAsWritten {
    users: Vec<UserAsWritten>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserAsWritten {
    name: String,
    password: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    email: Option<String>,
    full_name: Option<String>,
    sub: Option<String>,
    #[serde(default)]
    claims: Map<String, Value>,
}

impl UserAsWritten {
    fn named(name: &str) -> UserAsWritten {
        UserAsWritten {
            name: name.to_owned(),
            password: None,
            groups: Vec::new(),
            email: None,
            full_name: None,
            sub: None,
            claims: Map::new(),
        }
    }

    fn fill(self) -> User {
        let UserAsWritten { name, password, groups, email, full_name, sub, claims } = self;
        User {
            password: password.unwrap_or_else(|| name.clone()),
            email: email.unwrap_or_else(|| format!("{name}@acme.example")),
            full_name: full_name.unwrap_or_else(|| {
                let mut letters = name.chars();
                letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
            }),
            subject: sub.unwrap_or_else(|| stable_uuid(&name)),
            groups,
            extra: claims,
            name,
        }
    }
}

/// A UUID of version 8 (RFC 9562, section 5.8): our own bits, here a hash of the name.
fn stable_uuid(name: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("tollgate dev-idp user {name}").as_bytes());
    let mut bits = hash.as_ref().iter().take(16).fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
    bits = bits & !(0xf << 76) | 8 << 76; // version
    bits = bits & !(0b11 << 62) | 0b10 << 62; // variant
    let hex = format!("{bits:032x}");
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default()).join("-")
}

/// A thousand users of a kilobyte.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Users, DevIdpError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Users::from_file(file.path().to_owned())
    }

    #[test]
    fn a_file_replaces_the_demo_users_and_fills_in_what_it_leaves_out() {
        let users = read(
            "users:\n\
             - { name: dora, groups: [eng], claims: { tid: t-1, level: 3 } }\n\
             - { name: emil, password: geheim, sub: '42', email: e@x.example, full_name: Emil E }\n",
        )
        .unwrap();
        assert_eq!(users.names(), "dora, emil");
        assert!(users.sign_in("dora", "dora").is_some());
        assert!(users.sign_in("emil", "emil").is_none());
        assert!(users.sign_in("emil", "geheim").is_some());
        let dora = Value::Object(users.named("dora").unwrap().claims());
        assert_eq!(
            dora,
            serde_json::json!({
                "sub": stable_uuid("dora"), "preferred_username": "dora", "name": "Dora", "email": "dora@acme.example",
                "email_verified": true, "groups": ["eng"], "realm_access": { "roles": ["eng"] },
                "tid": "t-1", "level": 3
            })
        );
        assert_eq!(users.with_subject("42").unwrap().claims().get("email").unwrap(), "e@x.example");
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_with_the_reason() {
        for (text, reason) in [
            ("users: []", "empty"),
            ("users: [{ name: '' }]", "name is empty"),
            ("users: [{ name: a }, { name: a }]", "a is there twice"),
            ("users: [{ name: a, sub: s }, { name: b, sub: s }]", "sub of user b"),
            ("users: [{ name: a, group: [x] }]", "not a list of users"),
            ("[", "not a list of users"),
        ] {
            let error = read(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn subjects_look_like_uuids_differ_and_stay() {
        let alice = stable_uuid("alice");
        assert_ne!(alice, stable_uuid("bob"));
        assert_eq!(alice, stable_uuid("alice"));
        assert_eq!(alice.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(alice.chars().nth(14), Some('8'), "version");
        assert!(alice.chars().nth(19).is_some_and(|c| "89ab".contains(c)), "variant");
    }
}

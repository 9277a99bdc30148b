//! A name and a password (RFC 7617), and the directory that knows whether they belong together.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::ldap::{Basic, LdapError, Person};
use super::wait::{Answer, Answered, Wait};
use super::{CredentialKind, GroupSet, Groups, Identity, Rejection};
use crate::clock::Now;
use crate::secret::Secret;

/// One directory, as somebody who can say who has a password.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    /// The config's name of the directory.
    name: Arc<str>,
    basic: Basic,
    groups: Arc<Groups>,
}

impl Passwords {
    pub(crate) fn new(name: Arc<str>, basic: Basic, groups: Arc<Groups>) -> Passwords {
        Passwords { name, basic, groups }
    }

    /// The directory's settings, and what it said lately.
    pub(crate) fn basic(&self) -> &Basic {
        &self.basic
    }

    /// What the directory said about this name and password lately; `None` where it must be asked.
    pub(crate) fn find(
        &self,
        (user, password): &(Zeroizing<String>, Secret),
        now: Now,
    ) -> Option<Result<Arc<Identity>, Rejection>> {
        let verdict = self.basic.find(user, password, now)?;
        Some(self.identity(verdict))
    }

    /// Asks the directory, once for all who wait for the same.
    pub(crate) fn ask(&self, (user, password): (Zeroizing<String>, Secret), source: Option<IpAddr>, now: Now) -> Wait {
        let passwords = self.clone();
        Wait::new(async move {
            let verdict = passwords.basic.authenticate(&user, &password, source, now).await;
            Answer(Answered::Identity(passwords.identity(verdict)))
        })
    }

    fn identity(&self, verdict: Result<Arc<Person>, LdapError>) -> Result<Arc<Identity>, Rejection> {
        let person = verdict.map_err(|error| {
            // The directory's own module logs what fails, once an episode.
            if error.is_refusal() { Rejection::PasswordRefused } else { Rejection::DirectoryUnavailable }
        })?;
        let mut groups = GroupSet::default();
        for id in person.groups.iter().flat_map(|group| self.groups.of(&self.name, group)) {
            groups.insert(*id);
        }
        Ok(Arc::new(Identity {
            credential: CredentialKind::Basic,
            issuer_name: Arc::clone(&self.name),
            issuer: self.name.to_string(),
            user: person.user.clone(),
            subject: person.user.clone(),
            email: person.email.clone(),
            name: person.name.clone(),
            groups_joined: self.groups.join(&groups),
            groups,
            groups_known: true,
            // The directory's word ends with its cache, not with a time of its own.
            expires_at_s: i64::MAX,
            ..Identity::default()
        }))
    }
}

/// Reads `user-id:password` in base64 (RFC 7617, section 2): UTF-8, split at the first colon, without control characters.
pub(crate) fn read(encoded: &str) -> Result<(Zeroizing<String>, Secret), Rejection> {
    let octets = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| Rejection::CredentialMalformed)?);
    let pair = std::str::from_utf8(&octets).map_err(|_| Rejection::CredentialMalformed)?;
    let (user, password) = pair.split_once(':').ok_or(Rejection::CredentialMalformed)?;
    if user.is_empty() || pair.chars().any(char::is_control) {
        return Err(Rejection::CredentialMalformed);
    }
    Ok((Zeroizing::new(user.to_owned()), Secret::new(password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_read_in_one_spelling() {
        for (pair, expected) in [
            ("Aladdin:open sesame", Some(("Aladdin", "open sesame"))),
            ("a:b:c", Some(("a", "b:c"))),
            ("a:", Some(("a", ""))),
            ("test:123\u{a3}", Some(("test", "123\u{a3}"))),
            (":b", None),
            ("ab", None),
            ("", None),
            ("a:b\n", None),
            ("a\0:b", None),
        ] {
            let read = read(&STANDARD.encode(pair));
            let read = read.as_ref().ok().map(|(user, password)| (user.as_str(), password.expose()));
            assert_eq!(read, expected, "{pair:?}");
        }
        // RFC 7617, section 2.
        assert!(read("QWxhZGRpbjpvcGVuIHNlc2FtZQ==").is_ok());
        for encoded in ["QWxhZGRpbjpvcGVuIHNlc2FtZQ", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=", "gICAOoCA", "-_-_"] {
            assert_eq!(read(encoded).err(), Some(Rejection::CredentialMalformed), "{encoded}");
        }
    }
}

//! Groups of people in an LDAP directory, looked up with its search account.

use std::sync::Arc;

use super::super::ldap::{Ldap, LdapError, LdapSettings, Refusal};
use super::{Answering, Directory, DirectoryError};
use crate::clock::Clock;

/// The directory, or why it can never be asked.
pub(super) struct LdapGroups(Result<Arc<Ldap>, LdapError>);

impl LdapGroups {
    /// Loads certificates, and blocks while it does.
    pub(super) fn new(settings: &LdapSettings) -> LdapGroups {
        LdapGroups(Ldap::new(settings.clone()).map(Arc::new))
    }
}

impl Directory for LdapGroups {
    fn groups_of<'a>(&'a self, user: &'a str, clock: &'a Clock) -> Answering<'a> {
        Box::pin(async move {
            let ldap = self.0.as_ref().map_err(|error| DirectoryError::Ldap(error.clone()))?;
            ldap.groups_of(user, clock.now()).await.map_err(|error| match error {
                LdapError::Refused(Refusal::UnknownUser) => DirectoryError::NoSuchUser,
                LdapError::TooManyGroups { groups_max } => DirectoryError::TooMany { groups_max },
                error => DirectoryError::Ldap(error),
            })
        })
    }
}

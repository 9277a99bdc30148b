//! What of a config HAProxy must fit.

use std::path::Path;

use super::Config;
use crate::haproxy::{Backends, Site, SiteError};

impl Config {
    /// What `tollgate haproxy` writes for. `file` is where the config is from; its name goes into the files.
    pub fn haproxy_site(&self, file: &Path) -> Result<Site, SiteError> {
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        let backends = Backends::of(self.policy.rules().iter().map(|rule| rule.backend.as_ref()));
        let sticky = self.policy.rules().iter().any(|rule| !rule.sticky.is_empty());
        let site = Site::new(&name, &self.spop.listen, self.spop.deadline, backends)?.sticking(sticky);
        Ok(site.telling(self.policy.ratelimit_fields))
    }
}

//! What of a config HAProxy must fit.

use std::path::Path;
use std::sync::Arc;

use super::Config;
use crate::haproxy::{Backends, Site, SiteError};
use crate::policy::charge::Cost;

impl Config {
    /// What `tollgate haproxy` writes for. `file` is where the config is from; its name goes into the files.
    pub fn haproxy_site(&self, file: &Path) -> Result<Site, SiteError> {
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        let backends = Backends::of(self.policy.rules().iter().map(|rule| rule.backend.as_ref()));
        let sticky = self.policy.rules().iter().any(|rule| !rule.sticky.is_empty());
        let limits = self.policy.rules().iter().flat_map(|rule| &rule.limits);
        let costs = limits.filter_map(|limit| match &limit.cost {
            Cost::Response { header, .. } => Some(Arc::clone(header)),
            Cost::Fixed(_) => None,
        });
        let site = Site::new(&name, &self.spop.listen, self.spop.deadline, backends)?;
        Ok(site.sticking(sticky).charging(costs.collect()).telling(self.policy.ratelimit_fields))
    }
}

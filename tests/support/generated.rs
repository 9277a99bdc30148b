//! Files as `tollgate haproxy` writes them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tollgate::config;
use tollgate::haproxy::{self, Files, Line};

use super::{folder, root};

/// Both files in a folder, which goes with the value.
pub struct Generated {
    pub cfg: PathBuf,
    _folder: TempDir,
}

/// Writes the files for a config; relative files in it are taken from `haproxy/`.
pub fn generate(settings: &str, line: &str) -> Generated {
    generate_at(settings, &root().join("haproxy/tollgate.yaml"), line)
}

/// The same for a config from `path`.
pub fn generate_at(settings: &str, path: &Path, line: &str) -> Generated {
    let config = config::parse(settings, path).unwrap_or_else(|errors| panic!("{errors}"));
    let site = config.haproxy_site(path).unwrap_or_else(|error| panic!("{error}"));
    let files = haproxy::render(&site, Line::of(line).unwrap());
    let folder = folder();
    let cfg = folder.path().join(Files::CFG);
    std::fs::write(&cfg, files.cfg).unwrap();
    std::fs::write(folder.path().join(Files::SPOE), files.spoe).unwrap();
    Generated { cfg, _folder: folder }
}

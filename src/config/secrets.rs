//! Places of secrets: read here, and never repeated in a message.

use std::path::{Path, PathBuf};

use super::read::At;
use crate::secret::{Secret, SecretSource};

/// Reads the secret that a value points at. What stands there instead of a place may be the secret itself, so it is
/// not shown.
pub(super) fn read(at: &At<'_>, directory: &Path) -> Option<(SecretSource, Secret)> {
    let Some(source) = at.as_text().and_then(|text| place(text, directory)) else {
        at.refuse_unshown("a secret is never written into the config", "`file:PATH` or `env:NAME`");
        return None;
    };
    if let SecretSource::File(path) = &source {
        at.depends_on(path);
    }
    match source.read() {
        Ok(secret) => Some((source, secret)),
        Err(error) => {
            at.refuse(chain(&error), "");
            None
        }
    }
}

/// The place that `text` names, a relative file being taken from the config's directory.
pub(super) fn place(text: &str, directory: &Path) -> Option<SecretSource> {
    Some(match SecretSource::parse(text)? {
        SecretSource::File(path) => SecretSource::File(directory.join(path)),
        env => env,
    })
}

/// The place as it can be written into a config anywhere else.
pub(super) fn show(source: &SecretSource) -> String {
    match source {
        SecretSource::File(path) => SecretSource::File(absolute(path)).to_string(),
        env => env.to_string(),
    }
}

/// The path from the root, or as it is where there is no working directory.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

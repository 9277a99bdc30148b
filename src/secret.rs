//! A value that must not be seen: read from a file or the environment, redacted in `Debug`, zeroed on drop.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// Where a secret is written down. A config names the place, never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// `file:PATH`; one trailing newline is not part of the secret.
    File(PathBuf),
    /// `env:NAME`.
    Env(String),
}

impl SecretSource {
    /// Parses `file:…` or `env:…`; `None` for anything else.
    pub fn parse(text: &str) -> Option<SecretSource> {
        if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            return Some(SecretSource::File(PathBuf::from(path)));
        }
        text.strip_prefix("env:").filter(|name| !name.is_empty()).map(|name| SecretSource::Env(name.to_owned()))
    }

    /// Reads the secret now. A relative path is taken from the process's working directory.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            SecretSource::File(path) => {
                // A bound, so that a wrong path (a disk image, a device) cannot fill memory.
                const BYTES_MAX: u64 = 64 * 1024;
                let unreadable = |source| SecretError::Unreadable { path: path.clone(), source };
                let len = std::fs::metadata(path).map_err(unreadable)?.len();
                if len > BYTES_MAX {
                    return Err(SecretError::TooLarge { path: path.clone(), bytes_max: BYTES_MAX });
                }
                Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?)
            }
            SecretSource::Env(name) => {
                Zeroizing::new(std::env::var(name).map_err(|_| SecretError::NotSet { name: name.clone() })?)
            }
        };
        let value = text.strip_suffix('\n').unwrap_or(&text);
        let value = value.strip_suffix('\r').unwrap_or(value);
        if value.is_empty() {
            return Err(SecretError::Empty { place: self.to_string() });
        }
        Ok(Secret(Zeroizing::new(value.to_owned())))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "file:{}", path.display()),
            SecretSource::Env(name) => write!(f, "env:{name}"),
        }
    }
}

/// A secret in memory. It has no `Display`, its `Debug` says nothing, and its bytes are zeroed when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value that is already in memory, such as the password inside a URL.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(value.into()))
    }

    /// The value itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing or not readable.
    #[error("cannot read the secret file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any secret.
    #[error("the secret file {} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The environment variable is not set, or is not UTF-8.
    #[error("the environment variable {name} is not set")]
    NotSet {
        /// The variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("{place} is empty")]
    Empty {
        /// Where.
        place: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_loses_its_newline_and_debug_says_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let source = SecretSource::parse(&format!("file:{}", file.path().display())).unwrap();
        let secret = source.read().unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn an_inline_value_is_no_source() {
        for text in ["hunter2", "file:", "env:", ""] {
            assert_eq!(SecretSource::parse(text), None, "{text}");
        }
    }
}

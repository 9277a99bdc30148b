//! HAProxy's side of a policy: a whole `haproxy.cfg` and `spoe-tollgate.conf`, for one line of HAProxy.
//!
//! [`Site`] is what of a config matters to HAProxy, checked so that [`render`] cannot fail: the agent's addresses, its
//! deadline, and the `backends` that rules choose from. `cfg` and `spoe` write one file each, from the texts in `text/`,
//! which are the same for everybody, and from what differs; `timeouts` is how one follows from the other, `word` how a text
//! of the policy becomes one word of an HAProxy line, and no more.

mod backends;
mod cfg;
mod site;
mod spoe;
mod timeouts;
mod word;

pub use backends::Backends;
pub use site::{Site, SiteError};

/// The lines of HAProxy that the output is tested with, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// 2.6; its files are good for every later line too.
    V2_6,
    /// 2.8.
    V2_8,
    /// 3.0, the last one with the old engine.
    V3_0,
    /// 3.2.
    V3_2,
    /// 3.4.
    V3_4,
}

impl Line {
    /// All of them, the oldest first.
    pub const ALL: [Line; 5] = [Line::V2_6, Line::V2_8, Line::V3_0, Line::V3_2, Line::V3_4];

    /// As HAProxy calls it: `2.6`.
    pub const fn name(self) -> &'static str {
        match self {
            Line::V2_6 => "2.6",
            Line::V2_8 => "2.8",
            Line::V3_0 => "3.0",
            Line::V3_2 => "3.2",
            Line::V3_4 => "3.4",
        }
    }

    /// The line of that name.
    pub fn of(name: &str) -> Option<Line> {
        Line::ALL.into_iter().find(|line| line.name() == name)
    }

    /// Whether its files must do for every later line: what those ignore is in them, with a word about it.
    fn and_later(self) -> bool {
        self == Line::V2_6
    }

    /// Whether SPOE goes over ordinary server connections (`mode spop`, from 3.1 on).
    fn has_mux(self) -> bool {
        self >= Line::V3_2
    }

    /// What stands near the top of both files. Programs read it too.
    fn mark(self) -> String {
        format!("# For HAProxy {}{}.\n", self.name(), if self.and_later() { " and later" } else { "" })
    }
}

/// Both files. Each stands beside the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `haproxy.cfg`.
    pub cfg: String,
    /// `spoe-tollgate.conf`.
    pub spoe: String,
}

impl Files {
    /// The name of `cfg`.
    pub const CFG: &'static str = "haproxy.cfg";
    /// The name of `spoe`, which `cfg` names.
    pub const SPOE: &'static str = "spoe-tollgate.conf";
}

/// Writes both files for `line`.
pub fn render(site: &Site, line: Line) -> Files {
    Files { cfg: cfg::write(site, line), spoe: spoe::write(site, line) }
}

/// How to write them again.
fn origin(site: &Site, line: Line) -> String {
    let (config, name) = (word::comment(&site.config), line.name());
    let argument = word::comment(&word::shell(&site.config));
    format!(
        "# Written from {config}. After a change of it, once more:\n#\n\
         #   tollgate haproxy --config {argument} --for {name} --out .\n"
    )
}

#[cfg(test)]
mod tests;

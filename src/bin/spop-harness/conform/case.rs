//! What a case is: one thing that SPOP, or a HAProxy, wants of an agent.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use super::lab::Lab;

/// One case.
pub struct Case {
    /// `group/what-is-tried`; at most [`NAME_CHARS_MAX`] characters, so that the table keeps its width.
    pub name: String,
    /// Of HAProxy's doc/SPOE.txt.
    pub section: &'static str,
    pub level: Level,
    /// What an agent may do to pass.
    pub expected: String,
    trial: Trial,
}

type Trial = Box<dyn FnOnce(Lab) -> Pin<Box<dyn Future<Output = Seen>>>>;

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The specification.
    Spec,
    /// A stock HAProxy of these versions, which breaks otherwise.
    Haproxy(&'static str),
    /// Prudence; never a failure.
    Advice,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Spec => "spec",
            Level::Haproxy(_) => "haproxy",
            Level::Advice => "advice",
        }
    }
}

/// What was seen; an error where that was not as it should be.
pub type Seen = Result<String, Flaw>;

/// What was seen instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// What nobody may do.
    Failed(String),
    /// What is allowed, or harmless with every HAProxy there is, and still not well done.
    Warned(String),
    /// Nothing: why there was nothing to see.
    Skipped(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Flaw::Failed(seen) | Flaw::Warned(seen) | Flaw::Skipped(seen)) = self;
        f.write_str(seen)
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Flaw {
        Flaw::Failed(error.to_string())
    }
}

/// Fails with what was seen.
pub fn failed<T>(seen: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Failed(seen.into()))
}

/// Warns of what was seen.
pub fn warned<T>(seen: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Warned(seen.into()))
}

/// Says why there is nothing to see.
pub fn skipped<T>(why: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Skipped(why.into()))
}

impl Case {
    /// A case of any level.
    pub fn new<F, T>(name: impl Into<String>, section: &'static str, level: Level, expected: &str, trial: T) -> Case
    where
        F: Future<Output = Seen> + 'static,
        T: FnOnce(Lab) -> F + 'static,
    {
        let name = name.into();
        let trial: Trial = Box::new(move |lab| Box::pin(trial(lab)));
        Case { name, section, level, expected: expected.to_owned(), trial }
    }

    /// Tries it. What an advice finds wrong is a warning; a trial that does not end is a flaw.
    pub async fn run(self, lab: Lab) -> (Seen, &'static str) {
        let bound = lab.within * TRIAL_TIMES_MAX;
        let seen = match tokio::time::timeout(bound, (self.trial)(lab)).await {
            Ok(seen) => seen,
            Err(_) => failed(format!("no end within {} s", bound.as_secs_f32())),
        };
        let seen = match (seen, self.level) {
            (Err(Flaw::Failed(seen)), Level::Advice) => warned(seen),
            (seen, _) => seen,
        };
        let result = match &seen {
            Ok(_) => "pass",
            Err(Flaw::Failed(_)) => "FAIL",
            Err(Flaw::Warned(_)) => "warn",
            Err(Flaw::Skipped(_)) => "skip",
        };
        (seen, result)
    }
}

/// The table's column.
pub const NAME_CHARS_MAX: usize = 32;

/// A trial may take so many times what one answer may: the longest asks some hundred times, and each is answered at
/// once.
const TRIAL_TIMES_MAX: u32 = 20;

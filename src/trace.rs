//! The reasons behind a decision, kept only when somebody asked (`tollgate explain`).
//!
//! Stages say each check as they make it. With the trace off, which is every request in production, a step costs one
//! branch: its text is never built.

/// Whether a check held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The check held.
    Pass,
    /// The check failed, and decided or would have decided.
    Fail,
    /// Something worth knowing that decides nothing.
    Note,
}

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// Which stage: `extract`, `identify`, `authorize`, `count`.
    pub stage: &'static str,
    /// Whether it held.
    pub outcome: Outcome,
    /// A sentence without a final dot. Never holds a token or a secret.
    pub text: String,
}

/// A list of steps, or nothing at all.
#[derive(Debug, Default)]
pub struct Trace(Option<Vec<Step>>);

impl Trace {
    /// Records nothing.
    pub const fn off() -> Trace {
        Trace(None)
    }

    /// Records each step.
    pub fn on() -> Trace {
        Trace(Some(Vec::new()))
    }

    /// Whether steps are recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records a step; `text` is called only when the trace is on.
    pub fn step(&mut self, stage: &'static str, outcome: Outcome, text: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.0 {
            steps.push(Step { stage, outcome, text: text() });
        }
    }

    /// What was recorded, in order.
    pub fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}

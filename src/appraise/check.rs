//! The result of one check, told as such: held, not held, or not made and why not.

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was made, and it held.
    Held,
    /// It was not made. That is never a pass.
    NotChecked,
    /// It was made, and it did not hold.
    Failed,
}

/// One check, by a stable name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable, for scripts: `snp.signature`, `tdx.tcb`.
    pub id: &'static str,
    /// How it ended.
    pub state: State,
    /// What was compared, or why it was not. Holds no id of a chip.
    pub said: String,
}

impl Check {
    /// A check that held.
    pub fn held(id: &'static str, said: impl Into<String>) -> Self {
        Self { id, state: State::Held, said: said.into() }
    }

    /// A check that could not be made.
    pub fn not_checked(id: &'static str, said: impl Into<String>) -> Self {
        Self { id, state: State::NotChecked, said: said.into() }
    }

    /// A check that did not hold.
    pub fn failed(id: &'static str, said: impl Into<String>) -> Self {
        Self { id, state: State::Failed, said: said.into() }
    }
}

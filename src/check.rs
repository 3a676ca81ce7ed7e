//! One question about the way from this guest to its secrets, and what came of asking it.
//!
//! A room owns the questions about itself: it lists them (`checks()`) and answers them from the very
//! code that the roles run. `role/diagnose` puts them into one order, asks and prints. So what
//! `diagnose` says and what `init` does cannot differ.

use crate::finding::Finding;

/// A question. Its id is stable: scripts and the documentation name it.
#[derive(Debug)]
pub struct Check {
    /// `room.thing`, lower case.
    pub id: &'static str,
    /// What is asked, in a few words.
    pub asks: &'static str,
    /// Why the answer matters.
    pub matters: &'static str,
    /// Of these at least one must have passed, or the question is not asked. Empty: always asked.
    pub needs: &'static [&'static str],
    /// What answers it better where it was asked before; so it is asked along.
    pub after: &'static [&'static str],
    /// Shows no evidence and fetches nothing: asked when `init` has failed, too.
    pub cheap: bool,
}

/// What came of a question.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// As it should be; what was seen.
    Pass(String),
    /// It works, and somebody should know.
    Warn(Finding),
    /// A broken link.
    Fail(Finding),
    /// Not asked, and why. A precondition is named by its id.
    Skip(String),
}

impl Check {
    /// A question that nothing has to precede.
    pub const fn new(id: &'static str, asks: &'static str, matters: &'static str) -> Self {
        Self { id, asks, matters, needs: &[], after: &[], cheap: false }
    }

    /// Asked only after at least one of these has passed.
    #[must_use]
    pub const fn needs(mut self, needs: &'static [&'static str]) -> Self {
        self.needs = needs;
        self
    }

    /// Told better once these were asked, whatever came of them.
    #[must_use]
    pub const fn after(mut self, after: &'static [&'static str]) -> Self {
        self.after = after;
        self
    }

    /// Costs next to nothing.
    #[must_use]
    pub const fn cheap(mut self) -> Self {
        self.cheap = true;
        self
    }
}

impl Outcome {
    /// As printed in the JSON.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Warn(_) => "warn",
            Self::Fail(_) => "fail",
            Self::Skip(_) => "skip",
        }
    }

    /// What is wrong, where anything is.
    pub fn finding(&self) -> Option<&Finding> {
        match self {
            Self::Warn(finding) | Self::Fail(finding) => Some(finding),
            Self::Pass(_) | Self::Skip(_) => None,
        }
    }

    /// What was seen, or why nothing was.
    pub fn saw(&self) -> &str {
        match self {
            Self::Pass(saw) | Self::Skip(saw) => saw,
            Self::Warn(finding) | Self::Fail(finding) => &finding.saw,
        }
    }
}

impl From<Result<String, Finding>> for Outcome {
    fn from(result: Result<String, Finding>) -> Self {
        match result {
            Ok(saw) => Self::Pass(saw),
            Err(finding) => Self::Fail(finding),
        }
    }
}

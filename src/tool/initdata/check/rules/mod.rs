//! Every rule of `initdata check`, a row each. `docs/initdata-checks.md` is written from them.

mod agent;
mod document;
mod images;
mod services;

pub(super) use agent::*;
pub(super) use document::*;
pub(super) use images::*;
pub(super) use services::*;

/// What happens when a rule finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Refused: the guest would not start, or would not be what was meant.
    Refuse,
    /// Refused with `--prod`, a warning without.
    Prod,
    /// A warning.
    Warn,
}

impl Level {
    /// As the documentation says it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refuse => "refused",
            Self::Prod => "warning, refused with `--prod`",
            Self::Warn => "warning",
        }
    }
}

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name: stable, for scripts and for this list.
    pub id: &'static str,
    /// What happens when it finds something.
    pub level: Level,
    /// What it finds, in one sentence.
    pub finds: &'static str,
    /// Why that matters.
    pub why: &'static str,
    /// What to do when nothing more exact is known. Starts with a verb.
    pub next: &'static str,
}

/// Declares rules and the list of them.
macro_rules! rules {
    ($list:ident $($name:ident $id:literal $level:ident { $finds:literal, $why:literal, $next:literal })*) => {
        $(
            pub(in crate::tool::initdata::check) static $name: Rule =
                Rule { id: $id, level: Level::$level, finds: $finds, why: $why, next: $next };
        )*
        pub(super) static $list: &[&Rule] = &[$(&$name),*];
    };
}
use rules;

/// Every rule, in the order of the documentation: the document, its services, images, the pod, the
/// agent policy.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [DOCUMENT_RULES, SERVICES_RULES, IMAGES_RULES, AGENT_RULES].into_iter().flatten().copied()
}

//! What every refusal must look like, wherever it happens.

use countersign::finding::Class;

use crate::world::Run;

/// First words that a `next` may have: it tells somebody to do something.
const VERBS: [&str; 39] = [
    "add", "allow", "change", "check", "choose", "compare", "copy", "correct", "deliver", "exclude", "expose", "find",
    "generate", "give", "issue", "list", "mount", "move", "name", "put", "raise", "read", "register", "remove",
    "rename", "replace", "renew", "report", "run", "seal", "set", "start", "turn", "unmount", "upgrade", "upload",
    "use", "wait", "write",
];

/// Whether a next step starts with a verb.
pub fn starts_with_a_verb(next: &str) -> bool {
    next.split([' ', ':', ';']).next().is_some_and(|word| VERBS.contains(&word))
}

impl Run {
    /// Asserts that the run was refused with this class, told in all three ways.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use)] // The assertion is what it is called for.
    pub fn refused(self, class: Class) -> Self {
        let run = self.expect_code(i32::from(class.code()));
        assert!(run.stderr.contains(class.label()), "standard error names the class: {}", run.output());
        for part in ["saw:", "why:", "next:", "who:"] {
            assert!(run.stderr.contains(part), "standard error has {part} {}", run.output());
        }
        assert!(run.stdout.is_empty(), "a refusal prints nothing on standard output: {}", run.output());
        if let Some(message) = &run.termination {
            assert!(run.termination_text.len() <= 4096);
            assert_eq!(run.termination_text.lines().count(), 1, "one line: {}", run.output());
            assert_eq!(message["code"], class.code(), "{}", run.output());
            assert_eq!(message["class"], class.label(), "{}", run.output());
            let next = message["next"].as_str().expect("a refusal has a next step");
            assert!(starts_with_a_verb(next), "`next` starts with a verb: {next}");
        }
        run
    }

    /// What the termination message says was seen, or the whole standard error without one.
    pub fn saw(&self) -> String {
        self.told("saw")
    }

    /// The next step.
    pub fn next_step(&self) -> String {
        self.told("next")
    }

    /// Why.
    pub fn why(&self) -> String {
        self.told("why")
    }

    fn told(&self, member: &str) -> String {
        let label = format!("{member}:");
        self.termination
            .as_ref()
            .and_then(|message| message[member].as_str().map(str::to_owned))
            .or_else(|| self.stderr.lines().find_map(|l| l.trim().strip_prefix(&label).map(|l| l.trim().to_owned())))
            .unwrap_or_default()
    }
}

//! What kind of agent policy an initdata holds, told from its text alone.
//!
//! The policy of the Kata agent decides which containers, commands and mounts the host may start in
//! the guest; without one no check inside the guest means anything. The tool that writes a policy
//! for one pod (`genpolicy` of Kata) puts fixed rules first and, as the last part of the text, the
//! containers that they admit: `policy_data := { "containers": [ … ] … }`, in JSON.
//!
//! This is a look at the text, not a proof: rules in front of the data can still admit everything.
//! There is no Rego engine in the guest's program. `kubectl countersign initdata check` evaluates.

use std::fmt;

use serde::Deserialize;

use crate::formats::json::{self, AnyObject};

/// The kind of agent policy in an initdata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentPolicy {
    /// No `policy.rego`, or an empty one: the guest image's default holds, which admits everything.
    Absent,
    /// A text that pins no containers: it does not end in readable `policy_data` that lists at least
    /// one, or it answers yes by default where a pinning policy answers no.
    Permissive,
    /// A text that ends in `policy_data` with a list of containers, as the generator writes it.
    Generated,
}

/// Questions of the agent that a pinning policy answers with no unless a rule says yes. Names are
/// Kata's; the last is the switch that turns refusals into log lines.
const GUARDED: [&str; 6] = [
    "AddSwapRequest",
    "CreateContainerRequest",
    "ExecProcessRequest",
    "SetPolicyRequest",
    "UpdateEphemeralMountsRequest",
    "AllowRequestsFailingPolicy",
];

/// The name that the generator gives the data.
const DATA: &str = "policy_data";

#[derive(Deserialize)]
struct Data {
    containers: Vec<AnyObject>,
}

impl AgentPolicy {
    /// Classifies the text of `policy.rego`, if there is one. Any text is an answer, never an error.
    pub fn of(text: Option<&str>) -> Self {
        match text {
            Some(text) if text.trim().is_empty() => Self::Absent,
            None => Self::Absent,
            Some(text) if pins_containers(text) && !says_yes(text) => Self::Generated,
            Some(_) => Self::Permissive,
        }
    }

    /// `absent`, `permissive` or `generated`: the word in logs, receipts and `diagnose`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Permissive => "permissive",
            Self::Generated => "generated",
        }
    }
}

impl fmt::Display for AgentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The JSON text of `policy_data`, where it is the last part: everything from its brace to the end.
/// `None` where no line starts with `policy_data :=`. Not checked to be JSON.
pub fn policy_data(text: &str) -> Option<&str> {
    let start = text.rmatch_indices(DATA).find(|(at, _)| {
        // At the start of a line: inside a rule it is a use of the data, not the data.
        text.get(..*at).is_some_and(|before| before.is_empty() || before.ends_with('\n'))
    })?;
    let value = text.get(start.0..)?.strip_prefix(DATA)?.trim_start_matches([' ', '\t']);
    Some(value.strip_prefix(":=")?.trim())
}

fn pins_containers(text: &str) -> bool {
    policy_data(text)
        .and_then(|data| json::object::<Data>(data.as_bytes()))
        .is_some_and(|data| !data.containers.is_empty())
}

/// Whether some line reads `[default] <a guarded question> := true`.
fn says_yes(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let line = line.strip_prefix("default ").unwrap_or(line).trim_start();
        GUARDED.iter().any(|name| {
            line.strip_prefix(name)
                .is_some_and(|rest| matches!(rest.replace([' ', '\t'], "").as_str(), ":=true" | "=true"))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: &str = "package agent_policy\n\ndefault CreateContainerRequest := false\n\
                         default DestroySandboxRequest := true\nCreateContainerRequest if {\n    \
                         some c in policy_data.containers\n    c.name == input.name\n}\n";

    fn of(text: &str) -> AgentPolicy {
        AgentPolicy::of(Some(text))
    }

    #[test]
    fn no_text_is_absent() {
        assert_eq!(AgentPolicy::of(None), AgentPolicy::Absent);
        assert_eq!(of(""), AgentPolicy::Absent);
        assert_eq!(of(" \n\n"), AgentPolicy::Absent);
    }

    #[test]
    fn rules_that_end_in_a_list_of_containers_are_generated() {
        for data in ["{\"containers\": [{}]}", "{\n  \"containers\": [{\"OCI\": {}}],\n  \"common\": {}\n}\n\n"] {
            assert_eq!(of(&format!("{RULES}\npolicy_data := {data}")), AgentPolicy::Generated, "{data}");
        }
        assert_eq!(of(&format!("{RULES}policy_data:={{\"containers\":[{{}}]}}")), AgentPolicy::Generated);
    }

    #[test]
    fn a_text_without_readable_data_at_its_end_is_permissive() {
        assert_eq!(of("package agent_policy\ndefault CreateContainerRequest := true\n"), AgentPolicy::Permissive);
        assert_eq!(of(RULES), AgentPolicy::Permissive);
        assert_eq!(of("not rego"), AgentPolicy::Permissive);
        for data in [
            "",
            "{}",
            "[]",
            "null",
            "{\"containers\": []}",
            "{\"containers\": {}}",
            "{\"containers\": [1]}",
            "{\"containers\": [{}]",
            "{\"containers\": [{}]} {}",
            "{\"containers\": [{}]}\nCreateContainerRequest { true }",
            "{\"containers\": [{}], \"containers\": [{}]}",
            // Rego, but not JSON: no generator writes it.
            "{\"containers\": [{}],}",
        ] {
            assert_eq!(of(&format!("{RULES}\npolicy_data := {data}\n")), AgentPolicy::Permissive, "{data}");
        }
        // Somebody else's data, a comparison, a comment.
        for line in ["other_policy_data := {\"containers\":[{}]}", "policy_data == {\"containers\":[{}]}"] {
            assert_eq!(of(&format!("{RULES}\n{line}\n")), AgentPolicy::Permissive, "{line}");
        }
        assert_eq!(of(&format!("{RULES}\n# policy_data := {{\"containers\":[{{}}]}}")), AgentPolicy::Permissive);
    }

    #[test]
    fn a_yes_by_default_is_permissive_whatever_the_data() {
        for line in [
            "default CreateContainerRequest := true",
            "default  SetPolicyRequest=true # for now",
            "  default ExecProcessRequest = true",
            "default AddSwapRequest\t:=\ttrue",
            "default UpdateEphemeralMountsRequest := true",
            "default AllowRequestsFailingPolicy := true",
            "CreateContainerRequest := true",
        ] {
            let text = format!("{RULES}{line}\npolicy_data := {{\"containers\":[{{}}]}}\n");
            assert_eq!(of(&text), AgentPolicy::Permissive, "{line}");
        }
        for line in ["# default SetPolicyRequest := true", "default SetPolicyRequestLog := true"] {
            let text = format!("{RULES}{line}\npolicy_data := {{\"containers\":[{{}}]}}\n");
            assert_eq!(of(&text), AgentPolicy::Generated, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_classified(before in "\\PC{0,60}", after in "\\PC{0,60}") {
            let _ = of(&before);
            let _ = of(&format!("{before}\npolicy_data := {after}"));
        }
    }
}

//! The agent's way of asking its policy: the same engine as Kata's agent, the same queries.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{PolicyLengthConfig, Value as Rego};
use serde_json::{Map, Value, json};

/// Longest evaluation. A generated policy needs some milliseconds; a loop must end.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Work units between looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// Limits of the agent's own engine, so that what it accepts is accepted here.
const LENGTHS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::new(64 * 1024).unwrap(),
    max_file_bytes: NonZeroUsize::new(16 * 1024 * 1024).unwrap(),
    max_lines: NonZeroUsize::new(200_000).unwrap(),
};

/// A policy, ready to be asked.
pub(super) struct Engine {
    inner: regorus::Engine,
    /// Whether some answer took longer than [`MAX_TIME`].
    slow: bool,
}

/// Why there is none.
pub(super) struct Fault {
    /// Line of the policy, from 1, where the engine names one.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) what: &'static str,
}

/// What the agent would do.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// It goes on. With the operations on the state that the policy asks for.
    Admitted(Vec<Value>),
    /// It refuses.
    Denied,
}

impl Answer {
    pub(super) fn admitted(&self) -> bool {
        matches!(self, Self::Admitted(_))
    }
}

impl Engine {
    /// Parses a policy. Kata's agents read Rego v0, newer ones v1: one of the two must do.
    pub(super) fn new(policy: &str) -> Result<Self, Fault> {
        let mut fault = None;
        for v0 in [true, false] {
            let mut engine = regorus::Engine::new();
            engine.set_rego_v0(v0);
            engine.set_policy_length_config(LENGTHS);
            engine.set_strict_builtin_errors(false);
            // Or `print` in a rule would write to our standard error.
            engine.set_gather_prints(true);
            engine.set_execution_timer_config(ExecutionTimerConfig { limit: MAX_TIME, check_interval: CHECK_INTERVAL });
            match engine.add_policy("policy.rego".to_owned(), policy.to_owned()) {
                Ok(package) if package == "data.agent_policy" => {
                    let mut engine = Self { inner: engine, slow: false };
                    // Some faults show at the first question only.
                    return match engine.put("AllowRequestsFailingPolicy", &json!({}), &Map::new()) {
                        Ok(_) => Ok(engine),
                        Err(line) => Err(Fault { line, what: "cannot be evaluated" }),
                    };
                }
                Ok(_) => return Err(Fault { line: Some(1), what: "is not of the package `agent_policy`" }),
                Err(error) => {
                    // The first attempt's line, unless only the second is of this dialect.
                    let line = line_of(&error.to_string());
                    let further = fault.as_ref().is_none_or(|known: &Fault| line > known.line);
                    if further {
                        fault = Some(Fault { line, what: "is not Rego" });
                    }
                }
            }
        }
        Err(fault.unwrap_or(Fault { line: None, what: "is not Rego" }))
    }

    /// Asks whether a request is admitted, with this state of earlier requests. A policy that was slow
    /// once is asked no more: there are many questions, and it is refused already.
    pub(super) fn ask(&mut self, request: &str, input: &Value, state: &Map<String, Value>) -> Answer {
        if self.slow {
            return Answer::Denied;
        }
        let Ok(Some(value)) = self.put(request, input, state) else { return Answer::Denied };
        match value {
            Value::Bool(true) => Answer::Admitted(Vec::new()),
            Value::Object(answer) if answer.get("allowed") == Some(&Value::Bool(true)) => {
                Answer::Admitted(answer.get("ops").and_then(Value::as_array).cloned().unwrap_or_default())
            }
            _ => Answer::Denied,
        }
    }

    /// The value of a rule; `None` when it is undefined. An error has the line, if it names one.
    fn put(&mut self, rule: &str, input: &Value, state: &Map<String, Value>) -> Result<Option<Value>, Option<usize>> {
        let mut slow = false;
        let mut failed = |error: &dyn std::fmt::Display| {
            let message = error.to_string();
            slow |= message.contains("time limit");
            line_of(&message)
        };
        self.inner.clear_data();
        self.inner.add_data(Rego::from(json!({ "pstate": state }))).map_err(|error| failed(&error))?;
        self.inner.set_input(Rego::from(input.clone()));
        let results = self.inner.eval_query(format!("data.agent_policy.{rule}"), false).map_err(|error| failed(&error));
        self.slow |= slow;
        // What the rules printed may quote the request.
        let _ = self.inner.take_prints();
        let value = results?.result.first().and_then(|row| row.expressions.first()).map(|found| found.value.clone());
        match value {
            None | Some(Rego::Undefined) => Ok(None),
            Some(value) => serde_json::to_value(&value).map(Some).map_err(|error| line_of(&error.to_string())),
        }
    }

    /// Whether some answer did not come in time. The agent has no such limit: it would hang.
    pub(super) fn is_slow(&self) -> bool {
        self.slow
    }
}

/// `--> policy.rego:12:3`, as the engine writes places. Its message quotes the text; this does not.
fn line_of(message: &str) -> Option<usize> {
    let (_, after) = message.split_once("policy.rego:")?;
    after.split(':').next()?.trim().parse().ok()
}

//! The environment and the command line: both written by whoever writes the pod's manifest.
//!
//! Values are never quoted in a message: a value can be a sealed secret, or text that was chosen
//! to be read by somebody. A message names the variable and what was expected.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::decode::nearest;
use super::grammar::{namespace, workload};
use super::problem::{MAX_PROBLEMS, Origin, Problem};
use super::types::For;
use crate::finding::printable;

/// A variable that countersign reads.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key it sets where there is no file; empty where it sets none.
    pub key: &'static str,
    /// What it means, in one sentence.
    pub meaning: &'static str,
}

/// Every variable that countersign reads.
///
/// No name may end in `_PORT`, nor in another form that the kubelet makes of the names of
/// Services (see `is_service_variable`).
pub const VARIABLES: &[Variable] = &[
    Variable { name: ROLE, key: "", meaning: "What to do: `init`, `sidecar`, `diagnose` or `issuer`." },
    Variable {
        name: NAMESPACE,
        key: "for.namespace",
        meaning: "With the next: fetch the configuration from `kbs:///default/countersign/<namespace>.<workload>`.",
    },
    Variable { name: WORKLOAD, key: "for.workload", meaning: "Name of the workload, see above." },
    Variable { name: SECRETS, key: "secrets.file", meaning: "`path=kbs:///…`, separated by commas." },
    Variable { name: DIRECTORY, key: "secrets.directory", meaning: "Where the set is published." },
    Variable {
        name: GATE,
        key: "secrets.gate",
        meaning: "`kbs:///…=value`, separated by commas; a value has no comma.",
    },
    Variable { name: DEADLINE, key: "deadline", meaning: "All of `init`. From 10s to 30m where it overrides a file." },
    Variable { name: LOG, key: "log.level", meaning: "Most detailed level that is written." },
    Variable { name: LOG_FORMAT, key: "log.format", meaning: "`text` or `json`." },
];

pub(crate) const ROLE: &str = "COUNTERSIGN_ROLE";
pub(crate) const NAMESPACE: &str = "COUNTERSIGN_NAMESPACE";
pub(crate) const WORKLOAD: &str = "COUNTERSIGN_WORKLOAD";
pub(crate) const SECRETS: &str = "COUNTERSIGN_SECRETS";
pub(crate) const DIRECTORY: &str = "COUNTERSIGN_SECRETS_DIRECTORY";
pub(crate) const GATE: &str = "COUNTERSIGN_GATE";
pub(crate) const DEADLINE: &str = "COUNTERSIGN_DEADLINE";
pub(crate) const LOG: &str = "COUNTERSIGN_LOG";
pub(crate) const LOG_FORMAT: &str = "COUNTERSIGN_LOG_FORMAT";

/// Every variable of ours starts so.
const PREFIX: &str = "COUNTERSIGN_";

/// Longest value, bytes: Linux's own limit for one string of the environment (`MAX_ARG_STRLEN`).
const MAX_VALUE: usize = 128 * 1024;

/// What the process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Fetch, publish, exit.
    Init,
    /// One secret, named on the command line. No value of `COUNTERSIGN_ROLE`.
    Get,
    /// Terminate mTLS for the app.
    Sidecar,
    /// Walk the chain and name the broken link.
    Diagnose,
    /// Certify attested workloads.
    Issuer,
}

impl Role {
    const ALL: [(&'static str, Self); 4] =
        [("init", Self::Init), ("sidecar", Self::Sidecar), ("diagnose", Self::Diagnose), ("issuer", Self::Issuer)];

    /// As written.
    pub fn label(self) -> &'static str {
        Self::ALL.iter().find(|(_, role)| *role == self).map_or("get", |(label, _)| label)
    }
}

/// A value from the command line: as trusted as a variable of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Arg<'a> {
    /// As typed, for messages: `--log`.
    pub flag: &'a str,
    /// The variable it stands for, one of [`VARIABLES`].
    pub variable: &'static str,
    /// The value.
    pub value: &'a str,
}

/// What the environment says before a configuration has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootstrap {
    /// What to do.
    pub role: Option<Role>,
    /// Whose configuration to fetch from the compiled-in resource.
    pub audience: Option<For>,
}

/// Reads the variables that say what to do and where the configuration is. An unknown variable is
/// refused here already: it is cheaper than after fetching a configuration. The values of the
/// others are checked by [`super::resolve()`].
pub fn bootstrap(env: &BTreeMap<OsString, OsString>) -> Result<Bootstrap, Vec<Problem>> {
    let mut problems = Vec::new();
    let given = collect(env, &[], &mut problems);
    let result = Bootstrap { role: role(&given, &mut problems), audience: audience(&given, &mut problems) };
    if problems.is_empty() { Ok(result) } else { Err(problems) }
}

/// A value that somebody untrusted gave, by the name of its variable.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) origin: Origin,
    /// The variable or the flag.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Given {
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.origin.clone(), self.name.clone(), message)
    }
}

/// All values given, by variable; the command line goes before the environment.
pub(crate) type AllGiven = BTreeMap<&'static str, Given>;

/// Reads every variable of ours, and the flags. Unknown names are problems: a protection that was
/// asked for under a wrong name would silently not be there.
pub(crate) fn collect(env: &BTreeMap<OsString, OsString>, args: &[Arg<'_>], problems: &mut Vec<Problem>) -> AllGiven {
    let mut given = AllGiven::new();
    for (name, value) in env {
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        let lossy = name.to_string_lossy();
        if !lossy.starts_with(PREFIX) || is_service_variable(&lossy) {
            continue;
        }
        let problem = |message: &str| Problem::new(Origin::Env, printable(&lossy, 80), message);
        let Some(known) = VARIABLES.iter().find(|known| known.name == lossy) else {
            let hint = match nearest(&lossy, VARIABLES.iter().map(|known| known.name)) {
                Some(near) => format!("write `{near}` if that was meant"),
                None => "remove it: names that start with `COUNTERSIGN_` are countersign's own".to_owned(),
            };
            problems.push(problem("unknown variable").hint(hint));
            continue;
        };
        match value.to_str() {
            None => problems.push(problem("is not UTF-8").hint("write plain text")),
            Some(text) if text.len() > MAX_VALUE => {
                problems.push(problem("is longer than 128 KiB").hint("use a configuration file"));
            }
            Some(text) => {
                let entry = Given { origin: Origin::Env, name: known.name.to_owned(), text: text.to_owned() };
                given.insert(known.name, entry);
            }
        }
    }
    for arg in args {
        let entry = Given { origin: Origin::Arg, name: arg.flag.to_owned(), text: arg.value.to_owned() };
        given.insert(arg.variable, entry);
    }
    given
}

/// `COUNTERSIGN_ROLE`.
pub(crate) fn role(given: &AllGiven, problems: &mut Vec<Problem>) -> Option<Role> {
    let value = given.get(ROLE)?;
    let found = Role::ALL.iter().find(|(label, _)| *label == value.text);
    if found.is_none() {
        let labels = Role::ALL.map(|(label, _)| label);
        let hint = match nearest(&value.text, labels.into_iter()) {
            Some(near) => format!("write `{near}` if that was meant"),
            None => "choose one of these".to_owned(),
        };
        problems.push(value.problem(format!("must be one of {}", labels.join(", "))).hint(hint));
    }
    found.map(|(_, role)| *role)
}

/// `COUNTERSIGN_NAMESPACE` and `COUNTERSIGN_WORKLOAD`: both or neither.
pub(crate) fn audience(given: &AllGiven, problems: &mut Vec<Problem>) -> Option<For> {
    let mut read = |name: &str, parse: fn(&str) -> Result<String, &'static str>| {
        let value = given.get(name)?;
        parse(&value.text).map_err(|why| problems.push(value.problem(why).hint("write the name of the object"))).ok()
    };
    let names = (read(NAMESPACE, namespace), read(WORKLOAD, workload));
    for (one, other) in [(NAMESPACE, WORKLOAD), (WORKLOAD, NAMESPACE)] {
        if let (Some(value), None) = (given.get(one), given.get(other)) {
            problems.push(value.problem(format!("needs `{other}` beside it")).hint(format!("set `{other}` too")));
        }
    }
    Some(For { namespace: names.0?, workload: names.1? })
}

/// Whether the kubelet made this variable, for a Service named `countersign` or `countersign-…`
/// (`enableServiceLinks`, on by default): `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT` and
/// `…_PORT_<n>_<TCP|UDP|SCTP>[_PROTO|_PORT|_ADDR]`. They hold addresses, and are not read.
fn is_service_variable(name: &str) -> bool {
    let name_like = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    if !name_like(name) || VARIABLES.iter().any(|known| known.name == name) {
        return false;
    }
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") && !name.contains("_PORT_") {
        return true;
    }
    if let Some((_, port)) = name.split_once("_SERVICE_PORT_") {
        return !port.is_empty();
    }
    let Some((_, rest)) = name.split_once("_PORT_") else { return false };
    let Some((number, rest)) = rest.split_once('_') else { return false };
    let (protocol, field) = rest.split_once('_').unwrap_or((rest, ""));
    number.parse::<u16>().is_ok()
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
        && (rest == protocol || matches!(field, "PROTO" | "PORT" | "ADDR"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn problems(env: &BTreeMap<OsString, OsString>) -> Vec<String> {
        let mut problems = Vec::new();
        collect(env, &[], &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_variable_of_ours_is_refused_with_the_one_that_was_meant() {
        assert_eq!(
            problems(&env(&[("COUNTERSIGN_SECRET", "x"), ("PATH", "/bin"), ("COUNTERSIGNX", "y")])),
            ["COUNTERSIGN_SECRET: unknown variable; write `COUNTERSIGN_SECRETS` if that was meant"]
        );
    }

    #[test]
    fn variables_that_the_kubelet_makes_of_services_are_ignored() {
        let names = [
            "COUNTERSIGN_SERVICE_HOST",
            "COUNTERSIGN_SERVICE_PORT",
            "COUNTERSIGN_SERVICE_PORT_HTTPS",
            "COUNTERSIGN_PORT",
            "COUNTERSIGN_PORT_8443_TCP",
            "COUNTERSIGN_PORT_8443_TCP_PROTO",
            "COUNTERSIGN_PORT_8443_TCP_PORT",
            "COUNTERSIGN_PORT_53_UDP_ADDR",
            "COUNTERSIGN_ISSUER_SERVICE_HOST",
            "COUNTERSIGN_ISSUER_PORT_8443_SCTP_ADDR",
            "COUNTERSIGN_ISSUER_SERVICE_PORT_HEALTH",
        ];
        for name in names {
            assert_eq!(problems(&env(&[(name, "10.0.0.1")])), [""; 0], "{name}");
        }
        for name in ["COUNTERSIGN_PORT_8443_HTTP", "COUNTERSIGN_PORT_X_TCP", "COUNTERSIGN_service_host"] {
            assert_eq!(problems(&env(&[(name, "10.0.0.1")])).len(), 1, "{name}");
        }
    }

    #[test]
    fn no_variable_of_ours_looks_like_one_of_the_kubelet() {
        for variable in VARIABLES {
            assert!(!is_service_variable(variable.name), "{}", variable.name);
            assert!(!variable.name.ends_with("_PORT") && !variable.name.ends_with("_SERVICE_HOST"));
        }
    }

    #[test]
    fn a_value_that_is_not_text_or_too_long_is_refused() {
        let mut broken = env(&[(LOG, &"x".repeat(MAX_VALUE + 1))]);
        broken.insert(SECRETS.into(), OsString::from_vec(vec![0xff, 0xfe]));
        assert_eq!(
            problems(&broken),
            [
                "COUNTERSIGN_LOG: is longer than 128 KiB; use a configuration file",
                "COUNTERSIGN_SECRETS: is not UTF-8; write plain text"
            ]
        );
        let odd = BTreeMap::from([(OsString::from_vec(b"COUNTERSIGN_\xff".to_vec()), "x".into())]);
        assert_eq!(problems(&odd).len(), 1);
    }

    #[test]
    fn bootstrap_says_role_and_audience() {
        let found = bootstrap(&env(&[(ROLE, "init"), (NAMESPACE, "payments"), (WORKLOAD, "api")])).unwrap();
        assert_eq!(found.role, Some(Role::Init));
        assert_eq!(found.audience.unwrap().resource(), "kbs:///default/countersign/payments.api");
        assert_eq!(bootstrap(&env(&[])), Ok(Bootstrap::default()));
    }

    #[test]
    fn bootstrap_refuses_half_an_audience_and_an_unknown_role() {
        for pairs in [
            &[(NAMESPACE, "payments")][..],
            &[(WORKLOAD, "api")],
            &[(NAMESPACE, "pay/ments"), (WORKLOAD, "api")],
            &[(NAMESPACE, "payments.api"), (WORKLOAD, "x")],
            &[(ROLE, "Init")],
            &[(ROLE, "")],
        ] {
            assert_eq!(bootstrap(&env(pairs)).unwrap_err().len(), 1, "{pairs:?}");
        }
    }

    #[test]
    fn a_flag_goes_before_the_variable() {
        let args = [Arg { flag: "--log", variable: LOG, value: "debug" }];
        let given = collect(&env(&[(LOG, "info")]), &args, &mut Vec::new());
        assert_eq!(given.get(LOG).map(|value| (value.name.as_str(), value.text.as_str())), Some(("--log", "debug")));
    }
}

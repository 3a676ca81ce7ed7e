//! The roles of the binary in the image: compose only; no protocol, no crypto, no parsing.

mod boot;
mod confine;
mod diagnose;
mod evidence;
mod get;
mod init;
mod issuer;
mod pages;
mod reading;
mod report;
mod sidecar;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{self, Command, Countersign};
use crate::config::Provenance;
use crate::finding::{Class, Finding, printable};
use crate::observe::log;
use crate::ports::Ports;
use crate::sandbox::{self, Outcome};
use diagnose::Told;

/// How a role ended, for the report.
struct Ended {
    role: &'static str,
    provenance: Option<Provenance>,
    result: Result<String, Finding>,
    /// After a refusal: the first broken link, where the cheap part of `diagnose` finds one.
    broken: Option<String>,
}

impl Ended {
    fn new(role: &'static str, provenance: Option<Provenance>, result: Result<String, Finding>) -> Self {
        Self { role, provenance, result, broken: None }
    }
}

/// Variables that kubectl-coco's manifests set. The build with feature `compat` answers them.
const KUBECTL_COCO: [&str; 5] = ["TLS_CERT_URI", "TLS_KEY_URI", "CLIENT_CA_URI", "HTTPS_PORT", "FORWARD_PORT"];

/// The tools that this binary has too. They are neighbours, which this room may not import. Each
/// returns the exit code.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    /// `countersign config …`.
    pub config: fn(&Ports, &cli::Config) -> u8,
    /// `countersign verify …`.
    pub verify: fn(&Ports, &cli::Verify) -> u8,
    /// `countersign connect …`.
    pub connect: fn(&Ports, &cli::Connect) -> u8,
}

/// Runs whatever the command line or `COUNTERSIGN_ROLE` asks for.
pub fn run(ports: &Ports, tools: Tools) -> ExitCode {
    harden();
    quiet_panics(ports);
    log::hold(ports.banner);
    // One catch around everything: a fault of ours is a refusal with a code, not an abort.
    let code = catch_unwind(AssertUnwindSafe(|| dispatch(ports, tools))).unwrap_or_else(|_| {
        let result = Err(Finding::new(Class::Bug, "an internal check failed; the line above names its place"));
        report::end(ports, &Ended::new("countersign", None, result))
    });
    ExitCode::from(code)
}

fn dispatch(ports: &Ports, tools: Tools) -> u8 {
    let cli = match Countersign::try_parse_from(&ports.args) {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            ports.say(error.to_string().trim_end());
            return 0;
        }
        Err(error) => return report::usage(ports, &error.to_string()),
    };
    #[cfg(feature = "compat")]
    if cli.command.is_none() && kubectl_coco(ports).is_some() && !names_a_role(ports) {
        let calls = sandbox::calls::restrict();
        return report::end(ports, &ended("sidecar", sidecar::for_kubectl_coco(ports, calls)));
    }
    let told = if cli.command.is_some() { Told::ByHand } else { Told::AsARole };
    let command = match cli.command {
        Some(command) => command,
        None => match role_from_env(ports) {
            Ok(command) => command,
            Err(finding) => {
                return report::end(ports, &Ended::new("countersign", None, Err(finding)));
            }
        },
    };
    match command {
        Command::Init(arguments) => {
            let calls = sandbox::calls::restrict();
            report::end(ports, &ended("init", init::run(ports, &arguments, calls)))
        }
        Command::Sidecar => {
            let calls = sandbox::calls::restrict();
            report::end(ports, &ended("sidecar", sidecar::run(ports, calls)))
        }
        Command::Issuer => {
            let calls = sandbox::calls::restrict();
            report::end(ports, &ended("issuer", issuer::run(ports, calls)))
        }
        Command::Get(arguments) => {
            if let Outcome::Off(why) = sandbox::calls::restrict() {
                tracing::debug!(seccomp = why, "sandbox");
            }
            report::end(ports, &ended("get", get::run(ports, &arguments)))
        }
        Command::Diagnose(arguments) => match in_runtime(diagnose::run(ports, &arguments, told)) {
            Ok(code) => code,
            Err(finding) => report::end(ports, &Ended::new("diagnose", None, Err(finding))),
        },
        Command::Evidence(arguments) => evidence::run(ports, &arguments),
        Command::Verify(arguments) => (tools.verify)(ports, &arguments),
        Command::Connect(arguments) => (tools.connect)(ports, &arguments),
        Command::Config(command) => (tools.config)(ports, &command),
    }
}

/// How a role ends that runs to its end.
fn ended(role: &'static str, work: impl Future<Output = Ended>) -> Ended {
    in_runtime(work).unwrap_or_else(|finding| Ended::new(role, None, Err(finding)))
}

fn in_runtime<T>(work: impl Future<Output = T>) -> Result<T, Finding> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => Ok(runtime.block_on(work)),
        Err(error) => Err(Finding::new(Class::Bug, format!("the asynchronous runtime did not start: {error}"))
            .next("raise the container's limits on processes and open files")),
    }
}

/// The image's entrypoint has no arguments: the environment names the role.
fn role_from_env(ports: &Ports) -> Result<Command, Finding> {
    let role = ports.env.iter().find(|(name, _)| *name == "COUNTERSIGN_ROLE").map(|(_, value)| value);
    let Some(role) = role else {
        return Err(no_role(ports));
    };
    match role.to_str() {
        Some("init") => Ok(Command::Init(cli::Init { config: None })),
        Some("sidecar") => Ok(Command::Sidecar),
        Some("diagnose") => Ok(Command::Diagnose(diagnose::as_a_role())),
        Some("issuer") => Ok(Command::Issuer),
        _ => Err(Finding::new(
            Class::Usage,
            format!("COUNTERSIGN_ROLE={} is no role", printable(&role.to_string_lossy(), 40)),
        )
        .next("set COUNTERSIGN_ROLE=init in the container's env")),
    }
}

/// The first of kubectl-coco's variables that is set.
fn kubectl_coco(ports: &Ports) -> Option<&'static str> {
    KUBECTL_COCO.into_iter().find(|name| ports.env.iter().any(|(key, _)| key == *name))
}

#[cfg(feature = "compat")]
fn names_a_role(ports: &Ports) -> bool {
    ports.env.iter().any(|(name, _)| name == "COUNTERSIGN_ROLE")
}

fn no_role(ports: &Ports) -> Finding {
    if let Some(name) = kubectl_coco(ports) {
        return Finding::new(Class::Config, format!("the environment has kubectl-coco's {name}, and no COUNTERSIGN_ROLE"))
            .why("this image does not answer kubectl-coco's variables: `countersign-compat` is an image of its own, so that the measured policy, not an env variable, chooses it")
            .next("use the image `countersign-compat` for this container, or write `[identity]`, `[peers]` and `[[inbound]]` and set COUNTERSIGN_ROLE=sidecar (docs/from-kubectl-coco.md)");
    }
    Finding::new(Class::Usage, "no command, and no COUNTERSIGN_ROLE in the environment")
        .next("set COUNTERSIGN_ROLE=init in the container's env, or run `countersign --help`")
}

/// No core file, no ptrace, no readable /proc/self/mem: a secret in memory stays there.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Both only ever lower what we may do; neither fails on Linux for one's own process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // The modes of what we make are ours to choose, not whoever started us; 022 masks none of them.
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// A panic's message may hold a value; its place cannot.
fn quiet_panics(ports: &Ports) {
    let ports = ports.clone();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        ports.say_err(&format!("countersign: internal check failed at {place}"));
    }));
}

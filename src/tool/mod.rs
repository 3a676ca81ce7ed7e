//! Tools for workstations and CI. `config`, `verify` and `connect` are in both binaries; the rest is in
//! `kubectl-countersign` only, which is never in the image.

pub mod config;
pub mod connect;
mod explain;
pub mod initdata;
mod probes;
mod render;
pub mod verify;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{self, Kubectl, Policies, Tool};
use crate::finding::{Class, Finding};
use crate::ports::Ports;

/// The health port, `[health].listen`: where admission sends the kubelet's probes.
const HEALTH: u16 = 15821;

/// Runs `kubectl countersign …`.
pub fn run(ports: &Ports) -> ExitCode {
    let code = match Kubectl::try_parse_from(&ports.args) {
        Ok(Kubectl { command: Tool::Config(command) }) => run_config(ports, &command),
        Ok(Kubectl { command: Tool::Verify(arguments) }) => verify::run(ports, &arguments),
        Ok(Kubectl { command: Tool::Connect(arguments) }) => connect::run(ports, &arguments),
        Ok(Kubectl { command: Tool::Explain(arguments) }) => print(ports, explain::run(&arguments)),
        Ok(Kubectl { command: Tool::Initdata(command) }) => print(ports, initdata::run(ports, &command)),
        Ok(Kubectl { command: Tool::Render(arguments) }) => print(ports, render::run(&arguments)),
        Ok(Kubectl { command: Tool::Policies(Policies::Emit(choice)) }) => print(ports, render::emit(&choice)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            finish(ports, Ok(error.to_string()))
        }
        Err(error) => {
            ports.say_err(error.to_string().trim_end());
            Class::Usage.code()
        }
    };
    ExitCode::from(code)
}

/// Runs `config …`, which both binaries have.
pub fn run_config(ports: &Ports, command: &cli::Config) -> u8 {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = match command {
        cli::Config::Check { files } => config::check(files, &mut out, &mut err),
        cli::Config::Explain { file, provenance } => {
            config::explain(file.as_deref(), *provenance, &ports.env, &[], &mut out, &mut err)
        }
        cli::Config::Schema => config::schema(&mut out),
    };
    ports.say(&String::from_utf8_lossy(&out));
    ports.say_err(&String::from_utf8_lossy(&err));
    // Writing to memory does not fail.
    ended.unwrap_or(Class::Bug.code())
}

/// What a command prints, and its exit code.
struct Output {
    /// For standard output, byte for byte.
    out: Vec<u8>,
    /// For standard error, a line each.
    err: Vec<String>,
    /// The exit code.
    code: u8,
}

impl Output {
    fn text(out: impl Into<Vec<u8>>) -> Self {
        Self { out: out.into(), err: Vec::new(), code: 0 }
    }
}

fn print(ports: &Ports, ended: Result<Output, Finding>) -> u8 {
    match ended {
        Ok(output) => {
            ports.write(&output.out);
            for line in &output.err {
                ports.say_err(line);
            }
            output.code
        }
        Err(finding) => finish(ports, Err(finding)),
    }
}

fn finish(ports: &Ports, result: Result<String, Finding>) -> u8 {
    match result {
        Ok(text) => {
            ports.say(text.trim_end());
            0
        }
        Err(finding) => {
            ports.say_err(&finding.to_string());
            finding.class.code()
        }
    }
}

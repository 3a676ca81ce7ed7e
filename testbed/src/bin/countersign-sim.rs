//! `countersign-sim`, for people. Tests start their own binary in this role instead.

use std::process::ExitCode;

// The arguments of a simulated program come from the real one that is started.
#[allow(clippy::disallowed_methods)]
fn main() -> ExitCode {
    countersign_testbed::sim::main(std::env::args_os().collect())
}

//! The binary in the image. One call, one exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign::run(&countersign::ports::Ports::real())
}

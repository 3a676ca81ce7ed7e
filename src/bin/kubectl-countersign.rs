//! `kubectl countersign`: workstation tools, never in the image.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign::tool::run(&countersign::ports::Ports::real())
}

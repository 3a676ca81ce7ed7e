//! The conformance list of configfs-tsm against the kernel that this runs on. For the guest.

use std::process::ExitCode;

#[allow(clippy::disallowed_methods)] // A test program of its own.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    countersign_testbed::tsm::kernel::main(&args)
}

//! The security processor beside one guest of `guest-tests/run`: listens on a unix socket, which
//! QEMU joins to a port of the guest, answers by its script, and ends with the guest.

use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use countersign_testbed::guest_signer::{Script, serve};

const USAGE: &str = "usage: guest-signer SOCKET SCRIPT (such as `errno:16*3,snp`)";

// The arguments and the streams of a test program are its own.
#[allow(clippy::disallowed_methods, clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, script] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    match run(socket, script) {
        Ok(requests) => {
            eprintln!("guest-signer: {requests} requests");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("guest-signer: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &str, script: &str) -> Result<usize, String> {
    let mut script: Script = script.parse()?;
    let listener = UnixListener::bind(socket).map_err(|error| format!("cannot listen on {socket}: {error}"))?;
    let (mut guest, _) = listener.accept().map_err(|error| format!("no guest came: {error}"))?;
    serve(&mut guest, &mut script).map_err(|error| format!("the guest's port: {error}"))
}

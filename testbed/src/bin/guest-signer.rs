//! What stands beside one guest of `guest-tests/run`, outside it: the security processor, which
//! listens on a unix socket that QEMU joins to a port of the guest, answers by its script, and ends
//! with the guest. With a directory it is also a KBS, and writes there what the guest is to have.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use countersign_testbed::guest_signer::Signer;
use countersign_testbed::guest_signer::host::{For, Host, SECRETS};

const USAGE: &str =
    "usage: guest-signer SOCKET SCRIPT [DIRECTORY [SECRETS|peers]] (a script is such as `errno:16*3,snp`)";

// The arguments and the streams of a test program are its own.
#[allow(clippy::disallowed_methods, clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (socket, script, host) = match arguments.as_slice() {
        [socket, script] => (socket, script, None),
        [socket, script, directory] => (socket, script, Some((Path::new(directory), For::Secrets(SECRETS)))),
        [socket, script, directory, what] if what == "peers" => {
            (socket, script, Some((Path::new(directory), For::Peers)))
        }
        [socket, script, directory, secrets] => (socket, script, Some((Path::new(directory), For::Secrets(secrets)))),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match run(socket, script, host) {
        Ok(requests) => {
            eprintln!("guest-signer: {requests} requests by the last script");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("guest-signer: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &str, script: &str, host: Option<(&Path, For<'_>)>) -> Result<usize, String> {
    let (host, signer) = match host {
        None => (None, Signer::new(script.parse()?)),
        Some((directory, what)) => {
            let (host, signer) = Host::start(what).map_err(|error| format!("no KBS: {error}"))?;
            signer.set(script)?;
            host.lay_out(directory).map_err(|error| format!("cannot write to {}: {error}", directory.display()))?;
            (Some(host), signer)
        }
    };
    // Last: whoever waits for the socket finds the files.
    let listener = UnixListener::bind(socket).map_err(|error| format!("cannot listen on {socket}: {error}"))?;
    let (mut guest, _) = listener.accept().map_err(|error| format!("no guest came: {error}"))?;
    signer.serve(&mut guest).map_err(|error| format!("the guest's port: {error}"))?;
    drop(host);
    Ok(signer.requests())
}

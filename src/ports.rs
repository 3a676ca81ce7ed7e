//! The outside world, in one value.
//!
//! The shipped `main` is `run(Ports::real())`, which reads no override: no environment variable,
//! file or flag can point the shipped binary at another guest API, clock or file system. The
//! testbed builds a second program from the same library with [`Ports`] of its own.

pub mod files;
pub mod host;
#[cfg(test)]
pub(crate) mod testing;
pub mod tsm_fs;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::appraise::Makers;
use crate::clock::Clock;

/// Where api-server-rest listens in every CoCo guest. A literal address: names resolve through
/// files and servers that the control plane writes.
pub const GUEST_API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8006);

/// Called at each named step of publishing. The shipped one does nothing; the testbed's kills the
/// process at the step it was told.
pub type FailPoint = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Everything the program takes from outside itself.
#[derive(Clone)]
pub struct Ports {
    /// Program name and arguments, as typed.
    pub args: Vec<OsString>,
    /// The environment, copied once at start. Written by whoever writes the pod's manifest.
    pub env: BTreeMap<OsString, OsString>,
    /// The guest's REST service.
    pub guest_api: SocketAddr,
    /// The clock that dates receipts and judges certificates. Deadlines and waits use tokio's.
    pub clock: Clock,
    /// Fail points of publishing.
    pub fail: FailPoint,
    /// Where procfs is mounted (`/proc`).
    pub proc: PathBuf,
    /// Where sysfs is mounted (`/sys`).
    pub sys: PathBuf,
    /// The kernel's directory of reports, below `/sys/kernel/config`.
    pub tsm: Arc<dyn tsm_fs::TsmFs>,
    /// The makers of the hardware: those that come with the build. Only a simulated TEE has others.
    pub makers: Makers,
    /// Where initdata is mounted for us, if it is: fixed, never from configuration.
    pub initdata: PathBuf,
    /// The kubelet's termination message file.
    pub termination_log: PathBuf,
    /// Put before every line of a simulated run. `None` in the shipped binary.
    pub banner: Option<&'static str>,
}

impl Ports {
    /// The real world. Reads no override.
    #[allow(clippy::disallowed_methods)] // The one place that reads the process's surroundings.
    pub fn real() -> Self {
        Self {
            args: std::env::args_os().collect(),
            env: std::env::vars_os().collect(),
            guest_api: GUEST_API,
            clock: Clock::system(),
            fail: Arc::new(|_| {}),
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
            tsm: Arc::new(tsm_fs::RealFs::kernel()),
            makers: Makers::real(),
            initdata: PathBuf::from("/run/countersign/initdata"),
            termination_log: PathBuf::from("/dev/termination-log"),
            banner: None,
        }
    }

    /// Prints to standard output, the banner before every line. A closed pipe ends it quietly.
    pub fn say(&self, text: &str) {
        print_lines(&mut std::io::stdout().lock(), self.banner, text);
    }

    /// Writes to standard output exactly these bytes, for what another program reads. A closed pipe
    /// ends it quietly.
    pub fn write(&self, bytes: &[u8]) {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Prints to standard error, the banner before every line.
    pub fn say_err(&self, text: &str) {
        print_lines(&mut std::io::stderr().lock(), self.banner, text);
    }
}

fn print_lines(out: &mut dyn std::io::Write, banner: Option<&str>, text: &str) {
    for line in text.lines() {
        if writeln!(out, "{}{line}", banner.unwrap_or_default()).is_err() {
            break;
        }
    }
}

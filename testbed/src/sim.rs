//! `countersign-sim`: countersign with its outside world exchanged. It prints SIMULATED on every
//! line, is in no image, and carries a mark that must not be found in the shipped binary.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use countersign::appraise::{snp, tdx};
use countersign::clock::{Clock, boottime};
use countersign::ports::{FailPoint, Makers, Ports};
use rustix::process::Signal;

use crate::guest_signer::remote;
use crate::trespass;
use crate::tsm::FakeTsm;

/// Found in `countersign-sim`, never in `countersign`: a test looks for it in both.
pub const MARKER: &str = "countersign-sim/never-ship/7d1c0f3a-mark";

/// Put before every line.
pub const BANNER: &str = "SIMULATED: ";

/// In the directory of `--sim-makers`: the AMD-like root and what is below it, PEM.
pub const AMD: &str = "amd.pem";

/// In the directory of `--sim-makers`: the Intel-like root, PEM.
pub const INTEL: &str = "intel.pem";

/// `EX_USAGE` of sysexits(3), as the product's own.
const USAGE: u8 = 64;

const HELP: &str = "\
flags of countersign-sim, before or among countersign's own:
  --sim-guest-api ADDR        the guest's REST service, in place of 127.0.0.1:8006
  --sim-fail-at POINT[=HOW]   at this fail point of publishing: kill (the default: SIGKILL), stop
                              (SIGSTOP, to be looked at and continued), trespass (ask the kernel for
                              what no role needs, say what it answers, go on) or exec (another program)
  --sim-clock-offset SECONDS  move the wall clock; may be negative
  --sim-proc DIR              procfs, in place of /proc
  --sim-sys DIR               sysfs, in place of /sys
  --sim-initdata DIR          the mounted initdata, in place of /run/countersign/initdata
  --sim-tee SOCKET[=PROVIDER] configfs-tsm in process, with the reports of the signer that listens
                              there; PROVIDER is sev_guest (the default), tdx_guest or arm_cca_guest
  --sim-makers DIR            amd.pem and intel.pem: the hardware's roots, in place of the makers' own";

/// `countersign-sim`'s `main`: `typed` are its name and arguments.
pub fn main(typed: Vec<OsString>) -> ExitCode {
    // Printed so that it is in the binary for certain, and in the reader's mind too.
    eprintln!("{BANNER}this is {MARKER}; nothing it says is proof of anything");
    match ports(typed) {
        Ok(ports) => countersign::run(&ports),
        Err(problem) => {
            eprintln!("{BANNER}{problem}\n{HELP}");
            ExitCode::from(USAGE)
        }
    }
}

/// The outside world as the flags say. Flags that are not ours stay in `args`.
fn ports(typed: Vec<OsString>) -> Result<Ports, String> {
    let mut ports = Ports { args: Vec::new(), banner: Some(BANNER), ..Ports::real() };
    let mut typed = typed.into_iter();
    while let Some(arg) = typed.next() {
        let mut value = || {
            let text = typed.next().and_then(|value| value.into_string().ok());
            text.ok_or_else(|| format!("{} needs a value", arg.display()))
        };
        match arg.to_str() {
            Some("--sim-guest-api") => ports.guest_api = parse::<SocketAddr>(&value()?, "an address with a port")?,
            Some("--sim-fail-at") => ports.fail = fail_at(&value()?)?,
            Some("--sim-clock-offset") => {
                let seconds = parse::<i64>(&value()?, "a whole number of seconds")?;
                ports.clock = Clock::new(Arc::new(move || moved(seconds)), Arc::new(boottime));
            }
            Some("--sim-proc") => ports.proc = PathBuf::from(value()?),
            Some("--sim-sys") => ports.sys = PathBuf::from(value()?),
            Some("--sim-initdata") => ports.initdata = PathBuf::from(value()?),
            Some("--sim-tee") => ports.tsm = Arc::new(tee(&value()?)?),
            Some("--sim-makers") => ports.makers = makers(&PathBuf::from(value()?))?,
            Some(other) if other.starts_with("--sim-") => return Err(format!("{other} is not known")),
            _ => ports.args.push(arg),
        }
    }
    Ok(ports)
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not {what}"))
}

/// A simulated TEE: `SOCKET` or `SOCKET=PROVIDER`.
fn tee(text: &str) -> Result<FakeTsm, String> {
    let (socket, provider) = text.split_once('=').unwrap_or((text, "sev_guest"));
    remote::tsm(PathBuf::from(socket), provider).ok_or_else(|| format!("`{provider}` is no provider of reports"))
}

/// Roots of other makers than AMD and Intel, from the two files that [`AMD`] and [`INTEL`] name.
fn makers(directory: &Path) -> Result<Makers, String> {
    let read = |name| std::fs::read(directory.join(name)).map_err(|error| format!("{name} cannot be read: {error}"));
    let amd = snp::Roots::replaced(&read(AMD)?).map_err(|error| format!("{AMD}: the roots {error}"))?;
    let intel = tdx::Root::replaced(&read(INTEL)?).ok_or_else(|| format!("{INTEL} is not PEM with one certificate"))?;
    Ok(Makers { amd, intel })
}

fn fail_at(text: &str) -> Result<FailPoint, String> {
    let (point, how) = text.split_once('=').unwrap_or((text, "kill"));
    let signal = |signal| {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    };
    let act: fn(fn(Signal)) = match how {
        "kill" => |signal| signal(Signal::KILL),
        "stop" => |signal| signal(Signal::STOP),
        "trespass" => |_| trespass::all(),
        "exec" => |_| trespass::exec(),
        other => return Err(format!("`{other}` is no way to fail")),
    };
    let point = point.to_owned();
    Ok(Arc::new(move |reached| {
        if reached == point {
            act(signal);
        }
    }))
}

fn moved(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    let then = if seconds < 0 { now.checked_sub(by) } else { now.checked_add(by) };
    then.unwrap_or(SystemTime::UNIX_EPOCH)
}

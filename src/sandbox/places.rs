//! Files and TCP ports, by Landlock.
//!
//! What is handled and has no rule is refused with `EACCES`. Paths become descriptors when the rules are
//! made: what is mounted over a path later is another place, and refused. A place that does not exist
//! then has no rule.
//!
//! It holds for this thread and those it starts. Threads that are older are counted, and said.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::FileType;

use super::Outcome;

/// The newest ABI whose rights are handled: the newest that the tests run under. A right that nobody has
/// tried would show its mistake on the kernel that first has it, in production.
const KNOWN: ABI = ABI::V7;

/// What a role may still touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Read, files and what is below directories.
    pub read: Vec<PathBuf>,
    /// The directory that secrets are published in: made, written, renamed, linked, removed.
    pub publish: Option<PathBuf>,
    /// The kernel's reports: entries are made and removed, attributes read and written.
    pub reports: Option<PathBuf>,
    /// Devices that are asked by ioctl.
    pub devices: Vec<PathBuf>,
    /// Files that exist, and are written anew.
    pub write: Vec<PathBuf>,
    /// TCP ports that are called. Whose addresses they are is not for Landlock to say.
    pub connect: BTreeSet<u16>,
    /// Where procfs is: for counting threads.
    pub proc: PathBuf,
}

/// The rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The ABI that was applied: the kernel's, or the newest that we ask for where the kernel's is later.
    pub abi: u8,
    /// Rules for files and directories.
    pub paths: usize,
    /// TCP ports that may be called. None where the kernel has no rules for ports (before ABI 4).
    pub ports: Option<usize>,
    /// Threads that began before, and are not held.
    pub older: usize,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ABI {}, {} rules for paths", self.abi, self.paths)?;
        match self.ports {
            Some(ports) => write!(f, ", {ports} ports to call, none to bind")?,
            None => f.write_str(", no rules for ports")?,
        }
        if self.abi < SCOPES {
            f.write_str(", none for signals")?;
        }
        match self.older {
            0 => Ok(()),
            older => write!(f, "; {older} older threads are held by the list of calls only"),
        }
    }
}

/// First ABI with rules for TCP ports (Linux 6.7), and for abstract sockets and signals (6.12).
const PORTS: u8 = 4;
const SCOPES: u8 = 6;

/// Applies the rules to this thread. Every port is to be bound before: none can be bound after.
pub fn restrict(places: &Places) -> Outcome<Held> {
    let older = threads(&places.proc).saturating_sub(1);
    match apply(places) {
        Ok((status, paths)) => judge(&status, places, paths, older),
        Err(_) => Outcome::Off("the kernel did not take the rules"),
    }
}

fn judge(status: &RestrictionStatus, places: &Places, paths: usize, older: usize) -> Outcome<Held> {
    let abi = match status.landlock {
        LandlockStatus::NotEnabled => return Outcome::Off("Landlock is not enabled in this kernel"),
        LandlockStatus::NotImplemented => {
            return Outcome::Off("this kernel has no Landlock, or the container runtime hides it");
        }
        LandlockStatus::Available { effective_abi, .. } => number(effective_abi.min(KNOWN)),
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Outcome::Off("the kernel enforces none of the rules");
    }
    Outcome::On(Held { abi, paths, ports: (abi >= PORTS).then_some(places.connect.len()), older })
}

fn apply(places: &Places) -> Result<(RestrictionStatus, usize), RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    let mut paths = 0;
    for (place, access) in places.all() {
        // What is not there can be neither read nor written.
        let Ok(fd) = PathFd::new(place) else { continue };
        // A right that only directories have is an error on a file.
        let directory =
            rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let access = if directory { access } else { access & AccessFs::from_file(KNOWN) };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
        paths += 1;
    }
    for port in &places.connect {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok((rules.restrict_self()?, paths))
}

impl Places {
    /// Every place with its rights.
    fn all(&self) -> impl Iterator<Item = (&Path, BitFlags<AccessFs>)> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let write = make_bitflags!(AccessFs::{WriteFile | Truncate});
        let reports = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeDir | RemoveDir});
        let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        let publish = make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeDir | MakeReg | MakeSym | RemoveDir | RemoveFile
        });
        let read = self.read.iter().map(move |place| (place, read));
        let write = self.write.iter().map(move |place| (place, write));
        let devices = self.devices.iter().map(move |place| (place, device));
        let reports = self.reports.iter().map(move |place| (place, reports));
        let publish = self.publish.iter().map(move |place| (place, publish));
        let all = read.chain(write).chain(devices).chain(reports).chain(publish);
        all.map(|(place, access)| (place.as_path(), access))
    }
}

fn number(abi: ABI) -> u8 {
    match abi {
        ABI::Unsupported => 0,
        ABI::V1 => 1,
        ABI::V2 => 2,
        ABI::V3 => 3,
        ABI::V4 => 4,
        ABI::V5 => 5,
        ABI::V6 => 6,
        // Never asked for more: see `KNOWN`.
        _ => 7,
    }
}

/// How many threads this process has. One where procfs does not say.
fn threads(proc: &Path) -> usize {
    std::fs::read_dir(proc.join("self/task")).map_or(1, Iterator::count)
}

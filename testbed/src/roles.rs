//! The helpers that any test binary can play when it is started again with `--testbed-role=…`, so
//! that no other program has to be found, built first, or readable by another user.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{sandbox, sim, world};

/// Holds a world open.
pub(crate) const HOLDER: &str = "--testbed-role=netns-holder";
/// Enters a world, becomes somebody, runs a command.
pub(crate) const ENTER: &str = "--testbed-role=enter";
/// Is `countersign-sim`.
pub(crate) const SIM: &str = "--testbed-role=countersign-sim";

/// Plays the role that the first argument names, if it names one. Call it first in `main`: some
/// roles need a process with one thread.
pub fn play() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    args.next()?;
    let role = args.next()?;
    if role == HOLDER {
        Some(world::holder_main())
    } else if role == ENTER {
        Some(enter(&args.collect::<Vec<_>>()))
    } else if role == SIM {
        let mut typed = vec![OsString::from("countersign-sim")];
        typed.extend(args);
        Some(sim::main(typed))
    } else {
        None
    }
}

/// How a command runs inside a world. Travels as one JSON argument.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Who {
    /// The process whose namespaces to enter; none for the host world.
    pub(crate) holder: Option<i32>,
    /// User and group to become.
    pub(crate) ids: Option<(u32, u32)>,
    /// Supplementary groups to hold, with `ids`.
    pub(crate) groups: Vec<u32>,
    /// Give up every capability, as `drop: [ALL]` does.
    pub(crate) no_capabilities: bool,
    /// Be refused a sandbox of its own.
    pub(crate) no_sandbox: bool,
}

/// Exit code of the role when the command could not be started, as of `env` and shells.
const NOT_STARTED: u8 = 126;

fn enter(args: &[OsString]) -> ExitCode {
    let [who, program, rest @ ..] = args else { return ExitCode::from(NOT_STARTED) };
    let became = serde_json::from_str::<Who>(&who.to_string_lossy())
        .map_err(std::io::Error::from)
        .and_then(|who| become_somebody(&who));
    if let Err(error) = became {
        eprintln!("testbed: cannot become whom the test asked for: {error}");
        return ExitCode::from(NOT_STARTED);
    }
    let error = Command::new(program).args(rest).exec();
    eprintln!("testbed: cannot start {}: {error}", OsStr::new(program).display());
    ExitCode::from(NOT_STARTED)
}

fn become_somebody(who: &Who) -> std::io::Result<()> {
    if let Some(holder) = who.holder {
        // The working directory does not survive a change of mount namespace.
        let here = std::env::current_dir();
        world::enter(holder)?;
        if let Ok(here) = here {
            let _ = std::env::set_current_dir(here);
        }
    }
    if who.no_capabilities || who.ids.is_some() {
        empty_the_bounding_set()?;
    }
    if let Some((uid, gid)) = who.ids {
        let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    if who.no_capabilities || who.ids.is_some() {
        rustix::thread::clear_ambient_capability_set()?;
        let none = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    }
    if who.no_sandbox {
        sandbox::forbid()?;
    }
    Ok(())
}

fn empty_the_bounding_set() -> std::io::Result<()> {
    // SETPCAP is the right to do this: it goes last.
    let others = CapabilitySet::all().iter().filter(|one| *one != CapabilitySet::SETPCAP);
    for capability in others.chain([CapabilitySet::SETPCAP]) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // INVAL: this kernel does not know the capability. PERM: we have no SETPCAP, so exec
            // gives nothing to an ordinary user anyway, and root without it asked in vain.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

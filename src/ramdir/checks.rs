//! What `diagnose` asks about the destination. Proves what [`RamDir::prove`] proves, and makes nothing.

use std::path::Path;

use rustix::fs::{Access, AtFlags};

use super::{Error, Needs, RamDir, Us, failed, memory, room, walk};
use crate::check::{Check, Outcome};

/// Whether secrets may be written there.
pub const DESTINATION: Check = Check::new(
    "destination.memory",
    "is the secrets' directory memory, and ours",
    "what can be swapped, or written by others, is no place for a secret",
)
.needs(&["config.document", "config.delivered"])
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&DESTINATION]
}

/// Judges the directory for a set of this size. Where it does not exist yet, the place where it would be made.
pub fn destination(directory: &Path, needs: &Needs<'_>, proc: &Path) -> Outcome {
    match look(directory, needs, proc) {
        Ok(saw) => Outcome::Pass(saw),
        Err(error) => Outcome::Fail(error.finding()),
    }
}

fn look(directory: &Path, needs: &Needs<'_>, proc: &Path) -> Result<String, Error> {
    let found = walk::open(directory)?;
    if found.missing.is_empty() {
        return Ok(RamDir::prove(directory, needs, proc)?.describe().to_string());
    }
    let us = Us::now()?;
    let mount = memory(&found.end, directory, proc)?;
    found.above.iter().chain([&found.end]).try_for_each(|node| us.trusts(node))?;
    room(&found.end.fd, &mount, needs.load())?;
    rustix::fs::accessat(&found.end.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(failed("make a directory in", &found.end.path))?;
    Ok(format!("{mount}; {} will be made", directory.display()))
}

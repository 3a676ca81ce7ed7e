//! Publishing a set: a fresh directory, then one rename of one link.
//!
//! ```text
//! ..set-5f…/            a set, written in full before anybody can see it
//! ..data -> ..set-5f…   which set is current; replaced by rename, so never absent
//! db -> ..data/db       what readers open
//! ```
//!
//! The kubelet publishes `ConfigMap` and `Secret` volumes the same way. A process killed at any step leaves
//! the old set or the new set current, and at worst a stale set, which the next publication
//! removes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::error::{Error, failed, shown};
use super::judge::Standing;
use super::set::{self, Plan};
use super::{Entry, PRIVATE, Published, RamDir};
use crate::config::types::RECEIPT;
use crate::ports::FailPoint;

/// Every step of [`RamDir::publish`] and [`RamDir::publish_one`] at which the fail point is called,
/// in order. Steps of files come once for each file.
pub const FAIL_POINTS: &[&str] = &[
    "publish:locked",
    "publish:swept",
    "publish:set-made",
    "publish:directories-made",
    "publish:file-created",
    "publish:file-written",
    "publish:file-done",
    "publish:set-written",
    "publish:link-made",
    "publish:links-made",
    "publish:swap-ready",
    "publish:swapped",
    "publish:links-tidied",
    "publish:done",
];

/// The link that says which set is current.
const DATA: &str = "..data";

/// The same link before it is renamed into place.
const DATA_TMP: &str = "..data_tmp";

/// What names of sets begin with.
const SET: &str = "..set-";

/// Bytes of randomness in a set's name: 128 bits do not repeat.
const NAME_BYTES: usize = 16;

/// Most bytes of a receipt that are read: 256 files of 512 bytes of path have 200 KiB.
const MAX_RECEIPT: u64 = 512 * 1024;

/// How often the receipt is looked for where sets replace each other: two publications in the
/// microseconds of one read do not happen.
const RECEIPT_TRIES: u32 = 3;

/// How often a held lock is tried, and how long between tries: a second together. A publication
/// takes milliseconds; who holds it longer hangs.
const LOCK_TRIES: u32 = 20;
/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(50);

impl RamDir {
    /// Makes `set` and the receipt the one set that is visible, or leaves what was visible as it
    /// was and says why. The proof is made again first.
    ///
    /// A set that stands there already, with the same content, modes and owners, is left alone.
    pub fn publish(&self, set: &[Entry<'_>], receipt: &[u8], fail: &FailPoint) -> Result<Published, Error> {
        let step = |name| fail(name);
        self.recheck()?;
        let plan = Plan::new(self, set, receipt)?;
        let data = self.data()?;
        let _lock = lock(data, &self.data_path())?;
        step("publish:locked");
        let tops = plan.tops();
        for top in &tops {
            self.link_stands(top)?;
        }
        let current = self.current()?;
        self.sweep(current.as_deref())?;
        step("publish:swept");
        let standing = current.as_deref().and_then(|name| set::open_dir(data, name).ok());
        if standing.is_some_and(|standing| plan.stands_in(&standing)) {
            self.make_links(&tops, &step)?;
            let left_behind = self.tidy_links(&tops).is_err();
            step("publish:done");
            return Ok(Published { files: set.len(), unchanged: true, left_behind });
        }
        super::room(data, &self.mount, plan.load())?;
        let name = random_name(SET)?;
        if let Err(error) = self.write_and_swap(&name, &plan, &tops, &step) {
            self.undo(&name, current.as_deref());
            return Err(error);
        }
        step("publish:swapped");
        let tidied = self.tidy_links(&tops);
        step("publish:links-tidied");
        let swept = self.sweep(Some(&name));
        step("publish:done");
        Ok(Published { files: set.len(), unchanged: false, left_behind: tidied.is_err() || swept.is_err() })
    }

    fn write_and_swap(
        &self,
        name: &str,
        plan: &Plan<'_>,
        tops: &BTreeSet<&str>,
        step: &dyn Fn(&'static str),
    ) -> Result<(), Error> {
        let (data, place) = (self.data()?, self.data_path());
        let path = place.join(name);
        let set = set::make_dir(data, name, self.gid).map_err(failed("create", &path))?;
        step("publish:set-made");
        plan.write(&set, &path, step)?;
        step("publish:set-written");
        // Before the swap: they dangle until it, so that the first publication is one step too.
        self.make_links(tops, step)?;
        rustix::fs::symlinkat(name, data, DATA_TMP).map_err(failed("create", &place.join(DATA_TMP)))?;
        rustix::fs::fsync(data).map_err(failed("fsync", &place))?;
        step("publish:swap-ready");
        rustix::fs::renameat(data, DATA_TMP, data, DATA).map_err(failed("replace", &place.join(DATA)))
    }

    /// Takes back what a failed publication has made. What cannot be taken back now is swept by
    /// the next one; the error that led here is the one to report.
    fn undo(&self, name: &str, current: Option<&str>) {
        let (Ok(data), place) = (self.data(), self.data_path()) else { return };
        let _ = set::remove(data, DATA_TMP, &place);
        let _ = set::remove(data, name, &place);
        let old = current.and_then(|name| set::open_dir(data, name).ok()).map(set::names);
        let names = match old {
            None => Vec::new(),
            Some(Ok(names)) => names,
            // Without knowing the old names no link may be removed.
            Some(Err(_)) => return,
        };
        let keep = names.iter().filter_map(|name| name.to_str().ok()).collect();
        let _ = self.tidy_links(&keep);
    }

    /// The receipt of the set that stands, at most 512 KiB of it. `None` where there is no set.
    pub fn receipt(&self) -> Result<Option<Vec<u8>>, Error> {
        self.receipt_beside(&mut || {})
    }

    /// The same, where `others` work between the look at a set and its opening.
    pub(super) fn receipt_beside(&self, others: &mut dyn FnMut()) -> Result<Option<Vec<u8>>, Error> {
        // Asking must not make our own directory.
        let Some(data) = self.data.get() else { return Ok(None) };
        let mut before = None;
        for _ in 0..RECEIPT_TRIES {
            let current = self.current()?;
            // One that was replaced while it was opened is gone, and another one stands.
            if current.is_none() || current == before {
                return Ok(None);
            }
            others();
            let read = current.as_deref().and_then(|name| read_receipt(data, name));
            if read.is_some() {
                return Ok(read);
            }
            before = current;
        }
        Ok(None)
    }

    /// Which set is current, if one is.
    fn current(&self) -> Result<Option<String>, Error> {
        let path = self.data_path().join(DATA);
        match self.link_target(self.data()?, DATA, &path)? {
            None => Ok(None),
            Some(target) if is_set(&target) => Ok(Some(target)),
            Some(_) => Err(Error::Occupied { path: shown(&path), what: "a symbolic link to somewhere else" }),
        }
    }

    /// Removes every set but the current one, and the unfinished link.
    fn sweep(&self, current: Option<&str>) -> Result<(), Error> {
        let (data, place) = (self.data()?, self.data_path());
        for name in set::names(data).map_err(failed("list", &place))? {
            let Ok(name) = name.to_str() else { continue };
            if name == DATA_TMP || (is_set(name) && Some(name) != current) {
                set::remove(data, name, &place)?;
            }
        }
        Ok(())
    }

    /// Makes the links that are missing.
    fn make_links(&self, tops: &BTreeSet<&str>, step: &dyn Fn(&'static str)) -> Result<(), Error> {
        for top in tops {
            if !self.link_stands(top)? {
                let made = rustix::fs::symlinkat(self.link_text(top), &self.root, *top);
                made.map_err(failed("create", &self.path.join(top)))?;
                step("publish:link-made");
            }
        }
        rustix::fs::fsync(&self.root).map_err(failed("fsync", &self.path))?;
        step("publish:links-made");
        Ok(())
    }

    /// Removes links of ours to names that are not in `keep`.
    fn tidy_links(&self, keep: &BTreeSet<&str>) -> Result<(), Error> {
        for name in set::names(&self.root).map_err(failed("list", &self.path))? {
            let Ok(name) = name.to_str() else { continue };
            if !name.starts_with("..") && !keep.contains(name) && matches!(self.link_stands(name), Ok(true)) {
                let gone = rustix::fs::unlinkat(&self.root, name, AtFlags::empty());
                gone.map_err(failed("remove", &self.path.join(name)))?;
            }
        }
        Ok(())
    }

    /// Whether the link for a name is there. Anything else of that name is in the way.
    fn link_stands(&self, top: &str) -> Result<bool, Error> {
        let path = self.path.join(top);
        match self.link_target(&self.root, top, &path)? {
            None => Ok(false),
            Some(target) if target == self.link_text(top) => Ok(true),
            Some(_) => Err(Error::Occupied { path: shown(&path), what: "a symbolic link to somewhere else" }),
        }
    }

    /// Where a link of ours points. `None` where there is nothing of that name.
    fn link_target(&self, parent: &OwnedFd, name: &str, path: &Path) -> Result<Option<String>, Error> {
        let occupied = |what| Err(Error::Occupied { path: shown(path), what });
        let stat = match set::stat(parent, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("stat", path)(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if stat.st_uid != self.us.uid => occupied("a symbolic link of another user"),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(failed("read", path))?;
                // Our own targets are ASCII; any other is not ours, and is not compared further.
                Ok(Some(target.into_string().unwrap_or_default()))
            }
            FileType::Directory => occupied("a directory, not a link of ours"),
            FileType::RegularFile => occupied("a file, not a link of ours"),
            _ => occupied("not a link of ours"),
        }
    }

    /// What the link for a name says.
    fn link_text(&self, top: &str) -> String {
        match self.standing {
            Standing::Ours => format!("{DATA}/{top}"),
            Standing::Shared => format!("{PRIVATE}/{DATA}/{top}"),
        }
    }

    /// The path of the directory that holds the sets, for messages.
    fn data_path(&self) -> PathBuf {
        match self.standing {
            Standing::Ours => self.path.clone(),
            Standing::Shared => self.path.join(PRIVATE),
        }
    }
}

/// What stands as the receipt in one set. `None` where there is no such file, or no such set any more.
fn read_receipt(data: &OwnedFd, set: &str) -> Option<Vec<u8>> {
    let standing = set::open_dir(data, set).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(&standing, RECEIPT, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX_RECEIPT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Locks a directory until the descriptor is dropped, or the process dies.
pub(super) fn lock(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    // A descriptor of its own: two threads with one `RamDir` exclude each other too.
    let fd = set::open_dir(dir, ".").map_err(failed("open", path))?;
    for attempt in 1..=LOCK_TRIES {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(Errno::WOULDBLOCK | Errno::INTR) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK | Errno::INTR) => break,
            Err(errno) => return Err(failed("lock", path)(errno)),
        }
    }
    Err(Error::Locked { path: shown(path) })
}

/// A name that nobody can foresee or has used.
pub(super) fn random_name(prefix: &str) -> Result<String, Error> {
    let mut bytes = [0_u8; NAME_BYTES];
    let cannot = || failed("draw a random name for", Path::new(prefix));
    loop {
        match rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(NAME_BYTES) => break,
            Ok(_) => return Err(cannot()(Errno::IO)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(cannot()(errno)),
        }
    }
    let mut name = prefix.to_owned();
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

/// Whether a name is one that we give to sets.
fn is_set(name: &str) -> bool {
    is_random_name(name, SET)
}

/// Whether [`random_name`] could have made this of `prefix`.
pub(super) fn is_random_name(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|hex| {
        hex.len() == NAME_BYTES * 2 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

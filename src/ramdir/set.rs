//! One set of files on disk: planning, writing, comparing, removing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::{Error, failed, shown};
use super::judge::Load;
use super::walk::{DIR_MODE, O_DIR, settle};
use super::{Entry, FILE_MODE, RamDir};
use crate::config::types::RECEIPT;

/// Most names read of one directory. A set of ours has as many as the configuration has files;
/// this bounds what others can make us do.
const MAX_NAMES: usize = 65_536;

/// Deepest nesting that is followed: a path of 512 bytes has at most 256 components.
const MAX_DEPTH: usize = 256;

/// Longest name whose link certainly takes no block of its own on tmpfs, bytes. The kernel keeps
/// targets up to 128 bytes in the inode; ours are the name and at most 22 bytes.
const SHORT_LINK: usize = 100;

/// A file as it is to stand on disk.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    bytes: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A set as it is to stand on disk, receipt included, checked to be possible.
pub(super) struct Plan<'a> {
    files: BTreeMap<&'a str, Item<'a>>,
    /// Directories in the set. In this order parents come before what is in them.
    dirs: BTreeSet<&'a str>,
    uid: u32,
    gid: u32,
}

impl<'a> Plan<'a> {
    /// Resolves owners and groups, and refuses sets that cannot be.
    pub(super) fn new(dir: &RamDir, set: &[Entry<'a>], receipt: &'a [u8]) -> Result<Self, Error> {
        let mut plan = Plan { files: BTreeMap::new(), dirs: BTreeSet::new(), uid: dir.us.uid, gid: dir.gid };
        for entry in set {
            plan.add(entry.path.as_str(), item(dir, entry)?)?;
        }
        plan.add(RECEIPT, Item { bytes: receipt, mode: FILE_MODE, uid: dir.us.uid, gid: dir.gid })?;
        for path in plan.files.keys() {
            for (end, _) in path.match_indices('/') {
                let above = path.get(..end).unwrap_or_default();
                if plan.files.contains_key(above) {
                    return Err(Error::Conflict { first: above.to_owned(), second: (*path).to_owned() });
                }
                plan.dirs.insert(above);
            }
        }
        Ok(plan)
    }

    fn add(&mut self, path: &'a str, item: Item<'a>) -> Result<(), Error> {
        if self.files.insert(path, item).is_some() {
            return Err(Error::Conflict { first: path.to_owned(), second: path.to_owned() });
        }
        Ok(())
    }

    /// The names that readers see in the directory.
    pub(super) fn tops(&self) -> BTreeSet<&'a str> {
        self.files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect()
    }

    /// What the set takes: files, directories, the set's own directory, links, and the link that
    /// is renamed.
    pub(super) fn load(&self) -> Load {
        let tops = self.tops();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let long = tops.iter().filter(|top| top.len() > SHORT_LINK).count();
        Load {
            inodes: count(self.files.len() + self.dirs.len() + tops.len() + 2),
            bytes: self.files.values().fold(0, |sum, item| sum.saturating_add(count(item.bytes.len()))),
            files: count(self.files.len() + long),
        }
    }

    /// Writes everything into the set's own, empty directory. Paths are resolved relative to it:
    /// nobody else can write below a fresh directory of mode 0750 of ours.
    pub(super) fn write(&self, set: &OwnedFd, shown: &Path, fail: &dyn Fn(&'static str)) -> Result<(), Error> {
        for dir in &self.dirs {
            make_dir(set, dir, self.gid).map_err(failed("create", &shown.join(dir)))?;
        }
        fail("publish:directories-made");
        for (path, item) in &self.files {
            write_file(set, path, item, fail).map_err(|(step, errno)| failed(step, &shown.join(path))(errno))?;
        }
        for dir in &self.dirs {
            open_dir(set, dir).and_then(rustix::fs::fsync).map_err(failed("fsync", &shown.join(dir)))?;
        }
        rustix::fs::fsync(set).map_err(failed("fsync", shown))
    }

    /// Whether the directory holds exactly this set: names, content, modes, owners. The receipt's
    /// content is not compared, it tells the time. What cannot be read is not the same.
    pub(super) fn stands_in(&self, set: &OwnedFd) -> bool {
        let as_made = |stat: Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && stat.st_mode & 0o777 == DIR_MODE
                && (stat.st_uid, stat.st_gid) == (self.uid, self.gid)
        };
        let same_dir = |dir: &&str| stat(set, dir).is_ok_and(as_made);
        let same_file = |(path, item): (&&str, &Item<'_>)| same_file(set, path, item, *path != RECEIPT);
        rustix::fs::fstat(set).is_ok_and(as_made)
            && self.dirs.iter().all(same_dir)
            && self.files.iter().all(same_file)
            && count(set, 0).is_ok_and(|found| found == self.files.len() + self.dirs.len())
    }
}

/// Checks one entry and fills in who is to own it.
pub(super) fn item<'a>(dir: &RamDir, entry: &Entry<'a>) -> Result<Item<'a>, Error> {
    let refuse = |problem| Err(Error::Entry { path: entry.path.to_string(), problem });
    if entry.mode & !0o777 != 0 || entry.mode & 0o002 != 0 {
        return refuse("has a mode with other than permission bits, or is writable for others");
    }
    // chown reads the last number as "leave it".
    if entry.owner == Some(u32::MAX) || entry.group == Some(u32::MAX) {
        return refuse("has the owner or group 4294967295, which is not an id");
    }
    dir.may_give(entry.owner.as_slice(), entry.group.as_slice())?;
    let (uid, gid) = (entry.owner.unwrap_or(dir.us.uid), entry.group.unwrap_or(dir.gid));
    Ok(Item { bytes: entry.bytes, mode: entry.mode, uid, gid })
}

/// Makes a directory of ours.
pub(super) fn make_dir(parent: &OwnedFd, name: &str, gid: u32) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(DIR_MODE))?;
    let fd = open_dir(parent, name)?;
    settle(&fd, Some(gid))?;
    Ok(fd)
}

/// Opens a directory for listing, not through a link.
pub(super) fn open_dir(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, O_DIR, Mode::empty())
}

/// What a name is, not through a link.
pub(super) fn stat(parent: impl AsFd, name: &str) -> Result<Stat, Errno> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Writes a new file; the error names the step.
///
/// The file is 0600 until it is whole. The mode is set before the owner: afterwards it would no
/// longer be ours to set.
pub(super) fn write_file(
    parent: &OwnedFd,
    path: &str,
    item: &Item<'_>,
    fail: &dyn Fn(&'static str),
) -> Result<(), (&'static str, Errno)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| ("create", errno))?;
    fail("publish:file-created");
    let mut file = File::from(fd);
    file.write_all(item.bytes).map_err(|error| ("write", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    fail("publish:file-written");
    let made = rustix::fs::fstat(&file).map_err(|errno| ("stat", errno))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(item.mode)).map_err(|errno| ("set the mode of", errno))?;
    let owner = (made.st_uid != item.uid).then(|| Uid::from_raw(item.uid));
    let group = (made.st_gid != item.gid).then(|| Gid::from_raw(item.gid));
    if owner.is_some() || group.is_some() {
        rustix::fs::fchown(&file, owner, group).map_err(|errno| ("set the owner of", errno))?;
    }
    rustix::fs::fsync(&file).map_err(|errno| ("fsync", errno))?;
    fail("publish:file-done");
    Ok(())
}

/// Whether a file stands there as it is to be.
pub(super) fn same_file(parent: &OwnedFd, path: &str, item: &Item<'_>, content: bool) -> bool {
    // Nonblocking, so that a pipe of that name does not hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(parent, path, flags, Mode::empty()) else { return false };
    let Ok(stat) = rustix::fs::fstat(&fd) else { return false };
    let size = u64::try_from(stat.st_size).ok();
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o7777 == item.mode
        && (stat.st_uid, stat.st_gid) == (item.uid, item.gid)
        && (!content || (size == u64::try_from(item.bytes.len()).ok() && same_content(fd, item.bytes)))
}

fn same_content(fd: OwnedFd, wanted: &[u8]) -> bool {
    let mut file = File::from(fd);
    // Wiped: it holds what is a secret already.
    let mut buffer = Zeroizing::new([0_u8; 4096]);
    for chunk in wanted.chunks(4096) {
        let Some(part) = buffer.get_mut(..chunk.len()) else { return false };
        if file.read_exact(part).is_err() || part != chunk {
            return false;
        }
    }
    matches!(file.read(buffer.as_mut_slice()), Ok(0))
}

/// The names in a directory, without `.` and `..`.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        if names.len() == MAX_NAMES {
            return Err(Errno::OVERFLOW);
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// How many names are in a directory and below it.
fn count(dir: &OwnedFd, depth: usize) -> Result<usize, Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::OVERFLOW);
    }
    let mut total = 0_usize;
    for name in names(dir)? {
        total += 1;
        match rustix::fs::openat(dir, &name, O_DIR, Mode::empty()) {
            Ok(below) => total += count(&below, depth + 1)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(total)
}

/// Removes a name and all that is below it, following no link.
pub(super) fn remove(parent: &OwnedFd, name: &str, place: &Path) -> Result<(), Error> {
    let path = place.join(name);
    let name = CString::new(name).map_err(|_| failed("remove", &path)(Errno::INVAL))?;
    match remove_below(parent, &name, 0) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::OVERFLOW) => Err(Error::TooMuch { path: shown(&path) }),
        Err(errno) => Err(failed("remove", &path)(errno)),
    }
}

fn remove_below(parent: &OwnedFd, name: &CString, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::OVERFLOW);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let dir = rustix::fs::openat(parent, name, O_DIR, Mode::empty())?;
    for inner in names(&dir)? {
        remove_below(&dir, &inner, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

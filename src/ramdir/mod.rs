//! Proving that a directory is memory, and publishing files in it all at once.
//!
//! [`RamDir::prove`] is the only maker of a [`RamDir`], and only a `RamDir` can publish: code that
//! forgot the proof does not compile. Nothing is fetched before the proof, and the proof is made
//! again at each publication. What is proven, and the layout on disk, stand in
//! `docs/publishing.md`.
//!
//! Everything here is synchronous: tmpfs does not wait for a device.

pub mod checks;
mod error;
mod judge;
mod one;
mod proc;
mod publish;
mod set;
mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, StatVfsMountFlags};
use rustix::process::{getegid, geteuid, getgroups};

use crate::config::RelativePath;
use crate::finding::printable;
use error::{failed, shown};
use judge::{Load, Ram, Space, Standing, Unfit};
use walk::{Node, O_DIR, Walk};

pub use error::Error;
pub use publish::FAIL_POINTS;

/// Our directory in a shared root, and with it the place of the sets there.
const PRIVATE: &str = "..countersign";

/// Mode of a file for which none is configured, and of the receipt: the owner and the directory's
/// group read, nobody writes.
pub const FILE_MODE: u32 = 0o440;

/// What is to be published later, as far as it is known before anything is fetched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// How many files.
    pub files: usize,
    /// How many bytes they have together, at least. The exact room is checked at publication.
    pub bytes: u64,
    /// The uids that files are to be given to.
    pub owners: &'a [u32],
    /// The gids that files are to be given to.
    pub groups: &'a [u32],
}

/// One file of a set. No `Debug`: it holds a secret.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Below the directory.
    pub path: &'a RelativePath,
    /// The content.
    pub bytes: &'a [u8],
    /// Permission bits, at most 0777, not writable for others.
    pub mode: u32,
    /// Owner; ours where absent.
    pub owner: Option<u32>,
    /// Group; the directory's where absent.
    pub group: Option<u32>,
}

/// What a publication did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// How many files stand there now, without the receipt.
    pub files: usize,
    /// The same set stood there already and was left alone.
    pub unchanged: bool,
    /// The set is published, but an older one or an obsolete link could not be removed. The next
    /// publication tries again. Worth a warning.
    pub left_behind: bool,
}

/// A directory that has been proven to be memory and ours.
///
/// Holds it open; all that is written is written relative to that descriptor.
#[derive(Debug)]
pub struct RamDir {
    path: PathBuf,
    proc: PathBuf,
    mount: Mount,
    end: Node,
    /// The directory itself, readable.
    root: OwnedFd,
    /// Where the sets are: the directory itself, or [`PRIVATE`] in it. Not there before a set is
    /// published: one file alone (`get`) needs none, and a refusal must leave nothing behind.
    data: OnceLock<OwnedFd>,
    standing: Standing,
    us: Us,
    /// Group of files for which none is configured.
    gid: u32,
}

/// The mount that a directory is on. `Display` is for logs: mount point and file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    point: String,
    ram: Ram,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.ram.word(), self.point)
    }
}

impl RamDir {
    /// Proves `directory`, an absolute path, and opens it. Missing directories at its end are made
    /// with mode 0750, once what they are made in is proven.
    ///
    /// `proc` is where procfs is mounted. Nothing else is written.
    pub fn prove(directory: &Path, needs: &Needs<'_>, proc: &Path) -> Result<Self, Error> {
        let us = Us::now()?;
        let Walk { mut end, above, missing } = walk::open(directory)?;
        let mut mount = memory(&end, directory, proc)?;
        let made = !missing.is_empty();
        above.iter().try_for_each(|node| us.trusts(node))?;
        for name in missing {
            us.trusts(&end)?;
            end = walk::make(&end, &name)?;
        }
        if made {
            mount = memory(&end, directory, proc)?;
        }
        let standing = end.access.as_destination(us.uid).map_err(|unfit| us.refuses(&end, unfit))?;
        room(&end.fd, &mount, needs.load())?;
        let root = readable(&end)?;
        let setgid = end.access.mode & 0o2000 != 0;
        let (data, setgid, group) = match standing {
            Standing::Ours => (root.try_clone().map_err(|error| cannot_open(&end, error))?.into(), setgid, end.gid),
            Standing::Shared => match walk::existing(&end, Path::new(PRIVATE))? {
                Some(own) => (readable(private(&end, &own, &us)?)?.into(), true, own.gid),
                // Made later, it will have the group that the kernel gives to what we make.
                None => (OnceLock::new(), true, if setgid { end.gid } else { us.gid }),
            },
        };
        let gid = if setgid || us.member(group) || proc::may_chown(proc)? { group } else { us.gid };
        let dir = Self { path: directory.to_owned(), proc: proc.to_owned(), mount, end, root, data, standing, us, gid };
        dir.may_give(needs.owners, needs.groups)?;
        Ok(dir)
    }

    /// Proves it again: the path still leads to the same directory, which is still memory that
    /// cannot be swapped, writable and ours. Does not ask for room: [`RamDir::publish`] does, for
    /// the set it is given.
    pub fn recheck(&self) -> Result<(), Error> {
        let walk = walk::open(&self.path)?;
        let same =
            walk.missing.is_empty() && walk.end.identity == self.end.identity && walk.end.mount == self.end.mount;
        if !same {
            return Err(Error::Moved { path: shown(&self.path) });
        }
        memory(&walk.end, &self.path, &self.proc)?;
        walk.above.iter().try_for_each(|node| self.us.trusts(node))?;
        match walk.end.access.as_destination(self.us.uid) {
            Ok(standing) if standing == self.standing => Ok(()),
            Ok(_) => Err(Error::Moved { path: shown(&self.path) }),
            Err(unfit) => Err(self.us.refuses(&walk.end, unfit)),
        }
    }

    /// Where the sets are; in a shared root our own directory, made if need be.
    fn data(&self) -> Result<&OwnedFd, Error> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let own = walk::make(&self.end, Path::new(PRIVATE))?;
        let data = readable(private(&self.end, &own, &self.us)?)?;
        Ok(self.data.get_or_init(|| data))
    }

    /// The mount that the directory is on, for logs.
    pub fn describe(&self) -> &Mount {
        &self.mount
    }

    /// Whether the process may give files to these ids.
    fn may_give(&self, owners: &[u32], groups: &[u32]) -> Result<(), Error> {
        let refuse = |kind, id| Err(Error::Chown { kind, id, us: self.us.uid });
        let owner = owners.iter().find(|id| **id != self.us.uid);
        let group = groups.iter().find(|id| **id != self.gid && !self.us.member(**id));
        // Asked only where it matters: a set that gives nothing away needs no procfs for this.
        if (owner.is_some() || group.is_some()) && !proc::may_chown(&self.proc)? {
            return match (owner, group) {
                (Some(id), _) => refuse("uid", *id),
                (None, Some(id)) => refuse("gid", *id),
                (None, None) => Ok(()),
            };
        }
        Ok(())
    }
}

impl Needs<'_> {
    fn load(&self) -> Load {
        let files = u64::try_from(self.files).unwrap_or(u64::MAX);
        Load { inodes: files, bytes: self.bytes, files }
    }
}

/// Who this process is.
#[derive(Debug)]
struct Us {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Us {
    fn now() -> Result<Self, Error> {
        let groups = getgroups().map_err(failed("list the groups of", Path::new("this process")))?;
        Ok(Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
        })
    }

    /// Whether we may give our own files to that group without a capability.
    fn member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    fn trusts(&self, node: &Node) -> Result<(), Error> {
        node.access.as_ancestor(self.uid).map_err(|unfit| self.refuses(node, unfit))
    }

    fn refuses(&self, node: &Node, unfit: Unfit) -> Error {
        let path = shown(&node.path);
        match unfit {
            Unfit::Writable => Error::Writable { path, mode: node.access.mode },
            Unfit::Foreign => Error::Foreign { path, owner: node.access.uid, us: self.uid },
        }
    }
}

/// Proves that what is written to an open directory stays in memory and can be written at all.
/// `asked` is the path that was configured: the node is it, or the deepest part of it that exists.
fn memory(node: &Node, asked: &Path, proc: &Path) -> Result<Mount, Error> {
    let stat = rustix::fs::fstatfs(&node.fd).map_err(failed("ask for the file system of", &node.path))?;
    // A negative number is no file system of ours either way.
    let judged = judge::file_system(u64::try_from(stat.f_type).unwrap_or(u64::MAX));
    let line = proc::mount(proc, node.mount);
    let ram = match judged {
        Ok(ram) => ram,
        Err(fs) => {
            // The refusal stands without the mount point; it only helps to find the cause.
            let mount = line.map_or_else(|_| "an unknown place".to_owned(), |line| point(&line.point));
            return Err(Error::NotMemory { path: shown(asked), mount, fs });
        }
    };
    let line = line?;
    let mount = point(&line.point);
    // devtmpfs and an initramfs have the same numbers; they are not what a volume is mounted as.
    if line.fs != ram.word().as_bytes() {
        let fs = format!("{} (which shares the number of {})", point(&line.fs), ram.word());
        return Err(Error::NotMemory { path: shown(asked), mount, fs });
    }
    if ram == Ram::Tmpfs && !line.noswap {
        let active = proc::active_swaps(proc)?;
        if active > 0 {
            return Err(Error::Swap { mount, active });
        }
    }
    let stat = rustix::fs::fstatvfs(&node.fd).map_err(failed("ask for the room of", &node.path))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::ReadOnly { mount });
    }
    Ok(Mount { point: mount, ram })
}

/// A mount point, or a word of mountinfo, as it may stand in a message.
fn point(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes), 256)
}

/// Whether the load fits beside what is there.
fn room(fd: impl AsFd, mount: &Mount, load: Load) -> Result<(), Error> {
    let stat = rustix::fs::fstatvfs(fd).map_err(failed("ask for the room of", Path::new(&mount.point)))?;
    let space = Space {
        block: stat.f_frsize.max(stat.f_bsize),
        blocks: stat.f_blocks,
        free: stat.f_bavail,
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    };
    space.fits(load).map_err(|(unit, needed, free)| Error::Full { mount: mount.point.clone(), unit, needed, free })
}

/// Whether what stands in a shared root under our directory's name is that.
fn private<'n>(root: &Node, own: &'n Node, us: &Us) -> Result<&'n Node, Error> {
    let ours = own.access.as_destination(us.uid) == Ok(Standing::Ours) && own.mount == root.mount;
    if ours {
        Ok(own)
    } else {
        Err(Error::Occupied { path: shown(&own.path), what: "not a private directory of ours" })
    }
}

/// Opens a directory once more, for listing, locking and fsync.
fn readable(node: &Node) -> Result<OwnedFd, Error> {
    rustix::fs::openat(&node.fd, ".", O_DIR, Mode::empty()).map_err(failed("open", &node.path))
}

fn cannot_open(node: &Node, source: std::io::Error) -> Error {
    Error::Io { step: "open", path: shown(&node.path), source }
}

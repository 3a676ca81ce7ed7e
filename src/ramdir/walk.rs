//! Following a path without following a link, and making what is missing at its end.
//!
//! One `openat` with `O_NOFOLLOW` a component. That refuses what `openat2` with
//! `RESOLVE_NO_SYMLINKS` refuses (magic links too), names the component that is the link, hands
//! out every directory on the way to be judged, and works under seccomp profiles that deny openat2.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::error::{Error, failed, shown};
use super::judge::Access;

/// Mode of every directory that we make: ours, and readable for the directory's group.
pub(super) const DIR_MODE: u32 = 0o750;

/// `PATH_MAX` (`linux/limits.h`).
const MAX_PATH: usize = 4096;

/// A directory, open, with what statx said about it.
#[derive(Debug)]
pub(super) struct Node {
    /// Open for use as the start of *at calls and for fstat, not for reading.
    pub(super) fd: OwnedFd,
    /// How we came here.
    pub(super) path: PathBuf,
    /// Owner and mode.
    pub(super) access: Access,
    /// Group.
    pub(super) gid: u32,
    /// Which mount it is on, as in mountinfo.
    pub(super) mount: u64,
    /// Which directory of all it is: device (major, minor) and inode.
    pub(super) identity: (u32, u32, u64),
}

/// How far a path leads.
#[derive(Debug)]
pub(super) struct Walk {
    /// The deepest directory that exists.
    pub(super) end: Node,
    /// The directories above it that are on the same mount, outermost first.
    pub(super) above: Vec<Node>,
    /// The components that do not exist.
    pub(super) missing: Vec<PathBuf>,
}

/// Opens the deepest existing directory of an absolute path.
pub(super) fn open(path: &Path) -> Result<Walk, Error> {
    let names = components(path)?;
    let at = Path::new("/");
    let root = rustix::fs::open(at, O_DIR | OFlags::PATH, Mode::empty()).map_err(failed("open", at))?;
    let mut end = node(root, at.to_owned())?;
    let mut above = Vec::new();
    let mut names = names.into_iter();
    while let Some(name) = names.next() {
        let Some(next) = step(&end, name)? else {
            let missing = std::iter::once(name).chain(names).map(PathBuf::from).collect();
            return Ok(Walk { end, above, missing });
        };
        if next.mount == end.mount {
            above.push(end);
        } else {
            above.clear();
        }
        end = next;
    }
    Ok(Walk { end, above, missing: Vec::new() })
}

/// Makes one directory with [`DIR_MODE`], whatever the umask, keeping an inherited setgid bit.
///
/// An existing one is taken as it is: the caller judges what it gets.
pub(super) fn make(parent: &Node, name: &Path) -> Result<Node, Error> {
    let path = parent.path.join(name);
    match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(DIR_MODE)) {
        Ok(()) => {
            // Opened for reading, since fchmod does not work on an O_PATH descriptor.
            let fd = rustix::fs::openat(&parent.fd, name, O_DIR, Mode::empty()).map_err(failed("open", &path))?;
            settle(&fd, None).map_err(failed("set the mode of", &path))?;
        }
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("create", &path)(errno)),
    }
    step(parent, name.as_os_str())?.ok_or_else(|| failed("open", &path)(Errno::NOENT))
}

/// Opens one directory in another, if there is one. Refuses a link and whatever else has the name.
pub(super) fn existing(parent: &Node, name: &Path) -> Result<Option<Node>, Error> {
    step(parent, name.as_os_str())
}

/// Directory, never through a link, never inherited by a child process.
pub(super) const O_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Corrects mode and group of a directory that we have just made. Leaves what is right alone: a
/// needless fchmod would drop the setgid bit where the group is not one of ours.
pub(super) fn settle(fd: impl AsFd, gid: Option<u32>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_mode & 0o777 != DIR_MODE {
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(DIR_MODE | stat.st_mode & 0o2000))?;
    }
    match gid {
        Some(gid) if gid != stat.st_gid => rustix::fs::fchown(&fd, None, Some(rustix::fs::Gid::from_raw(gid))),
        _ => Ok(()),
    }
}

fn components(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let refuse = |problem| Error::Path { path: shown(path), problem };
    if !path.is_absolute() {
        return Err(refuse("is not absolute"));
    }
    if path.as_os_str().len() >= MAX_PATH {
        return Err(refuse("is longer than 4095 bytes"));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse("has a `..` component"));
            }
        }
    }
    Ok(names)
}

/// Opens one directory in another. `None` where there is nothing of that name.
fn step(parent: &Node, name: &OsStr) -> Result<Option<Node>, Error> {
    let path = parent.path.join(name);
    match rustix::fs::openat(&parent.fd, name, O_DIR | OFlags::PATH, Mode::empty()) {
        Ok(fd) => node(fd, path).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let stat = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW);
            let link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            let path = shown(&path);
            Err(if link { Error::Symlink { path } } else { Error::NotADirectory { path } })
        }
        Err(errno) => Err(failed("open", &path)(errno)),
    }
}

fn node(fd: OwnedFd, path: PathBuf) -> Result<Node, Error> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, wanted).map_err(failed("stat", &path))?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Error::MountUnknown { path: shown(&path) });
    }
    Ok(Node {
        fd,
        path,
        access: Access { uid: stat.stx_uid, mode: u32::from(stat.stx_mode) & 0o7777 },
        gid: stat.stx_gid,
        mount: stat.stx_mnt_id,
        identity: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_path_that_is_relative_or_climbs() {
        for (path, problem) in
            [("run/secrets", "is not absolute"), ("", "is not absolute"), ("/run/../etc", "has a `..` component")]
        {
            match open(Path::new(path)) {
                Err(Error::Path { problem: said, .. }) => assert_eq!(said, problem),
                other => panic!("{path}: {other:?}"),
            }
        }
        let long = format!("/{}", "a/".repeat(2100));
        assert!(matches!(open(Path::new(&long)), Err(Error::Path { .. })));
    }

    #[test]
    fn the_missing_end_of_a_path_is_told_apart() {
        let walk = open(Path::new("/proc/./nothing-here//at-all/")).unwrap();
        assert_eq!(walk.end.path, Path::new("/proc"));
        assert_eq!(walk.missing, [Path::new("nothing-here"), Path::new("at-all")]);
        assert!(walk.above.is_empty(), "/ is on another mount");
    }

    #[test]
    fn refused_magic_link_on_the_way() {
        match open(Path::new("/proc/self/root/tmp")) {
            Err(Error::Symlink { path }) => assert_eq!(path, "/proc/self"),
            other => panic!("{other:?}"),
        }
    }
}

//! The kernel's report directory, `/sys/kernel/config/tsm/report`, as the few calls that are made
//! of it. `tsm/` holds the rules; this is the seam below it, so that the rules run against the real
//! kernel and against the testbed's double alike.
//!
//! All calls block, and a call that reaches the provider may block for ever: the caller makes them
//! on a thread of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// Where configfs is mounted, in every distribution and by systemd.
const CONFIGFS: &str = "/sys/kernel/config";

/// Where the kernel's reports are in it (`Documentation/ABI/testing/configfs-tsm-report`).
const REPORTS: [&str; 2] = ["tsm", "report"];

/// Mode handed to mkdir. The kernel sets its own (0755) whatever is asked.
const ENTRY_MODE: u32 = 0o700;

/// Bytes asked of one read. The kernel fills a blob's buffer at the first read and hands it out
/// from there, so the size costs system calls, nothing else. Most blobs have 1 to 8 KiB.
const CHUNK: usize = 16 * 1024;

/// The place where the reports are.
pub trait TsmFs: Send + Sync {
    /// Opens the directory, and holds it: what is mounted over the path later changes nothing.
    fn open(&self) -> Result<Arc<dyn TsmDir>, OpenError>;

    /// The path of the directory, for the sandbox. `None` where there is none on any file system.
    fn path(&self) -> Option<PathBuf>;
}

/// The directory of the reports, held open. Names are single components, never followed if they are
/// links. What another mount covers is refused with `EXDEV`.
pub trait TsmDir: Send + Sync {
    /// `f_type` of fstatfs on the held directory.
    fn magic(&self) -> Result<u64, Errno>;
    /// Names of at most `most` entries. Names that are not UTF-8 are nobody's we know: left out.
    fn list(&self, most: usize) -> Result<Vec<String>, Errno>;
    /// Makes an entry.
    fn mkdir(&self, entry: &str) -> Result<(), Errno>;
    /// Removes an entry.
    fn rmdir(&self, entry: &str) -> Result<(), Errno>;
    /// Opens an attribute, reads to its end or to `most` bytes, closes it. The size that stat gives
    /// is 0 and means nothing.
    fn read(&self, entry: &str, attribute: &str, most: usize) -> Result<Vec<u8>, Errno>;
    /// Opens an attribute that exists, makes ONE write, closes it; gives the count that write gave.
    /// The kernel takes blobs over at close, and nothing tells whether it did.
    fn write(&self, entry: &str, attribute: &str, bytes: &[u8]) -> Result<usize, Errno>;
}

/// Why the directory cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// What the kernel said.
    pub errno: Errno,
    /// `f_type` of the directory where configfs belongs, if that one could be opened: tells an
    /// absent configfs from a kernel without reports.
    pub config: Option<u64>,
}

/// The real one.
#[derive(Clone, Debug)]
pub struct RealFs {
    root: PathBuf,
}

impl RealFs {
    /// The kernel's, at the fixed path.
    pub fn kernel() -> Self {
        Self::at(CONFIGFS)
    }

    /// With something else in the place of `/sys/kernel/config`, which the shipped binary never
    /// does: whether it is configfs is judged all the same.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl TsmFs for RealFs {
    fn open(&self) -> Result<Arc<dyn TsmDir>, OpenError> {
        let outside = |errno| OpenError { errno, config: None };
        let root = walk(&self.root).map_err(outside)?;
        let config = f_type(&root).map_err(outside)?;
        let inside = |errno| OpenError { errno, config: Some(config) };
        let mut fd = root;
        for name in REPORTS {
            fd = rustix::fs::openat(&fd, name, DIRECTORY, Mode::empty()).map_err(inside)?;
        }
        let mount = mount(&fd).map_err(inside)?;
        Ok(Arc::new(RealDir { fd, mount }))
    }

    fn path(&self) -> Option<PathBuf> {
        Some(REPORTS.iter().fold(self.root.clone(), |path, name| path.join(name)))
    }
}

/// A directory for use in *at calls, never through a link, never inherited by a child process.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens an absolute path component by component, so that no link on the way is followed.
fn walk(path: &Path) -> Result<OwnedFd, Errno> {
    if !path.is_absolute() {
        return Err(Errno::INVAL);
    }
    let mut fd = rustix::fs::open("/", DIRECTORY, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => fd = rustix::fs::openat(&fd, name, DIRECTORY, Mode::empty())?,
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        }
    }
    Ok(fd)
}

fn f_type(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::fstatfs(fd)?;
    // A negative f_type does not exist; were there one, it is none that anybody asks for.
    Ok(u64::try_from(stat.f_type).unwrap_or(u64::MAX))
}

/// The id of the mount that a descriptor is on. Linux 5.8 and later say it; reports came with 6.7.
fn mount(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(stat.stx_mnt_id)
}

struct RealDir {
    fd: OwnedFd,
    mount: u64,
}

impl RealDir {
    /// Opens one attribute. Whoever writes the pod's manifest can mount a file over an entry or an
    /// attribute whose name he knows: what is not on the directory's own mount is refused.
    fn attribute(&self, entry: &str, attribute: &str, access: OFlags) -> Result<OwnedFd, Errno> {
        let entry = rustix::fs::openat(&self.fd, single(entry)?, DIRECTORY, Mode::empty())?;
        self.on_our_mount(&entry)?;
        // Never O_CREAT: on an attribute that a provider does not show, that is EACCES and hides why.
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&entry, single(attribute)?, flags, Mode::empty())?;
        self.on_our_mount(&fd)?;
        Ok(fd)
    }

    fn on_our_mount(&self, fd: impl AsFd) -> Result<(), Errno> {
        if mount(fd)? == self.mount { Ok(()) } else { Err(Errno::XDEV) }
    }
}

/// A name that stays in its directory.
fn single(name: &str) -> Result<&str, Errno> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(name),
        _ => Err(Errno::INVAL),
    }
}

impl TsmDir for RealDir {
    fn magic(&self) -> Result<u64, Errno> {
        f_type(&self.fd)
    }

    fn list(&self, most: usize) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        // The held descriptor is for *at calls only; a listing has its own, of the same directory.
        let listing = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(&self.fd, ".", listing, Mode::empty())?;
        for entry in rustix::fs::Dir::new(listing)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                if names.len() >= most {
                    break;
                }
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn mkdir(&self, entry: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.fd, single(entry)?, Mode::from_raw_mode(ENTRY_MODE))
    }

    fn rmdir(&self, entry: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, single(entry)?, AtFlags::REMOVEDIR)
    }

    fn read(&self, entry: &str, attribute: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let fd = self.attribute(entry, attribute, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        let mut chunk = vec![0_u8; CHUNK.min(most)];
        while bytes.len() < most {
            let count = rustix::io::read(&fd, &mut chunk)?;
            if count == 0 {
                break;
            }
            let room = most.saturating_sub(bytes.len());
            bytes.extend(chunk.iter().take(count.min(room)));
        }
        Ok(bytes)
    }

    fn write(&self, entry: &str, attribute: &str, bytes: &[u8]) -> Result<usize, Errno> {
        let fd = self.attribute(entry, attribute, OFlags::WRONLY)?;
        rustix::io::write(&fd, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_names_that_leave_the_directory() {
        for name in ["", ".", "..", "a/b", "/a", "a/", "../a", "./a"] {
            assert_eq!(single(name), Err(Errno::INVAL), "{name}");
        }
        assert_eq!(single("inblob"), Ok("inblob"));
    }

    #[test]
    fn refused_roots_that_are_relative_or_climb_or_are_absent() {
        for (root, errno) in
            [("sys", Errno::INVAL), ("/sys/../sys", Errno::INVAL), ("/nothing-here/config", Errno::NOENT)]
        {
            let error = RealFs::at(root).open().map(drop).unwrap_err();
            assert_eq!(error, OpenError { errno, config: None }, "{root}");
        }
    }

    #[test]
    fn entries_are_made_listed_and_removed_in_the_held_directory() {
        let root = std::env::temp_dir().join(format!("countersign-tsm-fs-{}", std::process::id()));
        std::fs::create_dir_all(root.join("tsm/report")).unwrap();
        let dir = RealFs::at(&root).open().unwrap();
        // Moved away: what is held is the directory, not its path.
        let moved = root.with_extension("moved");
        std::fs::rename(&root, &moved).unwrap();
        dir.mkdir("one").unwrap();
        assert_eq!(dir.mkdir("one"), Err(Errno::EXIST));
        assert_eq!(dir.list(10).unwrap(), ["one"]);
        assert!(dir.list(0).unwrap().is_empty());
        assert_eq!(dir.write("one", "inblob", b"x"), Err(Errno::NOENT), "never made");
        std::fs::write(moved.join("tsm/report/one/outblob"), vec![7; 40_000]).unwrap();
        assert_eq!(dir.read("one", "outblob", 100_000).unwrap().len(), 40_000);
        assert_eq!(dir.read("one", "outblob", 20_000).unwrap().len(), 20_000);
        std::os::unix::fs::symlink("outblob", moved.join("tsm/report/one/link")).unwrap();
        assert_eq!(dir.read("one", "link", 10), Err(Errno::LOOP));
        for name in ["outblob", "link"] {
            std::fs::remove_file(moved.join("tsm/report/one").join(name)).unwrap();
        }
        dir.rmdir("one").unwrap();
        assert_eq!(dir.rmdir("one"), Err(Errno::NOENT));
        std::fs::remove_dir_all(&moved).unwrap();
    }

    #[test]
    fn a_directory_without_reports_says_what_it_is() {
        let error = RealFs::at("/proc").open().map(drop).unwrap_err();
        assert_eq!(error, OpenError { errno: Errno::NOENT, config: Some(0x9fa0) });
    }
}

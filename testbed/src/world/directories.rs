//! Directories of every kind inside a world: memory that is safe, memory that is not, disks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::World;
use super::channel::Request;

/// linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// linux/magic.h.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// What `/proc/swaps` shall say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActiveSwap {
    /// Nothing is swapped to.
    None,
    /// A partition on a disk.
    Disk,
}

/// A volume to mount, as Kata mounts `emptyDir`s of `medium: Memory` unless told otherwise: a
/// tmpfs whose root is world-writable and sticky.
#[derive(Clone, Debug)]
pub struct Volume {
    kind: &'static str,
    mode: u32,
    gid: Option<u32>,
    size: Option<String>,
    read_only: bool,
}

impl Volume {
    /// tmpfs, root 1777.
    pub fn memory() -> Self {
        Self { kind: "tmpfs", mode: 0o1777, gid: None, size: None, read_only: false }
    }

    /// ramfs, root 1777: memory that is never swapped.
    pub fn ramfs() -> Self {
        Self { kind: "ramfs", ..Self::memory() }
    }

    /// As with `fsGroup`: root 3777, owned by this group.
    #[must_use]
    pub fn fs_group(self, gid: u32) -> Self {
        Self { mode: 0o3777, gid: Some(gid), ..self }
    }

    /// Another mode of the root, octal.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// A limit, as tmpfs(5) writes it: `64k`.
    #[must_use]
    pub fn size(self, size: &str) -> Self {
        Self { size: Some(size.to_owned()), ..self }
    }

    /// Cannot be written.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    fn options(&self) -> String {
        let mut options = format!("mode={:o}", self.mode);
        if self.kind == "tmpfs" {
            if let Some(gid) = self.gid {
                options.push_str(&format!(",gid={gid}"));
            }
            if let Some(size) = &self.size {
                options.push_str(&format!(",size={size}"));
            }
        }
        options
    }
}

impl World {
    /// A new directory of ours in memory that nothing swaps: below `$XDG_RUNTIME_DIR`, below
    /// `/dev/shm`, or on a ramfs of this world. The error says what a person can do.
    pub fn ramdir(&self) -> io::Result<PathBuf> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        if !self.has_swap() {
            for candidate in runtime.into_iter().chain([PathBuf::from("/dev/shm")]) {
                let Ok(stat) = rustix::fs::statfs(self.outside(&candidate)) else { continue };
                if !matches!(stat.f_type, TMPFS_MAGIC | RAMFS_MAGIC) || !self.knows_owner(&candidate) {
                    continue;
                }
                if let Ok(directory) = self.place.make_directory(&candidate) {
                    return Ok(directory);
                }
            }
        }
        self.volume(&Volume::ramfs().mode(0o700)).map_err(|error| {
            io::Error::other(format!(
                "no directory in memory: $XDG_RUNTIME_DIR and /dev/shm are absent, not writable, not tmpfs, or swap is \
                 on, and a ramfs cannot be mounted ({error}). Turn swap off (`swapoff -a`), or allow user namespaces \
                 (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`), or run as root"
            ))
        })
    }

    /// Mounts a volume on a new directory of this world.
    pub fn volume(&self, volume: &Volume) -> io::Result<PathBuf> {
        let on = self.mount_point()?;
        self.mount_on(&on, volume.kind, &volume.options(), volume.read_only)?;
        Ok(on)
    }

    /// Mounts a volume on a directory that exists, inside this world only.
    pub fn volume_on(&self, on: impl AsRef<Path>, volume: &Volume) -> io::Result<()> {
        self.mount_on(on.as_ref(), volume.kind, &volume.options(), volume.read_only)
    }

    /// Mounts any file system that this user may mount, `overlay` for one.
    pub fn mount(&self, kind: &str, options: &str) -> io::Result<PathBuf> {
        let on = self.mount_point()?;
        self.mount_on(&on, kind, options, false)?;
        Ok(on)
    }

    /// Shows a directory or file at a second place of this world.
    pub fn bind(&self, from: impl Into<PathBuf>, on: impl Into<PathBuf>, read_only: bool) -> io::Result<()> {
        let request = Request::Bind { from: from.into(), on: on.into(), recursive: false, read_only };
        self.place.ask(&request).map(drop)
    }

    /// Takes the topmost mount off a path of this world.
    pub fn unmount(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.place.ask(&Request::Unmount(path.into())).map(drop)
    }

    /// A new directory of ours on a disk: any file system that is not memory. The error names the
    /// places that were looked at.
    pub fn diskdir(&self) -> io::Result<PathBuf> {
        let beside_the_test = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let places = [Some(std::env::temp_dir()), Some("/var/tmp".into()), beside_the_test, home];
        for candidate in places.into_iter().flatten() {
            let Ok(stat) = rustix::fs::statfs(self.outside(&candidate)) else { continue };
            if matches!(stat.f_type, TMPFS_MAGIC | RAMFS_MAGIC) {
                continue;
            }
            if let Ok(directory) = self.place.make_directory(&candidate) {
                return Ok(directory);
            }
        }
        Err(io::Error::other("no disk here: $TMPDIR, /var/tmp, the target directory and $HOME are memory or not ours"))
    }

    /// Makes `/proc/swaps` say this.
    pub fn swap(self, swap: ActiveSwap) -> io::Result<Self> {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        let text = match swap {
            ActiveSwap::None => header.to_owned(),
            ActiveSwap::Disk => {
                format!("{header}/dev/vda2                               partition\t4194300\t\t0\t\t-2\n")
            }
        };
        self.replace_file("/proc/swaps", text.as_bytes())?;
        Ok(self)
    }

    /// Whether this world's `/proc/swaps` lists anything.
    pub fn has_swap(&self) -> bool {
        let device = |path: &str| {
            fs::metadata(self.outside(path)).map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata)).ok()
        };
        // Mounted over (a world's own, or lxcfs in a container): the product does not believe it.
        if device("/proc/swaps") != device("/proc/self/mountinfo") {
            return true;
        }
        self.read("/proc/swaps")
            .is_ok_and(|text| text.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).count() > 1)
    }

    /// Whether a directory's owner has a name inside the world. In an ordinary user's namespace
    /// only that user has one: root's `/dev/shm` looks like nobody's there, and nobody's directory
    /// is refused by the product.
    fn knows_owner(&self, path: &Path) -> bool {
        let us = rustix::process::geteuid();
        let owner = fs::metadata(self.outside(path)).map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata));
        us.is_root() || !self.is_private() || owner.is_ok_and(|owner| owner == us.as_raw())
    }

    pub(super) fn mount_on(&self, on: &Path, kind: &str, options: &str, read_only: bool) -> io::Result<()> {
        let request =
            Request::Mount { kind: kind.to_owned(), on: on.to_owned(), options: options.to_owned(), read_only };
        self.place.ask(&request).map(drop)
    }

    fn mount_point(&self) -> io::Result<PathBuf> {
        let on = self.place.directory.join(self.unused_name("volume"));
        fs::create_dir(&on)?;
        File::open(&on)?.set_permissions(fs::Permissions::from_mode(0o755))?;
        Ok(on)
    }
}

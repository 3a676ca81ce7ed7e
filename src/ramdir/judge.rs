//! Pure judgements: what a file system is, who may write to a directory, whether there is room.

/// The file systems that keep everything in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ram {
    /// Can be swapped out unless mounted with `noswap`.
    Tmpfs,
    /// Never swapped; has no size limit.
    Ramfs,
}

impl Ram {
    /// The kernel's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ramfs => "ramfs",
        }
    }
}

/// `TMPFS_MAGIC`, `f_type` of statfs (`linux/magic.h`).
const TMPFS: u64 = 0x0102_1994;

/// `RAMFS_MAGIC`, `f_type` of statfs (`linux/magic.h`).
const RAMFS: u64 = 0x8584_58f6;

/// Names of file systems that a destination turns out to be on, for the message only: whatever is
/// not tmpfs or ramfs is refused, listed or not. Numbers from `linux/magic.h` and the file systems'
/// own sources.
const NAMES: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x794c_7630, "overlay"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse (virtiofs shares are fuse too)"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x9584_58f6, "hugetlbfs"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x9660, "iso9660"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x00c3_6400, "ceph"),
    (0xf15f, "ecryptfs"),
    (0x6265_6570, "configfs"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7363_6673, "securityfs"),
    (0x1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
];

/// Whether `f_type` of statfs is memory; otherwise the name of what it is.
pub(super) fn file_system(f_type: u64) -> Result<Ram, String> {
    match f_type {
        TMPFS => Ok(Ram::Tmpfs),
        RAMFS => Ok(Ram::Ramfs),
        other => Err(NAMES
            .iter()
            .find(|(number, _)| *number == other)
            .map_or_else(|| format!("a file system of type {other:#x}"), |(_, name)| (*name).to_owned())),
    }
}

/// Who owns a directory, and who may write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Owner.
    pub(super) uid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
}

/// How a directory may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Only we write there.
    Ours,
    /// Others write there too, but the sticky bit keeps our names ours.
    Shared,
}

/// Why a directory may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Others could rename or remove our names.
    Writable,
    /// Somebody else owns it.
    Foreign,
}

/// `S_ISVTX`.
const STICKY: u32 = 0o1000;

/// Write permission for group or others.
const OTHERS_WRITE: u32 = 0o022;

impl Access {
    /// Judges the directory that secrets are to be published in.
    ///
    /// A memory emptyDir of Kata is root's, 1777 (3777 with fsGroup): shared. The owner of a sticky
    /// directory may still rename what is in it, so that owner must be root or us.
    pub(super) fn as_destination(self, euid: u32) -> Result<Standing, Unfit> {
        let shared = self.mode & OTHERS_WRITE != 0;
        let sticky = self.mode & STICKY != 0;
        match (shared, sticky) {
            (true, false) => Err(Unfit::Writable),
            (true, true) if self.uid == euid || self.uid == 0 => Ok(Standing::Shared),
            (false, _) if self.uid == euid => Ok(Standing::Ours),
            _ => Err(Unfit::Foreign),
        }
    }

    /// Judges a directory between the mount point and the destination: nobody but root and us may
    /// be able to put another directory in the place of ours.
    pub(super) fn as_ancestor(self, euid: u32) -> Result<(), Unfit> {
        if self.mode & OTHERS_WRITE != 0 && self.mode & STICKY == 0 {
            return Err(Unfit::Writable);
        }
        if self.uid == euid || self.uid == 0 { Ok(()) } else { Err(Unfit::Foreign) }
    }
}

/// What statvfs says about room. A total of 0 means that there is no limit (tmpfs with `size=0` or
/// `nr_inodes=0`, ramfs always).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes a block.
    pub(super) block: u64,
    /// All blocks.
    pub(super) blocks: u64,
    /// Blocks we may still take.
    pub(super) free: u64,
    /// All inodes.
    pub(super) inodes: u64,
    /// Inodes we may still take.
    pub(super) inodes_free: u64,
}

/// What a set takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Files, directories and links.
    pub(super) inodes: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Files with content: each may waste most of a block.
    pub(super) files: u64,
}

/// What does not suffice: `(unit, needed, free)`.
pub(super) type Shortage = (&'static str, u64, u64);

impl Space {
    /// Whether the load fits. Numbers beyond u64 do not fit.
    pub(super) fn fits(self, load: Load) -> Result<(), Shortage> {
        let block = self.block.max(1);
        let needed = load.files.checked_mul(block).and_then(|waste| waste.checked_add(load.bytes)).unwrap_or(u64::MAX);
        let free = self.free.saturating_mul(block);
        if self.blocks != 0 && needed > free {
            return Err(("bytes", needed, free));
        }
        if self.inodes != 0 && load.inodes > self.inodes_free {
            return Err(("inodes", load.inodes, self.inodes_free));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_ext4_overlay_9p_and_the_rest_by_name() {
        for (number, name) in [
            (0xef53, "ext4"),
            (0x794c_7630, "overlay"),
            (0x0102_1997, "9p"),
            (0x5846_5342, "xfs"),
            (0x9123_683e, "btrfs"),
            (0x6969, "nfs"),
            (0x9584_58f6, "hugetlbfs"),
            (0x1234, "a file system of type 0x1234"),
            (0, "a file system of type 0x0"),
        ] {
            assert_eq!(file_system(number), Err(name.to_owned()));
        }
        assert!(file_system(0x6573_5546).unwrap_err().starts_with("fuse"));
    }

    #[test]
    fn tmpfs_and_ramfs_are_memory() {
        assert_eq!(file_system(0x0102_1994), Ok(Ram::Tmpfs));
        assert_eq!(file_system(0x8584_58f6), Ok(Ram::Ramfs));
    }

    #[test]
    fn every_number_has_one_name() {
        for (at, (number, name)) in NAMES.iter().enumerate() {
            let twice = NAMES.iter().skip(at + 1).any(|(other, label)| other == number || label == name);
            assert!(!twice, "{name}");
            assert!(*number != TMPFS && *number != RAMFS);
        }
    }

    #[test]
    fn directories_are_judged_by_owner_and_mode() {
        use Standing::{Ours, Shared};
        use Unfit::{Foreign, Writable};
        for (uid, mode, euid, verdict) in [
            (65532, 0o750, 65532, Ok(Ours)),
            (65532, 0o2750, 65532, Ok(Ours)),
            (0, 0o755, 0, Ok(Ours)),
            (0, 0o1777, 65532, Ok(Shared)),
            (0, 0o3777, 65532, Ok(Shared)),
            (0, 0o1777, 0, Ok(Shared)),
            (0, 0o1770, 65532, Ok(Shared)),
            (0, 0o777, 65532, Err(Writable)),
            (0, 0o2777, 0, Err(Writable)),
            (65532, 0o777, 65532, Err(Writable)),
            (65532, 0o775, 65532, Err(Writable)),
            (0, 0o755, 65532, Err(Foreign)),
            (1000, 0o700, 0, Err(Foreign)),
            (1000, 0o1777, 65532, Err(Foreign)),
        ] {
            assert_eq!(Access { uid, mode }.as_destination(euid), verdict, "uid {uid} mode {mode:o} euid {euid}");
        }
    }

    #[test]
    fn a_directory_on_the_way_must_not_let_others_swap_ours() {
        assert_eq!(Access { uid: 0, mode: 0o1777 }.as_ancestor(65532), Ok(()));
        assert_eq!(Access { uid: 0, mode: 0o755 }.as_ancestor(65532), Ok(()));
        assert_eq!(Access { uid: 65532, mode: 0o700 }.as_ancestor(65532), Ok(()));
        assert_eq!(Access { uid: 0, mode: 0o777 }.as_ancestor(65532), Err(Unfit::Writable));
        assert_eq!(Access { uid: 1000, mode: 0o755 }.as_ancestor(65532), Err(Unfit::Foreign));
    }

    #[test]
    fn refused_when_full_and_not_when_unlimited() {
        let space = Space { block: 4096, blocks: 16, free: 2, inodes: 8, inodes_free: 3 };
        assert_eq!(space.fits(Load { inodes: 3, bytes: 4096, files: 1 }), Ok(()));
        assert_eq!(space.fits(Load { inodes: 3, bytes: 4097, files: 1 }), Err(("bytes", 8193, 8192)));
        assert_eq!(space.fits(Load { inodes: 4, bytes: 0, files: 0 }), Err(("inodes", 4, 3)));
        assert_eq!(space.fits(Load { inodes: 1, bytes: u64::MAX, files: 1 }), Err(("bytes", u64::MAX, 8192)));
        let ramfs = Space { block: 4096, blocks: 0, free: 0, inodes: 0, inodes_free: 0 };
        assert_eq!(ramfs.fits(Load { inodes: 9, bytes: u64::MAX, files: 9 }), Ok(()));
    }
}

//! Publishing one file under its own name: `countersign get --to FILE`.

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::error::{Error, failed, shown};
use super::judge::{Load, Standing};
use super::publish::{is_random_name, lock, random_name};
use super::{Entry, Published, RamDir, set};
use crate::ports::FailPoint;

/// What names of unfinished files begin with.
const UNFINISHED: &str = "..file-";

impl RamDir {
    /// Makes `entry` the content of the file of that name in the directory, in one step, or leaves
    /// what was there as it was and says why. The entry's path is one component.
    ///
    /// Replaces a plain file of ours only. A file that stands there already, with the same content,
    /// mode and owner, is left alone.
    pub fn publish_one(&self, entry: &Entry<'_>, fail: &FailPoint) -> Result<Published, Error> {
        let step = |name| fail(name);
        let name = entry.path.as_str();
        if name.contains('/') {
            return Err(Error::Entry { path: name.to_owned(), problem: "is not directly in the directory" });
        }
        // Once given away, a file in a sticky directory is no longer ours to rename.
        if self.standing == Standing::Shared && entry.owner.is_some_and(|owner| owner != self.us.uid) {
            let problem = "cannot be given to another user in a directory that others write to";
            return Err(Error::Entry { path: name.to_owned(), problem });
        }
        self.recheck()?;
        let item = set::item(self, entry)?;
        let _lock = lock(&self.root, &self.path)?;
        step("publish:locked");
        self.replaceable(name)?;
        self.sweep_unfinished()?;
        step("publish:swept");
        if set::same_file(&self.root, name, &item, true) {
            step("publish:done");
            return Ok(Published { files: 1, unchanged: true, left_behind: false });
        }
        let bytes = u64::try_from(entry.bytes.len()).unwrap_or(u64::MAX);
        super::room(&self.root, &self.mount, Load { inodes: 1, bytes, files: 1 })?;
        let unfinished = random_name(UNFINISHED)?;
        let path = self.path.join(name);
        let written = set::write_file(&self.root, &unfinished, &item, &step)
            .map_err(|(verb, errno)| failed(verb, &path)(errno))
            .and_then(|()| {
                step("publish:swap-ready");
                // Somebody may have put a directory there meanwhile; rename then fails.
                self.replaceable(name)?;
                rustix::fs::renameat(&self.root, &unfinished, &self.root, name).map_err(failed("replace", &path))
            });
        if let Err(error) = written {
            // What cannot be removed now is swept by the next publication.
            let _ = set::remove(&self.root, &unfinished, &self.path);
            return Err(error);
        }
        step("publish:swapped");
        // The file is in place; tmpfs has no disk that the name could fail to reach.
        let left_behind = rustix::fs::fsync(&self.root).is_err();
        step("publish:done");
        Ok(Published { files: 1, unchanged: false, left_behind })
    }

    /// Refuses to replace what we have not made.
    fn replaceable(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        let stat = match set::stat(&self.root, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("stat", &path)(errno)),
        };
        // A file that was given away (`owner`) is replaceable only where nobody else can put files.
        let foreign = stat.st_uid != self.us.uid && self.standing == Standing::Shared;
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if !foreign => return Ok(()),
            FileType::RegularFile => "a file of another user",
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            _ => "not a plain file",
        };
        Err(Error::Occupied { path: shown(&path), what })
    }

    /// Removes what killed publications have left. The lock is held, so none is being written.
    fn sweep_unfinished(&self) -> Result<(), Error> {
        for name in set::names(&self.root).map_err(failed("list", &self.path))? {
            let Ok(name) = name.to_str() else { continue };
            if !is_random_name(name, UNFINISHED) {
                continue;
            }
            let ours = set::stat(&self.root, name).is_ok_and(|stat| stat.st_uid == self.us.uid);
            if ours || self.standing == Standing::Ours {
                let gone = rustix::fs::unlinkat(&self.root, name, AtFlags::empty());
                gone.map_err(failed("remove", &self.path.join(name)))?;
            }
        }
        Ok(())
    }
}

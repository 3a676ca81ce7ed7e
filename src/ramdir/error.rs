//! Why a destination is refused, and what to do about it.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::finding::{Class, Finding, Who, printable};

/// Longest path shown in a message, characters: as long as a path in the configuration may be.
const SHOWN: usize = 512;

/// Why secrets may not be, or could not be, written there. Paths and mount points are those of the
/// configuration and of the guest; no variant holds a byte of a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path itself cannot be used.
    #[error("the path {path} {problem}")]
    Path {
        /// As configured.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A component of the path is a symbolic link.
    #[error("{path} is a symbolic link")]
    Symlink {
        /// Up to and with the link.
        path: String,
    },
    /// A component of the path is a file or a device.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// Up to and with the component.
        path: String,
    },
    /// The file system keeps its data elsewhere than in memory.
    #[error("{path} is on {fs}, mounted at {mount}, not on tmpfs or ramfs")]
    NotMemory {
        /// The directory.
        path: String,
        /// Where its file system is mounted.
        mount: String,
        /// The file system's name, or its number in hex.
        fs: String,
    },
    /// The kernel may write the pages of this tmpfs to a swap device.
    #[error("the tmpfs mounted at {mount} can be swapped out: {active} swap area(s) are active")]
    Swap {
        /// Where the tmpfs is mounted.
        mount: String,
        /// How many areas `/proc/swaps` lists.
        active: usize,
    },
    /// procfs does not tell what is needed.
    #[error("{file} {problem}")]
    Proc {
        /// The file under `/proc`.
        file: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel cannot say which mount a directory is on.
    #[error("the kernel does not say which mount {path} is on")]
    MountUnknown {
        /// The directory.
        path: String,
    },
    /// Mounted read-only.
    #[error("the file system mounted at {mount} is read-only")]
    ReadOnly {
        /// The mount point.
        mount: String,
    },
    /// Too small, or too full.
    #[error("the file system mounted at {mount} has {free} {unit} free, the secrets need {needed}")]
    Full {
        /// The mount point.
        mount: String,
        /// `bytes` or `inodes`.
        unit: &'static str,
        /// What the set takes, beside the set in place.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// Others may rename or remove what we would write.
    #[error("{path} has mode {mode:04o}: others may replace what is in it")]
    Writable {
        /// The directory.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else's directory.
    #[error("{path} belongs to uid {owner}; this process is uid {us}")]
    Foreign {
        /// The directory.
        path: String,
        /// Its owner.
        owner: u32,
        /// Our effective uid.
        us: u32,
    },
    /// A name that is needed is taken by something that is not ours.
    #[error("{path} exists and is {what}")]
    Occupied {
        /// The name in the way.
        path: String,
        /// What is there.
        what: &'static str,
    },
    /// The process may not give files to that id.
    #[error("files are to belong to {kind} {id}, which this process (uid {us}) may not give them to")]
    Chown {
        /// `uid` or `gid`.
        kind: &'static str,
        /// The id asked for.
        id: u32,
        /// Our effective uid.
        us: u32,
    },
    /// Another publisher works in the directory.
    #[error("another process holds the lock on {path}")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The path leads elsewhere than when it was proven.
    #[error("{path} is no longer the directory that was proven")]
    Moved {
        /// As configured.
        path: String,
    },
    /// Two files of one set cannot both exist.
    #[error("the files {first} and {second} cannot stand in one set")]
    Conflict {
        /// One path.
        first: String,
        /// The other.
        second: String,
    },
    /// A file's mode, owner or place cannot be.
    #[error("the file {path} {problem}")]
    Entry {
        /// Its path in the set.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// More below the directory than any set of ours makes.
    #[error("{path} holds more than a set of ours can")]
    TooMuch {
        /// The directory.
        path: String,
    },
    /// The kernel refused a step.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried, as a verb phrase.
        step: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A path as it may stand in a message.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), SHOWN)
}

/// Makes `map_err` closures: what was tried, and on what.
pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = shown(path);
    move |errno| Error::Io { step, path, source: errno.into() }
}

impl Error {
    /// The same, as everybody is told it.
    pub fn finding(&self) -> Finding {
        let (why, next, who) = self.advice();
        let class =
            if matches!(self, Self::Conflict { .. } | Self::Entry { .. }) { Class::Config } else { Class::Destination };
        Finding::new(class, crate::finding::chain(self)).why(why).next(next).who(who)
    }

    /// Why it is refused, what to do, who does it.
    fn advice(&self) -> (&'static str, String, Who) {
        match self {
            Self::Path { path, .. } => (
                "Only a plain absolute path can be followed step by step without leaving it.",
                format!("write an absolute path without `..` instead of `{path}` in `[secrets].directory` (or `--to`)"),
                Who::AppDeveloper,
            ),
            Self::Symlink { path } => (
                "A link can be pointed elsewhere after it was checked; no link is followed on the way to the secrets.",
                format!("replace `{path}` in `[secrets].directory` (or `--to`) with the path it points to"),
                Who::AppDeveloper,
            ),
            Self::NotADirectory { path } => (
                "Secrets are published below a directory.",
                format!("mount an `emptyDir` with `medium: Memory` at `{path}`, or name another directory"),
                Who::AppDeveloper,
            ),
            Self::NotMemory { path, .. } => (
                "What is written there may reach a disk, or the host, which must never see a secret.",
                format!("mount an `emptyDir` with `medium: Memory` at `{path}`, or above it"),
                Who::AppDeveloper,
            ),
            Self::Swap { .. } => (
                "Swapped pages are written to a device in plain; the host owns the device.",
                "remove swap from the guest (`swapoff -a`, and deny AddSwap in the agent policy), or mount the tmpfs with `noswap`"
                    .to_owned(),
                Who::Platform,
            ),
            Self::Proc { file, .. } => (
                "Without it there is no proof that the directory stays in memory.",
                format!("mount procfs at `/proc`, with nothing mounted over `{file}`"),
                Who::Platform,
            ),
            Self::MountUnknown { .. } => (
                "Without the mount there is no proof that the directory stays in memory.",
                "run the pod on a guest kernel of 5.8 or later, where statx tells the mount id".to_owned(),
                Who::Platform,
            ),
            Self::ReadOnly { mount } => (
                "Nothing can be published there.",
                format!("remove `readOnly: true` from countersign's volumeMount at `{mount}`"),
                Who::AppDeveloper,
            ),
            Self::Full { mount, .. } => (
                "A new set is written in full beside the old one, so that readers never see half of it.",
                format!("raise `sizeLimit` of the `emptyDir` mounted at `{mount}` to twice the size of the secrets"),
                Who::AppDeveloper,
            ),
            Self::Writable { path, .. } => (
                "Whoever may write to the directory, and is not held by the sticky bit, can put another file in a secret's place.",
                format!("run `chmod go-w` on `{path}`, or mount there what only this container writes to"),
                Who::AppDeveloper,
            ),
            Self::Foreign { path, owner, us } => (
                "The owner of a directory decides what stands in it; that must be this process.",
                format!(
                    "name a fresh directory below a sticky `emptyDir` in `[secrets].directory`, or set `runAsUser` to {owner}, or run `chown {us}` on `{path}`"
                ),
                Who::AppDeveloper,
            ),
            Self::Occupied { path, .. } => (
                "Only what countersign itself has made is replaced; the set in place was left as it is.",
                format!("remove `{path}`, or publish into another `[secrets].directory`"),
                Who::AppDeveloper,
            ),
            Self::Chown { kind, id, .. } => (
                "Giving a file to another user needs the capability CAP_CHOWN; giving it to another group needs that, or to be a member.",
                if *kind == "gid" {
                    format!("set `fsGroup: {id}` in the pod's securityContext, or remove `group` from the file")
                } else {
                    format!("run the container with `runAsUser: {id}`, or add CHOWN to its capabilities, or remove `owner` from the file")
                },
                Who::AppDeveloper,
            ),
            Self::Locked { path } => (
                "Two publishers in one directory would remove each other's sets.",
                format!("give each container a `[secrets].directory` of its own instead of sharing `{path}`"),
                Who::AppDeveloper,
            ),
            Self::Moved { path } => (
                "It was renamed, removed or mounted over after the proof; what is written now would be lost or seen by others.",
                format!("find what renames, removes or mounts over `{path}` while the pod runs, and restart the pod"),
                Who::AppDeveloper,
            ),
            Self::Conflict { first, second } => (
                "One name cannot be two files, nor a file and a directory.",
                format!("rename `path` of `{first}` or of `{second}` in `[[secrets.file]]`"),
                Who::AppSecurity,
            ),
            Self::Entry { path, .. } => (
                "The file as asked for cannot be published safely.",
                format!("correct `path`, `mode`, `owner` and `group` of `{path}` in `[[secrets.file]]`"),
                Who::AppSecurity,
            ),
            Self::TooMuch { path } => (
                "Cleaning up stops at a bound, so that nobody can make it run for ever.",
                format!("remove `{path}` by restarting the pod: an `emptyDir` begins empty"),
                Who::AppDeveloper,
            ),
            Self::Io { path, source, .. } => io_advice(path, source),
        }
    }
}

/// What the kernel's answer usually means here.
fn io_advice(path: &str, source: &io::Error) -> (&'static str, String, Who) {
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::NOMEM) => (
            "There is no room. The set in place was left as it is.",
            format!("raise `sizeLimit` of the `emptyDir` that holds `{path}`, and the pod's memory limit with it"),
            Who::AppDeveloper,
        ),
        Some(Errno::ACCESS | Errno::PERM) => (
            "This process may not do that in this directory. The set in place was left as it is.",
            format!(
                "set `fsGroup` in the pod's securityContext, or `runAsUser` to the owner of the directory of `{path}`"
            ),
            Who::AppDeveloper,
        ),
        Some(Errno::MFILE | Errno::NFILE) => (
            "The process may open no more files.",
            "raise the container's limit of open files (`ulimit -n`)".to_owned(),
            Who::Platform,
        ),
        _ => (
            "The file system refused a step. The set in place was left as it is.",
            format!("check the mount that holds `{path}`, and restart the pod"),
            Who::AppDeveloper,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Error> {
        let path = || "/run/countersign/secrets".to_owned();
        let io = |errno: Errno| Error::Io { step: "create", path: path(), source: errno.into() };
        vec![
            Error::Path { path: path(), problem: "is relative" },
            Error::Symlink { path: path() },
            Error::NotADirectory { path: path() },
            Error::NotMemory { path: path(), mount: "/".to_owned(), fs: "overlay".to_owned() },
            Error::Swap { mount: path(), active: 1 },
            Error::Proc { file: path(), problem: "is malformed" },
            Error::MountUnknown { path: path() },
            Error::ReadOnly { mount: path() },
            Error::Full { mount: path(), unit: "bytes", needed: 2, free: 1 },
            Error::Writable { path: path(), mode: 0o777 },
            Error::Foreign { path: path(), owner: 1, us: 2 },
            Error::Occupied { path: path(), what: "a directory" },
            Error::Chown { kind: "uid", id: 1, us: 2 },
            Error::Chown { kind: "gid", id: 1, us: 2 },
            Error::Locked { path: path() },
            Error::Moved { path: path() },
            Error::Conflict { first: "a".to_owned(), second: "a/b".to_owned() },
            Error::Entry { path: "a".to_owned(), problem: "is writable for others" },
            Error::TooMuch { path: path() },
            io(Errno::NOSPC),
            io(Errno::ACCESS),
            io(Errno::MFILE),
            io(Errno::IO),
        ]
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        const VERBS: &[&str] = &[
            "write", "replace", "mount", "remove", "run", "raise", "name", "set", "give", "find", "rename", "correct",
            "check",
        ];
        for error in samples() {
            let finding = error.finding();
            let first = finding.next.split(' ').next().unwrap();
            assert!(VERBS.contains(&first), "{error}: next starts with `{first}`");
            let named = ["`", "kernel"].iter().any(|mark| finding.next.contains(mark));
            assert!(named, "{error}: next names nothing");
            assert!(!finding.saw.is_empty() && !finding.why.is_empty());
        }
    }

    #[test]
    fn an_unsafe_destination_is_exit_73_and_a_wrong_set_is_78() {
        for error in samples() {
            let code = error.finding().class.code();
            let config = matches!(error, Error::Conflict { .. } | Error::Entry { .. });
            assert_eq!(code, if config { 78 } else { 73 }, "{error}");
        }
    }

    #[test]
    fn a_path_cannot_forge_a_line_of_the_log() {
        let text = failed("open", Path::new("/a\nrefused: no"))(Errno::NOENT).to_string();
        assert_eq!(text, "cannot open /a\\nrefused: no");
    }
}

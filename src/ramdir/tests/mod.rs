//! A bench for tests: a directory in memory, and a procfs of our own to lie in.

#![allow(clippy::print_stdout)] // A test that cannot run here says so.

mod crash;
mod kernel;
mod proof;
mod publishing;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Entry, Error, FILE_MODE, Needs, Published, RamDir};
use crate::config::RelativePath;
use crate::ports::FailPoint;

/// What the kernel writes to `/proc/swaps` where no swap is active.
const NO_SWAP: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

/// A directory in memory that is removed with everything in it, and a false procfs.
struct Bench {
    dir: PathBuf,
    proc: PathBuf,
}

impl Bench {
    /// `None`, with the reason printed, on a machine without memory that we may write to.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        #[allow(clippy::disallowed_methods)] // Where this machine keeps memory for users.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR");
        let places = [Some(PathBuf::from("/dev/shm")), runtime.map(PathBuf::from)];
        for place in places.into_iter().flatten() {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = place.join(format!("countersign-test-{}-{count}", std::process::id()));
            let memory = rustix::fs::statfs(&place)
                .is_ok_and(|stat| super::judge::file_system(u64::try_from(stat.f_type).unwrap()).is_ok());
            if memory && fs::create_dir(&dir).is_ok() {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
                let bench = Self { proc: dir.join("proc"), dir };
                fs::create_dir_all(bench.proc.join("self")).unwrap();
                // Not fs::copy: it would keep the mode, and tests write to these.
                for name in ["self/mountinfo", "self/status"] {
                    fs::write(bench.proc.join(name), fs::read(Path::new("/proc").join(name)).unwrap()).unwrap();
                }
                fs::write(bench.proc.join("swaps"), NO_SWAP).unwrap();
                return Some(bench);
            }
        }
        left_out("neither /dev/shm nor XDG_RUNTIME_DIR is memory that this user may write to");
        None
    }

    /// The directory that tests publish in; made by the proof.
    fn target(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// Makes the target beforehand, with a mode.
    fn with_target(self, mode: u32) -> Self {
        fs::create_dir(self.target()).unwrap();
        fs::set_permissions(self.target(), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn swaps(&self, text: &str) {
        fs::write(self.proc.join("swaps"), text).unwrap();
    }

    fn prove(&self) -> Result<RamDir, Error> {
        RamDir::prove(&self.target(), &Needs::default(), &self.proc)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// A set in the form that is easy to write down.
type Files = BTreeMap<String, Vec<u8>>;

fn files(list: &[(&str, &str)]) -> Files {
    list.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

fn nothing_fails() -> FailPoint {
    Arc::new(|_| {})
}

fn publish(dir: &RamDir, set: &Files) -> Result<Published, Error> {
    publish_with(dir, set, &nothing_fails())
}

fn publish_with(dir: &RamDir, set: &Files, fail: &FailPoint) -> Result<Published, Error> {
    let paths: Vec<RelativePath> = set.keys().map(|path| RelativePath::parse(path).unwrap()).collect();
    let entries: Vec<Entry<'_>> = paths
        .iter()
        .zip(set.values())
        .map(|(path, bytes)| Entry { path, bytes, mode: FILE_MODE, owner: None, group: None })
        .collect();
    dir.publish(&entries, b"{}", fail)
}

/// Everything that a reader finds by plain paths, links that lead nowhere left out.
fn visible(dir: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("..") && name != crate::config::types::RECEIPT {
            collect(&entry.path(), &name, &mut found);
        }
    }
    found
}

fn collect(path: &Path, name: &str, found: &mut Files) {
    let Ok(meta) = fs::metadata(path) else { return };
    if !meta.is_dir() {
        found.insert(name.to_owned(), fs::read(path).unwrap());
        return;
    }
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        collect(&entry.path(), &format!("{name}/{}", entry.file_name().to_str().unwrap()), found);
    }
}

/// Every name in the directory itself, in order.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How many sets lie in the directory.
fn sets(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.starts_with("..set-")).count()
}

/// Names what this machine cannot run, past the harness, which hides what a passing test prints.
fn left_out(reason: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test of ramdir").to_owned();
    let _ = writeln!(std::io::stderr(), "left out: {test} ({reason})");
}

//! The test runner: libtest's command line and output, plus two things libtest lacks. A test may
//! need what a machine does not have, and is then left out by name with the reason; and a test
//! binary can be started again as one of its own helpers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::http::lock;
use crate::roles;
use crate::world::World;

/// Where to find `countersign` when a test binary was copied away from cargo's directory.
const BINARY: &str = "COUNTERSIGN_TESTBED_BINARY";

/// What a test may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// 127.0.0.1:8006, in a private world or the machine's own.
    GuestPort,
    /// A private world: network and mount namespaces.
    Namespaces,
    /// To run commands as other users.
    Users,
    /// The file system type of the machine's own directories is a disk's.
    Disk,
    /// A directory in memory that nothing swaps.
    Memory,
    /// To run pods: other users, and the system's `crun` and `ip`.
    Pods,
    /// The system's `curl`.
    Curl,
    /// A kernel with Landlock, as late as the product's sandbox asks for.
    Landlock,
    /// `../shared/vectors`: recorded traffic of the real services.
    Vectors,
}

/// One test, as [`main!`](crate::main) lists it.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// The test. Panics to fail.
    pub run: fn(),
}

static COUNTERSIGN: OnceLock<PathBuf> = OnceLock::new();

/// Lists the tests of a file with `harness = false` and is its `main`.
///
/// ```ignore
/// testbed::main! {
///     a_denial_writes_nothing [GuestPort, Memory],
///     layers_hold,
/// }
/// ```
#[macro_export]
macro_rules! main {
    ($($name:ident $([$($need:ident),* $(,)?])?),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::runner::main(
                option_env!("CARGO_BIN_EXE_countersign"),
                &[$($crate::runner::Test {
                    name: stringify!($name),
                    needs: &[$($($crate::runner::Need::$need),*)?],
                    run: $name,
                }),*],
            )
        }
    };
}

/// The `main` of a test file; see [`main!`](crate::main). `countersign` is cargo's path of the
/// shipped binary, where cargo knows one.
pub fn main(countersign: Option<&str>, tests: &[Test]) -> ExitCode {
    if let Some(code) = begin(countersign) {
        return code;
    }
    let left_out = Arc::new(Mutex::new(Vec::new()));
    let trials = tests.iter().map(|test| trial(*test, Arc::clone(&left_out))).collect();
    let arguments = Arguments::from_args();
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !listing {
        let mut left_out = lock(&left_out);
        left_out.sort();
        let line = if left_out.is_empty() { "none".to_owned() } else { left_out.join("; ") };
        println!("left out: {line}");
    }
    conclusion.exit_code()
}

/// What every `main` does first: plays a helper's role if asked to (then its exit code comes back),
/// and remembers where the shipped binary is.
pub fn begin(countersign: Option<&str>) -> Option<ExitCode> {
    if let Some(code) = roles::play() {
        return Some(code);
    }
    if let Some(path) = countersign {
        COUNTERSIGN.get_or_init(|| PathBuf::from(path));
    }
    None
}

fn trial(test: Test, left_out: Arc<Mutex<Vec<String>>>) -> Trial {
    Trial::ignorable_test(test.name, move || {
        for need in test.needs {
            if let Err(reason) = need.check() {
                lock(&left_out).push(format!("{} ({reason})", test.name));
                return Ok(Completion::ignored_with(reason));
            }
        }
        // libtest-mimic turns a panic into a failure, with its message.
        (test.run)();
        Ok::<_, Failed>(Completion::Completed)
    })
}

/// The shipped binary: where the environment says, where cargo said, or beside this test binary.
pub fn countersign_binary() -> Option<PathBuf> {
    let told = std::env::var_os(BINARY).map(PathBuf::from);
    let beside = || {
        let exe = std::env::current_exe().ok()?;
        // target/debug/deps/test-123 and target/debug/countersign.
        exe.ancestors().skip(1).take(2).map(|directory| directory.join("countersign")).find(|path| path.is_file())
    };
    told.or_else(|| COUNTERSIGN.get().cloned().filter(|path| path.is_file())).or_else(beside)
}

impl Need {
    /// Why this machine cannot meet the need.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::GuestPort => guest_port(),
            Self::Namespaces => namespaces().clone(),
            Self::Users => {
                namespaces().clone()?;
                users()
            }
            Self::Disk => World::new().and_then(|world| world.diskdir().map(drop)).map_err(|error| error.to_string()),
            Self::Memory => World::new().and_then(|world| world.ramdir().map(drop)).map_err(|error| error.to_string()),
            Self::Pods => {
                namespaces().clone()?;
                users()?;
                let ip =
                    || ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().any(|path| PathBuf::from(path).is_file());
                match crate::pod::crun() {
                    None => Err("no crun on this machine".to_owned()),
                    Some(_) if !ip() => Err("no ip (iproute2) on this machine".to_owned()),
                    Some(_) => World::private()
                        .and_then(|world| world.one_cgroup_tree())
                        .map_err(|error| format!("no unified tree of control groups: {error}")),
                }
            }
            Self::Curl => curl().map(drop).ok_or_else(|| "no curl on this machine".to_owned()),
            Self::Landlock => crate::sandbox::landlock(),
            Self::Vectors => vectors().map(drop).ok_or_else(|| "no ../shared/vectors beside the project".to_owned()),
        }
    }
}

fn namespaces() -> &'static Result<(), String> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    ONCE.get_or_init(|| World::private().map(drop).map_err(|error| format!("no namespaces: {error}")))
}

fn guest_port() -> Result<(), String> {
    if namespaces().is_ok() {
        return Ok(());
    }
    World::host().map(drop).map_err(|error| format!("no namespaces, and 127.0.0.1:8006 cannot be had: {error}"))
}

fn users() -> Result<(), String> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let world = World::private().map_err(|error| error.to_string())?;
        let run = world.run("/bin/sh", &["-c", "id -u"]).uid(65532).run();
        if run.stdout.trim() == "65532" { Ok(()) } else { Err("cannot become another user: not root".to_owned()) }
    })
    .clone()
}

/// The system's `curl`.
pub fn curl() -> Option<PathBuf> {
    ["/usr/bin/curl", "/bin/curl", "/usr/local/bin/curl"].into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// `../shared/vectors` as seen from the project's root.
pub fn vectors() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.parent()?.parent()?.join("shared").join("vectors");
    path.is_dir().then_some(path)
}

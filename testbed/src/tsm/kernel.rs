//! The rig of a real kernel, and the program around it.
//!
//! `tsm-conformance --setup NAME` runs the checks of one setup in the guest, as root, after whoever
//! booted it has loaded the provider that `tsm-conformance --list` describes. Each check prints
//! `PASS name` or `FAIL name: why`; the last line is `TSM-CONFORMANCE END n passed m failed`.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use countersign::ports::tsm_fs::{RealFs, TsmFs};

use super::Setup;
use super::conformance::{self, AS_USER, AsUser, Outcome, Rig};

/// The uid of a container that drops root.
const USER: u32 = 65532;

const USAGE: &str = "tsm-conformance --list | --setup NAME";

/// The kernel's own configfs.
#[derive(Debug, Default)]
pub struct KernelRig;

impl KernelRig {
    fn plain() -> PathBuf {
        std::env::temp_dir().join("tsm-conformance-plain")
    }
}

impl Rig for KernelRig {
    fn fs(&self) -> Arc<dyn TsmFs> {
        Arc::new(RealFs::kernel())
    }

    fn plain_directory(&self) -> Arc<dyn TsmFs> {
        let plain = Self::plain();
        fs::create_dir_all(plain.join("tsm/report")).expect("a plain directory");
        Arc::new(RealFs::at(plain))
    }

    fn as_user(&self, entry: &str, inner: &'static AsUser) -> Outcome {
        let path = PathBuf::from("/sys/kernel/config/tsm/report").join(entry);
        let give = || -> std::io::Result<()> {
            for file in fs::read_dir(&path)? {
                chown(file?.path(), Some(USER), Some(USER))?;
            }
            chown(&path, Some(USER), Some(USER))
        };
        give().map_err(|error| format!("chown: {error}"))?;
        let program = std::env::current_exe().map_err(|error| format!("myself: {error}"))?;
        let run = Command::new(program).args(["--as-user", inner.name, entry]).uid(USER).gid(USER).output();
        let run = run.map_err(|error| format!("cannot start as uid {USER}: {error}"))?;
        if run.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&run.stdout).trim().to_owned()) }
    }
}

/// The program.
pub fn main(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--list"] => {
            for setup in Setup::ALL {
                let (name, wants) = setup.wants();
                println!("{name}\t{}\t{wants}", conformance::of(setup).count());
            }
            ExitCode::SUCCESS
        }
        ["--setup", name] => match Setup::named(name) {
            Some(setup) => run(&KernelRig, setup),
            None => usage(),
        },
        ["--as-user", name, entry] => match AS_USER.iter().find(|inner| inner.name == *name) {
            Some(inner) => told((inner.run)(&RealFs::kernel(), entry)),
            None => usage(),
        },
        _ => usage(),
    }
}

/// Runs the checks of a setup one after the other.
pub fn run(rig: &dyn Rig, setup: Setup) -> ExitCode {
    let (mut passed, mut failed) = (0_u32, 0_u32);
    for check in conformance::of(setup) {
        match (check.run)(rig) {
            Ok(()) => {
                passed += 1;
                println!("PASS {}/{}", setup.wants().0, check.name);
            }
            Err(why) => {
                failed += 1;
                println!("FAIL {}/{}: {why}", setup.wants().0, check.name);
            }
        }
    }
    println!("TSM-CONFORMANCE END {passed} passed {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn told(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(64)
}

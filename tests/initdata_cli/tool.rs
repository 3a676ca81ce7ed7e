//! A directory to work in, and the workstation's binary.

#![allow(dead_code)] // Each test file uses a part of it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::pki::Ca;

/// A directory of its own, gone with the value.
pub(crate) struct Desk(PathBuf);

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("countersign-desk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes the certificate of a new CA, and returns it.
    pub(crate) fn ca(&self, name: &str) -> String {
        let ca = Ca::new("KBS CA");
        self.write(name, ca.pem());
        ca.pem().to_owned()
    }

    /// `kubectl countersign initdata …`, in the directory.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], stdin: &str) -> Said {
        self.start(&[&["initdata"], arguments].concat(), stdin)
    }

    /// `kubectl countersign …`.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Said {
        self.start(arguments, "")
    }

    fn start(&self, arguments: &[&str], stdin: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-countersign"))
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Dropped at once: the end of the input. Not read at all by most commands.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Said {
    /// It went well; what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// It was refused as a whole, in the product's four lines; what it said.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(self.out.is_empty(), "a refusal prints nothing on standard output: {}", self.out);
        let next = self.err.lines().find_map(|line| line.trim().strip_prefix("next: ")).expect("a next step");
        assert!(starts_with_a_verb(next), "`next` starts with a verb: {next}");
        self.err
    }
}

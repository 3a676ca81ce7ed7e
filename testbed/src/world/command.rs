//! Running a command inside a world, with a hard time limit.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::World;
use crate::roles::{self, Who};

/// How long a command may take unless the test says otherwise. Every wait of the product that a
/// test meets is shorter by design; a test that needs more says so.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How often a running child is looked at. std has no wait with a time limit, and `SIGCHLD` would
/// belong to the whole test process.
const POLL: Duration = Duration::from_millis(2);

/// A command to run in a [`World`]. Starts with an environment that holds only `PATH`.
#[derive(Debug)]
pub struct Cmd<'w> {
    pub(super) world: &'w World,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    who: Who,
    stdin: Vec<u8>,
    time_limit: Duration,
    directory: Option<PathBuf>,
}

/// What became of a command.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the time limit did.
    pub timed_out: bool,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    /// The last line of `/dev/termination-log`, where it is JSON. `None` where nothing was written.
    pub termination: Option<serde_json::Value>,
    /// The whole of `/dev/termination-log`.
    pub termination_text: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl<'w> Cmd<'w> {
    pub(super) fn new(world: &'w World, program: &OsStr, args: &[&str]) -> Self {
        Self {
            world,
            program: program.to_owned(),
            args: args.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
            who: Who { holder: world.holder_pid(), ..Who::default() },
            stdin: Vec::new(),
            time_limit: TIME_LIMIT,
            directory: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(OsString::from));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs as this user and the group of the same number, without capabilities and without
    /// supplementary groups. Needs [`Need::Users`](crate::runner::Need::Users), unless it is
    /// ourselves.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        if rustix::process::geteuid().as_raw() == uid {
            self.who.no_capabilities = true;
        } else {
            self.who.ids = Some((uid, uid));
        }
        self
    }

    /// Adds a supplementary group, as `fsGroup` does. Together with [`Cmd::uid`].
    #[must_use]
    pub fn group(mut self, gid: u32) -> Self {
        self.who.groups.push(gid);
        self
    }

    /// Runs without capabilities, as `capabilities: { drop: [ALL] }` makes a container.
    #[must_use]
    pub fn without_capabilities(mut self) -> Self {
        self.who.no_capabilities = true;
        self
    }

    /// Runs as on a kernel without Landlock, under a runtime that allows no filter of system calls.
    #[must_use]
    pub fn without_sandbox(mut self) -> Self {
        self.who.no_sandbox = true;
        self
    }

    /// What the command reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// When to kill it. 30 s unless said.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the command cannot be started at all.
    pub fn run(self) -> Run {
        self.start().wait()
    }

    /// Starts it, and comes back at once.
    ///
    /// # Panics
    /// When the command cannot be started at all.
    pub fn start(self) -> Started<'w> {
        self.world.clear_termination();
        let who = serde_json::to_string(&self.who).expect("plain numbers are JSON");
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(roles::ENTER)
            .arg(who)
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts dies with it.
            .process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let begun = Instant::now();
        let mut child = command.spawn().expect("this test binary can be started again");
        let group = i32::try_from(child.id()).expect("a pid is an i32");
        self.world.watch(group);
        let mut stdin = child.stdin.take().expect("piped");
        let bytes = self.stdin;
        // A thread, for a command that writes much before it reads.
        thread::spawn(move || stdin.write_all(&bytes));
        let stdout = drain(child.stdout.take().expect("piped"));
        let said = Said::default();
        let stderr = listen(child.stderr.take().expect("piped"), Arc::clone(&said));
        let (world, time_limit) = (self.world, self.time_limit);
        Started { world, child, group, stdout, stderr, said, begun, time_limit, status: None }
    }
}

/// A command that runs. Killed with all it started when dropped.
#[derive(Debug)]
pub struct Started<'w> {
    world: &'w World,
    child: Child,
    group: i32,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    said: Said,
    begun: Instant,
    time_limit: Duration,
    status: Option<ExitStatus>,
}

impl Started<'_> {
    /// Its process id. The same before and after it entered the world.
    pub fn pid(&self) -> i32 {
        self.group
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        // A child that has ended and was not waited for is a zombie: `Z` behind its name.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.group)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(pid(self.group), signal)?)
    }

    /// Waits for the end, or for the time limit, whichever is first.
    ///
    /// # Panics
    /// When the kernel loses the child.
    pub fn wait(mut self) -> Run {
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                break status;
            }
            if self.begun.elapsed() > self.time_limit {
                timed_out = true;
                self.kill();
                break self.child.wait().expect("the child is ours");
            }
            thread::sleep(POLL);
        };
        self.status = Some(status);
        let elapsed = self.begun.elapsed();
        // What it left running in its group would hold the pipes open.
        self.kill();
        let termination_text = self.world.termination_text();
        Run {
            code: status.code(),
            signal: status.signal(),
            timed_out,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            termination: termination_text.lines().last().and_then(|line| serde_json::from_str(line).ok()),
            termination_text,
            elapsed,
        }
    }

    fn kill(&self) {
        let _ = rustix::process::kill_process_group(pid(self.group), Signal::KILL);
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
            let _ = self.child.wait();
        }
        self.world.forget(self.group);
    }
}

impl Run {
    /// Both outputs, for a failing assertion or a search for what must not be there.
    pub fn output(&self) -> String {
        format!(
            "exit {:?} signal {:?} after {:?}\n--- stdout\n{}\n--- stderr\n{}\n--- termination\n{}",
            self.code, self.signal, self.elapsed, self.stdout, self.stderr, self.termination_text
        )
    }

    /// Panics with both outputs unless the exit code is this one.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use)] // Often the last word on a run.
    pub fn expect_code(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit {code}: {}", self.output());
        self
    }
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).expect("a child's pid is not 0")
}

/// What a command has said so far.
type Said = Arc<Mutex<Vec<u8>>>;

/// As [`drain`], and what has come can be looked at before the end.
fn listen(mut from: impl Read + Send + 'static, said: Said) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut piece = [0_u8; 4096];
        while let Ok(count) = from.read(&mut piece) {
            if count == 0 {
                break;
            }
            said.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(piece.get(..count).unwrap_or_default());
        }
        let all = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = send.send(all);
    });
    receive
}

fn drain(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}

fn text(from: &Receiver<Vec<u8>>) -> String {
    // The writers are dead, so this ends at once, unless one of them left its process group.
    match from.recv_timeout(Duration::from_secs(5)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            "(testbed: a process outside the command's group keeps its output open)".to_owned()
        }
    }
}

/// Reads a text file, empty when it is not there.
pub(super) fn read_or_empty(path: &std::path::Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

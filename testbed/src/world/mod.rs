//! Worlds: a pod's surroundings, private to one test.
//!
//! The shipped binary talks to 127.0.0.1:8006 and reads no override. Each [`World`] therefore is a
//! network and mount namespace of its own, in which that port is always free, `/dev` holds a
//! termination log, and `/proc/swaps` says what the test wants. The doubles run in the test
//! process, on listeners that the world's holder made inside and passed out.
//!
//! Where a machine gives no namespaces, [`World::new`] falls back to the machine's own
//! 127.0.0.1:8006, one world at a time, when the port is free. Mounting is refused there.

mod channel;
mod command;
mod directories;
mod holder;
mod netns;
mod place;
mod tee;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use command::{Cmd, Run, Started};
pub use directories::{ActiveSwap, Volume};
pub(crate) use place::Place;
pub use tee::RunningSigner;

use crate::dns::{Dns, RunningDns};
use crate::guest::{GuestApi, RunningGuest};
use crate::kbs::{Kbs, RunningKbs};
use crate::roles;
use channel::Request;

/// Where the guest's REST service is in every guest.
pub const GUEST_API: &str = "127.0.0.1:8006";

/// Set to `host` to use no namespaces even where they can be had: how the fallback is tested.
const MODE: &str = "COUNTERSIGN_TESTBED_WORLD";

/// One pod's surroundings.
#[derive(Debug)]
pub struct World {
    // Doubles first: they stop before the world does.
    guest: Option<RunningGuest>,
    kbs: RefCell<Vec<RunningKbs>>,
    dns: Option<RunningDns>,
    place: Arc<Place>,
    binary: RefCell<Option<PathBuf>>,
    next_name: AtomicU32,
}

/// Connects inside a world, from any thread of the test.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Place>);

impl Connector {
    /// Connects from inside the world.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        self.0.connect(address.parse().map_err(io::Error::other)?)
    }

    /// Connects from an address of the world's loopback: each is another caller.
    pub fn connect_from(&self, from: &str, address: &str) -> io::Result<TcpStream> {
        let (from, to) = (from.parse().map_err(io::Error::other)?, address.parse().map_err(io::Error::other)?);
        self.0.connect_from(from, to)
    }
}

/// The holder's `main`, for [`roles::play`].
pub(crate) fn holder_main() -> ExitCode {
    holder::main()
}

/// Moves this process into a world.
pub(crate) fn enter(holder: i32) -> io::Result<()> {
    netns::enter(holder)
}

impl World {
    /// A world of its own; the machine's where there are no namespaces.
    pub fn new() -> io::Result<Self> {
        match Self::private() {
            Ok(world) => Ok(world),
            Err(no_namespaces) => Self::host().map_err(|no_port| {
                io::Error::other(format!("no namespaces here ({no_namespaces}), and no port either ({no_port})"))
            }),
        }
    }

    /// A world of its own, or an error.
    pub fn private() -> io::Result<Self> {
        if std::env::var_os(MODE).is_some_and(|mode| mode == "host") {
            return Err(io::Error::other(format!("{MODE}=host is set")));
        }
        let world = Self::with(Place::private()?);
        // Last, so that an error here drops what stands already.
        world.lay_out_dev()?;
        Ok(world)
    }

    /// The machine's own network and mounts, while nobody else uses them.
    pub fn host() -> io::Result<Self> {
        Ok(Self::with(Place::host()?))
    }

    fn with(place: Place) -> Self {
        Self {
            guest: None,
            kbs: RefCell::new(Vec::new()),
            dns: None,
            place: Arc::new(place),
            binary: RefCell::new(None),
            next_name: AtomicU32::new(0),
        }
    }

    /// Starts a guest's REST service on 127.0.0.1:8006.
    ///
    /// # Panics
    /// When the listener cannot be had.
    #[must_use]
    pub fn guest(mut self, api: GuestApi) -> Self {
        self.guest = None; // The one before gives the port back first.
        self.guest = Some(api.start(&self.place));
        self
    }

    /// What the guest's REST service was asked.
    ///
    /// # Panics
    /// When there is none.
    pub fn guest_api(&self) -> &RunningGuest {
        self.guest.as_ref().expect("the test gave this world a guest API")
    }

    /// Starts a KBS on an address inside the world, and tells how to reach it.
    ///
    /// # Panics
    /// When the listener cannot be had.
    pub fn kbs(&self, address: &str, kbs: Kbs) -> RunningKbs {
        let running = kbs.start(&self.place, address);
        self.kbs.borrow_mut().push(running.clone());
        running
    }

    /// Starts a DNS server, and makes it the world's only one.
    #[must_use = "the world with the server comes back"]
    pub fn dns(mut self, dns: Dns) -> io::Result<Self> {
        self.dns = Some(dns.start(&self.place)?);
        self.replace_file("/etc/resolv.conf", b"nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        self.replace_file("/etc/hosts", b"127.0.0.1 localhost\n")?;
        Ok(self)
    }

    /// Shows other text at a path that exists, inside this world only.
    pub fn replace_file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let from = self.place.directory.join(self.unused_name("file"));
        fs::write(&from, bytes)?;
        fs::set_permissions(&from, fs::Permissions::from_mode(0o644))?; // Whatever the umask.
        self.place.ask(&Request::Bind { from, on: path.into(), recursive: false, read_only: false }).map(drop)
    }

    /// Runs `countersign`.
    ///
    /// # Panics
    /// When the binary cannot be found.
    pub fn countersign(&self, args: &[&str]) -> Cmd<'_> {
        Cmd::new(self, self.countersign_path().as_os_str(), args)
    }

    /// Runs `countersign-sim`, with its `--sim-…` flags among the arguments.
    pub fn sim(&self, args: &[&str]) -> Cmd<'_> {
        let mut all = vec![roles::SIM];
        all.extend(args);
        Cmd::new(self, OsStr::new("/proc/self/exe"), &all)
    }

    /// Runs any program.
    pub fn run(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Cmd<'_> {
        Cmd::new(self, program.as_ref(), args)
    }

    /// Connects by TCP from inside the world: a client that the test can script.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        self.place.connect(address.parse().map_err(io::Error::other)?)
    }

    pub(crate) fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }

    /// Connects from other threads, and from other addresses.
    pub fn connector(&self) -> Connector {
        Connector(Arc::clone(&self.place))
    }

    /// Listens by TCP inside the world: an app that the test can script.
    pub fn listen(&self, address: &str) -> io::Result<std::net::TcpListener> {
        self.place.tcp(address.parse().map_err(io::Error::other)?)
    }

    /// A directory on the machine's own file system, removed with the world. Every user may read it.
    pub fn directory(&self) -> &Path {
        &self.place.directory
    }

    /// Whether this world is private: mounts work, and nobody else is in it.
    pub fn is_private(&self) -> bool {
        self.place.holder_pid().is_some()
    }

    /// A path inside the world, as this test process can open it.
    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match self.holder_pid() {
            Some(pid) => Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Reads a file inside the world.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        fs::read(self.outside(path))
    }

    /// Names of what a directory inside the world holds, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(self.outside(path))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// Where `countersign` lies inside the world: readable by every user there, wherever cargo
    /// built it.
    pub(crate) fn countersign_path(&self) -> PathBuf {
        if let Some(path) = self.binary.borrow().as_ref() {
            return path.clone();
        }
        let built = crate::runner::countersign_binary().expect("the countersign binary is built: run `cargo build`");
        let path = if self.is_private() {
            let on = self.place.directory.join("countersign");
            File::create(&on)
                .and_then(|_| {
                    self.place.ask(&Request::Bind { from: built, on: on.clone(), recursive: false, read_only: false })
                })
                .expect("a bind mount in a private world");
            on
        } else {
            built
        };
        self.binary.replace(Some(path.clone()));
        path
    }

    /// A `/dev` with the nodes that containers have, and a termination log that every user may
    /// write, as the kubelet makes it.
    fn lay_out_dev(&self) -> io::Result<()> {
        let log = self.termination_path();
        File::create(&log)?.set_permissions(fs::Permissions::from_mode(0o666))?;
        let dev = self.place.directory.join("dev");
        fs::create_dir(&dev)?;
        self.mount_on(&dev, "tmpfs", "mode=0755,size=1m", false)?;
        let bind = |from: PathBuf, name: &str| {
            let on = dev.join(name);
            self.place.ask(&Request::Bind { from, on, recursive: true, read_only: false }).map(drop)
        };
        let seen = self.outside(&dev);
        for name in ["null", "zero", "full", "random", "urandom"] {
            File::create(seen.join(name))?;
            bind(Path::new("/dev").join(name), name)?;
        }
        for name in ["shm", "pts", "mqueue"] {
            if Path::new("/dev").join(name).is_dir() {
                fs::create_dir(seen.join(name))?;
                bind(Path::new("/dev").join(name), name)?;
            }
        }
        File::create(seen.join("termination-log"))?;
        bind(log, "termination-log")?;
        for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
            std::os::unix::fs::symlink(target, seen.join(name))?;
        }
        self.place.ask(&Request::Bind { from: dev, on: "/dev".into(), recursive: true, read_only: false }).map(drop)
    }

    fn termination_path(&self) -> PathBuf {
        self.place.directory.join("termination-log")
    }

    pub(crate) fn clear_termination(&self) {
        if self.is_private() {
            // Truncated, not replaced: the world shows this very file.
            let _ = File::create(self.termination_path());
        }
    }

    pub(crate) fn termination_text(&self) -> String {
        command::read_or_empty(&self.termination_path())
    }

    pub(crate) fn holder_pid(&self) -> Option<i32> {
        self.place.holder_pid()
    }

    pub(crate) fn watch(&self, group: i32) {
        let _ = self.place.ask(&Request::Watch(group));
    }

    pub(crate) fn forget(&self, group: i32) {
        let _ = self.place.ask(&Request::Forget(group));
    }

    /// A new directory on the machine's own file system, gone with the world.
    pub(crate) fn scratch(&self, kind: &str) -> io::Result<PathBuf> {
        let path = self.place.directory.join(self.unused_name(kind));
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?; // Whatever the umask.
        Ok(path)
    }

    /// Shows the unified tree of control groups: `crun` takes no mixture of both versions, even
    /// where it is to use none.
    pub(crate) fn one_cgroup_tree(&self) -> io::Result<()> {
        // linux/magic.h.
        const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
        let tree = Path::new("/sys/fs/cgroup");
        if rustix::fs::statfs(self.outside(tree))?.f_type == CGROUP2_SUPER_MAGIC {
            return Ok(());
        }
        self.mount_on(tree, "cgroup2", "", false)
    }

    fn unused_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }
}

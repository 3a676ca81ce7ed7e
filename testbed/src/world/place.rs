//! Where a world is: a holder's namespaces, or the machine itself behind a lock.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{self as unix, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::GUEST_API;
use super::channel::{self, Answer, Request};
use super::holder;
use crate::http::lock;
use crate::roles;

/// How long a test waits for the machine's own port 8006 when there are no namespaces. Other tests
/// of the same run hold it one after the other.
const HOST_PORT_WAIT: Duration = Duration::from_secs(120);

/// The namespaces, or the lock that stands in for them. Shared with doubles that open their
/// listener later.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) directory: PathBuf,
    holder: Child,
    /// `None` once closed, which tells the holder to clean up.
    socket: Mutex<Option<OwnedFd>>,
    /// On the machine itself: ours alone until closed.
    lock: Option<UnixListener>,
}

impl Place {
    pub(super) fn private() -> io::Result<Self> {
        Self::new(None)
    }

    pub(super) fn host() -> io::Result<Self> {
        let lock = lock_host_port()?;
        // The lock keeps our own tests apart; somebody else's server shows here.
        TcpListener::bind(GUEST_API)?;
        Self::new(Some(lock))
    }

    fn new(lock: Option<UnixListener>) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let holder = Command::new("/proc/self/exe")
            .arg(roles::HOLDER)
            .args(lock.is_some().then_some(holder::ON_THE_MACHINE))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Out of reach of the terminal's Ctrl-C: it has to outlive us by a moment.
            .process_group(0)
            .spawn()?;
        // From here on an error drops the place, and with it what stands already.
        let mut place = Self { directory: PathBuf::new(), holder, socket: Mutex::new(Some(ours)), lock };
        place.ask(&Request::Hello)?;
        place.directory = new_name(&std::env::temp_dir())?;
        place.ask(&Request::Owns(place.directory.clone()))?;
        create(&place.directory)?;
        Ok(place)
    }

    /// The process whose namespaces are the world; none on the machine itself.
    pub(super) fn holder_pid(&self) -> Option<i32> {
        if self.lock.is_some() { None } else { i32::try_from(self.holder.id()).ok() }
    }

    /// Asks the holder for something, and waits for it.
    pub(super) fn ask(&self, request: &Request) -> io::Result<Option<OwnedFd>> {
        let socket = lock(&self.socket);
        let socket = socket.as_ref().ok_or_else(|| io::Error::other("this world has ended"))?;
        channel::send(socket.as_fd(), request, None)?;
        match channel::receive::<Answer>(socket.as_fd())? {
            Some((Ok(()), fd)) => Ok(fd),
            Some((Err(text), _)) => Err(io::Error::other(format!("{request:?}: {text}"))),
            None => Err(io::Error::other("the world's holder has died")),
        }
    }

    /// Makes a directory below another, and has it removed with the world.
    pub(super) fn make_directory(&self, below: &Path) -> io::Result<PathBuf> {
        let directory = new_name(below)?;
        // Told first: we may be killed between the two.
        self.ask(&Request::Owns(directory.clone()))?;
        create(&directory)?;
        Ok(directory)
    }

    /// A TCP listener inside the world.
    pub(crate) fn tcp(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.socket_from(&Request::Tcp(address)).map(TcpListener::from)
    }

    /// A TCP connection from inside the world.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.socket_from(&Request::Connect(address)).map(TcpStream::from)
    }

    /// The same, from this address of the world.
    pub(super) fn connect_from(&self, from: std::net::IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.socket_from(&Request::ConnectFrom(from, to)).map(TcpStream::from)
    }

    /// A UDP socket inside the world.
    pub(crate) fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        self.socket_from(&Request::Udp(address)).map(UdpSocket::from)
    }

    fn socket_from(&self, request: &Request) -> io::Result<OwnedFd> {
        self.ask(request)?.ok_or_else(|| io::Error::other("the holder sent no socket"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Closing is the word to clean up; waiting makes the cleaning visible to whoever looks
        // after us.
        drop(self.socket.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.holder.wait();
    }
}

/// A path that nobody has.
fn new_name(below: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut random = [0_u8; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let random = u32::from_ne_bytes(random);
    Ok(below.join(format!("countersign-world-{}-{number}-{random:08x}", std::process::id())))
}

/// Makes a directory that every user may read, whatever the umask. An error if it exists.
fn create(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

/// Waits for the machine's port. The lock is an abstract socket name: it lives in the network
/// namespace, as the port does, every user can take it, and it is gone with its process.
fn lock_host_port() -> io::Result<UnixListener> {
    let name = unix::SocketAddr::from_abstract_name("countersign-testbed-8006")?;
    let begun = Instant::now();
    loop {
        match UnixListener::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < HOST_PORT_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

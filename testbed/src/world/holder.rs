//! The holder: a small process that keeps one world alive, and cleans up after it.
//!
//! It lives in the world's namespaces and serves requests on its standard input, a socket. When
//! that socket closes, the test process is gone, by return, panic, Ctrl-C or `kill -9` alike: the
//! holder kills what still runs in the world, removes the world's directories and ends. The
//! namespaces, with every mount in them, end with it. On a machine without namespaces it does the
//! same, but for the mounts.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};

use super::channel::{self, Answer, Request};
use super::netns;

/// Argument of the role that makes no namespaces: a world on the machine itself.
pub(super) const ON_THE_MACHINE: &str = "on-the-machine";

/// Longest wait for a connection. It is to a double in the same world, or to nobody.
const CONNECT: Duration = Duration::from_secs(5);

/// What the holder has to undo.
#[derive(Default)]
struct Duties {
    mounts: Vec<PathBuf>,
    paths: Vec<PathBuf>,
    groups: Vec<i32>,
}

/// The holder's `main`. Must be called before the process has a second thread.
pub(crate) fn main() -> ExitCode {
    let on_the_machine = std::env::args().nth(2).is_some_and(|arg| arg == ON_THE_MACHINE);
    let made = if on_the_machine { Ok(()) } else { netns::unshare().and_then(|()| netns::loopback_up()) };
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let mut duties = Duties::default();
    while let Ok(Some((request, _))) = channel::receive::<Request>(socket) {
        let result = match &made {
            Ok(()) if on_the_machine && request.mounts() => Err(io::Error::other("only a private world has mounts")),
            Ok(()) => serve(request, &mut duties),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let (answer, fd): (Answer, Option<OwnedFd>) = match result {
            Ok(fd) => (Ok(()), fd),
            Err(error) => (Err(error.to_string()), None),
        };
        if channel::send(socket, &answer, fd.as_ref().map(AsFd::as_fd)).is_err() {
            break;
        }
    }
    clean(&duties);
    ExitCode::SUCCESS
}

fn serve(request: Request, duties: &mut Duties) -> io::Result<Option<OwnedFd>> {
    match request {
        Request::Hello => {}
        Request::Tcp(address) => return Ok(Some(TcpListener::bind(address)?.into())),
        Request::Udp(address) => return Ok(Some(UdpSocket::bind(address)?.into())),
        Request::Connect(address) => return Ok(Some(TcpStream::connect_timeout(&address, CONNECT)?.into())),
        Request::ConnectFrom(from, to) => {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &std::net::SocketAddr::new(from, 0))?;
            connect(&socket, &to)?;
            return Ok(Some(socket));
        }
        Request::Mount { kind, on, options, read_only } => {
            let options = std::ffi::CString::new(options)?;
            let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
            rustix::mount::mount("countersign-testbed", &on, kind, flags, options.as_c_str())?;
            duties.mounts.push(on);
        }
        Request::Bind { from, on, recursive, read_only } => {
            bind(&from, &on, recursive, read_only)?;
            duties.mounts.push(on);
        }
        Request::Unmount(on) => rustix::mount::unmount(on, UnmountFlags::DETACH)?,
        Request::Owns(path) => duties.paths.push(path),
        Request::Watch(group) => duties.groups.push(group),
        Request::Forget(group) => duties.groups.retain(|known| *known != group),
    }
    Ok(None)
}

fn bind(from: &Path, on: &Path, recursive: bool, read_only: bool) -> io::Result<()> {
    if recursive {
        rustix::mount::mount_bind_recursive(from, on)?;
    } else {
        rustix::mount::mount_bind(from, on)?;
    }
    if read_only {
        // A bind mount takes its flags only from a second call. Flags that the source has and a
        // user namespace may not clear (nosuid, nodev) have to be repeated.
        let kept = inherited(on);
        rustix::mount::mount_remount(on, MountFlags::BIND | MountFlags::RDONLY | kept, "")?;
    }
    Ok(())
}

fn inherited(path: &Path) -> MountFlags {
    let Ok(stat) = rustix::fs::statvfs(path) else { return MountFlags::empty() };
    let mut flags = MountFlags::empty();
    for (has, keep) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if stat.f_flag.contains(has) {
            flags |= keep;
        }
    }
    flags
}

fn clean(duties: &Duties) {
    for group in &duties.groups {
        if let Some(pid) = Pid::from_raw(*group) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
    // Mounts first, newest first: a directory that carries one cannot be removed, and what is
    // mounted by `bind` must not be emptied through it.
    let mut all_off = true;
    for path in duties.mounts.iter().rev() {
        all_off &= match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            // Taken off on request already.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => true,
            Err(_) => false,
        };
    }
    if all_off {
        for path in &duties.paths {
            let _ = fs::remove_dir_all(path);
        }
    }
}

//! What a test process and the holder of its world say to each other: one JSON text a message,
//! over a `SOCK_SEQPACKET` pair, with at most one descriptor riding on an answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message, bytes. A request is a few paths of at most 4096 bytes each.
const MAX_MESSAGE: usize = 32 * 1024;

/// What a world can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Say that the namespaces stand.
    Hello,
    /// Listen for TCP inside the world; the listener comes back.
    Tcp(SocketAddr),
    /// Bind a UDP socket inside the world; it comes back.
    Udp(SocketAddr),
    /// Connect by TCP from inside the world; the stream comes back.
    Connect(SocketAddr),
    /// The same from this address.
    ConnectFrom(std::net::IpAddr, SocketAddr),
    /// Mount a new file system (`tmpfs`, `ramfs`, …) on a directory that exists.
    Mount { kind: String, on: PathBuf, options: String, read_only: bool },
    /// Show `from` at `on` too; both exist.
    Bind { from: PathBuf, on: PathBuf, recursive: bool, read_only: bool },
    /// Take the topmost mount off `on`.
    Unmount(PathBuf),
    /// Remove this path when the test process is gone.
    Owns(PathBuf),
    /// Kill this process group when the test process is gone.
    Watch(i32),
    /// The group ended; its number may now be somebody else's.
    Forget(i32),
}

impl Request {
    /// Whether it changes what is mounted where.
    pub(crate) fn mounts(&self) -> bool {
        matches!(self, Self::Mount { .. } | Self::Bind { .. } | Self::Unmount(_))
    }
}

/// What comes back: nothing, or why not.
pub(crate) type Answer = Result<(), String>;

/// Sends one message.
pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    // NOSIGNAL: the other side may be gone, and that is an error to report, not a SIGPIPE.
    rustix::net::sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut text = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut slices = [IoSliceMut::new(&mut text)];
        match rustix::net::recvmsg(socket.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    let message = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    Ok(Some((message, fd)))
}

//! Sockets: how we listen, and how every connection is set up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::deadlines::{TCP_KEEPALIVE, UNACKNOWLEDGED};
use crate::observe::metrics::Inbound;

/// Connections that the kernel holds until we accept them. The usual ceiling (`net.core.somaxconn`).
pub(super) const BACKLOG: i32 = 4096;

/// Most bytes that a stranger may send before it has authenticated: a chain of the largest
/// certificates has a quarter of it, and rustls takes no handshake message over 64 KiB.
const BEFORE_AUTHENTICATION: u64 = 128 * 1024;

/// Most bytes that a peer may send from then on until it has proven itself: an attestation result of the
/// largest size, a statement, and TLS around them.
const BEFORE_PROOF: u64 = 384 * 1024;

/// An address that is ours, and that nobody can connect to yet.
pub struct Held(Socket);

/// Takes an address. `[::]` takes IPv4 too; where the machine has no IPv6, `0.0.0.0` in its place, and
/// the log says so.
pub fn hold(address: SocketAddr) -> io::Result<Held> {
    match bind(address) {
        Err(error) if is_without_v6(&error) && address.ip().is_unspecified() && address.is_ipv6() => {
            let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(%address, %instead, "no IPv6 here");
            bind(instead)
        }
        other => other,
    }
}

impl Held {
    /// Lets callers connect.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        TcpListener::from_std(self.0.into())
    }
}

/// EAFNOSUPPORT, EADDRNOTAVAIL: no IPv6 in the kernel, or none in this namespace.
fn is_without_v6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

fn bind(address: SocketAddr) -> io::Result<Held> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(Held(socket))
}

/// What every connection is given. None of it can fail in a way that matters: a connection without
/// keepalive still has our own deadlines.
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let (idle, interval, count) = TCP_KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// A peer's connection: counts its bytes, and lets a stranger send only so many.
pub struct Metered {
    stream: TcpStream,
    counts: Arc<Inbound>,
    /// Bytes that a stranger may still send. `None`: it is a stranger no more.
    left: Option<u64>,
}

impl Metered {
    /// A stranger's.
    pub fn new(stream: TcpStream, counts: Arc<Inbound>) -> Self {
        Self { stream, counts, left: Some(BEFORE_AUTHENTICATION) }
    }

    /// The peer is known, and may prove itself.
    pub fn known(&mut self) {
        self.left = Some(BEFORE_PROOF);
    }

    /// The peer has authenticated.
    pub fn authenticated(&mut self) {
        self.left = None;
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == Some(0) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let count = u64::try_from(buf.filled().len().saturating_sub(before)).unwrap_or(u64::MAX);
        if count > 0 {
            self.counts.received.add(count);
            self.left = self.left.map(|left| left.saturating_sub(count));
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &result {
            self.counts.sent.add(u64::try_from(*count).unwrap_or(u64::MAX));
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // send(2) is cheaper than writev(2).
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = &result {
            self.counts.sent.add(u64::try_from(*count).unwrap_or(u64::MAX));
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn pair() -> (Metered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        (Metered::new(near, Arc::default()), far)
    }

    #[tokio::test]
    async fn a_stranger_may_send_so_much_and_a_peer_without_end() {
        let most = usize::try_from(BEFORE_AUTHENTICATION).unwrap();
        let mut buf = [0; 1024];
        for peer in [false, true] {
            let (mut near, mut far) = pair().await;
            if peer {
                near.authenticated();
            }
            let sending = tokio::spawn(async move { far.write_all(&vec![7; 2 * most]).await });
            let mut read = 0;
            let ended = loop {
                match near.read(&mut buf).await {
                    Ok(0) => break None,
                    Ok(count) => read += count,
                    Err(error) => break Some(error.kind()),
                }
            };
            if peer {
                assert_eq!((read, ended), (2 * most, None));
                sending.await.unwrap().unwrap();
            } else {
                assert_eq!(ended, Some(io::ErrorKind::InvalidData));
                assert!((most..most + buf.len()).contains(&read), "{read}");
                sending.abort();
            }
        }
    }
}

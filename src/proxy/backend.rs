//! The app: on loopback or on a unix socket of this pod, and nowhere else.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use super::deadlines::DIAL;
use super::io::Io;
use super::socket;
use crate::config::grammar::Local;

/// A connection to the app.
#[derive(Debug)]
pub enum App {
    /// Loopback.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
}

impl App {
    /// Whether closing it resets it. Set from the beginning, and taken back once all is carried: so the app
    /// cannot take our end for the end of what was sent, even where this process is killed. A unix socket has
    /// no reset.
    pub(super) fn resets_on_close(&self, resets: bool) {
        if let Self::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(resets.then_some(Duration::ZERO));
        }
    }
}

/// Connects to the app, within [`DIAL`].
pub async fn dial(to: &Local) -> io::Result<App> {
    let dialling = async {
        match to {
            Local::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                socket::tune(&stream);
                Ok(App::Tcp(stream))
            }
            Local::Unix(path) => UnixStream::connect(path).await.map(App::Unix),
        }
    };
    tokio::time::timeout(DIAL, dialling).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

macro_rules! inner {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self.get_mut() {
            App::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            App::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for App {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for App {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // send(2) is cheaper than writev(2).
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        inner!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, poll_shutdown, cx)
    }
}

/// Dials the one app for hyper's client, whatever the URI says.
#[derive(Clone, Debug)]
pub struct Dialler(pub Local);

impl Service<Uri> for Dialler {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Io>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let to = self.0.clone();
        Box::pin(async move {
            let app: Io = Box::new(dial(&to).await?);
            Ok(TokioIo::new(app))
        })
    }
}

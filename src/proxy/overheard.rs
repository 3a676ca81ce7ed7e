//! A connection whose bytes somebody hears as they pass. Nothing of them is changed or held back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who hears them.
pub trait Ear {
    /// These were read from the connection. Heard before whoever reads sees them.
    fn read(&mut self, bytes: &[u8]);

    /// So many were written to it.
    fn wrote(&mut self, _count: usize) {}
}

/// A connection, and who hears it.
pub struct Overheard<S, E> {
    stream: S,
    ear: E,
}

impl<S, E> Overheard<S, E> {
    /// `ear` hears all that passes from now on.
    pub fn new(stream: S, ear: E) -> Self {
        Self { stream, ear }
    }
}

impl<S: Unpin, E: Ear + Unpin> Overheard<S, E> {
    fn told(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.ear.wrote(*count);
        }
        result
    }
}

impl<S: AsyncRead + Unpin, E: Ear + Unpin> AsyncRead for Overheard<S, E> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.ear.read(buf.filled().get(before..).unwrap_or_default());
        result
    }
}

impl<S: AsyncWrite + Unpin, E: Ear + Unpin> AsyncWrite for Overheard<S, E> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.told(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.told(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

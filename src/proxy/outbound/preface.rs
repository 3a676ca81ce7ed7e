//! Which HTTP the app speaks. In plain there is no ALPN: who begins with the preface of HTTP/2 has prior
//! knowledge, and everybody else speaks HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// How a connection of HTTP/2 begins (RFC 9113 §3.4). No method is called `PRI`.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes were looked at. They are read again.
pub(super) struct Begun<S> {
    first: Bytes,
    stream: S,
}

/// Reads until it is clear which one it is, and no more. `true`: HTTP/2.
pub(super) async fn begin<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Begun<S>, bool)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let h2 = loop {
        if !PREFACE.starts_with(&first) {
            break false;
        }
        let left = PREFACE.len().saturating_sub(first.len());
        if left == 0 {
            break true;
        }
        if stream.read_buf(&mut (&mut first).limit(left)).await? == 0 {
            break false;
        }
    };
    Ok((Begun { first: Bytes::from(first), stream }, h2))
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..count).unwrap_or_default());
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn only_the_whole_preface_is_http2_and_every_byte_is_read_again() {
        let (requests, frames) = (b"GET / HTTP/1.1\r\n\r\n".as_slice(), [PREFACE, b"\0\0\0\x04"].concat());
        for (sent, is_h2) in [
            (requests, false),
            (b"PRI", false),
            (b"", false),
            (b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", false),
            (b"PRINT / HTTP/1.1\r\n\r\n", false),
            (frames.as_slice(), true),
        ] {
            for piece in [1, 7, 100] {
                let (mut app, near) = duplex(1000);
                let bytes = sent.to_vec();
                let sending = tokio::spawn(async move {
                    for part in bytes.chunks(piece) {
                        app.write_all(part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                });
                let (mut begun, h2) = begin(near).await.unwrap();
                assert_eq!(h2, is_h2, "{sent:?}");
                let mut read = Vec::new();
                begun.read_to_end(&mut read).await.unwrap();
                assert_eq!(read, sent);
                sending.await.unwrap();
            }
        }
    }
}

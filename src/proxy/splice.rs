//! Bytes both ways, until both sides have said that they send no more.
//!
//! An end of one direction is passed on, and the other goes on. Silence ends it: an hour, or minutes
//! once one side has ended. A connection that waits holds no buffer: reads go through one buffer of the
//! thread, and only what the other side does not take at once is kept.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The thread's buffer. Four TLS records: larger ones gain nothing (docs/performance.md).
const SCRATCH: usize = 64 * 1024;

/// Most bytes moved one way before others get their turn.
const TURN: usize = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// How long it may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// While both sides may send.
    pub open: Duration,
    /// Once one side has ended.
    pub half_closed: Duration,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides have ended.
    Both,
    /// Silent for too long.
    Silent,
}

/// Copies between `a` and `b`. An error of either is the end of both.
pub fn splice<A, B>(a: A, b: B, silence: Silence) -> impl Future<Output = io::Result<Ended>>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let timer = Box::pin(sleep_until(Instant::now() + silence.open));
    // Not an `async fn`: that would hold both sides twice, once as arguments.
    Splice { a, b, up: Half::default(), down: Half::default(), silence, timer, last: Instant::now() }
}

struct Splice<A, B> {
    a: A,
    b: B,
    up: Half,
    down: Half,
    silence: Silence,
    timer: Pin<Box<Sleep>>,
    /// When a byte moved last.
    last: Instant,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read, and not taken yet by the other side.
    kept: Vec<u8>,
    at: usize,
    unflushed: bool,
    /// The reader has ended.
    ended: bool,
    /// That has been passed on.
    passed_on: bool,
}

impl<A, B> Future for Splice<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<Ended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut moved = 0;
        let up = this.up.poll(cx, &mut this.a, &mut this.b, &mut moved)?;
        let down = this.down.poll(cx, &mut this.b, &mut this.a, &mut moved)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(Ended::Both));
        }
        if moved > 0 {
            this.last = Instant::now();
        }
        loop {
            let half = this.up.passed_on || this.down.passed_on;
            let most = if half { this.silence.half_closed } else { this.silence.open };
            let end = this.last + most;
            // Moved only when it fires or must fire sooner: not for each byte.
            if half && this.timer.deadline() > end {
                this.timer.as_mut().reset(end);
            }
            ready!(this.timer.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(Ok(Ended::Silent));
            }
            this.timer.as_mut().reset(end);
        }
    }
}

impl Half {
    /// Moves what can be moved. Ready when the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        moved: &mut usize,
    ) -> Poll<io::Result<()>> {
        let mut turn = 0;
        loop {
            if self.passed_on {
                return Poll::Ready(Ok(()));
            }
            while let Some(rest) = self.kept.get(self.at..).filter(|rest| !rest.is_empty()) {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.at = self.at.saturating_add(count);
                self.unflushed = true;
                *moved = moved.saturating_add(count);
            }
            self.kept = Vec::new();
            self.at = 0;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.passed_on = true;
                continue;
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = BUFFER.with_borrow_mut(|buffer| self.read(cx, from, to, buffer));
            match read {
                Poll::Ready(Ok(count)) => {
                    turn = turn.saturating_add(count);
                    *moved = moved.saturating_add(count);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once, and writes it on at once as far as that goes.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let mut rest = buffer.filled();
        let count = rest.len();
        if count == 0 {
            self.ended = true;
            return Poll::Ready(Ok(0));
        }
        self.unflushed = true;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => rest = rest.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.kept.extend_from_slice(rest);
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SILENCE: Silence = Silence { open: Duration::from_secs(100), half_closed: Duration::from_secs(10) };

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_end_is_passed_on_and_the_other_way_goes_on() {
        let (mut left, a) = duplex(10);
        let (mut right, b) = duplex(10);
        let both = tokio::spawn(splice(a, b, SILENCE));
        left.write_all(b"request").await.unwrap();
        left.shutdown().await.unwrap();
        let mut text = String::new();
        right.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "request");
        let answer = vec![7_u8; 100_000];
        let writing = tokio::spawn(async move {
            for piece in answer.chunks(1000) {
                // Slow, and longer than a half-closed connection may be silent: but never silent.
                tokio::time::sleep(Duration::from_secs(1)).await;
                right.write_all(piece).await.unwrap();
            }
            right.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        left.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 100_000);
        writing.await.unwrap();
        assert_eq!(both.await.unwrap().unwrap(), Ended::Both);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn silence_ends_it_sooner_once_one_side_has_ended() {
        for (end, most) in [(false, 100), (true, 10)] {
            let (mut left, a) = duplex(10);
            let (_right, b) = duplex(10);
            let begun = Instant::now();
            if end {
                left.shutdown().await.unwrap();
            }
            assert_eq!(splice(a, b, SILENCE).await.unwrap(), Ended::Silent);
            assert_eq!(begun.elapsed().as_secs(), most);
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_side_that_takes_one_byte_at_a_time_gets_them_all() {
        let (mut left, a) = duplex(100_000);
        let (mut right, b) = duplex(1);
        let both = tokio::spawn(splice(a, b, SILENCE));
        let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        left.write_all(&sent).await.unwrap();
        left.shutdown().await.unwrap();
        let mut got = Vec::new();
        right.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, sent);
        right.shutdown().await.unwrap();
        assert_eq!(both.await.unwrap().unwrap(), Ended::Both);
    }
}

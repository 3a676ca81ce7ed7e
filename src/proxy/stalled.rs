//! Streams of HTTP/2 whose other side takes nothing. It need only give no window: hyper takes one piece of the
//! answer and asks for no more until there is room for it. Neither the answer's own time nor the kernel's would
//! ever end that.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tokio::time::{Sleep, sleep};

use super::deadlines::UNACKNOWLEDGED;

/// What hyper has asked of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing, since its task was woken last.
    Nothing,
    /// For a piece, which it was given.
    Given,
    /// For a piece that is not there yet.
    Awaits,
}

tokio::task_local! {
    /// Of the stream whose task this is.
    static ASKED: Cell<Asked>;
}

/// hyper was given a piece of an answer, or all of it.
pub(super) fn given() {
    // Of HTTP/1.1 there is no such task: the kernel's time ends it.
    let _ = ASKED.try_with(|asked| asked.set(Asked::Given));
}

/// hyper waits for a piece of an answer.
pub(super) fn awaits() {
    let _ = ASKED.try_with(|asked| asked.set(Asked::Awaits));
}

/// Runs each stream of a connection as a task, and ends the one whose other side has had no room for what is
/// there for as long as HTTP/1.1 would wait. The connection's other streams go on.
#[derive(Clone, Copy)]
pub(super) struct Streams;

impl<F: Future + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let stream = async move {
            let (mut stream, mut stall) = (pin!(stream), None);
            std::future::poll_fn(|cx| poll(stream.as_mut(), &mut stall, cx)).await;
        };
        tokio::spawn(ASKED.scope(Cell::new(Asked::Nothing), stream));
    }
}

/// `stall` is there only while the other side has no room.
fn poll(stream: Pin<&mut impl Future>, stall: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    let _ = ASKED.try_with(|asked| asked.set(Asked::Nothing));
    if stream.poll(cx).is_ready() {
        return Poll::Ready(());
    }
    match ASKED.try_with(Cell::get) {
        Ok(Asked::Given) => *stall = Some(Box::pin(sleep(UNACKNOWLEDGED))),
        Ok(Asked::Nothing) => {}
        Ok(Asked::Awaits) | Err(_) => *stall = None,
    }
    let Some(stall) = stall else { return Poll::Pending };
    if stall.as_mut().poll(cx).is_pending() {
        return Poll::Pending;
    }
    // Dropped, which resets it.
    tracing::debug!("a stream was ended: nothing of its answer is taken");
    Poll::Ready(())
}

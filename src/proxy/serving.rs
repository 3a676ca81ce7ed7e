//! hyper's server, one of each version, over any connection and for whoever answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use super::deadlines::{KEEP_ALIVE, PING, PONG};
use super::framing::{Follower, Heads};
use super::io::{Duplex, Io};
use super::overheard::Overheard;
use super::relay::{Answer, Busy};
use super::watch::{Phase, reached};

/// Most streams of one HTTP/2 connection. Envoy's edge guide: 100.
pub(super) const MAX_STREAMS: u32 = 100;

/// Most bytes of a message's head, HTTP/1.1 and HTTP/2. Envoy's default is 60 KiB, nginx's 32 KiB.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Window of one stream, and of one connection: what the other side may make us hold. Envoy's edge guide
/// has 64 KiB and 1 MiB; one stream of 64 KiB is slow over long distances.
pub(super) const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Most bytes of one stream's body that wait for the other side's window. hyper's default is 400 KiB.
pub(super) const SEND_BUFFER: usize = 64 * 1024;

/// An answer that is being made.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

/// Who answers the requests of one connection.
pub(super) type Answerer = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// hyper's part of a connection. `heads` learns where requests of HTTP/1.1 begin and end.
pub(super) fn connection(
    io: impl Duplex + 'static,
    h2: bool,
    heads: &Arc<Heads>,
    answerer: Answerer,
) -> Pin<Box<dyn Drivable + Send>> {
    let service = service_fn(move |request| answerer(request));
    if h2 {
        let io: Io = Box::new(io);
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(io), service);
        Box::pin(connection)
    } else {
        let io: Io = Box::new(Overheard::new(io, Follower::new(heads)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(KEEP_ALIVE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        Box::pin(connection)
    }
}

/// A connection of hyper's, of either version.
pub(super) trait Drivable: Future<Output = Result<(), hyper::Error>> {
    /// Finish what is under way, begin nothing.
    fn finish(self: Pin<&mut Self>);
}

impl<S> Drivable for hyper::server::conn::http1::UpgradeableConnection<TokioIo<Io>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, E> Drivable for hyper::server::conn::http2::Connection<TokioIo<Io>, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, Answer>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// How long a connection may wait for requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until when the first one's head must have come.
    pub(super) first: Instant,
    /// Between two, where HTTP's own keep-alive does not say.
    pub(super) idle: Option<Duration>,
}

/// Serves a connection to its end. With `drains` it begins nothing once that says so. Whether a request ever
/// came.
pub(super) fn drive(
    mut connection: Pin<Box<dyn Drivable + Send>>,
    busy: &Busy,
    patience: Patience,
    mut drains: Option<channel::Receiver<Phase>>,
) -> impl Future<Output = bool> {
    let mut timer = Box::pin(sleep_until(patience.first));
    let mut armed = true;
    // Not an `async fn`: that would hold all of it twice, once as arguments.
    async move {
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %crate::finding::chain(&error), "ended early");
                    }
                    return true;
                }
                () = draining(&mut drains), if drains.is_some() => {
                    drains = None;
                    connection.as_mut().finish();
                }
                () = timer.as_mut(), if armed => {
                    if !busy.has_begun() {
                        return false;
                    }
                    let Some(idle) = patience.idle else {
                        armed = false;
                        continue;
                    };
                    let end = busy.quiet().map(|last| last + idle);
                    if end.is_some_and(|end| end <= Instant::now()) {
                        connection.as_mut().finish();
                        armed = false;
                    } else {
                        timer.as_mut().reset(end.unwrap_or_else(|| Instant::now() + idle));
                    }
                }
            }
        }
    }
}

async fn draining(phase: &mut Option<channel::Receiver<Phase>>) {
    if let Some(phase) = phase {
        reached(phase, Phase::Draining).await;
    }
}

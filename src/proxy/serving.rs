//! hyper's server, one of each version, over any connection and for whoever answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use super::deadlines::{KEEP_ALIVE, PING, PONG, UNACKNOWLEDGED};
use super::framing::{Follower, Heads};
use super::io::{Duplex, Io};
use super::overheard::Overheard;
use super::relay::{Answer, Busy};
use super::stalled::{self, Streams};
use super::watch::{Phase, reached};

/// Most streams of one HTTP/2 connection. Envoy's edge guide: 100.
pub(super) const MAX_STREAMS: u32 = 100;

/// Most bytes of a message's head, HTTP/1.1 and HTTP/2. Envoy's default is 60 KiB, nginx's 32 KiB.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Window of one stream, and of one connection: what the other side may make us hold. Envoy's edge guide
/// has 64 KiB and 1 MiB; one stream of 64 KiB is slow over long distances.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Most bytes of one stream's body that wait for the other side's window. hyper's default is 400 KiB.
const SEND_BUFFER: usize = 64 * 1024;

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
    if h2 {
        let service = service_fn(move |request| {
            let answering = answerer(request);
            async move {
                let answer = answering.await;
                stalled::given();
                answer
            }
        });
        let io: Io = Box::new(io);
        let connection = hyper::server::conn::http2::Builder::new(Streams)
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
        let service = service_fn(move |request| answerer(request));
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

/// How a connection of HTTP/2 is begun by us, with the same bounds.
pub(super) fn client<E: Clone>(executor: E) -> hyper::client::conn::http2::Builder<E> {
    let mut builder = hyper::client::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER);
    builder
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
    let (mut armed, mut finishing) = (true, false);
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
                    let wait = if finishing { UNACKNOWLEDGED } else { idle };
                    let end = busy.quiet().map(|last| last + wait);
                    if end.is_none_or(|end| end > Instant::now()) {
                        timer.as_mut().reset(end.unwrap_or_else(|| Instant::now() + wait));
                    } else if finishing {
                        // All is answered, and the other side does not take the last of it.
                        return true;
                    } else {
                        connection.as_mut().finish();
                        finishing = true;
                        timer.as_mut().reset(Instant::now() + UNACKNOWLEDGED);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::deadlines::IDLE_H2;
    use bytes::Bytes;
    use http_body_util::{Either, Full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    /// A frame of HTTP/2.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// How a connection begins whose streams have windows of so many bytes.
    fn begin(window: u8) -> Vec<u8> {
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[0, 4, 0, 0, 0, window])].concat()
    }

    /// `GET /` with `:authority: a`, in HPACK without a table.
    const GET: &[u8] = &[0x82, 0x87, 0x84, 0x01, 0x01, b'a'];

    /// The next frame that is no ping, which is answered. `None`: it has ended.
    async fn next(from: &mut DuplexStream) -> Option<(u8, u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            from.read_exact(&mut head).await.ok()?;
            let [_, high, low, kind, flags, .., stream] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            from.read_exact(&mut payload).await.ok()?;
            match (kind, flags & 1) {
                (6, 0) => from.write_all(&frame(6, 1, 0, &payload)).await.ok()?,
                _ => return Some((kind, stream, payload)),
            }
        }
    }

    /// A connection with streams of so small a window, whose answers are of a kilobyte. What it serves is told
    /// in `Busy`.
    async fn served(window: u8) -> (DuplexStream, Arc<Busy>, impl Future<Output = bool>) {
        let (near, mut far) = duplex(64 * 1024);
        let busy = Busy::new();
        let known = Arc::clone(&busy);
        let answerer: Answerer = Arc::new(move |_| {
            known.begin();
            Box::pin(async { Ok(Response::new(Either::Right(Full::new(Bytes::from(vec![b'x'; 1024]))))) })
        });
        let connection = connection(near, true, &Heads::new(), answerer);
        let patience = Patience { first: Instant::now() + KEEP_ALIVE, idle: Some(IDLE_H2) };
        let known = Arc::clone(&busy);
        far.write_all(&begin(window)).await.unwrap();
        (far, busy, async move { drive(connection, &known, patience, None).await })
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_stream_without_room_is_ended_in_time_and_the_others_go_on() {
        let (mut far, _busy, driven) = served(0).await;
        let driven = tokio::spawn(driven);
        let begun = Instant::now();
        far.write_all(&frame(1, 5, 1, GET)).await.unwrap();
        let reset = loop {
            let (kind, stream, payload) = next(&mut far).await.unwrap();
            assert_ne!(kind, 0, "there is no room for it");
            if kind == 3 {
                break (stream, payload);
            }
        };
        assert_eq!(reset, (1, vec![0, 0, 0, 8]), "CANCEL");
        assert_eq!(begun.elapsed().as_secs(), UNACKNOWLEDGED.as_secs());
        far.write_all(&[frame(1, 5, 3, GET), frame(8, 0, 3, &[0, 0, 4, 0])].concat()).await.unwrap();
        let mut got = 0;
        while got < 1024 {
            let (kind, stream, payload) = next(&mut far).await.unwrap();
            assert_ne!(kind, 3);
            got += if (kind, stream) == (0, 3) { payload.len() } else { 0 };
        }
        driven.abort();
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_takes_no_more_than_the_first_bytes_is_gone_in_time() {
        let (mut far, busy, driven) = served(1).await;
        let driven = tokio::spawn(driven);
        let begun = Instant::now();
        far.write_all(&frame(1, 5, 1, GET)).await.unwrap();
        // It answers pings for ever.
        while next(&mut far).await.is_some() {}
        assert!(driven.await.unwrap() && busy.quiet().is_some());
        let most = IDLE_H2 + 2 * UNACKNOWLEDGED;
        assert!((IDLE_H2..most).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}

//! The access log: who asked for what, one line for each request (http) and for each connection (tcp). Only
//! where `inbound.access_log` says so: the host reads it.
//!
//! No query and no header, which hold secrets; every text escaped and cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Request;
use tokio::time::Instant;

use super::overheard::Ear;
use crate::config::spiffe::PeerId;
use crate::finding::printable;

/// Most characters of a path. An identity has up to 2048, and was parsed.
const MAX_PATH: usize = 512;

/// Most characters of a method: the longest that is registered has 17.
const MAX_METHOD: usize = 32;

/// Bytes of bodies, or of a connection: the app's, without heads and without TLS.
#[derive(Debug, Default)]
pub struct Tally {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Tally {
    /// From the peer.
    pub fn received(&self, count: usize) {
        self.received.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// To the peer.
    pub fn sent(&self, count: usize) {
        self.sent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A line that is written when it is dropped: then whatever it tells of is over.
pub struct Line {
    listen: String,
    peer: String,
    what: What,
    tally: Arc<Tally>,
    begun: Instant,
}

enum What {
    /// `status` is 0 while there is no answer.
    Request {
        method: String,
        path: String,
        status: u16,
    },
    Connection {
        ended: &'static str,
    },
}

impl Line {
    /// Of a request that came in at `listen`, to or from `peer`.
    pub fn request<B>(listen: String, peer: &PeerId, request: &Request<B>) -> Self {
        let method = printable(request.method().as_str(), MAX_METHOD);
        let path = printable(request.uri().path(), MAX_PATH);
        Self::new(listen, peer, What::Request { method, path, status: 0 })
    }

    /// Of a connection.
    pub fn connection(listen: String, peer: &PeerId) -> Self {
        Self::new(listen, peer, What::Connection { ended: "cut" })
    }

    fn new(listen: String, peer: &PeerId, what: What) -> Self {
        Self { listen, peer: peer.to_string(), what, tally: Arc::default(), begun: Instant::now() }
    }

    /// Where bytes are counted.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// The request is answered.
    pub fn answered(&mut self, with: u16) {
        if let What::Request { status, .. } = &mut self.what {
            *status = with;
        }
    }

    /// The connection has ended, and how. Where nobody says: it was cut.
    pub fn ended(&mut self, how: &'static str) {
        if let What::Connection { ended } = &mut self.what {
            *ended = how;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { listen, peer, what, tally, begun } = self;
        let (received, sent) = (tally.received.load(Ordering::Relaxed), tally.sent.load(Ordering::Relaxed));
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match what {
            What::Request { method, path, status } => {
                let status = if *status == 0 { "-".to_owned() } else { status.to_string() };
                tracing::info!(%listen, %peer, %method, %path, %status, received, sent, ms, "access");
            }
            What::Connection { ended } => {
                tracing::info!(%listen, %peer, %ended, received, sent, ms, "access");
            }
        }
    }
}

/// Hears the app's side of a connection, where somebody asks for a line.
impl Ear for Option<Arc<Tally>> {
    fn read(&mut self, bytes: &[u8]) {
        if let Some(tally) = self {
            tally.sent(bytes.len());
        }
    }

    fn wrote(&mut self, count: usize) {
        if let Some(tally) = self {
            tally.received(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::overheard::Overheard;
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn a_line_has_no_query_and_nothing_that_breaks_it() {
        let peer = PeerId::Dns("web.example".to_owned());
        let uri = format!("http://user:secret@host/pay/{}?token=secret", "a".repeat(600));
        let request = Request::builder().method("GET").uri(uri).body(()).unwrap();
        let line = Line::request("[::]:8443".to_owned(), &peer, &request);
        let What::Request { path, .. } = &line.what else { panic!("a request") };
        assert!(path.starts_with("/pay/a") && path.ends_with('…') && !path.contains("secret"), "{path}");
        assert_eq!(path.chars().count(), MAX_PATH + 1);
    }

    #[tokio::test]
    async fn what_the_app_takes_was_received_and_what_it_gives_is_sent() {
        let (near, mut far) = tokio::io::duplex(100);
        let tally = Arc::<Tally>::default();
        let mut app = Overheard::new(near, Some(Arc::clone(&tally)));
        app.write_all(b"four").await.unwrap();
        far.write_all(b"answer").await.unwrap();
        let mut some = [0; 6];
        app.read_exact(&mut some).await.unwrap();
        assert_eq!((tally.received.load(Ordering::Relaxed), tally.sent.load(Ordering::Relaxed)), (4, 6));
    }
}

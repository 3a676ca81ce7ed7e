//! One connection to the peer, for many requests: how it is asked, and what ends it.
//!
//! Evidence grows old, and is shown at the beginning of a connection only. So a connection of HTTP/2 is
//! replaced before that happens: another one is made first, new requests go there, and those under way have
//! until `max_age` to finish. The same when this guest has new evidence to show: the peer counts too.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::watch as channel;
use tokio::time::{sleep, timeout};

use super::Outlet;
use super::pool;
use super::reach::Reached;
use crate::proxy::deadlines::{FIRST, IDLE_H2, PEER_AGAIN, PEER_IDLE, PING, PONG};
use crate::proxy::io::Io;
use crate::proxy::relay::{Sent, Why};
use crate::proxy::serving::{self, MAX_HEAD};
use crate::proxy::watch::{Watch, passed};
use crate::tls::exchange::OURS_H2;
use crate::tls::server::{H2, Served};

/// A connection to the peer.
pub(super) struct Link {
    asked: Asked,
    facts: Arc<Facts>,
}

/// What requests are given to.
enum Asked {
    /// By any number of them.
    H2(http2::SendRequest<Sent>),
    /// One after the other.
    H1(http1::SendRequest<Sent>),
}

/// What all who use a connection know of it.
pub(super) struct Facts {
    /// Told apart by it in the pool.
    pub(super) number: u64,
    /// Who the peer is, and what would end it.
    pub(super) watch: Watch,
    /// What we showed.
    served: Arc<Served>,
    h2: bool,
    /// It has been asked for something.
    used: AtomicBool,
    /// No new requests.
    retired: AtomicBool,
    /// Requests under way.
    load: channel::Sender<u32>,
}

/// One request's part in a connection.
pub(super) struct Using(Arc<Facts>);

impl Drop for Using {
    fn drop(&mut self) {
        self.0.load.send_modify(|load| *load = load.saturating_sub(1));
    }
}

/// hyper's part of a connection.
type Running = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

impl Link {
    /// Speaks HTTP with a peer that was reached. `number` is its own.
    pub(super) async fn new(outlet: &Arc<Outlet>, reached: Reached, number: u64) -> Result<Self, Why> {
        let Reached { tls, watch, served, held } = reached;
        let h2 = [Some(H2), Some(OURS_H2)].contains(&tls.get_ref().1.alpn_protocol());
        let io: Io = tls;
        let (cut, cuts) = channel::channel(());
        let started = timeout(FIRST, start(TokioIo::new(io), h2, cuts)).await.map_err(|_| Why::PeerSlow)?;
        let (asked, running) = started.map_err(|error| {
            tracing::debug!(error = %crate::finding::chain(&error), "the peer speaks no HTTP");
            Why::PeerBroken
        })?;
        let (used, retired, load) = (AtomicBool::new(false), AtomicBool::new(false), channel::Sender::new(0));
        let facts = Arc::new(Facts { number, watch, served, h2, used, retired, load });
        let (outlet, known) = (Arc::clone(outlet), Arc::clone(&facts));
        tokio::spawn(async move {
            known.live(&outlet, running, cut).await;
            drop(held);
        });
        Ok(Self { asked, facts })
    }

    /// Whether any number of requests can share it.
    pub(super) fn is_h2(&self) -> bool {
        self.facts.h2
    }

    /// Told apart by it in the pool.
    pub(super) fn number(&self) -> u64 {
        self.facts.number
    }

    /// Whether it takes a request now.
    pub(super) fn is_open(&self) -> bool {
        !self.facts.is_retired()
            && match &self.asked {
                Asked::H2(asked) => !asked.is_closed(),
                Asked::H1(asked) => asked.is_ready(),
            }
    }

    /// Requests under way.
    pub(super) fn load(&self) -> u32 {
        *self.facts.load.borrow()
    }

    /// One request's part in it.
    pub(super) fn using(&self) -> Using {
        self.facts.used.store(true, Ordering::Relaxed);
        self.facts.load.send_modify(|load| *load = load.saturating_add(1));
        Using(Arc::clone(&self.facts))
    }

    /// The same once more, where it can be shared.
    pub(super) fn share(&self) -> Option<Self> {
        match &self.asked {
            Asked::H2(asked) => Some(Self { asked: Asked::H2(asked.clone()), facts: Arc::clone(&self.facts) }),
            Asked::H1(_) => None,
        }
    }

    /// Gives it a request.
    pub(super) async fn ask(
        &mut self,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent>>> {
        match &mut self.asked {
            Asked::H2(asked) => asked.try_send_request(request).await,
            Asked::H1(asked) => asked.try_send_request(request).await,
        }
    }

    /// Waits until it takes the next request. Whether it ever will.
    pub(super) async fn ready(&mut self) -> bool {
        let ready = match &mut self.asked {
            Asked::H2(asked) => asked.ready().await,
            Asked::H1(asked) => asked.ready().await,
        };
        ready.is_ok() && !self.facts.is_retired()
    }

    /// Who the peer is, and what would end the connection.
    pub(super) fn watch(&self) -> Watch {
        self.facts.watch.clone()
    }
}

async fn start(io: TokioIo<Io>, h2: bool, cuts: channel::Receiver<()>) -> Result<(Asked, Running), hyper::Error> {
    if h2 {
        let mut builder = serving::client(Tied(cuts));
        builder.keep_alive_interval(PING).keep_alive_timeout(PONG).keep_alive_while_idle(true);
        let (asked, connection) = builder.handshake(io).await?;
        Ok((Asked::H2(asked), Box::pin(connection)))
    } else {
        let (asked, connection) = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(io).await?;
        Ok((Asked::H1(asked), Box::pin(connection.with_upgrades())))
    }
}

/// Runs what belongs to one connection, and ends it with the connection: hyper lets HTTP/2 run in tasks of
/// its own, which would go on without whoever began them.
#[derive(Clone)]
struct Tied(channel::Receiver<()>);

impl<F: Future + Send + 'static> Executor<F> for Tied {
    fn execute(&self, work: F) {
        let mut cut = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = work => {}
                // Never sent: it ends when the other side is dropped.
                _ = cut.changed() => {}
            }
        });
    }
}

impl Facts {
    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// From the first request to the end. What is dropped here is cut.
    async fn live(&self, outlet: &Arc<Outlet>, running: Running, cut: channel::Sender<()>) {
        let (mut judge, mut end) = (self.watch.clone(), self.watch.clone());
        tokio::select! {
            () = self.work(outlet, running, &cut) => {}
            reason = judge.withdrawn() => outlet.withdraw(reason, &self.watch.peer),
            () = end.forced() => {}
        }
        self.retire(outlet);
    }

    /// Takes requests, then none, then lets those under way finish.
    async fn work(&self, outlet: &Arc<Outlet>, mut running: Running, cut: &channel::Sender<()>) {
        let idle = if self.h2 { IDLE_H2 } else { PEER_IDLE };
        let ended = tokio::select! {
            ended = running.as_mut() => Some(ended),
            () = self.replaced(outlet) => None,
            () = self.quiet(idle) => None,
        };
        self.retire(outlet);
        let ended = match ended {
            Some(ended) => ended,
            None => running.as_mut().await,
        };
        // A request that it took and did not look at is given back now.
        drop(running);
        if let Err(error) = ended {
            tracing::debug!(error = %crate::finding::chain(&error), "ended early");
        }
        let _ = self.load.subscribe().wait_for(|load| *load == 0).await;
        // The last words of HTTP/2 and of TLS.
        let _ = timeout(PONG, cut.closed()).await;
    }

    fn retire(&self, outlet: &Outlet) {
        self.retired.store(true, Ordering::Relaxed);
        outlet.pool.forget(self.number);
    }

    /// Ends when nothing has been asked for so long.
    async fn quiet(&self, so_long: Duration) {
        let mut load = self.load.subscribe();
        loop {
            // The sender is ours.
            let _ = load.wait_for(|load| *load == 0).await;
            if timeout(so_long, load.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Ends when new requests are to go elsewhere, and can.
    async fn replaced(&self, outlet: &Arc<Outlet>) {
        self.due().await;
        // Whoever asks next makes a connection where there is none: of HTTP/1.1, and where nobody asks at all.
        let wanted = self.h2 && self.used.load(Ordering::Relaxed);
        while wanted && pool::dial(outlet).await.is_err() {
            sleep(PEER_AGAIN).await;
        }
    }

    /// Ends when three quarters of the time that the peer's evidence had at the beginning are over, or when
    /// what we show is not what we showed.
    async fn due(&self) {
        let Watch { clock, peer, .. } = &self.watch;
        let due = peer.until().map(|until| early(until, clock.now()));
        tokio::select! {
            () = passed(clock, due) => {}
            () = self.shows_something_else() => {}
        }
    }

    async fn shows_something_else(&self) {
        let mut epochs = self.watch.served.clone();
        epochs.mark_changed();
        let other = |now: &Option<Arc<Served>>| now.as_ref().is_some_and(|now| !now.shows_the_same(&self.served));
        if epochs.wait_for(other).await.is_err() {
            // Nobody publishes any more: what stands, stands.
            std::future::pending::<()>().await;
        }
    }
}

/// When three quarters of the time from `now` to `until` are over, seconds since 1970. The peer renews its
/// evidence at half of `max_age`, so that by then it has newer to show.
fn early(until: u64, now: u64) -> u64 {
    until.saturating_sub(until.saturating_sub(now) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_replaced_before_its_evidence_is_too_old_and_not_forever() {
        assert_eq!(early(3600, 0), 2700);
        assert_eq!(early(3600, 3600), 3600, "too old already: it is cut");
        assert_eq!(early(3600, 9999), 3600);
        // A peer that has nothing newer to show is asked ever sooner, and only so often.
        let mut dialled = 0;
        let mut now = 0;
        while now < 3600 {
            now = early(3600, now);
            dialled += 1;
        }
        assert!(dialled <= 8, "{dialled}");
    }
}

//! The way out: the app dials loopback or a unix socket in plain, and speaks to one peer over mTLS.
//!
//! Which identity must answer is configured. Names and addresses are not believed: whoever writes DNS can
//! send the connection anywhere, and it ends there with the handshake. No byte of the app's is sent before
//! the peer is who it must be, and has proven it where evidence is demanded.

mod http;
mod link;
mod pool;
mod preface;
mod reach;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, chmodat, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as channel};
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use super::access::Line;
use super::backend::App;
use super::deadlines::{ACCEPT, HALF_CLOSED, IDLE_TCP};
use super::overheard::Overheard;
use super::socket::{self, BACKLOG};
use super::splice::{Ended, Silence, splice};
use super::watch::{Phase, Watch, reached};
use crate::clock::Clock;
use crate::config::grammar::Local;
use crate::config::roles::{Outbound, Protocol};
use crate::config::spiffe::PeerId;
use crate::observe::metrics;
use crate::tls::peer::{Reason, VerifiedPeer};
use crate::tls::server::Served;
pub use pool::Pool;
pub use reach::{Broken, reach};
use reach::{Offer, Reached, call};

/// How a connection ends that both sides have ended: a word of the access log.
const WHOLE: &str = "both";

/// One `[[outbound]]`.
pub struct Outlet {
    /// Its configuration.
    pub outbound: Outbound,
    /// Its place among them.
    pub place: usize,
    /// Epochs.
    pub served: channel::Receiver<Option<Arc<Served>>>,
    /// The data plane's life.
    pub phase: channel::Receiver<Phase>,
    /// By which certificates end.
    pub clock: Clock,
    /// Connections at once.
    pub places: Arc<Semaphore>,
    /// Counts of this one.
    pub counts: Arc<metrics::Outbound>,
    /// Connections to the peer that requests share (http).
    pub pool: Pool,
}

/// Where the app dials.
pub enum Near {
    /// Loopback.
    Tcp(TcpListener),
    /// Unix socket.
    Unix(UnixListener),
}

/// A place where the app will dial, that is ours, and where nobody can connect yet.
pub enum Held {
    /// Loopback.
    Tcp(socket::Held),
    /// Unix socket.
    Unix(Socket),
}

/// Takes `at`. A socket's file gets `mode`; one that an earlier process of ours left is replaced, and
/// nothing else is.
pub fn hold(at: &Local, mode: u32) -> io::Result<Held> {
    match at {
        Local::Tcp(address) => socket::hold(*address).map(Held::Tcp),
        Local::Unix(path) => unix(path, mode).map(Held::Unix),
    }
}

fn unix(path: &Path, mode: u32) -> io::Result<Socket> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        unlinkat(CWD, path, AtFlags::empty())?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Not by the socket: that mode would be cut by the umask.
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    Ok(socket)
}

impl Held {
    /// Lets the app connect.
    pub fn listen(self) -> io::Result<Near> {
        match self {
            Self::Tcp(held) => held.listen().map(Near::Tcp),
            Self::Unix(socket) => {
                socket.listen(BACKLOG)?;
                UnixListener::from_std(OwnedFd::from(socket).into()).map(Near::Unix)
            }
        }
    }
}

impl Near {
    async fn accept(&self) -> io::Result<App> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| App::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| App::Unix(stream)),
        }
    }
}

/// Accepts the app's connections until everything is over: while callers drain, the app may still need
/// what it calls.
pub async fn accept(outlet: Arc<Outlet>, near: Near) {
    let mut phase = outlet.phase.clone();
    let mut pause = ACCEPT.0;
    loop {
        let accepted = tokio::select! {
            () = reached(&mut phase, Phase::Forced) => return,
            accepted = near.accept() => accepted,
        };
        match accepted {
            Ok(app) => {
                pause = ACCEPT.0;
                tokio::spawn(serve(Arc::clone(&outlet), app));
            }
            Err(error) => {
                if pause == ACCEPT.0 {
                    tracing::warn!(kind = ?error.kind(), "no connection of the app could be accepted");
                }
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(ACCEPT.1);
            }
        }
    }
}

async fn serve(outlet: Arc<Outlet>, app: App) {
    if let App::Tcp(stream) = &app {
        socket::tune(stream);
    }
    match outlet.outbound.protocol {
        Protocol::Http => http::serve(outlet, app).await,
        Protocol::Tcp => tcp(&outlet, app).await,
    }
}

/// A connection of the app's, as one to the peer.
async fn tcp(outlet: &Outlet, app: App) {
    let Outbound { listen, peer, access_log, .. } = &outlet.outbound;
    let mut line = access_log.then(|| Line::connection(listen.to_string(), &PeerId::Spiffe(peer.clone())));
    app.resets_on_close(true);
    // Boxed: over before the connection settles down.
    let called = Box::pin(call(outlet, Offer::All)).await;
    let ended = match called {
        Ok(Reached { mut tls, watch, served, held: _held }) => {
            // Its keys last no longer than they must.
            drop(served);
            outlet.bytes(app, &mut tls, watch, line.as_ref()).await
        }
        Err(why) => {
            // It resets: an end would look like the end of an answer.
            drop(app);
            why.label()
        }
    };
    if let Some(line) = &mut line {
        line.ended(ended);
    }
}

impl Outlet {
    /// Carries the app's bytes to a peer that was reached, until both have ended, the peer may no longer be
    /// trusted, or all is over. Returns whether both have ended.
    pub async fn carry(&self, app: App, mut tls: TlsStream<TcpStream>, peer: VerifiedPeer) -> bool {
        app.resets_on_close(true);
        self.bytes(app, &mut tls, self.watch(peer), None).await == WHOLE
    }

    /// The same for whoever has its ears already, and an app whose connection resets when it is closed. Returns
    /// how it ended, as the access log says it.
    async fn bytes(
        &self,
        mut app: App,
        tls: &mut TlsStream<TcpStream>,
        watch: Watch,
        line: Option<&Line>,
    ) -> &'static str {
        let _active = self.counts.active.hold();
        let (mut judge, mut end) = (watch.clone(), watch.clone());
        let heard = Overheard::new(&mut app, line.map(Line::tally));
        let ended = tokio::select! {
            ended = splice(heard, tls, Silence { open: IDLE_TCP, half_closed: HALF_CLOSED }) => match ended {
                Ok(Ended::Both) => WHOLE,
                Ok(Ended::Silent) => {
                    tracing::debug!("closed for silence");
                    "silent"
                }
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), "ended early");
                    "early"
                }
            },
            reason = judge.withdrawn() => {
                self.withdraw(reason, &watch.peer);
                "cut"
            }
            () = end.forced() => "cut",
        };
        if ended == WHOLE {
            app.resets_on_close(false);
        }
        ended
    }

    /// A place among the connections. `None`: there are too many, and that is counted.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.counts.shed.add(1);
        }
        place
    }

    fn withdraw(&self, reason: Reason, peer: &VerifiedPeer) {
        self.counts.withdrawn.add(1);
        tracing::warn!(reason = reason.label(), peer = %peer.id(), "connection cut: its peer may no longer be trusted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_a_file_is_not() {
        let directory = std::env::temp_dir().join(format!("countersign-outbound-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("db.sock");
        for _ in 0..2 {
            drop(hold(&Local::Unix(path.clone()), 0o660).unwrap().listen().unwrap());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o660);
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "the app's").unwrap();
        assert!(hold(&Local::Unix(path.clone()), 0o660).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "the app's");
        fs::remove_dir_all(&directory).unwrap();
    }
}

//! The way out: the app dials loopback or a unix socket in plain, and speaks to one peer over mTLS.
//!
//! Which identity must answer is configured. Names and addresses are not believed: whoever writes DNS can
//! send the connection anywhere, and it ends there with the handshake. No byte of the app's is sent before
//! the peer is who it must be, and has proven it where evidence is demanded.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, chmodat, unlinkat};
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch as channel};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::backend::App;
use super::deadlines::{ACCEPT, DIAL_PEER, FIRST, HALF_CLOSED, IDLE_TCP};
use super::socket::{self, BACKLOG};
use super::splice::{Ended, Silence, splice};
use super::watch::{Phase, Watch, Way, reached};
use crate::clock::Clock;
use crate::config::grammar::{HostPort, Local};
use crate::config::roles::Outbound;
use crate::kbs::{DnsProblem, Undialled, dial};
use crate::observe::metrics;
use crate::tls::client::Exit;
use crate::tls::exchange::{self, Failure, Side, is_ours};
use crate::tls::peer::{Reason, Refusal, VerifiedPeer};
use crate::tls::prover::Prover;
use crate::tls::server::{Served, refusal};

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
}

/// Where the app dials.
pub enum Near {
    /// Loopback.
    Tcp(TcpListener),
    /// Unix socket.
    Unix(UnixListener),
}

/// Why there is no connection to the peer.
#[derive(Debug)]
pub enum Broken {
    /// There is no connection.
    Undialled(Undialled),
    /// What answers is not the peer, or refuses us.
    Refused(Refusal),
    /// It is known, and has not proven itself.
    Unproven(Failure),
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
    let deadline = Instant::now() + FIRST;
    if let App::Tcp(stream) = &app {
        socket::tune(stream);
    }
    let served = outlet.served.borrow().clone().filter(|served| outlet.clock.now() < served.until);
    let Some((served, place)) = served.zip(Arc::clone(&outlet.places).try_acquire_owned().ok()) else {
        outlet.counts.shed.add(1);
        return reset(&app);
    };
    let Some(exit) = served.exits.get(outlet.place) else { return };
    let open = outlet.counts.open.hold();
    let reaching = reach(&outlet.outbound.to, exit, served.prover.as_deref());
    let (tls, peer) = match timeout_at(deadline, reaching).await {
        Ok(Ok(reached)) => reached,
        Ok(Err(broken)) => {
            outlet.tell(&broken);
            return reset(&app);
        }
        Err(_) => {
            let bare = Refusal { reason: Reason::TooSlow, subject: String::new(), names: String::new() };
            outlet.tell(&Broken::Refused(bare));
            return reset(&app);
        }
    };
    drop(served);
    outlet.carry(app, tls, peer).await;
    drop((open, place));
}

/// The peer, once it is who it must be. Takes as long as it takes: whoever asks sets the deadline.
pub async fn reach(
    to: &HostPort,
    exit: &Exit,
    prover: Option<&Prover>,
) -> Result<(TlsStream<TcpStream>, VerifiedPeer), Broken> {
    let stream = dial(to, DIAL_PEER).await.map_err(Broken::Undialled)?;
    socket::tune(&stream);
    let name = name(to).ok_or(Broken::Undialled(Undialled::Name(DnsProblem::BadName)))?;
    let connecting = TlsConnector::from(Arc::clone(&exit.config)).connect(name, stream);
    let mut tls = connecting.await.map_err(|error| Broken::Refused(refusal(&error)))?;
    let (_, connection) = tls.get_ref();
    let known = exit.door.known(connection.peer_certificates().unwrap_or_default()).map_err(bare)?;
    let peer = if is_ours(connection.alpn_protocol()) {
        let side = Side { door: &exit.door, prover, known };
        exchange::connect(&mut tls, side).await.map_err(Broken::Unproven)?
    } else {
        exit.door.admit(known, None).map_err(|reason| Broken::Unproven(Failure::Refused(reason)))?
    };
    Ok((tls, peer))
}

impl Broken {
    /// As in the log and in metrics. `None`: nobody was reached.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Undialled(_) => None,
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Unproven(failure) => Some(failure.reason()),
        }
    }
}

fn bare(reason: Reason) -> Broken {
    Broken::Refused(Refusal { reason, subject: String::new(), names: String::new() })
}

/// What is asked for in the handshake: for gateways that choose by it. Nobody's certificate is judged by it.
fn name(to: &HostPort) -> Option<ServerName<'static>> {
    ServerName::try_from(to.host.clone()).ok()
}

/// The app must not take the end of this connection for the end of an answer.
fn reset(app: &App) {
    if let App::Tcp(stream) = app {
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

impl Outlet {
    /// Carries the app's bytes to a peer that was reached, until both have ended, the peer may no longer be
    /// trusted, or all is over. Returns whether both have ended.
    pub async fn carry(&self, app: App, tls: TlsStream<TcpStream>, peer: VerifiedPeer) -> bool {
        self.counts.connected.add(1);
        tracing::debug!(peer = %peer.id(), to = %self.outbound.to, "connected");
        let mut epochs = self.served.clone();
        // An epoch that came during the handshake has not been seen: it is judged at once.
        epochs.mark_changed();
        let (way, clock) = (Way::Out(self.place), self.clock.clone());
        let mut watch = Watch { served: epochs, phase: self.phase.clone(), clock, way, peer };
        let mut judge = watch.clone();
        let (mut app, mut tls) = (app, tls);
        let whole = tokio::select! {
            ended = splice(&mut app, &mut tls, Silence { open: IDLE_TCP, half_closed: HALF_CLOSED }) => match ended {
                Ok(Ended::Both) => true,
                Ok(Ended::Silent) => {
                    tracing::debug!("closed for silence");
                    false
                }
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), "ended early");
                    false
                }
            },
            reason = judge.withdrawn() => {
                self.counts.withdrawn.add(1);
                tracing::warn!(reason = reason.label(), peer = %watch.peer.id(), "connection cut: its peer may no longer be trusted");
                false
            }
            () = watch.forced() => false,
        };
        if !whole {
            reset(&app);
        }
        whole
    }

    /// Why the app is not connected: in the log, since nothing can be said to the app.
    fn tell(&self, broken: &Broken) {
        let Outbound { to, peer, .. } = &self.outbound;
        match broken {
            Broken::Undialled(Undialled::Name(problem)) => {
                self.counts.unreachable.add(1);
                tracing::warn!(%to, why = %problem, "peer not reached");
            }
            Broken::Undialled(Undialled::Unreachable(kind)) => {
                self.counts.unreachable.add(1);
                tracing::warn!(%to, ?kind, "peer not reached");
            }
            Broken::Refused(Refusal { reason, subject, names }) => {
                self.counts.refuse(*reason);
                tracing::warn!(reason = reason.label(), %to, expected = %peer, %subject, san = %names, "peer refused");
            }
            Broken::Unproven(failure) => {
                let reason = failure.reason();
                self.counts.refuse(reason);
                tracing::warn!(reason = reason.label(), %to, expected = %peer, why = %failure, "peer refused");
            }
        }
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

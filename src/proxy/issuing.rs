//! The issuer's port: accept → limits → handshake → the request → a certificate, or a refusal. One line in
//! the log for each, for audits.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::field::display;

use super::deadlines::{ACCEPT, FIRST};
use super::limits::{Limits, Stranger};
use super::socket::{self, Metered};
use super::watch::{Phase, reached};
use crate::appraise::peer::Proven;
use crate::clock::Clock;
use crate::formats::frames::Refused;
use crate::formats::hex;
use crate::issuance::desk::Desk;
use crate::issuance::quota::Quota;
use crate::observe::metrics::{self, Shed};
use crate::tls::exchange::{Failure, OURS_ISSUE};
use crate::tls::issue::{self, Heard, NotHeard};
use crate::tls::peer::Reason;
use crate::tls::server::refusal;

/// The port, and what stands behind it.
pub struct Counter {
    /// Epochs.
    pub desks: channel::Receiver<Option<Arc<Desk>>>,
    /// Its life.
    pub phase: channel::Receiver<Phase>,
    /// By which certificates end.
    pub clock: Clock,
    /// Of connections, those of readers too.
    pub limits: Arc<Limits>,
    /// Of certificates.
    pub quota: Quota,
    /// Whether the line of a certificate names the machine.
    pub audit_hardware: bool,
    /// Counts of connections.
    pub counts: Arc<metrics::Inbound>,
    /// Counts of certificates.
    pub issued: Arc<metrics::Issued>,
}

/// Accepts until the pod drains.
pub async fn accept(counter: Arc<Counter>, socket: TcpListener) {
    let mut phase = counter.phase.clone();
    let mut pause = ACCEPT.0;
    loop {
        let accepted = tokio::select! {
            () = reached(&mut phase, Phase::Draining) => return,
            accepted = socket.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(kind = ?error.kind(), "no connection could be accepted");
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(ACCEPT.1);
                continue;
            }
        };
        pause = ACCEPT.0;
        match counter.limits.admit(from.ip(), Instant::now()) {
            Ok(stranger) => {
                tokio::spawn(serve(Arc::clone(&counter), stream, from, stranger));
            }
            Err(shed) => counter.shed(shed, &stream),
        }
    }
}

async fn serve(counter: Arc<Counter>, stream: TcpStream, from: SocketAddr, stranger: Stranger) {
    let deadline = Instant::now() + FIRST;
    let open = counter.counts.open.hold();
    socket::tune(&stream);
    let desk = counter.desks.borrow().clone().filter(|desk| counter.clock.now() < desk.until);
    let Some(desk) = desk else {
        counter.shed(Shed::NoCertificate, &stream);
        return;
    };
    let answered = timeout_at(deadline, answer(&counter, &desk, stream, from)).await;
    match answered {
        Ok(true) => {
            // Speaks for its prefix from now on.
            let _ = counter.limits.authenticated(stranger, Instant::now());
        }
        Ok(false) => drop(stranger),
        Err(_) => counter.refuse(Reason::TooSlow, from),
    }
    drop(open);
}

/// One connection. Returns whether a certificate was given.
async fn answer(counter: &Counter, desk: &Desk, stream: TcpStream, from: SocketAddr) -> bool {
    let stream = Metered::new(stream, Arc::clone(&counter.counts));
    let mut tls = match TlsAcceptor::from(Arc::clone(&desk.config)).accept(stream).await {
        Ok(tls) => tls,
        Err(error) => {
            counter.refuse(refusal(&error).reason, from);
            return false;
        }
    };
    if tls.get_ref().1.alpn_protocol() != Some(OURS_ISSUE) {
        counter.refuse(Reason::Incompatible, from);
        return false;
    }
    counter.counts.accepted.add(1);
    // An attestation result may come now.
    tls.get_mut().0.known();
    let heard = match issue::hear(&mut tls, desk.demand.wants_report()).await {
        Ok(heard) => heard,
        Err(why) => {
            counter.not_heard(&why, from);
            if let Some(refused) = why.refused() {
                let _ = issue::refuse(&mut tls, refused).await;
            }
            return false;
        }
    };
    let key = hex::encode(digest(&SHA256, heard.key.spki()).as_ref());
    let (given, answered) = match desk.judge(&heard, &counter.quota) {
        Ok((given, proven)) => {
            let init_data = hex::encode(proven.appraised().init_data());
            let hardware = counter.audit_hardware.then(|| machine(&proven)).map(display);
            counter.issued.given.add(1);
            tracing::info!(
                id = %proven.appraised().peer(), names = %names(&heard), %init_data, hardware, %key, serial = %given.serial,
                not_after = given.until, from = %from.ip().to_canonical(), "certificate issued"
            );
            (true, issue::give(&mut tls, desk.prover.as_deref(), &heard, &given.chain).await)
        }
        Err(denied) => {
            counter.denied(denied.refused(), &denied, &names(&heard), &key, from);
            (false, issue::refuse(&mut tls, denied.refused()).await)
        }
    };
    match answered {
        Ok(()) => {}
        // Which certificate stands in a line that has the same key.
        Err(error @ Failure::Demanded(_)) => {
            tracing::warn!(why = %format_args!("the requester {error}"), %key, "the certificate was kept back");
        }
        Err(error) => tracing::debug!(why = %error, %key, "the requester went away before its answer"),
    }
    given
}

/// As they were asked for: in the form of names, so that they cannot be mistaken for other words of the log.
fn names(heard: &Heard) -> String {
    heard.wanted.names().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// On which machine the evidence was made, where it says so.
fn machine(proven: &Proven) -> String {
    proven.appraised().hardware().map_or_else(|| "-".to_owned(), hex::encode)
}

impl Counter {
    fn shed(&self, shed: Shed, stream: &TcpStream) {
        self.counts.shed(shed);
        // Reset: a closed connection of ours would wait in the kernel for minutes.
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        tracing::debug!(limit = shed.label(), "shed");
    }

    /// Before anything was asked: port scanners, probes, other protocols.
    fn refuse(&self, reason: Reason, from: SocketAddr) {
        self.counts.refuse(reason);
        tracing::debug!(reason = reason.label(), from = %from.ip().to_canonical(), "requester refused");
    }

    fn not_heard(&self, why: &NotHeard, from: SocketAddr) {
        match why.refused() {
            Some(refused) => self.denied(refused, why, "-", "-", from),
            None => self.refuse(Reason::Gone, from),
        }
    }

    fn denied(&self, refused: Refused, why: &dyn std::fmt::Display, names: &str, key: &str, from: SocketAddr) {
        self.issued.refuse(refused);
        tracing::warn!(
            reason = refused.label(), %why, wanted = %names, %key, from = %from.ip().to_canonical(),
            "certificate refused"
        );
    }
}

//! The exchange of evidence between two peers: after the handshake, before the first byte of either app.
//! `docs/protocol.md` is what is spoken; here is who says what when.
//!
//! ```text
//! client → hello
//! server → hello, its proof          where the client demands one
//! client → its proof                 where the server demands one; then the app's bytes
//! ```
//!
//! A server that cannot tell who calls except by evidence wants the caller's first, and shows its own
//! only then: chip ids and initdata are for members. Whoever calls has chosen whom.

mod proof;

use std::io;

use aws_lc_rs::rand;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::peer::{Known, Reason, VerifiedPeer};
use super::prover::{Proof, Prover, Unshown};
use super::trust::Door;
use crate::appraise::peer::Proven;
use crate::formats::frames::{self, HEAD, Head, Hello, Kind};
use crate::formats::statement::{EXPORTER_LABEL, LENGTH, Purpose, Statement};
pub use proof::Came;
use proof::read_behind;
pub(super) use proof::{First, PROOF, read_first, read_proof};

/// ALPN ids of protocols that begin with this exchange, by what follows it.
pub const OURS_H2: &[u8] = b"countersign/1+h2";
/// The same with HTTP/1.1.
pub const OURS_HTTP1: &[u8] = b"countersign/1+http/1.1";
/// The same with bytes.
pub const OURS_TCP: &[u8] = b"countersign/1+tcp";

/// What an issuer speaks, and nothing else ([`super::issue`]).
pub const OURS_ISSUE: &[u8] = b"countersign/1+issue";

/// Whether a protocol begins with this exchange.
pub fn is_ours(alpn: Option<&[u8]>) -> bool {
    alpn.is_some_and(|name| [OURS_H2, OURS_HTTP1, OURS_TCP].contains(&name))
}

/// A TLS session, as the exchange needs it.
pub trait Session: AsyncRead + AsyncWrite + Unpin {
    /// 32 bytes that both ends of this session have for `context`, and nobody else (RFC 8446 §7.5).
    fn exporter(&self, context: &[u8; LENGTH]) -> Option<[u8; LENGTH]>;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session for tokio_rustls::server::TlsStream<S> {
    fn exporter(&self, context: &[u8; LENGTH]) -> Option<[u8; LENGTH]> {
        self.get_ref().1.export_keying_material([0; LENGTH], EXPORTER_LABEL, Some(context)).ok()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session for tokio_rustls::client::TlsStream<S> {
    fn exporter(&self, context: &[u8; LENGTH]) -> Option<[u8; LENGTH]> {
        self.get_ref().1.export_keying_material([0; LENGTH], EXPORTER_LABEL, Some(context)).ok()
    }
}

/// Why a peer is not let in. Each message continues "the peer …".
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection failed or ended.
    #[error("went away during the exchange of evidence: if it has refused ours, its log says why")]
    Gone(#[source] io::Error),
    /// A frame that may not come now.
    #[error("sent a frame that cannot be: the frame {0}")]
    Frame(frames::Error),
    /// An attestation result that is no text.
    #[error("sent an attestation result that is no text")]
    Text,
    /// Our own nonce came back.
    #[error("sent our own nonce back")]
    Mirror,
    /// It has no evidence to give.
    #[error("has no evidence to give, and evidence is demanded")]
    Declined,
    /// It demands evidence, and we have none to give. With whom it was, where it has proven itself all the
    /// same: what it says of itself holds, and nothing can be sent to it.
    #[error("demands evidence, and this side has none to give")]
    Demanded(Option<Box<VerifiedPeer>>),
    /// Its evidence is not what is demanded.
    #[error("is not proven: the peer's evidence {0}")]
    Unproven(crate::appraise::peer::Error),
    /// It may not come in.
    #[error("is refused: {}", .0.label())]
    Refused(Reason),
    /// The session exports nothing, or there is no randomness.
    #[error("met a fault of ours: no nonce, no exporter or no signature")]
    Ours,
}

impl Failure {
    /// For the log and for metrics.
    pub fn reason(&self) -> Reason {
        match self {
            // What the connection itself says of a peer who sends without end; rustls gives its own error.
            Self::Gone(error) if error.kind() == io::ErrorKind::InvalidData && error.get_ref().is_none() => {
                Reason::TooMuch
            }
            Self::Gone(_) => Reason::Gone,
            Self::Frame(_) | Self::Text => Reason::BadExchange,
            Self::Mirror => Reason::OtherSession,
            Self::Declined | Self::Demanded(_) => Reason::NoEvidence,
            Self::Unproven(why) => Reason::from(*why),
            Self::Refused(reason) => *reason,
            Self::Ours => Reason::Other,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// Our side of one connection.
pub struct Side<'s> {
    /// Who may come in, and by what evidence.
    pub door: &'s Door,
    /// What we show. `None`: this guest has nothing to show.
    pub prover: Option<&'s Prover>,
    /// The other side, by its certificate.
    pub known: Known,
}

impl Side<'_> {
    pub(super) fn wants_report(&self) -> bool {
        self.door.demand().is_some_and(|demand| demand.wants_report())
    }
}

/// The side that was connected to.
pub async fn accept<S: Session>(session: &mut S, side: Side<'_>) -> Result<VerifiedPeer, Failure> {
    let demands = side.door.demand().is_some();
    let ours =
        Hello { nonce: nonce()?, demands, prove_first: demands && !side.door.has_roots(), report: side.wants_report() };
    let theirs = read_hello(session, &ours).await?;
    if theirs.prove_first {
        // Ours to say.
        return Err(Failure::Frame(frames::Error::Flags));
    }
    write(session, Kind::Hello, &ours.payload()).await?;
    let mut proven = None;
    if ours.prove_first {
        session.flush().await?;
        proven = verify(session, &side, &ours, Purpose::ChannelClient).await?;
    }
    if theirs.demands {
        prove(session, side.prover, &theirs, Purpose::ChannelServer).await?;
    }
    session.flush().await?;
    if !ours.prove_first {
        proven = verify(session, &side, &ours, Purpose::ChannelClient).await?;
    }
    side.door.admit(side.known, proven).map_err(Failure::Refused)
}

/// The side that connected.
pub async fn connect<S: Session>(session: &mut S, side: Side<'_>) -> Result<VerifiedPeer, Failure> {
    let ours = Hello {
        nonce: nonce()?,
        demands: side.door.demand().is_some(),
        prove_first: false,
        report: side.wants_report(),
    };
    write(session, Kind::Hello, &ours.payload()).await?;
    session.flush().await?;
    let theirs = read_hello(session, &ours).await?;
    let mut proven = None;
    if !theirs.prove_first {
        proven = verify(session, &side, &ours, Purpose::ChannelServer).await?;
    }
    if theirs.demands {
        // Also where we have nothing: its log says then why nobody came.
        let shown = prove(session, side.prover, &theirs, Purpose::ChannelClient).await?;
        session.flush().await?;
        if !shown {
            let admit = || side.door.admit(side.known, proven).map(Box::new).map_err(Failure::Refused);
            return Err(Failure::Demanded(if theirs.prove_first { None } else { Some(admit()?) }));
        }
    }
    if theirs.prove_first {
        proven = verify(session, &side, &ours, Purpose::ChannelServer).await?;
    }
    side.door.admit(side.known, proven).map_err(Failure::Refused)
}

/// Reads the other side's proof and judges it, where one is demanded. `ours` is the hello that it answers.
pub(super) async fn verify<S: Session>(
    session: &mut S,
    side: &Side<'_>,
    ours: &Hello,
    purpose: Purpose,
) -> Result<Option<Proven>, Failure> {
    if side.door.demand().is_none() {
        return Ok(None);
    }
    let first = read_first(session, &PROOF).await?;
    verify_behind(session, first, side, ours, purpose).await
}

/// The same, of a proof whose first frame has come.
pub(super) async fn verify_behind<S: Session>(
    session: &mut S,
    first: First,
    side: &Side<'_>,
    ours: &Hello,
    purpose: Purpose,
) -> Result<Option<Proven>, Failure> {
    let Some(demand) = side.door.demand() else { return Ok(None) };
    let proof = read_behind(session, first, demand.wants_report()).await?;
    let exporter = session.exporter(&ours.nonce).ok_or(Failure::Ours)?;
    let leaf = side.known.leaf().ok_or(Failure::Refused(Reason::BadCertificate))?;
    let expected = Statement { purpose, leaf, nonce: ours.nonce, exporter };
    demand.judge(&side.known, &proof.shown(), &expected).map(Some).map_err(Failure::Unproven)
}

/// Shows what we have, to a peer that is known; `false` where we have nothing. `theirs` is the hello that it
/// answers.
pub(super) async fn prove<S: Session>(
    session: &mut S,
    prover: Option<&Prover>,
    theirs: &Hello,
    purpose: Purpose,
) -> Result<bool, Failure> {
    let Some(prover) = prover else { return decline(session).await };
    let exporter = session.exporter(&theirs.nonce).ok_or(Failure::Ours)?;
    match prover.prove(purpose, (theirs.nonce, exporter), theirs.report).await {
        Ok(proof) => write_proof(session, prover.ear(), &proof).await.map(|()| true),
        Err(Unshown::NoReport) => decline(session).await,
        Err(Unshown::NoSignature) => Err(Failure::Ours),
    }
}

pub(super) async fn decline<S: Session>(session: &mut S) -> Result<bool, Failure> {
    write(session, Kind::Decline, &[]).await.map(|()| false)
}

pub(super) async fn write_proof<S: Session>(session: &mut S, ear: &str, proof: &Proof) -> Result<(), Failure> {
    write(session, Kind::Ear, ear.as_bytes()).await?;
    write(session, Kind::Statement, &proof.statement).await?;
    write(session, Kind::Signature, &proof.signature).await?;
    match &proof.report {
        Some(report) => write(session, Kind::Report, report).await,
        None => Ok(()),
    }
}

pub(super) async fn read_hello<S: Session>(session: &mut S, ours: &Hello) -> Result<Hello, Failure> {
    let (_, payload) = read(session, &[Kind::Hello]).await?;
    let theirs = Hello::parse(&payload).map_err(Failure::Frame)?;
    if theirs.nonce == ours.nonce { Err(Failure::Mirror) } else { Ok(theirs) }
}

pub(super) async fn read<S: Session>(session: &mut S, expected: &[Kind]) -> Result<(Kind, Vec<u8>), Failure> {
    let Head { kind, length } = read_head(session, expected).await?;
    Ok((kind, read_payload(session, length).await?))
}

async fn read_head<S: Session>(session: &mut S, expected: &[Kind]) -> Result<Head, Failure> {
    let mut head = [0; HEAD];
    session.read_exact(&mut head).await?;
    Head::parse(head, expected).map_err(Failure::Frame)
}

async fn read_payload<S: Session>(session: &mut S, length: usize) -> Result<Vec<u8>, Failure> {
    let mut payload = vec![0; length];
    session.read_exact(&mut payload).await?;
    Ok(payload)
}

pub(super) async fn write<S: Session>(session: &mut S, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
    let frame = frames::write(kind, payload).ok_or(Failure::Ours)?;
    Ok(session.write_all(&frame).await?)
}

pub(super) fn nonce() -> Result<[u8; LENGTH], Failure> {
    let mut nonce = [0; LENGTH];
    rand::fill(&mut nonce).map_err(|_| Failure::Ours)?;
    Ok(nonce)
}

#[cfg(test)]
mod hardware_tests;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

//! What is said to an issuer, and by it: `docs/protocol.md` §7. After a handshake in which only the issuer
//! shows a certificate:
//!
//! ```text
//! requester → hello                              demanding the issuer's evidence, or not
//! issuer    → hello
//! requester → names, request, its proof
//! issuer    → its proof where it is demanded, and the chain; or a refusal
//! ```
//!
//! Anybody may connect to an issuer, so it shows nothing of itself, and asks its hardware for nothing, before
//! the requester is judged. The requester has chosen whom it asks, and has judged its certificate.
//!
//! The requester's statement is about the key and the names that it wants, so that nobody can put others in
//! their place, and about this session, so that nobody can say it again.

use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use x509_parser::parse_x509_certificate;

use super::exchange::{
    self, Came, Failure, First, Session, Side, decline, nonce, prove, read, read_first, read_hello, verify_behind,
    write,
};
use super::prover::{Attested, Prover, Unshown};
use crate::formats::csr::{self, RequestedKey};
use crate::formats::frames::{self, Hello, Kind, Refused};
use crate::formats::statement::{LeafBinding, Purpose, Statement};
use crate::formats::wanted::{self, Wanted};

/// Why a requester has no certificate. Each message continues "the issuer …".
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    /// It is not who it must be, has not proven it, or went away.
    #[error(transparent)]
    Exchange(#[from] Failure),
    /// It says no.
    #[error("gives no certificate: {}", .0.label())]
    Refused(Refused),
    /// It sent something that is no chain.
    #[error("sent a chain that cannot be read")]
    Chain,
}

/// Why a request cannot be judged. Each message continues "the requester …".
#[derive(Debug, thiserror::Error)]
pub enum NotHeard {
    /// It went away, or says what cannot be said here.
    #[error(transparent)]
    Exchange(#[from] Failure),
    /// What it asks for.
    #[error("wants what nobody gives: the names {0}")]
    Names(wanted::Error),
    /// What it asks with.
    #[error("wants what nobody gives: the request {0}")]
    Request(csr::Error),
}

impl NotHeard {
    /// What the requester is told. `None`: it has gone.
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Self::Exchange(Failure::Gone(_)) => None,
            Self::Exchange(Failure::Declined) => Some(Refused::Evidence),
            Self::Exchange(_) => Some(Refused::Malformed),
            Self::Names(_) | Self::Request(_) => Some(Refused::Request),
        }
    }
}

/// A request as it came: its key has signed it, and nothing else of it is judged.
pub struct Heard {
    /// Who the requester wants to be.
    pub wanted: Wanted,
    /// The key that it wants a certificate for.
    pub key: RequestedKey,
    /// What it shows.
    pub proof: Came,
    /// What it must have stated.
    pub expected: Statement,
    /// What it said first: whether the issuer must prove itself too, and how.
    pub hello: Hello,
}

/// The requester's side: `side` is the issuer's, by its certificate; `request` is a PKCS#10 request (DER),
/// of which the issuer takes `spki`, its key. Returns a chain that nobody has judged yet, leaf first.
pub async fn ask<S: Session>(
    session: &mut S,
    side: Side<'_>,
    attested: &Attested,
    wanted: &Wanted,
    (request, spki): (&[u8], &[u8]),
) -> Result<Vec<CertificateDer<'static>>, NotGiven> {
    let ours = Hello {
        nonce: nonce()?,
        demands: side.door.demand().is_some(),
        prove_first: false,
        report: side.wants_report(),
    };
    write(session, Kind::Hello, &ours.payload()).await?;
    flush(session).await?;
    let theirs = read_hello(session, &ours).await?;
    // An issuer always demands, and before it shows anything: it is the requester who has chosen whom it asks.
    if !(theirs.demands && theirs.prove_first) {
        return Err(Failure::Frame(frames::Error::Flags).into());
    }
    let names = wanted.text();
    let leaf = LeafBinding::of_wanted(spki, names.as_bytes());
    let exporter = session.exporter(&theirs.nonce).ok_or(Failure::Ours)?;
    let stated = Statement { purpose: Purpose::Issue, leaf, nonce: theirs.nonce, exporter };
    let proof = attested.state(&stated, theirs.report).await;
    write(session, Kind::Names, names.as_bytes()).await?;
    write(session, Kind::Request, request).await?;
    match &proof {
        Ok(proof) => exchange::write_proof(session, attested.ear(), proof).await?,
        // Its log says then why.
        Err(Unshown::NoReport) => drop(decline(session).await?),
        Err(Unshown::NoSignature) => return Err(Failure::Ours.into()),
    }
    flush(session).await?;
    if proof.is_err() {
        return Err(Failure::Demanded(None).into());
    }
    let proven = if ours.demands {
        let first = unless_refused(session, &exchange::PROOF).await?;
        verify_behind(session, first, &side, &ours, Purpose::ChannelServer).await?
    } else {
        None
    };
    // From whom it does not believe a requester takes no certificate.
    side.door.admit(side.known, proven).map_err(Failure::Refused)?;
    let chain = unless_refused(session, &[Kind::Chain]).await?.payload;
    split(&chain).ok_or(NotGiven::Chain)
}

/// A frame of these kinds, where the issuer does not refuse.
async fn unless_refused<S: Session>(session: &mut S, kinds: &[Kind]) -> Result<First, NotGiven> {
    let kinds: Vec<Kind> = kinds.iter().copied().chain([Kind::Refusal]).collect();
    let came = read_first(session, &kinds).await?;
    if came.kind != Kind::Refusal {
        return Ok(came);
    }
    let refused = came.payload.first().copied().and_then(Refused::of);
    Err(NotGiven::Refused(refused.ok_or(Failure::Frame(frames::Error::Kind))?))
}

/// The issuer's side, up to the request: it shows nothing. `report`: whether a requester must show a fresh
/// report.
pub async fn hear<S: Session>(session: &mut S, report: bool) -> Result<Heard, NotHeard> {
    let ours = Hello { nonce: nonce()?, demands: true, prove_first: true, report };
    let theirs = read_hello(session, &ours).await?;
    if theirs.prove_first {
        return Err(Failure::Frame(frames::Error::Flags).into());
    }
    write(session, Kind::Hello, &ours.payload()).await?;
    flush(session).await?;
    // All of it, before any of it is judged: what is left unread would make the kernel reset the connection, and
    // the refusal would be lost.
    let (_, names) = read(session, &[Kind::Names]).await?;
    let (_, request) = read(session, &[Kind::Request]).await?;
    let proof = exchange::read_proof(session, report).await?;
    let wanted = Wanted::parse(&names).map_err(NotHeard::Names)?;
    let key = RequestedKey::of(&request).map_err(NotHeard::Request)?;
    let exporter = session.exporter(&ours.nonce).ok_or(Failure::Ours)?;
    let leaf = LeafBinding::of_wanted(key.spki(), &names);
    let expected = Statement { purpose: Purpose::Issue, leaf, nonce: ours.nonce, exporter };
    Ok(Heard { wanted, key, proof, expected, hello: theirs })
}

/// The issuer's answer to a requester that was judged well: what proves the issuer, where that is demanded, and
/// a chain, leaf first. `prover` is what this guest shows; without, whoever demands it gets no chain either.
pub async fn give<S: Session>(
    session: &mut S,
    prover: Option<&Prover>,
    heard: &Heard,
    chain: &[CertificateDer<'static>],
) -> Result<(), Failure> {
    let shown = !heard.hello.demands || prove(session, prover, &heard.hello, Purpose::ChannelServer).await?;
    if shown {
        let chain: Vec<u8> = chain.iter().flat_map(|certificate| certificate.iter().copied()).collect();
        write(session, Kind::Chain, &chain).await?;
    }
    end(session).await?;
    if shown { Ok(()) } else { Err(Failure::Demanded(None)) }
}

/// The issuer's answer to any other: why there is no certificate.
pub async fn refuse<S: Session>(session: &mut S, refused: Refused) -> Result<(), Failure> {
    write(session, Kind::Refusal, &[refused.code()]).await?;
    end(session).await
}

async fn end<S: Session>(session: &mut S) -> Result<(), Failure> {
    flush(session).await?;
    Ok(session.shutdown().await?)
}

async fn flush<S: Session>(session: &mut S) -> Result<(), Failure> {
    Ok(session.flush().await?)
}

/// Certificates that stand one behind the other.
fn split(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = parse_x509_certificate(bytes).ok()?;
        let one = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
        chain.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    Some(chain)
}

#[cfg(test)]
mod tests;

//! A proof as it comes off the wire, and how much memory those who have proven nothing may fill with one.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Failure, Session, read, read_head, read_payload};
use crate::formats::frames::{self, Kind, SIGNATURE};
use crate::tls::demand::Shown;

/// What a proof begins with, or is.
pub(in crate::tls) const PROOF: [Kind; 2] = [Kind::Ear, Kind::Decline];

/// Longest attestation result that is read at once, 32 KiB. One of a CPU has 4, with a usual initdata 20.
const USUAL: usize = 32 * 1024;

/// Most longer ones, of up to 256 KiB, that are in memory at once: 16 MiB. Of all 512 connections that may be
/// unauthenticated they would be 128 MiB, all that the pod has (`limits.unauthenticated`, the tiers).
const PLACES: usize = 64;

/// For the process, as its memory is. Whoever waits for a place waits inside its own deadline.
static LARGE: Semaphore = Semaphore::const_new(PLACES);

/// The first frame of a proof, or what came in its place.
pub(in crate::tls) struct First {
    pub(in crate::tls) kind: Kind,
    pub(in crate::tls) payload: Vec<u8>,
    place: Option<SemaphorePermit<'static>>,
}

/// Reads one of these frames.
pub(in crate::tls) async fn read_first<S: Session>(session: &mut S, expected: &[Kind]) -> Result<First, Failure> {
    let head = read_head(session, expected).await?;
    let large = head.kind == Kind::Ear && head.length > USUAL;
    let place = if large { Some(LARGE.acquire().await.map_err(|_| Failure::Ours)?) } else { None };
    let payload = read_payload(session, head.length).await?;
    Ok(First { kind: head.kind, payload, place })
}

/// A proof as it came: nothing of it is judged.
pub struct Came {
    ear: String,
    statement: Vec<u8>,
    signature: [u8; SIGNATURE],
    report: Option<Vec<u8>>,
    _place: Option<SemaphorePermit<'static>>,
}

impl Came {
    /// For whoever judges it.
    pub fn shown(&self) -> Shown<'_> {
        Shown { ear: &self.ear, statement: &self.statement, signature: &self.signature, report: self.report.as_deref() }
    }
}

/// `report`: whether a fresh report was demanded with it.
pub(in crate::tls) async fn read_proof<S: Session>(session: &mut S, report: bool) -> Result<Came, Failure> {
    let first = read_first(session, &PROOF).await?;
    read_behind(session, first, report).await
}

/// The same, of a proof whose first frame has come.
pub(super) async fn read_behind<S: Session>(session: &mut S, first: First, report: bool) -> Result<Came, Failure> {
    if first.kind == Kind::Decline {
        return Err(Failure::Declined);
    }
    let ear = String::from_utf8(first.payload).map_err(|_| Failure::Text)?;
    let (_, statement) = read(session, &[Kind::Statement]).await?;
    let (_, signature) = read(session, &[Kind::Signature]).await?;
    let signature = signature.try_into().map_err(|_| Failure::Frame(frames::Error::Length))?;
    let report = if report { Some(read(session, &[Kind::Report]).await?.1) } else { None };
    Ok(Came { ear, statement, signature, report, _place: first.place })
}

/// All places for large ones, for tests.
#[cfg(test)]
pub(super) async fn every_place() -> SemaphorePermit<'static> {
    LARGE.acquire_many(u32::try_from(PLACES).unwrap()).await.unwrap()
}

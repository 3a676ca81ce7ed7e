//! What evidence is demanded of peers, as read at one moment, and what has been found good by it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::peer::{Known, Reason};
use crate::appraise::Makers;
use crate::appraise::peer::{
    Appraised, Error, Expected, FreshError, FreshlyExpected, Proven, channel, evidence, fresh,
};
use crate::clock::Clock;
use crate::config::spiffe::PeerId;
use crate::formats::ear::TrustAnchors;
use crate::formats::frames::SIGNATURE;
use crate::formats::pins::Pins;
use crate::formats::statement::Statement;

/// Most verdicts that are remembered: as many as chains.
const MAX_REMEMBERED: usize = 1024;

/// What must vouch for a statement on a connection.
#[derive(Clone, Debug)]
pub enum Level {
    /// The key that was attested.
    Key,
    /// That, and the hardware itself: a fresh report, genuine by these makers' roots.
    Hardware(Makers),
}

/// Roots, pins and age, as read at one moment.
///
/// A good verdict on an attestation result is remembered by the certificate that it came with, until it
/// is too old. Reading roots or pins anew makes a new `Demand`, which remembers nothing. A statement is
/// judged on each connection.
pub struct Demand {
    token_roots: TrustAnchors,
    pins: Pins,
    max_age: Duration,
    level: Level,
    clock: Clock,
    remembered: Mutex<HashMap<String, Arc<Appraised>>>,
}

/// What a peer shows.
pub struct Shown<'s> {
    /// Its attestation result.
    pub ear: &'s str,
    /// Its statement, as received.
    pub statement: &'s [u8],
    /// The statement's signature, r then s.
    pub signature: &'s [u8; SIGNATURE],
    /// The hardware's fresh report, where one was sent.
    pub report: Option<&'s [u8]>,
}

impl Demand {
    /// Attestation results by these roots, no older than `max_age` by `clock`, that show what `pins` say, and
    /// statements that `level` vouches for.
    pub fn new(token_roots: TrustAnchors, pins: Pins, max_age: Duration, level: Level, clock: &Clock) -> Self {
        Self { token_roots, pins, max_age, level, clock: clock.clone(), remembered: Mutex::default() }
    }

    /// Whether a proof must have a fresh report in it.
    pub fn wants_report(&self) -> bool {
        matches!(self.level, Level::Hardware(_))
    }

    /// Judges what a known peer shows, for the connection that `expected` is about.
    pub fn judge(&self, known: &Known, shown: &Shown<'_>, expected: &Statement) -> Result<Proven, Error> {
        let appraised = self.appraise(known.hash(), known.id(), shown.ear)?;
        self.stated(&appraised, shown, expected)
    }

    /// Judges what whoever wants a certificate for these names shows, on the connection that `expected` is
    /// about. Its evidence must be good for each of the names. Nothing of it is remembered: each request has
    /// an attestation of its own.
    pub fn judge_wanted(&self, names: &[PeerId], shown: &Shown<'_>, expected: &Statement) -> Result<Proven, Error> {
        // What costs nothing comes before what costs a signature.
        if names.iter().any(|name| self.pins.of(name).is_none()) {
            return Err(Error::NoPin);
        }
        let now = self.clock.now();
        let mut first = None;
        for peer in names {
            let (token_roots, pins) = (&self.token_roots, &self.pins);
            let expected = Expected { token_roots, pins, peer, max_age: self.max_age, now };
            let appraised = evidence(shown.ear, &expected)?;
            first.get_or_insert(appraised);
        }
        self.stated(&Arc::new(first.ok_or(Error::NoPin)?), shown, expected)
    }

    /// What was stated on this connection. The key's word comes first: it costs less than a maker's chain.
    fn stated(&self, appraised: &Arc<Appraised>, shown: &Shown<'_>, expected: &Statement) -> Result<Proven, Error> {
        let proven = channel(appraised, shown.statement, shown.signature, expected)?;
        if let Level::Hardware(makers) = &self.level {
            let report = shown.report.ok_or(Error::Fresh(FreshError::Missing))?;
            let expected = FreshlyExpected { report_data: &expected.report_data(), makers, now: self.clock.now() };
            fresh(report, appraised, &expected).map_err(Error::Fresh)?;
        }
        Ok(proven)
    }

    /// Whether a peer's evidence, good under an earlier demand, is good under this one. `hash` is its
    /// certificate's.
    pub(super) fn still(&self, hash: &str, proven: &Proven) -> Result<(), Reason> {
        let before = proven.appraised();
        self.appraise(hash, before.peer(), before.ear()).map(drop).map_err(Reason::from)
    }

    fn appraise(&self, hash: &str, peer: &PeerId, ear: &str) -> Result<Arc<Appraised>, Error> {
        let now = self.clock.now();
        let good = |found: &&Arc<Appraised>| found.ear() == ear && found.peer() == peer && now < found.until();
        if let Some(found) = self.lock().get(hash).filter(good) {
            return Ok(Arc::clone(found));
        }
        let expected = Expected { token_roots: &self.token_roots, pins: &self.pins, peer, max_age: self.max_age, now };
        let appraised = Arc::new(evidence(ear, &expected)?);
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, found| now < found.until());
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(hash.to_owned(), Arc::clone(&appraised));
        }
        Ok(appraised)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Appraised>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").field("pins", &self.pins).field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

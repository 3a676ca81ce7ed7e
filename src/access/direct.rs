//! The direct road: one attestation, and any number of resources out of it. The attestation is our
//! own, or a token of the guest's agent ([`Attester`]).
//!
//! Concurrent fetches share one attestation: evidence is slow and rate limited, and a verifier asks
//! the chip's vendor. A refusal by policy never costs a second one. Everything ends at one deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use super::cdh::jitter;
use super::rcar::{EvidenceSource, Rcar};
use super::{Attester, Deadline};
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::kbs::{Client, Error, Problem, Remedy, Session, TeeKey};
use crate::secret::Secret;

/// Tries where the cause may or may not pass: AMD's key service answers 429 to a busy verifier, a
/// wrong measurement stays wrong, and the KBS says the same to both.
const FEW: u32 = 3;

/// Pauses between tries: they double, and each is a random part of itself (full jitter), so that the
/// pods of a rollout do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// First pause.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

impl Pace {
    fn after(self, tries: u32) -> Duration {
        jitter(self.first.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(self.longest))
    }
}

/// The road. One attestation at a time, shared by all that fetch.
pub struct DirectRoad<A> {
    client: Client,
    attester: A,
    deadline: Deadline,
    pace: Pace,
    slot: Mutex<Slot>,
}

/// What is known of attestation so far.
#[derive(Default)]
struct Slot {
    live: Option<Arc<Live>>,
    /// Why there will be none. Tells those who waited, so that they do not try in turn.
    failed: Option<Finding>,
}

struct Live {
    session: Session,
    /// Made because the KBS did not know the one before.
    after_refusal: bool,
    /// The KBS has known it at least once.
    known: AtomicBool,
}

impl<S: EvidenceSource> DirectRoad<Rcar<S>> {
    /// A road to `client` that ends at `deadline`, with our own attestation. `init_data` is the whole
    /// initdata document, where the guest has one.
    pub fn new(client: Client, source: S, init_data: Option<String>, deadline: Deadline, pace: Pace) -> Arc<Self> {
        Self::with(client, Rcar::new(source, init_data), deadline, pace)
    }
}

impl<A: Attester> DirectRoad<A> {
    /// A road to `client` that ends at `deadline`.
    pub fn with(client: Client, attester: A, deadline: Deadline, pace: Pace) -> Arc<Self> {
        Arc::new(Self { client, attester, deadline, pace, slot: Mutex::default() })
    }

    /// How often evidence, or a token in its place, was shown to a KBS.
    pub fn attestations(&self) -> u64 {
        self.attester.attestations()
    }

    /// The attestation token of the session at hand, not verified; attests if there is none yet.
    pub async fn token(&self) -> Result<Zeroizing<String>, Finding> {
        let live = self.session().await?;
        Ok(Zeroizing::new(live.session.token().to_owned()))
    }

    /// The key that is attested with the session at hand, and its attestation token, not verified; attests
    /// if there is none yet.
    pub async fn attested(&self) -> Result<(Arc<TeeKey>, Zeroizing<String>), Finding> {
        let live = self.session().await?;
        Ok((Arc::clone(live.session.key()), Zeroizing::new(live.session.token().to_owned())))
    }

    /// Fetches one resource, at most `max_bytes` long.
    pub async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        let mut tries: u32 = 0;
        let mut few: u32 = 0;
        let mut attested_again = false;
        let mut last = None;
        loop {
            let live = self.session().await?;
            let error = match live.session.resource(uri, max_bytes, self.deadline.at()).await {
                Ok(secret) => {
                    live.known.store(true, Ordering::Relaxed);
                    return Ok(secret);
                }
                Err(error) => self.more_telling(last, error),
            };
            tries = tries.saturating_add(1);
            tracing::debug!(tries, error = %error, "no resource");
            let remedy = error.remedy();
            if matches!(error.problem, Problem::Refused(_)) && remedy != Remedy::Attest {
                live.known.store(true, Ordering::Relaxed);
            }
            match remedy {
                Remedy::Never => return Err(error.finding()),
                Remedy::Few => {
                    few = few.saturating_add(1);
                    if few >= FEW {
                        return Err(counted(&error, tries));
                    }
                }
                // Only where there is another KBS: this one may come back, and know the session.
                Remedy::Again if tries.is_multiple_of(FEW) && self.client.has_several() => {
                    self.replace(&live).await?;
                }
                Remedy::Again => {}
                Remedy::Attest => {
                    if attested_again || !self.replace(&live).await? {
                        return Err(counted(&error, tries));
                    }
                    attested_again = true;
                    last = Some(error);
                    continue;
                }
            }
            self.pause(tries, &error).await?;
            last = Some(error);
        }
    }

    /// The session at hand, or a new one where there is none or its token is over. One caller
    /// attests, the others wait for it.
    async fn session(&self) -> Result<Arc<Live>, Finding> {
        let mut slot = self.slot().await?;
        if let Some(live) = slot.live.as_ref().filter(|live| !live.session.is_expired(Instant::now())) {
            return Ok(Arc::clone(live));
        }
        self.renew(&mut slot, false).await
    }

    /// Replaces a session that the KBS does not know, unless somebody else has. `false`: the one at
    /// hand was made for that very reason and was never known, so another would not be either.
    async fn replace(&self, refused: &Arc<Live>) -> Result<bool, Finding> {
        let mut slot = self.slot().await?;
        if slot.live.as_ref().is_some_and(|live| !Arc::ptr_eq(live, refused)) {
            return Ok(true);
        }
        if refused.after_refusal && !refused.known.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.renew(&mut slot, true).await?;
        Ok(true)
    }

    async fn slot(&self) -> Result<tokio::sync::MutexGuard<'_, Slot>, Finding> {
        let slot = timeout_at(self.deadline.at(), self.slot.lock()).await.map_err(|_| out_of_time())?;
        match &slot.failed {
            Some(finding) => Err(finding.clone()),
            None => Ok(slot),
        }
    }

    async fn renew(&self, slot: &mut Slot, after_refusal: bool) -> Result<Arc<Live>, Finding> {
        match self.attest().await {
            Ok(session) => {
                let live = Arc::new(Live { session, after_refusal, known: AtomicBool::new(false) });
                slot.live = Some(Arc::clone(&live));
                Ok(live)
            }
            Err(finding) => {
                slot.failed = Some(finding.clone());
                Err(finding)
            }
        }
    }

    /// Attests, with the tries that each kind of failure deserves.
    async fn attest(&self) -> Result<Session, Finding> {
        let mut tries: u32 = 0;
        let mut few: u32 = 0;
        let mut last = None;
        loop {
            let error = match self.attester.attest(&self.client, self.deadline).await? {
                Ok(session) => return Ok(session),
                Err(error) => self.more_telling(last, error),
            };
            tries = tries.saturating_add(1);
            tracing::debug!(tries, error = %error, "no attestation");
            match error.remedy() {
                Remedy::Never | Remedy::Attest => return Err(error.finding()),
                Remedy::Few => {
                    few = few.saturating_add(1);
                    if few >= FEW {
                        return Err(counted(&error, tries));
                    }
                }
                Remedy::Again => {}
            }
            self.pause(tries, &error).await?;
            last = Some(error);
        }
    }

    /// The deadline cuts the last try short, which says nothing; the failure before it does.
    fn more_telling(&self, before: Option<Error>, error: Error) -> Error {
        let cut_short = error.problem == Problem::Late && self.deadline.left().is_zero();
        before.filter(|_| cut_short).unwrap_or(error)
    }

    async fn pause(&self, tries: u32, error: &Error) -> Result<(), Finding> {
        let pause = timeout_at(self.deadline.at(), sleep(self.pace.after(tries))).await;
        pause.map_err(|_| {
            let finding = counted(error, tries);
            Finding { saw: format!("{}, until the deadline", finding.saw), ..finding }
        })
    }
}

fn counted(error: &Error, tries: u32) -> Finding {
    let finding = error.finding();
    let times = if tries == 1 { "1 try" } else { &format!("{tries} tries") };
    Finding { saw: format!("{}; {times}", finding.saw), ..finding }
}

fn out_of_time() -> Finding {
    Finding::new(Class::Unreachable, "another fetch was still attesting when the deadline came")
        .next("check that the KBS of `[kbs].url` answers in time, or raise `deadline`")
}

#[cfg(test)]
mod tests;

//! Renewal by the clock. Never by traffic: a pod that nobody calls must be ready for the first caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::{Attest, Terms, epoch, refresh};
use crate::clock::Clock;
use crate::finding::{Class, Finding};
use crate::observe::health::Health;
use crate::observe::metrics::Metrics;
use crate::tls::leaf::Leaf;
use crate::tls::server::Served;

/// Shortest time between two renewals that the clock asks for: a certificate that is nearly over, and
/// stays so, must not become a storm of attestations.
pub(super) const LEAST: Duration = Duration::from_secs(5);

/// Shortest time between two renewals that a person asks for (SIGHUP).
pub(super) const LEAST_ASKED: Duration = Duration::from_millis(500);

/// First and longest pause after a renewal that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Longest renewal. It runs while the old leaf is good, so it may take its time, but not all of it.
pub(super) const BUDGET: Duration = Duration::from_secs(120);

/// Longest sleep: a guest that was suspended, or whose clock was moved, must notice.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Asks for a renewal now.
pub type Ask = mpsc::Receiver<()>;

/// What is kept, and where it is said.
pub struct Keeper<A> {
    /// What configuration says.
    pub terms: Terms,
    /// Fresh attestations.
    pub attest: A,
    /// By which everything is judged.
    pub clock: Clock,
    /// Where epochs are published.
    pub served: watch::Sender<Option<Arc<Served>>>,
    /// Where readiness is said.
    pub health: Arc<Health>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// Makes the first epoch from `first`, which has been attested already, then renews until the KBS says
/// that this workload may no longer have what it needs. Returns only then, or when the first epoch fails.
///
/// `started` is told when the first epoch is published.
pub async fn keep<A: Attest>(
    keeper: Keeper<A>,
    first: A::One,
    mut ask: Ask,
    started: tokio::sync::oneshot::Sender<()>,
) -> Finding {
    let mut now = match epoch(&keeper.terms, &first, &keeper.clock).await {
        Ok((leaf, served)) => {
            keeper.publish(&leaf, served, "first");
            Standing::new(leaf, &keeper)
        }
        Err(finding) => return finding,
    };
    drop(first);
    let _ = started.send(());
    let mut failures: u32 = 0;
    let mut retry: Option<Instant> = None;
    loop {
        // A try that is to be made again takes the place of both.
        let wake = retry.unwrap_or(now.due.min(now.refresh)).min(Instant::now() + LONGEST_SLEEP);
        let asked = tokio::select! {
            () = sleep_until(wake) => false,
            Some(()) = ask.recv() => now.since.elapsed() >= LEAST_ASKED,
        };
        let moment = Instant::now();
        // The clock may have been moved, or the guest suspended: a leaf that ends sooner is due sooner.
        let ends = keeper.clock.now().saturating_add(LEAST.as_secs()) >= now.leaf.until();
        let due = asked || retry.map_or(moment >= now.due || (ends && moment >= now.soonest), |at| moment >= at);
        if !due && (moment < now.refresh || retry.is_some()) {
            continue;
        }
        match keeper.again(&now.leaf, due).await {
            Ok(leaf) => {
                failures = 0;
                retry = None;
                if due {
                    now = Standing::new(leaf, &keeper);
                } else {
                    now.refresh = Instant::now() + keeper.terms.refresh;
                }
            }
            Err(finding) if finding.class == Class::PolicyDenied => return finding,
            Err(finding) => {
                failures = failures.saturating_add(1);
                let pause = pause(failures);
                keeper.metrics.renewal_failed(finding.class);
                let left = now.leaf.until().saturating_sub(keeper.clock.now());
                tracing::warn!(
                    class = finding.class.label(), saw = %finding.saw, next = %finding.next, tries = failures,
                    certificate_ends_in_s = left, "not renewed; what stands goes on until it ends"
                );
                keeper.health.renewal_failed(finding.class);
                retry = Some(Instant::now() + pause);
            }
        }
    }
}

/// The epoch that is served.
struct Standing {
    leaf: Arc<Leaf>,
    since: Instant,
    /// When the next one is due.
    due: Instant,
    /// Before which none is made by the clock.
    soonest: Instant,
    /// When roots and lists are read again.
    refresh: Instant,
}

impl Standing {
    fn new<A>(leaf: Arc<Leaf>, keeper: &Keeper<A>) -> Self {
        let now = Instant::now();
        let left = Duration::from_secs(leaf.until().saturating_sub(keeper.clock.now()));
        // Where somebody else made the certificate, for a year perhaps, we attest as often all the same.
        let half = (left / 2).min(keeper.terms.identity.lifetime / 2);
        // What we show peers must not grow old before there is something newer.
        let half = keeper.terms.max_age().map_or(half, |most| half.min(most / 2)).max(LEAST);
        let due = now + jitter(half);
        Self { leaf, since: now, due, soonest: now + LEAST, refresh: now + keeper.terms.refresh }
    }
}

impl<A: Attest> Keeper<A> {
    /// A new epoch, or (`whole` is false) the leaf that stands behind rules read again.
    async fn again(&self, leaf: &Arc<Leaf>, whole: bool) -> Result<Arc<Leaf>, Finding> {
        let work = async {
            let attested = self.attest.attest(BUDGET).await?;
            if whole {
                let (leaf, served) = epoch(&self.terms, &attested, &self.clock).await?;
                self.publish(&leaf, served, "renewed");
                Ok(leaf)
            } else {
                let prover = self.served.borrow().as_ref().and_then(|served| served.prover.clone());
                let served = refresh(&self.terms, &attested, leaf, prover, &self.clock).await?;
                tracing::debug!("roots and allow-lists read again");
                self.serve(leaf, served);
                Ok(Arc::clone(leaf))
            }
        };
        match tokio::time::timeout(BUDGET, work).await {
            Ok(result) => result,
            Err(_) => Err(Finding::new(Class::Unreachable, "the renewal did not end in time")
                .next("check that the KBS of `[kbs].url` and the guest's services answer in time")),
        }
    }

    fn serve(&self, leaf: &Leaf, served: Served) {
        let issued = served.prover.as_ref().map(|prover| prover.issued_at());
        let evidence = issued.zip(self.terms.max_age()).map(|(at, most)| at.saturating_add(most.as_secs()));
        self.served.send_replace(Some(Arc::new(served)));
        self.health.renewed(leaf.until(), evidence);
    }

    fn publish(&self, leaf: &Arc<Leaf>, served: Served, what: &'static str) {
        self.serve(leaf, served);
        self.metrics.renewed(leaf.until());
        let lives = leaf.until().saturating_sub(self.clock.now());
        let id = leaf.id().map_or_else(|| "-".to_owned(), ToString::to_string);
        tracing::info!(epoch = what, %id, lives_s = lives, "certificate");
    }
}

pub(super) fn pause(failures: u32) -> Duration {
    let (first, longest) = RETRY;
    jitter(first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest))
}

/// Nine to eleven tenths of it: pods that started together do not renew together.
pub(super) fn jitter(about: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    // Without randomness everything is at its middle.
    let part = if aws_lc_rs::rand::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 128 };
    (about / 10).saturating_mul(9).saturating_add((about / 5).saturating_mul(part) / 256)
}

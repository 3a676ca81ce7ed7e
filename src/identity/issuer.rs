//! The issuer's epochs: attest → roots, pins, the CA → a certificate of its own → our own checks → publish.
//! All of it is read again by the clock, so that a CA or pins that are replaced count without a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::evidence::{self, SeenPins};
use super::keep::{BUDGET, LEAST, LEAST_ASKED, LONGEST_SLEEP, jitter, pause};
use super::{Attest, Attested, Hardware, MAX_KEY, MAX_RESOURCE, METRICS, bug, door, fresh_key, text, trust_of};
use crate::clock::Clock;
use crate::config::Provenance;
use crate::config::roles::{Allow, Issuing, PeerEvidence, Peers, Roles};
use crate::config::spiffe::PeerId;
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::issuance::ca::Ca;
use crate::issuance::desk::Desk;
use crate::observe::health::Health;
use crate::observe::metrics::Metrics;
use crate::secret::Secret;
use crate::tls::demand::Demand;
use crate::tls::leaf::{Expected, Leaf};
use crate::tls::prover::Prover;
use crate::tls::server::{Entrance, Served, for_requests};
use crate::tls::trust::Calls;

/// What configuration says of an issuer, whole.
#[derive(Clone, Debug)]
pub struct IssuerTerms {
    issuing: Issuing,
    roots: KbsUri,
    evidence: PeerEvidence,
    /// Who may read the metrics, where that is over mTLS.
    readers: Option<Allow>,
    refresh: Duration,
    hardware: Hardware,
    pins: SeenPins,
}

impl IssuerTerms {
    /// Of the tables, as believed as `provenance` says. Refuses what is missing.
    pub fn of(roles: &Roles, provenance: Provenance, hardware: Hardware) -> Result<Self, Finding> {
        let refuse = |saw: &str, next: &str| Err(Finding::new(Class::Config, saw).next(next));
        if provenance <= Provenance::DeliveredUnproven {
            return refuse(
                "the issuer's configuration came over CDH or from the manifest: whom it certifies may be anybody's choice",
                "put countersign.toml into the issuer's initdata, or let initdata name a KBS over https with its CA",
            );
        }
        let Some(issuing) = roles.issuer.clone() else {
            return refuse(
                "there is no `[issuer]`: nothing says what to certify with",
                "add `[issuer]` with `listen`, `spiffe`, `certificate` and `key`",
            );
        };
        let Some(Peers::Both(roots, evidence)) = roles.peers.clone() else {
            return refuse(
                "`[peers]` does not say `trust = \"both\"`: an issuer certifies whom the pins name, for peers with those roots",
                "write `trust = \"both\"` in `[peers]`, with `roots` and `[peers.evidence]`",
            );
        };
        let readers = roles.metrics.as_ref().and_then(|metrics| metrics.allow.clone());
        Ok(Self { issuing, roots, evidence, readers, refresh: roles.refresh(), hardware, pins: SeenPins::default() })
    }

    /// The table.
    pub fn issuing(&self) -> &Issuing {
        &self.issuing
    }
}

/// What an issuer's epochs are made with, and where they are said.
pub struct DeskKeeper<A> {
    /// What configuration says.
    pub terms: IssuerTerms,
    /// Fresh attestations.
    pub attest: A,
    /// By which everything is judged.
    pub clock: Clock,
    /// Where epochs are published.
    pub desks: watch::Sender<Option<Arc<Desk>>>,
    /// The same for readers of the metrics: one entrance, where there is a list of them.
    pub served: watch::Sender<Option<Arc<Served>>>,
    /// Where readiness is said.
    pub health: Arc<Health>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// Makes the first epoch from `first`, which has been attested already, then reads everything again until the
/// KBS says that this guest may no longer have it. Returns only then, or when the first epoch fails.
///
/// `started` is told when the first epoch is published.
pub async fn keep_desk<A: Attest>(
    keeper: DeskKeeper<A>,
    first: A::One,
    mut ask: mpsc::Receiver<()>,
    started: oneshot::Sender<()>,
) -> Finding {
    let mut until = match epoch(&keeper.terms, &first, &keeper.clock).await {
        Ok(epoch) => keeper.publish(epoch),
        Err(finding) => return finding,
    };
    drop(first);
    let _ = started.send(());
    let mut failures: u32 = 0;
    let mut since = Instant::now();
    let mut due = since + keeper.pause(until);
    loop {
        let asked = tokio::select! {
            () = sleep_until(due.min(Instant::now() + LONGEST_SLEEP)) => false,
            Some(()) = ask.recv() => since.elapsed() >= LEAST_ASKED,
        };
        // The clock may have been moved, or the guest suspended: what ends sooner is due sooner.
        let ends = failures == 0 && keeper.clock.now().saturating_add(LEAST.as_secs()) >= until;
        if !(asked || Instant::now() >= due || (ends && since.elapsed() >= LEAST)) {
            continue;
        }
        let again = async {
            let attested = keeper.attest.attest(BUDGET).await?;
            epoch(&keeper.terms, &attested, &keeper.clock).await
        };
        let made = timeout(BUDGET, again).await.unwrap_or_else(|_| {
            Err(Finding::new(Class::Unreachable, "CA, roots and pins were not read in time")
                .next("check that the KBS of `[kbs].url` and the guest's services answer in time"))
        });
        since = Instant::now();
        match made {
            Ok(epoch) => {
                until = keeper.publish(epoch);
                failures = 0;
                due = since + keeper.pause(until);
            }
            Err(finding) if finding.class == Class::PolicyDenied => return finding,
            Err(finding) => {
                failures = failures.saturating_add(1);
                keeper.metrics.renewal_failed(finding.class);
                keeper.health.renewal_failed(finding.class);
                tracing::warn!(
                    class = finding.class.label(), saw = %finding.saw, next = %finding.next, tries = failures,
                    ends_in_s = until.saturating_sub(keeper.clock.now()), "not read again; what stands goes on until it ends"
                );
                due = since + pause(failures);
            }
        }
    }
}

impl<A> DeskKeeper<A> {
    fn publish(&self, (desk, served): (Desk, Option<Served>)) -> u64 {
        let until = desk.until;
        if let Some(served) = served {
            self.served.send_replace(Some(Arc::new(served)));
        }
        self.desks.send_replace(Some(Arc::new(desk)));
        // Its evidence is for requesters that demand some. How old that may be is theirs to say, and to judge.
        self.health.renewed(until, None);
        self.metrics.renewed(until);
        tracing::info!(lives_s = until.saturating_sub(self.clock.now()), "CA, roots and pins read");
        until
    }

    /// How long an epoch stands before everything is read again.
    fn pause(&self, until: u64) -> Duration {
        let half = Duration::from_secs(until.saturating_sub(self.clock.now()) / 2);
        // What is shown to requesters must not grow old before there is something newer.
        let half = half.min(self.terms.evidence.max_age / 2);
        jitter(self.terms.refresh.min(half).max(LEAST))
    }
}

/// One epoch: what requesters are met with, and readers of the metrics.
async fn epoch(
    terms: &IssuerTerms,
    attested: &impl Attested,
    clock: &Clock,
) -> Result<(Desk, Option<Served>), Finding> {
    let IssuerTerms { issuing, roots, evidence, hardware, .. } = terms;
    let pem = text(&attested.fetch(roots, MAX_RESOURCE).await?, roots)?;
    let demand = evidence::demand(evidence, hardware, &terms.pins, attested, clock).await?;
    evidence::vouched(evidence, hardware, clock).await?;
    let certificate = attested.fetch(&issuing.certificate, MAX_RESOURCE).await?;
    let key = attested.fetch(&issuing.key, MAX_KEY).await?;
    let refuse = |error: &dyn std::fmt::Display| {
        Finding::new(Class::Certificate, format!("{}: the CA's certificate {error}", issuing.certificate))
            .why("nothing is signed that peers would refuse, or that a CA may not sign")
            .next(format!(
                "upload a CA that is valid now to {} and its key to {}, and its root to {roots}, beside the one before it",
                issuing.certificate, issuing.key
            ))
    };
    let ca = Ca::read(&certificate, &key).map_err(|error| refuse(&error))?;
    let guest = attested.guest().await?;
    let own = match &guest {
        Some(guest) => Secret::new(guest.key.expose().to_vec()),
        None => fresh_key().ok_or_else(|| Finding::new(Class::Bug, "no key can be made"))?,
    };
    let names = [PeerId::Spiffe(issuing.spiffe.clone())];
    let issued = ca.own(own, &names, clock.now(), issuing.lifetime).map_err(|error| refuse(&error))?;
    // The first leaf that this CA signs: by the roots that peers have, or nobody is certified.
    let expected =
        Expected { spiffe: Some(&issuing.spiffe), dns: &[], roots: Some(&pem), rsa: false, now: clock.now() };
    let leaf = Leaf::check(issued, &expected)
        .map_err(|error| refuse(&format_args!("signs what peers would refuse: the certificate {error}")))?;
    let leaf = Arc::new(leaf);
    let prover = match guest {
        Some(guest) => Prover::new(guest.token, &guest.key, &leaf, Some(Arc::clone(&hardware.reports)))
            .inspect_err(|error| {
                tracing::warn!(%error, "requesters that demand evidence are shown none: this guest's attestation result cannot be used");
            })
            .ok()
            .map(Arc::new),
        None => None,
    };
    let read = Read { pem: &pem, demand: &demand, leaf: &leaf, prover: prover.as_ref() };
    let served = terms.readers(attested, &read, clock).await?;
    let desk = Desk {
        config: for_requests(&leaf).map_err(|error| bug(&error))?,
        prover,
        until: leaf.until(),
        demand,
        ca,
        lifetime: issuing.lifetime,
        clock: clock.clone(),
    };
    Ok((desk, served))
}

/// What an epoch has read and made before its doors.
struct Read<'r> {
    pem: &'r str,
    demand: &'r Arc<Demand>,
    leaf: &'r Arc<Leaf>,
    prover: Option<&'r Arc<Prover>>,
}

impl IssuerTerms {
    /// The entrance of the metrics: by the issuer's own certificate, for peers as `[peers]` has them that are on
    /// the list.
    async fn readers(
        &self,
        attested: &impl Attested,
        read: &Read<'_>,
        clock: &Clock,
    ) -> Result<Option<Served>, Finding> {
        let Some(allow) = &self.readers else { return Ok(None) };
        let peers = Peers::Both(self.roots.clone(), self.evidence.clone());
        let trust = Arc::new(trust_of(&peers, Some(read.pem), Some(read.demand), Calls::Them, clock)?);
        let door = door(&trust, allow, attested, &mut BTreeMap::new()).await?;
        let entrance = Entrance::new(Arc::clone(read.leaf), door, METRICS.ours, METRICS.plain);
        Ok(Some(Served {
            entrances: vec![entrance.map_err(|error| bug(&error))?],
            exits: Vec::new(),
            prover: read.prover.cloned(),
            until: read.leaf.until(),
            since: clock.now(),
        }))
    }
}

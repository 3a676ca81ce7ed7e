//! Evidence between peers: what is demanded of them, and what this guest shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Attested, Guest, Hardware, MAX_RESOURCE, Terms};
use crate::appraise::peer::{FreshError, FreshlyExpected, vouched as judge};
use crate::appraise::snp;
use crate::clock::Clock;
use crate::config::roles::{EvidenceLevel, PeerEvidence};
use crate::finding::{Class, Finding, Who};
use crate::formats::ear::TrustAnchors;
use crate::formats::kbs_uri::KbsUri;
use crate::formats::pins::{self, Pins};
use crate::tls::demand::{Demand, Level};
use crate::tls::leaf::Leaf;
use crate::tls::prover::{self, Prover};
use crate::tls::reports::Unable;

/// The highest `serial` of pins that this process has seen. Older ones are refused: whoever can put an old
/// resource back must not bring an old release back with it.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenPins(Arc<AtomicU64>);

/// Reads what is demanded of peers.
pub(super) async fn demand(
    evidence: &PeerEvidence,
    hardware: &Hardware,
    seen: &SeenPins,
    attested: &impl Attested,
    clock: &Clock,
) -> Result<Arc<Demand>, Finding> {
    let PeerEvidence { token_roots: roots, pins: uri, max_age, level } = evidence;
    let token_roots = attested.fetch(roots, MAX_RESOURCE).await?;
    let token_roots = TrustAnchors::from_pem(token_roots.expose()).map_err(|error| {
        Finding::new(Class::Content, format!("{roots}: the trusted certificates {error}"))
            .why("whoever these certificates vouch for can say of any machine that it is a good guest")
            .next(format!("upload the PEM of the attestation service's certificate, or of its CA, to {roots}"))
    })?;
    let pins = attested.fetch(uri, pins::MAX_BYTES).await?;
    let pins = Pins::parse(pins.expose()).map_err(|error| {
        Finding::new(Class::Content, format!("{uri}: the pins {error}"))
            .why("pins that cannot be read whole let nobody in, and replace none that stand")
            .next(format!("correct that entry, raise `serial`, and upload the pins to {uri}"))
    })?;
    seen.accept(&pins, uri)?;
    let level = match level {
        EvidenceLevel::Key => Level::Key,
        EvidenceLevel::Hardware => Level::Hardware(hardware.makers.clone()),
    };
    Ok(Arc::new(Demand::new(token_roots, pins, *max_age, level, clock)))
}

impl SeenPins {
    fn accept(&self, pins: &Pins, uri: &KbsUri) -> Result<(), Finding> {
        let before = self.0.fetch_max(pins.serial(), Ordering::Relaxed);
        if pins.serial() >= before {
            return Ok(());
        }
        Err(Finding::new(
            Class::Content,
            format!("{uri}: the pins have `serial` {}, and {before} has been seen", pins.serial()),
        )
        .why("pins that are older than those that stand may let in what was taken out since")
        .next(format!("raise `serial` above {before} in the pins, and upload them to {uri}")))
    }
}

/// What this guest shows to peers that demand evidence. `None` where it has nothing, and nobody of its own
/// configuration demands any.
pub(super) fn prover(terms: &Terms, guest: Option<Guest>, leaf: &Leaf) -> Result<Option<Arc<Prover>>, Finding> {
    let demands = terms.peers.evidence().is_some();
    let Some(Guest { key, token }) = guest.filter(|_| terms.gives) else {
        // Every peer that is configured as we are would refuse us.
        return if demands { Err(nothing_to_show()) } else { Ok(None) };
    };
    match Prover::new(token, &key, leaf, Some(Arc::clone(&terms.hardware.reports))) {
        Ok(prover) => {
            if demands && !prover.is_affirming() {
                tracing::warn!(
                    "the verifier's verdict on this guest is not `affirming`: peers that demand evidence refuse it; \
                     register its reference values with the attestation service"
                );
            }
            Ok(Some(Arc::new(prover)))
        }
        Err(error) if demands => Err(not_shown(error)),
        Err(error) => {
            tracing::warn!(%error, "peers that demand evidence are shown none: this guest's attestation result cannot be used");
            Ok(None)
        }
    }
}

/// Whether this guest's hardware vouches for it, where the configuration demands that of its peers: they demand
/// the same. Found at start, and not by the first peer.
pub(super) async fn vouched(evidence: &PeerEvidence, hardware: &Hardware, clock: &Clock) -> Result<(), Finding> {
    if evidence.level != EvidenceLevel::Hardware {
        return Ok(());
    }
    let mut report_data = [0; 64];
    aws_lc_rs::rand::fill(&mut report_data).map_err(|_| {
        Finding::new(Class::NoEvidence, "the kernel gives no randomness")
            .why("a report over bytes that somebody can know beforehand may be an old one")
            .next("check that the guest's kernel has a source of randomness, and restart the pod")
    })?;
    let report = hardware.reports.own(report_data).await.map_err(|error| match error {
        Unable::Failed(finding) => *finding,
        // Too long: for itself a guest waits behind nobody.
        long @ (Unable::TooLong | Unable::TooMany) => Finding::new(Class::NoEvidence, format!("a fresh report {long}"))
            .why("peers that are configured as this one would refuse it")
            .next("take another way in `[kbs].via`, or write `level = \"key\"` in `[peers.evidence]`"),
    })?;
    let expected = FreshlyExpected { report_data: &report_data, makers: &hardware.makers, now: clock.now() };
    judge(&report, &expected).map(drop).map_err(|error| {
        let refused = Finding::new(Class::NoEvidence, format!("of this guest the fresh report {error}"))
            .why("`level = \"hardware\"` in `[peers.evidence]`: peers that are configured as this one would refuse it")
            .who(Who::Platform);
        match error {
            FreshError::Snp(snp::Error::NoKey) => refused.next(
                "have the host hand its VCEK to its guests (`countersign diagnose` names it), or write `level = \"key\"`",
            ),
            _ => refused.next("run `countersign diagnose` in this guest, and see evidence.genuine"),
        }
    })
}

fn nothing_to_show() -> Finding {
    Finding::new(Class::Config, "`peers.trust` demands evidence, and the way to the KBS that was taken gives this guest none of its own")
        .why("over CDH the guest's services keep token and key to themselves, so every peer that demands the same would refuse this one")
        .next("put `configfs-tsm`, `sev-guest`, `aa-evidence` or `aa-token` before `cdh` in `[kbs].via` and expose that way, or write `trust = \"roots\"` in `[peers]`")
}

fn not_shown(error: prover::Error) -> Finding {
    Finding::new(Class::EvidenceRejected, format!("this guest's attestation result {error}"))
        .why("peers that demand evidence would refuse this guest")
        .next("check the attestation service behind the KBS of `[kbs].url`: its token must be an EAR for a P-256 key")
        .who(Who::KbsOperator)
}

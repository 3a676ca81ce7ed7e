//! What `diagnose` asks about the sidecar's side: whom it would believe, and whether it would get a
//! certificate. The very steps of an epoch, without publishing one.

use super::issuer::IssuerTerms;
use super::{Attested, Hardware, Terms, rules, show};
use crate::check::{Check, Outcome};
use crate::clock::Clock;
use crate::config::Provenance;
use crate::config::roles::Roles;
use crate::finding::Finding;

const WAY: &[&str] = &["attest.way"];

/// The tables.
pub const TERMS: Check = Check::new(
    "sidecar.terms",
    "do identity, peers and listeners fit together",
    "the sidecar serves nobody without a name, roots and an allow-list",
)
.needs(&["config.document", "config.delivered"])
.cheap();

/// Roots, pins and lists.
pub const TRUST: Check = Check::new(
    "sidecar.trust",
    "are the mesh's roots, pins and allow-lists readable",
    "peers are judged by them alone",
)
.needs(WAY);

/// The certificate.
pub const CERTIFICATE: Check = Check::new(
    "sidecar.certificate",
    "is there a certificate for this workload",
    "without one that is valid now nobody is served",
)
.needs(&["sidecar.trust"]);

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&TERMS, &TRUST, &CERTIFICATE]
}

/// The terms, where the configuration serves anybody.
pub fn terms(roles: &Roles, provenance: Provenance, hardware: Hardware) -> (Outcome, Option<Terms>) {
    if !roles.serves() {
        return (Outcome::Skip("the configuration has no listeners".to_owned()), None);
    }
    // An issuer's pod has `[peers]` too, and serves nobody but those who ask for certificates.
    if roles.issuer.is_some() && roles.identity.is_none() {
        let judged = IssuerTerms::of(roles, provenance, hardware);
        return (judged.map(|terms| format!("an issuer at {}", terms.issuing().listen)).into(), None);
    }
    match Terms::of(roles, provenance, hardware) {
        Ok(terms) => {
            let (inbound, outbound) = (roles.inbound.len(), roles.outbound.len());
            (Outcome::Pass(format!("{inbound} inbound, {outbound} outbound")), Some(terms))
        }
        Err(finding) => (Outcome::Fail(finding), None),
    }
}

/// Reads roots, pins and lists.
pub async fn trust(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Outcome {
    let read = rules(terms, attested, clock).await;
    read.map(|rules| {
        let roots = terms.peers.roots().map(|uri| format!("roots of {uri}"));
        let evidence = terms.peers.evidence().map(|evidence| format!("evidence by the pins of {}", evidence.pins));
        let lists = Some(format!("{} allow-lists", rules.doors.len()));
        [roots, evidence, lists].into_iter().flatten().collect::<Vec<_>>().join(", ")
    })
    .into()
}

/// Gets a certificate, and what proves this guest to peers, judges both as the sidecar does, and forgets
/// them.
pub async fn certificate(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Outcome {
    let made = async {
        let rules = rules(terms, attested, clock).await?;
        let (leaf, prover) = show(terms, attested, &rules, clock).await?;
        let minutes = leaf.until().saturating_sub(clock.now()) / 60;
        let proof = if prover.is_some() { ", with evidence for peers" } else { "" };
        Ok::<_, Finding>(format!("valid for {minutes} min more{proof}"))
    };
    made.await.into()
}

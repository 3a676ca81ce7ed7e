//! What `diagnose` asks about the sidecar's side: whom it would believe, and whether it would get a
//! certificate. The very steps of an epoch, without publishing one.

use super::{Attested, Terms, issue, leaf_of, rules};
use crate::check::{Check, Outcome};
use crate::clock::Clock;
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

/// Roots and lists.
pub const TRUST: Check =
    Check::new("sidecar.trust", "are the mesh's roots and allow-lists readable", "peers are judged by them alone")
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
pub fn terms(roles: &Roles) -> (Outcome, Option<Terms>) {
    if !roles.serves() {
        return (Outcome::Skip("the configuration has no listeners".to_owned()), None);
    }
    match Terms::of(roles) {
        Ok(terms) => (Outcome::Pass(format!("{} inbound", roles.inbound.len())), Some(terms)),
        Err(finding) => (Outcome::Fail(finding), None),
    }
}

/// Reads roots and lists.
pub async fn trust(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Outcome {
    let read = rules(terms, attested, clock).await;
    read.map(|rules| format!("roots of {}, {} allow-lists", terms.roots, rules.doors.len())).into()
}

/// Gets a certificate, judges it as the sidecar does, and forgets it.
pub async fn certificate(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Outcome {
    let made = async {
        let rules = rules(terms, attested, clock).await?;
        let leaf = leaf_of(terms, issue(terms, attested, clock).await?, &rules, clock)?;
        Ok::<_, Finding>(leaf.until().saturating_sub(clock.now()))
    };
    made.await.map(|left| format!("valid for {} min more", left / 60)).into()
}

//! Our own attestation: a challenge, evidence over it, a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout_at};

use super::cdh::jitter;
use super::{Attester, Deadline};
use crate::finding::{Class, Finding};
use crate::kbs::{Client, Error, Evidence, EvidenceError, Session, TeeKey};

/// A challenge that takes longer than this is of a KBS under load. It needs no verifier and no store
/// but the session's, so a healthy one takes milliseconds.
const SLOW: Duration = Duration::from_secs(1);

/// Longest wait before showing evidence to a slow KBS. Far below the five minutes of a challenge.
const LONGEST_YIELD: Duration = Duration::from_secs(15);

/// Where evidence comes from: the kernel's, the device's, or the attestation agent's.
pub trait EvidenceSource: Send + Sync + 'static {
    /// Trustee's name for the kind of TEE (`snp`, `tdx`, …). Asked before evidence is.
    fn tee(&self) -> impl Future<Output = Result<String, Finding>> + Send;

    /// Evidence over `report_data` (32, 48 or 64 bytes; padded with zeros where the field is wider),
    /// as the one JSON value that Trustee wants for this kind of TEE.
    fn evidence(&self, report_data: &[u8]) -> impl Future<Output = Result<String, Finding>> + Send;
}

/// Attests with evidence from `source`.
pub struct Rcar<S> {
    pub(super) source: S,
    init_data: Option<String>,
    shown: AtomicU64,
}

impl<S: EvidenceSource> Rcar<S> {
    /// `init_data` is the whole initdata document, where the guest has one.
    pub fn new(source: S, init_data: Option<String>) -> Self {
        Self { source, init_data, shown: AtomicU64::new(0) }
    }

    /// Where the KBS is slow already, the pods of a rollout spread their evidence over a while.
    async fn yield_to_others(took: Duration, deadline: Deadline) {
        if let Some(most) = longest_yield(took, deadline.left()) {
            sleep(jitter(most)).await;
        }
    }
}

impl<S: EvidenceSource> Attester for Rcar<S> {
    async fn attest(&self, client: &Client, deadline: Deadline) -> Result<Result<Session, Error>, Finding> {
        let until = deadline.at();
        let tee = timeout_at(until, self.source.tee()).await.map_err(|_| no_evidence_in_time())??;
        let challenge = match client.challenge(&tee, until).await {
            Ok(challenge) => challenge,
            Err(error) => return Ok(Err(error)),
        };
        Self::yield_to_others(challenge.took(), deadline).await;
        // A new key each time: what was attested once is not attested to another KBS.
        let key = TeeKey::generate().map_err(|_| Finding::new(Class::Bug, "no key could be made"))?;
        let binding = match challenge.bind(Arc::new(key), String::new()) {
            Ok(binding) => binding,
            Err(error) => return Ok(Err(error)),
        };
        let evidence = timeout_at(until, self.source.evidence(binding.report_data()));
        let json = evidence.await.map_err(|_| no_evidence_in_time())??;
        let evidence = Evidence::new(json).map_err(unusable)?;
        self.shown.fetch_add(1, Ordering::Relaxed);
        Ok(binding.attest(&evidence, self.init_data.as_deref(), until).await)
    }

    fn attestations(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }
}

/// The most to wait before showing evidence to a KBS whose challenge `took` so long. Never more than a
/// quarter of what is `left`.
pub(super) fn longest_yield(took: Duration, left: Duration) -> Option<Duration> {
    (took >= SLOW).then(|| took.saturating_mul(4).min(LONGEST_YIELD).min(left / 4))
}

fn no_evidence_in_time() -> Finding {
    Finding::new(Class::NoEvidence, "the guest gave no evidence before the deadline")
        .why("its firmware, its quoting service or its attestation agent hangs")
        .next("check the host's quoting service (TDX) and the guest's kernel log, or raise `deadline`")
}

fn unusable(error: EvidenceError) -> Finding {
    Finding::new(Class::NoEvidence, format!("the guest's evidence {error}"))
        .why("what cannot be sent as one JSON value is no evidence to a KBS")
        .next("check the version of `attestation-agent` in the guest image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_kbs_is_shown_evidence_after_a_while() {
        const BUDGET: Duration = Duration::from_secs(30);
        assert_eq!(longest_yield(Duration::from_millis(999), BUDGET), None);
        assert_eq!(longest_yield(SLOW, Duration::from_secs(300)), Some(Duration::from_secs(4)));
        assert_eq!(longest_yield(Duration::from_secs(60), Duration::from_secs(300)), Some(LONGEST_YIELD));
        assert_eq!(longest_yield(Duration::from_secs(60), Duration::from_secs(8)), Some(Duration::from_secs(2)));
    }
}

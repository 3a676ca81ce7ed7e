//! Fresh reports of this guest for its peers: by the ways to evidence that the configuration allows, and that
//! this guest offers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use super::Deadline;
use super::rcar::EvidenceSource as _;
use super::source::Source;
use super::standing::Standing;
use crate::config::Via;
use crate::evidence::trustee;
use crate::finding::{Class, Finding};
use crate::ports::Ports;
use crate::tls::reports::Reports;

/// One report, and for the first the search for a way: SNP firmware may hold two back for 2 s each, a TDX quote
/// takes 1 s. A peer gives both sides 10 s in all.
const REPORT: Duration = Duration::from_secs(8);

/// A way to evidence, and what it is called for people.
pub type Found = (Source, &'static str);

/// Fresh reports by the ways of `[kbs].via`. Looks for one when the first is asked for.
pub fn fresh(ports: &Ports, via: &[Via]) -> Reports {
    let (ports, via): (_, Arc<[Via]>) = (ports.clone(), via.into());
    let found = Arc::new(OnceCell::new());
    Reports::new(Box::new(move |report_data| {
        let (ports, via, found) = (ports.clone(), Arc::clone(&via), Arc::clone(&found));
        Box::pin(async move {
            let deadline = Deadline::after(REPORT);
            let making = async {
                let look = || async { first(&Standing::new(&ports, deadline, false), &via).await };
                let (source, _): &Found = found.get_or_try_init(look).await?;
                source.clone().until(deadline).evidence(&report_data).await
            };
            let json = timeout_at(deadline.at(), making).await.map_err(|_| late())??;
            Ok(without_log(json))
        })
    }))
}

/// The first of these ways to evidence that the guest offers. One that is there and fails is a refusal: the
/// next one would hide what is broken.
pub async fn first(standing: &Standing, via: &[Via]) -> Result<Found, Finding> {
    let mut absent = Vec::new();
    let kernel =
        [(Via::ConfigfsTsm, "from the kernel (configfs-tsm)"), (Via::SevGuest, "from the kernel (/dev/sev-guest)")];
    for (via, by) in kernel.into_iter().filter(|(each, _)| via.contains(each)) {
        match standing.kernel(via).await {
            Ok(kernel) => return Ok((kernel.source.clone(), by)),
            Err(refusal) if refusal.absent => absent.push(format!("{via}: {}", refusal.finding.saw)),
            Err(refusal) => return Err(refusal.finding.clone()),
        }
    }
    // The agent that gives tokens gives evidence too.
    if via.iter().any(|via| matches!(via, Via::AaEvidence | Via::AaToken)) {
        match standing.agent().await? {
            Some(info) => match &info.tee {
                Some(tee) => {
                    let source = Source::Agent { api: standing.api(), tee: tee.clone() };
                    return Ok((source, "from the attestation agent (127.0.0.1:8006)"));
                }
                None => absent.push("aa-evidence: the guest's REST service names no TEE".to_owned()),
            },
            None => absent
                .push("aa-evidence: no REST service on 127.0.0.1:8006, or its feature `attestation` is off".to_owned()),
        }
    }
    Err(Finding::new(Class::NoEvidence, format!("nothing here gives evidence ({})", absent.join("; ")))
        .why("this machine is no confidential guest, or what it has is not exposed to this container")
        .next("run `countersign evidence` in a confidential guest; in a pod, expose one way to evidence (a confidential runtimeClass with `agent.guest_components_rest_api=all`)"))
}

/// A peer does not replay the firmware's log, which is a hundred times as long as the quote.
fn without_log(json: String) -> Vec<u8> {
    let quote = trustee::read_tdx(json.as_bytes()).ok();
    quote.and_then(|quote| trustee::tdx(&quote, None).ok()).unwrap_or(json).into_bytes()
}

fn late() -> Finding {
    Finding::new(Class::NoEvidence, "the guest gave no fresh report within 8 s")
        .why("the kernel, the host's quoting service or the attestation agent hangs, or is asked by many")
        .next("run `countersign diagnose`, and see how long evidence.report takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_goes_to_peers_without_its_log_and_a_report_as_it_is() {
        let with = trustee::tdx(b"quote", None).unwrap().replace("null", "\"AAAA\"");
        assert_eq!(without_log(with), trustee::tdx(b"quote", None).unwrap().into_bytes());
        let other = r#"{"attestation_report":{},"cert_chain":null}"#;
        assert_eq!(without_log(other.to_owned()), other.as_bytes());
    }
}

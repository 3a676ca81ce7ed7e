//! The source `issuer`: this guest's key is certified by the mesh's issuer. Its certificate is judged first, and its
//! evidence, where that is demanded, before what it gives is taken.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Guest, Hardware, bug};
use crate::config::grammar::HostPort;
use crate::config::spiffe::SpiffeId;
use crate::finding::{Class, Finding, Who};
use crate::formats::frames::Refused;
use crate::formats::wanted::Wanted;
use crate::issuance::request;
use crate::kbs::{Undialled, dial};
use crate::secret::Secret;
use crate::tls::client::Exit;
use crate::tls::exchange::{Failure, OURS_ISSUE, Side};
use crate::tls::issue::{self, NotGiven};
use crate::tls::leaf::Issued;
use crate::tls::peer::Reason;
use crate::tls::prover::Attested;
use crate::tls::server::refusal;
use crate::tls::trust::Door;

/// One address of the issuer: two of Linux's retransmissions of a SYN (1 s, then 2 s) fit.
const DIAL: Duration = Duration::from_secs(4);

/// All of it, from the name to the certificate. An issuer gives one connection 10 s.
const ASK: Duration = Duration::from_secs(20);

/// Asks the issuer at `address` for a certificate of the attested key, for `wanted`. `door` is the one that
/// it alone may stand behind.
pub(super) async fn ask(
    (address, spiffe): (&HostPort, &SpiffeId),
    door: Arc<Door>,
    (guest, hardware): (Option<&Guest>, &Hardware),
    wanted: &Wanted,
) -> Result<Issued, Finding> {
    let Some(Guest { key, token }) = guest else { return Err(nothing_to_show()) };
    let attested = Attested::new(token.clone(), key, Some(Arc::clone(&hardware.reports))).map_err(|error| {
        Finding::new(Class::EvidenceRejected, format!("this guest's attestation result {error}"))
            .why("the issuer would refuse it")
            .next(
                "check the attestation service behind the KBS of `[kbs].url`: its token must be an EAR for a P-256 key",
            )
            .who(Who::KbsOperator)
    })?;
    let request = request::make(key).map_err(|error| {
        Finding::new(Class::Certificate, format!("the certificate {error}"))
            .next("report this with the version and the whole message")
    })?;
    let exit = Exit::to_issuer(door).map_err(|error| bug(&error))?;
    let asking = async {
        let stream = dial(address, DIAL).await.map_err(Unasked::Undialled)?;
        // For gateways that choose by it. Nobody's certificate is judged by it.
        let name = ServerName::try_from(address.host.clone()).map_err(|_| Unasked::Name)?;
        let connecting = TlsConnector::from(Arc::clone(&exit.config)).connect(name, stream);
        let mut tls = connecting.await.map_err(|error| Unasked::Refused(refusal(&error).reason.label()))?;
        if tls.get_ref().1.alpn_protocol() != Some(OURS_ISSUE) {
            return Err(Unasked::Refused(Reason::Incompatible.label()));
        }
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let known = exit.door.known(chain).map_err(|reason| Unasked::Refused(reason.label()))?;
        let side = Side { door: &exit.door, prover: None, known };
        issue::ask(&mut tls, side, &attested, wanted, (&request.der, &request.spki)).await.map_err(Unasked::NotGiven)
    };
    let chain = match timeout(ASK, asking).await {
        Ok(Ok(chain)) => chain,
        Ok(Err(why)) => return Err(why.finding(address, spiffe)),
        Err(_) => return Err(Unasked::Slow.finding(address, spiffe)),
    };
    Ok(Issued { chain, key: Secret::new(key.expose().to_vec()) })
}

/// Why there is no certificate. Each message continues "the issuer at ADDRESS …".
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error(transparent)]
    Undialled(Undialled),
    #[error("has a name that TLS cannot ask for")]
    Name,
    #[error("is not the configured one: {0}")]
    Refused(&'static str),
    #[error(transparent)]
    NotGiven(NotGiven),
    #[error("did not answer within 20 s")]
    Slow,
}

impl Unasked {
    /// Whether it is this guest that has nothing to show: no fresh report of its hardware, which the issuer demands.
    fn is_ours(&self) -> bool {
        matches!(self, Self::NotGiven(NotGiven::Exchange(Failure::Demanded(_))))
    }

    fn finding(&self, address: &HostPort, spiffe: &SpiffeId) -> Finding {
        let class = if self.is_ours() { Class::NoEvidence } else { Class::Certificate };
        let finding = Finding::new(class, format!("the issuer at {address}: it {self}"))
            .why("without a certificate nobody is served; one that stands goes on until it ends");
        let log = "read the issuer's log for this pod's identity";
        match self {
            Self::Undialled(_) | Self::Name | Self::Slow => {
                finding.next("check `identity.issuer.address`, and that a pod of the issuer is ready there")
            }
            Self::Refused(_) | Self::NotGiven(NotGiven::Exchange(Failure::Refused(_) | Failure::Unproven(_))) => finding
                .next(format!(
                    "check `identity.issuer.spiffe` ({spiffe}), that `peers.roots` holds the issuer's root, and, with \
                     `[peers.evidence]`, that the pins have an entry for it"
                )),
            _ if self.is_ours() => finding.next(
                "run `countersign diagnose` in this guest, and see evidence.report; or write `level = \"key\"` in \
                 `[peers.evidence]` of the issuer's configuration",
            ),
            Self::NotGiven(NotGiven::Refused(Refused::Identity)) => finding.next(format!(
                "pin the digest of this workload's initdata for each of its names in the pins of `peers.evidence.pins`, or {log}"
            )),
            Self::NotGiven(NotGiven::Refused(Refused::Busy)) => {
                finding.next("wait a minute, or raise `issuer.per_minute` or `issuer.per_identity` in the issuer's configuration")
            }
            Self::NotGiven(NotGiven::Refused(Refused::Unready)) => {
                finding.next("replace the CA of `issuer.certificate` and `issuer.key` (docs/issuer.md), and read the issuer's log")
            }
            Self::NotGiven(_) => finding.next(log),
        }
    }
}

fn nothing_to_show() -> Finding {
    Finding::new(Class::Config, "`identity.source = \"issuer\"`, and the way to the KBS that was taken gives this guest no evidence of its own")
        .why("an issuer certifies attested keys only, and over CDH the guest's services keep token and key to themselves")
        .next("put `configfs-tsm`, `sev-guest`, `aa-evidence` or `aa-token` before `cdh` in `[kbs].via` and expose that way, or choose another `identity.source`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_a_report_of_its_own_is_not_sent_to_the_issuers_log() {
        let address = HostPort { host: "issuer.mesh.svc".to_owned(), port: 8444 };
        let spiffe = SpiffeId::parse("spiffe://example.org/ns/mesh/sa/issuer").unwrap();
        let finding = |failure| Unasked::NotGiven(NotGiven::Exchange(failure)).finding(&address, &spiffe);
        let ours = finding(Failure::Demanded(None));
        assert_eq!(ours.class, Class::NoEvidence);
        assert!(ours.next.contains("evidence.report") && ours.next.contains("`level = \"key\"`"), "{ours}");
        assert!(ours.saw.contains("demands evidence, and this side has none to give"), "{ours}");
        // The same of the issuer is the issuer's.
        let theirs = finding(Failure::Declined);
        assert_eq!(theirs.class, Class::Certificate);
        assert!(theirs.next.contains("the issuer's log"), "{theirs}");
    }
}

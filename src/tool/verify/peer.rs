//! A live peer that must prove itself: called as a sidecar calls it, and judged by what it shows.
//!
//! What is verified ties its evidence to this very session, so that nothing else has to be said of nonce
//! or key: docs/protocol.md.

use tokio::time::{Instant, timeout_at};

use super::proof::Proof;
use super::server::DEADLINE;
use super::verdict::Verdict;
use super::{Question, certificate, in_runtime, token};
use crate::appraise::check::Check;
use crate::appraise::expect::Word;
use crate::config::grammar::HostPort;
use crate::evidence::twin::Field;
use crate::finding::{Class, Finding, Who};
use crate::formats::ear::EarToken;
use crate::kbs::Undialled;
use crate::proxy::outbound::{Broken, reach};
use crate::tls::exchange::{Failure, OURS_H2, OURS_HTTP1, OURS_TCP};
use crate::tls::peer::{Reason, VerifiedPeer};

/// Whatever the peer serves: nothing is sent behind the exchange.
const ALPN: &[&[u8]] = &[OURS_TCP, OURS_HTTP1, OURS_H2];

pub(super) fn judge(to: &HostPort, proof: &Proof, question: &Question<'_>) -> Result<Verdict, Finding> {
    let call = proof.call(question.wanted, (question.clock, question.makers), ALPN)?;
    let reaching = async { timeout_at(Instant::now() + DEADLINE, reach(to, &call.exit, None)).await };
    let roots = question.roots.is_some();
    match in_runtime(reaching)? {
        Err(_) => Err(silent()),
        Ok(Ok((tls, peer))) => {
            let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
            let shown: Vec<_> = shown.iter().map(|der| der.to_vec()).collect();
            let fields = certificate::fields(&shown);
            proven(&peer, proof, roots, fields)
        }
        // It would not let us in, and has proven itself all the same.
        Ok(Err(Broken::Unproven(Failure::Demanded(Some(peer))))) => proven(&peer, proof, roots, Vec::new()),
        Ok(Err(broken)) => refused(&broken, roots),
    }
}

pub(super) fn proven(
    peer: &VerifiedPeer,
    proof: &Proof,
    roots: bool,
    mut fields: Vec<Field>,
) -> Result<Verdict, Finding> {
    // Whoever was let in has shown one: the door demands it. What it says was judged, and is only told here.
    let claims = peer.ear().and_then(|ear| EarToken::parse(ear).ok()?.claims_unverified().ok());
    let claims = claims.ok_or_else(|| Finding::new(Class::Bug, "a peer was let in without an attestation result"))?;
    fields.extend(token::fields(&claims));
    let chain = if roots {
        Check::held("certificate.chain", "it leads to one of the given roots, and is valid at this time")
    } else {
        Check::not_checked("certificate.chain", "no roots were given: who it is, its evidence says")
    };
    let mut checks = vec![
        chain,
        Check::held("expect.identity", format!("it is for {}", peer.id())),
        Check::held(
            "peer.evidence",
            "its attestation result is by the token roots, recent, affirming, and as pinned for this identity",
        ),
        Check::held("peer.session", "the attested key has signed that this session and this certificate are its own"),
    ];
    if proof.wants_report() {
        let said = "a fresh report over it is genuine, of the attested guest, and of the attested machine";
        checks.push(Check::held("peer.hardware", said));
    }
    let what = format!("a sidecar that has proven itself as {}", peer.id());
    Ok(Verdict { kind: "sidecar", what, word: Word::Appraised, finding: None, checks, fields })
}

pub(super) fn refused(broken: &Broken, roots: bool) -> Result<Verdict, Finding> {
    let Some((word, id)) = word(broken, roots) else { return Err(finding(broken)) };
    let finding = finding(broken);
    let checks = vec![Check::failed(id, finding.saw.clone())];
    let what = "a sidecar that has not proven itself".to_owned();
    Ok(Verdict { kind: "sidecar", what, word, finding: Some(finding), checks, fields: Vec::new() })
}

/// What a refusal of ours says of the peer, and which check failed. `None`: it could not be judged.
fn word(broken: &Broken, roots: bool) -> Option<(Word, &'static str)> {
    let reason = broken.reason()?;
    let evidence = matches!(broken, Broken::Unproven(_));
    match reason {
        Reason::Gone | Reason::TooSlow | Reason::TooMuch | Reason::NotTls | Reason::Incompatible | Reason::Other => {
            None
        }
        _ if matches!(broken, Broken::Unproven(Failure::Demanded(_))) => None,
        // Without roots a name is what the peer says of itself.
        Reason::NotAllowed | Reason::NotPinned if !roots => Some((Word::NotGenuine, "expect.identity")),
        Reason::NotAllowed => Some((Word::Unexpected, "expect.identity")),
        Reason::NotPinned | Reason::NotAffirming | Reason::OtherInitdata | Reason::OtherHardware => {
            Some((Word::Unexpected, "peer.evidence"))
        }
        Reason::OtherSession => Some((Word::NotGenuine, "peer.session")),
        Reason::BadReport => Some((Word::NotGenuine, "peer.hardware")),
        _ if evidence => Some((Word::NotGenuine, "peer.evidence")),
        _ => Some((Word::NotGenuine, "certificate.chain")),
    }
}

/// Why there is no tunnel to a peer, for people.
pub(in crate::tool) fn finding(broken: &Broken) -> Finding {
    let unreachable = |saw: String| {
        Finding::new(Class::Unreachable, saw).why("what does not answer cannot be judged").who(Who::Platform)
    };
    match broken {
        Broken::Undialled(Undialled::Name(problem)) => unreachable(format!("the peer's name has no address: {problem}"))
            .next("check the name; inside a cluster it ends in `.svc`"),
        Broken::Undialled(Undialled::Unreachable(kind)) => unreachable(format!("nobody takes connections there: {kind}"))
            .next("check the port, and that the sidecar is ready (/readyz)"),
        Broken::Refused(refusal) => handshake(refusal.reason),
        Broken::Unproven(failure @ Failure::Gone(_)) => unreachable(format!("the peer {failure}")).next(
            "check that --cert leads to the peer's roots and is on the list of its `[[inbound]].allow`; its log names the reason",
        ),
        Broken::Unproven(failure @ Failure::Demanded(_)) => {
            Finding::new(Class::NoEvidence, format!("the peer {failure}"))
                .why("its `[peers].trust` demands evidence of every caller, and this machine is no TEE")
                .next("call it from a pod with an `[[outbound]]`, or write `trust = \"roots\"` in the `[peers]` of that sidecar")
        }
        Broken::Unproven(Failure::Declined) => Finding::new(Class::EvidenceRejected, format!("the peer {}", Failure::Declined))
            .why("its configuration takes a way to the KBS that gives it no attestation result of its own; or, with --level hardware, its machine gives no report")
            .next("put `configfs-tsm`, `sev-guest`, `aa-evidence` or `aa-token` before `cdh` in `[kbs].via` of that sidecar, and read its log"),
        Broken::Unproven(failure) if failure.reason() == Reason::BadReport => {
            Finding::new(Class::EvidenceRejected, format!("the peer {failure}"))
                .why("with --level hardware its machine must vouch for it now, by the roots of AMD and Intel")
                .next("run `countersign diagnose` in that guest, and see evidence.genuine; without its machine's word, give --level key")
                .who(Who::Platform)
        }
        Broken::Unproven(failure) => {
            let class = match failure.reason() {
                Reason::NotPinned | Reason::NotAffirming | Reason::OtherInitdata | Reason::OtherHardware => Class::Unexpected,
                _ => Class::EvidenceRejected,
            };
            Finding::new(class, format!("the peer {failure}"))
                .why("genuine hardware runs other people's guests too")
                .next("compare --pins and --token-roots with the mesh's own, or find out whose guest answers there")
        }
    }
}

fn handshake(reason: Reason) -> Finding {
    let (class, next) = match reason {
        Reason::NotAllowed => (Class::Unexpected, "correct --expect, or find out whose sidecar answers there"),
        Reason::Gone | Reason::TooSlow | Reason::TooMuch | Reason::NotTls | Reason::Incompatible | Reason::Other => {
            (Class::Unreachable, "check that the port is the sidecar's `listen`, not its health port")
        }
        _ => (
            Class::EvidenceRejected,
            "check that --roots are the mesh's roots, and that the certificate was renewed in time",
        ),
    };
    Finding::new(class, format!("the handshake failed: {}", reason.label()))
        .why("a name in a certificate is worth what its issuer is")
        .next(next)
}

/// Within [`DEADLINE`].
pub(in crate::tool) fn silent() -> Finding {
    Finding::new(Class::Unreachable, "the peer did not answer within 15 s")
        .why("what does not answer cannot be judged")
        .next("check the address, and the NetworkPolicies on the way")
        .who(Who::Platform)
}

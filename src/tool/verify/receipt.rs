//! A signed receipt: what was delivered to a guest, in its own words. From a file, or asked for from a live
//! peer, which must then prove itself on the connection too.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::proof::Proof;
use super::server::{self, DEADLINE};
use super::verdict::{self, Verdict};
use super::wanted::usage;
use super::{Question, in_runtime, peer, time, token};
use crate::appraise::check::Check;
use crate::appraise::delivery::{Error, Expected, Vouched, judge};
use crate::appraise::expect::Word;
use crate::config::Provenance;
use crate::config::grammar::HostPort;
use crate::config::spiffe::PeerPattern;
use crate::evidence::twin::Field;
use crate::finding::{Class, Finding};
use crate::formats::delivery::{self, MAX_BYTES, NONCE, Signed};
use crate::formats::ear::EarToken;
use crate::formats::json;
use crate::proxy::outbound::{Broken, reach};
use crate::tls::client::Exit;
use crate::tls::exchange::OURS_HTTP1;
use crate::tls::peer::{Reason, VerifiedPeer};

/// Where a sidecar has it.
pub(super) const PATH: &str = "/receipt";

/// What is spoken behind the exchange.
const ALPN: &[&[u8]] = &[OURS_HTTP1];

/// What no receipt shows, told with every one.
const NOT_SHOWN: [(&str, &str); 3] = [
    ("receipt.values", "no value, length or digest is in a receipt: what stands in the files is not shown"),
    ("receipt.use", "that the app has read the files is not shown"),
    ("receipt.files", "what the pod's own containers have written there since, the receipt included, is not shown"),
];

/// What it must be.
struct Held<'q> {
    proof: &'q Proof,
    peer: PeerPattern,
    nonce: Option<[u8; NONCE]>,
}

impl<'q> Held<'q> {
    fn of(question: &'q Question<'_>) -> Result<Self, Finding> {
        let wanted = question.wanted;
        if wanted.of_hardware() || wanted.key.is_some() {
            return Err(usage(
                "an expectation about a report or a token stands beside a receipt",
                "give --expect, --token-roots, --pins and --max-age; what its evidence must show, write into --pins",
            ));
        }
        let proof = wanted.proof.as_ref().ok_or_else(|| {
            usage(
                "--token-roots, --pins and --max-age are not given: nothing says whose receipt to believe",
                "give --token-roots, --pins and --max-age, or keys of the same names in the policy file",
            )
        })?;
        let nonce = wanted.nonce.as_deref().map(|text| {
            delivery::nonce(text).ok_or_else(|| {
                usage(
                    "--nonce is not 32 bytes in base64url without padding",
                    "give --nonce as it was sent in ?nonce= with the question",
                )
            })
        });
        Ok(Self { proof, peer: wanted.peer()?, nonce: nonce.transpose()? })
    }
}

/// One that was kept.
pub(super) fn shown(signed: &Signed, question: &Question<'_>) -> Result<Verdict, Finding> {
    let held = Held::of(question)?;
    if held.proof.wants_report() {
        return Err(usage(
            "--level hardware stands beside a receipt that was kept",
            "remove --level: a machine vouches for a connection; give the URL of the receipt to ask it",
        ));
    }
    let before = vec![Check::not_checked(
        "certificate.chain",
        "a receipt comes without a certificate: its evidence says whose it is",
    )];
    verdict(signed, &held, question.now, before)
}

/// One that a live peer is asked for, with a nonce of our own. `place` stands before [`PATH`].
pub(super) fn live(place: &str, question: &Question<'_>) -> Result<Verdict, Finding> {
    let held = Held::of(question)?;
    if held.nonce.is_some() {
        return Err(usage(
            "--nonce stands beside the URL of a receipt",
            "remove --nonce: a live sidecar is asked with a nonce that nobody knew before",
        ));
    }
    let (host, port) = server::parse(place)?;
    let to = HostPort { host, port };
    let nonce = fresh()?;
    let call = held.proof.call(question.wanted, (question.clock, question.makers), ALPN)?;
    let asking = async { timeout_at(Instant::now() + DEADLINE, ask(&to, &call.exit, &nonce)).await };
    let roots = question.roots.is_some();
    let (peer, answer) = match in_runtime(asking)? {
        Err(_) => return Err(peer::silent()),
        Ok(Err(broken)) => return peer::refused(&broken, roots),
        Ok(Ok(answered)) => answered,
    };
    let signed = Signed::parse(&answer?).map_err(|error| {
        Finding::new(Class::Unknown, format!("the peer answered, and the receipt {error}"))
            .why("what is not understood is not judged")
            .next("check that the port in the URL is that of the sidecar's `[metrics]`")
    })?;
    let mut checks = peer::proven(&peer, held.proof, roots, Vec::new())?.checks;
    // The same attestation result is the same key. Another pod's answer, passed on, has another one.
    if peer.ear() != Some(signed.ear.as_str()) {
        let finding = Finding::new(Class::EvidenceRejected, "the receipt is not of the guest that answered")
            .why("its evidence is another than the one shown on the connection: a renewal came between, or it is another pod's")
            .next("run `verify` again; where it stays so, find out whose guest answers there");
        return Ok(refused("receipt.session", Word::NotGenuine, finding, checks));
    }
    checks.push(Check::held("receipt.session", "it is of the guest that answered, by the same attestation result"));
    // Of several identities that are expected: the one that the connection is with.
    let peer =
        PeerPattern::parse(&peer.id().to_string()).map_err(|_| Finding::new(Class::Bug, "a peer without a name"))?;
    // Signed after we asked, by a clock that may be ahead of what ours was then.
    verdict(&signed, &Held { peer, nonce: Some(nonce), ..held }, question.clock.now(), checks)
}

/// The peer, and what it answers, once it has proven itself.
async fn ask(
    to: &HostPort,
    exit: &Exit,
    nonce: &[u8; NONCE],
) -> Result<(VerifiedPeer, Result<Vec<u8>, Finding>), Broken> {
    let (tls, peer) = reach(to, exit, None).await?;
    Ok((peer, fetch(tls, to, nonce).await))
}

async fn fetch(tls: TlsStream<TcpStream>, to: &HostPort, nonce: &[u8; NONCE]) -> Result<Vec<u8>, Finding> {
    let gone = |what: &str| {
        Finding::new(Class::Unreachable, format!("the peer has proven itself, and {what}"))
            .why("what does not answer cannot be judged")
            .next("check that the port is that of the sidecar's `[metrics]`, and that its log names no refusal")
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tls)).await.map_err(|_| gone("does not speak HTTP/1.1"))?;
    // Ends with the answer: the connection is asked to close.
    tokio::spawn(connection);
    let request = Request::get(format!("{PATH}?nonce={}", URL_SAFE_NO_PAD.encode(nonce)))
        .header(HOST, to.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|_| usage("the host of the URL is no name", "write a DNS name or an address"))?;
    let response = sender.send_request(request).await.map_err(|_| gone("closed the connection without an answer"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|_| gone("its answer broke off, or is longer than 1 MiB"))?.to_bytes();
    if status == StatusCode::OK { Ok(body.into()) } else { Err(no_receipt(status, &body)) }
}

/// Why a peer that is known has none: by its word, of those that we know.
fn no_receipt(status: StatusCode, body: &[u8]) -> Finding {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let word = json::object::<Refused>(body).map(|refused| refused.error);
    match word.as_deref() {
        Some("nothing-delivered") => {
            Finding::new(Class::Unexpected, "the peer has proven itself, and nothing has been delivered to it")
                .why("no set of files stands in its secrets' directory")
                .next("check that its configuration has `[[secrets.file]]`, and read the log of its `init`")
        }
        Some("no-attested-key") => Finding::new(
            Class::NoEvidence,
            "the peer has no attested key to sign a receipt with",
        )
        .why("its way to the KBS gives it no attestation result of its own")
        .next(
            "put `configfs-tsm`, `sev-guest`, `aa-evidence` or `aa-token` before `cdh` in `[kbs].via` of that sidecar",
        ),
        _ => Finding::new(
            Class::Unreachable,
            format!("the peer answered {} where a receipt is asked for", status.as_u16()),
        )
        .why("it is not ready, its countersign is too old to have receipts, or something else listens there")
        .next("check that the port is that of the sidecar's `[metrics]`, and that it is ready (/readyz)"),
    }
}

fn fresh() -> Result<[u8; NONCE], Finding> {
    let mut nonce = [0; NONCE];
    match rand::fill(&mut nonce) {
        Ok(()) => Ok(nonce),
        Err(_) => Err(Finding::new(Class::Bug, "the kernel gives no randomness for a nonce")),
    }
}

fn verdict(signed: &Signed, held: &Held<'_>, now: u64, mut checks: Vec<Check>) -> Result<Verdict, Finding> {
    let (token_roots, pins) = held.proof.trusted()?;
    let max_age = held.proof.max_age();
    let (peer, nonce) = (&held.peer, held.nonce.as_ref());
    let expected = Expected { token_roots: &token_roots, pins: &pins, peer, max_age, nonce, now };
    let vouched = match judge(signed, &expected) {
        Ok(vouched) => vouched,
        Err(error) => {
            let (id, word) = word(&error);
            return Ok(refused(id, word, finding(&error, word), checks));
        }
    };
    let id = &vouched.receipt().id;
    checks.extend([
        Check::held(
            "receipt.evidence",
            "its attestation result is by the token roots, recent, affirming, and as pinned for this identity",
        ),
        Check::held("receipt.signature", "the attested key has signed it as it stands"),
        Check::held("receipt.identity", format!("it is for {id}")),
        match held.nonce {
            Some(_) => Check::held("receipt.nonce", "it answers the nonce that was sent"),
            None => Check::not_checked("receipt.nonce", "no nonce was given: a later receipt may say something else"),
        },
        Check::held("receipt.time", "it was signed before this time, and no longer ago than the oldest that counts"),
    ]);
    checks.extend(NOT_SHOWN.map(|(id, why)| Check::not_checked(id, why)));
    let files = vouched.receipt().delivered.files.len();
    Ok(Verdict {
        kind: "receipt",
        what: format!("a receipt of {id}, for {files} {}", if files == 1 { "file" } else { "files" }),
        word: Word::Appraised,
        finding: None,
        checks,
        fields: fields(&vouched, &signed.ear),
    })
}

fn refused(id: &'static str, word: Word, finding: Finding, mut checks: Vec<Check>) -> Verdict {
    checks.push(Check::failed(id, finding.saw.clone()));
    let what = "a receipt that is not to be believed".to_owned();
    Verdict { kind: "receipt", what, word, finding: Some(finding), checks, fields: Vec::new() }
}

/// The check that failed, and what that makes of the receipt.
fn word(error: &Error) -> (&'static str, Word) {
    match error {
        Error::Evidence(why) => match Reason::from(*why) {
            Reason::NotAffirming | Reason::OtherInitdata | Reason::OtherHardware => {
                ("receipt.evidence", Word::Unexpected)
            }
            // A name is what the receipt says of itself, until evidence is found good for it.
            _ => ("receipt.evidence", Word::NotGenuine),
        },
        Error::Signature => ("receipt.signature", Word::NotGenuine),
        Error::Identity => ("receipt.identity", Word::Unexpected),
        Error::Nonce => ("receipt.nonce", Word::NotGenuine),
        Error::Early | Error::Late => ("receipt.time", Word::NotGenuine),
    }
}

fn finding(error: &Error, word: Word) -> Finding {
    let (why, next) = match error {
        Error::Evidence(_) => (
            "a receipt is worth what is known of the guest that signed it",
            "compare --pins and --token-roots with the mesh's own; where its evidence is too old, ask for a new receipt",
        ),
        Error::Signature => (
            "anybody can write one, or change one, and only the attested key can sign it",
            "ask the sidecar for a new receipt: run `verify` with the URL of its /receipt",
        ),
        Error::Identity => {
            ("another guest's secrets are not this one's", "correct --expect, or ask the sidecar of that identity")
        }
        Error::Nonce => (
            "an old answer can be shown again by whoever kept it",
            "ask for a new receipt with ?nonce=, and give --nonce the same",
        ),
        Error::Early | Error::Late => (
            "a receipt says what stood when it was signed",
            "ask for a new receipt; for one that was kept, give --at the time to judge it by",
        ),
    };
    Finding::new(verdict::class(word).unwrap_or(Class::EvidenceRejected), error.to_string()).why(why).next(next)
}

/// What it says. Each value was parsed: none can hold control characters.
fn fields(vouched: &Vouched, ear: &str) -> Vec<Field> {
    let field = |name, value: String, says: &str| Field { name, value, says: says.to_owned() };
    let receipt = vouched.receipt();
    let delivered = &receipt.delivered;
    let mut fields: Vec<Field> = delivered
        .files
        .iter()
        .map(|file| field("file", file.path.to_string(), &format!("mode {:04o}, from {}", file.mode, file.from)))
        .collect();
    fields.extend([
        field("provenance", delivered.provenance.to_string(), believed(delivered.provenance)),
        field("via", delivered.via.to_string(), "the road by which the values came"),
        field("serial", delivered.serial.to_string(), "of the configuration that the set was published under"),
        field("countersign", delivered.countersign.clone(), "the version that published"),
        field("written", time::text(delivered.written), "when the set was published, by the guest's clock"),
        field("signed", time::text(receipt.signed), "when the receipt was signed, by the guest's clock"),
    ]);
    let claims = EarToken::parse(ear).and_then(|token| token.claims_unverified());
    fields.extend(claims.map(|claims| token::fields(&claims)).unwrap_or_default());
    fields
}

fn believed(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Unmeasured => "whoever writes the manifest wrote the configuration",
        Provenance::DeliveredUnproven => "the configuration came through the guest's CDH",
        Provenance::Delivered => "the configuration came from a KBS that is trusted",
        Provenance::GuestAttested => "the KBS vouches for the initdata with the configuration",
        Provenance::Measured => "the hardware reports the digest of the initdata with the configuration",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appraise::peer;
    use crate::formats::ear;

    #[test]
    fn every_refusal_has_a_check_a_word_and_a_next_step() {
        for (error, id, code) in [
            (Error::Evidence(peer::Error::NoPin), "receipt.evidence", 79),
            (Error::Evidence(peer::Error::Token(ear::Error::Expired)), "receipt.evidence", 79),
            (Error::Evidence(peer::Error::InitData), "receipt.evidence", 86),
            (Error::Evidence(peer::Error::Hardware), "receipt.evidence", 86),
            (Error::Signature, "receipt.signature", 79),
            (Error::Identity, "receipt.identity", 86),
            (Error::Nonce, "receipt.nonce", 79),
            (Error::Early, "receipt.time", 79),
            (Error::Late, "receipt.time", 79),
        ] {
            let (check, word) = word(&error);
            let finding = finding(&error, word);
            assert_eq!((check, finding.class.code()), (id, code), "{error}");
            assert!(!finding.why.is_empty() && !finding.next.is_empty(), "{error}");
        }
    }

    #[test]
    fn what_a_peer_says_of_itself_is_never_repeated() {
        let said = br#"{"error":"\u001b[2J forged","message":"forged"}"#;
        let finding = no_receipt(StatusCode::BAD_GATEWAY, said);
        assert!(!format!("{finding:?}").contains("forged"), "{finding:?}");
        assert_eq!(finding.class, Class::Unreachable);
        let nothing = no_receipt(StatusCode::NOT_FOUND, br#"{"error":"nothing-delivered"}"#);
        assert_eq!(nothing.class, Class::Unexpected);
        let no_key = no_receipt(StatusCode::NOT_FOUND, br#"{"error":"no-attested-key"}"#);
        assert_eq!(no_key.class, Class::NoEvidence);
    }
}

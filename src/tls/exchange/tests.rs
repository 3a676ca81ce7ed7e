//! Two members, and each way in which one of them, or somebody between them, can lie.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::KeyPair;
use serde_json::json;
use tokio::io::{ReadBuf, copy_bidirectional};

use super::testing::*;
use super::*;
use crate::appraise::peer::Error as Unproven;
use crate::formats::statement;
use crate::tls::demand::Shown;
use crate::tls::trust::Calls;

/// The exchange as it would be if statements did not bind the session: what others have shipped. Lives
/// here, and only here.
struct WithoutExporter<S>(S);

impl<S: Session> Session for WithoutExporter<S> {
    fn exporter(&self, _: &[u8; LENGTH]) -> Option<[u8; LENGTH]> {
        Some([0; LENGTH])
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithoutExporter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithoutExporter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn same<S>(session: S) -> S {
    session
}

struct Pair {
    mesh: Mesh,
    api: Member,
    web: Member,
    by: By,
}

impl Pair {
    /// `web` calls `api`.
    fn new(by: By) -> Self {
        let mesh = Mesh::new();
        let make = |id| if by == By::Evidence { mesh.own_member(id) } else { mesh.member(id) };
        Self { api: make(API), web: make(WEB), mesh, by }
    }

    fn doors(&self) -> (Arc<Door>, Arc<Door>) {
        (self.mesh.door(self.by, Calls::Us, API), self.mesh.door(self.by, Calls::Them, WEB))
    }

    async fn meet(&self) -> (Result<VerifiedPeer, Failure>, Result<VerifiedPeer, Failure>) {
        let (towards_api, towards_web) = self.doors();
        exchange((&self.web, &towards_api), (&self.api, &towards_web), (same, same)).await
    }

    /// What `api` answers to a `web` that is told what to send after its handshake.
    async fn answered(&self, say: impl AsyncFnOnce(&mut Connected)) -> Result<VerifiedPeer, Failure> {
        let (towards_api, towards_web) = self.doors();
        answered((&self.web, &towards_api), (&self.api, &towards_web), say).await
    }
}

fn reason(result: Result<VerifiedPeer, Failure>) -> Reason {
    result.expect_err("a refusal").reason()
}

#[tokio::test]
async fn two_members_prove_themselves_to_each_other() {
    for by in [By::Both, By::Evidence] {
        let pair = Pair::new(by);
        let (api, web) = pair.meet().await;
        let (api, web) = (api.unwrap(), web.unwrap());
        assert_eq!((api.id().to_string(), web.id().to_string()), (API.to_owned(), WEB.to_owned()), "{by:?}");
        assert_eq!(api.until(), Some(pair.mesh.clock.now() + 3600));
        assert_eq!(web.until(), api.until());
    }
    // Where nobody demands, nobody shows.
    let (api, web) = Pair::new(By::Roots).meet().await;
    assert_eq!((api.unwrap().until(), web.unwrap().until()), (None, None));
}

#[tokio::test]
async fn one_side_may_demand_and_the_other_not() {
    let pair = Pair::new(By::Both);
    let demanding = pair.mesh.door(By::Both, Calls::Us, API);
    let trusting = pair.mesh.door(By::Roots, Calls::Them, WEB);
    // The caller has nothing to show, and nobody asks.
    let web = Member { prover: None, ..pair.web.clone() };
    let (api, web) = exchange((&web, &demanding), (&pair.api, &trusting), (same, same)).await;
    assert!(api.unwrap().until().is_some() && web.unwrap().until().is_none());
}

#[tokio::test]
async fn a_peer_without_evidence_is_refused() {
    let mut pair = Pair::new(By::Both);
    pair.web.prover = None;
    let (_, web) = pair.meet().await;
    assert!(matches!(web, Err(Failure::Declined)));
    let mut pair = Pair::new(By::Both);
    pair.api.prover = None;
    assert_eq!(reason(pair.meet().await.0), Reason::NoEvidence);
    // Nor is one that does not speak the exchange at all.
    let (_, door) = pair.doors();
    let chain = pair.web.leaf.certified();
    let known = door.known(&chain.cert).unwrap();
    assert_eq!(door.admit(known, None).unwrap_err(), Reason::NoEvidence);
}

/// An attacker between `web` and `api` who has the TLS keys of both, and a live `api` to ask. `doors` are
/// `web`'s and `api`'s. What `web` makes of whom it called, and `api` of whoever called.
async fn relay<C: Session, S: Session>(
    pair: &Pair,
    doors: (&Arc<Door>, &Arc<Door>),
    wrap: (impl FnOnce(Connected) -> C, impl FnOnce(Accepted) -> S),
) -> (Result<VerifiedPeer, Failure>, Result<VerifiedPeer, Failure>) {
    // Leaked: certificate and key, not what was attested.
    let leaked = |member: &Member| Member { prover: None, ..member.clone() };
    let (as_api, as_web) = (leaked(&pair.api), leaked(&pair.web));
    let (victim, near) = handshake((&pair.web, doors.0), (&as_api, doors.1)).await;
    let (far, live) = handshake((&as_web, doors.0), (&pair.api, doors.1)).await;
    let (victim, live, near, far) = (victim.unwrap(), live.unwrap(), near.unwrap(), far.unwrap());
    let theirs = known(doors.0, victim.get_ref().1.peer_certificates());
    let ours = known(doors.1, live.get_ref().1.peer_certificates());
    let (mut victim, mut live) = (wrap.0(victim), wrap.1(live));
    let calling = async {
        let side = Side { door: doors.0, prover: pair.web.prover.as_deref(), known: theirs };
        let result = connect(&mut victim, side).await;
        drop(victim);
        result
    };
    let serving = async {
        let side = Side { door: doors.1, prover: pair.api.prover.as_deref(), known: ours };
        let result = accept(&mut live, side).await;
        drop(live);
        result
    };
    // Both are closed when either is.
    let between = async move {
        let (mut near, mut far) = (near, far);
        let _ = copy_bidirectional(&mut near, &mut far).await;
    };
    let (api, web, ()) = tokio::join!(calling, serving, between);
    (api, web)
}

#[tokio::test]
async fn a_relay_with_leaked_tls_keys_succeeds_without_the_exporter_and_fails_with_it() {
    let pair = Pair::new(By::Both);
    let (towards_api, towards_web) = pair.doors();
    let doors = (&towards_api, &towards_web);
    let (api, web) = relay(&pair, doors, (WithoutExporter, WithoutExporter)).await;
    assert_eq!(api.unwrap().id().to_string(), API, "the victim believes that the attacker is its peer");
    assert_eq!(web.unwrap().id().to_string(), WEB, "and so does the peer");
    let refused = Unproven::Statement(statement::Error::Other("exporter"));
    let (api, web) = relay(&pair, doors, (same, same)).await;
    assert!(matches!(api, Err(Failure::Unproven(why)) if why == refused), "the caller sees it");
    assert!(matches!(web, Err(Failure::Gone(_))), "and shows nothing");
    // The side that was called sees it too, where the caller demands nothing.
    let trusting = pair.mesh.door(By::Roots, Calls::Us, API);
    let (_, web) = relay(&pair, (&trusting, &towards_web), (same, same)).await;
    assert!(matches!(web, Err(Failure::Unproven(why)) if why == refused));
}

#[tokio::test]
async fn evidence_of_another_initdata_is_refused_and_without_pins_it_would_not_be() {
    let mut pair = Pair::new(By::Both);
    let key = KeyPair::generate().unwrap();
    let token = pair.mesh.token(API, &key, |claims| {
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = json!("bb".repeat(32));
    });
    pair.api = shows(pair.api.leaf.clone(), &key, &token);
    assert_eq!(reason(pair.meet().await.0), Reason::OtherInitdata);
    // The pin is what refuses it: with one that lists this digest the same guest is let in.
    pair.mesh.pins["peers"][API]["init_data"] = json!(["aa".repeat(48), "bb".repeat(48)]);
    pair.meet().await.0.unwrap();
}

#[tokio::test]
async fn an_identity_that_is_not_pinned_is_refused() {
    let mut pair = Pair::new(By::Both);
    let entry = pair.mesh.pins["peers"][API].take();
    pair.mesh.pins["peers"] = json!({"spiffe://example.org/ns/other/sa/*": entry});
    assert_eq!(reason(pair.meet().await.0), Reason::NotPinned);
}

#[tokio::test]
async fn evidence_that_a_stranger_stole_is_refused() {
    // A member of the mesh with a certificate of its own, and the attestation result of another guest.
    let (pair, thief) = (Pair::new(By::Both), KeyPair::generate().unwrap());
    let own = shows(pair.api.leaf.clone(), &thief, &pair.mesh.token(API, &thief, |_| {}));
    let known = pair.doors().0.known(&pair.api.leaf.certified().cert).unwrap();
    let (nonce, exporter) = ([1; LENGTH], [2; LENGTH]);
    let word = word(&own.prover.unwrap(), Purpose::ChannelServer, (nonce, exporter));
    let expected = Statement { purpose: Purpose::ChannelServer, leaf: known.leaf().unwrap(), nonce, exporter };
    let stolen = pair.api.prover.as_deref().unwrap().ear();
    let shown = Shown { ear: stolen, statement: &word.statement, signature: &word.signature, report: None };
    assert_eq!(pair.mesh.demand().judge(&known, &shown, &expected).unwrap_err(), Unproven::Signature);
}

#[tokio::test]
async fn a_caller_with_nothing_to_show_knows_who_refused_it() {
    // The server shows first, is believed, and is told that there is nothing to show.
    let mut pair = Pair::new(By::Both);
    pair.web.prover = None;
    let (api, web) = pair.meet().await;
    let Err(Failure::Demanded(Some(peer))) = api else { panic!("{api:?}") };
    assert_eq!(peer.id().to_string(), API);
    assert!(matches!(web, Err(Failure::Declined)));
    // One that wants to see first shows nothing, and says nothing of itself.
    let mut pair = Pair::new(By::Evidence);
    pair.web.prover = None;
    let (api, web) = pair.meet().await;
    assert!(matches!((api, web), (Err(Failure::Demanded(None)), Err(Failure::Declined))));
    // A peer that is not what it must be is refused for that, whatever it demands.
    let mut pair = Pair::new(By::Both);
    pair.web.prover = None;
    pair.mesh.pins["peers"][API]["init_data"] = json!(["dd".repeat(48)]);
    assert_eq!(reason(pair.meet().await.0), Reason::OtherInitdata);
}

#[tokio::test]
async fn a_word_for_another_certificate_is_refused() {
    let mut pair = Pair::new(By::Both);
    // The guest's own word, for a certificate with another key.
    let other = pair.mesh.leaf(API, &KeyPair::generate().unwrap());
    pair.api.leaf = other;
    let refused = pair.meet().await.0.unwrap_err();
    assert!(matches!(refused, Failure::Unproven(Unproven::Statement(statement::Error::Other("spki")))));
}

#[tokio::test]
async fn a_reflected_hello_is_refused() {
    let pair = Pair::new(By::Both);
    let (towards_api, towards_web) = pair.doors();
    let (connected, accepted) = handshake((&pair.web, &towards_api), (&pair.api, &towards_web)).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    let known = known(&towards_api, connected.get_ref().1.peer_certificates());
    let side = Side { door: &towards_api, prover: pair.web.prover.as_deref(), known };
    let mirror = async {
        let mut hello = [0; HEAD + 1 + LENGTH];
        accepted.read_exact(&mut hello).await.unwrap();
        accepted.write_all(&hello).await.unwrap();
        accepted.flush().await.unwrap();
    };
    let (refused, ()) = tokio::join!(connect(&mut connected, side), mirror);
    assert!(matches!(refused, Err(Failure::Mirror)));
}

#[tokio::test]
async fn our_own_statement_does_not_prove_a_peer() {
    // A peer that answers with what we have just told it: it demands our proof first, then returns it.
    let pair = Pair::new(By::Both);
    let prover = pair.web.prover.as_deref().unwrap();
    let known = pair.doors().1.known(&pair.web.leaf.certified().cert).unwrap();
    let (nonce, exporter) = ([1; LENGTH], [2; LENGTH]);
    let ours = word(prover, Purpose::ChannelServer, (nonce, exporter));
    let expected = Statement { purpose: Purpose::ChannelClient, leaf: known.leaf().unwrap(), nonce, exporter };
    let shown = Shown { ear: prover.ear(), statement: &ours.statement, signature: &ours.signature, report: None };
    let refused = pair.mesh.demand().judge(&known, &shown, &expected).unwrap_err();
    assert_eq!(refused, Unproven::Statement(statement::Error::Other("purpose")));
}

#[tokio::test]
async fn frames_of_an_earlier_connection_are_refused() {
    // Everything that `web` sent in a good exchange, sent again by somebody with its TLS key.
    let pair = Pair::new(By::Both);
    let recorded = record(&pair).await;
    let refused = pair.answered(async |client| client.write_all(&recorded).await.unwrap()).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Failure::Unproven(Unproven::Statement(statement::Error::Other("nonce")))));
}

#[tokio::test]
async fn a_nonce_is_never_used_twice_and_a_word_for_another_proves_nothing() {
    let pair = Pair::new(By::Both);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        assert!(seen.insert(record(&pair).await[HEAD..HEAD + 1 + LENGTH].to_vec()), "a hello that was said before");
    }
    // On the very same session a word that answers another challenge is none.
    let prover = pair.web.prover.as_deref().unwrap();
    let known = pair.doors().1.known(&pair.web.leaf.certified().cert).unwrap();
    let word = word(prover, Purpose::ChannelClient, ([1; LENGTH], [2; LENGTH]));
    let leaf = known.leaf().unwrap();
    let expected = Statement { purpose: Purpose::ChannelClient, leaf, nonce: [3; LENGTH], exporter: [2; LENGTH] };
    let shown = Shown { ear: prover.ear(), statement: &word.statement, signature: &word.signature, report: None };
    let refused = pair.mesh.demand().judge(&known, &shown, &expected).unwrap_err();
    assert_eq!(refused, Unproven::Statement(statement::Error::Other("nonce")));
}

/// What `web` sends to `api` in a good exchange.
async fn record(pair: &Pair) -> Vec<u8> {
    struct Recorder<S>(S, Arc<std::sync::Mutex<Vec<u8>>>);

    impl<S: Session> Session for Recorder<S> {
        fn exporter(&self, context: &[u8; LENGTH]) -> Option<[u8; LENGTH]> {
            self.0.exporter(context)
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.0).poll_write(cx, buf);
            if let Poll::Ready(Ok(count)) = &written {
                self.1.lock().unwrap().extend(&buf[..*count]);
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    let sent = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (towards_api, towards_web) = pair.doors();
    let tape = |session| Recorder(session, Arc::clone(&sent));
    let (api, web) = exchange((&pair.web, &towards_api), (&pair.api, &towards_web), (tape, same)).await;
    api.unwrap();
    web.unwrap();
    Arc::into_inner(sent).unwrap().into_inner().unwrap()
}

#[tokio::test]
async fn truncated_and_oversized_frames_are_refused() {
    let pair = Pair::new(By::Both);
    let recorded = record(&pair).await;
    for length in [0, 1, HEAD, HEAD + LENGTH, HEAD + 1 + LENGTH + 3, recorded.len() / 2, recorded.len() - 1] {
        let refused = pair.answered(async |client| client.write_all(&recorded[..length]).await.unwrap()).await;
        assert_eq!(reason(refused), Reason::Gone, "{length} of {}", recorded.len());
    }
    let hello = recorded[..HEAD + 1 + LENGTH].to_vec();
    for length in [MAX + 1, 10 * 1024 * 1024, u32::MAX] {
        let head = [&hello[..], &[2], &length.to_be_bytes()].concat();
        let refused = pair.answered(async |client| client.write_all(&head).await.unwrap()).await;
        assert!(matches!(refused, Err(Failure::Frame(frames::Error::Length))), "{length}");
    }
    // HTTP in place of a hello.
    let refused = pair.answered(async |client| client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap()).await;
    assert!(matches!(refused, Err(Failure::Frame(frames::Error::Kind))));
}

const MAX: u32 = 256 * 1024;

#[tokio::test]
async fn an_attestation_result_of_64_kib_is_taken_and_one_of_10_mib_is_never_read() {
    let mut pair = Pair::new(By::Both);
    let key = KeyPair::generate().unwrap();
    let large = "x".repeat(64 * 1024);
    let token = pair.mesh.token(WEB, &key, |claims| {
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["uefi_event_logs"] = json!(large);
    });
    assert!(token.len() > 64 * 1024);
    pair.web = shows(pair.web.leaf.clone(), &key, &token);
    let (api, web) = pair.meet().await;
    api.unwrap();
    web.unwrap();
    let text = "x".repeat(10 * 1024 * 1024);
    assert_eq!(frames::write(Kind::Ear, text.as_bytes()), None, "nor sent");
}

#[tokio::test]
async fn large_attestation_results_are_read_by_turns_and_hold_up_no_usual_one() {
    let usual = Pair::new(By::Both);
    let mut large = Pair::new(By::Both);
    let key = KeyPair::generate().unwrap();
    let token = large.mesh.token(WEB, &key, |claims| {
        let log = json!("x".repeat(32 * 1024));
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["uefi_event_logs"] = log;
    });
    large.web = shows(large.web.leaf.clone(), &key, &token);
    let places = proof::every_place().await;
    usual.meet().await.1.unwrap();
    let mut meeting = std::pin::pin!(large.meet());
    let long = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut meeting => panic!("it was read without a place"),
        () = long => {}
    }
    drop(places);
    meeting.await.1.unwrap();
}

#[tokio::test]
async fn a_server_without_roots_shows_nothing_before_the_caller_is_proven() {
    let pair = Pair::new(By::Evidence);
    let (towards_api, towards_web) = pair.doors();
    // Whoever connects may claim to be anybody.
    let key = KeyPair::generate().unwrap();
    let thief = Member { leaf: pair.mesh.own_leaf(WEB, &key, |_| {}), prover: None };
    let (connected, accepted) = handshake((&thief, &towards_api), (&pair.api, &towards_web)).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    let known = known(&towards_web, accepted.get_ref().1.peer_certificates());
    let side = Side { door: &towards_web, prover: pair.api.prover.as_deref(), known };
    let hello = Hello { nonce: [7; LENGTH], demands: true, prove_first: false, report: false };
    let asking = async {
        write(&mut connected, Kind::Hello, &hello.payload()).await.unwrap();
        write(&mut connected, Kind::Decline, &[]).await.unwrap();
        connected.shutdown().await.unwrap();
        let mut got = Vec::new();
        let _ = connected.read_to_end(&mut got).await;
        got
    };
    let serving = async {
        let result = accept(&mut accepted, side).await;
        drop(accepted);
        result
    };
    let (refused, got) = tokio::join!(serving, asking);
    assert_eq!(reason(refused), Reason::NoEvidence);
    assert_eq!(got.len(), HEAD + 1 + LENGTH, "a hello, and nothing else");
}

#[tokio::test]
async fn without_roots_a_certificate_must_still_be_valid_and_for_its_purpose_and_of_one_identity() {
    let mesh = Mesh::new();
    let door = mesh.door(By::Evidence, Calls::Them, WEB);
    let judge = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names.push(rcgen::SanType::URI(WEB.try_into().unwrap()));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        door.known(&[params.self_signed(&key).unwrap().der().clone()]).map(drop)
    };
    assert_eq!(judge(&|_| {}), Ok(()));
    assert_eq!(judge(&|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1)), Err(Reason::Expired));
    assert_eq!(judge(&|params| params.not_before = rcgen::date_time_ymd(2048, 1, 1)), Err(Reason::NotYetValid));
    assert_eq!(judge(&|params| params.extended_key_usages.clear()), Err(Reason::WrongPurpose));
    let servers = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(judge(&servers), Err(Reason::WrongPurpose));
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(judge(&|params| params.is_ca = authority), Err(Reason::BadCertificate));
    assert_eq!(judge(&|params| params.subject_alt_names.clear()), Err(Reason::NoIdentity));
    let second = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names.push(rcgen::SanType::URI(API.try_into().unwrap()));
    };
    assert_eq!(judge(&second), Err(Reason::SeveralIdentities));
    let other = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::URI(API.try_into().unwrap())];
    };
    assert_eq!(judge(&other), Err(Reason::NotAllowed));
    assert_eq!(door.remembers(), 0, "anybody can make certificates: none is kept");
}

#[tokio::test]
async fn pins_that_are_read_again_judge_live_peers_too() {
    let mut pair = Pair::new(By::Both);
    let (_, web) = pair.meet().await;
    let web = web.unwrap();
    assert_eq!(pair.doors().1.still(&web), Ok(()));
    pair.mesh.pins["peers"][WEB]["init_data"] = json!(["cc".repeat(48)]);
    assert_eq!(pair.doors().1.still(&web), Err(Reason::OtherInitdata));
    pair.mesh.pins["peers"].as_object_mut().unwrap().remove(WEB);
    assert_eq!(pair.doors().1.still(&web), Err(Reason::NotPinned));
    // Evidence that is demanded from now on, of a peer that gave none.
    let (_, web) = Pair::new(By::Roots).meet().await;
    let before = web.unwrap();
    let door = Pair::new(By::Both).doors().1;
    assert!(door.still(&before).is_err());
}

#[tokio::test]
async fn a_verdict_is_remembered_for_this_very_token_and_until_pins_are_read_again() {
    let mut pair = Pair::new(By::Both);
    let (_, towards_web) = pair.doors();
    let known = towards_web.known(&pair.web.leaf.certified().cert).unwrap();
    let judge = |door: &Door, ear: &str, prover: &Prover| {
        let (nonce, exporter) = ([1; LENGTH], [2; LENGTH]);
        let word = word(prover, Purpose::ChannelClient, (nonce, exporter));
        let expected = Statement { purpose: Purpose::ChannelClient, leaf: known.leaf().unwrap(), nonce, exporter };
        let shown = Shown { ear, statement: &word.statement, signature: &word.signature, report: None };
        door.demand().unwrap().judge(&known, &shown, &expected).map(|proven| Arc::clone(proven.appraised()))
    };
    let prover = pair.web.prover.clone().unwrap();
    let first = judge(&towards_web, prover.ear(), &prover).unwrap();
    assert!(Arc::ptr_eq(&first, &judge(&towards_web, prover.ear(), &prover).unwrap()), "remembered");
    // The same certificate with another token is another matter.
    let thief = KeyPair::generate().unwrap();
    let forged = pair.mesh.token(WEB, &thief, |claims| claims["submods"]["cpu0"]["ear.status"] = json!("warning"));
    assert_eq!(judge(&towards_web, &forged, &prover).unwrap_err(), Unproven::Verdict("warning"));
    // And so is another key under the token that is remembered.
    let other = shows(pair.web.leaf.clone(), &thief, &forged).prover.unwrap();
    assert_eq!(judge(&towards_web, prover.ear(), &other).unwrap_err(), Unproven::Signature);
    pair.mesh.pins["serial"] = json!(2);
    let again = judge(&pair.doors().1, prover.ear(), &prover).unwrap();
    assert!(!Arc::ptr_eq(&first, &again), "judged anew");
}

#[tokio::test]
async fn a_proof_for_one_certificate_admits_no_other() {
    let pair = Pair::new(By::Both);
    let (_, door) = pair.doors();
    let (_, web) = pair.meet().await;
    let proven = web.unwrap().proven().cloned();
    let other = pair.mesh.leaf(WEB, &KeyPair::generate().unwrap());
    let known = door.known(&other.certified().cert).unwrap();
    assert_eq!(door.admit(known, proven).unwrap_err(), Reason::OtherSession);
}

#[test]
fn only_our_protocols_begin_with_the_exchange() {
    assert!([OURS_H2, OURS_HTTP1, OURS_TCP].into_iter().all(|name| is_ours(Some(name))));
    for name in [&b"h2"[..], b"http/1.1", b"countersign/1", b"countersign/2+h2", b""] {
        assert!(!is_ours(Some(name)));
    }
    assert!(!is_ours(None));
}

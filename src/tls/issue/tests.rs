//! A requester, an issuer, and each way in which the first can lie.

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::ServerName;
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

use super::*;
use crate::appraise::peer::{Error as Unproven, Proven};
use crate::formats::statement;
use crate::secret::Secret;
use crate::tls::client::Exit;
use crate::tls::exchange::testing::{API, Accepted, By, Connected, Member, Mesh, WEB, known, shows};
use crate::tls::server::for_requests;
use crate::tls::trust::{Calls, Door};

/// `API` is the issuer, `WEB` wants a certificate.
struct Scene {
    mesh: Mesh,
    issuer: Member,
    key: KeyPair,
    ear: String,
}

impl Scene {
    fn new() -> Self {
        let mesh = Mesh::new();
        let key = KeyPair::generate().unwrap();
        Self { issuer: mesh.member(API), ear: mesh.token(WEB, &key, |_| {}), key, mesh }
    }

    fn attested(&self, by: &KeyPair) -> Attested {
        Attested::new(Zeroizing::new(self.mesh.token(WEB, by, |_| {})), &Secret::new(by.serialize_der()), None).unwrap()
    }

    async fn session(&self, by: By) -> (Connected, Accepted, Arc<Door>) {
        let door = self.mesh.door(by, Calls::Us, API);
        let exit = Exit::to_issuer(Arc::clone(&door)).unwrap();
        let config = for_requests(&self.issuer.leaf).unwrap();
        let (a, b) = duplex(16 * 1024);
        let name = ServerName::try_from("issuer.example").unwrap();
        let connecting = TlsConnector::from(Arc::clone(&exit.config)).connect(name, a);
        let (connected, accepted) = tokio::join!(connecting, TlsAcceptor::from(config).accept(b));
        (connected.unwrap(), accepted.unwrap(), door)
    }

    /// What the issuer makes of a request.
    fn judge(&self, heard: &Heard) -> Result<Proven, Unproven> {
        self.mesh.demand().judge_wanted(heard.wanted.names(), &heard.proof.shown(), &heard.expected)
    }

    /// Whom the issuer hears when the requester says what `say` does after both hellos.
    async fn heard(&self, say: impl AsyncFnOnce(&mut Connected, [u8; 32])) -> Result<Heard, NotHeard> {
        let (mut connected, mut accepted, _) = self.session(By::Roots).await;
        let talking = async {
            let ours = Hello { nonce: [7; 32], demands: false, prove_first: false, report: false };
            write(&mut connected, Kind::Hello, &ours.payload()).await.unwrap();
            connected.flush().await.unwrap();
            let theirs = read_hello(&mut connected, &ours).await.unwrap();
            assert!(theirs.demands && theirs.prove_first, "an issuer always demands, and first");
            say(&mut connected, theirs.nonce).await;
            let _ = connected.shutdown().await;
            let _ = tokio::io::copy(&mut connected, &mut tokio::io::sink()).await;
        };
        let hearing = async {
            let heard = hear(&mut accepted, false).await;
            drop(accepted);
            heard
        };
        tokio::join!(hearing, talking).0
    }

    /// What the issuer makes of a request that is right but for what `change` does to it.
    async fn lies(&self, change: impl FnOnce(&mut Parts)) -> Result<Proven, Unproven> {
        self.judge(&self.said(change).await.ok().unwrap())
    }

    async fn said(&self, change: impl FnOnce(&mut Parts)) -> Result<Heard, NotHeard> {
        self.heard(async |session, nonce| {
            let request = request(&self.key);
            let mut parts = Parts {
                names: WEB.to_owned(),
                stated_names: WEB.to_owned(),
                spki: RequestedKey::of(&request).ok().unwrap().spki().to_vec(),
                request,
                purpose: Purpose::Issue,
                nonce,
                exporter: session.exporter(&nonce).unwrap(),
                signer: KeyPair::from_pkcs8_der_and_sign_algo(
                    &rustls::pki_types::PrivatePkcs8KeyDer::from(self.key.serialize_der()),
                    &rcgen::PKCS_ECDSA_P256_SHA256,
                )
                .unwrap(),
            };
            change(&mut parts);
            parts.send(session, self).await;
        })
        .await
    }
}

struct Parts {
    names: String,
    stated_names: String,
    request: Vec<u8>,
    spki: Vec<u8>,
    purpose: Purpose,
    nonce: [u8; 32],
    exporter: [u8; 32],
    signer: KeyPair,
}

impl Parts {
    async fn send(&self, session: &mut Connected, scene: &Scene) {
        let leaf = LeafBinding::of_wanted(&self.spki, self.stated_names.as_bytes());
        let Self { purpose, nonce, exporter, .. } = *self;
        let stated = Statement { purpose, leaf, nonce, exporter };
        let proof = scene.attested(&self.signer).state(&stated, false).await.unwrap();
        write(session, Kind::Names, self.names.as_bytes()).await.unwrap();
        write(session, Kind::Request, &self.request).await.unwrap();
        // Always the token of the right key, whoever signs.
        exchange::write_proof(session, &scene.ear, &proof).await.unwrap();
    }
}

fn request(key: &KeyPair) -> Vec<u8> {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn stated(member: &'static str) -> Unproven {
    Unproven::Statement(statement::Error::Other(member))
}

#[tokio::test]
async fn a_workload_is_heard_and_answered() {
    for by in [By::Roots, By::Both] {
        let scene = Scene::new();
        let (mut connected, mut accepted, door) = scene.session(by).await;
        assert_eq!(connected.get_ref().1.alpn_protocol(), Some(&b"countersign/1+issue"[..]));
        let side = Side { door: &door, prover: None, known: known(&door, connected.get_ref().1.peer_certificates()) };
        let wanted = Wanted::parse(WEB.as_bytes()).unwrap();
        let request = request(&scene.key);
        let spki = RequestedKey::of(&request).ok().unwrap().spki().to_vec();
        let attested = scene.attested(&scene.key);
        let asking = ask(&mut connected, side, &attested, &wanted, (&request, &spki));
        let serving = async {
            let heard = hear(&mut accepted, false).await.ok().unwrap();
            assert_eq!(scene.judge(&heard).unwrap().appraised().init_data(), [0xbb; 32]);
            let chain = [CertificateDer::from(scene.mesh.member(WEB).leaf.der())];
            give(&mut accepted, scene.issuer.prover.as_deref(), &heard, &chain).await.unwrap();
            chain
        };
        let (asked, chain) = tokio::join!(asking, serving);
        assert_eq!(asked.unwrap(), chain, "{by:?}");
    }
}

#[tokio::test]
async fn a_refusal_tells_its_class_alone() {
    let scene = Scene::new();
    // Who demands the issuer's proof is refused in its place.
    for (refused, by) in Refused::ALL.into_iter().flat_map(|each| [(each, By::Roots), (each, By::Both)]) {
        let (mut connected, mut accepted, door) = scene.session(by).await;
        let side = Side { door: &door, prover: None, known: known(&door, connected.get_ref().1.peer_certificates()) };
        let wanted = Wanted::parse(WEB.as_bytes()).unwrap();
        let request = request(&scene.key);
        let attested = scene.attested(&scene.key);
        let asking = ask(&mut connected, side, &attested, &wanted, (&request, b"key"));
        let serving = async {
            hear(&mut accepted, false).await.ok().unwrap();
            refuse(&mut accepted, refused).await.unwrap();
        };
        let (asked, ()) = tokio::join!(asking, serving);
        assert!(matches!(asked, Err(NotGiven::Refused(told)) if told == refused));
    }
}

#[tokio::test]
async fn a_chain_of_an_issuer_that_has_not_proven_itself_is_not_taken() {
    let mut scene = Scene::new();
    let lying = KeyPair::generate().unwrap();
    let other = scene.mesh.token(API, &lying, |claims| {
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = serde_json::json!("dd".repeat(32));
    });
    let other = shows(scene.issuer.leaf.clone(), &lying, &other).prover;
    for (prover, why) in [(None, "has no evidence to give"), (other, "is not pinned for this identity")] {
        scene.issuer.prover = prover;
        let (mut connected, mut accepted, door) = scene.session(By::Both).await;
        let side = Side { door: &door, prover: None, known: known(&door, connected.get_ref().1.peer_certificates()) };
        let wanted = Wanted::parse(WEB.as_bytes()).unwrap();
        let (attested, request) = (scene.attested(&scene.key), request(&scene.key));
        let asking = ask(&mut connected, side, &attested, &wanted, (&request, b"key"));
        let serving = async {
            let heard = hear(&mut accepted, false).await.ok().unwrap();
            let chain = [CertificateDer::from(scene.mesh.member(WEB).leaf.der())];
            give(&mut accepted, scene.issuer.prover.as_deref(), &heard, &chain).await
        };
        let (asked, given) = tokio::join!(asking, serving);
        let said = asked.unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
        let kept = matches!(given, Err(Failure::Demanded(None)));
        assert_eq!(kept, scene.issuer.prover.is_none(), "who has nothing to show sends no chain");
    }
}

#[tokio::test]
async fn an_issuer_that_would_show_itself_first_is_not_asked() {
    let scene = Scene::new();
    for prove_first in [false, true] {
        let (mut connected, mut accepted, door) = scene.session(By::Roots).await;
        let side = Side { door: &door, prover: None, known: known(&door, connected.get_ref().1.peer_certificates()) };
        let wanted = Wanted::parse(WEB.as_bytes()).unwrap();
        let attested = scene.attested(&scene.key);
        let asking = async {
            let asked = ask(&mut connected, side, &attested, &wanted, (b"request", b"key")).await;
            drop(connected);
            asked
        };
        let serving = async {
            read(&mut accepted, &[Kind::Hello]).await.unwrap();
            let hello = Hello { nonce: [7; 32], demands: prove_first, prove_first, report: false };
            write(&mut accepted, Kind::Hello, &hello.payload()).await.unwrap();
            accepted.flush().await.unwrap();
            let first = read(&mut accepted, &[Kind::Names]).await;
            drop(accepted);
            first
        };
        let (asked, first) = tokio::join!(asking, serving);
        let refused = matches!(asked, Err(NotGiven::Exchange(Failure::Frame(frames::Error::Flags))));
        assert_eq!((refused, first.is_ok()), (!prove_first, prove_first), "it is sent nothing, or its names");
    }
}

#[tokio::test]
async fn an_attestation_result_that_was_stolen_is_refused() {
    let scene = Scene::new();
    assert!(scene.lies(|_| {}).await.is_ok());
    let stolen = scene.lies(|parts| parts.signer = KeyPair::generate().unwrap()).await;
    assert_eq!(stolen.err(), Some(Unproven::Signature));
}

#[tokio::test]
async fn a_statement_of_another_moment_or_session_is_refused() {
    let scene = Scene::new();
    assert_eq!(scene.lies(|parts| parts.nonce = [9; 32]).await.err(), Some(stated("nonce")), "a replay");
    assert_eq!(scene.lies(|parts| parts.exporter = [9; 32]).await.err(), Some(stated("exporter")), "a relay");
    let channel = scene.lies(|parts| parts.purpose = Purpose::ChannelClient).await;
    assert_eq!(channel.err(), Some(stated("purpose")), "what was said to a peer");
}

#[tokio::test]
async fn a_key_or_a_name_that_the_statement_is_not_about_is_refused() {
    let scene = Scene::new();
    let other = scene.lies(|parts| parts.request = request(&KeyPair::generate().unwrap())).await;
    assert_eq!(other.err(), Some(stated("spki")));
    assert_eq!(scene.lies(|parts| parts.stated_names = API.to_owned()).await.err(), Some(stated("names")));
}

#[tokio::test]
async fn a_name_that_the_evidence_is_not_pinned_for_is_refused() {
    let scene = Scene::new();
    let claim = async |names: &str| {
        let claimed = scene.lies(|parts| {
            parts.names = names.to_owned();
            parts.stated_names = names.to_owned();
        });
        claimed.await.err()
    };
    assert_eq!(claim(API).await, Some(Unproven::InitData), "another's, with another digest");
    assert_eq!(claim("spiffe://example.org/ns/payments/sa/nobody").await, Some(Unproven::NoPin));
    assert_eq!(claim(&format!("{WEB}\ndns:kbs.example")).await, Some(Unproven::NoPin), "a second name, pinned nowhere");
}

#[tokio::test]
async fn a_second_name_is_granted_where_it_is_pinned_too() {
    let mut scene = Scene::new();
    scene.mesh.pins["peers"]["dns:front.web.svc"] = scene.mesh.pins["peers"][WEB].clone();
    let names = format!("{WEB}\ndns:front.web.svc");
    let proven = scene.lies(|parts| {
        parts.names.clone_from(&names);
        parts.stated_names = names;
    });
    assert_eq!(proven.await.unwrap().appraised().peer().to_string(), WEB);
}

#[tokio::test]
async fn what_cannot_be_said_to_an_issuer_is_refused_by_its_class() {
    let scene = Scene::new();
    let told = async |kind: Kind, payload: &[u8]| {
        let heard = scene.heard(async |session, _| write(session, kind, payload).await.unwrap()).await;
        heard.err().unwrap().refused()
    };
    assert_eq!(told(Kind::Ear, b"x").await, Some(Refused::Malformed), "out of turn");
    assert_eq!(told(Kind::Names, WEB.as_bytes()).await, None, "gone");
    let names = scene.said(|parts| parts.names = "spiffe://example.org/ns/*/sa/front".to_owned());
    assert_eq!(names.await.err().unwrap().refused(), Some(Refused::Request));
    let request_of_nobody = scene.said(|parts| parts.request = b"no request".to_vec());
    assert_eq!(request_of_nobody.await.err().unwrap().refused(), Some(Refused::Request));
    let heard = scene.heard(async |session, _| {
        write(session, Kind::Names, WEB.as_bytes()).await.unwrap();
        write(session, Kind::Request, &request(&scene.key)).await.unwrap();
        write(session, Kind::Decline, &[]).await.unwrap();
    });
    assert_eq!(heard.await.err().unwrap().refused(), Some(Refused::Evidence));
}

#[test]
fn a_chain_is_split_into_its_certificates() {
    let mesh = Mesh::new();
    let (a, b) = (mesh.member(API).leaf.der(), mesh.member(WEB).leaf.der());
    let whole = [a.clone(), b.clone()].concat();
    assert_eq!(split(&whole), Some(vec![CertificateDer::from(a), CertificateDer::from(b)]));
    assert_eq!(split(&whole[..whole.len() - 1]), None);
    assert_eq!(split(b"x"), None);
}

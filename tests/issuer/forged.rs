//! Requests of somebody who is no countersign, to the issuer that is shipped: one that is right, the same said
//! again, and each lie.

use std::io::{Read as _, Write as _};

use countersign::formats::frames::{self, HEAD, Head, Hello, Kind, Refused};
use countersign::formats::statement::{EXPORTER_LABEL, LeafBinding, Purpose, Statement};
use countersign::issuance::request;
use countersign::kbs::TeeKey;
use countersign::secret::Secret;
use countersign::tls::prover::Attested;
use countersign_testbed::eventually;
use countersign_testbed::mesh::Peer;
use countersign_testbed::tee::{Guest, SnpGuest};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::{API, DESK, Scene, WEB};

/// A guest that has attested, as `web` is pinned.
struct Requester {
    ear: String,
    attested: Attested,
    key: Secret,
}

impl Requester {
    fn of(scene: &Scene) -> Self {
        let document = scene.web_document(DESK);
        let guest = Guest::Snp(SnpGuest::genoa().initdata(&document.digest()));
        let shown = scene.kbs.handshake(&guest, Some(&document.text())).expect("the KBS believes this guest");
        let ear = shown["token"].as_str().unwrap().to_owned();
        let key = PrivatePkcs8KeyDer::from_pem_slice(shown["tee_keypair"].as_str().unwrap().as_bytes()).unwrap();
        let key = Secret::new(key.secret_pkcs8_der().to_vec());
        Self { attested: Attested::new(Zeroizing::new(ear.clone()), &key, None).unwrap(), ear, key }
    }

    /// What is right in this session.
    fn parts(&self, session: &Session) -> Parts {
        let request = request::make(&self.key).unwrap();
        Parts {
            names: WEB.to_owned(),
            stated_names: WEB.to_owned(),
            request: request.der,
            spki: request.spki,
            ear: self.ear.clone(),
            purpose: Purpose::Issue,
            nonce: session.nonce,
            exporter: session.exporter,
        }
    }
}

/// What a request says, each of it by itself.
struct Parts {
    names: String,
    stated_names: String,
    request: Vec<u8>,
    spki: Vec<u8>,
    ear: String,
    purpose: Purpose,
    nonce: [u8; 32],
    exporter: [u8; 32],
}

impl Parts {
    /// The frames, with a statement signed by `by`.
    fn said(&self, by: &Attested) -> Vec<u8> {
        let leaf = LeafBinding::of_wanted(&self.spki, self.stated_names.as_bytes());
        let Self { purpose, nonce, exporter, .. } = *self;
        let proof = by.word(&Statement { purpose, leaf, nonce, exporter }).unwrap();
        frames_of(&[
            (Kind::Names, self.names.as_bytes()),
            (Kind::Request, &self.request),
            (Kind::Ear, self.ear.as_bytes()),
            (Kind::Statement, &proof.statement),
            (Kind::Signature, &proof.signature),
        ])
    }

    /// The same of whoever has no proof to give.
    fn declined(&self) -> Vec<u8> {
        frames_of(&[(Kind::Names, self.names.as_bytes()), (Kind::Request, &self.request), (Kind::Decline, &[])])
    }
}

/// Frames, one behind the other.
fn frames_of(frames: &[(Kind, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|(kind, payload)| frames::write(*kind, payload).unwrap()).collect()
}

/// A connection to the issuer, after both hellos.
struct Session {
    peer: Peer,
    nonce: [u8; 32],
    exporter: [u8; 32],
}

impl Session {
    fn open(scene: &Scene) -> Self {
        Self::saying(scene, false, false)
    }

    /// The same, by whoever demands the issuer's evidence, and a fresh report in it.
    fn saying(scene: &Scene, demands: bool, report: bool) -> Self {
        let mut peer = Peer::connect(&scene.world, DESK, None, &["countersign/1+issue"]).unwrap();
        let hello = Hello { nonce: [7; 32], demands, prove_first: false, report };
        peer.write_all(&frames::write(Kind::Hello, &hello.payload()).unwrap()).unwrap();
        let (_, theirs) = frame(&mut peer, Kind::Hello);
        let nonce = Hello::parse(&theirs).unwrap().nonce;
        let exporter = peer.exporter(EXPORTER_LABEL, &nonce).unwrap();
        Self { peer, nonce, exporter }
    }

    /// The answer to these frames: a chain, or why not. Then the issuer says no more.
    fn answer(&mut self, said: &[u8]) -> Result<Vec<u8>, Refused> {
        self.peer.write_all(said).unwrap();
        let (kind, answer) = frame(&mut self.peer, Kind::Chain);
        let mut rest = Vec::new();
        let _ = self.peer.read_to_end(&mut rest);
        assert!(rest.is_empty(), "one request, one answer");
        if kind == Kind::Chain { Ok(answer) } else { Err(Refused::of(answer[0]).unwrap()) }
    }
}

/// One frame of this kind, or a refusal.
fn frame(peer: &mut Peer, kind: Kind) -> (Kind, Vec<u8>) {
    let mut head = [0; HEAD];
    peer.read_exact(&mut head).unwrap();
    let head = Head::parse(head, &[kind, Kind::Refusal]).unwrap();
    let mut payload = vec![0; head.length];
    peer.read_exact(&mut payload).unwrap();
    (head.kind, payload)
}

/// What makes a request that is right one that is not.
type Lie<'l> = Box<dyn Fn(&mut Parts) + 'l>;

pub(crate) fn a_request_that_is_said_again_is_given_nothing() {
    let scene = Scene::new("roots", "");
    let issuer = scene.issuer();
    let issuer = scene.start(&issuer);
    let requester = Requester::of(&scene);
    let mut first = Session::open(&scene);
    let said = requester.parts(&first).said(&requester.attested);
    assert!(!first.answer(&said).unwrap().is_empty());
    assert_eq!(scene.issued(), 1);
    // Word for word, on a connection of one's own.
    assert_eq!(Session::open(&scene).answer(&said), Err(Refused::Evidence));
    eventually("it is said why", || {
        issuer.said().contains("is not for this connection: the statement is for another `nonce`")
    });
    assert_eq!((scene.issued(), scene.denied("bad-evidence")), (1, 1));
}

pub(crate) fn a_stranger_is_shown_neither_attestation_result_nor_report() {
    let scene = Scene::new("roots", "");
    let issuer = scene.issuer();
    let _issuer = scene.start(&issuer);
    let (requester, other) = (Requester::of(&scene), Requester::of(&scene));
    for (demands, report) in [(true, false), (true, true)] {
        // Everything that he can say: a proof that is another's, and none.
        for declines in [false, true] {
            let mut session = Session::saying(&scene, demands, report);
            let parts = requester.parts(&session);
            let said = if declines { parts.declined() } else { parts.said(&other.attested) };
            assert_eq!(session.answer(&said), Err(Refused::Evidence), "a hello and this, and nothing else");
        }
        // Whoever proves himself is shown all of it, and the certificate behind it.
        let mut session = Session::saying(&scene, demands, report);
        let said = requester.parts(&session).said(&requester.attested);
        session.peer.write_all(&said).unwrap();
        for kind in [Kind::Ear, Kind::Statement, Kind::Signature] {
            assert_eq!(frame(&mut session.peer, kind).0, kind);
        }
        if report {
            assert_eq!(frame(&mut session.peer, Kind::Report).0, Kind::Report);
        }
        assert_eq!(frame(&mut session.peer, Kind::Chain).0, Kind::Chain);
    }
    assert_eq!(scene.issued(), 2);
}

pub(crate) fn a_request_that_is_forged_is_given_nothing() {
    let scene = Scene::new("roots", "");
    let issuer = scene.issuer();
    let issuer = scene.start(&issuer);
    let (requester, other) = (Requester::of(&scene), Requester::of(&scene));
    let strange = TeeKey::generate().unwrap().to_pkcs8().unwrap();
    let strange = request::make(&strange).unwrap();
    let mut unsigned = requester.ear.clone();
    let at = unsigned.len() - 8;
    let changed = if unsigned.as_bytes()[at] == b'A' { "B" } else { "A" };
    unsigned.replace_range(at..=at, changed);
    let lies: [(&str, Refused, Lie<'_>); 8] = [
        (
            "the statement is not signed by the attested key",
            Refused::Evidence,
            Box::new(|it| it.ear.clone_from(&other.ear)),
        ),
        ("the attestation token", Refused::Evidence, Box::new(|it| it.ear.clone_from(&unsigned))),
        ("the statement is for another `spki`", Refused::Evidence, Box::new(|it| it.request.clone_from(&strange.der))),
        (
            "the statement is for another `names`",
            Refused::Evidence,
            Box::new(|it| API.clone_into(&mut it.stated_names)),
        ),
        ("the statement is for another `exporter`", Refused::Evidence, Box::new(|it| it.exporter = [9; 32])),
        (
            "the statement is for another `purpose`",
            Refused::Evidence,
            Box::new(|it| it.purpose = Purpose::ChannelClient),
        ),
        (
            "is of an initdata that is not pinned for this identity",
            Refused::Identity,
            Box::new(|it| {
                API.clone_into(&mut it.names);
                API.clone_into(&mut it.stated_names);
            }),
        ),
        (
            "wants what nobody gives: the request",
            Refused::Request,
            Box::new(|it| {
                let last = it.request.len() - 1;
                it.request[last] ^= 1;
            }),
        ),
    ];
    for (number, (why, refused, lie)) in lies.iter().enumerate() {
        let mut session = Session::open(&scene);
        let mut parts = requester.parts(&session);
        lie(&mut parts);
        assert_eq!(session.answer(&parts.said(&requester.attested)), Err(*refused), "{why}");
        let told = || {
            issuer
                .said()
                .lines()
                .filter(|line| line.contains("certificate refused"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        eventually(why, || told().len() == number + 1);
        assert!(told()[number].contains(why), "{why}: {}", told()[number]);
    }
    assert_eq!(scene.issued(), 0);
    // And the same without a lie.
    let mut session = Session::open(&scene);
    let said = requester.parts(&session).said(&requester.attested);
    assert!(session.answer(&said).is_ok(), "{}", issuer.said());
    assert_eq!(scene.issued(), 1);
}

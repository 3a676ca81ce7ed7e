//! A mesh of members for tests of this crate: a CA, a verifier's signer, guests with keys that were
//! attested, and TLS between two of them in memory. Not compiled into anything else.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};
use zeroize::Zeroizing;

use super::*;
use crate::clock::Clock;
use crate::config::spiffe::{PeerPattern, SpiffeId};
use crate::formats::ear::TrustAnchors;
use crate::formats::ear::testing::{Party, anchors, authority, claims, params};
use crate::formats::jwk::EcPublicJwk;
use crate::formats::pins::Pins;
use crate::secret::Secret;
use crate::tls::client::Exit;
use crate::tls::demand::{Demand, Level};
use crate::tls::leaf::{Expected, Issued, Leaf};
use crate::tls::reports::{Ask, Reports};
use crate::tls::server::Entrance;
use crate::tls::trust::{Calls, Trust};

pub(crate) const API: &str = "spiffe://example.org/ns/payments/sa/api";
pub(crate) const WEB: &str = "spiffe://example.org/ns/web/sa/front";

pub(crate) type Accepted = server::TlsStream<DuplexStream>;
pub(crate) type Connected = client::TlsStream<DuplexStream>;

/// How members judge each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Roots,
    Evidence,
    Both,
}

pub(crate) struct Mesh {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    root: Party,
    signer: Party,
    pub(crate) clock: Clock,
    pub(crate) pins: Value,
    pub(crate) level: Level,
}

/// A workload: its certificate with the key of that, and its attestation result with the key of that.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) leaf: Arc<Leaf>,
    pub(crate) prover: Option<Arc<Prover>>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name, authority());
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params
}

/// What a member's certificate says.
fn profile(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let (root_params, key) = (ca_params("token root"), KeyPair::generate().unwrap());
        let der = root_params.self_signed(&key).unwrap().der().to_vec();
        let root = Party { params: root_params, key, der };
        let mut signer = params("signer", IsCa::NoCa);
        signer.not_after = rcgen::date_time_ymd(2049, 1, 1);
        let signer = root.issue(signer);
        let (mut ca, key) = (ca_params("mesh"), KeyPair::generate().unwrap());
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&key).unwrap().pem();
        // At the floor of this build, and standing still.
        let clock = Clock::new(Arc::new(|| std::time::SystemTime::UNIX_EPOCH), Arc::new(|| Duration::ZERO));
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {
            API: {"init_data": ["aa".repeat(48)], "hardware_ids": ["c1".repeat(64)]},
            WEB: {"init_data": ["bb".repeat(48)], "hardware": "any"},
        }});
        Self { ca: Issuer::new(ca, key), ca_pem, root, signer, clock, pins, level: Level::Key }
    }

    fn anchors(&self) -> TrustAnchors {
        anchors(&[&self.root])
    }

    /// A token of the mesh's verifier for `key`: of a guest of `id`, its claims changed before signing.
    pub(crate) fn token(&self, id: &str, key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims(&EcPublicJwk::from_point(key.public_key_raw()).unwrap());
        claims["iat"] = json!(self.clock.now());
        claims["exp"] = json!(self.clock.now() + 300);
        let evidence = &mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        evidence["init_data"] = json!(if id == API { "aa" } else { "bb" }.repeat(32));
        evidence["snp"]["chip_id"] = json!("c1".repeat(64));
        change(&mut claims);
        self.signer.token(&[&self.signer, &self.root], &claims)
    }

    /// A certificate by the mesh's CA.
    pub(crate) fn leaf(&self, id: &str, key: &KeyPair) -> Arc<Leaf> {
        let certificate = profile(id).signed_by(key, &self.ca).unwrap();
        self.check(id, Issued { chain: vec![certificate.der().clone()], key: Secret::new(key.serialize_der()) })
    }

    /// A certificate that its own key signed, `change`d before.
    pub(crate) fn own_leaf(&self, id: &str, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Arc<Leaf> {
        let mut params = profile(id);
        change(&mut params);
        let certificate = params.self_signed(key).unwrap();
        self.check(id, Issued { chain: vec![certificate.der().clone()], key: Secret::new(key.serialize_der()) })
    }

    fn check(&self, id: &str, issued: Issued) -> Arc<Leaf> {
        let id = SpiffeId::parse(id).unwrap();
        let expected = Expected { spiffe: Some(&id), dns: &[], roots: None, rsa: false, now: self.clock.now() };
        Arc::new(Leaf::check(issued, &expected).unwrap())
    }

    /// A guest of `id` whose certificate is by the CA, for another key than the attested one.
    pub(crate) fn member(&self, id: &str) -> Member {
        let (attested, tls) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        shows(self.leaf(id, &tls), &attested, &self.token(id, &attested, |_| {}))
    }

    /// A guest of `id` that signed its own certificate with the attested key.
    pub(crate) fn own_member(&self, id: &str) -> Member {
        let key = KeyPair::generate().unwrap();
        shows(self.own_leaf(id, &key, |_| {}), &key, &self.token(id, &key, |_| {}))
    }

    pub(crate) fn demand(&self) -> Arc<Demand> {
        let pins = Pins::parse(self.pins.to_string().as_bytes()).unwrap();
        Arc::new(Demand::new(self.anchors(), pins, Duration::from_secs(3600), self.level.clone(), &self.clock))
    }

    /// A door for `allowed`.
    pub(crate) fn door(&self, by: By, calls: Calls, allowed: &str) -> Arc<Door> {
        let trust = match by {
            By::Roots => Trust::by_roots(&self.ca_pem, calls, None, &self.clock).unwrap(),
            By::Evidence => Trust::by_evidence(self.demand(), calls, &self.clock),
            By::Both => Trust::by_roots(&self.ca_pem, calls, Some(self.demand()), &self.clock).unwrap(),
        };
        Arc::new(Door::new(Arc::new(trust), vec![PeerPattern::parse(allowed).unwrap()]).unwrap())
    }
}

/// A member with this certificate and this attestation result, which names `attested`.
pub(crate) fn shows(leaf: Arc<Leaf>, attested: &KeyPair, token: &str) -> Member {
    shows_reports(leaf, attested, token, None)
}

/// The same, with what gives it reports of its hardware.
pub(crate) fn shows_reports(leaf: Arc<Leaf>, attested: &KeyPair, token: &str, ask: Option<Ask>) -> Member {
    let key = Secret::new(attested.serialize_der());
    let reports = ask.map(|ask| Arc::new(Reports::new(ask)));
    let prover = Prover::new(Zeroizing::new(token.to_owned()), &key, &leaf, reports).unwrap();
    Member { leaf, prover: Some(Arc::new(prover)) }
}

/// A guest's word, without a report: nothing has to be waited for.
pub(crate) fn word(prover: &Prover, purpose: Purpose, session: ([u8; LENGTH], [u8; LENGTH])) -> Proof {
    let mut proving = std::pin::pin!(prover.prove(purpose, session, false));
    match proving.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(proof) => proof.unwrap(),
        std::task::Poll::Pending => panic!("it waits"),
    }
}

/// TLS between two in memory: `client` behind `their` door, `server` behind `our`s.
pub(crate) async fn handshake(
    client: (&Member, &Arc<Door>),
    server: (&Member, &Arc<Door>),
) -> (io::Result<Connected>, io::Result<Accepted>) {
    let (a, b) = duplex(16 * 1024);
    let exit = Exit::new(&client.0.leaf, Arc::clone(client.1), &[OURS_TCP]).unwrap();
    let entrance = Entrance::new(Arc::clone(&server.0.leaf), Arc::clone(server.1), &[OURS_TCP], &[]).unwrap();
    let accepting = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), b).await?;
        let config = entrance.config(&start.client_hello());
        start.into_stream(config).await
    };
    let name = ServerName::try_from("peer.example").unwrap();
    tokio::join!(TlsConnector::from(Arc::clone(&exit.config)).connect(name, a), accepting)
}

pub(crate) fn known(door: &Door, chain: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Known {
    door.known(chain.unwrap_or_default()).unwrap()
}

/// The exchange on both sides of a session, as the product runs it. `wrap` makes the test's variation.
pub(crate) async fn exchange<C: Session, S: Session>(
    client: (&Member, &Arc<Door>),
    server: (&Member, &Arc<Door>),
    wrap: (impl FnOnce(Connected) -> C, impl FnOnce(Accepted) -> S),
) -> (Result<VerifiedPeer, Failure>, Result<VerifiedPeer, Failure>) {
    let (connected, accepted) = handshake(client, server).await;
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap());
    let theirs = known(client.1, connected.get_ref().1.peer_certificates());
    let ours = known(server.1, accepted.get_ref().1.peer_certificates());
    let (mut connected, mut accepted) = (wrap.0(connected), wrap.1(accepted));
    let calling = async {
        let side = Side { door: client.1, prover: client.0.prover.as_deref(), known: theirs };
        let result = connect(&mut connected, side).await;
        // Whoever gives up closes: the other side must not wait for it.
        drop(connected);
        result
    };
    let serving = async {
        let side = Side { door: server.1, prover: server.0.prover.as_deref(), known: ours };
        let result = accept(&mut accepted, side).await;
        drop(accepted);
        result
    };
    tokio::join!(calling, serving)
}

/// What the server's side makes of a client that is told what to send after its handshake.
pub(crate) async fn answered(
    client: (&Member, &Arc<Door>),
    server: (&Member, &Arc<Door>),
    say: impl AsyncFnOnce(&mut Connected),
) -> Result<VerifiedPeer, Failure> {
    let (connected, accepted) = handshake(client, server).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
    let known = known(server.1, accepted.get_ref().1.peer_certificates());
    let side = Side { door: server.1, prover: server.0.prover.as_deref(), known };
    let talking = async {
        say(&mut connected).await;
        let _ = connected.flush().await;
        let _ = connected.shutdown().await;
        // What is left is taken, so that nobody waits for room.
        let _ = tokio::io::copy(&mut connected, &mut tokio::io::sink()).await;
    };
    let accepting = async {
        let result = accept(&mut accepted, side).await;
        drop(accepted);
        result
    };
    tokio::join!(accepting, talking).0
}

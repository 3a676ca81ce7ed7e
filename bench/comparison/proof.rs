//! What a caller demands and shows after the handshake: the product's own half of the exchange.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use countersign::clock::Clock;
use countersign::config::spiffe::{PeerPattern, SpiffeId};
use countersign::formats::ear::TrustAnchors;
use countersign::formats::pins::Pins;
use countersign::formats::wanted::Wanted;
use countersign::issuance::request::{self, Request};
use countersign::secret::Secret;
use countersign::tls::client::Exit;
use countersign::tls::demand::{Demand, Level};
use countersign::tls::exchange::{self, OURS_HTTP1, Side};
use countersign::tls::issue;
use countersign::tls::leaf::{Expected, Issued, Leaf};
use countersign::tls::prover::{Attested, Prover};
use countersign::tls::trust::{Calls, Door, Trust};
use countersign_testbed::pki::Identity;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::load::{Caller, Wire};
use crate::proxies::{API, FRIEND, ISSUER};

/// Oldest evidence that counts: as of those who are called.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// What a caller demands, and shows.
pub struct Proof {
    door: Arc<Door>,
    shows: Shows,
}

enum Shows {
    /// That its certificate is its own.
    Leaf(Prover),
    /// That it may have one, for a key of its own.
    Names { attested: Attested, wanted: Wanted, key: Secret },
}

impl Proof {
    /// Errors if the other side does not prove itself, or does not take what is shown.
    pub async fn exchange(&self, tls: &mut TlsStream<Wire>) -> io::Result<()> {
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let known = self.door.known(chain).map_err(|reason| io::Error::other(reason.label()))?;
        let side = |prover| Side { door: &self.door, prover, known };
        match &self.shows {
            Shows::Leaf(prover) => {
                let peer = exchange::connect(tls, side(Some(prover))).await.map_err(io::Error::other)?;
                // Else certificates alone would have done.
                peer.until().map(drop).ok_or_else(|| io::Error::other("nothing was proven"))
            }
            Shows::Names { attested, wanted, key } => {
                let Request { der, spki } = request::make(key).map_err(io::Error::other)?;
                let chain = issue::ask(tls, side(None), attested, wanted, (&der, &spki)).await;
                chain.map(drop).map_err(io::Error::other)
            }
        }
    }
}

/// What callers of one workload have in common.
pub struct Workload {
    leaf: Leaf,
    to_api: Arc<Door>,
    to_issuer: Arc<Door>,
}

impl Workload {
    /// Of the friend's certificate, the mesh's roots and what evidence is demanded by.
    pub fn new(friend: &Identity, roots: &str, token_roots: &str, pins: &str) -> Self {
        let clock = Clock::system();
        let door = |id| {
            let anchors = TrustAnchors::from_pem(token_roots.as_bytes()).expect("a root");
            let demand = Demand::new(anchors, Pins::parse(pins.as_bytes()).expect("pins"), MAX_AGE, Level::Key, &clock);
            let trust = Trust::by_roots(roots, Calls::Us, Some(Arc::new(demand)), &clock).expect("roots");
            let pattern = PeerPattern::parse(id).expect("an identity");
            Arc::new(Door::new(Arc::new(trust), vec![pattern]).expect("a list"))
        };
        Self { leaf: leaf(friend, &clock), to_api: door(API), to_issuer: door(ISSUER) }
    }

    /// Calls a sidecar, and shows what a guest's agent answered.
    pub fn member(&self, answer: &Value) -> Caller {
        let (token, key) = parts(answer);
        let exit = Exit::new(&self.leaf, Arc::clone(&self.to_api), &[OURS_HTTP1]).expect("a configuration");
        let shows = Shows::Leaf(Prover::new(token, &key, &self.leaf, None).expect("the key is the token's"));
        Caller { tls: exit.config, proof: Some(Proof { door: exit.door, shows }) }
    }

    /// Asks the issuer for a certificate with it.
    pub fn requester(&self, answer: &Value) -> Caller {
        let (token, key) = parts(answer);
        let exit = Exit::to_issuer(Arc::clone(&self.to_issuer)).expect("a configuration");
        let attested = Attested::new(token, &key, None).expect("the key is the token's");
        let wanted = Wanted::parse(FRIEND.as_bytes()).expect("an identity");
        Caller {
            tls: exit.config,
            proof: Some(Proof { door: exit.door, shows: Shows::Names { attested, wanted, key } }),
        }
    }
}

fn leaf(identity: &Identity, clock: &Clock) -> Leaf {
    let spiffe = SpiffeId::parse(FRIEND).expect("an identity");
    let chain = vec![CertificateDer::from_pem_slice(identity.pem().as_bytes()).expect("PEM")];
    let issued = Issued { chain, key: key(&identity.key_pem()) };
    let expected = Expected { spiffe: Some(&spiffe), dns: &[], roots: None, rsa: false, now: clock.now() };
    Leaf::check(issued, &expected).expect("a member's certificate")
}

fn key(pem: &str) -> Secret {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    Secret::new(key.secret_pkcs8_der().to_vec())
}

/// Token and key of what a guest's agent answers.
fn parts(answer: &Value) -> (Zeroizing<String>, Secret) {
    let text = |name: &str| answer[name].as_str().expect("a text").to_owned();
    (Zeroizing::new(text("token")), key(&text("tee_keypair")))
}

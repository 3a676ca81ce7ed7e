//! What one certificate costs an issuer: 600 workloads that renew one after the other, each with a connection of
//! its own, and the CPU time of the issuer's thread. Run by `bench/run`.
//!
//! Prints one JSON line; exit 1 if 600 need more than a minute of one core.

// A program for a terminal, not a part of the product.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::panic)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_precision_loss)] // Counts and seconds, far below 2^52.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use countersign::clock::Clock;
use countersign::config::roles;
use countersign::config::spiffe::{PeerId, PeerPattern, SpiffeId};
use countersign::formats::ear::TrustAnchors;
use countersign::formats::pins::Pins;
use countersign::formats::wanted::Wanted;
use countersign::issuance::ca::Ca;
use countersign::issuance::desk::Desk;
use countersign::issuance::quota::Quota;
use countersign::issuance::request::{self, Request};
use countersign::observe::metrics::Metrics;
use countersign::proxy::issuing::{self, Counter};
use countersign::proxy::limits::Limits;
use countersign::proxy::watch::Phase;
use countersign::secret::Secret;
use countersign::tls::client::Exit;
use countersign::tls::demand::{Demand, Level};
use countersign::tls::exchange::Side;
use countersign::tls::issue;
use countersign::tls::leaf::{Expected, Leaf};
use countersign::tls::prover::Attested;
use countersign::tls::server::for_requests;
use countersign::tls::trust::{Calls, Door, Trust};
use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::pki;
use countersign_testbed::tee::{Document, Guest, SnpGuest, hex};
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Renewals: what the issue asks of one core in a minute.
const RENEWALS: u32 = 600;

/// CPU time of the issuer for all of them, seconds.
const LIMIT_S: f64 = 60.0;

const ISSUER: &str = "spiffe://example.org/ns/mesh/sa/issuer";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--runs") {
        // `cargo bench` without our runner around it.
        eprintln!("issue: start this through bench/run");
        return ExitCode::SUCCESS;
    }
    let scene = Scene::new();
    let desk = scene.desk();
    let (ready, is_ready) = mpsc::channel();
    let (end, has_ended) = oneshot::channel::<()>();
    let issuer = thread::spawn(move || serve(desk, &ready, has_ended));
    let address = is_ready.recv().unwrap();
    let began = Instant::now();
    runtime().block_on(scene.renew(address));
    let wall = began.elapsed();
    end.send(()).unwrap();
    let cpu = issuer.join().unwrap();
    let each_ms = cpu.as_secs_f64() * 1000.0 / f64::from(RENEWALS);
    println!(
        "{}",
        json!({"case": "issue_600", "ours": each_ms, "unit": "ms CPU of the issuer for each", "wall_s": wall.as_secs_f64(),
               "in_a_minute_on_one_core": (60_000.0 / each_ms).floor()})
    );
    if cpu.as_secs_f64() < LIMIT_S { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The port of the product, in a thread that does nothing else. Returns what it cost.
fn serve(desk: Desk, ready: &mpsc::Sender<SocketAddr>, ended: oneshot::Receiver<()>) -> Duration {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        let metrics = Metrics::new(["bench".to_owned()]);
        let limits = roles::Limits { handshakes: Some(1_000_000), ..roles::Limits::default() };
        // Both ends are held: a port whose owner is gone takes nobody any more.
        let (_desks, desks) = watch::channel(Some(Arc::new(desk)));
        let (_phase, phase) = watch::channel(Phase::Serving);
        let counter = Counter {
            desks,
            phase,
            clock: Clock::system(),
            limits: Arc::new(Limits::new(limits, 10_000)),
            quota: Quota::new(u32::MAX, u32::MAX),
            audit_hardware: false,
            counts: metrics.inbound(0),
            issued: metrics.issued(),
        };
        let before = clock_gettime(ClockId::ThreadCPUTime);
        tokio::spawn(issuing::accept(Arc::new(counter), listener));
        let _ = ended.await;
        let after = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(after - before).unwrap()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A guest that has attested, and what an issuer needs to judge it.
struct Scene {
    mesh: pki::Ca,
    demand: Arc<Demand>,
    key: Secret,
    token: String,
}

impl Scene {
    fn new() -> Self {
        let document = Document::of_kbs("http://127.0.0.1:1", "");
        let guest = Guest::Snp(SnpGuest::genoa().initdata(&document.digest()));
        let kbs = Kbs::healthy().policy(Policy::Affirming).reference(&guest).on_loopback();
        let shown = kbs.handshake(&guest, Some(&document.text())).expect("the double believes its own guest");
        let text = |name: &str| shown[name].as_str().unwrap().to_owned();
        let key = PrivatePkcs8KeyDer::from_pem_slice(text("tee_keypair").as_bytes()).unwrap();
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {
            WEB: {"init_data": [hex(&document.digest())], "hardware": "any"},
        }});
        let pins = Pins::parse(pins.to_string().as_bytes()).unwrap();
        let roots = TrustAnchors::from_pem(kbs.token_root().as_bytes()).unwrap();
        let demand = Arc::new(Demand::new(roots, pins, Duration::from_secs(3600), Level::Key, &Clock::system()));
        let key = Secret::new(key.secret_pkcs8_der().to_vec());
        Self { mesh: pki::Ca::new("mesh"), demand, key, token: text("token") }
    }

    fn desk(&self) -> Desk {
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let ca = Ca::read(&secret(self.mesh.pem()), &secret(&self.mesh.key_pem())).unwrap();
        let (clock, id) = (Clock::system(), SpiffeId::parse(ISSUER).unwrap());
        let lifetime = Duration::from_secs(3600);
        let own = countersign::kbs::TeeKey::generate().unwrap().to_pkcs8().unwrap();
        let issued = ca.own(own, &[PeerId::Spiffe(id.clone())], clock.now(), lifetime).unwrap();
        let roots = Some(self.mesh.pem());
        let expected = Expected { spiffe: Some(&id), dns: &[], roots, rsa: false, now: clock.now() };
        let leaf = Leaf::check(issued, &expected).unwrap();
        let config = for_requests(&leaf).unwrap();
        let demand = Arc::clone(&self.demand);
        Desk { config, prover: None, until: leaf.until(), demand, ca, lifetime, clock }
    }

    /// One renewal after the other: each is a connection, a handshake, a request and a chain.
    async fn renew(&self, address: SocketAddr) {
        let trust = Trust::by_roots(self.mesh.pem(), Calls::Us, None, &Clock::system()).unwrap();
        let door = Arc::new(Door::new(Arc::new(trust), vec![PeerPattern::parse(ISSUER).unwrap()]).unwrap());
        let exit = Exit::to_issuer(Arc::clone(&door)).unwrap();
        let wanted = Wanted::parse(WEB.as_bytes()).unwrap();
        let attested = Attested::new(Zeroizing::new(self.token.clone()), &self.key, None).unwrap();
        for _ in 0..RENEWALS {
            let Request { der, spki } = request::make(&self.key).unwrap();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            // As the product dials.
            stream.set_nodelay(true).unwrap();
            let name = ServerName::try_from("issuer.example").unwrap();
            let mut tls = TlsConnector::from(Arc::clone(&exit.config)).connect(name, stream).await.unwrap();
            let known = door.known(tls.get_ref().1.peer_certificates().unwrap()).unwrap();
            let side = Side { door: &door, prover: None, known };
            let chain = issue::ask(&mut tls, side, &attested, &wanted, (&der, &spki)).await;
            assert_eq!(chain.unwrap_or_else(|why| panic!("the issuer {why}")).len(), 1);
        }
    }
}

//! What the exchange of evidence costs beside the handshake it follows: `cargo bench --bench exchange`.
//!
//! Two members in one process, in memory, the product's own TLS, exchange and appraisal on both sides.
//! The peer of each case is the same handshake with certificates alone. One JSON line a case.
//! `--short` takes fewer.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![allow(clippy::cast_precision_loss, clippy::as_conversions, clippy::disallowed_methods)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign::appraise::{Makers, snp, tdx};
use countersign::clock::Clock;
use countersign::config::spiffe::{PeerPattern, SpiffeId};
use countersign::formats::ear::TrustAnchors;
use countersign::formats::jwk::EcPublicJwk;
use countersign::formats::pins::Pins;
use countersign::formats::statement::{Purpose, Statement};
use countersign::secret::Secret;
use countersign::tls::client::Exit;
use countersign::tls::demand::{Demand, Level, Shown};
use countersign::tls::exchange::{OURS_TCP, Side, accept, connect};
use countersign::tls::leaf::{Expected, Issued, Leaf};
use countersign::tls::prover::Prover;
use countersign::tls::server::Entrance;
use countersign::tls::trust::{Calls, Door, Trust};
use countersign_testbed::tee::{SnpGuest, Vendor};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};
use zeroize::Zeroizing;

const API: &str = "spiffe://example.org/ns/payments/sa/api";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";

fn main() {
    let short = std::env::args().any(|word| word == "--short");
    let (rounds, each, held) = if short { (3, 50, 100) } else { (15, 400, 2000) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mesh = Mesh::new();
        let plain = mesh.pair(false);
        let proven = mesh.pair(true);
        // Waves, not times: they do not depend on the machine.
        let (without, with) = (plain.meet().await.waves(), proven.meet().await.waves());
        let added = (with - without) as f64 / 2.0;
        line("exchange_round_trips", with as f64 / 2.0, without as f64 / 2.0, "round trips, both directions proven");
        assert!(added <= 1.0, "the exchange adds {added} round trips");

        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            theirs.push(cpu(each, || plain.meet()).await);
            ours.push(cpu(each, || proven.meet()).await);
        }
        line("handshake_with_exchange_cpu", median(ours), median(theirs), "us of both sides, verdicts remembered");

        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            // A pair of its own each time: nobody remembers anything.
            let fresh: Vec<Pair> = (0..each / 10).map(|_| mesh.pair(true)).collect();
            let begin = used();
            for pair in &fresh {
                pair.meet().await;
            }
            cold.push((used() - begin) / fresh.len() as f64);
            warm.push(cpu(each / 10, || proven.meet()).await);
        }
        told("handshake_nobody_known_cpu", "verdicts remembered", median(cold), median(warm), "us of both sides");

        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (first, again) = mesh.judging(each).await;
            cold.push(first);
            warm.push(again);
        }
        told("appraisal_cpu", "a verdict that is remembered", median(cold), median(warm), "us, the statement with it");

        let (mut machine, mut key) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (with, without) = mesh.judging_report(each).await;
            machine.push(with);
            key.push(without);
        }
        told(
            "report_cpu",
            "the key's word alone",
            median(machine),
            median(key),
            "us to judge, SEV-SNP, verdict remembered",
        );

        let before = resident();
        let mut kept = Vec::new();
        for _ in 0..held {
            kept.push(plain.meet().await);
        }
        let middle = resident();
        for _ in 0..held {
            kept.push(proven.meet().await);
        }
        let (theirs, ours) = (middle.saturating_sub(before), resident().saturating_sub(middle));
        let per = |bytes: u64| bytes as f64 / f64::from(held) / 1024.0;
        line("connection_memory", per(ours), per(theirs), "KiB of both sides, idle, without buffers of the app");
    });
}

fn line(case: &str, ours: f64, theirs: f64, unit: &str) {
    told(case, "the same handshake without evidence", ours, theirs, unit);
}

fn told(case: &str, peer: &str, ours: f64, theirs: f64, unit: &str) {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    println!(
        "{}",
        json!({"case": case, "peer": peer, "ours": round(ours),
            "theirs": round(theirs), "unit": unit, "ratio": round(ours / theirs)})
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of this process, in microseconds.
fn used() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Microseconds of one, of `count`.
async fn cpu<F: Future<Output = Met>>(count: u32, mut meet: impl FnMut() -> F) -> f64 {
    let begin = used();
    for _ in 0..count {
        meet().await;
    }
    (used() - begin) / f64::from(count)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A CA, a verifier's signer, and what both are pinned to.
struct Mesh {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    signer: KeyPair,
    /// Signer and root, DER.
    chain: [Vec<u8>; 2],
    clock: Clock,
}

struct Pair {
    api: Member,
    web: Member,
    towards_api: Arc<Door>,
    towards_web: Arc<Door>,
    proven: bool,
}

struct Member {
    /// DER.
    certificate: CertificateDer<'static>,
    leaf: Arc<Leaf>,
    prover: Arc<Prover>,
}

/// A connection that stands, and how often the direction of its bytes changed.
struct Met {
    _ends: (client::TlsStream<Counted>, server::TlsStream<Counted>),
    waves: Arc<Waves>,
}

impl Met {
    fn waves(&self) -> u64 {
        self.waves.count.load(Ordering::Relaxed)
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Mesh {
    fn new() -> Self {
        let (ca, ca_key) = (authority("mesh"), KeyPair::generate().unwrap());
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let (root, root_key, signer) =
            (authority("token root"), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
        let certificate = CertificateParams::default().signed_by(&signer, &Issuer::new(root, root_key)).unwrap();
        let chain = [certificate.der().to_vec(), root_der];
        Self { ca: Issuer::new(ca, ca_key), ca_pem, signer, chain, clock: Clock::system() }
    }

    /// Remembers no verdict yet.
    fn demand(&self) -> Demand {
        self.demand_at(Level::Key)
    }

    fn demand_at(&self, level: Level) -> Demand {
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {
            API: {"init_data": ["aa".repeat(32)], "hardware": "any"},
            WEB: {"init_data": ["aa".repeat(32)], "hardware": "any"},
        }});
        let pem =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&self.chain[1]));
        let anchors = TrustAnchors::from_pem(pem.as_bytes()).unwrap();
        let pins = Pins::parse(pins.to_string().as_bytes()).unwrap();
        Demand::new(anchors, pins, Duration::from_secs(3600), level, &self.clock)
    }

    /// Microseconds to judge what a peer shows, of `count`: for the first time, and when the verdict is remembered.
    async fn judging(&self, count: u32) -> (f64, f64) {
        let Pair { web, towards_web, .. } = self.pair(true);
        let known = towards_web.known(std::slice::from_ref(&web.certificate)).unwrap();
        let (purpose, nonce, exporter) = (Purpose::ChannelClient, [7; 32], [8; 32]);
        let expected = Statement { purpose, leaf: known.leaf().unwrap(), nonce, exporter };
        let proof = web.prover.prove(purpose, (nonce, exporter), false).await.unwrap();
        let shown =
            Shown { ear: web.prover.ear(), statement: &proof.statement, signature: &proof.signature, report: None };
        let demands: Vec<Demand> = (0..count).map(|_| self.demand()).collect();
        let judge = || {
            let begin = used();
            for demand in &demands {
                demand.judge(&known, &shown, &expected).unwrap();
            }
            (used() - begin) / f64::from(count)
        };
        (judge(), judge())
    }

    /// Microseconds to judge what a peer shows, of `count`: with a fresh report of its machine, and without.
    async fn judging_report(&self, count: u32) -> (f64, f64) {
        let Pair { web, towards_web, .. } = self.pair(true);
        let known = towards_web.known(std::slice::from_ref(&web.certificate)).unwrap();
        let (purpose, nonce, exporter) = (Purpose::ChannelClient, [7; 32], [8; 32]);
        let expected = Statement { purpose, leaf: known.leaf().unwrap(), nonce, exporter };
        let proof = web.prover.prove(purpose, (nonce, exporter), false).await.unwrap();
        let machine = SnpGuest { host_data: [0xaa; 32], ..SnpGuest::genoa() };
        let report = machine.evidence(&expected.report_data()).to_string().into_bytes();
        let vendor = Vendor::ours();
        let amd = snp::Roots::replaced(vendor.amd_roots().as_bytes()).unwrap();
        let makers = Makers { amd, intel: tdx::Root::replaced(vendor.intel_root().as_bytes()).unwrap() };
        let judge = |demand: &Demand, report| {
            let shown =
                Shown { ear: web.prover.ear(), statement: &proof.statement, signature: &proof.signature, report };
            demand.judge(&known, &shown, &expected).unwrap();
            let begin = used();
            for _ in 0..count {
                demand.judge(&known, &shown, &expected).unwrap();
            }
            (used() - begin) / f64::from(count)
        };
        (judge(&self.demand_at(Level::Hardware(makers)), Some(&report)), judge(&self.demand(), None))
    }

    fn pair(&self, proven: bool) -> Pair {
        let door = |calls, allowed| {
            let demand = proven.then(|| Arc::new(self.demand()));
            let trust = Trust::by_roots(&self.ca_pem, calls, demand, &self.clock).unwrap();
            Arc::new(Door::new(Arc::new(trust), vec![PeerPattern::parse(allowed).unwrap()]).unwrap())
        };
        let (towards_api, towards_web) = (door(Calls::Us, API), door(Calls::Them, WEB));
        Pair { api: self.member(API), web: self.member(WEB), towards_api, towards_web, proven }
    }

    fn member(&self, id: &str) -> Member {
        let (attested, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let spiffe = SpiffeId::parse(id).unwrap();
        let expected = Expected { spiffe: Some(&spiffe), dns: &[], roots: None, rsa: false, now: self.clock.now() };
        let issued = Issued { chain: vec![certificate.der().clone()], key: Secret::new(key.serialize_der()) };
        let leaf = Arc::new(Leaf::check(issued, &expected).unwrap());
        let ear = Zeroizing::new(self.token(&attested));
        let prover = Arc::new(Prover::new(ear, &Secret::new(attested.serialize_der()), &leaf, None).unwrap());
        Member { certificate: certificate.der().clone(), leaf, prover }
    }

    /// An affirming token for `key`, as Trustee signs it.
    fn token(&self, key: &KeyPair) -> String {
        let jwk = |key: &KeyPair| EcPublicJwk::from_point(key.public_key_raw()).unwrap();
        let ([x, y], [sx, sy]) = (jwk(key).coordinates(), jwk(&self.signer).coordinates());
        let x5c: Vec<String> = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
        let header = json!({"typ": "JWT", "alg": "ES256",
            "jwk": {"kty": "EC", "alg": "ES256", "crv": "P-256", "x": sx, "y": sy, "x5c": x5c}});
        let now = self.clock.now();
        let claims = json!({
            "eat_profile": "tag:github.com,2024:confidential-containers/Trustee", "iat": now, "exp": now + 300,
            "submods": {"cpu0": {
                "ear.status": "affirming", "ear.appraisal-policy-id": "default",
                "ear.trustworthiness-vector": {"executables": 3, "hardware": 2, "configuration": 2, "file-system": -1},
                "ear.veraison.annotated-evidence": {
                    "init_data": "aa".repeat(32), "report_data": "",
                    "runtime_data_claims": {"nonce": "bm9uY2U=", "additional-evidence": "",
                        "tee-pubkey": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": x, "y": y}},
                    "snp": {"measurement": "ab".repeat(48), "chip_id": "c1".repeat(64)},
                },
            }},
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.signer.serialize_der()).unwrap();
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

impl Pair {
    /// `web` calls `api`: handshake and exchange, as the product runs them.
    async fn meet(&self) -> Met {
        let waves = Arc::new(Waves::default());
        let (a, b) = duplex(16 * 1024);
        let (a, b) = (
            Counted { io: a, side: 1, waves: Arc::clone(&waves) },
            Counted { io: b, side: 2, waves: Arc::clone(&waves) },
        );
        let ours: &[&[u8]] = if self.proven { &[OURS_TCP] } else { &[] };
        let exit = Exit::new(&self.web.leaf, Arc::clone(&self.towards_api), ours).unwrap();
        let entrance = Entrance::new(Arc::clone(&self.api.leaf), Arc::clone(&self.towards_web), ours, &[]).unwrap();
        let calling = async {
            let name = ServerName::try_from("peer.example").unwrap();
            let mut tls = TlsConnector::from(Arc::clone(&exit.config)).connect(name, a).await.unwrap();
            let known = self.towards_api.known(tls.get_ref().1.peer_certificates().unwrap()).unwrap();
            if self.proven {
                let side = Side { door: &self.towards_api, prover: Some(&self.web.prover), known };
                assert!(connect(&mut tls, side).await.unwrap().until().is_some());
            }
            tls
        };
        let serving = async {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), b).await.unwrap();
            let config = entrance.config(&start.client_hello());
            let mut tls = start.into_stream(config).await.unwrap();
            let known = self.towards_web.known(tls.get_ref().1.peer_certificates().unwrap()).unwrap();
            if self.proven {
                let side = Side { door: &self.towards_web, prover: Some(&self.api.prover), known };
                assert!(accept(&mut tls, side).await.unwrap().until().is_some());
            }
            tls
        };
        let ends = tokio::join!(calling, serving);
        Met { _ends: ends, waves }
    }
}

/// How often whoever sends was not whoever sent before.
#[derive(Default)]
struct Waves {
    last: AtomicU8,
    count: AtomicU64,
}

struct Counted {
    io: DuplexStream,
    side: u8,
    waves: Arc<Waves>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) && self.waves.last.swap(self.side, Ordering::Relaxed) != self.side {
            self.waves.count.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

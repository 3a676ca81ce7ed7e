//! The sidecar on the direct road, in a simulated TEE: each certificate has an attestation of its own,
//! its key is the one that was attested, and a KBS that says no ends the pod.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::mesh::{self, Peer, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::tee::{Document, Guest, SnpGuest, TdxGuest};
use countersign_testbed::world::{RunningSigner, Started, World};
use countersign_testbed::{Signal, eventually};

const OURS: &str = "spiffe://example.org/ns/payments/sa/api";
const FRIEND: &str = "spiffe://example.org/ns/web/sa/front";
const IN: &str = "127.0.0.1:9443";

struct Pod {
    world: World,
    kbs: RunningKbs,
    signer: RunningSigner,
    document: Document,
    friend: Identity,
}

impl Pod {
    fn new(tee: &str) -> Self {
        let world = World::new().unwrap();
        let (ca, mesh) = (Ca::new("kbs"), Ca::new("mesh"));
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("payments/mesh/roots", mesh.pem())
            .resource("payments/db/password", "alpha")
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()))
            .reference(&Guest::Tdx(TdxGuest::v4()));
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        let secrets = world.ramdir().unwrap().join("secrets");
        let document = Document::of_kbs(&kbs.url(), ca.pem()).countersign(&format!(
            "version = 1\ndeadline = \"20s\"\n[kbs]\nurl = [\"{}\"]\nca = \"\"\"\n{}\"\"\"\n\
             [identity]\nsource = \"self\"\nspiffe = \"{OURS}\"\n\
             [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n\
             [secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"password\"\nfrom = \"kbs:///payments/db/password\"\n\
             [[inbound]]\nlisten = \"[::]:9443\"\napp = \"127.0.0.1:8080\"\nallow = [\"{FRIEND}\"]\n",
            kbs.url(),
            ca.pem(),
            secrets.display(),
        ));
        let signer = world.signer(Signer::answering(tee).launched_with(&document.digest()));
        signer.set(tee).unwrap();
        Self { friend: mesh.member(FRIEND), world, kbs, signer, document }
    }

    fn start(&self, more: &[&str]) -> Started<'_> {
        let sim = self.world.sim(more).arg("sidecar").tee(&self.signer).initdata(self.document.text());
        sim.time_limit(Duration::from_secs(60)).start()
    }

    fn ready(&self, more: &[&str]) -> Started<'_> {
        let started = self.start(more);
        eventually("the sidecar is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            mesh::status(&self.world, "127.0.0.1:15821", "/readyz") == 200
        });
        started
    }

    fn shown(&self) -> Vec<u8> {
        let mut peer = Peer::connect(&self.world, IN, Some(&self.friend), &["http/1.1"]).unwrap();
        assert_eq!(peer.get("/").unwrap().status, 200);
        peer.shown().unwrap()
    }
}

countersign_testbed::main! {
    one_attestation_gives_the_secrets_and_the_certificate [GuestPort, Namespaces, Memory],
    each_certificate_has_an_attestation_and_a_key_of_its_own [GuestPort, Namespaces, Memory],
    a_denial_on_renewal_drains_and_ends_with_77 [GuestPort, Namespaces, Memory],
    an_outage_changes_nothing_while_the_certificate_lives [GuestPort, Namespaces, Memory],
    a_clock_that_was_turned_back_makes_no_old_certificate [GuestPort, Namespaces, Memory],
    a_clock_that_is_ahead_makes_one_that_peers_can_judge [GuestPort, Namespaces, Memory],
}

fn one_attestation_gives_the_secrets_and_the_certificate() {
    for tee in ["snp", "tdx"] {
        let pod = Pod::new(tee);
        let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
        let sidecar = pod.ready(&[]);
        pod.shown();
        assert_eq!(pod.kbs.attestations(), 1, "{}", sidecar.said());
        assert!(sidecar.said().contains("measured"), "{}", sidecar.said());
        assert!(!sidecar.said().contains("alpha"));
    }
}

fn each_certificate_has_an_attestation_and_a_key_of_its_own() {
    let pod = Pod::new("snp");
    let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
    let sidecar = pod.ready(&[]);
    let mut keys = BTreeSet::new();
    for renewal in 1..=3 {
        let shown = pod.shown();
        let (_, certificate) = x509_parser::parse_x509_certificate(&shown).unwrap();
        let key = certificate.public_key().subject_public_key.data.to_vec();
        // An uncompressed point: 0x04, x, y.
        let x = URL_SAFE_NO_PAD.encode(&key[1..33]);
        assert!(pod.kbs.attested_keys().contains(&x), "the KBS has attested this key");
        assert!(keys.insert(key), "a new key");
        assert_eq!(pod.kbs.attestations(), renewal);
        std::thread::sleep(Duration::from_millis(600));
        sidecar.signal(Signal::HUP).unwrap();
        eventually("the next is served", || pod.shown() != shown);
    }
}

fn a_denial_on_renewal_drains_and_ends_with_77() {
    let pod = Pod::new("snp");
    let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
    let sidecar = pod.ready(&[]);
    pod.shown();
    pod.kbs.set_policy(Policy::DenyAll);
    std::thread::sleep(Duration::from_millis(600));
    sidecar.signal(Signal::HUP).unwrap();
    let run = sidecar.wait().expect_code(77);
    assert!(run.stderr.contains("policy-denied") && run.stderr.contains("draining"), "{}", run.stderr);
    assert!(pod.world.connect(IN).is_err());
    // Nor does it start.
    pod.start(&[]).wait().expect_code(77);
}

fn an_outage_changes_nothing_while_the_certificate_lives() {
    let pod = Pod::new("snp");
    let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
    let sidecar = pod.ready(&[]);
    let before = pod.shown();
    pod.kbs.restart(Duration::from_secs(3600));
    let connections = pod.kbs.connections();
    eventually("it has tried", || {
        // One that comes within half a second of the last is not heard.
        let _ = sidecar.signal(Signal::HUP);
        pod.kbs.connections() > connections
    });
    assert_eq!(pod.shown(), before);
    assert_eq!(mesh::status(&pod.world, "127.0.0.1:15821", "/readyz"), 200);
    pod.kbs.restart(Duration::ZERO);
    eventually("it renews once the KBS is back", || pod.shown() != before);
}

fn a_clock_that_was_turned_back_makes_no_old_certificate() {
    // Two days, and a week: the KBS says over TLS what time it is.
    for back in ["-172800", "-604800"] {
        let pod = Pod::new("snp");
        let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
        let sidecar = pod.ready(&["--sim-clock-offset", back]);
        let shown = pod.shown();
        assert!(is_good_now(&shown), "{back}: {}", sidecar.said());
    }
}

fn a_clock_that_is_ahead_makes_one_that_peers_can_judge() {
    let pod = Pod::new("snp");
    let _app = mesh::app(&pod.world, "127.0.0.1:8080", echo);
    let sidecar = pod.start(&["--sim-clock-offset", "172800"]);
    // Its clock is two days ahead: the certificate is from the future, and whoever judges by a right
    // clock refuses it. Never the other way round.
    eventually("it is up, or it says why not", || {
        !sidecar.is_running() || mesh::status(&pod.world, "127.0.0.1:15821", "/readyz") == 200
    });
    if sidecar.is_running() {
        assert!(!is_good_now(&pod.shown()));
    }
}

#[allow(clippy::disallowed_methods)] // Whoever judges has a right clock.
fn is_good_now(der: &[u8]) -> bool {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = x509_parser::time::ASN1Time::from_timestamp(i64::try_from(now).unwrap()).unwrap();
    certificate.validity().is_valid_at(now)
}

//! `GET /receipt`: what was delivered to a pod, signed by the attested key. From a real sidecar in a simulated
//! TEE, to whoever may read it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::formats::delivery::Signed;
use countersign_testbed::mesh::{self, Peer, Reply, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::world::Started;
use rig::{METRICS, Rig, Said};
use scene::{API, API_HEALTH, API_METRICS, IN, Pod, Scene, WEB};
use serde_json::Value;

countersign_testbed::main! {
    a_receipt_answers_the_nonce_that_was_sent [GuestPort, Namespaces, Memory],
    a_malformed_nonce_is_refused [GuestPort, Namespaces, Memory],
    whoever_is_no_reader_gets_no_receipt [GuestPort, Namespaces, Memory],
    a_receipt_is_never_given_in_plain [GuestPort, Namespaces],
    a_guest_without_an_attested_key_has_no_receipt [GuestPort, Namespaces],
    a_receipt_that_somebody_rewrote_is_not_signed [GuestPort, Namespaces, Memory],
}

const OTHER: &str = "spiffe://example.org/ns/other/sa/app";

/// The value that no answer may hold.
const SECRET: &str = "alpha-bravo-charlie";

/// A pod that has one file, in a simulated TEE, and shows evidence to whoever asks; `WEB` may read its receipt.
struct Stage {
    scene: Scene,
    pod: Pod,
    secrets: PathBuf,
}

impl Stage {
    fn new() -> Self {
        Self::with(&format!("[metrics]\nlisten = \"{API_METRICS}\"\nallow = [\"{WEB}\"]\n"), true)
    }

    fn with(metrics: &str, file: bool) -> Self {
        let scene = Scene::new("members", "snp");
        scene.kbs.set_resource("payments/db/password", SECRET);
        let secrets = scene.world.ramdir().unwrap().join("secrets");
        let file = if file {
            format!(
                "[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"db/password\"\nmode = \"0400\"\n\
                 from = \"kbs:///payments/db/password\"\n",
                secrets.display()
            )
        } else {
            String::new()
        };
        let document = scene.document(
            "api",
            API,
            &format!(
                "[health]\nlisten = \"{API_HEALTH}\"\n{metrics}{file}\
                 [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nallow = [\"{WEB}\", \"{OTHER}\"]\n"
            ),
        );
        let pod = scene.pod(document, API_HEALTH);
        Self { scene, pod, secrets }
    }

    fn start(&self) -> Started<'_> {
        self.scene.start(&self.pod)
    }

    fn ask(&self, identity: Option<&Identity>, path: &str) -> std::io::Result<Reply> {
        Peer::connect(&self.scene.world, API_METRICS, identity, &["http/1.1"])?.get(path)
    }

    fn get(&self, path: &str) -> Reply {
        self.ask(Some(&self.scene.mesh.member(WEB)), path).unwrap()
    }

    fn receipt(&self) -> Signed {
        let reply = self.get("/receipt");
        assert_eq!(reply.status, 200, "{}", reply.body);
        Signed::parse(reply.body.as_bytes()).unwrap()
    }
}

/// The word of a refusal, with its status.
fn refusal(reply: &Reply) -> (u16, String) {
    assert!(reply.head.to_lowercase().contains("content-type: application/json"), "{}", reply.head);
    let said: Value = serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{}", reply.body));
    assert_eq!(said["status"], reply.status);
    (reply.status, said["error"].as_str().unwrap().to_owned())
}

fn text(nonce: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(nonce)
}

fn a_receipt_answers_the_nonce_that_was_sent() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let reply = stage.get(&format!("/receipt?nonce={}", text([7; 32])));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(reply.head.to_lowercase().contains("cache-control: no-store"), "{}", reply.head);
    assert!(reply.head.to_lowercase().contains("connection: close"), "{}", reply.head);
    let signed = Signed::parse(reply.body.as_bytes()).unwrap();
    assert_eq!(signed.receipt.nonce, Some([7; 32]));
    assert_eq!(signed.receipt.id.to_string(), API);
    assert!(!reply.body.contains(SECRET));
    assert_eq!(stage.receipt().receipt.nonce, None);
    // What it says is what lies beside the files.
    let published = stage.scene.world.read(stage.secrets.join(".countersign-receipt.json")).unwrap();
    let published: Value = serde_json::from_slice(&published).unwrap();
    let canonical: Value = serde_json::from_slice(&signed.receipt.canonical()).unwrap();
    assert_eq!(canonical["delivered"], published);
}

fn a_malformed_nonce_is_refused() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let good = text([7; 32]);
    for query in ["", "nonce=", "nonce=short", "x=1", &format!("nonce={good}="), &format!("nonce={good}&nonce={good}")]
    {
        assert_eq!(refusal(&stage.get(&format!("/receipt?{query}"))), (400, "bad-nonce".to_owned()), "{query}");
    }
    for path in ["/receipt/", "/receipts", "/"] {
        assert_eq!(stage.get(path).status, 404, "{path}");
    }
    assert_eq!(stage.get("/metrics").status, 200);
}

fn whoever_is_no_reader_gets_no_receipt() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let mesh = &stage.scene.mesh;
    let strangers = [
        ("may call the app", Some(mesh.member(OTHER))),
        ("of another mesh", Some(Ca::new("others").member(WEB))),
        ("too late", Some(mesh.member_for(WEB, 100, -50))),
        ("nobody", None),
    ];
    for (who, identity) in &strangers {
        stage.ask(identity.as_ref(), "/receipt").expect_err(who);
    }
    let ask = "GET /receipt HTTP/1.1\r\nhost: a\r\n\r\n";
    assert!(mesh::plain(&stage.scene.world, API_METRICS, ask).is_err(), "without TLS");
    // A reader is no caller's door to it: there it is the app's.
    let _app = mesh::app(&stage.scene.world, "127.0.0.1:8080", echo);
    let mut caller = Peer::connect(&stage.scene.world, IN, Some(&mesh.member(WEB)), &["http/1.1"]).unwrap();
    let reply = caller.get("/receipt").unwrap();
    assert!(reply.body.starts_with("GET /receipt\n"), "the app's own: {}", reply.body);
    assert_eq!(stage.get("/receipt").status, 200);
}

fn a_receipt_is_never_given_in_plain() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    for path in ["/receipt", "/receipt?nonce=x", &format!("/receipt?nonce={}", text([7; 32]))] {
        let reply = mesh::plain(&rig.world, METRICS, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        assert_eq!(refusal(&reply), (403, "not-in-plain".to_owned()));
        assert!(reply.body.contains("[metrics]") && !reply.body.contains("eyJ"), "{}", reply.body);
    }
    assert!(rig.metric("countersign_handshakes_total{inbound=\"[::]:8443\",result=\"accepted\"}").is_some());
}

fn a_guest_without_an_attested_key_has_no_receipt() {
    let metrics = "listen = \"[::]:15822\"\nallow = [\"spiffe://example.org/ns/monitoring/sa/prometheus\"]";
    let rig = Rig::new(&Said { metrics, ..Said::default() });
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let reader = rig.ca.member("spiffe://example.org/ns/monitoring/sa/prometheus");
    let reply = Peer::connect(&rig.world, METRICS, Some(&reader), &["http/1.1"]).unwrap().get("/receipt").unwrap();
    assert_eq!(refusal(&reply), (404, "no-attested-key".to_owned()));
}

fn a_receipt_that_somebody_rewrote_is_not_signed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    stage.receipt();
    let published = stage.secrets.join(".countersign-receipt.json");
    let write = format!("f=$(readlink -f {}); chmod u+w $f && printf '{{\"serial\":7}}' > $f", published.display());
    stage.scene.world.run("/bin/sh", &["-c", &write]).run().expect_code(0);
    assert_eq!(refusal(&stage.get("/receipt")), (503, "destination-unsafe".to_owned()));
}

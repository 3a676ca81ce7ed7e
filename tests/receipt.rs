//! `GET /receipt`: what was delivered to a pod, signed by the attested key. From a real sidecar in a simulated
//! TEE, to whoever may read it; and what `verify` makes of it, and of everything that is none.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

#[path = "peers/laptop.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod laptop;

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::formats::delivery::Signed;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{self, Peer, Reply, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::tee::hex;
use countersign_testbed::world::{Run, Started};
use countersign_testbed::{Signal, eventually};
use laptop::{Laptop, check};
use rig::{METRICS, Rig, Said};
use scene::{API, API_HEALTH, API_METRICS, IN, OUT, Pod, Scene, WEB, WEB_HEALTH};
use serde_json::{Value, json};

countersign_testbed::main! {
    what_was_delivered_is_asked_for_and_verified [GuestPort, Namespaces, Memory],
    a_receipt_answers_the_nonce_that_was_sent [GuestPort, Namespaces, Memory],
    a_malformed_nonce_is_refused [GuestPort, Namespaces, Memory],
    whoever_is_no_reader_gets_no_receipt [GuestPort, Namespaces, Memory],
    a_receipt_is_never_given_in_plain [GuestPort, Namespaces],
    a_renewal_gives_the_receipt_new_evidence [GuestPort, Namespaces, Memory],
    where_nothing_was_delivered_there_is_no_receipt [GuestPort, Namespaces, Memory],
    a_reader_that_must_prove_itself_asks_through_its_own_sidecar [GuestPort, Namespaces, Memory],
    a_guest_without_an_attested_key_has_no_receipt [GuestPort, Namespaces],
    a_receipt_that_somebody_rewrote_is_not_signed [GuestPort, Namespaces, Memory],
    a_receipt_that_was_kept_is_verified_from_a_file_and_from_standard_input [GuestPort, Namespaces, Memory],
    a_receipt_signed_by_another_key_is_not_believed [GuestPort, Namespaces, Memory],
    an_altered_receipt_is_not_believed [GuestPort, Namespaces, Memory],
    a_receipt_with_the_evidence_of_a_stranger_is_not_believed [GuestPort, Namespaces, Memory],
    a_receipt_that_is_too_old_is_not_believed [GuestPort, Namespaces, Memory],
    a_receipt_of_a_guest_that_is_not_pinned_is_not_believed [GuestPort, Namespaces, Memory],
    a_receipt_of_another_identity_is_not_the_expected_one [GuestPort, Namespaces, Memory],
    a_receipt_for_another_nonce_is_not_believed [GuestPort, Namespaces, Memory],
    a_receipt_that_is_not_canonical_is_not_read [GuestPort, Namespaces, Memory],
    ten_mebibytes_are_no_receipt [GuestPort, Namespaces, Memory],
    a_receipt_without_a_signature_is_told_as_such [GuestPort, Namespaces, Memory],
    a_receipt_is_held_to_no_half_of_what_it_takes [GuestPort, Namespaces, Memory],
    a_receipt_that_another_passes_on_is_not_believed [GuestPort, Namespaces, Memory],
}

const OTHER: &str = "spiffe://example.org/ns/other/sa/app";

/// The value that no answer may hold.
const SECRET: &str = "alpha-bravo-charlie";

/// A pod that has one file, in a simulated TEE, and shows evidence to whoever asks; `WEB` may read its receipt.
struct Stage {
    scene: Scene,
    pod: Pod,
    secrets: PathBuf,
    pins: String,
}

impl Stage {
    fn new() -> Self {
        Self::with(&format!("[metrics]\nlisten = \"{API_METRICS}\"\nallow = [\"{WEB}\"]\n"), true)
    }

    fn with(metrics: &str, file: bool) -> Self {
        Self::trusting("members", metrics, file)
    }

    fn trusting(trust: &'static str, metrics: &str, file: bool) -> Self {
        let scene = Scene::new(trust, "snp");
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
        let pins = scene.pins(1, |peers| peers[API]["init_data"] = json!([hex(&document.digest())]));
        let pod = scene.pod(document, API_HEALTH);
        Self { scene, pod, secrets, pins }
    }

    fn start(&self) -> Started<'_> {
        self.scene.start(&self.pod)
    }

    fn laptop(&self, name: &str) -> Laptop<'_> {
        let laptop = Laptop::new(&self.scene, name);
        laptop.file("pins.json", &self.pins);
        laptop
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

/// The same receipt, signed by somebody else.
fn forged(signed: &Signed) -> Signed {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let signature = key.sign(&SystemRandom::new(), &signed.receipt.signing_input()).unwrap();
    Signed { signature: signature.as_ref().try_into().unwrap(), ..signed.clone() }
}

/// A receipt in a file is refused with this code, by this check.
fn refused(laptop: &Laptop<'_>, receipt: &str, more: &[&str], code: i32, id: &str) -> Run {
    let file = laptop.file("receipt.json", receipt);
    let run = laptop.verify_that(&file, more).expect_code(code);
    assert_eq!(check(&run, id), "failed", "{}", run.output());
    let said: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(said["fields"], json!([]), "nothing of it is repeated");
    assert!(!said["finding"]["next"].as_str().unwrap().is_empty());
    run
}

fn what_was_delivered_is_asked_for_and_verified() {
    let stage = Stage::new();
    let sidecar = stage.start();
    let laptop = stage.laptop("receipt");
    let url = format!("https://{API_METRICS}/receipt");
    let run = laptop.verify_that(&url, &[]).expect_code(0);
    for id in [
        "certificate.chain",
        "expect.identity",
        "peer.evidence",
        "peer.session",
        "receipt.session",
        "receipt.evidence",
        "receipt.signature",
        "receipt.identity",
        "receipt.nonce",
        "receipt.time",
    ] {
        assert_eq!(check(&run, id), "held", "{id}: {}", run.output());
    }
    // What it does not show is said with it.
    for id in ["receipt.values", "receipt.use", "receipt.files"] {
        assert_eq!(check(&run, id), "not-checked", "{id}: {}", run.output());
    }
    let said: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&said["kind"], &said["verdict"]), (&json!("receipt"), &json!("appraised")));
    let field = |name: &str| {
        let fields = said["fields"].as_array().unwrap();
        fields.iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("no {name}: {said:#}")).clone()
    };
    assert_eq!(field("file")["value"], "db/password");
    assert_eq!(field("file")["says"], "mode 0400, from kbs:///payments/db/password");
    let values = ["provenance", "via", "serial"].map(|name| field(name)["value"].as_str().unwrap().to_owned());
    assert_eq!(values, ["measured", "configfs-tsm", "7"]);
    for name in ["written", "signed", "iat"] {
        assert!(field(name)["value"].as_str().unwrap().ends_with('Z'), "{name}");
    }
    assert!(!run.output().contains(SECRET) && !run.output().contains("eyJ"), "{}", run.output());
    // For people, by the other binary: the same.
    let policy = laptop.policy_file();
    let kubectl = env!("CARGO_BIN_EXE_kubectl-countersign");
    let run = stage.scene.world.run(kubectl, &["verify", &url, "--policy", &policy]).run().expect_code(0);
    assert!(run.stdout.contains("db/password") && run.stdout.contains("not checked"), "{}", run.stdout);
    let said = sidecar.said();
    assert!(!said.contains("eyJ") && !said.contains(SECRET), "{said}");
    // A certificate that its list does not have is told nothing.
    let member = stage.scene.mesh.member(OTHER);
    laptop.file("cert.pem", member.pem());
    laptop.file("key.pem", &member.key_pem());
    laptop.verify_that(&url, &[]).expect_code(69);
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

fn a_renewal_gives_the_receipt_new_evidence() {
    let stage = Stage::new();
    let sidecar = stage.start();
    let laptop = stage.laptop("receipt-renewal");
    let before = stage.receipt();
    // Asked for too soon after another it is not heard, so it is asked for until it is.
    eventually("the receipt has other evidence", || {
        sidecar.signal(Signal::HUP).unwrap();
        stage.receipt().ear != before.ear
    });
    let after = stage.receipt();
    assert_eq!(before.receipt.delivered, after.receipt.delivered, "the set was left");
    // Both were true when they were signed.
    for signed in [before, after] {
        let file = laptop.file("receipt.json", &signed.text());
        laptop.verify_that(&file, &[]).expect_code(0);
    }
    // A renewal that was asked for once more may come between handshake and answer; then it is asked again.
    eventually("a live one is believed", || {
        laptop.verify_that(&format!("https://{API_METRICS}/receipt"), &[]).code == Some(0)
    });
}

fn where_nothing_was_delivered_there_is_no_receipt() {
    let stage = Stage::with(&format!("[metrics]\nlisten = \"{API_METRICS}\"\nallow = [\"{WEB}\"]\n"), false);
    let _sidecar = stage.start();
    assert_eq!(refusal(&stage.get("/receipt")), (404, "nothing-delivered".to_owned()));
    let run = stage.laptop("receipt-none").verify_that(&format!("https://{API_METRICS}/receipt"), &[]).expect_code(86);
    assert!(run.stderr.contains("nothing has been delivered"), "{}", run.output());
}

fn a_reader_that_must_prove_itself_asks_through_its_own_sidecar() {
    let metrics = format!("[metrics]\nlisten = \"{API_METRICS}\"\nallow = [\"{WEB}\"]\n");
    let stage = Stage::trusting("evidence", &metrics, true);
    let scene = &stage.scene;
    let web = scene.document(
        "web",
        WEB,
        &format!(
            "[health]\nlisten = \"{WEB_HEALTH}\"\n\
             [[outbound]]\nlisten = \"{OUT}\"\nto = \"{API_METRICS}\"\npeer = \"{API}\"\n"
        ),
    );
    let mut pins: Value = serde_json::from_str(&stage.pins).unwrap();
    pins["peers"][WEB]["init_data"] = json!([hex(&web.digest())]);
    scene.kbs.set_resource("payments/mesh/pins", pins.to_string());
    let (web, api) = (scene.pod(web, WEB_HEALTH), stage.start());
    let web = scene.start(&web);
    let ask = format!("GET /receipt?nonce={} HTTP/1.1\r\nhost: api\r\n\r\n", text([7; 32]));
    let reply = mesh::plain(&scene.world, OUT, &ask).unwrap_or_else(|_| panic!("{} {}", api.said(), web.said()));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let laptop = stage.laptop("receipt-evidence");
    let file = laptop.file("receipt.json", &reply.body);
    laptop.verify_that(&file, &["--nonce", &text([7; 32])]).expect_code(0);
    // A laptop cannot ask by itself, and is told so.
    laptop.policy(|policy| policy["roots"] = Value::Null);
    let run = laptop.verify_that(&format!("https://{API_METRICS}/receipt"), &[]).expect_code(71);
    assert!(run.stderr.contains("demands evidence"), "{}", run.output());
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

fn a_receipt_that_was_kept_is_verified_from_a_file_and_from_standard_input() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-kept");
    let kept = stage.get(&format!("/receipt?nonce={}", text([7; 32]))).body;
    let file = laptop.file("receipt.json", &kept);
    let run = laptop.verify_that(&file, &["--nonce", &text([7; 32])]).expect_code(0);
    assert_eq!(check(&run, "receipt.nonce"), "held");
    assert_eq!(check(&run, "certificate.chain"), "not-checked");
    let said: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(said["basis"]["roots_given"], false, "they are the policy's, and not looked at");
    let run = laptop.verify_that(&file, &[]).expect_code(0);
    assert_eq!(check(&run, "receipt.nonce"), "not-checked", "{}", run.output());
    // Whoever calls nobody needs no certificate.
    laptop.policy(|policy| {
        for key in ["cert", "cert_key", "roots"] {
            policy[key] = Value::Null;
        }
    });
    let policy = laptop.policy_file();
    let verify = stage.scene.world.countersign(&["verify", "-", "--policy", &policy, "--json"]);
    let run = verify.stdin(kept.clone()).run().expect_code(0);
    assert_eq!(check(&run, "receipt.signature"), "held");
    // And who calls does.
    let run = laptop.verify_that(&format!("https://{API_METRICS}/receipt"), &[]).expect_code(64);
    assert!(run.stderr.contains("--cert"), "{}", run.output());
}

fn a_receipt_signed_by_another_key_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-forged");
    refused(&laptop, &forged(&stage.receipt()).text(), &[], 79, "receipt.signature");
}

fn an_altered_receipt_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-altered");
    let mut signed = stage.receipt();
    signed.receipt.delivered.serial += 1;
    refused(&laptop, &signed.text(), &[], 79, "receipt.signature");
}

fn a_receipt_with_the_evidence_of_a_stranger_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-stranger");
    let kept = stage.receipt().text();
    laptop.file("token-ca.pem", Ca::new("others").pem());
    refused(&laptop, &kept, &[], 79, "receipt.evidence");
}

fn a_receipt_that_is_too_old_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-old");
    let signed = stage.receipt();
    let at = |seconds: u64| (signed.receipt.signed + seconds).to_string();
    let run = refused(&laptop, &signed.text(), &["--at", &at(3700)], 79, "receipt.evidence");
    assert!(run.stdout.contains("too old"), "{}", run.output());
    // As of then it was good.
    let file = laptop.file("receipt.json", &signed.text());
    laptop.verify_that(&file, &["--at", &at(3000)]).expect_code(0);
}

fn a_receipt_of_a_guest_that_is_not_pinned_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-pins");
    let kept = stage.receipt().text();
    laptop.file("pins.json", &stage.scene.pins(1, |peers| peers[API]["init_data"] = json!(["dd".repeat(48)])));
    refused(&laptop, &kept, &[], 86, "receipt.evidence");
    laptop.file("pins.json", &stage.scene.pins(1, |peers| drop(peers.as_object_mut().unwrap().remove(API))));
    refused(&laptop, &kept, &[], 79, "receipt.evidence");
}

fn a_receipt_of_another_identity_is_not_the_expected_one() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-identity");
    laptop.policy(|policy| policy["expect"] = json!(WEB));
    refused(&laptop, &stage.receipt().text(), &[], 86, "receipt.identity");
}

fn a_receipt_for_another_nonce_is_not_believed() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-nonce");
    let kept = stage.get(&format!("/receipt?nonce={}", text([7; 32]))).body;
    refused(&laptop, &kept, &["--nonce", &text([8; 32])], 79, "receipt.nonce");
    refused(&laptop, &stage.receipt().text(), &["--nonce", &text([8; 32])], 79, "receipt.nonce");
    let file = laptop.file("receipt.json", &kept);
    laptop.verify_that(&file, &["--nonce", "short"]).expect_code(64);
}

fn a_receipt_that_is_not_canonical_is_not_read() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-canonical");
    let mut kept: Value = serde_json::from_str(&stage.receipt().text()).unwrap();
    let canonical = URL_SAFE_NO_PAD.decode(kept["receipt"].as_str().unwrap()).unwrap();
    let canonical = String::from_utf8(canonical).unwrap();
    let mut not_read = |what: &str, receipt: String| {
        kept["receipt"] = json!(URL_SAFE_NO_PAD.encode(receipt));
        let file = laptop.file("receipt.json", &kept.to_string());
        let run = laptop.verify_that(&file, &[]).expect_code(87);
        assert!(run.stderr.contains("signed receipt"), "{what}: {}", run.output());
    };
    not_read("spaces", canonical.replacen(",\"id\"", ", \"id\"", 1));
    not_read("a member twice", canonical.replacen("\"id\"", "\"v\":1,\"id\"", 1));
    not_read("an unknown member", canonical.replacen("\"id\"", "\"sha256\":\"00\",\"id\"", 1));
    not_read("another version", canonical.replacen("\"v\":1}", "\"v\":2}", 1));
}

fn ten_mebibytes_are_no_receipt() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-large");
    let kept = stage.receipt().text();
    let large = format!("{}{kept}", " ".repeat(10 * 1024 * 1024));
    let file = laptop.file("receipt.json", &large);
    laptop.verify_that(&file, &[]).expect_code(87);
    let policy = laptop.policy_file();
    let verify = stage.scene.world.countersign(&["verify", "-", "--policy", &policy]);
    verify.stdin(large).run().expect_code(87);
    // Below the bound of all that is shown, and above that of a receipt.
    let file = laptop.file("receipt.json", &kept.replacen('{', &format!("{{{}", " ".repeat(2 * 1024 * 1024)), 1));
    let run = laptop.verify_that(&file, &[]).expect_code(87);
    assert!(run.stderr.contains("longer than a receipt"), "{}", run.output());
}

fn a_receipt_without_a_signature_is_told_as_such() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-bare");
    let published = stage.scene.world.read(stage.secrets.join(".countersign-receipt.json")).unwrap();
    laptop.policy(|policy| *policy = json!({}));
    let file = laptop.file("receipt.json", &String::from_utf8(published).unwrap());
    let run = laptop.verify_that(&file, &[]).expect_code(87);
    assert!(run.stderr.contains("without a signature"), "{}", run.output());
}

fn a_receipt_is_held_to_no_half_of_what_it_takes() {
    let stage = Stage::new();
    let _sidecar = stage.start();
    let laptop = stage.laptop("receipt-half");
    let (file, url) = (laptop.file("receipt.json", &stage.receipt().text()), format!("https://{API_METRICS}/receipt"));
    for key in ["expect", "token_roots", "pins", "max_age"] {
        laptop.policy(|policy| policy[key] = Value::Null);
        for shown in [&file, &url] {
            let run = laptop.verify_that(shown, &[]).expect_code(64);
            assert!(run.stderr.contains(&format!("--{}", key.replace('_', "-"))), "{key}: {}", run.output());
        }
    }
    laptop.policy(|policy| *policy = json!({"expect": API}));
    laptop.verify_that(&file, &[]).expect_code(64);
    laptop.policy(|_| {});
    // What only a report could show, and what a live one makes itself, is not passed over.
    laptop.verify_that(&file, &["--vmpl", "1"]).expect_code(64);
    laptop.verify_that(&file, &["--measurement", &"ab".repeat(48)]).expect_code(64);
    laptop.verify_that(&url, &["--nonce", &text([7; 32])]).expect_code(64);
    laptop.verify_that(&url, &["--at", "2026-11-26"]).expect_code(64);
    for place in ["/receipt?nonce=x", "/receipt/", "/x/receipt", "/other"] {
        laptop.verify_that(&format!("https://{API_METRICS}{place}"), &[]).expect_code(64);
    }
    laptop.verify_that(&url, &[]).expect_code(0);
}

/// What the app answers for its path `/receipt`: it was given by somebody else, or to somebody else.
static PASSED_ON: OnceLock<Mutex<String>> = OnceLock::new();

fn a_receipt_that_another_passes_on_is_not_believed() {
    let stage = Stage::new();
    let sidecar = stage.start();
    let laptop = stage.laptop("receipt-passed");
    let passed_on = PASSED_ON.get_or_init(Mutex::default);
    let app = mesh::app(&stage.scene.world, "127.0.0.1:8080", |seen| {
        let body = PASSED_ON.get_or_init(Mutex::default).lock().unwrap().clone();
        assert!(seen.path.starts_with("/receipt?nonce="));
        vec![Act::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())]
    });
    let url = format!("https://{IN}/receipt");
    let pass_on = |receipt: &str, code: i32, id: &str| {
        receipt.clone_into(&mut passed_on.lock().unwrap());
        let run = laptop.verify_that(&url, &[]).expect_code(code);
        assert_eq!(check(&run, id), "failed", "{}", run.output());
        assert_eq!(check(&run, "peer.session"), "held", "the connection is the guest's own: {}", run.output());
    };
    // Its own, and for somebody else's nonce: it may be an old one.
    let before = stage.receipt();
    pass_on(&before.text(), 79, "receipt.nonce");
    // Of an earlier key, as of another pod of the same workload.
    eventually("the receipt has other evidence", || {
        sidecar.signal(Signal::HUP).unwrap();
        stage.receipt().ear != before.ear
    });
    pass_on(&before.text(), 79, "receipt.session");
    "{}".clone_into(&mut passed_on.lock().unwrap());
    laptop.verify_that(&url, &[]).expect_code(87);
    assert_eq!(app.count(), 3);
}

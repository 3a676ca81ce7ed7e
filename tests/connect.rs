//! From a machine that is no TEE to a pod in one: `verify https://…` and `connect`, against a real sidecar in
//! a simulated TEE.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

#[path = "peers/laptop.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod laptop;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use countersign_testbed::kbs::{Fault, Rule, Step};
use countersign_testbed::mesh::{self, echo};
use countersign_testbed::pki::Ca;
use countersign_testbed::{Signal, eventually};
use laptop::{Laptop, NEAR, check};
use scene::{API, API_HEALTH, ASK, IN, Scene, WEB};
use serde_json::{Value, json};

countersign_testbed::main! {
    a_live_sidecar_proves_itself_to_verify [GuestPort, Namespaces, Memory],
    a_sidecar_that_demands_evidence_is_judged_all_the_same [GuestPort, Namespaces, Memory],
    a_sidecar_that_is_not_as_pinned_is_refused_by_verify [GuestPort, Namespaces, Memory],
    a_sidecars_machine_vouches_for_it_where_that_is_demanded [GuestPort, Namespaces, Memory],
    half_of_what_a_proof_takes_is_refused [Namespaces],
    a_laptop_speaks_to_a_pod_through_a_proven_tunnel [GuestPort, Namespaces, Memory],
    one_connection_goes_over_standard_input_and_output [GuestPort, Namespaces, Memory],
    a_tunnels_connection_is_cut_when_the_peers_evidence_is_max_age_old [GuestPort, Namespaces, Memory],
    a_peer_with_another_digest_gets_no_tunnel [GuestPort, Namespaces, Memory],
    a_peer_with_another_identity_gets_no_tunnel [GuestPort, Namespaces, Memory],
    a_peer_without_evidence_gets_no_tunnel [Namespaces],
    a_peer_that_demands_evidence_of_a_laptop_is_told_as_such [GuestPort, Namespaces, Memory],
    nothing_is_listened_on_before_the_policy_is_read [GuestPort, Namespaces, Memory],
    a_tunnel_is_loopback_only [Namespaces],
}

fn a_live_sidecar_proves_itself_to_verify() {
    let scene = Scene::new("members", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "verify");
    let run = laptop.verify().expect_code(0);
    for id in ["certificate.chain", "expect.identity", "peer.evidence", "peer.session"] {
        assert_eq!(check(&run, id), "held", "{}", run.output());
    }
    assert!(run.stdout.contains("ear.status"), "{}", run.output());
    // The same by flags.
    let file = |name: &str| laptop.directory.join(name).display().to_string();
    let (url, roots, token, pins) =
        (format!("https://{IN}"), file("roots.pem"), file("token-ca.pem"), file("pins.json"));
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let flags = ["verify", &url, "--roots", &roots, "--token-roots", &token, "--pins", &pins, "--max-age", "1h"];
    let more = ["--cert", &cert, "--cert-key", &key];
    let all = |last: &[&str]| scene.world.countersign(&[&flags[..], &more, last].concat()).run();
    all(&["--expect", API]).expect_code(0);
    // Nobody named is nobody expected.
    assert!(all(&[]).expect_code(64).stderr.contains("--expect"), "a flag is named");
    // What only a report could show is not passed over.
    all(&["--expect", API, "--vmpl", "1"]).expect_code(64);
}

fn a_sidecar_that_demands_evidence_is_judged_all_the_same() {
    let scene = Scene::new("both", "snp");
    let api = scene.api();
    let api = scene.start(&api);
    let laptop = Laptop::new(&scene, "verify-both");
    let run = laptop.verify().expect_code(0);
    assert_eq!(check(&run, "peer.session"), "held");
    eventually("its log says why nobody came", || api.said().contains("no-evidence"));
    drop(api);
    // Without roots it wants to see first, and shows nothing to a laptop.
    let scene = Scene::new("evidence", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "verify-evidence");
    laptop.policy(|policy| policy["roots"] = Value::Null);
    let run = laptop.verify().expect_code(71);
    assert!(run.stderr.contains("demands evidence"), "{}", run.output());
}

fn a_sidecars_machine_vouches_for_it_where_that_is_demanded() {
    let scene = Scene::new("members", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "verify-hardware");
    laptop.policy(|policy| policy["level"] = json!("hardware"));
    let (url, policy) = (format!("https://{IN}"), laptop.policy_file());
    let verify = || scene.world.sim(&["verify", &url, "--policy", &policy, "--json"]).makers().run();
    let run = verify().expect_code(0);
    assert_eq!(check(&run, "peer.hardware"), "held", "{}", run.output());
    // What ships knows AMD, and this machine is not AMD's.
    let run = laptop.verify().expect_code(79);
    assert_eq!(check(&run, "peer.hardware"), "failed", "{}", run.output());
    let run = laptop.connect(&["--stdio"]).expect_code(79);
    assert!(run.stderr.contains("no trusted root of AMD's"), "{}", run.output());
    // A machine that says something else, under the same good key.
    api.signer.set("snp+other-measurement").unwrap();
    assert_eq!(check(&verify().expect_code(79), "peer.hardware"), "failed");
    api.signer.set("errno:5").unwrap();
    assert_eq!(check(&verify().expect_code(79), "peer.evidence"), "failed");
    laptop.policy(|policy| policy["level"] = json!("some"));
    assert!(verify().expect_code(64).stderr.contains("neither key nor hardware"));
}

fn a_sidecar_that_is_not_as_pinned_is_refused_by_verify() {
    let scene = Scene::new("members", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "verify-other");
    let refused = |code: i32, id: &str| {
        let run = laptop.verify().expect_code(code);
        assert_eq!(check(&run, id), "failed", "{}", run.output());
    };
    let pins = |change: &dyn Fn(&mut Value)| laptop.file("pins.json", &scene.pins(1, |peers| change(peers)));
    pins(&|peers| peers[API]["init_data"] = json!(["dd".repeat(48)]));
    refused(86, "peer.evidence");
    pins(&|peers| peers[API]["hardware_ids"] = json!(["c2".repeat(64)]));
    refused(86, "peer.evidence");
    pins(&|_| {});
    laptop.policy(|policy| policy["expect"] = json!(WEB));
    refused(86, "expect.identity");
    laptop.policy(|_| {});
    // Others' roots: of tokens, and of the mesh.
    laptop.file("token-ca.pem", Ca::new("others").pem());
    refused(79, "peer.evidence");
    laptop.file("token-ca.pem", &scene.kbs.token_root());
    laptop.file("roots.pem", Ca::new("others").pem());
    refused(79, "certificate.chain");
    laptop.file("roots.pem", scene.mesh.pem());
    // A caller whom the sidecar does not know learns nothing of it.
    laptop.is(&Ca::new("others"));
    let run = laptop.verify().expect_code(69);
    assert!(run.stderr.contains("[[inbound]].allow"), "{}", run.output());
    laptop.is(&scene.mesh);
    laptop.verify().expect_code(0);
}

fn half_of_what_a_proof_takes_is_refused() {
    let scene = Scene::new("members", "snp");
    let laptop = Laptop::new(&scene, "verify-half");
    for key in ["token_roots", "pins", "max_age", "cert", "cert_key"] {
        laptop.policy(|policy| policy[key] = Value::Null);
        let run = laptop.verify().expect_code(64);
        assert!(run.stderr.contains(&format!("--{}", key.replace('_', "-"))), "{key}: {}", run.output());
    }
    for age in ["0s", "59s", "25h", "1", "soon"] {
        laptop.policy(|policy| policy["max_age"] = json!(age));
        laptop.verify().expect_code(64);
    }
    // None of it is held to a file.
    laptop.policy(|_| {});
    let (policy, file) = (laptop.policy_file(), laptop.file("leaf.pem", scene.mesh.member(API).pem()));
    scene.world.countersign(&["verify", &file, "--policy", &policy]).run().expect_code(64);
}

fn a_laptop_speaks_to_a_pod_through_a_proven_tunnel() {
    let scene = Scene::new("members", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let api = scene.start(&api);
    let laptop = Laptop::new(&scene, "connect");
    let tunnel = laptop.tunnel(NEAR);
    for _ in 0..3 {
        let reply = mesh::plain(&scene.world, NEAR, "GET /hello HTTP/1.1\r\nhost: api\r\n\r\n");
        assert_eq!(reply.unwrap().status, 200, "{} {}", tunnel.said(), api.said());
    }
    assert_eq!(app.count(), 3);
    // Each was proven: the first look, and three.
    assert_eq!(scene.called("accepted"), 4);
    assert!(laptop.is_open(), "where other tests see nothing");
    drop(tunnel);
    // A unix socket, for the user alone.
    let path = laptop.directory.join("db.sock");
    let tunnel = laptop.tunnel(&format!("unix:{}", path.display()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(ASK).unwrap();
    assert_eq!(mesh::read_reply(&mut stream).unwrap().status, 200, "{}", tunnel.said());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

fn one_connection_goes_over_standard_input_and_output() {
    let scene = Scene::new("members", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "stdio");
    let policy = laptop.policy_file();
    let connect = scene.world.countersign(&["connect", IN, "--policy", &policy, "--stdio"]);
    let run = connect.stdin(ASK.to_vec()).run().expect_code(0);
    assert!(run.stdout.starts_with("HTTP/1.1 200 OK\r\n"), "{}", run.output());
    laptop.policy(|policy| policy["expect"] = json!(WEB));
    let connect = scene.world.countersign(&["connect", IN, "--policy", &policy, "--stdio"]);
    let run = connect.stdin(ASK.to_vec()).run().expect_code(86);
    assert_eq!(run.stdout, "");
}

/// The verifier's clock is behind, so that nobody waits a minute: what the peer shows is nearly `max_age` old.
fn a_tunnels_connection_is_cut_when_the_peers_evidence_is_max_age_old() {
    const BEHIND: u64 = 45;
    let scene = Scene::new("members", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    scene.kbs.set_rule(Rule::on(Step::Attest, Fault::DatedBack(BEHIND)));
    let begun = Instant::now();
    let api = scene.start(&api);
    let laptop = Laptop::new(&scene, "age");
    laptop.policy(|policy| policy["max_age"] = json!("60s"));
    let tunnel = laptop.tunnel(NEAR);
    let mut live = scene.world.connect(NEAR).unwrap();
    live.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    live.write_all(ASK).unwrap();
    assert_eq!(mesh::read_reply(&mut live).unwrap().status, 200, "{} {}", tunnel.said(), api.said());
    let mut rest = Vec::new();
    let _ = live.read_to_end(&mut rest);
    // Clocks of evidence count whole seconds: one may be lost.
    assert!(rest.is_empty() && begun.elapsed() >= Duration::from_secs(60 - BEHIND - 1), "{:?}", begun.elapsed());
    eventually("it says why", || tunnel.said().contains("reason=\"stale-evidence\""));
    mesh::plain(&scene.world, NEAR, "GET / HTTP/1.1\r\nhost: api\r\n\r\n").expect_err("as old as before");
    assert_eq!(app.count(), 1);
    // The tunnel stands, and what is proven anew goes through it.
    scene.kbs.heal();
    eventually("there is new evidence", || {
        let _ = api.signal(Signal::HUP);
        mesh::plain(&scene.world, NEAR, "GET / HTTP/1.1\r\nhost: api\r\n\r\n").is_ok_and(|reply| reply.status == 200)
    });
}

fn a_peer_with_another_digest_gets_no_tunnel() {
    let scene = Scene::new("members", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    // The right name, the right certificate, and one byte more in the initdata.
    let api = scene.pod(scene.api_document("# x\n"), API_HEALTH);
    let started = scene.start(&api);
    let laptop = Laptop::new(&scene, "digest");
    let run = laptop.connect(&["--listen", NEAR]).expect_code(86);
    assert!(run.stderr.contains("not pinned for this identity"), "{}", run.output());
    assert!(!laptop.is_open() && app.count() == 0);
    // One that takes the place of a good one while the tunnel is open gets nothing either.
    laptop.file(
        "pins.json",
        &scene.pins(1, |peers| {
            peers[API]["init_data"] = json!([countersign_testbed::tee::hex(&scene.api_document("# x\n").digest())]);
        }),
    );
    let tunnel = laptop.tunnel(NEAR);
    assert_eq!(mesh::plain(&scene.world, NEAR, "GET / HTTP/1.1\r\nhost: api\r\n\r\n").unwrap().status, 200);
    drop(started);
    let other = scene.api();
    let _other = scene.start(&other);
    mesh::plain(&scene.world, NEAR, "GET / HTTP/1.1\r\nhost: api\r\n\r\n").expect_err("no answer");
    eventually("it says why", || tunnel.said().contains("other-initdata"));
    assert_eq!(app.count(), 1);
}

fn a_peer_with_another_identity_gets_no_tunnel() {
    let scene = Scene::new("members", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "identity");
    laptop.policy(|policy| policy["expect"] = json!(WEB));
    let run = laptop.connect(&["--listen", NEAR]).expect_code(86);
    assert!(run.stderr.contains("not-allowed"), "{}", run.output());
    assert!(!laptop.is_open());
}

fn a_peer_without_evidence_gets_no_tunnel() {
    // A good certificate of the mesh for the right name, and nothing beside it.
    let scene = Scene::new("members", "snp");
    let identity = scene.mesh.member(API);
    let (config, listener) = (mesh::bare_server(&identity, &scene.mesh), scene.world.listen(IN).unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).unwrap();
        }
        let mut got = Vec::new();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let _ = std::io::Read::read_to_end(&mut stream, &mut got);
        got
    });
    let laptop = Laptop::new(&scene, "none");
    let run = laptop.connect(&["--listen", NEAR]).expect_code(79);
    assert!(run.stderr.contains("no-evidence"), "{}", run.output());
    assert!(!laptop.is_open());
    assert_eq!(serving.join().unwrap(), b"", "no byte is sent to it");
}

fn a_peer_that_demands_evidence_of_a_laptop_is_told_as_such() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let api = scene.start(&api);
    let laptop = Laptop::new(&scene, "demands");
    let run = laptop.connect(&["--listen", NEAR]).expect_code(71);
    assert!(run.stderr.contains("demands evidence, and this side has none to give"), "{}", run.output());
    assert!(run.stderr.contains("trust = \"roots\""), "{}", run.output());
    eventually("its log says so too", || api.said().contains("no-evidence") && api.said().contains(WEB));
    assert_eq!(app.count(), 0);
}

fn nothing_is_listened_on_before_the_policy_is_read() {
    let scene = Scene::new("members", "snp");
    let api = scene.api();
    let _api = scene.start(&api);
    let laptop = Laptop::new(&scene, "policy");
    let refused = |code: i32, words: &str| {
        let run = laptop.connect(&["--listen", NEAR]).expect_code(code);
        assert!(run.stderr.contains(words), "{}", run.output());
        assert!(!laptop.is_open());
    };
    laptop.policy(|policy| policy["expects"] = json!(API));
    refused(78, "unknown field");
    laptop.policy(|policy| policy["expect"] = Value::Null);
    refused(78, "`expect`");
    laptop.policy(|policy| policy["expect"] = json!("spiffe://example.org/ns/payments/sa/*"));
    refused(78, "`expect`");
    laptop.policy(|policy| policy["vmpl"] = json!(1));
    refused(78, "pins");
    laptop.policy(|policy| policy["pins"] = Value::Null);
    refused(64, "--pins");
    let all = ["token_roots", "pins", "max_age", "cert", "cert_key"];
    laptop.policy(|policy| all.iter().for_each(|key| policy[*key] = Value::Null));
    refused(78, "what the peer must prove");
    laptop.policy(|_| {});
    laptop.file("pins.json", "{}");
    refused(64, "pins.json");
    laptop.file("pins.json", &scene.pins(1, |_| {}));
    laptop.file("key.pem", &scene.mesh.member(WEB).key_pem());
    refused(64, "does not belong to the private key");
    assert_eq!(scene.called("accepted"), 0, "nor is the peer dialled");
}

fn a_tunnel_is_loopback_only() {
    let scene = Scene::new("members", "snp");
    let laptop = Laptop::new(&scene, "loopback");
    for at in ["0.0.0.0:15999", "[::]:15999", "192.0.2.1:15999", "15999", "unix:db.sock"] {
        let run = laptop.connect(&["--listen", at]).expect_code(64);
        assert!(run.stderr.contains("--listen"), "{}", run.output());
    }
    laptop.connect(&[]).expect_code(64);
    laptop.connect(&["--listen", NEAR, "--stdio"]).expect_code(64);
}

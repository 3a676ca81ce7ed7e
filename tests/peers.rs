//! Evidence between peers: two pods, each a sidecar in a simulated TEE of its own, and everybody who is not
//! one of them. What one connection can be made to say, word by word, is in `src/tls/exchange/tests.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use countersign_testbed::guest::GuestApi;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{self, Peer, echo};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, SnpGuest, hex};
use countersign_testbed::world::World;
use countersign_testbed::{Signal, eventually};
use scene::{API, API_HEALTH, API_METRICS, ASK, IN, OUT, Scene, WEB, WEB_HEALTH, WEB_METRICS};
use serde_json::{Value, json};

countersign_testbed::main! {
    two_pods_with_everything_demanded_talk [GuestPort, Namespaces, Memory],
    a_pod_with_another_digest_is_refused_by_whoever_calls_it [GuestPort, Namespaces, Memory],
    a_pod_with_another_digest_is_refused_by_whoever_it_calls [GuestPort, Namespaces, Memory],
    a_pod_on_another_machine_is_refused [GuestPort, Namespaces, Memory],
    a_peer_that_does_not_speak_the_exchange_is_refused [GuestPort, Namespaces, Memory],
    whoever_only_claims_a_name_is_shown_nothing [GuestPort, Namespaces, Memory],
    a_caller_that_falls_silent_is_given_up_at_the_deadline [GuestPort, Namespaces, Memory],
    a_peer_that_never_answers_is_given_up_at_the_deadline [GuestPort, Namespaces, Memory],
    http_follows_the_exchange_and_evidence_is_shown_to_whoever_asks [GuestPort, Namespaces, Memory],
    an_outbound_reaches_the_configured_identity_and_no_other [GuestPort, Namespaces, Memory],
    an_app_dials_a_unix_socket [GuestPort, Namespaces, Memory],
    a_socket_that_cannot_be_made_is_said_before_anything_is_fetched [GuestPort, Namespaces, Memory],
    readers_of_metrics_are_asked_for_evidence_too [GuestPort, Namespaces, Memory],
    diagnose_reads_pins_and_evidence_as_the_sidecar_does [GuestPort, Namespaces, Memory],
    a_drain_waits_for_what_the_app_has_dialled [GuestPort, Namespaces, Memory],
    pins_that_are_replaced_end_live_connections [GuestPort, Namespaces, Memory],
    pins_that_go_back_replace_none [GuestPort, Namespaces, Memory],
    evidence_is_not_demanded_where_none_can_be_given [GuestPort, Namespaces, Memory],
    requests_share_one_proven_connection [GuestPort, Namespaces, Memory],
    more_requests_at_once_than_a_connection_takes_share_a_second_proven_one [GuestPort, Namespaces, Memory],
    requests_end_with_the_trust_in_their_peer [GuestPort, Namespaces, Memory],
    new_evidence_is_shown_on_a_new_connection_before_anybody_asks [GuestPort, Namespaces, Memory],
}

fn two_pods_with_everything_demanded_talk() {
    for (trust, tee) in [("evidence", "snp"), ("both", "snp"), ("evidence", "tdx")] {
        let scene = Scene::new(trust, tee);
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        let (api, web) = (scene.api(), scene.web());
        let (api, web) = (scene.start(&api), scene.start(&web));
        for _ in 0..3 {
            assert_eq!(scene.through().unwrap(), 200, "{trust} {tee}: {} {}", api.said(), web.said());
        }
        assert_eq!(app.count(), 3);
        assert_eq!((scene.called("accepted"), scene.dialled("connected")), (3, 3));
        // Tokens, machines and digests are for members, not for logs.
        for said in [api.said(), web.said()] {
            for private in ["eyJ", "c1c1c1c1", &hex(&scene.api_document("").digest())] {
                assert!(!said.contains(private), "{private} in {said}");
            }
        }
    }
}

fn a_pod_with_another_digest_is_refused_by_whoever_calls_it() {
    for trust in ["evidence", "both"] {
        let scene = Scene::new(trust, "snp");
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        // The right name, the right certificate, and one byte more in the initdata.
        let (api, web) = (scene.pod(scene.api_document("# x\n"), API_HEALTH), scene.web());
        let (_api, web) = (scene.start(&api), scene.start(&web));
        scene.through().expect_err("no answer");
        assert_eq!(scene.dialled("other-initdata"), 1, "{}", web.said());
        eventually("the log says why", || web.said().contains("not pinned for this identity"));
        assert_eq!(app.count(), 0);
    }
}

fn a_pod_with_another_digest_is_refused_by_whoever_it_calls() {
    for trust in ["evidence", "both"] {
        let scene = Scene::new(trust, "snp");
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        let web = scene.web_document(API).entry("note.txt", "x");
        let (api, web) = (scene.api(), scene.pod(web, WEB_HEALTH));
        let (api, _web) = (scene.start(&api), scene.start(&web));
        scene.through().expect_err("no answer");
        eventually("it is counted", || scene.called("other-initdata") == 1);
        eventually("the log says whom", || api.said().contains(WEB));
        assert_eq!(app.count(), 0, "no byte reaches the app");
    }
}

fn a_pod_on_another_machine_is_refused() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let elsewhere = SnpGuest { chip_id: [0xc2; 64], ..SnpGuest::genoa() };
    let signer = Signer::answering("snp").snp(elsewhere);
    let (api, web) = (scene.pod_on(scene.api_document(""), API_HEALTH, signer), scene.web());
    let (_api, web) = (scene.start(&api), scene.start(&web));
    scene.through().expect_err("no answer");
    assert_eq!(scene.dialled("other-hardware"), 1, "{}", web.said());
    assert_eq!(app.count(), 0);
}

fn a_peer_that_does_not_speak_the_exchange_is_refused() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let api = scene.start(&api);
    // A good certificate of the mesh, and nothing beside it.
    let member = scene.mesh.member(WEB);
    let mut peer = Peer::connect(&scene.world, IN, Some(&member), &[]).unwrap();
    peer.get("/").expect_err("no answer");
    eventually("it is counted", || scene.called("no-evidence") == 1);
    eventually("the log says whom, and why", || api.said().contains("no-evidence") && api.said().contains(WEB));
    assert_eq!(app.count(), 0);
}

fn whoever_only_claims_a_name_is_shown_nothing() {
    let scene = Scene::new("evidence", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let _api = scene.start(&api);
    // Without roots anybody can make a certificate with any name.
    let claimed = Ca::new("nobody").member(WEB);
    let mut peer = Peer::connect(&scene.world, IN, Some(&claimed), &["countersign/1+tcp"]).unwrap();
    assert_eq!(peer.alpn().as_deref(), Some("countersign/1+tcp"));
    // A hello that demands evidence, and none to give.
    let hello = [&[1, 0, 0, 0, 33, 1][..], &[7; 32]].concat();
    peer.write_all(&hello).unwrap();
    peer.write_all(&[5, 0, 0, 0, 0]).unwrap();
    let mut got = Vec::new();
    let _ = peer.read_to_end(&mut got);
    assert_eq!(got.len(), 38, "a hello, and nothing of the guest's");
    assert_eq!(got[..6], [1, 0, 0, 0, 33, 3], "which demands, and wants to see first");
    eventually("it is counted", || scene.called("no-evidence") == 1);
}

/// All that a handshake and the exchange behind it may take. Below the patience of a test's own connections.
const DEADLINE: Duration = Duration::from_secs(10);

fn a_caller_that_falls_silent_is_given_up_at_the_deadline() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let api = scene.api();
    let _api = scene.start(&api);
    // A good certificate of the mesh; then nothing, or a hello and nothing behind it.
    let member = scene.mesh.member(WEB);
    let begun = Instant::now();
    let connect = || Peer::connect(&scene.world, IN, Some(&member), &["countersign/1+tcp"]).unwrap();
    let (mut silent, mut greeting) = (connect(), connect());
    greeting.write_all(&[&[1, 0, 0, 0, 33, 0][..], &[7; 32]].concat()).unwrap();
    for (peer, answer) in [(&mut silent, 0), (&mut greeting, 38)] {
        let mut got = Vec::new();
        let ended = peer.read_to_end(&mut got);
        assert!(!is_our_own_patience(&ended), "it is never closed");
        assert_eq!(got.len(), answer, "a hello at most, and nothing of the guest's");
        assert!(begun.elapsed() >= DEADLINE, "too early: {:?}", begun.elapsed());
    }
    eventually("both are counted", || scene.called("too-slow") == 2);
    assert_eq!(app.count(), 0);
}

fn a_peer_that_never_answers_is_given_up_at_the_deadline() {
    let scene = Scene::new("both", "snp");
    let listener = scene.world.listen(IN).unwrap();
    let member = scene.mesh.member(API);
    let web = scene.web();
    let web = scene.start(&web);
    let begun = Instant::now();
    let mut app = scene.world.connect(OUT).unwrap();
    app.set_read_timeout(Some(DEADLINE * 2)).unwrap();
    app.write_all(ASK).unwrap();
    // The handshake, its hello, and no answer.
    let (raw, _) = listener.accept().unwrap();
    let mut peer = mesh::receive(raw, &member, &["countersign/1+tcp"]).unwrap();
    let mut hello = [0; 38];
    peer.read_exact(&mut hello).unwrap();
    assert_eq!(hello[..6], [1, 0, 0, 0, 33, 1], "a hello that demands evidence");
    let mut rest = Vec::new();
    let ended = peer.read_to_end(&mut rest);
    assert!(!is_our_own_patience(&ended) && rest.is_empty(), "it is closed, and nothing more is sent");
    assert!(begun.elapsed() >= DEADLINE, "too early: {:?}", begun.elapsed());
    let ended = app.read_to_end(&mut rest);
    assert!(!is_our_own_patience(&ended) && rest.is_empty(), "so is the app's");
    assert_eq!(scene.dialled("too-slow"), 1, "{}", web.said());
}

/// Whether a read ended because the test would wait no longer, and not because the other side closed.
fn is_our_own_patience(ended: &std::io::Result<usize>) -> bool {
    matches!(ended, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn http_follows_the_exchange_and_evidence_is_shown_to_whoever_asks() {
    let scene = Scene::new("roots", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let inbound = format!(
        "[health]\nlisten = \"{API_HEALTH}\"\n[[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nallow = [\"{WEB}\"]\n"
    );
    let api = scene.pod(scene.document("api", API, &inbound), API_HEALTH);
    let _api = scene.start(&api);
    let member = scene.mesh.member(WEB);
    let connect = |alpn: &str, demands: u8| {
        // Ours is chosen although the plain one stands first.
        let mut peer = Peer::connect(&scene.world, IN, Some(&member), &["h2", "http/1.1", alpn]).unwrap();
        assert_eq!(peer.alpn().as_deref(), Some(alpn));
        peer.write_all(&[&[1, 0, 0, 0, 33, demands][..], &[7; 32]].concat()).unwrap();
        let mut hello = [0; 38];
        peer.read_exact(&mut hello).unwrap();
        assert_eq!(hello[..6], [1, 0, 0, 0, 33, 0], "a hello that demands nothing");
        peer
    };
    assert_eq!(connect("countersign/1+http/1.1", 0).get("/").unwrap().status, 200);
    // The preface of HTTP/2 with empty settings; the answer begins with settings (type 4).
    let mut peer = connect("countersign/1+h2", 0);
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    peer.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4);
    // Whoever asks is shown a token, a statement, a signature.
    let mut peer = connect("countersign/1+http/1.1", 1);
    for (kind, begins) in [(2, "eyJ"), (3, "{\"exporter\":"), (4, "")] {
        let mut head = [0; 5];
        peer.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        peer.read_exact(&mut payload).unwrap();
        assert!(head[0] == kind && payload.starts_with(begins.as_bytes()), "{kind}");
    }
    assert_eq!(peer.get("/").unwrap().status, 200);
}

fn an_outbound_reaches_the_configured_identity_and_no_other() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let other = scene.web_document("spiffe://example.org/ns/payments/sa/db");
    let (api, web) = (scene.api(), scene.pod(other, WEB_HEALTH));
    let (api, web) = (scene.start(&api), scene.start(&web));
    scene.through().expect_err("no answer");
    assert_eq!(scene.dialled("not-allowed"), 1, "{}", web.said());
    assert_eq!(app.count(), 0);
    // Nobody there at all.
    drop(api);
    scene.through().expect_err("no answer");
    let unreachable = format!("countersign_outbound_unreachable_total{{outbound=\"{OUT}\"}}");
    assert_eq!(scene.metric(WEB_METRICS, &unreachable), 1, "{}", web.said());
}

fn an_app_dials_a_unix_socket() {
    let scene = Scene::new("both", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let directory = std::env::temp_dir().join(format!("countersign-peers-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("api.sock");
    let document = scene.web_dialled_at(&format!("unix:{}", path.display()), API);
    scene.pin(1, |peers| peers[WEB]["init_data"] = json!([hex(&document.digest())]));
    let (api, web) = (scene.api(), scene.pod(document, WEB_HEALTH));
    let (_api, web) = (scene.start(&api), scene.start(&web));
    let mut app = UnixStream::connect(&path).unwrap();
    app.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    app.write_all(ASK).unwrap();
    assert_eq!(mesh::read_reply(&mut app).unwrap().status, 200, "{}", web.said());
    drop(web);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn a_socket_that_cannot_be_made_is_said_before_anything_is_fetched() {
    let scene = Scene::new("both", "snp");
    let document = scene.web_dialled_at("unix:/no/such/directory/api.sock", API);
    let pod = scene.pod(document, WEB_HEALTH);
    let sim = scene.world.sim(&[]).arg("sidecar").tee(&pod.signer).initdata(pod.document.text());
    let run = sim.run().expect_code(78);
    assert!(run.stderr.contains("`outbound.listen` unix:/no/such/directory/api.sock"), "{}", run.stderr);
}

fn readers_of_metrics_are_asked_for_evidence_too() {
    for trust in ["evidence", "both"] {
        let scene = Scene::new(trust, "snp");
        let at = "127.0.0.1:15823";
        let api = format!(
            "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{at}\"\nallow = [\"{WEB}\"]\n\
             [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nallow = [\"{WEB}\"]\n"
        );
        let web = format!(
            "[health]\nlisten = \"{WEB_HEALTH}\"\n[[outbound]]\nlisten = \"{OUT}\"\nto = \"{at}\"\npeer = \"{API}\"\n"
        );
        let (api, web) = (scene.document("api", API, &api), scene.document("web", WEB, &web));
        scene.pin(1, |peers| {
            peers[API]["init_data"] = json!([hex(&api.digest())]);
            peers[WEB]["init_data"] = json!([hex(&web.digest())]);
        });
        let (api, web) = (scene.pod(api, API_HEALTH), scene.pod(web, WEB_HEALTH));
        let (api, web) = (scene.start(&api), scene.start(&web));
        // A good certificate, on the list, and nothing beside it.
        let member = scene.mesh.member(WEB);
        for alpn in [&[][..], &["http/1.1"]] {
            let mut peer = Peer::connect(&scene.world, at, Some(&member), alpn).unwrap();
            peer.get("/metrics").expect_err("no answer");
        }
        eventually("the log says whom, and why", || api.said().contains("no-evidence") && api.said().contains(WEB));
        let page = mesh::plain(&scene.world, OUT, "GET /metrics HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
        assert_eq!(page.status, 200, "{trust}: {} {}", api.said(), web.said());
        let refused = format!("countersign_handshakes_total{{inbound=\"{at}\",result=\"no-evidence\"}} 2\n");
        assert!(page.body.contains(&refused), "{}", page.body);
    }
}

fn diagnose_reads_pins_and_evidence_as_the_sidecar_does() {
    for trust in ["evidence", "both"] {
        let scene = Scene::new(trust, "snp");
        let pod = scene.api();
        let asked = |id: &str| {
            let sim = scene.world.sim(&["diagnose", "--json"]).tee(&pod.signer).initdata(pod.document.text());
            let run = sim.time_limit(Duration::from_secs(90)).run();
            let text: String =
                run.stdout.lines().map(|line| line.strip_prefix("SIMULATED: ").unwrap_or(line)).collect();
            let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}", run.output()));
            let checks = said["checks"].as_array().unwrap().clone();
            checks.into_iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}: {said:#}"))
        };
        let read = asked("sidecar.trust");
        assert_eq!(read["state"], "pass", "{read:#}");
        assert!(read["saw"].as_str().unwrap().contains("the pins of kbs:///payments/mesh/pins"), "{read:#}");
        let shown = asked("sidecar.certificate");
        assert_eq!(shown["state"], "pass", "{shown:#}");
        assert!(shown["saw"].as_str().unwrap().contains("with evidence for peers"), "{shown:#}");
        scene.kbs.set_resource("payments/mesh/pins", "{}");
        let read = asked("sidecar.trust");
        assert_eq!((&read["state"], &read["class"]), (&json!("fail"), &json!("content-refused")), "{read:#}");
    }
}

fn a_drain_waits_for_what_the_app_has_dialled() {
    let scene = Scene::new("both", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (api, web) = (scene.api(), scene.web());
    let (_api, web) = (scene.start(&api), scene.start(&web));
    let mut live = scene.live();
    web.signal(Signal::TERM).unwrap();
    eventually("it drains", || mesh::status(&scene.world, WEB_HEALTH, "/readyz") == 503);
    live.write_all(ASK).unwrap();
    assert_eq!(mesh::read_reply(&mut live).unwrap().status, 200, "what is open goes on");
    drop(live);
    web.wait().expect_code(0);
}

fn pins_that_are_replaced_end_live_connections() {
    let scene = Scene::new("both", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (api, web) = (scene.api(), scene.web());
    let (api, _web) = (scene.start(&api), scene.start(&web));
    let mut live = scene.live();
    scene.pin(2, |peers| peers[WEB]["init_data"] = json!(["dd".repeat(48)]));
    // A renewal that is asked for within half a second of the last is not made.
    std::thread::sleep(Duration::from_millis(600));
    api.signal(Signal::HUP).unwrap();
    let mut rest = Vec::new();
    let _ = live.read_to_end(&mut rest);
    eventually("it is counted", || {
        scene.metric(API_METRICS, &format!("countersign_connections_withdrawn_total{{inbound=\"{IN}\"}}")) == 1
    });
    scene.through().expect_err("nor does it come in again");
}

fn pins_that_go_back_replace_none() {
    let scene = Scene::new("both", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    scene.pin(5, |_| {});
    let (api, web) = (scene.api(), scene.web());
    let (api, _web) = (scene.start(&api), scene.start(&web));
    scene.pin(4, |peers| peers[WEB]["init_data"] = json!(["dd".repeat(48)]));
    std::thread::sleep(Duration::from_millis(600));
    api.signal(Signal::HUP).unwrap();
    eventually("it is told", || api.said().contains("`serial` 4, and 5 has been seen"));
    assert_eq!(scene.through().unwrap(), 200, "what stood, stands");
}

fn evidence_is_not_demanded_where_none_can_be_given() {
    let scene = Scene::new("evidence", "snp");
    // Measured, and over CDH: token and key stay with the guest's services.
    let guest = GuestApi::healthy()
        .secret("payments/trustee/token-ca", scene.kbs.token_root())
        .secret("payments/mesh/pins", "{\"serial\":1,\"policy_ids\":[\"default\"],\"peers\":{\"dns:x\":{\"init_data\":[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"],\"hardware\":\"any\"}}}");
    let text = "version = 1\nserial = 1\nfor = { namespace = \"payments\", workload = \"api\" }\n[kbs]\nvia = [\"cdh\"]\n\
                [identity]\nsource = \"self\"\nspiffe = \"spiffe://example.org/ns/payments/sa/api\"\n\
                [peers]\ntrust = \"evidence\"\n[peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\n\
                pins = \"kbs:///payments/mesh/pins\"\nmax_age = \"1h\"\n\
                [[inbound]]\nlisten = \"127.0.0.1:9443\"\napp = \"127.0.0.1:8080\"\nallow = [\"spiffe://example.org/ns/web/sa/front\"]\n";
    let guest = guest.secret("default/countersign/payments.api", text);
    let world = World::new().unwrap().guest(guest);
    let run = world
        .countersign(&[])
        .env("COUNTERSIGN_ROLE", "sidecar")
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "api")
        .run()
        .expect_code(78);
    assert!(run.stderr.contains("came over CDH"), "{}", run.stderr);
    let document = Document::of_kbs("http://127.0.0.1:1", "").countersign(text);
    let signer = world.signer(Signer::answering("snp").launched_with(&document.digest()));
    signer.set("snp").unwrap();
    let run = world.sim(&[]).arg("sidecar").tee(&signer).initdata(document.text()).run().expect_code(78);
    assert!(run.stderr.contains("gives this guest none of its own"), "{}", run.stderr);
}

/// Two pods that speak HTTP with each other, pinned by what they are.
fn requests_share_one_proven_connection() {
    for trust in ["evidence", "both"] {
        let scene = Scene::new(trust, "snp");
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        let (api, web) = scene.of_http();
        let (api, web) = (scene.start(&api), scene.start(&web));
        for _ in 0..5 {
            assert_eq!(scene.through().unwrap(), 200, "{trust}: {} {}", api.said(), web.said());
        }
        assert_eq!((app.count(), scene.called("accepted"), scene.dialled("connected")), (5, 1, 1));
    }
}

/// Requests that one connection of HTTP/2 takes at once (docs/sidecar.md).
const AT_ONCE: u64 = 100;

fn more_requests_at_once_than_a_connection_takes_share_a_second_proven_one() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (api, web) = scene.of_http();
    let (_api, web) = (scene.start(&api), scene.start(&web));
    // Each is under way until its body's one byte is sent.
    let begin = || {
        let mut socket = scene.world.connect(OUT).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(b"POST /held HTTP/1.1\r\nhost: api\r\ncontent-length: 1\r\n\r\n").unwrap();
        socket
    };
    let active = format!("countersign_requests_active{{inbound=\"{IN}\"}}");
    let under_way = |count| eventually("they are under way", || scene.metric(API_METRICS, &active) == count);
    for connections in [1, 2] {
        let mut held: Vec<_> = (0..AT_ONCE).map(|_| begin()).collect();
        under_way(AT_ONCE);
        // The second round finds what the first one made.
        assert_eq!(scene.dialled("connected"), connections);
        held.push(begin());
        under_way(AT_ONCE + 1);
        assert_eq!((scene.dialled("connected"), scene.called("accepted")), (2, 2), "proven both");
        for mut socket in held {
            socket.write_all(b"x").unwrap();
            assert_eq!(mesh::read_reply(&mut socket).unwrap().status, 200, "{}", web.said());
        }
        under_way(0);
    }
    assert_eq!((scene.dialled("connected"), scene.called("accepted")), (2, 2), "{}", web.said());
    assert_eq!(app.count_of("/held"), 202);
}

fn requests_end_with_the_trust_in_their_peer() {
    let scene = Scene::new("both", "snp");
    let app = mesh::app(&scene.world, "127.0.0.1:8080", |seen| match seen.path.as_str() {
        "/slow" => vec![Act::Silence],
        _ => echo(seen),
    });
    let (api, web) = scene.of_http();
    let (_api, web) = (scene.start(&api), scene.start(&web));
    assert_eq!(scene.through().unwrap(), 200, "{}", web.said());
    // A POST: a request that may be made twice would be made again, and refused then.
    let mut live = scene.world.connect(OUT).unwrap();
    live.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    live.write_all(b"POST /slow HTTP/1.1\r\nhost: api\r\ncontent-length: 0\r\n\r\n").unwrap();
    eventually("it is under way", || app.count() == 2);
    scene.pin(2, |peers| peers[API]["init_data"] = json!(["dd".repeat(48)]));
    eventually("the connection is cut", || {
        let _ = web.signal(Signal::HUP);
        scene.metric(WEB_METRICS, &format!("countersign_outbound_withdrawn_total{{outbound=\"{OUT}\"}}")) == 1
    });
    let reply = mesh::read_reply(&mut live).unwrap();
    assert!(reply.status == 502 && reply.body.contains("\"peer-broken\""), "{} {}", reply.head, reply.body);
    let reply = mesh::plain(&scene.world, OUT, "GET / HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    assert!(
        reply.status == 502 && reply.body.contains("\"reason\":\"other-initdata\""),
        "{} {}",
        reply.head,
        reply.body
    );
    assert_eq!(app.count(), 2, "nothing more has come");
}

fn new_evidence_is_shown_on_a_new_connection_before_anybody_asks() {
    let scene = Scene::new("evidence", "snp");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (api, web) = scene.of_http();
    let (_api, web) = (scene.start(&api), scene.start(&web));
    assert_eq!(scene.through().unwrap(), 200, "{}", web.said());
    eventually("another connection is made", || {
        let _ = web.signal(Signal::HUP);
        scene.dialled("connected") >= 2
    });
    // It has not been used: where nobody asks, none is made in its place.
    let open = format!("countersign_outbound_connections_open{{outbound=\"{OUT}\"}}");
    eventually("the first one is closed", || scene.metric(WEB_METRICS, &open) <= 1);
    assert_eq!(scene.through().unwrap(), 200, "{}", web.said());
}

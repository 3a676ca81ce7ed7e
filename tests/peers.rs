//! Evidence between peers: two pods, each a sidecar in a simulated TEE of its own, and everybody who is not
//! one of them. What one connection can be made to say, word by word, is in `src/tls/exchange/tests.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use countersign_testbed::guest::GuestApi;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::mesh::{self, Peer, echo};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, Guest, SnpGuest, TdxGuest, hex};
use countersign_testbed::world::{RunningSigner, Started, World};
use countersign_testbed::{Signal, eventually};
use serde_json::{Value, json};

const API: &str = "spiffe://example.org/ns/payments/sa/api";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";
/// Where `api` is called, where `web`'s app dials, and the pods' own ports.
const IN: &str = "127.0.0.1:9443";
const OUT: &str = "127.0.0.1:15432";
const API_HEALTH: &str = "127.0.0.1:15821";
const API_METRICS: &str = "127.0.0.1:15822";
const WEB_HEALTH: &str = "127.0.0.1:15831";
const WEB_METRICS: &str = "127.0.0.1:15832";

const ASK: &[u8] = b"GET /hello HTTP/1.1\r\nhost: api\r\n\r\n";

countersign_testbed::main! {
    two_pods_with_everything_demanded_talk [GuestPort, Namespaces, Memory],
    a_pod_with_another_digest_is_refused_by_whoever_calls_it [GuestPort, Namespaces, Memory],
    a_pod_with_another_digest_is_refused_by_whoever_it_calls [GuestPort, Namespaces, Memory],
    a_pod_on_another_machine_is_refused [GuestPort, Namespaces, Memory],
    a_peer_that_does_not_speak_the_exchange_is_refused [GuestPort, Namespaces, Memory],
    whoever_only_claims_a_name_is_shown_nothing [GuestPort, Namespaces, Memory],
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
}

/// Two workloads, and the KBS and CA of both.
struct Scene {
    world: World,
    kbs: RunningKbs,
    mesh: Ca,
    trust: &'static str,
    tee: &'static str,
    kbs_ca: String,
}

/// One pod, not started yet.
struct Pod {
    signer: RunningSigner,
    document: Document,
    health: &'static str,
}

impl Scene {
    fn new(trust: &'static str, tee: &'static str) -> Self {
        let world = World::new().unwrap();
        let (ca, mesh) = (Ca::new("kbs"), Ca::new("mesh"));
        let mut kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("payments/mesh/roots", mesh.pem())
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()))
            .reference(&Guest::Tdx(TdxGuest::v4()));
        for (name, id) in [("api", API), ("web", WEB)] {
            let member = mesh.member(id);
            kbs = kbs.resource(&format!("payments/{name}/cert"), member.pem());
            kbs = kbs.resource(&format!("payments/{name}/key"), member.key_pem());
        }
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
        let scene = Self { world, kbs, mesh, trust, tee, kbs_ca: ca.pem().to_owned() };
        scene.pin(1, |_| {});
        scene
    }

    /// Pins both workloads by the digests of their documents, as `change` leaves them.
    fn pin(&self, serial: u64, change: impl FnOnce(&mut Value)) {
        let pin = |document: &Document| match self.tee {
            "snp" => json!({"init_data": [hex(&document.digest())], "hardware_ids": ["c1".repeat(64)]}),
            _ => json!({"init_data": [hex(&document.digest())], "hardware": "any"}),
        };
        let mut pins = json!({"serial": serial, "policy_ids": ["default"], "peers": {
            API: pin(&self.api_document("")), WEB: pin(&self.web_document(API)),
        }});
        change(&mut pins["peers"]);
        self.kbs.set_resource("payments/mesh/pins", pins.to_string());
    }

    fn document(&self, name: &str, id: &str, rest: &str) -> Document {
        let (url, ca) = (self.kbs.url(), &self.kbs_ca);
        let (identity, roots) = match self.trust {
            "evidence" => ("source = \"self\"".to_owned(), ""),
            "roots" => ("source = \"self\"".to_owned(), "roots = \"kbs:///payments/mesh/roots\"\n"),
            _ => (
                format!(
                    "source = \"kbs-certificate\"\ncertificate = \"kbs:///payments/{name}/cert\"\n\
                     key = \"kbs:///payments/{name}/key\""
                ),
                "roots = \"kbs:///payments/mesh/roots\"\n",
            ),
        };
        let trust = self.trust;
        let evidence = match trust {
            "roots" => "",
            _ => {
                "[peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\n\
                 pins = \"kbs:///payments/mesh/pins\"\nmax_age = \"1h\"\n"
            }
        };
        Document::of_kbs(&url, ca).countersign(&format!(
            "version = 1\nserial = 7\ndeadline = \"20s\"\n[kbs]\nurl = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n\
             [identity]\n{identity}\nspiffe = \"{id}\"\n[peers]\ntrust = \"{trust}\"\n{roots}{evidence}{rest}"
        ))
    }

    fn api_document(&self, comment: &str) -> Document {
        self.document(
            "api",
            API,
            &format!(
                "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{API_METRICS}\"\n\
                 [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nallow = [\"{WEB}\"]\n{comment}"
            ),
        )
    }

    fn web_document(&self, peer: &str) -> Document {
        self.web_dialled_at(OUT, peer)
    }

    fn web_dialled_at(&self, listen: &str, peer: &str) -> Document {
        self.document(
            "web",
            WEB,
            &format!(
                "[health]\nlisten = \"{WEB_HEALTH}\"\n[metrics]\nlisten = \"{WEB_METRICS}\"\n\
                 [[outbound]]\nlisten = \"{listen}\"\nto = \"{IN}\"\npeer = \"{peer}\"\n"
            ),
        )
    }

    fn pod(&self, document: Document, health: &'static str) -> Pod {
        self.pod_on(document, health, Signer::answering(self.tee))
    }

    fn pod_on(&self, document: Document, health: &'static str, signer: Signer) -> Pod {
        let signer = self.world.signer(signer.launched_with(&document.digest()));
        signer.set(self.tee).unwrap();
        Pod { signer, document, health }
    }

    fn api(&self) -> Pod {
        self.pod(self.api_document(""), API_HEALTH)
    }

    fn web(&self) -> Pod {
        self.pod(self.web_document(API), WEB_HEALTH)
    }

    fn start(&self, pod: &Pod) -> Started<'_> {
        let sim = self.world.sim(&[]).arg("sidecar").tee(&pod.signer).initdata(pod.document.text());
        let started = sim.time_limit(Duration::from_secs(90)).start();
        eventually("the sidecar is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            mesh::status(&self.world, pod.health, "/readyz") == 200
        });
        started
    }

    /// What `web`'s app hears through the tunnel.
    fn through(&self) -> std::io::Result<u16> {
        mesh::plain(&self.world, OUT, "GET /hello HTTP/1.1\r\nhost: api\r\n\r\n").map(|reply| reply.status)
    }

    /// A connection of `web`'s app that has been answered once.
    fn live(&self) -> TcpStream {
        let mut live = self.world.connect(OUT).unwrap();
        live.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        live.write_all(ASK).unwrap();
        assert_eq!(mesh::read_reply(&mut live).unwrap().status, 200);
        live
    }

    fn metric(&self, at: &str, line: &str) -> u64 {
        let page = mesh::plain(&self.world, at, "GET /metrics HTTP/1.1\r\nhost: pod\r\n\r\n").expect("metrics");
        let found = page.body.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {}", page.body))
    }

    fn called(&self, result: &str) -> u64 {
        self.metric(API_METRICS, &format!("countersign_handshakes_total{{inbound=\"{IN}\",result=\"{result}\"}}"))
    }

    fn dialled(&self, result: &str) -> u64 {
        let line = format!("countersign_outbound_handshakes_total{{outbound=\"{OUT}\",result=\"{result}\"}}");
        self.metric(WEB_METRICS, &line)
    }
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

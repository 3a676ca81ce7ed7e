//! The mesh's issuer: a pod of its own that holds the CA, and sidecars that it certifies. Each is the real
//! binary in a simulated TEE of its own. Requests that lie are in `forged`; what one can be made to say, word by
//! word, is in `src/tls/issue/tests.rs`; what a certificate can be asked to hold, in `src/issuance/ca/tests.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "issuer/forged.rs"]
mod forged;

use std::io::Read as _;
use std::time::Duration;

use countersign_testbed::guest::GuestApi;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::mesh::{self, Peer, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::tee::{Document, Guest, SnpGuest, hex};
use countersign_testbed::world::{RunningSigner, Started, World};
use countersign_testbed::{Signal, eventually};
use forged::{
    a_request_that_is_forged_is_given_nothing, a_request_that_is_said_again_is_given_nothing,
    a_stranger_is_shown_neither_attestation_result_nor_report,
};
use serde_json::{Value, json};

const ISSUER: &str = "spiffe://example.org/ns/mesh/sa/issuer";
const API: &str = "spiffe://example.org/ns/payments/sa/api";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";
/// Where the issuer is asked, `api` is called, `web`'s app dials, and the pods' own ports.
const DESK: &str = "127.0.0.1:8444";
const OTHER_DESK: &str = "127.0.0.2:8444";
const IN: &str = "127.0.0.1:9443";
const OUT: &str = "127.0.0.1:15432";
const OTHER_OUT: &str = "127.0.0.1:15433";
const DESK_HEALTH: &str = "127.0.0.1:15811";
const DESK_METRICS: &str = "127.0.0.1:15812";
const OTHER_DESK_HEALTH: &str = "127.0.0.2:15811";
const API_HEALTH: &str = "127.0.0.1:15821";
const API_METRICS: &str = "127.0.0.1:15822";
const WEB_HEALTH: &str = "127.0.0.1:15831";

countersign_testbed::main! {
    two_sidecars_with_the_issuers_certificates_talk [GuestPort, Namespaces, Memory],
    a_workload_with_another_digest_is_given_nothing [GuestPort, Namespaces, Memory],
    a_workload_that_is_pinned_nowhere_is_given_nothing [GuestPort, Namespaces, Memory],
    a_request_that_is_said_again_is_given_nothing [GuestPort, Namespaces, Memory],
    a_request_that_is_forged_is_given_nothing [GuestPort, Namespaces, Memory],
    a_stranger_is_shown_neither_attestation_result_nor_report [GuestPort, Namespaces, Memory],
    an_issuer_of_another_name_is_not_asked [GuestPort, Namespaces, Memory],
    an_issuer_that_is_not_pinned_is_not_believed [GuestPort, Namespaces, Memory],
    an_issuer_may_demand_the_word_of_the_machine_and_give_its_own [GuestPort, Namespaces, Memory],
    too_many_requests_of_one_identity_are_refused_by_name [GuestPort, Namespaces, Memory],
    the_machine_is_named_in_the_audit_line_only_where_the_configuration_says_so [GuestPort, Namespaces, Memory],
    an_issuers_metrics_are_read_by_those_on_the_list_who_have_proven_themselves [GuestPort, Namespaces, Memory],
    an_issuer_without_a_usable_ca_serves_nobody [GuestPort, Namespaces, Memory],
    a_ca_that_is_replaced_signs_what_comes_next [GuestPort, Namespaces, Memory],
    an_issuer_that_is_started_again_goes_on [GuestPort, Namespaces, Memory],
    two_replicas_give_alike [GuestPort, Namespaces, Memory],
    whoever_does_not_ask_is_gone_in_time [GuestPort, Namespaces, Memory],
    an_issuer_without_pins_does_not_start [GuestPort, Namespaces, Memory],
    evidence_for_an_issuer_comes_from_the_guest_or_not_at_all [GuestPort, Namespaces, Memory],
}

/// An issuer and two workloads, and the KBS of all.
struct Scene {
    world: World,
    kbs: RunningKbs,
    mesh: Ca,
    kbs_ca: String,
    trust: &'static str,
    /// What `[issuer]` says beyond the usual.
    issuing: &'static str,
    /// The same of its `[metrics]`.
    readers: &'static str,
    /// The same of `[kbs]`.
    via: &'static str,
    /// The same of `[peers.evidence]`.
    level: &'static str,
}

/// One pod, not started yet.
struct Pod {
    role: &'static str,
    signer: RunningSigner,
    document: Document,
    health: &'static str,
}

impl Scene {
    fn new(trust: &'static str, issuing: &'static str) -> Self {
        let world = World::new().unwrap();
        let (ca, mesh) = (Ca::new("kbs"), Ca::new("mesh"));
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("mesh/roots/pem", mesh.pem())
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()));
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        kbs.set_resource("mesh/trustee/token-ca", kbs.token_root());
        let scene =
            Self { world, kbs, mesh, kbs_ca: ca.pem().to_owned(), trust, issuing, readers: "", via: "", level: "" };
        scene.hold(&scene.mesh);
        scene.pin(1, |_| {});
        scene
    }

    /// The KBS holds this CA for the issuer.
    fn hold(&self, ca: &Ca) {
        self.kbs.set_resource("mesh/ca/certificate", ca.pem());
        self.kbs.set_resource("mesh/ca/key", ca.key_pem());
    }

    /// Pins all by the digests of their documents, as `change` leaves them.
    fn pin(&self, serial: u64, change: impl FnOnce(&mut Value)) {
        let pin = |documents: &[Document]| {
            let digests: Vec<String> = documents.iter().map(|document| hex(&document.digest())).collect();
            json!({"init_data": digests, "hardware_ids": ["c1".repeat(64)]})
        };
        let mut pins = json!({"serial": serial, "policy_ids": ["default"], "peers": {
            ISSUER: pin(&[self.issuer_document(DESK, DESK_HEALTH), self.issuer_document(OTHER_DESK, OTHER_DESK_HEALTH)]),
            API: pin(&[self.api_document(DESK, "")]),
            "dns:api.payments.svc": pin(&[self.api_document(DESK, "")]),
            WEB: pin(&[self.web_document(DESK)]),
        }});
        change(&mut pins["peers"]);
        self.kbs.set_resource("mesh/pins/json", pins.to_string());
    }

    fn document(&self, trust: &str, rest: &str) -> Document {
        let (url, ca, via) = (self.kbs.url(), &self.kbs_ca, self.via);
        let evidence = if trust == "both" {
            "[peers.evidence]\ntoken_roots = \"kbs:///mesh/trustee/token-ca\"\npins = \"kbs:///mesh/pins/json\"\nmax_age = \"1h\"\n".to_owned()
                + self.level
        } else {
            String::new()
        };
        Document::of_kbs(&url, ca).countersign(&format!(
            "version = 1\nserial = 7\ndeadline = \"30s\"\n[kbs]\n{via}url = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n\
             [peers]\ntrust = \"{trust}\"\nroots = \"kbs:///mesh/roots/pem\"\n{evidence}{rest}"
        ))
    }

    fn issuer_document(&self, listen: &str, health: &str) -> Document {
        let metrics = health.replace("15811", "15812");
        self.document(
            "both",
            &format!(
                "[issuer]\nlisten = \"{listen}\"\nspiffe = \"{ISSUER}\"\ncertificate = \"kbs:///mesh/ca/certificate\"\n\
                 key = \"kbs:///mesh/ca/key\"\n{}\n[health]\nlisten = \"{health}\"\n[metrics]\nlisten = \"{metrics}\"\n{}",
                self.issuing, self.readers
            ),
        )
    }

    fn workload(&self, id: &str, dns: &str, (desk, issuer): (&str, &str), rest: &str) -> Document {
        self.document(
            self.trust,
            &format!(
                "[identity]\nsource = \"issuer\"\nspiffe = \"{id}\"\ndns = [{dns}]\n\
                 [identity.issuer]\naddress = \"{desk}\"\nspiffe = \"{issuer}\"\n{rest}"
            ),
        )
    }

    fn api_document(&self, desk: &str, comment: &str) -> Document {
        self.api_asking(ISSUER, desk, comment)
    }

    fn api_asking(&self, issuer: &str, desk: &str, comment: &str) -> Document {
        self.workload(
            API,
            "\"api.payments.svc\"",
            (desk, issuer),
            &format!(
                "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{API_METRICS}\"\n\
                 [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nallow = [\"{WEB}\"]\n{comment}"
            ),
        )
    }

    fn web_document(&self, desk: &str) -> Document {
        let rest = format!(
            "[health]\nlisten = \"{WEB_HEALTH}\"\n[[outbound]]\nlisten = \"{OUT}\"\nto = \"{IN}\"\npeer = \"{API}\"\n"
        );
        self.workload(WEB, "", (desk, ISSUER), &rest)
    }

    fn pod(&self, role: &'static str, document: Document, health: &'static str) -> Pod {
        let signer = self.world.signer(Signer::answering("snp").launched_with(&document.digest()));
        signer.set("snp").unwrap();
        Pod { role, signer, document, health }
    }

    fn issuer(&self) -> Pod {
        self.pod("issuer", self.issuer_document(DESK, DESK_HEALTH), DESK_HEALTH)
    }

    fn api(&self) -> Pod {
        self.pod("sidecar", self.api_document(DESK, ""), API_HEALTH)
    }

    fn web(&self) -> Pod {
        self.pod("sidecar", self.web_document(DESK), WEB_HEALTH)
    }

    fn begin(&self, pod: &Pod) -> Started<'_> {
        let sim = self.world.sim(&[]).arg(pod.role).tee(&pod.signer).initdata(pod.document.text());
        sim.time_limit(Duration::from_secs(120)).start()
    }

    fn start(&self, pod: &Pod) -> Started<'_> {
        let started = self.begin(pod);
        eventually("it is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            mesh::status(&self.world, pod.health, "/readyz") == 200
        });
        started
    }

    /// A sidecar that gets no certificate: it ends with exit code 82. What it said.
    fn refused(&self, pod: &Pod) -> String {
        self.begin(pod).wait().expect_code(82).stderr
    }

    /// What `web`'s app hears through the tunnel.
    fn through(&self) -> std::io::Result<u16> {
        mesh::plain(&self.world, OUT, "GET /hello HTTP/1.1\r\nhost: api\r\n\r\n").map(|reply| reply.status)
    }

    fn metric(&self, at: &str, line: &str) -> u64 {
        let page = mesh::plain(&self.world, at, "GET /metrics HTTP/1.1\r\nhost: pod\r\n\r\n").expect("metrics");
        let found = page.body.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {}", page.body))
    }

    fn issued(&self) -> u64 {
        self.metric(DESK_METRICS, "countersign_certificates_issued_total")
    }

    fn denied(&self, reason: &str) -> u64 {
        self.metric(DESK_METRICS, &format!("countersign_certificates_refused_total{{reason=\"{reason}\"}}"))
    }

    fn renewals(&self) -> u64 {
        self.metric(API_METRICS, "countersign_certificate_renewals_total")
    }
}

/// Asks a pod to read everything, and to renew what it has, now.
fn renew(pod: &Started<'_>) {
    // A renewal that is asked for within half a second of the last is not made.
    std::thread::sleep(Duration::from_millis(600));
    pod.signal(Signal::HUP).unwrap();
}

fn two_sidecars_with_the_issuers_certificates_talk() {
    for trust in ["both", "roots"] {
        let scene = Scene::new(trust, "");
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        let (issuer, api, web) = (scene.issuer(), scene.api(), scene.web());
        let issuer = scene.start(&issuer);
        let (api, web) = (scene.start(&api), scene.start(&web));
        assert_eq!(scene.through().unwrap(), 200, "{trust}: {} {}", api.said(), web.said());
        assert_eq!((app.count(), scene.issued()), (1, 2));
        // One line for each, with what an audit asks for, and no machine in it.
        let said = issuer.said();
        let line = said.lines().find(|line| line.contains("certificate issued") && line.contains(API)).expect(&said);
        let digest = hex(&scene.api_document(DESK, "").digest());
        for part in [digest.get(..64).unwrap(), "dns:api.payments.svc", "serial=", "key=", "not_after="] {
            assert!(line.contains(part), "{part} in {line}");
        }
        for private in ["eyJ", "c1c1c1c1", "PRIVATE"] {
            assert!(!said.contains(private), "{private} in {said}");
        }
        renew(&api);
        eventually("it is renewed", || scene.renewals() == 2);
        assert_eq!(scene.through().unwrap(), 200);
    }
}

fn a_workload_with_another_digest_is_given_nothing() {
    let scene = Scene::new("both", "");
    let issuer = scene.issuer();
    let issuer = scene.start(&issuer);
    let said = scene.refused(&scene.pod("sidecar", scene.api_document(DESK, "# x\n"), API_HEALTH));
    assert!(said.contains("gives no certificate: not-entitled") && said.contains("pin the digest"), "{said}");
    assert_eq!((scene.denied("not-entitled"), scene.issued()), (1, 0));
    let audit = issuer.said();
    assert!(audit.contains("not pinned for this identity") && audit.contains(API), "{audit}");
}

fn a_workload_that_is_pinned_nowhere_is_given_nothing() {
    let scene = Scene::new("roots", "");
    scene.pin(1, |peers| {
        peers.as_object_mut().unwrap().remove("dns:api.payments.svc");
    });
    let issuer = scene.issuer();
    let _issuer = scene.start(&issuer);
    // The identity alone is pinned, and not the DNS name that is wanted beside it.
    assert!(scene.refused(&scene.api()).contains("not-entitled"));
    assert_eq!((scene.denied("not-entitled"), scene.issued()), (1, 0));
    let web = scene.web();
    scene.start(&web);
}

fn an_issuer_of_another_name_is_not_asked() {
    let scene = Scene::new("roots", "");
    let issuer = scene.issuer();
    let _issuer = scene.start(&issuer);
    let other = "spiffe://example.org/ns/mesh/sa/other";
    let said = scene.refused(&scene.pod("sidecar", scene.api_asking(other, DESK, ""), API_HEALTH));
    assert!(said.contains("it is not the configured one: not-allowed"), "{said}");
    assert_eq!(scene.issued(), 0);
    // Nor one whose CA is not the mesh's.
    scene.kbs.set_resource("mesh/roots/pem", Ca::new("another").pem());
    let said = scene.refused(&scene.api());
    assert!(said.contains("it is not the configured one: unknown-issuer"), "{said}");
    assert_eq!(scene.issued(), 0);
}

fn an_issuer_that_is_not_pinned_is_not_believed() {
    let scene = Scene::new("both", "");
    scene.pin(1, |peers| peers[ISSUER]["init_data"] = json!(["dd".repeat(48)]));
    let issuer = scene.issuer();
    let _issuer = scene.start(&issuer);
    let said = scene.refused(&scene.api());
    assert!(said.contains("of an initdata that is not pinned for this identity"), "{said}");
    // It has certified, and nobody serves with that: the requester ended without a certificate.
    assert_eq!(scene.issued(), 1);
}

fn an_issuer_may_demand_the_word_of_the_machine_and_give_its_own() {
    // Demanded of both: of the issuer by those who ask, and of them by it.
    let scene = Scene { level: "level = \"hardware\"\n", ..Scene::new("both", "") };
    scene.pin(1, |_| {});
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (issuer, api, web) = (scene.issuer(), scene.api(), scene.web());
    let desk = scene.start(&issuer);
    {
        let (api, web) = (scene.start(&api), scene.start(&web));
        assert_eq!(scene.through().unwrap(), 200, "{} {} {}", api.said(), web.said(), desk.said());
        assert_eq!(scene.issued(), 2);
    }
    // The issuer's machine says something else than was attested: nobody takes a certificate from it.
    issuer.signer.set("snp+other-measurement").unwrap();
    let said = scene.refused(&api);
    assert!(said.contains("has another measurement than the attestation result"), "{said}");
    drop(desk);
    // A requester that demands nothing of the kind is asked for it all the same, and declines where its host
    // hands it no certificate of its machine's key.
    let scene = Scene { level: "level = \"hardware\"\n", ..Scene::new("roots", "") };
    scene.pin(1, |_| {});
    let issuer = scene.issuer();
    let desk = scene.start(&issuer);
    let api = scene.api();
    drop(scene.start(&api));
    api.signer.set("snp+no-certificates").unwrap();
    let said = scene.refused(&api);
    assert!(said.contains("gives no certificate: bad-evidence"), "{said}");
    assert_eq!((scene.issued(), scene.denied("bad-evidence")), (1, 1));
    eventually("the audit line says why", || desk.said().contains("comes without the certificate of the key"));
}

fn too_many_requests_of_one_identity_are_refused_by_name() {
    let scene = Scene::new("both", "per_identity = 1");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (issuer, api, web) = (scene.issuer(), scene.api(), scene.web());
    let issuer = scene.start(&issuer);
    let api = scene.start(&api);
    renew(&api);
    eventually("it is refused", || scene.denied("too-many") >= 1);
    eventually("it says so", || api.said().contains("gives no certificate: too-many"));
    assert!(issuer.said().contains("issuer.per_identity"), "{}", issuer.said());
    assert_eq!(mesh::status(&scene.world, API_HEALTH, "/readyz"), 200, "what stands goes on");
    // Another identity has its own share.
    let _web = scene.start(&web);
    assert_eq!(scene.through().unwrap(), 200);
}

fn the_machine_is_named_in_the_audit_line_only_where_the_configuration_says_so() {
    let machine = "c1".repeat(64);
    for (key, named) in [("audit_hardware = false", false), ("audit_hardware = true", true)] {
        let scene = Scene::new("both", key);
        let (pod, web) = (scene.issuer(), scene.web());
        let issuer = scene.start(&pod);
        let _web = scene.start(&web);
        scene.refused(&scene.pod("sidecar", scene.api_document(DESK, "# x\n"), API_HEALTH));
        let said = issuer.said();
        let line = said.lines().find(|line| line.contains("certificate issued") && line.contains(WEB)).expect(&said);
        assert_eq!(line.contains(&format!("hardware=\"{machine}\"")), named, "{line}");
        // And in no other line: what was refused has proven nothing.
        assert!(said.contains("certificate refused"), "{said}");
        assert_eq!(said.lines().filter(|line| line.contains("c1c1c1c1c1c1")).count(), usize::from(named), "{said}");
        // It is for what is measured to say.
        let sim = scene.world.sim(&[]).arg("issuer").tee(&pod.signer).initdata(pod.document.text());
        let told = sim.env("COUNTERSIGN_ISSUER_AUDIT_HARDWARE", "true").run().expect_code(78).stderr;
        assert!(told.contains("COUNTERSIGN_ISSUER_AUDIT_HARDWARE"), "{told}");
    }
}

fn an_issuers_metrics_are_read_by_those_on_the_list_who_have_proven_themselves() {
    let readers = "allow_from = \"kbs:///mesh/readers/list\"\n";
    let scene = Scene { readers, ..Scene::new("both", "") };
    scene.kbs.set_resource("mesh/readers/list", json!([WEB]).to_string());
    // Both dial the issuer's metrics, each from a port of its own.
    let dials = |id: &str, health: &str, listen: &str| {
        let to = format!(
            "[health]\nlisten = \"{health}\"\n[[outbound]]\nlisten = \"{listen}\"\nto = \"{DESK_METRICS}\"\npeer = \"{ISSUER}\"\n"
        );
        scene.workload(id, "", (DESK, ISSUER), &to)
    };
    let (web, api) = (dials(WEB, WEB_HEALTH, OUT), dials(API, API_HEALTH, OTHER_OUT));
    scene.pin(1, |peers| {
        peers[WEB]["init_data"] = json!([hex(&web.digest())]);
        peers[API]["init_data"] = json!([hex(&api.digest())]);
    });
    let pod = scene.issuer();
    let issuer = scene.start(&pod);
    let (web, api) = (scene.pod("sidecar", web, WEB_HEALTH), scene.pod("sidecar", api, API_HEALTH));
    let (web, _api) = (scene.start(&web), scene.start(&api));
    assert_eq!(scene.metric(OUT, "countersign_certificates_issued_total"), 2, "{}", web.said());
    let receipt = mesh::plain(&scene.world, OUT, "GET /receipt HTTP/1.1\r\nhost: issuer\r\n\r\n").unwrap();
    assert_eq!(receipt.status, 404, "nothing is delivered to an issuer");
    let refused = |reason: &str| {
        let line = format!("countersign_handshakes_total{{inbound=\"{DESK_METRICS}\",result=\"{reason}\"}}");
        scene.metric(OUT, &line)
    };
    // Certified and proven, and not on the list; a stranger; one on the list by name who has proven nothing.
    let ask = "GET /metrics HTTP/1.1\r\nhost: issuer\r\n\r\n";
    mesh::plain(&scene.world, OTHER_OUT, ask).expect_err("api reads nothing");
    let gets_nothing = |identity: Option<&Identity>| {
        let got = Peer::connect(&scene.world, DESK_METRICS, identity, &["http/1.1"]);
        got.and_then(|mut peer| peer.get("/metrics")).expect_err("nothing is read");
    };
    gets_nothing(None);
    gets_nothing(Some(&scene.mesh.member(WEB)));
    for reason in ["not-allowed", "no-certificate", "no-evidence"] {
        eventually(reason, || refused(reason) == 1);
    }
    mesh::plain(&scene.world, DESK_METRICS, ask).expect_err("nothing is read in plain");
    // Who leaves the list reads no more.
    scene.kbs.set_resource("mesh/readers/list", json!([API]).to_string());
    renew(&issuer);
    eventually("the other one reads", || mesh::plain(&scene.world, OTHER_OUT, ask).is_ok());
    mesh::plain(&scene.world, OUT, ask).expect_err("web reads nothing any more");
}

fn an_issuer_without_a_usable_ca_serves_nobody() {
    let refused = |scene: &Scene, code: i32| {
        let issuer = scene.issuer();
        scene.begin(&issuer).wait().expect_code(code).stderr
    };
    let scene = Scene::new("both", "");
    let expired = Ca::expired("mesh");
    scene.hold(&expired);
    scene.kbs.set_resource("mesh/roots/pem", expired.pem());
    let said = refused(&scene, 82);
    assert!(said.contains("a CA signs nothing then"), "{said}");
    // One that peers have no root of.
    let scene = Scene::new("both", "");
    scene.hold(&Ca::new("other"));
    let said = refused(&scene, 82);
    assert!(said.contains("signs what peers would refuse") && said.contains("it is by another CA"), "{said}");
    // One whose key is another's.
    let scene = Scene::new("both", "");
    scene.kbs.set_resource("mesh/ca/key", Ca::new("other").key_pem());
    assert!(refused(&scene, 82).contains("does not belong to the key"));
    // None, and a sidecar that asks nevertheless.
    let scene = Scene::new("roots", "");
    let said = scene.refused(&scene.api());
    assert!(said.contains("the issuer at 127.0.0.1:8444: it takes no connection"), "{said}");
}

fn a_ca_that_is_replaced_signs_what_comes_next() {
    let scene = Scene::new("both", "");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (issuer, api, web) = (scene.issuer(), scene.api(), scene.web());
    let issuer = scene.start(&issuer);
    let (api, web) = (scene.start(&api), scene.start(&web));
    assert_eq!(scene.through().unwrap(), 200);
    // A new CA before its root is known: the old one goes on.
    let next = Ca::new("mesh");
    scene.hold(&next);
    renew(&issuer);
    eventually("it is refused", || issuer.said().contains("signs what peers would refuse"));
    assert_eq!(mesh::status(&scene.world, DESK_HEALTH, "/readyz"), 200);
    // Both roots, then the new CA. One sidecar is renewed before the other, and they talk all the same.
    scene.kbs.set_resource("mesh/roots/pem", format!("{}{}", scene.mesh.pem(), next.pem()));
    let published = || issuer.said().matches("CA, roots and pins read").count();
    let before = published();
    renew(&issuer);
    eventually("the new CA is read", || published() > before);
    renew(&api);
    eventually("api has a certificate by the new CA", || scene.renewals() == 2);
    // `web` has the old root alone until it reads the bundle.
    renew(&web);
    eventually("web knows both, and they talk", || scene.through().is_ok_and(|status| status == 200));
    // The old root goes.
    scene.kbs.set_resource("mesh/roots/pem", next.pem());
    renew(&api);
    eventually("api is renewed", || scene.renewals() == 3);
    assert_eq!(scene.through().unwrap(), 200);
}

fn an_issuer_that_is_started_again_goes_on() {
    let scene = Scene::new("both", "");
    let (pod, api) = (scene.issuer(), scene.api());
    let issuer = scene.start(&pod);
    let api = scene.start(&api);
    issuer.signal(Signal::TERM).unwrap();
    issuer.wait().expect_code(0);
    renew(&api);
    eventually("the renewal fails", || api.said().contains("takes no connection"));
    assert_eq!(mesh::status(&scene.world, API_HEALTH, "/readyz"), 200, "what stands goes on");
    assert_eq!(scene.renewals(), 1);
    let _issuer = scene.start(&pod);
    eventually("it is renewed by itself", || scene.renewals() == 2);
}

fn two_replicas_give_alike() {
    let scene = Scene::new("both", "");
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let web = scene.web_document(OTHER_DESK);
    scene.pin(1, |peers| peers[WEB]["init_data"] = json!([hex(&web.digest())]));
    let one = scene.issuer();
    let other = scene.pod("issuer", scene.issuer_document(OTHER_DESK, OTHER_DESK_HEALTH), OTHER_DESK_HEALTH);
    let (_one, other) = (scene.start(&one), scene.start(&other));
    let (api, web) = (scene.api(), scene.pod("sidecar", web, WEB_HEALTH));
    let (_api, _web) = (scene.start(&api), scene.start(&web));
    assert_eq!(scene.through().unwrap(), 200);
    assert_eq!(scene.issued(), 1);
    assert!(other.said().contains(WEB), "{}", other.said());
}

fn whoever_does_not_ask_is_gone_in_time() {
    let scene = Scene::new("roots", "");
    let issuer = scene.issuer();
    let _issuer = scene.start(&issuer);
    let ended = |alpn: &[&str]| {
        let mut peer = Peer::connect(&scene.world, DESK, None, alpn).unwrap();
        let mut got = Vec::new();
        let _ = peer.read_to_end(&mut got);
        assert!(got.is_empty(), "nothing is said to whoever says nothing");
    };
    let refused = |reason: &str| {
        scene.metric(DESK_METRICS, &format!("countersign_handshakes_total{{inbound=\"{DESK}\",result=\"{reason}\"}}"))
    };
    // Without our protocol, at once; with it, at the deadline.
    ended(&[]);
    eventually("it is counted", || refused("incompatible") == 1);
    ended(&["countersign/1+issue"]);
    eventually("it is counted", || refused("too-slow") == 1);
    Peer::connect(&scene.world, DESK, None, &["h2"]).err().expect("no common protocol");
    let api = scene.api();
    scene.start(&api);
}

fn an_issuer_without_pins_does_not_start() {
    let scene = Scene::new("both", "");
    let table = format!(
        "[issuer]\nlisten = \"{DESK}\"\nspiffe = \"{ISSUER}\"\ncertificate = \"kbs:///mesh/ca/certificate\"\nkey = \"kbs:///mesh/ca/key\"\n"
    );
    let ended = |document: Document| {
        let pod = scene.pod("issuer", document, DESK_HEALTH);
        scene.begin(&pod).wait().expect_code(78).stderr
    };
    assert!(ended(scene.document("roots", &table)).contains("does not say `trust = \"both\"`"));
    assert!(ended(scene.document("both", "")).contains("there is no `[issuer]`"));
    let everybody = format!("{table}[metrics]\nlisten = \"[::]:15812\"\n");
    assert!(ended(scene.document("both", &everybody)).contains("metrics.allow: is missing"));
    // Plain variables name nobody's CA.
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let run = world.countersign(&[]).env("COUNTERSIGN_ROLE", "issuer").env("COUNTERSIGN_LOG", "info").run();
    assert!(run.expect_code(78).stderr.contains("came over CDH or from the manifest"));
}

fn evidence_for_an_issuer_comes_from_the_guest_or_not_at_all() {
    // Measured, and over CDH: token and key stay with the guest's services.
    let scene = Scene { via: "via = [\"cdh\"]\n", ..Scene::new("roots", "") };
    let guest = GuestApi::healthy().secret("mesh/roots/pem", scene.mesh.pem());
    let scene = Scene { world: World::new().unwrap().guest(guest), ..scene };
    let api = scene.api();
    let said = scene.begin(&api).wait().expect_code(78).stderr;
    assert!(said.contains("gives this guest no evidence of its own"), "{said}");
}

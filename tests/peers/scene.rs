//! Two workloads with sidecars in simulated TEEs, and the KBS and CA of both: for tests of peers.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use countersign_testbed::eventually;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::mesh;
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, Guest, SnpGuest, TdxGuest, hex};
use countersign_testbed::world::{RunningSigner, Started, World};
use serde_json::{Value, json};

pub(crate) const API: &str = "spiffe://example.org/ns/payments/sa/api";
pub(crate) const WEB: &str = "spiffe://example.org/ns/web/sa/front";
/// Where `api` is called, where `web`'s app dials, and the pods' own ports.
pub(crate) const IN: &str = "127.0.0.1:9443";
pub(crate) const OUT: &str = "127.0.0.1:15432";
pub(crate) const API_HEALTH: &str = "127.0.0.1:15821";
pub(crate) const API_METRICS: &str = "127.0.0.1:15822";
pub(crate) const WEB_HEALTH: &str = "127.0.0.1:15831";
pub(crate) const WEB_METRICS: &str = "127.0.0.1:15832";

pub(crate) const ASK: &[u8] = b"GET /hello HTTP/1.1\r\nhost: api\r\n\r\n";

/// Two workloads, and the KBS and CA of both.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) kbs: RunningKbs,
    pub(crate) mesh: Ca,
    pub(crate) trust: &'static str,
    pub(crate) tee: &'static str,
    pub(crate) level: &'static str,
    /// A line of `[kbs]`.
    pub(crate) via: &'static str,
    /// Of `[peers.evidence]`. Whoever changes it pins again.
    pub(crate) max_age: &'static str,
    pub(crate) kbs_ca: String,
}

/// One pod, not started yet.
pub(crate) struct Pod {
    pub(crate) signer: RunningSigner,
    pub(crate) document: Document,
    pub(crate) health: &'static str,
}

impl Scene {
    pub(crate) fn new(trust: &'static str, tee: &'static str) -> Self {
        Self::at_level(trust, tee, "")
    }

    /// With this line in `[peers.evidence]`.
    pub(crate) fn at_level(trust: &'static str, tee: &'static str, level: &'static str) -> Self {
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
        let scene = Self { world, kbs, mesh, trust, tee, level, via: "", max_age: "1h", kbs_ca: ca.pem().to_owned() };
        scene.pin(1, |_| {});
        scene
    }

    /// Pins both workloads by the digests of their documents, as `change` leaves them.
    pub(crate) fn pin(&self, serial: u64, change: impl FnOnce(&mut Value)) {
        self.kbs.set_resource("payments/mesh/pins", self.pins(serial, change));
    }

    /// The text of those pins.
    pub(crate) fn pins(&self, serial: u64, change: impl FnOnce(&mut Value)) -> String {
        let pin = |document: &Document| match self.tee {
            "snp" => json!({"init_data": [hex(&document.digest())], "hardware_ids": ["c1".repeat(64)]}),
            _ => json!({"init_data": [hex(&document.digest())], "hardware_ids": ["81".repeat(16)]}),
        };
        let mut pins = json!({"serial": serial, "policy_ids": ["default"], "peers": {
            API: pin(&self.api_document("")), WEB: pin(&self.web_document(API)),
        }});
        change(&mut pins["peers"]);
        pins.to_string()
    }

    pub(crate) fn document(&self, name: &str, id: &str, rest: &str) -> Document {
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
        // `members`: certificates by the mesh's CA, and evidence for whoever asks.
        let trust = if self.trust == "members" { "roots" } else { self.trust };
        let evidence = match trust {
            "roots" => String::new(),
            _ => format!(
                "[peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\n\
                 pins = \"kbs:///payments/mesh/pins\"\nmax_age = \"{}\"\n{}",
                self.max_age, self.level
            ),
        };
        Document::of_kbs(&url, ca).countersign(&format!(
            "version = 1\nserial = 7\ndeadline = \"20s\"\n[kbs]\nurl = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n{}\
             [identity]\n{identity}\nspiffe = \"{id}\"\n[peers]\ntrust = \"{trust}\"\n{roots}{evidence}{rest}",
            self.via
        ))
    }

    pub(crate) fn api_document(&self, comment: &str) -> Document {
        self.document(
            "api",
            API,
            &format!(
                "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{API_METRICS}\"\n\
                 [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nallow = [\"{WEB}\"]\n{comment}"
            ),
        )
    }

    pub(crate) fn web_document(&self, peer: &str) -> Document {
        self.web_dialled_at(OUT, peer)
    }

    pub(crate) fn web_dialled_at(&self, listen: &str, peer: &str) -> Document {
        self.web_saying(listen, peer, "")
    }

    /// With `more` in its `[[outbound]]`.
    pub(crate) fn web_saying(&self, listen: &str, peer: &str, more: &str) -> Document {
        self.document(
            "web",
            WEB,
            &format!(
                "[health]\nlisten = \"{WEB_HEALTH}\"\n[metrics]\nlisten = \"{WEB_METRICS}\"\n\
                 [[outbound]]\nlisten = \"{listen}\"\nto = \"{IN}\"\npeer = \"{peer}\"\n{more}"
            ),
        )
    }

    pub(crate) fn pod(&self, document: Document, health: &'static str) -> Pod {
        self.pod_on(document, health, Signer::answering(self.tee))
    }

    pub(crate) fn pod_on(&self, document: Document, health: &'static str, signer: Signer) -> Pod {
        let signer = self.world.signer(signer.launched_with(&document.digest()));
        signer.set(self.tee).unwrap();
        Pod { signer, document, health }
    }

    pub(crate) fn api(&self) -> Pod {
        self.pod(self.api_document(""), API_HEALTH)
    }

    pub(crate) fn web(&self) -> Pod {
        self.pod(self.web_document(API), WEB_HEALTH)
    }

    /// Both, where requests share a connection.
    pub(crate) fn of_http(&self) -> (Pod, Pod) {
        let api = format!(
            "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{API_METRICS}\"\n\
             [[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nallow = [\"{WEB}\"]\n"
        );
        let (api, web) = (self.document("api", API, &api), self.web_saying(OUT, API, "protocol = \"http\"\n"));
        self.pin_documents(&api, &web);
        (self.pod(api, API_HEALTH), self.pod(web, WEB_HEALTH))
    }

    /// Pins both workloads by these documents.
    pub(crate) fn pin_documents(&self, api: &Document, web: &Document) {
        self.pin(1, |peers| {
            peers[API]["init_data"] = json!([hex(&api.digest())]);
            peers[WEB]["init_data"] = json!([hex(&web.digest())]);
        });
    }

    pub(crate) fn start(&self, pod: &Pod) -> Started<'_> {
        self.start_ahead(pod, 0)
    }

    /// The same with a clock that is so many seconds ahead: what others show is older by it.
    pub(crate) fn start_ahead(&self, pod: &Pod, seconds: u64) -> Started<'_> {
        let sim = self.world.sim(&[]).arg("sidecar").tee(&pod.signer).initdata(pod.document.text());
        let sim = sim.arg("--sim-clock-offset").arg(seconds.to_string());
        let started = sim.time_limit(Duration::from_secs(90)).start();
        // By a clock that is ahead its own evidence is old soon, and it is ready no longer.
        let asked = if seconds == 0 { "/readyz" } else { "/startupz" };
        eventually("the sidecar is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            mesh::status(&self.world, pod.health, asked) == 200
        });
        started
    }

    /// What `web`'s app hears through the tunnel.
    pub(crate) fn through(&self) -> std::io::Result<u16> {
        mesh::plain(&self.world, OUT, "GET /hello HTTP/1.1\r\nhost: api\r\n\r\n").map(|reply| reply.status)
    }

    /// A connection of `web`'s app that has been answered once.
    pub(crate) fn live(&self) -> TcpStream {
        let mut live = self.world.connect(OUT).unwrap();
        live.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        live.write_all(ASK).unwrap();
        assert_eq!(mesh::read_reply(&mut live).unwrap().status, 200);
        live
    }

    pub(crate) fn metric(&self, at: &str, line: &str) -> u64 {
        let page = mesh::plain(&self.world, at, "GET /metrics HTTP/1.1\r\nhost: pod\r\n\r\n").expect("metrics");
        let found = page.body.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {}", page.body))
    }

    pub(crate) fn called(&self, result: &str) -> u64 {
        self.metric(API_METRICS, &format!("countersign_handshakes_total{{inbound=\"{IN}\",result=\"{result}\"}}"))
    }

    pub(crate) fn dialled(&self, result: &str) -> u64 {
        let line = format!("countersign_outbound_handshakes_total{{outbound=\"{OUT}\",result=\"{result}\"}}");
        self.metric(WEB_METRICS, &line)
    }
}

//! The fourth act: two guests that prove themselves to each other, and two attackers.

use std::time::{Duration, Instant};

use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::mesh::{self, RunningApp, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::relay::Relay;
use countersign_testbed::tee::{Document, Guest, SnpGuest, hex};
use countersign_testbed::world::{RunningSigner, Started};
use countersign_testbed::{GuestApi, World};
use serde_json::json;

use super::{Told, say};

const API: &str = "spiffe://example.org/ns/payments/sa/api";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";
/// Where `api` is called, and where `web`'s app dials.
const IN: &str = "127.0.0.1:9443";
const OUT: &str = "127.0.0.1:15432";
/// Where the attacker listens, whom DNS names in place of `api`.
const MIDDLE: &str = "127.0.0.1:9444";
/// Kubelet's port of each pod.
const API_HEALTH: &str = "127.0.0.1:15821";
const WEB_HEALTH: &str = "127.0.0.1:15831";

/// Two workloads with certificates of one CA, and the KBS of both.
struct Scene {
    world: World,
    kbs: RunningKbs,
    kbs_ca: String,
    api: Identity,
    web: Identity,
    app: RunningApp,
    /// What peers must show: `both`, certificate and evidence, or `roots`, the certificate alone.
    trust: &'static str,
}

/// A pod's initdata, and its hardware.
struct Pod {
    document: Document,
    signer: RunningSigner,
    health: &'static str,
}

impl Scene {
    fn new(trust: &'static str) -> Result<Self, String> {
        let world = World::new().map_err(|error| error.to_string())?.guest(GuestApi::healthy());
        let (ca, mesh) = (Ca::new("kbs"), Ca::new("mesh"));
        let (api, web) = (mesh.member(API), mesh.member(WEB));
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("payments/mesh/roots", mesh.pem())
            .resource("payments/api/cert", api.pem())
            .resource("payments/api/key", api.key_pem())
            .resource("payments/web/cert", web.pem())
            .resource("payments/web/key", web.key_pem())
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()));
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
        let app = mesh::app(&world, "127.0.0.1:8080", echo);
        Ok(Self { world, kbs, kbs_ca: ca.pem().to_owned(), api, web, app, trust })
    }

    fn pod(&self, name: &str, id: &str, health: &'static str, rest: &str) -> Result<Pod, String> {
        let (url, ca, trust) = (self.kbs.url(), &self.kbs_ca, self.trust);
        let evidence = match trust {
            "roots" => "",
            _ => {
                "[peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\n\
                 pins = \"kbs:///payments/mesh/pins\"\nmax_age = \"1h\"\n"
            }
        };
        let document = Document::of_kbs(&url, ca).countersign(&format!(
            "version = 1\nserial = 1\n[kbs]\nurl = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n\
             [identity]\nsource = \"kbs-certificate\"\nspiffe = \"{id}\"\n\
             certificate = \"kbs:///payments/{name}/cert\"\nkey = \"kbs:///payments/{name}/key\"\n\
             [peers]\ntrust = \"{trust}\"\nroots = \"kbs:///payments/mesh/roots\"\n{evidence}\
             [health]\nlisten = \"{health}\"\n{rest}"
        ));
        let signer = self.world.signer(Signer::answering("snp").launched_with(&document.digest()));
        signer.set("snp").map_err(|error| error.to_string())?;
        Ok(Pod { document, signer, health })
    }

    fn api(&self, comment: &str) -> Result<Pod, String> {
        let inbound = format!(
            "[[inbound]]\nlisten = \"{IN}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nallow = [\"{WEB}\"]\n{comment}"
        );
        self.pod("api", API, API_HEALTH, &inbound)
    }

    fn web(&self, to: &str) -> Result<Pod, String> {
        let outbound = format!("[[outbound]]\nlisten = \"{OUT}\"\nto = \"{to}\"\npeer = \"{API}\"\n");
        self.pod("web", WEB, WEB_HEALTH, &outbound)
    }

    /// What app security writes to the KBS: who runs which initdata, on which machine.
    fn pin(&self, api: &Pod, web: &Pod) {
        let pin = |pod: &Pod| json!({"init_data": [hex(&pod.document.digest())], "hardware_ids": ["c1".repeat(64)]});
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {API: pin(api), WEB: pin(web)}});
        self.kbs.set_resource("payments/mesh/pins", pins.to_string());
    }

    fn start(&self, pod: &Pod) -> Result<Started<'_>, String> {
        let sidecar = self.world.sim(&["sidecar"]).tee(&pod.signer).initdata(pod.document.text()).start();
        until("the sidecar is ready", &sidecar, || mesh::status(&self.world, pod.health, "/readyz") == 200)?;
        Ok(sidecar)
    }

    /// What `web`'s app hears on its plain port.
    fn ask(&self) -> std::io::Result<mesh::Reply> {
        mesh::plain(&self.world, OUT, "GET /pay HTTP/1.1\r\nhost: api\r\n\r\n")
    }
}

fn until(what: &str, sidecar: &Started<'_>, holds: impl Fn() -> bool) -> Told {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(20) || !sidecar.is_running() {
            return Err(format!("{what}: not so: {}", sidecar.said()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Prints the line of the log that has this reason.
fn why(sidecar: &Started<'_>, reason: &str) -> Told {
    let marked = format!("reason=\"{reason}\"");
    until(&format!("the log says {reason}"), sidecar, || sidecar.said().contains(&marked))?;
    let said = sidecar.said();
    println!("     | {}", said.lines().find(|line| line.contains(&marked)).unwrap_or_default());
    Ok(())
}

pub(super) fn two_guests() -> Told {
    let scene = Scene::new("both")?;
    let (api, web) = (scene.api("")?, scene.web(IN)?);
    scene.pin(&api, &web);
    say("app security pins both in the KBS: who, which initdata, which machine");
    let (_api, _web) = (scene.start(&api)?, scene.start(&web)?);
    let reply = scene.ask().map_err(|error| format!("web's app is not answered: {error}"))?;
    if reply.status != 200 || scene.app.count() != 1 {
        return Err(format!("web's app got {}", reply.status));
    }
    say("web's app dials its own loopback in plain; both guests prove themselves; api's app answers 200");
    Ok(())
}

pub(super) fn a_third() -> Told {
    let scene = Scene::new("both")?;
    let (api, web, other) = (scene.api("")?, scene.web(IN)?, scene.api("# another day\n")?);
    scene.pin(&api, &web);
    say("a guest with api's name, api's certificate and genuine hardware, and one comment more in its initdata");
    let (_other, web) = (scene.start(&other)?, scene.start(&web)?);
    if scene.ask().is_ok_and(|reply| reply.status == 200) || scene.app.count() > 0 {
        return Err("web was answered by a guest that is not pinned".to_owned());
    }
    say("web refuses it, before a byte of the app is sent:");
    why(&web, "other-initdata")
}

pub(super) fn a_relay() -> Told {
    for trust in ["roots", "both"] {
        let scene = Scene::new(trust)?;
        let (api, web) = (scene.api("")?, scene.web(MIDDLE)?);
        scene.pin(&api, &web);
        let plain = ["countersign/1+tcp"];
        let speaks: &[&str] = if trust == "both" { &plain } else { &[] };
        let relay = Relay::start(&scene.world, MIDDLE, &scene.api, IN, &scene.web, speaks);
        let (_api, web) = (scene.start(&api)?, scene.start(&web)?);
        let reply = scene.ask();
        if trust == "roots" {
            if !reply.is_ok_and(|reply| reply.status == 200) || relay.read() == 0 {
                return Err(format!("the relay did not even deceive certificates: {}", web.said()));
            }
            say(
                "an attacker has the TLS keys of both, and stands between them. By certificates alone, nobody notices:",
            );
            println!("     | {} bytes of both apps read in the clear", relay.read());
            continue;
        }
        if reply.is_ok_and(|reply| reply.status == 200) || scene.app.count() > 0 {
            return Err("the relay was believed".to_owned());
        }
        say("with evidence, what api's guest signs is about its own session with the attacker, and web reads another:");
        why(&web, "other-session")?;
    }
    Ok(())
}

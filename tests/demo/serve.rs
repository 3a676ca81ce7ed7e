//! The third act: callers in front of the app.

use std::time::{Duration, Instant};

use countersign_testbed::mesh::{self, Peer, RunningApp, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::world::Started;
use countersign_testbed::{GuestApi, Signal, World};

use super::{Told, say};

const OURS: &str = "spiffe://example.org/ns/payments/sa/api";
const FRIEND: &str = "spiffe://example.org/ns/web/sa/front";
const ADMIN: &str = "spiffe://example.org/ns/admin/sa/root";
const IN: &str = "127.0.0.1:8443";

/// A pod whose sidecar may be started, with an app on loopback.
struct Scene {
    world: World,
    mesh: Ca,
    app: RunningApp,
}

fn scene() -> Result<Scene, String> {
    let mesh = Ca::new("mesh");
    let config = format!(
        "version = 1\nserial = 1\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n\
         [identity]\nsource = \"self\"\nspiffe = \"{OURS}\"\n\
         [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]\n"
    );
    let guest = GuestApi::healthy()
        .secret("default/countersign/payments.api", config)
        .secret("payments/mesh/roots", mesh.pem());
    let (world, _) = super::world(guest)?;
    let app = mesh::app(&world, "127.0.0.1:8080", echo);
    Ok(Scene { world, mesh, app })
}

impl Scene {
    fn start(&self) -> Result<Started<'_>, String> {
        say("$ COUNTERSIGN_ROLE=sidecar COUNTERSIGN_NAMESPACE=payments COUNTERSIGN_WORKLOAD=api countersign");
        let sidecar = self
            .world
            .countersign(&[])
            .env("COUNTERSIGN_ROLE", "sidecar")
            .env("COUNTERSIGN_NAMESPACE", "payments")
            .env("COUNTERSIGN_WORKLOAD", "api")
            .without_capabilities()
            .start();
        let begun = Instant::now();
        while mesh::status(&self.world, "127.0.0.1:15821", "/readyz") != 200 {
            if begun.elapsed() > Duration::from_secs(20) || !sidecar.is_running() {
                return Err(format!("the sidecar is not ready: {}", sidecar.said()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        say("/readyz answers 200: it has a certificate, and it listens");
        Ok(sidecar)
    }

    fn peer(&self, identity: Option<&Identity>) -> std::io::Result<Peer> {
        Peer::connect(&self.world, IN, identity, &["http/1.1"])
    }

    fn call(&self, identity: Option<&Identity>) -> std::io::Result<mesh::Reply> {
        self.peer(identity)?.get("/pay")
    }
}

pub(super) fn callers() -> Told {
    let scene = scene()?;
    let sidecar = scene.start()?;
    let friend = scene.mesh.member(FRIEND);
    let reply = scene.call(Some(&friend)).map_err(|error| format!("the allowed caller was refused: {error}"))?;
    let told = reply.body.lines().find(|line| line.starts_with("x-forwarded-client-cert")).unwrap_or_default();
    if reply.status != 200 || !told.ends_with(&format!("URI={FRIEND}")) {
        return Err(format!("the app was told `{told}`, status {}", reply.status));
    }
    say(&format!("{FRIEND} is answered 200, and the app reads who calls:"));
    println!("     | {told}");
    let others = [
        ("somebody without a certificate", None, "no-certificate"),
        ("the same name, by another CA", Some(Ca::new("another").member(FRIEND)), "unknown-issuer"),
        ("a member of the mesh that is not on the list", Some(scene.mesh.member(ADMIN)), "not-allowed"),
    ];
    let before = scene.app.count();
    for (who, identity, reason) in others {
        if scene.call(identity.as_ref()).is_ok() {
            return Err(format!("{who} was answered"));
        }
        let begun = Instant::now();
        let line = loop {
            let said = sidecar.said();
            if let Some(line) = said.lines().find(|line| line.contains(&format!("reason=\"{reason}\""))) {
                break line.to_owned();
            }
            if begun.elapsed() > Duration::from_secs(5) {
                return Err(format!("the log does not say why: {said}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        say(&format!("{who}: refused"));
        println!("     | {line}");
    }
    match scene.app.count() - before {
        0 => say("not a byte of the three reached the app"),
        some => return Err(format!("{some} requests of strangers reached the app")),
    }
    Ok(())
}

pub(super) fn renewal() -> Told {
    let scene = scene()?;
    let sidecar = scene.start()?;
    let friend = scene.mesh.member(FRIEND);
    let mut kept = scene.peer(Some(&friend)).map_err(|error| error.to_string())?;
    let mut shown = std::collections::BTreeSet::new();
    let (begun, mut asked, mut requests) = (Instant::now(), Instant::now(), 0);
    // On a slow machine a renewal takes longer than the pause between two.
    let slow = |shown: usize| shown < 3 && begun.elapsed() < Duration::from_secs(25);
    while begun.elapsed() < Duration::from_millis(2200) || slow(shown.len()) {
        if asked.elapsed() > Duration::from_millis(700) {
            sidecar.signal(Signal::HUP).map_err(|error| error.to_string())?;
            asked = Instant::now();
        }
        let mut peer = scene.peer(Some(&friend)).map_err(|error| error.to_string())?;
        shown.extend(peer.shown());
        for connection in [&mut peer, &mut kept] {
            match connection.get("/pay") {
                Ok(reply) if reply.status == 200 => requests += 1,
                other => return Err(format!("a request failed during a renewal: {other:?}")),
            }
        }
    }
    if shown.len() < 3 {
        return Err(format!("only {} certificates were shown", shown.len()));
    }
    say(&format!("{requests} requests under {} certificates, each with a new key: none failed", shown.len()));
    say("SIGTERM: not ready, no newcomers, what is open is finished");
    drop(kept);
    sidecar.signal(Signal::TERM).map_err(|error| error.to_string())?;
    let run = sidecar.wait();
    super::show(&run)?;
    super::expect(&run, 0)
}

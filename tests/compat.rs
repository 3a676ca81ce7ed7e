//! The image `countersign-compat`: kubectl-coco's contract, with its certificates, against the real binary
//! built with feature `compat`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

use std::time::Duration;

use countersign::finding::Class;
use countersign_testbed::mesh::{self, Peer, RunningApp, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::pod::Pod;
use countersign_testbed::world::{Cmd, Started};
use countersign_testbed::{Answer, GuestApi, Signal, World, eventually};
use serde_json::{Value, json};

countersign_testbed::main! {
    anybody_with_a_certificate_by_the_ca_is_answered [GuestPort, Namespaces],
    nobody_else_is [GuestPort, Namespaces],
    what_it_does_not_check_is_said_at_every_start [GuestPort, Namespaces],
    forged_headers_never_reach_the_app [GuestPort, Namespaces],
    its_two_pages_say_what_is_known [GuestPort, Namespaces],
    every_kind_of_key_that_is_uploaded_is_served [GuestPort, Namespaces],
    a_new_certificate_is_taken_without_a_restart [GuestPort, Namespaces],
    a_caller_whose_ca_is_withdrawn_is_cut [GuestPort, Namespaces],
    what_is_missing_is_refused_by_name [GuestPort, Namespaces],
    its_variables_do_not_loosen_the_strict_role [GuestPort, Namespaces],
    it_is_held_by_the_sandbox_like_any_sidecar [GuestPort, Namespaces, Landlock],
    its_own_manifest_runs_with_only_the_image_changed [Pods, Curl],
}

const IN: &str = "127.0.0.1:8443";
const HEALTH: &str = "127.0.0.1:15821";
const CERTIFICATE: &str = "demo/sidecar-tls-app/server-cert";
const KEY: &str = "demo/sidecar-tls-app/server-key";
const CLIENTS: &str = "default/sidecar-tls/client-ca";

/// A guest whose KBS has what `kubectl coco init` and `apply` upload.
struct Rig {
    world: World,
    ca: Ca,
    developer: Identity,
}

impl Rig {
    fn new() -> Self {
        let ca = Ca::new("coco client CA");
        let server = ca.leaf(&["app.demo.svc.cluster.local"]);
        let guest = GuestApi::healthy()
            .secret(CERTIFICATE, server.pem())
            .secret(KEY, server.key_pem())
            .secret(CLIENTS, ca.pem());
        let developer = ca.developer("developer");
        Self { world: World::new().unwrap().guest(guest), ca, developer }
    }

    fn app(&self) -> RunningApp {
        mesh::app(&self.world, "127.0.0.1:8080", echo)
    }

    /// As the generated container says it.
    fn container(&self) -> Cmd<'_> {
        self.world
            .countersign(&[])
            .env("TLS_CERT_URI", format!("kbs:///{CERTIFICATE}"))
            .env("TLS_KEY_URI", format!("kbs:///{KEY}"))
            .env("CLIENT_CA_URI", format!("kbs:///{CLIENTS}"))
            .env("HTTPS_PORT", "8443")
            .env("FORWARD_PORT", "8080")
            .env("POD_NAME", "app-7d9f")
            .env("POD_NAMESPACE", "demo")
            .time_limit(Duration::from_secs(120))
    }

    fn ready(&self) -> Started<'_> {
        let started = self.container().start();
        eventually("the sidecar is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            mesh::status(&self.world, HEALTH, "/readyz") == 200
        });
        started
    }

    fn peer(&self) -> Peer {
        Peer::connect(&self.world, IN, Some(&self.developer), &["http/1.1"]).expect("a handshake")
    }

    fn call(&self, identity: Option<&Identity>) -> std::io::Result<u16> {
        Ok(Peer::connect(&self.world, IN, identity, &["http/1.1"])?.get("/")?.status)
    }
}

fn anybody_with_a_certificate_by_the_ca_is_answered() {
    let rig = Rig::new();
    let _app = rig.app();
    let sidecar = rig.ready();
    let reply = rig.peer().get("/pay").unwrap();
    assert_eq!(reply.status, 200, "{}", sidecar.said());
    assert!(reply.body.starts_with("GET /pay\n") && !reply.body.contains("x-forwarded-client-cert"), "{}", reply.body);
    let named = rig.ca.member("spiffe://example.org/ns/any/sa/one");
    assert_eq!(rig.call(Some(&named)).unwrap(), 200, "a name neither helps nor hurts");
    sidecar.signal(Signal::TERM).unwrap();
    sidecar.wait().expect_code(0);
}

fn nobody_else_is() {
    let rig = Rig::new();
    let app = rig.app();
    let sidecar = rig.ready();
    let other = Ca::new("coco client CA");
    for (identity, reason) in [
        (None, "no-certificate"),
        (Some(other.developer("developer")), "unknown-issuer"),
        (Some(rig.ca.member_for("spiffe://example.org/a", 100, -50)), "expired"),
        (Some(rig.ca.leaf(&["developer.demo"])), "wrong-purpose"),
    ] {
        rig.call(identity.as_ref()).expect_err(reason);
        eventually("the log says so", || sidecar.said().contains(&format!("reason=\"{reason}\"")));
    }
    assert_eq!(app.count(), 0, "not a byte reached the app");
}

fn what_it_does_not_check_is_said_at_every_start() {
    let rig = Rig::new();
    let sidecar = rig.container().env("COUNTERSIGN_LOG", "error").start();
    for said in ["NOT checked", "WHO calls", "WHO SAYS SO", "WHOSE KEY"] {
        eventually(said, || sidecar.said().contains(said));
    }
}

fn forged_headers_never_reach_the_app() {
    let rig = Rig::new();
    let _app = rig.app();
    let _sidecar = rig.ready();
    let reply = rig
        .peer()
        .ask(
            "GET / HTTP/1.1\r\nhost: app\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_host: evil\r\n\
             X-Forwarded-Client-Cert: URI=spiffe://evil/a\r\n\r\n",
        )
        .unwrap();
    assert!(!reply.body.contains("6.6.6.6") && !reply.body.contains("evil"), "{}", reply.body);
    for told in ["x-forwarded-for: 127.0.0.1\n", "x-forwarded-proto: https\n", "x-forwarded-host: app\n"] {
        assert!(reply.body.contains(told), "{told}: {}", reply.body);
    }
}

fn its_two_pages_say_what_is_known() {
    let rig = Rig::new();
    let app = rig.app();
    let _sidecar = rig.ready();
    let mut peer = rig.peer();
    let mut page = |path: &str| -> Value { serde_json::from_str(&peer.get(path).unwrap().body).unwrap() };
    assert_eq!(page("/api/status"), json!({ "podName": "app-7d9f", "namespace": "demo", "attested": true }));
    let attestation = page("/api/attestation");
    assert_eq!(attestation["status"], "verified");
    assert!(attestation["details"].as_str().unwrap().contains("is not seen here"), "{attestation}");
    assert_eq!(app.count(), 0);
    // Whatever else is the app's, also what only looks like them.
    for path in ["/dashboard", "/api/status/", "/api//status", "/api/%73tatus"] {
        let reply = peer.get(path).unwrap();
        assert!(reply.body.starts_with(&format!("GET {path}\n")), "{path}: {}", reply.body);
    }
    let posted = "POST /api/status HTTP/1.1\r\nhost: app\r\ncontent-length: 3\r\n\r\nabc";
    assert!(peer.ask(posted).unwrap().body.starts_with("POST /api/status"));
}

fn every_kind_of_key_that_is_uploaded_is_served() {
    let rig = Rig::new();
    let rsa = rig.ca.rsa_leaf(&["app.demo.svc.cluster.local"]);
    rig.world.guest_api().set(CERTIFICATE, Answer::Bytes(rsa.pem().into()));
    for key in [rsa.key_pem(), rsa.rsa_key_pem()] {
        rig.world.guest_api().set(KEY, Answer::Bytes(key.into()));
        let _app = rig.app();
        let sidecar = rig.ready();
        assert_eq!(rig.call(Some(&rig.developer)).unwrap(), 200, "{}", sidecar.said());
    }
    // A key that is not the certificate's is none.
    rig.world.guest_api().set(KEY, Answer::Bytes(rig.ca.rsa_leaf(&["other"]).key_pem().into()));
    let run = rig.container().run();
    assert_eq!(run.code, Some(i32::from(Class::Certificate.code())), "{}", run.output());
}

fn a_new_certificate_is_taken_without_a_restart() {
    let rig = Rig::new();
    let _app = rig.app();
    let sidecar = rig.ready();
    let mut standing = rig.peer();
    let before = standing.shown();
    let next = rig.ca.leaf(&["app.demo.svc.cluster.local"]);
    rig.world.guest_api().set(CERTIFICATE, Answer::Bytes(next.pem().into()));
    rig.world.guest_api().set(KEY, Answer::Bytes(next.key_pem().into()));
    // Half a second after a renewal one may be asked for.
    eventually("the next one is shown", || {
        sidecar.signal(Signal::HUP).unwrap();
        rig.peer().shown() != before
    });
    assert_eq!(standing.get("/").unwrap().status, 200, "and what was open goes on");
}

fn a_caller_whose_ca_is_withdrawn_is_cut() {
    let rig = Rig::new();
    let _app = rig.app();
    let sidecar = rig.ready();
    let mut standing = rig.peer();
    assert_eq!(standing.get("/").unwrap().status, 200);
    rig.world.guest_api().set(CLIENTS, Answer::Bytes(Ca::new("the next CA").pem().into()));
    eventually("it is cut", || {
        sidecar.signal(Signal::HUP).unwrap();
        sidecar.said().contains("connection cut")
    });
    assert!(standing.get("/").is_err());
    rig.call(Some(&rig.developer)).expect_err("and does not come in again");
}

fn what_is_missing_is_refused_by_name() {
    let rig = Rig::new();
    let run = rig.world.countersign(&[]).env("TLS_CERT_URI", "kbs:///a/b/c").run().expect_code(78);
    for name in ["TLS_KEY_URI", "CLIENT_CA_URI", "FORWARD_PORT"] {
        assert!(run.stderr.contains(&format!("{name}: is missing")), "{name}: {}", run.output());
    }
    let run = rig.container().env("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c").run().expect_code(78);
    assert!(run.stderr.contains("COUNTERSIGN_SECRETS"), "{}", run.output());
    rig.world.guest_api().set(CLIENTS, Answer::Bytes(Vec::from("not a CA")));
    let run = rig.container().run();
    assert_eq!(run.code, Some(i32::from(Class::Content.code())), "{}", run.output());
}

fn its_variables_do_not_loosen_the_strict_role() {
    let rig = Rig::new();
    let run = rig.container().env("COUNTERSIGN_ROLE", "sidecar").env("COUNTERSIGN_SECRETS", "a=kbs:///demo/x/y").run();
    // As in the strict image: plain variables make a sidecar that serves nobody.
    assert_ne!(run.code, Some(0), "{}", run.output());
    assert!(!run.stderr.contains("kubectl-coco's contract"), "{}", run.output());
}

fn it_is_held_by_the_sandbox_like_any_sidecar() {
    let rig = Rig::new();
    let sidecar = rig.ready();
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"), "{status}");
    assert!(sidecar.said().contains("landlock=\"ABI "), "{}", sidecar.said());
}

/// The image that kubectl-coco writes, and ours in its place: nothing else differs.
const THEIRS: &str = "quay.io/confidential-devhub/coco-secure-access:latest";
const OURS: &str =
    "registry.example/countersign-compat@sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// A pod in the shape that `kubectl coco apply --sidecar` gives it.
fn manifest(app: &str) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "app", "namespace": "demo", "labels": { "app": "app" },
            "annotations": { "io.katacontainers.config.hypervisor.cc_init_data": "H4sIAAAAAAAA" },
        },
        "spec": {
            "runtimeClassName": "kata-cc",
            "initContainers": [{
                "name": "get-attn-status", "image": "quay.io/fedora/fedora:44",
                "command": ["sh", "-c", "curl http://localhost:8006/cdh/resource/default/attestation-status/status"],
            }],
            "containers": [
                { "name": "app", "image": "app", "command": ["/usr/bin/perl", "-e", app] },
                {
                    "name": "coco-secure-access", "image": THEIRS,
                    "ports": [{ "containerPort": 8443, "name": "https" }],
                    "env": [
                        { "name": "TLS_CERT_URI", "value": format!("kbs:///{CERTIFICATE}") },
                        { "name": "TLS_KEY_URI", "value": format!("kbs:///{KEY}") },
                        { "name": "CLIENT_CA_URI", "value": format!("kbs:///{CLIENTS}") },
                        { "name": "HTTPS_PORT", "value": "8443" },
                        field("POD_NAME", "metadata.name"),
                        field("POD_NAMESPACE", "metadata.namespace"),
                        { "name": "FORWARD_PORT", "value": "8080" },
                    ],
                    "resources": {
                        "limits": { "cpu": "100m", "memory": "128Mi" }, "requests": { "cpu": "50m", "memory": "64Mi" },
                    },
                },
            ],
        },
    })
}

/// Answers on every address, as most apps do.
const APP: &str = "use IO::Socket::INET; $| = 1; $SIG{TERM} = sub { exit 0 };
    my $s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080, ReuseAddr => 1) or die;
    while (my $c = $s->accept) { while (<$c>) { last if /^\\r?$/ }
        print $c \"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: 7\\r\\n\\r\\nthe app\"; close $c }";

fn its_own_manifest_runs_with_only_the_image_changed() {
    let ca = Ca::new("coco client CA");
    let server = ca.rsa_leaf(&["app.demo.svc.cluster.local"]);
    let guest = GuestApi::healthy()
        .secret(CERTIFICATE, server.pem())
        .secret(KEY, server.rsa_key_pem())
        .secret(CLIENTS, ca.pem())
        .secret("default/attestation-status/status", "success");
    let world = World::private().unwrap().guest(guest);
    let mut pod = manifest(APP);
    pod["spec"]["containers"][1]["image"] = json!(OURS);
    let mut running = Pod::new(&world, pod, OURS).unwrap().start().unwrap();
    let developer = ca.developer("developer");
    eventually("the app is reached", || {
        let called = Peer::connect(&world, IN, Some(&developer), &["http/1.1"]).and_then(|mut peer| peer.get("/"));
        called.is_ok_and(|reply| (reply.status, reply.body.as_str()) == (200, "the app"))
    });
    let status = Peer::connect(&world, IN, Some(&developer), &["http/1.1"]).unwrap().get("/api/status").unwrap();
    assert!(
        status.body.contains("\"podName\":\"app\"") && status.body.contains("\"namespace\":\"demo\""),
        "{status:?}"
    );
    assert!(Peer::connect(&world, IN, None, &["http/1.1"]).and_then(|mut peer| peer.get("/")).is_err());
    running.delete();
    assert!(running.end_of("get-attn-status").output.contains("success"), "{:?}", running.ended);
    let sidecar = running.end_of("coco-secure-access");
    assert_eq!(sidecar.code, Some(0), "{}", sidecar.output);
    assert!(sidecar.output.contains("NOT checked") && sidecar.output.contains("app-exposed"), "{}", sidecar.output);
}

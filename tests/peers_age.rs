//! Evidence that grows old under live connections: two pods as in `tests/peers.rs`, and one whose clock is ahead.
//! To that one what the other shows is nearly `max_age` old from the beginning, so that nobody waits a minute.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use countersign_testbed::http::Act;
use countersign_testbed::mesh::{self, Reply, RunningApp, echo};
use countersign_testbed::tee::hex;
use countersign_testbed::world::Started;
use countersign_testbed::{Signal, eventually};
use scene::{API, API_HEALTH, API_METRICS, IN, OUT, Pod, Scene, WEB, WEB_HEALTH, WEB_METRICS};
use serde_json::json;

countersign_testbed::main! {
    a_caller_is_cut_when_its_evidence_is_max_age_old [GuestPort, Namespaces, Memory],
    a_peer_that_was_called_is_cut_when_its_evidence_is_max_age_old [GuestPort, Namespaces, Memory],
    a_pod_whose_own_evidence_is_too_old_for_peers_is_not_ready [GuestPort, Namespaces, Memory],
}

/// Where `api` is called with HTTP, and where `web`'s app dials for that. `IN` and `OUT` are for bytes.
const IN_HTTP: &str = "127.0.0.1:9444";
const OUT_HTTP: &str = "127.0.0.1:15433";

/// The least that configuration allows, and how far ahead the clock is of whoever demands.
const MAX_AGE: &str = "60s";
const AHEAD: u64 = 50;

/// What is left of evidence that is new. Clocks of evidence count whole seconds: one may be lost.
const LEFT: Duration = Duration::from_secs(60 - AHEAD - 1);

/// Two pods with a way for bytes and one for HTTP between them.
fn pods() -> (Scene, Pod, Pod) {
    let scene = Scene { max_age: MAX_AGE, ..Scene::new("both", "snp") };
    let inbound = |at, protocol| {
        format!(
            "[[inbound]]\nlisten = \"{at}\"\napp = \"127.0.0.1:8080\"\nprotocol = \"{protocol}\"\nallow = [\"{WEB}\"]\n"
        )
    };
    let api = format!(
        "[health]\nlisten = \"{API_HEALTH}\"\n[metrics]\nlisten = \"{API_METRICS}\"\n{}{}",
        inbound(IN, "tcp"),
        inbound(IN_HTTP, "http")
    );
    let more =
        format!("[[outbound]]\nlisten = \"{OUT_HTTP}\"\nto = \"{IN_HTTP}\"\npeer = \"{API}\"\nprotocol = \"http\"\n");
    let (api, web) = (scene.document("api", API, &api), scene.web_saying(OUT, API, &more));
    scene.pin(1, |peers| {
        peers[API]["init_data"] = json!([hex(&api.digest())]);
        peers[WEB]["init_data"] = json!([hex(&web.digest())]);
    });
    let (api, web) = (scene.pod(api, API_HEALTH), scene.pod(web, WEB_HEALTH));
    (scene, api, web)
}

/// Never answers `/slow`.
fn app(scene: &Scene) -> RunningApp {
    mesh::app(&scene.world, "127.0.0.1:8080", |seen| match seen.path.as_str() {
        "/slow" => vec![Act::Silence],
        _ => echo(seen),
    })
}

/// Has a pod attest again, and waits until it shows that.
fn renew(scene: &Scene, pod: &Started<'_>, metrics: &str) {
    let renewals = || scene.metric(metrics, "countersign_certificate_renewals_total");
    let before = renewals();
    eventually("there is new evidence", || {
        let _ = pod.signal(Signal::HUP);
        renewals() > before
    });
}

/// What becomes of a request over HTTP.
fn ask(scene: &Scene) -> Reply {
    mesh::plain(&scene.world, OUT_HTTP, "GET /hello HTTP/1.1\r\nhost: api\r\n\r\n").unwrap()
}

/// A connection for bytes that was answered, and a request that is under way. A POST: what may be asked twice
/// would be asked again, and refused then.
fn live(scene: &Scene) -> (TcpStream, TcpStream) {
    let bytes = scene.live();
    let mut http = scene.world.connect(OUT_HTTP).unwrap();
    http.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    http.write_all(b"POST /slow HTTP/1.1\r\nhost: api\r\ncontent-length: 0\r\n\r\n").unwrap();
    eventually("both are under way", || active(scene) == [1; 4]);
    (bytes, http)
}

/// What both pods have under way, bytes and HTTP.
fn active(scene: &Scene) -> [u64; 4] {
    gauges(scene, "requests_active")
}

fn gauges(scene: &Scene, name: &str) -> [u64; 4] {
    let inbound = |at| scene.metric(API_METRICS, &format!("countersign_{name}{{inbound=\"{at}\"}}"));
    let outbound = |at| scene.metric(WEB_METRICS, &format!("countersign_outbound_{name}{{outbound=\"{at}\"}}"));
    [inbound(IN), inbound(IN_HTTP), outbound(OUT), outbound(OUT_HTTP)]
}

/// Both were cut, the log of `pod` says why, and `web`'s app could tell; nothing is held.
fn cut(scene: &Scene, pod: &Started<'_>, (mut bytes, mut http): (TcpStream, TcpStream)) {
    let mut rest = Vec::new();
    let _ = bytes.read_to_end(&mut rest);
    assert!(rest.is_empty());
    let reply = mesh::read_reply(&mut http).unwrap();
    assert!(reply.status == 502 && reply.body.contains("\"peer-broken\""), "{} {}", reply.head, reply.body);
    let said =
        || pod.said().lines().filter(|line| line.contains("connection cut")).map(str::to_owned).collect::<Vec<_>>();
    eventually("the log says that", || said().len() >= 2);
    for line in said() {
        assert!(line.contains("reason=\"stale-evidence\""), "{line}");
    }
    for name in ["requests_active", "connections_open"] {
        eventually("all gauges are zero", || gauges(scene, name) == [0; 4]);
    }
}

fn a_caller_is_cut_when_its_evidence_is_max_age_old() {
    let (scene, api, web) = pods();
    let app = app(&scene);
    let (api, web) = (scene.start_ahead(&api, AHEAD), scene.start(&web));
    let begun = Instant::now();
    renew(&scene, &web, WEB_METRICS);
    let live = live(&scene);
    let [withdrawn, accepted, stale] = [
        ("connections_withdrawn_total", ""),
        ("handshakes_total", ",result=\"accepted\""),
        ("handshakes_total", ",result=\"stale-evidence\""),
    ]
    .map(|(name, label)| {
        let scene = &scene;
        move |at: &str| scene.metric(API_METRICS, &format!("countersign_{name}{{inbound=\"{at}\"{label}}}"))
    });
    assert_eq!((accepted(IN), accepted(IN_HTTP)), (1, 1));
    eventually("it is cut on both ways", || withdrawn(IN) == 1 && withdrawn(IN_HTTP) == 1);
    assert!(begun.elapsed() >= LEFT, "too early: {:?}", begun.elapsed());
    cut(&scene, &api, live);

    // What it shows is as old on a new connection.
    scene.through().expect_err("no answer");
    assert_eq!(ask(&scene).status, 502, "{}", web.said());
    // A request of which nothing was sent is given to another connection.
    assert!(stale(IN) == 1 && stale(IN_HTTP) >= 1, "{}", api.said());
    assert_eq!(app.count(), 2, "nothing more has come");
    renew(&scene, &web, WEB_METRICS);
    assert_eq!((scene.through().unwrap(), ask(&scene).status), (200, 200), "{}", api.said());
    assert_eq!((accepted(IN), accepted(IN_HTTP)), (2, 2), "newly proven");
}

fn a_peer_that_was_called_is_cut_when_its_evidence_is_max_age_old() {
    let (scene, api, web) = pods();
    let app = app(&scene);
    let (api, web) = (scene.start(&api), scene.start_ahead(&web, AHEAD));
    let begun = Instant::now();
    renew(&scene, &api, API_METRICS);
    let live = live(&scene);
    let counted = |name: &str, at: &str, label: &str| {
        scene.metric(WEB_METRICS, &format!("countersign_outbound_{name}{{outbound=\"{at}\"{label}}}"))
    };
    let dialled = |at, result| counted("handshakes_total", at, &format!(",result=\"{result}\""));
    assert_eq!((dialled(OUT, "connected"), dialled(OUT_HTTP, "connected")), (1, 1));
    // Of HTTP another connection may stand by then, made for new requests, with evidence that is as old.
    eventually("it is cut on both ways", || {
        counted("withdrawn_total", OUT, "") == 1 && counted("withdrawn_total", OUT_HTTP, "") >= 1
    });
    assert!(begun.elapsed() >= LEFT, "too early: {:?}", begun.elapsed());
    cut(&scene, &web, live);

    // What it shows is as old on a new connection.
    let before = dialled(OUT_HTTP, "connected");
    scene.through().expect_err("no answer");
    let reply = ask(&scene);
    assert!(
        reply.status == 502 && reply.body.contains("\"reason\":\"stale-evidence\""),
        "{} {}",
        reply.head,
        reply.body
    );
    assert_eq!(app.count(), 2, "nothing more has come");
    renew(&scene, &api, API_METRICS);
    assert_eq!((scene.through().unwrap(), ask(&scene).status), (200, 200), "{}", web.said());
    assert_eq!((dialled(OUT, "connected"), dialled(OUT_HTTP, "connected")), (2, before + 1), "newly proven");
}

fn a_pod_whose_own_evidence_is_too_old_for_peers_is_not_ready() {
    let (scene, pod, _) = pods();
    let api = scene.start_ahead(&pod, AHEAD);
    let ready = || mesh::status(&scene.world, API_HEALTH, "/readyz");
    // It cannot be renewed; its certificate is good for years.
    scene.kbs.set_resource("payments/mesh/pins", "{}");
    let failed = "countersign_certificate_renewal_failures_total{class=\"content-refused\"}";
    eventually("a renewal fails", || {
        let _ = api.signal(Signal::HUP);
        scene.metric(API_METRICS, failed) > 0
    });
    eventually("it is not ready, for that reason", || ready() == 505);
    scene.pin(1, |peers| peers[API]["init_data"] = json!([hex(&pod.document.digest())]));
    eventually("it is ready again", || {
        let _ = api.signal(Signal::HUP);
        ready() == 200
    });
}

//! What the sidecar tells of its callers, to whom, and what it never tells.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::io::{Read, Write};

use countersign::finding::Class;
use countersign_testbed::guest::Answer;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, Reply, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::{Signal, eventually};
use rig::{APP, FRIEND, IN, METRICS, Rig, Said};

countersign_testbed::main! {
    metrics_are_read_over_mtls_by_those_on_their_list [GuestPort, Namespaces],
    metrics_are_read_to_the_end_of_a_drain [GuestPort, Namespaces],
    metrics_for_everybody_are_refused [GuestPort, Namespaces],
    a_list_of_readers_on_loopback_means_mtls_there_too [GuestPort, Namespaces],
    the_access_log_tells_who_and_what_and_no_secret [GuestPort, Namespaces],
    the_access_log_tells_of_tcp_connections [GuestPort, Namespaces],
    without_being_asked_no_request_is_told [GuestPort, Namespaces],
}

const READER: &str = "spiffe://example.org/ns/monitoring/sa/prometheus";

/// Reads the metrics as `identity`, over mTLS.
fn scrape(rig: &Rig, identity: Option<&Identity>, path: &str) -> std::io::Result<Reply> {
    Peer::connect(&rig.world, METRICS, identity, &["h2", "http/1.1"])?.get(path)
}

/// One number of such a reading.
fn number(page: &Reply, line: &str) -> f64 {
    page.body.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok()).unwrap_or(-1.0)
}

fn metrics_are_read_over_mtls_by_those_on_their_list() {
    let metrics = "listen = \"[::]:15822\"\nallow_from = \"kbs:///payments/mesh/readers\"";
    let rig = Rig::with(&Said { metrics, ..Said::default() }, |guest| {
        guest.secret("payments/mesh/readers", format!("[\"{READER}\"]"))
    });
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let reader = rig.ca.member(READER);
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    let page = scrape(&rig, Some(&reader), "/metrics").unwrap();
    assert_eq!(page.status, 200, "{}", sidecar.said());
    assert!(page.head.to_lowercase().contains("connection: close"), "one question: {}", page.head);
    assert_eq!(number(&page, "countersign_handshakes_total{inbound=\"[::]:8443\",result=\"accepted\"}"), 1.0);
    assert_eq!(scrape(&rig, Some(&reader), "/metrics?x=1").unwrap().status, 404);
    assert_eq!(scrape(&rig, Some(&reader), "/").unwrap().status, 404);
    // Who may call the app may not read them, and the other way round.
    let strangers = [
        (Some(rig.ca.member(FRIEND)), "not-allowed"),
        (Some(Ca::new("another").member(READER)), "unknown-issuer"),
        (Some(rig.ca.member_for(READER, 100, -50)), "expired"),
        (None, "no-certificate"),
    ];
    for (identity, reason) in &strangers {
        scrape(&rig, identity.as_ref(), "/metrics").expect_err(reason);
        let line = format!("countersign_handshakes_total{{inbound=\"[::]:15822\",result=\"{reason}\"}}");
        eventually(reason, || number(&scrape(&rig, Some(&reader), "/metrics").unwrap(), &line) == 1.0);
    }
    assert!(sidecar.said().contains("[::]:15822"), "the log says where: {}", sidecar.said());
    rig.call(Some(&reader)).expect_err("no caller of the app's");
    assert!(countersign_testbed::mesh::plain(&rig.world, METRICS, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").is_err());
    assert_eq!(app.count(), 1, "the friend's");
    // The list is read again like the roots, and lets nobody in whom it no longer has.
    rig.world.guest_api().set("payments/mesh/readers", Answer::Bytes(format!("[\"{FRIEND}\"]").into()));
    eventually("the reader is refused", || scrape(&rig, Some(&reader), "/metrics").is_err());
    let page = scrape(&rig, Some(&rig.friend), "/metrics").unwrap();
    for gauge in ["connections_open", "connections_handshaking", "requests_active"] {
        assert_eq!(number(&page, &format!("countersign_{gauge}{{inbound=\"[::]:8443\"}}")), 0.0, "{gauge}");
    }
}

fn metrics_are_read_to_the_end_of_a_drain() {
    let metrics = "listen = \"[::]:15822\"\nallow = [\"spiffe://example.org/ns/monitoring/sa/*\"]";
    let rig = Rig::new(&Said { metrics, ..Said::default() });
    let _app = rig.app(|_| vec![Act::Silence]);
    let sidecar = rig.ready();
    let reader = rig.ca.member(READER);
    let mut busy = rig.peer(&rig.friend);
    busy.write_all(b"GET /never HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    let active = "countersign_requests_active{inbound=\"[::]:8443\"}";
    eventually("it is under way", || {
        scrape(&rig, Some(&reader), "/metrics").is_ok_and(|page| number(&page, active) == 1.0)
    });
    sidecar.signal(Signal::TERM).unwrap();
    eventually("nobody gets in", || rig.world.connect(IN).is_err());
    assert_eq!(number(&scrape(&rig, Some(&reader), "/metrics").unwrap(), active), 1.0);
    drop(busy);
    sidecar.wait().expect_code(0);
}

fn metrics_for_everybody_are_refused() {
    for metrics in ["listen = \"[::]:15822\"", "listen = \"0.0.0.0:15822\"", "listen = \"[::]:15822\"\nallow = []"] {
        let rig = Rig::new(&Said { metrics, ..Said::default() });
        let run = rig.start().wait().refused(Class::Config);
        assert!(run.output().contains("metrics.allow"), "{metrics}: {}", run.output());
    }
}

fn a_list_of_readers_on_loopback_means_mtls_there_too() {
    let metrics = "listen = \"127.0.0.1:15822\"\nallow = [\"spiffe://example.org/ns/monitoring/sa/prometheus\"]";
    let rig = Rig::new(&Said { metrics, ..Said::default() });
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    assert!(rig.metric("countersign_build_info").is_none(), "nothing in plain");
    assert_eq!(scrape(&rig, Some(&rig.ca.member(READER)), "/metrics").unwrap().status, 200);
}

const LOGGED: &str = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\naccess_log = true";

fn the_access_log_tells_who_and_what_and_no_secret() {
    let rig = Rig::new(&Said { inbound: LOGGED, ..Said::default() });
    let _app = rig.app(|seen| {
        if seen.path.starts_with("/ws") {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframes";
            return vec![Act::Send(head.as_bytes().to_vec()), Act::Close];
        }
        if seen.path.starts_with("/never") { vec![Act::Silence] } else { echo(seen) }
    });
    let sidecar = rig.ready();
    let lines = || -> Vec<String> {
        let said = sidecar.said();
        said.lines().filter(|line| line.contains("access listen=")).map(ToOwned::to_owned).collect()
    };
    let mut told = 0;
    let mut next = |what: &str, parts: &[&str]| {
        eventually(what, || lines().len() > told);
        let line = lines()[told].clone();
        told += 1;
        for part in parts {
            assert!(line.contains(part), "{what}: {part} is not in {line}");
        }
        assert!(line.contains("listen=\"[::]:8443\"") && line.contains(&format!("peer=\"{FRIEND}\"")), "{line}");
        assert!(line.starts_with("INFO "), "{line}");
        line
    };
    let mut peer = rig.peer(&rig.friend);
    let request = "POST /pay?token=hush1#x HTTP/1.1\r\nhost: hush2\r\nauthorization: hush3\r\ncookie: hush4\r\n\
                   content-length: 5\r\n\r\nhush5";
    let reply = peer.ask(request).unwrap();
    let sent = format!("sent=\"{}\"", reply.body.len());
    next("a request", &["method=\"POST\"", "path=\"/pay\"", "status=\"200\"", "received=\"5\"", &sent, "ms=\""]);
    peer.get("http://api/abs?hush7").unwrap();
    next("the absolute form", &["path=\"/abs\"", "status=\"200\""]);
    let mut named = rig.peer(&rig.friend);
    assert_eq!(named.get("http://user:hush6@api/named?hush7").unwrap().status, 400);
    next("a password in the absolute form", &["path=\"/named\"", "status=\"400\""]);
    // A long path is cut, bytes that are no text are escaped.
    peer.get(&format!("/{}", "a".repeat(3000))).unwrap();
    assert!(next("a long path", &["status=\"200\""]).len() < 1000);
    let _ = peer.get("/quote\"and\\back");
    let line = next("quotes", &["path=\"/quote"]);
    assert!(line.is_ascii() && line.matches("path=").count() == 1, "{line}");
    let raw = "GET /\u{e9}\u{2028}\u{85} HTTP/1.1\r\nhost: api\r\n\r\n";
    if rig.peer(&rig.friend).ask(raw).is_ok_and(|reply| reply.status == 200) {
        assert!(next("no ASCII", &["path=\"/"]).is_ascii());
    }
    // Refused by us, unanswered, given another protocol.
    let mut refused = rig.peer(&rig.friend);
    let both =
        "POST /both?hush8 HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused.ask(both).unwrap().status, 400);
    next("a refusal", &["path=\"/both\"", "status=\"400\""]);
    let mut gone = rig.peer(&rig.friend);
    gone.write_all(b"GET /never HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    eventually("it is under way", || rig.gauge("requests_active") == 1.0);
    drop(gone);
    next("who went away", &["path=\"/never\"", "status=\"-\""]);
    let ask = "GET /ws?hush9 HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut socket = rig.peer(&rig.friend);
    assert_eq!(socket.ask(ask).unwrap().status, 101);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    drop(socket);
    next("a WebSocket", &["path=\"/ws\"", "status=\"101\"", "sent=\"6\""]);
    // Control bytes in a target never get so far.
    let mut broken = rig.peer(&rig.friend);
    assert_eq!(broken.ask("GET /a\u{1b}[2J\nINFO forged HTTP/1.1\r\nhost: api\r\n\r\n").unwrap().status, 400);
    drop((peer, refused, broken));
    rig.quiet();
    assert!(!sidecar.said().contains("hush"), "{}", sidecar.said());
    assert!(!sidecar.said().contains("forged"), "{}", sidecar.said());
    assert_eq!(lines().len(), told, "one line for each: {:?}", lines());
}

fn the_access_log_tells_of_tcp_connections() {
    let inbound = "protocol = \"tcp\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]\naccess_log = true";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let sidecar = rig.ready();
    let mut unserved = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
    let _ = unserved.read(&mut [0]);
    eventually("nobody is there", || sidecar.said().contains("ended=\"app-unreachable\""));
    let listener = rig.world.listen(APP).unwrap();
    let app = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        socket.read_to_end(&mut request).unwrap();
        socket.write_all(&[7; 5000]).unwrap();
    });
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
    peer.write_all(&[1; 300]).unwrap();
    peer.end().unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    app.join().unwrap();
    drop((peer, unserved));
    rig.quiet();
    eventually("it is told", || sidecar.said().contains("ended=\"both\""));
    let said = sidecar.said();
    let line = said.lines().find(|line| line.contains("ended=\"both\"")).unwrap();
    for part in [&format!("peer=\"{FRIEND}\""), "received=\"300\"", "sent=\"5000\"", "listen=\"[::]:8443\""] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_eq!(said.matches("access listen=").count(), 2, "{said}");
}

fn without_being_asked_no_request_is_told() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
    assert!(!sidecar.said().contains("access listen="), "{}", sidecar.said());
}

//! `[[outbound]]` with `protocol = "http"`: the app asks in plain, and its requests share a connection to one
//! peer over mTLS. The peer is this sidecar itself where it must be a good one, and a server of the test's
//! where it must not.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use countersign_testbed::guest::Answer;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{self, Reply, echo};
use countersign_testbed::pki::Identity;
use countersign_testbed::world::Started;
use countersign_testbed::{Signal, eventually};
use rig::{APP, FRIEND, OURS, Rig, Said};

countersign_testbed::main! {
    a_hundred_requests_share_one_connection [GuestPort, Namespaces],
    what_is_hop_by_hop_ends_here_and_the_host_goes_on [GuestPort, Namespaces],
    the_body_of_a_get_reaches_a_peer_of_http1 [GuestPort, Namespaces],
    grpc_keeps_its_trailers_on_the_way_out [GuestPort, Namespaces, Curl],
    a_websocket_goes_out_on_a_connection_of_its_own [GuestPort, Namespaces],
    ambiguous_requests_of_the_app_reach_no_peer [GuestPort, Namespaces],
    whoever_is_not_the_peer_gets_no_request [GuestPort, Namespaces],
    a_peer_that_is_away_is_told_and_comes_back [GuestPort, Namespaces],
    without_a_certificate_the_app_is_told_until_there_is_one [GuestPort, Namespaces],
    too_many_connections_are_told_until_one_of_them_ends [GuestPort, Namespaces],
    a_peer_of_http1_keeps_its_connection [GuestPort, Namespaces],
    what_was_lost_on_a_kept_connection_is_asked_again_and_a_post_is_not [GuestPort, Namespaces],
    a_stream_that_was_refused_is_asked_again [GuestPort, Namespaces],
    a_stream_that_was_broken_is_not_asked_again [GuestPort, Namespaces],
    a_connection_that_goes_away_is_replaced [GuestPort, Namespaces],
    a_slow_peer_is_504 [GuestPort, Namespaces],
    an_answer_that_is_cut_short_is_not_whole [GuestPort, Namespaces],
    a_drain_waits_for_requests_and_not_for_idle_connections [GuestPort, Namespaces],
    new_requests_move_to_a_new_connection_when_there_is_a_new_certificate [GuestPort, Namespaces],
    the_access_log_tells_what_the_app_asked [GuestPort, Namespaces],
}

/// Where the app dials.
const OUT: &str = "127.0.0.1:15000";

/// Where peers of the test's own listen.
const FAR: &str = "127.0.0.1:9443";

const READY: &str =
    "source = \"kbs-certificate\"\ncertificate = \"kbs:///payments/mesh/cert\"\nkey = \"kbs:///payments/mesh/key\"";

/// To ourselves: the way out and the way in of one sidecar.
fn to_itself(more: &str) -> Rig {
    out("127.0.0.1:8443", OURS, more)
}

/// To a peer of the test's.
fn to_far() -> Rig {
    out(FAR, FRIEND, "response_timeout = \"20s\"")
}

fn out(to: &str, peer: &str, more: &str) -> Rig {
    let outbound =
        format!("[[outbound]]\nlisten = \"{OUT}\"\nto = \"{to}\"\npeer = \"{peer}\"\nprotocol = \"http\"\n{more}\n");
    let inbound = "allow = [\"spiffe://example.org/ns/payments/sa/api\"]";
    Rig::new(&Said { identity: READY, inbound, more: outbound.leak(), ..Said::default() })
}

/// A connection of the app's.
fn dial(rig: &Rig) -> TcpStream {
    let socket = rig.world.connect(OUT).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn ask(socket: &mut TcpStream, request: &str) -> Reply {
    socket.write_all(request.as_bytes()).unwrap();
    mesh::read_reply(socket).unwrap()
}

fn get(rig: &Rig, path: &str) -> Reply {
    ask(&mut dial(rig), &format!("GET {path} HTTP/1.1\r\nhost: db\r\n\r\n"))
}

fn count(rig: &Rig, name: &str, label: &str) -> f64 {
    rig.metric(&format!("countersign_outbound_{name}{{outbound=\"{OUT}\"{label}}}")).unwrap_or(-1.0)
}

fn connected(rig: &Rig) -> f64 {
    count(rig, "handshakes_total", ",result=\"connected\"")
}

fn refused_by_us(reply: &Reply, status: u16, label: &str, sidecar: &Started<'_>) {
    let told = format!("{{\"error\":\"{label}\"");
    assert!(
        reply.status == status && reply.body.starts_with(&told),
        "{} {} {}",
        reply.head,
        reply.body,
        sidecar.said()
    );
}

fn a_hundred_requests_share_one_connection() {
    let rig = to_itself("");
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    thread::scope(|scope| {
        for caller in 0..10 {
            let world = rig.world.connector();
            scope.spawn(move || {
                let mut socket = world.connect_from("127.0.0.1", OUT).unwrap();
                for request in 0..10 {
                    let body = format!("{caller}-{request}");
                    let length = body.len();
                    let reply = ask(
                        &mut socket,
                        &format!("POST /pay HTTP/1.1\r\nhost: db\r\ncontent-length: {length}\r\n\r\n{body}"),
                    );
                    assert!(reply.status == 200 && reply.body.ends_with(&body), "{}", reply.body);
                }
            });
        }
    });
    assert_eq!(app.count(), 100);
    assert_eq!((connected(&rig), rig.refused("accepted")), (1.0, 1.0));
    assert_eq!(count(&rig, "responses_total", ",status=\"2xx\""), 100.0);
    eventually("nothing is under way", || count(&rig, "requests_active", "") == 0.0);
    assert_eq!(count(&rig, "connections_open", ""), 1.0, "it is kept");
}

fn what_is_hop_by_hop_ends_here_and_the_host_goes_on() {
    let rig = to_itself("");
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let mut app = dial(&rig);
    let reply = ask(
        &mut app,
        "GET /a?b=1 HTTP/1.1\r\nhost: db.payments:99\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: 5\r\n\
         proxy-authorization: Basic x\r\nauthorization: Bearer y\r\nte: gzip, trailers\r\n\r\n",
    );
    assert!(reply.body.starts_with("GET /a?b=1\n") && reply.body.contains("host: db.payments:99\n"), "{}", reply.body);
    assert!(reply.body.contains("authorization: Bearer y\n") && reply.body.contains(&format!("URI={OURS}\n")));
    for gone in ["x-mine", "keep-alive", "proxy-authorization", "gzip"] {
        assert!(!reply.body.contains(gone), "{gone}: {}", reply.body);
    }
    // The absolute form names the host too; who answers is configured all the same.
    let reply = ask(&mut app, "GET http://elsewhere:1/c HTTP/1.1\r\nhost: db\r\n\r\n");
    assert!(reply.body.starts_with("GET /c\n") && reply.body.contains("host: elsewhere:1\n"), "{}", reply.body);
    let reply = ask(&mut app, "GET /d HTTP/1.0\r\n\r\n");
    assert!(reply.body.contains("host: 127.0.0.1:8443\n"), "{}", reply.body);
}

fn grpc_keeps_its_trailers_on_the_way_out() {
    let rig = to_itself("");
    let listener = rig.world.listen(APP).unwrap();
    thread::spawn(move || rig::grpc_server(listener, &AtomicUsize::new(0)));
    let _sidecar = rig.ready();
    let url = format!("http://{OUT}/payments.Api/Pay");
    let args = ["-sSki", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"];
    let args = [&args[..], &["-H", "host: db.payments", "--data-binary", "x", &url]].concat();
    for _ in 0..2 {
        let run = rig.world.run("curl", &args).run().expect_code(0);
        assert!(run.stdout.contains("POST te=Some(\"trailers\")"), "{}", run.stdout);
        assert!(run.stdout.contains("://db.payments/payments.Api/Pay"), "{}", run.stdout);
        assert!(run.stdout.contains(&format!("URI={OURS}")), "{}", run.stdout);
        assert!(run.stdout.contains("grpc-status: 0"), "the trailers: {}", run.stdout);
    }
    assert_eq!(connected(&rig), 1.0);
}

const WEBSOCKET: &str =
    "GET /ws HTTP/1.1\r\nhost: db\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";

fn a_websocket_goes_out_on_a_connection_of_its_own() {
    let rig = to_itself("");
    let _app = rig.app(|seen| match seen.headers.get("upgrade").map(String::as_str) {
        Some("websocket") => vec![
            Act::Send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nframes".to_vec()),
            Act::Silence,
        ],
        _ => echo(seen),
    });
    let sidecar = rig.ready();
    assert_eq!(get(&rig, "/").status, 200);
    let mut app = dial(&rig);
    let reply = ask(&mut app, WEBSOCKET);
    assert!(reply.status == 101 && reply.head.to_lowercase().contains("sec-websocket-accept: x"), "{}", sidecar.said());
    let mut bytes = [0; 6];
    app.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"frames");
    assert_eq!((connected(&rig), count(&rig, "requests_active", "")), (2.0, 1.0));
    drop(app);
    eventually("it is over", || count(&rig, "requests_active", "") == 0.0);
    eventually("and so is its connection", || count(&rig, "connections_open", "") == 1.0);
    // A peer that grants none answers as to any other request.
    let mut app = dial(&rig);
    let refused = ask(&mut app, &WEBSOCKET.replace("websocket\r\nsec", "other\r\nsec"));
    assert_eq!(refused.status, 200);
}

fn ambiguous_requests_of_the_app_reach_no_peer() {
    let rig = to_itself("");
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    for (request, status) in [
        ("CONNECT evil:80 HTTP/1.1\r\nhost: evil:80\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: user:word@a\r\n\r\n", 400),
        ("GET http://user:word@a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ] {
        assert_eq!(ask(&mut dial(&rig), request).status, status, "{request}");
    }
    assert_eq!(app.count(), 0);
}

fn whoever_is_not_the_peer_gets_no_request() {
    let rig = to_far();
    let sidecar = rig.ready();
    let other_ca = countersign_testbed::pki::Ca::new("another");
    for (identity, reason) in [(rig.ca.member(OURS), "not-allowed"), (other_ca.member(FRIEND), "unknown-issuer")] {
        for h2 in [true, false] {
            let before = count(&rig, "handshakes_total", &format!(",result=\"{reason}\""));
            let peer = mesh::far(&rig.world, FAR, &identity, h2, echo);
            let reply = get(&rig, "/secret");
            refused_by_us(&reply, 502, "peer-refused", &sidecar);
            assert!(reply.body.contains(&format!("\"reason\":\"{reason}\"")), "{}", reply.body);
            assert_eq!(count(&rig, "handshakes_total", &format!(",result=\"{reason}\"")), before + 1.0);
            assert_eq!(peer.count(), 0, "not a byte of the request");
        }
    }
}

fn a_peer_that_is_away_is_told_and_comes_back() {
    let rig = to_far();
    let sidecar = rig.ready();
    let mut app = dial(&rig);
    for round in 0..3 {
        refused_by_us(&ask(&mut app, "GET / HTTP/1.1\r\nhost: db\r\n\r\n"), 502, "peer-unreachable", &sidecar);
        let peer = mesh::far(&rig.world, FAR, &rig.friend, round != 1, echo);
        for _ in 0..2 {
            assert_eq!(ask(&mut app, "GET / HTTP/1.1\r\nhost: db\r\n\r\n").status, 200, "{}", sidecar.said());
            // It flaps: what stands is gone, and the next one is made.
            peer.cut();
        }
        drop(peer);
        eventually("the connections are gone", || count(&rig, "connections_open", "") == 0.0);
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: db\r\n\r\n";

fn without_a_certificate_the_app_is_told_until_there_is_one() {
    let rig = to_far();
    let short = rig.ca.member_for(OURS, 10, 12);
    rig.replace("payments/mesh/cert", short.pem());
    rig.replace("payments/mesh/key", &short.key_pem());
    let peer = mesh::far(&rig.world, FAR, &rig.friend, true, echo);
    let sidecar = rig.ready();
    assert_eq!(get(&rig, "/").status, 200, "{}", sidecar.said());
    // The KBS is away for longer than the certificate lives, and so is what was connected with it.
    rig.world.guest_api().set("payments/mesh/cert", Answer::Refused);
    eventually("it is not ready", || rig.ask("/readyz") != 200);
    peer.cut();
    eventually("the connection is gone", || count(&rig, "connections_open", "") == 0.0);
    for told in 1..=2 {
        refused_by_us(&get(&rig, "/"), 503, "no-certificate", &sidecar);
        assert_eq!(count(&rig, "shed_total", ""), f64::from(told));
    }
    assert_eq!((peer.count(), connected(&rig)), (1, 1.0), "nobody is shown a certificate that has ended");
    let next = rig.ca.member(OURS);
    rig.replace("payments/mesh/key", &next.key_pem());
    rig.replace("payments/mesh/cert", next.pem());
    eventually("it is ready again", || {
        let _ = sidecar.signal(Signal::HUP);
        rig.ask("/readyz") == 200
    });
    assert_eq!(get(&rig, "/").status, 200, "{}", sidecar.said());
    assert_eq!((peer.count(), connected(&rig)), (2, 2.0));
}

fn too_many_connections_are_told_until_one_of_them_ends() {
    let rig = out(FAR, FRIEND, "[limits]\nconnections = 2");
    let sidecar = rig.ready();
    // An answer says that the connection has its place. Of the two, one is free for the peer, who is away.
    let mut first = dial(&rig);
    refused_by_us(&ask(&mut first, GET), 502, "peer-unreachable", &sidecar);
    let mut second = dial(&rig);
    refused_by_us(&ask(&mut second, GET), 503, "too-many", &sidecar);
    let peer = mesh::far(&rig.world, FAR, &rig.friend, true, echo);
    refused_by_us(&ask(&mut first, GET), 503, "too-many", &sidecar);
    assert_eq!((peer.connections(), count(&rig, "shed_total", "")), (0, 2.0));
    drop(second);
    eventually("its place is the peer's", || ask(&mut first, GET).status == 200);
    // Where even the app's own connection has no place there is nobody to tell.
    mesh::plain(&rig.world, OUT, GET).expect_err("it is reset");
    drop(first);
    eventually("others come in", || mesh::plain(&rig.world, OUT, GET).is_ok_and(|reply| reply.status == 200));
    assert_eq!(connected(&rig), 1.0, "what was made is kept");
}

fn a_peer_of_http1_keeps_its_connection() {
    let rig = to_far();
    let peer = mesh::far(&rig.world, FAR, &rig.friend, false, echo);
    let sidecar = rig.ready();
    for path in ["/a", "/b", "/c"] {
        let reply = get(&rig, path);
        assert!(reply.status == 200 && reply.body.contains("host: db\n"), "{} {}", reply.body, sidecar.said());
    }
    assert_eq!((peer.count(), peer.connections()), (3, 1));
}

fn the_body_of_a_get_reaches_a_peer_of_http1() {
    let rig = to_far();
    let listener = rig.world.listen(FAR).unwrap();
    let _sidecar = rig.ready();
    let seen = || {
        let (raw, _) = listener.accept().unwrap();
        let mut tls = mesh::receive(raw, &rig.friend, &["http/1.1"]).unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            tls.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&seen)));
            seen.push(byte[0]);
        }
        tls.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8(seen).unwrap()
    };
    let whole = "\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut app = dial(&rig);
    app.write_all(b"GET / HTTP/1.1\r\nhost: db\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").unwrap();
    let first = seen();
    assert!(first.starts_with("GET / ") && first.ends_with(whole), "{first}");
    assert_eq!(mesh::read_reply(&mut app).unwrap().status, 204);
    // The same by HTTP/2, with a cookie in two pieces.
    let mut app = dial(&rig);
    let head = [&[0x82, 0x86, 0x84, 1, 1, b'a'][..], b"\0\x06cookie\x03a=1", b"\0\x06cookie\x03b=2"].concat();
    app.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let frames = [frame(4, 0, 0, &[]), frame(1, 4, 1, &head), frame(0, 1, 1, b"hello")];
    app.write_all(&frames.concat()).unwrap();
    let second = seen();
    assert!(second.starts_with("GET / ") && second.ends_with(whole), "{second}");
    assert!(second.contains("\r\ncookie: a=1; b=2\r\n"), "{second}");
}

fn what_was_lost_on_a_kept_connection_is_asked_again_and_a_post_is_not() {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    let rig = to_far();
    let peer = mesh::far(&rig.world, FAR, &rig.friend, false, |seen| match seen.path.as_str() {
        "/lost" if LOST.fetch_add(1, Ordering::SeqCst) == 0 => vec![Act::Reset],
        "/never" => vec![Act::Reset],
        _ => echo(seen),
    });
    let sidecar = rig.ready();
    assert_eq!(get(&rig, "/").status, 200);
    assert_eq!(get(&rig, "/lost").status, 200, "{}", sidecar.said());
    assert_eq!(peer.count_of("/lost"), 2);
    // On the connection that stands now, and with a method that may do something twice.
    let post = "POST /never HTTP/1.1\r\nhost: db\r\ncontent-length: 1\r\n\r\nx";
    refused_by_us(&ask(&mut dial(&rig), post), 502, "peer-broken", &sidecar);
    assert_eq!(peer.count_of("/never"), 1);
    let empty = "POST /never HTTP/1.1\r\nhost: db\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(get(&rig, "/").status, 200);
    refused_by_us(&ask(&mut dial(&rig), empty), 502, "peer-broken", &sidecar);
    assert_eq!(peer.count_of("/never"), 2);
    // On a new connection nothing can be stale.
    refused_by_us(&get(&rig, "/never"), 502, "peer-broken", &sidecar);
    assert_eq!(peer.count_of("/never"), 3);
}

/// What a peer of HTTP/2 says to the next stream.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    /// 200, and nothing more.
    Good,
    /// `RST_STREAM` with this code.
    Reset(u8),
    /// GOAWAY: nothing was looked at.
    GoAway,
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Speaks HTTP/2 by hand: one word for each stream, whichever connection it comes on. Counts the streams.
fn two(listener: &std::net::TcpListener, identity: &Identity, says: &[Says], streams: &AtomicUsize) {
    loop {
        let Ok((raw, _)) = listener.accept() else { return };
        let mut tls = mesh::receive(raw, identity, &["h2"]).unwrap();
        let mut preface = [0; 24];
        if tls.read_exact(&mut preface).is_err() {
            continue;
        }
        tls.write_all(&frame(4, 0, 0, &[])).unwrap();
        loop {
            let mut head = [0; 9];
            if tls.read_exact(&mut head).is_err() {
                break;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if tls.read_exact(&mut payload).is_err() {
                break;
            }
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            let answer = match head[3] {
                4 if head[4] == 0 => frame(4, 1, 0, &[]),
                1 => match says[streams.fetch_add(1, Ordering::SeqCst)] {
                    // `:status: 200`, by its place in the static table (RFC 7541 appendix A).
                    Says::Good => frame(1, 5, stream, &[0x88]),
                    Says::Reset(code) => frame(3, 0, stream, &[0, 0, 0, code]),
                    Says::GoAway => frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0]),
                },
                _ => continue,
            };
            if tls.write_all(&answer).is_err() {
                break;
            }
        }
    }
}

/// Asks a peer that says these words.
fn told(says: &'static [Says], work: impl FnOnce(&Rig, &Started<'_>, &AtomicUsize)) {
    let rig = to_far();
    let listener = rig.world.listen(FAR).unwrap();
    let streams: &'static AtomicUsize = Box::leak(Box::default());
    let identity = rig.ca.member(FRIEND);
    thread::spawn(move || two(&listener, &identity, says, streams));
    let sidecar = rig.ready();
    work(&rig, &sidecar, streams);
}

const REFUSED_STREAM: u8 = 7;
const INTERNAL_ERROR: u8 = 2;

fn a_stream_that_was_refused_is_asked_again() {
    told(
        &[Says::Good, Says::Reset(REFUSED_STREAM), Says::Good, Says::Reset(REFUSED_STREAM)],
        |rig, sidecar, streams| {
            assert_eq!(get(rig, "/").status, 200, "{}", sidecar.said());
            // Even a POST, if it has no body that would be lost.
            let post = "POST /a HTTP/1.1\r\nhost: db\r\ncontent-length: 0\r\n\r\n";
            assert_eq!(ask(&mut dial(rig), post).status, 200, "{}", sidecar.said());
            assert_eq!(streams.load(Ordering::SeqCst), 3);
            let post = "POST /a HTTP/1.1\r\nhost: db\r\ncontent-length: 1\r\n\r\nx";
            refused_by_us(&ask(&mut dial(rig), post), 502, "peer-broken", sidecar);
            assert_eq!(streams.load(Ordering::SeqCst), 4);
        },
    );
}

fn a_stream_that_was_broken_is_not_asked_again() {
    told(&[Says::Good, Says::Reset(INTERNAL_ERROR)], |rig, sidecar, streams| {
        assert_eq!(get(rig, "/").status, 200, "{}", sidecar.said());
        refused_by_us(&get(rig, "/a"), 502, "peer-broken", sidecar);
        assert_eq!(streams.load(Ordering::SeqCst), 2);
    });
}

fn a_connection_that_goes_away_is_replaced() {
    told(&[Says::Good, Says::GoAway, Says::Good], |rig, sidecar, streams| {
        assert_eq!(get(rig, "/").status, 200, "{}", sidecar.said());
        assert_eq!(get(rig, "/a").status, 200, "{}", sidecar.said());
        assert_eq!((streams.load(Ordering::SeqCst), connected(rig)), (3, 2.0));
    });
}

fn a_slow_peer_is_504() {
    let rig = out(FAR, FRIEND, "response_timeout = \"4s\"");
    for h2 in [true, false] {
        let peer = mesh::far(&rig.world, FAR, &rig.friend, h2, |_| vec![Act::Silence]);
        let sidecar = rig.ready();
        refused_by_us(&get(&rig, "/"), 504, "peer-slow", &sidecar);
        assert_eq!(peer.count(), 1, "it is not asked again");
    }
}

fn an_answer_that_is_cut_short_is_not_whole() {
    let rig = to_far();
    let _peer = mesh::far(&rig.world, FAR, &rig.friend, false, |_| {
        vec![Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec()), Act::Reset]
    });
    let _sidecar = rig.ready();
    let mut app = dial(&rig);
    app.write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n").unwrap();
    mesh::read_reply(&mut app).expect_err("an end that is not the answer's");
}

fn a_drain_waits_for_requests_and_not_for_idle_connections() {
    let rig = to_far();
    let _peer = mesh::far(&rig.world, FAR, &rig.friend, true, |seen| match seen.path.as_str() {
        "/slow" => [vec![Act::Wait(Duration::from_secs(2))], echo(seen)].concat(),
        _ => echo(seen),
    });
    let sidecar = rig.ready();
    let mut app = dial(&rig);
    app.write_all(b"GET /slow HTTP/1.1\r\nhost: db\r\n\r\n").unwrap();
    eventually("it is under way", || count(&rig, "requests_active", "") == 1.0);
    sidecar.signal(Signal::TERM).unwrap();
    eventually("it drains", || rig.ask("/readyz") == 503);
    assert_eq!(get(&rig, "/while").status, 200, "what callers wait for may need it");
    assert_eq!(mesh::read_reply(&mut app).unwrap().status, 200);
    // The app's connection and the peer's stand, and nothing is asked.
    sidecar.wait().expect_code(0);
}

fn new_requests_move_to_a_new_connection_when_there_is_a_new_certificate() {
    let rig = to_itself("");
    let _app = rig.app(|seen| match seen.path.as_str() {
        "/slow" => [vec![Act::Wait(Duration::from_secs(3))], echo(seen)].concat(),
        _ => echo(seen),
    });
    let sidecar = rig.ready();
    let mut slow = dial(&rig);
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: db\r\n\r\n").unwrap();
    eventually("it is under way", || count(&rig, "requests_active", "") == 1.0);
    let own = rig.ca.member_for(OURS, 100, 5000);
    rig.replace("payments/mesh/cert", own.pem());
    rig.replace("payments/mesh/key", &own.key_pem());
    eventually("another connection is made before anybody asks", || {
        let _ = sidecar.signal(Signal::HUP);
        connected(&rig) == 2.0
    });

    assert_eq!(get(&rig, "/").status, 200);
    assert_eq!(mesh::read_reply(&mut slow).unwrap().status, 200, "what was under way is finished where it began");
    eventually("the old one is closed then", || count(&rig, "connections_open", "") == 1.0);
    assert_eq!(connected(&rig), 2.0);
}

fn the_access_log_tells_what_the_app_asked() {
    let rig = to_itself("access_log = true");
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let reply = ask(&mut dial(&rig), "POST /pay?q=hidden HTTP/1.1\r\nhost: db\r\ncontent-length: 3\r\n\r\nabc");
    assert_eq!(reply.status, 200);
    let (sent, received) = (3, reply.body.len());
    let line = format!(
        "listen=\"{OUT}\" peer=\"{OURS}\" method=\"POST\" path=\"/pay\" status=\"200\" received=\"{received}\" sent=\"{sent}\""
    );
    eventually("it is written", || sidecar.said().contains(&line));
    assert!(!sidecar.said().contains("hidden"));
}

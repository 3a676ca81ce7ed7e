//! `countersign sidecar`: a certificate that is kept valid, and mTLS in front of the app.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, echo};
use countersign_testbed::pki::Ca;
use countersign_testbed::{Signal, eventually};
use rig::{APP, FRIEND, IN, OURS, Rig, Said};

countersign_testbed::main! {
    an_allowed_caller_is_answered_and_the_app_sees_who [GuestPort, Namespaces],
    a_stranger_is_refused_and_the_log_says_why [GuestPort, Namespaces],
    tls_is_1_3_hybrid_first_and_resumes_nothing [GuestPort, Namespaces],
    forged_identity_headers_never_reach_the_app [GuestPort, Namespaces],
    ambiguous_requests_are_refused [GuestPort, Namespaces],
    a_missing_app_is_told_as_json_and_comes_back [GuestPort, Namespaces],
    a_slow_app_is_504_and_a_slow_upload_is_not [GuestPort, Namespaces],
    an_answer_cut_short_is_not_a_whole_one [GuestPort, Namespaces],
    an_unread_body_never_taints_the_next_request [GuestPort, Namespaces],
    a_websocket_goes_both_ways [GuestPort, Namespaces],
    tcp_carries_bytes_and_ends_both_ways [GuestPort, Namespaces],
    tcp_tells_the_app_who_by_proxy_v2 [GuestPort, Namespaces],
    silent_peers_are_gone_in_time [GuestPort, Namespaces],
    probes_ask_only_what_is_configured [GuestPort, Namespaces],
}

fn an_allowed_caller_is_answered_and_the_app_sees_who() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let reply = peer.ask("POST /pay?x=1 HTTP/1.1\r\nhost: api.payments\r\ncontent-length: 3\r\n\r\nabc").unwrap();
    assert_eq!(reply.status, 200, "{}", sidecar.said());
    assert!(reply.body.starts_with("POST /pay?x=1\n") && reply.body.ends_with("\nabc"), "{}", reply.body);
    assert!(reply.body.contains(&format!("x-forwarded-client-cert: By={OURS};Hash=")), "{}", reply.body);
    assert!(reply.body.contains(&format!(";URI={FRIEND}\n")), "{}", reply.body);
    assert!(reply.body.contains("host: api.payments\n") && reply.body.contains("x-forwarded-for: 127.0.0.1\n"));
    // Over HTTP/1.0 and on a kept connection too.
    assert_eq!(peer.get("/again").unwrap().status, 200);
    assert_eq!(app.connections(), 1, "the app's connection is used again");
    drop(peer);
    rig.quiet();
    assert_eq!(rig.refused("accepted"), 1.0);
}

fn a_stranger_is_refused_and_the_log_says_why() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let other = Ca::new("another");
    let twice = rig.ca.member_with(&[FRIEND, "spiffe://example.org/ns/web/sa/other"], &[], |_| {});
    let strangers = [
        (None, "no-certificate"),
        (Some(other.member(FRIEND)), "unknown-issuer"),
        (Some(rig.ca.member("spiffe://example.org/ns/admin/sa/root")), "not-allowed"),
        (Some(rig.ca.member("spiffe://example.org/ns/web/sa/front/more")), "not-allowed"),
        (Some(rig.ca.member_for(FRIEND, 100, -50)), "expired"),
        (Some(rig.ca.member_for(FRIEND, -50, 100)), "not-yet-valid"),
        (Some(twice), "several-identities"),
        (Some(rig.ca.member_with(&[], &[], |_| {})), "no-identity"),
        (Some(rig.ca.member_with(&["https://example.org/a"], &[], |_| {})), "bad-identity"),
        (Some(rig.ca.member_with(&[], &["front.web"], |_| {})), "not-allowed"),
        (Some(rig.ca.leaf(&["front.web"])), "wrong-purpose"),
    ];
    for (identity, reason) in &strangers {
        let before = rig.refused(reason);
        rig.call(identity.as_ref()).expect_err(reason);
        eventually(reason, || rig.refused(reason) == before + 1.0);
        eventually("the log says so", || sidecar.said().contains(&format!("reason=\"{reason}\"")));
    }
    assert_eq!(app.count(), 0, "not a byte reached the app");
    let said = sidecar.said();
    assert!(said.contains("spiffe://example.org/ns/admin/sa/root"), "who it was: {said}");
    assert!(!said.contains("ERROR"), "a refusal is no error: {said}");
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "and the next one is served");
    rig.quiet();
}

fn tls_is_1_3_hybrid_first_and_resumes_nothing() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2", "http/1.1"]).unwrap();
    assert_eq!((peer.key_exchange().as_deref(), peer.alpn().as_deref()), (Some("X25519MLKEM768"), Some("h2")));
    assert_eq!(peer.cipher().as_deref(), Some("TLS13_AES_128_GCM_SHA256"), "the server chooses");
    drop(peer);
    peer = rig.peer(&rig.friend);
    peer.get("/").unwrap();
    assert_eq!(peer.tickets(), 0);
    let refused = Peer::connect(&rig.world, IN, Some(&rig.friend), &["acme/9"]).and_then(|mut peer| peer.get("/"));
    assert!(refused.is_err(), "a protocol that nobody speaks");
    // No ALPN is HTTP/1.1, never a guess.
    assert_eq!(Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap().get("/").unwrap().status, 200);
    drop(peer);
    rig.quiet();
}

fn forged_identity_headers_never_reach_the_app() {
    for forward in ["xfcc", "none"] {
        let inbound: &'static str = if forward == "xfcc" {
            "allow = [\"spiffe://example.org/ns/web/sa/*\"]"
        } else {
            "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nforward_identity = \"none\""
        };
        let rig = Rig::new(&Said { inbound, ..Said::default() });
        let _app = rig.app(echo);
        let _sidecar = rig.ready();
        let mut peer = rig.peer(&rig.friend);
        let reply = peer
            .ask(
                "POST / HTTP/1.1\r\nhost: api\r\nX-Forwarded-Client-Cert: URI=spiffe://evil/a\r\n\
                 X_Forwarded_Client_Cert: URI=spiffe://evil/b\r\nx-forwarded_client-cert: URI=spiffe://evil/c\r\n\
                 x-forwarded-for: 6.6.6.6\r\nx-real-ip: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\n\
                 connection: x-forwarded-client-cert, keep-alive\r\nte: trailers\r\ntrailer: x-forwarded-client-cert\r\n\
                 transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-forwarded-client-cert: URI=spiffe://evil/d\r\n\r\n",
            )
            .unwrap();
        assert_eq!(reply.status, 200);
        assert!(!reply.body.contains("evil") && !reply.body.contains("6.6.6.6"), "{forward}: {}", reply.body);
        assert_eq!(reply.body.contains(&format!("URI={FRIEND}")), forward == "xfcc", "{}", reply.body);
        assert!(!reply.head.contains("x-forwarded-client-cert"), "nothing of it goes back: {}", reply.head);
    }
}

fn ambiguous_requests_are_refused() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    for (request, status) in [
        ("CONNECT evil:80 HTTP/1.1\r\nhost: evil:80\r\n\r\n", 501),
        (
            "GET / HTTP/1.1\r\nhost: api\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost: api\r\nhost: evil\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: admin:word@api\r\n\r\n", 400),
        ("GET http://admin@api/ HTTP/1.1\r\nhost: api\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
        ("POST / HTTP/1.1\r\nhost: api\r\ncontent-length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: gzip\r\n\r\nabc", 400),
        ("POST / HTTP/1.0\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : api\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: api\r\n folded: yes\r\n\r\n", 400),
    ] {
        let mut peer = rig.peer(&rig.friend);
        let reply = peer.ask(request).unwrap_or_else(|error| panic!("{request:?}: {error}"));
        assert_eq!(reply.status, status, "{request:?}: {reply:?}");
        assert!(peer.get("/after").is_err(), "{request:?}: what follows could be part of it");
    }
    // Bad chunks: `tests/sidecar_framing.rs`.
    assert_eq!(app.count(), 0);
    rig.quiet();
}

fn a_missing_app_is_told_as_json_and_comes_back() {
    let rig = Rig::new(&Said::default());
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let reply = peer.get("/").unwrap();
    assert_eq!(reply.status, 502);
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((body["error"].as_str(), body["status"].as_u64()), (Some("app-unreachable"), Some(502)));
    let app = rig.app(echo);
    assert_eq!(peer.get("/").unwrap().status, 200, "on the same connection");
    drop(app);
    eventually("it is gone again", || peer.get("/").is_ok_and(|reply| reply.status == 502));
    let _app = rig.app(|_| vec![Act::Close]);
    let reply = peer.get("/").unwrap();
    assert_eq!((reply.status, reply.body.contains("app-broken")), (502, true), "{reply:?}");
    drop(peer);
    rig.quiet();
}

fn a_slow_app_is_504_and_a_slow_upload_is_not() {
    let inbound = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nresponse_timeout = \"6s\"";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let _app = rig.app(|seen| if seen.path == "/slow" { vec![Act::Silence] } else { echo(seen) });
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let reply = peer.get("/slow").unwrap();
    assert_eq!((reply.status, reply.body.contains("app-slow")), (504, true), "{reply:?}");
    // Eight seconds of upload, never six of them silent, not even on a machine that stops for a while.
    peer.write_all(b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 8\r\n\r\n").unwrap();
    for byte in b"12345678" {
        std::thread::sleep(Duration::from_secs(1));
        peer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(peer.reply().unwrap().status, 200);
    drop(peer);
    rig.quiet();
}

fn an_answer_cut_short_is_not_a_whole_one() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(|_| vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Act::Reset]);
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    assert!(peer.get("/").is_err(), "the caller must see that it is not whole");
    drop(peer);
    rig.quiet();
}

fn an_unread_body_never_taints_the_next_request() {
    let rig = Rig::new(&Said::default());
    // Answers at the head, and reads no body.
    let app = rig.app(|seen| {
        if seen.path == "/early" {
            vec![Act::Send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n".to_vec())]
        } else {
            echo(seen)
        }
    });
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n";
    let request = format!("POST /early HTTP/1.1\r\nhost: api\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len());
    assert_eq!(peer.ask(&request).unwrap().status, 413);
    for _ in 0..3 {
        let reply = rig.peer(&rig.friend).get("/next").unwrap();
        assert!(reply.body.starts_with("GET /next"), "{}", reply.body);
    }
    assert_eq!(app.count_of("/smuggled"), 0);
    drop(peer);
    rig.quiet();
}

fn a_websocket_goes_both_ways() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(|seen| {
        let upgrade = seen.headers.get("upgrade").map(String::as_str) == Some("websocket");
        if !upgrade {
            return echo(seen);
        }
        vec![
            Act::Send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nframes".to_vec()),
            Act::Silence,
        ]
    });
    let sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let ask =
        "GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
    let reply = peer.ask(ask).unwrap();
    assert_eq!(reply.status, 101, "{}", sidecar.said());
    assert!(reply.head.to_lowercase().contains("sec-websocket-accept: x"), "{}", reply.head);
    let mut bytes = [0; 6];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"frames");
    assert_eq!((rig.gauge("requests_active"), rig.gauge("connections_open")), (1.0, 1.0));
    drop(peer);
    rig.quiet();
    // It is waited for like any other, and cut at the end.
    let mut peer = rig.peer(&rig.friend);
    assert_eq!(peer.ask(ask).unwrap().status, 101);
    sidecar.signal(Signal::TERM).unwrap();
    eventually("it drains", || rig.ask("/readyz") == 503);
    assert!(sidecar.is_running());
    sidecar.signal(Signal::TERM).unwrap();
    sidecar.wait().expect_code(84);
}

const TCP: &str = "protocol = \"tcp\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]";

fn tcp_carries_bytes_and_ends_both_ways() {
    let rig = Rig::new(&Said { inbound: TCP, ..Said::default() });
    let listener = rig.world.listen(APP).unwrap();
    let _sidecar = rig.ready();
    let app = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        // Only an end of the caller's half ends this.
        socket.read_to_end(&mut request).unwrap();
        let answer = vec![7_u8; 5_000_000];
        socket.write_all(&answer).unwrap();
        request
    });
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for piece in sent.chunks(1000) {
        peer.write_all(piece).unwrap();
    }
    peer.write_all(b"x").unwrap();
    peer.end().unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 5_000_000);
    let request = app.join().unwrap();
    assert_eq!((request.len(), request.last()), (300_001, Some(&b'x')));
    rig.quiet();
}

fn tcp_tells_the_app_who_by_proxy_v2() {
    let inbound = "protocol = \"tcp\"\nforward_identity = \"proxy-v2\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let listener = rig.world.listen(APP).unwrap();
    let _sidecar = rig.ready();
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
    peer.write_all(b"hello").unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let mut start = vec![0; 16 + 12 + 3 + FRIEND.len() + 5];
    socket.read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11"));
    assert!(start.ends_with(format!("{FRIEND}hello").as_bytes()));
    drop((socket, peer));
    rig.quiet();
}

fn silent_peers_are_gone_in_time() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let begun = Instant::now();
    let mut silent = rig.world.connect(IN).unwrap();
    let mut half = rig.world.connect(IN).unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    let mut authenticated = rig.peer(&rig.friend);
    let mut begins = rig.peer(&rig.friend);
    begins.write_all(b"GET / HTTP/1.1\r\nhost: a").unwrap();
    let mut h2 = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
    let mut mute = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // Half a head, and after that a byte now and then.
    let mut drips = rig.peer(&rig.friend);
    drips.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let dripping = std::thread::spawn(move || {
        while drips.write_all(b"x").and_then(|()| drips.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    for socket in [&silent, &half] {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let mut byte = [0; 1];
    assert!(matches!(silent.read(&mut byte), Ok(0) | Err(_)));
    assert!(matches!(half.read(&mut byte), Ok(0) | Err(_)));
    let ended = |peer: &mut Peer| {
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
    };
    ended(&mut authenticated);
    ended(&mut begins);
    ended(&mut h2);
    ended(&mut mute);
    dripping.join().unwrap();
    let took = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(18)).contains(&took), "{took:?}");
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
    // Rubbish is over at once.
    let mut rubbish = rig.world.connect(IN).unwrap();
    rubbish.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = rubbish.read_to_end(&mut rest);
    assert!(rest.len() < 64, "an alert at most");
    eventually("it is counted", || rig.refused("not-tls") == 1.0);
}

fn probes_ask_only_what_is_configured() {
    let inbound = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nprobes = [\"/healthz\"]";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let app = rig.app(|seen| {
        let status = if seen.path == "/healthz" { "200 OK" } else { "404 Not Found" };
        vec![Act::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 6\r\nx-secret: 1\r\n\r\nsecret").into_bytes())]
    });
    let _sidecar = rig.ready();
    let get = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nhost: pod\r\n\r\n");
        countersign_testbed::mesh::plain(&rig.world, rig::HEALTH, &request).unwrap()
    };
    let reply = get("/probe/8080/healthz");
    assert_eq!((reply.status, reply.body.as_str()), (200, "ok"));
    assert!(!reply.head.contains("x-secret"), "{}", reply.head);
    for target in [
        "/probe/8080//healthz",
        "/probe/8080/healthz/",
        "/probe/8080/healthz?x=1",
        "/probe/8080/%68ealthz",
        "/probe/8080/admin",
        "/probe/8080/../healthz",
        "/probe/8080/healthz%2e",
        "/probe/8080/%2e/healthz",
        "/probe/8080/%2e%2e/healthz",
        "/probe/8080/x/..%2fhealthz",
        "/probe/8080/./healthz",
        "/probe/8080%2fhealthz",
        "/probe//8080/healthz",
        "/probe/08080/healthz",
        "/probe/8080/healthz;x",
        "https://127.0.0.1:8080/healthz",
        "//probe/8080/healthz",
        "/probe/8443/healthz",
        "/probe/8080",
        "http://127.0.0.1:8080/healthz",
        "http://pod/probe/8080/healthz",
    ] {
        assert!(matches!(get(target).status, 400 | 404), "{target}");
    }
    let asked = app.count();
    for _ in 0..20 {
        assert_eq!(get("/probe/8080/healthz").status, 200);
    }
    assert!(app.count() - asked <= 2, "an answer holds for a second");
    assert!(app.requests().iter().all(|seen| seen.path == "/healthz" && seen.body.is_empty()));
    // Who asks says nothing that the app hears: neither a host nor a header of his.
    let hosts = "GET /probe/8080/healthz HTTP/1.1\r\nhost: evil:1\r\nx-evil: 1\r\ncookie: evil\r\n\r\n";
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(countersign_testbed::mesh::plain(&rig.world, rig::HEALTH, hosts).unwrap().status, 200);
    let seen = app.requests().pop().unwrap();
    assert_eq!(seen.headers.get("host").map(String::as_str), Some("localhost"), "{:?}", seen.headers);
    assert!(!format!("{:?}", seen.headers).contains("evil"), "{:?}", seen.headers);
    // HTTP/2, where a path is a pseudo-header, is not spoken here.
    let mut h2 = rig.world.connect(rig::HEALTH).unwrap();
    h2.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut rest = Vec::new();
    let _ = h2.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"\0\0") && !String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
    // Two requests in one: the second is not looked at.
    let two = "GET /livez HTTP/1.1\r\nhost: pod\r\n\r\nGET /probe/8080/healthz HTTP/1.1\r\nhost: pod\r\n\r\n";
    let before = app.count();
    let mut socket = rig.world.connect(rig::HEALTH).unwrap();
    socket.write_all(two.as_bytes()).unwrap();
    let mut rest = String::new();
    let _ = socket.read_to_string(&mut rest);
    assert!(rest.to_lowercase().contains("connection: close") && rest.matches("HTTP/1.1 ").count() == 1, "{rest}");
    assert_eq!(app.count(), before);
    let body = "POST /livez HTTP/1.1\r\nhost: pod\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(countersign_testbed::mesh::plain(&rig.world, rig::HEALTH, body).unwrap().status, 405);
    drop(app);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(get("/probe/8080/healthz").status, 503);
}

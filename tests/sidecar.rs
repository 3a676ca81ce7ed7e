//! `countersign sidecar`: a certificate that is kept valid, and mTLS in front of the app.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
mod rig;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use countersign::finding::Class;
use countersign_testbed::guest::Answer;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, echo};
use countersign_testbed::pki::Ca;
use countersign_testbed::{Signal, eventually};
use rig::{APP, CONFIG, FRIEND, IN, OURS, Rig, Said};

countersign_testbed::main! {
    an_allowed_caller_is_answered_and_the_app_sees_who [GuestPort, Namespaces],
    a_stranger_is_refused_and_the_log_says_why [GuestPort, Namespaces],
    tls_is_1_3_hybrid_first_and_resumes_nothing [GuestPort, Namespaces],
    forged_identity_headers_never_reach_the_app [GuestPort, Namespaces],
    ambiguous_requests_are_refused [GuestPort, Namespaces],
    the_certificate_is_renewed_under_load_and_no_request_fails [GuestPort, Namespaces],
    a_broken_new_certificate_never_replaces_a_good_one [GuestPort, Namespaces],
    an_expired_certificate_is_never_served_and_the_next_one_is [GuestPort, Namespaces],
    trust_that_is_withdrawn_ends_live_connections [GuestPort, Namespaces],
    an_unreadable_list_replaces_none [GuestPort, Namespaces],
    a_missing_app_is_told_as_json_and_comes_back [GuestPort, Namespaces],
    a_slow_app_is_504_and_a_slow_upload_is_not [GuestPort, Namespaces],
    an_answer_cut_short_is_not_a_whole_one [GuestPort, Namespaces],
    an_unread_body_never_taints_the_next_request [GuestPort, Namespaces],
    a_websocket_goes_both_ways [GuestPort, Namespaces],
    sigterm_before_there_is_a_certificate_ends_it [GuestPort, Namespaces],
    an_outage_costs_no_cpu [GuestPort, Namespaces],
    tcp_carries_bytes_and_ends_both_ways [GuestPort, Namespaces],
    tcp_tells_the_app_who_by_proxy_v2 [GuestPort, Namespaces],
    silent_peers_are_gone_in_time [GuestPort, Namespaces],
    an_exposed_app_makes_the_pod_not_ready [GuestPort, Namespaces],
    probes_ask_only_what_is_configured [GuestPort, Namespaces],
    sigterm_drains_and_a_second_one_cuts [GuestPort, Namespaces],
    secrets_are_published_where_init_has_not [GuestPort, Namespaces, Memory],
    without_listeners_the_secrets_are_kept_fresh [GuestPort, Namespaces, Memory],
    plain_configuration_makes_it_serve_nobody [GuestPort, Namespaces],
    what_this_release_lacks_is_refused_by_name [GuestPort, Namespaces],
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
    let mut peer = rig.peer(&rig.friend);
    let chunked = "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n";
    peer.write_all(chunked.as_bytes()).unwrap();
    peer.write_all(b"zz\r\nabc\r\n0\r\n\r\n").unwrap();
    assert!(peer.reply().is_err() || app.count() == 0, "bad chunking");
    let whole = app.requests().into_iter().filter(|seen| seen.path == "/after").count();
    assert_eq!(whole, 0);
    // CL and TE: read as chunked, told on as chunked alone, and the connection ends.
    let mut peer = rig.peer(&rig.friend);
    let both = "POST /both HTTP/1.1\r\nhost: api\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n";
    if let Ok(reply) = peer.ask(both) {
        assert!(!reply.body.contains("content-length: 3"), "{}", reply.body);
        assert!(peer.reply().is_err(), "the connection ends");
    }
    assert_eq!(app.count_of("/smuggled"), 0);
    rig.quiet();
}

fn the_certificate_is_renewed_under_load_and_no_request_fails() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let mut kept = rig.peer(&rig.friend);
    let mut shown = std::collections::BTreeSet::new();
    let (begun, mut asked) = (Instant::now(), Instant::now());
    let mut requests = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        if asked.elapsed() >= Duration::from_secs(1) {
            sidecar.signal(Signal::HUP).unwrap();
            asked = Instant::now();
        }
        let mut peer = rig.peer(&rig.friend);
        shown.insert(peer.shown().unwrap());
        assert_eq!(peer.get("/").unwrap().status, 200);
        assert_eq!(kept.get("/kept").unwrap().status, 200, "what is open goes on");
        requests += 2;
    }
    assert!(shown.len() >= 6, "{} certificates, {requests} requests: {}", shown.len(), sidecar.said());
    drop(kept);
    rig.quiet();
}

const READY: &str =
    "source = \"kbs-certificate\"\ncertificate = \"kbs:///payments/mesh/cert\"\nkey = \"kbs:///payments/mesh/key\"";

fn a_broken_new_certificate_never_replaces_a_good_one() {
    let rig = Rig::new(&Said { identity: READY, ..Said::default() });
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let good = rig.peer(&rig.friend).shown().unwrap();
    let other = Ca::new("another");
    let broken = [
        ("not a certificate", other.member(OURS), true),
        ("by another CA", other.member(OURS), false),
        ("another's", rig.ca.member(FRIEND), false),
        ("expired", rig.ca.member_for(OURS, 100, -10), false),
        ("from the future", rig.ca.member_for(OURS, -100, 1000), false),
        ("for servers only", rig.ca.leaf(&["api"]), false),
    ];
    for (what, identity, garbage) in broken {
        let failures = sidecar.said().matches("not renewed").count();
        let pem = if garbage { "rubbish".to_owned() } else { identity.pem().to_owned() };
        rig.world.guest_api().set("payments/mesh/cert", Answer::Bytes(pem.into_bytes()));
        rig.world.guest_api().set("payments/mesh/key", Answer::Bytes(identity.key_pem().into_bytes()));
        eventually(what, || {
            let _ = sidecar.signal(Signal::HUP);
            std::thread::sleep(Duration::from_millis(100));
            sidecar.said().matches("not renewed").count() > failures
        });
        assert_eq!(rig.peer(&rig.friend).shown().unwrap(), good, "{what}");
        assert_eq!(rig.ask("/readyz"), 200, "{what}: the one that stands is valid");
    }
    // A key that is another's.
    let next = rig.ca.member(OURS);
    rig.world.guest_api().set("payments/mesh/cert", Answer::Bytes(next.pem().into()));
    std::thread::sleep(Duration::from_millis(600));
    sidecar.signal(Signal::HUP).unwrap();
    assert_eq!(rig.peer(&rig.friend).shown().unwrap(), good);
    // And the good one is taken.
    rig.world.guest_api().set("payments/mesh/key", Answer::Bytes(next.key_pem().into()));
    eventually("the good one is served", || {
        let _ = sidecar.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(600));
        rig.peer(&rig.friend).shown().unwrap() != good
    });
    assert!(!sidecar.said().contains("BEGIN"), "no key in the log");
}

fn an_expired_certificate_is_never_served_and_the_next_one_is() {
    let rig = Rig::new(&Said { identity: READY, ..Said::default() });
    let short = rig.ca.member_for(OURS, 10, 12);
    rig.world.guest_api().set("payments/mesh/cert", Answer::Bytes(short.pem().into()));
    rig.world.guest_api().set("payments/mesh/key", Answer::Bytes(short.key_pem().into()));
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    // The KBS is away for longer than the certificate lives.
    rig.world.guest_api().set("payments/mesh/cert", Answer::Refused);
    rig.world.guest_api().set("payments/mesh/roots", Answer::Refused);
    eventually("it is not ready", || rig.ask("/readyz") != 200);
    assert!((501..=524).contains(&rig.ask("/readyz")), "the status names the class: {}", rig.ask("/readyz"));
    assert!(rig.call(Some(&rig.friend)).is_err(), "nobody is shown an expired certificate");
    assert!(sidecar.is_running() && rig.ask("/livez") == 200, "it goes on trying");
    let next = rig.ca.member(OURS);
    rig.world.guest_api().set("payments/mesh/roots", Answer::Bytes(rig.ca.pem().into()));
    rig.world.guest_api().set("payments/mesh/key", Answer::Bytes(next.key_pem().into()));
    rig.world.guest_api().set("payments/mesh/cert", Answer::Bytes(next.pem().into()));
    eventually("it is ready again", || {
        let _ = sidecar.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(200));
        rig.ask("/readyz") == 200
    });
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
}

const LISTED: &str = "allow_from = \"kbs:///payments/mesh/allow\"";

fn trust_that_is_withdrawn_ends_live_connections() {
    let rig = Rig::with(&Said { inbound: LISTED, ..Said::default() }, |guest| {
        guest.secret("payments/mesh/allow", "[\"spiffe://example.org/ns/web/sa/*\", \"dns:old.web\"]")
    });
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let mut kept = rig.peer(&rig.friend);
    assert_eq!(kept.get("/").unwrap().status, 200);
    let by_name = rig.ca.member_with(&[], &["old.web"], |_| {});
    let mut named = rig.peer(&by_name);
    assert_eq!(named.get("/").unwrap().status, 200);
    rig.world.guest_api().set("payments/mesh/allow", Answer::Bytes(b"[\"dns:old.web\"]".to_vec()));
    eventually("the live connection is cut", || kept.get("/").is_err());
    assert!(rig.call(Some(&rig.friend)).is_err());
    assert_eq!(named.get("/").unwrap().status, 200, "who is still allowed is not disturbed");
    assert!(sidecar.said().contains("connection cut"), "{}", sidecar.said());
    // Roots that are exchanged end everybody of the old ones.
    let other = Ca::new("the next");
    rig.world.guest_api().set("payments/mesh/roots", Answer::Bytes(other.pem().into()));
    eventually("those of the old roots are cut", || named.get("/").is_err());
    let next = other.member_with(&[], &["old.web"], |_| {});
    assert_eq!(rig.call(Some(&next)).unwrap(), 200);
    rig.quiet();
}

fn an_unreadable_list_replaces_none() {
    let rig = Rig::with(&Said { inbound: LISTED, ..Said::default() }, |guest| {
        guest.secret("payments/mesh/allow", format!("[\"{FRIEND}\"]"))
    });
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    for bad in ["[]", "", "{}", "[1]", "[\"*\"]", "[\"spiffe://*/a\"]", "spiffe://example.org/ns/web/sa/front"] {
        let before = sidecar.said().matches("not renewed").count();
        rig.world.guest_api().set("payments/mesh/allow", Answer::Bytes(bad.into()));
        eventually(bad, || {
            let _ = sidecar.signal(Signal::HUP);
            std::thread::sleep(Duration::from_millis(100));
            sidecar.said().matches("not renewed").count() > before
        });
        assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "{bad}: the list that stands, stands");
    }
    drop(sidecar);
    // At the start there is none that stands.
    rig.start().wait().refused(Class::Content);
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
    let inbound = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nresponse_timeout = \"2s\"";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let _app = rig.app(|seen| if seen.path == "/slow" { vec![Act::Silence] } else { echo(seen) });
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let reply = peer.get("/slow").unwrap();
    assert_eq!((reply.status, reply.body.contains("app-slow")), (504, true), "{reply:?}");
    // Four seconds of upload, never two of them silent.
    peer.write_all(b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 8\r\n\r\n").unwrap();
    for byte in b"12345678" {
        std::thread::sleep(Duration::from_millis(500));
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

fn sigterm_before_there_is_a_certificate_ends_it() {
    let rig = Rig::with(&Said::default(), |guest| guest.answer("payments/mesh/roots", Answer::Silent));
    let sidecar = rig.start();
    eventually("it is starting", || rig.ask("/startupz") == 503);
    sidecar.signal(Signal::TERM).unwrap();
    let run = sidecar.wait().expect_code(0);
    assert!(run.stderr.contains("before it served"), "{}", run.stderr);
}

fn an_outage_costs_no_cpu() {
    let rig = Rig::new(&Said::default());
    let sidecar = rig.ready();
    rig.world.guest_api().set("payments/mesh/roots", Answer::Refused);
    eventually("it has tried", || sidecar.said().contains("not renewed"));
    let used = |pid: i32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used(sidecar.pid());
    std::thread::sleep(Duration::from_secs(8));
    // In hundredths of a second: a loop that does not wait takes 800.
    assert!(used(sidecar.pid()) - before < 200, "{}", used(sidecar.pid()) - before);
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

fn an_exposed_app_makes_the_pod_not_ready() {
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen("0.0.0.0:8080").unwrap();
    let sidecar = rig.start();
    eventually("the pod is not ready", || rig.ask("/readyz") == 523);
    assert!(sidecar.said().contains("app-exposed") && sidecar.said().contains("127.0.0.1"), "{}", sidecar.said());
    assert_eq!(rig.ask("/startupz"), 200);
    drop(listener);
    let app = rig.app(echo);
    eventually("it is ready once that is mended", || rig.ask("/readyz") == 200);
    drop((sidecar, app));
    let inbound = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nexposure = \"warn\"";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let _listener = rig.world.listen("0.0.0.0:8080").unwrap();
    let sidecar = rig.ready();
    eventually("it is said", || sidecar.said().contains("app-exposed"));
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
    // Two requests in one: the second is not looked at.
    let two = "GET /livez HTTP/1.1\r\nhost: pod\r\n\r\nGET /probe/8080/healthz HTTP/1.1\r\nhost: pod\r\n\r\n";
    let reply = countersign_testbed::mesh::plain(&rig.world, rig::HEALTH, two).unwrap();
    assert!(reply.head.to_lowercase().contains("connection: close"), "{}", reply.head);
    let body = "POST /livez HTTP/1.1\r\nhost: pod\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(countersign_testbed::mesh::plain(&rig.world, rig::HEALTH, body).unwrap().status, 405);
    drop(app);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(get("/probe/8080/healthz").status, 503);
}

fn sigterm_drains_and_a_second_one_cuts() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(|seen| {
        if seen.path == "/long" {
            let mut acts = vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n".to_vec())];
            acts.push(Act::Drip(b"12345678".to_vec(), Duration::from_millis(250)));
            return acts;
        }
        echo(seen)
    });
    let sidecar = rig.ready();
    let mut idle = rig.peer(&rig.friend);
    assert_eq!(idle.get("/").unwrap().status, 200);
    let mut busy = rig.peer(&rig.friend);
    busy.write_all(b"GET /long HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    eventually("it is under way", || rig.gauge("requests_active") == 1.0);
    sidecar.signal(Signal::TERM).unwrap();
    eventually("it is not ready", || rig.ask("/readyz") == 503);
    eventually("nobody gets in", || rig.world.connect(IN).is_err());
    // Renewals are over; nobody minds the signal.
    sidecar.signal(Signal::HUP).unwrap();
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest);
    assert_eq!(busy.reply().unwrap().body, "12345678", "what was under way is finished");
    let run = sidecar.wait().expect_code(0);
    assert!(run.stderr.contains("drained"), "{}", run.stderr);

    let sidecar = rig.ready();
    let mut tcp = rig.peer(&rig.friend);
    tcp.write_all(b"POST /never HTTP/1.1\r\nhost: api\r\ncontent-length: 9\r\n\r\n1").unwrap();
    eventually("it is under way", || rig.gauge("requests_active") == 1.0);
    let begun = Instant::now();
    sidecar.signal(Signal::TERM).unwrap();
    eventually("it drains", || rig.ask("/readyz") == 503);
    sidecar.signal(Signal::TERM).unwrap();
    let run = sidecar.wait().expect_code(84);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(run.stderr.contains("drain-forced"), "{}", run.stderr);
}

fn secrets_are_published_where_init_has_not() {
    let world = countersign_testbed::World::new().unwrap();
    let directory = world.ramdir().unwrap().join("secrets");
    let ca = Ca::new("mesh");
    let text = format!(
        "{}\n[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"password\"\nfrom = \"kbs:///payments/db/password\"\n",
        Said::default().toml(),
        directory.display()
    );
    let guest = countersign_testbed::GuestApi::healthy()
        .secret(CONFIG, text)
        .secret("payments/db/password", "alpha")
        .secret("payments/mesh/roots", ca.pem());
    let rig = Rig { world: world.guest(guest), friend: ca.member(FRIEND), ca };
    let sidecar = rig.ready();
    assert_eq!(rig.world.read(directory.join("password")).unwrap(), b"alpha");
    drop(sidecar);
    let asked = rig.world.guest_api().count_of("/cdh/resource/payments/db/password");
    let sidecar = rig.ready();
    assert!(sidecar.said().contains("the secrets stand already"), "{}", sidecar.said());
    assert_eq!(rig.world.guest_api().count_of("/cdh/resource/payments/db/password"), asked);
}

fn without_listeners_the_secrets_are_kept_fresh() {
    let world = countersign_testbed::World::new().unwrap();
    let directory = world.ramdir().unwrap().join("secrets");
    let text = format!(
        "version = 1\nserial = 1\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n\
         [secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"password\"\nfrom = \"kbs:///payments/db/password\"\n",
        directory.display()
    );
    let guest = countersign_testbed::GuestApi::healthy().secret(CONFIG, text).secret("payments/db/password", "alpha");
    let ca = Ca::new("mesh");
    let rig = Rig { world: world.guest(guest), friend: ca.member(FRIEND), ca };
    let sidecar = rig.ready();
    assert_eq!(rig.world.read(directory.join("password")).unwrap(), b"alpha");
    assert!(rig.world.connect(IN).is_err());
    assert_eq!((rig.ask("/startupz"), rig.ask("/probe/8080/healthz")), (200, 404));
    sidecar.signal(Signal::TERM).unwrap();
    sidecar.wait().expect_code(0);
}

fn plain_configuration_makes_it_serve_nobody() {
    // A file or variables cannot say who may call: there is nothing that they could make it serve.
    let rig = Rig::new(&Said::default());
    let sidecar = rig.world.countersign(&["sidecar"]).env("COUNTERSIGN_LOG", "debug").start();
    eventually("it is up", || rig.ask("/readyz") == 200);
    assert!(rig.world.connect(IN).is_err(), "no listener without a certificate");
    assert!(sidecar.said().contains("nobody is served"), "{}", sidecar.said());
}

fn what_this_release_lacks_is_refused_by_name() {
    for (said, names) in [
        (Said { identity: "source = \"issuer\"", ..Said::default() }, "issuer"),
        (
            Said {
                more: "[[outbound]]\nlisten = \"127.0.0.1:15432\"\nto = \"db:5432\"\npeer = \"spiffe://example.org/a\"\n",
                ..Said::default()
            },
            "outbound",
        ),
        (Said { identity: "source = \"kbs-certificate\"", ..Said::default() }, "identity.certificate"),
        (Said { inbound: "allow = []", ..Said::default() }, "allow"),
        (Said { inbound: "", ..Said::default() }, "allow"),
    ] {
        let rig = Rig::new(&said);
        let run = rig.start().wait().refused(Class::Config);
        assert!(run.output().contains(names), "{names}: {}", run.output());
    }
}

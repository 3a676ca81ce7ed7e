//! Peers and apps that fall silent in every phase, ends under load, and every kind of address. After each,
//! nothing is held.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::print_stdout
)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, echo, plain};
use countersign_testbed::{Signal, eventually};
use rig::{APP, IN, Rig, Said, Stops};

countersign_testbed::main! {
    half_a_body_is_ended_in_time [GuestPort, Namespaces],
    who_reads_nothing_is_gone_in_time [GuestPort, Namespaces],
    a_silent_tcp_app_holds_its_own_callers_only [GuestPort, Namespaces],
    a_tcp_app_that_does_not_accept_is_given_up_in_time [GuestPort, Namespaces],
    tcp_load_goes_on_through_a_drain [GuestPort, Namespaces],
    every_family_of_addresses_is_served [GuestPort, Namespaces],
    an_app_on_a_unix_socket_is_served_and_probed [GuestPort, Namespaces],
    several_listeners_have_lists_and_counts_of_their_own [GuestPort, Namespaces],
}

const TCP: &str = "protocol = \"tcp\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]";

fn half_a_body_is_ended_in_time() {
    let inbound = "allow = [\"spiffe://example.org/ns/web/sa/*\"]\nresponse_timeout = \"2s\"";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    // One that waits for the whole body, as apps do.
    let _app =
        rig.app(|seen| if seen.headers.contains_key("transfer-encoding") { vec![Act::Silence] } else { echo(seen) });
    let _sidecar = rig.ready();
    for half in ["content-length: 9\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n9\r\nhalf"] {
        let mut peer = rig.peer(&rig.friend);
        let begun = Instant::now();
        let reply = peer.ask(&format!("POST / HTTP/1.1\r\nhost: api\r\n{half}")).unwrap();
        assert_eq!((reply.status, reply.body.contains("app-slow")), (504, true), "{reply:?}");
        assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(peer.reply().is_err(), "the rest of the body is no request");
    }
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
}

fn who_reads_nothing_is_gone_in_time() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(|seen| {
        if seen.path != "/endless" {
            return echo(seen);
        }
        vec![
            Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_vec()),
            Act::Endless(vec![b'x'; 64 * 1024]),
        ]
    });
    let sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    peer.write_all(b"GET /endless HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
    eventually("it is under way", || rig.gauge("requests_active") == 1.0);
    let begun = Instant::now();
    // The kernel's own time (120 s), and as long again for its timers.
    while rig.gauge("connections_open") > 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(240), "{}", sidecar.said());
        assert_eq!(rig.ask("/readyz"), 200);
        thread::sleep(Duration::from_secs(1));
    }
    println!("who reads nothing was gone after {:?}", begun.elapsed());
    rig.quiet();
    drop(peer);
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
}

fn a_silent_tcp_app_holds_its_own_callers_only() {
    let rig = Rig::new(&Said { inbound: TCP, ..Said::default() });
    let listener = rig.world.listen(APP).unwrap();
    let sidecar = rig.ready();
    // Takes connections, and says nothing on any of them.
    let taken = thread::spawn(move || (0..20).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>());
    let silent: Vec<Peer> = (0..20)
        .map(|_| {
            let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
            peer.write_all(b"anybody?").unwrap();
            peer
        })
        .collect();
    let taken = taken.join().unwrap();
    eventually("all are connected", || rig.gauge("connections_open") == 20.0);
    assert_eq!((rig.ask("/readyz"), rig.gauge("connections_handshaking")), (200, 0.0));
    drop(silent);
    // Their ends reach the app, which ends in its turn.
    for mut socket in taken {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        assert_eq!(all, b"anybody?");
    }
    rig.quiet();
    assert!(sidecar.is_running());
}

fn a_tcp_app_that_does_not_accept_is_given_up_in_time() {
    let rig = Rig::new(&Said { inbound: TCP, ..Said::default() });
    // A queue that is full: nobody accepts.
    let listener = rig.world.listen(APP).unwrap();
    one_place(&listener);
    let _full = rig.world.connect(APP).unwrap();
    let sidecar = rig.ready();
    let begun = Instant::now();
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.is_empty() && begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    eventually("it is said", || sidecar.said().contains("does not take connections"));
    drop(peer);
    rig.quiet();
}

/// From now on the queue of this listener has one place.
fn one_place(listener: &TcpListener) {
    rustix::net::listen(listener, 0).unwrap();
}

fn tcp_load_goes_on_through_a_drain() {
    let rig = Rig::new(&Said { inbound: TCP, ..Said::default() });
    let listener = rig.world.listen(APP).unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let mut some = [0; 4096];
                while let Ok(count) = socket.read(&mut some) {
                    if count == 0 || socket.write_all(&some[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let sidecar = rig.ready();
    let mut peers: Vec<Peer> = (0..8).map(|_| Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap()).collect();
    let (exchanged, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        // Also where an assertion fails: else they would go on for ever.
        let _over = Stops(&over);
        for peer in &mut peers {
            let (exchanged, over) = (&exchanged, &over);
            scope.spawn(move || {
                // Until long after the signal: nothing is cut, nothing is lost.
                while !over.load(Ordering::Relaxed) {
                    peer.write_all(b"a few bytes").unwrap();
                    let mut back = [0; 11];
                    peer.read_exact(&mut back).unwrap();
                    assert_eq!(&back, b"a few bytes");
                    exchanged.fetch_add(1, Ordering::Relaxed);
                }
                peer.end().unwrap();
                let mut rest = Vec::new();
                peer.read_to_end(&mut rest).unwrap();
            });
        }
        let some_more = |than: usize| eventually("bytes go on", || exchanged.load(Ordering::Relaxed) > than + 50);
        some_more(0);
        sidecar.signal(Signal::TERM).unwrap();
        eventually("nobody gets in", || rig.world.connect(IN).is_err());
        assert!(sidecar.is_running());
        some_more(exchanged.load(Ordering::Relaxed));
    });
    let run = sidecar.wait().expect_code(0);
    assert!(run.stderr.contains("none was cut"), "{}", run.stderr);
}

fn every_family_of_addresses_is_served() {
    let more = "[[inbound]]\nlisten = \"0.0.0.0:8444\"\napp = \"127.0.0.1:8080\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]\n\
                [[inbound]]\nlisten = \"[::1]:8445\"\napp = \"[::1]:8080\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]\n";
    let rig = Rig::new(&Said { more, ..Said::default() });
    let app = rig.app(echo);
    let app6 = countersign_testbed::mesh::app(&rig.world, "[::1]:8080", echo);
    let _sidecar = rig.ready();
    let call = |address: &str| {
        let peer = Peer::connect(&rig.world, address, Some(&rig.friend), &["http/1.1"]);
        peer.and_then(|mut peer| peer.get("/")).map(|reply| reply.body)
    };
    // Both families on one listener; each caller's address is told as its own family writes it.
    assert!(call("127.0.0.1:8443").unwrap().contains("x-forwarded-for: 127.0.0.1\n"));
    assert!(call("[::1]:8443").unwrap().contains("x-forwarded-for: ::1\n"));
    // IPv4 only, IPv6 only.
    assert!(call("127.0.0.1:8444").unwrap().contains("x-forwarded-for: 127.0.0.1\n"));
    assert!(call("[::1]:8444").is_err());
    assert!(call("[::1]:8445").unwrap().contains("x-forwarded-for: ::1\n"));
    assert!(call("127.0.0.1:8445").is_err());
    assert_eq!((app.count(), app6.count()), (3, 1));
    assert_eq!(plain(&rig.world, "[::1]:15821", "GET /readyz HTTP/1.1\r\nhost: pod\r\n\r\n").unwrap().status, 200);
    rig.quiet();
}

/// Answers every request on `listener` with 200 and the head that came.
fn unix_app(listener: &UnixListener) {
    for socket in listener.incoming() {
        let mut socket = socket.unwrap();
        thread::spawn(move || {
            let mut byte = [0];
            let mut head = Vec::new();
            while socket.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
                if head.ends_with(b"\r\n\r\n") {
                    let start = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
                    if socket.write_all(&[start.as_bytes(), &head].concat()).is_err() {
                        return;
                    }
                    head.clear();
                }
            }
        });
    }
}

fn an_app_on_a_unix_socket_is_served_and_probed() {
    let (rig, path) = Rig::unix("");
    let sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    assert_eq!(peer.get("/").unwrap().status, 502, "nobody is there yet");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || unix_app(&listener));
    let reply = peer.get("/hello").unwrap();
    assert_eq!(reply.status, 200, "{}", sidecar.said());
    assert!(reply.body.starts_with("GET /hello HTTP/1.1\r\n"), "{}", reply.body);
    assert!(reply.body.contains("x-forwarded-client-cert: By="), "{}", reply.body);
    eventually("the probe asks there", || rig.ask("/probe/unix/healthz") == 200);
    assert_eq!(rig.ask("/probe/unix/other"), 404);
    std::fs::remove_file(&path).unwrap();
    drop(peer);
    rig.quiet();
}

fn several_listeners_have_lists_and_counts_of_their_own() {
    let more = "[[inbound]]\nlisten = \"[::]:8444\"\napp = \"127.0.0.1:8081\"\nprotocol = \"tcp\"\n\
                allow = [\"spiffe://example.org/ns/admin/sa/ops\"]\n";
    let rig = Rig::new(&Said { more, ..Said::default() });
    let app = rig.app(echo);
    let admin = rig.world.listen("127.0.0.1:8081").unwrap();
    let _sidecar = rig.ready();
    let ops = rig.ca.member("spiffe://example.org/ns/admin/sa/ops");
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.call(Some(&ops)).expect_err("who is on the other list");
    let second = "127.0.0.1:8444";
    let mut refused = Peer::connect(&rig.world, second, Some(&rig.friend), &[]).unwrap();
    assert!(refused.read(&mut [0]).is_err(), "who is on the first list");
    let mut peer = Peer::connect(&rig.world, second, Some(&ops), &[]).unwrap();
    peer.write_all(b"hello").unwrap();
    let (mut socket, _) = admin.accept().unwrap();
    let mut five = [0; 5];
    socket.read_exact(&mut five).unwrap();
    assert_eq!(&five, b"hello");
    let counted = |listener: &str, result: &str| {
        rig.metric(&format!("countersign_handshakes_total{{inbound=\"{listener}\",result=\"{result}\"}}")).unwrap()
    };
    for listener in ["[::]:8443", "[::]:8444"] {
        assert_eq!((counted(listener, "accepted"), counted(listener, "not-allowed")), (1.0, 1.0), "{listener}");
    }
    assert_eq!(rig.metric("countersign_connections_open{inbound=\"[::]:8444\"}"), Some(1.0));
    assert_eq!((app.count(), rig.ask("/probe/8080"), rig.ask("/probe/8081")), (1, 200, 200));
    drop((peer, socket, refused));
    rig.quiet();
    eventually("the other one too", || rig.metric("countersign_connections_open{inbound=\"[::]:8444\"}") == Some(0.0));
}

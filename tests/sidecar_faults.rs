//! `countersign sidecar` under attack and under load. Each fault ends with a caller who is served, and
//! with nothing held.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)]
mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign_testbed::eventually;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, echo};
use rig::{APP, IN, Rig, Said};

countersign_testbed::main! {
    a_flood_of_handshakes_leaves_peers_their_share [GuestPort, Namespaces],
    silent_strangers_leave_peers_their_places [GuestPort, Namespaces],
    a_request_in_single_bytes_is_served [GuestPort, Namespaces],
    a_reset_in_mid_transfer_holds_nothing [GuestPort, Namespaces],
    an_upload_that_is_cut_short_never_looks_whole_to_the_app [GuestPort, Namespaces],
    a_flapping_app_is_told_each_time_and_served_again [GuestPort, Namespaces],
    without_descriptors_it_waits_and_recovers [GuestPort, Namespaces],
    oversized_heads_are_refused [GuestPort, Namespaces],
    a_rapid_reset_is_bounded [GuestPort, Namespaces],
    a_flood_of_continuations_is_bounded [GuestPort, Namespaces],
    load_goes_on_through_a_drain [GuestPort, Namespaces],
    clients_of_others_are_served [GuestPort, Namespaces, Curl],
    grpc_goes_over_http2_with_its_trailers [GuestPort, Namespaces, Curl],
    a_peer_of_grpc_has_one_connection_to_the_app_whatever_host_it_asks_for [GuestPort, Namespaces],
}

/// Resident memory of a process, KiB.
fn rss(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn a_flood_of_handshakes_leaves_peers_their_share() {
    let rig = Rig::new(&Said { more: "[limits]\nhandshakes = 40\n", ..Said::default() });
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    // The peer's prefix has authenticated once.
    let peer = || {
        let socket = rig.world.connector().connect_from("127.0.9.1", IN).unwrap();
        Peer::over(socket, Some(&rig.friend), &["http/1.1"]).and_then(|mut peer| peer.get("/"))
    };
    assert_eq!(peer().unwrap().status, 200);
    let stop = AtomicBool::new(false);
    let (mut served, mut took) = (0, Vec::new());
    thread::scope(|scope| {
        let (world, stop) = (rig.world.connector(), &stop);
        scope.spawn(move || {
            for n in 0_u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // From everywhere but where the peer is.
                let from = format!("127.1.{}.1", n % 200);
                if let Ok(mut socket) = world.connect_from(&from, IN) {
                    let _ = socket.write_all(&[0x16, 3, 1]);
                }
            }
        });
        thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            let one = Instant::now();
            served += usize::from(peer().is_ok_and(|reply| reply.status == 200));
            took.push(one.elapsed());
            thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(served, took.len(), "every call of the peer's during the flood: {}", sidecar.said());
    took.sort_unstable();
    // Of most calls: the machine may have stopped in one of them.
    assert!(took[took.len() / 2] < Duration::from_secs(2), "{took:?}");
    let shed = rig.metric("countersign_connections_shed_total{inbound=\"[::]:8443\",limit=\"rate\"}").unwrap();
    assert!(shed > 50.0, "{shed} shed before any crypto");
    rig.quiet();
}

fn silent_strangers_leave_peers_their_places() {
    let rig = Rig::new(&Said { more: "[limits]\nunauthenticated = 40\n", ..Said::default() });
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    let mut silent: Vec<TcpStream> = Vec::new();
    for n in 0..100 {
        silent.extend(rig.world.connector().connect_from(&format!("127.2.{n}.1"), IN));
    }
    eventually("they are shed", || {
        rig.metric("countersign_connections_shed_total{inbound=\"[::]:8443\",limit=\"unauthenticated\"}").unwrap()
            >= 60.0
    });
    for _ in 0..5 {
        assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "who authenticated lately has places kept");
    }
    drop(silent);
    rig.quiet();
}

fn a_request_in_single_bytes_is_served() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    for byte in b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 20\r\n\r\n12345678901234567890" {
        peer.write_all(&[*byte]).unwrap();
        peer.flush().unwrap();
    }
    assert!(peer.reply().unwrap().body.ends_with("12345678901234567890"));
    drop(peer);
    rig.quiet();
}

fn a_reset_in_mid_transfer_holds_nothing() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(|_| {
        vec![
            Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n".to_vec()),
            Act::Endless(vec![b'x'; 64 * 1024]),
        ]
    });
    let _sidecar = rig.ready();
    for _ in 0..20 {
        let mut peer = rig.peer(&rig.friend);
        peer.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").unwrap();
        let mut some = [0; 10_000];
        peer.read_exact(&mut some).unwrap();
        countersign_testbed::mesh::reset_on_close(peer.socket());
    }
    rig.quiet();
}

fn an_upload_that_is_cut_short_never_looks_whole_to_the_app() {
    let inbound = "protocol = \"tcp\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]";
    let rig = Rig::new(&Said { inbound, ..Said::default() });
    let listener = rig.world.listen(APP).unwrap();
    let sidecar = rig.ready();
    // Half of it is with the app.
    let upload = || {
        let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &[]).unwrap();
        peer.write_all(b"half").unwrap();
        let (mut app, _) = listener.accept().unwrap();
        app.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut half = [0; 4];
        app.read_exact(&mut half).unwrap();
        (peer, app)
    };
    let (mut peer, mut app) = upload();
    peer.end().unwrap();
    assert_eq!(app.read(&mut [0; 1]).unwrap(), 0, "who says that this was all ends it");
    drop((peer, app));
    let reset = |app: &mut TcpStream, why: &str| {
        let seen = app.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(seen, Err(ErrorKind::ConnectionReset), "{why}: {}", sidecar.said());
    };
    let (peer, mut app) = upload();
    // Whoever carries the packets can say this.
    peer.socket().shutdown(Shutdown::Write).unwrap();
    reset(&mut app, "an end that the peer has not said");
    let (peer, mut app) = upload();
    countersign_testbed::mesh::reset_on_close(peer.socket());
    drop(peer);
    reset(&mut app, "a reset of the peer's");
    rig.quiet();
    let (_peer, mut app) = upload();
    sidecar.signal(countersign_testbed::Signal::KILL).unwrap();
    reset(&mut app, "the sidecar is killed");
}

fn a_flapping_app_is_told_each_time_and_served_again() {
    let rig = Rig::new(&Said::default());
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    for _ in 0..5 {
        assert_eq!(peer.get("/").unwrap().status, 502);
        let app = rig.app(echo);
        eventually("it is served", || peer.get("/").unwrap().status == 200);
        drop(app);
        eventually("it is told", || peer.get("/").unwrap().status == 502);
    }
    drop(peer);
    rig.quiet();
}

fn without_descriptors_it_waits_and_recovers() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    countersign_testbed::mesh::limit_descriptors(sidecar.pid(), 24);
    let held: Vec<TcpStream> = (0..40).filter_map(|_| rig.world.connect(IN).ok()).collect();
    eventually("it says that it has none left", || sidecar.said().contains("limit on open files"));
    assert!(sidecar.is_running());
    countersign_testbed::mesh::limit_descriptors(sidecar.pid(), 4096);
    drop(held);
    eventually("it serves again", || rig.call(Some(&rig.friend)).is_ok_and(|status| status == 200));
    rig.quiet();
}

fn oversized_heads_are_refused() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let before = rss(sidecar.pid());
    for _ in 0..20 {
        let mut peer = rig.peer(&rig.friend);
        let _ = peer.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n");
        for n in 0..200 {
            if peer.write_all(format!("x-{n}: {}\r\n", "y".repeat(1000)).as_bytes()).is_err() {
                break;
            }
        }
        if let Ok(reply) = peer.reply() {
            assert_eq!(reply.status, 431, "{reply:?}");
        }
    }
    assert_eq!(app.count(), 0);
    assert!(rss(sidecar.pid()) < before + 20_000);
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// `GET /` with `:authority: a`, in HPACK without a table.
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x01, 0x01, b'a'];

fn a_rapid_reset_is_bounded() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(|_| vec![Act::Silence]);
    let sidecar = rig.ready();
    let before = rss(sidecar.pid());
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
    peer.write_all(PREFACE).unwrap();
    let mut sent = 0_u32;
    for stream in (1..200_001).step_by(2) {
        let mut pair = frame(1, 5, stream, GET);
        pair.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        if peer.write_all(&pair).is_err() {
            break;
        }
        sent += 1;
    }
    let _ = peer.flush();
    assert!(rss(sidecar.pid()) < before + 30_000, "{} KiB more", rss(sidecar.pid()) - before);
    drop(peer);
    rig.quiet();
    assert!(app.connections() < 400, "{sent} resets reached the app as {} connections", app.connections());
    assert!(sidecar.is_running());
}

fn a_flood_of_continuations_is_bounded() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let before = rss(sidecar.pid());
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
    peer.write_all(PREFACE).unwrap();
    let _ = peer.write_all(&frame(1, 1, 1, GET));
    let header: Vec<u8> = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07][..], &vec![b'y'; 1024]].concat();
    let mut sent = 0;
    while sent < 20_000 && peer.write_all(&frame(9, 0, 1, &header)).is_ok() {
        sent += 1;
    }
    assert!(rss(sidecar.pid()) < before + 20_000, "{} KiB more", rss(sidecar.pid()) - before);
    assert!(sent < 20_000, "it is ended");
    drop(peer);
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
}

fn load_goes_on_through_a_drain() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let (cut, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut peers: Vec<Peer> = (0..8).map(|_| rig.peer(&rig.friend)).collect();
    let signal = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for peer in &mut peers {
            let (cut, whole, signal) = (&cut, &whole, Arc::clone(&signal));
            scope.spawn(move || {
                loop {
                    match peer.get("/") {
                        Ok(reply) if reply.status == 200 => {
                            whole.fetch_add(1, Ordering::Relaxed);
                            // The pod said that this was the last one.
                            if reply.head.to_lowercase().contains("connection: close") {
                                return;
                            }
                        }
                        Ok(reply) => panic!("{reply:?}"),
                        // Between two requests a connection may end; in one it may not.
                        Err(error) if error.to_string().contains("after \"\"") || signal.load(Ordering::Relaxed) => {
                            return;
                        }
                        Err(_) => {
                            cut.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            });
        }
        eventually("they are at it", || whole.load(Ordering::Relaxed) > 50);
        signal.store(true, Ordering::Relaxed);
        sidecar.signal(countersign_testbed::Signal::TERM).unwrap();
    });
    assert_eq!(cut.load(Ordering::Relaxed), 0);
    sidecar.wait().expect_code(0);
}

fn clients_of_others_are_served() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let _sidecar = rig.ready();
    let file = |name: &str, text: &str| {
        let path = rig.world.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key) = (file("cert", rig.friend.pem()), file("key", &rig.friend.key_pem()));
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://{IN}/hello");
        let args = ["-sS", "-k", "--tlsv1.3", version, "--cert", &cert, "--key", &key, &url];
        let run = rig.world.run("curl", &args).run().expect_code(0);
        assert!(
            run.stdout.contains("GET /hello") && run.stdout.contains("x-forwarded-client-cert: By="),
            "{}",
            run.stdout
        );
    }
    let url = format!("https://{IN}/hello");
    let run = rig.world.run("curl", &["-sS", "-k", "--tls-max", "1.2", "--cert", &cert, "--key", &key, &url]).run();
    assert_ne!(run.code, Some(0), "TLS 1.2 is not spoken");
    let run = rig.world.run("curl", &["-sS", "-k", &url]).run();
    assert_ne!(run.code, Some(0), "nor to nobody");
    let _ = APP;
    rig.quiet();
}

fn grpc_goes_over_http2_with_its_trailers() {
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen(APP).unwrap();
    thread::spawn(move || rig::grpc_server(listener, &AtomicUsize::new(0)));
    let _sidecar = rig.ready();
    let file = |name: &str, text: &str| {
        let path = rig.world.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key) = (file("cert", rig.friend.pem()), file("key", &rig.friend.key_pem()));
    let url = format!("https://{IN}/payments.Api/Pay");
    let args = [
        "-sSki",
        "--http2",
        "--cert",
        &cert,
        "--key",
        &key,
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "-H",
        "x-forwarded-client-cert: URI=spiffe://evil/a",
        "--data-binary",
        "x",
        &url,
    ];
    let run = rig.world.run("curl", &args).run().expect_code(0);
    assert!(run.stdout.contains("POST te=Some(\"trailers\")"), "{}", run.stdout);
    assert!(
        run.stdout.contains("://127.0.0.1:8443/payments.Api/Pay") && run.stdout.contains("host=None"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("By=spiffe://") && !run.stdout.contains("evil"), "{}", run.stdout);
    assert!(run.stdout.contains("grpc-status: 0"), "the trailers: {}", run.stdout);
    rig.quiet();
}

fn a_peer_of_grpc_has_one_connection_to_the_app_whatever_host_it_asks_for() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen(APP).unwrap();
    thread::spawn(move || rig::grpc_server(listener, &CONNECTIONS));
    let _sidecar = rig.ready();
    let answered = || rig.metric("countersign_responses_total{inbound=\"[::]:8443\",status=\"2xx\"}").unwrap();
    for peers in 1..=2 {
        let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
        peer.write_all(PREFACE).unwrap();
        for n in 0..50_u8 {
            // `POST /` with a host that nobody has asked for before, in HPACK without a table.
            let mut head = vec![0x83, 0x86, 0x84, 0x01, 0x02, b'a' + n / 26, b'a' + n % 26];
            head.extend(b"\0\x0ccontent-type\x10application/grpc");
            peer.write_all(&frame(1, 5, 2 * u32::from(n) + 1, &head)).unwrap();
        }
        eventually("all are answered", || answered() == 50.0 * f64::from(peers));
        assert_eq!(CONNECTIONS.load(Ordering::SeqCst), usize::try_from(peers).unwrap());
    }
    rig.quiet();
}

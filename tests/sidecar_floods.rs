//! `countersign sidecar` and very many callers: floods, crowds, and a stranger who never stops. Each ends with a
//! caller who is served, and with nothing held.

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
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign_testbed::eventually;
use countersign_testbed::mesh::{Peer, echo, many, raise_descriptors};
use rig::{IN, Rig, Said, Stops};

countersign_testbed::main! {
    a_flood_of_handshakes_leaves_a_peer_its_p99 [GuestPort, Namespaces],
    ten_thousand_idle_connections_cost_little [GuestPort, Namespaces],
    a_stranger_who_sends_without_end_is_cut [GuestPort, Namespaces],
}

/// What a peer may wait for one new connection and one answer while strangers flood: a fifth of the time that
/// a handshake may take, and what a client usually gives a connection.
const MOST: Duration = Duration::from_secs(2);

/// The middle one, and the one that 99 of 100 are below.
fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[(times.len() * 99).div_ceil(100) - 1])
}

fn a_flood_of_handshakes_leaves_a_peer_its_p99() {
    let rig = Rig::new(&Said { more: "[limits]\nhandshakes = 200\n", ..Said::default() });
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let config = many(&rig.friend, &["http/1.1"]);
    // A whole handshake and a request each time, from a prefix that the flood does not come from.
    let call = || {
        // Below the quarter of the rate that is kept for prefixes that have authenticated.
        thread::sleep(Duration::from_millis(30));
        let begun = Instant::now();
        let socket = rig.world.connector().connect_from("127.0.9.1", IN).unwrap();
        let reply = Peer::shake(socket, Arc::clone(&config)).and_then(|mut peer| peer.get("/"));
        assert_eq!(reply.unwrap().status, 200, "{}", sidecar.said());
        begun.elapsed()
    };
    let quiet = quantiles((0..100).map(|_| call()).collect());
    let stranger = many(&countersign_testbed::pki::Ca::new("another").member(rig::FRIEND), &["http/1.1"]);
    let (stop, strangers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flooded = thread::scope(|scope| {
        let _stops = Stops(&stop);
        for thread in 0..2_u32 {
            let (world, stop, strangers, stranger) = (rig.world.connector(), &stop, &strangers, &stranger);
            scope.spawn(move || {
                for n in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Whole handshakes with a certificate of another CA: the dearest that a stranger can ask for.
                    let Ok(socket) = world.connect_from(&format!("127.{}.{}.1", 16 + thread, n % 250), IN) else {
                        continue;
                    };
                    let _ = Peer::shake(socket, Arc::clone(stranger));
                    strangers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("the flood has begun", || strangers.load(Ordering::Relaxed) > 50);
        quantiles((0..200).map(|_| call()).collect())
    });
    let refused = rig.refused("unknown-issuer");
    let shed = rig.metric("countersign_connections_shed_total{inbound=\"[::]:8443\",limit=\"rate\"}").unwrap();
    println!(
        "p50/p99 of a peer: alone {:?}/{:?}, in a flood {:?}/{:?}; {} strangers, {refused} refused, {shed} shed",
        quiet.0,
        quiet.1,
        flooded.0,
        flooded.1,
        strangers.load(Ordering::Relaxed)
    );
    assert!(refused + shed > 100.0, "that was no flood: {refused} refused, {shed} shed");
    assert!(flooded.1 < MOST, "p99 {:?}", flooded.1);
    rig.quiet();
}

/// Resident memory of a process, KiB.
fn rss(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn ten_thousand_idle_connections_cost_little() {
    // Half of the open files are for the app's side. A machine that allows fewer has as many as fit.
    let count = 10_000.min((raise_descriptors() - 128 - 16) / 2 - 20);
    let said = Said { more: "[limits]\nhandshakes = 1000000\nunauthenticated = 16\n", ..Said::default() };
    let rig = Rig::new(&said);
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
    rig.quiet();
    let before = rss(sidecar.pid());
    let config = many(&rig.friend, &["http/1.1"]);
    let begun = Instant::now();
    let threads = 4;
    let idle: Vec<Peer> = thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let (world, config) = (rig.world.connector(), &config);
                let mine = (count + threads - 1 - part) / threads;
                scope.spawn(move || {
                    let open = |_| {
                        let socket = world.connect_from("127.0.0.1", IN).unwrap();
                        let mut peer = Peer::shake(socket, Arc::clone(config)).unwrap();
                        assert_eq!(peer.get("/").unwrap().status, 200);
                        peer
                    };
                    (0..mine).map(open).collect::<Vec<Peer>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert_eq!(idle.len(), count);
    // Those that were opened first have been idle for as long as all this took, less than 75 s on a fast machine.
    let open = rig.gauge("connections_open");
    let each = (rss(sidecar.pid()) - before) / count;
    println!("{count} connections in {:?}, {open} of them open, {each} KiB each (debug build)", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(75) || open == f64::from(u32::try_from(count).unwrap()), "{open}");
    assert!(open > 5000.0 && each < 100, "{open} open, {each} KiB each, of a debug build");
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "and the next one is served");
    drop(idle);
    rig.quiet();
}

fn a_stranger_who_sends_without_end_is_cut() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let received = || rig.metric("countersign_received_bytes_total{inbound=\"[::]:8443\"}").unwrap();
    assert_eq!(received(), 0.0);
    // A ClientHello of 64,000 bytes, one byte in each record: 384,000 bytes before there is anything to judge.
    let mut records = Vec::new();
    for byte in [1, 0, 0xfa, 0, 3, 3].into_iter().chain(std::iter::repeat_n(0, 63_994)) {
        records.extend([0x16, 3, 1, 0, 1, byte]);
    }
    let mut stranger = rig.world.connect(IN).unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let begun = Instant::now();
    let _ = stranger.write_all(&records);
    let mut rest = Vec::new();
    let _ = stranger.read_to_end(&mut rest);
    assert!(rest.len() < 64, "an alert at most");
    eventually("it is counted", || rig.refused("too-much") == 1.0);
    assert!(begun.elapsed() < Duration::from_secs(8), "before the deadline: {:?}", begun.elapsed());
    // rustls takes 64 KiB of what is no whole message. What it lets through stops at 128 KiB: `socket` has that test.
    let read = received();
    assert!((60.0 * 1024.0..128.0 * 1024.0).contains(&read), "{read} bytes were read of him");
    assert_eq!(app.count(), 0);
    let _ = stranger.shutdown(Shutdown::Both);
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "{}", sidecar.said());
    rig.quiet();
}

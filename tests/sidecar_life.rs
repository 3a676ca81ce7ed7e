//! `countersign sidecar` through its life: certificates, trust, readiness, secrets, the end.

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

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign::finding::Class;
use countersign_testbed::guest::Answer;
use countersign_testbed::http::Act;
use countersign_testbed::mesh::{Peer, echo};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::world::Connector;
use countersign_testbed::{Signal, eventually};
use rig::{CONFIG, FRIEND, IN, OURS, Rig, Said, Stops};

countersign_testbed::main! {
    the_certificate_is_renewed_under_load_and_no_request_fails [GuestPort, Namespaces],
    a_broken_new_certificate_never_replaces_a_good_one [GuestPort, Namespaces],
    an_expired_certificate_is_never_served_and_the_next_one_is [GuestPort, Namespaces],
    trust_that_is_withdrawn_ends_live_connections [GuestPort, Namespaces],
    an_unreadable_list_replaces_none [GuestPort, Namespaces],
    sigterm_before_there_is_a_certificate_ends_it [GuestPort, Namespaces],
    an_outage_costs_no_cpu [GuestPort, Namespaces],
    an_exposed_app_makes_the_pod_not_ready [GuestPort, Namespaces],
    sigterm_drains_and_a_second_one_cuts [GuestPort, Namespaces],
    secrets_are_published_where_init_has_not [GuestPort, Namespaces, Memory],
    without_listeners_the_secrets_are_kept_fresh [GuestPort, Namespaces, Memory],
    plain_configuration_makes_it_serve_nobody [GuestPort, Namespaces],
    what_this_release_lacks_is_refused_by_name [GuestPort, Namespaces],
}
fn the_certificate_is_renewed_under_load_and_no_request_fails() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    let stop = AtomicBool::new(false);
    let (mut renewals, mut shown) = (0, BTreeSet::new());
    let requests = std::thread::scope(|scope| {
        let (world, friend, stop) = (rig.world.connector(), &rig.friend, &stop);
        let stops = Stops(stop);
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let world = world.clone();
                scope.spawn(move || load(&world, friend, stop))
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            sidecar.signal(Signal::HUP).unwrap();
            renewals += 1;
            std::thread::sleep(Duration::from_secs(1));
        }
        drop(stops);
        let mut requests = 0;
        for caller in callers {
            let (served, certificates) = caller.join().unwrap();
            requests += served;
            shown.extend(certificates);
        }
        requests
    });
    println!("{requests} requests, none failed; {} certificates in {renewals} renewals", shown.len());
    // One that is asked for while another is made is asked for once.
    assert!(shown.len() >= 40, "{} certificates, {requests} requests: {}", shown.len(), sidecar.said());
    assert!(requests > 600, "{requests}");
    rig.quiet();
}

/// Calls until it is stopped, on a connection that it keeps and on new ones. Returns how many requests were
/// served, and which certificates were shown. One that fails ends the test.
fn load(world: &Connector, friend: &Identity, stop: &AtomicBool) -> (usize, BTreeSet<Vec<u8>>) {
    let connect = || {
        let socket = world.connect_from("127.0.0.1", IN).unwrap();
        Peer::over(socket, Some(friend), &["http/1.1"]).unwrap()
    };
    let mut kept = connect();
    let (mut requests, mut shown) = (0, BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let mut peer = connect();
        shown.insert(peer.shown().unwrap());
        assert_eq!(peer.get("/").unwrap().status, 200);
        assert_eq!(kept.get("/kept").unwrap().status, 200, "what is open goes on");
        requests += 2;
    }
    (requests, shown)
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
    // All of it under load.
    let stop = AtomicBool::new(false);
    let requests = std::thread::scope(|scope| {
        let (world, friend, stop) = (rig.world.connector(), &rig.friend, &stop);
        let stops = Stops(stop);
        let caller = scope.spawn(move || load(&world, friend, stop));
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
        drop(stops);
        let (requests, shown) = caller.join().unwrap();
        assert_eq!(shown, BTreeSet::from([good.clone()]), "nobody saw another one");
        requests
    });
    assert!(requests > 20, "{requests}");
    rig.quiet();
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
    rig.quiet();
}

const LISTED: &str = "allow_from = \"kbs:///payments/mesh/allow\"";

fn trust_that_is_withdrawn_ends_live_connections() {
    let rig = Rig::with(&Said { inbound: LISTED, ..Said::default() }, |guest| {
        guest.secret("payments/mesh/allow", "[\"spiffe://example.org/ns/web/sa/*\", \"dns:old.web\"]")
    });
    let _app = rig.app(|seen| {
        let granted = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        if seen.path == "/ws" { vec![Act::Send(granted.to_vec()), Act::Silence] } else { echo(seen) }
    });
    let sidecar = rig.ready();
    let mut kept = rig.peer(&rig.friend);
    assert_eq!(kept.get("/").unwrap().status, 200);
    let mut left_http = rig.peer(&rig.friend);
    let ask = "GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(left_http.ask(ask).unwrap().status, 101);
    let by_name = rig.ca.member_with(&[], &["old.web"], |_| {});
    let mut named = rig.peer(&by_name);
    assert_eq!(named.get("/").unwrap().status, 200);
    rig.world.guest_api().set("payments/mesh/allow", Answer::Bytes(b"[\"dns:old.web\"]".to_vec()));
    eventually("the live connection is cut", || kept.get("/").is_err());
    assert!(left_http.read(&mut [0; 1]).is_err(), "a WebSocket too, and without close_notify");
    eventually("both are counted", || rig.gauge("connections_withdrawn_total") == 2.0);
    eventually("both are told", || sidecar.said().matches("connection cut").count() == 2);
    assert!(rig.call(Some(&rig.friend)).is_err());
    assert_eq!(named.get("/").unwrap().status, 200, "who is still allowed is not disturbed");
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

fn an_exposed_app_makes_the_pod_not_ready() {
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen("0.0.0.0:8080").unwrap();
    let sidecar = rig.start();
    eventually("the pod is not ready", || rig.ask("/readyz") == 523);
    eventually("it is said", || sidecar.said().contains("app-exposed") && sidecar.said().contains("127.0.0.1"));
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
    // Ready first, and then the word to people.
    eventually("it says why", || sidecar.said().contains("nobody is served"));
}

fn what_this_release_lacks_is_refused_by_name() {
    for (said, names) in [
        (Said { identity: "source = \"issuer\"", ..Said::default() }, "needs `[identity.issuer]`"),
        (
            Said {
                identity: "source = \"issuer\"\nissuer = { address = \"issuer:8444\", spiffe = \"spiffe://example.org/i\" }",
                ..Said::default()
            },
            "came over CDH",
        ),
        (
            Said {
                more: "[[outbound]]\nlisten = \"127.0.0.1:15432\"\nmode = \"0660\"\nto = \"db:5432\"\npeer = \"spiffe://example.org/a\"\n",
                ..Said::default()
            },
            "mode",
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

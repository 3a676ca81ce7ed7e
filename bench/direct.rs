//! What the direct road costs, against the KBS double. Run by `bench/run`.
//!
//! Two questions: how many round trips lie between evidence and secrets, and what becomes of 600
//! guests that come at once while their KBS restarts. One JSON line a case; exit 1 if a limit is
//! missed or a client is lost.

// A program for a terminal, not a part of the product.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::panic)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_precision_loss)] // Counts and milliseconds, far below 2^52.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use countersign::access::Deadline;
use countersign::access::direct::{DirectRoad, Pace};
use countersign::access::rcar::{EvidenceSource, Rcar};
use countersign::clock::Clock;
use countersign::config::KbsUrl;
use countersign::finding::Finding;
use countersign::formats::kbs_uri::KbsUri;
use countersign::kbs::{Client, Names, Resolver, Trust};
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Guest, SnpGuest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The delay that is added to each round trip: a KBS on the other side of an ocean.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// Most round trips from evidence to the last secret, over HTTP/2.
const LIMIT_ROUND_TRIPS: f64 = 3.0;

/// Most connections where the KBS speaks HTTP/1.1 only.
const LIMIT_CONNECTIONS: usize = 4;

/// Guests at once: a rollout of a large deployment, and what the issue asks for.
const CLIENTS: usize = 600;

/// Resources of each of them.
const EACH: usize = 4;

/// How long the KBS is away; a quarter of it in the short form, since the pauses between tries grow with it.
const DOWN: Duration = Duration::from_secs(2);

/// Descriptors that a guest and its connection need at most, on both sides, which are this process.
const DESCRIPTORS_EACH: u64 = 12;

/// Bytes of each secret: a certificate chain with its key.
const SECRET_BYTES: usize = 4096;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let runs = args.iter().position(|arg| arg == "--runs").and_then(|at| args.get(at + 1));
    let Some(runs) = runs else {
        // `cargo bench` without our runner around it.
        eprintln!("direct: start this through bench/run");
        return ExitCode::SUCCESS;
    };
    let runs: usize = runs.parse().expect("--runs takes a number");
    let short = args.iter().any(|arg| arg == "--short");
    // The sequential client takes a quarter of a second for each secret.
    let sequential = if short { 10 } else { 50 };

    let mut good = true;
    good &= round_trips("h2_1_secret", true, 1, 1, runs);
    good &= round_trips("h2_50_secrets", true, 50, sequential, runs);
    good &= round_trips("http1_16_secrets", false, 16, sequential.min(16), runs);
    good &= restart(if short { DOWN / 4 } else { DOWN });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An SNP guest of the double's own vendor, and when its evidence was last at hand.
#[derive(Clone)]
struct Source {
    guest: Guest,
    at_hand: Arc<Mutex<Option<Instant>>>,
}

impl EvidenceSource for Source {
    async fn tee(&self) -> Result<String, Finding> {
        Ok("snp".to_owned())
    }

    async fn evidence(&self, report_data: &[u8]) -> Result<String, Finding> {
        let evidence = self.guest.evidence(report_data).to_string();
        *self.at_hand.lock().unwrap() = Some(Instant::now());
        Ok(evidence)
    }
}

/// A KBS in TLS, and what a guest needs to know of it.
struct Server {
    kbs: RunningKbs,
    ca: Ca,
    source: Source,
}

impl Server {
    fn start(h2: bool, round_trip: Duration, secrets: usize) -> Self {
        let ca = Ca::new("of the bench");
        let mut kbs = Kbs::healthy().policy(Policy::AllowAll).round_trip(round_trip).tls(ca.leaf(&["127.0.0.1"]));
        for number in 0..secrets {
            kbs = kbs.resource(&format!("bench/set/s{number}"), vec![b's'; SECRET_BYTES]);
        }
        let kbs = if h2 { kbs.h2() } else { kbs }.on_loopback();
        Self { kbs, ca, source: Source { guest: Guest::Snp(SnpGuest::genoa()), at_hand: Arc::default() } }
    }

    /// A guest of its own: client, connections and key are shared with nobody.
    fn guest(&self) -> Arc<DirectRoad<Rcar<Source>>> {
        let url = KbsUrl::parse(&self.kbs.url()).unwrap();
        let trust = Trust { ca: Some(self.ca.pem()), system_roots: false, allow_http: false, clock: &Clock::system() };
        let client = Client::new(&[url], &trust, Names::with(|| Resolver::with_servers(&[]))).unwrap();
        let deadline = Deadline::after(Duration::from_secs(300));
        DirectRoad::new(client, self.source.clone(), None, deadline, Pace::default())
    }
}

fn uri(number: usize) -> KbsUri {
    KbsUri::parse(&format!("kbs:///bench/set/s{number}")).unwrap()
}

/// Fetches these resources at once; how many were released.
async fn fetch(road: &Arc<DirectRoad<Rcar<Source>>>, numbers: std::ops::Range<usize>) -> Result<usize, Finding> {
    let mut tasks = JoinSet::new();
    for number in numbers {
        let road = Arc::clone(road);
        tasks.spawn(async move { road.fetch(&uri(number), SECRET_BYTES).await.map(|secret| secret.len()) });
    }
    let lengths: Result<Vec<usize>, Finding> = tasks.join_all().await.into_iter().collect();
    lengths.map(|lengths| lengths.into_iter().filter(|length| *length == SECRET_BYTES).count())
}

/// Round trips from evidence to the last of `secrets`, beside a client that attests for each.
fn round_trips(case: &str, h2: bool, secrets: usize, sequential: usize, runs: usize) -> bool {
    let (mut times, mut near, mut waves, mut connections) = (Vec::new(), Vec::new(), usize::MAX, 0);
    // Far away, and beside us: what the second takes is computing, on both sides.
    for run in 0..2 * runs {
        let far = run % 2 == 0;
        let server = Server::start(h2, if far { ROUND_TRIP } else { Duration::ZERO }, secrets);
        let road = server.guest();
        let released = wait(fetch(&road, 0..secrets)).unwrap_or_else(|finding| panic!("{case}: {finding}"));
        let end = Instant::now();
        assert_eq!((released, road.attestations()), (secrets, 1), "{case}");
        let at_hand = server.source.at_hand.lock().unwrap().unwrap();
        let took = end.duration_since(at_hand).as_secs_f64() / ROUND_TRIP.as_secs_f64();
        connections = connections.max(server.kbs.connections());
        assert_eq!(server.kbs.count(), secrets + 2, "{case}: a request was sent twice");
        if far {
            times.push(took);
            // A machine that stops for a moment adds one, and takes none away: the least is what is needed.
            waves = waves.min(waves_after(&server.kbs, at_hand));
        } else {
            near.push(took);
        }
    }
    let server = Server::start(h2, ROUND_TRIP, sequential);
    let begun = Instant::now();
    for number in 0..sequential {
        let road = server.guest();
        let one = number..number + 1;
        assert_eq!(wait(fetch(&road, one)).unwrap_or_else(|finding| panic!("{case}: {finding}")), 1);
    }
    let theirs = begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64();

    let (fastest, slowest) =
        (times.iter().copied().fold(f64::MAX, f64::min), times.iter().copied().fold(0.0, f64::max));
    let (ours, near) = (median(times), median(near));
    let limit = if h2 { json!(LIMIT_ROUND_TRIPS) } else { Value::Null };
    println!(
        "{}",
        json!({
            "case": case, "unit": "round trips of 50 ms, from evidence to the last secret",
            "secrets": secrets, "ours": round(ours), "fastest": round(fastest), "slowest": round(slowest),
            "without_delay": round(near), "limit": limit, "waves_of_requests": waves, "connections": connections, "runs": runs,
            "sequential_secrets": sequential, "sequential_per_secret": round(theirs / sequential as f64),
        })
    );
    if h2 {
        // Without optimisation it is mostly the compiler that is measured: there the clock is not held.
        let by_the_clock = cfg!(debug_assertions) || within(case, "round trips by the clock", ours, LIMIT_ROUND_TRIPS);
        by_the_clock
            & within(case, "round trips by the double's record", waves as f64, LIMIT_ROUND_TRIPS)
            & within(case, "connections", connections as f64, 1.0)
    } else {
        within(case, "connections", connections as f64, LIMIT_CONNECTIONS as f64)
    }
}

/// Requests that could not know the answer to the one before arrive together: how often after
/// `begin` that did not hold, plus one. Two requests are together when less than half a round trip
/// lies between them.
fn waves_after(kbs: &RunningKbs, begin: Instant) -> usize {
    let mut waves = 0;
    let mut last: Option<Instant> = None;
    for at in kbs.requests().iter().map(|seen| seen.at).filter(|at| *at >= begin) {
        if last.is_none_or(|last| at.saturating_duration_since(last) > ROUND_TRIP / 2) {
            waves += 1;
        }
        last = Some(at);
    }
    waves
}

/// 600 guests at once; when a third of them is attested, the KBS restarts and forgets everybody.
fn restart(down: Duration) -> bool {
    if !descriptors() {
        return false;
    }
    let server = Server::start(true, Duration::ZERO, EACH);
    let roads: Vec<_> = (0..CLIENTS).map(|_| server.guest()).collect();
    let begun = Instant::now();
    let kbs = server.kbs.clone();
    let watcher = thread::spawn(move || {
        while kbs.attestations() < CLIENTS / 3 {
            thread::sleep(Duration::from_millis(1));
        }
        kbs.restart(down);
        Instant::now() + down
    });
    let mut ends: Vec<(Instant, Result<usize, Finding>)> = wait(async {
        let mut guests = JoinSet::new();
        for road in &roads {
            let road = Arc::clone(road);
            guests.spawn(async move {
                let released = fetch(&road, 0..EACH).await;
                (Instant::now(), released)
            });
        }
        guests.join_all().await
    });
    let back = watcher.join().expect("the watcher ends when a third is attested");
    ends.sort_by_key(|(at, _)| *at);
    for finding in ends.iter().filter_map(|(_, released)| released.as_ref().err()).take(3) {
        eprintln!("direct: a client was lost: {finding}");
    }
    let lost = ends.iter().filter(|(_, released)| !matches!(released, Ok(EACH))).count();
    let before = ends.iter().filter(|(at, _)| *at < back).count();
    let after = |place: usize| ends.get(place).map_or(0.0, |(at, _)| at.saturating_duration_since(back).as_secs_f64());
    let all = ends.last().map_or(Duration::ZERO, |(at, _)| at.duration_since(begun)).as_secs_f64();
    // Those that came after the KBS was back, while it had work.
    let busy = server.kbs.requests().iter().filter(|seen| seen.at >= back).count();
    println!(
        "{}",
        json!({
            "case": "restart_600_clients", "clients": CLIENTS, "secrets_each": EACH, "lost": lost,
            "down_s": down.as_secs_f64(), "done_before_it_was_back": before,
            "half_done_s_after_it_was_back": round(after(before + (CLIENTS - before) / 2)),
            "all_done_s_after_it_was_back": round(after(CLIENTS - 1)),
            "requests_per_second_since_it_was_back": round(busy as f64 / after(CLIENTS - 1)),
            "requests": server.kbs.count(), "requests_per_second": round(server.kbs.count() as f64 / all),
            "attestations": server.kbs.attestations(), "connections": server.kbs.connections(),
            "peak_requests": server.kbs.peak(), "total_s": round(all),
        })
    );
    // Else it was no restart under load.
    assert!(before < CLIENTS, "all clients were done before the KBS restarted");
    within("restart_600_clients", "clients lost", lost as f64, 0.0)
}

/// Asks for as many descriptors as both sides of all connections need.
fn descriptors() -> bool {
    let needed = DESCRIPTORS_EACH * CLIENTS as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return true;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum });
    if raised.is_err() {
        eprintln!("direct: {CLIENTS} clients need {needed} descriptors; raise the hard limit (ulimit -Hn)");
    }
    raised.is_ok()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn within(case: &str, what: &str, value: f64, limit: f64) -> bool {
    if value > limit {
        eprintln!("direct: {case}: {what}: {value:.2}, and the limit is {limit}");
    }
    value <= limit
}

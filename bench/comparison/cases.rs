//! How each case of the table is measured.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use countersign_testbed::pki::{Ca, Identity};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::account;
use crate::load::{Callers, Idle, Kx, LANES, Load, Peer, Seen, Work, client};
use crate::proxies::{FRIEND, Kind, METRICS, Mode, Proxy, Room};
use crate::table::{CASES, Case, Limit, MEMORY, P99, RSS};

/// Idle connections whose memory is counted.
const IDLE: usize = 2000;

/// Certificates of peers that we have not seen before: more than there are connections in a window.
const STRANGERS: usize = 6000;

/// New connections beside [`LANES`] old ones, while our certificate is renewed.
const NEWCOMERS: usize = 4;

/// What the short form holds: what is counted, and memory that is the process's own. Time is not held there, and
/// neither is a resident set: one run, a loader without optimisation that wakes the proxy more often than a fast one
/// would, other work on the machine, and what a machine keeps in its page cache make them say little of us.
const HELD: &[&str] = &["memory", "evidence_memory", "evidence_round_trips"];

/// Between two renewals of our certificate.
const RENEWAL: Duration = Duration::from_secs(1);

/// Everything that is set up.
pub struct Bench {
    pub room: Room,
    pub ca: Ca,
    pub friend: Identity,
    short: bool,
    pub runs: usize,
    wanted: Vec<String>,
    /// Requests that failed, limits that were missed.
    faults: RefCell<Vec<String>>,
}

/// One side of a case, over all runs.
#[derive(Default)]
pub struct Side {
    pub values: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Side {
    /// Of values that were not measured here.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self { values: values.into_iter().collect(), ..Self::default() }
    }

    pub fn add(&mut self, value: f64, seen: &Seen) {
        self.values.push(value);
        if !seen.latencies.is_empty() {
            self.p50.push(f64::from(seen.percentile(50)));
            self.p99.push(f64::from(seen.percentile(99)));
        }
    }
}

/// What a line says beside the numbers.
pub struct Line<'a> {
    pub case: &'a str,
    pub peer: &'a str,
    pub version: &'a str,
    pub kx: &'a str,
    pub unit: &'a str,
    pub limit: Option<Limit>,
}

impl Bench {
    pub fn new(room: Room, ca: Ca, short: bool, runs: Option<usize>, wanted: Vec<String>) -> Self {
        let friend = ca.member(FRIEND);
        Self {
            room,
            ca,
            friend,
            short,
            runs: runs.unwrap_or(if short { 1 } else { 7 }),
            wanted,
            faults: RefCell::default(),
        }
    }

    /// All cases but those with evidence.
    pub async fn run(&self) {
        let proxies = [Kind::Countersign, Kind::Haproxy, Kind::Nginx].map(|kind| self.room.start(kind));
        let by = |kind| proxies.iter().find(|proxy| proxy.kind == kind);
        let ours = by(Kind::Countersign).expect("we start");
        for case in CASES.iter().filter(|case| self.wants(case.name)) {
            if let Some(theirs) = by(case.peer) {
                self.cost(case, ours, theirs).await;
            }
        }
        if self.wants("handshake_http_unknown_peers") && !self.short {
            self.unknown(ours, by(Kind::Haproxy).expect("it starts")).await;
        }
        if self.wants("renewed_every_second") {
            self.renewed(ours).await;
        }
        drop(proxies);
        for (name, mode, kind, limit) in MEMORY.iter().filter(|row| self.wants(row.0)) {
            self.memory(name, *mode, *kind, *limit).await;
        }
        if self.wants("rss_idle") {
            self.at_rest();
        }
    }

    /// What went wrong: a request that failed, a limit that was missed.
    pub fn fault(&self, what: String) {
        eprintln!("{what}");
        self.faults.borrow_mut().push(what);
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.borrow().clone()
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| name.starts_with(wanted))
    }

    /// How long a window is open, and how long the load runs before.
    fn window(&self) -> (Duration, Duration) {
        let (open, before) = if self.short { (700, 200) } else { (1500, 300) };
        (Duration::from_millis(open), Duration::from_millis(before))
    }

    /// The key exchange with this proxy, where a case asks for one: OpenSSL 3.0 has no hybrid.
    pub fn kx(kind: Kind, asked: Kx) -> Kx {
        if matches!(kind, Kind::Countersign | Kind::Proven | Kind::Issuer) { asked } else { Kx::X25519 }
    }

    pub fn friends(&self, kx: Kx, alpn: &[u8]) -> Callers {
        Rc::new(vec![client(&self.friend, self.ca.pem(), kx, alpn)])
    }

    /// Processor time of a request; of bulk, bytes for each second of it.
    async fn cost(&self, case: &Case, ours: &Proxy, theirs: &Proxy) {
        let bulk = matches!(case.work, Work::Down | Work::Up);
        let (lanes, unit) = if bulk { (1, "GB/cpu-s") } else { (LANES, "cpu-us") };
        let alpn: &[u8] = if case.work == Work::Http2 { b"h2" } else { b"http/1.1" };
        let mut sides = [ours, theirs].map(|proxy| {
            let kx = Self::kx(proxy.kind, case.kx);
            (proxy, Peer::new(proxy.kind.address(case.mode), kx, &self.friends(kx, alpn)), Side::default())
        });
        // One unmeasured turn each.
        for run in 0..=self.runs {
            for (proxy, peer, side) in &mut sides {
                let (seen, cpu) = self.measure(proxy, peer, case.work, lanes).await;
                self.none_failed(case.name, proxy.kind, &seen);
                let done = seen.done as f64;
                let cost = if bulk { done / cpu.as_secs_f64() / 1e9 } else { cpu.as_secs_f64() * 1e6 / done };
                if run > 0 {
                    side.add(cost, &seen);
                }
            }
        }
        let [(_, _, ours), (_, _, theirs)] = sides;
        let kx = exchanges(case.peer, case.kx);
        let version = case.peer.version();
        let line =
            Line { case: case.name, peer: case.peer.name(), version: &version, kx: &kx, unit, limit: case.limit };
        self.tell(&line, &ours, &theirs);
    }

    pub async fn measure(&self, proxy: &Proxy, peer: &Peer, work: Work, lanes: usize) -> (Seen, Duration) {
        let (open, before) = self.window();
        let load = Load::start(peer, work, lanes);
        sleep(before).await;
        let begun = account::cpu(proxy.pid());
        load.open();
        sleep(open).await;
        load.close();
        let cpu = account::cpu(proxy.pid()).saturating_sub(begun);
        (load.end().await, cpu)
    }

    /// Handshakes of peers whose chains nobody remembers: each connection has a certificate of its own,
    /// and a renewal before each window makes us forget.
    async fn unknown(&self, ours: &Proxy, theirs: &Proxy) {
        let spiffe = |n| format!("spiffe://example.org/ns/web/sa/s{n}");
        let members: Vec<Identity> = (0..STRANGERS).map(|n| self.ca.member(&spiffe(n))).collect();
        let mut sides = [ours, theirs].map(|proxy| {
            let kx = Self::kx(proxy.kind, Kx::Hybrid);
            let configs = members.iter().map(|each| client(each, self.ca.pem(), kx, b"http/1.1")).collect();
            (proxy, Peer::new(proxy.kind.address(Mode::Http), kx, &Rc::new(configs)), Side::default())
        });
        for run in 0..=self.runs {
            for (proxy, peer, side) in &mut sides {
                if proxy.kind == Kind::Countersign {
                    renew(proxy).await;
                }
                let (seen, cpu) = self.measure(proxy, peer, Work::Connect, LANES).await;
                self.none_failed("handshake_http_unknown_peers", proxy.kind, &seen);
                if run > 0 {
                    side.add(cpu.as_secs_f64() * 1e6 / seen.done as f64, &seen);
                }
            }
        }
        let [(_, _, ours), (_, _, theirs)] = sides;
        let (version, kx) = (Kind::Haproxy.version(), exchanges(Kind::Haproxy, Kx::Hybrid));
        let case = "handshake_http_unknown_peers";
        let line = Line { case, peer: "haproxy", version: &version, kx: &kx, unit: "cpu-us", limit: None };
        self.tell(&line, &ours, &theirs);
    }

    /// Latency while our certificate is renewed every second, beside the same load without. Requests on
    /// old connections, and new connections.
    async fn renewed(&self, ours: &Proxy) {
        let peer = Peer::new(ours.kind.address(Mode::Http), Kx::Hybrid, &self.friends(Kx::Hybrid, b"http/1.1"));
        let renewals: u32 = if self.short { 2 } else { 4 };
        // Renewed, and left alone; of each: requests, connections.
        let mut sides: [[Side; 2]; 2] = Default::default();
        let mut failed = 0;
        for run in 0..=self.runs {
            for (renewed, of) in [true, false].into_iter().zip(&mut sides) {
                let loads = [Load::start(&peer, Work::Http1, LANES), Load::start(&peer, Work::Connect, NEWCOMERS)];
                sleep(self.window().1).await;
                loads.iter().for_each(Load::open);
                for _ in 0..renewals {
                    if renewed {
                        renew(ours).await;
                    }
                    sleep(RENEWAL).await;
                }
                loads.iter().for_each(Load::close);
                for (load, side) in loads.into_iter().zip(of) {
                    let seen = load.end().await;
                    self.none_failed("renewed_every_second", ours.kind, &seen);
                    failed += if renewed { seen.failed } else { 0 };
                    if run > 0 {
                        side.add(f64::from(seen.percentile(99)), &seen);
                    }
                }
            }
        }
        let [renewed, left] = sides;
        let version = Kind::Countersign.version();
        for ((what, with), without) in ["requests", "connections"].into_iter().zip(renewed).zip(left) {
            let case = format!("renewed_every_second_p99_{what}");
            let (peer, kx) = ("countersign, not renewed", Kx::Hybrid.name());
            let line = Line { case: &case, peer, version: &version, kx, unit: "us", limit: P99 };
            self.tell(&line, &with, &without);
        }
        let line = json!({
            "case": "renewed_every_second_failed", "peer": "countersign, not renewed", "peer_version": version,
            "kx": Kx::Hybrid.name(), "ours": failed, "theirs": 0, "unit": "requests", "ratio": null,
        });
        println!("{line}");
    }

    /// Memory of idle connections, one request each behind them, in processes that have done nothing else.
    async fn memory(&self, case: &str, mode: Mode, kind: Kind, limit: Option<Limit>) {
        let mut sides: [Side; 2] = Default::default();
        for _ in 0..self.runs {
            for (kind, side) in [Kind::Countersign, kind].into_iter().zip(&mut sides) {
                let kx = Self::kx(kind, Kx::Hybrid);
                let proxy = self.room.start(kind);
                let peer = Peer::new(kind.address(mode), kx, &self.friends(kx, b"http/1.1"));
                side.values.extend(self.idle(case, &proxy, &peer).await);
            }
        }
        let [ours, theirs] = sides;
        let (version, kx) = (kind.version(), exchanges(kind, Kx::Hybrid));
        let line = Line { case, peer: kind.name(), version: &version, kx: &kx, unit: "KiB", limit };
        self.tell(&line, &ours, &theirs);
    }

    /// Resident memory of a process that serves nobody yet. The limit is on the number itself.
    fn at_rest(&self) {
        let mut sides: [Side; 2] = Default::default();
        for _ in 0..self.runs {
            for (kind, side) in [Kind::Countersign, Kind::Haproxy].into_iter().zip(&mut sides) {
                side.values.push(account::resident(self.room.start(kind).pid()));
            }
        }
        let [ours, theirs] = sides;
        let own = median(&ours.values);
        let version = Kind::Haproxy.version();
        let line = Line { case: "rss_idle", peer: "haproxy", version: &version, kx: "none", unit: "KiB", limit: None };
        self.tell(&line, &ours, &theirs);
        self.judge("rss_idle", own, RSS);
    }

    /// Prints a line, and holds its ratio to the limit.
    pub fn tell(&self, line: &Line<'_>, ours: &Side, theirs: &Side) {
        let (own, other) = (median(&ours.values), median(&theirs.values));
        let mut text = json!({
            "case": line.case, "peer": line.peer, "peer_version": line.version, "kx": line.kx,
            "ours": round(own), "theirs": round(other), "unit": line.unit, "ratio": round(own / other),
        });
        if !ours.p99.is_empty() {
            text["p50_us"] = json!([median(&ours.p50), median(&theirs.p50)]);
            text["p99_us"] = json!([median(&ours.p99), median(&theirs.p99)]);
        }
        println!("{text}");
        self.judge(line.case, own / other, line.limit);
    }

    /// Says what was missed.
    fn judge(&self, case: &str, number: f64, limit: Option<Limit>) {
        let Some(Limit { must, aim, more }) = limit else { return };
        let missed = |limit: f64| if more { number < limit } else { number > limit };
        let held = !self.short || HELD.iter().any(|name| case.starts_with(name));
        if missed(must) && held {
            self.fault(format!("{case}: {number:.3} misses {must:.3}"));
        } else if missed(must) {
            eprintln!("{case}: {number:.3} misses {must:.3} (the short form does not hold it)");
        } else if missed(aim) {
            eprintln!("{case}: {number:.3} holds {must:.3}, not yet {aim:.3}");
        }
    }

    /// A window in which something failed, or nothing was done, is a fault.
    pub fn none_failed(&self, case: &str, kind: Kind, seen: &Seen) {
        let kind = kind.name();
        if let Some(error) = &seen.error {
            self.fault(format!("{case}: {kind}: {} failed, the first with: {error}", seen.failed));
        } else if seen.done == 0 {
            self.fault(format!("{case}: {kind}: nothing was done"));
        }
    }

    /// What an idle connection takes, KiB. `None`, and a fault: one failed.
    pub async fn idle(&self, case: &str, proxy: &Proxy, peer: &Peer) -> Option<f64> {
        let before = account::anonymous(proxy.pid());
        let fault = |what: &str| self.fault(format!("{case}: {}: {what}", proxy.kind.name()));
        let mut idle = match crowd(peer).await {
            Ok(idle) => idle,
            Err(error) => {
                fault(&format!("a connection failed: {error}"));
                return None;
            }
        };
        let after = account::anonymous(proxy.pid());
        // What was counted is alive, and had no ticket.
        for each in &mut idle {
            if each.ask().await.is_err() || each.tickets() != 0 {
                fault("an idle connection was ended, or was sent a ticket");
                return None;
            }
        }
        Some((after - before) / IDLE as f64)
    }
}

/// Ours and theirs.
pub fn exchanges(peer: Kind, asked: Kx) -> String {
    let (ours, theirs) = (asked.name(), Bench::kx(peer, asked).name());
    if ours == theirs { ours.to_owned() } else { format!("{ours} / {theirs}") }
}

/// Idle connections, a few handshakes at a time.
async fn crowd(peer: &Peer) -> io::Result<Vec<Idle>> {
    let mut idle = Vec::with_capacity(IDLE);
    while idle.len() < IDLE {
        let more = (0..16).map(|_| {
            let peer = peer.clone();
            tokio::task::spawn_local(async move { peer.idle().await })
        });
        for each in more.collect::<Vec<_>>() {
            idle.push(each.await.map_err(io::Error::other)??);
        }
    }
    Ok(idle)
}

/// Has our certificate renewed, and waits until the new one is served.
async fn renew(proxy: &Proxy) {
    let before = renewals().await;
    let pid = i32::try_from(proxy.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it is ours");
    let waited = async {
        while renewals().await == before {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited).await.expect("the certificate is renewed");
}

async fn renewals() -> u64 {
    let read = async {
        let mut stream = TcpStream::connect(METRICS).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, io::Error>(text)
    };
    let text = read.await.expect("metrics answer");
    let line = text.lines().find_map(|line| line.strip_prefix("countersign_certificate_renewals_total "));
    line.and_then(|number| number.parse().ok()).expect("renewals are counted")
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three decimals: noise is larger than the rest.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

//! The exchange of evidence beside the handshake without: the same binary, attested through a double of the guest's
//! agent to a double of a KBS. Both sides demand, and show. Then the issuer, who is asked in the same way.

use std::net::TcpListener;
use std::rc::Rc;

use countersign_testbed::guest::{Feature, GuestApi, RunningGuest};
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::tee::{Document, Guest, SnpGuest, hex};
use serde_json::{Value, json};

use crate::cases::{Bench, Line, Side, exchanges};
use crate::load::{Callers, Kx, LANES, Peer, Work};
use crate::proof::Workload;
use crate::proxies::{self, API, FRIEND, ISSUER, Kind, Mode, Proxy};
use crate::table::{APPRAISED, EVIDENCE, EVIDENCE_MEMORY, ISSUED, Limit, ROUND_TRIPS};

/// All cases here.
pub const CASES: [&str; 6] = [MEMORY, TRIPS, HANDSHAKE, JUDGED, APPRAISAL, CERTIFICATE];
const MEMORY: &str = "evidence_memory_per_idle";
const TRIPS: &str = "evidence_round_trips";
const HANDSHAKE: &str = "evidence_handshake";
const JUDGED: &str = "evidence_handshake_not_remembered";
const APPRAISAL: &str = "evidence_appraisal";
const CERTIFICATE: &str = "evidence_certificate_issued";

/// Who stands beside us in most of them.
const WITHOUT: (Kind, &str) = (Kind::Countersign, "countersign, without evidence");
const NAMED: (Kind, &str) = (Kind::Haproxy, "haproxy");

/// Attestation results of one caller. A verdict is remembered by the certificate: with another result each time
/// it is made anew, but for one in so many that comes twice in a row.
const RESULTS: usize = 64;

/// An agent policy that pins something: without one the agent's word for initdata is not taken.
const POLICY: &str =
    "package agent_policy\ndefault CreateContainerRequest := false\npolicy_data := {\"containers\": [{}]}\n";

/// The guest's services, in the network namespace that was made for us.
pub fn here(guest: &GuestApi) -> RunningGuest {
    guest.clone().here().expect("127.0.0.1:8006 is free in a namespace of our own")
}

/// Guests of each kind, and callers that have evidence.
pub struct Scene<'b> {
    bench: &'b Bench,
    /// A sidecar without evidence, configured over CDH.
    plain: GuestApi,
    /// A sidecar with it, and an issuer, each configured by initdata of its own.
    proven: GuestApi,
    issuer: GuestApi,
    /// Their verdict is remembered.
    known: Callers,
    /// Verdicts are not.
    unknown: Callers,
    /// They want a certificate.
    requesters: Callers,
    _kbs: RunningKbs,
}

/// Two sidecars, started a moment ago.
struct Pair {
    plain: Proxy,
    proven: Proxy,
    _guest: RunningGuest,
}

impl<'b> Scene<'b> {
    pub fn new(bench: &'b Bench, server: &Identity, plain: GuestApi) -> Self {
        let ca = Ca::new("kbs");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("it is bound"));
        let [sidecar, issuer] = [proxies::proven(&url, ca.pem()), proxies::issuer(&url, ca.pem())]
            .map(|text| Document::of_kbs(&url, ca.pem()).policy(POLICY).countersign(&text));
        let pin = |document: &Document| json!({"init_data": [hex(&document.digest())], "hardware": "any"});
        let peers = json!({API: pin(&sidecar), FRIEND: pin(&sidecar), ISSUER: pin(&issuer)});
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": peers}).to_string();
        let launched = |document: &Document| Guest::Snp(SnpGuest::genoa().initdata(&document.digest()));
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .policy(Policy::Affirming)
            .reference(&launched(&sidecar))
            .resource("payments/mesh/roots", bench.ca.pem())
            .resource("payments/mesh/cert", server.pem())
            .resource("payments/mesh/key", server.key_pem())
            .resource("payments/mesh/pins", &pins)
            .resource("payments/ca/certificate", bench.ca.pem())
            .resource("payments/ca/key", bench.ca.key_pem())
            .serve(listener)
            .expect("a listener has an address");
        kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
        let attested = |document: &Document| {
            let api = GuestApi::healthy().attester(launched(document)).kbs(&kbs).initdata(&document.text());
            api.feature(Feature::All)
        };
        let workload = Workload::new(&bench.friend, bench.ca.pem(), &kbs.token_root(), &pins);
        let answers: Vec<Value> = (0..RESULTS)
            .map(|_| kbs.handshake(&launched(&sidecar), Some(&sidecar.text())).expect("it believes its own guest"))
            .collect();
        let members = |answers: &[Value]| Rc::new(answers.iter().map(|answer| workload.member(answer)).collect());
        Self {
            bench,
            plain,
            proven: attested(&sidecar),
            issuer: attested(&issuer),
            known: members(&answers[..1]),
            unknown: members(&answers),
            requesters: Rc::new(vec![workload.requester(&answers[0])]),
            _kbs: kbs,
        }
    }

    /// The cases that are wanted.
    pub async fn run(&self) {
        let wants = |cases: &[&str]| cases.iter().any(|case| self.bench.wants(case));
        if wants(&[MEMORY]) {
            self.memory().await;
        }
        let haproxy = self.bench.room.start(Kind::Haproxy);
        let pair = self.pair();
        if wants(&[TRIPS]) {
            self.round_trips().await;
        }
        if wants(&[HANDSHAKE, JUDGED, APPRAISAL]) {
            self.handshakes(&pair, &haproxy).await;
        }
        drop(pair);
        if wants(&[CERTIFICATE]) {
            self.certificates(&haproxy).await;
        }
    }

    /// The first would be given the other's configuration where that one's guest is.
    fn pair(&self) -> Pair {
        let guest = here(&self.plain);
        let plain = self.bench.room.start(Kind::Countersign);
        drop(guest);
        let guest = here(&self.proven);
        Pair { plain, proven: self.bench.room.start(Kind::Proven), _guest: guest }
    }

    fn bare(&self, kind: Kind) -> Peer {
        peer(kind, &self.bench.friends(Bench::kx(kind, Kx::Hybrid), b"http/1.1"))
    }

    fn tell(
        &self,
        case: &str,
        unit: &str,
        (ours, theirs): (&Side, &Side),
        (kind, peer): (Kind, &str),
        limit: Option<Limit>,
    ) {
        let (version, kx) = (kind.version(), exchanges(kind, Kx::Hybrid));
        self.bench.tell(&Line { case, peer, version: &version, kx: &kx, unit, limit }, ours, theirs);
    }

    async fn memory(&self) {
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        for _ in 0..self.bench.runs {
            let pair = self.pair();
            ours.values.extend(self.bench.idle(MEMORY, &pair.proven, &peer(Kind::Proven, &self.known)).await);
            theirs.values.extend(self.bench.idle(MEMORY, &pair.plain, &self.bare(Kind::Countersign)).await);
        }
        self.tell(MEMORY, "KiB", (&ours, &theirs), WITHOUT, EVIDENCE_MEMORY);
    }

    /// Counted, not timed.
    async fn round_trips(&self) {
        let mut sides = [peer(Kind::Proven, &self.known), self.bare(Kind::Countersign)].map(|peer| (peer, u32::MAX));
        for (peer, least) in &mut sides {
            // An answer that came in two pieces may be counted twice: the least is what it takes.
            for _ in 0..LANES {
                match peer.round_trips().await {
                    Ok(count) => *least = count.min(*least),
                    Err(error) => return self.bench.fault(format!("{TRIPS}: a connection failed: {error}")),
                }
            }
        }
        let [ours, theirs] = sides.map(|(_, least)| Side::of([f64::from(least)]));
        self.tell(TRIPS, "round trips", (&ours, &theirs), WITHOUT, ROUND_TRIPS);
    }

    async fn handshakes(&self, pair: &Pair, haproxy: &Proxy) {
        let [remembered, judged, plain, theirs] = self
            .turns([
                (&pair.proven, peer(Kind::Proven, &self.known), Work::Connect),
                (&pair.proven, peer(Kind::Proven, &self.unknown), Work::Connect),
                (&pair.plain, self.bare(Kind::Countersign), Work::Connect),
                (haproxy, self.bare(Kind::Haproxy), Work::Connect),
            ])
            .await;
        let unit = "cpu-us";
        let appraisal = Side::of(judged.values.iter().zip(&remembered.values).map(|(with, without)| with - without));
        let remembers = (Kind::Countersign, "countersign, verdicts remembered");
        self.tell(HANDSHAKE, unit, (&remembered, &plain), WITHOUT, EVIDENCE[0]);
        self.tell(HANDSHAKE, unit, (&remembered, &theirs), NAMED, EVIDENCE[1]);
        self.tell(JUDGED, unit, (&judged, &remembered), remembers, APPRAISED);
        // What one verdict costs: the difference of the two.
        self.tell(APPRAISAL, unit, (&appraisal, &plain), WITHOUT, None);
    }

    async fn certificates(&self, haproxy: &Proxy) {
        let _guest = here(&self.issuer);
        let issuer = self.bench.room.start(Kind::Issuer);
        let [ours, theirs] = self
            .turns([
                (&issuer, peer(Kind::Issuer, &self.requesters), Work::Issue),
                (haproxy, self.bare(Kind::Haproxy), Work::Connect),
            ])
            .await;
        self.tell(CERTIFICATE, "cpu-us", (&ours, &theirs), NAMED, ISSUED);
    }

    /// Processor time of each connection, in turns, of which the first is not counted.
    async fn turns<const SIDES: usize>(&self, sides: [(&Proxy, Peer, Work); SIDES]) -> [Side; SIDES] {
        let mut sides = sides.map(|side| (side, Side::default()));
        for run in 0..=self.bench.runs {
            for ((proxy, peer, work), side) in &mut sides {
                let (seen, cpu) = self.bench.measure(proxy, peer, *work, LANES).await;
                self.bench.none_failed("evidence", proxy.kind, &seen);
                if run > 0 {
                    side.add(cpu.as_secs_f64() * 1e6 / seen.done as f64, &seen);
                }
            }
        }
        sides.map(|(_, side)| side)
    }
}

fn peer(kind: Kind, callers: &Callers) -> Peer {
    Peer::new(kind.address(Mode::Http), Bench::kx(kind, Kx::Hybrid), callers)
}

//! Every error that a KBS is known to give, and what lies between it and us: one table. A row says
//! how the KBS double is made to answer, what class and remedy the client sees in that, and how often
//! the road shows evidence before it gives up.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign::access::Deadline;
use countersign::access::direct::{DirectRoad, Pace};
use countersign::access::rcar::{EvidenceSource, Rcar};
use countersign::clock::Clock;
use countersign::config::KbsUrl;
use countersign::finding::{Class, Finding};
use countersign::formats::kbs_uri::KbsUri;
use countersign::kbs::{Client, Error, Evidence, Names, Remedy, Resolver, TeeKey, Trust};
use countersign::secret::Secret;
use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::kbs::{Fault, Kbs, Policy, RunningKbs, Step};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Guest, SnpGuest};
use tokio::task::JoinSet;
use tokio::time::Instant;

countersign_testbed::main! {
    the_table_has_every_row_of_the_protocols_errors_by_name,
    every_row_is_classed_remedied_and_attested_over_http_1,
    every_row_is_classed_remedied_and_attested_over_http_2,
    a_kbs_by_another_ca_is_class_74_and_is_sent_nothing,
    plain_http_is_class_78_and_connects_to_nobody,
    a_slow_kbs_is_waited_for_inside_the_deadline,
    a_redirect_is_not_followed_to_another_kbs,
}

/// The situations that the protocol's description of errors lists (RCAR 0.4.0, observed on Trustee
/// v0.21), all of them, in its order.
const SITUATIONS: [&str; 14] = [
    "wrong version",
    "unknown tee, missing field, not JSON on /auth",
    "anything wrong on /attest",
    "resource without or with unknown/expired/unattested session and no Bearer",
    "bad, expired or non-EAR Bearer",
    "policy says no",
    "resource absent, bad path, backend broken",
    "unsupported tee-pubkey",
    "unknown plugin, also GET /kbs/v0/auth",
    "POST/DELETE resource without admin auth",
    "admin endpoints without auth",
    "bad policy upload",
    "body too large",
    "other path",
];

const PATH: &str = "default/test/key";
const VALUE: &[u8] = b"a value that is released to the attested only";

/// Where a remedy is tried until the deadline, this is it. Long enough for a few handshakes on a busy
/// machine.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(8);

/// Everywhere else nothing may come near its deadline.
const NEVER_REACHED: Duration = Duration::from_secs(60);

const PACE: Pace = Pace { first: Duration::from_millis(50), longest: Duration::from_millis(200) };

/// What the guest shows.
#[derive(Clone, Copy, Debug)]
enum Shows {
    /// A report over what the KBS asked for.
    Truth,
    /// A report over something else.
    AnotherReportData,
    /// More than Trustee reads of a request.
    TooMuch,
    /// A kind of TEE that no KBS knows.
    AnUnknownTee,
}

/// How often something happens.
#[derive(Clone, Copy, Debug)]
enum Times {
    Exactly(u64),
    /// Until the deadline.
    Several,
}

use Times::{Exactly, Several};

struct Row {
    /// One of [`SITUATIONS`], or what else may happen.
    name: &'static str,
    kbs: Kbs,
    shows: Shows,
    /// Put before `/kbs/v0/…`.
    prefix: &'static str,
    class: Class,
    remedy: Remedy,
    /// How often the road shows evidence.
    shown: Times,
    /// How often it asks for the resource.
    asked: Times,
}

fn row(name: &'static str, kbs: Kbs, class: Class, remedy: Remedy, shown: Times, asked: Times) -> Row {
    let kbs = kbs.resource(PATH, VALUE);
    Row { name, kbs, shows: Shows::Truth, prefix: "", class, remedy, shown, asked }
}

fn kbs() -> Kbs {
    Kbs::healthy().policy(Policy::AllowAll)
}

fn at(step: Step, fault: Fault) -> Kbs {
    kbs().fault(step, fault)
}

fn refuses_resources(kind: &'static str, detail: &'static str) -> Kbs {
    at(Step::Resource, Fault::Problem(kind, detail))
}

fn not_found(kind: &str, detail: &str) -> Fault {
    let body =
        format!(r#"{{"type":"https://github.com/confidential-containers/kbs/errors/{kind}","detail":"{detail}"}}"#);
    Fault::Status("404 Not Found".to_owned(), body)
}

fn table() -> Vec<Row> {
    let mut rows = listed();
    rows.extend(between());
    rows
}

/// The protocol's own errors. Where the double can be brought to the situation itself, it is: only the
/// others have their answer put into its mouth.
fn listed() -> Vec<Row> {
    let [version, auth, attest, session, bearer, policy, absent, key, plugin, admin, endpoint, upload, large, path] =
        SITUATIONS;
    vec![
        row(version, Kbs::version("0.1.0"), Class::ProtocolVersion, Remedy::Never, Exactly(0), Exactly(0)),
        Row {
            shows: Shows::AnUnknownTee,
            ..row(auth, kbs(), Class::EvidenceRejected, Remedy::Never, Exactly(0), Exactly(0))
        },
        Row {
            shows: Shows::AnotherReportData,
            ..row(attest, kbs(), Class::EvidenceRejected, Remedy::Few, Exactly(3), Exactly(0))
        },
        row(session, at(Step::Resource, Fault::SessionsLost), Class::Backend, Remedy::Attest, Exactly(2), Exactly(2)),
        // Trustee counts 60 s more than the token says.
        row(bearer, kbs().token_seconds(-61), Class::Backend, Remedy::Attest, Exactly(2), Exactly(2)),
        row(policy, kbs().policy(Policy::DenyAll), Class::PolicyDenied, Remedy::Never, Exactly(1), Exactly(1)),
        Row { kbs: kbs(), ..row(absent, kbs(), Class::Backend, Remedy::Few, Exactly(1), Exactly(3)) },
        row(key, refuses_resources("JweError", "JWE failed"), Class::Backend, Remedy::Never, Exactly(1), Exactly(1)),
        row(
            plugin,
            at(Step::Resource, not_found("PluginNotFound", "Plugin resource not found")),
            Class::Backend,
            Remedy::Never,
            Exactly(1),
            Exactly(1),
        ),
        row(
            plugin,
            at(Step::Auth, not_found("PluginNotFound", "Plugin auth not found")),
            Class::Backend,
            Remedy::Never,
            Exactly(0),
            Exactly(0),
        ),
        row(
            admin,
            refuses_resources(
                "AdminAuthInitialization",
                "failed to initialize [admin] configuration: Failed to parse HTTP Auth Bearer header",
            ),
            Class::Backend,
            Remedy::Never,
            Exactly(1),
            Exactly(1),
        ),
        row(
            endpoint,
            refuses_resources("AdminAuthAccess", "admin access denied for endpoint resource-policy: x"),
            Class::Backend,
            Remedy::Never,
            Exactly(1),
            Exactly(1),
        ),
        row(upload, refuses_resources("PolicyEngineError", "x"), Class::Backend, Remedy::Few, Exactly(1), Exactly(3)),
        row(upload, refuses_resources("ParsePolicyError", "x"), Class::Backend, Remedy::Few, Exactly(1), Exactly(3)),
        Row {
            shows: Shows::TooMuch,
            ..row(large, kbs(), Class::EvidenceRejected, Remedy::Never, Exactly(1), Exactly(0))
        },
        Row { prefix: "/elsewhere", ..row(path, kbs(), Class::Unreachable, Remedy::Again, Exactly(0), Exactly(0)) },
    ]
}

/// What stands between the KBS and us, and what a KBS never says.
fn between() -> Vec<Row> {
    let mut rows = Vec::new();
    // The same thing at each step: on the way to /auth nothing is shown, on the way to a resource once.
    let mut everywhere = |name, fault: Fault, class, remedy, shown: Times, asked: Times| {
        rows.push(row(name, at(Step::Auth, fault.clone()), class, remedy, Exactly(0), Exactly(0)));
        rows.push(row(name, at(Step::Attest, fault.clone()), class, remedy, shown, Exactly(0)));
        rows.push(row(name, at(Step::Resource, fault), class, remedy, Exactly(1), asked));
    };
    let gateway = Fault::Status("502 Bad Gateway".to_owned(), "<html>bad gateway</html>".to_owned());
    for (name, fault) in [
        ("a page with 401", Fault::Html401),
        ("a page with 200", Fault::GatewayPage),
        ("a page with 502", gateway),
        ("a 404 without a body", Fault::Empty404),
        ("a reset in place of an answer", Fault::Reset),
        ("a reset in mid-body", Fault::ResetMidBody),
        ("an end in mid-body", Fault::CloseMidBody),
    ] {
        everywhere(name, fault, Class::Unreachable, Remedy::Again, Several, Several);
    }
    let (unreachable, never) = (Class::Unreachable, Remedy::Never);
    everywhere("half the JSON", Fault::TruncatedJson, unreachable, Remedy::Few, Exactly(3), Exactly(3));
    let elsewhere = Fault::Redirect("https://127.0.0.1:1/kbs/v0/auth".to_owned());
    everywhere("a redirect", elsewhere, unreachable, never, Exactly(1), Exactly(1));
    // What is never answered is asked once: the deadline ends it.
    everywhere("silence", Fault::Silent, unreachable, Remedy::Again, Exactly(1), Exactly(1));
    for (name, fault) in [
        ("a JWE with another epk", Fault::WrongEpk),
        ("a JWE whose epk is no point", Fault::EpkOffCurve),
        ("a JWE of another algorithm", Fault::WrongAlgorithm),
        ("a JWE for another key", Fault::ForKeyOfAnother),
        ("a JWE that was tampered with", Fault::TamperedCiphertext),
    ] {
        rows.push(row(name, at(Step::Resource, fault), Class::Content, never, Exactly(1), Exactly(1)));
    }
    rows.push(row("no cookie", at(Step::Auth, Fault::NoCookie), unreachable, Remedy::Few, Exactly(0), Exactly(0)));
    let other_hash = at(Step::Auth, Fault::SelectsHash("sm3"));
    rows.push(row("a hash not offered", other_hash, Class::ProtocolVersion, never, Exactly(0), Exactly(0)));
    rows
}

struct Source(Shows);

impl Source {
    fn tee(&self) -> &'static str {
        if matches!(self.0, Shows::AnUnknownTee) { "abacus" } else { "snp" }
    }

    fn evidence(&self, report_data: &[u8]) -> String {
        let guest = Guest::Snp(SnpGuest::genoa());
        match self.0 {
            Shows::Truth | Shows::AnUnknownTee => guest.evidence(report_data).to_string(),
            Shows::AnotherReportData => guest.evidence(&[1; 48]).to_string(),
            Shows::TooMuch => format!("\"{}\"", "e".repeat(2 * 1024 * 1024)),
        }
    }
}

impl EvidenceSource for Source {
    async fn tee(&self) -> Result<String, Finding> {
        Ok(self.tee().to_owned())
    }

    async fn evidence(&self, report_data: &[u8]) -> Result<String, Finding> {
        Ok(self.evidence(report_data))
    }
}

fn client(kbs: &RunningKbs, prefix: &str, ca: Option<&Ca>) -> Client {
    let url = KbsUrl::parse(&format!("{}{prefix}", kbs.url())).unwrap();
    let trust = Trust { ca: ca.map(Ca::pem), system_roots: false, allow_http: false, clock: &Clock::system() };
    Client::new(&[url], &trust, Names::with(|| Resolver::with_servers(&[]))).unwrap()
}

fn uri() -> KbsUri {
    KbsUri::parse(&format!("kbs:///{PATH}")).unwrap()
}

/// One try of everything, by the client alone.
async fn once(client: &Client, source: &Source, budget: Duration) -> Result<Secret, Error> {
    let until = Instant::now() + budget;
    let challenge = client.challenge(source.tee(), until).await?;
    let binding = challenge.bind(Arc::new(TeeKey::generate().unwrap()), String::new())?;
    let evidence = Evidence::new(source.evidence(binding.report_data())).unwrap();
    binding.attest(&evidence, None, until).await?.resource(&uri(), 1024, until).await
}

fn road(client: Client, shows: Shows, budget: Duration) -> Arc<DirectRoad<Rcar<Source>>> {
    DirectRoad::new(client, Source(shows), None, Deadline::after(budget), PACE)
}

impl Times {
    fn is(self, seen: u64) -> bool {
        match self {
            Exactly(times) => seen == times,
            Several => seen > 1,
        }
    }
}

/// Everything that is wrong with a row.
async fn wrong(row: Row, ca: Option<Arc<Ca>>) -> Option<String> {
    let kbs = match &ca {
        None => row.kbs.on_loopback(),
        Some(ca) => row.kbs.tls(ca.leaf(&["127.0.0.1"])).h2().on_loopback(),
    };
    let client = client(&kbs, row.prefix, ca.as_deref());
    let budget = if row.remedy == Remedy::Again { UNTIL_GIVEN_UP } else { NEVER_REACHED };

    let Err(error) = once(&client, &Source(row.shows), budget).await else {
        return Some(format!("{}: released", row.name));
    };
    let before = asked(&kbs);
    let road = road(client, row.shows, budget);
    let Err(finding) = road.fetch(&uri(), 1024).await else { return Some(format!("{}: released", row.name)) };
    let asked = asked(&kbs) - before;

    let seen = (error.class(), error.remedy(), finding.class);
    let right = seen == (row.class, row.remedy, row.class)
        && row.shown.is(road.attestations())
        && row.asked.is(asked)
        && starts_with_a_verb(&finding.next)
        && finding.saw.contains("127.0.0.1")
        && (ca.is_none() || kbs.requests().iter().all(|seen| seen.http2));
    (!right).then(|| {
        let shown = road.attestations();
        format!("{}: {seen:?}, evidence {shown} times, resource {asked} times: {finding}", row.name)
    })
}

/// How often the resource was asked for.
fn asked(kbs: &RunningKbs) -> u64 {
    kbs.requests().iter().filter(|seen| seen.path.ends_with(PATH)).count().try_into().unwrap()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn all_rows(ca: Option<&Arc<Ca>>) {
    let wrong: Vec<String> = wait(async {
        let mut rows = JoinSet::new();
        for row in table() {
            rows.spawn(wrong(row, ca.cloned()));
        }
        rows.join_all().await.into_iter().flatten().collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn the_table_has_every_row_of_the_protocols_errors_by_name() {
    let listed: BTreeSet<&str> = listed().iter().map(|row| row.name).collect();
    assert_eq!(listed, BTreeSet::from(SITUATIONS));
    assert_eq!(listed.len(), 14, "the protocol's description has fourteen rows");
    assert!(between().iter().all(|row| !SITUATIONS.contains(&row.name)));
}

fn every_row_is_classed_remedied_and_attested_over_http_1() {
    all_rows(None);
}

fn every_row_is_classed_remedied_and_attested_over_http_2() {
    all_rows(Some(&Arc::new(Ca::new("of this test"))));
}

fn a_kbs_by_another_ca_is_class_74_and_is_sent_nothing() {
    let (theirs, ours) = (Ca::new("theirs"), Ca::new("ours"));
    for kbs in [kbs().tls(theirs.leaf(&["127.0.0.1"])), kbs().tls(theirs.leaf(&["127.0.0.1"])).h2()] {
        let kbs = kbs.on_loopback();
        let road = road(client(&kbs, "", Some(&ours)), Shows::Truth, NEVER_REACHED);
        let finding = wait(road.fetch(&uri(), 1024)).err().unwrap();
        assert_eq!((finding.class, finding.class.code()), (Class::KbsIdentity, 74), "{finding}");
        assert_eq!((road.attestations(), kbs.count(), kbs.connections()), (0, 0, 1));
    }
}

fn plain_http_is_class_78_and_connects_to_nobody() {
    let url = KbsUrl::parse("http://kbs.test:8080").unwrap();
    let trust = Trust { ca: None, system_roots: false, allow_http: false, clock: &Clock::system() };
    let asked_for_names = || panic!("a name was looked up");
    let error = Client::new(&[url], &trust, Names::with(asked_for_names)).err().unwrap();
    assert_eq!((error.class(), error.class().code(), error.remedy()), (Class::Config, 78, Remedy::Never));
    assert!(error.finding().next.contains("[kbs].ca"), "{}", error.finding());
}

fn a_slow_kbs_is_waited_for_inside_the_deadline() {
    let slow = kbs().resource(PATH, VALUE).fault(Step::Any, Fault::Late(Duration::from_millis(200))).on_loopback();
    let road = road(client(&slow, "", None), Shows::Truth, NEVER_REACHED);
    assert_eq!(wait(road.fetch(&uri(), 1024)).unwrap().expose(), VALUE);
    assert_eq!((road.attestations(), slow.count()), (1, 3), "nothing was asked twice");
}

fn a_redirect_is_not_followed_to_another_kbs() {
    let other = kbs().resource(PATH, VALUE).on_loopback();
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        let kbs = kbs().resource(PATH, VALUE).fault(step, Fault::Redirect(other.url())).on_loopback();
        let road = road(client(&kbs, "", None), Shows::Truth, NEVER_REACHED);
        assert_eq!(wait(road.fetch(&uri(), 1024)).err().unwrap().class, Class::Unreachable);
    }
    assert_eq!(other.connections(), 0);
}

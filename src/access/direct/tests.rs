use std::sync::Mutex as StdMutex;

use super::*;
use crate::config::KbsUrl;
use crate::kbs::testing::{Reply, Seen, TestKbs, VALUE, client, refusal};
use crate::ports::testing::RefusingPort;
use crate::tls::testing::{Leaf, TestCa};

/// Evidence of a simulated guest, or what is wrong with it.
enum Guest {
    Gives(&'static str),
    Fails,
    Hangs,
}

struct Source {
    guest: Guest,
    asked: StdMutex<Vec<Vec<u8>>>,
}

impl EvidenceSource for Source {
    async fn tee(&self) -> Result<String, Finding> {
        Ok("sample".to_owned())
    }

    async fn evidence(&self, report_data: &[u8]) -> Result<String, Finding> {
        self.asked.lock().unwrap().push(report_data.to_vec());
        match self.guest {
            Guest::Gives(json) => Ok(json.to_owned()),
            Guest::Fails => Err(Finding::new(Class::NoEvidence, "EBUSY")),
            Guest::Hangs => std::future::pending().await,
        }
    }
}

const PACE: Pace = Pace { first: Duration::from_millis(5), longest: Duration::from_millis(20) };

/// Enough on a busy machine; tests that wait for silence take their own.
const BUDGET: Duration = Duration::from_secs(30);

fn road_to(client: Client, guest: Guest, budget: Duration) -> Arc<DirectRoad<Rcar<Source>>> {
    let source = Source { guest, asked: StdMutex::default() };
    DirectRoad::new(client, source, None, Deadline::after(budget), PACE)
}

fn road(kbs: &TestKbs) -> Arc<DirectRoad<Rcar<Source>>> {
    road_to(kbs.client(None), Guest::Gives("{}"), BUDGET)
}

fn uri(name: &str) -> KbsUri {
    KbsUri::parse(&format!("kbs:///default/test/{name}")).unwrap()
}

/// Fetches so many resources at once.
async fn many(road: &Arc<DirectRoad<Rcar<Source>>>, count: usize) -> Vec<Result<Secret, Finding>> {
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let road = Arc::clone(road);
            tokio::spawn(async move { road.fetch(&uri(&format!("key{number}")), 100).await })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

fn all_released(results: &[Result<Secret, Finding>]) -> bool {
    results.iter().all(|result| result.as_ref().is_ok_and(|secret| secret.expose() == VALUE.as_bytes()))
}

/// Answers requests that satisfy `when` so, and is honest else.
async fn faulty(when: impl Fn(&Seen) -> bool + Send + Sync + 'static, reply: Reply) -> TestKbs {
    TestKbs::scripted(move |seen| if when(seen) { reply.clone() } else { Reply::Honest }).await
}

fn denied(variant: &str) -> Reply {
    Reply::Status("401 Unauthorized", refusal(variant, "x"))
}

fn is_resource(seen: &Seen) -> bool {
    seen.path.contains("/resource/")
}

#[tokio::test]
async fn fifty_resources_cost_one_attestation_and_at_most_four_connections() {
    let kbs = TestKbs::honest().await;
    let road = road(&kbs);
    assert!(all_released(&many(&road, 50).await));
    assert_eq!((road.attestations(), kbs.count("/auth"), kbs.count("/attest")), (1, 1, 1));
    assert_eq!(road.attester.source.asked.lock().unwrap().len(), 1);
    assert!(kbs.connections() <= 4, "{}", kbs.connections());
}

#[tokio::test]
async fn over_http2_they_share_one_connection() {
    let ca = TestCa::new();
    let mut tls = Arc::unwrap_or_clone(ca.server("127.0.0.1", Leaf::Good));
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let kbs = TestKbs::start(Some(Arc::new(tls)), |_| Reply::Honest).await;
    let road = road_to(kbs.client(Some(&ca.pem)), Guest::Gives("{}"), BUDGET);
    assert!(all_released(&many(&road, 50).await));
    assert!(road.session().await.unwrap().session.is_multiplexed());
    assert_eq!((road.attestations(), kbs.connections()), (1, 1));
}

#[tokio::test]
async fn policy_denial_performs_exactly_one_attestation() {
    let kbs = faulty(is_resource, denied("PolicyDeny")).await;
    let road = road(&kbs);
    for result in many(&road, 20).await {
        assert_eq!(result.err().unwrap().class, Class::PolicyDenied);
    }
    assert_eq!((road.attestations(), kbs.count("/auth"), kbs.count("/attest")), (1, 1, 1));
    assert_eq!(kbs.count("/key0"), 1, "and is not asked for again");
}

#[tokio::test]
async fn a_session_that_the_kbs_forgets_in_mid_run_is_attested_once_more() {
    let kbs = TestKbs::honest().await;
    let road = road(&kbs);
    assert!(all_released(&many(&road, 5).await));
    kbs.forget_sessions();
    assert!(all_released(&many(&road, 20).await));
    assert_eq!(road.attestations(), 2);
    kbs.forget_sessions();
    assert!(all_released(&many(&road, 1).await));
    assert_eq!(road.attestations(), 3, "a session that was of use may be replaced");
}

#[tokio::test]
async fn a_kbs_that_knows_none_of_its_sessions_costs_two_attestations() {
    for variant in ["TokenNotFound", "TokenVerifierError"] {
        let kbs = faulty(is_resource, denied(variant)).await;
        let road = road(&kbs);
        for result in many(&road, 20).await {
            assert_eq!(result.err().unwrap().class, Class::Backend);
        }
        assert_eq!(many(&road, 1).await.pop().unwrap().err().unwrap().class, Class::Backend);
        assert_eq!((road.attestations(), kbs.count("/attest")), (2, 2), "{variant}");
    }
}

#[tokio::test]
async fn rejected_evidence_is_shown_three_times_and_then_never_again() {
    let kbs = faulty(|seen| seen.path.ends_with("/attest"), denied("AttestationError")).await;
    let road = road(&kbs);
    for result in many(&road, 5).await {
        let finding = result.err().unwrap();
        assert_eq!(finding.class, Class::EvidenceRejected);
        assert!(finding.saw.contains("3 tries"), "{finding}");
    }
    assert_eq!((road.attestations(), kbs.count("/attest")), (3, 3));
    let asked = road.attester.source.asked.lock().unwrap().clone();
    assert_ne!(asked[0], asked[1], "a new key each time");
}

#[tokio::test]
async fn evidence_that_is_accepted_at_the_second_try_is_enough() {
    let kbs = faulty(|seen| seen.path.ends_with("/attest") && seen.before == 0, denied("AttestationError")).await;
    let road = road(&kbs);
    assert!(all_released(&many(&road, 5).await));
    assert_eq!(road.attestations(), 2);
}

#[tokio::test]
async fn another_version_is_asked_once_and_shown_nothing() {
    let detail = "KBS Client Protocol Version Mismatch: expect =0.2.0 while the request is 0.4.0";
    let reply = Reply::Status("401 Unauthorized", refusal("AttestationError", detail));
    let kbs = faulty(|seen| seen.path.ends_with("/auth"), reply).await;
    let road = road(&kbs);
    let finding = road.fetch(&uri("a"), 100).await.err().unwrap();
    assert_eq!((finding.class, road.attestations(), kbs.seen().len()), (Class::ProtocolVersion, 0, 1));
}

#[tokio::test]
async fn a_missing_resource_is_asked_for_three_times_in_one_session() {
    let kbs = faulty(is_resource, denied("PluginInternalError")).await;
    let road = road(&kbs);
    let finding = road.fetch(&uri("a"), 100).await.err().unwrap();
    assert_eq!((finding.class, road.attestations(), kbs.count("/a")), (Class::Backend, 1, 3));
    assert!(finding.next.contains("kbs:///default/test/a"), "{finding}");
}

#[tokio::test]
async fn what_passes_is_waited_out() {
    for fault in [
        Reply::Status("502 Bad Gateway", "<html>".to_owned()),
        Reply::Cut("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"pro".to_owned()),
        Reply::Raw(String::new()),
    ] {
        let kbs = faulty(|seen| seen.before < 2, fault).await;
        let road = road(&kbs);
        assert_eq!(road.fetch(&uri("a"), 100).await.ok().unwrap().expose(), VALUE.as_bytes());
    }
}

#[tokio::test]
async fn a_kbs_that_dies_in_mid_run_is_replaced_by_the_next() {
    let first = faulty(is_resource, Reply::Status("502 Bad Gateway", String::new())).await;
    let second = TestKbs::honest().await;
    let both = client(&[first.url(), second.url()], None);
    let road = road_to(both, Guest::Gives("{}"), BUDGET);
    assert!(all_released(&many(&road, 3).await));
    assert_eq!((first.count("/attest"), second.count("/attest"), road.attestations()), (1, 1, 2));
}

#[tokio::test]
async fn a_silent_kbs_is_given_up_at_the_deadline() {
    let budget = Duration::from_millis(400);
    for part in ["/auth", "/attest", "/a"] {
        let kbs = faulty(move |seen| seen.path.ends_with(part), Reply::Silence).await;
        let road = road_to(kbs.client(None), Guest::Gives("{}"), budget);
        let start = Instant::now();
        let finding = road.fetch(&uri("a"), 100).await.err().unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{part}");
        assert_eq!(finding.class, Class::Unreachable, "{part}: {finding}");
    }
}

#[tokio::test]
async fn a_try_that_the_deadline_cuts_short_does_not_hide_the_reason() {
    let kbs = TestKbs::scripted(|seen| match seen.path.as_str() {
        "/kbs/v0/attest" if seen.before == 0 => denied("AttestationError"),
        "/kbs/v0/attest" => Reply::Silence,
        _ => Reply::Honest,
    })
    .await;
    let road = road_to(kbs.client(None), Guest::Gives("{}"), Duration::from_secs(3));
    let finding = road.fetch(&uri("a"), 100).await.err().unwrap();
    assert_eq!(finding.class, Class::EvidenceRejected, "{finding}");
}

#[tokio::test]
async fn a_refused_connection_is_tried_until_the_deadline() {
    let refusing = RefusingPort::new();
    let url = KbsUrl { tls: false, host: "127.0.0.1".to_owned(), port: refusing.port(), prefix: String::new() };
    let road = road_to(client(&[url], None), Guest::Gives("{}"), Duration::from_secs(3));
    let finding = road.fetch(&uri("a"), 100).await.err().unwrap();
    assert_eq!((finding.class, road.attestations()), (Class::Unreachable, 0));
    assert!(finding.saw.contains("refuses connections") && finding.saw.contains("until the deadline"), "{finding}");
}

#[tokio::test]
async fn a_guest_without_evidence_is_class_71_and_told_to_all() {
    let kbs = TestKbs::honest().await;
    for (guest, budget) in
        [(Guest::Fails, BUDGET), (Guest::Gives("{} {}"), BUDGET), (Guest::Hangs, Duration::from_secs(3))]
    {
        let road = road_to(kbs.client(None), guest, budget);
        for result in many(&road, 5).await {
            let finding = result.err().unwrap();
            assert!(matches!(finding.class, Class::NoEvidence | Class::Unreachable), "{finding}");
        }
        assert_eq!((road.attestations(), road.attester.source.asked.lock().unwrap().len()), (0, 1));
    }
    assert_eq!(kbs.count("/attest"), 0);
}

#[tokio::test]
async fn the_token_comes_with_the_session() {
    let kbs = TestKbs::honest().await;
    let road = road(&kbs);
    assert!(road.token().await.unwrap().starts_with("e30."));
    assert!(all_released(&many(&road, 3).await));
    assert_eq!(road.attestations(), 1);
}

#[tokio::test]
async fn a_slow_kbs_is_shown_evidence_after_a_while() {
    let kbs = faulty(|seen| seen.path.ends_with("/auth"), Reply::Slow(Duration::from_secs(1))).await;
    let road = road_to(kbs.client(None), Guest::Gives("{}"), Duration::from_secs(20));
    assert!(all_released(&many(&road, 2).await));
}

#[test]
fn pauses_double_at_most_and_are_bounded() {
    let pace = Pace::default();
    for tries in 1..40 {
        let most = Duration::from_secs(1 << (tries - 1).min(5)).min(pace.longest);
        assert!((0..20).all(|_| pace.after(tries) <= most), "{tries}");
    }
}

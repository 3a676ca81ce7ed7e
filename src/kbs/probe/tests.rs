use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::finding::Class;
use crate::formats::kbs_error::Variant;
use crate::kbs::testing::{Zone, name_server};
use crate::ports::testing::RefusingPort;
use crate::tls::testing::{Leaf, TestCa};

/// Enough on a busy machine; tests that wait for silence take their own.
const BUDGET: Duration = Duration::from_secs(20);

const CHALLENGE: &str = r#"{"nonce":"gonWZBQA29Mr0+3ODrzdYj9WMigcxHmb6X2+Vv8xuY0=","extra-params":""}"#;

/// What a real KBS answers to version 0.1.0, here with another version that it wants.
fn mismatch(theirs: &str) -> String {
    format!(
        r#"{{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect ={theirs} while the request is 0.4.0"}}"#
    )
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Answers one request, over TLS where a configuration is given, and returns the request.
async fn serve(tls: Option<Arc<ServerConfig>>, answer: String) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        match tls {
            None => converse(tcp, &answer).await,
            Some(config) => match TlsAcceptor::from(config).accept(tcp).await {
                Ok(stream) => converse(stream, &answer).await,
                Err(_) => String::new(),
            },
        }
    });
    (at, task)
}

async fn converse(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"]}}") {
        let mut byte = [0];
        if io.read(&mut byte).await.unwrap_or(0) == 0 {
            break;
        }
        request.extend(byte);
    }
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
    String::from_utf8(request).unwrap()
}

fn url(tls: bool, host: &str, port: u16) -> KbsUrl {
    KbsUrl { tls, host: host.to_owned(), port, prefix: String::new() }
}

fn no_names() -> Result<Resolver, DnsProblem> {
    Resolver::with_servers(&[])
}

async fn ask(status: &str, body: &str) -> Report {
    let (at, _task) = serve(None, response(status, body)).await;
    probe_with(&url(false, "127.0.0.1", at.port()), None, &Clock::system(), BUDGET, no_names).await
}

#[tokio::test]
async fn a_kbs_of_our_version_is_known_by_its_challenge() {
    let (at, task) = serve(None, response("200 OK", CHALLENGE)).await;
    let mut kbs = url(false, "127.0.0.1", at.port());
    kbs.prefix = "/trustee".to_owned();
    let report = probe_with(&kbs, None, &Clock::system(), BUDGET, no_names).await;
    assert!(report.speaks_ours());
    assert_eq!(report.finding(), None);
    let names: Vec<StageName> = report.stages().iter().map(|stage| stage.name).collect();
    assert_eq!(names, [StageName::Connection, StageName::Answer]);
    assert!(report.summary().contains("speaks our version 0.4.0 (connects, answers)"), "{}", report.summary());
    let request = task.await.unwrap();
    assert!(request.starts_with("POST /trustee/kbs/v0/auth HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: 127.0.0.1:{}\r\n", at.port())), "{request}");
    assert!(request.ends_with(
        r#"{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
    ));
}

#[tokio::test]
async fn https_to_a_name_passes_all_four_stages() {
    let ca = TestCa::new();
    let (at, _task) = serve(Some(ca.server("kbs.test", Leaf::Good)), response("200 OK", CHALLENGE)).await;
    let dns = name_server(Zone::Address).await;
    let report = probe_with(&url(true, "kbs.test", at.port()), Some(&ca.pem), &Clock::system(), BUDGET, || {
        Resolver::with_servers(&[dns])
    })
    .await;
    assert!(report.speaks_ours(), "{}", report.summary());
    assert_eq!(report.stages().len(), 4);
}

#[test]
fn a_kbs_of_the_initdata_is_mended_there_and_not_in_kbs() {
    let tls = [
        TlsProblem::UnknownIssuer,
        TlsProblem::Expired,
        TlsProblem::NotYetValid,
        TlsProblem::WrongName,
        TlsProblem::CaUsedAsEndEntity,
        TlsProblem::WrongPurpose,
        TlsProblem::NoCommonVersion,
        TlsProblem::NotTls,
        TlsProblem::Other,
    ];
    let names = [DnsProblem::NoServers, DnsProblem::NoSuchName, DnsProblem::NoAddress, DnsProblem::NoAnswer];
    let mut verdicts = vec![
        Verdict::ConnectRefused,
        Verdict::ConnectTimeout,
        Verdict::NoRoute,
        Verdict::BadCa(tls::Error::NoCertificate),
        Verdict::Closed(StageName::Certificate),
        Verdict::Silent(StageName::Answer),
        Verdict::NotHttp,
        Verdict::NotAKbs { status: 502, body: "an HTML page" },
        Verdict::RefusesUs(Variant::AttestationError),
    ];
    verdicts.extend(tls.map(Verdict::Tls));
    verdicts.extend(names.map(Verdict::Name));
    let mut reworded = 0;
    for verdict in verdicts {
        let report = Report::new(url(true, "kbs.test", 8080), Vec::new(), verdict, None);
        let plain = report.finding().unwrap();
        assert_eq!(report.finding_named_in(CONFIG), Some(plain.clone()));
        let finding = report.finding_named_in("the mounted initdata").unwrap();
        assert!(!finding.to_string().contains("[kbs]"), "{finding}");
        assert!(countersign_testbed::expect::starts_with_a_verb(&finding.next), "{finding}");
        assert_eq!(plain.to_string().contains("[kbs]"), finding.to_string().contains("the mounted initdata"));
        reworded += usize::from(finding != plain);
        assert!(!report.summary().contains("[kbs]"), "the document's name stands beside it already");
    }
    assert!(reworded >= 8, "{reworded}");
}

#[tokio::test]
async fn another_version_is_named() {
    let report = ask("401 Unauthorized", &mismatch("0.2.0")).await;
    assert!(matches!(report.verdict(), Verdict::OtherVersion { theirs } if theirs.as_str() == "0.2.0"));
    let finding = report.finding().unwrap();
    assert_eq!(finding.class, Class::ProtocolVersion);
    assert!(finding.saw.contains("0.2.0") && finding.why.contains("0.4.0"), "{finding}");
}

#[tokio::test]
async fn what_is_not_a_kbs_is_said_to_be_none() {
    for (status, body, kind) in [
        ("200 OK", "<!doctype html><title>login</title>", "an HTML page"),
        ("502 Bad Gateway", "<html><center>nginx</center></html>", "an HTML page"),
        ("404 Not Found", "", "an empty body"),
        ("404 Not Found", "default backend - 404", "plain text"),
        ("200 OK", r#"{"status":"up"}"#, "JSON of another kind"),
        ("200 OK", r#"{"nonce":"","extra-params":""}"#, "JSON of another kind"),
        ("403 Forbidden", CHALLENGE, "JSON of another kind"),
        ("302 Found", "", "an empty body"),
    ] {
        let report = ask(status, body).await;
        assert!(matches!(report.verdict(), Verdict::NotAKbs { body, .. } if *body == kind), "{}", report.summary());
        assert_eq!(report.finding().unwrap().class, Class::Unreachable);
    }
    let endless = "x".repeat(MAX_ANSWER + 1);
    assert!(matches!(ask("200 OK", &endless).await.verdict(), Verdict::NotAKbs { .. }));
    let (at, _task) = serve(None, "SSH-2.0-OpenSSH_9.2\r\n".to_owned()).await;
    let report = probe_with(&url(false, "127.0.0.1", at.port()), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::NotHttp);
}

#[tokio::test]
async fn a_kbs_that_refuses_for_another_reason_is_still_a_kbs() {
    let body = mismatch("x").replace("AttestationError", "PluginNotFound");
    assert_eq!(ask("404 Not Found", &body).await.verdict(), &Verdict::RefusesUs(Variant::PluginNotFound));
}

#[tokio::test]
async fn each_wrong_certificate_is_class_74() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    for (leaf, problem) in [(Leaf::Expired, TlsProblem::Expired), (Leaf::IsCa, TlsProblem::CaUsedAsEndEntity)] {
        let (at, _task) = serve(Some(ca.server("127.0.0.1", leaf)), String::new()).await;
        let report =
            probe_with(&url(true, "127.0.0.1", at.port()), Some(&ca.pem), &Clock::system(), BUDGET, no_names).await;
        assert_eq!(report.verdict(), &Verdict::Tls(problem));
        assert_eq!(report.finding().unwrap().class, Class::KbsIdentity);
    }
    let (at, _task) = serve(Some(ca.server("127.0.0.1", Leaf::Good)), String::new()).await;
    let report =
        probe_with(&url(true, "127.0.0.1", at.port()), Some(&stranger.pem), &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.finding().unwrap().class, Class::KbsIdentity);
    let (at, _task) = serve(Some(ca.server("other.test", Leaf::Good)), String::new()).await;
    let report =
        probe_with(&url(true, "127.0.0.1", at.port()), Some(&ca.pem), &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::Tls(TlsProblem::WrongName));
}

#[tokio::test]
async fn https_without_a_ca_is_not_asked_and_blames_nobody() {
    let (at, _task) = serve(None, String::new()).await;
    let report = probe_with(&url(true, "127.0.0.1", at.port()), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::NoCa);
    assert_eq!(report.finding(), None);
    assert!(report.summary().contains("no CA is configured"));
    let (at, _task) = serve(None, String::new()).await;
    let report =
        probe_with(&url(true, "127.0.0.1", at.port()), Some("not PEM"), &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.finding().unwrap().class, Class::Config);
}

#[tokio::test]
async fn a_refused_connection_is_named() {
    let refusing = RefusingPort::new();
    let report = probe_with(&url(false, "127.0.0.1", refusing.port()), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::ConnectRefused);
    let finding = report.finding().unwrap();
    assert_eq!(finding.class, Class::Unreachable);
    assert!(finding.next.contains("[kbs].url"));
}

#[tokio::test]
async fn a_silent_server_does_not_outlast_the_budget() {
    let ca = TestCa::new();
    for (tls, verdict) in [(true, Verdict::Silent(StageName::Certificate)), (false, Verdict::Silent(StageName::Answer))]
    {
        // Accepts in the kernel's backlog and never says a word.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kbs = url(tls, "127.0.0.1", listener.local_addr().unwrap().port());
        let start = Instant::now();
        let report = probe_with(&kbs, Some(&ca.pem), &Clock::system(), Duration::from_millis(300), no_names).await;
        assert_eq!(report.verdict(), &verdict);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(report.finding().unwrap().class, Class::Unreachable);
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_named() {
    let (at, _task) = serve(None, String::new()).await;
    let report = probe_with(&url(false, "127.0.0.1", at.port()), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::Closed(StageName::Answer));
    let (at, _task) = serve(None, "HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{\"nonce\"".to_owned()).await;
    let report = probe_with(&url(false, "127.0.0.1", at.port()), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::Closed(StageName::Answer));
}

#[tokio::test]
async fn names_that_do_not_resolve_are_told_apart() {
    for (zone, problem) in [
        (Zone::Nothing, DnsProblem::NoSuchName),
        (Zone::NoAddress, DnsProblem::NoAddress),
        (Zone::Failing, DnsProblem::NoAnswer),
    ] {
        let dns = name_server(zone).await;
        let report =
            probe_with(&url(true, "kbs.test", 1), None, &Clock::system(), BUDGET, || Resolver::with_servers(&[dns]))
                .await;
        assert_eq!(report.verdict(), &Verdict::Name(problem));
        assert_eq!(report.finding().unwrap().class, Class::Unreachable);
        assert!(report.finding().unwrap().saw.contains("kbs.test"));
    }
    let report = probe_with(&url(true, "kbs.test", 1), None, &Clock::system(), BUDGET, no_names).await;
    assert_eq!(report.verdict(), &Verdict::Name(DnsProblem::NoServers));
    assert!(report.finding().unwrap().next.contains("/etc/resolv.conf"));
    let dns = name_server(Zone::Silent).await;
    let budget = Duration::from_millis(400);
    let report =
        probe_with(&url(true, "kbs.test", 1), None, &Clock::system(), budget, || Resolver::with_servers(&[dns])).await;
    assert_eq!(report.verdict(), &Verdict::Name(DnsProblem::NoAnswer));
}

#[tokio::test]
async fn no_word_of_a_server_gets_into_a_report() {
    for (status, body) in [
        ("200 canary", "<html>canary".to_owned()),
        ("401 canary", mismatch("canary")),
        ("401 canary", mismatch("0.1.0").replace("AttestationError", "canary")),
    ] {
        let report = ask(status, &body).await;
        let all = format!("{report:?} {} {}", report.summary(), report.finding().unwrap());
        assert!(!all.contains("canary"), "{all}");
    }
}

#[test]
fn it_can_be_asked_from_any_task() {
    fn is_send(_: impl Send) {}
    is_send(probe(&url(true, "kbs.test", 1), None, &Clock::system(), BUDGET));
}

#[test]
fn the_host_header_is_written_as_gateways_compare_it() {
    assert_eq!(host_header(&url(true, "kbs.test", 443)), "kbs.test");
    assert_eq!(host_header(&url(true, "kbs.test", 8443)), "kbs.test:8443");
    assert_eq!(host_header(&url(false, "kbs.test", 80)), "kbs.test");
    assert_eq!(host_header(&url(false, "fd00::1", 8080)), "[fd00::1]:8080");
}

proptest! {
    #[test]
    fn any_answer_is_judged(status in 100_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = judge(status, &body);
    }
}

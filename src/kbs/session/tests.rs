use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::finding::Class;
use crate::formats::kbs_error::Variant;
use crate::kbs::testing::{Reply, Seen, TestKbs, VALUE, Zone, client, encrypt, name_server, no_names, refusal};
use crate::kbs::{DnsProblem, Names, Resolver};
use crate::tls::testing::{Leaf, TestCa};

/// Enough on a busy machine; tests that wait for silence take their own.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn uri() -> KbsUri {
    KbsUri::parse("kbs:///default/test/key").unwrap()
}

fn evidence() -> Evidence {
    Evidence::new(r#"{"svn":"1"}"#.to_owned()).unwrap()
}

async fn attest(client: &Client) -> Result<Session, Error> {
    let challenge = client.challenge("sample", soon()).await?;
    let binding = challenge.bind(Arc::new(TeeKey::generate().unwrap()), String::new())?;
    binding.attest(&evidence(), None, soon()).await
}

/// Attests, and fetches the resource.
async fn all(kbs: &TestKbs) -> Result<Secret, Error> {
    attest(&kbs.client(None)).await?.resource(&uri(), 100, soon()).await
}

/// The error of a KBS that answers one kind of request so, and is honest else.
async fn refused(path: &'static str, reply: Reply) -> Error {
    let kbs =
        TestKbs::scripted(move |seen: &Seen| if seen.path.ends_with(path) { reply.clone() } else { Reply::Honest });
    all(&kbs.await).await.err().unwrap()
}

async fn refused_with(path: &'static str, variant: &str, detail: &str) -> Error {
    refused(path, Reply::Status("401 Unauthorized", refusal(variant, detail))).await
}

#[tokio::test]
async fn one_attestation_gives_a_resource() {
    let kbs = TestKbs::honest().await;
    let secret = all(&kbs).await.unwrap();
    assert_eq!(secret.expose(), VALUE.as_bytes());
    let seen = kbs.seen();
    let requests: Vec<String> = seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    assert_eq!(requests, ["POST /kbs/v0/auth", "POST /kbs/v0/attest", "GET /kbs/v0/resource/default/test/key"]);
    assert_eq!(
        seen[0].body,
        r#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
    );
    assert_eq!(seen[0].headers["content-type"], "application/json");
    assert!(!seen[0].headers.contains_key("cookie"));
    for later in &seen[1..] {
        assert_eq!(later.headers["cookie"], format!("kbs-session-id={:032x}", 0), "the one cookie, and no other");
        assert!(!later.headers.contains_key("authorization"));
    }
    assert_eq!(kbs.connections(), 1);
}

#[tokio::test]
async fn the_initdata_goes_to_the_kbs_as_text() {
    let kbs = TestKbs::honest().await;
    let challenge = kbs.client(None).challenge("snp", soon()).await.unwrap();
    let binding = challenge.bind(Arc::new(TeeKey::generate().unwrap()), String::new()).unwrap();
    assert_eq!(binding.report_data().len(), 48);
    let session = binding.attest(&evidence(), Some("version = \"0.1.0\"\n"), soon()).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&kbs.seen()[1].body).unwrap();
    assert_eq!(body["init-data"], serde_json::json!({"format": "toml", "body": "version = \"0.1.0\"\n"}));
    assert_eq!(body["runtime-data"]["nonce"], "gon+/=");
    assert_eq!(body["tee-evidence"], serde_json::json!({"primary_evidence": {"svn": "1"}, "additional_evidence": ""}));
    assert!(!session.is_multiplexed());
    assert!(!session.is_expired(Instant::now() + Duration::from_secs(289)));
    assert!(session.is_expired(Instant::now() + Duration::from_secs(290)), "ten seconds before the token's 300");
}

#[tokio::test]
async fn every_refusal_of_the_kbs_has_its_class_and_its_remedy() {
    let version = "KBS Client Protocol Version Mismatch: expect =0.2.0 while the request is 0.4.0";
    for (path, variant, detail, class, remedy) in [
        ("/auth", "AttestationError", version, Class::ProtocolVersion, Remedy::Never),
        ("/auth", "AttestationError", "Auth failed: deserialize Request", Class::EvidenceRejected, Remedy::Never),
        ("/auth", "PluginNotFound", "Plugin auth not found", Class::Backend, Remedy::Never),
        ("/auth", "InvalidRequestPath", "x", Class::Config, Remedy::Never),
        ("/attest", "AttestationError", "RCAR handshake Attest failed", Class::EvidenceRejected, Remedy::Few),
        ("/key", "TokenNotFound", "Attestation Token not found", Class::Backend, Remedy::Attest),
        ("/key", "TokenVerifierError", "Token Verifier error", Class::Backend, Remedy::Attest),
        ("/key", "PolicyDeny", "Access denied by policy", Class::PolicyDenied, Remedy::Never),
        ("/key", "PluginInternalError", "Plugin internal error", Class::Backend, Remedy::Few),
        ("/key", "JweError", "JWE failed", Class::Backend, Remedy::Never),
        ("/key", "PluginNotFound", "x", Class::Backend, Remedy::Never),
        ("/key", "AdminAuthInitialization", "x", Class::Backend, Remedy::Never),
        ("/key", "AdminAuthAccess", "x", Class::Backend, Remedy::Never),
        ("/key", "PolicyEngineError", "x", Class::Backend, Remedy::Few),
        ("/key", "ParsePolicyError", "x", Class::Backend, Remedy::Few),
        ("/key", "StorageBackendInitialization", "x", Class::Backend, Remedy::Few),
        ("/key", "SomethingNew", "canary", Class::Backend, Remedy::Never),
    ] {
        let error = refused_with(path, variant, detail).await;
        assert_eq!((error.class(), error.remedy()), (class, remedy), "{path} {variant}");
        let finding = error.finding();
        assert_eq!(finding.class, class);
        assert!(!finding.to_string().contains("canary"), "{finding}");
        assert!(finding.saw.contains("127.0.0.1"), "{finding}");
    }
}

#[tokio::test]
async fn other_versions_are_named_and_hostile_ones_are_not() {
    let error = refused_with("/auth", "AttestationError", "Version Mismatch: expect =0.2.0 while").await;
    assert!(error.finding().saw.contains("0.2.0"), "{}", error.finding());
    let error = refused_with("/auth", "AttestationError", "Version Mismatch: expect =\u{1b}[31m while").await;
    assert_eq!(error.class(), Class::EvidenceRejected);
}

#[tokio::test]
async fn answers_that_no_kbs_gives_are_class_69() {
    for path in ["/auth", "/attest", "/key"] {
        for (status, body, kind) in [
            ("401 Unauthorized", "<html>login canary</html>", "an HTML page"),
            ("403 Forbidden", "<!doctype html>canary", "an HTML page"),
            ("502 Bad Gateway", "<html>canary", "an HTML page"),
            ("404 Not Found", "", "an empty body"),
            ("400 Bad Request", "canary", "plain text"),
            ("500 Internal Server Error", "{}", "JSON of another kind"),
            ("200 OK", "<html>canary</html>", "an HTML page"),
            ("200 OK", "", "an empty body"),
        ] {
            let error = refused(path, Reply::Status(status, body.to_owned())).await;
            assert_eq!((error.class(), error.remedy()), (Class::Unreachable, Remedy::Again), "{path} {status} {body}");
            assert!(error.to_string().contains(kind), "{error}");
            assert!(!error.finding().to_string().contains("canary"));
        }
    }
}

#[tokio::test]
async fn a_body_too_large_for_the_kbs_is_said_so() {
    let error =
        refused("/attest", Reply::Status("413 Payload Too Large", "payload reached size limit".to_owned())).await;
    assert_eq!((error.class(), error.remedy()), (Class::EvidenceRejected, Remedy::Never));
    assert!(error.finding().next.contains("payload_request_size"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = TestKbs::honest().await;
    for path in ["/auth", "/attest", "/key"] {
        let text =
            format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
        let error = refused(path, Reply::Raw(text)).await;
        assert_eq!(error.problem, Problem::Redirect { status: 307 });
        assert_eq!((error.class(), error.remedy()), (Class::Unreachable, Remedy::Never));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn truncated_json_is_refused() {
    for (path, body) in
        [("/auth", r#"{"nonce":"gon"#), ("/attest", r#"{"token":"e30"#), ("/key", r#"{"protected":"eyJ"#)]
    {
        let error = refused(path, Reply::Status("200 OK", body.to_owned())).await;
        assert_eq!((error.class(), error.remedy()), (Class::Unreachable, Remedy::Few), "{error}");
    }
}

#[tokio::test]
async fn a_challenge_without_the_cookie_or_with_another_hash_is_refused() {
    let plain = |body: &str| Reply::Status("200 OK", body.to_owned());
    let error = refused("/auth", plain(r#"{"nonce":"n","extra-params":""}"#)).await;
    assert_eq!(error.problem, Problem::Malformed(Malformed::NoCookie));
    let error = refused("/auth", plain(r#"{"nonce":"n","extra-params":{"selected-hash-algorithm":"sm3"}}"#)).await;
    assert_eq!((error.class(), error.remedy()), (Class::ProtocolVersion, Remedy::Never));
}

#[tokio::test]
async fn a_reset_or_an_end_in_mid_body_is_class_69() {
    for path in ["/auth", "/attest", "/key"] {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"nonce\":\"canary".to_owned();
        for reply in [Reply::Cut(half.clone()), Reply::Raw(half), Reply::Cut(String::new())] {
            let error = refused(path, reply).await;
            assert_eq!(error.problem, Problem::Closed);
            assert_eq!((error.class(), error.remedy()), (Class::Unreachable, Remedy::Again));
        }
    }
    let error = refused("/auth", Reply::Raw("SSH-2.0-OpenSSH_9.2\r\n".to_owned())).await;
    assert_eq!((error.problem.clone(), error.class()), (Problem::NotHttp, Class::Unreachable));
}

#[tokio::test]
async fn a_slow_kbs_does_not_outlast_the_deadline() {
    let kbs = TestKbs::scripted(|_| Reply::Silence).await;
    let start = Instant::now();
    let error = kbs.client(None).challenge("snp", start + Duration::from_millis(300)).await.err().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((error.problem.clone(), error.class()), (Problem::Late, Class::Unreachable));
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = "x".repeat(MAX_TOKEN + 1);
    let error = refused("/attest", Reply::Status("200 OK", endless)).await;
    assert_eq!((error.problem.clone(), error.class()), (Problem::TooLong, Class::Unreachable));
    let page = format!("<html>{}", "x".repeat(2 * MAX_SMALL));
    let error = refused("/auth", Reply::Status("503 Service Unavailable", page)).await;
    assert_eq!(error.problem, Problem::NotAKbs { status: 503, body: "an HTML page" });
}

#[tokio::test]
async fn a_resource_over_its_bound_is_refused() {
    let kbs = TestKbs::honest().await;
    let session = attest(&kbs.client(None)).await.unwrap();
    let error = session.resource(&uri(), VALUE.len() - 1, soon()).await.err().unwrap();
    assert_eq!((error.class(), error.remedy()), (Class::Content, Remedy::Never));
    assert_eq!(session.resource(&uri(), VALUE.len(), soon()).await.unwrap().expose(), VALUE.as_bytes());
    let error = refused("/key", Reply::Status("200 OK", format!("{{\"{}", "x".repeat(200 * 1024)))).await;
    assert_eq!(error.problem, Problem::ResourceTooLong { max: 100 });
}

#[tokio::test]
async fn a_jwe_for_another_key_and_a_wrong_epk_are_refused() {
    let other = encrypt(&TeeKey::generate().unwrap().public_jwk(), b"canary");
    let error = refused("/key", Reply::Status("200 OK", other.to_string())).await;
    assert_eq!(error.problem, Problem::Jwe(jwe::Error::Decrypt));
    assert_eq!((error.class(), error.remedy()), (Class::Content, Remedy::Never));

    let mut wrong = other;
    let header = r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"AAAA","y":"AAAA"}}"#;
    wrong["protected"] = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header).into();
    let error = refused("/key", Reply::Status("200 OK", wrong.to_string())).await;
    assert!(matches!(error.problem, Problem::Jwe(jwe::Error::EphemeralKey(_))));
    assert_eq!((error.class(), error.remedy()), (Class::Content, Remedy::Never));
}

#[tokio::test]
async fn a_kbs_by_another_ca_is_class_74_and_sees_nothing() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    let kbs = TestKbs::start(Some(ca.server("127.0.0.1", Leaf::Good)), |_| Reply::Honest).await;
    let error = kbs.client(Some(&stranger.pem)).challenge("snp", soon()).await.err().unwrap();
    assert_eq!((error.class(), error.remedy()), (Class::KbsIdentity, Remedy::Never));
    assert!(kbs.seen().is_empty());
    let expired = TestKbs::start(Some(ca.server("127.0.0.1", Leaf::Expired)), |_| Reply::Honest).await;
    let error = expired.client(Some(&ca.pem)).challenge("snp", soon()).await.err().unwrap();
    assert_eq!(error.class(), Class::KbsIdentity);
    attest(&kbs.client(Some(&ca.pem))).await.unwrap();
}

#[tokio::test]
async fn plain_http_is_refused_unless_trusted_configuration_allows_it() {
    let url = |host: &str| KbsUrl { tls: false, host: host.to_owned(), port: 80, prefix: String::new() };
    let new = |urls: &[KbsUrl], allow_http| {
        Client::new(
            urls,
            &Trust { ca: None, system_roots: false, allow_http, clock: &Clock::system() },
            Names::with(no_names),
        )
        .err()
    };
    let error = new(&[url("127.0.0.1"), url("kbs.test")], false).unwrap();
    assert_eq!((error.class(), error.remedy()), (Class::Config, Remedy::Never));
    assert!(error.finding().saw.contains("kbs.test"), "{}", error.finding());
    assert!(new(&[url("localhost")], false).is_some(), "a name is not loopback");
    assert!(new(&[url("127.0.0.1")], false).is_none());
    assert!(new(&[url("kbs.test")], true).is_none());
    assert_eq!(new(&[], true).unwrap().class(), Class::Config);
    let https = KbsUrl { tls: true, ..url("kbs.test") };
    assert_eq!(new(&[https], true).unwrap().class(), Class::Config, "https without a CA");
}

#[tokio::test]
async fn a_name_without_an_address_is_class_69() {
    let url = KbsUrl { tls: false, host: "kbs.test".to_owned(), port: 80, prefix: String::new() };
    let trust = Trust { ca: None, system_roots: false, allow_http: true, clock: &Clock::system() };
    let client = Client::new(&[url], &trust, Names::with(no_names)).unwrap();
    let error = client.challenge("snp", soon()).await.err().unwrap();
    assert_eq!(error.problem, Problem::Name(DnsProblem::NoServers));
    assert_eq!((error.class(), error.remedy()), (Class::Unreachable, Remedy::Again));
}

#[tokio::test]
async fn a_name_is_resolved_by_our_resolver_and_checked_in_the_certificate() {
    let ca = TestCa::new();
    let kbs = TestKbs::start(Some(ca.server("kbs.test", Leaf::Good)), |_| Reply::Honest).await;
    let dns = name_server(Zone::Address).await;
    let trust = Trust { ca: Some(&ca.pem), system_roots: false, allow_http: false, clock: &Clock::system() };
    for (host, works) in [("kbs.test", true), ("other.test", false)] {
        let url = KbsUrl { host: host.to_owned(), ..kbs.url() };
        let names = Names::with(move || Resolver::with_servers(&[dns]));
        let client = Client::new(&[url], &trust, names).unwrap();
        match client.challenge("snp", soon()).await {
            Ok(_) => assert!(works, "{host}"),
            Err(error) => assert_eq!((works, error.class()), (false, Class::KbsIdentity), "{host}: {error}"),
        }
    }
    assert_eq!(kbs.seen()[0].headers["host"], format!("kbs.test:{}", kbs.at.port()));
}

#[tokio::test]
async fn a_resource_that_is_too_long_does_not_make_the_kbs_unhealthy() {
    let long = format!("{{\"{}", "x".repeat(200 * 1024));
    let first = TestKbs::scripted(move |seen| match seen.method.as_str() {
        "GET" => Reply::Status("200 OK", long.clone()),
        _ => Reply::Honest,
    })
    .await;
    let second = TestKbs::honest().await;
    let both = client(&[first.url(), second.url()], None);
    assert!(attest(&both).await.unwrap().resource(&uri(), 1, soon()).await.is_err());
    assert_eq!(both.challenge("snp", soon()).await.unwrap().place, 0);
}

#[tokio::test]
async fn a_kind_of_tee_that_is_no_name_is_not_sent() {
    let kbs = TestKbs::honest().await;
    let error = kbs.client(None).challenge("snp\",\"x\":\"", soon()).await.err().unwrap();
    assert_eq!(error.class(), Class::NoEvidence);
    assert!(kbs.seen().is_empty());
}

#[tokio::test]
async fn urls_are_tried_in_order_and_the_dead_one_is_remembered() {
    let alive = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&alive);
    let first = TestKbs::scripted(move |_| {
        if switch.load(Ordering::SeqCst) { Reply::Honest } else { Reply::Status("502 Bad Gateway", String::new()) }
    })
    .await;
    let second = TestKbs::honest().await;
    let both = client(&[first.url(), second.url()], None);
    assert_eq!(both.challenge("snp", soon()).await.unwrap().place, 1);
    assert_eq!(both.challenge("snp", soon()).await.unwrap().place, 1);
    assert_eq!((first.seen().len(), second.seen().len()), (1, 2), "the dead one is asked once");
    alive.store(true, Ordering::SeqCst);
    assert_eq!(client(&[first.url(), second.url()], None).challenge("snp", soon()).await.unwrap().place, 0);
}

#[tokio::test]
async fn half_a_challenge_sends_us_to_the_next() {
    let first = TestKbs::scripted(|_| Reply::Status("200 OK", r#"{"nonce":"gon"#.to_owned())).await;
    let second = TestKbs::honest().await;
    let both = client(&[first.url(), second.url()], None);
    assert!(both.has_several());
    for _ in 0..2 {
        assert_eq!(both.challenge("snp", soon()).await.unwrap().place, 1);
    }
    assert_eq!(first.seen().len(), 1);
}

#[tokio::test]
async fn a_refusal_of_a_kbs_is_not_taken_to_the_next() {
    let first = TestKbs::scripted(|_| Reply::Status("401 Unauthorized", refusal("AttestationError", "x"))).await;
    let second = TestKbs::honest().await;
    let error = client(&[first.url(), second.url()], None).challenge("snp", soon()).await.err().unwrap();
    assert_eq!(error.class(), Class::EvidenceRejected);
    assert!(second.seen().is_empty());
}

#[tokio::test]
async fn of_two_failures_the_graver_is_told_and_the_other_keeps_hope() {
    let ca = TestCa::new();
    let spoofed = TestKbs::start(Some(TestCa::new().server("127.0.0.1", Leaf::Good)), |_| Reply::Honest).await;
    let broken = TestKbs::scripted(|_| Reply::Status("502 Bad Gateway", String::new())).await;
    for urls in [[spoofed.url(), broken.url()], [broken.url(), spoofed.url()]] {
        let error = client(&urls, Some(&ca.pem)).challenge("snp", soon()).await.err().unwrap();
        assert_eq!((error.class(), error.remedy()), (Class::KbsIdentity, Remedy::Again));
    }
}

#[test]
fn every_problem_says_what_to_do() {
    let uri = uri();
    let refused = |variant| Problem::Refused(kbs_error::KbsError { variant, expects: None });
    let mut problems = vec![
        Problem::NoUrl,
        Problem::PlainHttp,
        Problem::Ca(tls::Error::NoRoots),
        Problem::Setup,
        Problem::Tee,
        Problem::Evidence(wire::EvidenceError::NotJson),
        Problem::ConnectionRefused,
        Problem::NoConnection,
        Problem::Tls(tls::TlsProblem::UnknownIssuer),
        Problem::Late,
        Problem::Closed,
        Problem::NotHttp,
        Problem::NotAKbs { status: 502, body: "an HTML page" },
        Problem::Redirect { status: 302 },
        Problem::RequestTooLarge,
        Problem::TooLong,
        Problem::Malformed(Malformed::Token),
        Problem::Hash,
        Problem::Jwe(jwe::Error::Shape),
        Problem::Jwe(jwe::Error::Decrypt),
        Problem::ResourceTooLong { max: 1 },
    ];
    problems.extend([DnsProblem::NoServers, DnsProblem::NoSuchName, DnsProblem::NoAnswer].map(Problem::Name));
    problems.extend(
        [
            Variant::AttestationError,
            Variant::TokenNotFound,
            Variant::TokenVerifierError,
            Variant::PolicyDeny,
            Variant::PluginInternalError,
            Variant::PluginNotFound,
            Variant::JweError,
            Variant::InvalidRequestPath,
            Variant::AdminAuth,
            Variant::Policy,
            Variant::Internal,
            Variant::Unknown,
        ]
        .map(refused),
    );
    for problem in problems {
        for step in [Step::Setup, Step::Auth, Step::Attest, Step::Resource(uri.clone())] {
            let error = Error::new(step, "https://kbs.test:8443", problem.clone());
            let finding = error.finding();
            assert!(countersign_testbed::expect::starts_with_a_verb(&finding.next), "{error}: {}", finding.next);
            assert_eq!(finding.class, error.class(), "{error}");
            assert!(finding.saw.contains("kbs.test"), "{error}");
            assert!(!finding.saw.is_empty() && !finding.why.is_empty());
        }
    }
}

#[test]
fn a_client_can_be_used_from_any_task() {
    fn is_send<T: Send>(_: T) {}
    let url = KbsUrl { tls: false, host: "127.0.0.1".to_owned(), port: 1, prefix: String::new() };
    let client = client(&[url], None);
    is_send(client.challenge("snp", Instant::now()));
    is_send(client);
}

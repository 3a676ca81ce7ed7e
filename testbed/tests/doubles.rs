//! The doubles say what the real services say, and break in the ways they are told to.
//!
//! Recorded traffic is read from `../shared/vectors`; where that is absent the tests that compare
//! with it are left out by name.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use countersign_testbed::guest::{CDH_FAILED, LOGIN_PAGE};
use countersign_testbed::kbs::Kbs;
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::tee::Guest;
use countersign_testbed::{Answer, GuestApi, World, runner};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

countersign_testbed::main! {
    guest_answers_as_recorded [GuestPort, Vectors],
    kbs_answers_as_recorded [Namespaces, Vectors],
    guest_refuses_with_one_text_for_every_cause [GuestPort],
    answers_follow_the_script_and_the_last_one_stays [GuestPort],
    one_connection_serves_many_requests [GuestPort],
    requests_are_recorded_with_their_headers [GuestPort],
    concurrent_requests_are_counted [GuestPort],
    each_broken_answer_is_broken_as_its_name_says [GuestPort],
    endless_answers_do_not_end [GuestPort],
    a_silent_guest_says_nothing_until_it_stops [GuestPort],
    a_slow_guest_sends_one_byte_at_a_time [GuestPort],
    kbs_serves_tls_that_only_its_own_ca_vouches_for [Namespaces],
    each_wrong_certificate_is_wrong [Namespaces],
    kbs_modes_are_told_apart [Namespaces],
}

const GUEST: &str = "127.0.0.1:8006";
const KBS: &str = "127.0.0.1:8080";
const PATH: &str = "/cdh/resource/a/b/c";

fn guest_answers_as_recorded() {
    let recorded = std::fs::read(runner::vectors().unwrap().join("transcripts/api-server-rest.txt")).unwrap();
    let exchanges = transcript(&recorded);
    assert!(exchanges.len() >= 8, "the transcript is not the one we know");
    let mut api = GuestApi::healthy();
    for (path, answer) in &exchanges {
        if path.starts_with("/cdh/") && answer.status == "200 OK" {
            api = api.path(path, [Answer::Bytes(answer.body.clone())]);
        }
    }
    let world = World::new().unwrap();
    let kbs = world.kbs(KBS, Kbs::healthy());
    let world = world.guest(api.attester(Guest::Sample).kbs(&kbs));
    let mut compared = 0;
    for (path, expected) in &exchanges {
        let mut got = ask(&world, GUEST, path);
        let mut expected = expected.clone();
        if path.starts_with("/aa/token") {
            for parsed in [&mut got, &mut expected] {
                parsed.mask_token();
            }
        }
        assert_eq!(got, expected, "{path}");
        compared += 1;
    }
    assert!(compared >= 8, "{compared}");
}

fn kbs_answers_as_recorded() {
    let wire = runner::vectors().unwrap().join("generated/wire");
    let world = World::private().unwrap();
    let _kbs = world.kbs(KBS, Kbs::healthy());
    let mut compared = 0;
    for number in ["01", "02", "03", "04", "05", "06", "07", "09", "12", "13", "14", "16"] {
        let entries = std::fs::read_dir(&wire).unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().starts_with(number);
        for request in entries.filter(|path| is_ours(path) && path.to_string_lossy().ends_with(".request.http")) {
            let response = request.to_string_lossy().replace(".request.", ".response.");
            let expected = parse(&std::fs::read(response).unwrap());
            let got = parse(&exchange(world.connect(KBS).unwrap(), &std::fs::read(&request).unwrap()));
            assert_eq!(got.masked(), expected.masked(), "{}", request.display());
            compared += 1;
        }
    }
    assert_eq!(compared, 12);
}

fn guest_refuses_with_one_text_for_every_cause() {
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let answer = ask(&world, GUEST, PATH);
    assert_eq!(answer.status, "500 Internal Server Error");
    assert_eq!(answer.body, CDH_FAILED.as_bytes());
    assert!(!answer.headers.contains_key("content-type"));
}

fn answers_follow_the_script_and_the_last_one_stays() {
    let world = World::new().unwrap().guest(GuestApi::healthy().fails_then(2, "a/b/c", "yes"));
    let statuses: Vec<_> = (0..4).map(|_| ask(&world, GUEST, PATH).status).collect();
    assert_eq!(statuses, ["500 Internal Server Error", "500 Internal Server Error", "200 OK", "200 OK"]);
    assert_eq!(world.guest_api().count_of(PATH), 4);
}

fn one_connection_serves_many_requests() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("a/b/c", "x"));
    let mut stream = world.connect(GUEST).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..3 {
        write!(stream, "GET {PATH} HTTP/1.1\r\nhost: guest\r\n\r\n").unwrap();
        let mut bytes = vec![0; 1000];
        let length = stream.read(&mut bytes).unwrap();
        assert_eq!(parse(&bytes[..length]).body, b"x");
    }
    assert_eq!((world.guest_api().count(), world.guest_api().connections()), (3, 1));
}

fn requests_are_recorded_with_their_headers() {
    let world = World::new().unwrap().guest(GuestApi::healthy());
    ask(&world, GUEST, "/cdh/resource/a/b/c?q=1");
    let seen = world.guest_api().requests();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", "/cdh/resource/a/b/c?q=1"));
    assert_eq!(seen[0].headers["host"], "testbed");
}

fn concurrent_requests_are_counted() {
    let late = Answer::Late(Duration::from_millis(200), Box::new(Answer::Bytes(b"x".to_vec())));
    let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", late));
    let streams: Vec<_> = (0..4).map(|_| world.connect(GUEST).unwrap()).collect();
    let threads: Vec<_> =
        streams.into_iter().map(|stream| thread::spawn(move || exchange(stream, request(PATH).as_bytes()))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(world.guest_api().peak(), 4);
}

fn each_broken_answer_is_broken_as_its_name_says() {
    let body = || b"canary".to_vec();
    let raw = |answer: Answer| {
        let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", answer));
        exchange_until_error(world.connect(GUEST).unwrap())
    };
    let (bytes, end) = raw(Answer::Truncated(body()));
    assert!(bytes.contains("content-length: 106") && bytes.ends_with("canary") && end.is_none(), "{bytes}");
    let (bytes, end) = raw(Answer::ResetMidBody(body()));
    assert!(bytes.ends_with("canary") && end == Some(ErrorKind::ConnectionReset), "{bytes} {end:?}");
    let (bytes, end) = raw(Answer::Reset);
    assert!(bytes.is_empty() && end == Some(ErrorKind::ConnectionReset), "{bytes} {end:?}");
    let (bytes, end) = raw(Answer::Closed);
    assert!(bytes.is_empty() && end.is_none());
    let (bytes, _) = raw(Answer::LengthTooSmall(body()));
    assert!(bytes.contains("content-length: 5\r\n") && bytes.ends_with("canary"));
    let (bytes, _) = raw(Answer::TwoLengths(body()));
    assert_eq!(bytes.matches("content-length").count(), 2);
    let (bytes, _) = raw(Answer::TwoAnswers(body(), b"other".to_vec()));
    assert_eq!(bytes.matches("HTTP/1.1 200 OK").count(), 2);
    let (bytes, _) = raw(Answer::Garbage);
    assert!(!bytes.contains("HTTP/1.1"));
    let (bytes, _) = raw(Answer::Empty);
    assert!(bytes.contains("content-length: 0\r\n"));
    let (bytes, _) = raw(Answer::Redirect("http://127.0.0.1:9/x".to_owned()));
    assert!(bytes.starts_with("HTTP/1.1 302 Found") && bytes.contains("location: http://127.0.0.1:9/x\r\n"));
    for (answer, status) in [(Answer::LoginPage200, "200 OK"), (Answer::LoginPage403, "403 Forbidden")] {
        let (bytes, _) = raw(answer);
        assert!(bytes.starts_with(&format!("HTTP/1.1 {status}")) && bytes.ends_with(LOGIN_PAGE));
    }
    for (answer, text) in [
        (Answer::FeatureOff, "Resource Feature Not Enabled"),
        (Answer::NotFound, "URL NOT FOUND"),
        (Answer::Forbidden, "Forbidden"),
    ] {
        assert!(raw(answer).0.ends_with(text));
    }
}

fn endless_answers_do_not_end() {
    for answer in [Answer::EndlessBody, Answer::EndlessChunks, Answer::EndlessHeaders, Answer::Huge(1 << 40)] {
        let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", answer));
        let mut stream = world.connect(GUEST).unwrap();
        stream.write_all(request(PATH).as_bytes()).unwrap();
        let mut much = vec![0; 4 * 1024 * 1024];
        stream.read_exact(&mut much).unwrap();
    }
}

fn a_silent_guest_says_nothing_until_it_stops() {
    let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", Answer::Silent));
    let mut stream = world.connect(GUEST).unwrap();
    stream.write_all(request(PATH).as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let begun = Instant::now();
    drop(world);
    assert!(begun.elapsed() < Duration::from_secs(5), "stopping waits for the client");
}

fn a_slow_guest_sends_one_byte_at_a_time() {
    let slow = Answer::Slow(b"x".to_vec(), Duration::from_millis(1));
    let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", slow));
    let begun = Instant::now();
    let answer = ask(&world, GUEST, PATH);
    assert_eq!(answer.body, b"x");
    assert!(begun.elapsed() > Duration::from_millis(100), "a head of more than 100 bytes");
}

fn kbs_serves_tls_that_only_its_own_ca_vouches_for() {
    let (ca, other) = (Ca::new("kbs ca"), Ca::new("another ca"));
    let world = World::private().unwrap();
    let kbs = world.kbs(KBS, Kbs::healthy().tls(ca.leaf(&["kbs.example.test", "127.0.0.1"])));
    assert_eq!(kbs.url(), "https://127.0.0.1:8080");
    let body = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
    let request = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nhost: k\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = tls(&world, ca.pem(), "kbs.example.test", &request).expect("our CA");
    assert!(answer.contains("\"nonce\":\""), "{answer}");
    tls(&world, other.pem(), "kbs.example.test", &request).expect_err("another CA");
    tls(&world, ca.pem(), "other.example.test", &request).expect_err("another name");
    assert_eq!(kbs.count(), 1);
}

fn each_wrong_certificate_is_wrong() {
    let ca = Ca::new("kbs ca");
    let name = "kbs.example.test";
    let own = Identity::self_signed_ca(&[name]);
    let own_leaf = Identity::self_signed_leaf(&[name]);
    let own_pem = own.pem().to_owned();
    for (identity, root, expected) in [
        (ca.expired_leaf(&[name]), ca.pem(), "certificate expired"),
        (ca.client_leaf(&[name]), ca.pem(), "extended key usage"),
        (own_leaf, ca.pem(), "UnknownIssuer"),
        // Even where the same file is given as the CA: webpki takes no CA for a server.
        (own, own_pem.as_str(), "CaUsedAsEndEntity"),
    ] {
        let world = World::private().unwrap();
        let _kbs = world.kbs(KBS, Kbs::healthy().tls(identity));
        let error = tls(&world, root, name, &request("/healthz")).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

fn kbs_modes_are_told_apart() {
    for (kbs, expected) in [
        (Kbs::version("0.2.0"), "expect =0.2.0 while the request is 0.4.0"),
        (Kbs::gateway_page(), "Sign in"),
        (Kbs::another_service(), "404 Not Found"),
    ] {
        let world = World::private().unwrap();
        let _kbs = world.kbs(KBS, kbs);
        let body = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
        let head = format!("POST /kbs/v0/auth HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = exchange(world.connect(KBS).unwrap(), (head + body).as_bytes());
        assert!(String::from_utf8_lossy(&answer).contains(expected), "{expected}");
    }
    let world = World::private().unwrap();
    let _kbs = world.kbs(KBS, Kbs::resets());
    assert_eq!(exchange_until_error(world.connect(KBS).unwrap()).1, Some(ErrorKind::ConnectionReset));
}

#[derive(Clone, Debug, PartialEq)]
struct Parsed {
    status: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Parsed {
    /// With token and key replaced by what they look like.
    fn mask_token(&mut self) {
        self.headers.remove("content-length");
        let mut json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let lines: Vec<String> = json["tee_keypair"].as_str().unwrap().lines().map(str::to_owned).collect();
        json["tee_keypair"] = format!("{} {}", lines[0], lines[lines.len() - 1]).into();
        json["token"] = json["token"].as_str().unwrap().matches('.').count().into();
        self.body = json.to_string().into_bytes();
    }

    /// With what differs from call to call (nonce, session) replaced.
    fn masked(mut self) -> Self {
        if let Some(cookie) = self.headers.get_mut("set-cookie") {
            assert!(cookie.starts_with("kbs-session-id=") && cookie.contains("; Expires=") && cookie.ends_with(" GMT"));
            *cookie = format!("of {} bytes", cookie.len());
        }
        if let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&self.body)
            && let Some(nonce) = json.get_mut("nonce")
        {
            *nonce = format!("of {} bytes", nonce.as_str().unwrap().len()).into();
            self.body = json.to_string().into_bytes();
        }
        self
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    // Recorded with plain newlines where somebody's editor was; heads only, bodies are untouched.
    let (head, body) = split_head(bytes);
    let mut lines = head.lines();
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap().to_owned();
    let mut headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    headers.remove("date").expect("both servers date their answers");
    // Theirs repeats the client's wish; ours keeps it without a word.
    headers.remove("connection");
    let length: usize = headers["content-length"].parse().unwrap();
    Parsed { status, headers, body: body[..length].to_vec() }
}

fn split_head(bytes: &[u8]) -> (String, &[u8]) {
    for gap in [&b"\r\n\r\n"[..], b"\n\n"] {
        if let Some(at) = bytes.windows(gap.len()).position(|window| window == gap) {
            return (String::from_utf8(bytes[..at].to_vec()).unwrap(), &bytes[at + gap.len()..]);
        }
    }
    panic!("no head in {} bytes", bytes.len());
}

/// Blocks of `## GET <path>` and the answer.
fn transcript(bytes: &[u8]) -> Vec<(String, Parsed)> {
    const MARK: &[u8] = b"## GET ";
    let starts: Vec<usize> =
        bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at).collect();
    starts
        .iter()
        .map(|start| {
            let block = &bytes[start + MARK.len()..];
            let end = block.iter().position(|byte| *byte == b'\n').unwrap();
            (String::from_utf8(block[..end].to_vec()).unwrap(), parse(&block[end + 1..]))
        })
        .collect()
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: testbed\r\nconnection: close\r\n\r\n")
}

fn ask(world: &World, address: &str, path: &str) -> Parsed {
    parse(&exchange(world.connect(address).unwrap(), request(path).as_bytes()))
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn exchange_until_error(mut stream: TcpStream) -> (String, Option<ErrorKind>) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request(PATH).as_bytes()).unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).err().map(|error| error.kind());
    (String::from_utf8_lossy(&answer).into_owned(), end)
}

fn tls(world: &World, root: &str, name: &str, request: &str) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, world.connect(KBS).unwrap());
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The double closes without close_notify, as servers do.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error.to_string()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

//! The client held to a recorded handshake with a real KBS: the same requests go out, and the same
//! answers are understood. Reads `../shared/vectors`; where that is absent each test names itself as
//! left out. Nothing of it is copied into the project.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::clock::Clock;
use countersign::config::KbsUrl;
use countersign::finding::Class;
use countersign::formats::kbs_uri::KbsUri;
use countersign::kbs::{Client, Error, Evidence, Names, Resolver, Session, TeeKey, Trust};
use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::vectors::{self, unhex};
use serde_json::{Value, json};
use tokio::time::Instant;

countersign_testbed::main! {
    the_recorded_handshake_is_repeated_and_its_resource_opened [Vectors],
    the_report_data_of_every_hash_is_the_recorded_one [Vectors],
    every_recorded_refusal_is_classed [Vectors],
    a_recorded_error_page_of_another_path_is_no_kbs [Vectors],
}

/// One request: its first line, its cookie, its body as JSON.
#[derive(Debug, PartialEq)]
struct Asked {
    line: String,
    cookie: Option<String>,
    body: Value,
}

fn parse(mut reader: impl std::io::BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let (mut cookie, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "cookie" => cookie = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Some(Asked { line: line.trim_end().to_owned(), cookie, body })
}

/// Gives these answers in order, each on a connection of its own, as recorded.
fn replay(answers: Vec<Vec<u8>>) -> (SocketAddr, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            asked.extend(parse(BufReader::new(&stream)));
            (&stream).write_all(&answer).unwrap();
        }
        asked
    });
    (at, thread)
}

fn client(at: SocketAddr) -> Client {
    let url = KbsUrl { tls: false, host: at.ip().to_string(), port: at.port(), prefix: String::new() };
    let clock = Clock::system();
    let trust = Trust { ca: None, system_roots: false, allow_http: false, clock: &clock };
    Client::new(&[url], &trust, Names::with(|| Resolver::with_servers(&[]))).unwrap()
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn recorded_key() -> Arc<TeeKey> {
    let vector = vectors::json("generated/jwe/jwe-P-256.json");
    let pem: String =
        vector["recipient_private_key_pem"].as_str().unwrap().lines().filter(|l| !l.starts_with('-')).collect();
    let key = TeeKey::from_pkcs8(&STANDARD.decode(pem).unwrap()).unwrap();
    assert_eq!(key.public_jwk(), vector["tee_pubkey_jwk"]);
    Arc::new(key)
}

/// A handshake as the recorded client did it, with sample evidence.
async fn handshake(client: &Client) -> Result<Session, Error> {
    let binding = client.challenge("sample", soon()).await?.bind(recorded_key(), String::new())?;
    let evidence = json!({"svn": "1", "report_data": STANDARD.encode(binding.report_data())});
    binding.attest(&Evidence::new(evidence.to_string()).unwrap(), None, soon()).await
}

fn wire(name: &str) -> Vec<u8> {
    vectors::read(&format!("generated/wire/{name}"))
}

const HANDSHAKE: [&str; 2] = ["16-ok-P-256-auth", "17-ok-P-256-attest"];

fn the_recorded_handshake_is_repeated_and_its_resource_opened() {
    let names = [HANDSHAKE[0], HANDSHAKE[1], "18-resource-P-256"];
    let (at, thread) = replay(names.map(|name| wire(&format!("{name}.response.http"))).into());
    let secret = wait(async {
        let session = handshake(&client(at)).await.unwrap();
        assert!(!session.is_expired(Instant::now() + Duration::from_secs(289)));
        assert!(session.is_expired(Instant::now() + Duration::from_secs(291)), "exp - iat is 300");
        session.resource(&KbsUri::parse("kbs:///default/test/key").unwrap(), 1024, soon()).await.unwrap()
    });
    assert_eq!(STANDARD.encode(secret.expose()), vectors::json("generated/jwe/jwe-P-256.json")["plaintext_base64"]);
    let asked = thread.join().unwrap();
    for (asked, name) in asked.iter().zip(names) {
        let recorded = parse(wire(&format!("{name}.request.http")).as_slice()).unwrap();
        assert_eq!(*asked, recorded, "{name}");
    }
    assert_eq!(asked.len(), 3);
}

fn the_report_data_of_every_hash_is_the_recorded_one() {
    let vector = vectors::json("generated/reportdata/p256.json");
    let nonce = vector["runtime_data"]["nonce"].as_str().unwrap();
    for (name, extra) in [
        ("sha384_hex", json!("")),
        ("sha384_hex", json!({"selected-hash-algorithm": "SHA384"})),
        ("sha256_hex", json!({"selected-hash-algorithm": "sha256"})),
        ("sha512_hex", json!({"selected-hash-algorithm": "sha512"})),
    ] {
        let body = json!({"nonce": nonce, "extra-params": extra}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nset-cookie: kbs-session-id=a\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let (at, _thread) = replay(vec![answer.into_bytes()]);
        let binding = wait(async {
            let challenge = client(at).challenge("sample", soon()).await.unwrap();
            challenge.bind(recorded_key(), vector["additional_evidence"].as_str().unwrap().to_owned()).unwrap()
        });
        assert_eq!(binding.report_data(), unhex(vector[name].as_str().unwrap()), "{extra}");
    }
}

/// How the client takes a recorded answer: given to /auth, to /attest or to the resource.
fn error_after(answers: &[&str]) -> Error {
    let (at, _thread) = replay(answers.iter().map(|name| wire(&format!("{name}.response.http"))).collect());
    wait(async {
        let session = match handshake(&client(at)).await {
            Ok(session) => session,
            Err(error) => return error,
        };
        let uri = KbsUri::parse("kbs:///default/test/key").unwrap();
        session.resource(&uri, 1024, soon()).await.err().expect("a refusal")
    })
}

fn every_recorded_refusal_is_classed() {
    let [auth, attest] = HANDSHAKE;
    for (answers, class) in [
        // The recorded client asked with 0.1.0, and the KBS wants what we speak: no version of theirs.
        (vec!["01-auth-bad-version"], Class::EvidenceRejected),
        (vec!["03-auth-unknown-tee"], Class::EvidenceRejected),
        (vec!["04-auth-missing-extra"], Class::EvidenceRejected),
        (vec!["05-auth-not-json"], Class::EvidenceRejected),
        (vec!["07-auth-get"], Class::Backend),
        (vec![auth, "08-attest-no-cookie"], Class::EvidenceRejected),
        (vec![auth, "44-neg-badnonce-attest"], Class::EvidenceRejected),
        (vec![auth, "46-neg-badreportdata-attest"], Class::EvidenceRejected),
        (vec![auth, "48-neg-badevidence-attest"], Class::EvidenceRejected),
        (vec![auth, "50-neg-nokey-attest"], Class::EvidenceRejected),
        (vec![auth, "58-neg-initbody-attest"], Class::EvidenceRejected),
        (vec![auth, attest, "09-resource-unauth"], Class::Backend),
        (vec![auth, attest, "11-resource-badtoken"], Class::Backend),
        (vec![auth, attest, "12-plugin-unknown"], Class::Backend),
        (vec![auth, attest, "policy-and-expiry/17-deny-resource"], Class::PolicyDenied),
        (vec![auth, attest, "policy-and-expiry/13-p384-resource"], Class::Backend),
        (vec![auth, attest, "policy-and-expiry/29-delete-again"], Class::Backend),
        (vec![auth, attest, "policy-and-expiry/30-expired-session"], Class::Backend),
        (vec![auth, "policy-and-expiry/31-expired-session-attest"], Class::EvidenceRejected),
        (vec![auth, attest, "policy-and-expiry/34-bearer-expired"], Class::Backend),
        // Recorded for another request; a body over the limit is answered so everywhere.
        (vec![auth, "policy-and-expiry/23-set-too-big"], Class::EvidenceRejected),
        (vec![auth, attest, "21-resource-badpath2"], Class::Backend),
        (vec![auth, attest, "26-resource-post-noadmin"], Class::Backend),
        // Encrypted to a key that is not ours.
        (vec![auth, attest, "39-resource-RSA-OAEP-256"], Class::Content),
        (vec![auth, attest, "36-resource-P-521"], Class::Content),
    ] {
        let finding = error_after(&answers).finding();
        assert_eq!(finding.class, class, "{answers:?}: {finding}");
        assert!(starts_with_a_verb(&finding.next), "{}", finding.next);
    }
}

fn a_recorded_error_page_of_another_path_is_no_kbs() {
    let finding = error_after(&["13-root"]).finding();
    assert_eq!(finding.class, Class::Unreachable, "{finding}");
    assert!(finding.next.contains("[kbs].url"), "{}", finding.next);
}

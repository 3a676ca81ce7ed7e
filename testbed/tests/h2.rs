//! The KBS double over HTTP/2: the same answers, many at once on one connection.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_testbed::World;
use countersign_testbed::kbs::{Fault, Kbs, Rule, RunningKbs, Step};
use countersign_testbed::pki::Ca;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

countersign_testbed::main! {
    requests_share_one_connection [Namespaces],
    client_without_alpn_gets_the_older_protocol [Namespaces],
    server_without_the_switch_offers_none [Namespaces],
    faults_end_the_stream_and_not_the_connection [Namespaces],
}

const KBS: &str = "127.0.0.1:8443";
const NAME: &str = "kbs.example.test";
const HELLO: &str = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;

struct Place {
    world: World,
    kbs: RunningKbs,
    ca: Ca,
}

fn place(change: impl FnOnce(Kbs) -> Kbs) -> Place {
    let ca = Ca::new("kbs ca");
    let world = World::private().unwrap();
    let kbs = world.kbs(KBS, change(Kbs::healthy().tls(ca.leaf(&[NAME]))));
    Place { world, kbs, ca }
}

fn requests_share_one_connection() {
    let delay = Duration::from_secs(1);
    let place = place(|kbs| kbs.h2().round_trip(delay));
    run(async {
        let client = connect(&place).await;
        let begun = Instant::now();
        let asked: Vec<_> = (0..20).map(|_| tokio::spawn(ask(client.clone(), "POST", "/kbs/v0/auth", HELLO))).collect();
        for one in asked {
            let (status, headers, body) = one.await.unwrap().unwrap();
            assert_eq!((status, headers.contains("kbs-session-id=")), (StatusCode::OK, true));
            assert_eq!(body["nonce"].as_str().unwrap().len(), 44);
        }
        assert!(begun.elapsed() < delay * 15, "they wait together: {:?}", begun.elapsed());
    });
    assert_eq!((place.kbs.count(), place.kbs.connections()), (20, 1));
    assert!(place.kbs.requests().iter().all(|seen| seen.http2) && place.kbs.peak() > 10);
}

fn client_without_alpn_gets_the_older_protocol() {
    let place = place(Kbs::h2);
    let stream = place.world.connect(KBS).unwrap();
    let connection = ClientConnection::new(config(&place, &[]), ServerName::try_from(NAME).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    assert!(text.starts_with(b"HTTP/1.1 200 OK"));
    assert!(!place.kbs.requests()[0].http2);
}

fn server_without_the_switch_offers_none() {
    let place = place(|kbs| kbs);
    run(async {
        let stream = tls(&place).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    });
}

fn faults_end_the_stream_and_not_the_connection() {
    let place = place(Kbs::h2);
    run(async {
        let client = connect(&place).await;
        for fault in [Fault::Reset, Fault::ResetMidBody, Fault::CloseMidBody] {
            place.kbs.set_rule(Rule::on(Step::Auth, fault.clone()));
            assert!(ask(client.clone(), "POST", "/kbs/v0/auth", HELLO).await.is_none(), "{fault:?}");
        }
        place.kbs.set_rule(Rule::on(Step::Auth, Fault::TruncatedJson));
        assert_eq!(ask(client.clone(), "POST", "/kbs/v0/auth", HELLO).await.unwrap().2, Value::Null);
        place.kbs.heal();
        let (status, _, body) = ask(client, "GET", "/kbs/v0/resource/a/b/c", "").await.unwrap();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(body["detail"], "Attestation Token not found");
    });
    assert_eq!(place.kbs.connections(), 1);
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time") });
}

fn config(place: &Place, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(place.ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

async fn tls(place: &Place) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let stream = place.world.connect(KBS).unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config(place, &[b"h2", b"http/1.1"]));
    connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap()
}

async fn connect(place: &Place) -> SendRequest<Full<Bytes>> {
    let stream = tls(place).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Status, set-cookie and JSON; none where the stream broke.
async fn ask(
    mut client: SendRequest<Full<Bytes>>,
    method: &'static str,
    path: &'static str,
    body: &'static str,
) -> Option<(StatusCode, String, Value)> {
    let request = Request::builder().method(method).uri(format!("https://{NAME}{path}"));
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    let (head, body) = client.send_request(request).await.ok()?.into_parts();
    let cookie = head.headers.get("set-cookie").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let body = body.collect().await.ok()?.to_bytes();
    Some((head.status, cookie, serde_json::from_slice(&body).unwrap_or_default()))
}

//! A KBS for tests of this crate: honest unless its script says otherwise, HTTP/1.1 by hand so that
//! every fault can be sent, HTTP/2 where TLS offers it. Not compiled into anything else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest;
use aws_lc_rs::key_wrap::{AES_256, KeyEncryptionKey, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::{Client, DnsProblem, Names, Resolver, TeeKey, Trust};
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::formats::jwk::EcPublicJwk;

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// How many requests for the same path came before.
    pub(crate) before: usize,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// As a KBS does.
    Honest,
    /// This status line and body, without a content type, as Trustee's errors are.
    Status(&'static str, String),
    /// These bytes, then a reset of the connection.
    Cut(String),
    /// These bytes, then an orderly end.
    Raw(String),
    /// Nothing, with the connection open.
    Silence,
    /// As a KBS does, but late.
    Slow(Duration),
}

pub(crate) type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A running server. Ends with its runtime.
#[derive(Clone)]
pub(crate) struct TestKbs {
    pub(crate) at: SocketAddr,
    tls: bool,
    world: Arc<World>,
}

struct World {
    script: Script,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    sessions: Mutex<BTreeMap<String, Option<Value>>>,
}

/// What every honest resource holds.
pub(crate) const VALUE: &str = "hello, sealed world";

/// Trustee's error body.
pub(crate) fn refusal(variant: &str, detail: &str) -> String {
    json!({"type": format!("https://github.com/confidential-containers/kbs/errors/{variant}"), "detail": detail})
        .to_string()
}

impl TestKbs {
    pub(crate) async fn honest() -> Self {
        Self::start(None, |_| Reply::Honest).await
    }

    pub(crate) async fn scripted(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, script).await
    }

    pub(crate) async fn start(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let world = Arc::new(World {
            script: Arc::new(script),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            sessions: Mutex::default(),
        });
        let kbs = Self { at, tls: tls.is_some(), world: Arc::clone(&world) };
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (world, tls) = (Arc::clone(&world), tls.clone());
                world.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    match tls {
                        None => world.http1(tcp, |tcp| drop(tcp.set_zero_linger())).await,
                        Some(config) => {
                            let Ok(stream) = TlsAcceptor::from(config).accept(tcp).await else { return };
                            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                                world.http2(stream).await;
                            } else {
                                world.http1(stream, |_| {}).await;
                            }
                        }
                    }
                });
            }
        });
        kbs
    }

    pub(crate) fn url(&self) -> KbsUrl {
        KbsUrl { tls: self.tls, host: "127.0.0.1".to_owned(), port: self.at.port(), prefix: String::new() }
    }

    /// A client that trusts `ca`.
    pub(crate) fn client(&self, ca: Option<&str>) -> Client {
        client(&[self.url()], ca)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.world.seen.lock().unwrap().clone()
    }

    /// How many requests went to a path that ends so.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.ends_with(path)).count()
    }

    pub(crate) fn connections(&self) -> usize {
        self.world.connections.load(Ordering::SeqCst)
    }

    /// As after a restart without a store.
    pub(crate) fn forget_sessions(&self) {
        self.world.sessions.lock().unwrap().clear();
    }
}

pub(crate) fn client(urls: &[KbsUrl], ca: Option<&str>) -> Client {
    let trust = Trust { ca, system_roots: false, allow_http: false, clock: &Clock::system() };
    Client::new(urls, &trust, Names::with(no_names)).unwrap()
}

pub(crate) fn no_names() -> Result<Resolver, DnsProblem> {
    Resolver::with_servers(&[])
}

impl World {
    fn note(&self, mut seen: Seen) -> (Seen, Reply) {
        let mut all = self.seen.lock().unwrap();
        seen.before = all.iter().filter(|other| other.path == seen.path).count();
        all.push(seen.clone());
        drop(all);
        let reply = (self.script)(&seen);
        (seen, reply)
    }

    async fn http1<T: AsyncRead + AsyncWrite + Unpin>(&self, io: T, reset: impl Fn(&T)) {
        let mut io = BufReader::new(io);
        while let Some(seen) = read_request(&mut io).await {
            let (seen, reply) = self.note(seen);
            let raw = |status: &str, headers: &str, body: &str| {
                format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
            };
            let text = match reply {
                Reply::Honest => {
                    let (status, headers, body) = self.honest(&seen);
                    raw(status, &headers, &body)
                }
                Reply::Slow(wait) => {
                    tokio::time::sleep(wait).await;
                    let (status, headers, body) = self.honest(&seen);
                    raw(status, &headers, &body)
                }
                Reply::Status(status, body) => raw(status, "", &body),
                Reply::Cut(text) => {
                    let _ = io.get_mut().write_all(text.as_bytes()).await;
                    let _ = io.get_mut().flush().await;
                    // What is sent before a reset may be dropped by the receiver's kernel.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    reset(io.get_ref());
                    return;
                }
                Reply::Raw(text) => {
                    let _ = io.get_mut().write_all(text.as_bytes()).await;
                    let _ = io.get_mut().shutdown().await;
                    return;
                }
                Reply::Silence => {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    return;
                }
            };
            if io.get_mut().write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn http2(self: Arc<Self>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let world = Arc::clone(&self);
            async move {
                let (head, body) = request.into_parts();
                let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
                    (name.to_string(), value.to_str().unwrap().to_owned())
                };
                let seen = Seen {
                    method: head.method.to_string(),
                    path: head.uri.path().to_owned(),
                    headers: head.headers.iter().map(header).collect(),
                    body: String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
                    before: 0,
                };
                let (seen, _) = world.note(seen);
                let (status, headers, body) = world.honest(&seen);
                let mut answer = hyper::Response::builder().status(status.split(' ').next().unwrap());
                for line in headers.lines() {
                    let (name, value) = line.split_once(": ").unwrap();
                    answer = answer.header(name, value);
                }
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(body))).unwrap())
            }
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    fn honest(&self, seen: &Seen) -> (&'static str, String, String) {
        let mut sessions = self.sessions.lock().unwrap();
        let cookie = seen.headers.get("cookie").cloned().unwrap_or_default();
        let json = "content-type: application/json\r\n";
        match seen.path.strip_prefix("/kbs/v0/").unwrap_or_default() {
            "auth" => {
                let id = format!("{:032x}", seen.before);
                sessions.insert(format!("kbs-session-id={id}"), None);
                let headers =
                    format!("{json}set-cookie: other=1\r\nset-cookie: kbs-session-id={id}; Expires=never\r\n");
                ("200 OK", headers, r#"{"nonce":"gon+/=","extra-params":""}"#.to_owned())
            }
            "attest" => match sessions.get_mut(&cookie) {
                Some(session) => {
                    let body: Value = serde_json::from_str(&seen.body).unwrap();
                    *session = Some(body["runtime-data"]["tee-pubkey"].clone());
                    let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":1300}"#);
                    ("200 OK", json.to_owned(), json!({"token": format!("e30.{claims}.c2ln")}).to_string())
                }
                None => ("401 Unauthorized", String::new(), refusal("AttestationError", "x")),
            },
            _ => match sessions.get(&cookie) {
                Some(Some(jwk)) => ("200 OK", json.to_owned(), encrypt(jwk, VALUE.as_bytes()).to_string()),
                _ => ("401 Unauthorized", String::new(), refusal("TokenNotFound", "Attestation Token not found")),
            },
        }
    }
}

async fn read_request(io: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Seen> {
    let mut line = String::new();
    if io.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        io.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    io.read_exact(&mut body).await.ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8(body).unwrap(), before: 0 })
}

/// The other half of `formats::jwe`, for tests: encrypts to a public key as Trustee does.
pub(crate) fn encrypt(jwk: &Value, plain: &[u8]) -> Value {
    let to = EcPublicJwk::parse(jwk.to_string().as_bytes()).unwrap();
    let epk = TeeKey::generate().unwrap();
    // `agree` wants the private half; the export is the only way to it from here.
    let private = PrivateKey::from_private_key_der(&ECDH_P256, epk.to_pkcs8().unwrap().expose()).unwrap();
    let kek = agree(&private, UnparsedPublicKey::new(&ECDH_P256, to.point()), (), |shared| {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&[0, 0, 0, 1][..], shared, &[0, 0, 0, 14], b"ECDH-ES+A256KW", &[0; 8], &[0, 0, 1, 0]] {
            context.update(part);
        }
        Ok(context.finish().as_ref().to_vec())
    })
    .unwrap();
    let cek = [7_u8; 32];
    let mut wrapped = [0_u8; 40];
    KeyEncryptionKey::new(&AES_256, &kek).unwrap().wrap(&cek, &mut wrapped).unwrap();
    let header = json!({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": public(&epk)});
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let mut buffer = plain.to_vec();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &cek).unwrap());
    let nonce = Nonce::assume_unique_for_key([9; 12]);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(protected.as_bytes()), &mut buffer).unwrap();
    json!({
        "protected": protected,
        "encrypted_key": URL_SAFE_NO_PAD.encode(wrapped),
        "iv": URL_SAFE_NO_PAD.encode([9; 12]),
        "ciphertext": URL_SAFE_NO_PAD.encode(&buffer),
        "tag": URL_SAFE_NO_PAD.encode(tag.as_ref()),
    })
}

fn public(key: &TeeKey) -> Value {
    let mut jwk = key.public_jwk();
    jwk.as_object_mut().unwrap().remove("alg");
    jwk
}

/// What the in-test name server knows.
#[derive(Clone, Copy)]
pub(crate) enum Zone {
    Address,
    NoAddress,
    Nothing,
    Failing,
    Silent,
}

/// A name server that answers every question in the same way (RFC 1035 §4.1).
pub(crate) async fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = dns_answer(&buffer[..length], zone) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    at
}

fn dns_answer(query: &[u8], zone: Zone) -> Option<Vec<u8>> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0)? + 1;
    let question = &query[12..name_end + 4];
    let wants_ipv4 = query[name_end..name_end + 2] == [0, 1];
    let code: u8 = match zone {
        Zone::Address | Zone::NoAddress => 0,
        Zone::Nothing => 3,
        Zone::Failing => 2,
        Zone::Silent => return None,
    };
    let with_address = matches!(zone, Zone::Address) && wants_ipv4;
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(with_address), 0, 0, 0, 0];
    answer.extend(question);
    if with_address {
        // A pointer to the name, A, IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

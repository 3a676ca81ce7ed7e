//! HTTP as the tests of the doubles read and write it, and a client of the KBS that trusts nobody
//! else's code: it hashes, proves and opens JWEs by itself.

#![allow(dead_code)] // Each test file uses its part.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_testbed::World;
use countersign_testbed::tee::Guest;
use serde_json::{Value, json};

/// Where the tests' KBS listens.
pub(crate) const KBS: &str = "127.0.0.1:8080";

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads an answer; its body is what came, whatever the length says.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..at].to_vec()).ok()?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Some(Self { status, headers, body: bytes[at + 4..].to_vec() })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The last word of the problem's `type`.
    pub(crate) fn problem(&self) -> String {
        let json = self.json();
        json["type"].as_str().and_then(|kind| kind.rsplit('/').next()).unwrap_or_default().to_owned()
    }

    pub(crate) fn is_problem(&self, kind: &str) -> bool {
        self.status == 401 && self.problem() == kind && self.header("content-type").is_none()
    }
}

/// Sends bytes, and reads until the other side closes or fails.
pub(crate) fn exchange(mut stream: TcpStream, request: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..length]);
    }
    bytes
}

/// Asks the guest's service for a path.
pub(crate) fn ask_guest(world: &World, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n");
    Answer::parse(&exchange(world.connect("127.0.0.1:8006").unwrap(), request.as_bytes())).expect("an answer")
}

/// A client with a key and perhaps a session.
pub(crate) struct Client<'a> {
    world: &'a World,
    key: PrivateKey,
    pub(crate) cookie: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) hash: String,
}

impl<'a> Client<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let key = PrivateKey::generate(&ECDH_P256).unwrap();
        Self { world, key, cookie: None, token: None, hash: "sha384".to_owned() }
    }

    /// With the key and token of `/aa/token`.
    pub(crate) fn from_agent(world: &'a World, answer: &Value) -> Self {
        let pem = answer["tee_keypair"].as_str().unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
        let key = PrivateKey::from_private_key_der(&ECDH_P256, &der).unwrap();
        Self { key, token: answer["token"].as_str().map(str::to_owned), ..Self::new(world) }
    }

    /// Sends to the KBS; see [`Client::ask`].
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let more: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (more, length) = (more.concat(), body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: k\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n"
        );
        exchange(self.world.connect(KBS).unwrap(), &[request.as_bytes(), body].concat())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let cookie = self.cookie.as_deref().map(|cookie| ("cookie", cookie));
        let bytes = self.send(method, path, cookie.as_slice(), body.to_string().as_bytes());
        Answer::parse(&bytes).unwrap_or_else(|| panic!("no HTTP in {} bytes", bytes.len()))
    }

    pub(crate) fn auth(&mut self, tee: &str) -> Answer {
        let answer = self.ask("POST", "/kbs/v0/auth", &json!({"version": "0.4.0", "tee": tee, "extra-params": {}}));
        self.cookie = answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        answer
    }

    pub(crate) fn public(&self) -> Value {
        let point = self.key.compute_public_key().unwrap();
        let (x, y) = point.as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
               "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    /// The digest that evidence has to carry. Written out by hand, as the fact sheet has it.
    pub(crate) fn digest(&self, nonce: &str) -> Vec<u8> {
        let key = self.public();
        let text = format!(
            r#"{{"additional-evidence":"","nonce":"{nonce}","tee-pubkey":{{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":{},"y":{}}}}}"#,
            key["x"], key["y"]
        );
        let hash = match self.hash.as_str() {
            "sha256" => &SHA256,
            "sha512" => &SHA512,
            _ => &SHA384,
        };
        digest(hash, text.as_bytes()).as_ref().to_vec()
    }

    pub(crate) fn body(&self, nonce: &str, evidence: &Value, initdata: Option<&str>) -> Value {
        json!({
            "init-data": initdata.map(|body| json!({"format": "toml", "body": body})),
            "runtime-data": {"nonce": nonce, "tee-pubkey": self.public()},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        })
    }

    /// Both requests; the second answer.
    pub(crate) fn attest(&mut self, guest: &Guest, initdata: Option<&str>) -> Answer {
        let challenge = self.auth(guest.tee()).json();
        let nonce = challenge["nonce"].as_str().expect("a challenge").to_owned();
        if let Some(hash) = challenge["extra-params"]["selected-hash-algorithm"].as_str() {
            hash.clone_into(&mut self.hash);
        }
        let evidence = guest.evidence(&self.digest(&nonce));
        let answer = self.ask("POST", "/kbs/v0/attest", &self.body(&nonce, &evidence, initdata));
        self.token = answer.json()["token"].as_str().map(str::to_owned);
        answer
    }

    pub(crate) fn get(&self, resource: &str) -> Answer {
        self.ask("GET", &format!("/kbs/v0/resource/{resource}"), &Value::Null)
    }

    pub(crate) fn get_by_bearer(&self, scheme: &str, resource: &str) -> Answer {
        let value = format!("{scheme} {}", self.token.as_deref().unwrap());
        let path = format!("/kbs/v0/resource/{resource}");
        Answer::parse(&self.send("GET", &path, &[("authorization", &value)], b"")).unwrap()
    }

    /// Opens a JWE to our key; none when it cannot be opened.
    pub(crate) fn open(&self, jwe: &Value) -> Option<Vec<u8>> {
        let text = |name: &str| jwe[name].as_str();
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwe[name].as_str()?).ok();
        let header: Value = serde_json::from_slice(&bytes("protected")?).ok()?;
        (header["alg"] == "ECDH-ES+A256KW" && header["enc"] == "A256GCM").then_some(())?;
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(header["epk"][name].as_str()?).ok();
        let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
        let theirs = UnparsedPublicKey::new(&ECDH_P256, point);
        let kek = agreement::agree(&self.key, theirs, (), |z| {
            let mut input = vec![0, 0, 0, 1];
            input.extend(z);
            input.extend(b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0");
            Ok(digest(&SHA256, &input))
        })
        .ok()?;
        let mut key = [0; 32];
        AesKek::new(&AES_256, kek.as_ref()).ok()?.unwrap(&bytes("encrypted_key")?, &mut key).ok()?;
        let mut sealed = [bytes("ciphertext")?, bytes("tag")?].concat();
        let nonce = Nonce::try_assume_unique_for_key(&bytes("iv")?).ok()?;
        let opening = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?);
        let plain = opening.open_in_place(nonce, Aad::from(text("protected")?), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

/// The claims of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

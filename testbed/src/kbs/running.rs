//! A KBS that runs: what a test asks it, and changes while it does.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA384, digest};
use serde_json::{Value, json};

use super::core::Core;
use super::{Policy, Rule, attest, jwe};
use crate::encode::pem_of;
use crate::http::{Record, Seen, Server, lock};
use crate::tee::{Guest, Refusal};

/// One that runs. Derefs to the [`Record`] of what it was asked. Stops with its world.
#[derive(Clone)]
pub struct RunningKbs {
    pub(super) server: Arc<Server>,
    pub(super) core: Arc<Core>,
    pub(super) down_until: Arc<Mutex<Option<Instant>>>,
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
}

impl std::fmt::Debug for RunningKbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningKbs({})", self.address)
    }
}

impl RunningKbs {
    /// `http(s)://address`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// How often evidence was believed. A session that is attested already does not count.
    pub fn attestations(&self) -> usize {
        self.core.attestations()
    }

    /// `x` of each key that was attested, in order, as in its JWK (base64url).
    pub fn attested_keys(&self) -> Vec<String> {
        self.core.attested()
    }

    /// Why evidence was not believed, in order.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.core.refusals()
    }

    /// The root that vouches for its tokens, PEM.
    pub fn token_root(&self) -> String {
        self.core.token_root().to_owned()
    }

    /// Holds this resource from now on.
    pub fn set_resource(&self, path: &str, bytes: impl AsRef<[u8]>) {
        lock(&self.core.resources).insert(path.to_owned(), bytes.as_ref().to_vec());
    }

    /// Releases resources by this policy from now on.
    pub fn set_policy(&self, policy: Policy) {
        *lock(&self.core.policy) = policy;
    }

    /// Goes wrong by this rule from now on, and by no earlier one.
    pub fn set_rule(&self, rule: Rule) {
        *lock(&self.core.rules) = vec![rule];
    }

    /// Goes right from now on.
    pub fn heal(&self) {
        lock(&self.core.rules).clear();
    }

    /// Ends every session, as their time does.
    pub fn expire_sessions(&self) {
        self.core.forget_sessions();
    }

    /// Restarts with its sessions in memory, as Trustee does without a storage backend: open
    /// connections end, sessions are lost, and for this long new connections are closed at once.
    pub fn restart(&self, down: Duration) {
        *lock(&self.down_until) = Some(Instant::now() + down);
        self.server.cut();
        self.core.forget_sessions();
    }

    /// A handshake of the guest's attestation agent, past the network: `{"token","tee_keypair"}`
    /// with a new key of P-256, as `/aa/token?token_type=kbs` answers. None when refused.
    pub fn handshake(&self, guest: &Guest, initdata: Option<&str>) -> Option<Value> {
        let post = |path: &str, cookie: Option<&str>, body: &Value| Seen {
            method: "POST".to_owned(),
            path: path.to_owned(),
            headers: cookie.map(|cookie| ("cookie".to_owned(), cookie.to_owned())).into_iter().collect(),
            body: body.to_string().into_bytes(),
            at: Instant::now(),
            http2: false,
        };
        let hello = json!({"version": "0.4.0", "tee": guest.tee(), "extra-params": ""});
        let challenge = self.core.reply(&post("/kbs/v0/auth", None, &hello), None);
        let cookie = challenge.header("set-cookie")?.split(';').next()?.to_owned();
        let nonce = challenge.success()?.get("nonce")?.clone();
        let key = rcgen::KeyPair::generate().expect("aws-lc-rs makes P-256 keys");
        let runtime = json!({"nonce": nonce, "tee-pubkey": jwe::jwk(key.public_key_raw())});
        let mut over = runtime.clone();
        over.as_object_mut()?.insert("additional-evidence".to_owned(), json!(""));
        let over = digest(&SHA384, attest::canonical(&over).as_bytes());
        let body = json!({
            "init-data": initdata.map(|text| json!({"format": "toml", "body": text})),
            "runtime-data": runtime,
            "tee-evidence": {"primary_evidence": guest.evidence(over.as_ref()), "additional_evidence": ""},
        });
        let reply = self.core.reply(&post("/kbs/v0/attest", Some(&cookie), &body), None);
        let pem = pem_of("PRIVATE KEY", key.serialized_der());
        Some(json!({"token": reply.success()?.get("token")?, "tee_keypair": pem}))
    }

    /// A resource as the guest's CDH fetches it, past the network: none for whatever reason.
    pub fn fetch(&self, guest: &Guest, initdata: Option<&str>, resource: &str) -> Option<Vec<u8>> {
        let answer = self.handshake(guest, initdata)?;
        let token = answer.get("token")?.as_str()?;
        self.core.released("GET", resource, token).ok().map(|(plain, _)| plain)
    }
}

impl Deref for RunningKbs {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.server.record()
    }
}

//! Trustee v0.21.0 behind its port: sessions, attestation, resources, errors. What it answers is
//! held to recorded traffic by `testbed/tests/rcar.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::attest::{Body, Session, body, ear};
use super::fault::{Fault, Rule};
use super::jwe::{self, Flaw, random};
use super::reply::{Reply, problem, too_large};
use super::token::Signer;
use super::{Policy, Setup};
use crate::encode::http_date;
use crate::guest::LOGIN_PAGE;
use crate::http::{Act, Seen, lock, response};
use crate::tee::Refusal;

/// Longest body that Trustee takes by default, bytes (`payload_request_size`, 2 MB).
const MAX_BODY: usize = 2 * 1024 * 1024;

/// Names that kbs-types 0.18 has for TEEs.
const TEES: [&str; 14] = [
    "az-snp-vtpm",
    "az-tdx-vtpm",
    "nvidia",
    "sgx",
    "snp",
    "tdx",
    "cca",
    "csv",
    "se",
    "hygondcu",
    "nvidia-dpu",
    "tpm",
    "sample",
    "sampledevice",
];

/// Where the key that a token speaks of stands in it.
const KEY: &str = "/submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey";

/// A KBS's state.
pub(super) struct Core {
    setup: Setup,
    signer: Signer,
    stranger: Signer,
    pub(super) policy: Mutex<Policy>,
    pub(super) resources: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(super) rules: Mutex<Vec<Rule>>,
    sessions: Mutex<BTreeMap<String, Session>>,
    scripted: Mutex<VecDeque<(String, String)>>,
    refusals: Mutex<Vec<Refusal>>,
    attestations: AtomicUsize,
    attested: Mutex<Vec<String>>,
}

impl Core {
    pub(super) fn new(mut setup: Setup) -> Self {
        Self {
            signer: Signer::new(),
            stranger: Signer::new(),
            policy: Mutex::new(setup.policy.clone()),
            resources: Mutex::new(std::mem::take(&mut setup.resources)),
            rules: Mutex::new(std::mem::take(&mut setup.rules)),
            sessions: Mutex::default(),
            scripted: Mutex::new(std::mem::take(&mut setup.scripted).into()),
            refusals: Mutex::default(),
            attestations: AtomicUsize::new(0),
            attested: Mutex::default(),
            setup,
        }
    }

    pub(super) fn token_root(&self) -> &str {
        self.signer.root()
    }

    pub(super) fn attestations(&self) -> usize {
        self.attestations.load(Ordering::SeqCst)
    }

    /// `x` of each key that was attested, as in its JWK.
    pub(super) fn attested(&self) -> Vec<String> {
        lock(&self.attested).clone()
    }

    pub(super) fn refusals(&self) -> Vec<Refusal> {
        lock(&self.refusals).clone()
    }

    pub(super) fn forget_sessions(&self) {
        lock(&self.sessions).clear();
    }

    /// What goes onto the wire.
    pub(super) fn acts(&self, seen: &Seen) -> Vec<Act> {
        let fault = lock(&self.rules).iter_mut().find_map(|rule| rule.meets(seen));
        let mut acts = Vec::new();
        if !self.setup.round_trip.is_zero() {
            acts.push(Act::Wait(self.setup.round_trip));
        }
        acts.extend(self.faulty(seen, fault.as_ref()));
        acts
    }

    fn faulty(&self, seen: &Seen, fault: Option<&Fault>) -> Vec<Act> {
        let send = |reply: Reply| vec![Act::Send(reply.bytes())];
        let html = |status: &str, body: &str| {
            vec![Act::Send(response(status, &[("content-type", "text/html; charset=utf-8")], body.as_bytes()))]
        };
        match fault {
            Some(Fault::Html401) => html("401 Unauthorized", LOGIN_PAGE),
            Some(Fault::GatewayPage) => html("200 OK", LOGIN_PAGE),
            Some(Fault::Status(status, body)) => html(status, body),
            Some(Fault::TooLarge) => send(too_large()),
            Some(Fault::Empty404) => send(Reply::new("404 Not Found", "")),
            Some(Fault::Redirect(to)) => send(Reply::new("302 Found", "").with("location", to)),
            Some(Fault::Problem(kind, detail)) => send(problem("401 Unauthorized", kind, detail)),
            Some(Fault::Reset) => vec![Act::Reset],
            Some(Fault::Silent) => vec![Act::Silence],
            Some(Fault::Late(time)) => vec![Act::Wait(*time), Act::Send(self.reply(seen, None).bytes())],
            Some(Fault::Drip(gap)) => vec![Act::Drip(self.reply(seen, None).bytes(), *gap)],
            Some(Fault::TruncatedJson) => {
                let mut reply = self.reply(seen, None);
                reply.body.truncate(reply.body.len() / 2);
                send(reply)
            }
            Some(Fault::CloseMidBody) => vec![Act::Send(self.reply(seen, None).half()), Act::Close],
            Some(Fault::ResetMidBody) => vec![Act::Send(self.reply(seen, None).half()), Act::Reset],
            _ => send(self.reply(seen, fault)),
        }
    }

    /// The server's answer. Faults that are left change what it says, not how it arrives.
    pub(super) fn reply(&self, seen: &Seen, fault: Option<&Fault>) -> Reply {
        if fault == Some(&Fault::SessionsLost) {
            self.forget_sessions();
        }
        if seen.body.len() > MAX_BODY {
            return too_large();
        }
        let path = seen.path.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), path) {
            ("POST", "/kbs/v0/auth") => self.auth(&seen.body, fault),
            ("POST", "/kbs/v0/attest") => match self.attest(seen, fault) {
                Ok(reply) => reply,
                Err(refusal) => {
                    lock(&self.refusals).push(refusal);
                    // The cause is in the server's log only.
                    problem("401 Unauthorized", "AttestationError", "Attestation error: RCAR handshake Attest failed")
                }
            },
            (_, "/healthz") => Reply::new("200 OK", ""),
            (_, "/metrics") => Reply::new("200 OK", "# TYPE kbs_build_info gauge\n"),
            (_, "/kbs/v0/resource-policy" | "/kbs/v0/attestation-policy") => {
                let endpoint = path.strip_prefix("/kbs/v0/").unwrap_or_default();
                let cause = "Failed to parse HTTP Auth Bearer header";
                let detail = format!("admin access denied for endpoint {endpoint}: {cause}");
                problem("401 Unauthorized", "AdminAuthAccess", &detail)
            }
            ("HEAD", _) if path.starts_with("/kbs/v0/") => {
                Reply::new("405 Method Not Allowed", "").with("allow", "GET, POST, PUT, DELETE")
            }
            (method, path) => match path.strip_prefix("/kbs/v0/") {
                Some(rest) => match rest.split_once('/').unwrap_or((rest, "")) {
                    ("resource", resource) => self.resource(method, resource, seen, fault),
                    (plugin, _) => problem("404 Not Found", "PluginNotFound", &format!("Plugin {plugin} not found")),
                },
                None => Reply::new("404 Not Found", ""),
            },
        }
    }

    fn auth(&self, body: &[u8], fault: Option<&Fault>) -> Reply {
        const FAILED: &str = "Attestation error: RCAR handshake Auth failed";
        let refuse = |cause: &str| problem("401 Unauthorized", "AttestationError", &format!("{FAILED}: {cause}"));
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| request.get(name).and_then(Value::as_str);
        // All three members are required, and `tee` is one of a closed list.
        let tee = text("tee").filter(|tee| TEES.contains(tee));
        let (Some(asked), Some(tee), Some(_)) = (text("version"), tee, request.get("extra-params")) else {
            return refuse("deserialize Request");
        };
        let version = self.setup.version;
        if asked != version {
            return refuse(&format!(
                "KBS Client Protocol Version Mismatch: expect ={version} while the request is {asked}"
            ));
        }
        let (id, nonce) = lock(&self.scripted)
            .pop_front()
            .unwrap_or_else(|| (format!("{:032x}", u128::from_be_bytes(random())), STANDARD.encode(random::<32>())));
        let (hash, extra) = match fault {
            Some(Fault::SelectsHash(hash)) => (*hash, json!({"selected-hash-algorithm": hash})),
            Some(Fault::UnknownExtraParams) => {
                ("sha384", json!({"x-of-a-later-version": {"a": [1, 2]}, "another": null}))
            }
            _ => ("sha384", json!("")),
        };
        let lifetime = self.setup.session_lifetime;
        let expires = http_date(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let session = Session {
            nonce: nonce.clone(),
            tee: tee.to_owned(),
            hash,
            ends: Instant::now() + lifetime,
            cookie: format!("kbs-session-id={id}; Expires={expires}"),
            token: None,
        };
        let reply = Reply::json(&format!("{{\"nonce\":{},\"extra-params\":{extra}}}", json!(nonce)));
        let cookie = session.cookie.clone();
        lock(&self.sessions).insert(id, session);
        if fault == Some(&Fault::NoCookie) { reply } else { reply.with("set-cookie", &cookie) }
    }

    fn attest(&self, seen: &Seen, fault: Option<&Fault>) -> Result<Reply, Refusal> {
        let id = cookie(seen).ok_or(Refusal::NoSession)?;
        let session = self.session(id).ok_or(Refusal::NoSession)?;
        let body: Body = body(&seen.body).ok_or(Refusal::Body)?;
        let token = if let Some(token) = session.token {
            // The evidence is not looked at: not even at the nonce, seen on the wire, wire/31.
            token
        } else {
            let references = lock(&self.setup.references).clone();
            let mut claims = ear(&self.setup.vendor, &session, &body, &references, self.setup.token_seconds)?;
            if fault == Some(&Fault::NoInitDataClaims)
                && let Some(evidence) = claims.pointer_mut("/submods/cpu0/ear.veraison.annotated-evidence")
                && let Some(evidence) = evidence.as_object_mut()
            {
                evidence.remove("init_data_claims");
            }
            if let Some(Fault::DatedBack(seconds)) = fault {
                for name in ["iat", "exp"] {
                    if let Some(time) = claims.get_mut(name) {
                        *time = json!(time.as_u64().unwrap_or_default().saturating_sub(*seconds));
                    }
                }
            }
            let signer = if fault == Some(&Fault::ForeignToken) { &self.stranger } else { &self.signer };
            let token = signer.sign(&claims);
            if let Some(session) = lock(&self.sessions).get_mut(id) {
                session.token = Some(token.clone());
            }
            self.attestations.fetch_add(1, Ordering::SeqCst);
            lock(&self.attested).extend(claims.pointer(KEY).and_then(|key| key["x"].as_str()).map(ToOwned::to_owned));
            token
        };
        let reply = Reply::json(&format!("{{\"token\":{}}}", json!(token)));
        Ok(reply.with("set-cookie", &session.cookie))
    }

    fn session(&self, id: &str) -> Option<Session> {
        lock(&self.sessions).get(id).filter(|session| session.ends > Instant::now()).cloned()
    }

    fn resource(&self, method: &str, resource: &str, seen: &Seen, fault: Option<&Fault>) -> Reply {
        let refuse = |kind: &str, detail: &str| problem("401 Unauthorized", kind, detail);
        if matches!(method, "POST" | "DELETE") {
            let detail = "failed to initialize [admin] configuration: Failed to parse HTTP Auth Bearer header";
            return refuse("AdminAuthInitialization", detail);
        }
        let of_session = cookie(seen).and_then(|id| self.session(id)).and_then(|session| session.token);
        // Case-sensitive, seen on the wire, wire/33.
        let of_bearer =
            || seen.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        let Some(token) = of_session.or_else(of_bearer) else {
            return refuse("TokenNotFound", "Attestation Token not found");
        };
        let (plain, claims) = match self.released(method, resource, &token) {
            Ok(released) => released,
            Err((kind, detail)) => return refuse(kind, detail),
        };
        let key = match fault {
            Some(Fault::ForKeyOfAnother) => Some(jwe::stranger()),
            _ => claims.pointer(KEY).cloned(),
        };
        let flaw = match fault {
            Some(Fault::WrongEpk) => Flaw::OtherEpk,
            Some(Fault::EpkOffCurve) => Flaw::EpkOffCurve,
            Some(Fault::WrongAlgorithm) => Flaw::OtherAlgorithm,
            Some(Fault::TamperedCiphertext) => Flaw::Tampered,
            _ => Flaw::None,
        };
        match key.and_then(|key| jwe::seal(&key, &plain, flaw)) {
            Some(jwe) => Reply::json(&jwe.to_string()),
            None => refuse("JweError", "JWE failed"),
        }
    }

    /// A resource with the claims of the token that it goes to, or the problem.
    pub(super) fn released(
        &self,
        method: &str,
        resource: &str,
        token: &str,
    ) -> Result<(Vec<u8>, Value), (&'static str, &'static str)> {
        let claims = self.signer.verify(token).ok_or(("TokenVerifierError", "Token Verifier error"))?;
        if !lock(&self.policy).allows(resource, &claims) {
            return Err(("PolicyDeny", "Access denied by policy"));
        }
        let found = lock(&self.resources).get(resource).filter(|_| method == "GET" && well_formed(resource)).cloned();
        Ok((found.ok_or(("PluginInternalError", "Plugin internal error"))?, claims))
    }
}

fn cookie(seen: &Seen) -> Option<&str> {
    seen.headers.get("cookie")?.split(';').find_map(|one| one.trim().strip_prefix("kbs-session-id="))
}

/// Three segments of `[a-zA-Z0-9_-]+[a-zA-Z0-9_.-]*`.
fn well_formed(resource: &str) -> bool {
    let segments: Vec<&str> = resource.split('/').collect();
    let fine = |segment: &&str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    segments.len() == 3 && segments.iter().all(fine)
}

impl Policy {
    fn allows(&self, resource: &str, claims: &Value) -> bool {
        let submods = claims.get("submods").and_then(Value::as_object);
        match self {
            Self::AllowAll => true,
            Self::DenyAll => false,
            Self::Default => claims.pointer("/submods/cpu0/ear.veraison.annotated-evidence/sample").is_none(),
            Self::Affirming => submods.is_some_and(|submods| {
                !submods.is_empty() && submods.values().all(|one| one.get("ear.status") == Some(&json!("affirming")))
            }),
            Self::Custom(decide) => decide(resource, claims),
        }
    }
}

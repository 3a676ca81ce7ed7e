//! `/attest`: the body, the digest over it, and what the token says of evidence that was believed.

use std::time::Instant;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use serde_json::{Map, Value, json};

use super::token::{Vector, now};
use crate::tee::{self, Refusal, Vendor, Verified};

/// One session.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) nonce: String,
    pub(super) tee: String,
    pub(super) hash: &'static str,
    pub(super) ends: Instant,
    pub(super) cookie: String,
    pub(super) token: Option<String>,
}

/// What `/attest` is sent.
pub(super) struct Body {
    nonce: String,
    key: Value,
    primary: Value,
    additional: String,
    init_data: Option<(String, String)>,
}

/// Reads the body; none where Trustee's types would not.
pub(super) fn body(bytes: &[u8]) -> Option<Body> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let runtime = body.get("runtime-data")?;
    let evidence = body.get("tee-evidence")?;
    let init_data = match body.get("init-data") {
        None | Some(Value::Null) => None,
        Some(some) => Some((text(some, "format")?, text(some, "body")?)),
    };
    Some(Body {
        nonce: text(runtime, "nonce")?,
        key: known_members(runtime.get("tee-pubkey")?)?,
        primary: evidence.get("primary_evidence")?.clone(),
        additional: text(evidence, "additional_evidence")?,
        init_data,
    })
}

/// The key as the server's types keep it: members that it does not know are gone, so that a client
/// which hashed them is refused, seen on the wire, wire/70.
fn known_members(key: &Value) -> Option<Value> {
    let names: &[&str] = match key.get("kty")?.as_str()? {
        "EC" => &["crv", "alg", "x", "y"],
        "RSA" => &["alg", "n", "e"],
        _ => return None,
    };
    let mut kept = Map::from_iter([("kty".to_owned(), key.get("kty")?.clone())]);
    for name in names {
        kept.insert((*name).to_owned(), json!(key.get(name)?.as_str()?));
    }
    Some(Value::Object(kept))
}

/// The claims of the token for this attestation, or why there is none. Trustee's order of checks.
pub(super) fn ear(
    vendor: &Vendor,
    session: &Session,
    body: &Body,
    references: &[String],
    seconds: i64,
) -> Result<Value, Refusal> {
    if body.nonce != session.nonce {
        return Err(Refusal::Nonce);
    }
    let init_data = body.init_data.as_ref().map(init_data).transpose()?;
    let hash = algorithm(session.hash).unwrap_or(&SHA384);
    let runtime = json!({"additional-evidence": body.additional, "nonce": body.nonce, "tee-pubkey": body.key});
    let over = digest(hash, canonical(&runtime).as_bytes());
    let init_digest = init_data.as_ref().map(|init_data| init_data.digest.as_slice());
    let primary = tee::verify(vendor, &session.tee, &body.primary, over.as_ref(), init_digest)?;
    let mut submods = Map::new();
    let claims = init_data.map(|init_data| init_data.claims);
    submods.insert("cpu0".to_owned(), submod(&session.tee, &primary, &runtime, claims, references));
    if !body.additional.is_empty() {
        let devices: Map<String, Value> = serde_json::from_str(&body.additional).map_err(|_| Refusal::Body)?;
        let runtime = json!({"nonce": body.nonce, "tee-pubkey": body.key});
        let over = digest(hash, canonical(&runtime).as_bytes());
        for (index, (tee, evidence)) in devices.iter().enumerate() {
            let device = tee::verify(vendor, tee, evidence, over.as_ref(), None)?;
            submods.insert(format!("gpu{index}"), submod(tee, &device, &runtime, None, references));
        }
    }
    let iat = now();
    Ok(json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": iat,
        "ear.verifier-id": {
            "developer": "https://confidentialcontainers.org", "build": "attestation-service 0.1.0",
        },
        "submods": submods,
        "exp": iat.saturating_add_signed(seconds),
        "iss": "CoCo-Attestation-Service",
    }))
}

fn submod(
    tee: &str,
    verified: &Verified,
    runtime: &Value,
    init_data_claims: Option<Value>,
    references: &[String],
) -> Value {
    let known = references.contains(&verified.measurement);
    // As Trustee's default policies begin and end: 33, 97 and 36 are "not recognised". One
    // reference value stands for measurement and TCB both.
    let vector = Vector {
        executables: if known { 3 } else { 33 },
        hardware: if known { 2 } else { 97 },
        configuration: if verified.debug { 36 } else { 2 },
    };
    let mut evidence = Map::new();
    if let Some(init_data) = &verified.init_data {
        evidence.insert("init_data".to_owned(), json!(init_data));
    }
    if let Some(claims) = init_data_claims {
        evidence.insert("init_data_claims".to_owned(), claims);
    }
    evidence.insert("report_data".to_owned(), json!(verified.report_data));
    evidence.insert("runtime_data_claims".to_owned(), runtime.clone());
    evidence.insert(tee.to_owned(), verified.claims.clone());
    json!({
        "ear.status": vector.status(),
        "ear.trustworthiness-vector": vector.json(),
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": evidence,
        "ear.trustee.identifiers": {"validated": {}},
    })
}

struct InitData {
    digest: Vec<u8>,
    claims: Value,
}

fn init_data((format, body): &(String, String)) -> Result<InitData, Refusal> {
    let read = || {
        let table: toml::Table = (format == "toml").then(|| body.parse().ok())??;
        let hash = algorithm(table.get("algorithm")?.as_str()?)?;
        table.get("version")?.as_str()?;
        let mut claims = Map::new();
        for (name, value) in table.get("data")?.as_table()? {
            let text = value.as_str()?;
            let parsed = || Some(json!(text.parse::<toml::Table>().ok()?));
            let claim = if name == "aa.toml" || name == "cdh.toml" { parsed()? } else { json!(text) };
            match policy_data(text).filter(|_| name == "policy.rego") {
                Some(data) => claims.insert("agent_policy_claims".to_owned(), data),
                None => claims.insert(name.clone(), claim),
            };
        }
        Some(InitData { digest: digest(hash, body.as_bytes()).as_ref().to_vec(), claims: Value::Object(claims) })
    };
    read().ok_or(Refusal::Body)
}

/// `policy_data := {…}` at the end of an agent policy, as Kata's tool writes it.
fn policy_data(policy: &str) -> Option<Value> {
    serde_json::from_str(policy.split_once("policy_data := ")?.1).ok()
}

fn algorithm(name: &str) -> Option<&'static Algorithm> {
    match name {
        "sha256" => Some(&SHA256),
        "sha384" => Some(&SHA384),
        "sha512" => Some(&SHA512),
        _ => None,
    }
}

/// RFC 8785, for what occurs here: objects, strings and nothing beside them. `serde_json` escapes
/// strings as the RFC does; keys are ASCII, so that byte order is its order.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let members: Vec<String> =
                sorted.iter().map(|(name, value)| format!("{}:{}", json!(name), canonical(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

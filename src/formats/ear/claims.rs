//! What a token says, typed: a claim of another type is a refusal, never a default.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::Error;
use crate::formats::json;
use crate::formats::jwk::EcPublicJwk;

/// Trustee's profile of EAR, in every token that it issues (v0.21, `attestation-service/src/ear_token`).
const PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";

/// The submod of the CPU that the guest runs on.
const CPU: &str = "cpu0";

/// Most submods of a token: one for each CPU package and device. A bound of ours.
const MAX_SUBMODS: usize = 32;

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// When it was issued, seconds since 1970.
    pub issued_at: u64,
    /// Until when it may be shown to the KBS, seconds since 1970.
    pub expires_at: u64,
    /// What was appraised, by name: `cpu0` always, then `gpu0` and the like.
    pub submods: BTreeMap<String, Submod>,
    /// The CPU's, which `submods` holds too.
    cpu: Submod,
}

/// The verdict on one part of the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Submod {
    /// The verdict, the worst of the vector's.
    pub status: Status,
    /// The verdict, by what was looked at.
    pub vector: TrustVector,
    /// Which policy gave it.
    pub policy_id: Option<String>,
    /// The initdata digest as the hardware has it: hex for SNP and TDX.
    pub init_data: Option<String>,
    /// The initdata, where the guest sent it and it matched: file name → content, `aa.toml` and
    /// `cdh.toml` as objects.
    pub init_data_claims: Option<Map<String, Value>>,
    /// What the guest had the hardware sign.
    pub runtime: Option<RuntimeClaims>,
    /// All that was read from the evidence, with one member named like the TEE (`snp`, `tdx`,
    /// `sample`).
    pub evidence: Map<String, Value>,
}

/// What the guest had the hardware sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeClaims {
    /// The nonce of the challenge.
    pub nonce: String,
    /// The key that was attested.
    pub tee_pubkey: EcPublicJwk,
}

/// A verdict (draft-ietf-rats-ar4si §2.3.2), worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Known and good.
    Affirming,
    /// Nothing was said. No verdict is not a good one.
    None,
    /// Of doubtful worth.
    Warning,
    /// Known and bad, or not known at all.
    Contraindicated,
}

/// A verdict for each thing that was looked at (draft-ietf-rats-ar4si §2.3.4): -128 to 127, and 0
/// says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TrustVector {
    /// Whether it is the one it claims to be.
    pub instance_identity: i8,
    /// How it is configured.
    pub configuration: i8,
    /// What runs.
    pub executables: i8,
    /// What it has on disk.
    pub file_system: i8,
    /// What it runs on.
    pub hardware: i8,
    /// Whether its memory is hidden from outside.
    pub runtime_opaque: i8,
    /// Whether its storage is.
    pub storage_opaque: i8,
    /// What it was fed.
    pub sourced_data: i8,
}

#[derive(Deserialize)]
struct Raw {
    eat_profile: String,
    iat: u64,
    exp: u64,
    submods: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawSubmod {
    #[serde(rename = "ear.status")]
    status: Status,
    #[serde(rename = "ear.trustworthiness-vector", default)]
    vector: TrustVector,
    #[serde(rename = "ear.appraisal-policy-id")]
    policy_id: Option<String>,
    #[serde(rename = "ear.veraison.annotated-evidence", default)]
    evidence: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawRuntime {
    nonce: String,
    #[serde(rename = "tee-pubkey")]
    tee_pubkey: Map<String, Value>,
}

impl Claims {
    /// Reads a decoded payload. Says nothing about who wrote it.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let raw: Raw = json::object(payload).ok_or(Error::Claims)?;
        if raw.eat_profile != PROFILE {
            return Err(Error::Profile);
        }
        if raw.exp < raw.iat {
            return Err(Error::Claims);
        }
        if raw.submods.len() > MAX_SUBMODS {
            return Err(Error::Submods);
        }
        let submods: BTreeMap<String, Submod> = raw
            .submods
            .into_iter()
            .map(|(name, value)| Ok((name, Submod::read(value)?)))
            .collect::<Result<_, Error>>()?;
        let cpu = submods.get(CPU).cloned().ok_or(Error::NoCpu)?;
        Ok(Self { issued_at: raw.iat, expires_at: raw.exp, submods, cpu })
    }

    /// The CPU's submod, `cpu0`.
    pub fn cpu(&self) -> &Submod {
        &self.cpu
    }

    /// The worst verdict of all submods.
    pub fn worst(&self) -> Status {
        self.submods.values().map(|submod| submod.status).max().unwrap_or(Status::Contraindicated)
    }
}

impl Submod {
    fn read(value: Value) -> Result<Self, Error> {
        let raw = RawSubmod::deserialize(value).map_err(|_| Error::Claims)?;
        let init_data = match raw.evidence.get("init_data") {
            None => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => return Err(Error::Claims),
        };
        let init_data_claims = match raw.evidence.get("init_data_claims") {
            None => None,
            Some(Value::Object(members)) => Some(members.clone()),
            Some(_) => return Err(Error::Claims),
        };
        let runtime = raw.evidence.get("runtime_data_claims").map(RuntimeClaims::read).transpose()?;
        Ok(Self {
            status: raw.status,
            vector: raw.vector,
            policy_id: raw.policy_id,
            init_data,
            init_data_claims,
            runtime,
            evidence: raw.evidence,
        })
    }

    /// Whether the evidence came from Trustee's `sample` attester, which attests nothing.
    pub fn is_sample(&self) -> bool {
        ["sample", "sampledevice"].iter().any(|name| self.evidence.contains_key(*name))
    }
}

impl RuntimeClaims {
    fn read(value: &Value) -> Result<Self, Error> {
        let raw = RawRuntime::deserialize(value).map_err(|_| Error::RuntimeData)?;
        let jwk = Value::Object(raw.tee_pubkey).to_string();
        let tee_pubkey = EcPublicJwk::parse(jwk.as_bytes()).map_err(Error::TeePubkey)?;
        Ok(Self { nonce: raw.nonce, tee_pubkey })
    }
}

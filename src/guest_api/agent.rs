//! What the attestation agent behind the REST service gives: who the guest is, evidence, a token.
//! Off unless the guest was started with `agent.guest_components_rest_api=all` or `attestation`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Error, GuestApi, OCTETS};
use crate::secret::Secret;

/// Most bytes of `/info`, 4 KiB: about 100 are sent.
const MAX_INFO: usize = 4 * 1024;

/// Most bytes of a token and its key, 1 MiB: as much as a KBS's own answer may have.
const MAX_TOKEN: usize = 1024 * 1024;

/// Most bytes of evidence, 4 MiB: a TDX event log has up to 1 MiB, and JSON writes bytes as numbers.
const MAX_EVIDENCE: usize = 4 * 1024 * 1024;

/// What the service says of itself. Unproven, as all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Trustee's name of the TEE, where the attestation feature is on.
    pub tee: Option<String>,
    /// Further devices that can be attested.
    pub additional_tees: Vec<String>,
    /// Whether `/aa/…` answers.
    pub attestation: bool,
    /// Whether `/cdh/…` answers.
    pub resource: bool,
}

#[derive(Deserialize)]
struct RawInfo {
    tee: Option<String>,
    #[serde(default)]
    additional_tees: Vec<String>,
    feature: String,
}

/// An attestation token of this guest and the private key that it names.
pub struct Passport {
    /// The token, a JWT. Not verified. A bearer token: not for logs.
    pub token: Zeroizing<String>,
    /// The key, PKCS#8 (DER).
    pub key: Secret,
}

#[derive(Deserialize)]
struct RawPassport {
    token: String,
    tee_keypair: String,
}

impl GuestApi {
    /// `GET /info`. Services before v0.12 do not know it and answer [`Error::UrlNotFound`].
    pub async fn info(&self) -> Result<Info, Error> {
        let bytes = self.get("/info", "application/json", MAX_INFO).await?;
        let raw: RawInfo = serde_json::from_slice(&bytes).map_err(|_| Error::Malformed("is no description of it"))?;
        let all = raw.feature == "all";
        Ok(Info {
            tee: raw.tee,
            additional_tees: raw.additional_tees,
            attestation: all || raw.feature == "attestation",
            resource: all || raw.feature == "resource",
        })
    }

    /// `GET /aa/evidence`: evidence over these bytes (at most 64), as the JSON that Trustee's verifier
    /// for this TEE takes. Passed on as it came.
    pub async fn evidence(&self, report_data: &[u8]) -> Result<String, Error> {
        let data = URL_SAFE_NO_PAD.encode(report_data);
        let path = format!("/aa/evidence?runtime_data={data}&encoding=base64");
        let mut bytes = self.get(&path, OCTETS, MAX_EVIDENCE).await?;
        String::from_utf8(std::mem::take(&mut *bytes)).map_err(|_| Error::Malformed("is not text"))
    }

    /// `GET /aa/token?token_type=kbs`: the agent attests anew, with a key of its own making, and hands
    /// out both. Takes as long as an attestation does, and as the agent's own 50 s.
    pub async fn passport(&self) -> Result<Passport, Error> {
        let bytes = self.get("/aa/token?token_type=kbs", OCTETS, MAX_TOKEN).await?;
        let raw: RawPassport =
            serde_json::from_slice(&bytes).map_err(|_| Error::Malformed("is no token with its key"))?;
        let (token, pem) = (Zeroizing::new(raw.token), Zeroizing::new(raw.tee_keypair));
        Ok(Passport { token, key: private_key(&pem)? })
    }
}

fn private_key(pem: &str) -> Result<Secret, Error> {
    // The first block: the agent writes one.
    match <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()) {
        Ok((SectionKind::PrivateKey, der)) => Ok(Secret::new(der)),
        Ok((SectionKind::RsaPrivateKey, _)) => Err(Error::Malformed("has an RSA key; only P-256 keys are taken")),
        _ => Err(Error::Malformed("has no private key in PKCS#8")),
    }
}

/// Says that there are a token and a key, and nothing of either.
impl fmt::Debug for Passport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passport")
    }
}

//! Sealed secrets: `sealed.<header>.<payload>.<signature>`, the form of the CoCo project.
//!
//! A sealed secret holds no secret: it is a signed pointer to one. It travels through the control
//! plane, so all of it is hostile until its signature is verified under a key that trusted
//! configuration lists. The steps are types: [`SealedSecret::parse`] gives an [`Unverified`], which
//! reads the header only; [`Unverified::verify`] checks the signature first and reads the payload
//! after; a [`Verified`] comes from nowhere else.
//!
//! Supported is what the KBS can serve: type `vault`, provider `kbs`, signature ES256. Everything
//! else is refused by name. We are stricter than the guest's own unsealer in a few places;
//! `docs/sealed-secrets.md` lists them, and a test keeps that list true.
//!
//! Source: guest-components v0.21, `confidential-data-hub/hub/src/secret`, and RFC 7515.

mod error;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::json::{self, AnyObject, Present};
use super::jwk::EcPublicJwk;
use super::kbs_uri::KbsUri;
pub use error::Error;

/// Most bytes of a sealed secret, 64 KiB: one of type `vault` has about 300, and a Kubernetes
/// Secret or environment value carries it. A bound of ours; upstream has none.
pub const MAX_BYTES: usize = 64 * 1024;

/// What every sealed secret starts with. Not covered by the signature.
const PREFIX: &str = "sealed.";

/// The only payload version there is.
const VERSION: &str = "0.1.0";

/// The name of the format; its one function is where reading starts.
#[derive(Debug)]
pub struct SealedSecret;

/// A well-formed sealed secret whose signature nobody has checked. Says nothing about itself.
pub struct Unverified {
    /// `<header>.<payload>` as received: exactly the bytes that are signed.
    signed: String,
    /// Decoded payload. Not read before the signature is checked.
    payload: Vec<u8>,
    signature: [u8; 64],
    /// Chosen by whoever sent it: selects among the listed keys, names nothing that is opened.
    kid: String,
}

/// A sealed secret signed by a listed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    name: KbsUri,
    signed_by: KbsUri,
}

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    kid: Option<String>,
    #[serde(default)]
    crit: Present,
    /// RFC 7797. The upstream CLI writes a superfluous `true`.
    #[serde(default = "encoded")]
    b64: bool,
}

#[derive(Deserialize)]
struct Payload {
    version: Option<String>,
    r#type: Option<String>,
    provider: Option<String>,
    name: Option<String>,
    provider_settings: Option<AnyObject>,
    annotations: Option<AnyObject>,
}

fn encoded() -> bool {
    true
}

impl SealedSecret {
    /// Takes a sealed secret apart and reads its header. Nothing may stand around it: a newline
    /// at the end breaks it in the guest's own unsealer too.
    pub fn parse(text: &str) -> Result<Unverified, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let signed = text.strip_prefix(PREFIX).ok_or(Error::Prefix)?;
        if signed.starts_with(PREFIX) {
            return Err(Error::PrefixTwice);
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::Whitespace);
        }
        let mut parts = signed.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Parts);
        };
        let kid = read_header(&decode(header, "header")?)?;
        Ok(Unverified {
            signed: format!("{header}.{payload}"),
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?.try_into().map_err(|_| Error::SignatureForm)?,
            kid,
        })
    }
}

impl Unverified {
    /// Checks the signature under the keys of `[secrets].sealed_keys`, given with the resource that
    /// each came from, and only then reads the payload.
    ///
    /// `kid` selects among them and does no more: a KBS URI selects the key listed under it, a plain
    /// name those whose tag or own `kid` it is. A `kid` that selects none is a refusal.
    pub fn verify(&self, keys: &[(KbsUri, EcPublicJwk)]) -> Result<Verified, Error> {
        if keys.is_empty() {
            return Err(Error::NoKeys);
        }
        let selected: Vec<_> = keys.iter().filter(|(uri, key)| selects(&self.kid, uri, key)).collect();
        if selected.is_empty() {
            return Err(Error::UnlistedKey);
        }
        let (signed_by, _) = selected
            .into_iter()
            .find(|(_, key)| key.verifies_es256(self.signed.as_bytes(), &self.signature))
            .ok_or(Error::Signature)?;
        Ok(Verified { name: payload_name(&self.payload)?, signed_by: signed_by.clone() })
    }
}

impl Verified {
    /// The resource that holds the secret.
    pub fn name(&self) -> &KbsUri {
        &self.name
    }

    /// The listed key that the signature verified under.
    pub fn signed_by(&self) -> &KbsUri {
        &self.signed_by
    }
}

/// Nothing in it is worth printing: the payload is a stranger's, and so is the `kid`.
impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").finish_non_exhaustive()
    }
}

/// Reads a decoded payload: which resource it points to. Says nothing about who wrote it; for the
/// tool that checks its own work before it signs, and for [`Unverified::verify`].
pub fn payload_name(payload: &[u8]) -> Result<KbsUri, Error> {
    let raw: Payload = json::object(payload).ok_or(Error::Payload)?;
    match raw.version.as_deref() {
        Some(VERSION) => {}
        Some(_) => return Err(Error::Version),
        None => return Err(Error::Missing("version")),
    }
    match raw.r#type.as_deref() {
        Some("vault") => {}
        Some("envelope") => return Err(Error::Envelope),
        Some(_) => return Err(Error::Type),
        None => return Err(Error::Missing("type")),
    }
    match raw.provider.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("kbs") => {}
        Some("aliyun") => return Err(Error::Provider("aliyun")),
        Some("aws") => return Err(Error::Provider("aws")),
        Some("ehsm") => return Err(Error::Provider("ehsm")),
        Some(_) => return Err(Error::Provider("unknown to this build")),
        None => return Err(Error::Missing("provider")),
    }
    // Required by the guest's own unsealer: a secret must not unseal here and fail there.
    raw.provider_settings.ok_or(Error::Missing("provider_settings"))?;
    raw.annotations.ok_or(Error::Missing("annotations"))?;
    let name = raw.name.ok_or(Error::Missing("name"))?;
    Ok(KbsUri::parse_ignoring_host(&name)?)
}

fn read_header(header: &[u8]) -> Result<String, Error> {
    let header: Header = json::object(header).ok_or(Error::Header)?;
    match header.alg.as_deref() {
        Some("ES256") => {}
        Some("none") => return Err(Error::Algorithm("none")),
        Some("ES384") => return Err(Error::Algorithm("ES384")),
        Some(_) => return Err(Error::Algorithm("another one")),
        None => return Err(Error::NoAlgorithm),
    }
    // RFC 7515 §4.1.11: an extension that must be understood and is not, refuses the whole.
    if header.crit.0 {
        return Err(Error::Critical);
    }
    if !header.b64 {
        return Err(Error::Unencoded);
    }
    header.kid.filter(|kid| !kid.is_empty()).ok_or(Error::NoKid)
}

fn decode(part: &str, name: &'static str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Encoding(name))
}

fn selects(kid: &str, uri: &KbsUri, key: &EcPublicJwk) -> bool {
    if kid.starts_with("kbs:") {
        return KbsUri::parse_ignoring_host(kid).is_ok_and(|named| named == *uri);
    }
    kid == uri.tag() || key.kid() == Some(kid)
}

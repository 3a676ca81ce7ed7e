//! EAT attestation results (EAR): the signed token in which Trustee says what it made of a guest's
//! evidence (draft-ietf-rats-ear, as a JWT).
//!
//! It arrives from whoever holds it, so all of it is hostile until a trusted key is shown to have
//! signed it. The steps are types: [`EarToken::parse`] gives an [`Unverified`], which reads the
//! header only; [`Unverified::verify`] checks signature and signer first and reads the claims after;
//! a [`Verified`] comes from nowhere else. What to expect is a mandatory argument, the time too.
//!
//! A verified token is still a bearer token: it says that somebody's guest was attested, not that
//! whoever showed it is that guest. That takes a proof of possession of `tee-pubkey`. Nor does a
//! token that verifies say that the verdict was good: read [`Submod::status`].

mod chain;
mod claims;
mod error;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::json::{self, Present};
use super::jwk::EcPublicJwk;
pub use chain::{EndorsedKey, MAX_CHAIN, TrustAnchors};
pub use claims::{Claims, RuntimeClaims, Status, Submod, TrustVector};
pub use error::{AnchorsError, ChainError, Error};
pub use words::Claim;

/// Most bytes of a token, 1 MiB: one for a CPU has 4 KiB, with a GPU's evidence in it more than 128
/// KiB. A bound of ours.
pub const MAX_BYTES: usize = 1024 * 1024;

/// How far the verifier's clock and ours may be apart, seconds. Trustee's KBS grants as much.
pub const LEEWAY: u64 = 60;

/// The name of the format; its one function is where reading starts.
#[derive(Debug)]
pub struct EarToken;

/// A well-formed token whose signature nobody has checked. Says nothing about itself, except to
/// [`Unverified::claims_unverified`].
pub struct Unverified {
    /// `<header>.<payload>` as received: exactly the bytes that are signed.
    signed: String,
    payload: Vec<u8>,
    signature: [u8; 64],
    /// The key that the token brings along. Worth nothing by itself.
    header_key: Option<HeaderKey>,
}

struct HeaderKey {
    key: EcPublicJwk,
    /// DER, the signer's first.
    chain: Vec<Vec<u8>>,
}

/// What a token must be to be believed. There is no default: a check that was not thought of is one
/// that does not compile.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Who may sign.
    pub signer: Signer<'a>,
    /// Seconds since 1970, by a clock that the host cannot turn back.
    pub now: u64,
    /// The key that must have been attested.
    pub tee_pubkey: &'a EcPublicJwk,
    /// What makes it recent.
    pub freshness: Freshness<'a>,
}

/// Who may sign a token.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// Whoever a certificate chain in the token's header leads from, to one of these anchors.
    EndorsedBy(&'a TrustAnchors),
    /// One of these keys. What the header brings along is not looked at.
    Keys(&'a [EcPublicJwk]),
}

/// What makes a token recent.
#[derive(Clone, Copy, Debug)]
pub enum Freshness<'a> {
    /// It answers our own challenge, and has not expired.
    Nonce(&'a str),
    /// It has not expired. For a token that somebody else's challenge led to (`/aa/token`).
    Unexpired,
    /// It was issued no longer ago than this. For a peer's token: `exp` is how long a token may be
    /// shown to the KBS, not how long the guest stays what it was.
    MaxAge(Duration),
}

/// A token that a trusted key signed, recent, for the expected key.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified(Claims);

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    typ: Option<String>,
    jwk: Option<serde_json::Value>,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    b64: Present,
}

impl EarToken {
    /// Takes a token apart and reads its header. Nothing may stand around it.
    pub fn parse(jwt: &str) -> Result<Unverified, Error> {
        if jwt.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let mut parts = jwt.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Parts);
        };
        let header_key = read_header(&decode(header, "header")?)?;
        Ok(Unverified {
            signed: format!("{header}.{payload}"),
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?.try_into().map_err(|_| Error::SignatureForm)?,
            header_key,
        })
    }
}

impl Unverified {
    /// Checks signature and signer, then reads the claims, then holds them to what is expected.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<Verified, Error> {
        self.check_signer(expected.signer, expected.now)?;
        let claims = Claims::parse(&self.payload)?;
        check_times(&claims, expected.freshness, expected.now)?;
        check_binding(&claims, expected)?;
        Ok(Verified(claims))
    }

    /// What the token says, where a trusted key signed it and it has not expired at `now`. For whoever
    /// looks at a token from outside: for which key it is, and for whose challenge, is still to be held
    /// to what was expected, as [`Unverified::verify`] does.
    pub fn signed_claims(&self, signer: Signer<'_>, now: u64) -> Result<Claims, Error> {
        self.check_signer(signer, now)?;
        let claims = Claims::parse(&self.payload)?;
        check_times(&claims, Freshness::Unexpired, now)?;
        Ok(claims)
    }

    /// What the token says, believed by nobody: for a report to people of what was shown. No
    /// decision may rest on it.
    pub fn claims_unverified(&self) -> Result<Claims, Error> {
        Claims::parse(&self.payload)
    }

    fn check_signer(&self, signer: Signer<'_>, now: u64) -> Result<(), Error> {
        let signed_by = |key: &EcPublicJwk| key.verifies_es256(self.signed.as_bytes(), &self.signature);
        match signer {
            Signer::Keys([]) => Err(Error::NoKeys),
            Signer::Keys(keys) if keys.iter().any(signed_by) => Ok(()),
            Signer::Keys(_) => Err(Error::Signature),
            Signer::EndorsedBy(anchors) => {
                let header = self.header_key.as_ref().ok_or(Error::NoHeaderKey)?;
                // One signature before the several of the chain.
                if !signed_by(&header.key) {
                    return Err(Error::Signature);
                }
                let endorsed = anchors.endorse(&header.chain, now)?;
                if endorsed.is(&header.key) { Ok(()) } else { Err(Error::KeyMismatch) }
            }
        }
    }
}

impl Verified {
    /// What the token says.
    pub fn claims(&self) -> &Claims {
        &self.0
    }
}

/// Nothing in it is worth printing: all of it is a stranger's.
impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").finish_non_exhaustive()
    }
}

fn read_header(bytes: &[u8]) -> Result<Option<HeaderKey>, Error> {
    let header: Header = json::object(bytes).ok_or(Error::Header)?;
    match header.alg.as_deref() {
        Some("ES256") => {}
        Some("none") => return Err(Error::Algorithm("none")),
        Some("RS256") => return Err(Error::Algorithm("RS256")),
        Some("ES384") => return Err(Error::Algorithm("ES384")),
        Some("HS256") => return Err(Error::Algorithm("HS256")),
        Some(_) => return Err(Error::Algorithm("another one")),
        None => return Err(Error::NoAlgorithm),
    }
    if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(Error::Type);
    }
    // RFC 7515 §4.1.11 and RFC 7797: extensions that change how it must be read.
    if header.crit.0 || header.b64.0 {
        return Err(Error::Extension);
    }
    let Some(jwk) = header.jwk else { return Ok(None) };
    let chain = x5c(&jwk)?;
    // Checked on its own: certificates may be longer than any key.
    let mut members = jwk;
    if let Some(members) = members.as_object_mut() {
        members.remove("x5c");
    }
    let key = EcPublicJwk::parse(members.to_string().as_bytes()).map_err(Error::HeaderKey)?;
    Ok(Some(HeaderKey { key, chain }))
}

/// The certificates beside a key (RFC 7517 §4.7): standard base64 with padding, not base64url.
fn x5c(jwk: &serde_json::Value) -> Result<Vec<Vec<u8>>, Error> {
    let Some(list) = jwk.get("x5c") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or(Error::Header)?;
    if list.len() > MAX_CHAIN {
        return Err(Error::Chain(ChainError::TooLong));
    }
    list.iter()
        .map(|text| text.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or(Error::Encoding("x5c")))
        .collect()
}

fn check_times(claims: &Claims, freshness: Freshness<'_>, now: u64) -> Result<(), Error> {
    if claims.issued_at > now.saturating_add(LEEWAY) {
        return Err(Error::NotYet);
    }
    let good_until = match freshness {
        Freshness::Nonce(_) | Freshness::Unexpired => claims.expires_at,
        Freshness::MaxAge(max_age) => claims.issued_at.saturating_add(max_age.as_secs()),
    };
    if now > good_until.saturating_add(LEEWAY) { Err(Error::Expired) } else { Ok(()) }
}

/// Holds the attested key to the expected one, in the CPU's submod and wherever else one stands.
fn check_binding(claims: &Claims, expected: &Expected<'_>) -> Result<(), Error> {
    let cpu = claims.cpu().runtime.as_ref().ok_or(Error::NoRuntimeData)?;
    if let Freshness::Nonce(nonce) = expected.freshness
        && cpu.nonce != nonce
    {
        return Err(Error::Nonce);
    }
    let bound = |runtime: &RuntimeClaims| runtime.tee_pubkey.is_same_key(expected.tee_pubkey);
    if claims.submods.values().filter_map(|submod| submod.runtime.as_ref()).all(bound) {
        Ok(())
    } else {
        Err(Error::OtherKey)
    }
}

fn decode(part: &str, name: &'static str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Encoding(name))
}

//! Whether a peer is who and what it must be: its attestation result, and its word on this connection.
//!
//! Two steps, both pure. [`evidence`] judges the attestation result for one identity, by roots, pins
//! and time; it may be remembered for as long as those stand. [`channel`] judges the statement for this
//! very connection, and is never remembered. Only the second makes a [`Proven`]. Where the hardware itself
//! must vouch for the statement, [`fresh()`] judges its report.

mod fresh;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use fresh::{Error as FreshError, Expected as FreshlyExpected, fresh, vouched};

use serde::Deserialize;

use super::launch::LaunchField;
use crate::config::spiffe::PeerId;
use crate::formats::ear::{self, EarToken, Expected as ExpectedToken, Freshness, Signer, Status, Submod, TrustAnchors};
use crate::formats::hex;
use crate::formats::jwk::EcPublicJwk;
use crate::formats::pins::{Hardware, HardwareId, Pin, Pins};
use crate::formats::statement::{self, LeafBinding, Statement};

/// Where the evidence of each TEE says which machine it is (Trustee v0.21, `deps/verifier`): the TEE's
/// member of the annotated evidence, and the member in it. A TDX guest's may have one of its two, or both.
const HARDWARE: [(&str, &str); 3] = [("snp", "chip_id"), ("tdx", PROVIDER), ("tdx", INSTANCE)];

/// The machine of a TDX guest, as its PCK certificate has it.
const PROVIDER: &str = "platform_provider_id";
const INSTANCE: &str = "platform_instance_id";

/// What a peer's attestation result must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'e> {
    /// Who may sign it.
    pub token_roots: &'e TrustAnchors,
    /// What each identity must show.
    pub pins: &'e Pins,
    /// Whose it must be: the one identity of the certificate that was shown.
    pub peer: &'e PeerId,
    /// Oldest attestation that counts.
    pub max_age: Duration,
    /// Seconds since 1970, by a clock that the host cannot turn back.
    pub now: u64,
}

/// An attestation result that was judged well for one identity. Says nothing of any connection: whoever
/// has seen it can show it.
#[derive(Clone)]
pub struct Appraised {
    ear: Arc<str>,
    peer: PeerId,
    key: EcPublicJwk,
    init_data: Vec<u8>,
    hardware: Option<Vec<u8>>,
    until: u64,
}

/// A peer that has proven on this connection to hold the key of its attestation result.
#[derive(Clone)]
pub struct Proven {
    appraised: Arc<Appraised>,
    leaf: LeafBinding,
}

/// Why a peer's evidence is refused. Each message continues "the peer's evidence …" and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The identity is pinned nowhere.
    #[error("could be anything: the pins have no entry for this identity")]
    NoPin,
    /// The attestation result is not to be believed, or too old.
    #[error("is refused: the attestation token {0}")]
    Token(ear::Error),
    /// Something that must have been appraised was not.
    #[error("lacks a submod that its pin demands")]
    MissingSubmod,
    /// A verdict that is not good.
    #[error("has a verdict other than affirming: {0}")]
    Verdict(&'static str),
    /// Of Trustee's `sample` attester.
    #[error("is a sample's, which attests nothing")]
    Sample,
    /// A verdict by a policy that is not listed, or by none.
    #[error("was judged by a policy that is not in `policy_ids`")]
    Policy,
    /// No digest of an initdata.
    #[error("says nothing of its initdata")]
    NoInitData,
    /// Another initdata.
    #[error("is of an initdata that is not pinned for this identity")]
    InitData,
    /// Does not say on which machine.
    #[error("does not say on which machine it was made")]
    NoHardware,
    /// On another machine.
    #[error("was made on a machine that is not pinned for this identity")]
    Hardware,
    /// Its configuration is too old, or is not in its initdata.
    #[error("shows no configuration with a `serial` of `min_serial` or more")]
    Serial,
    /// Not the statement for this connection.
    #[error("is not for this connection: the statement {0}")]
    Statement(statement::Error),
    /// Not signed by the attested key.
    #[error("is not its own: the statement is not signed by the attested key")]
    Signature,
    /// The hardware does not vouch for it.
    #[error("is not vouched for by its hardware now: the fresh report {0}")]
    Fresh(FreshError),
}

/// Judges an attestation result for one identity.
pub fn evidence(token: &str, expected: &Expected<'_>) -> Result<Appraised, Error> {
    let pin = expected.pins.of(expected.peer).ok_or(Error::NoPin)?;
    let unverified = EarToken::parse(token).map_err(Error::Token)?;
    // Which key was attested, the token alone says. That it is the peer's, its signature will show.
    let claimed = unverified.claims_unverified().map_err(Error::Token)?;
    let key = &claimed.cpu().runtime.as_ref().ok_or(Error::Token(ear::Error::NoRuntimeData))?.tee_pubkey;
    let signer = Signer::EndorsedBy(expected.token_roots);
    let freshness = Freshness::MaxAge(expected.max_age);
    let verified = unverified
        .verify(&ExpectedToken { signer, now: expected.now, tee_pubkey: key, freshness })
        .map_err(Error::Token)?;
    let claims = verified.claims();
    if !pin.submods.iter().all(|name| claims.submods.contains_key(name)) {
        return Err(Error::MissingSubmod);
    }
    for submod in claims.submods.values() {
        verdict(submod, expected.pins)?;
    }
    let init_data = init_data(claims.cpu(), pin)?;
    serial(claims.cpu(), pin)?;
    // What has no machine of its own (a device) is on the CPU's.
    let cpus = claims.submods.iter().filter(|(name, _)| name.starts_with("cpu"));
    cpus.map(|(_, submod)| submod).try_for_each(|submod| hardware(submod, &pin.hardware))?;
    // The token's leeway is for clocks that differ; a connection needs a moment at which it ends.
    let until = claims.issued_at.saturating_add(expected.max_age.as_secs());
    if expected.now >= until {
        return Err(Error::Token(ear::Error::Expired));
    }
    let hardware = machine(claims.cpu()).next();
    Ok(Appraised { ear: token.into(), peer: expected.peer.clone(), key: key.clone(), init_data, hardware, until })
}

/// Judges the word of a peer whose attestation result is good: that it is for this connection, and
/// signed by the attested key. `expected` is made by us, from what we have seen of the connection.
pub fn channel(
    appraised: &Arc<Appraised>,
    stated: &[u8],
    signature: &[u8; 64],
    expected: &Statement,
) -> Result<Proven, Error> {
    Statement::parse(stated).and_then(|stated| stated.is(expected)).map_err(Error::Statement)?;
    if !appraised.has_signed(&expected.signing_input(), signature) {
        return Err(Error::Signature);
    }
    Ok(Proven { appraised: Arc::clone(appraised), leaf: expected.leaf })
}

fn verdict(submod: &Submod, pins: &Pins) -> Result<(), Error> {
    match submod.status {
        Status::Affirming => {}
        Status::None => return Err(Error::Verdict("none")),
        Status::Warning => return Err(Error::Verdict("warning")),
        Status::Contraindicated => return Err(Error::Verdict("contraindicated")),
    }
    // A policy can be made to affirm a sample; its evidence is still nobody's.
    if submod.is_sample() {
        return Err(Error::Sample);
    }
    let known = submod.policy_id.as_deref().is_some_and(|id| pins.accepts_policy(id));
    if known { Ok(()) } else { Err(Error::Policy) }
}

fn init_data(cpu: &Submod, pin: &Pin) -> Result<Vec<u8>, Error> {
    let value = cpu.init_data.as_deref().and_then(hex::decode).filter(|value| matches!(value.len(), 32 | 48 | 64));
    let field = LaunchField { name: "init_data", value: value.ok_or(Error::NoInitData)? };
    if !field.is_set() {
        return Err(Error::NoInitData);
    }
    if pin.init_data.iter().any(|digest| field.holds(digest).is_ok()) { Ok(field.value) } else { Err(Error::InitData) }
}

/// The `serial` of the configuration in the peer's initdata, which the verifier has held to the digest.
fn serial(cpu: &Submod, pin: &Pin) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Peek {
        serial: u64,
    }
    let Some(least) = pin.min_serial else { return Ok(()) };
    let text = cpu.init_data_claims.as_ref().and_then(|claims| claims.get("countersign.toml")?.as_str());
    let peek = text.and_then(|text| toml::from_str::<Peek>(text).ok());
    if peek.is_some_and(|peek| peek.serial >= least) { Ok(()) } else { Err(Error::Serial) }
}

fn hardware(cpu: &Submod, pinned: &Hardware) -> Result<(), Error> {
    let Hardware::Listed(ids) = pinned else { return Ok(()) };
    let mut said = machine(cpu).filter_map(|bytes| HardwareId::new(&bytes)).peekable();
    if said.peek().is_none() {
        return Err(Error::NoHardware);
    }
    // Whoever pins a machine may know it by any of its names.
    if said.any(|id| ids.contains(&id)) { Ok(()) } else { Err(Error::Hardware) }
}

/// On which machine it was made: each of its ids that the evidence says, as wide as it says them. None, where it
/// does not say, or what it says is no id: zeros are what a machine shows that hides which one it is.
fn machine(cpu: &Submod) -> impl Iterator<Item = Vec<u8>> + '_ {
    let said = HARDWARE.iter().filter_map(|(tee, member)| cpu.evidence.get(*tee)?.get(*member)?.as_str());
    said.filter_map(hex::decode).filter(|bytes| HardwareId::new(bytes).is_some())
}

impl Appraised {
    /// The attestation result itself.
    pub fn ear(&self) -> &str {
        &self.ear
    }

    /// Whose it is.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The digest of its initdata, as wide as the hardware's field. For audits: members know it.
    pub fn init_data(&self) -> &[u8] {
        &self.init_data
    }

    /// On which machine it was made, where it says so. For audits that configuration asks for: a machine's
    /// id is private.
    pub fn hardware(&self) -> Option<&[u8]> {
        self.hardware.as_deref()
    }

    /// From when on it is too old, seconds since 1970.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Whether its key has signed this, ES256, r then s.
    pub(super) fn has_signed(&self, input: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verifies_es256(input, signature)
    }
}

impl Proven {
    /// The attestation result, as it was judged.
    pub fn appraised(&self) -> &Arc<Appraised> {
        &self.appraised
    }

    /// The certificate that the proof is for.
    pub fn leaf(&self) -> LeafBinding {
        self.leaf
    }
}

/// Neither shows what the token says: machines and initdata are for members.
impl fmt::Debug for Appraised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appraised").field("peer", &self.peer).field("until", &self.until).finish_non_exhaustive()
    }
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proven").field(&self.appraised).finish()
    }
}

#[cfg(test)]
mod tests;

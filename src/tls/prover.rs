//! What this guest shows to peers that demand evidence: its attestation result, and its word, signed by
//! the key that was attested.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::leaf::Leaf;
use super::reports::Reports;
use crate::formats::delivery::{Receipt, Signed};
use crate::formats::ear::{EarToken, Status};
use crate::formats::frames::{MAX_EVIDENCE, SIGNATURE};
use crate::formats::jwk::EcPublicJwk;
use crate::formats::statement::{LeafBinding, Purpose, Statement};
use crate::secret::Secret;

/// Why this guest has nothing to show. Each message continues "this guest's attestation result …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than a peer takes.
    #[error("is longer than 256 KiB, which is all that a peer takes")]
    TooLong,
    /// It does not parse, or has no key in it.
    #[error("cannot be read")]
    Unreadable,
    /// It is for another key than the one at hand.
    #[error("is for another key than the attested one")]
    OtherKey,
    /// The key cannot sign.
    #[error("comes with a key that cannot sign (only P-256 can)")]
    Key,
    /// Our own certificate names nobody.
    #[error("belongs to a certificate without names")]
    Leaf,
}

/// One epoch's attestation result and key. The key only ever signs: nothing gives it away again.
pub struct Attested {
    ear: Zeroizing<String>,
    key: EcdsaKeyPair,
    verdict: Status,
    issued_at: u64,
    reports: Option<Arc<Reports>>,
}

/// The same, for the certificate that peers are shown beside it.
pub struct Prover {
    attested: Attested,
    leaf: LeafBinding,
}

/// What goes to a peer.
pub struct Proof {
    /// The statement's canonical bytes.
    pub statement: Vec<u8>,
    /// Its signature, r then s.
    pub signature: [u8; SIGNATURE],
    /// The hardware's fresh report over it, where one was asked for.
    pub report: Option<Vec<u8>>,
}

/// Why a peer is shown nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unshown {
    /// There is no fresh report to be had, and one is demanded.
    NoReport,
    /// There is no randomness to sign with.
    NoSignature,
}

impl Attested {
    /// Of an attestation result and the key that it names (PKCS#8). `reports`: where peers that demand the
    /// hardware's own word get it from.
    pub fn new(ear: Zeroizing<String>, key: &Secret, reports: Option<Arc<Reports>>) -> Result<Self, Error> {
        if ear.len() > MAX_EVIDENCE {
            return Err(Error::TooLong);
        }
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.expose()).map_err(|_| Error::Key)?;
        let public = EcPublicJwk::from_point(key.public_key().as_ref()).map_err(|_| Error::Key)?;
        // Ours, from the KBS itself: nothing is decided by it but whether peers could use it.
        let claims =
            EarToken::parse(&ear).and_then(|token| token.claims_unverified()).map_err(|_| Error::Unreadable)?;
        let attested = &claims.cpu().runtime.as_ref().ok_or(Error::Unreadable)?.tee_pubkey;
        if !attested.is_same_key(&public) {
            return Err(Error::OtherKey);
        }
        Ok(Self { key, verdict: claims.worst(), issued_at: claims.issued_at, ear, reports })
    }

    /// The attestation result: for peers that are known, and for nobody else.
    pub fn ear(&self) -> &str {
        &self.ear
    }

    /// States this, by the key alone. `None` where there is no randomness to sign with.
    pub fn word(&self, statement: &Statement) -> Option<Proof> {
        let signature = self.sign(&statement.signing_input())?;
        Some(Proof { statement: statement.canonical(), signature, report: None })
    }

    /// States this; with `report`, in the hardware's words too.
    pub async fn state(&self, statement: &Statement, report: bool) -> Result<Proof, Unshown> {
        let report = match (report, &self.reports) {
            (false, _) => None,
            (true, None) => return Err(Unshown::NoReport),
            // Why not is in the log.
            (true, Some(from)) => Some(from.make(statement.report_data()).await.map_err(|_| Unshown::NoReport)?),
        };
        let word = self.word(statement).ok_or(Unshown::NoSignature)?;
        Ok(Proof { report, ..word })
    }

    /// Only what begins with words of our own: the same key signs handshakes and certificates.
    fn sign(&self, input: &[u8]) -> Option<[u8; SIGNATURE]> {
        self.key.sign(&SystemRandom::new(), input).ok()?.as_ref().try_into().ok()
    }
}

impl Prover {
    /// Of an attestation result and the key that it names (PKCS#8), for connections on which `leaf` is
    /// shown.
    pub fn new(
        ear: Zeroizing<String>,
        key: &Secret,
        leaf: &Leaf,
        reports: Option<Arc<Reports>>,
    ) -> Result<Self, Error> {
        let attested = Attested::new(ear, key, reports)?;
        Ok(Self { attested, leaf: leaf.binding().ok_or(Error::Leaf)? })
    }

    /// The attestation result: for peers that are known, and for nobody else.
    pub fn ear(&self) -> &str {
        self.attested.ear()
    }

    /// When the attestation result was issued, seconds since 1970: peers refuse it when it is too old.
    pub fn issued_at(&self) -> u64 {
        self.attested.issued_at
    }

    /// Whether the verifier's verdict is good. Peers refuse any other.
    pub fn is_affirming(&self) -> bool {
        self.attested.verdict == Status::Affirming
    }

    /// States to whoever sent `nonce`, on the session that exports `exporter` for it, that it is us; with
    /// `report`, in the hardware's words too.
    pub async fn prove(
        &self,
        purpose: Purpose,
        (nonce, exporter): ([u8; 32], [u8; 32]),
        report: bool,
    ) -> Result<Proof, Unshown> {
        self.attested.state(&Statement { purpose, leaf: self.leaf, nonce, exporter }, report).await
    }

    /// Signs a receipt, for whoever is a reader. `None` where there is no randomness to sign with.
    pub fn receipt(&self, receipt: Receipt) -> Option<Signed> {
        let signature = self.attested.sign(&receipt.signing_input())?;
        Some(Signed { receipt, signature, ear: self.ear().to_owned() })
    }
}

/// Says that there is one.
impl fmt::Debug for Prover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prover")
    }
}

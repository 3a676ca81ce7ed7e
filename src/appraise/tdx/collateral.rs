//! Intel's collateral: what Intel says of a platform's TCB, signed by Intel, from a file or a PCCS.
//!
//! `dcap-qvl` judges it, with our cryptography. Its messages quote what it read, so they are put into
//! words of our own; what is not among them is told as "does not fit".

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::intel::parse_pck_extension_with;
use dcap_qvl::verify::QuoteVerifier;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use super::{Error, Platform};
use crate::evidence::tdx::Quote;
use crate::finding::printable;

/// Most bytes of collateral, 1 MiB: real ones have 16 KiB. A bound of ours.
pub const MAX_COLLATERAL: usize = 1024 * 1024;

/// Most advisories that are repeated. Intel names a handful.
const MAX_ADVISORIES: usize = 32;

/// Collateral in the JSON form of dcap-qvl: eight members that are Intel's answers, and perhaps
/// `pck_certificate_chain`.
#[derive(Clone)]
pub struct Collateral(QuoteCollateralV3);

/// What Intel says of a TCB, best first. Words are Intel's (PCS API, `tcbStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcbStatus {
    /// Nothing to do.
    UpToDate,
    /// Software in the guest has to take care of something.
    SwHardeningNeeded,
    /// The platform is to be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSwHardeningNeeded,
    /// The module was updated since; the guest should be started again.
    TdRelaunchAdvised,
    /// And the platform is to be configured otherwise.
    TdRelaunchAdvisedConfigurationNeeded,
    /// Updates are missing.
    OutOfDate,
    /// And the platform is to be configured otherwise.
    OutOfDateConfigurationNeeded,
}

/// All of them, with Intel's words. `Revoked` is not among them: it is a refusal.
const STATUSES: [(TcbStatus, &str); 8] = [
    (TcbStatus::UpToDate, "UpToDate"),
    (TcbStatus::SwHardeningNeeded, "SWHardeningNeeded"),
    (TcbStatus::ConfigurationNeeded, "ConfigurationNeeded"),
    (TcbStatus::ConfigurationAndSwHardeningNeeded, "ConfigurationAndSWHardeningNeeded"),
    (TcbStatus::TdRelaunchAdvised, "TDRelaunchAdvised"),
    (TcbStatus::TdRelaunchAdvisedConfigurationNeeded, "TDRelaunchAdvisedConfigurationNeeded"),
    (TcbStatus::OutOfDate, "OutOfDate"),
    (TcbStatus::OutOfDateConfigurationNeeded, "OutOfDateConfigurationNeeded"),
];

/// dcap-qvl's messages for what has a word of our own. Compared whole, at any depth of the error.
const REASONS: [(&str, Error); 11] = [
    ("TCBInfo expired", Error::CollateralExpired),
    ("QE Identity expired", Error::CollateralExpired),
    ("TCBInfo issue date is in the future", Error::CollateralEarly),
    ("QE Identity issue date is in the future", Error::CollateralEarly),
    ("Fmspc mismatch", Error::CollateralOther),
    ("TCB status is invalid: Revoked", Error::Revoked),
    ("No matching TCB level found", Error::TcbUnknown),
    ("TD migration is enabled", Error::Attributes),
    ("SERVTD_EXT is enabled", Error::Attributes),
    ("SEPT_VE_DISABLE is not enabled", Error::Attributes),
    ("Reserved bits in TD attributes are set", Error::Attributes),
];

pub(super) struct Judged {
    pub(super) status: TcbStatus,
    pub(super) advisories: Vec<String>,
}

impl TcbStatus {
    /// Intel's word.
    pub fn label(self) -> &'static str {
        STATUSES.iter().find(|(status, _)| *status == self).map_or("unknown", |(_, label)| label)
    }

    /// By Intel's word, exactly.
    pub fn parse(word: &str) -> Option<Self> {
        STATUSES.iter().find(|(_, label)| *label == word).map(|(status, _)| *status)
    }

    /// Every word, for a message that helps.
    pub fn labels() -> [&'static str; 8] {
        STATUSES.map(|(_, label)| label)
    }
}

impl Collateral {
    /// Reads the JSON form. `None` for anything else, and over [`MAX_COLLATERAL`].
    pub fn parse(json: &[u8]) -> Option<Self> {
        if json.len() > MAX_COLLATERAL {
            return None;
        }
        serde_json::from_slice(json).ok().map(Self)
    }

    /// Its PCK certificate chain, PEM, for quotes that only name it.
    pub(super) fn pck_chain(&self) -> Option<&[u8]> {
        self.0.pck_certificate_chain.as_deref().map(str::as_bytes)
    }

    /// What it says of a quote whose signatures hold already. The library checks them once more.
    pub(super) fn judge(&self, quote: &Quote, raw: &[u8], root: &[u8], now: u64) -> Result<Judged, Error> {
        // The quote without the padding of the service that handed it on.
        let exact = quote.to_bytes();
        if !raw.starts_with(&exact) {
            return Err(Error::Form);
        }
        // Debug guests and service guests are judged where expectations are. A TD that can be migrated it refuses.
        let verifier = QuoteVerifier::<Ours>::new_with_config(root.to_vec()).allow_debug(true).allow_service_td(true);
        match verifier.verify(&exact, &self.0, now) {
            Ok(report) => {
                let status = TcbStatus::parse(&report.status).ok_or(Error::TcbUnknown)?;
                let mut advisories = report.advisory_ids;
                advisories.sort();
                advisories.dedup();
                advisories.truncate(MAX_ADVISORIES);
                Ok(Judged { status, advisories: advisories.iter().map(|id| printable(id, 40)).collect() })
            }
            Err(error) => Err(reason(error.chain().map(ToString::to_string))),
        }
    }
}

/// The machine that a PCK certificate (DER) is for. Its chain is whoever asks's to check.
pub(super) fn platform(pck: &[u8]) -> Option<Platform> {
    let found = parse_pck_extension_with::<Ours>(pck).ok()?;
    Some(Platform { provider: found.ppid, instance: found.platform_instance_id })
}

fn reason(mut messages: impl Iterator<Item = String>) -> Error {
    messages
        .find_map(|message| {
            let known = REASONS.iter().find(|(text, _)| *text == message).map(|(_, error)| *error);
            // The words of webpki for what its lists and dates say.
            let by_webpki = || match message.split([' ', '{', '(']).next().unwrap_or_default() {
                "CertRevoked" => Some(Error::Revoked),
                "CrlExpired" | "CertExpired" => Some(Error::CollateralExpired),
                "CertNotValidYet" => Some(Error::CollateralEarly),
                _ => None,
            };
            known.or_else(by_webpki)
        })
        .unwrap_or(Error::CollateralInvalid)
}

impl std::fmt::Debug for Collateral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collateral").finish_non_exhaustive()
    }
}

/// dcap-qvl's parts, with aws-lc-rs in place of its own cryptography.
struct Ours;

impl Config for Ours {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for Ours {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        // SHA-256 has 32 bytes; zeros are no hash of anything.
        digest(&SHA256, data).as_ref().try_into().unwrap_or([0; 32])
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        digest(&SHA384, data).as_ref().try_into().unwrap_or([0; 48])
    }
}

/// The one algorithm of Intel's certificates, lists and collateral.
#[derive(Debug)]
struct EcdsaP256;

impl SignatureVerificationAlgorithm for EcdsaP256 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_intels_is_read_and_written() {
        for label in TcbStatus::labels() {
            assert_eq!(TcbStatus::parse(label).map(TcbStatus::label), Some(label));
        }
        for word in ["Revoked", "uptodate", "", "UpToDate "] {
            assert_eq!(TcbStatus::parse(word), None, "{word}");
        }
    }

    #[test]
    fn messages_become_reasons_and_unknown_ones_a_refusal() {
        let of = |messages: &[&str]| reason(messages.iter().map(ToString::to_string));
        assert_eq!(of(&["TCBInfo expired"]), Error::CollateralExpired);
        assert_eq!(of(&["Failed to verify certificate chain", "CertRevoked"]), Error::Revoked);
        assert_eq!(of(&["Failed to verify certificate chain", "CrlExpired { time: 1 }"]), Error::CollateralExpired);
        assert_eq!(of(&["Failed to validate attributes", "TD migration is enabled"]), Error::Attributes);
        assert_eq!(of(&["SEPT_VE_DISABLE is not enabled"]), Error::Attributes);
        assert_eq!(of(&["something new"]), Error::CollateralInvalid);
        assert_eq!(of(&[]), Error::CollateralInvalid);
    }

    #[test]
    fn what_is_no_collateral_is_refused() {
        for text in ["", "{}", "[]", r#"{"tcb_info":"{}"}"#] {
            assert!(Collateral::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Collateral::parse(&vec![b' '; MAX_COLLATERAL + 1]).is_none());
    }
}

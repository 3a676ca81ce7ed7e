//! What a TDX quote's signature is made of: the quote's own signature and key, and the quoting
//! enclave's report that vouches for the key.
//!
//! Layout: Intel "DCAP Quote Generation Library" specification, appendix A.4 (ECDSA signature data),
//! certification data of type 6 around one of type 5. Believed only after it is checked.

use super::bytes::{array, slice, u16_at, u32_at};

/// Bytes of an enclave's report.
pub const QE_REPORT: usize = 384;

/// Certification data that holds the quoting enclave's report.
const TYPE_QE_REPORT: u16 = 6;

/// Certification data that holds the PCK certificate's chain, PEM, leaf first.
const TYPE_PCK_CHAIN: u16 = 5;

/// The parts of a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct QuoteSignature<'a> {
    /// By the attestation key over header and body: ECDSA P-256, r then s.
    pub signature: [u8; 64],
    /// The attestation key: a point of P-256, x then y.
    pub attestation_key: [u8; 64],
    /// The quoting enclave's report; its report data is over the key.
    pub qe_report: &'a [u8],
    /// By the PCK over that report.
    pub qe_report_signature: [u8; 64],
    /// What the quoting enclave hashed beside the key.
    pub qe_auth_data: &'a [u8],
    /// The PCK certificate and those above it, PEM. None where the quote has the certificate's name only.
    pub pck_chain: Option<&'a [u8]>,
}

impl<'a> QuoteSignature<'a> {
    /// Takes the signature of a quote of version 4 or 5 apart. `None` for every other form.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let qe = certification(bytes, 128, TYPE_QE_REPORT)??;
        let auth_len = u16_at(qe, QE_REPORT + 64)?;
        let auth_at = QE_REPORT + 66;
        let qe_auth_data = slice(qe, auth_at, u32::from(auth_len))?;
        Some(Self {
            signature: array(bytes, 0)?,
            attestation_key: array(bytes, 64)?,
            qe_report: qe.get(..QE_REPORT)?,
            qe_report_signature: array(qe, QE_REPORT)?,
            qe_auth_data,
            pck_chain: certification(qe, auth_at.checked_add(qe_auth_data.len())?, TYPE_PCK_CHAIN)?,
        })
    }

    /// `MRSIGNER` of the quoting enclave (offset 128 of its report).
    pub fn qe_signer(&self) -> Option<[u8; 32]> {
        array(self.qe_report, 128)
    }

    /// `ISVPRODID` of the quoting enclave (offset 256).
    pub fn qe_product(&self) -> Option<u16> {
        u16_at(self.qe_report, 256)
    }

    /// Whether the quoting enclave is a debug enclave (`ATTRIBUTES`, offset 48, bit 1), whose key is
    /// nobody's secret.
    pub fn qe_debug(&self) -> bool {
        self.qe_report.get(48).is_none_or(|flags| flags & 2 != 0)
    }

    /// `REPORTDATA` of the quoting enclave (offset 320).
    pub fn qe_report_data(&self) -> Option<[u8; 64]> {
        array(self.qe_report, 320)
    }
}

/// The certification data at `at`: type 2, size 4, content. Inner `None` for another type; outer where
/// the bytes end before it does.
#[allow(clippy::option_option)] // Another type and no data are two things.
fn certification(bytes: &[u8], at: usize, expected: u16) -> Option<Option<&[u8]>> {
    let found = u16_at(bytes, at)?;
    let size = u32_at(bytes, at.checked_add(2)?)?;
    let content = slice(bytes, at.checked_add(6)?, size)?;
    Some((found == expected).then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(outer: u16, inner: u16) -> Vec<u8> {
        let chain = b"chain";
        let mut qe = vec![7; QE_REPORT + 64];
        qe.extend([3, 0, 1, 2, 3]);
        qe.extend(inner.to_le_bytes());
        qe.extend(5_u32.to_le_bytes());
        qe.extend(chain);
        let mut bytes = vec![9; 128];
        bytes.extend(outer.to_le_bytes());
        bytes.extend(u32::try_from(qe.len()).unwrap().to_le_bytes());
        [bytes, qe].concat()
    }

    #[test]
    fn the_parts_of_a_signature_are_found() {
        let bytes = sample(6, 5);
        let parts = QuoteSignature::parse(&bytes).unwrap();
        assert_eq!((parts.qe_auth_data, parts.pck_chain), (&[1, 2, 3][..], Some(&b"chain"[..])));
        assert!(parts.qe_debug());
    }

    #[test]
    fn other_certification_data_is_told_apart() {
        assert!(QuoteSignature::parse(&sample(5, 5)).is_none());
        assert_eq!(QuoteSignature::parse(&sample(6, 3)).unwrap().pck_chain, None);
    }

    proptest! {
        #[test]
        fn a_signature_cut_anywhere_is_refused(len in 0_usize..600) {
            let bytes = sample(6, 5);
            prop_assert!(len >= bytes.len() || QuoteSignature::parse(&bytes[..len]).is_none());
        }

        #[test]
        fn any_bytes_are_a_signature_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = QuoteSignature::parse(&bytes);
        }
    }
}

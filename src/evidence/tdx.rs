//! TDX quotes, versions 4 and 5, from their raw bytes.
//!
//! Offsets are those of Intel's "DCAP Quote Generation Library" specification, appendix A.3 and A.4:
//! a header of 48 bytes, then the TD report body (version 5 puts its type and size in front), then
//! the signature with its length. Believed only after that signature is checked.

use std::fmt;

use super::bytes::{array, put, slice, u16_at, u32_at};

/// Bytes of the header.
const HEADER: usize = 48;

/// Bytes of a TD report body of TDX 1.0.
const BODY_10: usize = 584;

/// Bytes of a TD report body of TDX 1.5: `tee_tcb_svn2` and `mr_servicetd` more.
const BODY_15: usize = 648;

/// Body type of version 5 for TDX 1.0.
const TYPE_10: u16 = 2;

/// Body type of version 5 for TDX 1.5.
const TYPE_15: u16 = 3;

/// `tee_type` of a TDX quote; 0 is SGX.
const TEE_TYPE_TDX: u32 = 0x81;

/// Most bytes of a quote, 64 KiB: real ones have about 5 KiB. The kernel's interface gives what the
/// host gave it, so this is a bound of ours.
pub const MAX_LEN: usize = 64 * 1024;

/// Why bytes are no TDX quote. Each message continues "the quote …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No bytes at all, which is how a failing quote service looks.
    #[error("is empty: the host's quote generation service gave nothing")]
    Empty,
    /// Over [`MAX_LEN`].
    #[error("is longer than 65536 bytes")]
    TooLong,
    /// Ends before its own fields do.
    #[error("ends in the middle of a field")]
    Truncated,
    /// A version before 4 or after 5.
    #[error("has version {0}; known are 4 and 5")]
    Version(u16),
    /// Of another kind of TEE.
    #[error("is of another kind of TEE than TDX")]
    TeeType,
    /// Version 5 with a body that is neither TDX 1.0's nor 1.5's.
    #[error("has body type {0}; known are 2 (TDX 1.0) and 3 (TDX 1.5)")]
    BodyType(u16),
    /// The body's size is not its type's.
    #[error("has a body size that is not its type's")]
    BodySize,
}

/// A quote, taken apart as far as the body. The signature is for the verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Quote {
    /// 4 or 5.
    pub version: u16,
    /// 2 is ECDSA P-256, 3 ECDSA P-384.
    pub attestation_key_type: u16,
    /// Four bytes that version 5 reserves and version 4 gave to security version numbers.
    pub reserved: [u8; 4],
    /// Vendor of the quoting enclave; Intel's is 939a7233-f79c-4ca9-940a-0db3957f0607.
    pub qe_vendor_id: [u8; 16],
    /// The quoting enclave's own data; the first 16 bytes name the platform.
    pub user_data: [u8; 20],
    /// What the TDX module said of the guest.
    pub body: Body,
    /// The signature, the attestation key and the certificates that vouch for it.
    pub signature: Vec<u8>,
}

/// What the TDX module said of the guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// TCB of the TDX module.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel.
    pub mrsigner_seam: [u8; 48],
    /// Attributes of the TDX module; zero in production.
    pub seam_attributes: [u8; 8],
    /// Attributes of the guest: see [`Body::debug`] and [`Body::migratable`].
    pub td_attributes: [u8; 8],
    /// Processor features that the guest may use.
    pub xfam: [u8; 8],
    /// Measurement of the initial memory.
    pub mr_td: [u8; 48],
    /// What the host committed to at launch: the initdata's digest, cut or padded to 48 bytes.
    pub mr_config_id: [u8; 48],
    /// Owner, as the host named him.
    pub mr_owner: [u8; 48],
    /// The owner's configuration, as the host named it.
    pub mr_owner_config: [u8; 48],
    /// Runtime measurement registers 0 to 3.
    pub rtmr: [[u8; 48]; 4],
    /// What the guest asked to have signed.
    pub report_data: [u8; 64],
    /// What TDX 1.5 adds. Present only in a quote of version 5 with a body of type 3.
    pub v15: Option<V15>,
}

/// What a body of TDX 1.5 has more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V15 {
    /// TCB of the TDX module that runs now, after updates.
    pub tee_tcb_svn2: [u8; 16],
    /// Measurement of the service guest that is bound to this one.
    pub mr_servicetd: [u8; 48],
}

impl Quote {
    /// Reads a quote. Total: any bytes give a quote or an error.
    ///
    /// What follows the signature is ignored: quote services hand on a buffer that is longer than
    /// the quote.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        if bytes.len() > MAX_LEN {
            return Err(Error::TooLong);
        }
        let version = u16_at(bytes, 0).ok_or(Error::Truncated)?;
        let attestation_key_type = u16_at(bytes, 2).ok_or(Error::Truncated)?;
        let tee_type = u32_at(bytes, 4).ok_or(Error::Truncated)?;
        if !matches!(version, 4 | 5) {
            return Err(Error::Version(version));
        }
        if tee_type != TEE_TYPE_TDX {
            return Err(Error::TeeType);
        }
        let (at, size) = body_place(bytes, version)?;
        let end = at.saturating_add(size);
        let body = bytes.get(at..end).and_then(Body::from_bytes).ok_or(Error::Truncated)?;
        let length = u32_at(bytes, end).ok_or(Error::Truncated)?;
        let signature = slice(bytes, end.saturating_add(4), length).ok_or(Error::Truncated)?.to_vec();
        Ok(Self {
            version,
            attestation_key_type,
            reserved: array(bytes, 8).ok_or(Error::Truncated)?,
            qe_vendor_id: array(bytes, 12).ok_or(Error::Truncated)?,
            user_data: array(bytes, 28).ok_or(Error::Truncated)?,
            body,
            signature,
        })
    }

    /// The bytes that the signature covers: header, body, and in version 5 what stands between.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        put(&mut out, 0, &self.version.to_le_bytes());
        put(&mut out, 2, &self.attestation_key_type.to_le_bytes());
        put(&mut out, 4, &TEE_TYPE_TDX.to_le_bytes());
        put(&mut out, 8, &self.reserved);
        put(&mut out, 12, &self.qe_vendor_id);
        put(&mut out, 28, &self.user_data);
        let body = self.body.to_bytes();
        if self.version >= 5 {
            let body_type = if self.body.v15.is_some() { TYPE_15 } else { TYPE_10 };
            out.extend_from_slice(&body_type.to_le_bytes());
            out.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_le_bytes());
        }
        out.extend_from_slice(&body);
        out
    }

    /// The whole quote, the inverse of [`Quote::parse`]. A body of TDX 1.5 has no place in version
    /// 4: what is written then does not parse.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.signed_bytes();
        out.extend_from_slice(&u32::try_from(self.signature.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&self.signature);
        out
    }
}

/// Where the body starts, and how long it is.
fn body_place(bytes: &[u8], version: u16) -> Result<(usize, usize), Error> {
    if version == 4 {
        // Version 4 has TDX 1.0's body, also on modules of TDX 1.5.
        return Ok((HEADER, BODY_10));
    }
    let body_type = u16_at(bytes, HEADER).ok_or(Error::Truncated)?;
    let size = u32_at(bytes, HEADER + 2).ok_or(Error::Truncated)?;
    let expected = match body_type {
        TYPE_10 => BODY_10,
        TYPE_15 => BODY_15,
        other => return Err(Error::BodyType(other)),
    };
    if usize::try_from(size) == Ok(expected) { Ok((HEADER + 6, expected)) } else { Err(Error::BodySize) }
}

impl Body {
    /// Reads a body whose length is already that of its type.
    fn from_bytes(b: &[u8]) -> Option<Self> {
        let v15 = match b.len() {
            BODY_15 => Some(V15 { tee_tcb_svn2: array(b, 584)?, mr_servicetd: array(b, 600)? }),
            _ => None,
        };
        Some(Self {
            tee_tcb_svn: array(b, 0)?,
            mr_seam: array(b, 16)?,
            mrsigner_seam: array(b, 64)?,
            seam_attributes: array(b, 112)?,
            td_attributes: array(b, 120)?,
            xfam: array(b, 128)?,
            mr_td: array(b, 136)?,
            mr_config_id: array(b, 184)?,
            mr_owner: array(b, 232)?,
            mr_owner_config: array(b, 280)?,
            rtmr: [array(b, 328)?, array(b, 376)?, array(b, 424)?, array(b, 472)?],
            report_data: array(b, 520)?,
            v15,
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; if self.v15.is_some() { BODY_15 } else { BODY_10 }];
        let b = out.as_mut_slice();
        put(b, 0, &self.tee_tcb_svn);
        put(b, 16, &self.mr_seam);
        put(b, 64, &self.mrsigner_seam);
        put(b, 112, &self.seam_attributes);
        put(b, 120, &self.td_attributes);
        put(b, 128, &self.xfam);
        put(b, 136, &self.mr_td);
        put(b, 184, &self.mr_config_id);
        put(b, 232, &self.mr_owner);
        put(b, 280, &self.mr_owner_config);
        put(b, 328, self.rtmr.as_flattened());
        put(b, 520, &self.report_data);
        if let Some(v15) = &self.v15 {
            put(b, 584, &v15.tee_tcb_svn2);
            put(b, 600, &v15.mr_servicetd);
        }
        out
    }

    /// Whether the guest is under debug, which keeps no secret from its host: any bit of the first byte, which Intel
    /// calls TUD. Bit 0 is DEBUG, 4 to 6 are kinds of profiling.
    pub fn debug(&self) -> bool {
        let [under_debug, ..] = self.td_attributes;
        under_debug != 0
    }

    /// Whether another guest may have a hand in this one: MIGRATABLE (bit 29 of the attributes), `SERVTD_EXT` (17), or
    /// a service guest that is bound to it. A guest with one has no body of TDX 1.0, which could not name it.
    pub fn migratable(&self) -> bool {
        let [_, _, third, fourth, ..] = self.td_attributes;
        let serviced = self.v15.as_ref().is_some_and(|v15| v15.mr_servicetd != [0; 48]);
        fourth & 0x20 != 0 || third & 0x02 != 0 || serviced
    }

    /// Whether Intel signed the TDX module, and it runs for production.
    pub fn is_of_intels_module(&self) -> bool {
        self.mrsigner_seam == [0; 48] && self.seam_attributes == [0; 8]
    }
}

/// Says which structure it is; the rest is for verifiers (`user_data` names the platform).
impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quote").field("version", &self.version).field("body", &self.body).finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("v15", &self.v15.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A quote of a version and body type, its fields filled from `fill`.
    fn quote(version: u16, body_len: usize, fill: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = fill.iter().copied().cycle().take(HEADER).collect();
        bytes[..2].copy_from_slice(&version.to_le_bytes());
        bytes[4..8].copy_from_slice(&TEE_TYPE_TDX.to_le_bytes());
        if version == 5 {
            let body_type = if body_len == BODY_15 { TYPE_15 } else { TYPE_10 };
            bytes.extend_from_slice(&body_type.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(body_len).unwrap().to_le_bytes());
        }
        bytes.extend(fill.iter().rev().copied().cycle().take(body_len));
        bytes.extend_from_slice(&u32::try_from(signature.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(signature);
        bytes
    }

    #[test]
    fn both_versions_and_both_bodies_are_read() {
        for (version, len) in [(4, BODY_10), (5, BODY_10), (5, BODY_15)] {
            let bytes = quote(version, len, &[1, 2, 3], b"signature");
            let read = Quote::parse(&bytes).unwrap();
            assert_eq!((read.version, read.body.v15.is_some()), (version, len == BODY_15));
            assert_eq!(read.signature, b"signature");
            assert_eq!(read.to_bytes(), bytes);
            assert_eq!(read.signed_bytes(), bytes[..bytes.len() - 13]);
        }
    }

    #[test]
    fn an_empty_quote_is_an_error_of_its_own() {
        assert_eq!(Quote::parse(b""), Err(Error::Empty));
    }

    #[test]
    fn other_versions_tees_and_bodies_are_refused() {
        let good = quote(5, BODY_15, &[0], b"");
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Quote::parse(&bytes)
        };
        assert_eq!(with(0, 3), Err(Error::Version(3)));
        assert_eq!(with(0, 6), Err(Error::Version(6)));
        assert_eq!(with(4, 0), Err(Error::TeeType));
        assert_eq!(with(48, 1), Err(Error::BodyType(1)));
        assert_eq!(with(48, 4), Err(Error::BodyType(4)));
        assert_eq!(with(48, 2), Err(Error::BodySize));
        assert_eq!(with(53, 1), Err(Error::BodySize));
        assert_eq!(Quote::parse(&vec![4; MAX_LEN + 1]), Err(Error::TooLong));
    }

    #[test]
    fn a_quote_cut_short_anywhere_is_refused() {
        for good in [quote(4, BODY_10, &[0], b"sig"), quote(5, BODY_15, &[0], b"sig")] {
            for len in 1..good.len() {
                assert_eq!(Quote::parse(&good[..len]), Err(Error::Truncated), "{len}");
            }
        }
    }

    #[test]
    fn padding_after_the_signature_is_ignored() {
        let good = quote(4, BODY_10, &[7], b"sig");
        assert_eq!(Quote::parse(&[&good[..], &[0; 70]].concat()), Quote::parse(&good));
    }

    /// A body with nothing but these attributes.
    fn with(attributes: u64) -> Body {
        let mut read = Quote::parse(&quote(5, BODY_15, &[0], b"")).unwrap().body;
        read.td_attributes = attributes.to_le_bytes();
        read
    }

    #[test]
    fn a_guest_under_debug_is_told() {
        // What Linux guests have: SEPT_VE_DISABLE, PKS, KL, PERFMON.
        assert!(!with(1 << 28 | 1 << 30 | 1 << 31 | 1 << 63).debug());
        for bit in 0..8 {
            assert!(with(1 << 28 | 1 << bit).debug(), "{bit}");
        }
    }

    #[test]
    fn a_guest_that_another_has_a_hand_in_is_told() {
        assert!(!with(1 << 28 | 1 << 16 | 1 << 18 | 1 << 27 | 1 << 30).migratable());
        assert!(with(1 << 29).migratable());
        assert!(with(1 << 17).migratable());
        let mut served = with(0);
        served.v15 = Some(V15 { tee_tcb_svn2: [0; 16], mr_servicetd: [1; 48] });
        assert!(served.migratable());
    }

    #[test]
    fn another_module_than_intels_is_told() {
        let mut body = with(0);
        assert!(body.is_of_intels_module());
        body.seam_attributes[0] = 1;
        assert!(!body.is_of_intels_module());
        let mut body = with(0);
        body.mrsigner_seam[47] = 1;
        assert!(!body.is_of_intels_module());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(
            kind in prop_oneof![Just((4, BODY_10)), Just((5, BODY_10)), Just((5, BODY_15))],
            fill in proptest::collection::vec(any::<u8>(), 1..700),
            signature in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = quote(kind.0, kind.1, &fill, &signature);
            prop_assert_eq!(Quote::parse(&bytes).unwrap().to_bytes(), bytes);
        }

        #[test]
        fn any_bytes_are_a_quote_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
            let _ = Quote::parse(&bytes);
        }

        #[test]
        fn a_quote_with_one_changed_byte_never_panics(at in 0_usize..700, byte in any::<u8>()) {
            let mut bytes = quote(5, BODY_15, &[0], b"signature");
            bytes[at] = byte;
            if let Ok(read) = Quote::parse(&bytes) {
                prop_assert!(bytes.starts_with(&read.to_bytes()));
            }
        }
    }
}

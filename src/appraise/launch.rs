//! Whether initdata is what the guest was launched with.
//!
//! The host gives the digest of the initdata to the hardware before the guest starts, in a field
//! that nothing can change later: `HOST_DATA` on SEV-SNP (32 bytes), `MRCONFIGID` on TDX (48), the
//! realm personalization value on Arm CCA (64). A longer digest is cut, a shorter one filled with
//! zeros (Kata, Trustee, guest components).

use std::fmt;

use crate::formats::hex;
use crate::formats::initdata::launch::fit;

/// The field of the hardware that holds the digest.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchField {
    /// As its maker calls it: `HOST_DATA`, `MRCONFIGID`.
    pub name: &'static str,
    /// Its content, as wide as the field.
    pub value: Vec<u8>,
}

/// The field holds another digest. Both are in hex, as wide as the field.
#[derive(Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The field's name.
    pub field: &'static str,
    /// What the hardware has.
    pub launched: String,
    /// What the initdata at hand would give.
    pub found: String,
    /// The field is all zeros: the guest was launched without initdata.
    pub none_at_launch: bool,
}

impl LaunchField {
    /// Whether the guest was launched with any initdata at all.
    pub fn is_set(&self) -> bool {
        self.value.iter().any(|byte| *byte != 0)
    }

    /// Holds a digest (32, 48 or 64 bytes) to the field.
    pub fn holds(&self, digest: &[u8]) -> Result<(), Mismatch> {
        let fitted = fit(digest, self.value.len());
        // A digest that is all zeros is no digest, and an unset field vouches for nothing.
        if self.is_set() && fitted == self.value {
            return Ok(());
        }
        Err(Mismatch {
            field: self.name,
            launched: hex::encode(&self.value),
            found: hex::encode(&fitted),
            none_at_launch: !self.is_set(),
        })
    }
}

impl fmt::Debug for LaunchField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.name, self.value.len())
    }
}

impl fmt::Debug for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mismatch").field("field", &self.field).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: &[u8]) -> LaunchField {
        LaunchField { name: "HOST_DATA", value: value.to_vec() }
    }

    #[test]
    fn a_digest_is_cut_or_filled_to_the_width_of_the_field() {
        let digest: Vec<u8> = (1..=48).collect();
        assert_eq!(field(&digest[..32]).holds(&digest), Ok(()), "sha384 on SEV-SNP");
        assert_eq!(field(&digest).holds(&digest), Ok(()), "sha384 on TDX");
        let padded = [&digest[..32], &[0; 16]].concat();
        assert_eq!(field(&padded).holds(&digest[..32]), Ok(()), "sha256 on TDX");
    }

    #[test]
    fn refused_digest_that_differs_in_one_bit() {
        let digest = [7; 48];
        let mut launched = [7; 32];
        launched[31] ^= 1;
        let mismatch = field(&launched).holds(&digest).unwrap_err();
        assert_eq!((mismatch.found, mismatch.none_at_launch), ("07".repeat(32), false));
        assert!(mismatch.launched.ends_with("06"));
        // A digest that only begins as the field does.
        assert!(field(&[7; 32]).holds(&[7; 31]).is_err());
    }

    #[test]
    fn refused_field_that_was_never_set() {
        assert!(field(&[0; 32]).holds(&[0; 32]).unwrap_err().none_at_launch);
        assert!(field(&[]).holds(&[]).is_err());
    }
}

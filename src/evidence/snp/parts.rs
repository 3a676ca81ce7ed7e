//! The parts of a report, and what decides their layout.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// CPUID family of Turin, from which on a TCB has a fifth part (ABI §2.2).
const FAMILY_TURIN: u8 = 0x1a;

/// Bytes of a chip id on Turin; the other 56 of the field are zero (ABI table 23).
const TURIN_CHIP_ID: usize = 8;

/// Security version numbers of the platform's parts (ABI §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcb {
    /// Firmware of the measurement coprocessor. Turin has it, earlier lines do not; it also decides
    /// the layout of the eight bytes.
    pub fmc: Option<u8>,
    /// Boot loader.
    pub bootloader: u8,
    /// TEE firmware.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// Version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareVersion {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// ECDSA P-384, both numbers little-endian and padded with zeros to 72 bytes (ABI table 137).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// r.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub r: [u8; 72],
    /// s.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub s: [u8; 72],
}

/// The line of processors. It decides which of AMD's root keys signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Third generation EPYC.
    Milan,
    /// Fourth generation EPYC (Genoa, Bergamo, Siena).
    Genoa,
    /// Fifth generation EPYC.
    Turin,
}

impl Generation {
    /// By CPUID family and model, with the bounds of Trustee's verifier (v0.21, `verifier/src/snp`):
    /// what it does not know it refuses.
    pub fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xae) => Some(Self::Genoa),
            (FAMILY_TURIN, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }
}

impl Tcb {
    /// Reads the eight bytes. The layouts are two; which one, the report's processor decides.
    pub(super) fn from_bytes(raw: [u8; 8], turin: bool) -> Self {
        let [b0, b1, b2, b3, _, _, b6, b7] = raw;
        if turin {
            Self { fmc: Some(b0), bootloader: b1, tee: b2, snp: b3, microcode: b7 }
        } else {
            Self { fmc: None, bootloader: b0, tee: b1, snp: b6, microcode: b7 }
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        match self.fmc {
            Some(fmc) => [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode],
            None => [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
        }
    }
}

impl FirmwareVersion {
    pub(super) fn from_bytes([build, minor, major]: [u8; 3]) -> Self {
        Self { major, minor, build }
    }

    pub(super) fn to_bytes(self) -> [u8; 3] {
        [self.build, self.minor, self.major]
    }
}

/// Whether a TCB has Turin's layout. Before version 3 there is no CPUID; then the chip id tells, by
/// its length, as AMD's own tools do it.
pub(super) fn is_turin(family: Option<u8>, chip_id: &[u8; 64]) -> bool {
    if let Some(family) = family {
        return family == FAMILY_TURIN;
    }
    let (id, rest) = chip_id.split_at(TURIN_CHIP_ID);
    id.iter().any(|byte| *byte != 0) && rest.iter().all(|byte| *byte == 0)
}

/// serde writes arrays of up to 32 elements by itself, and no longer ones.
pub(super) fn as_list<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(bytes)
}

/// The inverse: exactly so many integers from 0 to 255. The message does not quote them.
pub(super) fn list<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let bytes = Vec::<u8>::deserialize(deserializer)?;
    bytes.try_into().map_err(|_| D::Error::custom("a list of another length"))
}

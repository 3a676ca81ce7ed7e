//! SEV-SNP attestation reports, versions 2 to 5 (Milan, Genoa, Turin), from their raw bytes.
//!
//! Offsets are those of the structure `ATTESTATION_REPORT` in AMD's "SEV-SNP Firmware ABI
//! Specification" (document 56860), table 23. Nothing here is believed because it parsed: a
//! signature has to vouch for it.
//!
//! The JSON form (`Serialize`) is the one that Trustee takes: members in the order of the fields
//! below, bytes as lists of integers.

mod parts;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::bytes::{array, put, u32_at, u64_at};
pub use parts::{FirmwareVersion, Generation, Signature, Tcb};
use parts::{as_list, is_turin, list};

/// Bytes of a report, signature included (ABI table 23).
pub const LEN: usize = 1184;

/// Bytes that the signature covers: all before it (ABI §7.3).
pub const SIGNED_LEN: usize = 0x2a0;

/// Bytes of `REPORT_DATA`.
pub const REPORT_DATA_LEN: usize = 64;

/// Bit 18 of the policy: a migration agent may be associated (ABI table 10).
const POLICY_MIGRATE_MA: u64 = 1 << 18;

/// Bit 19 of the policy: debugging is allowed (ABI table 10).
const POLICY_DEBUG: u64 = 1 << 19;

/// Why bytes are no report. Each message continues "the report …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another length than [`LEN`].
    #[error("is not 1184 bytes long")]
    Length,
    /// A version before 2 or after 5.
    #[error("has version {0}; known are 2 to 5")]
    Version(u32),
    /// A byte that the version leaves unused is set.
    #[error("has a byte set at offset {0:#05x}, which its version reserves")]
    Reserved(usize),
}

/// One report, as the firmware laid it out.
///
/// What was read from JSON is a report once it went through [`Report::to_bytes`] and [`Report::parse`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the structure, 2 to 5.
    pub version: u32,
    /// The guest's security version number, from the ID block.
    pub guest_svn: u32,
    /// Guest policy bits, fixed at launch.
    pub policy: u64,
    /// Family, from the ID block.
    pub family_id: [u8; 16],
    /// Image, from the ID block.
    pub image_id: [u8; 16],
    /// Privilege level that asked for the report; 0 is the highest.
    pub vmpl: u32,
    /// Signature algorithm; 1 is ECDSA P-384 with SHA-384.
    pub sig_algo: u32,
    /// TCB that runs.
    pub current_tcb: Tcb,
    /// Platform flags.
    pub plat_info: u64,
    /// Bit 0: an author key is given. Bit 1: the chip's key is masked. Bits 2 to 4: which key
    /// signed (0 VCEK, 1 VLEK, 7 none).
    pub key_info: u32,
    /// What the guest asked to have signed.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub report_data: [u8; REPORT_DATA_LEN],
    /// Launch measurement.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub measurement: [u8; 48],
    /// What the host committed to at launch: the initdata's digest, cut or padded to 32 bytes.
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the ID block.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that certified the ID key.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub author_key_digest: [u8; 48],
    /// Id of this guest, random at launch.
    pub report_id: [u8; 32],
    /// Id of its migration agent.
    pub report_id_ma: [u8; 32],
    /// TCB that the signing key stands for.
    pub reported_tcb: Tcb,
    /// CPUID family; from version 3.
    pub cpuid_fam_id: Option<u8>,
    /// CPUID model; from version 3.
    pub cpuid_mod_id: Option<u8>,
    /// CPUID stepping; from version 3.
    pub cpuid_step: Option<u8>,
    /// The chip; zeros where masked. Private: for verifiers, never for a log.
    #[serde(serialize_with = "as_list", deserialize_with = "list")]
    pub chip_id: [u8; 64],
    /// TCB that cannot be rolled back.
    pub committed_tcb: Tcb,
    /// Firmware that runs.
    pub current: FirmwareVersion,
    /// Firmware that cannot be rolled back.
    pub committed: FirmwareVersion,
    /// TCB when the guest was launched.
    pub launch_tcb: Tcb,
    /// Mitigations in force at launch; from version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations in force now; from version 5.
    pub current_mit_vector: Option<u64>,
    /// By the VCEK or the VLEK, over the first [`SIGNED_LEN`] bytes.
    pub signature: Signature,
}

impl Report {
    /// Reads a report. Total: any bytes give a report or an error.
    ///
    /// Bytes that the version reserves must be zero. Trustee's JSON form leaves them out and the
    /// server puts zeros back, so a report with one set could only fail there, as a signature that
    /// does not hold and with no word of the cause.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != LEN {
            return Err(Error::Length);
        }
        let version = u32_at(bytes, 0).ok_or(Error::Length)?;
        if !(2..=5).contains(&version) {
            return Err(Error::Version(version));
        }
        let report = Self::fields(bytes, version).ok_or(Error::Length)?;
        match report.to_bytes().iter().zip(bytes).position(|(ours, theirs)| ours != theirs) {
            Some(offset) => Err(Error::Reserved(offset)),
            None => Ok(report),
        }
    }

    fn fields(b: &[u8], version: u32) -> Option<Self> {
        let [family, model, step] = array(b, 0x188)?.map(|byte: u8| (version >= 3).then_some(byte));
        let chip_id = array(b, 0x1a0)?;
        let tcb = |offset| Some(Tcb::from_bytes(array(b, offset)?, is_turin(family, &chip_id)));
        let mitigations = |offset| if version >= 5 { u64_at(b, offset) } else { None };
        Some(Self {
            version,
            guest_svn: u32_at(b, 0x004)?,
            policy: u64_at(b, 0x008)?,
            family_id: array(b, 0x010)?,
            image_id: array(b, 0x020)?,
            vmpl: u32_at(b, 0x030)?,
            sig_algo: u32_at(b, 0x034)?,
            current_tcb: tcb(0x038)?,
            plat_info: u64_at(b, 0x040)?,
            key_info: u32_at(b, 0x048)?,
            report_data: array(b, 0x050)?,
            measurement: array(b, 0x090)?,
            host_data: array(b, 0x0c0)?,
            id_key_digest: array(b, 0x0e0)?,
            author_key_digest: array(b, 0x110)?,
            report_id: array(b, 0x140)?,
            report_id_ma: array(b, 0x160)?,
            reported_tcb: tcb(0x180)?,
            cpuid_fam_id: family,
            cpuid_mod_id: model,
            cpuid_step: step,
            chip_id,
            committed_tcb: tcb(0x1e0)?,
            current: FirmwareVersion::from_bytes(array(b, 0x1e8)?),
            committed: FirmwareVersion::from_bytes(array(b, 0x1ec)?),
            launch_tcb: tcb(0x1f0)?,
            launch_mit_vector: mitigations(0x1f8),
            current_mit_vector: mitigations(0x200),
            signature: Signature { r: array(b, 0x2a0)?, s: array(b, 0x2e8)? },
        })
    }

    /// The report's [`LEN`] bytes, the exact inverse of [`Report::parse`].
    ///
    /// To make a report of one's own, parse 1184 zeros with the version (and from version 3 the
    /// CPUID family at 0x188) filled in, set fields, and sign [`Report::signed_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; LEN];
        let b = out.as_mut_slice();
        put(b, 0x000, &self.version.to_le_bytes());
        put(b, 0x004, &self.guest_svn.to_le_bytes());
        put(b, 0x008, &self.policy.to_le_bytes());
        put(b, 0x010, &self.family_id);
        put(b, 0x020, &self.image_id);
        put(b, 0x030, &self.vmpl.to_le_bytes());
        put(b, 0x034, &self.sig_algo.to_le_bytes());
        put(b, 0x038, &self.current_tcb.to_bytes());
        put(b, 0x040, &self.plat_info.to_le_bytes());
        put(b, 0x048, &self.key_info.to_le_bytes());
        put(b, 0x050, &self.report_data);
        put(b, 0x090, &self.measurement);
        put(b, 0x0c0, &self.host_data);
        put(b, 0x0e0, &self.id_key_digest);
        put(b, 0x110, &self.author_key_digest);
        put(b, 0x140, &self.report_id);
        put(b, 0x160, &self.report_id_ma);
        put(b, 0x180, &self.reported_tcb.to_bytes());
        put(b, 0x188, &[self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step].map(Option::unwrap_or_default));
        put(b, 0x1a0, &self.chip_id);
        put(b, 0x1e0, &self.committed_tcb.to_bytes());
        put(b, 0x1e8, &self.current.to_bytes());
        put(b, 0x1ec, &self.committed.to_bytes());
        put(b, 0x1f0, &self.launch_tcb.to_bytes());
        put(b, 0x1f8, &self.launch_mit_vector.unwrap_or_default().to_le_bytes());
        put(b, 0x200, &self.current_mit_vector.unwrap_or_default().to_le_bytes());
        put(b, 0x2a0, &self.signature.r);
        put(b, 0x2e8, &self.signature.s);
        out
    }

    /// The bytes that the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes.truncate(SIGNED_LEN);
        bytes
    }

    /// Whether the policy lets the host read the guest's memory. Such a guest keeps no secret.
    pub fn debug_allowed(&self) -> bool {
        self.policy & POLICY_DEBUG != 0
    }

    /// Whether the policy lets a migration agent take the guest elsewhere.
    pub fn migration_allowed(&self) -> bool {
        self.policy & POLICY_MIGRATE_MA != 0
    }

    /// Which line of processors made it. `None` for lines that are not known, and before version 3,
    /// which carries no CPUID.
    pub fn generation(&self) -> Option<Generation> {
        Generation::from_cpuid(self.cpuid_fam_id?, self.cpuid_mod_id?)
    }
}

/// Says which structure it is, not which chip: the rest is for verifiers.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("version", &self.version).field("vmpl", &self.vmpl).finish_non_exhaustive()
    }
}

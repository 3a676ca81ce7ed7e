//! SEV-SNP: reports of 1184 bytes (AMD 56860, table 23), the certificate table behind them, and
//! Trustee's JSON of both.

mod json;
mod verify;

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

pub use self::json::{from_json, to_json};
pub use self::verify::{signed_by, verify};

use super::pki::Vendor;
use super::{Lie, padded, put};

/// Length of a report, bytes.
pub const REPORT: usize = 1184;
/// The signature covers what lies before it.
const SIGNATURE: usize = 0x2A0;
/// Each half of the signature: little-endian, in a field of 72 bytes.
const HALF: usize = 72;
/// Of P-384, bytes.
const SCALAR: usize = 48;

/// Bit 19 of the policy: the host may debug the guest.
pub const POLICY_DEBUG: u64 = 1 << 19;
/// Bit 18: a migration agent may be there.
const POLICY_MIGRATE: u64 = 1 << 18;
/// Bit 17 is reserved and one; bit 16 allows SMT.
pub const POLICY: u64 = 3 << 16;

const VCEK: &[u8; 16] =
    &[0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
const ASK: &[u8; 16] =
    &[0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82];
const ARK: &[u8; 16] =
    &[0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae];

/// Security versions of the platform's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tcb {
    /// Only on Turin.
    pub fmc: Option<u8>,
    /// Boot loader.
    pub bootloader: u8,
    /// Secure processor's OS.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// What the host gave the guest beside the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Nothing, as most hosts.
    None,
    /// The VCEK alone.
    Vcek,
    /// VCEK, ASK and ARK.
    Chain,
    /// ASK and ARK without a VCEK: of no use, and upstream sends `null` for it.
    WithoutVcek,
}

/// A guest. Change a field, and its reports change; what the hardware would not do is a [`Lie`].
#[derive(Clone, Debug)]
pub struct SnpGuest {
    /// Who made the chip.
    pub vendor: Arc<Vendor>,
    /// Of the report: 2, 3 or 5.
    pub version: u32,
    /// Launch measurement.
    pub measurement: [u8; 48],
    /// The host's data: the digest of initdata.
    pub host_data: [u8; 32],
    /// Guest policy; see [`POLICY_DEBUG`].
    pub policy: u64,
    /// Privilege level that the report was asked for at.
    pub vmpl: u32,
    /// CPU family, model and stepping. Genoa unless changed.
    pub cpu: (u8, u8, u8),
    /// Reported, current, committed and launch TCB; also the VCEK's.
    pub tcb: Tcb,
    /// The report speaks of this TCB, while the VCEK is for the other.
    pub claimed_tcb: Option<Tcb>,
    /// Of the chip.
    pub chip_id: [u8; 64],
    /// What lies in `auxblob`.
    pub certificates: Certificates,
    /// How its hardware lies.
    pub lie: Lie,
}

impl SnpGuest {
    /// A guest on a Genoa of [`Vendor::ours`], with a report of version 3.
    pub fn genoa() -> Self {
        Self {
            vendor: Vendor::ours(),
            version: 3,
            measurement: [0xab; 48],
            host_data: [0; 32],
            policy: POLICY,
            vmpl: 0,
            cpu: (0x19, 0x11, 1),
            tcb: Tcb { fmc: None, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
            claimed_tcb: None,
            chip_id: [0xc1; 64],
            certificates: Certificates::Vcek,
            lie: Lie::None,
        }
    }

    /// On a Milan, with a report of version 2: Trustee refuses it as too old.
    pub fn milan_v2() -> Self {
        Self { version: 2, cpu: (0x19, 0x01, 1), ..Self::genoa() }
    }

    /// On a Turin, with a report of version 5: another TCB layout, and chip ids of 8 bytes.
    pub fn turin() -> Self {
        let tcb = Tcb { fmc: Some(1), bootloader: 1, tee: 1, snp: 4, microcode: 81 };
        let mut chip_id = [0; 64];
        put(&mut chip_id, 0, &[0xc5; 8]);
        Self { version: 5, cpu: (0x1a, 0x02, 1), tcb, chip_id, ..Self::genoa() }
    }

    /// Launched with this initdata: its digest is in `host_data`.
    #[must_use]
    pub fn initdata(mut self, digest: &[u8]) -> Self {
        self.host_data = padded(digest);
        self
    }

    /// Lying so.
    #[must_use]
    pub fn lying(mut self, lie: Lie) -> Self {
        self.lie = lie;
        self
    }

    /// A report over these 64 bytes: what the kernel puts into `outblob`.
    pub fn report(&self, report_data: &[u8; 64]) -> Vec<u8> {
        if let Lie::Replayed(bytes) = &self.lie {
            return bytes.clone();
        }
        let mut report = self.unsigned(report_data);
        if self.lie == Lie::WrongReportData {
            put(&mut report, 0x50, &[0x66; 64]);
        }
        let signed = report.get(..SIGNATURE).expect("a report").to_vec();
        let signature = if self.lie == Lie::OtherKey {
            let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("randomness");
            key.sign(&SystemRandom::new(), &signed).expect("randomness")
        } else {
            self.vendor.chip(&self.chip_id, self.tcb).key.sign(&SystemRandom::new(), &signed).expect("randomness")
        };
        for (half, at) in signature.as_ref().chunks(SCALAR).zip([SIGNATURE, SIGNATURE + HALF]) {
            let little: Vec<u8> = half.iter().rev().copied().collect();
            put(&mut report, at, &little);
        }
        if self.lie == Lie::Tampered {
            put(&mut report, 0x90, &[self.measurement.first().copied().unwrap_or(0) ^ 1]);
        }
        report
    }

    fn unsigned(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let mut report = vec![0; REPORT];
        let tcb = self.claimed_tcb.unwrap_or(self.tcb).to_bytes();
        put(&mut report, 0x000, &self.version.to_le_bytes());
        put(&mut report, 0x008, &self.policy.to_le_bytes());
        put(&mut report, 0x030, &self.vmpl.to_le_bytes());
        put(&mut report, 0x034, &1_u32.to_le_bytes()); // ECDSA P-384 with SHA-384
        put(&mut report, 0x040, &5_u64.to_le_bytes()); // SMT, and TSME off, ECC on
        put(&mut report, 0x050, report_data);
        put(&mut report, 0x090, &self.measurement);
        put(&mut report, 0x0C0, &self.host_data);
        put(&mut report, 0x140, &[0x1d; 32]); // report_id
        put(&mut report, 0x160, &[0xff; 32]); // report_id_ma: no migration agent
        for at in [0x038, 0x180, 0x1E0, 0x1F0] {
            put(&mut report, at, &tcb);
        }
        if self.version >= 3 {
            let (family, model, stepping) = self.cpu;
            put(&mut report, 0x188, &[family, model, stepping]);
        }
        put(&mut report, 0x1A0, &self.chip_id);
        for at in [0x1E8, 0x1EC] {
            put(&mut report, at, &[37, 55, 1]); // build, minor, major
        }
        report
    }

    /// The certificate table (GHCB 2.0, §4.1.8.1): what the kernel puts into `auxblob`. Empty
    /// where the host gave none.
    pub fn auxblob(&self) -> Vec<u8> {
        let vcek = (VCEK, self.vendor.vcek(&self.chip_id, self.tcb));
        let (ask, ark) = ((ASK, self.vendor.ask().to_vec()), (ARK, self.vendor.ark().to_vec()));
        let entries = match self.certificates {
            Certificates::None => return Vec::new(),
            Certificates::Vcek => vec![vcek],
            Certificates::Chain => vec![vcek, ask, ark],
            Certificates::WithoutVcek => vec![ask, ark],
        };
        // An entry is 24 bytes: GUID, offset, length. One of zeros ends them.
        let mut offset = 24 * (entries.len() + 1);
        let (mut table, mut data) = (Vec::new(), Vec::new());
        for (guid, der) in &entries {
            table.extend_from_slice(*guid);
            for number in [offset, der.len()] {
                table.extend_from_slice(&u32::try_from(number).expect("certificates are small").to_le_bytes());
            }
            offset += der.len();
            data.extend_from_slice(der);
        }
        table.extend_from_slice(&[0; 24]);
        [table, data].concat()
    }

    /// Trustee's JSON of a report over these bytes.
    pub fn evidence(&self, report_data: &[u8; 64]) -> Value {
        let entry = |kind: &str, der: Vec<u8>| json!({"cert_type": kind, "data": der});
        let vcek = || entry("VCEK", self.vendor.vcek(&self.chip_id, self.tcb));
        let chain = match self.certificates {
            Certificates::None | Certificates::WithoutVcek => Value::Null,
            Certificates::Vcek => json!([vcek()]),
            Certificates::Chain => {
                json!([vcek(), entry("ASK", self.vendor.ask().to_vec()), entry("ARK", self.vendor.ark().to_vec())])
            }
        };
        json!({
            "attestation_report": to_json(&self.report(report_data)).expect("our own report"),
            "cert_chain": chain,
        })
    }

    /// `(outblob, auxblob)` for report data: what stands behind a simulated configfs.
    pub fn signer(&self) -> impl Fn(&[u8; 64]) -> (Vec<u8>, Vec<u8>) + Send + Sync + 'static {
        let guest = self.clone();
        move |report_data| (guest.report(report_data), guest.auxblob())
    }
}

impl Tcb {
    fn to_bytes(self) -> [u8; 8] {
        match self.fmc {
            None => [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
            Some(fmc) => [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode],
        }
    }

    fn from_bytes(bytes: [u8; 8], turin: bool) -> Self {
        let [a, b, c, d, _, _, snp, microcode] = bytes;
        if turin {
            Self { fmc: Some(a), bootloader: b, tee: c, snp: d, microcode }
        } else {
            Self { fmc: None, bootloader: a, tee: b, snp, microcode }
        }
    }

    fn json(self) -> Value {
        json!({"fmc": self.fmc, "bootloader": self.bootloader, "tee": self.tee, "snp": self.snp,
               "microcode": self.microcode})
    }

    fn from_json(value: &Value) -> Option<Self> {
        let byte = |name: &str| u8::try_from(value.get(name)?.as_u64()?).ok();
        Some(Self {
            fmc: byte("fmc"),
            bootloader: byte("bootloader")?,
            tee: byte("tee")?,
            snp: byte("snp")?,
            microcode: byte("microcode")?,
        })
    }
}

//! The readable twin of a report or quote: every field, by its maker's name, with what it says.
//!
//! Ids of hardware and guest are shortened unless they are asked for: they name a machine, and such
//! text is pasted into issues.

use std::fmt::Write as _;

use serde::Serialize;

use super::snp::{Report, Tcb};
use super::tdx::Quote;
use crate::formats::hex;

/// Bytes of an id that are shown where the rest is not.
const SHORT: usize = 4;

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The maker's name of it.
    pub name: &'static str,
    /// Its value: hex, a number, or a list of parts.
    pub value: String,
    /// What that says. Empty where the name says it.
    pub says: String,
}

/// Whether ids are shown whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Their first bytes and their length.
    Short,
    /// Whole.
    Whole,
}

impl Ids {
    fn show(self, id: &[u8]) -> String {
        match (self, id.get(..SHORT)) {
            (Self::Short, Some(start)) if id.iter().any(|byte| *byte != 0) => {
                format!("{}… ({} bytes)", hex::encode(start), id.len())
            }
            _ => bytes(id),
        }
    }
}

fn field(name: &'static str, value: impl Into<String>, says: impl Into<String>) -> Field {
    Field { name, value: value.into(), says: says.into() }
}

/// Hex; many zeros are counted.
fn bytes(raw: &[u8]) -> String {
    if raw.len() > SHORT && raw.iter().all(|byte| *byte == 0) {
        format!("{} zeros", raw.len())
    } else {
        hex::encode(raw)
    }
}

/// An SEV-SNP report.
pub fn snp(report: &Report, ids: Ids) -> Vec<Field> {
    let r = report;
    let option =
        |value: Option<u8>| value.map_or_else(|| "not in this version".to_owned(), |value| format!("{value:#04x}"));
    let vector =
        |value: Option<u64>| value.map_or_else(|| "not in this version".to_owned(), |value| format!("{value:#018x}"));
    let firmware = |f: &super::snp::FirmwareVersion| format!("{}.{}.{}", f.major, f.minor, f.build);
    let generation = match (r.generation(), r.cpuid_fam_id) {
        (Some(generation), _) => format!("{generation:?}"),
        (None, Some(_)) => "a line of processors that this build does not know".to_owned(),
        (None, None) => "version 2 does not say which processor".to_owned(),
    };
    let launched = if r.host_data == [0; 32] {
        "launched without initdata"
    } else {
        "digest of the initdata, cut or filled to 32 bytes"
    };
    vec![
        field("VERSION", r.version.to_string(), ""),
        field("GUEST_SVN", r.guest_svn.to_string(), "the guest's own, from its ID block"),
        field("POLICY", format!("{:#018x}", r.policy), policy(r)),
        field("FAMILY_ID", bytes(&r.family_id), ""),
        field("IMAGE_ID", bytes(&r.image_id), ""),
        field(
            "VMPL",
            r.vmpl.to_string(),
            if r.vmpl == 0 {
                "asked for from the highest privilege"
            } else {
                "asked for from a lower privilege: something stands above this guest's kernel"
            },
        ),
        field(
            "SIGNATURE_ALGO",
            r.sig_algo.to_string(),
            if r.sig_algo == 1 { "ECDSA P-384 with SHA-384" } else { "not known" },
        ),
        field("CURRENT_TCB", tcb(r.current_tcb), ""),
        field("PLATFORM_INFO", format!("{:#018x}", r.plat_info), platform(r.plat_info)),
        field("KEY_INFO", format!("{:#010x}", r.key_info), key_info(r.key_info)),
        field("REPORT_DATA", bytes(&r.report_data), "what the guest had signed"),
        field("MEASUREMENT", bytes(&r.measurement), "what was loaded at launch"),
        field("HOST_DATA", bytes(&r.host_data), launched),
        field("ID_KEY_DIGEST", bytes(&r.id_key_digest), ""),
        field("AUTHOR_KEY_DIGEST", bytes(&r.author_key_digest), ""),
        field("REPORT_ID", ids.show(&r.report_id), "this guest, random at launch"),
        field("REPORT_ID_MA", ids.show(&r.report_id_ma), "its migration agent; all ones where there is none"),
        field("REPORTED_TCB", tcb(r.reported_tcb), "what the signing key stands for"),
        field("CPUID_FAM_ID", option(r.cpuid_fam_id), generation),
        field("CPUID_MOD_ID", option(r.cpuid_mod_id), ""),
        field("CPUID_STEP", option(r.cpuid_step), ""),
        field("CHIP_ID", ids.show(&r.chip_id), if r.chip_id == [0; 64] { "hidden" } else { "the chip" }),
        field("COMMITTED_TCB", tcb(r.committed_tcb), "cannot be rolled back below this"),
        field("CURRENT_VERSION", firmware(&r.current), ""),
        field("COMMITTED_VERSION", firmware(&r.committed), ""),
        field("LAUNCH_TCB", tcb(r.launch_tcb), "when the guest was launched"),
        field("LAUNCH_MIT_VECTOR", vector(r.launch_mit_vector), ""),
        field("CURRENT_MIT_VECTOR", vector(r.current_mit_vector), ""),
        field(
            "SIGNATURE",
            format!("{} bytes", r.signature.r.len().saturating_add(r.signature.s.len())),
            "checked by `countersign verify`",
        ),
    ]
}

/// A TDX quote.
pub fn tdx(quote: &Quote, ids: Ids) -> Vec<Field> {
    let b = &quote.body;
    let launched = if b.mr_config_id == [0; 48] {
        "launched without initdata"
    } else {
        "digest of the initdata, cut or filled to 48 bytes"
    };
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &b.rtmr;
    let mut fields = vec![
        field(
            "VERSION",
            quote.version.to_string(),
            if b.v15.is_some() { "with a body of TDX 1.5" } else { "with a body of TDX 1.0" },
        ),
        field(
            "ATT_KEY_TYPE",
            quote.attestation_key_type.to_string(),
            if quote.attestation_key_type == 2 { "ECDSA P-256" } else { "not known here" },
        ),
        field("RESERVED", bytes(&quote.reserved), ""),
        field("QE_VENDOR_ID", bytes(&quote.qe_vendor_id), ""),
        field("USER_DATA", ids.show(&quote.user_data), "the first 16 bytes name the platform"),
        field("TEE_TCB_SVN", bytes(&b.tee_tcb_svn), "TCB of the TDX module"),
        field("MRSEAM", bytes(&b.mr_seam), "the TDX module"),
        field(
            "MRSIGNERSEAM",
            bytes(&b.mrsigner_seam),
            if b.mrsigner_seam == [0; 48] { "Intel's" } else { "not Intel's" },
        ),
        field("SEAMATTRIBUTES", bytes(&b.seam_attributes), ""),
        field(
            "TDATTRIBUTES",
            bytes(&b.td_attributes),
            match (b.debug(), b.migratable()) {
                (true, _) => "under debug or profiled: the host can look into this guest",
                (false, true) => "no debugging; another guest may migrate this one",
                (false, false) => "no debugging, no migration",
            },
        ),
        field("XFAM", bytes(&b.xfam), "processor features"),
        field("MRTD", bytes(&b.mr_td), "what was loaded at launch"),
        field("MRCONFIGID", bytes(&b.mr_config_id), launched),
        field("MROWNER", bytes(&b.mr_owner), ""),
        field("MROWNERCONFIG", bytes(&b.mr_owner_config), ""),
        field("RTMR0", bytes(rtmr0), "firmware and its configuration"),
        field("RTMR1", bytes(rtmr1), "what the firmware started: boot loader, kernel"),
        field("RTMR2", bytes(rtmr2), "kernel command line, initrd"),
        field("RTMR3", bytes(rtmr3), "what the guest extended since"),
        field("REPORTDATA", bytes(&b.report_data), "what the guest had signed"),
    ];
    if let Some(v15) = &b.v15 {
        fields.push(field("TEE_TCB_SVN_2", bytes(&v15.tee_tcb_svn2), "TCB of the TDX module now"));
        fields.push(field(
            "MRSERVICETD",
            bytes(&v15.mr_servicetd),
            if v15.mr_servicetd == [0; 48] { "no service guest beside it" } else { "a service guest stands beside it" },
        ));
    }
    fields.push(field("SIGNATURE", format!("{} bytes", quote.signature.len()), "checked by `countersign verify`"));
    fields
}

/// A line for each field: name, value, and what that says.
pub fn table(fields: &[Field]) -> String {
    let width = fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for field in fields {
        let says = if field.says.is_empty() { String::new() } else { format!("  ({})", field.says) };
        let _ = writeln!(out, "  {:<width$}  {}{says}", field.name, field.value);
    }
    out
}

/// `bootloader 3, tee 0, snp 8, microcode 115`.
fn tcb(tcb: Tcb) -> String {
    let fmc = tcb.fmc.map(|fmc| format!("fmc {fmc}, ")).unwrap_or_default();
    format!("{fmc}bootloader {}, tee {}, snp {}, microcode {}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)
}

/// ABI table 10, as far as it has been given out.
fn policy(report: &Report) -> String {
    let bit = |n: u32| report.policy >> n & 1 == 1;
    let word = |n: u32, yes: &'static str, no: &'static str| if bit(n) { yes } else { no };
    [
        format!("ABI {}.{}", report.policy >> 8 & 0xff, report.policy & 0xff),
        word(16, "SMT allowed", "SMT refused").to_owned(),
        word(18, "MIGRATION allowed", "no migration").to_owned(),
        word(19, "DEBUG allowed: the host can read this guest", "no debugging").to_owned(),
        word(20, "one socket only", "any number of sockets").to_owned(),
        word(21, "CXL allowed", "no CXL").to_owned(),
        word(22, "AES-256-XTS demanded", "AES-128 or 256").to_owned(),
        word(23, "RAPL off demanded", "RAPL may be on").to_owned(),
        word(24, "ciphertext hiding demanded", "ciphertext hiding not demanded").to_owned(),
    ]
    .join(", ")
}

/// ABI table 24.
fn platform(info: u64) -> String {
    const BITS: [(u32, &str); 6] = [
        (0, "SMT on"),
        (1, "TSME on"),
        (2, "ECC memory"),
        (3, "RAPL off"),
        (4, "ciphertext hiding on"),
        (5, "memory aliases were checked"),
    ];
    let set: Vec<_> = BITS.iter().filter(|(bit, _)| info >> bit & 1 == 1).map(|(_, word)| *word).collect();
    if set.is_empty() { "nothing of it is on".to_owned() } else { set.join(", ") }
}

/// ABI table 23.
fn key_info(info: u32) -> String {
    let signer = match info >> 2 & 7 {
        0 => "signed by a VCEK, the chip's own key",
        1 => "signed by a VLEK, a cloud's key",
        7 => "not signed",
        _ => "signed by a key of a kind that is not known",
    };
    let masked = if info & 2 != 0 { ", the chip's id is hidden" } else { "" };
    let author = if info & 1 != 0 { ", an author's key is given" } else { "" };
    format!("{signer}{masked}{author}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::snp;

    fn report(fill: u8) -> Report {
        let mut bytes = vec![0; snp::LEN];
        bytes[0] = 3;
        bytes[0x188] = 0x19;
        bytes[0x1a0..0x1e0].fill(fill);
        bytes[0x140..0x160].fill(fill);
        Report::parse(&bytes).unwrap()
    }

    #[test]
    fn ids_are_shortened_unless_asked_for() {
        let shown = |ids| snp(&report(0xab), ids).into_iter().find(|field| field.name == "CHIP_ID").unwrap().value;
        assert_eq!(shown(Ids::Short), "abababab… (64 bytes)");
        assert_eq!(shown(Ids::Whole), "ab".repeat(64));
    }

    #[test]
    fn a_hidden_chip_is_said_to_be() {
        let field = snp(&report(0), Ids::Short).into_iter().find(|field| field.name == "CHIP_ID").unwrap();
        assert_eq!((field.value.as_str(), field.says.as_str()), ("64 zeros", "hidden"));
    }

    #[test]
    fn every_member_of_the_json_has_a_field() {
        let json = serde_json::to_value(report(1)).unwrap();
        let members = json.as_object().unwrap();
        assert_eq!(snp(&report(1), Ids::Short).len(), members.len());
    }
}

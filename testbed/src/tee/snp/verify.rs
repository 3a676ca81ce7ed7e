//! Trustee's SNP verifier, as far as its checks go.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

use super::super::pki::{Vendor, chained, vcek_facts};
use super::super::{Refusal, Verified, field, hex, padded};
use super::{HALF, POLICY_DEBUG, POLICY_MIGRATE, SCALAR, SIGNATURE, Tcb, from_json};

/// Whether the report's signature is that of this certificate's key.
pub fn signed_by(report: &[u8], vcek: &[u8]) -> bool {
    let scalar = |at: usize| -> Option<Vec<u8>> { Some(report.get(at..at + SCALAR)?.iter().rev().copied().collect()) };
    let (Some(r), Some(s), Some(facts), Some(signed)) =
        (scalar(SIGNATURE), scalar(SIGNATURE + HALF), vcek_facts(vcek), report.get(..SIGNATURE))
    else {
        return false;
    };
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, facts.point).verify(signed, &[r, s].concat()).is_ok()
}

/// Trustee's checks, in its order.
pub fn verify(
    vendor: &Vendor,
    evidence: &Value,
    report_data: &[u8; 64],
    init_data: Option<&[u8]>,
) -> Result<Verified, Refusal> {
    let json = evidence.get("attestation_report").ok_or(Refusal::Malformed)?;
    let report = from_json(json).ok_or(Refusal::Malformed)?;
    let version = u32::from_le_bytes(field(&report, 0).ok_or(Refusal::Malformed)?);
    if !(3..=5).contains(&version) {
        return Err(Refusal::Version);
    }
    let [family, model] = field(&report, 0x188).ok_or(Refusal::Malformed)?;
    let turin = match (family, model) {
        (0x19, 0x00..=0x1F | 0xA0..=0xAE) => false,
        (0x1A, 0x00..=0x11) => true,
        _ => return Err(Refusal::Product),
    };
    let tcb = Tcb::from_bytes(field(&report, 0x180).ok_or(Refusal::Malformed)?, turin);
    let chip_id: [u8; 64] = field(&report, 0x1A0).ok_or(Refusal::Malformed)?;
    let vcek = match evidence.get("cert_chain") {
        None => return Err(Refusal::Malformed),
        // Then the key server is asked.
        Some(Value::Null) => vendor.vcek(&chip_id, tcb),
        Some(chain) => first_vcek(chain).ok_or(Refusal::Chain)?,
    };
    if !chained(&[&vcek, vendor.ask(), vendor.ark()]) {
        return Err(Refusal::Chain);
    }
    if !signed_by(&report, &vcek) {
        return Err(Refusal::Signature);
    }
    let facts = vcek_facts(&vcek).ok_or(Refusal::Chain)?;
    let mut levels = vec![(1, tcb.bootloader), (2, tcb.tee), (3, tcb.snp), (8, tcb.microcode)];
    levels.extend(tcb.fmc.map(|fmc| (9, fmc)));
    if levels.iter().any(|(member, level)| facts.levels.get(member) != Some(level)) || !chip_id.starts_with(&facts.hwid)
    {
        return Err(Refusal::Tcb);
    }
    let vmpl = u32::from_le_bytes(field(&report, 0x30).ok_or(Refusal::Malformed)?);
    if vmpl != 0 {
        return Err(Refusal::Vmpl);
    }
    if field(&report, 0x50) != Some(*report_data) {
        return Err(Refusal::ReportData);
    }
    let host_data: [u8; 32] = field(&report, 0xC0).ok_or(Refusal::Malformed)?;
    if init_data.is_some_and(|digest| padded::<32>(digest) != host_data) {
        return Err(Refusal::InitData);
    }
    let policy = u64::from_le_bytes(field(&report, 8).ok_or(Refusal::Malformed)?);
    let measurement = hex(&field::<48>(&report, 0x90).ok_or(Refusal::Malformed)?);
    let debug = policy & POLICY_DEBUG != 0;
    let claims = json!({
        "policy_abi_major": (policy >> 8) & 0xff, "policy_abi_minor": policy & 0xff,
        "policy_smt_allowed": policy & (1 << 16) != 0, "policy_migrate_ma": policy & POLICY_MIGRATE != 0,
        "policy_debug_allowed": debug, "policy_single_socket": policy & (1 << 20) != 0,
        "reported_tcb_bootloader": tcb.bootloader, "reported_tcb_tee": tcb.tee,
        "reported_tcb_snp": tcb.snp, "reported_tcb_microcode": tcb.microcode,
        "platform_tsme_enabled": false, "platform_smt_enabled": true,
        "measurement": measurement, "chip_id": hex(&chip_id),
    });
    Ok(Verified {
        claims,
        report_data: hex(report_data),
        init_data: Some(hex(&host_data)),
        measurement,
        debug: debug || policy & POLICY_MIGRATE != 0,
    })
}

/// An empty list is an error too: "If a cert chain is provided, it must include a VCEK/VLEK".
fn first_vcek(chain: &Value) -> Option<Vec<u8>> {
    let is_vcek = |entry: &&Value| matches!(entry.get("cert_type").and_then(Value::as_str), Some("VCEK" | "VLEK"));
    let data = chain.as_array()?.iter().find(is_vcek)?.get("data")?.as_array()?;
    data.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect()
}

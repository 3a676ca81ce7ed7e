//! One good report of each TEE, and each way in which one can be wrong.

use std::sync::Arc;

use countersign_testbed::tee::pki::Vendor;
use countersign_testbed::tee::snp::{Certificates, POLICY_DEBUG};
use countersign_testbed::tee::tdx::ATTRIBUTES_DEBUG;
use countersign_testbed::tee::{Lie, SnpGuest, TdxGuest};
use serde_json::json;

use super::super::tests::{API, Scene};
use super::*;

const DATA: [u8; 64] = [5; 64];

fn makers() -> Makers {
    let vendor = Vendor::ours();
    Makers {
        amd: snp::Roots::replaced(vendor.amd_roots().as_bytes()).unwrap(),
        intel: tdx::Root::replaced(vendor.intel_root().as_bytes()).unwrap(),
    }
}

/// The attested guest's machine, as it should be.
fn snp_guest() -> SnpGuest {
    SnpGuest { host_data: [0xaa; 32], ..SnpGuest::genoa() }
}

fn tdx_guest() -> TdxGuest {
    TdxGuest { mr_config_id: [0xaa; 48], ..TdxGuest::v4() }
}

/// What a verifier says of that guest, `change`d.
fn appraised(tee: &str, change: impl Fn(&mut Value)) -> Appraised {
    let mut scene = Scene::new();
    scene.pins["peers"][API] = json!({"init_data": ["aa".repeat(48)], "hardware": "any"});
    let mut claims = scene.claims();
    let evidence = &mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    evidence.as_object_mut().unwrap().remove("snp");
    if tee == "snp" {
        evidence["snp"] = json!({"measurement": "ab".repeat(48), "chip_id": "c1".repeat(64)});
        evidence["init_data"] = json!("aa".repeat(32));
    } else {
        evidence["tdx"] = json!({"quote": {"body": {"mr_td": "7d".repeat(48)}}});
        evidence["tdx"][PROVIDER] = json!("81".repeat(16));
        evidence["tdx"][INSTANCE] = json!("07".repeat(16));
        evidence["init_data"] = json!("aa".repeat(48));
    }
    change(evidence);
    let token = scene.world.token(&claims);
    scene.judge(&token, API).unwrap()
}

fn judge(report: &Value, appraised: &Appraised) -> Result<(), Error> {
    let makers = makers();
    fresh(report.to_string().as_bytes(), appraised, &Expected { report_data: &DATA, makers: &makers, now: scene_now() })
}

fn scene_now() -> u64 {
    Scene::new().now
}

fn of_snp(change: impl FnOnce(&mut SnpGuest)) -> Result<(), Error> {
    let mut guest = snp_guest();
    change(&mut guest);
    judge(&guest.evidence(&DATA), &appraised("snp", |_| {}))
}

fn of_tdx(change: impl FnOnce(&mut TdxGuest)) -> Result<(), Error> {
    let mut guest = tdx_guest();
    change(&mut guest);
    judge(&guest.evidence(&DATA), &appraised("tdx", |_| {}))
}

#[test]
fn a_fresh_report_of_the_attested_guest_is_taken() {
    assert_eq!(of_snp(|_| {}), Ok(()));
    assert_eq!(of_tdx(|_| {}), Ok(()));
    assert_eq!(of_tdx(|guest| guest.kind = TdxGuest::v5().kind), Ok(()));
    // What changes while a guest runs is not what it was launched as.
    assert_eq!(of_tdx(|guest| guest.rtmr[3] = [9; 48]), Ok(()));
}

#[test]
fn a_report_over_another_statement_is_refused() {
    let snp = appraised("snp", |_| {});
    assert_eq!(judge(&snp_guest().evidence(&[6; 64]), &snp), Err(Error::ReportData));
    assert_eq!(judge(&tdx_guest().evidence(&[6; 64]), &appraised("tdx", |_| {})), Err(Error::ReportData));
    // Nor can one be made fitting afterwards.
    let mut report = snp_guest().evidence(&[6; 64]);
    report["attestation_report"]["report_data"] = json!(DATA.to_vec());
    assert_eq!(judge(&report, &snp), Err(Error::Snp(snp::Error::Signature)));
}

#[test]
fn a_report_of_the_same_guest_on_another_machine_is_refused() {
    assert_eq!(of_snp(|guest| guest.chip_id = [0xc2; 64]), Err(Error::Machine));
    assert_eq!(of_snp(|guest| guest.chip_id = [0; 64]), Err(Error::Machine));
    let guest = snp_guest().evidence(&DATA);
    // A verifier that does not say on which machine gives nothing to hold a report to.
    let silent = appraised("snp", |evidence| drop(evidence["snp"].as_object_mut().unwrap().remove("chip_id")));
    assert_eq!(judge(&guest, &silent), Err(Error::Machine));
    let quote = tdx_guest().evidence(&DATA);
    for (member, other) in [(PROVIDER, INSTANCE), (INSTANCE, PROVIDER)] {
        for said in [json!("11".repeat(16)), json!("xx"), json!(7), Value::Null] {
            let named = appraised("tdx", |evidence| evidence["tdx"][member] = said.clone());
            assert_eq!(judge(&quote, &named), Err(Error::Machine), "{member} {said}");
        }
        // One of its names is enough, and none is not.
        let one = appraised("tdx", |evidence| evidence["tdx"][member] = json!(""));
        assert_eq!(judge(&quote, &one), Ok(()), "{member}");
        let none = appraised("tdx", |evidence| {
            evidence["tdx"][member] = json!("");
            evidence["tdx"].as_object_mut().unwrap().remove(other);
        });
        assert_eq!(judge(&quote, &none), Err(Error::Machine), "{member}");
    }
}

#[test]
fn a_report_by_a_self_made_vendor_is_refused() {
    assert_eq!(of_snp(|guest| guest.vendor = Vendor::new()), Err(Error::Snp(snp::Error::Chain)));
    assert_eq!(of_tdx(|guest| guest.vendor = Vendor::new()), Err(Error::Tdx(tdx::Error::Chain)));
}

#[test]
fn a_report_that_was_changed_is_refused() {
    assert_eq!(of_snp(|guest| guest.lie = Lie::OtherKey), Err(Error::Snp(snp::Error::Signature)));
    assert!(matches!(of_tdx(|guest| guest.lie = Lie::OtherKey), Err(Error::Tdx(_))));
}

#[test]
fn a_report_of_another_guest_on_the_same_machine_is_refused() {
    assert_eq!(of_snp(|guest| guest.measurement = [0xac; 48]), Err(Error::Measurement));
    assert_eq!(of_tdx(|guest| guest.mr_td = [0x7e; 48]), Err(Error::Measurement));
    for host_data in [[0xab; 32], [0; 32]] {
        assert_eq!(of_snp(|guest| guest.host_data = host_data), Err(Error::InitData));
    }
    assert_eq!(of_tdx(|guest| guest.mr_config_id = [0; 48]), Err(Error::InitData));
}

#[test]
fn a_report_by_older_firmware_than_was_appraised_is_refused() {
    let parts = ["bootloader", "tee", "snp", "microcode"];
    let tcb = SnpGuest::genoa().tcb;
    let now = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode];
    for (part, level) in parts.into_iter().zip(now) {
        let said =
            |level: u8| appraised("snp", |evidence| evidence["snp"][format!("reported_tcb_{part}")] = json!(level));
        let report = snp_guest().evidence(&DATA);
        assert_eq!(judge(&report, &said(level + 1)), Err(Error::Tcb), "{part}");
        // It may have been brought up to date since.
        assert_eq!(judge(&report, &said(level)), Ok(()), "{part}");
        assert_eq!(judge(&report, &said(level.saturating_sub(1))), Ok(()), "{part}");
    }
}

#[test]
fn a_report_of_a_guest_that_the_host_may_read_is_refused() {
    assert_eq!(of_snp(|guest| guest.policy |= POLICY_DEBUG), Err(Error::Open));
    assert_eq!(of_snp(|guest| guest.policy |= 1 << 18), Err(Error::Open));
    assert_eq!(of_tdx(|guest| guest.attributes |= ATTRIBUTES_DEBUG), Err(Error::Open));
    // Profiling; migration; a service guest of a later module's.
    for bit in [4, 5, 6, 29, 17] {
        assert_eq!(of_tdx(|guest| guest.attributes |= 1 << bit), Err(Error::Open), "{bit}");
    }
}

#[test]
fn a_report_under_another_module_than_intels_is_refused() {
    assert_eq!(of_tdx(|guest| guest.module_signer = [0x77; 48]), Err(Error::Tdx(tdx::Error::Module)));
}

#[test]
fn a_report_that_a_less_privileged_level_asked_for_is_refused() {
    assert_eq!(of_snp(|guest| guest.vmpl = 2), Err(Error::Vmpl));
}

#[test]
fn a_report_without_the_certificate_of_its_key_is_refused() {
    for certificates in [Certificates::None, Certificates::WithoutVcek] {
        assert_eq!(of_snp(|guest| guest.certificates = certificates), Err(Error::Snp(snp::Error::NoKey)));
    }
}

#[test]
fn a_report_of_another_tee_than_the_attestation_result_is_refused() {
    assert_eq!(judge(&tdx_guest().evidence(&DATA), &appraised("snp", |_| {})), Err(Error::OtherTee));
    assert_eq!(judge(&snp_guest().evidence(&DATA), &appraised("tdx", |_| {})), Err(Error::OtherTee));
    let silent = appraised("snp", |evidence| drop(evidence["snp"].as_object_mut().unwrap().remove("measurement")));
    assert_eq!(judge(&snp_guest().evidence(&DATA), &silent), Err(Error::OtherTee));
}

#[test]
fn what_is_no_report_is_refused() {
    let snp = appraised("snp", |_| {});
    let sample = json!({"svn": "1", "report_data": ""});
    let quote = json!({"quote": "AAAA", "cc_eventlog": null});
    for report in [json!({}), json!([]), json!("x"), sample, quote] {
        assert_eq!(judge(&report, &snp), Err(Error::Form), "{report}");
    }
    let makers = makers();
    let expected = Expected { report_data: &DATA, makers: &makers, now: scene_now() };
    assert_eq!(fresh(&[0xff; 1184], &snp, &expected), Err(Error::Form));
    assert_eq!(fresh(&[], &snp, &expected), Err(Error::Form));
}

#[test]
fn the_certificates_of_a_key_are_judged_by_the_clock() {
    let (makers, appraised) = (makers(), appraised("snp", |_| {}));
    let report = snp_guest().evidence(&DATA).to_string();
    let expected = Expected { report_data: &DATA, makers: &makers, now: 0 };
    assert!(matches!(fresh(report.as_bytes(), &Arc::new(appraised), &expected), Err(Error::Snp(_))));
}

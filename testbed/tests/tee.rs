//! Reports and quotes of our own are believed when genuine, and each lie is found by its name.
//! The converters are held to real evidence.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use countersign_testbed::runner;
use countersign_testbed::tee::snp::{POLICY, POLICY_DEBUG, REPORT, from_json, signed_by, to_json};
use countersign_testbed::tee::tdx::ATTRIBUTES_DEBUG;
use countersign_testbed::tee::{
    Certificates, Guest, Lie, QuoteKind, Refusal, SnpGuest, Tcb, TdxGuest, Vendor, Verified, hex, verify,
};
use serde_json::{Value, json};

countersign_testbed::main! {
    real_report_survives_both_ways [Vectors],
    real_signature_is_believed [Vectors],
    recorded_json_of_reports_survives [Vectors],
    genuine_snp_guests_are_believed,
    genuine_tdx_guests_are_believed,
    each_lie_of_snp_is_found,
    each_lie_of_tdx_is_found,
    report_has_the_fields_where_amd_has_them,
    certificate_table_is_read_back,
    guest_without_certificates_is_looked_up,
    empty_certificate_list_is_refused,
    initdata_is_compared_with_the_hardware_field,
    guests_of_other_vendors_are_refused,
    sample_is_compared_unpadded,
    signer_answers_what_the_guest_would,
    debug_is_a_claim_and_no_refusal,
}

const DIGEST: [u8; 48] = [0x5a; 48];

fn real_report_survives_both_ways() {
    let vectors = runner::vectors().unwrap();
    let report = std::fs::read(vectors.join("generated/snp/e2e-report.bin")).unwrap();
    let evidence = std::fs::read(vectors.join("trustee/attestation-service/tests/e2e/evidence.json")).unwrap();
    let evidence: Value = serde_json::from_slice(&evidence).unwrap();
    let recorded = find(&evidence, "attestation_report").expect("an SNP report");
    let mut ours = to_json(&report).unwrap();
    // Members of later versions may be left out where they are null.
    for name in ["launch_mit_vector", "current_mit_vector"] {
        if recorded.get(name).is_none() && ours[name].is_null() {
            ours.as_object_mut().unwrap().remove(name);
        }
    }
    assert_eq!(&ours, recorded);
    assert_eq!(from_json(recorded).unwrap(), report);
}

fn real_signature_is_believed() {
    let vectors = runner::vectors().unwrap().join("generated/snp");
    let mut report = std::fs::read(vectors.join("e2e-report.bin")).unwrap();
    let vcek = std::fs::read(vectors.join("e2e-vcek.der")).unwrap();
    assert!(signed_by(&report, &vcek));
    report[0x90] ^= 1;
    assert!(!signed_by(&report, &vcek));
}

fn recorded_json_of_reports_survives() {
    for name in ["test-report", "test-vlek-report"] {
        let path = runner::vectors().unwrap().join(format!("generated/snp/{name}.attestation_report.json"));
        let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let again = to_json(&from_json(&recorded).unwrap()).unwrap();
        for (member, value) in recorded.as_object().unwrap() {
            assert_eq!(&again[member], value, "{name}: {member}");
        }
    }
}

fn genuine_snp_guests_are_believed() {
    for guest in [SnpGuest::genoa(), SnpGuest { version: 5, ..SnpGuest::genoa() }, SnpGuest::turin()] {
        for certificates in [Certificates::Vcek, Certificates::Chain, Certificates::None] {
            let guest = SnpGuest { certificates, ..guest.clone() };
            let verified = judge(&Guest::Snp(guest.clone()), None).unwrap();
            assert_eq!(verified.measurement, hex(&guest.measurement));
            assert_eq!(verified.claims["reported_tcb_snp"], guest.tcb.snp);
        }
    }
}

fn genuine_tdx_guests_are_believed() {
    for kind in [QuoteKind::V4, QuoteKind::V5Tdx10, QuoteKind::V5Tdx15] {
        let guest = TdxGuest { kind, ..TdxGuest::v4() };
        let verified = judge(&Guest::Tdx(guest.clone()), None).unwrap();
        assert_eq!(verified.measurement, hex(&guest.mr_td));
        assert_eq!(verified.claims["tcb_status"], "UpToDate");
    }
}

fn each_lie_of_snp_is_found() {
    let genoa = SnpGuest::genoa;
    let earlier = genoa().report(&[1; 64]);
    let lower = Tcb { snp: 1, ..genoa().tcb };
    for (guest, expected) in [
        (genoa().lying(Lie::OtherKey), Refusal::Signature),
        (genoa().lying(Lie::Replayed(earlier)), Refusal::ReportData),
        (genoa().lying(Lie::WrongReportData), Refusal::ReportData),
        (genoa().lying(Lie::Tampered), Refusal::Signature),
        (SnpGuest { vmpl: 1, ..genoa() }, Refusal::Vmpl),
        (SnpGuest::milan_v2(), Refusal::Version),
        (SnpGuest { version: 6, ..genoa() }, Refusal::Version),
        (SnpGuest { cpu: (0x17, 0x31, 0), ..genoa() }, Refusal::Product),
        (SnpGuest { claimed_tcb: Some(lower), ..genoa() }, Refusal::Tcb),
    ] {
        assert_eq!(judge(&Guest::Snp(guest.clone()), None).unwrap_err(), expected, "{guest:?}");
    }
}

fn each_lie_of_tdx_is_found() {
    for base in [TdxGuest::v4(), TdxGuest::v5()] {
        let earlier = base.quote(&[1; 64]);
        for (lie, expected) in [
            (Lie::OtherKey, Refusal::Signature),
            (Lie::Replayed(earlier), Refusal::ReportData),
            (Lie::WrongReportData, Refusal::ReportData),
            (Lie::Tampered, Refusal::Signature),
            // The kernel's answer where the host's quoting service is not reachable.
            (Lie::Replayed(Vec::new()), Refusal::Malformed),
        ] {
            let guest = Guest::Tdx(base.clone().lying(lie.clone()));
            assert_eq!(judge(&guest, None).unwrap_err(), expected, "{lie:?}");
        }
    }
}

fn report_has_the_fields_where_amd_has_them() {
    let report = SnpGuest { host_data: [0x44; 32], ..SnpGuest::genoa() }.report(&[0x55; 64]);
    assert_eq!(report.len(), REPORT);
    assert_eq!(report[..4], 3_u32.to_le_bytes());
    assert_eq!(report[8..16], POLICY.to_le_bytes());
    assert_eq!((&report[0x50..0x90], &report[0x90..0xC0]), (&[0x55; 64][..], &[0xab; 48][..]));
    assert_eq!(report[0xC0..0xE0], [0x44; 32]);
    assert_eq!(report[0x180..0x188], [10, 0, 0, 0, 0, 0, 23, 84]);
    // 48 bytes of each half, then zeros: little-endian in fields of 72.
    assert!(report[0x2D0..0x2E8].iter().chain(&report[0x318..]).all(|byte| *byte == 0));
    let turin = SnpGuest::turin().report(&[0; 64]);
    assert_eq!(turin[0x180..0x188], [1, 1, 1, 4, 0, 0, 0, 81]);
}

fn certificate_table_is_read_back() {
    let guest = SnpGuest { certificates: Certificates::Chain, ..SnpGuest::genoa() };
    let table = guest.auxblob();
    let entry = |index: usize| {
        let number = |at: usize| usize::try_from(u32::from_le_bytes(table[at..at + 4].try_into().unwrap())).unwrap();
        let at = index * 24;
        (hex(&table[at..at + 16]), table[number(at + 16)..][..number(at + 20)].to_vec())
    };
    assert_eq!(entry(0), ("63da758de6644564adc5f4b93be8accd".to_owned(), guest.vendor.vcek(&guest.chip_id, guest.tcb)));
    assert_eq!(entry(1), ("4ab7b379bbac4fe4a02f05aef327c782".to_owned(), guest.vendor.ask().to_vec()));
    assert_eq!(entry(2), ("c0b406a4a803495297433fb6014cd0ae".to_owned(), guest.vendor.ark().to_vec()));
    assert_eq!(table[72..96], [0; 24]);
    assert!(SnpGuest { certificates: Certificates::None, ..guest }.auxblob().is_empty());
}

fn guest_without_certificates_is_looked_up() {
    for certificates in [Certificates::None, Certificates::WithoutVcek] {
        let guest = Guest::Snp(SnpGuest { certificates, ..SnpGuest::genoa() });
        assert_eq!(guest.evidence(&DIGEST)["cert_chain"], Value::Null);
        judge(&guest, None).unwrap();
    }
}

fn empty_certificate_list_is_refused() {
    let mut evidence = Guest::Snp(SnpGuest::genoa()).evidence(&DIGEST);
    evidence["cert_chain"] = json!([]);
    assert_eq!(verify(&Vendor::ours(), "snp", &evidence, &DIGEST, None).unwrap_err(), Refusal::Chain);
}

fn initdata_is_compared_with_the_hardware_field() {
    let digest = [0x77; 48];
    for (with, without) in [
        (Guest::Snp(SnpGuest::genoa().initdata(&digest)), Guest::Snp(SnpGuest::genoa())),
        (Guest::Tdx(TdxGuest::v4().initdata(&digest)), Guest::Tdx(TdxGuest::v4())),
    ] {
        judge(&with, Some(&digest)).unwrap();
        // Nobody asks a guest that sends none what its hardware holds.
        judge(&with, None).unwrap();
        assert_eq!(judge(&with, Some(&[0x78; 48])).unwrap_err(), Refusal::InitData);
        assert_eq!(judge(&without, Some(&digest)).unwrap_err(), Refusal::InitData);
    }
    // 32 of 48 bytes are what HOST_DATA has room for.
    let guest = SnpGuest::genoa().initdata(&digest);
    assert_eq!(guest.host_data, [0x77; 32]);
    assert_eq!(TdxGuest::v4().initdata(&[1; 32]).mr_config_id[32..], [0; 16]);
}

fn guests_of_other_vendors_are_refused() {
    let vendor = Vendor::new();
    let snp = Guest::Snp(SnpGuest { vendor: vendor.clone(), ..SnpGuest::genoa() });
    let tdx = Guest::Tdx(TdxGuest { vendor, ..TdxGuest::v4() });
    assert_eq!(judge(&snp, None).unwrap_err(), Refusal::Chain);
    assert_eq!(judge(&tdx, None).unwrap_err(), Refusal::Chain);
}

fn sample_is_compared_unpadded() {
    judge(&Guest::Sample, None).unwrap();
    judge(&Guest::Other("az-snp-vtpm"), None).unwrap();
    let padded = Guest::Sample.evidence(&[DIGEST.as_slice(), &[0; 16]].concat());
    assert_eq!(verify(&Vendor::ours(), "sample", &padded, &DIGEST, None).unwrap_err(), Refusal::ReportData);
}

fn signer_answers_what_the_guest_would() {
    let guest = SnpGuest::genoa();
    let (outblob, auxblob) = guest.signer()(&[9; 64]);
    assert!(signed_by(&outblob, &guest.vendor.vcek(&guest.chip_id, guest.tcb)));
    assert_eq!((&outblob[0x50..0x90], auxblob), (&[9; 64][..], guest.auxblob()));
    let (quote, none) = TdxGuest::v4().signer()(&[9; 64]);
    assert!(quote.len() > 1000 && none.is_empty());
}

fn debug_is_a_claim_and_no_refusal() {
    let snp = Guest::Snp(SnpGuest { policy: POLICY | POLICY_DEBUG, ..SnpGuest::genoa() });
    let verified = judge(&snp, None).unwrap();
    assert!(verified.debug && verified.claims["policy_debug_allowed"] == true);
    let tdx = Guest::Tdx(TdxGuest { attributes: ATTRIBUTES_DEBUG, ..TdxGuest::v4() });
    assert!(judge(&tdx, None).unwrap().debug);
}

/// What the verifier says of this guest's evidence over our digest.
fn judge(guest: &Guest, init_data: Option<&[u8]>) -> Result<Verified, Refusal> {
    verify(&Vendor::ours(), guest.tee(), &guest.evidence(&DIGEST), &DIGEST, init_data)
}

/// The first member of this name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(name).or_else(|| members.values().find_map(|one| find(one, name))),
        Value::Array(items) => items.iter().find_map(|one| find(one, name)),
        _ => None,
    }
}

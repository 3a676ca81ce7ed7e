//! Real reports, quotes and event logs, and Trustee's own JSON of them. Reads `../shared/vectors`;
//! where that is absent each test names itself as left out. Nothing of it is copied into the project.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use countersign::appraise::replay::{Differs, replay};
use countersign::evidence::cert_table::{self, Entry};
use countersign::evidence::snp::{Generation, Report};
use countersign::evidence::tdx::Quote;
use countersign::evidence::{eventlog, trustee};
use countersign_testbed::vectors::{hex, json, read, unhex};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

countersign_testbed::main! {
    a_real_report_gives_trustees_json_byte_for_byte [Vectors],
    a_real_guests_evidence_is_made_again_byte_for_byte [Vectors],
    real_reports_are_written_as_they_were_read [Vectors],
    a_real_reports_signature_holds_over_its_signed_bytes [Vectors],
    a_real_quote_gives_trustees_claims [Vectors],
    real_quotes_of_both_versions_are_read_and_written [Vectors],
    real_event_logs_have_their_known_number_of_events [Vectors],
}

/// Name, bytes, version and generation of every real report there is.
fn reports() -> Vec<(Vec<u8>, u32, Option<Generation>)> {
    vec![
        (read("trustee/deps/verifier/test_data/snp/test-report.bin"), 2, None),
        (read("trustee/deps/verifier/test_data/snp/test-vlek-report.bin"), 3, Some(Generation::Milan)),
        (read("generated/snp/e2e-report.bin"), 3, Some(Generation::Genoa)),
        (unhex(std::str::from_utf8(&read("sev/tests/certs_data/report_milan.hex")).unwrap()), 2, None),
    ]
}

fn a_real_report_gives_trustees_json_byte_for_byte() {
    for name in ["test-report", "test-vlek-report"] {
        let report = Report::parse(&read(&format!("trustee/deps/verifier/test_data/snp/{name}.bin"))).unwrap();
        let expected = read(&format!("generated/snp/{name}.attestation_report.json"));
        assert_eq!(serde_json::to_string(&report).unwrap(), String::from_utf8(expected).unwrap().trim_end(), "{name}");
    }
}

fn a_real_guests_evidence_is_made_again_byte_for_byte() {
    let report = Report::parse(&read("generated/snp/e2e-report.bin")).unwrap();
    // As the host lays it out, so that the table's reader has its part too.
    let vcek = Entry { cert_type: "VCEK", data: read("generated/snp/e2e-vcek.der") };
    let certificates = cert_table::parse(&cert_table::to_bytes(&[vcek])).unwrap();
    let made = trustee::snp(&report, certificates).unwrap();
    // The capture is older than these two members, which are null before version 5; the server takes
    // both forms. `generated/snp` holds the present one.
    let made = made.replace(r#""launch_mit_vector":null,"current_mit_vector":null,"#, "");
    let expected = read("trustee/attestation-service/tests/e2e/evidence.json");
    assert!(made.as_bytes() == expected.trim_ascii_end(), "differs from the real guest's evidence");
}

fn real_reports_are_written_as_they_were_read() {
    for (bytes, version, generation) in reports() {
        let report = Report::parse(&bytes).unwrap();
        assert_eq!((report.version, report.generation()), (version, generation));
        assert_eq!(report.to_bytes(), bytes);
        assert!(!report.debug_allowed());
    }
}

fn a_real_reports_signature_holds_over_its_signed_bytes() {
    let report = Report::parse(&read("generated/snp/e2e-report.bin")).unwrap();
    let der = read("generated/snp/e2e-vcek.der");
    let (_, vcek) = X509Certificate::from_der(&der).unwrap();
    let point = &vcek.tbs_certificate.subject_pki.subject_public_key.data;
    // 72 bytes little-endian to 48 bytes big-endian.
    let number = |raw: &[u8; 72]| raw[..48].iter().rev().copied().collect::<Vec<u8>>();
    let signature = [number(&report.signature.r), number(&report.signature.s)].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
    assert!(key.verify(&report.signed_bytes(), &signature).is_ok());
    let mut other = report.clone();
    other.host_data[31] ^= 1;
    assert!(key.verify(&other.signed_bytes(), &signature).is_err());
}

fn a_real_quote_gives_trustees_claims() {
    let quote = Quote::parse(&read("trustee/deps/verifier/test_data/tdx_quote_4.dat")).unwrap();
    let claims = json("trustee/deps/verifier/test_data/parse_tdx_claims_expected.json");
    let body = &quote.body;
    for (name, field) in [
        ("tcb_svn", &body.tee_tcb_svn[..]),
        ("mr_seam", &body.mr_seam),
        ("mrsigner_seam", &body.mrsigner_seam),
        ("seam_attributes", &body.seam_attributes),
        ("td_attributes", &body.td_attributes),
        ("xfam", &body.xfam),
        ("mr_td", &body.mr_td),
        ("mr_config_id", &body.mr_config_id),
        ("mr_owner", &body.mr_owner),
        ("mr_owner_config", &body.mr_owner_config),
        ("rtmr_0", &body.rtmr[0]),
        ("rtmr_1", &body.rtmr[1]),
        ("rtmr_2", &body.rtmr[2]),
        ("rtmr_3", &body.rtmr[3]),
        ("report_data", &body.report_data),
    ] {
        assert_eq!(claims["quote"]["body"][name], hex(field), "{name}");
    }
    for (name, field) in [
        ("version", &quote.version.to_le_bytes()[..]),
        ("att_key_type", &quote.attestation_key_type.to_le_bytes()),
        ("reserved", &quote.reserved),
        ("vendor_id", &quote.qe_vendor_id),
        ("user_data", &quote.user_data),
    ] {
        assert_eq!(claims["quote"]["header"][name], hex(field), "{name}");
    }
    assert_eq!(claims["td_attributes"]["debug"], body.debug());
}

fn real_quotes_of_both_versions_are_read_and_written() {
    for (path, version, is_15, bound) in [
        ("trustee/deps/verifier/test_data/tdx_quote_4.dat", 4, false, false),
        ("trustee/deps/verifier/test_data/tdx_quote_5.dat", 5, true, false),
        ("trustee/deps/verifier/test_data/tdx_quote_6.dat", 4, false, true),
        ("dcap-qvl/sample/tdx_quote", 4, false, false),
    ] {
        let bytes = read(path);
        let quote = Quote::parse(&bytes).unwrap();
        assert_eq!((quote.version, quote.body.v15.is_some()), (version, is_15), "{path}");
        assert_eq!(quote.body.mr_config_id != [0; 48], bound, "{path}");
        let written = quote.to_bytes();
        assert!(bytes.starts_with(&written), "{path}");
        assert!(bytes[written.len()..].iter().all(|byte| *byte == 0), "{path}");
    }
    let sgx = read("dcap-qvl/sample/sgx_quote");
    assert_eq!(Quote::parse(&sgx).unwrap_err().to_string(), "has version 3; known are 4 and 5");
}

fn real_event_logs_have_their_known_number_of_events() {
    let logs = "trustee/deps/eventlog/test_data";
    for name in ["CCEL_data_csv", "CCEL_data_grub", "CCEL_data_ovmf", "CCEL_AAEL_alibabacloud"] {
        check_log(&read(&format!("{logs}/{name}")), &json(&format!("{logs}/{name}_out.json")), name);
    }
    let claims = json("trustee/deps/verifier/test_data/parse_tdx_claims_expected.json");
    check_log(&read("trustee/deps/verifier/test_data/CCEL_data"), &claims, "CCEL_data");
}

/// Their registers are unknown; but no event of a real log contradicts itself.
fn check_events(trimmed: &eventlog::EventLog<'_>, name: &str) {
    let events = eventlog::events(trimmed).unwrap();
    assert_eq!(events.len(), trimmed.events, "{name}");
    let differs = replay(&events, &[[1; 48]; 4]).unwrap_err();
    assert_eq!(differs, Differs::Register { register: 0 }, "{name}");
}

fn check_log(log: &[u8], expected: &Value, name: &str) {
    let trimmed = eventlog::trim(log).unwrap();
    check_events(&trimmed, name);
    assert_eq!(trimmed.events, expected["uefi_event_logs"].as_array().unwrap().len(), "{name}");
    // Nothing but padding was cut off, and cutting again cuts nothing.
    let rest = &log[trimmed.bytes.len()..];
    assert!(rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff), "{name}");
    assert_eq!(eventlog::trim(trimmed.bytes).unwrap(), trimmed, "{name}");
}

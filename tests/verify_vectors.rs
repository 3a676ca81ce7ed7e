//! The verdicts that real evidence must get, and for which reason. Reads `../shared/vectors`; where that
//! is absent each test names itself as left out. Nothing of it is copied into the project, but the
//! makers' public certificates, which are held to the copies that others carry.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Output, Stdio};

use countersign::appraise::check::State;
use countersign::appraise::expect::{self, Expected, Word};
use countersign::appraise::{snp, tdx};
use countersign::evidence::shown::{self, Shown};
use countersign::evidence::snp::Generation;
use countersign::evidence::tdx::Quote;
use countersign::evidence::trustee::SnpEvidence;
use countersign::formats::ear::{ChainError, EarToken, Error as TokenError, Signer, TrustAnchors};
use countersign::formats::x509::pem_certificates;
use countersign_testbed::vectors::{directory, hex, json, read};
use serde_json::Value;

countersign_testbed::main! {
    the_makers_certificates_are_those_that_others_carry [Vectors],
    the_genoa_guest_of_trustees_tests_is_genuine [Vectors],
    milan_reports_of_version_2_are_genuine [Vectors],
    the_vlek_has_expired_and_was_good_a_year_before [Vectors],
    a_report_is_refused_beside_another_chips_key [Vectors],
    a_changed_report_is_refused_at_every_signed_byte [Vectors],
    a_turin_vcek_leads_to_amds_turin_root [Vectors],
    vceks_that_lead_nowhere_are_refused [Vectors],
    quotes_are_genuine_without_collateral_and_say_that_the_tcb_was_not_checked [Vectors],
    a_quote_with_its_collateral_is_up_to_date [Vectors],
    a_quote_says_on_which_machine_it_was_made [Vectors],
    collateral_out_of_its_time_or_of_another_platform_is_refused [Vectors],
    a_changed_quote_is_refused_in_every_part [Vectors],
    a_debug_guest_is_not_what_is_expected [Vectors],
    tokens_get_their_verdict_from_their_own_roots_only [Vectors],
    endorsement_scenarios_get_trustees_verdicts [Vectors],
    exit_0_takes_both_expectations [Vectors],
    the_command_judges_every_form_of_the_same_report [Vectors],
    verdicts_repeat_the_time_and_the_roots_that_were_given [Vectors],
    a_policy_file_says_what_flags_say [Vectors],
    an_expectation_that_cannot_be_held_to_is_refused [Vectors],
    a_token_is_told_in_words [Vectors],
    ids_of_chips_are_shortened [Vectors],
}

/// 2026-06-01, when most of the evidence was fresh enough.
const THEN: u64 = 1_780_272_000;

/// 2025-07-08, inside the collateral's month.
const COLLATERAL: u64 = 1_752_000_000;

const DATA: &str = "trustee/deps/verifier/test_data";

fn evidence(path: &str) -> SnpEvidence {
    match shown::detect(&read(path)).expect(path) {
        Shown::Snp(evidence) => *evidence,
        other => panic!("{path}: {other:?}"),
    }
}

fn judge(evidence: &SnpEvidence, now: u64) -> Result<snp::Genuine, snp::Error> {
    let beside = snp::Beside { certificates: &evidence.certificates, crl: evidence.crl.as_deref() };
    snp::genuine(&evidence.report, &beside, &snp::Roots::amd(), now)
}

fn state(checks: &[countersign::appraise::check::Check], id: &str) -> State {
    checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no check {id}")).state
}

fn quote(path: &str) -> (Quote, Vec<u8>) {
    let raw = read(path);
    (Quote::parse(&raw).unwrap(), raw)
}

fn collateral() -> tdx::Collateral {
    tdx::Collateral::parse(&read("dcap-qvl/sample/tdx_quote_collateral.json")).unwrap()
}

fn the_makers_certificates_are_those_that_others_carry() {
    let ours =
        |name: &str| std::fs::read(format!("{}/src/appraise/roots/{name}.der", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let pem = |path: &str| pem_certificates(&read(path), 8).unwrap();
    for line in ["milan", "genoa", "turin"] {
        let [intermediate, root, cloud] = ["ask", "ark", "asvk"].map(|kind| ours(&format!("{line}-{kind}")));
        assert_eq!(
            pem(&format!("trustee/deps/verifier/src/snp/{line}_ask_ark_asvk.pem")),
            [intermediate.clone(), root.clone(), cloud.clone()]
        );
        assert_eq!(pem(&format!("sev/src/certs/snp/builtin/{line}/ark.pem")), std::slice::from_ref(&root));
        assert_eq!(pem(&format!("sev/src/certs/snp/builtin/{line}/ask.pem")), std::slice::from_ref(&intermediate));
        let vcek = if line == "turin" { "_vcek" } else { "" };
        assert_eq!(pem(&format!("go-sev-guest/verify/trust/ask_ark_{line}{vcek}.pem")), [intermediate, root.clone()]);
        assert_eq!(pem(&format!("go-sev-guest/verify/trust/ask_ark_{line}_vlek.pem")), [cloud, root]);
    }
    assert_eq!(read("dcap-qvl/src/TrustedRootCA.der"), ours("intel-sgx-root"));
    assert_eq!(pem("go-tdx-guest/verify/trusted_root.pem"), [ours("intel-sgx-root")]);
}

fn the_genoa_guest_of_trustees_tests_is_genuine() {
    let evidence = evidence("trustee/attestation-service/tests/e2e/evidence.json");
    let genuine = judge(&evidence, THEN).unwrap();
    assert_eq!((genuine.generation, genuine.key), (Some(Generation::Genoa), snp::KeyKind::Vcek));
    for id in ["snp.signature", "snp.chain", "snp.validity", "snp.tcb", "snp.chip-id"] {
        assert_eq!(state(&genuine.checks, id), State::Held, "{id}");
    }
    assert_eq!(state(&genuine.checks, "snp.crl"), State::NotChecked);
}

fn milan_reports_of_version_2_are_genuine() {
    for (report, vcek) in [
        (format!("{DATA}/snp/test-report.bin"), format!("{DATA}/snp/test-vcek.der")),
        ("sev/tests/certs_data/report_milan.hex".to_owned(), "sev/tests/certs_data/vcek_milan.der".to_owned()),
    ] {
        let mut evidence = evidence(&report);
        assert_eq!(judge(&evidence, THEN).unwrap_err(), snp::Error::NoKey, "{report}");
        evidence.certificates.push(read(&vcek));
        let genuine = judge(&evidence, THEN).unwrap();
        assert_eq!((genuine.generation, evidence.report.version), (Some(Generation::Milan), 2), "{report}");
    }
}

fn the_vlek_has_expired_and_was_good_a_year_before() {
    let mut evidence = evidence(&format!("{DATA}/snp/test-vlek-report.bin"));
    evidence.certificates.push(read(&format!("{DATA}/snp/test-vlek.der")));
    assert_eq!(judge(&evidence, THEN).unwrap_err(), snp::Error::Expired);
    assert_eq!(judge(&evidence, 1_700_000_000).unwrap_err(), snp::Error::NotYet);
    // 2025-06-01.
    let genuine = judge(&evidence, 1_748_736_000).unwrap();
    assert_eq!(genuine.key, snp::KeyKind::Vlek);
    assert_eq!(genuine.csp.as_deref(), Some("CN=cc-us-east-2.amazonaws.com"));
    assert_eq!(state(&genuine.checks, "snp.chip-id"), State::NotChecked, "a VLEK names no chip");
    let checks = expect::snp(&genuine, &Expected::nothing());
    assert_eq!(state(&checks, "expect.vmpl"), State::Failed, "it was asked for from VMPL 1");
    let with_vmpl = Expected { vmpl: 1, ..Expected::nothing() };
    assert_eq!(state(&expect::snp(&genuine, &with_vmpl), "expect.vmpl"), State::Held);
}

fn a_report_is_refused_beside_another_chips_key() {
    let genoa = read("generated/snp/e2e-vcek.der");
    let mut evidence = evidence(&format!("{DATA}/snp/test-report.bin"));
    evidence.certificates = vec![genoa.clone()];
    assert_eq!(judge(&evidence, THEN).unwrap_err(), snp::Error::Signature);
    // A version 3 report says its line, so a chip of another line is told as such.
    let mut vlek = self::evidence(&format!("{DATA}/snp/test-vlek-report.bin"));
    vlek.certificates = vec![genoa.clone()];
    assert_eq!(judge(&vlek, THEN).unwrap_err(), snp::Error::Line);
    vlek.certificates = vec![read("sev/tests/certs_data/vcek_milan.der")];
    assert_eq!(judge(&vlek, THEN).unwrap_err(), snp::Error::Kind);
    vlek.certificates = vec![genoa, read("sev/tests/certs_data/vcek_milan.der")];
    assert_eq!(judge(&vlek, THEN).unwrap_err(), snp::Error::TwoKeys);
}

fn a_changed_report_is_refused_at_every_signed_byte() {
    let evidence = evidence("trustee/attestation-service/tests/e2e/evidence.json");
    let raw = evidence.report.to_bytes();
    let mut refused = 0;
    for at in 0..raw.len() {
        let mut bytes = raw.clone();
        bytes[at] ^= 1;
        // Reserved bytes and versions are refused where the report is read.
        let Ok(Shown::Snp(mut changed)) = shown::detect(&bytes) else {
            refused += 1;
            continue;
        };
        changed.certificates.clone_from(&evidence.certificates);
        assert!(judge(&changed, THEN).is_err(), "byte {at:#x} may be changed");
        refused += 1;
    }
    assert_eq!(refused, raw.len());
}

fn a_turin_vcek_leads_to_amds_turin_root() {
    let vcek = read("sev/tests/certs_data/vcek_turin.der");
    let key = snp::key_certificate(std::slice::from_ref(&vcek), &snp::Roots::amd(), THEN).unwrap();
    assert_eq!((key.kind, key.generation), (snp::KeyKind::Vcek, Some(Generation::Turin)));
    assert!(key.tcb.fmc.is_some(), "Turin has a fifth part");
}

fn vceks_that_lead_nowhere_are_refused() {
    for name in ["test-vcek-invalid-legacy", "test-vcek-invalid-new"] {
        let der = read(&format!("{DATA}/snp/{name}.der"));
        assert_eq!(snp::key_certificate(&[der], &snp::Roots::amd(), THEN).unwrap_err(), snp::Error::Chain, "{name}");
    }
}

fn quotes_are_genuine_without_collateral_and_say_that_the_tcb_was_not_checked() {
    for (path, version) in [
        (format!("{DATA}/tdx_quote_4.dat"), 4),
        (format!("{DATA}/tdx_quote_5.dat"), 5),
        (format!("{DATA}/tdx_quote_6.dat"), 4),
        ("dcap-qvl/sample/tdx_quote".to_owned(), 4),
    ] {
        let (quote, raw) = quote(&path);
        assert_eq!(quote.version, version, "{path}");
        let genuine = tdx::genuine(&quote, &raw, None, &tdx::Root::intel(), COLLATERAL).expect(&path);
        assert_eq!(state(&genuine.checks, "tdx.tcb"), State::NotChecked, "{path}");
        assert_eq!(state(&genuine.checks, "tdx.chain"), State::Held, "{path}");
        assert_eq!(genuine.tcb, None);
    }
    let sgx = shown::detect(&read("dcap-qvl/sample/sgx_quote")).unwrap();
    assert_eq!(sgx, Shown::Other(shown::Other::Sgx));
}

fn a_quote_with_its_collateral_is_up_to_date() {
    let (quote, raw) = quote("dcap-qvl/sample/tdx_quote");
    let genuine = tdx::genuine(&quote, &raw, Some(&collateral()), &tdx::Root::intel(), COLLATERAL).unwrap();
    assert_eq!(genuine.tcb, Some(tdx::TcbStatus::UpToDate));
    assert_eq!(state(&genuine.checks, "tdx.tcb"), State::Held);
    assert_eq!(state(&genuine.checks, "tdx.crl"), State::Held);
    for (statuses, found) in [
        (None, State::Held),
        (Some(vec![tdx::TcbStatus::OutOfDate, tdx::TcbStatus::UpToDate]), State::Held),
        (Some(vec![tdx::TcbStatus::OutOfDate]), State::Failed),
    ] {
        let expected = Expected { tcb_statuses: statuses, ..Expected::nothing() };
        assert_eq!(state(&expect::tdx(&genuine, &expected), "expect.tcb-status"), found, "{expected:?}");
    }
}

fn a_quote_says_on_which_machine_it_was_made() {
    let (quote, raw) = quote("dcap-qvl/sample/tdx_quote");
    let genuine = tdx::genuine(&quote, &raw, None, &tdx::Root::intel(), COLLATERAL).unwrap();
    // PPID and Platform Instance ID, as `openssl asn1parse` shows them in the quote's PCK certificate.
    let machine = genuine.platform().expect("Intel's extension");
    assert_eq!(hex(&machine.provider), "811dca2a26b952e85bb6448b097ba4fd");
    assert_eq!(machine.instance.map(|id| hex(&id)).as_deref(), Some("07828474603e7019dc930775ffe8cdd2"));
}

fn collateral_out_of_its_time_or_of_another_platform_is_refused() {
    let (quote, raw) = quote("dcap-qvl/sample/tdx_quote");
    let at = |now| tdx::genuine(&quote, &raw, Some(&collateral()), &tdx::Root::intel(), now).unwrap_err();
    assert_eq!(at(THEN), tdx::Error::CollateralExpired);
    assert_eq!(at(1_745_000_000), tdx::Error::CollateralEarly);
    let mut text = json("dcap-qvl/sample/tdx_quote_collateral.json");
    // One letter of what Intel signed.
    let tcb = text["tcb_info"].as_str().unwrap().replace("UpToDate", "UpToDatE");
    text["tcb_info"] = Value::from(tcb);
    let forged = tdx::Collateral::parse(text.to_string().as_bytes()).unwrap();
    let error = tdx::genuine(&quote, &raw, Some(&forged), &tdx::Root::intel(), COLLATERAL).unwrap_err();
    assert_eq!(error, tdx::Error::CollateralInvalid);
    let (other, raw) = self::quote(&format!("{DATA}/tdx_quote_4.dat"));
    let error = tdx::genuine(&other, &raw, Some(&collateral()), &tdx::Root::intel(), COLLATERAL).unwrap_err();
    assert!(matches!(error, tdx::Error::CollateralOther | tdx::Error::TcbUnknown), "{error:?}");
}

fn a_changed_quote_is_refused_in_every_part() {
    let (_, raw) = quote("dcap-qvl/sample/tdx_quote");
    // Header 48, body 584, length 4; then signature 64, key 64, and the quoting enclave's report from 770.
    for (at, error) in [
        (20, Some(tdx::Error::Vendor)),
        (30, Some(tdx::Error::Signature)),
        (48 + 136, Some(tdx::Error::Signature)),
        (48 + 184, Some(tdx::Error::Signature)),
        (48 + 520, Some(tdx::Error::Signature)),
        (636 + 10, Some(tdx::Error::Signature)),
        (636 + 64 + 10, Some(tdx::Error::QeBinding)),
        (636 + 134 + 128, Some(tdx::Error::QeSignature)),
        (636 + 134 + 384 + 3, Some(tdx::Error::QeSignature)),
        (636 + 134 + 384 + 64 + 2 + 5, Some(tdx::Error::QeBinding)),
        // Inside the PCK certificate's base64.
        (636 + 134 + 384 + 64 + 2 + 32 + 6 + 300, None),
    ] {
        let mut bytes = raw.clone();
        bytes[at] ^= 1;
        let changed = Quote::parse(&bytes).unwrap();
        let found = tdx::genuine(&changed, &bytes, None, &tdx::Root::intel(), COLLATERAL).unwrap_err();
        assert!(error.is_none_or(|error| error == found), "byte {at}: {found:?}");
    }
}

fn a_debug_guest_is_not_what_is_expected() {
    let (quote, raw) = quote(&format!("{DATA}/tdx_quote_4.dat"));
    let genuine = tdx::genuine(&quote, &raw, None, &tdx::Root::intel(), COLLATERAL).unwrap();
    // As Trustee's expected claims say of the same quote.
    let claims = json(&format!("{DATA}/parse_tdx_claims_expected.json"));
    let debug = claims["td_attributes"]["debug"].as_bool().unwrap();
    let checks = expect::tdx(&genuine, &Expected::nothing());
    assert_eq!(state(&checks, "expect.debug") == State::Failed, debug);
    assert_eq!(expect::word(&checks, false, &[]) == Word::Unexpected, debug);
}

fn tokens_get_their_verdict_from_their_own_roots_only() {
    let anchors = TrustAnchors::from_pem(&read("generated/tokens/token-issuer-ca-cert.pem")).unwrap();
    let other = TrustAnchors::from_pem(&read("trustee/kbs/test_data/jwk/scenario01-trust.pem")).unwrap();
    for name in ["token-p256", "token-initdata", "token-sampledevice"] {
        let text = String::from_utf8(read(&format!("generated/tokens/{name}.jwt"))).unwrap();
        let token = EarToken::parse(text.trim()).unwrap();
        let issued = token.claims_unverified().unwrap().issued_at;
        assert!(token.signed_claims(Signer::EndorsedBy(&anchors), issued).is_ok(), "{name}");
        assert_eq!(token.signed_claims(Signer::EndorsedBy(&anchors), issued + 3600).unwrap_err(), TokenError::Expired);
        assert_eq!(token.signed_claims(Signer::EndorsedBy(&anchors), issued - 65).unwrap_err(), TokenError::NotYet);
        assert!(token.signed_claims(Signer::EndorsedBy(&other), issued).is_err(), "{name}");
    }
}

fn endorsement_scenarios_get_trustees_verdicts() {
    for (number, accepted) in [(1, true), (2, false), (3, false), (4, false), (5, true), (6, true), (7, true)] {
        let anchors =
            TrustAnchors::from_pem(&read(&format!("trustee/kbs/test_data/jwk/scenario0{number}-trust.pem"))).unwrap();
        let jwk = json(&format!("trustee/kbs/test_data/jwk/scenario0{number}-jwk.json"));
        let chain: Vec<Vec<u8>> = jwk["x5c"].as_array().map_or_else(Vec::new, |list| {
            use base64::Engine as _;
            list.iter()
                .map(|text| base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap())
                .collect()
        });
        // Inside the validity of all of them: the leaf's first moment.
        let now = chain.first().map_or(THEN, |der| not_before(der));
        let verdict = anchors.endorse(&chain, now);
        match (number, &verdict) {
            // The chain holds, and is another key's than the JWK.
            (2, Ok(key)) => {
                use base64::Engine as _;
                let n = base64::engine::general_purpose::URL_SAFE_NO_PAD
                    .decode(jwk["n"].as_str().or(jwk["x"].as_str()).unwrap())
                    .unwrap();
                assert!(!key.bits().windows(n.len()).any(|window| window == n), "scenario 2: the keys differ");
            }
            (3, Err(error)) => assert_eq!(*error, ChainError::Missing),
            (4, Err(error)) => assert_eq!(*error, ChainError::NoAnchor),
            _ => assert_eq!(verdict.is_ok(), accepted, "scenario {number}: {verdict:?}"),
        }
    }
}

fn not_before(der: &[u8]) -> u64 {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    u64::try_from(certificate.validity().not_before.timestamp()).unwrap() + 1
}

/// Runs the workstation's program.
fn verify(args: &[&str], input: Option<&[u8]>) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-countersign"))
        .arg("verify")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A refused command line is not read to its end.
    let _ = stdin.write_all(input.unwrap_or_default());
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn code(output: &Output, code: i32) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

fn path(name: &str) -> String {
    directory().unwrap().join(name).display().to_string()
}

fn exit_0_takes_both_expectations() {
    let file = path("trustee/attestation-service/tests/e2e/evidence.json");
    let report = evidence("trustee/attestation-service/tests/e2e/evidence.json").report;
    let (data, measurement) = (hex(&report.report_data), hex(&report.measurement));
    let at = ["--at", "2026-06-01"];
    let run = |more: &[&str]| verify(&[&[file.as_str()], &at[..], more].concat(), None);
    let text = code(&run(&[]), 85);
    assert!(text.contains("genuine, not appraised"), "{text}");
    code(&run(&["--report-data", &data]), 85);
    code(&run(&["--measurement", &measurement]), 85);
    let text = code(&run(&["--report-data", &data, "--measurement", &measurement]), 0);
    assert!(text.contains("not checked  snp.crl"), "{text}");
    let other = "00".repeat(48);
    code(&run(&["--report-data", &data, "--measurement", &other]), 86);
    code(&run(&["--report-data", "00ff", "--measurement", &measurement]), 86);
    code(&run(&["--report-data", &data, "--measurement", &other, "--measurement", &measurement]), 0);
    code(&run(&["--report-data", &data, "--init-data-digest", &"ab".repeat(32)]), 86);
    code(&run(&["--report-data", &data, "--measurement", &measurement, "--require", "crl"]), 86);
    code(&run(&["--report-data", &data, "--measurement", &measurement, "--require", "chip-id"]), 0);
    code(
        &run(&[
            "--report-data",
            &data,
            "--measurement",
            &measurement,
            "--min-tcb",
            "bootloader=255,tee=0,snp=0,microcode=0",
        ]),
        86,
    );
    // Both programs have it.
    let shipped =
        Command::new(env!("CARGO_BIN_EXE_countersign")).args(["verify", &file, "--at", "2026-06-01"]).output().unwrap();
    code(&shipped, 85);
}

fn the_command_judges_every_form_of_the_same_report() {
    use base64::Engine as _;
    let vcek = path("generated/snp/e2e-vcek.der");
    let raw = read("generated/snp/e2e-report.bin");
    let forms =
        [raw.clone(), hex(&raw).into_bytes(), base64::engine::general_purpose::STANDARD.encode(&raw).into_bytes()];
    for form in forms {
        let text = code(&verify(&["-", "--certificates", &vcek, "--at", "2026-06-01"], Some(&form)), 85);
        assert!(text.contains("Genoa"), "{text}");
    }
    let text = code(&verify(&["-"], Some(&raw)), 79);
    assert!(text.contains("VCEK") && text.contains("next: give --certificates"), "{text}");
    code(&verify(&["-"], Some(b"hello")), 87);
    code(&verify(&["-"], Some(b"")), 87);
    code(&verify(&["/nonexistent"], None), 64);
    code(&verify(&[&path("trustee/attestation-service/docs/example.token.json")], None), 87);
    code(&verify(&[&path("dcap-qvl/sample/tdx_quote_collateral.json")], None), 87);
    code(&verify(&[&path("go-tdx-guest/testing/testdata/report.dat")], None), 87);
    // What is sent to the attestation service, in its form of today and of before.
    for request in ["request.json", "policy/check.json"] {
        let request = path(&format!("trustee/attestation-service/tests/coco-as/{request}"));
        let text = code(&verify(&[&request], None), 87);
        assert!(text.contains("an SGX quote"), "{text}");
    }
    code(&verify(&[&vcek, "--at", "2026-06-01"], None), 85);
    let quote = path("dcap-qvl/sample/tdx-quote.hex");
    let text = code(&verify(&[&quote, "--at", "2025-07-08"], None), 85);
    assert!(text.contains("TCB not checked"), "{text}");
}

fn verdicts_repeat_the_time_and_the_roots_that_were_given() {
    let file = path("dcap-qvl/sample/tdx_quote");
    let (collateral, root) =
        (path("dcap-qvl/sample/tdx_quote_collateral.json"), path("go-tdx-guest/verify/trusted_root.pem"));
    let output =
        verify(&[&file, "--collateral", &collateral, "--roots", &root, "--at", "2025-07-08T18:40:00Z", "--json"], None);
    assert_eq!(output.status.code(), Some(85));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["basis"]["at"], "2025-07-08T18:40:00Z");
    assert_eq!(
        (&document["basis"]["at_given"], &document["basis"]["roots_given"]),
        (&Value::from(true), &Value::from(true))
    );
    assert_eq!((&document["verdict"], &document["exit"]), (&Value::from("not-appraised"), &Value::from(85)));
    let text = code(&verify(&[&file, "--roots", &root, "--at", "2025-07-08T18:40:00Z"], None), 85);
    assert!(text.contains("given with --at") && text.contains("in place of the makers' own"), "{text}");
    // AMD's root does not vouch for Intel's quotes.
    let amd = path("sev/src/certs/snp/builtin/genoa/ark.pem");
    code(&verify(&[&file, "--roots", &amd, "--at", "2025-07-08"], None), 79);
}

fn a_policy_file_says_what_flags_say() {
    let directory = tempfile();
    let report = evidence("trustee/attestation-service/tests/e2e/evidence.json").report;
    let policy = directory.join("verify.toml");
    let text =
        format!("report_data = \"{}\"\nmeasurement = [\"{}\"]\n", hex(&report.report_data), hex(&report.measurement));
    std::fs::write(&policy, text).unwrap();
    let (file, policy) = (path("trustee/attestation-service/tests/e2e/evidence.json"), policy.display().to_string());
    code(&verify(&[&file, "--policy", &policy, "--at", "2026-06-01"], None), 0);
    let text = code(&verify(&[&file, "--policy", &policy, "--report-data", "00"], None), 64);
    assert!(text.contains("policy file"), "{text}");
    std::fs::write(&policy, "mesurement = [\"00\"]\n").unwrap();
    code(&verify(&[&file, "--policy", &policy], None), 78);
    std::fs::remove_dir_all(directory).unwrap();
}

fn an_expectation_that_cannot_be_held_to_is_refused() {
    let file = path("trustee/attestation-service/tests/e2e/evidence.json");
    for more in [
        &["--nonce", "abc"][..],
        &["--expect", "spiffe://example.org/a"],
        &["--measurement", "00"],
        &["--at", "yesterday"],
        &["--init-data-digest", "0000"],
    ] {
        code(&verify(&[&[file.as_str()], more].concat(), None), 64);
    }
    let token = path("generated/tokens/token-p256.jwt");
    code(&verify(&[&token, "--chip-id", &"ab".repeat(64)], None), 64);
    code(&verify(&[&path("generated/snp/e2e-vcek.der"), "--report-data", "00"], None), 64);
}

fn a_token_is_told_in_words() {
    let (token, ca) = (path("generated/tokens/token-initdata.jwt"), path("generated/tokens/token-issuer-ca-cert.pem"));
    let text = String::from_utf8(read("generated/tokens/token-initdata.jwt")).unwrap();
    let issued = EarToken::parse(text.trim()).unwrap().claims_unverified().unwrap().issued_at.to_string();
    let text = code(&verify(&[&token], None), 79);
    assert!(text.contains("--roots") && text.contains("executables"), "{text}");
    let text = code(&verify(&[&token, "--roots", &ca, "--at", &issued], None), 85);
    assert!(
        text.contains("something was loaded that is not recognized") && text.contains("snp_launch_measurement"),
        "{text}"
    );
    assert!(text.contains("sample"), "{text}");
    let text = code(&verify(&[&token, "--roots", &ca], None), 79);
    assert!(text.contains("is too old"), "{text}");
    // A sample is never as expected, whatever it says.
    code(&verify(&[&token, "--roots", &ca, "--at", &issued, "--nonce", "x"], None), 86);
}

fn ids_of_chips_are_shortened() {
    let file = path("trustee/attestation-service/tests/e2e/evidence.json");
    let chip = hex(&evidence("trustee/attestation-service/tests/e2e/evidence.json").report.chip_id);
    let short = verify(&[&file, "--at", "2026-06-01"], None);
    assert!(!String::from_utf8_lossy(&short.stdout).contains(&chip));
    let whole = verify(&[&file, "--at", "2026-06-01", "--show-ids"], None);
    assert!(String::from_utf8_lossy(&whole.stdout).contains(&chip));
}

fn tempfile() -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("countersign-verify-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

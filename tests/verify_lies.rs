//! Judges and commands against hardware of the testbed: every lie it can tell, under roots of its own.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use countersign::appraise::check::State;
use countersign::appraise::expect::{self, Expected, Word};
use countersign::appraise::{snp, tdx};
use countersign::evidence::shown::{self, Shown};
use countersign::evidence::tdx::Quote;
use countersign::formats::ear::EarToken;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::Kbs;
use countersign_testbed::mesh;
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Certificates, Guest, Lie, SnpGuest, TdxGuest, Vendor, hex};
use countersign_testbed::world::World;

countersign_testbed::main! {
    an_honest_report_is_genuine_under_its_own_roots_only,
    every_lie_of_an_snp_guest_is_refused_by_its_reason,
    a_key_for_another_chip_is_refused,
    a_masked_chip_is_told_as_not_checked,
    turins_fifth_part_and_short_chip_id_are_held_to,
    an_authority_that_the_root_has_revoked_is_refused,
    a_list_that_is_not_the_roots_or_out_of_its_time_is_refused,
    the_list_of_a_file_or_of_the_hosts_table_is_held_to,
    an_honest_quote_is_genuine_under_its_own_root_only,
    every_lie_of_a_tdx_guest_is_refused,
    debug_migration_and_vmpl_are_refused_unless_allowed,
    a_td_under_another_module_than_intels_is_refused,
    a_tcb_status_that_is_demanded_and_cannot_be_had_is_refused,
    a_tokens_tcb_status_is_held_to_the_accepted_ones,
    evidence_off_a_tee_says_so,
    evidence_of_a_simulated_guest_is_judged_by_verify,
    evidence_is_told_in_every_format [Namespaces],
    a_sidecars_certificate_needs_roots_and_an_identity,
    a_live_sidecar_is_judged_by_the_certificate_that_it_shows,
    what_does_not_speak_tls_is_told_as_such,
}

/// Any time that the testbed's vendors are valid at.
const NOW: u64 = 1_790_000_000;

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn roots(vendor: &Vendor) -> snp::Roots {
    snp::Roots::replaced([pem(vendor.ark()), pem(vendor.ask())].concat().as_bytes()).unwrap()
}

fn judge_with(guest: &SnpGuest, roots: &snp::Roots) -> Result<snp::Genuine, snp::Error> {
    let text = guest.evidence(&[7; 64]).to_string();
    let Ok(Shown::Snp(evidence)) = shown::detect(text.as_bytes()) else { panic!("{text}") };
    let beside = snp::Beside { certificates: &evidence.certificates, crl: None };
    snp::genuine(&evidence.report, &beside, roots, NOW)
}

fn judge(guest: &SnpGuest) -> Result<snp::Genuine, snp::Error> {
    judge_with(guest, &roots(&guest.vendor))
}

fn judge_quote(guest: &TdxGuest, root: &tdx::Root) -> Result<tdx::Genuine, tdx::Error> {
    let raw = guest.quote(&[7; 64]);
    let quote = Quote::parse(&raw).unwrap();
    tdx::genuine(&quote, &raw, None, root, NOW)
}

fn root_of(guest: &TdxGuest) -> tdx::Root {
    tdx::Root::replaced(pem(guest.vendor.sgx_root()).as_bytes()).unwrap()
}

fn state(checks: &[countersign::appraise::check::Check], id: &str) -> State {
    checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no check {id}")).state
}

fn an_honest_report_is_genuine_under_its_own_roots_only() {
    let guest = SnpGuest::genoa();
    assert!(judge(&guest).is_ok());
    assert_eq!(judge_with(&guest, &snp::Roots::amd()).unwrap_err(), snp::Error::Chain);
    assert_eq!(judge_with(&guest, &roots(&Vendor::new())).unwrap_err(), snp::Error::Chain);
    // The authority may come along with the report, as long as the root signed it.
    let chain = SnpGuest { certificates: Certificates::Chain, ..SnpGuest::genoa() };
    let root_only = snp::Roots::replaced(pem(guest.vendor.ark()).as_bytes()).unwrap();
    assert!(judge_with(&chain, &root_only).is_ok());
    assert_eq!(judge_with(&guest, &root_only).unwrap_err(), snp::Error::Chain);
}

fn every_lie_of_an_snp_guest_is_refused_by_its_reason() {
    let honest = SnpGuest::genoa();
    for (guest, error) in [
        (honest.clone().lying(Lie::OtherKey), snp::Error::Signature),
        (honest.clone().lying(Lie::Tampered), snp::Error::Signature),
        (
            SnpGuest { claimed_tcb: Some(countersign_testbed::tee::Tcb { snp: 99, ..honest.tcb }), ..honest.clone() },
            snp::Error::Tcb,
        ),
        (SnpGuest { certificates: Certificates::None, ..honest.clone() }, snp::Error::NoKey),
        (SnpGuest { vendor: Vendor::new(), ..honest.clone() }, snp::Error::Chain),
    ] {
        assert_eq!(judge_with(&guest, &roots(&honest.vendor)).unwrap_err(), error, "{guest:?}");
    }
    // Properly signed, and not what was asked for: genuine, and unexpected.
    let genuine = judge(&honest.clone().lying(Lie::WrongReportData)).unwrap();
    let expected = Expected { report_data: Some([7; 64]), ..Expected::nothing() };
    let checks = expect::snp(&genuine, &expected);
    assert_eq!(state(&checks, "expect.report-data"), State::Failed);
    assert_eq!(expect::word(&checks, expected.is_silent(), &expected.missing()), Word::Unexpected);
}

fn a_key_for_another_chip_is_refused() {
    let guest = SnpGuest::genoa();
    let text = guest.evidence(&[7; 64]).to_string();
    let Ok(Shown::Snp(mut evidence)) = shown::detect(text.as_bytes()) else { panic!() };
    evidence.certificates = vec![guest.vendor.vcek(&[0xc2; 64], guest.tcb)];
    let beside = snp::Beside { certificates: &evidence.certificates, crl: None };
    // Another chip has another key, so the signature tells first.
    assert_eq!(snp::genuine(&evidence.report, &beside, &roots(&guest.vendor), NOW).unwrap_err(), snp::Error::Signature);
}

fn a_masked_chip_is_told_as_not_checked() {
    let guest = SnpGuest { chip_id: [0; 64], ..SnpGuest::genoa() };
    let genuine = judge(&guest).unwrap();
    assert!(genuine.chip_is_hidden());
    assert_eq!(state(&genuine.checks, "snp.chip-id"), State::NotChecked);
    let expected = Expected { chip_ids: vec![vec![0; 64]], ..Expected::nothing() };
    assert_eq!(state(&expect::snp(&genuine, &expected), "expect.chip-id"), State::Failed, "zeros are nobody's id");
    let expected = Expected { require: vec!["chip-id".to_owned()], ..Expected::nothing() };
    assert_eq!(state(&expect::snp(&genuine, &expected), "expect.require"), State::Failed);
}

fn turins_fifth_part_and_short_chip_id_are_held_to() {
    let guest = SnpGuest::turin();
    let genuine = judge(&guest).unwrap();
    assert_eq!(state(&genuine.checks, "snp.chip-id"), State::Held);
    let fmc = guest.tcb.fmc.unwrap();
    let other = countersign_testbed::tee::Tcb { fmc: Some(fmc ^ 1), ..guest.tcb };
    assert_eq!(judge(&SnpGuest { claimed_tcb: Some(other), ..guest }).unwrap_err(), snp::Error::Tcb);
}

/// With this list beside it, at any time that the list of 2026 is good at.
fn judge_listed(guest: &SnpGuest, list: &[u8]) -> Result<snp::Genuine, snp::Error> {
    let text = guest.evidence(&[7; 64]).to_string();
    let Ok(Shown::Snp(evidence)) = shown::detect(text.as_bytes()) else { panic!("{text}") };
    let beside = snp::Beside { certificates: &evidence.certificates, crl: Some(list) };
    snp::genuine(&evidence.report, &beside, &roots(&guest.vendor), NOW)
}

/// 1 January 2026 to 1 January 2027, around [`NOW`].
const YEAR: (i32, i32) = (2026, 2027);

fn an_authority_that_the_root_has_revoked_is_refused() {
    let guest = SnpGuest::genoa();
    let vendor = &guest.vendor;
    let honest = judge_listed(&guest, &vendor.crl(&[], YEAR)).unwrap();
    assert_eq!(state(&honest.checks, "snp.crl"), State::Held);
    // Somebody else's authority is on it.
    assert!(judge_listed(&guest, &vendor.crl(&[Vendor::new().ask()], YEAR)).is_ok());
    assert_eq!(judge_listed(&guest, &vendor.crl(&[vendor.ask()], YEAR)).unwrap_err(), snp::Error::Revoked);
    // Among others, and where the authority came along with the report.
    let chain = SnpGuest { certificates: Certificates::Chain, ..guest.clone() };
    let list = vendor.crl(&[Vendor::new().ask(), vendor.ask()], YEAR);
    assert_eq!(judge_listed(&chain, &list).unwrap_err(), snp::Error::Revoked);
}

fn a_list_that_is_not_the_roots_or_out_of_its_time_is_refused() {
    let guest = SnpGuest::genoa();
    let vendor = &guest.vendor;
    let list = vendor.crl(&[], YEAR);
    let changed = |at: usize| {
        let mut list = list.clone();
        list[at] ^= 1;
        list
    };
    for (list, error) in [
        // Another root of the same name, and an authority below the right one.
        (Vendor::new().crl(&[], YEAR), snp::Error::Crl),
        (vendor.crl_of_the_ask(&[], YEAR), snp::Error::Crl),
        (changed(list.len() - 1), snp::Error::Crl),
        (changed(list.len() / 2), snp::Error::Crl),
        (list[..list.len() - 1].to_vec(), snp::Error::Crl),
        ([list.as_slice(), &[0]].concat(), snp::Error::Crl),
        (Vec::new(), snp::Error::Crl),
        (vendor.ark().to_vec(), snp::Error::Crl),
        (vec![0x30; 1024 * 1024 + 1], snp::Error::Crl),
        (vendor.crl(&[], (2024, 2025)), snp::Error::CrlTime),
        (vendor.crl(&[], (2030, 2031)), snp::Error::CrlTime),
        // An old list that names the authority is still no list of today's.
        (vendor.crl(&[vendor.ask()], (2024, 2025)), snp::Error::CrlTime),
    ] {
        assert_eq!(judge_listed(&guest, &list).unwrap_err(), error, "{} bytes", list.len());
    }
}

fn the_list_of_a_file_or_of_the_hosts_table_is_held_to() {
    let guest = SnpGuest::genoa();
    let vendor = &guest.vendor;
    let directory = std::env::temp_dir().join(format!("countersign-crl-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let roots = file("roots.pem", vendor.amd_roots().as_bytes());
    let evidence = file("evidence.json", guest.evidence(&[7; 64]).to_string().as_bytes());
    // The table that a host hands to its guests, behind the report.
    let mut kept = guest.evidence(&[7; 64]);
    let list: Vec<serde_json::Value> = vendor.crl(&[vendor.ask()], YEAR).into_iter().map(Into::into).collect();
    kept["cert_chain"].as_array_mut().unwrap().push(serde_json::json!({"cert_type": "CRL", "data": list}));
    let tabled = file("tabled.json", kept.to_string().as_bytes());
    let good = file("good.der", &vendor.crl(&[], YEAR));
    let revoked = file("revoked.der", &vendor.crl(&[vendor.ask()], YEAR));
    let forged = file("forged.der", &Vendor::new().crl(&[], YEAR));
    let world = World::host().unwrap();
    let verify = |shown: &str, more: &[&str]| {
        let data = "07".repeat(64);
        let always = ["verify", shown, "--roots", &roots, "--at", "2026-10-01", "--report-data", &data];
        world.countersign(&[&always[..], more].concat()).run()
    };
    let run = verify(&good, &[]).expect_code(87);
    assert!(run.output().contains("with this file as --crl"), "{}", run.output());
    let run = verify(&evidence, &["--crl", &revoked]).expect_code(79);
    assert!(run.stdout.contains("AMD has revoked"), "{}", run.output());
    let run = verify(&evidence, &["--crl", &forged]).expect_code(79);
    assert!(run.stdout.contains("next: fetch AMD's list"), "{}", run.output());
    verify(&tabled, &[]).expect_code(79);
    verify(&tabled, &["--require", "crl"]).expect_code(79);
    // A list of one's own counts in place of the host's.
    verify(&tabled, &["--crl", &good]).expect_code(85);
    let run = verify(&evidence, &["--require", "crl"]).expect_code(86);
    assert!(run.stdout.contains("`crl` had to be checked"), "{}", run.output());
    verify(&evidence, &["--crl", &good, "--require", "crl"]).expect_code(85);
    std::fs::remove_dir_all(directory).unwrap();
}

fn an_honest_quote_is_genuine_under_its_own_root_only() {
    for guest in [TdxGuest::v4(), TdxGuest::v5()] {
        let genuine = judge_quote(&guest, &root_of(&guest)).unwrap();
        assert_eq!(
            state(&genuine.checks, "tdx.qe-identity"),
            State::NotChecked,
            "whose enclave, only Intel's root says"
        );
        assert!(judge_quote(&guest, &tdx::Root::intel()).is_err());
        let other = TdxGuest { vendor: Vendor::new(), ..guest.clone() };
        assert_eq!(judge_quote(&guest, &root_of(&other)).unwrap_err(), tdx::Error::Chain);
    }
}

fn every_lie_of_a_tdx_guest_is_refused() {
    let honest = TdxGuest::v4();
    for lie in [Lie::OtherKey, Lie::Tampered] {
        let found = judge_quote(&honest.clone().lying(lie.clone()), &root_of(&honest));
        assert!(found.is_err(), "{lie:?}");
    }
    let genuine = judge_quote(&honest.clone().lying(Lie::WrongReportData), &root_of(&honest)).unwrap();
    let expected = Expected { report_data: Some([7; 64]), ..Expected::nothing() };
    assert_eq!(state(&expect::tdx(&genuine, &expected), "expect.report-data"), State::Failed);
}

fn debug_migration_and_vmpl_are_refused_unless_allowed() {
    let honest = SnpGuest::genoa();
    for (guest, id) in [
        (SnpGuest { policy: honest.policy | 1 << 19, ..honest.clone() }, "expect.debug"),
        (SnpGuest { policy: honest.policy | 1 << 18, ..honest.clone() }, "expect.migration"),
        (SnpGuest { vmpl: 2, ..honest.clone() }, "expect.vmpl"),
    ] {
        let genuine = judge(&guest).unwrap();
        assert_eq!(state(&expect::snp(&genuine, &Expected::nothing()), id), State::Failed, "{id}");
        let allowed = Expected { allow_debug: true, allow_migration: true, vmpl: guest.vmpl, ..Expected::nothing() };
        assert_eq!(state(&expect::snp(&genuine, &allowed), id), State::Held, "{id}");
    }
    // DEBUG, and the three kinds of profiling; MIGRATABLE, and SERVTD_EXT.
    let bits = [(0, "expect.debug"), (4, "expect.debug"), (5, "expect.debug"), (6, "expect.debug")];
    for (bit, id) in bits.into_iter().chain([(29, "expect.migration"), (17, "expect.migration")]) {
        for honest in [TdxGuest::v4(), TdxGuest::v5()] {
            let guest = TdxGuest { attributes: honest.attributes | 1 << bit, ..honest };
            let genuine = judge_quote(&guest, &root_of(&guest)).unwrap();
            assert_eq!(state(&expect::tdx(&genuine, &Expected::nothing()), id), State::Failed, "{bit}");
            let allowed = Expected { allow_debug: true, allow_migration: true, ..Expected::nothing() };
            assert_eq!(state(&expect::tdx(&genuine, &allowed), id), State::Held, "{bit}");
        }
    }
}

fn a_td_under_another_module_than_intels_is_refused() {
    let guest = TdxGuest { module_signer: [0x77; 48], ..TdxGuest::v5() };
    assert_eq!(judge_quote(&guest, &root_of(&guest)).unwrap_err(), tdx::Error::Module);
}

fn a_tcb_status_that_is_demanded_and_cannot_be_had_is_refused() {
    let (snp, tdx) = (SnpGuest::genoa(), TdxGuest::v4());
    let world = World::host().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = world.directory().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let policy = file("verify.toml", b"tcb_status = [\"UpToDate\"]\n");
    let quote =
        (file("quote", &tdx.quote(&[7; 64])), file("intel.pem", tdx.vendor.intel_root().as_bytes()), &tdx.mr_td);
    let report = snp.evidence(&[7; 64]).to_string();
    let report =
        (file("report.json", report.as_bytes()), file("amd.pem", snp.vendor.amd_roots().as_bytes()), &snp.measurement);
    let data = "07".repeat(64);
    for ((shown, roots, measurement), why) in
        [(quote, "without collateral nobody knows"), (report, "has no such status")]
    {
        let measurement = hex(measurement);
        let verify = |more: &[&str]| {
            let always = ["verify", &shown, "--roots", &roots, "--report-data", &data, "--measurement", &measurement];
            world.countersign(&[&always[..], more].concat()).run()
        };
        verify(&[]).expect_code(0);
        for more in [["--tcb-status", "UpToDate"], ["--tcb-status", "OutOfDate"], ["--policy", &policy]] {
            let run = verify(&more).expect_code(86);
            assert!(run.stdout.contains(why), "{}", run.output());
        }
    }
}

fn a_tokens_tcb_status_is_held_to_the_accepted_ones() {
    let world = World::host().unwrap();
    let (tdx, snp) = (Guest::Tdx(TdxGuest::v4()), Guest::Snp(SnpGuest::genoa()));
    let kbs = Kbs::healthy().reference(&tdx).reference(&snp).on_loopback();
    let file = |name: &str, text: &str| {
        let path = world.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let roots = file("token-ca.pem", &kbs.token_root());
    let verify = |guest: &Guest, more: &[&str]| {
        let answer = kbs.handshake(guest, None).unwrap();
        let token = answer["token"].as_str().unwrap();
        let nonce = EarToken::parse(token).unwrap().claims_unverified().unwrap().cpu().runtime.clone().unwrap().nonce;
        let (shown, measurement) = (file("token.jwt", token), guest.measurement().unwrap());
        let always = ["verify", &shown, "--roots", &roots, "--nonce", &nonce, "--measurement", &measurement];
        world.countersign(&[&always[..], more].concat()).run()
    };
    verify(&tdx, &[]).expect_code(0);
    // The double's verifier says of each TDX guest that it is up to date.
    let run = verify(&tdx, &["--tcb-status", "UpToDate"]).expect_code(0);
    assert!(run.stdout.contains("expect.tcb-status"), "{}", run.output());
    let run = verify(&tdx, &["--tcb-status", "SWHardeningNeeded", "--tcb-status", "OutOfDate"]).expect_code(86);
    assert!(run.stdout.contains("TCB status UpToDate, accepted: SWHardeningNeeded, OutOfDate"), "{}", run.output());
    verify(&snp, &[]).expect_code(0);
    let run = verify(&snp, &["--tcb-status", "UpToDate"]).expect_code(86);
    assert!(run.stdout.contains("names no TCB status"), "{}", run.output());
}

fn evidence_off_a_tee_says_so() {
    let world = World::host().unwrap();
    let run = world.countersign(&["evidence"]).run().expect_code(71);
    assert!(run.stdout.is_empty(), "{}", run.output());
    assert!(run.stderr.contains("no confidential guest"), "{}", run.output());
    world.countersign(&["evidence", "--report-data", "xyz"]).run().expect_code(64);
}

fn evidence_of_a_simulated_guest_is_judged_by_verify() {
    let guest = SnpGuest::genoa().initdata(&[5; 32]);
    let data = "00ff";
    let mut signed = [0; 64];
    signed[1] = 0xff;
    let text = guest.evidence(&signed).to_string();
    let directory = std::env::temp_dir().join(format!("countersign-lies-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let roots = directory.join("roots.pem");
    std::fs::write(&roots, [pem(guest.vendor.ark()), pem(guest.vendor.ask())].concat()).unwrap();
    let roots = roots.display().to_string();
    let verify = |more: &[&str]| {
        let world = World::host().unwrap();
        let args = [&["verify", "-", "--roots", &roots][..], more].concat();
        world.countersign(&args).stdin(text.clone().into_bytes()).run()
    };
    let digest = "05".repeat(32);
    let run = verify(&["--report-data", data, "--init-data-digest", &digest]).expect_code(0);
    assert!(run.stdout.contains("in place of the makers' own"), "{}", run.output());
    verify(&["--report-data", data, "--init-data-digest", &"06".repeat(32)]).expect_code(86);
    verify(&["--report-data", data]).expect_code(85);
    verify(&[]).expect_code(85);
    std::fs::remove_dir_all(directory).unwrap();
}

fn evidence_is_told_in_every_format() {
    let world = World::new().unwrap();
    let signer = world.signer(Signer::answering("snp").launched_with(&[5; 32]));
    let evidence =
        |args: &[&str]| world.sim(&[&["evidence", "--report-data", "00ff"], args].concat()).tee(&signer).run();
    let text = evidence(&[]).expect_code(0).stdout;
    for word in ["an SEV-SNP report", "REPORT_DATA", "00ff0000", "HOST_DATA", "digest of the initdata", "no debugging"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(
        text.contains("…") && !evidence(&["--show-ids"]).stdout.contains('…'),
        "ids are shortened unless asked for"
    );
    let json = evidence(&["--format", "json"]).expect_code(0).stdout;
    let Ok(Shown::Snp(found)) = shown::detect(json.as_bytes()) else { panic!("{json}") };
    assert_eq!(found.report.report_data[..2], [0, 0xff]);
    let beside = snp::Beside { certificates: &found.certificates, crl: None };
    let vendor = Vendor::ours();
    assert!(snp::genuine(&found.report, &beside, &roots(&vendor), NOW).is_ok(), "{json}");
}

fn a_sidecars_certificate_needs_roots_and_an_identity() {
    let (ours, other) = (Ca::new("mesh"), Ca::new("other"));
    let me = "spiffe://example.org/ns/payments/sa/api";
    let leaf = ours.member(me);
    let directory = std::env::temp_dir().join(format!("countersign-leaf-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (shown, good, bad) = (file("leaf.pem", leaf.pem()), file("ca.pem", ours.pem()), file("other.pem", other.pem()));
    let verify = |more: &[&str]| {
        let world = World::host().unwrap();
        world.countersign(&[&["verify", &shown][..], more].concat()).run()
    };
    verify(&["--roots", &good, "--expect", me]).expect_code(0);
    verify(&["--roots", &good]).expect_code(85);
    verify(&["--roots", &good, "--expect", "spiffe://example.org/ns/payments/sa/db"]).expect_code(86);
    verify(&["--roots", &bad, "--expect", me]).expect_code(79);
    verify(&["--expect", me]).expect_code(79);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A server that wants a client certificate, as a sidecar does. Its address, and what keeps it: it serves so
/// many connections and ends.
fn serve(identity: &countersign_testbed::pki::Identity, roots: &Ca, connections: usize) -> (String, JoinHandle<()>) {
    let (config, listener) = (mesh::bare_server(identity, roots), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // Ends with our refusal of whoever shows no certificate.
            assert!(connection.complete_io(&mut stream).is_err());
        }
    });
    (url, serving)
}

fn a_live_sidecar_is_judged_by_the_certificate_that_it_shows() {
    let (ours, other) = (Ca::new("mesh"), Ca::new("other"));
    let me = "spiffe://example.org/ns/payments/sa/api";
    let directory = std::env::temp_dir().join(format!("countersign-live-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, bad) = (file("ca.pem", ours.pem()), file("other.pem", other.pem()));
    let (url, serving) = serve(&ours.member(me), &ours, 4);
    let verify = |more: &[&str]| {
        let world = World::host().unwrap();
        world.countersign(&[&["verify", &url][..], more].concat()).run()
    };
    let run = verify(&["--roots", &good, "--expect", me]).expect_code(0);
    assert!(run.stdout.contains(me), "{}", run.output());
    verify(&["--roots", &good]).expect_code(85);
    verify(&["--roots", &good, "--expect", "spiffe://example.org/ns/payments/sa/db"]).expect_code(86);
    verify(&["--roots", &bad, "--expect", me]).expect_code(79);
    serving.join().unwrap();
    // Nobody listens any more.
    verify(&["--roots", &good, "--expect", me]).expect_code(69);
    verify(&["--roots", &good, "--expect", me, "--at", "2026-01-01"]).expect_code(64);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn what_does_not_speak_tls_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let world = World::host().unwrap();
    let run = world.countersign(&["verify", &url]).run().expect_code(69);
    assert!(run.output().contains("health port"), "{}", run.output());
    serving.join().unwrap();
}

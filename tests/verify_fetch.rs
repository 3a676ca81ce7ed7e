//! `verify --kds` and `--pccs`: what is asked, what is made of the answers, and what of those that do not
//! come. The servers are the testbed's doubles.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use countersign_testbed::endorser::{Endorser, Page, RunningEndorser};
use countersign_testbed::kbs::Kbs;
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Certificates, Guest, Lie, SnpGuest, Tcb, TdxGuest, Vendor, hex};
use countersign_testbed::vectors;
use countersign_testbed::world::{Run, World};
use serde_json::Value;

countersign_testbed::main! {
    nothing_is_fetched_without_a_flag,
    a_vcek_and_the_list_are_fetched_by_chip_and_tcb,
    turins_path_has_the_short_chip_id_and_the_fifth_part,
    what_the_report_came_with_is_not_fetched_again,
    another_chips_or_tcbs_vcek_is_told_as_such_and_replaced,
    a_list_that_came_along_only_accuses,
    a_list_that_came_along_is_replaced_by_the_servers,
    a_report_that_hides_its_line_is_asked_for_by_each,
    a_hidden_chip_and_a_clouds_key_are_not_asked_for,
    what_cannot_be_fetched_is_told_as_not_checked_and_why,
    a_list_that_cannot_be_fetched_is_fatal_only_where_it_is_required,
    what_a_server_makes_up_is_refused,
    https_trusts_the_given_ca_and_nobody_else,
    a_quotes_collateral_is_fetched_in_four_parts [Vectors],
    a_part_that_a_pccs_withholds_is_named [Vectors],
    collateral_that_a_pccs_makes_up_is_refused [Vectors],
    refused_flags_that_are_no_url_or_no_ca,
    refused_flags_that_belong_beside_another_kind_of_evidence,
}

/// What the guests of these tests are asked to have signed.
const DATA: [u8; 64] = [7; 64];

/// A time that the vendors and their lists are good at.
const AT: &str = "2026-10-01";

/// A directory of one test's own.
struct Desk {
    world: World,
}

impl Desk {
    fn new() -> Self {
        Self { world: World::host().unwrap() }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.world.directory().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// The evidence of a guest, under the roots of its vendor.
    fn verify(&self, guest: &SnpGuest, more: &[&str]) -> (Run, Value) {
        self.verify_shown(guest, &guest.evidence(&DATA).to_string(), more)
    }

    /// This as the evidence of a guest.
    fn verify_shown(&self, guest: &SnpGuest, shown: &str, more: &[&str]) -> (Run, Value) {
        let evidence = self.file("evidence.json", shown);
        let roots = self.file("roots.pem", guest.vendor.amd_roots());
        let (data, measurement) = (hex(&DATA), hex(&guest.measurement));
        let said = ["--roots", &roots, "--at", AT, "--report-data", &data, "--measurement", &measurement];
        self.judge(&evidence, &[&said[..], more].concat())
    }

    fn judge(&self, shown: &str, more: &[&str]) -> (Run, Value) {
        let run = self.world.countersign(&[&["verify", shown, "--json"][..], more].concat()).run();
        let document = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
        (run, document)
    }
}

fn said<'v>(document: &'v Value, id: &str) -> (&'v str, &'v str) {
    let found = document["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
    let found = found.unwrap_or_else(|| panic!("no check {id}: {document:#}"));
    (found["state"].as_str().unwrap(), found["said"].as_str().unwrap())
}

fn paths(server: &RunningEndorser) -> Vec<String> {
    server.requests().into_iter().map(|seen| seen.path).collect()
}

fn bare() -> SnpGuest {
    SnpGuest { certificates: Certificates::None, ..SnpGuest::genoa() }
}

fn nothing_is_fetched_without_a_flag() {
    let (run, document) = Desk::new().verify(&bare(), &[]);
    run.expect_code(79);
    let ids = document["checks"].to_string();
    assert!(!ids.contains("fetch."), "{ids}");
}

fn a_vcek_and_the_list_are_fetched_by_chip_and_tcb() {
    let (desk, guest) = (Desk::new(), bare());
    let server = Endorser::kds(&guest, "Genoa").on_loopback();
    let (run, document) = desk.verify(&guest, &["--kds", &server.url(), "--require", "crl", "--require", "chip-id"]);
    run.expect_code(0);
    for id in ["fetch.vcek", "fetch.revocation", "snp.chain", "snp.crl", "snp.chip-id"] {
        assert_eq!(said(&document, id).0, "held", "{document:#}");
    }
    assert!(said(&document, "fetch.vcek").1.contains(&server.url()), "whose word it is: {document:#}");
    let chip = "c1".repeat(64);
    assert_eq!(
        paths(&server),
        [format!("/vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"), "/vcek/v1/Genoa/crl".to_owned()]
    );
    for seen in server.requests() {
        let told = [seen.headers.get("cookie"), seen.headers.get("authorization"), seen.headers.get("referer")];
        assert_eq!(told, [None, None, None], "{seen:?}");
    }
}

fn turins_path_has_the_short_chip_id_and_the_fifth_part() {
    let guest = SnpGuest { certificates: Certificates::None, ..SnpGuest::turin() };
    let server = Endorser::kds(&guest, "Turin").on_loopback();
    let (run, _) = Desk::new().verify(&guest, &["--kds", &server.url()]);
    run.expect_code(0);
    let place = "/vcek/v1/Turin/c5c5c5c5c5c5c5c5?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81";
    assert_eq!(paths(&server)[0], place);
}

fn what_the_report_came_with_is_not_fetched_again() {
    let (desk, guest) = (Desk::new(), SnpGuest::genoa());
    let server = Endorser::kds(&guest, "Genoa").on_loopback();
    let list = desk.file("list.der", guest.vendor.crl(&[], (2026, 2027)));
    let (run, _) = desk.verify(&guest, &["--kds", &server.url()]);
    run.expect_code(0);
    assert_eq!(paths(&server), ["/vcek/v1/Genoa/crl"]);
    desk.verify(&guest, &["--kds", &server.url(), "--crl", &list]).0.expect_code(0);
    assert_eq!(server.count(), 1);
}

/// Evidence with these certificates in the host's table.
fn tabled(guest: &SnpGuest, certificates: &[Vec<u8>]) -> String {
    let mut evidence = guest.evidence(&DATA);
    let entries: Vec<_> =
        certificates.iter().map(|der| serde_json::json!({"cert_type": "VCEK", "data": der})).collect();
    evidence["cert_chain"] = Value::from(entries);
    evidence.to_string()
}

/// A key is a chip's at a TCB: what a host hands out that has updated its firmware, or moved a guest, and
/// kept the certificate.
fn another_chips_or_tcbs_vcek_is_told_as_such_and_replaced() {
    let (desk, guest) = (Desk::new(), SnpGuest::genoa());
    let vendor = &guest.vendor;
    let right = vendor.vcek(&guest.chip_id, guest.tcb);
    let older = vendor.vcek(&guest.chip_id, Tcb { snp: guest.tcb.snp - 1, ..guest.tcb });
    let other = vendor.vcek(&[0xc2; 64], guest.tcb);
    let file = desk.file("vcek.der", &right);
    for (shown, saw) in [
        (vec![older.clone()], "reports another TCB than the one that the key's certificate is for"),
        (vec![other.clone()], "has another chip id than the key's certificate"),
        (vec![older.clone(), other.clone()], "comes with more than one VCEK or VLEK"),
        (vec![b"<html>".to_vec()], "comes with a certificate that cannot be read"),
        (vec![Vendor::new().vcek(&guest.chip_id, guest.tcb)], "no trusted root of AMD's vouches for"),
    ] {
        let shown = tabled(&guest, &shown);
        let (run, document) = desk.verify_shown(&guest, &shown, &[]);
        run.expect_code(79);
        let finding = &document["finding"];
        assert!(finding["saw"].as_str().unwrap().contains(saw), "{document:#}");
        assert!(!finding["next"].as_str().unwrap().contains("take evidence anew"), "{document:#}");
        // The right one takes their place, from a file and from the server.
        desk.verify_shown(&guest, &shown, &["--certificates", &file]).0.expect_code(0);
        let server = Endorser::kds(&guest, "Genoa").on_loopback();
        let (run, document) = desk.verify_shown(&guest, &shown, &["--kds", &server.url()]);
        run.expect_code(0);
        assert_eq!(said(&document, "fetch.vcek").0, "held", "{document:#}");
    }
    // A wrong one that was given does not count because a right one came along; and the server's does.
    let wrong = desk.file("wrong.der", &older);
    let (run, document) = desk.verify(&guest, &["--certificates", &wrong]);
    run.expect_code(79);
    assert!(document["finding"]["saw"].as_str().unwrap().contains("reports another TCB"), "{document:#}");
    let server = Endorser::kds(&guest, "Genoa").on_loopback();
    desk.verify(&guest, &["--certificates", &wrong, "--kds", &server.url()]).0.expect_code(0);
    // A report that was changed is told as that: its certificate is the right one.
    let changed = guest.clone().lying(Lie::Tampered).evidence(&DATA).to_string();
    let (run, document) = desk.verify_shown(&guest, &changed, &[]);
    run.expect_code(79);
    assert!(document["finding"]["saw"].as_str().unwrap().contains("a signature that does not hold"), "{document:#}");
}

/// Evidence with this list in the host's table.
fn listed(guest: &SnpGuest, list: &[u8]) -> String {
    let mut evidence = guest.evidence(&DATA);
    let entry = serde_json::json!({"cert_type": "CRL", "data": list});
    evidence["cert_chain"].as_array_mut().unwrap().push(entry);
    evidence.to_string()
}

/// Whoever shows the evidence chooses it: an old one that AMD signed, or rubbish against a genuine report.
fn a_list_that_came_along_only_accuses() {
    let (desk, guest) = (Desk::new(), SnpGuest::genoa());
    let vendor = &guest.vendor;
    for (list, why) in [
        (vendor.crl(&[], (2026, 2027)), "can choose an old one"),
        (Vendor::new().crl(&[], (2026, 2027)), "is not the root's, or not of this time"),
        (vendor.crl(&[vendor.ask()], (2024, 2025)), "is not the root's, or not of this time"),
        (b"<html>".to_vec(), "is not the root's, or not of this time"),
    ] {
        let shown = listed(&guest, &list);
        let (run, document) = desk.verify_shown(&guest, &shown, &[]);
        run.expect_code(0);
        let (state, told) = said(&document, "snp.crl");
        assert!(state == "not-checked" && told.contains(why), "{document:#}");
        desk.verify_shown(&guest, &shown, &["--require", "crl"]).0.expect_code(86);
    }
    let accusing = listed(&guest, &vendor.crl(&[vendor.ask()], (2026, 2027)));
    let (run, document) = desk.verify_shown(&guest, &accusing, &[]);
    run.expect_code(79);
    assert!(document["finding"]["saw"].as_str().unwrap().contains("AMD has revoked"), "{document:#}");
}

fn a_list_that_came_along_is_replaced_by_the_servers() {
    let (desk, guest) = (Desk::new(), SnpGuest::genoa());
    let vendor = &guest.vendor;
    // AMD's of before, still in its time, and rubbish: both are nothing to the list of today.
    for shown in [vendor.crl(&[], (2026, 2028)), b"<html>".to_vec()] {
        let shown = listed(&guest, &shown);
        let server = Endorser::kds(&guest, "Genoa").on_loopback();
        let (run, document) = desk.verify_shown(&guest, &shown, &["--kds", &server.url(), "--require", "crl"]);
        run.expect_code(0);
        assert_eq!(paths(&server), ["/vcek/v1/Genoa/crl"]);
        let (state, told) = said(&document, "snp.crl");
        assert!(state == "held" && told.contains(&server.url()), "whose list it is: {document:#}");
        let revoking = Page::Found(vec![], vendor.crl(&[vendor.ask()], (2026, 2027)));
        let server = Endorser::kds(&guest, "Genoa").instead("/crl", &revoking).on_loopback();
        desk.verify_shown(&guest, &shown, &["--kds", &server.url()]).0.expect_code(79);
        // A server that withholds does not put the shown one back.
        let server = Endorser::kds(&guest, "Genoa").instead("/crl", &Page::Cut).on_loopback();
        desk.verify_shown(&guest, &shown, &["--kds", &server.url()]).0.expect_code(0);
        desk.verify_shown(&guest, &shown, &["--kds", &server.url(), "--require", "crl"]).0.expect_code(86);
        let file = desk.file("list.der", vendor.crl(&[], (2026, 2027)));
        let (run, document) = desk.verify_shown(&guest, &shown, &["--crl", &file, "--require", "crl"]);
        run.expect_code(0);
        assert!(said(&document, "snp.crl").1.contains("--crl"), "whose list it is: {document:#}");
    }
}

/// A report of version 2 does not say which line it is of.
fn a_report_that_hides_its_line_is_asked_for_by_each() {
    let guest = SnpGuest { version: 2, ..bare() };
    let server = Endorser::kds(&guest, "Genoa").on_loopback();
    let (run, document) = Desk::new().verify(&guest, &["--kds", &server.url()]);
    run.expect_code(0);
    let lines: Vec<_> = paths(&server).iter().map(|path| path.split('/').nth(3).unwrap().to_owned()).collect();
    assert_eq!(lines, ["Milan", "Genoa", "Genoa"], "{document:#}");
}

fn a_hidden_chip_and_a_clouds_key_are_not_asked_for() {
    let desk = Desk::new();
    let guest = SnpGuest { chip_id: [0; 64], ..bare() };
    let server = Endorser::kds(&guest, "Genoa").on_loopback();
    let (run, document) = desk.verify(&guest, &["--kds", &server.url()]);
    run.expect_code(79);
    assert_eq!(
        said(&document, "fetch.vcek"),
        ("not-checked", "the report hides its chip, so there is no certificate to ask for")
    );
    let mut evidence = bare().evidence(&DATA);
    evidence["attestation_report"]["key_info"] = Value::from(1 << 2);
    let evidence = desk.file("vlek.json", evidence.to_string());
    let (run, document) = desk.judge(&evidence, &["--at", AT, "--kds", &server.url()]);
    run.expect_code(79);
    assert!(said(&document, "fetch.vcek").1.contains("(VLEK)"), "{document:#}");
    assert_eq!(paths(&server), ["/vcek/v1/Genoa/crl", "/vlek/v1/Genoa/crl"]);
}

fn what_cannot_be_fetched_is_told_as_not_checked_and_why() {
    let (desk, guest) = (Desk::new(), bare());
    for (page, why) in [
        (Page::Status("404 Not Found"), "does not have it (status 404)"),
        (Page::Status("429 Too Many Requests"), "wait a minute"),
        (Page::Status("500 Internal Server Error"), "fails by itself (status 500)"),
        (Page::Status("403 Forbidden"), "wants to know who asks"),
        (Page::Status("204 No Content"), "status 204"),
        (Page::Redirect("/vcek/v1/Genoa/crl"), "redirects (status 302), which is not followed"),
        (Page::Found(vec![], b"<html>please log in</html>".to_vec()), "something that is no VCEK"),
        (Page::Found(vec![], guest.vendor.ask().to_vec()), "something that is no VCEK"),
        (Page::Cut, "ended the connection"),
        (Page::Endless, "the server "),
    ] {
        let server = Endorser::kds(&guest, "Genoa").instead(&hex(&guest.chip_id), &page).on_loopback();
        let (run, document) = desk.verify(&guest, &["--kds", &server.url()]);
        run.expect_code(79);
        let (state, told) = said(&document, "fetch.vcek");
        assert_eq!(state, "not-checked", "{page:?}: {document:#}");
        assert!(told.contains(why), "{page:?}: {told}");
        assert!(server.count() <= 2, "nothing is tried twice, nor followed: {:?}", paths(&server));
    }
    // Nobody there.
    let (run, document) = desk.verify(&guest, &["--kds", "http://127.0.0.1:1"]);
    run.expect_code(79);
    assert!(said(&document, "fetch.vcek").1.contains("refuses connections"), "{document:#}");
}

fn a_list_that_cannot_be_fetched_is_fatal_only_where_it_is_required() {
    let (desk, guest) = (Desk::new(), SnpGuest::genoa());
    for page in [Page::Status("503 Service Unavailable"), Page::Found(vec![], b"<html>".to_vec()), Page::Endless] {
        let server = Endorser::kds(&guest, "Genoa").instead("/crl", &page).on_loopback();
        let (run, document) = desk.verify(&guest, &["--kds", &server.url()]);
        run.expect_code(0);
        for id in ["fetch.revocation", "snp.crl"] {
            assert_eq!(said(&document, id).0, "not-checked", "{document:#}");
        }
        desk.verify(&guest, &["--kds", &server.url(), "--require", "crl"]).0.expect_code(86);
    }
}

fn what_a_server_makes_up_is_refused() {
    let (desk, guest, other) = (Desk::new(), bare(), Vendor::new());
    let made_up = |bytes| Page::Found(vec![], bytes);
    for (end, bytes) in [
        // Another vendor's certificate for this chip, another chip's, and lists by nobody or against us.
        (hex(&guest.chip_id), other.vcek(&guest.chip_id, guest.tcb)),
        (hex(&guest.chip_id), guest.vendor.vcek(&[0xc2; 64], guest.tcb)),
        ("/crl".to_owned(), other.crl(&[], (2026, 2027))),
        ("/crl".to_owned(), guest.vendor.crl(&[], (2024, 2025))),
        ("/crl".to_owned(), guest.vendor.crl(&[guest.vendor.ask()], (2026, 2027))),
    ] {
        let server = Endorser::kds(&guest, "Genoa").instead(&end, &made_up(bytes)).on_loopback();
        let (run, document) = desk.verify(&guest, &["--kds", &server.url()]);
        run.expect_code(79);
        assert_eq!(document["verdict"], "not-genuine", "{end}: {document:#}");
    }
}

fn https_trusts_the_given_ca_and_nobody_else() {
    let (desk, guest) = (Desk::new(), bare());
    let (ours, other) = (Ca::new("kds"), Ca::new("other"));
    let server = Endorser::kds(&guest, "Genoa").tls(ours.leaf(&["127.0.0.1"])).on_loopback();
    let (good, bad) = (desk.file("ca.pem", ours.pem()), desk.file("other.pem", other.pem()));
    desk.verify(&guest, &["--kds", &server.url(), "--ca", &good]).0.expect_code(0);
    let asked = server.count();
    // By another CA; and by those of the machine, where it has any.
    for more in [&["--ca", bad.as_str()][..], &[]] {
        let url = server.url();
        let (run, document) = desk.verify(&guest, &[&["--kds", url.as_str()], more].concat());
        run.expect_code(79);
        assert_eq!(said(&document, "fetch.vcek").0, "not-checked", "{document:#}");
        assert_eq!(server.count(), asked, "nothing is asked of a server that is not trusted");
    }
}

/// The quote that the collateral is for, and a time that both are good at.
const QUOTE: &str = "dcap-qvl/sample/tdx_quote";
const THEN: &str = "2025-07-08T18:40:00Z";

fn collateral() -> Value {
    vectors::json("dcap-qvl/sample/tdx_quote_collateral.json")
}

fn pccs() -> Endorser {
    Endorser::pccs(&collateral(), "B0C06F000000", "platform")
}

fn a_quotes_collateral_is_fetched_in_four_parts() {
    let (desk, server) = (Desk::new(), pccs().on_loopback());
    let quote = desk.file("quote", vectors::read(QUOTE));
    let more = ["--at", THEN, "--pccs", &server.url(), "--require", "tcb", "--require", "crl"];
    let (run, document) = desk.judge(&quote, &more);
    run.expect_code(85);
    for id in ["fetch.collateral", "tdx.tcb", "tdx.crl"] {
        assert_eq!(said(&document, id).0, "held", "{document:#}");
    }
    assert_eq!(server.count(), 4);
    // The same as from a file.
    let file = desk.file("collateral.json", collateral().to_string());
    let (_, by_file) = desk.judge(&quote, &["--at", THEN, "--collateral", &file]);
    assert_eq!(said(&document, "tdx.tcb"), said(&by_file, "tdx.tcb"));
}

fn a_part_that_a_pccs_withholds_is_named() {
    let desk = Desk::new();
    let quote = desk.file("quote", vectors::read(QUOTE));
    for part in ["rootcacrl", "pckcrl", "/tcb", "qe/identity"] {
        for page in [Page::Status("404 Not Found"), Page::Found(vec![], b"<html>".to_vec()), Page::Cut] {
            let server = pccs().instead(part, &page).on_loopback();
            let (run, document) = desk.judge(&quote, &["--at", THEN, "--pccs", &server.url()]);
            run.expect_code(85);
            let (state, told) = said(&document, "fetch.collateral");
            assert_eq!(state, "not-checked", "{document:#}");
            assert!(told.contains(part.trim_start_matches('/')), "{part}: {told}");
            assert_eq!(said(&document, "tdx.tcb").0, "not-checked");
            let measurement = "00".repeat(48);
            let said = ["--at", THEN, "--pccs", &server.url(), "--require", "tcb", "--measurement", &measurement];
            let (run, document) = desk.judge(&quote, &said);
            run.expect_code(86);
            assert!(document["finding"]["saw"].as_str().unwrap().contains("`tcb` had to be checked"), "{document:#}");
        }
    }
}

fn collateral_that_a_pccs_makes_up_is_refused() {
    let desk = Desk::new();
    let quote = desk.file("quote", vectors::read(QUOTE));
    let mut forged = collateral();
    let tcb = forged["tcb_info"].as_str().unwrap().replace("UpToDate", "UpToDatE");
    forged["tcb_info"] = Value::from(tcb);
    let server = Endorser::pccs(&forged, "B0C06F000000", "platform").on_loopback();
    let (run, document) = desk.judge(&quote, &["--at", THEN, "--pccs", &server.url()]);
    run.expect_code(79);
    assert!(document["finding"]["saw"].as_str().unwrap().contains("Intel did not sign"), "{document:#}");
    // Old answers are refused as old.
    let server = pccs().on_loopback();
    let (run, document) = desk.judge(&quote, &["--at", "2026-06-01", "--pccs", &server.url()]);
    run.expect_code(79);
    assert!(document["finding"]["saw"].as_str().unwrap().contains("has expired"), "{document:#}");
}

fn refused_flags_that_are_no_url_or_no_ca() {
    let (desk, guest) = (Desk::new(), bare());
    let file = desk.file("something", [0xff, 0xfe]);
    for more in [
        &["--kds", "kdsintf.amd.com"][..],
        &["--kds", "https://user@kdsintf.amd.com"],
        &["--pccs", "ftp://127.0.0.1"],
        &["--pccs", "http://127.0.0.1", "--collateral", &file],
        &["--kds", "https://127.0.0.1:1", "--ca", &file],
        &["--kds", "https://127.0.0.1:1", "--ca", "/nowhere/at/all"],
    ] {
        desk.verify(&guest, more).0.expect_code(64);
    }
}

fn refused_flags_that_belong_beside_another_kind_of_evidence() {
    let desk = Desk::new();
    let (snp, tdx) = (SnpGuest::genoa(), TdxGuest::v4());
    let kbs = Kbs::healthy().on_loopback();
    let token = kbs.handshake(&Guest::Snp(snp.clone()), None).unwrap()["token"].as_str().unwrap().to_owned();
    let report = desk.file("report.json", snp.evidence(&DATA).to_string());
    let quote = desk.file("quote", tdx.quote(&DATA));
    let token = desk.file("token.jwt", token);
    let vcek = desk.file("vcek.der", snp.vendor.vcek(&snp.chip_id, snp.tcb));
    let nowhere = "/nowhere/at/all";
    let of_reports = [["--certificates", nowhere], ["--crl", nowhere], ["--kds", "http://127.0.0.1:1"]];
    let of_quotes = [["--collateral", nowhere], ["--pccs", "http://127.0.0.1:1"]];
    let all = [&of_reports[..], &of_quotes[..]].concat();
    // Nobody listens there: it is told before anybody is asked.
    for (shown, idle) in [
        (report.as_str(), &of_quotes[..]),
        (&quote, &of_reports[..]),
        (&token, &all[..]),
        (&vcek, &all[..]),
        ("https://127.0.0.1:1", &all[..]),
        ("https://127.0.0.1:1/receipt", &all[..]),
    ] {
        for [flag, value] in idle {
            let run = desk.judge(shown, &[flag, value]).0.expect_code(64);
            assert!(run.output().contains(&format!("{flag} belongs beside")), "{shown}: {}", run.output());
        }
    }
    let run = desk.judge(&report, &["--ca", &vcek]).0.expect_code(64);
    assert!(run.output().contains("--ca stands without"), "{}", run.output());
}

//! `countersign diagnose` as it is run: at a prompt, as a role, by `init` after a failure. The broken
//! worlds are in `tests/diagnose_gallery.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "gallery/rig.rs"]
#[allow(dead_code)] // Half of it is the gallery's alone.
mod rig;

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::finding::Class;
use countersign::formats::hex;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Decision, Kbs, Policy};
use countersign_testbed::tee::{Certificates, Guest, Lie, SnpGuest, Tcb, TdxGuest, Vendor};
use countersign_testbed::vectors;
use countersign_testbed::world::{Cmd, RunningSigner, World};
use rig::{Direct, asked, check};
use serde_json::Value;

countersign_testbed::main! {
    off_a_tee_the_answer_is_true_and_quick,
    a_healthy_guest_on_the_direct_road_has_no_broken_link [GuestPort, Memory],
    a_healthy_stock_guest_has_no_broken_link [GuestPort, Memory],
    no_line_is_wider_than_80_columns_and_none_is_coloured [GuestPort, Memory],
    the_walk_changes_nothing [GuestPort, Memory],
    what_is_chosen_is_asked_and_nothing_else [GuestPort, Memory],
    what_was_asked_for_and_never_checked_is_not_called_well,
    refused_ids_that_are_not_there [GuestPort],
    the_list_names_every_check [GuestPort],
    as_a_role_it_ends_and_leaves_one_line [GuestPort, Memory],
    init_that_fails_names_the_first_broken_link [GuestPort, Memory],
    init_and_diagnose_agree_on_the_class [GuestPort, Memory],
    the_builds_own_roots_believe_no_simulated_tee [GuestPort],
    evidence_that_does_not_verify_is_told_by_its_reason [GuestPort],
    a_report_without_its_certificate_is_not_checked_and_told_where_it_is [GuestPort],
    a_certificate_for_another_tcb_or_chip_does_not_pass [GuestPort],
    collateral_that_does_not_fit_the_quote_does_not_pass [GuestPort, Vectors],
    the_agents_evidence_is_judged_too [GuestPort],
    refused_certificates_and_collateral_that_are_none [GuestPort],
    ids_are_shortened_unless_asked_for [GuestPort, Memory],
    a_canary_that_is_denied_passes [GuestPort, Memory],
    the_bundle_holds_no_secret [GuestPort, Memory],
    refused_bundle_over_a_file_that_exists [GuestPort],
}

fn guest() -> GuestApi {
    GuestApi::healthy().secret("payments/db/password", "alpha")
}

fn with_env<'w>(world: &'w World, command: Cmd<'w>) -> Cmd<'w> {
    command
        .env("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", world.ramdir().unwrap().join("secrets"))
}

/// The shipped binary on this very machine, as a person at its prompt starts it.
fn off_a_tee_the_answer_is_true_and_quick() {
    let begun = Instant::now();
    let run =
        Command::new(env!("CARGO_BIN_EXE_countersign")).args(["diagnose", "--json"]).env_clear().output().unwrap();
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let said: Value = serde_json::from_str(&text).unwrap();
    if Path::new("/dev/termination-log").exists() {
        // The tests run in a pod: then the missing service is what is wrong, after a wait.
        assert_eq!(said["broken"]["id"], "guest.api", "{text}");
        return;
    }
    assert_eq!(said["broken"]["id"], "guest.tee", "{text}");
    assert!(said["broken"]["saw"].as_str().unwrap().contains("not a TEE"), "{text}");
    assert_eq!(run.status.code(), Some(i32::from(Class::NoEvidence.code())));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

fn a_healthy_guest_on_the_direct_road_has_no_broken_link() {
    for (tee, tcb) in [("snp", "pass"), ("tdx", "skip")] {
        let pod = Direct::new(tee);
        let run = pod.diagnose().run().expect_code(0);
        let said = asked(&run);
        assert_eq!(said["broken"], Value::Null);
        assert_eq!(said["provenance"], "measured");
        assert_eq!(check(&said, "evidence.tcb")["state"], tcb, "collateral is for a person to give: {}", run.output());
        for id in ["evidence.report", "evidence.policy", "evidence.genuine", "initdata.own", "initdata.policy"] {
            assert_eq!(check(&said, id)["state"], "pass", "{id}: {}", run.output());
        }
        for id in ["kbs.answer", "attest.session"] {
            assert_eq!(check(&said, id)["state"], "pass", "{id}: {}", run.output());
        }
        for id in ["attest.verdict", "secrets.file", "destination.memory"] {
            assert_eq!(check(&said, id)["state"], "pass", "{id}: {}", run.output());
        }
        assert_eq!(pod.kbs.attestations(), 1);
        assert!(!run.output().contains("alpha"), "{}", run.output());
    }
}

fn a_healthy_stock_guest_has_no_broken_link() {
    let world = World::new().unwrap().guest(guest());
    let run = with_env(&world, world.countersign(&["diagnose", "--json"])).run().expect_code(0);
    let said = asked(&run);
    assert_eq!(said["provenance"], "unmeasured");
    assert_eq!(check(&said, "attest.session")["state"], "skip");
    assert_eq!(check(&said, "secrets.file")["state"], "pass");
}

fn no_line_is_wider_than_80_columns_and_none_is_coloured() {
    let world = World::new().unwrap().guest(guest().answer("payments/db/password", Answer::LoginPage200));
    let run = with_env(&world, world.countersign(&["diagnose"])).env("TERM", "xterm").run();
    assert!(run.stdout.lines().count() > 20, "{}", run.output());
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!run.stdout.contains('\u{1b}'), "this is no terminal: {}", run.stdout);
    let last = run.stdout.lines().last().unwrap();
    assert!(last.starts_with("broken: secrets.file (guest-api, exit 72); to act: "), "{last}");
}

fn the_walk_changes_nothing() {
    let world = World::new().unwrap().guest(guest());
    let directory = world.ramdir().unwrap();
    let run = world
        .countersign(&["diagnose", "--json"])
        .env("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", directory.join("not/yet"))
        .run()
        .expect_code(0);
    assert!(check(&asked(&run), "destination.memory")["saw"].as_str().unwrap().contains("will be made"));
    assert!(world.list(&directory).unwrap().is_empty());
}

fn what_is_chosen_is_asked_and_nothing_else() {
    let world = World::new().unwrap().guest(guest());
    let ids = |args: &[&str]| -> Vec<String> {
        let run = with_env(&world, world.countersign(&["diagnose", "--json"])).args(args).run();
        let said = asked(&run);
        said["checks"].as_array().unwrap().iter().map(|check| check["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--only", "self"]), ["self.binary", "self.kernel"]);
    let chosen = ids(&["--only", "destination"]);
    assert!(chosen.contains(&"config.document".to_owned()) && !chosen.contains(&"secrets.file".to_owned()));
    assert_eq!(world.guest_api().count_of("/cdh/resource/payments/db/password"), 0);
    let run = with_env(&world, world.countersign(&["diagnose", "--json", "--skip", "attest.way"])).run();
    let said = asked(&run);
    assert_eq!(check(&said, "attest.way")["saw"], "left out by --skip");
    assert_eq!(world.guest_api().count_of("/cdh/resource/payments/db/password"), 0);
}

fn what_was_asked_for_and_never_checked_is_not_called_well() {
    let world = World::host().unwrap();
    for (args, what) in [(&["--only", "secrets.file"][..], "secrets.file"), (&["--only", "self,kbs"], "kbs")] {
        let run = world.countersign(&[&["diagnose"], args].concat()).run().expect_code(85);
        let verdict = run.stdout.lines().last().unwrap();
        assert!(verdict.starts_with(&format!("not checked: {what} (")), "{verdict}");
        let said = asked(&world.countersign(&[&["diagnose", "--json"], args].concat()).run());
        assert_eq!((&said["code"], &said["broken"]), (&85.into(), &Value::Null), "{said:#}");
    }
    let run = world.countersign(&["diagnose", "--only", "self", "--skip", "self"]).run().expect_code(85);
    assert!(run.stdout.ends_with("not checked: self (left out by --skip)\n"), "{}", run.output());
}

fn refused_ids_that_are_not_there() {
    let world = World::new().unwrap();
    let run = world.countersign(&["diagnose", "--only", "kbs,teapot"]).run().refused(Class::Usage);
    assert!(run.stderr.contains("teapot") && run.stderr.contains("--list"), "{}", run.output());
    world.countersign(&["diagnose", "--timeout", "0s"]).run().refused(Class::Usage);
}

fn the_list_names_every_check() {
    let world = World::new().unwrap();
    let run = world.countersign(&["diagnose", "--list"]).run().expect_code(0);
    let ids: Vec<&str> = run.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/diagnose.md")).unwrap();
    for id in &ids {
        assert!(page.contains(&format!("`{id}`")), "docs/diagnose.md does not name {id}");
    }
    assert!(ids.len() > 30 && ids.contains(&"evidence.policy"), "{ids:?}");
}

fn as_a_role_it_ends_and_leaves_one_line() {
    let world = World::private().unwrap().guest(guest().answer("payments/db/password", Answer::Empty));
    let run = with_env(&world, world.countersign(&[])).env("COUNTERSIGN_ROLE", "diagnose").run();
    assert_eq!(run.code, Some(i32::from(Class::Content.code())), "{}", run.output());
    assert!(run.stdout.is_empty() && run.stderr.contains("FAIL  secrets.file"), "{}", run.output());
    let message = run.termination.as_ref().unwrap();
    assert_eq!(message["role"], "diagnose");
    assert_eq!(message["broken"], "secrets.file");
    assert_eq!(message["class"], Class::Content.label());
    assert!(run.termination_text.len() <= 4096 && run.termination_text.lines().count() == 1);
    world.guest_api().set("payments/db/password", Answer::Bytes(b"alpha".to_vec()));
    let run = with_env(&world, world.countersign(&[])).env("COUNTERSIGN_ROLE", "diagnose").run().expect_code(0);
    assert_eq!(run.termination.as_ref().unwrap()["class"], "ok");
}

fn init_that_fails_names_the_first_broken_link() {
    let world = World::private().unwrap().guest(guest().path("/info", [Answer::LoginPage200]));
    let run = with_env(&world, world.countersign(&["init"])).run().refused(Class::GuestApi);
    let broken = run.termination.as_ref().unwrap()["broken"].as_str().unwrap().to_owned();
    assert!(broken.starts_with("guest.api: "), "{broken}");
    assert!(run.stderr.contains("first broken link: guest.api"), "{}", run.output());
}

/// The very same finding, whoever is asked.
fn init_and_diagnose_agree_on_the_class() {
    for (script, class) in [
        ("snp+other-key", Class::EvidenceRejected),
        ("snp+other-measurement", Class::PolicyDenied),
        ("snp+wrong-data", Class::NoEvidence),
        ("snp+host-data=01", Class::InitdataMismatch),
        ("errno:5", Class::NoEvidence),
    ] {
        let pod = Direct::new(script);
        let init = pod.world.sim(&["init"]).tee(&pod.signer).initdata(pod.document.text()).run().refused(class);
        pod.signer.set(script).unwrap();
        let run = pod.diagnose().run();
        assert_eq!(run.code, init.code, "{script}: {}", run.output());
        let said = asked(&run);
        // Evidence that is not genuine is told before the KBS is asked, which knows no better.
        let same = said["checks"].as_array().unwrap().iter().find(|check| check["next"] == init.next_step());
        assert_eq!(same.expect("init's next step is among them")["state"], "fail", "{script}: {}", run.output());
    }
}

/// A guest with this hardware, asked for its evidence alone.
struct Hardware {
    world: World,
    signer: RunningSigner,
}

impl Hardware {
    fn new(signer: Signer) -> Self {
        let world = World::new().unwrap();
        let signer = world.signer(signer);
        Self { world, signer }
    }

    fn asked(&self, args: &[&str]) -> Value {
        let args = [&["diagnose", "--json", "--only", "evidence", "--timeout", "20s"], args].concat();
        asked(&self.world.sim(&args).tee(&self.signer).run())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.world.directory().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn text<'v>(said: &'v Value, id: &str, member: &str) -> &'v str {
    check(said, id)[member].as_str().unwrap_or_else(|| panic!("{id} has no {member}: {said:#}"))
}

fn the_builds_own_roots_believe_no_simulated_tee() {
    for script in ["snp", "tdx"] {
        let guest = Hardware::new(Signer::answering(script));
        let tee = format!("{}={}", guest.signer.socket().display(), guest.signer.provider());
        let args = ["diagnose", "--json", "--only", "evidence", "--sim-tee", &tee];
        let said = asked(&guest.world.sim(&args).run().expect_code(79));
        assert_eq!(said["broken"]["id"], "evidence.genuine", "{said:#}");
        assert!(text(&said, "evidence.genuine", "saw").contains("no trusted root of"), "{said:#}");
        assert_eq!(text(&said, "evidence.tcb", "saw"), "evidence.genuine failed");
    }
}

fn evidence_that_does_not_verify_is_told_by_its_reason() {
    for (script, saw) in [
        ("snp+other-key", "a signature that does not hold"),
        ("snp+tampered", "a signature that does not hold"),
        ("tdx+other-key", "the PCK did not sign"),
        ("tdx+tampered", "a signature that does not hold"),
    ] {
        let said = Hardware::new(Signer::answering(script)).asked(&[]);
        assert_eq!(said["broken"]["id"], "evidence.genuine", "{script}: {said:#}");
        assert_eq!(said["code"], 79, "{script}");
        assert!(text(&said, "evidence.genuine", "saw").contains(saw), "{script}: {said:#}");
    }
    let chain = SnpGuest { certificates: Certificates::Chain, ..SnpGuest::genoa() };
    for (script, guest, saw) in [
        // A chain of somebody else's, which comes with its own root.
        ("snp", SnpGuest { vendor: Vendor::new(), ..chain.clone() }, "no trusted root of AMD's vouches for"),
        ("snp+other-key", chain, "a signature that does not hold"),
    ] {
        let said = Hardware::new(Signer::answering(script).snp(guest)).asked(&[]);
        assert!(text(&said, "evidence.genuine", "saw").contains(saw), "{said:#}");
    }
}

fn a_report_without_its_certificate_is_not_checked_and_told_where_it_is() {
    let guest = SnpGuest::genoa();
    let hardware = Hardware::new(Signer::answering("snp+no-certificates"));
    let said = hardware.asked(&[]);
    assert_eq!(check(&said, "evidence.genuine")["state"], "warn", "{said:#}");
    let next = text(&said, "evidence.genuine", "next");
    let place = "https://kdsintf.amd.com/vcek/v1/Genoa/<chip id>?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84";
    assert!(next.contains(place) && !next.contains(&hex::encode(&guest.chip_id)), "{next}");
    assert_eq!(check(&said, "evidence.tcb")["state"], "skip", "{said:#}");
    assert_eq!(said["code"], 0, "what could not be checked is no broken link");
    let vcek = hardware.file("vcek.der", &guest.vendor.vcek(&guest.chip_id, guest.tcb));
    let said = hardware.asked(&["--certificates", &vcek]);
    for id in ["evidence.genuine", "evidence.tcb"] {
        assert_eq!(check(&said, id)["state"], "pass", "{said:#}");
    }
    assert!(text(&said, "evidence.tcb", "saw").contains("not checked: revocation"), "{said:#}");
    let ask = hardware.file("ask.der", guest.vendor.ask());
    let said = hardware.asked(&["--certificates", &ask]);
    assert!(text(&said, "evidence.genuine", "saw").contains("--certificates has no VCEK"), "{said:#}");
}

fn a_certificate_for_another_tcb_or_chip_does_not_pass() {
    let guest = SnpGuest::genoa();
    let newer = Tcb { snp: guest.tcb.snp + 1, ..guest.tcb };
    let claims = SnpGuest { claimed_tcb: Some(newer), ..guest.clone() };
    let said = Hardware::new(Signer::answering("snp").snp(claims)).asked(&[]);
    assert_eq!(said["broken"]["id"], "evidence.tcb", "{said:#}");
    assert_eq!(check(&said, "evidence.genuine")["state"], "pass", "the signature is the key's: {said:#}");
    assert!(text(&said, "evidence.tcb", "next").contains("snpSPL=24"), "{said:#}");
    // What a host hands out that has updated its firmware and not its certificates.
    let hardware = Hardware::new(Signer::answering("snp"));
    let older = hardware.file("older.der", &guest.vendor.vcek(&guest.chip_id, newer));
    let said = hardware.asked(&["--certificates", &older]);
    assert!(text(&said, "evidence.genuine", "saw").contains("for another key than the certificate: that is for TCB"));
    let other = hardware.file("other.der", &guest.vendor.vcek(&[0xc2; 64], guest.tcb));
    let said = hardware.asked(&["--certificates", &other]);
    assert_eq!(check(&said, "evidence.genuine")["state"], "fail", "{said:#}");
}

fn collateral_that_does_not_fit_the_quote_does_not_pass() {
    let hardware = Hardware::new(Signer::answering("tdx"));
    let collateral = hardware.file("collateral.json", &vectors::read("dcap-qvl/sample/tdx_quote_collateral.json"));
    let said = hardware.asked(&["--collateral", &collateral]);
    assert_eq!(check(&said, "evidence.genuine")["state"], "pass", "{said:#}");
    assert_eq!(said["broken"]["id"], "evidence.tcb", "{said:#}");
    assert!(text(&said, "evidence.tcb", "saw").contains("collateral"), "{said:#}");
}

fn the_agents_evidence_is_judged_too() {
    let honest = SnpGuest::genoa();
    let policy = |bit: u64| Guest::Snp(SnpGuest { policy: honest.policy | 1 << bit, ..honest.clone() });
    let td = TdxGuest::v4();
    let attributes = |bit: u64| Guest::Tdx(TdxGuest { attributes: td.attributes | 1 << bit, ..td.clone() });
    for (guest, broken) in [
        (Guest::Snp(honest.clone()), Value::Null),
        (Guest::Snp(honest.clone().lying(Lie::OtherKey)), "evidence.genuine".into()),
        (policy(19), "evidence.policy".into()),
        (policy(18), "evidence.policy".into()),
        (Guest::Tdx(TdxGuest::v4()), Value::Null),
        (Guest::Tdx(td.clone().lying(Lie::Tampered)), "evidence.genuine".into()),
        (Guest::Tdx(TdxGuest { module_signer: [0x77; 48], ..td.clone() }), "evidence.genuine".into()),
        (attributes(5), "evidence.policy".into()),
        (attributes(29), "evidence.policy".into()),
    ] {
        let kbs = Kbs::healthy();
        let world = World::new().unwrap();
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        let world = world.guest(GuestApi::healthy().attester(guest).kbs(&kbs));
        let said = asked(&world.sim(&["diagnose", "--json", "--only", "evidence"]).makers().run());
        assert_eq!(said["broken"]["id"], broken, "{said:#}");
        assert_ne!(check(&said, "evidence.genuine")["state"], "skip", "{said:#}");
    }
}

fn refused_certificates_and_collateral_that_are_none() {
    let world = World::new().unwrap();
    let file = world.directory().join("something");
    std::fs::write(&file, "something else").unwrap();
    for flag in ["--certificates", "--collateral"] {
        let run = world.countersign(&["diagnose", "--only", "self", flag]).arg(&file).run().refused(Class::Usage);
        assert!(run.stderr.contains(flag), "{}", run.output());
        world.countersign(&["diagnose", flag, "/nowhere/at/all"]).run().refused(Class::Usage);
    }
}

fn ids_are_shortened_unless_asked_for() {
    let pod = Direct::new("snp");
    let measurement = |run: &countersign_testbed::world::Run| {
        let said = asked(run);
        let saw = check(&said, "evidence.policy")["saw"].as_str().unwrap().to_owned();
        saw.split("measurement ").nth(1).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(measurement(&pod.diagnose().run()).chars().count(), 17);
    assert_eq!(measurement(&pod.diagnose().arg("--show-ids").run()).len(), 96);
}

fn a_canary_that_is_denied_passes() {
    let canary = "canary = \"kbs:///canary/never/released\"\n";
    let strict = |kbs: Kbs| {
        let decide: Decision = Arc::new(|path, _| path != "canary/never/released");
        kbs.policy(Policy::Custom(decide)).resource("canary/never/released", "tweet")
    };
    let pod = Direct::with("snp", strict, canary, |document| document);
    let run = pod.diagnose().run().expect_code(0);
    let said = asked(&run);
    assert_eq!(check(&said, "secrets.canary")["saw"], "kbs:///canary/never/released is denied by policy");
    assert_eq!(pod.kbs.attestations(), 1, "a refusal by policy costs no attestation");
}

/// Whatever could be a secret is planted as a canary, and looked for in the bundle as it is.
fn the_bundle_holds_no_secret() {
    let pod = Direct::with("snp", |kbs| kbs.resource("payments/db/password", "c4n4ry-secret"), "", |document| document);
    let file = pod.world.directory().join("bundle.tar.gz");
    let run = pod.diagnose().arg("--bundle").arg(&file).env("MY_TOKEN", "c4n4ry-env").run().expect_code(0);
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_end(&mut tar).unwrap();
    let text = String::from_utf8_lossy(&tar);
    for name in ["about.txt", "diagnose.json", "environment.txt", "configuration.txt"] {
        assert!(text.contains(name), "{name}");
    }
    assert!(text.contains("MY_TOKEN = (up to 16 bytes)"), "{text}");
    assert!(text.contains("kbs.via = ") && text.contains("kbs.ca = ("), "{text}");
    let chip = hex::encode(&SnpGuest::genoa().chip_id);
    let seen: Vec<String> = pod.kbs.requests().iter().flat_map(|seen| seen.headers.clone()).map(|(_, v)| v).collect();
    let cookies = seen.iter().filter(|value| value.contains("kbs-session-id"));
    let canaries = ["c4n4ry", "eyJ", "BEGIN", "kbs-session-id", "policy_data", chip.as_str()];
    for canary in canaries
        .into_iter()
        .chain(cookies.map(String::as_str))
        .chain(pod.kbs.attested_keys().iter().map(String::as_str))
    {
        assert!(!text.contains(canary), "{canary} is in the bundle");
    }
    let listed = pod.world.run("/bin/tar", &["tzf"]).arg(&file).run();
    assert!(listed.stdout.contains("diagnose.json"), "tar reads it: {}", listed.output());
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    drop(run);
}

fn refused_bundle_over_a_file_that_exists() {
    let world = World::new().unwrap().guest(guest());
    let file = world.directory().join("there");
    std::fs::write(&file, "untouched").unwrap();
    let run = world.countersign(&["diagnose", "--only", "self", "--json", "--bundle"]).arg(&file).run();
    assert_eq!(run.code, Some(i32::from(Class::Usage.code())), "{}", run.output());
    assert!(run.stderr.contains("--bundle"), "{}", run.output());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
}

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
use countersign_testbed::kbs::{Decision, Kbs, Policy};
use countersign_testbed::world::{Cmd, World};
use rig::{Direct, asked, check};

countersign_testbed::main! {
    off_a_tee_the_answer_is_true_and_quick,
    a_healthy_guest_on_the_direct_road_has_no_broken_link [GuestPort, Memory],
    a_healthy_stock_guest_has_no_broken_link [GuestPort, Memory],
    no_line_is_wider_than_80_columns_and_none_is_coloured [GuestPort, Memory],
    the_walk_changes_nothing [GuestPort, Memory],
    what_is_chosen_is_asked_and_nothing_else [GuestPort, Memory],
    refused_ids_that_are_not_there [GuestPort],
    the_list_names_every_check [GuestPort],
    as_a_role_it_ends_and_leaves_one_line [GuestPort, Memory],
    init_that_fails_names_the_first_broken_link [GuestPort, Memory],
    init_and_diagnose_agree_on_the_class [GuestPort, Memory],
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
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
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
    for tee in ["snp", "tdx"] {
        let pod = Direct::new(tee);
        let run = pod.diagnose().run().expect_code(0);
        let said = asked(&run);
        assert_eq!(said["broken"], serde_json::Value::Null);
        assert_eq!(said["provenance"], "measured");
        for id in
            ["evidence.report", "evidence.policy", "initdata.own", "initdata.policy", "kbs.answer", "attest.session"]
        {
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
        assert_eq!(said["broken"]["next"].as_str().unwrap(), init.next_step(), "{script}");
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
    let chip = hex::encode(&countersign_testbed::tee::SnpGuest::genoa().chip_id);
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

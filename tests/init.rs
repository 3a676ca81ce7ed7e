//! `countersign init`: all or nothing, from the environment, a file, or a delivered configuration.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use countersign::finding::Class;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::seal::SealingKey;
use countersign_testbed::world::{Cmd, World};

fn guest() -> GuestApi {
    GuestApi::healthy().secret("payments/db/password", "alpha").secret("payments/tls/key", "beta")
}

const BOTH: &str = "db/password=kbs:///payments/db/password,key=kbs:///payments/tls/key";

fn by_env<'w>(world: &'w World, directory: &Path, secrets: &str) -> Cmd<'w> {
    world
        .countersign(&["init"])
        .env("COUNTERSIGN_SECRETS", secrets)
        .env("COUNTERSIGN_SECRETS_DIRECTORY", directory)
        .env("COUNTERSIGN_DEADLINE", "30s")
}

fn room(api: GuestApi) -> (World, PathBuf) {
    let world = World::new().unwrap().guest(api);
    let directory = world.ramdir().unwrap().join("secrets");
    (world, directory)
}

/// A configuration that the KBS delivers: the guest's CDH has it as the compiled-in resource.
fn delivered(secrets: &str, top: &str) -> String {
    format!(
        "version = 1\nserial = 7\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n{top}\n[secrets]\n{secrets}"
    )
}

fn by_delivery(world: &World) -> Cmd<'_> {
    world.countersign(&["init"]).env("COUNTERSIGN_NAMESPACE", "payments").env("COUNTERSIGN_WORKLOAD", "api")
}

fn the_environment_alone_publishes_a_set() {
    let (world, directory) = room(guest());
    let run = by_env(&world, &directory, BOTH).run().expect_code(0);
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"alpha");
    assert_eq!(world.read(directory.join("key")).unwrap(), b"beta");
    assert!(run.stderr.contains("unmeasured"), "the provenance is said: {}", run.output());
    let receipt: serde_json::Value =
        serde_json::from_slice(&world.read(directory.join(".countersign-receipt.json")).unwrap()).unwrap();
    assert_eq!(receipt["provenance"], "unmeasured");
    assert_eq!(receipt["files"][0]["from"], "kbs:///payments/db/password");
    if let Some(message) = run.termination {
        assert_eq!(message["code"], 0);
        assert_eq!(message["class"], "ok");
    }
}

fn the_role_by_environment_is_the_same() {
    let (world, directory) = room(guest());
    world
        .countersign(&[])
        .env("COUNTERSIGN_ROLE", "init")
        .env("COUNTERSIGN_SECRETS", BOTH)
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &directory)
        .run()
        .expect_code(0);
    assert_eq!(world.read(directory.join("key")).unwrap(), b"beta");
}

fn a_file_publishes_with_modes_and_expectations() {
    let (world, directory) = room(guest());
    let file = world.directory().join("countersign.toml");
    std::fs::write(
        &file,
        format!(
            "version = 1\n[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"db/password\"\n\
             from = \"kbs:///payments/db/password\"\nmode = \"0400\"\nexpect = {{ format = \"utf8\", max_bytes = 64 }}\n",
            directory.display()
        ),
    )
    .unwrap();
    world.countersign(&["init", "--config", file.to_str().unwrap()]).run().expect_code(0);
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"alpha");
}

fn one_denied_among_two_publishes_nothing() {
    let (world, directory) = room(guest().answer("payments/tls/key", Answer::Refused));
    let run = by_env(&world, &directory, BOTH).run().refused(Class::Backend);
    assert!(run.saw().contains("key"), "the refused one is named: {}", run.output());
    assert!(world.read(directory.join("db/password")).is_err());
    assert!(world.read(directory.join("key")).is_err());
}

fn refused_secret_leaves_the_old_set_in_place() {
    let (world, directory) = room(
        GuestApi::healthy()
            .sequence("payments/db/password", [Answer::Bytes(b"old-a".to_vec()), Answer::Bytes(b"new-a".to_vec())])
            .sequence("payments/tls/key", [Answer::Bytes(b"old-b".to_vec()), Answer::Refused]),
    );
    by_env(&world, &directory, BOTH).run().expect_code(0);
    by_env(&world, &directory, BOTH).run().refused(Class::Backend);
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"old-a");
    assert_eq!(world.read(directory.join("key")).unwrap(), b"old-b");
}

fn refused_content_leaves_the_old_set_in_place() {
    let (world, directory) = room(
        GuestApi::healthy()
            .secret("payments/db/password", "alpha")
            .sequence("payments/tls/key", [Answer::Bytes(b"b".to_vec()), Answer::Empty]),
    );
    by_env(&world, &directory, BOTH).run().expect_code(0);
    by_env(&world, &directory, BOTH).run().refused(Class::Content);
    assert_eq!(world.read(directory.join("key")).unwrap(), b"b");
}

fn a_restarted_container_reuses_the_set_without_error() {
    let (world, directory) = room(guest());
    by_env(&world, &directory, BOTH).run().expect_code(0);
    let before = std::fs::read_link(world.outside(directory.join("..data"))).unwrap();
    let run = by_env(&world, &directory, BOTH).run().expect_code(0);
    assert!(run.stderr.contains("unchanged"), "{}", run.output());
    assert_eq!(std::fs::read_link(world.outside(directory.join("..data"))).unwrap(), before);
}

fn a_gate_that_does_not_hold_stops_the_pod_before_any_secret_is_fetched() {
    let gate = "kbs:///default/attestation-status/status=success";
    for (answer, class) in [
        (Answer::Bytes(b"pending".to_vec()), Class::Content),
        (Answer::Bytes(b"success\n".to_vec()), Class::Content),
        (Answer::Refused, Class::Backend),
    ] {
        let (world, directory) = room(guest().answer("default/attestation-status/status", answer));
        by_env(&world, &directory, BOTH).env("COUNTERSIGN_GATE", gate).run().refused(class);
        assert_eq!(world.guest_api().count_of("/cdh/resource/payments/db/password"), 0);
        assert!(world.read(directory.join("key")).is_err());
    }
    let (world, _) = room(guest().secret("default/attestation-status/status", "success"));
    world.countersign(&["init"]).env("COUNTERSIGN_GATE", gate).run().expect_code(0);
}

fn a_delivered_configuration_is_followed_and_says_its_provenance() {
    let (world, directory) = room(guest());
    let text = delivered(
        &format!(
            "directory = \"{}\"\n[[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///payments/db/password\"\n",
            directory.display()
        ),
        "",
    );
    let world = world.guest(guest().secret("default/countersign/payments.api", text));
    let run = by_delivery(&world).run().expect_code(0);
    assert!(run.stderr.contains("delivered-unproven"), "{}", run.output());
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"alpha");
}

fn a_configuration_written_for_another_workload_is_refused() {
    let text = delivered("[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///payments/db/password\"\n", "");
    let (world, _) = room(guest().secret("default/countersign/payments.web", text));
    let run = world
        .countersign(&["init"])
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "web")
        .run()
        .refused(Class::Config);
    assert!(run.saw().contains("for"), "{}", run.output());
    assert_eq!(world.guest_api().fetched(), 1, "nothing but the configuration was fetched");
}

fn the_environment_cannot_change_what_was_delivered() {
    let (world, directory) = room(guest());
    let text = delivered(
        &format!(
            "directory = \"{}\"\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///payments/db/password\"\n",
            directory.display()
        ),
        "[overrides]\nallow_env = [\"COUNTERSIGN_LOG\"]\n",
    );
    let world = world.guest(guest().secret("default/countersign/payments.api", text));
    for (name, value) in [
        ("COUNTERSIGN_SECRETS", "evil=kbs:///payments/tls/key"),
        ("COUNTERSIGN_SECRETS_DIRECTORY", "/tmp/evil"),
        ("COUNTERSIGN_GATE", "kbs:///a/b/c=x"),
        ("COUNTERSIGN_DEADLINE", "1h"),
        ("COUNTERSIGN_SECERTS", "a=kbs:///a/b/c"),
    ] {
        let run = by_delivery(&world).env(name, value).run().refused(Class::Config);
        assert!(run.output().contains(name), "the variable is named: {}", run.output());
        assert!(world.read(directory.join("a")).is_err());
    }
    by_delivery(&world).env("COUNTERSIGN_LOG", "debug").run().expect_code(0);
    by_delivery(&world).env("COUNTERSIGN_SECRETS_DIRECTORY", &directory).run().expect_code(0);
}

fn a_delivered_configuration_that_is_denied_is_no_reason_to_go_on_without_it() {
    let (world, directory) = room(guest());
    let run = by_delivery(&world)
        .env("COUNTERSIGN_SECRETS", BOTH)
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &directory)
        .run()
        .refused(Class::Backend);
    assert!(run.saw().contains("kbs:///default/countersign/payments.api"), "{}", run.output());
    assert!(world.read(directory.join("key")).is_err());
}

fn all_mistakes_of_a_configuration_are_named_at_once() {
    let (world, _) = room(guest());
    let file = world.directory().join("countersign.toml");
    std::fs::write(
        &file,
        "version = 1\ndeadlin = \"5m\"\n[secrets]\n[[secrets.file]]\npath = \"../etc/passwd\"\nfrom = \"http://x\"\nmode = \"0777\"\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    world.countersign(&["init", "--config", file]).run().refused(Class::Config);
    assert_eq!(world.guest_api().fetched(), 0);
    let check = world.countersign(&["config", "check", file]).run().expect_code(78);
    let out = format!("{}{}", check.stdout, check.stderr);
    for part in [":2", "deadlin", "deadline", ":5", ":6", ":7"] {
        assert!(out.contains(part), "{part} in {out}");
    }
}

fn on_a_workstation_it_says_where_it_belongs() {
    let (world, _) = room(guest());
    let run = world.countersign(&["init"]).run();
    // A world has a termination log, which is what a pod looks like.
    assert!(run.code == Some(64) || run.code == Some(78), "{}", run.output());
    let plain = std::process::Command::new(env!("CARGO_BIN_EXE_countersign")).arg("init").env_clear().output().unwrap();
    let told = String::from_utf8_lossy(&plain.stderr).into_owned();
    if !Path::new("/dev/termination-log").exists() {
        assert_eq!(plain.status.code(), Some(64), "{told}");
        assert!(told.contains("kubectl countersign initdata new"), "{told}");
    }
}

fn kubectl_cocos_variables_are_refused_by_name() {
    let world = World::new().unwrap();
    let run = world.countersign(&[]).env("TLS_CERT_URI", "kbs:///a/b/c").run().refused(Class::Config);
    assert!(run.saw().contains("TLS_CERT_URI"), "{}", run.output());
    assert!(run.next_step().contains("countersign-compat"), "{}", run.output());
}

/// A delivered configuration with one sealed secret for `db/password`.
fn sealed_world(sealed: &str, resource: &str, key: &str) -> (World, PathBuf) {
    let (world, directory) = room(guest());
    let text = delivered(
        &format!(
            "directory = \"{}\"\nsealed_keys = [\"kbs:///payments/seal/key\"]\n[[secrets.file]]\n\
             path = \"db/password\"\nfrom = \"{sealed}\"\n{resource}",
            directory.display()
        ),
        "",
    );
    let api = guest().secret("default/countersign/payments.api", text).secret("payments/seal/key", key);
    (world.guest(api), directory)
}

const RESOURCE: &str = "resource = \"kbs:///payments/db/password\"\n";

fn a_sealed_secret_of_a_listed_key_is_unsealed() {
    let key = SealingKey::generate();
    let sealed = key.seal("kbs:///payments/seal/key", "kbs:///payments/db/password");
    let (world, directory) = sealed_world(&sealed, RESOURCE, &key.public_jwk());
    let run = by_delivery(&world).run().expect_code(0);
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"alpha");
    assert!(!run.output().contains(&sealed));
}

fn a_sealed_secret_of_another_key_or_resource_is_refused() {
    let (key, other) = (SealingKey::generate(), SealingKey::generate());
    let name = "kbs:///payments/db/password";
    let right = "kbs:///payments/seal/key";
    for (sealed, resource, class) in [
        // Signed by a key that is not listed, under the listed one's name.
        (other.seal(right, name), RESOURCE, Class::Sealed),
        // Names a key of its own choice.
        (other.seal("kbs:///attacker/seal/key", name), RESOURCE, Class::Sealed),
        // Authentic, but made for another resource.
        (key.seal(right, "kbs:///payments/tls/key"), RESOURCE, Class::Sealed),
        // Authentic, but nothing trusted says which resource this path is.
        (key.seal(right, name), "", Class::Config),
        ("sealed.not.a.secret".to_owned(), RESOURCE, Class::Sealed),
    ] {
        let (world, directory) = sealed_world(&sealed, resource, &key.public_jwk());
        by_delivery(&world).run().refused(class);
        assert!(world.read(directory.join("db/password")).is_err());
        assert_eq!(world.guest_api().count_of("/cdh/resource/attacker/seal/key"), 0, "a kid fetches nothing");
    }
}

fn a_sealed_secret_in_the_environment_is_refused() {
    let (world, directory) = room(guest());
    let sealed = SealingKey::generate().seal("kbs:///payments/seal/key", "kbs:///payments/db/password");
    let run = by_env(&world, &directory, &format!("a={sealed}")).run().refused(Class::Config);
    assert!(!run.output().contains(&sealed));
    assert_eq!(world.guest_api().fetched(), 0);
}

countersign_testbed::main! {
    the_environment_alone_publishes_a_set [GuestPort, Memory],
    the_role_by_environment_is_the_same [GuestPort, Memory],
    a_file_publishes_with_modes_and_expectations [GuestPort, Memory],
    one_denied_among_two_publishes_nothing [GuestPort, Memory],
    refused_secret_leaves_the_old_set_in_place [GuestPort, Memory],
    refused_content_leaves_the_old_set_in_place [GuestPort, Memory],
    a_restarted_container_reuses_the_set_without_error [GuestPort, Memory],
    a_gate_that_does_not_hold_stops_the_pod_before_any_secret_is_fetched [GuestPort, Memory],
    a_delivered_configuration_is_followed_and_says_its_provenance [GuestPort, Memory],
    a_configuration_written_for_another_workload_is_refused [GuestPort, Memory],
    the_environment_cannot_change_what_was_delivered [GuestPort, Memory],
    a_delivered_configuration_that_is_denied_is_no_reason_to_go_on_without_it [GuestPort, Memory],
    all_mistakes_of_a_configuration_are_named_at_once [GuestPort, Memory],
    on_a_workstation_it_says_where_it_belongs [GuestPort],
    kubectl_cocos_variables_are_refused_by_name [GuestPort],
    a_sealed_secret_of_a_listed_key_is_unsealed [GuestPort, Memory],
    a_sealed_secret_of_another_key_or_resource_is_refused [GuestPort, Memory],
    a_sealed_secret_in_the_environment_is_refused [GuestPort, Memory],
}

//! CDH gives one 500 for every cause. The KBS that the configuration names is then asked directly,
//! without evidence, and its answer decides the class.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;

use countersign::finding::Class;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::kbs::Kbs;
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::world::{Run, World};

const ADDRESS: &str = "127.0.0.1:8443";

/// A world where CDH refuses, and where `[kbs]` names a KBS.
fn init(world: &World, url: &str, ca: Option<&str>) -> Run {
    let directory: PathBuf = world.ramdir().unwrap().join("secrets");
    let ca = ca.map(|pem| format!("ca = \"\"\"\n{pem}\"\"\"\n")).unwrap_or_default();
    let file = world.directory().join("countersign.toml");
    std::fs::write(
        &file,
        format!(
            "version = 1\ndeadline = \"40s\"\n[kbs]\nurl = [\"{url}\"]\n{ca}[secrets]\ndirectory = \"{}\"\n\
             [[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\n",
            directory.display()
        ),
    )
    .unwrap();
    let run = world.countersign(&["init", "--config", file.to_str().unwrap()]).run();
    assert!(world.read(directory.join("a")).is_err());
    run
}

fn refusing() -> World {
    World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", Answer::Refused))
}

fn with_kbs(kbs: Kbs, ca: Option<&Ca>) -> Run {
    let world = refusing();
    let running = world.kbs(ADDRESS, kbs);
    init(&world, &running.url(), ca.map(Ca::pem))
}

fn a_healthy_kbs_leaves_policy_or_a_missing_resource() {
    let run = with_kbs(Kbs::healthy(), None).refused(Class::Backend);
    assert!(run.saw().contains("0.4.0"), "{}", run.output());
}

fn a_healthy_kbs_over_tls_is_recognised_by_its_ca() {
    let ca = Ca::new("kbs");
    let run = with_kbs(Kbs::healthy().tls(ca.leaf(&["127.0.0.1"])), Some(&ca)).refused(Class::Backend);
    assert!(run.saw().contains("0.4.0"), "{}", run.output());
}

fn a_kbs_of_another_version_is_named_so() {
    let run = with_kbs(Kbs::version("0.1.0"), None).refused(Class::ProtocolVersion);
    assert!(run.saw().contains("0.1.0"), "{}", run.output());
}

fn a_gateways_login_page_is_no_kbs() {
    let run = with_kbs(Kbs::gateway_page(), None).refused(Class::Unreachable);
    assert!(run.saw().to_lowercase().contains("html"), "{}", run.output());
}

fn another_web_service_is_no_kbs() {
    with_kbs(Kbs::another_service(), None).refused(Class::Unreachable);
}

fn nothing_listening_is_unreachable() {
    let run = init(&refusing(), "http://127.0.0.1:8443", None).refused(Class::Unreachable);
    assert!(run.saw().contains("refused"), "{}", run.output());
}

fn a_silent_kbs_is_unreachable() {
    with_kbs(Kbs::silent(), None).refused(Class::Unreachable);
}

fn a_certificate_of_another_ca_is_named_so() {
    let (ca, other) = (Ca::new("kbs"), Ca::new("other"));
    let run = with_kbs(Kbs::healthy().tls(other.leaf(&["127.0.0.1"])), Some(&ca)).refused(Class::KbsIdentity);
    assert!(run.next_step().contains("[kbs].ca"), "{}", run.output());
}

fn an_expired_certificate_is_named_so() {
    let ca = Ca::new("kbs");
    let run = with_kbs(Kbs::healthy().tls(ca.expired_leaf(&["127.0.0.1"])), Some(&ca)).refused(Class::KbsIdentity);
    assert!(run.output().contains("expired"), "{}", run.output());
}

fn a_certificate_for_another_name_is_named_so() {
    let ca = Ca::new("kbs");
    with_kbs(Kbs::healthy().tls(ca.leaf(&["kbs.example"])), Some(&ca)).refused(Class::KbsIdentity);
}

fn a_ca_as_server_certificate_is_named_so() {
    let identity = Identity::self_signed_ca(&["127.0.0.1"]);
    let pem = identity.pem().to_owned();
    let world = refusing();
    let running = world.kbs(ADDRESS, Kbs::healthy().tls(identity));
    init(&world, &running.url(), Some(&pem)).refused(Class::KbsIdentity);
}

fn the_kbs_of_mounted_initdata_is_asked_where_the_configuration_names_none() {
    let world = refusing();
    let running = world.kbs(ADDRESS, Kbs::version("0.2.0"));
    let initdata = format!(
        "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"{}\"\n'''\n",
        running.url()
    );
    let from = world.directory().join("initdata");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("initdata.toml"), initdata).unwrap();
    let to = world.ramdir().unwrap().join("c");
    // /run/countersign/initdata has to exist to be mounted on: a memory volume stands in for /run.
    let run = world.volume_on("/run", &countersign_testbed::world::Volume::memory()).and_then(|()| {
        std::fs::create_dir_all(world.outside("/run/countersign/initdata"))?;
        world.bind(&from, "/run/countersign/initdata", true)
    });
    run.unwrap();
    let run = world.countersign(&["get", "kbs:///a/b/c", "--to", to.to_str().unwrap()]).run();
    let run = run.refused(Class::ProtocolVersion);
    assert!(run.saw().contains("initdata"), "{}", run.output());
}

countersign_testbed::main! {
    a_healthy_kbs_leaves_policy_or_a_missing_resource [GuestPort, Memory],
    a_healthy_kbs_over_tls_is_recognised_by_its_ca [GuestPort, Memory],
    a_kbs_of_another_version_is_named_so [GuestPort, Memory],
    a_gateways_login_page_is_no_kbs [GuestPort, Memory],
    another_web_service_is_no_kbs [GuestPort, Memory],
    nothing_listening_is_unreachable [GuestPort, Memory],
    a_silent_kbs_is_unreachable [GuestPort, Memory],
    a_certificate_of_another_ca_is_named_so [GuestPort, Memory],
    an_expired_certificate_is_named_so [GuestPort, Memory],
    a_certificate_for_another_name_is_named_so [GuestPort, Memory],
    a_ca_as_server_certificate_is_named_so [GuestPort, Memory],
    the_kbs_of_mounted_initdata_is_asked_where_the_configuration_names_none [Namespaces],
}

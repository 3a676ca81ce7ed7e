//! The failure gallery: worlds that are broken on purpose, each by one thing. `diagnose` must name that
//! thing first, with its class and a next step that names a file, field, key or command.
//! `docs/troubleshooting.md` is written from what it says:
//! `COUNTERSIGN_BLESS=1 cargo test --test diagnose_gallery`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "gallery/rig.rs"]
mod rig;

use std::net::Ipv4Addr;

use countersign::finding::Class;
use countersign_testbed::dns::Dns;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::seal::SealingKey;
use countersign_testbed::tee::{Document, Guest, SnpGuest, Vendor};
use countersign_testbed::world::{ActiveSwap, Cmd, Run, Volume, World};
use rig::{AGENT, CDH, Case, DIRECT, Direct, SECRET, check};
use serde_json::Value;

const fn broken(
    name: &'static str,
    title: &'static str,
    road: &'static str,
    first: &'static str,
    class: Class,
    names: &'static str,
) -> Case {
    Case { name, title, road, first, class, warning: false, names }
}

const fn warned(
    name: &'static str,
    title: &'static str,
    road: &'static str,
    first: &'static str,
    class: Class,
    names: &'static str,
) -> Case {
    Case { name, title, road, first, class, warning: true, names }
}

#[rustfmt::skip]
static CASES: [Case; 38] = [
    broken("rest_service_not_up", "The guest's REST service is not up", CDH, "guest.api", Class::GuestApi, "agent.guest_components_procs"),
    broken("rest_feature_off", "The REST service has `resource` off", CDH, "secrets.file", Class::GuestApi, "agent.guest_components_rest_api"),
    broken("another_service_on_8006", "Another service listens on 8006", CDH, "guest.api", Class::GuestApi, "127.0.0.1:8006"),
    broken("secret_not_released_by_cdh", "CDH gets no secret, and nothing names the KBS", CDH, "secrets.file", Class::Backend, "[kbs].url"),
    broken("configuration_not_delivered", "The workload's configuration is not at the KBS", CDH, "config.delivered", Class::Backend, "kbs:///default/countersign/payments.api"),
    broken("configuration_with_a_typo", "A key of the configuration is misspelt", CDH, "config.document", Class::Config, "countersign.toml"),
    broken("kbs_not_started", "The KBS does not run", CDH, "kbs.connect", Class::Unreachable, "[kbs].url"),
    broken("wrong_namespace_in_the_url", "The KBS's URL has the wrong namespace", CDH, "kbs.name", Class::Unreachable, "[kbs].url"),
    broken("name_servers_silent", "The name servers do not answer", CDH, "kbs.name", Class::Unreachable, "/etc/resolv.conf"),
    broken("network_policy", "A NetworkPolicy keeps the pod from the KBS", CDH, "kbs.connect", Class::Unreachable, "NetworkPolicy"),
    broken("kbs_silent", "The KBS takes connections and says nothing", CDH, "kbs.certificate", Class::Unreachable, "https://127.0.0.1:8443"),
    broken("certificate_expired", "The KBS's certificate has expired", CDH, "kbs.certificate", Class::KbsIdentity, "[http_server].certificate"),
    broken("certificate_is_a_ca", "The KBS serves a self-signed CA certificate", CDH, "kbs.certificate", Class::KbsIdentity, "CA:FALSE"),
    broken("certificate_by_another_ca", "The KBS's certificate is by another CA", CDH, "kbs.certificate", Class::KbsIdentity, "[kbs].ca"),
    broken("certificate_for_another_name", "The KBS's certificate is for another name", CDH, "kbs.certificate", Class::KbsIdentity, "[kbs].url"),
    broken("login_page_of_a_gateway", "A gateway answers with its login page", CDH, "kbs.answer", Class::Unreachable, "[kbs].url"),
    broken("another_protocol_version", "The KBS speaks another version of the protocol", CDH, "kbs.answer", Class::ProtocolVersion, "Trustee v0.14"),
    broken("secret_is_empty", "The secret is empty", CDH, "secrets.file", Class::Content, "kbs:///payments/db/password"),
    broken("sealed_by_another_key", "The sealed secret is signed by another key", CDH, "secrets.sealed", Class::Sealed, "[secrets].sealed_keys"),
    broken("destination_on_disk", "The secrets' directory is on a disk", CDH, "destination.memory", Class::Destination, "medium: Memory"),
    broken("swap_on", "Swap is on", CDH, "destination.memory", Class::Destination, "swapoff"),
    broken("app_on_every_address", "The app listens on every address", CDH, "sidecar.exposure", Class::AppExposed, "HOST=127.0.0.1"),
    warned("clock_ahead_by_a_day", "The guest's clock is ahead by a day", CDH, "kbs.time", Class::KbsIdentity, "timedatectl"),
    warned("clock_turned_back", "The guest's clock was turned back", CDH, "clock.floor", Class::KbsIdentity, "timedatectl"),
    broken("sample_guest_denied", "A sample guest is denied by the default resource policy", AGENT, "secrets.file", Class::Backend, "kbs:///payments/db/password"),
    broken("agent_policy_permissive_and_only_the_agent_vouches", "The agent policy is permissive, and only the agent vouches for the initdata", AGENT, "initdata.own", Class::Config, "genpolicy"),
    broken("initdata_algorithm_misspelt", "The initdata's algorithm is written sha-256", DIRECT, "initdata.mount", Class::InitdataMismatch, "ConfigMap"),
    broken("initdata_edited_by_a_space", "The mounted initdata differs by a space", DIRECT, "initdata.own", Class::InitdataMismatch, "initdata pack"),
    broken("initdata_under_an_old_annotation", "The pod has no initdata annotation, or the old one", DIRECT, "initdata.own", Class::InitdataMismatch, "io.katacontainers.config.hypervisor.cc_init_data"),
    warned("agent_policy_permissive", "The agent policy is permissive", DIRECT, "initdata.policy", Class::Config, "genpolicy"),
    broken("debug_guest", "The host may debug the guest", DIRECT, "evidence.policy", Class::EvidenceRejected, "configuration.toml"),
    broken("evidence_not_genuine", "The evidence is by nobody whom AMD vouches for", DIRECT, "evidence.genuine", Class::EvidenceRejected, "countersign evidence --format json"),
    warned("host_without_certificates", "The host hands its guests no certificate", DIRECT, "evidence.genuine", Class::EvidenceRejected, "--certificates"),
    broken("quote_service_down", "The host's quoting service does not answer", DIRECT, "evidence.report", Class::NoEvidence, "qgsd"),
    broken("snp_firmware_throttled", "The SNP firmware is throttled", DIRECT, "evidence.report", Class::NoEvidence, "deadline"),
    broken("evidence_not_believed", "The verifier does not accept the evidence", DIRECT, "attest.session", Class::EvidenceRejected, "RCAR handshake Attest failed"),
    broken("reference_value_not_registered", "The guest's measurement is not registered", DIRECT, "secrets.file", Class::PolicyDenied, "resource policy"),
    broken("lax_policy", "The KBS's resource policy releases everything", DIRECT, "secrets.canary", Class::Config, "policies/trustee/resource.rego"),
];

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("the table has it")
}

#[track_caller]
fn hold(world: &World, name: &str, run: &Run) -> Value {
    rig::hold(world, case(name), &CASES, run)
}

fn guest() -> GuestApi {
    GuestApi::healthy().secret("payments/db/password", "alpha")
}

/// What guest images have by default.
const PERMISSIVE: &str = "package agent_policy\ndefault CreateContainerRequest := true\n";

/// The pod's variables, as a developer without policies writes them.
fn by_env(world: &World) -> Cmd<'_> {
    by_env_within(world, "20s")
}

fn by_env_within<'w>(world: &'w World, within: &str) -> Cmd<'w> {
    world
        .countersign(&["diagnose", "--json", "--timeout", within])
        .env("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", world.ramdir().unwrap())
}

/// A file that names the KBS, so that its absence can be told.
fn by_file<'w>(world: &'w World, url: &str, ca: &str) -> Cmd<'w> {
    let text = format!("url = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n");
    let file = file(world, &text, &world.ramdir().unwrap().display().to_string());
    world.countersign(&["diagnose", "--json", "--timeout", "20s", "--config"]).arg(file)
}

fn file(world: &World, kbs: &str, directory: &str) -> std::path::PathBuf {
    let file = world.directory().join("countersign.toml");
    let text = format!("version = 1\n[kbs]\n{kbs}[secrets]\ndirectory = \"{directory}\"\n{SECRET}");
    std::fs::write(&file, text).unwrap();
    file
}

fn by_delivery(world: &World) -> Cmd<'_> {
    world
        .countersign(&["diagnose", "--json", "--timeout", "20s"])
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "api")
}

fn delivered(rest: &str) -> String {
    format!("version = 1\nserial = 7\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n{rest}")
}

/// A stock guest whose CDH gets nothing, and a KBS of this kind on the address that the file names.
#[track_caller]
fn with_kbs(name: &str, kbs: impl FnOnce(&Ca) -> Option<Kbs>) {
    let world = World::new().unwrap().guest(guest().answer("payments/db/password", Answer::Refused));
    let ca = Ca::new("the KBS's");
    if let Some(kbs) = kbs(&ca) {
        world.kbs("127.0.0.1:8443", kbs);
    }
    let run = by_file(&world, "https://127.0.0.1:8443", ca.pem()).run();
    hold(&world, name, &run);
}

fn rest_service_not_up() {
    let world = World::new().unwrap();
    let run = by_env_within(&world, "6s").run();
    hold(&world, "rest_service_not_up", &run);
}

fn rest_feature_off() {
    let world = World::new().unwrap().guest(GuestApi::healthy().feature_off());
    let run = by_env(&world).run();
    hold(&world, "rest_feature_off", &run);
}

fn another_service_on_8006() {
    let world = World::new().unwrap().guest(guest().path("/info", [Answer::LoginPage200]));
    let run = by_env(&world).run();
    hold(&world, "another_service_on_8006", &run);
}

fn secret_not_released_by_cdh() {
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let run = by_env(&world).run();
    hold(&world, "secret_not_released_by_cdh", &run);
}

fn configuration_not_delivered() {
    let world = World::new().unwrap().guest(guest());
    let run = by_delivery(&world).run();
    hold(&world, "configuration_not_delivered", &run);
}

fn configuration_with_a_typo() {
    let world = World::new().unwrap().guest(guest());
    let file = world.directory().join("countersign.toml");
    std::fs::write(&file, format!("version = 1\n{SECRET}exepct = {{ format = \"utf8\" }}\n")).unwrap();
    let run = world.countersign(&["diagnose", "--json", "--config"]).arg(file).run();
    hold(&world, "configuration_with_a_typo", &run);
}

fn kbs_not_started() {
    with_kbs("kbs_not_started", |_| None);
}

fn wrong_namespace_in_the_url() {
    let ca = Ca::new("the KBS's");
    let dns = Dns::empty().name("kbs.trustee.svc", Ipv4Addr::LOCALHOST);
    let world = World::private().unwrap().guest(GuestApi::healthy()).dns(dns).unwrap();
    world.kbs("127.0.0.1:8443", Kbs::healthy().tls(ca.leaf(&["kbs.trustee.svc"])));
    let run = by_file(&world, "https://kbs.trustees.svc:8443", ca.pem()).run();
    hold(&world, "wrong_namespace_in_the_url", &run);
}

fn name_servers_silent() {
    let world = World::private().unwrap().guest(GuestApi::healthy()).dns(Dns::silent()).unwrap();
    let run = by_file(&world, "https://kbs.trustee.svc:8443", Ca::new("the KBS's").pem()).run();
    hold(&world, "name_servers_silent", &run);
}

fn network_policy() {
    let world = World::private().unwrap().guest(GuestApi::healthy());
    // RFC 5737: nobody's. A private world has no way to it.
    let run = by_file(&world, "https://192.0.2.7:8443", Ca::new("the KBS's").pem()).run();
    hold(&world, "network_policy", &run);
}

fn kbs_silent() {
    let world = World::new().unwrap().guest(GuestApi::healthy());
    // Taken by the kernel, and never accepted.
    let _listener = world.listen("127.0.0.1:8443").unwrap();
    let run = by_file(&world, "https://127.0.0.1:8443", Ca::new("the KBS's").pem()).run();
    hold(&world, "kbs_silent", &run);
}

fn certificate_expired() {
    with_kbs("certificate_expired", |ca| Some(Kbs::healthy().tls(ca.expired_leaf(&["127.0.0.1"]))));
}

fn certificate_is_a_ca() {
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let own = Identity::self_signed_ca(&["127.0.0.1"]);
    let pem = own.pem().to_owned();
    world.kbs("127.0.0.1:8443", Kbs::healthy().tls(own));
    let run = by_file(&world, "https://127.0.0.1:8443", &pem).run();
    hold(&world, "certificate_is_a_ca", &run);
}

fn certificate_by_another_ca() {
    with_kbs("certificate_by_another_ca", |_| Some(Kbs::healthy().tls(Ca::new("another").leaf(&["127.0.0.1"]))));
}

fn certificate_for_another_name() {
    with_kbs("certificate_for_another_name", |ca| Some(Kbs::healthy().tls(ca.leaf(&["kbs.example"]))));
}

fn login_page_of_a_gateway() {
    with_kbs("login_page_of_a_gateway", |ca| Some(Kbs::gateway_page().tls(ca.leaf(&["127.0.0.1"]))));
}

fn another_protocol_version() {
    with_kbs("another_protocol_version", |ca| Some(Kbs::version("0.2.0").tls(ca.leaf(&["127.0.0.1"]))));
}

fn secret_is_empty() {
    let world = World::new().unwrap().guest(guest().answer("payments/db/password", Answer::Empty));
    let run = by_env(&world).run();
    hold(&world, "secret_is_empty", &run);
}

fn sealed_by_another_key() {
    let (listed, other) = (SealingKey::generate(), SealingKey::generate());
    let world = World::new().unwrap();
    let text = delivered(&format!(
        "[secrets]\ndirectory = \"{}\"\nsealed_keys = [\"kbs:///payments/seal/key\"]\n[[secrets.file]]\n\
         path = \"db/password\"\nfrom = \"{}\"\nresource = \"kbs:///payments/db/password\"\n",
        world.ramdir().unwrap().display(),
        other.seal("kbs:///payments/seal/key", "kbs:///payments/db/password"),
    ));
    let api = guest().secret("default/countersign/payments.api", text).secret("payments/seal/key", listed.public_jwk());
    let world = world.guest(api);
    let run = by_delivery(&world).run();
    hold(&world, "sealed_by_another_key", &run);
}

fn destination_on_disk() {
    let world = World::new().unwrap().guest(guest());
    let disk = world.diskdir().unwrap();
    let run = world
        .countersign(&["diagnose", "--json"])
        .env("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", disk.join("secrets"))
        .run();
    hold(&world, "destination_on_disk", &run);
}

fn swap_on() {
    let world = World::private().unwrap().guest(guest()).swap(ActiveSwap::Disk).unwrap();
    let directory = world.volume(&Volume::memory()).unwrap();
    let run = world
        .countersign(&["diagnose", "--json"])
        .env("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", directory)
        .run();
    hold(&world, "swap_on", &run);
}

/// A configuration with a sidecar, which the KBS delivers.
fn meshed() -> World {
    let ca = Ca::new("mesh");
    let text = delivered(
        "[identity]\nsource = \"self\"\nspiffe = \"spiffe://example.org/ns/payments/sa/api\"\n\
         [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [[inbound]]\nlisten = \"127.0.0.1:8443\"\napp = \"127.0.0.1:8080\"\n\
         allow = [\"spiffe://example.org/ns/payments/sa/settle\"]\n",
    );
    let api = guest().secret("default/countersign/payments.api", text).secret("payments/mesh/roots", ca.pem());
    World::new().unwrap().guest(api)
}

fn app_on_every_address() {
    let world = meshed();
    let _app = world.listen("0.0.0.0:8080").unwrap();
    let run = by_delivery(&world).run();
    let said = hold(&world, "app_on_every_address", &run);
    for id in ["sidecar.terms", "sidecar.trust", "sidecar.certificate", "sidecar.listener"] {
        assert_eq!(check(&said, id)["state"], "pass", "{said:#}");
    }
}

/// A stock guest with all as it should be but the clock. Name servers too: the machine's may be none.
fn with_clock(name: &str, offset: i64) {
    let ca = Ca::new("the KBS's");
    let world = World::private().unwrap().guest(guest()).dns(Dns::empty()).unwrap();
    world.kbs("127.0.0.1:8443", Kbs::healthy().tls(ca.leaf(&["127.0.0.1"])));
    let kbs = format!("url = [\"https://127.0.0.1:8443\"]\nca = \"\"\"\n{}\"\"\"\n", ca.pem());
    let file = file(&world, &kbs, &world.ramdir().unwrap().display().to_string());
    let run = world.sim(&["diagnose", "--json", "--sim-clock-offset", &offset.to_string(), "--config"]).arg(file).run();
    hold(&world, name, &run);
}

fn clock_ahead_by_a_day() {
    with_clock("clock_ahead_by_a_day", 86_400);
}

fn clock_turned_back() {
    with_clock("clock_turned_back", -86_400 * 3650);
}

fn sample_guest_denied() {
    let world = World::new().unwrap();
    let kbs = world.kbs("127.0.0.1:8443", Kbs::healthy().resource("payments/db/password", "alpha"));
    let world = world.guest(GuestApi::healthy().attester(Guest::Sample).kbs(&kbs));
    let run = by_env(&world).run();
    let said = hold(&world, "sample_guest_denied", &run);
    let verdict = check(&said, "attest.verdict");
    assert_eq!(verdict["state"], "warn", "{said:#}");
    assert!(verdict["saw"].as_str().unwrap().contains("sample"), "{verdict:#}");
}

fn agent_policy_permissive_and_only_the_agent_vouches() {
    let world = World::new().unwrap();
    let kbs = world.kbs("127.0.0.1:8443", Kbs::healthy().resource("payments/db/password", "alpha"));
    let document = Document::of_kbs(&kbs.url(), "").countersign(&format!("version = 1\n{SECRET}")).policy(PERMISSIVE);
    let (text, snp) = (document.text(), SnpGuest::genoa().initdata(&document.digest()));
    let world = world.guest(GuestApi::healthy().attester(Guest::Snp(snp)).kbs(&kbs).initdata(&text));
    let run = world.sim(&["diagnose", "--json", "--timeout", "20s"]).makers().initdata(&text).run();
    hold(&world, "agent_policy_permissive_and_only_the_agent_vouches", &run);
}

/// A guest with this hardware, and all else as it should be.
#[track_caller]
fn direct(name: &str, script: &str) -> (Direct, Value) {
    let pod = Direct::new(script);
    let run = pod.diagnose().run();
    let said = hold(&pod.world, name, &run);
    (pod, said)
}

fn initdata_algorithm_misspelt() {
    let pod = Direct::new("snp");
    let text = pod.document.text().replace("sha384", "sha-384");
    let run = pod.diagnose_with(&text).run();
    hold(&pod.world, "initdata_algorithm_misspelt", &run);
}

fn initdata_edited_by_a_space() {
    let pod = Direct::new("snp");
    let run = pod.diagnose_with(&format!("{} ", pod.document.text())).run();
    hold(&pod.world, "initdata_edited_by_a_space", &run);
    assert_eq!(pod.kbs.attestations(), 0);
}

fn initdata_under_an_old_annotation() {
    direct("initdata_under_an_old_annotation", "snp+host-data=00");
}

fn agent_policy_permissive() {
    let pod = Direct::with("snp", |kbs| kbs, "", |document| document.policy(PERMISSIVE));
    let run = pod.diagnose().run();
    hold(&pod.world, "agent_policy_permissive", &run);
}

fn debug_guest() {
    direct("debug_guest", "snp+debug");
}

fn evidence_not_genuine() {
    direct("evidence_not_genuine", "snp+other-key");
}

fn host_without_certificates() {
    direct("host_without_certificates", "snp+no-certificates");
}

fn quote_service_down() {
    direct("quote_service_down", "errno:110*9,tdx");
}

fn snp_firmware_throttled() {
    let pod = Direct::new("errno:16*1000000,snp");
    let run = pod.diagnose().args(&["--timeout", "4s"]).run();
    hold(&pod.world, "snp_firmware_throttled", &run);
}

/// A verifier that knows other makers: what it lacks, only its operator can say.
fn evidence_not_believed() {
    let pod = Direct::with("snp", |kbs| kbs.trusts(Vendor::new()), "", |document| document);
    let run = pod.diagnose().run();
    let said = hold(&pod.world, "evidence_not_believed", &run);
    assert_eq!(check(&said, "evidence.genuine")["state"], "pass", "{said:#}");
}

fn reference_value_not_registered() {
    let (pod, said) = direct("reference_value_not_registered", "snp+other-measurement");
    let verdict = check(&said, "attest.verdict");
    assert_eq!(verdict["state"], "warn", "{said:#}");
    assert!(verdict["next"].as_str().unwrap().contains("snp_launch_measurement"), "{verdict:#}");
    assert_eq!(pod.kbs.attestations(), 1, "one attestation for all questions");
}

fn lax_policy() {
    let canary = "canary = \"kbs:///canary/never/released\"\n";
    let lax = |kbs: Kbs| kbs.policy(Policy::AllowAll).resource("canary/never/released", "tweet");
    let pod = Direct::with("snp", lax, canary, |document| document);
    let run = pod.diagnose().run();
    hold(&pod.world, "lax_policy", &run);
}

fn the_page_is_the_table() {
    rig::the_page_is_the_table(&CASES);
}

countersign_testbed::main! {
    rest_service_not_up [GuestPort, Memory],
    rest_feature_off [GuestPort, Memory],
    another_service_on_8006 [GuestPort, Memory],
    secret_not_released_by_cdh [GuestPort, Memory],
    configuration_not_delivered [GuestPort],
    configuration_with_a_typo [GuestPort],
    kbs_not_started [GuestPort, Memory],
    wrong_namespace_in_the_url [Namespaces, Memory],
    name_servers_silent [Namespaces, Memory],
    network_policy [Namespaces, Memory],
    kbs_silent [GuestPort, Memory],
    certificate_expired [GuestPort, Memory],
    certificate_is_a_ca [GuestPort, Memory],
    certificate_by_another_ca [GuestPort, Memory],
    certificate_for_another_name [GuestPort, Memory],
    login_page_of_a_gateway [GuestPort, Memory],
    another_protocol_version [GuestPort, Memory],
    secret_is_empty [GuestPort, Memory],
    sealed_by_another_key [GuestPort, Memory],
    destination_on_disk [GuestPort, Disk],
    swap_on [Namespaces],
    app_on_every_address [GuestPort],
    clock_ahead_by_a_day [Namespaces, Memory],
    clock_turned_back [Namespaces, Memory],
    sample_guest_denied [GuestPort, Memory],
    agent_policy_permissive_and_only_the_agent_vouches [GuestPort],
    initdata_algorithm_misspelt [GuestPort, Memory],
    initdata_edited_by_a_space [GuestPort, Memory],
    initdata_under_an_old_annotation [GuestPort, Memory],
    agent_policy_permissive [GuestPort, Memory],
    debug_guest [GuestPort, Memory],
    evidence_not_genuine [GuestPort, Memory],
    host_without_certificates [GuestPort, Memory],
    quote_service_down [GuestPort, Memory],
    snp_firmware_throttled [GuestPort, Memory],
    evidence_not_believed [GuestPort, Memory],
    reference_value_not_registered [GuestPort, Memory],
    lax_policy [GuestPort, Memory],
    the_page_is_the_table,
}

//! `countersign init` where the guest's attestation agent answers: who vouches for initdata, which way
//! is taken, and what is refused. The agent, CDH and the KBS are doubles; the way through the kernel is
//! in `tests/direct.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use countersign::finding::Class;
use countersign::formats::initdata::Initdata;
use countersign_testbed::World;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::kbs::{Fault, Kbs, Policy, Rule, RunningKbs, Step};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Guest, SnpGuest, TdxGuest};
use countersign_testbed::world::{Cmd, Run};
use serde_json::Value;

countersign_testbed::main! {
    initdata_in_the_attestation_result_is_believed_without_a_mount [Namespaces],
    taking_the_mount_away_does_not_take_the_configuration_away [Namespaces],
    refused_countersign_toml_without_a_generated_policy_where_the_agent_vouches [Namespaces],
    initdata_of_a_sample_guest_is_not_believed [Namespaces],
    mounted_initdata_is_proven_by_the_agents_evidence [Namespaces],
    refused_initdata_that_differs_by_one_space [Namespaces],
    refused_initdata_where_the_guest_was_launched_without [Namespaces],
    refused_initdata_that_nothing_can_prove [Namespaces],
    refused_initdata_that_does_not_parse [Namespaces],
    refused_initdata_that_is_there_and_cannot_be_read [Namespaces],
    refused_agent_that_is_there_and_fails [Namespaces],
    evidence_that_is_not_parsed_is_vouched_for_by_the_token [Namespaces],
    the_kbs_of_proven_initdata_delivers [Namespaces],
    refused_delivery_that_another_workload_was_meant_for [Namespaces],
    without_https_a_delivery_is_unproven [Namespaces],
    without_a_generated_policy_the_agents_word_names_no_kbs [Namespaces],
    a_file_does_not_replace_initdata [Namespaces],
    the_environment_sets_only_what_initdata_allows [Namespaces],
    policy_denial_costs_one_attestation [Namespaces],
    a_lax_policy_is_reported [Namespaces],
    the_first_way_of_via_that_is_offered_is_taken [Namespaces],
    a_token_that_the_kbs_forgot_is_fetched_anew [Namespaces],
    refused_token_of_another_key [Namespaces],
    refused_certificate_that_expired_although_the_clock_was_turned_back [Namespaces],
    refused_configuration_with_a_lower_serial [Namespaces],
}

const KBS: &str = "127.0.0.1:8443";
const POLICY: &str =
    "package agent_policy\ndefault CreateContainerRequest := false\npolicy_data := {\"containers\": [{}]}\n";
const WEEK: &str = "-604800";

/// A pod's world: guest, KBS, memory, initdata.
struct Pod {
    world: World,
    kbs: RunningKbs,
    directory: PathBuf,
    initdata: String,
}

/// How a [`Pod`] differs from the good one.
struct Setup {
    kbs: Kbs,
    guest: fn(&[u8]) -> Guest,
    policy: &'static str,
    config: Option<String>,
    https: bool,
    expired: bool,
}

fn genoa(digest: &[u8]) -> Guest {
    Guest::Snp(SnpGuest::genoa().initdata(digest))
}

impl Default for Setup {
    fn default() -> Self {
        let kbs = Kbs::healthy().policy(Policy::AllowAll).resource("payments/db/password", "alpha");
        Self { kbs, guest: genoa, policy: POLICY, config: Some(String::new()), https: true, expired: false }
    }
}

impl Setup {
    /// Starts it. `config` is what stands in front of the tables.
    fn pod(self) -> Pod {
        self.with(|api| api)
    }

    fn with(self, more: impl FnOnce(GuestApi) -> GuestApi) -> Pod {
        let world = World::private().unwrap();
        let ca = Ca::new("the KBS's");
        let identity = if self.expired { ca.expired_leaf(&["127.0.0.1"]) } else { ca.leaf(&["127.0.0.1"]) };
        let kbs = world.kbs(KBS, if self.https { self.kbs.tls(identity) } else { self.kbs });
        let directory = world.ramdir().unwrap().join("secrets");
        let url = format!("{}://{KBS}", if self.https { "https" } else { "http" });
        let countersign = self.config.map_or_else(String::new, |top| {
            format!("\"countersign.toml\" = '''\nversion = 1\n{top}\n{}'''\n", secrets(&directory))
        });
        let initdata = format!(
            "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \
             \"{url}\"\ncert = \"\"\"\n{}\"\"\"\n'''\n\"policy.rego\" = '''\n{}'''\n{countersign}",
            ca.pem(),
            self.policy
        );
        let digest = Initdata::parse(initdata.as_bytes()).unwrap().digest();
        let api = GuestApi::healthy().attester((self.guest)(&digest)).kbs(&kbs).initdata(&initdata);
        let world = world.guest(more(api));
        Pod { world, kbs, directory, initdata }
    }
}

fn secrets(directory: &Path) -> String {
    format!(
        "[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"password\"\nfrom = \"kbs:///payments/db/password\"\n",
        directory.display()
    )
}

impl Pod {
    fn init(&self) -> Cmd<'_> {
        self.world.countersign(&["init"])
    }

    /// With this text mounted as its initdata.
    fn mounted(&self, text: &str) -> Cmd<'_> {
        self.mounted_with(text, &[])
    }

    fn mounted_with(&self, text: &str, flags: &[&str]) -> Cmd<'_> {
        let mount = self.world.directory().join("initdata");
        std::fs::create_dir_all(&mount).unwrap();
        std::fs::write(mount.join("initdata.toml"), text).unwrap();
        let mut args = vec!["init", "--sim-initdata", mount.to_str().unwrap()];
        args.extend(flags);
        self.world.sim(&args)
    }

    fn released(&self, run: Run, provenance: &str, via: &str) -> Run {
        let run = run.expect_code(0);
        assert_eq!(self.world.read(self.directory.join("password")).unwrap(), b"alpha");
        let receipt = self.world.read(self.directory.join(".countersign-receipt.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&receipt).unwrap();
        assert_eq!((receipt["provenance"].as_str(), receipt["via"].as_str()), (Some(provenance), Some(via)));
        run
    }

    fn nothing_is_published(&self) {
        assert!(self.world.read(self.directory.join("password")).is_err());
    }
}

fn initdata_in_the_attestation_result_is_believed_without_a_mount() {
    for guest in [genoa, |digest: &[u8]| Guest::Tdx(TdxGuest::v4().initdata(digest))] {
        let pod = Setup { guest, ..Setup::default() }.pod();
        pod.released(pod.init().run(), "guest-attested", "aa-token");
        assert_eq!(pod.kbs.attestations(), 1, "the token that showed the configuration fetches its secrets too");
    }
}

fn taking_the_mount_away_does_not_take_the_configuration_away() {
    let pod = Setup::default().pod();
    // Whoever wrote the manifest took the mount away and wrote a list of his own.
    let run =
        pod.init().env("COUNTERSIGN_SECRETS", "password=kbs:///attacker/db/password").run().refused(Class::Config);
    assert!(run.stderr.contains("guest-attested"), "{}", run.output());
    pod.nothing_is_published();
}

fn refused_countersign_toml_without_a_generated_policy_where_the_agent_vouches() {
    for policy in ["package agent_policy\ndefault ExecProcessRequest := true\n", ""] {
        let pod = Setup { policy, ..Setup::default() }.pod();
        for command in [pod.init(), pod.mounted(&pod.initdata)] {
            let run = command.run().refused(Class::Config);
            assert!(
                run.saw().contains("kata-agent policy") && run.next_step().contains("genpolicy"),
                "{}",
                run.output()
            );
        }
        pod.nothing_is_published();
    }
}

fn initdata_of_a_sample_guest_is_not_believed() {
    let pod = Setup { guest: |_| Guest::Sample, ..Setup::default() }.pod();
    let run = pod
        .init()
        .env("COUNTERSIGN_SECRETS", "password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &pod.directory)
        .run();
    let run = pod.released(run, "unmeasured", "cdh");
    assert!(run.stderr.contains("sample TEE"), "{}", run.output());
}

fn mounted_initdata_is_proven_by_the_agents_evidence() {
    for guest in [genoa, |digest: &[u8]| Guest::Tdx(TdxGuest::v5().initdata(digest))] {
        let pod = Setup { guest, ..Setup::default() }.pod();
        let run = pod.released(pod.mounted(&pod.initdata).run(), "guest-attested", "aa-evidence");
        assert!(run.stderr.contains("configfs-tsm:"), "it says why not the others: {}", run.output());
        let shown = pod.kbs.requests().into_iter().find(|seen| seen.path == "/kbs/v0/attest").unwrap();
        let shown: Value = serde_json::from_slice(&shown.body).unwrap();
        assert_eq!(shown["init-data"]["body"], pod.initdata, "the KBS is shown the very text");
        assert_eq!(pod.kbs.attestations(), 1);
    }
}

fn refused_initdata_that_differs_by_one_space() {
    let pod = Setup::default().pod();
    let edited = pod.initdata.replacen("version = 1", "version  = 1", 1);
    let run = pod.mounted(&edited).run().refused(Class::InitdataMismatch);
    for text in [&pod.initdata, &edited] {
        let digest = Initdata::parse(text.as_bytes()).unwrap().digest();
        let hex = countersign_testbed::tee::hex(&digest[..32]);
        assert!(run.saw().contains(&hex), "both digests are named: {}", run.output());
    }
    assert!(run.next_step().contains("initdata pack"), "{}", run.output());
    assert_eq!(pod.kbs.attestations(), 0);
    pod.nothing_is_published();
}

fn refused_initdata_where_the_guest_was_launched_without() {
    let pod = Setup { guest: |_| Guest::Snp(SnpGuest::genoa()), ..Setup::default() }.pod();
    let run = pod.mounted(&pod.initdata).run().refused(Class::InitdataMismatch);
    assert!(run.next_step().contains("cc_init_data"), "{}", run.output());
}

fn refused_initdata_that_nothing_can_prove() {
    let pod = Setup::default().with(|api| api.feature(countersign_testbed::guest::Feature::Resource));
    let run = pod.mounted(&pod.initdata).run().refused(Class::NoEvidence);
    assert!(run.next_step().contains("agent.guest_components_rest_api=all"), "{}", run.output());
    assert_eq!(pod.world.guest_api().fetched(), 0);
    // Without a configuration in it, it asks to be believed in nothing.
    let plain = pod.initdata.split("\"countersign.toml\"").next().unwrap();
    let run = pod
        .mounted(plain)
        .env("COUNTERSIGN_SECRETS", "password=kbs:///payments/db/password")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &pod.directory)
        .run();
    pod.released(run, "unmeasured", "cdh");
}

fn refused_initdata_that_does_not_parse() {
    let pod = Setup::default().pod();
    for text in ["", "algorithm = \"sha-384\"\nversion = \"0.1.0\"\n[data]\n", "H4sIAAAA", "not toml ["] {
        pod.mounted(text).run().refused(Class::InitdataMismatch);
    }
    assert_eq!(pod.world.guest_api().fetched(), 0);
}

fn refused_initdata_that_is_there_and_cannot_be_read() {
    let pod = Setup::default().pod();
    let mount = pod.world.directory().join("mounted");
    let init = || {
        let command = pod.world.sim(&["init", "--sim-initdata", mount.to_str().unwrap()]);
        command.env("COUNTERSIGN_SECRETS", "password=kbs:///attacker/db/password").run()
    };
    let file = mount.join("initdata.toml");
    std::fs::create_dir_all(&mount).unwrap();
    std::fs::write(mount.join("init-data"), &pod.initdata).unwrap();
    assert!(init().refused(Class::Config).next_step().contains("initdata.toml"), "another key");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    init().refused(Class::Config);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(init().refused(Class::Config).saw().contains("too large"), "longer than a ConfigMap");
    assert_eq!(pod.world.guest_api().fetched(), 0);
}

fn refused_agent_that_is_there_and_fails() {
    // What the agent might have to say of initdata must not be passed over.
    for answer in [Answer::Garbage, Answer::LoginPage200, Answer::Status("500 Oops".to_owned(), b"x".to_vec())] {
        let pod = Setup::default().with(|api| api.path("/info", [answer]));
        pod.init().env("COUNTERSIGN_SECRETS", "password=kbs:///payments/db/password").run().refused(Class::GuestApi);
    }
    let failed = Answer::Status("500 Internal Server Error".to_owned(), b"rpc status".to_vec());
    let pod = Setup::default().with(|api| api.path("/aa/token?token_type=kbs", [failed]));
    let run = pod.init().env("COUNTERSIGN_SECRETS", "password=kbs:///payments/db/password").run();
    let run = run.refused(Class::EvidenceRejected);
    assert!(run.next_step().contains("aa.toml"), "{}", run.output());
}

fn evidence_that_is_not_parsed_is_vouched_for_by_the_token() {
    let pod = Setup { guest: |_| Guest::Other("az-snp-vtpm"), ..Setup::default() }.pod();
    pod.released(pod.mounted(&pod.initdata).run(), "guest-attested", "aa-evidence");
    let edited = pod.initdata.replacen("payments/db", "attacker/db", 1);
    pod.mounted(&edited).run().refused(Class::InitdataMismatch);
}

fn delivered(setup: Setup, workload: &str) -> Pod {
    // The KBS's document cannot name the pod's directory before there is one: the default is another.
    let document = format!(
        "version = 1\nserial = 3\nfor = {{ namespace = \"payments\", workload = \"{workload}\" }}\n[[secrets.gate]]\n\
         from = \"kbs:///payments/db/password\"\nequals = \"alpha\"\n"
    );
    let kbs = setup.kbs.resource("default/countersign/payments.api", document);
    Setup { kbs, config: None, ..setup }.pod()
}

fn for_us(command: Cmd<'_>) -> Run {
    command.env("COUNTERSIGN_NAMESPACE", "payments").env("COUNTERSIGN_WORKLOAD", "api").run()
}

fn the_kbs_of_proven_initdata_delivers() {
    let pod = delivered(Setup::default(), "api");
    let run = for_us(pod.mounted(&pod.initdata)).expect_code(0);
    assert!(run.stderr.contains("configuration delivered, road aa-evidence"), "{}", run.output());
    assert_eq!(pod.kbs.attestations(), 1, "configuration and gate come by one attestation");
    let run = for_us(pod.init()).expect_code(0);
    assert!(run.stderr.contains("configuration delivered, road aa-token"), "{}", run.output());
}

fn refused_delivery_that_another_workload_was_meant_for() {
    let pod = delivered(Setup::default(), "web");
    for_us(pod.mounted(&pod.initdata)).refused(Class::Config);
}

fn without_https_a_delivery_is_unproven() {
    let pod = delivered(Setup { https: false, ..Setup::default() }, "api");
    let run = for_us(pod.mounted(&pod.initdata)).expect_code(0);
    assert!(run.stderr.contains("configuration delivered-unproven"), "{}", run.output());
}

fn without_a_generated_policy_the_agents_word_names_no_kbs() {
    for policy in ["package agent_policy\ndefault ExecProcessRequest := true\n", ""] {
        let pod = delivered(Setup { policy, ..Setup::default() }, "api");
        for command in [pod.init(), pod.mounted(&pod.initdata)] {
            let run = for_us(command).expect_code(0);
            assert!(run.stderr.contains("configuration delivered-unproven, road cdh"), "{}", run.output());
            assert!(run.stderr.contains("a hint, no more"), "{}", run.output());
        }
    }
}

fn a_file_does_not_replace_initdata() {
    let pod = Setup::default().pod();
    let file = pod.world.directory().join("mine.toml");
    std::fs::write(&file, format!("version = 1\n{}", secrets(&pod.directory))).unwrap();
    pod.world.countersign(&["init", "--config", file.to_str().unwrap()]).run().refused(Class::Config);
    pod.nothing_is_published();
}

fn the_environment_sets_only_what_initdata_allows() {
    let pod = Setup::default().pod();
    pod.init().env("COUNTERSIGN_LOG", "debug").run().refused(Class::Config);
    let overrides = "deadline = \"2m\"\noverrides = { allow_env = [\"COUNTERSIGN_LOG\"] }".to_owned();
    let pod = Setup { config: Some(overrides), ..Setup::default() }.pod();
    pod.released(pod.init().env("COUNTERSIGN_LOG", "debug").run(), "guest-attested", "aa-token");
    let run = pod.init().env("COUNTERSIGN_DEADLINE", "20m").run().refused(Class::Config);
    assert!(run.output().contains("COUNTERSIGN_DEADLINE"), "{}", run.output());
}

fn policy_denial_costs_one_attestation() {
    let kbs = Kbs::healthy().policy(Policy::DenyAll).resource("payments/db/password", "alpha");
    let pod = Setup { kbs, ..Setup::default() }.pod();
    pod.mounted(&pod.initdata).run().refused(Class::PolicyDenied);
    assert_eq!(pod.kbs.attestations(), 1);
    pod.nothing_is_published();
}

fn a_lax_policy_is_reported() {
    let pod = Setup::default().pod();
    let run = pod.released(pod.mounted(&pod.initdata).run(), "guest-attested", "aa-evidence");
    assert!(run.stderr.contains("kbs-policy-lax"), "nobody registered a reference value: {}", run.output());
    let kbs = Kbs::healthy().reference(&genoa(&[])).resource("payments/db/password", "alpha");
    let pod = Setup { kbs: kbs.policy(Policy::Affirming), ..Setup::default() }.pod();
    let run = pod.released(pod.mounted(&pod.initdata).run(), "guest-attested", "aa-evidence");
    assert!(!run.stderr.contains("kbs-policy-lax"), "{}", run.output());
}

fn the_first_way_of_via_that_is_offered_is_taken() {
    for (via, taken) in [
        ("\"sev-guest\", \"cdh\", \"aa-token\"", "cdh"),
        ("\"aa-token\", \"aa-evidence\"", "aa-token"),
        ("\"configfs-tsm\", \"aa-evidence\"", "aa-evidence"),
    ] {
        let pod = with_via(via);
        pod.released(pod.mounted(&pod.initdata).run(), "guest-attested", taken);
    }
    let pod = with_via("\"configfs-tsm\", \"sev-guest\"");
    let run = pod.mounted(&pod.initdata).run().refused(Class::NoEvidence);
    assert!(run.saw().contains("configfs-tsm: ") && run.saw().contains("sev-guest: "), "{}", run.output());
}

/// A pod whose configuration names the ways and leaves the KBS to `aa.toml`.
fn with_via(via: &str) -> Pod {
    Setup { config: Some(format!("kbs = {{ via = [{via}] }}")), ..Setup::default() }.pod()
}

fn a_token_that_the_kbs_forgot_is_fetched_anew() {
    // What the KBS does not take any more is taken to the agent once, and no more.
    let refuses = |times| {
        let fault = Fault::Problem("TokenVerifierError", "Token Verifier error");
        let kbs = Kbs::healthy().policy(Policy::AllowAll).resource("payments/db/password", "alpha");
        let kbs = kbs.rule(Rule::on(Step::Resource, fault).times(times));
        Setup { kbs, ..Setup::default() }.pod()
    };
    let pod = refuses(1);
    pod.released(pod.init().run(), "guest-attested", "aa-token");
    assert_eq!(pod.world.guest_api().count_of("/aa/token?token_type=kbs"), 2);
    let pod = refuses(usize::MAX);
    pod.init().run().refused(Class::Backend);
    assert_eq!(pod.world.guest_api().count_of("/aa/token?token_type=kbs"), 2);
    pod.nothing_is_published();
}

fn refused_token_of_another_key() {
    let theirs = Setup::default().pod();
    let passport = theirs.kbs.handshake(&genoa(&[]), None).unwrap();
    let mixed = theirs.kbs.handshake(&genoa(&[]), None).unwrap();
    let body = serde_json::json!({"token": passport["token"], "tee_keypair": mixed["tee_keypair"]}).to_string();
    for (body, word) in [
        (body.as_str(), "not for the key"),
        ("{}", "no token with its key"),
        (
            r#"{"token":"a.b.c","tee_keypair":"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"}"#,
            "RSA",
        ),
    ] {
        let answer = Answer::Bytes(body.as_bytes().to_vec());
        let pod = Setup::default().with(|api| api.path("/aa/token?token_type=kbs", [answer]));
        let run = pod.init().run().refused(Class::GuestApi);
        assert!(run.saw().contains(word), "{}", run.output());
    }
}

fn refused_certificate_that_expired_although_the_clock_was_turned_back() {
    let flags = ["--sim-clock-offset", WEEK];
    let pod = Setup { expired: true, ..Setup::default() }.pod();
    let run = pod.mounted_with(&pod.initdata, &flags).run().refused(Class::KbsIdentity);
    assert!(run.saw().contains("expired"), "{}", run.output());
    assert_eq!(pod.kbs.attestations(), 0, "nothing was shown to it");
    // With a good certificate the same clock does no harm.
    let pod = Setup::default().pod();
    pod.released(pod.mounted_with(&pod.initdata, &flags).run(), "guest-attested", "aa-evidence");
}

fn refused_configuration_with_a_lower_serial() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("payments/db/password", "alpha"));
    let directory = world.ramdir().unwrap().join("secrets");
    let file = world.directory().join("countersign.toml");
    let init = |serial: u64| {
        std::fs::write(&file, format!("version = 1\nserial = {serial}\n{}", secrets(&directory))).unwrap();
        world.countersign(&["init", "--config", file.to_str().unwrap()]).run()
    };
    init(7).expect_code(0);
    let run = init(6).refused(Class::Config);
    assert!(run.saw().contains("serial 6") && run.saw().contains("serial 7"), "{}", run.output());
    init(7).expect_code(0);
    init(8).expect_code(0);
}

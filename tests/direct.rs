//! The direct road end to end, in a simulated TEE: `init` takes its configuration from measured
//! initdata, attests to the KBS by itself, and publishes. And every lie of the hardware or the host
//! is refused, with the exit code that names it. The same promises are kept on a kernel by the rows
//! `direct-*` of guest-tests.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;

use countersign::finding::Class;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, Guest, QuoteKind, Refusal, SnpGuest, TdxGuest};
use countersign_testbed::world::{Cmd, RunningSigner, World};

/// A pod with a KBS, and hardware that was launched with its initdata.
struct Pod {
    world: World,
    kbs: RunningKbs,
    signer: RunningSigner,
    document: Document,
    secrets: PathBuf,
}

impl Pod {
    /// `script` is the hardware's; the KBS releases to affirming guests, which these are.
    fn new(script: &str) -> Self {
        Self::with(script, Signer::answering(script))
    }

    /// With this signer's guests.
    fn with(script: &str, signer: Signer) -> Self {
        let world = World::new().unwrap();
        let ca = Ca::new("kbs");
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("payments/db/password", "alpha")
            .resource("payments/tls/key", "beta")
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()))
            .reference(&Guest::Tdx(TdxGuest::v4()));
        let kbs = world.kbs("127.0.0.1:8443", kbs);
        let secrets = world.ramdir().unwrap().join("secrets");
        let document = Document::of_kbs(&kbs.url(), ca.pem()).countersign(&format!(
            "version = 1\ndeadline = \"20s\"\n[kbs]\nurl = [\"{}\"]\nca = \"\"\"\n{}\"\"\"\n[secrets]\n\
             directory = \"{}\"\n\
             [[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///payments/db/password\"\n\
             [[secrets.file]]\npath = \"key\"\nfrom = \"kbs:///payments/tls/key\"\n",
            kbs.url(),
            ca.pem(),
            secrets.display(),
        ));
        let signer = world.signer(signer.launched_with(&document.digest()));
        signer.set(script).unwrap();
        Self { world, kbs, signer, document, secrets }
    }

    fn init(&self) -> Cmd<'_> {
        self.init_with(&self.document.text())
    }

    /// With other initdata mounted than the hardware was launched with.
    fn init_with(&self, initdata: &str) -> Cmd<'_> {
        self.world.sim(&["init"]).tee(&self.signer).initdata(initdata)
    }

    fn secret(&self, path: &str) -> Option<Vec<u8>> {
        self.world.read(self.secrets.join(path)).ok()
    }

    /// Refused with this class by this script, and nothing is published.
    #[track_caller]
    fn refused(&self, script: &str, class: Class) {
        self.signer.set(script).unwrap();
        self.init().run().refused(class);
        self.nothing_is_published();
    }

    #[track_caller]
    fn nothing_is_published(&self) {
        assert!(self.secret("db/password").is_none() && self.secret("key").is_none());
    }
}

const TEES: [&str; 2] = ["snp", "tdx"];

fn a_measured_guest_has_its_secrets_by_one_attestation() {
    for tee in TEES {
        let pod = Pod::new(tee);
        let run = pod.init().run().expect_code(0);
        assert_eq!(pod.secret("db/password").unwrap(), b"alpha");
        assert_eq!(pod.secret("key").unwrap(), b"beta");
        assert_eq!(pod.kbs.attestations(), 1);
        assert!(run.stderr.contains("measured"), "the provenance is said: {}", run.output());
        let receipt: serde_json::Value =
            serde_json::from_slice(&pod.secret(".countersign-receipt.json").unwrap()).unwrap();
        assert_eq!(receipt["provenance"], "measured");
        for secret in ["alpha", "beta"] {
            assert!(!run.output().contains(secret), "{}", run.output());
        }
    }
}

fn the_role_by_environment_is_the_same() {
    let pod = Pod::new("snp");
    let run = pod.world.sim(&[]).tee(&pod.signer).initdata(pod.document.text()).env("COUNTERSIGN_ROLE", "init").run();
    run.expect_code(0);
    assert_eq!(pod.secret("key").unwrap(), b"beta");
}

fn root_without_capabilities_is_enough() {
    let pod = Pod::new("snp");
    pod.init().without_capabilities().run().expect_code(0);
    assert_eq!(pod.secret("key").unwrap(), b"beta");
}

fn every_generation_of_hardware_that_trustee_takes_is_served() {
    for (script, signer) in [
        ("snp", Signer::answering("snp").snp(SnpGuest::turin())),
        ("snp", Signer::answering("snp").snp(SnpGuest { version: 5, ..SnpGuest::genoa() })),
        ("snp+no-certificates", Signer::answering("snp")),
        ("tdx", Signer::answering("tdx").tdx(TdxGuest::v5())),
        ("tdx", Signer::answering("tdx").tdx(TdxGuest { kind: QuoteKind::V5Tdx10, ..TdxGuest::v4() })),
    ] {
        let pod = Pod::with(script, signer);
        pod.init().run().expect_code(0);
        assert_eq!(pod.secret("key").unwrap(), b"beta", "{script}");
    }
}

fn a_busy_firmware_is_asked_again() {
    let pod = Pod::new("errno:16*2,snp");
    pod.init().run().expect_code(0);
    assert_eq!(pod.secret("key").unwrap(), b"beta");
}

fn initdata_that_is_not_the_measured_one_is_refused_before_the_kbs_is_asked() {
    for tee in TEES {
        let pod = Pod::new(tee);
        let text = pod.document.text();
        let more = pod.document.clone().entry("more.toml", "").text();
        for edited in [format!("{text} "), text.replace("payments/tls/key", "payments/tls/kez"), more] {
            pod.init_with(&edited).run().refused(Class::InitdataMismatch);
            pod.nothing_is_published();
        }
        assert_eq!(pod.kbs.connections(), 0, "{tee}");
        pod.init().run().expect_code(0);
    }
}

fn a_guest_launched_with_other_initdata_or_none_is_refused_before_the_kbs_is_asked() {
    for tee in TEES {
        let pod = Pod::new(tee);
        for host_data in ["00".to_owned(), "5a".repeat(32)] {
            pod.refused(&format!("{tee}+host-data={host_data}"), Class::InitdataMismatch);
        }
        assert_eq!(pod.kbs.connections(), 0, "{tee}");
    }
}

fn a_guest_that_is_not_affirming_is_denied_by_policy_at_the_cost_of_one_attestation() {
    for tee in TEES {
        for lie in ["other-measurement", "debug"] {
            let pod = Pod::new(tee);
            pod.refused(&format!("{tee}+{lie}"), Class::PolicyDenied);
            assert_eq!(pod.kbs.attestations(), 1, "{tee}+{lie}");
        }
    }
}

fn evidence_that_no_vendor_vouches_for_is_rejected_by_the_kbs() {
    for tee in TEES {
        for lie in ["other-key", "tampered"] {
            let pod = Pod::new(tee);
            pod.refused(&format!("{tee}+{lie}"), Class::EvidenceRejected);
            assert_eq!(pod.kbs.attestations(), 0);
            assert!(pod.kbs.refusals().iter().all(|why| *why == Refusal::Signature), "{:?}", pod.kbs.refusals());
            assert!(!pod.kbs.refusals().is_empty());
        }
    }
}

fn evidence_of_a_version_that_trustee_does_not_take_is_rejected_by_the_kbs() {
    let pod = Pod::with("snp", Signer::answering("snp").snp(SnpGuest::milan_v2()));
    pod.init().run().refused(Class::EvidenceRejected);
    assert_eq!(pod.kbs.refusals().first(), Some(&Refusal::Version));
    pod.nothing_is_published();
}

/// The first report, which says what initdata was measured, is the replayed one's original. The
/// second is for the KBS, and the KBS never sees it: the kernel's reader looks for its 64 bytes.
fn a_replayed_report_is_noticed_by_us() {
    for tee in TEES {
        let pod = Pod::new(tee);
        pod.refused(&format!("{tee}+replay"), Class::NoEvidence);
        assert!(pod.kbs.refusals().is_empty() && pod.kbs.attestations() == 0);
    }
}

fn a_report_for_other_bytes_is_noticed_before_the_kbs_is_asked() {
    for tee in TEES {
        let pod = Pod::new(tee);
        pod.refused(&format!("{tee}+wrong-data"), Class::NoEvidence);
        assert_eq!(pod.kbs.connections(), 0, "{tee}");
    }
}

/// Whoever writes the manifest can mount a directory at `/sys` that confirms what he likes.
fn a_plain_directory_in_the_place_of_sysfs_confirms_nothing() {
    let pod = Pod::new("tdx");
    let sys = pod.world.directory().join("sys");
    let measurements = sys.join("devices/virtual/misc/tdx_guest/measurements");
    std::fs::create_dir_all(&measurements).unwrap();
    pod.init().arg("--sim-sys").arg(&sys).run().expect_code(0);
    std::fs::write(measurements.join("mrconfigid"), pod.document.digest()).unwrap();
    let run = pod.init().arg("--sim-sys").arg(&sys).run().refused(Class::NoEvidence);
    assert!(run.saw().contains("sysfs"), "{}", run.output());
}

fn a_firmware_that_fails_is_no_evidence() {
    let pod = Pod::new("errno:5");
    pod.refused("errno:5", Class::NoEvidence);
    assert_eq!(pod.kbs.connections(), 0);
}

fn a_refusal_leaves_the_old_set_in_place() {
    let pod = Pod::new("snp");
    pod.init().run().expect_code(0);
    pod.kbs.set_resource("payments/db/password", "gamma");
    for (script, class) in [
        ("snp+debug", Class::PolicyDenied),
        ("snp+other-key", Class::EvidenceRejected),
        ("snp+wrong-data", Class::NoEvidence),
        ("snp+host-data=01", Class::InitdataMismatch),
    ] {
        pod.signer.set(script).unwrap();
        pod.init().run().refused(class);
        assert_eq!(pod.secret("db/password").unwrap(), b"alpha", "{script}");
    }
    pod.signer.set("snp").unwrap();
    pod.init().run().expect_code(0);
    assert_eq!(pod.secret("db/password").unwrap(), b"gamma");
}

countersign_testbed::main! {
    a_measured_guest_has_its_secrets_by_one_attestation [GuestPort, Memory],
    the_role_by_environment_is_the_same [GuestPort, Memory],
    root_without_capabilities_is_enough [GuestPort, Memory],
    every_generation_of_hardware_that_trustee_takes_is_served [GuestPort, Memory],
    a_busy_firmware_is_asked_again [GuestPort, Memory],
    initdata_that_is_not_the_measured_one_is_refused_before_the_kbs_is_asked [GuestPort, Memory],
    a_guest_launched_with_other_initdata_or_none_is_refused_before_the_kbs_is_asked [GuestPort, Memory],
    a_guest_that_is_not_affirming_is_denied_by_policy_at_the_cost_of_one_attestation [GuestPort, Memory],
    evidence_that_no_vendor_vouches_for_is_rejected_by_the_kbs [GuestPort, Memory],
    evidence_of_a_version_that_trustee_does_not_take_is_rejected_by_the_kbs [GuestPort, Memory],
    a_replayed_report_is_noticed_by_us [GuestPort, Memory],
    a_report_for_other_bytes_is_noticed_before_the_kbs_is_asked [GuestPort, Memory],
    a_plain_directory_in_the_place_of_sysfs_confirms_nothing [GuestPort, Memory],
    a_firmware_that_fails_is_no_evidence [GuestPort, Memory],
    a_refusal_leaves_the_old_set_in_place [GuestPort, Memory],
}

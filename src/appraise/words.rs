//! What a verifier's verdict means, and what to register so that the next one is better.
//!
//! Claims and numbers are those of draft-ietf-rats-ar4si §2.3.4; names of reference values are those of
//! Trustee's own policy for CPUs (v0.21, `default_cpu.rego`).

use crate::formats::ear::{Status, Submod, TrustVector};

/// A claim that keeps a verdict from being `affirming`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weak {
    /// The claim's name.
    pub claim: &'static str,
    /// Its value.
    pub value: i8,
    /// What the value says.
    pub meaning: &'static str,
    /// What to give the verifier. Starts with a verb.
    pub register: &'static str,
}

/// The tier that a claim's value is in (AR4SI §2.3.2).
pub fn tier(value: i8) -> Status {
    match value {
        -1..=1 => Status::None,
        2..=31 | -32..=-2 => Status::Affirming,
        32..=95 | -96..=-33 => Status::Warning,
        _ => Status::Contraindicated,
    }
}

/// The claims of one part of the guest that are in no good tier, in the order of the vector. Claims that
/// nobody made are left out: no policy asks for all of them.
pub fn weak(submod: &Submod) -> Vec<Weak> {
    let tdx = submod.evidence.contains_key("tdx");
    named(submod.vector)
        .into_iter()
        .filter(|(_, value)| matches!(tier(*value), Status::Warning | Status::Contraindicated))
        .map(|(claim, value)| Weak { claim, value, meaning: meaning(claim, value), register: register(claim, tdx) })
        .collect()
}

fn named(vector: TrustVector) -> [(&'static str, i8); 8] {
    [
        ("instance-identity", vector.instance_identity),
        ("configuration", vector.configuration),
        ("executables", vector.executables),
        ("file-system", vector.file_system),
        ("hardware", vector.hardware),
        ("runtime-opaque", vector.runtime_opaque),
        ("storage-opaque", vector.storage_opaque),
        ("sourced-data", vector.sourced_data),
    ]
}

fn meaning(claim: &str, value: i8) -> &'static str {
    match (claim, value) {
        (_, 99) => "a cryptographic check of it failed",
        ("executables", 32) => "what was measured is known, and not approved to run",
        ("executables", 33) => "what was measured at launch is not among the reference values",
        ("hardware", 32) => "the platform is genuine and has known weaknesses",
        ("hardware", 96) => "the platform is genuine, and not to be trusted",
        ("hardware", 97) => "the platform's TCB is not among the reference values",
        ("configuration", 32) => "the guest's configuration is weak: it may be debugged or migrated",
        ("configuration", 36) => "the guest's configuration is not among the reference values",
        ("instance-identity", 97) => "the instance is not known",
        _ if tier(value) == Status::Warning => "the verifier has doubts about it",
        _ => "the verifier holds it to be bad",
    }
}

fn register(claim: &str, tdx: bool) -> &'static str {
    match (claim, tdx) {
        ("executables", false) => "register the guest's launch measurement as `snp_launch_measurement`",
        ("executables", true) => "register the guest's `rtmr_1` and `rtmr_2`, and send the event log",
        ("hardware", false) => {
            "register the platform's `snp_bootloader`, `snp_microcode`, `snp_snp_svn` and `snp_tee_svn`"
        }
        ("hardware", true) => "register `mr_td`, and update the platform until its TCB status is UpToDate",
        ("configuration", false) => "use a guest policy without debugging and migration, or register it",
        ("configuration", true) => "use a runtimeClass whose TDs have DEBUG off, and register `xfam`",
        _ => "read the verifier's policy for this claim",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_those_of_ar4si() {
        for (value, status) in [
            (0, Status::None),
            (2, Status::Affirming),
            (31, Status::Affirming),
            (32, Status::Warning),
            (95, Status::Warning),
            (96, Status::Contraindicated),
            (-33, Status::Warning),
            (-97, Status::Contraindicated),
        ] {
            assert_eq!(tier(value), status, "{value}");
        }
    }

    #[test]
    fn every_word_to_register_starts_with_a_verb() {
        for (claim, _) in named(TrustVector::default()) {
            for tdx in [false, true] {
                let first = register(claim, tdx).split(' ').next().unwrap();
                assert!(["register", "use", "read"].contains(&first), "{claim}: {first}");
            }
        }
    }
}

//! What a verifier's verdict means, and what to register so that the next one is better.
//!
//! Claims and numbers are those of draft-ietf-rats-ar4si §2.3.4; names of reference values are those of
//! Trustee's own policy for CPUs (v0.21, `default_cpu.rego`).

use crate::formats::ear::{Status, Submod};

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

/// The claims of one part of the guest that are in no good tier, in the order of the vector. Claims that
/// nobody made are left out: no policy asks for all of them.
pub fn weak(submod: &Submod) -> Vec<Weak> {
    let tdx = submod.evidence.contains_key("tdx");
    let claims = submod.vector.words().into_iter();
    let weak = claims.filter(|claim| matches!(claim.status, Status::Warning | Status::Contraindicated));
    weak.map(|claim| Weak {
        claim: claim.name,
        value: claim.value,
        meaning: claim.says,
        register: register(claim.name, tdx),
    })
    .collect()
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
    use crate::formats::ear::TrustVector;

    #[test]
    fn every_word_to_register_starts_with_a_verb() {
        for claim in TrustVector::default().words().map(|claim| claim.name) {
            for tdx in [false, true] {
                let first = register(claim, tdx).split(' ').next().unwrap();
                assert!(["register", "use", "read"].contains(&first), "{claim}: {first}");
            }
        }
    }
}

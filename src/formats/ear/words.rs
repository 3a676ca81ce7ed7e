//! What the numbers of a trust vector say (draft-ietf-rats-ar4si §2.3.4), and what to do about them
//! where Trustee's own policies gave them.

use super::claims::{Status, TrustVector};

/// One claim of a vector, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// As in the token: `executables`.
    pub name: &'static str,
    /// As in the token.
    pub value: i8,
    /// Which verdict the number stands for.
    pub status: Status,
    /// What it says.
    pub says: &'static str,
    /// What to register or change where it is not good. Empty where there is nothing to do.
    pub next: &'static str,
}

/// Meanings by claim; numbers that stand for no more than their verdict are not listed.
const MEANINGS: &[(&str, i8, &str)] = &[
    ("instance-identity", 2, "the instance is known, and not compromised"),
    ("instance-identity", 96, "the instance is known, and may be compromised"),
    ("instance-identity", 97, "the instance is not known"),
    ("configuration", 2, "the configuration is a known and approved one"),
    ("configuration", 3, "the configuration has no known vulnerability"),
    ("configuration", 32, "the configuration has a known vulnerability"),
    ("configuration", 36, "parts of the configuration are not available to the verifier"),
    ("configuration", 96, "the configuration has vulnerabilities that are not acceptable"),
    ("executables", 2, "only approved executables were loaded, at boot and since"),
    ("executables", 3, "only approved executables were loaded at boot"),
    ("executables", 4, "the boot measurements are approved ones, without a log of what they are"),
    ("executables", 32, "what was loaded is recognized, and part of it has known flaws"),
    ("executables", 33, "something was loaded that is not recognized"),
    ("executables", 96, "something was loaded that must not be"),
    ("file-system", 2, "only approved files are there"),
    ("file-system", 32, "files are there that are not recognized"),
    ("file-system", 96, "files are there that must not be"),
    ("hardware", 2, "the hardware is genuine and its TCB is approved"),
    ("hardware", 32, "the hardware is genuine and has known flaws"),
    ("hardware", 96, "the hardware or its firmware must not be used"),
    ("hardware", 97, "the hardware or its firmware is not recognized"),
    ("runtime-opaque", 2, "memory is encrypted"),
    ("runtime-opaque", 32, "memory is isolated and not encrypted"),
    ("runtime-opaque", 96, "memory can be read from outside"),
    ("storage-opaque", 2, "secrets are stored encrypted, under keys of the hardware"),
    ("storage-opaque", 32, "secrets are stored encrypted, under keys of software"),
    ("storage-opaque", 96, "secrets are stored in the clear"),
    ("sourced-data", 2, "data came from trusted sources"),
    ("sourced-data", 32, "data came from sources that are not trusted"),
    ("sourced-data", 96, "data came from sources that must not be used"),
];

/// What Trustee's default policy (`default_cpu`, v0.21) wants registered, by claim.
const REGISTER: &[(&str, &str)] = &[
    (
        "executables",
        "register this guest's measurement as a reference value: `snp_launch_measurement` (SNP), `rtmr_1` and `rtmr_2` (TDX)",
    ),
    (
        "hardware",
        "register this platform's TCB: `snp_bootloader`, `snp_microcode`, `snp_snp_svn`, `snp_tee_svn` (SNP), `mr_td` (TDX), and look at `tcb_status`",
    ),
    ("configuration", "start the guest without debugging and migration, and register `xfam` (TDX)"),
];

impl Claim {
    fn of(name: &'static str, value: i8) -> Self {
        let status = tier(value);
        let listed = MEANINGS.iter().find(|(of, number, _)| *of == name && *number == value);
        let says = match (listed, value) {
            (Some((_, _, says)), _) => says,
            (None, 0) => "nothing was said",
            (None, 1) => "the verifier got evidence that it did not expect",
            (None, -1) => "the verifier itself failed",
            (None, 99) => "the evidence's cryptography does not hold",
            (None, _) => match status {
                Status::Affirming => "good, by a number of the policy's own",
                Status::None => "nothing was said",
                Status::Warning => "doubtful, by a number of the policy's own",
                Status::Contraindicated => "bad, by a number of the policy's own",
            },
        };
        let next = match status {
            Status::Warning | Status::Contraindicated => {
                REGISTER.iter().find(|(of, _)| *of == name).map_or("", |(_, next)| next)
            }
            Status::Affirming | Status::None => "",
        };
        Self { name, value, status, says, next }
    }
}

impl TrustVector {
    /// Every claim, in the draft's order.
    pub fn words(&self) -> [Claim; 8] {
        [
            Claim::of("instance-identity", self.instance_identity),
            Claim::of("configuration", self.configuration),
            Claim::of("executables", self.executables),
            Claim::of("file-system", self.file_system),
            Claim::of("hardware", self.hardware),
            Claim::of("runtime-opaque", self.runtime_opaque),
            Claim::of("storage-opaque", self.storage_opaque),
            Claim::of("sourced-data", self.sourced_data),
        ]
    }
}

impl Status {
    /// As in the token.
    pub fn label(self) -> &'static str {
        match self {
            Self::Affirming => "affirming",
            Self::None => "none",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// Which verdict a number stands for (draft-ietf-rats-ar4si §2.3.2).
fn tier(value: i8) -> Status {
    match value {
        -1..=1 => Status::None,
        -32..=-2 | 2..=31 => Status::Affirming,
        -96..=-33 | 32..=95 => Status::Warning,
        _ => Status::Contraindicated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_the_verdicts_are_the_drafts() {
        for (value, status) in [
            (0, Status::None),
            (1, Status::None),
            (-1, Status::None),
            (2, Status::Affirming),
            (31, Status::Affirming),
            (-32, Status::Affirming),
            (32, Status::Warning),
            (95, Status::Warning),
            (-33, Status::Warning),
            (-96, Status::Warning),
            (96, Status::Contraindicated),
            (127, Status::Contraindicated),
            (-97, Status::Contraindicated),
            (-128, Status::Contraindicated),
        ] {
            assert_eq!(tier(value), status, "{value}");
        }
    }

    #[test]
    fn every_number_of_every_claim_has_words() {
        for value in i8::MIN..=i8::MAX {
            let vector =
                TrustVector { executables: value, hardware: value, sourced_data: value, ..TrustVector::default() };
            assert!(vector.words().iter().all(|claim| !claim.says.is_empty()), "{value}");
        }
    }

    #[test]
    fn what_trustees_default_policy_starts_from_says_what_to_register() {
        let vector = TrustVector { configuration: 36, executables: 33, hardware: 97, ..TrustVector::default() };
        let wanting: Vec<_> = vector.words().into_iter().filter(|claim| !claim.next.is_empty()).collect();
        assert_eq!(
            wanting.iter().map(|claim| claim.name).collect::<Vec<_>>(),
            ["configuration", "executables", "hardware"]
        );
        assert!(wanting[1].next.contains("snp_launch_measurement"));
    }
}

//! A machine that lets nobody make a sandbox, and whether this one does.

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// From now on this process, and what it becomes, is refused both layers: Landlock as by a kernel without
/// it, filters as by a container runtime that forbids them.
pub(crate) fn forbid() -> io::Result<()> {
    deny(libc::SYS_landlock_create_ruleset, libc::ENOSYS)?;
    deny(libc::SYS_seccomp, libc::EPERM)
}

fn deny(call: libc::c_long, errno: i32) -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

/// Whether this kernel has Landlock with every right that the product asks for: ABI 7.
pub(crate) fn landlock() -> Result<(), String> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let all = rules
        .handle_access(AccessFs::from_all(ABI::V7))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V7)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V7)))
        .and_then(Ruleset::create);
    all.map(drop).map_err(|_| "this kernel has no Landlock of ABI 6 or later".to_owned())
}

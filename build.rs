//! Says when the source was last changed: the earliest moment that any run of this build can be at.

use std::process::Command;

#[allow(clippy::disallowed_methods)] // Cargo speaks to build scripts through the environment.
fn main() {
    pack_relocations();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Only what ships asks git: a debug build would be made anew at every commit.
    let shipped = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if shipped {
        println!("cargo:rerun-if-changed=.git/HEAD");
        println!("cargo:rerun-if-changed=.git/logs/HEAD");
    }
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = epoch.or_else(|| shipped.then(committed).flatten());
    if let Some(seconds) = seconds.and_then(|text| text.trim().parse::<u64>().ok()) {
        println!("cargo:rustc-env=COUNTERSIGN_COMMITTED={seconds}");
    }
}

/// The static binary is moved to its address by a list of its pointers: a seventieth of the size when it
/// is packed (`DT_RELR`). glibc's start code unpacks it from 2.36 on.
#[allow(clippy::disallowed_methods)]
fn pack_relocations() {
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let gnu = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if gnu && features.split(',').any(|feature| feature == "crt-static") && glibc() >= Some((2, 36)) {
        println!("cargo:rustc-link-arg-bin=countersign=-Wl,-z,pack-relative-relocs");
    }
}

/// Version of the glibc that is linked: the build machine's own. `None` where nobody says.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

/// Committer date of HEAD, seconds since 1970. `None` in a source archive.
fn committed() -> Option<String> {
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
}

//! Says when the source was last changed: the earliest moment that any run of this build can be at.

use std::process::Command;

#[allow(clippy::disallowed_methods)] // Cargo speaks to build scripts through the environment.
fn main() {
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

/// Committer date of HEAD, seconds since 1970. `None` in a source archive.
fn committed() -> Option<String> {
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
}

//! What is refused before anything is fetched.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::{Bench, NO_SWAP, files, left_out, publish};
use crate::finding::Class;
use crate::ramdir::{Error, Needs, RamDir};

/// A false `/proc/swaps` with one active area.
fn one_swap() -> String {
    format!("{NO_SWAP}/dev/vdb                                partition\t1048572\t\t0\t\t-2\n")
}

#[test]
fn missing_directories_are_made_0750_below_proven_memory() {
    let Some(bench) = Bench::new() else { return };
    let deep = bench.target().join("a/b");
    let dir = RamDir::prove(&deep, &Needs::default(), &bench.proc).unwrap();
    for path in [deep.as_path(), &bench.target().join("a"), &bench.target()] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o750, "{path:?}");
    }
    assert!(dir.describe().to_string().starts_with("tmpfs on /"));
}

#[test]
fn refused_directory_on_disk_with_the_mount_named() {
    let Some(bench) = Bench::new() else { return };
    let on_disk = std::env::current_dir().unwrap().join("target");
    match RamDir::prove(&on_disk.join("never-made"), &Needs::default(), &bench.proc) {
        Err(error @ Error::NotMemory { .. }) => {
            assert!(error.to_string().contains("mounted at /"), "{error}");
            assert!(error.finding().next.contains("never-made"));
        }
        // A build directory in memory proves nothing here, but is no fault.
        other => left_out(&format!("{on_disk:?} is not on a disk: {}", other.is_ok())),
    }
    assert!(!on_disk.join("never-made").exists(), "nothing is made before the proof");
}

#[test]
fn refused_file_system_that_only_shares_the_number_of_tmpfs() {
    let Some(bench) = Bench::new() else { return };
    let info = fs::read_to_string(bench.proc.join("self/mountinfo")).unwrap();
    fs::write(bench.proc.join("self/mountinfo"), info.replace(" - tmpfs ", " - devtmpfs ")).unwrap();
    assert!(matches!(bench.prove(), Err(Error::NotMemory { fs, .. }) if fs.starts_with("devtmpfs")));
}

#[test]
fn refused_tmpfs_with_active_swap() {
    let Some(bench) = Bench::new() else { return };
    bench.swaps(&one_swap());
    let error = bench.prove().unwrap_err();
    assert!(matches!(error, Error::Swap { active: 1, .. }), "{error}");
    assert!(error.to_string().contains("mounted at /"));
    assert!(!bench.target().exists());
}

#[test]
fn a_tmpfs_mounted_with_noswap_is_accepted_with_active_swap() {
    let Some(bench) = Bench::new() else { return };
    bench.swaps(&one_swap());
    let info = fs::read_to_string(bench.proc.join("self/mountinfo")).unwrap();
    let info = info.replace('\n', ",noswap\n");
    fs::write(bench.proc.join("self/mountinfo"), info).unwrap();
    bench.prove().unwrap();
}

#[test]
fn refused_swaps_that_are_unreadable_or_malformed() {
    let Some(bench) = Bench::new() else { return };
    for text in ["", "garbage\n"] {
        bench.swaps(text);
        assert!(matches!(bench.prove(), Err(Error::Proc { .. })), "{text:?}");
    }
    fs::remove_file(bench.proc.join("swaps")).unwrap();
    fs::create_dir(bench.proc.join("swaps")).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Proc { .. })));
}

#[test]
fn a_kernel_without_swap_has_no_swaps_file_but_has_a_procfs() {
    let Some(bench) = Bench::new() else { return };
    fs::remove_file(bench.proc.join("swaps")).unwrap();
    bench.prove().unwrap();
    fs::remove_file(bench.proc.join("self/mountinfo")).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Proc { file, .. }) if file.ends_with("self/mountinfo")));
}

#[test]
fn refused_swaps_that_something_is_mounted_over() {
    let Some(bench) = Bench::new() else { return };
    fs::remove_file(bench.proc.join("swaps")).unwrap();
    // A file of another file system in its place; a link will do, the real one is a mount.
    symlink("/proc/swaps", bench.proc.join("swaps")).unwrap();
    match bench.prove() {
        Err(Error::Proc { problem, .. }) => assert!(problem.contains("mounted over")),
        // This machine swaps: that is believed of any file.
        Err(Error::Swap { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn refused_symlinked_parent() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.dir.join("real")).unwrap();
    symlink("real", bench.dir.join("link")).unwrap();
    let error = RamDir::prove(&bench.dir.join("link/secrets"), &Needs::default(), &bench.proc).unwrap_err();
    assert!(matches!(&error, Error::Symlink { path } if path.ends_with("/link")), "{error}");
    assert!(!bench.dir.join("real/secrets").exists());
}

#[test]
fn refused_symlinked_directory() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.dir.join("real")).unwrap();
    symlink("real", bench.target()).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Symlink { path }) if path.ends_with("/secrets")));
    fs::remove_file(bench.target()).unwrap();
    symlink("nowhere", bench.target()).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Symlink { .. })));
}

#[test]
fn refused_file_where_the_directory_should_be() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.target(), b"").unwrap();
    assert!(matches!(bench.prove(), Err(Error::NotADirectory { .. })));
}

#[test]
fn refused_non_sticky_world_writable_root() {
    for mode in [0o777, 0o2777, 0o775] {
        let Some(bench) = Bench::new() else { return };
        let bench = bench.with_target(mode);
        let error = bench.prove().unwrap_err();
        assert!(matches!(error, Error::Writable { .. }), "{mode:o}: {error}");
        assert_eq!(error.finding().class, Class::Destination);
        // Nor is a directory below it any better: it could be renamed away.
        let below = RamDir::prove(&bench.target().join("own"), &Needs::default(), &bench.proc);
        assert!(matches!(below, Err(Error::Writable { .. })));
        assert!(fs::read_dir(bench.target()).unwrap().next().is_none());
    }
}

#[test]
fn refused_directory_of_another_user() {
    let Some(bench) = Bench::new() else { return };
    let bench = bench.with_target(0o755);
    if std::os::unix::fs::chown(bench.target(), Some(4242), None).is_err() {
        left_out("giving a directory to another user needs CAP_CHOWN");
        return;
    }
    assert!(matches!(bench.prove(), Err(Error::Foreign { owner: 4242, .. })));
    // The owner of a sticky directory may rename what others put there.
    fs::set_permissions(bench.target(), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Foreign { owner: 4242, .. })));
}

#[test]
fn refused_when_there_is_no_room_for_what_is_needed() {
    let Some(bench) = Bench::new() else { return };
    let needs = Needs { files: 1, bytes: u64::MAX / 2, ..Needs::default() };
    match RamDir::prove(&bench.target(), &needs, &bench.proc) {
        Err(Error::Full { unit: "bytes", .. }) => {}
        other => assert!(other.is_ok_and(|_| rustix::fs::statvfs(&bench.dir).unwrap().f_blocks == 0), "not full"),
    }
}

#[test]
fn refused_owner_without_cap_chown() {
    let Some(bench) = Bench::new() else { return };
    let status = bench.proc.join("self/status");
    let needs = Needs { owners: &[4242], ..Needs::default() };
    fs::write(&status, "CapEff:\t0000000000000000\n").unwrap();
    let error = RamDir::prove(&bench.target(), &needs, &bench.proc).unwrap_err();
    assert!(matches!(error, Error::Chown { kind: "uid", id: 4242, .. }), "{error}");
    let needs = Needs { groups: &[4243], ..Needs::default() };
    let error = RamDir::prove(&bench.target(), &needs, &bench.proc).unwrap_err();
    assert!(matches!(error, Error::Chown { kind: "gid", id: 4243, .. }), "{error}");
    fs::write(&status, "CapEff:\t0000000000000001\n").unwrap();
    RamDir::prove(&bench.target(), &needs, &bench.proc).unwrap();
    fs::write(&status, "nothing\n").unwrap();
    assert!(matches!(RamDir::prove(&bench.target(), &needs, &bench.proc), Err(Error::Proc { .. })));
    // What is ours already is given to nobody, and asks for nothing.
    let us = rustix::process::geteuid().as_raw();
    RamDir::prove(&bench.target(), &Needs { owners: &[us], ..Needs::default() }, &bench.proc).unwrap();
}

#[test]
fn swap_that_appears_after_the_proof_stops_the_next_publication() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    publish(&dir, &files(&[("a", "1")])).unwrap();
    bench.swaps(&one_swap());
    assert!(matches!(dir.recheck(), Err(Error::Swap { .. })));
    assert!(matches!(publish(&dir, &files(&[("a", "2")])), Err(Error::Swap { .. })));
    assert_eq!(super::visible(&bench.target()), files(&[("a", "1")]));
}

#[test]
fn a_directory_that_was_exchanged_after_the_proof_is_not_written_to() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    fs::rename(bench.target(), bench.dir.join("aside")).unwrap();
    assert!(matches!(publish(&dir, &files(&[("a", "1")])), Err(Error::Moved { .. })));
    fs::create_dir(bench.target()).unwrap();
    assert!(matches!(publish(&dir, &files(&[("a", "1")])), Err(Error::Moved { .. })));
    assert!(super::names(&bench.dir.join("aside")).is_empty());
}

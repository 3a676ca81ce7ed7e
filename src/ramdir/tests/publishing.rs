//! What stands in the directory after a publication, and after a refused one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use super::{Bench, files, left_out, names, nothing_fails, publish, sets, visible};
use crate::config::RelativePath;
use crate::config::types::RECEIPT;
use crate::ramdir::{Entry, Error, FILE_MODE, RamDir};

/// What is done, and how.
type Deed<T> = (&'static str, fn(&T));

#[test]
fn a_set_is_published_in_the_kubelets_layout() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let set = files(&[("db/password", "s3cret"), ("db/user", "u"), ("tls.pem", "-----")]);
    let done = publish(&dir, &set).unwrap();
    assert_eq!((done.files, done.unchanged, done.left_behind), (3, false, false));
    assert_eq!(visible(&bench.target()), set);
    let target = |name: &str| fs::read_link(bench.target().join(name)).unwrap().into_os_string().into_string().unwrap();
    assert_eq!(target("db"), "..data/db");
    assert_eq!(target("tls.pem"), "..data/tls.pem");
    assert!(target("..data").starts_with("..set-"));
    let meta = fs::metadata(bench.target().join("db/password")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o440);
    assert_eq!(fs::metadata(bench.target().join("db")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(bench.target().join(RECEIPT)).unwrap().mode() & 0o7777, 0o440);
    assert_eq!(fs::read(bench.target().join(RECEIPT)).unwrap(), b"{}");
}

#[test]
fn an_empty_set_takes_everything_away() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    publish(&dir, &files(&[("a", "1"), ("b/c", "2")])).unwrap();
    publish(&dir, &files(&[])).unwrap();
    assert!(visible(&bench.target()).is_empty());
    assert_eq!(names(&bench.target()).len(), 3, "a set, ..data, the receipt");
}

#[test]
fn a_receipt_is_found_while_its_set_is_replaced() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    assert_eq!(dir.receipt().unwrap(), None, "no set stands");
    publish(&dir, &files(&[("a", "1")])).unwrap();
    // The set that was looked at is gone when it is opened.
    let mut left = 2;
    let mut others = || {
        if left > 0 {
            left -= 1;
            publish(&dir, &files(&[("a", &format!("after {left}"))])).unwrap();
        }
    };
    assert_eq!(dir.receipt_beside(&mut others).unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(left, 0);
    // A set without one has none, however often it is looked at.
    fs::remove_file(bench.target().join("..data").join(RECEIPT)).unwrap();
    assert_eq!(dir.receipt().unwrap(), None);
}

#[test]
fn an_identical_set_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let set = files(&[("db/password", "s3cret"), ("big", &"x".repeat(10_000))]);
    publish(&dir, &set).unwrap();
    let inode = || fs::metadata(bench.target().join("db/password")).unwrap().ino();
    let before = inode();
    assert!(publish(&dir, &set).unwrap().unchanged);
    // A restarted process proves anew and finds the same.
    assert!(publish(&bench.prove().unwrap(), &set).unwrap().unchanged);
    assert_eq!(inode(), before);
    // A link that somebody removed comes back.
    fs::remove_file(bench.target().join("big")).unwrap();
    assert!(publish(&dir, &set).unwrap().unchanged);
    assert_eq!(visible(&bench.target()), set);
}

#[test]
fn a_set_that_differs_in_content_mode_or_names_is_replaced() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let set = files(&[("a", "1"), ("d/b", "2")]);
    let spoil: [Deed<Bench>; 5] = [
        ("content", |bench| fs::write(bench.target().join("..data/a"), "0").unwrap()),
        ("length", |bench| fs::write(bench.target().join("..data/a"), "11").unwrap()),
        ("mode", |bench| {
            let path = bench.target().join("..data/a");
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("another name", |bench| fs::write(bench.target().join("..data/d/more"), "x").unwrap()),
        ("directory's mode", |bench| {
            let path = bench.target().join("..data/d");
            fs::set_permissions(path, fs::Permissions::from_mode(0o770)).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        publish(&dir, &set).unwrap();
        let file = bench.target().join("..data/a");
        // Readable and writable even to an ordinary owner; also a change of mode in itself.
        if what == "content" || what == "length" {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        }
        spoil(&bench);
        if what == "content" || what == "length" {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
        }
        assert!(!publish(&dir, &set).unwrap().unchanged, "{what}");
        assert_eq!(visible(&bench.target()), set, "{what}");
        assert!(publish(&dir, &set).unwrap().unchanged, "{what}");
    }
}

#[test]
fn a_file_is_given_to_its_configured_owner() {
    let Some(bench) = Bench::new() else { return };
    if !crate::ramdir::proc::may_chown(&bench.proc).unwrap() {
        left_out("giving files away needs CAP_CHOWN");
        return;
    }
    let dir = bench.prove().unwrap();
    let path = RelativePath::parse("a").unwrap();
    let entry = Entry { path: &path, bytes: b"1", mode: 0o400, owner: Some(4242), group: Some(4243) };
    assert!(!dir.publish(&[entry], b"{}", &nothing_fails()).unwrap().unchanged);
    let meta = fs::metadata(bench.target().join("a")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4242, 4243, 0o400));
    assert_eq!(dir.publish(&[], b"{}", &nothing_fails()).unwrap().files, 0);
    // The same for one file; in a directory that others write to it could not be renamed.
    dir.publish_one(&entry, &nothing_fails()).unwrap();
    assert_eq!(fs::metadata(bench.target().join("a")).unwrap().uid(), 4242);
    fs::set_permissions(bench.target(), fs::Permissions::from_mode(0o1777)).unwrap();
    let shared = bench.prove().unwrap();
    assert!(matches!(shared.publish_one(&entry, &nothing_fails()), Err(Error::Entry { .. })));
}

#[test]
fn republishing_removes_obsolete_names_and_old_sets() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    publish(&dir, &files(&[("a", "1"), ("old/x", "2")])).unwrap();
    fs::write(bench.target().join("not-ours.txt"), "kept").unwrap();
    publish(&dir, &files(&[("a", "3"), ("new", "4")])).unwrap();
    let found = names(&bench.target());
    assert!(!found.contains(&"old".to_owned()) && found.contains(&"not-ours.txt".to_owned()), "{found:?}");
    assert_eq!(sets(&bench.target()), 1);
}

#[test]
fn a_path_may_become_a_directory_and_a_file_again() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    for set in [files(&[("db", "1")]), files(&[("db/password", "2"), ("db/x/y", "3")]), files(&[("db", "4")])] {
        publish(&dir, &set).unwrap();
        assert_eq!(visible(&bench.target()), set);
    }
}

#[test]
fn refused_set_whose_file_is_also_a_directory() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let error = publish(&dir, &files(&[("db", "1"), ("db/password", "2")])).unwrap_err();
    assert!(matches!(&error, Error::Conflict { first, second } if first == "db" && second == "db/password"));
    // `.countersign-receipt.json/x` would take the receipt's place.
    let below = format!("{RECEIPT}/x");
    assert!(matches!(publish(&dir, &files(&[(&below, "1")])), Err(Error::Conflict { .. })));
    let path = RelativePath::parse("a").unwrap();
    let entry = Entry { path: &path, bytes: b"", mode: FILE_MODE, owner: None, group: None };
    assert!(matches!(dir.publish(&[entry, entry], b"", &nothing_fails()), Err(Error::Conflict { .. })));
    assert!(names(&bench.target()).is_empty());
}

#[test]
fn refused_mode_that_lets_others_write_or_is_more_than_permissions() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let path = RelativePath::parse("a").unwrap();
    for (mode, owner) in [(0o442, None), (0o4755, None), (0o10_644, None), (0o440, Some(u32::MAX))] {
        let entry = Entry { path: &path, bytes: b"1", mode, owner, group: None };
        assert!(matches!(dir.publish(&[entry], b"", &nothing_fails()), Err(Error::Entry { .. })), "{mode:o}");
    }
}

#[test]
fn refused_foreign_file_in_the_way_and_the_old_set_stays() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let old = files(&[("a", "1")]);
    publish(&dir, &old).unwrap();
    let way = bench.target().join("b");
    let kinds: [Deed<Path>; 3] = [
        ("a file", |way| fs::write(way, "x").unwrap()),
        ("a directory", |way| fs::create_dir(way).unwrap()),
        ("a symbolic link", |way| symlink("/etc/passwd", way).unwrap()),
    ];
    for (what, put) in kinds {
        put(&way);
        let error = publish(&dir, &files(&[("a", "2"), ("b", "3")])).unwrap_err();
        assert!(matches!(&error, Error::Occupied { path, .. } if path.ends_with("/b")), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(fs::read(bench.target().join("a")).unwrap(), b"1");
        assert_eq!(sets(&bench.target()), 1);
        assert!(fs::symlink_metadata(&way).is_ok(), "what is not ours is not removed");
        if what == "a directory" { fs::remove_dir(&way).unwrap() } else { fs::remove_file(&way).unwrap() }
    }
}

#[test]
fn refused_data_link_that_leads_out_of_the_directory() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    for target in ["/etc", "../proc", "..set-short", "..set-0123456789abcdef0123456789abcdef/.."] {
        symlink(target, bench.target().join("..data")).unwrap();
        assert!(matches!(publish(&dir, &files(&[("a", "1")])), Err(Error::Occupied { .. })), "{target}");
        fs::remove_file(bench.target().join("..data")).unwrap();
    }
}

#[test]
fn in_a_shared_root_sets_lie_in_a_private_directory() {
    let Some(bench) = Bench::new() else { return };
    let bench = bench.with_target(0o1777);
    let dir = bench.prove().unwrap();
    let set = files(&[("db/password", "s3cret"), ("x", "1")]);
    publish(&dir, &set).unwrap();
    assert_eq!(visible(&bench.target()), set);
    assert_eq!(names(&bench.target()), ["..countersign", RECEIPT, "db", "x"]);
    let private = fs::metadata(bench.target().join("..countersign")).unwrap();
    assert_eq!(private.mode() & 0o777, 0o750);
    publish(&dir, &files(&[("x", "2")])).unwrap();
    assert_eq!(names(&bench.target()), ["..countersign", RECEIPT, "x"]);
    assert_eq!(sets(&bench.target().join("..countersign")), 1);
}

#[test]
fn refused_private_directory_that_others_may_write_to() {
    let Some(bench) = Bench::new() else { return };
    let bench = bench.with_target(0o1777);
    let private = bench.target().join("..countersign");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Occupied { .. })));
    fs::remove_dir(&private).unwrap();
    symlink("/tmp", &private).unwrap();
    assert!(matches!(bench.prove(), Err(Error::Symlink { .. })));
}

#[test]
fn refused_while_another_publisher_holds_the_lock() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let held = fs::File::open(bench.target()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(publish(&dir, &files(&[("a", "1")])), Err(Error::Locked { .. })));
    drop(held);
    publish(&dir, &files(&[("a", "1")])).unwrap();
}

fn one<'a>(path: &'a RelativePath, bytes: &'a [u8]) -> Entry<'a> {
    Entry { path, bytes, mode: FILE_MODE, owner: None, group: None }
}

fn publish_one(dir: &RamDir, name: &str, bytes: &[u8]) -> Result<bool, Error> {
    let path = RelativePath::parse(name).unwrap();
    dir.publish_one(&one(&path, bytes), &nothing_fails()).map(|done| done.unchanged)
}

#[test]
fn one_file_is_replaced_in_one_step() {
    for mode in [0o750, 0o1777] {
        let Some(bench) = Bench::new() else { return };
        let bench = bench.with_target(mode);
        let dir = bench.prove().unwrap();
        assert!(!publish_one(&dir, "password", b"1").unwrap());
        assert!(publish_one(&dir, "password", b"1").unwrap(), "the same again");
        assert!(!publish_one(&dir, "password", b"2").unwrap());
        assert_eq!(fs::read(bench.target().join("password")).unwrap(), b"2");
        assert_eq!(fs::metadata(bench.target().join("password")).unwrap().mode() & 0o7777, 0o440);
        let left = names(&bench.target());
        assert!(left.iter().all(|name| !name.starts_with("..file-")), "{left:?}");
    }
}

#[test]
fn refused_to_replace_one_file_by_what_is_not_a_plain_file_of_ours() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    fs::create_dir(bench.target().join("directory")).unwrap();
    symlink("/etc/passwd", bench.target().join("link")).unwrap();
    for name in ["directory", "link"] {
        assert!(matches!(publish_one(&dir, name, b"1"), Err(Error::Occupied { .. })), "{name}");
    }
    assert!(matches!(publish_one(&dir, "a/b", b"1"), Err(Error::Entry { .. })));
    assert_eq!(names(&bench.target()), ["directory", "link"]);
}

#[test]
fn one_file_killed_at_any_step_is_old_or_new_and_the_next_sweeps() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    publish_one(&dir, "password", b"old").unwrap();
    let path = RelativePath::parse("password").unwrap();
    let mut reached = 0;
    for point in crate::ramdir::FAIL_POINTS {
        let fail: crate::ports::FailPoint = Arc::new(move |step| super::crash::die_at(point, step));
        let died = super::crash::dies(|| dir.publish_one(&one(&path, b"new"), &fail).unwrap());
        reached += usize::from(died);
        let text = fs::read(bench.target().join("password")).unwrap();
        assert!(text == b"old" || text == b"new", "{point}");
        publish_one(&dir, "password", b"old").unwrap();
        assert_eq!(names(&bench.target()), ["password"], "{point}");
    }
    assert!(reached >= 7, "only {reached} steps were reached");
}

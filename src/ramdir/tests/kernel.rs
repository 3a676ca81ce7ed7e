//! The same with real mounts, in a mount namespace of their own.
//!
//! Each test here runs `unshare`, mounts what it needs and then runs this test binary again for
//! the ignored test that bears its name. Machines that cannot do that say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Bench, NO_SWAP, files, left_out, names, publish, publish_with, sets, visible};
use crate::ports::FailPoint;
use crate::ramdir::{Error, Needs, RamDir};

/// Where the inner test finds its directory.
const PLACE: &str = "COUNTERSIGN_TEST_PLACE";

/// What every script begins with: nothing mounted here is seen outside, and a false procfs is
/// written that tells the truth about mounts, and that no swap is active.
const BEGIN: &str = r#"set -e
mount --make-rprivate / 2>/dev/null || true
finish() {
    mkdir -p "$PLACE.proc/self"
    cp /proc/self/mountinfo "$PLACE.proc/self/mountinfo"
    printf 'CapEff:\t0000000000000000\n' > "$PLACE.proc/self/status"
    printf 'Filename\tType\tSize\tUsed\tPriority\n' > "$PLACE.proc/swaps"
}
"#;

/// Runs the inner test after the script. `user` is what it runs as: `setpriv` and its options.
fn in_namespace(test: &str, script: &str, user: &str) {
    let root = rustix::process::geteuid().is_root();
    if !user.is_empty() && !root {
        left_out("only root can become another user");
        return;
    }
    let Some(bench) = Bench::new() else { return };
    let place = bench.dir.join("place");
    fs::create_dir(&place).unwrap();
    // The binary may lie where another user cannot reach it.
    let exe = bench.dir.join("exe");
    fs::write(&exe, b"").unwrap();
    let script = format!(
        "{BEGIN}{script}\nmount --bind \"$EXE\" \"$COPY\"\nfinish\nexec {user} \"$COPY\" --exact {test} --ignored --nocapture"
    );
    let unshare: &[&str] = if root { &["--mount"] } else { &["--mount", "--map-root-user"] };
    let able = Command::new("unshare").args(unshare).args(["mount", "-t", "tmpfs", "none"]).arg(&place).output();
    if !able.is_ok_and(|out| out.status.success()) {
        left_out("this user may not mount in a namespace of its own");
        return;
    }
    let out = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", &script])
        .env("PLACE", &place)
        .env(PLACE, &place)
        .env("EXE", std::env::current_exe().unwrap())
        .env("COPY", &exe)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if said.contains("SKIP") {
        left_out(said.trim());
        return;
    }
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

/// `None` where an inner test is run by hand: it then has nothing to do.
fn place_given() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods)] // Set by `in_namespace` alone.
    std::env::var_os(PLACE).map(PathBuf::from)
}

fn place() -> PathBuf {
    place_given().expect("run by the outer test")
}

fn proc() -> PathBuf {
    let mut proc = place().into_os_string();
    proc.push(".proc");
    proc.into()
}

fn prove(path: &Path) -> Result<RamDir, Error> {
    RamDir::prove(path, &Needs::default(), &proc())
}

/// Declares the outer test, and the inner one that it runs.
macro_rules! in_namespace {
    ($name:ident, $inner:ident, $script:expr, $user:expr, $body:block) => {
        #[test]
        fn $name() {
            in_namespace(concat!("ramdir::tests::kernel::", stringify!($inner)), $script, $user);
        }

        #[test]
        #[ignore = "run by the test of the same name, in a namespace"]
        fn $inner() {
            if place_given().is_some() {
                $body
            }
        }
    };
}

in_namespace!(refused_overlay, inner_refused_overlay, OVERLAY, "", {
    let error = prove(&place().join("merged/secrets")).unwrap_err();
    assert!(
        matches!(&error, Error::NotMemory { fs, mount, .. } if fs == "overlay" && mount.ends_with("/merged")),
        "{error}"
    );
    assert!(!place().join("merged/secrets").exists());
});

const OVERLAY: &str = r#"mount -t tmpfs -o mode=755 none "$PLACE"
mkdir "$PLACE/low" "$PLACE/up" "$PLACE/work" "$PLACE/merged"
mount -t overlay -o "lowerdir=$PLACE/low,upperdir=$PLACE/up,workdir=$PLACE/work" none "$PLACE/merged" || { echo SKIP: no overlay; exit 0; }"#;

in_namespace!(refused_read_only, inner_refused_read_only, r#"mount -t tmpfs -o ro,mode=755 none "$PLACE""#, "", {
    let error = prove(&place()).unwrap_err();
    assert!(matches!(&error, Error::ReadOnly { mount } if Path::new(mount) == place()), "{error}");
});

const SMALL: &str = r#"mount -t tmpfs -o size=64k,nr_inodes=40,mode=755 none "$PLACE""#;

in_namespace!(refused_full, inner_refused_full, SMALL, "", {
    let needs = |files, bytes| Needs { files, bytes, ..Needs::default() };
    let full = RamDir::prove(&place(), &needs(1, 65_000), &proc());
    assert!(matches!(full, Err(Error::Full { unit: "bytes", .. })));
    let full = RamDir::prove(&place(), &needs(41, 0), &proc());
    assert!(matches!(full, Err(Error::Full { .. })));
    let dir = RamDir::prove(&place(), &needs(2, 4096), &proc()).unwrap();
    let old = files(&[("a", &"x".repeat(20_000))]);
    publish(&dir, &old).unwrap();
    let error = publish(&dir, &files(&[("a", &"y".repeat(50_000))])).unwrap_err();
    assert!(matches!(&error, Error::Full { mount, .. } if Path::new(mount) == place()), "{error}");
    assert_eq!(visible(&place()), old);
});

in_namespace!(a_file_system_that_fills_up_meanwhile_keeps_the_old_set, inner_fills_up_meanwhile, SMALL, "", {
    let dir = prove(&place()).unwrap();
    let old = files(&[("a", "old"), ("b", "old")]);
    publish(&dir, &old).unwrap();
    let before = names(&place());
    let filler: FailPoint = Arc::new(|step| {
        if step == "publish:set-made" {
            // Writes until nothing more fits.
            let _ = fs::write(place().join("filler"), vec![0; 128 * 1024]);
        }
    });
    let error = publish_with(&dir, &files(&[("a", "new"), ("fresh", "new")]), &filler).unwrap_err();
    assert!(error.finding().next.contains("sizeLimit"), "{}", error.finding());
    assert_eq!(error.finding().class.code(), 73);
    fs::remove_file(place().join("filler")).unwrap();
    assert_eq!((names(&place()), visible(&place())), (before, old));
});

in_namespace!(
    ramfs_is_accepted_whatever_is_swapped,
    inner_ramfs,
    r#"mount -t ramfs -o mode=755 none "$PLACE" || { echo SKIP: no ramfs; exit 0; }"#,
    "",
    {
        fs::write(proc().join("swaps"), format!("{NO_SWAP}/dev/vdb partition 1 0 -2\n")).unwrap();
        let dir = RamDir::prove(&place().join("s"), &Needs { files: 9, bytes: 1 << 40, ..Needs::default() }, &proc());
        let dir = dir.unwrap();
        assert!(dir.describe().to_string().starts_with("ramfs on "));
        publish(&dir, &files(&[("a", "1")])).unwrap();
    }
);

in_namespace!(
    a_directory_that_is_mounted_over_after_the_proof_is_refused,
    inner_mounted_over,
    r#"mount -t tmpfs -o mode=755 none "$PLACE""#,
    "",
    {
        let dir = prove(&place().join("s")).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place().join("s")).status().unwrap();
        assert!(done.success());
        fs::copy("/proc/self/mountinfo", proc().join("self/mountinfo")).unwrap();
        assert!(matches!(publish(&dir, &files(&[("a", "1")])), Err(Error::Moved { .. })));
    }
);

/// As in a pod with `runAsUser: 65532` and every capability dropped.
const USER: &str = "setpriv --reuid=65532 --regid=65532 --clear-groups";

/// The same with `fsGroup: 2000`.
const USER_FS_GROUP: &str = "setpriv --reuid=65532 --regid=65532 --groups=2000";

in_namespace!(
    uid_65532_publishes_in_a_1777_root_and_below_it,
    inner_1777,
    r#"mount -t tmpfs -o mode=1777 none "$PLACE""#,
    USER,
    { works_in_a_shared_root(65532) }
);

in_namespace!(
    uid_65532_publishes_in_a_3777_root_with_its_fs_group,
    inner_3777,
    r#"mount -t tmpfs -o mode=3777,gid=2000 none "$PLACE""#,
    USER_FS_GROUP,
    { works_in_a_shared_root(2000) }
);

fn works_in_a_shared_root(group: u32) {
    use std::os::unix::fs::MetadataExt;
    let set = files(&[("db/password", "s3cret"), ("x", "1")]);
    for path in [place(), place().join("below/secrets")] {
        let dir = prove(&path).unwrap();
        publish(&dir, &set).unwrap();
        assert_eq!(visible(&path), set);
        assert!(publish(&prove(&path).unwrap(), &set).unwrap().unchanged);
        let meta = fs::metadata(path.join("db/password")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (65532, group, 0o440));
        let meta = fs::metadata(path.join("db")).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o777), (group, 0o750));
    }
    assert_eq!(sets(&place().join("..countersign")), 1);
}

in_namespace!(
    refused_roots_file_in_the_way_of_uid_65532,
    inner_roots_file,
    r#"mount -t tmpfs -o mode=1777 none "$PLACE"; ln -s ..countersign/..data/x "$PLACE/x"; echo 1 > "$PLACE/y""#,
    USER,
    {
        let dir = prove(&place()).unwrap();
        let one = |name| {
            let path = crate::config::RelativePath::parse(name).unwrap();
            let entry = crate::ramdir::Entry { path: &path, bytes: b"", mode: 0o440, owner: None, group: None };
            dir.publish_one(&entry, &super::nothing_fails())
        };
        let error = one("y").unwrap_err();
        assert!(error.to_string().contains("a file of another user"), "{error}");
        assert_eq!(names(&place()), ["x", "y"], "one file needs no directory of ours, refused or not");
        one("z").unwrap();
        assert_eq!(names(&place()), ["x", "y", "z"]);
        for (name, what) in [("x", "of another user"), ("y", "a file")] {
            let error = publish(&dir, &files(&[(name, "1")])).unwrap_err();
            assert!(matches!(error, Error::Occupied { .. }) && error.to_string().contains(what), "{error}");
        }
        assert_eq!(names(&place()), ["..countersign", "x", "y", "z"]);
    }
);

in_namespace!(
    refused_private_directory_of_another_user,
    inner_private_foreign,
    r#"mount -t tmpfs -o mode=1777 none "$PLACE"; mkdir -m 750 "$PLACE/..countersign""#,
    USER,
    {
        let error = prove(&place()).unwrap_err();
        assert_eq!(error.finding().class.code(), 73, "{error}");
    }
);

in_namespace!(
    refused_directory_of_root_for_uid_65532,
    inner_roots_directory,
    r#"mount -t tmpfs -o mode=755 none "$PLACE""#,
    USER,
    {
        assert!(matches!(prove(&place()), Err(Error::Foreign { owner: 0, us: 65532, .. })));
        let error = prove(&place().join("secrets")).unwrap_err();
        assert!(error.finding().next.contains("fsGroup"), "{error}");
    }
);

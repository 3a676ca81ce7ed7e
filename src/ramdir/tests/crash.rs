//! Dying at every step, reading during every step.
//!
//! A panic from the fail point stands in for `kill -9`: publishing cleans up after errors only,
//! never in a destructor, so what is on disk after a panic is what a kill leaves.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, open, openat};

use super::{Bench, Files, files, names, nothing_fails, publish, publish_with, sets, visible};
use crate::ports::FailPoint;
use crate::ramdir::{Error, FAIL_POINTS};

/// Unwinds if this is the step to die at, without the panic hook's noise.
pub(super) fn die_at(point: &str, step: &str) {
    if point == step {
        resume_unwind(Box::new("killed"));
    }
}

/// Whether the action dies.
pub(super) fn dies<T>(action: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(action)).is_err()
}

/// A fail point that dies the n-th time that any step is reached, counted from 0.
fn dies_at_call(n: usize) -> FailPoint {
    let calls = AtomicUsize::new(0);
    Arc::new(move |step| {
        assert!(FAIL_POINTS.contains(&step), "{step} is not listed");
        if calls.fetch_add(1, Ordering::Relaxed) == n {
            resume_unwind(Box::new("killed"));
        }
    })
}

#[test]
fn fail_points_are_reached_in_the_listed_order() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record: FailPoint = {
        let seen = Arc::clone(&seen);
        Arc::new(move |step| seen.lock().unwrap().push(step))
    };
    publish_with(&dir, &files(&[]), &record).unwrap();
    assert_eq!(*seen.lock().unwrap(), FAIL_POINTS, "with the receipt as the only file");
}

#[test]
fn killed_at_any_step_readers_see_the_old_set_or_the_new() {
    let old = files(&[("a", "old"), ("d/gone", "old"), ("swap", "old")]);
    let new = files(&[("a", "new"), ("d/x/y", "new"), ("fresh", "new"), ("swap/now-a-directory", "new")]);
    for mode in [0o750, 0o1777] {
        for call in 0.. {
            let Some(bench) = Bench::new() else { return };
            let bench = bench.with_target(mode);
            publish(&bench.prove().unwrap(), &old).unwrap();
            let died = dies(|| publish_with(&bench.prove().unwrap(), &new, &dies_at_call(call)).unwrap());
            let now = visible(&bench.target());
            assert!(now == old || now == new, "killed at call {call}: {now:?}");
            // The process that comes next repairs whatever was left, whichever set it brings.
            for set in [&old, &new] {
                assert!(!publish(&bench.prove().unwrap(), set).unwrap().left_behind);
                assert_eq!(&visible(&bench.target()), set, "after being killed at call {call}");
            }
            let data = if mode == 0o750 { bench.target() } else { bench.target().join("..countersign") };
            assert_eq!(sets(&data), 1);
            assert_eq!(names(&bench.target()).len(), new_names(mode), "{:?}", names(&bench.target()));
            if !died {
                assert!(call > FAIL_POINTS.len(), "every step was tried");
                break;
            }
        }
    }
}

/// `a d fresh swap` and the receipt; beside them `..data` and a set, or our private directory.
fn new_names(mode: u32) -> usize {
    if mode == 0o750 { 7 } else { 6 }
}

#[test]
fn killed_at_any_step_of_the_first_publication_readers_see_nothing_or_all() {
    let new = files(&[("a", "new"), ("d/x", "new")]);
    for call in 0.. {
        let Some(bench) = Bench::new() else { return };
        let died = dies(|| publish_with(&bench.prove().unwrap(), &new, &dies_at_call(call)).unwrap());
        let now = visible(&bench.target());
        assert!(now.is_empty() || now == new, "killed at call {call}: {now:?}");
        if !died {
            break;
        }
    }
}

#[test]
fn refused_step_leaves_the_old_set_in_place_and_nothing_of_the_new() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let old = files(&[("a", "old"), ("b", "old")]);
    publish(&dir, &old).unwrap();
    let before = names(&bench.target());
    // Something gets in the way after all checks: of the link, of the swap, and of a file.
    let target = bench.target();
    let ways: [(&str, &str); 2] = [("publish:set-written", "fresh"), ("publish:links-made", "..data_tmp")];
    for (step, name) in ways {
        let way = target.join(name);
        let put = way.clone();
        let fail: FailPoint = Arc::new(move |now| {
            if now == step {
                fs::write(&put, "in the way").unwrap();
            }
        });
        let error = publish_with(&dir, &files(&[("a", "new"), ("fresh", "new")]), &fail).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. } | Error::Io { .. }), "{error}");
        assert_eq!(error.finding().class.code(), 73);
        let _ = fs::remove_file(&way);
        assert_eq!(names(&target), before, "{step}");
        assert_eq!(visible(&target), old, "{step}");
    }
}

#[test]
fn a_reader_never_sees_a_mixture() {
    const ROUNDS: usize = 200;
    let Some(bench) = Bench::new() else { return };
    let dir = bench.prove().unwrap();
    let set = |n: usize| files(&[("one", &format!("{n}")), ("sub/two", &format!("{n}"))]);
    publish(&dir, &set(0)).unwrap();
    let done = AtomicBool::new(false);
    let target = bench.target();
    std::thread::scope(|scope| {
        let through_data = scope.spawn(|| {
            let mut pairs = 0_usize;
            while !done.load(Ordering::Acquire) {
                if let Some((one, two)) = pair_through_data(&target) {
                    assert_eq!(one, two, "a mixture of two sets");
                    pairs += 1;
                }
            }
            pairs
        });
        let by_path = scope.spawn(|| {
            let mut pairs = 0_usize;
            while !done.load(Ordering::Acquire) {
                if let Some((one, two)) = pair_by_path(&target) {
                    assert_eq!(one, two, "a mixture of two sets");
                    pairs += 1;
                }
            }
            pairs
        });
        for n in 1..=ROUNDS {
            publish(&dir, &set(n)).unwrap();
            // On a machine with one core the readers must get their turn.
            std::thread::yield_now();
        }
        done.store(true, Ordering::Release);
        let seen = (through_data.join().unwrap(), by_path.join().unwrap());
        println!("pairs read: through ..data {}, by path {}", seen.0, seen.1);
    });
    assert_eq!(visible(&target), set(ROUNDS));
    // Without a publisher both ways always give a pair.
    assert!(pair_through_data(&target).is_some() && pair_by_path(&target).is_some());
}

/// The way that `docs/publishing.md` recommends: open `..data` once, read everything through it.
/// `None` where that set was removed meanwhile, be it between following the link and opening what
/// it names: open `..data` again.
fn pair_through_data(dir: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    use std::io::Read;
    let data = open(dir.join("..data"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let read = |name: &str| {
        let mut text = Vec::new();
        let file = openat(&data, name, OFlags::RDONLY, Mode::empty()).ok()?;
        fs::File::from(file).read_to_end(&mut text).unwrap();
        Some(text)
    };
    Some((read("one")?, read("sub/two")?))
}

/// By plain paths: good only if `..data` pointed to one set from before the first to after the
/// last read. `None` otherwise: try again.
fn pair_by_path(dir: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let before = fs::read_link(dir.join("..data")).unwrap();
    let pair = (fs::read(dir.join("one")).ok()?, fs::read(dir.join("sub/two")).ok()?);
    let after = fs::read_link(dir.join("..data")).unwrap();
    (before == after).then_some(pair)
}

/// A few paths, some of which cannot stand beside each other.
fn any_set() -> impl Strategy<Value = Files> {
    let path = prop::sample::select(vec!["a", "b", "b/c", "b/d", "e/f/g", "e/f", "x.pem", "z-1/k"]);
    prop::collection::btree_map(path.prop_map(str::to_owned), prop::collection::vec(any::<u8>(), 0..6000), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was published, refused or killed before: the last set that succeeded is what is
    /// visible, exactly, and a kill shows the one before or the one that was coming.
    #[test]
    fn the_last_published_set_is_exactly_what_is_visible(
        steps in prop::collection::vec((any_set(), prop::option::of(0_usize..40)), 1..7),
        shared in any::<bool>(),
    ) {
        let Some(bench) = Bench::new() else { return Ok(()) };
        let bench = bench.with_target(if shared { 0o1777 } else { 0o750 });
        let dir = bench.prove().unwrap();
        let mut last = Files::new();
        for (set, kill) in steps {
            let fail = kill.map_or_else(nothing_fails, dies_at_call);
            match catch_unwind(AssertUnwindSafe(|| publish_with(&dir, &set, &fail))) {
                Ok(Ok(_)) => last = set,
                Ok(Err(error)) => prop_assert!(matches!(error, Error::Conflict { .. }), "{error}"),
                Err(_) => {
                    let now = visible(&bench.target());
                    prop_assert!(now == last || now == set);
                    last = now;
                }
            }
            prop_assert_eq!(&visible(&bench.target()), &last);
        }
        publish(&dir, &last).unwrap();
        let tops: BTreeSet<&str> = last.keys().filter_map(|path| path.split('/').next()).collect();
        let extra = if shared { 2 } else { 3 };
        prop_assert_eq!(names(&bench.target()).len(), tops.len() + extra, "nothing obsolete is left");
    }
}

//! kill -9 at every step of publishing: readers see the old set or the new one, never a mixture,
//! and the next run recovers. Driven through `countersign-sim`, whose fail points kill it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use countersign::ramdir::FAIL_POINTS;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::world::{Cmd, Run, World};

const OLD: &str = "a/one=kbs:///s/old/one,two=kbs:///s/old/two,gone=kbs:///s/old/gone";
const NEW: &str = "a/one=kbs:///s/new/one,two=kbs:///s/new/two,b/three=kbs:///s/new/three";

/// What the set holds, as a reader of plain paths sees it: path and content.
type Seen = Vec<(String, String)>;

fn world() -> World {
    let mut guest = GuestApi::healthy();
    for (set, names) in [("old", ["one", "two", "gone"]), ("new", ["one", "two", "three"])] {
        for name in names {
            guest = guest.secret(&format!("s/{set}/{name}"), format!("{set} {name}"));
        }
    }
    World::new().unwrap().guest(guest.otherwise(Answer::Refused))
}

fn init<'w>(command: Cmd<'w>, directory: &Path, secrets: &str) -> Cmd<'w> {
    command.env("COUNTERSIGN_SECRETS", secrets).env("COUNTERSIGN_SECRETS_DIRECTORY", directory)
}

fn killed_at(world: &World, point: &str, directory: &Path, secrets: &str) -> Run {
    init(world.sim(&["--sim-fail-at", point, "init"]), directory, secrets).run()
}

fn seen(world: &World, directory: &Path) -> Seen {
    ["a/one", "two", "gone", "b/three"]
        .iter()
        .filter_map(|path| {
            let bytes = world.read(directory.join(path)).ok()?;
            Some(((*path).to_owned(), String::from_utf8(bytes).unwrap()))
        })
        .collect()
}

fn expected(set: &str) -> Seen {
    let pairs: &[(&str, &str)] = match set {
        "old" => &[("a/one", "old one"), ("two", "old two"), ("gone", "old gone")],
        "new" => &[("a/one", "new one"), ("two", "new two"), ("b/three", "new three")],
        _ => &[],
    };
    pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
}

fn stale_sets(world: &World, directory: &Path) -> usize {
    world.list(directory).unwrap().iter().filter(|name| name.starts_with("..set-")).count()
}

fn directory_of(world: &World) -> PathBuf {
    world.ramdir().unwrap().join("secrets")
}

fn killed_at_every_step_of_a_second_publication() {
    for point in FAIL_POINTS {
        let world = world();
        let directory = directory_of(&world);
        init(world.sim(&["init"]), &directory, OLD).run().expect_code(0);
        let run = killed_at(&world, point, &directory, NEW);
        let now = seen(&world, &directory);
        // Some steps belong to `get` or are not met by a set like this one: then it went well.
        if run.signal.is_none() {
            assert_eq!(run.code, Some(0), "{point}: {}", run.output());
            assert_eq!(now, expected("new"), "{point}");
            continue;
        }
        assert_eq!(run.signal, Some(9), "{point}: {}", run.output());
        assert!(now == expected("old") || now == expected("new"), "{point}: a mixture: {now:?}");
        init(world.sim(&["init"]), &directory, NEW).run().expect_code(0);
        assert_eq!(seen(&world, &directory), expected("new"), "{point}: the next run recovers");
        assert_eq!(stale_sets(&world, &directory), 1, "{point}: and sweeps");
    }
}

fn killed_at_every_step_of_the_first_publication() {
    let mut killed = 0;
    for point in FAIL_POINTS {
        let world = world();
        let directory = directory_of(&world);
        let run = killed_at(&world, point, &directory, NEW);
        let now = seen(&world, &directory);
        if run.signal == Some(9) {
            killed += 1;
            assert!(now.is_empty() || now == expected("new"), "{point}: a mixture: {now:?}");
        }
        init(world.sim(&["init"]), &directory, NEW).run().expect_code(0);
        assert_eq!(seen(&world, &directory), expected("new"), "{point}: the next run recovers");
    }
    assert!(killed >= 5, "the fail points are met: {killed}");
}

fn killed_at_every_step_of_get() {
    let mut killed = 0;
    for point in FAIL_POINTS {
        let world = world();
        let to = directory_of(&world).join("deep/one");
        let to_text = to.to_str().unwrap();
        world.sim(&["get", "kbs:///s/old/one", "--to", to_text]).run().expect_code(0);
        let run = world.sim(&["--sim-fail-at", point, "get", "kbs:///s/new/one", "--to", to_text]).run();
        let now = String::from_utf8(world.read(&to).unwrap()).unwrap();
        assert!(now == "old one" || now == "new one", "{point}: {now}");
        killed += usize::from(run.signal == Some(9));
        world.sim(&["get", "kbs:///s/new/one", "--to", to_text]).run().expect_code(0);
        assert_eq!(world.read(&to).unwrap(), b"new one", "{point}");
    }
    assert!(killed >= 2, "the fail points are met: {killed}");
}

countersign_testbed::main! {
    killed_at_every_step_of_a_second_publication [GuestPort, Memory],
    killed_at_every_step_of_the_first_publication [GuestPort, Memory],
    killed_at_every_step_of_get [GuestPort, Memory],
}

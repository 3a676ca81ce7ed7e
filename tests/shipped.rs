//! What must hold for the binary that is shipped, whatever it is asked to do.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use countersign_testbed::World;
use countersign_testbed::sim::MARKER;

countersign_testbed::main! {
    the_shipped_binaries_do_not_carry_the_simulators_mark,
    every_hint_starts_with_a_verb,
    it_starts_as_whoever_tests_it [GuestPort],
    it_starts_as_another_user_without_capabilities [Users],
}

fn the_shipped_binaries_do_not_carry_the_simulators_mark() {
    for binary in [env!("CARGO_BIN_EXE_countersign"), env!("CARGO_BIN_EXE_kubectl-countersign")] {
        assert!(!carries_the_mark(Path::new(binary)), "{binary} is a simulator");
    }
    // The search finds what it looks for: this test binary is able to play the simulator.
    assert!(carries_the_mark(&std::env::current_exe().unwrap()));
}

fn it_starts_as_whoever_tests_it() {
    World::new().unwrap().countersign(&["--version"]).run().expect_code(0);
}

fn it_starts_as_another_user_without_capabilities() {
    // Wherever cargo built it: a world shows it at a place that every user can reach.
    World::private().unwrap().countersign(&["--version"]).uid(65532).run().expect_code(0);
}

fn carries_the_mark(binary: &Path) -> bool {
    let bytes = std::fs::read(binary).unwrap();
    bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes())
}

fn every_hint_starts_with_a_verb() {
    for row in countersign::finding::TABLE {
        assert!(countersign_testbed::expect::starts_with_a_verb(row.hint), "{}: {}", row.label, row.hint);
    }
}

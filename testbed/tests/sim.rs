//! `countersign-sim` says what it is.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use countersign_testbed::World;
use countersign_testbed::sim::{BANNER, MARKER};

countersign_testbed::main! {
    the_program_for_people_carries_the_mark,
    every_run_says_that_it_is_simulated [GuestPort],
    an_unknown_flag_is_refused [GuestPort],
}

fn the_program_for_people_carries_the_mark() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_countersign-sim")).unwrap();
    assert!(bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()));
}

fn every_run_says_that_it_is_simulated() {
    let run = World::new().unwrap().sim(&["--sim-clock-offset", "-5", "--help"]).run();
    assert!(run.stderr.contains(BANNER) && run.stderr.contains(MARKER), "{}", run.output());
}

fn an_unknown_flag_is_refused() {
    for args in
        [&["--sim-nonsense"][..], &["--sim-guest-api", "nowhere"], &["--sim-fail-at"], &["--sim-fail-at", "x=y"]]
    {
        let run = World::new().unwrap().sim(args).run();
        assert_eq!(run.code, Some(64), "{}", run.output());
        assert!(run.stderr.contains("--sim-guest-api ADDR"), "{}", run.output());
    }
}

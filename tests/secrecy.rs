//! A canary secret is looked for wherever it must not be.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::world::World;

const CANARY: &str = "CANARY-7f3a91c2-do-not-print";

/// Every answer in which a careless program would print the canary.
fn answers() -> Vec<Answer> {
    vec![
        Answer::Bytes(CANARY.into()),
        Answer::Truncated(CANARY.into()),
        Answer::ResetMidBody(CANARY.into()),
        Answer::Status("500 Internal Server Error".to_owned(), CANARY.into()),
        Answer::Status("403 Forbidden".to_owned(), CANARY.into()),
        Answer::Status("200 OK".to_owned(), CANARY.into()),
        Answer::Redirect(format!("http://192.0.2.1/{CANARY}")),
        Answer::LengthTooSmall(CANARY.into()),
        Answer::TwoAnswers(CANARY.into(), CANARY.into()),
    ]
}

fn no_log_at_trace_and_no_message_holds_the_canary() {
    for answer in answers() {
        for expect in ["", "sha256=0000000000000000000000000000000000000000000000000000000000000000", "format=pem"] {
            let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", answer.clone()));
            let to = world.ramdir().unwrap().join("c");
            let mut args = vec!["get", "kbs:///a/b/c", "--to", to.to_str().unwrap(), "--deadline", "10s"];
            if !expect.is_empty() {
                args.extend(["--expect", expect]);
            }
            let run = world
                .countersign(&args)
                .env("COUNTERSIGN_LOG", "trace")
                .env("RUST_LOG", "trace")
                .env("RUST_BACKTRACE", "full")
                .time_limit(Duration::from_secs(40))
                .run();
            assert!(!run.timed_out, "{}", run.output());
            assert!(!run.output().contains(CANARY), "{answer:?}: {}", run.output());
        }
    }
}

fn the_receipt_and_the_messages_of_init_do_not_hold_the_canary() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("a/b/c", CANARY));
    let directory = world.ramdir().unwrap().join("secrets");
    for format in ["text", "json"] {
        let run = world
            .countersign(&["init"])
            .env("COUNTERSIGN_SECRETS", "c=kbs:///a/b/c")
            .env("COUNTERSIGN_SECRETS_DIRECTORY", &directory)
            .env("COUNTERSIGN_LOG", "trace")
            .env("COUNTERSIGN_LOG_FORMAT", format)
            .run()
            .expect_code(0);
        assert!(!run.output().contains(CANARY), "{}", run.output());
    }
    let receipt = world.read(directory.join(".countersign-receipt.json")).unwrap();
    assert!(!String::from_utf8_lossy(&receipt).contains(CANARY));
    assert_eq!(world.read(directory.join("c")).unwrap(), CANARY.as_bytes());
}

fn a_running_process_shows_nothing_and_leaves_no_core() {
    // One secret has arrived, the other never does: the process sits there with a secret in memory.
    let world =
        World::new().unwrap().guest(GuestApi::healthy().secret("a/b/c", CANARY).answer("a/b/silent", Answer::Silent));
    let directory = world.ramdir().unwrap().join("secrets");
    let started = world
        .countersign(&["init"])
        .env("COUNTERSIGN_SECRETS", "c=kbs:///a/b/c,d=kbs:///a/b/silent")
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &directory)
        .start();
    countersign_testbed::eventually("both secrets were asked for", || {
        world.guest_api().count_of("/cdh/resource/a/b/silent") == 1
            && world.guest_api().count_of("/cdh/resource/a/b/c") == 1
    });
    let proc = format!("/proc/{}", started.pid());
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    for file in ["environ", "cmdline", "comm", "status"] {
        let bytes = std::fs::read(format!("{proc}/{file}")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{file}");
    }
    // Not dumpable: /proc/PID belongs to root, whoever runs it.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("{proc}/environ")).unwrap());
    let expected = if world.is_private() && !rustix_is_root() { OVERFLOW_OR_ROOT } else { &[0] };
    assert!(expected.contains(&owner), "{owner}");
    assert!(world.read(directory.join("c")).is_err(), "nothing is published before all is there");
    started.signal(countersign_testbed::Signal::KILL).unwrap();
    started.wait();
}

/// Root, or what root of an outer user namespace looks like.
const OVERFLOW_OR_ROOT: &[u32] = &[0, 65534];

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

countersign_testbed::main! {
    no_log_at_trace_and_no_message_holds_the_canary [GuestPort, Memory],
    the_receipt_and_the_messages_of_init_do_not_hold_the_canary [GuestPort, Memory],
    a_running_process_shows_nothing_and_leaves_no_core [GuestPort, Memory],
}

//! Doubles, worlds and the test runner: what drives `countersign` on any machine. Never shipped.
//!
//! | module | what it is |
//! |---|---|
//! | [`runner`] | `main` of every test file; leaves out what a machine cannot run, and says so |
//! | [`world`] | a pod's surroundings, private to one test: network, mounts, `/dev`, swap |
//! | [`guest`] | the guest's REST service on 127.0.0.1:8006, and its failures |
//! | [`kbs`], [`pki`], [`dns`] | a KBS, its certificates, and its name |
//! | [`mesh`] | the app behind a sidecar, and the peers in front of it |
//! | [`relay`] | an attacker between two peers, with their keys |
//! | [`tee`] | guests with hardware of our own, and the verifier that believes them |
//! | [`expect`] | what every refusal must look like |
//! | [`guest_signer`] | the security processor beside a guest under QEMU, and of `countersign-sim` |
//! | [`vectors`] | recorded traffic and evidence of the real ones |
//! | [`seal`] | sealed secrets, as Trustee's tool makes them |
//! | [`http`] | the server under both doubles |
//! | [`tsm`] | the kernel's directory of reports, and the list that holds it to the real one |
//! | [`sim`] | `countersign-sim`: the product with its outside world exchanged |
//!
//! A test file has `harness = false` in `Cargo.toml`, and reads like this:
//!
//! ```ignore
//! use countersign_testbed::{Answer, GuestApi, World};
//!
//! countersign_testbed::main! {
//!     a_refusal_writes_nothing [GuestPort, Memory],
//! }
//!
//! fn a_refusal_writes_nothing() {
//!     let world = World::new().unwrap().guest(GuestApi::healthy().answer("a/b/c", Answer::Refused));
//!     let memory = world.ramdir().unwrap();
//!     let to = memory.join("secret");
//!     let run = world.countersign(&["get", "kbs:///a/b/c", "--to"]).arg(&to).run().expect_code(66);
//!     assert!(run.stderr.contains("secret-unavailable"));
//!     assert!(world.list(&memory).unwrap().is_empty());
//!     assert_eq!(world.guest_api().count(), 4);
//! }
//! ```

// A double or a world that cannot do its part has to stop the test, loudly and at once. The
// environment and the streams of this crate are the test's, not the product's.
#![allow(clippy::expect_used, clippy::print_stderr, clippy::print_stdout, clippy::disallowed_methods)]
#![allow(clippy::missing_panics_doc, clippy::format_push_string)]

pub mod dns;
mod encode;
pub mod endorser;
pub mod expect;
pub mod guest;
pub mod guest_signer;
pub mod http;
pub mod kbs;
pub mod mesh;
pub mod pki;
pub mod pod;
pub mod relay;
pub mod roles;
pub mod runner;
mod sandbox;
pub mod seal;
pub mod sim;
pub mod tee;
mod trespass;
pub mod tsm;
pub mod vectors;
pub mod world;

pub use guest::{Answer, GuestApi};
pub use runner::Need;
pub use world::{ActiveSwap, Cmd, Run, RunningSigner, Volume, World};

pub use rustix::process::Signal;

/// Waits until something holds. Panics, naming it, when it does not within 50 seconds.
///
/// # Panics
/// When it does not come to hold.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(50), "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

//! What holds a process of ours once it knows what it needs: that it bites, that it says so, and that the
//! roles go on where a machine has none of it.
//!
//! That the roles themselves find what they need under it is shown by every other test of `init` and
//! `sidecar`: it is always on.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::path::Path;
use std::time::Duration;

use countersign_testbed::mesh::echo;
use countersign_testbed::world::Started;
use countersign_testbed::{Answer, GuestApi, Run, World, eventually};
use rig::{Rig, Said};

countersign_testbed::main! {
    the_kernel_holds_the_sidecar_to_both_layers [GuestPort, Namespaces, Landlock],
    an_intruder_in_init_finds_nothing [GuestPort, Namespaces, Memory, Landlock],
    an_intruder_in_the_sidecar_finds_nothing [GuestPort, Namespaces, Memory, Landlock],
    another_program_ends_the_process [GuestPort, Namespaces, Memory],
    get_starts_no_program_either [GuestPort, Namespaces, Memory],
    a_machine_without_it_is_said_and_served_all_the_same [GuestPort, Namespaces],
    nothing_that_the_control_plane_writes_switches_it_off [GuestPort, Namespaces, Landlock],
}

/// The line of the kernel's own word on a process.
fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
}

fn the_kernel_holds_the_sidecar_to_both_layers() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig.ready();
    assert_eq!((status(sidecar.pid(), "NoNewPrivs").as_str(), status(sidecar.pid(), "Seccomp").as_str()), ("1", "2"));
    assert_eq!(rig.metric("countersign_sandbox{layer=\"seccomp\"}"), Some(1.0));
    assert_eq!(rig.metric("countersign_sandbox{layer=\"landlock\"}"), Some(7.0));
    let said = sidecar.said();
    assert!(said.contains("landlock=\"ABI 7, ") && said.contains("to call, none to bind\""), "{said}");
    assert!(said.contains("seccomp=\"") && said.contains(" calls allowed, "), "{said}");
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
}

/// An `init` that does something else as well, at this point of publishing.
fn init(world: &World, fail: &str, secrets: &Path) -> Run {
    let sim = world.sim(&["--sim-fail-at", fail, "init"]);
    let sim = sim.env("COUNTERSIGN_SECRETS", "password=kbs:///payments/db/password");
    sim.env("COUNTERSIGN_SECRETS_DIRECTORY", secrets).run()
}

/// Waits until it is ready.
fn serves(rig: &Rig, sidecar: &Started<'_>) {
    eventually("it serves", || {
        assert!(sidecar.is_running(), "it ended: {}", sidecar.said());
        rig.ask("/readyz") == 200
    });
}

/// What is refused, and how: `EACCES` by Landlock, `ENOSYS` by the list of calls.
const REFUSED: &[(&str, i32)] = &[
    ("read-file", 13),
    ("list-root", 13),
    ("write-file", 13),
    ("make-directory", 13),
    ("make-socket", 13),
    ("other-process", 13),
    ("bind-tcp", 13),
    ("call-tcp", 13),
    ("netlink-socket", 38),
    ("raw-socket", 38),
    ("mptcp-socket", 38),
    ("signal-other", 38),
    ("another-process", 38),
    ("memory-file", 38),
];

/// What the role itself needs.
const ALLOWED: &[&str] = &["own-proc", "udp"];

fn found(said: &str) {
    for (what, errno) in REFUSED {
        let line = format!("trespass {what}: errno {errno}\n");
        assert!(said.contains(&line), "{what}: {said}");
    }
    for what in ALLOWED {
        assert!(said.contains(&format!("trespass {what}: done\n")), "{what}: {said}");
    }
}

fn an_intruder_in_init_finds_nothing() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("payments/db/password", "alpha"));
    let secrets = world.ramdir().unwrap().join("secrets");
    let run = init(&world, "publish:locked=trespass", &secrets).expect_code(0);
    found(&run.stderr);
    assert_eq!(world.read(secrets.join("password")).unwrap(), b"alpha", "and it publishes under it");
}

fn an_intruder_in_the_sidecar_finds_nothing() {
    let rig = Rig::with(&Said::default(), |guest| guest);
    let secrets = rig.world.ramdir().unwrap().join("secrets");
    let more = format!(
        "{}[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"password\"\nfrom = \"kbs:///payments/db/password\"\n",
        Said::default().toml(),
        secrets.display()
    );
    let guest = rig.world.guest_api();
    guest.set(rig::CONFIG, Answer::Bytes(more.into_bytes()));
    guest.set("payments/db/password", Answer::Bytes(b"alpha".to_vec()));
    let _app = rig.app(echo);
    let sidecar = rig
        .world
        .sim(&["--sim-fail-at", "publish:done=trespass", "sidecar"])
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "api")
        .time_limit(Duration::from_secs(60))
        .start();
    serves(&rig, &sidecar);
    found(&sidecar.said());
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200, "and it serves under it");
}

/// `SIGSYS`.
const BAD_CALL: i32 = 31;

fn another_program_ends_the_process() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("payments/db/password", "alpha"));
    let secrets = world.ramdir().unwrap().join("secrets");
    let run = init(&world, "publish:locked=exec", &secrets);
    assert_eq!((run.code, run.signal), (None, Some(BAD_CALL)), "{}", run.output());
    assert!(!run.stderr.contains("trespass exec"), "{}", run.output());
    assert!(world.read(secrets.join("password")).is_err(), "nothing was published");
}

fn get_starts_no_program_either() {
    let world = World::new().unwrap().guest(GuestApi::healthy().secret("payments/db/password", "alpha"));
    let to = world.ramdir().unwrap().join("password");
    let get = ["--sim-fail-at", "publish:locked=exec", "get", "kbs:///payments/db/password", "--to"];
    let run = world.sim(&get).arg(&to).run();
    assert_eq!((run.code, run.signal), (None, Some(BAD_CALL)), "{}", run.output());
}

fn a_machine_without_it_is_said_and_served_all_the_same() {
    let rig = Rig::new(&Said::default());
    let _app = rig.app(echo);
    let sidecar = rig
        .world
        .countersign(&["sidecar"])
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "api")
        .time_limit(Duration::from_secs(60))
        .without_sandbox()
        .start();
    serves(&rig, &sidecar);
    let said = sidecar.said();
    assert!(said.contains("WARN") || said.contains("warn"), "{said}");
    assert!(said.contains("off: the container runtime does not let us add a filter"), "{said}");
    assert!(said.contains("off: this kernel has no Landlock, or the container runtime hides it"), "{said}");
    assert_eq!(rig.metric("countersign_sandbox{layer=\"seccomp\"}"), Some(0.0));
    assert_eq!(rig.metric("countersign_sandbox{layer=\"landlock\"}"), Some(0.0));
    assert_eq!(rig.call(Some(&rig.friend)).unwrap(), 200);
}

fn nothing_that_the_control_plane_writes_switches_it_off() {
    // Names that somebody would try; the switches of the libraries and of the C library among them.
    let rig = Rig::new(&Said::default());
    let sidecar = rig
        .world
        .countersign(&["sidecar"])
        .env("COUNTERSIGN_NAMESPACE", "payments")
        .env("COUNTERSIGN_WORKLOAD", "api")
        .env("LANDLOCK_CRATE_TEST_ABI", "0")
        .env("NO_SANDBOX", "1")
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .time_limit(Duration::from_secs(60))
        .start();
    serves(&rig, &sidecar);
    assert_eq!(status(sidecar.pid(), "Seccomp"), "2");
    assert_eq!(rig.metric("countersign_sandbox{layer=\"landlock\"}"), Some(7.0));
    for name in ["COUNTERSIGN_SANDBOX", "COUNTERSIGN_LANDLOCK", "COUNTERSIGN_SECCOMP"] {
        let run = rig.world.countersign(&["init"]).env(name, "off").run().expect_code(78);
        assert!(run.stderr.contains("unknown variable"), "{}", run.output());
    }
}

//! `countersign-sim` says what it is.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign::tsm::{Boot, Echo, Error, KernelReport, Options, Provider, Tsm};
use countersign_testbed::guest_signer::{Signer, remote};
use countersign_testbed::sim::{BANNER, MARKER};
use countersign_testbed::tee::Document;
use countersign_testbed::{GuestApi, World, kbs::Kbs};

countersign_testbed::main! {
    the_program_for_people_carries_the_mark,
    every_run_says_that_it_is_simulated [GuestPort],
    an_unknown_flag_is_refused [GuestPort],
    a_simulated_guest_has_the_reports_of_its_signer,
    a_signer_that_fails_or_is_gone_is_an_error_of_the_kernels,
    a_silent_signer_hangs_the_provider,
    initdata_is_read_where_the_flag_says [GuestPort],
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
    for args in [
        &["--sim-nonsense"][..],
        &["--sim-guest-api", "nowhere"],
        &["--sim-fail-at"],
        &["--sim-fail-at", "x=y"],
        &["--sim-tee"],
        &["--sim-tee", "/socket=sgx_guest"],
    ] {
        let run = World::new().unwrap().sim(args).run();
        assert_eq!(run.code, Some(64), "{}", run.output());
        assert!(run.stderr.contains("--sim-guest-api ADDR"), "{}", run.output());
    }
}

/// A report for 64 bytes of 7, as the product asks for it.
fn report(socket: &Path, provider: &str, patience: Duration) -> Result<KernelReport, Error> {
    let fs = remote::tsm(socket.to_owned(), provider).unwrap();
    let tsm = Tsm::open(&fs, Boot::kernel(Path::new("/proc"))).unwrap();
    tsm.report_blocking(&[7; 64], &Options::default(), Instant::now() + patience)
}

const PATIENCE: Duration = Duration::from_secs(30);

fn a_simulated_guest_has_the_reports_of_its_signer() {
    let world = World::new().unwrap();
    for (script, provider, expected) in [
        ("snp", "sev_guest", Provider::Snp),
        ("tdx", "tdx_guest", Provider::Tdx),
        ("cca", "arm_cca_guest", Provider::Cca),
    ] {
        let signer = world.signer(Signer::answering(script));
        assert_eq!(signer.provider(), provider);
        let report = report(signer.socket(), provider, PATIENCE).unwrap();
        assert_eq!((report.provider(), report.auxblob().is_some()), (expected, expected == Provider::Snp));
        assert_eq!(report.echo() == Echo::Same, expected != Provider::Cca);
        assert_eq!(signer.requests(), 1);
    }
}

fn a_signer_that_fails_or_is_gone_is_an_error_of_the_kernels() {
    let world = World::new().unwrap();
    let signer = world.signer(Signer::answering("errno:5"));
    let failed = report(signer.socket(), "sev_guest", PATIENCE).unwrap_err().to_string();
    let nobody = report(&PathBuf::from("/nowhere"), "sev_guest", PATIENCE).unwrap_err().to_string();
    assert_eq!(failed, nobody, "both are EIO");
    signer.set("errno:16*2,snp").unwrap();
    report(signer.socket(), "sev_guest", PATIENCE).unwrap();
    assert_eq!(signer.requests(), 3, "EBUSY is tried again");
    signer.set("snp+wrong-data").unwrap();
    assert!(report(signer.socket(), "sev_guest", PATIENCE).is_err());
}

fn a_silent_signer_hangs_the_provider() {
    let world = World::new().unwrap();
    let signer = world.signer(Signer::answering("silence"));
    let answer = report(signer.socket(), "sev_guest", Duration::from_millis(50));
    assert!(matches!(answer, Err(Error::Deadline { .. })), "{answer:?}");
}

fn initdata_is_read_where_the_flag_says() {
    // `init` names the KBS of the mounted initdata, and asks it, when the guest's service gives up.
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let kbs = world.kbs("127.0.0.1:8080", Kbs::healthy());
    let document = Document::of_kbs(&kbs.url(), "");
    let run = |cmd: countersign_testbed::Cmd<'_>| {
        cmd.env("COUNTERSIGN_GATE", "kbs:///default/gate/open=yes").env("COUNTERSIGN_DEADLINE", "20s").run()
    };
    let without = run(world.sim(&["init"]));
    assert_ne!(without.code, Some(0), "{}", without.output());
    assert_eq!(kbs.count(), 0);
    let with = run(world.sim(&["init"]).initdata(document.text()));
    assert_ne!(with.code, Some(0), "{}", with.output());
    assert!(kbs.count() > 0, "{}", with.output());
}

//! The conformance list against the double, and what only the double can show. The same list runs
//! against a real kernel in the guest.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::ports::tsm_fs::{RealFs, TsmFs};
use countersign::tsm::{Boot, Error, Options, Tsm};
use countersign_testbed::eventually;
use countersign_testbed::tsm::conformance::{self, AS_USER, AsUser, LIST, Outcome, Rig};
use countersign_testbed::tsm::{FakeTsm, Setup};

countersign_testbed::main! {
    conforms_without_a_provider_or_with_an_unknown_one,
    conforms_as_snp,
    conforms_as_snp_with_a_floor_and_without_auxblob,
    conforms_as_svsm,
    conforms_as_tdx_and_cca,
    conforms_when_the_provider_is_busy_slow_or_broken,
    conforms_when_the_report_is_large_or_wrong,
    conforms_when_the_provider_hangs,
    every_setup_has_a_name_and_a_check,
    an_abandoned_report_removes_its_entry_when_the_provider_comes_back,
    a_dropped_future_leaves_no_entry,
    refused_real_directory_that_is_not_configfs,
    refused_before_anything_is_made_when_the_deadline_has_passed,
}

struct FakeRig(FakeTsm, Setup);

impl Rig for FakeRig {
    fn fs(&self) -> Arc<dyn TsmFs> {
        Arc::new(self.0.clone())
    }
    fn plain_directory(&self) -> Arc<dyn TsmFs> {
        Arc::new(FakeTsm::plain_directory(self.1.shape()))
    }
    fn as_user(&self, entry: &str, inner: &'static AsUser) -> Outcome {
        self.0.give(entry);
        (inner.run)(&self.0.as_user(), entry)
    }
}

fn conform(setups: &[Setup]) {
    let mut problems = Vec::new();
    for setup in setups {
        for check in conformance::of(*setup) {
            let rig = FakeRig(setup.fake(), *setup);
            if let Err(why) = (check.run)(&rig) {
                problems.push(format!("{setup:?}/{}: {why}", check.name));
            }
            rig.0.release();
        }
    }
    assert!(problems.is_empty(), "the double differs:\n  {}", problems.join("\n  "));
}

fn conforms_without_a_provider_or_with_an_unknown_one() {
    conform(&[Setup::NoProvider, Setup::UnknownProvider]);
}

fn conforms_as_snp() {
    conform(&[Setup::SnpEcho, Setup::SnpDash]);
}

fn conforms_as_snp_with_a_floor_and_without_auxblob() {
    conform(&[Setup::SnpFloor, Setup::SnpNoAuxblob, Setup::SnpEmptyAuxblob]);
}

fn conforms_as_svsm() {
    conform(&[Setup::Svsm]);
}

fn conforms_as_tdx_and_cca() {
    conform(&[Setup::TdxV4, Setup::TdxV5, Setup::Cca]);
}

fn conforms_when_the_provider_is_busy_slow_or_broken() {
    conform(&[Setup::Busy, Setup::Interrupted, Setup::TimedOut, Setup::IoError, Setup::EmptyOutblob]);
}

fn conforms_when_the_report_is_large_or_wrong() {
    conform(&[Setup::BigOutblob, Setup::WrongEcho, Setup::WrongShape]);
}

fn conforms_when_the_provider_hangs() {
    conform(&[Setup::Hang]);
}

fn every_setup_has_a_name_and_a_check() {
    for setup in Setup::ALL {
        assert_eq!(Setup::named(setup.wants().0), Some(setup));
        assert!(conformance::of(setup).count() > 0, "{setup:?}");
    }
    assert!(LIST.iter().all(|check| Setup::ALL.contains(&check.setup)));
    assert_ne!(AS_USER[0].name, AS_USER[1].name);
}

fn tsm(fake: &FakeTsm) -> Tsm {
    Tsm::open(fake, Boot::kernel(Path::new("/proc"))).unwrap()
}

fn an_abandoned_report_removes_its_entry_when_the_provider_comes_back() {
    let fake = Setup::Hang.fake();
    // Long enough for a slow machine to have begun: what has not begun by then never does.
    let answer = tsm(&fake).report_blocking(&[1; 64], &Options::default(), Instant::now() + Duration::from_secs(2));
    assert!(matches!(answer, Err(Error::Deadline { .. })), "{answer:?}");
    assert_eq!(fake.entries().len(), 1);
    fake.release();
    eventually("the entry is removed", || fake.entries().is_empty());
}

fn a_dropped_future_leaves_no_entry() {
    let fake = Setup::Hang.fake();
    let asking = tsm(&fake);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let options = Options::default();
        let asked = asking.report(&[1; 64], &options, Instant::now() + Duration::from_secs(60));
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
    });
    fake.release();
    eventually("the entry is removed", || fake.entries().is_empty());
}

fn refused_real_directory_that_is_not_configfs() {
    let plain = std::env::temp_dir().join(format!("countersign-tsm-{}", std::process::id()));
    std::fs::create_dir_all(plain.join("tsm/report")).unwrap();
    let refused = Tsm::open(&RealFs::at(&plain), Boot::kernel(Path::new("/proc"))).map(drop);
    std::fs::remove_dir_all(&plain).unwrap();
    let Err(error @ Error::NotConfigfs { .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(error.finding().class.code(), 71);
    assert!(!error.is_absent(), "a forged directory is no reason to try another way quietly");
}

fn refused_before_anything_is_made_when_the_deadline_has_passed() {
    let fake = Setup::SnpEcho.fake();
    let answer = tsm(&fake).report_blocking(&[1; 64], &Options::default(), Instant::now());
    assert!(matches!(answer, Err(Error::Deadline { .. })), "{answer:?}");
    assert!(fake.entries().is_empty() && fake.asked().is_empty());
}

//! The sidecar beside other proxies that terminate mTLS for an app. Run by `bench/compare`.
//!
//! One JSON line a case: the medians of runs that take turns, and their ratio (ours / theirs).

// A program for a terminal, not a part of the product.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::panic)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_precision_loss)] // Counts and microseconds, far below 2^52.
#![allow(unreachable_pub)] // A program of a few files.

mod account;
mod backend;
mod cases;
mod evidence;
mod load;
mod proof;
mod proxies;
mod table;

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use countersign_testbed::guest::GuestApi;
use countersign_testbed::pki::Ca;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use cases::Bench;
use proxies::{APP, PROCESSORS, Room};

/// Tells this program to be the app.
const BACKEND: &str = "--backend";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    raise_descriptors();
    if args.first().is_some_and(|arg| arg == BACKEND) {
        backend::main(APP);
    }
    let Some(room) = args.iter().position(|arg| arg == "--room").and_then(|at| args.get(at + 1)).map(PathBuf::from)
    else {
        // `cargo bench` without our runner around it.
        eprintln!("compare: start this through bench/compare");
        return ExitCode::SUCCESS;
    };
    let short = args.iter().any(|arg| arg == "--short");
    let wanted = args.iter().skip(2).filter(|arg| !arg.starts_with("--")).cloned().collect();
    let runs = std::env::var("BENCH_RUNS").ok().and_then(|text| text.parse().ok());

    // What is started from here on inherits it; proxies are moved by taskset(1).
    let mut here = CpuSet::new();
    here.set(PROCESSORS.1);
    sched_setaffinity(None, &here).expect("the loader needs a processor beside the proxies'");

    let ca = Ca::new("mesh");
    let server = ca.member_with(&[proxies::API], &[load::NAME], |_| {});
    let guest = GuestApi::healthy()
        .secret("default/countersign/payments.api", proxies::ours())
        .secret("payments/mesh/roots", ca.pem())
        .secret("payments/mesh/cert", server.pem())
        .secret("payments/mesh/key", server.key_pem());
    let _app = App::start();
    let room = Room::new(&room, &ca, &server);
    let bench = Bench::new(room, ca, short, runs, wanted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let plain = evidence::here(&guest);
        bench.run().await;
        drop(plain);
        if evidence::CASES.iter().any(|case| bench.wants(case)) {
            evidence::Scene::new(&bench, &server, guest).run().await;
        }
    });
    let faults = bench.faults();
    for fault in &faults {
        // Once more: what is read of a long log is its end.
        eprintln!("compare: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As many as there may be: two thousand idle connections have three ends in two processes of ours.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("our own limit");
}

/// The app's process. Killed when dropped.
struct App(Child);

impl App {
    fn start() -> Self {
        let program = std::env::current_exe().expect("our own path");
        let child = Command::new(program).arg(BACKEND).stdin(Stdio::null()).spawn().expect("we start again");
        while std::net::TcpStream::connect(APP).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self(child)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

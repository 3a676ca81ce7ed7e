//! What the gate costs, beside the `curl` loop that it replaces. Run by `bench/run`, which gives it
//! a network namespace (so that 127.0.0.1:8006 is free) and a directory on memory.
//!
//! Prints one JSON line a case: the medians of interleaved runs, and their ratio (ours / theirs).

// A program for a terminal, not a part of the product.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::panic)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::json;

/// Secrets in a set. The issue's number: more than any pod we have seen asks for.
const SECRETS: usize = 50;

/// Bytes of each secret: a certificate chain with its key.
const SECRET_BYTES: usize = 4096;

/// Longest time from the start of the process to the first byte it sends, milliseconds.
const LIMIT_FIRST_BYTE_MS: f64 = 10.0;

/// Largest peak resident set with the whole set in hand, KiB.
const LIMIT_RSS_KIB: f64 = 16.0 * 1024.0;

fn main() -> ExitCode {
    let Some(bench) = Bench::from_args() else {
        // `cargo bench` without our runner around it: there is no 8006 to bind and no memory to write to.
        eprintln!("gate: start this through bench/run");
        return ExitCode::SUCCESS;
    };
    let mut good = true;
    good &= bench.first_byte();
    good &= bench.peak_rss();
    bench.publish();
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Bench {
    binary: PathBuf,
    room: PathBuf,
    runs: usize,
    short: bool,
    curl: String,
    double: Double,
}

impl Bench {
    fn from_args() -> Option<Self> {
        let args: Vec<String> = std::env::args().collect();
        let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
        let (runs, room) = (value("--runs")?, value("--room")?);
        let version = Command::new("curl").arg("--version").output().expect("curl is installed").stdout;
        Some(Self {
            binary: std::env::var_os("BENCH_BINARY").expect("bench/run sets BENCH_BINARY").into(),
            room: room.into(),
            runs: runs.parse().expect("--runs takes a number"),
            short: args.iter().any(|arg| arg == "--short"),
            curl: String::from_utf8_lossy(&version).split(' ').nth(1).unwrap_or("unknown").to_owned(),
            double: Double::start(),
        })
    }

    /// From just before the process is made to the first byte of its first request.
    fn first_byte(&self) -> bool {
        let (ours, theirs) = self.interleaved(|ours, run| {
            let to = self.fresh(ours, run).join("one");
            let mut command = if ours { self.get(&to) } else { curl_once(&to) };
            self.double.arm();
            let started = Instant::now();
            succeed(&mut command);
            self.double.first_byte().duration_since(started).as_secs_f64() * 1e3
        });
        self.print("start_to_first_byte", "ms", ours, theirs);
        // Of a few runs beside other work, time says little of us: it is printed.
        self.short || within("start_to_first_byte", ours, LIMIT_FIRST_BYTE_MS)
    }

    /// The kernel's count (`ru_maxrss`), read by time(1): a small process between, since a child's
    /// count starts from the size of the process that made it.
    fn peak_rss(&self) -> bool {
        let (ours, theirs) = self.interleaved(|ours, run| {
            let directory = self.fresh(ours, run);
            let inner = if ours { self.init(&directory) } else { curl_once(&directory.join("one")) };
            let output = wrapped("/usr/bin/time", &["--format", "%M"], &inner).output().expect("time(1) runs");
            last_line(&output).parse().expect("time(1) prints a number")
        });
        self.print("peak_rss_50_secrets", "KiB", ours, theirs);
        within("peak_rss_50_secrets", ours, LIMIT_RSS_KIB)
    }

    /// The whole set, as one `init` and as the field's shell loop. The two are not equals: the loop
    /// checks nothing and is not atomic. CPU time is user and system, of all children.
    fn publish(&self) {
        let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
        let (ours, theirs) = self.interleaved(|ours, run| {
            let directory = self.fresh(ours, run);
            let inner = if ours { self.init(&directory) } else { curl_loop(&directory) };
            // bash counts in microseconds and prints milliseconds; time(1) prints hundredths.
            let script = r#"TIMEFORMAT="%R %U %S"; time "$@""#;
            let output = wrapped("bash", &["-c", script, "-"], &inner).output().expect("bash runs");
            assert!(output.status.success(), "a run failed: {}", String::from_utf8_lossy(&output.stderr));
            let numbers: Vec<f64> = last_line(&output).split(' ').map(|number| number.parse().unwrap()).collect();
            if ours { &mut our_cpu } else { &mut their_cpu }.push((numbers[1] + numbers[2]) * 1e3);
            numbers[0] * 1e3
        });
        self.print("publish_50_secrets_wall", "ms", ours, theirs);
        self.print("publish_50_secrets_cpu", "ms", median(our_cpu), median(their_cpu));
    }

    /// Medians of runs that take turns, so that a busy moment of the machine meets both.
    fn interleaved(&self, mut measure: impl FnMut(bool, usize) -> f64) -> (f64, f64) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // One unmeasured turn each: the first reads the program from disk.
        for run in 0..=self.runs {
            for (side, times) in [(true, &mut ours), (false, &mut theirs)] {
                let value = measure(side, run);
                if run > 0 {
                    times.push(value);
                }
            }
        }
        (median(ours), median(theirs))
    }

    fn print(&self, case: &str, unit: &str, ours: f64, theirs: f64) {
        // Three decimals: the clock's noise is larger than the rest.
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let ratio = if theirs > 0.0 { round(ours / theirs) } else { f64::NAN };
        let line = json!({
            "case": case, "peer": "curl", "peer_version": self.curl,
            "ours": round(ours), "theirs": round(theirs), "unit": unit, "ratio": ratio,
        });
        println!("{line}");
    }

    /// A directory that no run before has seen, with the rights of a memory emptyDir.
    fn fresh(&self, ours: bool, run: usize) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = self.room.join(format!("{}{run}", if ours { "ours" } else { "theirs" }));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("the room is writable");
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o1777)).expect("the room is ours");
        directory
    }

    fn get(&self, to: &Path) -> Command {
        let mut command = self.countersign();
        command.args(["get", "kbs:///bench/set/s0", "--to"]).arg(to);
        command
    }

    fn init(&self, directory: &Path) -> Command {
        let list: Vec<String> = (0..SECRETS).map(|n| format!("s{n}=kbs:///bench/set/s{n}")).collect();
        let mut command = self.countersign();
        command
            .arg("init")
            .env("COUNTERSIGN_SECRETS", list.join(","))
            .env("COUNTERSIGN_SECRETS_DIRECTORY", directory.join("secrets"));
        command
    }

    fn countersign(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear();
        command
    }
}

fn curl_once(to: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "http://127.0.0.1:8006/cdh/resource/bench/set/s0", "-o"]).arg(to);
    command
}

/// As in the field's examples.
fn curl_loop(directory: &Path) -> Command {
    let script =
        r#"for n in $(seq 0 "$1"); do curl -s "http://127.0.0.1:8006/cdh/resource/bench/set/s$n" -o "$2/s$n"; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "-", &(SECRETS - 1).to_string()]).arg(directory);
    command
}

/// The guest's REST service: every resource is there, and answers at once.
struct Double {
    first: Arc<Mutex<Option<Instant>>>,
}

impl Double {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:8006").expect("8006 is free in a namespace of our own");
        let first = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&first);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { first }
    }

    fn arm(&self) {
        *self.first.lock().unwrap() = None;
    }

    fn first_byte(&self) -> Instant {
        self.first.lock().unwrap().expect("a request came in")
    }
}

fn serve(mut stream: TcpStream, first: &Mutex<Option<Instant>>) {
    let _ = stream.set_nodelay(true);
    let answer = |kind: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let secret = answer("application/octet-stream", &[b's'; SECRET_BYTES]);
    // As Kata starts a guest: without the attestation agent's part.
    let info = answer("application/json", br#"{"version":"Guest Components Version: v0.21.0","feature":"resource"}"#);
    let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut chunk) {
        if count == 0 {
            return;
        }
        first.lock().unwrap().get_or_insert_with(Instant::now);
        head.extend_from_slice(&chunk[..count]);
        // GET has no body: a head ends where the empty line is.
        while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let answer = if head.starts_with(b"GET /info ") { &info } else { &secret };
            head.drain(..end + 4);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

fn succeed(command: &mut Command) {
    let output = command.stdout(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// `program arguments… inner…`, with the environment that `inner` was given.
fn wrapped(program: &str, arguments: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(inner.get_program()).args(inner.get_args()).stdout(Stdio::null());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

fn last_line(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().lines().next_back().unwrap_or_default().to_owned()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn within(case: &str, value: f64, limit: f64) -> bool {
    if value > limit {
        eprintln!("gate: {case} is {value:.1}, and its limit is {limit}");
    }
    value <= limit
}

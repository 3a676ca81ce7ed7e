//! `cargo demo`: what countersign does, step by step, on this machine, in a few seconds.
//!
//! Each step says what it does, does it with the shipped binary in a small world of its own, and
//! checks what it tells. It exits with an error if anything does not behave as told.

#![allow(clippy::print_stdout)]

#[path = "demo/peers.rs"]
mod peers;
#[path = "demo/serve.rs"]
mod serve;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, Guest, SnpGuest};
use countersign_testbed::world::RunningSigner;
use countersign_testbed::{ActiveSwap, GuestApi, Run, World, runner};

/// Never printed: the demo checks that it arrived, and that no output holds it.
const PASSWORD: &str = "correct horse battery staple";

/// Stands for a second secret of the list.
const API_KEY: &str = "k-4f1d9c0e7a";

const RESOURCE: &str = "kbs:///payments/db/password";
const API_KEY_RESOURCE: &str = "kbs:///payments/api/key";

/// Where the same secret is for `curl`.
const URL: &str = "http://127.0.0.1:8006/cdh/resource/payments/db/password";

/// The first step of the direct road.
const DIRECT: usize = 6;

/// A step's title, and what it does.
type Step = (&'static str, fn() -> Told);

/// What went otherwise than told.
type Told = Result<(), String>;

fn main() -> ExitCode {
    if let Some(code) = runner::begin(option_env!("CARGO_BIN_EXE_countersign")) {
        return code;
    }
    println!("countersign, step by step. A double stands in for the guest's REST service; the rest is real.");
    let steps: [Step; 12] = [
        ("The KBS releases a secret: `countersign get`", one_secret),
        ("A list of secrets, all or nothing: `countersign init`", a_list_of_secrets),
        ("The KBS says no", a_refusal),
        ("The same refusal, with the `curl` line that people use today", the_same_with_curl),
        ("The destination is a disk", a_disk),
        ("A guest that proves itself: initdata, hardware, KBS", a_measured_guest),
        ("One space is added to its initdata", one_space),
        ("Callers: who is let in, and who is not", serve::callers),
        ("The certificate is renewed under load, and the pod ends", serve::renewal),
        ("Two guests talk, and each has proved itself to the other", peers::two_guests),
        ("A third guest, with another digest", peers::a_third),
        ("A relay that has the TLS keys of both", peers::a_relay),
    ];
    for (number, (title, step)) in steps.into_iter().enumerate() {
        if number + 1 == DIRECT {
            println!(
                "\nNow the direct road. `countersign-sim` is the same library with a simulated SEV-SNP processor; the KBS \
                 is a double that verifies what it is shown, and holds the secrets."
            );
        }
        println!("\n{}. {title}", number + 1);
        if let Err(problem) = step() {
            println!("\nThe demo ends here: {problem}");
            return ExitCode::FAILURE;
        }
    }
    println!("\nAll of it behaved as told. Nothing is left behind.");
    ExitCode::SUCCESS
}

fn one_secret() -> Told {
    let (world, memory) = world(healthy())?;
    let to = memory.join("db-password");
    let run = countersign(&world, &["get", RESOURCE, "--to", text(&to)?])?;
    expect(&run, 0)?;
    let mode = published(&world, &to, PASSWORD)?;
    say(&format!("the secret is at {}, mode {mode:04o}, on {}", to.display(), filesystem(&world, &memory)?));
    say("its value is the one the KBS holds (compared, not printed)");
    Ok(())
}

fn a_list_of_secrets() -> Told {
    let (world, memory) = world(healthy())?;
    let set = memory.join("secrets");
    let list = format!("db/password={RESOURCE},api/key={API_KEY_RESOURCE}");
    say(&format!(
        "$ COUNTERSIGN_SECRETS={list} \\\n      COUNTERSIGN_SECRETS_DIRECTORY={} countersign init",
        set.display()
    ));
    let run = world
        .countersign(&["init"])
        .env("COUNTERSIGN_SECRETS", &list)
        .env("COUNTERSIGN_SECRETS_DIRECTORY", &set)
        .without_capabilities()
        .run();
    show(&run)?;
    expect(&run, 0)?;
    published(&world, &set.join("db/password"), PASSWORD)?;
    published(&world, &set.join("api/key"), API_KEY)?;
    say(&format!("both files are in {}", set.display()));
    let receipt = find(&world.outside(&memory), "receipt").ok_or("no receipt was written")?;
    let receipt = fs::read_to_string(&receipt).map_err(|error| format!("the receipt cannot be read: {error}"))?;
    if receipt.contains(PASSWORD) || receipt.contains(API_KEY) {
        return Err("the receipt holds a secret".to_owned());
    }
    say("the receipt beside them, without values:");
    for line in receipt.lines().take(12) {
        println!("     | {line}");
    }
    Ok(())
}

fn a_refusal() -> Told {
    // The guest's service tells no causes: denied, absent, unreachable are all one 500.
    let (world, memory) = world(GuestApi::healthy())?;
    let to = memory.join("db-password");
    let run = countersign(&world, &["get", RESOURCE, "--to", text(&to)?])?;
    expect(&run, 66)?;
    nothing_in(&world, &memory)?;
    say(&format!("exit code {}, and nothing was written: the pod does not start on a refusal", code(&run)));
    Ok(())
}

fn the_same_with_curl() -> Told {
    let Some(curl) = runner::curl() else {
        say("there is no curl on this machine: the step is left out");
        return Ok(());
    };
    let (world, memory) = world(GuestApi::healthy())?;
    let to = memory.join("db-password");
    say(&format!("$ curl -s {URL} -o {}", to.display()));
    let run = world.run(curl, &["-s", URL, "-o", text(&to)?]).run();
    expect(&run, 0)?;
    let written = world.read(&to).map_err(|error| format!("curl wrote nothing: {error}"))?;
    let written = String::from_utf8_lossy(&written).into_owned();
    if !written.contains("Get Resource failed") {
        return Err("curl wrote something else than the error".to_owned());
    }
    say("exit code 0, and this is now the app's password:");
    println!("     | {}…", written.chars().take(72).collect::<String>());
    Ok(())
}

fn a_disk() -> Told {
    let (mut world, _) = world(healthy())?;
    let to = if let Ok(directory) = world.diskdir() {
        directory.join("db-password")
    } else {
        say("every directory here is memory, so swap is switched on (in this world): then memory is a disk too");
        world = world.swap(ActiveSwap::Disk).map_err(|error| error.to_string())?;
        world.directory().join("db-password")
    };
    let run = countersign(&world, &["get", RESOURCE, "--to", text(&to)?])?;
    expect(&run, 73)?;
    if world.outside(&to).symlink_metadata().is_ok() {
        return Err(format!("{} was written", to.display()));
    }
    match world.guest_api().count() {
        0 => say("exit code 73, and 0 requests reached the guest: it was refused before anything was fetched"),
        count => return Err(format!("{count} requests reached the guest before the destination was refused")),
    }
    Ok(())
}

/// A simulated guest, its processor, its KBS and the initdata that it was launched with.
struct Measured {
    world: World,
    kbs: RunningKbs,
    signer: RunningSigner,
    initdata: Document,
    set: PathBuf,
}

fn measured() -> Result<Measured, String> {
    let (world, memory) = world(GuestApi::healthy())?;
    let set = memory.join("secrets");
    // In a namespace of our own every port is free; where there is none, this one is.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| format!("there is no free port on loopback: {error}"))?.to_string();
    let ca = Ca::new("the KBS's CA");
    let kbs = Kbs::healthy()
        .tls(ca.leaf(&["127.0.0.1"]))
        .resource("payments/db/password", PASSWORD)
        .resource("payments/api/key", API_KEY)
        .policy(Policy::Affirming)
        .reference(&Guest::Snp(SnpGuest::genoa()));
    let kbs = world.kbs(&address, kbs);
    let initdata = Document::of_kbs(&kbs.url(), ca.pem()).countersign(&format!(
        "version = 1\nserial = 1\n[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"db/password\"\nfrom = \
         \"{RESOURCE}\"\n[[secrets.file]]\npath = \"api/key\"\nfrom = \"{API_KEY_RESOURCE}\"\n",
        set.display()
    ));
    let signer = world.signer(Signer::answering("snp").launched_with(&initdata.digest()));
    Ok(Measured { world, kbs, signer, initdata, set })
}

fn a_measured_guest() -> Told {
    let Measured { world, kbs, signer, initdata, set } = measured()?;
    say("the initdata: which KBS, its CA, which secrets. Its digest is in HOST_DATA of the guest's report.");
    say("$ countersign init      (no setting in the environment, no argument)");
    let run = world.sim(&["init"]).tee(&signer).initdata(&initdata.text()).without_capabilities().run();
    show(&run)?;
    expect(&run, 0)?;
    published(&world, &set.join("db/password"), PASSWORD)?;
    published(&world, &set.join("api/key"), API_KEY)?;
    match kbs.attestations() {
        1 => say("two secrets, and the KBS was shown evidence once"),
        other => return Err(format!("the KBS was shown evidence {other} times")),
    }
    Ok(())
}

fn one_space() -> Told {
    let Measured { world, kbs, signer, initdata, set } = measured()?;
    let edited = initdata.text().replacen("version = 1", "version =  1", 1);
    say("somebody who may edit ConfigMaps changes the mounted initdata; the hardware keeps what it was launched with");
    let run = world.sim(&["init"]).tee(&signer).initdata(&edited).without_capabilities().run();
    show(&run)?;
    expect(&run, 80)?;
    nothing_in(&world, &set)?;
    match kbs.requests().len() {
        0 => say("exit code 80, nothing was written, and the KBS was not even asked"),
        other => return Err(format!("{other} requests reached the KBS")),
    }
    Ok(())
}

fn healthy() -> GuestApi {
    GuestApi::healthy().secret("payments/db/password", PASSWORD).secret("payments/api/key", API_KEY)
}

/// A world with this guest, and a directory in memory; or what a person can do about it.
fn world(guest: GuestApi) -> Result<(World, PathBuf), String> {
    let world = World::new().map_err(|error| {
        format!(
            "this machine gives no network namespace and its port 8006 cannot be had ({error}).\nAllow user namespaces \
             (`sysctl kernel.apparmor_restrict_unprivileged_userns=0` where AppArmor forbids them), or run as root, or \
             stop what listens on 127.0.0.1:8006."
        )
    })?;
    let memory = world.ramdir().map_err(|error| error.to_string())?;
    Ok((world.guest(guest), memory))
}

/// Runs the shipped binary as a pod would, without capabilities, and shows what it says.
fn countersign(world: &World, args: &[&str]) -> Result<Run, String> {
    say(&format!("$ countersign {}", args.join(" ")));
    let run = world.countersign(args).without_capabilities().run();
    show(&run)?;
    Ok(run)
}

/// Prints the run's output, unless it gives a secret away.
fn show(run: &Run) -> Told {
    let output = format!("{}{}", run.stdout, run.stderr);
    if output.contains(PASSWORD) || output.contains(API_KEY) || run.termination_text.contains(PASSWORD) {
        return Err("the output holds a secret".to_owned());
    }
    let mut shown = String::new();
    for line in output.lines().filter(|line| !line.is_empty()) {
        let _ = writeln!(shown, "     | {line}");
    }
    print!("{shown}");
    Ok(())
}

fn expect(run: &Run, expected: i32) -> Told {
    if run.code == Some(expected) { Ok(()) } else { Err(format!("expected exit code {expected}, got {}", code(run))) }
}

fn code(run: &Run) -> String {
    match (run.code, run.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) if run.timed_out => format!("none, it was killed by the time limit (signal {signal})"),
        (None, signal) => format!("none, signal {signal:?}"),
    }
}

/// Checks the content of a published file, and gives its mode.
fn published(world: &World, path: &Path, expected: &str) -> Result<u32, String> {
    let outside = world.outside(path);
    let read = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    if fs::read(&outside).map_err(read)? != expected.as_bytes() {
        return Err(format!("{} does not hold what the KBS holds", path.display()));
    }
    let mode = fs::metadata(&outside).map_err(read)?.permissions().mode() & 0o7777;
    if mode % 0o10 == 0 { Ok(mode) } else { Err(format!("{} can be read by everybody: {mode:04o}", path.display())) }
}

/// Checks that a refusal left no file, of whatever name.
fn nothing_in(world: &World, directory: &Path) -> Told {
    let files = find(&world.outside(directory), "");
    files.map_or(Ok(()), |file| Err(format!("a refusal left a file: {}", file.display())))
}

/// The first regular file below a directory whose name holds `part`.
fn find(directory: &Path, part: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        let found = if kind.is_dir() {
            find(&path, part)
        } else {
            (kind.is_file() && entry.file_name().to_string_lossy().contains(part)).then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn filesystem(world: &World, directory: &Path) -> Result<String, String> {
    let run = world.run("stat", &["-f", "-c", "%T", text(directory)?]).run();
    Ok(if run.code == Some(0) { run.stdout.trim().to_owned() } else { "memory".to_owned() })
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8: set TMPDIR", path.display()))
}

fn say(text: &str) {
    println!("   {text}");
}

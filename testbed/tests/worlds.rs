//! What a world promises to the tests that live in it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // The tests' own environment.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use countersign_testbed::dns::Dns;
use countersign_testbed::{ActiveSwap, Answer, GuestApi, Volume, World};
use rustix::process::{Pid, Signal};

countersign_testbed::main! {
    parallel_worlds_both_have_8006 [Namespaces],
    the_machine_does_not_see_a_worlds_8006 [Namespaces],
    a_world_leaves_nothing_behind [Namespaces],
    a_killed_test_process_leaves_nothing_behind [GuestPort],
    a_panicking_test_leaves_nothing_behind [GuestPort],
    an_ordinary_user_has_no_capabilities_inside [Namespaces],
    another_user_has_no_capabilities_and_no_groups [Users],
    fs_group_is_a_supplementary_group [Users],
    root_can_give_up_its_capabilities [Users],
    a_hanging_command_dies_with_its_children [GuestPort],
    output_and_exit_code_come_back [GuestPort],
    the_termination_log_is_read_and_emptied [Namespaces],
    swap_is_reported_as_told [Namespaces],
    memory_is_found_with_and_without_swap [Namespaces, Memory],
    volumes_have_the_modes_of_kata [Namespaces],
    a_read_only_volume_cannot_be_written [Namespaces],
    a_small_volume_gets_full [Namespaces],
    an_overlay_can_be_mounted [Namespaces],
    a_disk_is_not_memory [Disk],
    names_resolve_as_told [Namespaces],
    a_late_guest_refuses_connections_first [GuestPort],
    helper_that_hangs_in_a_world,
}

/// Makes [`helper_that_hangs_in_a_world`] hang; unset it does nothing.
const HANG: &str = "COUNTERSIGN_TESTBED_HANG";

fn shell(world: &World, script: &str) -> countersign_testbed::Run {
    world.run("/bin/sh", &["-c", script]).run()
}

fn parallel_worlds_both_have_8006() {
    let one = World::private().unwrap().guest(GuestApi::healthy().secret("a/b/c", "one"));
    let two = World::private().unwrap().guest(GuestApi::healthy().secret("a/b/c", "two"));
    for (world, expected) in [(&one, "one"), (&two, "two")] {
        let answer = get(world.connect("127.0.0.1:8006").unwrap(), "/cdh/resource/a/b/c");
        assert!(answer.ends_with(expected), "{answer}");
        assert_eq!(world.guest_api().count(), 1);
    }
}

fn the_machine_does_not_see_a_worlds_8006() {
    let before = TcpStream::connect("127.0.0.1:8006").is_ok();
    let world = World::private().unwrap().guest(GuestApi::healthy());
    assert_eq!(TcpStream::connect("127.0.0.1:8006").is_ok(), before);
    assert_eq!(world.guest_api().connections(), 0);
}

fn a_world_leaves_nothing_behind() {
    let world = World::private().unwrap().guest(GuestApi::healthy().answer("a/b/c", Answer::Silent));
    let memory = world.ramdir();
    let left = shell(&world, "sleep 1000 & echo $!");
    let child: i32 = left.stdout.trim().parse().expect("a pid");
    let directory = world.directory().to_owned();
    let holder = holder_of(&world);
    let silent = world.connect("127.0.0.1:8006").unwrap();
    drop(world);
    drop(silent);
    assert!(!directory.exists());
    assert!(!runs(holder), "the holder lives on");
    assert!(!runs(child), "a command's child lives on");
    if let Ok(memory) = memory {
        assert!(!memory.exists());
    }
}

fn a_killed_test_process_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let (mut test, told) = hanging_test("hang");
        let test_pid = Pid::from_raw(i32::try_from(test.id()).unwrap()).unwrap();
        rustix::process::kill_process(test_pid, signal).unwrap();
        test.wait().unwrap();
        assert_gone(&told);
    }
}

fn a_panicking_test_leaves_nothing_behind() {
    let (mut test, told) = hanging_test("panic");
    assert_eq!(test.wait().unwrap().code(), Some(101));
    assert_gone(&told);
}

fn an_ordinary_user_has_no_capabilities_inside() {
    let world = World::private().unwrap();
    let run = world.run("/bin/cat", &["/proc/self/status"]).without_capabilities().run();
    assert!(run.stdout.contains("CapEff:\t0000000000000000"), "{}", run.output());
    // Without being asked, too, unless we are root and may have all of them.
    if !rustix::process::geteuid().is_root() {
        let run = world.run("/bin/cat", &["/proc/self/status"]).run();
        assert!(run.stdout.contains("CapEff:\t0000000000000000"), "{}", run.output());
        let id = shell(&world, "id -u");
        assert_eq!(id.stdout.trim(), rustix::process::geteuid().as_raw().to_string());
    }
}

fn another_user_has_no_capabilities_and_no_groups() {
    let world = World::private().unwrap();
    let run = world.run("/bin/cat", &["/proc/self/status"]).uid(65532).run();
    for line in ["Uid:\t65532\t65532\t65532\t65532", "Gid:\t65532\t65532\t65532\t65532"] {
        assert!(run.stdout.contains(line), "{}", run.output());
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(run.stdout.contains(&format!("{set}:\t0000000000000000")), "{}", run.output());
    }
    assert!(run.stdout.lines().any(|line| line.trim_end() == "Groups:"), "{}", run.output());
}

fn fs_group_is_a_supplementary_group() {
    let world = World::private().unwrap();
    let run = world.run("/bin/sh", &["-c", "id -G"]).uid(65532).group(2000).run();
    assert_eq!(run.stdout.trim(), "65532 2000");
}

fn root_can_give_up_its_capabilities() {
    let world = World::private().unwrap();
    let run = world.run("/bin/cat", &["/proc/self/status"]).without_capabilities().run();
    assert!(run.stdout.contains("Uid:\t0\t") && run.stdout.contains("CapEff:\t0000000000000000"), "{}", run.output());
}

fn a_hanging_command_dies_with_its_children() {
    let world = World::new().unwrap();
    let run =
        world.run("/bin/sh", &["-c", "sleep 1000 & echo $!; sleep 1000"]).time_limit(Duration::from_secs(3)).run();
    assert!(run.timed_out && run.code.is_none(), "{}", run.output());
    assert!(run.elapsed < Duration::from_secs(20), "{}", run.output());
    let child: i32 = run.stdout.trim().parse().expect("a pid");
    until(|| !runs(child), "the command's child lives on");
}

fn output_and_exit_code_come_back() {
    let world = World::new().unwrap();
    let run = world.run("/bin/sh", &["-c", "cat; echo err >&2; exit 77"]).stdin("in").run();
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(77), "in", "err\n"));
}

fn the_termination_log_is_read_and_emptied() {
    let world = World::private().unwrap();
    let run = shell(&world, r#"echo '{"class":"x","code":77}' > /dev/termination-log; echo quiet > /dev/null"#);
    assert_eq!(run.termination.expect("JSON")["code"], 77);
    assert!(shell(&world, "true").termination.is_none());
}

fn swap_is_reported_as_told() {
    let world = World::private().unwrap().swap(ActiveSwap::Disk).unwrap();
    assert!(world.has_swap());
    assert!(shell(&world, "cat /proc/swaps").stdout.contains("partition"));
    let world = World::private().unwrap().swap(ActiveSwap::None).unwrap();
    assert!(!shell(&world, "cat /proc/swaps").stdout.contains("partition"));
    // A file mounted over the kernel's own is not believed when it says that there is none.
    assert!(world.has_swap());
}

fn memory_is_found_with_and_without_swap() {
    for swap in [ActiveSwap::None, ActiveSwap::Disk] {
        let world = World::private().unwrap().swap(swap).unwrap();
        let directory = world.ramdir().unwrap();
        let kind = shell(&world, &format!("stat -f -c %T {}", directory.display())).stdout;
        assert_eq!(kind.trim(), "ramfs", "{swap:?}");
        let written = shell(&world, &format!("echo x > {}/file", directory.display()));
        assert_eq!(written.code, Some(0), "{}", written.output());
        assert_eq!(world.read(directory.join("file")).unwrap(), b"x\n");
    }
}

fn volumes_have_the_modes_of_kata() {
    let world = World::private().unwrap();
    let gid = rustix::process::getegid().as_raw();
    let plain = world.volume(&Volume::memory()).unwrap();
    let grouped = world.volume(&Volume::memory().fs_group(gid)).unwrap();
    let open = world.volume(&Volume::memory().mode(0o777)).unwrap();
    let stat = |path: &Path| shell(&world, &format!("stat -c '%a %g' {}", path.display())).stdout;
    assert!(stat(&plain).starts_with("1777 "), "{}", stat(&plain));
    assert_eq!(stat(&grouped).trim(), format!("3777 {gid}"));
    assert!(stat(&open).starts_with("777 "), "{}", stat(&open));
}

fn a_read_only_volume_cannot_be_written() {
    let world = World::private().unwrap();
    let volume = world.volume(&Volume::memory().read_only()).unwrap();
    let run = shell(&world, &format!("echo x > {}/file", volume.display()));
    assert!(run.stderr.contains("Read-only"), "{}", run.output());
}

fn a_small_volume_gets_full() {
    let world = World::private().unwrap();
    let volume = world.volume(&Volume::memory().size("64k")).unwrap();
    let run = shell(&world, &format!("head -c 100000 /dev/zero > {}/file", volume.display()));
    assert!(run.stderr.contains("No space"), "{}", run.output());
}

fn an_overlay_can_be_mounted() {
    let world = World::private().unwrap();
    let below = world.volume(&Volume::memory()).unwrap();
    let layer = |name: &str| {
        std::fs::create_dir(world.outside(below.join(name))).unwrap();
        below.join(name).display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", layer("l"), layer("u"), layer("w"));
    let overlay = world.mount("overlay", &options).unwrap();
    let kind = shell(&world, &format!("stat -f -c %T {}", overlay.display())).stdout;
    assert_eq!(kind.trim(), "overlayfs");
}

fn a_disk_is_not_memory() {
    let world = World::new().unwrap();
    let directory = world.diskdir().unwrap();
    let kind = shell(&world, &format!("stat -f -c %T {}", directory.display())).stdout;
    assert!(!["tmpfs", "ramfs"].contains(&kind.trim()), "{kind}");
    drop(world);
    assert!(!directory.exists());
}

fn names_resolve_as_told() {
    let dns = Dns::empty().name("kbs.example.test", Ipv4Addr::new(127, 0, 0, 9));
    let Ok(world) = World::private().unwrap().dns(dns) else {
        println!("no /etc/resolv.conf on this machine to put another in place of");
        return;
    };
    // `hosts`, not `ahosts`: glibc gives no address to a machine that has only a loopback.
    let run = shell(&world, "getent hosts kbs.example.test; getent hosts other.example.test");
    assert!(run.stdout.starts_with("127.0.0.9 "), "{}", run.output());
    assert!(!run.stdout.contains("other"), "{}", run.output());
}

fn a_late_guest_refuses_connections_first() {
    let late = Duration::from_secs(3);
    let begun = Instant::now();
    let world = World::new().unwrap().guest(GuestApi::healthy().refused_for(late));
    assert!(world.connect("127.0.0.1:8006").is_err(), "refused at first");
    until(|| world.connect("127.0.0.1:8006").is_ok(), "never opened");
    assert!(begun.elapsed() >= late);
}

/// Not a test: what the tests above start a second time, in order to kill it.
fn helper_that_hangs_in_a_world() {
    let Some(how) = std::env::var_os(HANG) else { return };
    let world = World::new().unwrap().guest(GuestApi::healthy());
    let sleeper = world.run("/bin/sleep", &["1000"]).start();
    let holder = if world.is_private() { holder_of(&world) } else { sleeper.pid() };
    println!("\n{HANG}={}:{holder}:{}", world.directory().display(), sleeper.pid());
    assert!(how != "panic", "as told");
    sleeper.wait();
}

struct Told {
    directory: PathBuf,
    processes: Vec<i32>,
}

fn hanging_test(how: &str) -> (Child, Told) {
    let mut test = Command::new("/proc/self/exe")
        .args(["--exact", "helper_that_hangs_in_a_world", "--test-threads=1"])
        .env(HANG, how)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().strip_prefix(&format!("{HANG}=")).map(str::to_owned)).unwrap();
    // Whoever still prints must not meet a closed pipe.
    thread::spawn(move || lines.for_each(drop));
    let mut parts = line.split(':');
    let directory = PathBuf::from(parts.next().unwrap());
    (test, Told { directory, processes: parts.map(|pid| pid.parse().unwrap()).collect() })
}

fn assert_gone(told: &Told) {
    until(|| !told.directory.exists(), "the world's directory is still there");
    for pid in &told.processes {
        until(|| !runs(*pid), "a process of the world lives on");
    }
}

/// Waits on a state, with an end.
fn until(mut done: impl FnMut() -> bool, otherwise: &str) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{otherwise}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The number of a world's holder, from the path that leads into it.
fn holder_of(world: &World) -> i32 {
    world.outside("/").components().nth(2).unwrap().as_os_str().to_str().unwrap().parse().unwrap()
}

/// Whether a process runs: it is there, and no zombie that its parent has yet to collect.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn get(mut stream: TcpStream, path: &str) -> String {
    use std::io::{Read, Write};
    write!(stream, "GET {path} HTTP/1.1\r\nhost: guest\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

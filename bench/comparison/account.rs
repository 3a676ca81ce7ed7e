//! What a process and its children cost, by the kernel's own books.

use std::fs;
use std::time::Duration;

/// The process and all that descend from it, youngest last.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        at += 1;
        for task in tasks(pid) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    all
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Time on a processor, user and system, of every living thread: the scheduler's count in nanoseconds
/// (`schedstat`). `utime` and `stime` are the same time, told in hundredths of a second.
pub fn cpu(pid: u32) -> Duration {
    let mut nanoseconds = 0;
    for pid in family(pid) {
        for task in tasks(pid) {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    assert!(nanoseconds > 0, "this kernel keeps no schedstat (CONFIG_SCHED_INFO)");
    Duration::from_nanos(nanoseconds)
}

/// Memory of the processes' own, which no file backs, KiB.
pub fn anonymous(pid: u32) -> f64 {
    sum(pid, "smaps_rollup", "Anonymous:")
}

/// Resident set, KiB.
pub fn resident(pid: u32) -> f64 {
    sum(pid, "status", "VmRSS:")
}

fn sum(pid: u32, file: &str, key: &str) -> f64 {
    let one = |pid: u32| -> f64 {
        let path = format!("/proc/{pid}/{file}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("{path}: no {key}"))
    };
    family(pid).into_iter().map(one).sum()
}

//! System calls: what the roles use, what they have no use for, and what nobody but an intruder asks for.
//!
//! Two filters, of which the kernel takes the stricter answer:
//!
//! - `DEADLY` ends the process. None of it is in any path of ours: whoever calls it is not us.
//! - What is not in `USED` is answered with `ENOSYS`, as an old kernel would. It is not deadly: a
//!   later C library may try a call that is newer than this list, and has to cope with kernels that
//!   lack it. `EPERM` would be taken for an answer, and break what falls back.
//!
//! Some calls are allowed with some arguments only: sockets of UDP, TCP and unix; threads, but no
//! processes; memory that is never code; signals to ourselves. The lists hold for x86-64 and arm64;
//! calls of another architecture (32-bit, on x86-64) end the process.

use std::collections::BTreeMap;
use std::fmt;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Outcome;

/// The filters hold, for every thread there is and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// System calls that may be made.
    pub allowed: usize,
    /// System calls that end the process.
    pub deadly: usize,
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls allowed, {} end the process, others are not there", self.allowed, self.deadly)
    }
}

/// Applies both. Also sets `no_new_privs`, without which the kernel takes no filter from us.
pub fn restrict() -> Outcome<Calls> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Outcome::Off("there is no list for this architecture");
    };
    let Ok((deadly, allowed)) = deadly().and_then(|deadly| Ok((deadly, allowed(std::process::id())?))) else {
        return Outcome::Off("the lists cannot be written as rules");
    };
    let calls = Calls { allowed: allowed.len(), deadly: deadly.len() };
    let Ok(programs) = compile(deadly, allowed, arch) else {
        return Outcome::Off("the lists cannot be compiled");
    };
    for program in &programs {
        if let Err(error) = apply_filter_all_threads(program) {
            return Outcome::Off(why(&error));
        }
    }
    Outcome::On(calls)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Refused = seccompiler::BackendError;

/// The deadly one goes first: the second no longer lets a filter be added.
fn compile(deadly: Rules, allowed: Rules, arch: TargetArch) -> Result<[BpfProgram; 2], Refused> {
    let missing = u32::try_from(libc::ENOSYS).unwrap_or_default();
    let deadly = SeccompFilter::new(deadly, SeccompAction::Allow, SeccompAction::KillProcess, arch)?;
    let allowed = SeccompFilter::new(allowed, SeccompAction::Errno(missing), SeccompAction::Allow, arch)?;
    Ok([deadly.try_into()?, allowed.try_into()?])
}

fn why(error: &seccompiler::Error) -> &'static str {
    let errno = match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error.raw_os_error(),
        _ => None,
    };
    match errno {
        Some(libc::ENOSYS | libc::EINVAL) => "this kernel has no seccomp filters",
        Some(libc::EPERM | libc::EACCES) => "the container runtime does not let us add a filter",
        _ => "the kernel did not take the filter",
    }
}

/// What ends the process. Nothing here is in a path of ours; a test holds [`USED`] to that.
const DEADLY: &[c_long] = &[
    // Other programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, roots, namespaces: what the proof of memory rests on.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    // Code for the kernel, and ways into it that filters do not see.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    // Keys, credentials, and the machine's own settings.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
];

/// The same, where the architecture has more of it.
#[cfg(target_arch = "x86_64")]
const DEADLY_HERE: &[c_long] =
    &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_mknod, libc::SYS_modify_ldt, libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const DEADLY_HERE: &[c_long] = &[];

/// What the static binary uses, whatever the arguments: as seen with strace over every test of the
/// roles, and what the C library and the runtime may fall back to.
const USED: &[c_long] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    // Files: which ones is for Landlock to say.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_symlinkat,
    libc::SYS_renameat,
    libc::SYS_fchmod,
    // The mode of a socket that the app dials.
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsync,
    libc::SYS_flock,
    // Sockets: which ones is said below, and by Landlock.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Memory: whether it may be code is said below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, their ends, signals to ourselves.
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What the kernel is asked about us, and about the time.
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_sysinfo,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // The next layer, which only takes away.
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// The older names that x86-64 has beside them.
#[cfg(target_arch = "x86_64")]
const USED_HERE: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
];
#[cfg(not(target_arch = "x86_64"))]
const USED_HERE: &[c_long] = &[];

/// Flags of clone(2) that begin a namespace. A thread has none of them.
const NAMESPACES: [c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// `SNP_GET_REPORT` and its neighbours of `linux/sev-guest.h`: `_IOWR('S', n, 32 bytes)`, n below 256.
const SEV_GUEST: u64 = 0xc020_5300;

/// Options of prctl(2): the name of a thread, `no_new_privs` (once more, before Landlock), and the
/// names that the C library gives its memory (`PR_SET_VMA`, `linux/prctl.h`).
const PRCTL: [u64; 3] = [15, 38, 0x5356_4d41];

fn deadly() -> Result<Rules, Refused> {
    let mut rules: Rules = DEADLY.iter().chain(DEADLY_HERE).map(|call| (*call, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| unsigned(*flag));
    rules.insert(
        libc::SYS_clone,
        namespaces
            .map(|flag| rule(vec![SeccompCondition::new(0, Qword, MaskedEq(flag), flag)?]))
            .collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

fn allowed(pid: u32) -> Result<Rules, Refused> {
    let mut rules: Rules = USED.iter().chain(USED_HERE).map(|call| (*call, Vec::new())).collect();
    let condition = SeccompCondition::new;
    // Memory is data, or it was code when we began.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(vec![condition(2, Dword, MaskedEq(unsigned(libc::PROT_EXEC)), 0)?])?]);
    }
    // Threads, not processes. clone3 hides its flags from filters: without it the C library uses clone.
    let thread = unsigned(libc::CLONE_VM | libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, vec![rule(vec![condition(0, Qword, MaskedEq(thread), thread)?])?]);
    let mut sockets = Vec::new();
    for (family, kind, protocol) in SOCKETS {
        sockets.push(rule(vec![
            condition(0, Dword, Eq, unsigned(family))?,
            // Without SOCK_NONBLOCK and SOCK_CLOEXEC, which are written beside it.
            condition(1, Dword, MaskedEq(0xf), unsigned(kind))?,
            condition(2, Dword, Eq, unsigned(protocol))?,
        ])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(
        libc::SYS_ioctl,
        vec![
            rule(vec![condition(1, Dword, Eq, libc::FIONBIO)?])?,
            rule(vec![condition(1, Dword, Eq, libc::FIOCLEX)?])?,
            // Whether standard error is a terminal.
            rule(vec![condition(1, Dword, Eq, libc::TCGETS)?])?,
            rule(vec![condition(1, Dword, MaskedEq(0xffff_ff00), SEV_GUEST)?])?,
        ],
    );
    let options = PRCTL.map(|option| rule(vec![condition(0, Dword, Eq, option)?]));
    rules.insert(libc::SYS_prctl, options.into_iter().collect::<Result<_, _>>()?);
    // Our own limits, not another's: 0 is ourselves.
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![condition(0, Dword, Eq, 0)?])?]);
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(vec![condition(0, Dword, Eq, u64::from(pid))?])?]);
    }
    Ok(rules)
}

/// Family, kind and protocol of every socket that is made. No MPTCP, which Landlock's rules for TCP do
/// not see; no netlink, no packets, no vsock, none of the kernel's cryptography.
const SOCKETS: [(c_int, c_int, c_int); 10] = [
    (libc::AF_UNIX, libc::SOCK_STREAM, 0),
    (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET6, libc::SOCK_DGRAM, 0),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
];

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Refused> {
    SeccompRule::new(conditions)
}

/// A constant of the C library, as the kernel's filter sees it. None is negative.
fn unsigned(constant: c_int) -> u64 {
    u64::from(constant.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_used_and_deadly() {
        let (deadly, allowed) = (deadly().unwrap(), allowed(1).unwrap());
        let both: Vec<_> =
            deadly.keys().filter(|call| **call != libc::SYS_clone && allowed.contains_key(call)).collect();
        assert!(both.is_empty(), "{both:?}");
    }

    #[test]
    fn no_call_is_listed_twice() {
        assert_eq!(deadly().unwrap().len(), DEADLY.len() + DEADLY_HERE.len() + 1);
        // mmap, mprotect, clone, socket, ioctl, prctl, prlimit64, kill, tgkill.
        assert_eq!(allowed(1).unwrap().len(), USED.len() + USED_HERE.len() + 9);
    }

    #[test]
    fn the_lists_compile_for_both_architectures() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            let [deadly, allowed] = compile(deadly().unwrap(), allowed(1).unwrap(), arch).unwrap();
            assert!(deadly.len() > DEADLY.len() && allowed.len() > USED.len());
        }
    }
}

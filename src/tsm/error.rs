//! Why there is no report, and what to do about it.

use rustix::io::Errno;

use super::provider::Provider;
use super::worker::Step;
use crate::finding::{Class, Finding, Who};
use crate::ports::tsm_fs::OpenError;

/// `SYSFS_MAGIC`, `f_type` of statfs (`linux/magic.h`).
pub(super) const SYSFS: u64 = 0x6265_6572;

/// What exposes configfs to a container.
const EXPOSE: &str = "add a hostPath volume for `/sys/kernel/config` to the pod and mount it read-write at the same \
                      path, or leave `configfs-tsm` out of `[kbs].via`";

/// Why there is no report. No variant holds a byte that came from the kernel's blobs or from the
/// host; numbers and names are ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `/sys/kernel/config` is not there at all.
    #[error("/sys/kernel/config does not exist")]
    Absent,
    /// The directory of the reports cannot be opened.
    #[error("/sys/kernel/config/tsm/report cannot be opened ({})", name(*.errno))]
    Open {
        /// What the kernel said.
        errno: Errno,
    },
    /// Something else is in configfs's place.
    #[error("/sys/kernel/config is not configfs but {}", fs_name(*.f_type))]
    NotConfigfs {
        /// `f_type` of statfs.
        f_type: u64,
    },
    /// configfs without reports.
    #[error("the kernel's configfs has no tsm/report")]
    NoReports,
    /// A provider outside the known set.
    #[error("the kernel's `provider` is none of tdx_guest, sev_guest, sev-guest, arm_cca_guest")]
    UnknownProvider,
    /// A call on an entry failed.
    #[error("to {} {} failed with {} ({tries} tries)", .step.verb, .step.what, name(*.errno))]
    Call {
        /// Which call.
        step: Step,
        /// What the kernel said last.
        errno: Errno,
        /// How often it was made.
        tries: u32,
    },
    /// The kernel did not come back.
    #[error("the provider did not answer before the deadline: it still holds up `{} {}`", .step.verb, .step.what)]
    Deadline {
        /// What it holds up.
        step: Step,
    },
    /// Too many threads wait already.
    #[error("{} reports are waiting for the kernel already", super::worker::MOST)]
    Crowded,
    /// A text attribute that is not of the kernel's form.
    #[error("`{attribute}` is not what the kernel writes there")]
    Malformed {
        /// Which.
        attribute: &'static str,
    },
    /// Not all bytes were taken.
    #[error("`{attribute}` took {count} bytes of what was written to it")]
    ShortWrite {
        /// Which.
        attribute: &'static str,
        /// How many.
        count: usize,
    },
    /// The write went well and its commit did not.
    #[error("the kernel did not take over `inblob`: `generation` did not change at close")]
    NotCommitted,
    /// Another process writes to the entry.
    #[error("`generation` is {found} where our own write made {ours}: another process writes to the entry")]
    Contended {
        /// The generation of our write.
        ours: u64,
        /// The one that is there.
        found: u64,
    },
    /// No bytes, and no error either.
    #[error("`outblob` of {} is empty, and the kernel reports no error", .provider.label())]
    Empty {
        /// Who signs.
        provider: Provider,
    },
    /// A blob beyond the cap.
    #[error("`{attribute}` has more than {max} bytes")]
    TooLarge {
        /// Which.
        attribute: &'static str,
        /// The cap.
        max: usize,
    },
    /// A report of another form.
    #[error("`outblob` ({bytes} bytes) does not have the form of {}", .provider.label())]
    Shape {
        /// Who signs.
        provider: Provider,
        /// Its length.
        bytes: usize,
    },
    /// A report for other bytes.
    #[error("the report of {} is not for the 64 bytes that were asked for", .provider.label())]
    Echo {
        /// Who signs.
        provider: Provider,
    },
    /// More privileged than the kernel allows.
    #[error("privilege level {wanted} is below the kernel's `privlevel_floor` {floor}")]
    BelowFloor {
        /// Asked for.
        wanted: u32,
        /// The least.
        floor: u32,
    },
    /// A level where there are none.
    #[error("privilege level {wanted} was asked for, and this provider has no `privlevel`")]
    NoPrivlevels {
        /// Asked for.
        wanted: u32,
    },
    /// No SVSM.
    #[error("a service of the SVSM was asked for, and this provider has no `service_provider`")]
    NoService,
    /// Not a GUID.
    #[error("the service's GUID is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
    ServiceGuid,
    /// Not a name.
    #[error("the name of the entry is not 1 to 64 letters, digits, `-`, `_` or `.`")]
    EntryName,
    /// A file of sysfs is not what the kernel's own would be.
    #[error("{file} {problem}")]
    Sysfs {
        /// Path in `/sys`.
        file: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The device.
    #[error("/dev/sev-guest {0}")]
    Device(&'static str),
    /// The quote names another MRCONFIGID than the running guest has.
    #[error("the quote's MRCONFIGID is not the one that the kernel measured for this guest")]
    OtherGuest,
    /// The kernel has no randomness.
    #[error("the kernel gives no randomness")]
    NoRandomness,
    /// A worker could not be started, or died.
    #[error("the thread that waits for the kernel could not be started, or died")]
    Worker,
}

impl Error {
    pub(super) fn open(error: OpenError) -> Self {
        match (error.config, error.errno) {
            (None, Errno::NOENT) => Self::Absent,
            (Some(super::CONFIGFS), Errno::NOENT) => Self::NoReports,
            (None | Some(super::CONFIGFS), errno) => Self::Open { errno },
            (Some(f_type), _) => Self::NotConfigfs { f_type },
        }
    }

    /// Whether this guest does not offer the way at all, so that the next one is to be taken. All
    /// else is a way that is there and fails.
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Absent
                | Self::NotConfigfs { f_type: SYSFS }
                | Self::NoReports
                | Self::Call { step: Step { verb: "make", .. }, errno: Errno::NXIO, .. }
                | Self::Device("does not exist")
        )
    }

    /// The finding.
    pub fn finding(&self) -> Finding {
        let class = match self {
            Self::Worker => Class::Bug,
            Self::ServiceGuid | Self::EntryName => Class::Config,
            _ => Class::NoEvidence,
        };
        let finding = Finding::new(class, self.to_string());
        match self {
            Self::Call { step, errno, .. } => call(finding, *step, *errno),
            Self::Open { errno } => open(finding, *errno),
            _ => self.explain(finding),
        }
    }

    fn explain(&self, finding: Finding) -> Finding {
        match self {
            Self::Absent => finding.why("the kernel has no configfs, or this container does not see it").next(EXPOSE),
            Self::NotConfigfs { f_type: SYSFS } => finding
                .why("configfs is not mounted in this container: the directory is sysfs's own, and empty")
                .next(EXPOSE),
            Self::NotConfigfs { .. } => finding
                .why(
                    "whoever writes the pod's manifest can mount any directory there and fill it with what looks \
                     like a report; only the kernel's own file system is believed",
                )
                .next("mount the guest's own configfs with a hostPath volume for `/sys/kernel/config`, nothing else"),
            Self::NoReports => finding
                .why("the kernel is older than 6.7, or its module `tsm_report` (`tsm` before 6.17) is not loaded")
                .next("use a guest image with CONFIG_TSM_REPORTS, and load the module and the TEE's guest driver at boot"),
            Self::UnknownProvider => finding
                .why("what an unknown provider signs cannot be judged, and may be for tests only")
                .next("run the pod with a runtimeClass for SEV-SNP, TDX or Arm CCA, or upgrade countersign"),
            Self::Deadline { .. } => finding
                .why("the host or its quoting service hangs; the kernel makes one report at a time, so all others hang too")
                .next("check the host's quote generation service (`qgsd`) or SEV firmware, then restart the pod"),
            Self::Crowded => finding
                .why("a provider that hangs holds up every report of the guest")
                .next("check the host's quote generation service (`qgsd`) or SEV firmware, then restart the pod"),
            Self::Empty { provider: Provider::Tdx } => finding
                .why("the kernel does so when the host's quote generation service cannot be reached or has no PCK certificate")
                .next("start `qgsd` on the host, check the VM's `quote-generation-socket`, and register the platform for PCK certificates"),
            Self::Empty { .. } => finding
                .why("the host's firmware gave an answer without a report")
                .next("read the guest kernel's log with `dmesg`, and update the host's firmware"),
            Self::NotCommitted | Self::Malformed { .. } | Self::ShortWrite { .. } => finding
                .why("the kernel's own files never do so: it is of a version that we do not know, or not the kernel")
                .next("report this with the output of `uname -r` in the guest"),
            Self::Contended { .. } => finding
                .why("a report is read only under the generation of our own write, or it may be somebody else's")
                .next("give every container an entry of its own below `/sys/kernel/config/tsm/report`"),
            Self::TooLarge { .. } => finding
                .why("no known provider makes so large a blob; what is cut is not evidence, so nothing is read")
                .next("report this with the TEE, and the output of `uname -r` in the guest"),
            Self::Shape { .. } => finding
                .why("a report whose form is not known cannot be shown to be for our request")
                .next("upgrade countersign, or take another way in `[kbs].via`"),
            Self::Echo { .. } => finding
                .why("it is an old report, or one made for somebody else: it proves nothing about this request")
                .next("check the guest kernel and the host's quoting service for a cache of reports, and restart the pod")
                .who(Who::AppSecurity),
            Self::BelowFloor { floor, .. } => finding
                .why("the guest runs at a less privileged level, so a service module (SVSM) is below it")
                .next(format!("use privilege level {floor} or above, and reference values for a guest with an SVSM")),
            Self::NoPrivlevels { .. } => finding
                .why("only SEV-SNP has privilege levels")
                .next("leave the privilege level out of the request, or use a runtimeClass for SEV-SNP"),
            Self::NoService => finding
                .why("the guest has no SVSM, or its kernel cannot ask one (6.11 and later can)")
                .next("use a runtimeClass whose guests have an SVSM, or leave the service out of the request"),
            Self::ServiceGuid => finding.next("correct the GUID of the SVSM's service"),
            Self::EntryName => finding.next("correct the name of the entry: the part after `/sys/kernel/config/tsm/report/`"),
            Self::Sysfs { .. } => finding
                .why("sysfs is asked which device and which measurements are the kernel's own; without it nothing says so")
                .next("mount the guest's own sysfs at `/sys`, and nothing over it"),
            Self::Device("does not exist") => finding
                .why("the kernel drives no SEV-SNP guest device, or this container does not see it")
                .next("expose `/dev/sev-guest` to the container, or leave `sev-guest` out of `[kbs].via`"),
            Self::Device(_) => finding
                .why("the kernel or the host's firmware refused; after a failed request the kernel closes the channel for good (ENOTTY)")
                .next("read the guest kernel's log with `dmesg` for `sev-guest`, and restart the pod"),
            Self::OtherGuest => finding
                .why("the quote was made for another guest, or one of the two values was forged")
                .next("check what is mounted over `/sys` and `/sys/kernel/config` in the pod")
                .who(Who::AppSecurity),
            _ => finding,
        }
    }
}

/// The directory itself.
fn open(finding: Finding, errno: Errno) -> Finding {
    match errno {
        Errno::ACCESS | Errno::PERM => finding
            .why("a security profile keeps this container away from configfs")
            .next("allow `/sys/kernel/config/tsm` in the container's AppArmor or SELinux profile"),
        Errno::LOOP | Errno::NOTDIR => finding
            .why("a part of the path is a link or a file: configfs has neither there, so something is mounted over it")
            .next("remove what the pod mounts at or below `/sys/kernel/config`"),
        _ => finding
            .why("configfs cannot be used as the kernel makes it")
            .next("mount the guest's own configfs with a hostPath volume for `/sys/kernel/config`"),
    }
}

/// A call on an entry: the same errno means different things at different steps.
fn call(finding: Finding, step: Step, errno: Errno) -> Finding {
    let (why, next) = match (step.verb, step.what, errno) {
        ("make", _, Errno::NXIO) => (
            "no provider is registered: this is no confidential guest, or its driver is not loaded",
            "run the pod with a confidential runtimeClass, and load `sev-guest`, `tdx_guest` or `arm_cca_guest` in the guest image",
        ),
        ("make", _, Errno::ACCESS | Errno::PERM) => (
            "only root may make entries, and a security profile may deny even that",
            "run the container as uid 0 (no capability is needed), or let root make an entry and give it to this uid with `chown -R`",
        ),
        (_, _, Errno::ROFS) => (
            "configfs is mounted read-only in this container",
            "remove `readOnly` from the container's volumeMount of `/sys/kernel/config`",
        ),
        ("make", _, Errno::EXIST) => (
            "64 random bits do not meet by accident: the guest's randomness is broken",
            "check that the guest's kernel has a source of randomness, and restart the pod",
        ),
        ("make", _, Errno::NOENT) | (_, _, Errno::XDEV | Errno::LOOP) => (
            "something is mounted over the kernel's files, or the mount is gone",
            "remove what the pod mounts below `/sys/kernel/config`",
        ),
        (_, _, Errno::ACCESS | Errno::PERM) => (
            "the entry belongs to another user, or the attribute does not allow this",
            "give the entry and its files to this uid with `chown -R`, or run the container as uid 0",
        ),
        (_, "privlevel", Errno::INVAL) => (
            "the kernel takes a level from `privlevel_floor` to 3 only",
            "use a privilege level that `privlevel_floor` allows",
        ),
        (_, "service_provider" | "service_guid" | "service_manifest_version", Errno::INVAL) => (
            "the kernel does not take this service, GUID or version",
            "correct the SVSM's service in the request, or leave it out",
        ),
        ("read", "outblob", Errno::INVAL) => (
            "the provider does not take this request: `inblob` was lost or too short, or the level or service is not its own",
            "read the guest kernel's log with `dmesg`, and report this with the output of `uname -r`",
        ),
        (_, _, Errno::FBIG) => (
            "the kernel's own limit for this blob was exceeded (64 bytes in; 32 KiB or 16 MiB out)",
            "report this with the TEE, and the output of `uname -r` in the guest",
        ),
        (_, _, Errno::NOENT) => (
            "the entry or its attribute is not there: the entry was removed, or the provider does not show it",
            "let nothing else clean up below `/sys/kernel/config/tsm/report`, or make the entry again",
        ),
        (_, _, Errno::NXIO) => {
            ("the provider was unloaded meanwhile", "keep the TEE's guest driver loaded in the guest image")
        }
        (_, _, Errno::BUSY | Errno::AGAIN | Errno::INTR) => (
            "the kernel or the host was busy until the deadline; SEV firmware is rate limited, and a TDX quote waits for the host",
            "raise `deadline`, or start fewer pods at a time on the node",
        ),
        (_, _, Errno::TIMEDOUT) => (
            "the host did not answer the kernel: its quote generation service or firmware does not run",
            "start `qgsd` on the host (TDX), or check the host's SEV firmware, and restart the pod",
        ),
        (_, _, Errno::NOTTY) => (
            "the kernel has closed its channel to the SEV firmware after a failed request, for as long as the guest runs",
            "restart the pod, and read the guest kernel's log with `dmesg` for the first failure",
        ),
        (_, _, Errno::IO | Errno::FAULT) => (
            "the firmware, the TDX module or the host's quoting service failed",
            "read the guest kernel's log with `dmesg`, and the host's log of `qgsd` or of its SEV firmware",
        ),
        (_, _, Errno::NOMEM | Errno::NOSPC) => ("the guest has no memory left", "raise the pod's memory limit"),
        _ => (
            "the kernel failed in a way that configfs-tsm does not document",
            "read the guest kernel's log with `dmesg`, and report this with the output of `uname -r`",
        ),
    };
    finding.why(why).next(next)
}

/// The errno's name where it is one that occurs here.
fn name(errno: Errno) -> String {
    const NAMES: &[(Errno, &str)] = &[
        (Errno::ACCESS, "EACCES"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::FAULT, "EFAULT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::INTR, "EINTR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NXIO, "ENXIO"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::PERM, "EPERM"),
        (Errno::ROFS, "EROFS"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::XDEV, "EXDEV"),
    ];
    let known = NAMES.iter().find(|(known, _)| *known == errno);
    known.map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

/// Names of file systems that people mount there by mistake or on purpose, for the message only.
fn fs_name(f_type: u64) -> String {
    let name = match f_type {
        SYSFS => "sysfs (configfs is not mounted)",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlay",
        0x6573_5546 => "fuse (virtiofs shares are fuse too)",
        0x0102_1997 => "9p",
        0x9fa0 => "proc",
        _ => return format!("a file system of type {f_type:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;

//! This program and the machine it runs on, as procfs and sysfs tell it.
//!
//! All of it is for people. The control plane can mount other files there, so no decision rests on
//! anything here: which TEE it is, only a report shows.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Ports;
use crate::check::{Check, Outcome};
use crate::finding::{Class, Finding, Who, printable};

/// Most bytes of a small file of the kernel. `/proc/cpuinfo` says on its first page what is looked for.
const MAX_BYTES: u64 = 16 * 1024;

/// First kernel with `/sys/kernel/config/tsm/report` (commit 70e6f7e2b985, "configfs-tsm").
const TSM_KERNEL: (u32, u32) = (6, 7);

/// Seconds from 1970 to the year 10000, which HTTP's form of a date does not have.
const YEAR_10000: u64 = 253_402_300_800;

/// The chassis asset tag of every Azure VM (waagent and cloud-init look for it).
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

/// Which program this is.
pub const BINARY: Check =
    Check::new("self.binary", "which countersign is this", "reports name it, and the image's digest pins it").cheap();

/// Which kernel.
pub const KERNEL: Check =
    Check::new("self.kernel", "which kernel", "only Linux 6.7 and later show reports in configfs").cheap();

/// A pod, or a shell.
pub const PLACE: Check =
    Check::new("guest.place", "is this a pod", "`init` waits for a guest's services only in a pod").cheap();

/// Which kind of machine.
pub const TEE: Check = Check::new(
    "guest.tee",
    "which TEE is this",
    "outside a confidential guest nothing can be proven, and no secret is released",
)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&BINARY, &KERNEL, &PLACE, &TEE]
}

/// Version, and who runs it.
pub fn binary() -> Outcome {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let unix = option_env!("COUNTERSIGN_COMMITTED").and_then(|text| text.parse::<u64>().ok());
    let committed = unix.filter(|unix| *unix < YEAR_10000).map_or_else(
        || "a build without a commit date".to_owned(),
        |unix| format!("committed {}", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(unix))),
    );
    Outcome::Pass(format!("countersign {}, {committed}, uid {uid}, gid {gid}", env!("CARGO_PKG_VERSION")))
}

/// The kernel's release.
pub fn kernel(proc: &Path) -> Outcome {
    let Some(release) = text(&proc.join("sys/kernel/osrelease")) else {
        return Outcome::Warn(
            Finding::new(Class::Config, "the kernel's release cannot be read: /proc is not mounted")
                .why("mounts, swap and listeners are read from procfs; without it destinations are refused")
                .next("mount procfs at `/proc` in the container, as every runtime does by default")
                .who(Who::Platform),
        );
    };
    let shown = printable(release.trim(), 60);
    match version(&release) {
        Some(version) if version < TSM_KERNEL => Outcome::Warn(
            Finding::new(Class::NoEvidence, format!("Linux {shown} is older than 6.7"))
                .why("configfs-tsm came with 6.7: evidence comes from `/dev/sev-guest` or the agent only")
                .next("use a guest image with Linux 6.7 or later, or leave `configfs-tsm` out of `[kbs].via`")
                .who(Who::Platform),
        ),
        _ => Outcome::Pass(format!("Linux {shown}")),
    }
}

/// Whether anything says that this is a pod.
pub fn place(in_a_pod: bool) -> Outcome {
    let init = if std::process::id() == 1 { ", process 1 of its container" } else { "" };
    Outcome::Pass(if in_a_pod {
        format!("a pod{init}")
    } else {
        "no pod: a shell, or a service of the guest".to_owned()
    })
}

/// What kind of machine this is. `kernel` says which reports the kernel offers to this process, `answers`
/// that a guest's service does: then there is something to prove with, whatever sysfs shows. `told` is
/// the agent's own word for its TEE.
pub fn tee(ports: &Ports, kernel: Option<String>, answers: bool, told: Option<&str>) -> Outcome {
    let offered = kernel.is_some() || answers;
    let mut signs = signs(&ports.proc, &ports.sys);
    signs.extend(kernel);
    if let Some(told) = told {
        signs.push(format!("the guest's agent says `{}`", printable(told, 32)));
    }
    match (signs.is_empty(), offered) {
        (false, true) => Outcome::Pass(signs.join("; ")),
        (true, true) => Outcome::Pass(
            "this container sees nothing of the hardware; the guest's own services attest for it".to_owned(),
        ),
        (false, false) => Outcome::Warn(
            Finding::new(
                Class::NoEvidence,
                format!("{}, and this container is offered no way to it", signs.join("; ")),
            )
            .why("a TEE that shows a container nothing cannot be used by it")
            .next("expose one of the ways of docs/roles/platform.md to the container")
            .who(Who::Platform),
        ),
        (true, false) => Outcome::Fail(
            Finding::new(Class::NoEvidence, "this is not a TEE: no report, no guest device, and no guest service")
                .why("nothing here can prove anything, and secrets are released to confidential guests only")
                .next("run the pod with a confidential runtimeClass (`kubectl get runtimeclass`), and `diagnose` in it")
                .who(Who::AppDeveloper),
        ),
    }
}

/// What the machine says of itself, in words of ours.
fn signs(proc: &Path, sys: &Path) -> Vec<String> {
    let flags = text(&proc.join("cpuinfo")).unwrap_or_default();
    let flag = |name: &str| flags.split_ascii_whitespace().any(|word| word == name);
    let device = |name: &str| sys.join("devices/virtual/misc").join(name).is_dir();
    let mut signs: Vec<String> = Vec::new();
    if device("sev-guest") {
        signs.push("SEV-SNP: the kernel drives the guest device".to_owned());
    }
    if device("tdx_guest") || flag("tdx_guest") {
        signs.push("TDX: the kernel runs as a trust domain".to_owned());
    }
    if device("arm_cca_guest") || sys.join("devices/virtual/misc/arm-cca-guest").is_dir() {
        signs.push("Arm CCA: the kernel runs in a realm".to_owned());
    }
    let vtpm = sys.join("class/tpm/tpm0").exists();
    let vmbus = sys.join("bus/vmbus").is_dir();
    let azure = text(&sys.join("class/dmi/id/chassis_asset_tag")).is_some_and(|tag| tag.trim() == AZURE_TAG);
    if signs.is_empty() && vmbus && vtpm {
        // The paravisor keeps the hardware to itself, and puts its report into the vTPM.
        let whose = if azure { "Azure" } else { "Hyper-V" };
        signs.push(format!(
            "{whose} with a vTPM: if it is confidential, a paravisor has the report, and the agent must ask the vTPM"
        ));
    }
    signs
}

/// `major.minor` of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The start of a small text file; `None` where it cannot be read.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Variables that name a proxy, as they are spelled.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Proxies that the environment names. None is used: who writes the pod's environment must not choose
/// whom we talk through.
pub fn proxies(ports: &Ports) -> Vec<&'static str> {
    PROXIES.into_iter().filter(|name| ports.env.contains_key(&OsString::from(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_by_its_release() {
        assert_eq!(version("6.6.87-generic\n"), Some((6, 6)));
        assert_eq!(version("6.12.0-rc1"), Some((6, 12)));
        assert_eq!(version("linux"), None);
        assert!(version("6.7.0") >= Some(TSM_KERNEL) && version("5.15.0") < Some(TSM_KERNEL));
    }

    #[test]
    fn a_machine_is_told_by_what_its_kernel_drives() {
        let root = std::env::temp_dir().join(format!("countersign-host-{}", std::process::id()));
        let (proc, sys) = (root.join("proc"), root.join("sys"));
        std::fs::create_dir_all(&proc).unwrap();
        let tells = |sign: &str| signs(&proc, &sys).iter().any(|said| said.starts_with(sign));
        assert!(signs(&proc, &sys).is_empty());
        std::fs::create_dir_all(sys.join("bus/vmbus")).unwrap();
        assert!(signs(&proc, &sys).is_empty(), "a vmbus alone is any Hyper-V guest");
        std::fs::create_dir_all(sys.join("class/tpm/tpm0")).unwrap();
        assert!(tells("Hyper-V with a vTPM"));
        std::fs::create_dir_all(sys.join("class/dmi/id")).unwrap();
        std::fs::write(sys.join("class/dmi/id/chassis_asset_tag"), format!("{AZURE_TAG}\n")).unwrap();
        assert!(tells("Azure with a vTPM"));
        std::fs::write(proc.join("cpuinfo"), "flags\t\t: fpu tdx_guest hypervisor\n").unwrap();
        assert!(tells("TDX") && !tells("Azure"));
        std::fs::create_dir_all(sys.join("devices/virtual/misc/sev-guest")).unwrap();
        assert!(tells("SEV-SNP"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}

//! What `diagnose` asks about the kernel's ways to evidence.

use std::path::Path;

use super::{Boot, Error, SevGuest, Tsm};
use crate::check::{Check, Outcome};
use crate::ports::tsm_fs::TsmFs;

/// Whether configfs shows reports.
pub const CONFIGFS: Check = Check::new(
    "guest.configfs",
    "does the kernel's configfs show reports",
    "it is the way to evidence that needs no agent, and the one that makes configuration `measured`",
)
.cheap();

/// Whether there is a guest device.
pub const DEVICE: Check = Check::new(
    "guest.device",
    "is /dev/sev-guest the kernel's device",
    "on SEV-SNP it gives evidence where configfs is not shown",
)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&CONFIGFS, &DEVICE]
}

/// Opens the directory of the reports. Makes nothing in it.
pub fn configfs(fs: &dyn TsmFs, proc: &Path) -> Outcome {
    told(Tsm::open(fs, Boot::kernel(proc)).map(|_| "/sys/kernel/config/tsm/report is the kernel's own"))
}

/// Judges the device, without opening it.
pub fn device(sys: &Path) -> Outcome {
    told(SevGuest::open(sys).map(|_| "/dev/sev-guest is the device that sysfs lists"))
}

/// A way that is not offered is no broken link: another one may be.
fn told(shown: Result<&str, Error>) -> Outcome {
    match shown {
        Ok(saw) => Outcome::Pass(saw.to_owned()),
        Err(error) if error.is_absent() => Outcome::Skip(format!("not offered: {error}")),
        Err(error) => Outcome::Fail(error.finding()),
    }
}

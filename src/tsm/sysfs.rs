//! What sysfs says about the TEE: which device is the kernel's, and what a TD was started with.
//!
//! A directory that is not sysfs is refused, since anything can be mounted at `/sys`.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::error::SYSFS;

/// Device number of the SNP guest device, `major:minor` and a newline.
const SEV_GUEST: &str = "devices/virtual/misc/sev-guest/dev";

/// MRCONFIGID of the running TD, 48 bytes (`sysfs-devices-virtual-misc-tdx_guest`, Linux 6.16).
const MRCONFIGID: &str = "devices/virtual/misc/tdx_guest/measurements/mrconfigid";

/// The CC event log (ACPI 6.5 §5.2.34), as the kernel's `acpi_data_ccel` shows it.
const CCEL: &str = "firmware/acpi/tables/data/CCEL";

/// Where the files above are, below `/sys`: all of sysfs that is read.
pub const DIRECTORIES: [&str; 2] = ["devices/virtual/misc", "firmware/acpi/tables/data"];

/// Most bytes of it: firmware reserves 64 KiB to some MiB.
const MAX_EVENT_LOG: usize = 4 * 1024 * 1024;

/// Longest text of a device number: two `u32` and two more characters.
const DEVICE_TEXT: usize = 22;

/// MRCONFIGID as the kernel measured it, not as a quote claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MrConfigId([u8; 48]);

impl MrConfigId {
    /// Compares it with what a quote of this guest says.
    pub fn confirm(&self, claimed: &[u8; 48]) -> Result<(), Error> {
        if self.0 == *claimed { Ok(()) } else { Err(Error::OtherGuest) }
    }
}

/// The kernel's MRCONFIGID, where it has one: `None` outside a TD and before Linux 6.16.
pub fn mr_config_id(sys: &Path) -> Result<Option<MrConfigId>, Error> {
    const FILE: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/mrconfigid";
    let Some(bytes) = read(sys, MRCONFIGID, FILE, 49)? else { return Ok(None) };
    let value = bytes.try_into().map_err(|_| Error::Sysfs { file: FILE, problem: "does not have 48 bytes" })?;
    Ok(Some(MrConfigId(value)))
}

/// The firmware's log of what it measured into a TD, padding included, 4 MiB at most. `None` outside a
/// TD, and where the runtime masks `/sys/firmware`, as it does by default.
pub fn event_log(sys: &Path) -> Result<Option<Vec<u8>>, Error> {
    const FILE: &str = "/sys/firmware/acpi/tables/data/CCEL";
    read(sys, CCEL, FILE, MAX_EVENT_LOG)
}

/// Device number of `/dev/sev-guest`, where the kernel drives one.
pub(super) fn sev_guest(sys: &Path) -> Result<Option<(u32, u32)>, Error> {
    const FILE: &str = "/sys/devices/virtual/misc/sev-guest/dev";
    let Some(bytes) = read(sys, SEV_GUEST, FILE, DEVICE_TEXT)? else { return Ok(None) };
    device(&bytes).map(Some).ok_or(Error::Sysfs { file: FILE, problem: "is not a device number" })
}

fn device(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(':')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    Some((number(major)?, number(minor)?))
}

/// A file of sysfs, up to `most` bytes. `None` where the kernel has none.
fn read(sys: &Path, path: &str, file: &'static str, most: usize) -> Result<Option<Vec<u8>>, Error> {
    let refuse = |problem| Error::Sysfs { file, problem };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut fd: OwnedFd =
        rustix::fs::open(sys, directory, Mode::empty()).map_err(|_| refuse("cannot be reached: /sys is absent"))?;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let flags =
            if names.peek().is_some() { directory } else { OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC };
        fd = match rustix::fs::openat(&fd, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(refuse("cannot be opened")),
        };
    }
    // Of the file itself, so that nothing mounted on the way down counts.
    let stat = rustix::fs::fstatfs(&fd).map_err(|_| refuse("cannot be judged"))?;
    if u64::try_from(stat.f_type) != Ok(SYSFS) {
        return Err(refuse("is not sysfs: something is mounted there"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    File::from(fd).take(limit).read_to_end(&mut bytes).map_err(|_| refuse("cannot be read"))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_the_kernels_form_or_nothing() {
        assert_eq!(device(b"10:124\n"), Some((10, 124)));
        for bad in [&b""[..], b"10:124", b":\n", b"+1:2\n", b"1:2:3\n", b"1:2 \n", b"99999999999:1\n", b"\xff:1\n"] {
            assert_eq!(device(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn refused_sysfs_that_is_a_plain_directory() {
        let plain = std::env::temp_dir().join(format!("countersign-sys-{}", std::process::id()));
        let file = plain.join(MRCONFIGID);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, [1; 48]).unwrap();
        let refused = mr_config_id(&plain);
        std::fs::remove_dir_all(&plain).unwrap();
        assert!(matches!(refused, Err(Error::Sysfs { problem: "is not sysfs: something is mounted there", .. })));
    }

    #[test]
    fn no_tee_is_no_error() {
        // This machine, where it is no guest of that kind: absent, not refused.
        for found in [mr_config_id(Path::new("/sys")).map(|found| found.is_some()), Ok(false)] {
            assert!(found.is_ok());
        }
        assert!(sev_guest(Path::new("/sys")).is_ok());
        assert!(matches!(mr_config_id(Path::new("/nothing-here")), Err(Error::Sysfs { .. })));
    }

    #[test]
    fn refused_quote_of_another_guest() {
        let measured = MrConfigId([1; 48]);
        assert_eq!(measured.confirm(&[1; 48]), Ok(()));
        assert_eq!(measured.confirm(&[2; 48]), Err(Error::OtherGuest));
    }
}

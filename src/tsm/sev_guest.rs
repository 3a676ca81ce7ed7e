//! `/dev/sev-guest`: SNP reports for guests whose kernel or pod has no configfs-tsm.
//!
//! The ioctl is the `sev` crate's, since ours would need unsafe code. Only `SNP_GET_REPORT` is
//! asked: the crate reads the certificate table of `SNP_GET_EXT_REPORT` through raw pointers, with
//! offsets and lengths that the host wrote and nobody checks. The verifier fetches the certificate
//! by the chip's id, as it does when the host gives no table.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use sev::error::{UserApiError, VmmError};
use sev::firmware::guest::Firmware;

use super::provider::{Mismatch, Provider};
use super::report::{KernelReport, Source};
use super::worker::{Pool, Step, Watch};
use super::{Error, sysfs};

/// The fixed path, which the `sev` crate opens too.
pub const DEVICE: &str = "/dev/sev-guest";

/// Highest VMPL (AMD 56421): 0 to 3.
const MAX_VMPL: u32 = 3;

/// `/dev/sev-guest`, proven to be the device that sysfs lists.
#[derive(Clone)]
pub struct SevGuest {
    sys: PathBuf,
    pool: Pool,
}

impl SevGuest {
    /// Judges the device, without opening it. `sys` is where sysfs is mounted.
    pub fn open(sys: &Path) -> Result<Self, Error> {
        judge(sys, Path::new(DEVICE))?;
        Ok(Self { sys: sys.to_owned(), pool: Pool::default() })
    }

    /// One report for these 64 bytes at privilege level `vmpl`, 0 to 3.
    ///
    /// SNP firmware admits a request about every two seconds; the kernel waits for it, up to a
    /// minute, on a thread of its own.
    pub async fn report(&self, inblob: &[u8; 64], vmpl: u32, deadline: Instant) -> Result<KernelReport, Error> {
        let (sys, asked, watch) = (self.sys.clone(), *inblob, Watch::new());
        watch.set(Step { verb: "read", what: DEVICE });
        self.pool.run(deadline, &watch, Box::new(move || ask(&sys, asked, vmpl))).await
    }
}

fn ask(sys: &Path, asked: [u8; 64], vmpl: u32) -> Result<KernelReport, Error> {
    if vmpl > MAX_VMPL {
        return Err(Error::Device("has privilege levels 0 to 3 only"));
    }
    judge(sys, Path::new(DEVICE))?;
    let mut firmware = Firmware::open().map_err(|_| Error::Device("cannot be opened: only root may"))?;
    // Message version 1 with a 64-byte input is what every firmware takes.
    let outblob = firmware.get_report(None, Some(asked), Some(vmpl)).map_err(|error| refused(&error))?;
    finish(asked, vmpl, outblob)
}

/// The one maker of a report from this device.
fn finish(asked: [u8; 64], vmpl: u32, outblob: Vec<u8>) -> Result<KernelReport, Error> {
    let provider = Provider::Snp;
    let echo = provider.echo(&outblob, &asked).map_err(|mismatch| match mismatch {
        Mismatch::Shape => Error::Shape { provider, bytes: outblob.len() },
        Mismatch::Other => Error::Echo { provider },
    })?;
    Ok(KernelReport {
        source: Source::SevGuest,
        provider,
        asked,
        echo,
        outblob,
        auxblob: None,
        manifest: None,
        generation: None,
        privlevel: Some(vmpl),
    })
}

/// Whether `device` is the character device that sysfs lists, and nothing else of that name.
fn judge(sys: &Path, device: &Path) -> Result<(), Error> {
    let listed = sysfs::sev_guest(sys)?;
    let stat = match rustix::fs::statat(rustix::fs::CWD, device, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Err(Error::Device("does not exist")),
        Err(_) => return Err(Error::Device("cannot be looked at")),
    };
    let Some((major, minor)) = listed else { return Err(Error::Device("is there, and sysfs lists no such device")) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(Error::Device("is not a character device"));
    }
    if (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != (major, minor) {
        return Err(Error::Device("is not the device that sysfs lists"));
    }
    Ok(())
}

/// The crate's error in our words: it may quote what the host wrote.
fn refused(error: &UserApiError) -> Error {
    Error::Device(match error {
        UserApiError::VmmError(VmmError::RateLimitRetryRequest) => "is limited by the host: too many requests",
        UserApiError::VmmError(_) => "was refused by the host",
        UserApiError::FirmwareError(_) => "was refused by the firmware, or its channel is closed",
        UserApiError::VmplError => "has privilege levels 0 to 3 only",
        _ => "failed",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_device_that_is_not_there_or_not_listed() {
        let sys = Path::new("/sys");
        assert_eq!(judge(sys, Path::new("/nothing-here")), Err(Error::Device("does not exist")));
        if !Path::new(DEVICE).exists() {
            let unlisted = Error::Device("is there, and sysfs lists no such device");
            assert_eq!(judge(sys, Path::new("/dev/null")), Err(unlisted));
        }
    }

    #[test]
    fn refused_report_for_other_bytes_or_of_another_form() {
        let mut report = vec![0; 1184];
        report[0x50..0x90].copy_from_slice(&[7; 64]);
        assert!(finish([7; 64], 0, report.clone()).is_ok());
        assert!(matches!(finish([8; 64], 0, report), Err(Error::Echo { .. })));
        assert!(matches!(finish([8; 64], 0, vec![0; 100]), Err(Error::Shape { bytes: 100, .. })));
    }

    #[test]
    fn the_crates_words_are_not_ours() {
        assert_eq!(
            refused(&UserApiError::VmmError(VmmError::RateLimitRetryRequest)),
            Error::Device("is limited by the host: too many requests")
        );
    }
}

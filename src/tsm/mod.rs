//! The kernel's own reports: configfs-tsm, and `/dev/sev-guest` beside it.
//!
//! One report is: a private entry, `provider`, `privlevel`, 64 bytes into `inblob`, `outblob` and
//! `auxblob` out of it, all under one `generation`, and the entry removed. What the kernel says is
//! believed only where it is the kernel: a directory that is not configfs is refused, since whoever
//! writes the pod's manifest can mount one there.
//!
//! Source: `Documentation/ABI/testing/configfs-tsm-report`, `drivers/virt/coco`, `fs/configfs`, and
//! what a real kernel was seen to do (the testbed's conformance list holds both to it).

pub mod checks;
mod entry;
mod error;
mod name;
mod options;
mod provider;
mod report;
mod sev_guest;
mod sysfs;
mod worker;

use std::sync::Arc;
use std::time::Instant;

pub use error::Error;
pub use name::{Boot, MAX_WAIT};
pub use options::{MAX_BLOB, Options, Service};
pub use provider::{Echo, Provider};
pub use report::{KernelReport, Source};
pub use sev_guest::{DEVICE, SevGuest};
pub use sysfs::{DIRECTORIES, MrConfigId, event_log, mr_config_id};
pub use worker::Step;

use crate::ports::tsm_fs::{TsmDir, TsmFs};
use worker::{Pool, Watch};

/// `CONFIGFS_MAGIC`, `f_type` of statfs (`linux/magic.h`).
pub const CONFIGFS: u64 = 0x6265_6570;

/// configfs-tsm, opened and proven to be the kernel's.
#[derive(Clone)]
pub struct Tsm {
    dir: Arc<dyn TsmDir>,
    boot: Boot,
    pool: Pool,
}

impl Tsm {
    /// Opens the directory of the reports and judges what it is. Whether there is a provider shows
    /// at the first report. Makes nothing; does not wait.
    pub fn open(fs: &dyn TsmFs, boot: Boot) -> Result<Self, Error> {
        let dir = fs.open().map_err(Error::open)?;
        let magic = dir.magic().map_err(|errno| Error::Open { errno })?;
        if magic != CONFIGFS {
            return Err(Error::NotConfigfs { f_type: magic });
        }
        Ok(Self { dir, boot, pool: Pool::default() })
    }

    /// One report for these 64 bytes, by `deadline` or [`MAX_WAIT`] from now, whichever is first.
    ///
    /// Dropping the future ends the wait, not the work: the thread finishes and removes its entry.
    pub async fn report(&self, inblob: &[u8; 64], options: &Options, deadline: Instant) -> Result<KernelReport, Error> {
        let job = self.job(inblob, options, deadline);
        let (until, watch) = (job.until, job.watch.clone());
        self.pool.run(until, &watch, Box::new(move || job.run())).await
    }

    /// The same for a caller without a runtime: blocks his thread, till the deadline at most.
    pub fn report_blocking(
        &self,
        inblob: &[u8; 64],
        options: &Options,
        deadline: Instant,
    ) -> Result<KernelReport, Error> {
        let job = self.job(inblob, options, deadline);
        let (until, watch) = (job.until, job.watch.clone());
        self.pool.run_blocking(until, &watch, Box::new(move || job.run()))
    }

    fn job(&self, inblob: &[u8; 64], options: &Options, deadline: Instant) -> entry::Job {
        let now = Instant::now();
        entry::Job {
            dir: Arc::clone(&self.dir),
            boot: self.boot.clone(),
            inblob: *inblob,
            options: options.clone(),
            until: now.checked_add(MAX_WAIT).map_or(deadline, |longest| deadline.min(longest)),
            watch: Watch::new(),
        }
    }
}

//! One report through configfs: the whole sequence, on the worker's thread.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::name::Boot;
use super::options::{Options, Service};
use super::provider::{Mismatch, Provider};
use super::report::{KernelReport, Source};
use super::worker::{Step, Watch};
use super::{Error, name};
use crate::ports::tsm_fs::TsmDir;

/// Most bytes of a text attribute that are read. The longest is a GUID.
const TEXT: usize = 128;

/// First pause before a call is made again; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause: SNP firmware admits a request about every two seconds, a TDX quote takes one.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Tries of a call that ends in `ETIMEDOUT`: each has waited for seconds in the kernel already.
const MAX_TIMEOUTS: u32 = 2;

/// Tries of the whole sequence when somebody else writes to the entry. A private entry has no other
/// writer; one that was made for us may be shared.
const MAX_CONTENDED: u32 = 8;

/// Tries to remove an entry. `EINTR` and `EBUSY` pass; what stays is swept later.
const MAX_RMDIR: u32 = 5;

/// Most entries looked at by one sweep. A guest has a handful.
const MAX_LISTED: usize = 4096;

/// Most entries removed by one sweep.
const MAX_SWEPT: usize = 64;

/// All that one report needs.
pub(super) struct Job {
    pub(super) dir: Arc<dyn TsmDir>,
    pub(super) boot: Boot,
    pub(super) inblob: [u8; 64],
    pub(super) options: Options,
    pub(super) until: Instant,
    pub(super) watch: Watch,
}

impl Job {
    /// Sweeps, then asks until nobody else has written to the entry meanwhile.
    pub(super) fn run(&self) -> Result<KernelReport, Error> {
        self.sweep();
        let mut tries: u32 = 1;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once() {
                Err(Error::Contended { .. }) if tries < MAX_CONTENDED && self.wait(&mut pause) => {
                    tries = tries.saturating_add(1);
                }
                result => return result,
            }
        }
    }

    fn once(&self) -> Result<KernelReport, Error> {
        let entry = Entry::get(self)?;
        let provider = Provider::parse(&entry.text("provider")?).ok_or(Error::UnknownProvider)?;
        let privlevel = entry.set_privlevel(self.options.privlevel)?;
        if let Some(service) = &self.options.service {
            entry.set_service(service)?;
        }
        let generation = entry.commit(&self.inblob)?;
        let outblob = entry.blob("outblob")?;
        entry.still(generation)?;
        if outblob.is_empty() {
            return Err(Error::Empty { provider });
        }
        let auxblob = entry.optional_blob("auxblob")?;
        entry.still(generation)?;
        let manifest = if self.options.service.is_some() { entry.optional_blob("manifestblob")? } else { None };
        entry.still(generation)?;
        let echo = provider.echo(&outblob, &self.inblob).map_err(|mismatch| match mismatch {
            Mismatch::Shape => Error::Shape { provider, bytes: outblob.len() },
            Mismatch::Other => Error::Echo { provider },
        })?;
        Ok(KernelReport {
            source: Source::ConfigfsTsm,
            provider,
            asked: self.inblob,
            echo,
            outblob,
            auxblob,
            manifest,
            generation: Some(generation),
            privlevel,
        })
    }

    /// Removes what countersigns left that were killed. Never an error: the report does not need it.
    fn sweep(&self) {
        self.watch.set(Step { verb: "list", what: "the entries" });
        let Ok(names) = self.dir.list(MAX_LISTED) else { return };
        let stale = names.iter().filter(|name| self.boot.is_stale(name)).take(MAX_SWEPT);
        let swept = stale.filter(|name| self.dir.rmdir(name).is_ok()).count();
        if swept > 0 {
            tracing::info!(swept, "removed report entries that an earlier countersign left");
        }
    }

    /// Makes a call until it ends otherwise than in a passing error, or there is no time for more.
    fn patiently<T>(&self, step: Step, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Error> {
        let mut pause = FIRST_PAUSE;
        let mut tries: u32 = 0;
        loop {
            self.watch.set(step);
            let errno = match call() {
                Ok(value) => return Ok(value),
                Err(errno) => errno,
            };
            tries = tries.saturating_add(1);
            let passing = match errno {
                Errno::BUSY | Errno::INTR | Errno::AGAIN => true,
                Errno::TIMEDOUT => tries < MAX_TIMEOUTS,
                _ => false,
            };
            if !passing || !self.wait(&mut pause) {
                return Err(Error::Call { step, errno, tries });
            }
        }
    }

    /// Sleeps a random part of `pause` and doubles it. False where the deadline comes first.
    fn wait(&self, pause: &mut Duration) -> bool {
        let now = jittered(*pause);
        if self.until.saturating_duration_since(Instant::now()) <= now {
            return false;
        }
        thread::sleep(now);
        *pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        true
    }
}

/// Between half of `pause` and all of it: readers that met do not meet again.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128_u8; 1];
    // Without randomness the pause is three quarters, which is a pause too.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [part] = byte;
    pause.mul_f64(0.5 + f64::from(part) / 510.0)
}

/// One entry. Removed when dropped, on every path, if it is ours.
struct Entry<'a> {
    job: &'a Job,
    name: String,
    ours: bool,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let mut pause = FIRST_PAUSE;
        for _ in 0..MAX_RMDIR {
            match self.job.dir.rmdir(&self.name) {
                Err(Errno::INTR | Errno::BUSY | Errno::AGAIN) => thread::sleep(pause),
                Ok(()) | Err(Errno::NOENT) => return,
                Err(_) => break,
            }
            pause = pause.saturating_mul(2);
        }
        tracing::warn!("a report entry could not be removed; a later run sweeps it");
    }
}

impl<'a> Entry<'a> {
    /// The entry that was made for us, or a new one of a name that nobody knows.
    fn get(job: &'a Job) -> Result<Self, Error> {
        if let Some(name) = &job.options.entry {
            if !name::is_plain(name) {
                return Err(Error::EntryName);
            }
            return Ok(Self { job, name: name.clone(), ours: false });
        }
        let name = job.boot.name()?;
        // EEXIST is an error like any other: 64 random bits do not meet by accident.
        job.patiently(Step { verb: "make", what: "the entry" }, || job.dir.mkdir(&name))?;
        Ok(Self { job, name, ours: true })
    }

    fn read(&self, attribute: &'static str, most: usize) -> Result<Vec<u8>, Error> {
        let step = Step { verb: "read", what: attribute };
        self.job.patiently(step, || self.job.dir.read(&self.name, attribute, most))
    }

    fn text(&self, attribute: &'static str) -> Result<String, Error> {
        let bytes = self.read(attribute, TEXT)?;
        String::from_utf8(bytes).map_err(|_| Error::Malformed { attribute })
    }

    /// A decimal number and a newline, as the kernel prints it; nothing else.
    fn number(&self, attribute: &'static str) -> Result<u64, Error> {
        let text = self.text(attribute)?;
        let digits = text.strip_suffix('\n').unwrap_or(&text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain).ok_or(Error::Malformed { attribute })
    }

    fn generation(&self) -> Result<u64, Error> {
        self.number("generation")
    }

    /// Whether the blobs that were read are those of our own last write.
    fn still(&self, generation: u64) -> Result<(), Error> {
        let now = self.generation()?;
        if now == generation { Ok(()) } else { Err(Error::Contended { ours: generation, found: now }) }
    }

    fn put(&self, attribute: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let step = Step { verb: "write", what: attribute };
        let count = self.job.patiently(step, || self.job.dir.write(&self.name, attribute, bytes))?;
        if count == bytes.len() { Ok(()) } else { Err(Error::ShortWrite { attribute, count }) }
    }

    /// Asks for the level, in decimal. A provider without levels shows no `privlevel_floor`.
    fn set_privlevel(&self, wanted: Option<u32>) -> Result<Option<u32>, Error> {
        let floor = match self.number("privlevel_floor") {
            Ok(floor) => u32::try_from(floor).map_err(|_| Error::Malformed { attribute: "privlevel_floor" })?,
            Err(Error::Call { errno: Errno::NOENT, .. }) => {
                return match wanted {
                    // There is one level, and zero names it.
                    None | Some(0) => Ok(None),
                    Some(wanted) => Err(Error::NoPrivlevels { wanted }),
                };
            }
            Err(error) => return Err(error),
        };
        let level = wanted.unwrap_or(floor);
        if level < floor {
            return Err(Error::BelowFloor { wanted: level, floor });
        }
        self.put("privlevel", level.to_string().as_bytes())?;
        Ok(Some(level))
    }

    fn set_service(&self, service: &Service) -> Result<(), Error> {
        let guid = service.guid.as_deref().map(|guid| if is_guid(guid) { Ok(guid) } else { Err(Error::ServiceGuid) });
        let guid = guid.transpose()?;
        match self.put("service_provider", b"svsm") {
            Err(Error::Call { errno: Errno::NOENT, .. }) => return Err(Error::NoService),
            other => other?,
        }
        if let Some(guid) = guid {
            self.put("service_guid", guid.as_bytes())?;
        }
        if let Some(version) = service.manifest_version {
            self.put("service_manifest_version", version.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// Writes the 64 bytes and gives the generation that they made.
    ///
    /// The kernel takes them over at close, and reports no error of that; a write that fails half
    /// way commits too. What tells is the generation: exactly one more than right before.
    fn commit(&self, inblob: &[u8; 64]) -> Result<u64, Error> {
        let step = Step { verb: "write", what: "inblob" };
        let mut before = 0;
        let mut problem = None;
        let written = self.job.patiently(step, || match self.generation() {
            Ok(generation) => {
                before = generation;
                self.job.dir.write(&self.name, "inblob", inblob)
            }
            Err(error) => {
                problem = Some(error);
                Ok(0)
            }
        });
        if let Some(error) = problem {
            return Err(error);
        }
        let count = written?;
        if count != inblob.len() {
            return Err(Error::ShortWrite { attribute: "inblob", count });
        }
        let after = self.generation()?;
        match after.wrapping_sub(before) {
            1 => Ok(after),
            0 => Err(Error::NotCommitted),
            _ => Err(Error::Contended { ours: before.wrapping_add(1), found: after }),
        }
    }

    /// A blob to its end, at most `Options::max_blob` bytes.
    fn blob(&self, attribute: &'static str) -> Result<Vec<u8>, Error> {
        let max = self.job.options.max_blob;
        let bytes = self.read(attribute, max.saturating_add(1))?;
        if bytes.len() > max { Err(Error::TooLarge { attribute, max }) } else { Ok(bytes) }
    }

    /// A blob that the provider may not have: no such attribute, `EINVAL`, or nothing in it.
    fn optional_blob(&self, attribute: &'static str) -> Result<Option<Vec<u8>>, Error> {
        match self.blob(attribute) {
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Call { errno: Errno::NOENT | Errno::INVAL, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` in hex.
fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

//! The kernel's directory of reports, in process.
//!
//! It does what `drivers/virt/coco` and `fs/configfs` do, the parts that surprise included: blobs
//! are taken over at close and errors of that are lost, each write is one generation, one lock over
//! all reports, a report is kept until the generation changes. What is not written here was not
//! seen at a real kernel: the conformance list runs against both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use countersign::ports::tsm_fs::{OpenError, TsmDir, TsmFs};
use rustix::io::Errno;

use crate::http::lock;

/// `TSM_INBLOB_MAX`: most bytes of `inblob`.
const INBLOB_MAX: usize = 64;

/// `f_type` of configfs and of tmpfs.
const CONFIGFS: u64 = 0x6265_6570;
const TMPFS: u64 = 0x0102_1994;

/// Highest privilege level that the kernel takes.
const PRIVLEVEL_MAX: u32 = 3;

/// What the provider is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// How many requests there were before this one.
    pub number: usize,
    /// As committed.
    pub inblob: Vec<u8>,
    /// As committed; 0 where there are no levels.
    pub privlevel: u32,
    /// `service_provider`, `service_guid`, as written.
    pub service: BTreeMap<String, String>,
}

/// What the provider answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A report, what goes with it, and a manifest; empty is absent for the last two.
    Blobs(Vec<u8>, Vec<u8>, Vec<u8>),
    /// An error of the read.
    Errno(Errno),
    /// Nothing, until [`FakeTsm::release`].
    Hang,
}

/// The provider.
pub type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Which attributes a provider shows, and its limits.
#[derive(Clone)]
pub struct Shape {
    /// Text of `provider`; `None` is a kernel without one.
    pub provider: Option<String>,
    /// `privlevel_floor`, where the provider has levels.
    pub floor: Option<u32>,
    /// Whether `auxblob` is there.
    pub auxblob: bool,
    /// Whether the attributes of services are there.
    pub svsm: bool,
    /// Shorter `inblob` is `EINVAL` when the report is made.
    pub inblob_min: usize,
    /// Larger `outblob` is `EFBIG` at read: 32 KiB on Linux 6.12, 16 MiB later.
    pub outblob_max: usize,
    /// Who reports.
    pub script: Script,
}

#[derive(Default)]
struct Item {
    generation: u64,
    inblob: Vec<u8>,
    privlevel: u32,
    service: BTreeMap<String, String>,
    report: Option<(u64, [Vec<u8>; 3])>,
    /// Given to the unprivileged uid.
    given: bool,
}

struct Inner {
    shape: Shape,
    /// `None` for configfs itself.
    magic: Option<u64>,
    items: Mutex<BTreeMap<String, Arc<Mutex<Item>>>>,
    /// The kernel's one lock over all reports. What it guards is outside of it, as in the kernel.
    rwsem: Mutex<()>,
    asked: Mutex<Vec<Request>>,
    released: Mutex<bool>,
    wake: Condvar,
}

/// The double. Clones are the same directory; [`FakeTsm::as_user`] is another user's view of it.
#[derive(Clone)]
pub struct FakeTsm {
    inner: Arc<Inner>,
    root: bool,
}

impl FakeTsm {
    /// A kernel with this provider, seen by root.
    pub fn new(shape: Shape) -> Self {
        Self::with_magic(shape, None)
    }

    /// A plain directory in configfs's place that plays its part to the letter.
    pub fn plain_directory(shape: Shape) -> Self {
        Self::with_magic(shape, Some(TMPFS))
    }

    fn with_magic(shape: Shape, magic: Option<u64>) -> Self {
        let inner = Inner {
            shape,
            magic,
            items: Mutex::default(),
            rwsem: Mutex::default(),
            asked: Mutex::default(),
            released: Mutex::default(),
            wake: Condvar::new(),
        };
        Self { inner: Arc::new(inner), root: true }
    }

    /// The view of an unprivileged uid: it may use what [`FakeTsm::give`] gave it, no more.
    #[must_use]
    pub fn as_user(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), root: false }
    }

    /// What `chown -R` does to an entry.
    pub fn give(&self, entry: &str) {
        if let Some(item) = lock(&self.inner.items).get(entry) {
            lock(item).given = true;
        }
    }

    /// Ends every hang, past and to come.
    pub fn release(&self) {
        *lock(&self.inner.released) = true;
        self.inner.wake.notify_all();
    }

    /// What the provider was asked so far.
    pub fn asked(&self) -> Vec<Request> {
        lock(&self.inner.asked).clone()
    }

    /// Names of the entries that exist.
    pub fn entries(&self) -> Vec<String> {
        lock(&self.inner.items).keys().cloned().collect()
    }
}

impl TsmFs for FakeTsm {
    fn open(&self) -> Result<Arc<dyn TsmDir>, OpenError> {
        Ok(Arc::new(self.clone()))
    }

    fn path(&self) -> Option<PathBuf> {
        None
    }
}

/// Whether an attribute is one of text, of bytes, or not there.
enum Kind {
    Text,
    Blob,
}

impl FakeTsm {
    fn item(&self, entry: &str) -> Result<Arc<Mutex<Item>>, Errno> {
        lock(&self.inner.items).get(entry).cloned().ok_or(Errno::NOENT)
    }

    fn kind(&self, attribute: &str) -> Result<Kind, Errno> {
        let shape = &self.inner.shape;
        let (kind, shown) = match attribute {
            "generation" | "provider" => (Kind::Text, true),
            "privlevel" | "privlevel_floor" => (Kind::Text, shape.floor.is_some()),
            "service_provider" | "service_guid" | "service_manifest_version" => (Kind::Text, shape.svsm),
            "inblob" | "outblob" => (Kind::Blob, true),
            "auxblob" => (Kind::Blob, shape.auxblob),
            "manifestblob" => (Kind::Blob, shape.svsm),
            _ => (Kind::Text, false),
        };
        if shown { Ok(kind) } else { Err(Errno::NOENT) }
    }

    /// Files are 0444 or 0200, and root's until they are given away.
    fn may(&self, item: &Mutex<Item>, attribute: &str, write: bool) -> Result<(), Errno> {
        let write_only = matches!(
            attribute,
            "inblob" | "privlevel" | "service_provider" | "service_guid" | "service_manifest_version"
        );
        let owner = lock(item).given;
        // Root without capabilities is still the owner: it may read what is 0444, write what is 0200.
        let allowed = if write { write_only && (self.root || owner) } else { !write_only };
        if allowed { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Makes the report if the one that is kept is of an older generation. The lock is held all the
    /// while, as in the kernel: whoever hangs here holds up everybody.
    fn report(&self, item: &Mutex<Item>, which: usize) -> Result<Vec<u8>, Errno> {
        let _one_at_a_time = lock(&self.inner.rwsem);
        let (generation, mut request) = {
            let item = lock(item);
            if item.inblob.is_empty() {
                return Err(Errno::INVAL);
            }
            if let Some((kept, blobs)) = &item.report
                && *kept == item.generation
            {
                return Ok(blobs.get(which).cloned().unwrap_or_default());
            }
            let (inblob, privlevel, service) = (item.inblob.clone(), item.privlevel, item.service.clone());
            (item.generation, Request { number: 0, inblob, privlevel, service })
        };
        if request.inblob.len() < self.inner.shape.inblob_min {
            return Err(Errno::INVAL);
        }
        {
            let mut asked = lock(&self.inner.asked);
            request.number = asked.len();
            asked.push(request.clone());
        }
        let blobs = match (self.inner.shape.script)(&request) {
            Reply::Blobs(out, aux, manifest) => [out, aux, manifest],
            Reply::Errno(errno) => return Err(errno),
            Reply::Hang => {
                let mut released = lock(&self.inner.released);
                while !*released {
                    released = self.inner.wake.wait(released).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                return Err(Errno::TIMEDOUT);
            }
        };
        let wanted = blobs.get(which).cloned().unwrap_or_default();
        lock(item).report = Some((generation, blobs));
        Ok(wanted)
    }

    fn text(&self, item: &Mutex<Item>, attribute: &str) -> Result<String, Errno> {
        let _shared = lock(&self.inner.rwsem);
        match attribute {
            "generation" => Ok(format!("{}\n", lock(item).generation)),
            "provider" => Ok(format!("{}\n", self.inner.shape.provider.as_deref().ok_or(Errno::NXIO)?)),
            "privlevel_floor" => Ok(format!("{}\n", self.inner.shape.floor.ok_or(Errno::NOENT)?)),
            _ => Err(Errno::ACCESS),
        }
    }

    fn set_text(&self, item: &Mutex<Item>, attribute: &str, text: &str) -> Result<(), Errno> {
        let _alone = lock(&self.inner.rwsem);
        let mut item = lock(item);
        let text = text.strip_suffix('\n').unwrap_or(text);
        match attribute {
            "privlevel" => {
                // kstrtouint: decimal digits; a raw byte 0x00 is not a number.
                let level: u32 = text.parse().map_err(|_| Errno::INVAL)?;
                let floor = self.inner.shape.floor.unwrap_or(0);
                if level > PRIVLEVEL_MAX || level < floor {
                    return Err(Errno::INVAL);
                }
                item.privlevel = level;
            }
            "service_provider" if text != "svsm" => return Err(Errno::INVAL),
            "service_manifest_version" if text.parse::<u32>().is_err() => return Err(Errno::INVAL),
            _ => drop(item.service.insert(attribute.to_owned(), text.to_owned())),
        }
        item.generation += 1;
        Ok(())
    }

    /// What close does with the bytes that were written: no error of it is ever seen.
    fn commit(&self, item: &Mutex<Item>, bytes: &[u8]) {
        let _alone = lock(&self.inner.rwsem);
        let mut item = lock(item);
        item.inblob = bytes.to_vec();
        item.generation += 1;
    }
}

impl TsmDir for FakeTsm {
    fn magic(&self) -> Result<u64, Errno> {
        Ok(self.inner.magic.unwrap_or(CONFIGFS))
    }

    fn list(&self, most: usize) -> Result<Vec<String>, Errno> {
        Ok(lock(&self.inner.items).keys().take(most).cloned().collect())
    }

    fn mkdir(&self, entry: &str) -> Result<(), Errno> {
        if !self.root {
            return Err(Errno::ACCESS);
        }
        let _shared = lock(&self.inner.rwsem);
        let mut items = lock(&self.inner.items);
        if items.contains_key(entry) {
            return Err(Errno::EXIST);
        }
        if self.inner.shape.provider.is_none() {
            return Err(Errno::NXIO);
        }
        items.insert(entry.to_owned(), Arc::default());
        Ok(())
    }

    fn rmdir(&self, entry: &str) -> Result<(), Errno> {
        if !self.root {
            return Err(Errno::ACCESS);
        }
        lock(&self.inner.items).remove(entry).map(drop).ok_or(Errno::NOENT)
    }

    fn read(&self, entry: &str, attribute: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let item = self.item(entry)?;
        let kind = self.kind(attribute)?;
        self.may(&item, attribute, false)?;
        let mut bytes = match kind {
            Kind::Text => self.text(&item, attribute)?.into_bytes(),
            Kind::Blob => {
                let which = ["outblob", "auxblob", "manifestblob"].iter().position(|name| *name == attribute);
                self.report(&item, which.ok_or(Errno::ACCESS)?)?
            }
        };
        if bytes.len() > self.inner.shape.outblob_max {
            return Err(Errno::FBIG);
        }
        bytes.truncate(most);
        Ok(bytes)
    }

    fn write(&self, entry: &str, attribute: &str, bytes: &[u8]) -> Result<usize, Errno> {
        let item = self.item(entry)?;
        let kind = self.kind(attribute)?;
        self.may(&item, attribute, true)?;
        match kind {
            Kind::Text => {
                let text = std::str::from_utf8(bytes).map_err(|_| Errno::INVAL)?;
                self.set_text(&item, attribute, text)?;
            }
            // The write fails, and the close that follows commits what the write left: nothing.
            Kind::Blob if bytes.len() > INBLOB_MAX => {
                self.commit(&item, &[]);
                return Err(Errno::FBIG);
            }
            Kind::Blob => self.commit(&item, bytes),
        }
        Ok(bytes.len())
    }
}

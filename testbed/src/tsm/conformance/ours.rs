//! What `countersign` makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use countersign::ports::tsm_fs::{OpenError, TsmDir, TsmFs};
use countersign::tsm::{Boot, Echo, Error, MAX_WAIT, Options, Provider, Service, Source, Tsm};
use rustix::io::Errno;

use super::{AS_USER, Outcome, Own, PATIENCE, Rig, boot, ensure, good, nothing_left, open, refused, report, tsm};
use crate::tsm::setup::{BIG, MANIFEST};

const INBLOB: [u8; 64] = [0x33; 64];

fn options() -> Options {
    Options::default()
}

/// Where the VMPL stands in an SNP report.
fn vmpl(report: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(report.get(0x30..0x34)?.try_into().ok()?))
}

pub(super) fn no_provider_is_an_absent_way(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(matches!(error, Error::Call { errno: Errno::NXIO, tries: 1, .. }), "{error}");
    ensure!(error.is_absent(), "{error}: not told as absent");
    Ok(())
}

pub(super) fn refused_provider_that_nobody_knows(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(error == Error::UnknownProvider, "{error}");
    Ok(())
}

pub(super) fn a_report_is_for_the_bytes_asked_and_its_entry_is_gone(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(report.provider() == Provider::Snp && report.source() == Source::ConfigfsTsm, "{report:?}");
    ensure!(report.echo() == Echo::Same, "{report:?}");
    ensure!(report.outblob().get(0x50..0x90) == Some(&INBLOB), "the echo is elsewhere");
    ensure!(report.auxblob().is_some(), "no auxblob");
    // privlevel and inblob: two writes on a new entry.
    ensure!(report.generation() == Some(2), "generation {:?}", report.generation());
    Ok(())
}

pub(super) fn the_vmpl_of_the_report_is_the_one_asked_for(rig: &dyn Rig) -> Outcome {
    for level in [0, 1, 3] {
        let report = good(rig, &INBLOB, &Options { privlevel: Some(level), ..options() })?;
        ensure!(vmpl(report.outblob()) == Some(level), "{level}: {:?}", vmpl(report.outblob()));
        ensure!(report.privlevel() == Some(level), "{report:?}");
    }
    Ok(())
}

pub(super) fn the_floor_is_the_default_level(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(vmpl(report.outblob()) == Some(2), "{:?}", vmpl(report.outblob()));
    ensure!(report.privlevel() == Some(2), "{:?}", report.privlevel());
    Ok(())
}

pub(super) fn refused_level_below_the_floor(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &Options { privlevel: Some(1), ..options() })?;
    ensure!(error == Error::BelowFloor { wanted: 1, floor: 2 }, "{error}");
    Ok(())
}

pub(super) fn refused_level_where_there_are_none(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &Options { privlevel: Some(1), ..options() })?;
    ensure!(error == Error::NoPrivlevels { wanted: 1 }, "{error}");
    good(rig, &INBLOB, &Options { privlevel: Some(0), ..options() }).map(drop)
}

pub(super) fn a_second_writer_is_waited_out(rig: &dyn Rig) -> Outcome {
    let meddled = Meddled { fs: rig.fs(), times: 2 };
    let report = report(&meddled, &INBLOB, &options())?.map_err(|error| error.to_string())?;
    ensure!(report.outblob().get(0x50..0x90) == Some(&INBLOB), "somebody else's report");
    nothing_left(&*rig.fs())
}

pub(super) fn refused_when_the_second_writer_stays(rig: &dyn Rig) -> Outcome {
    let meddled = Meddled { fs: rig.fs(), times: usize::MAX };
    match report(&meddled, &INBLOB, &options())? {
        Err(Error::Contended { .. }) => nothing_left(&*rig.fs()),
        other => Err(format!("{other:?}")),
    }
}

pub(super) fn readers_at_once_get_each_their_own(rig: &dyn Rig) -> Outcome {
    let fs = rig.fs();
    let tsm = tsm(&*fs)?;
    let read = |number: u8| -> Outcome {
        let report = tsm.report_blocking(&[number; 64], &options(), Instant::now() + PATIENCE);
        let report = report.map_err(|error| error.to_string())?;
        ensure!(report.outblob().get(0x50..0x90) == Some(&[number; 64]), "reader {number} got another's report");
        Ok(())
    };
    let problems: Vec<String> = thread::scope(|scope| {
        let readers: Vec<_> = (1..=32_u8).map(|number| scope.spawn(move || read(number))).collect();
        let joined = readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| Err("a panic".to_owned())));
        joined.filter_map(Result::err).collect()
    });
    ensure!(problems.is_empty(), "{problems:?}");
    nothing_left(&*fs)
}

pub(super) fn the_entry_of_a_killed_process_is_swept_and_no_other(rig: &dyn Rig) -> Outcome {
    let fs = rig.fs();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| error.to_string())?;
    let at = |seconds: u64| Boot::new(&boot_id, Arc::new(move || Duration::from_secs(seconds)));
    let late = 10 * MAX_WAIT.as_secs();
    let make = |boot: &Boot| Own::make(&*fs, &boot.name().map_err(|error| error.to_string())?);
    let killed = make(&at(1))?;
    let living = make(&at(late))?;
    let foreign = Own::make(&*fs, "report0")?;
    let tsm = Tsm::open(&*fs, at(late)).map_err(|error| error.to_string())?;
    tsm.report_blocking(&INBLOB, &options(), Instant::now() + PATIENCE).map_err(|error| error.to_string())?;
    let names = open(&*fs)?.list(1000).map_err(|errno| format!("{errno:?}"))?;
    ensure!(!names.contains(&killed.name), "the entry of the killed process stayed");
    ensure!(names.contains(&living.name) && names.contains(&foreign.name), "swept too much: {names:?}");
    Ok(())
}

pub(super) fn an_unprivileged_uid_cannot_make_an_entry(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "given-not-used")?;
    rig.as_user(&own.name, &AS_USER[0])
}

pub(super) fn an_unprivileged_uid_uses_the_entry_made_for_it(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "given")?;
    rig.as_user(&own.name, &AS_USER[1])?;
    ensure!(own.read("generation").is_ok(), "the entry was removed by whom it was lent to");
    Ok(())
}

/// Runs as the unprivileged uid.
pub(super) fn user_makes_an_entry(fs: &dyn TsmFs, _: &str) -> Outcome {
    match report(fs, &INBLOB, &options())? {
        Err(error @ Error::Call { errno: Errno::ACCESS, .. }) => {
            ensure!(!error.is_absent(), "a way that is there was told as absent");
            ensure!(error.finding().next.contains("chown -R"), "{}", error.finding());
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }
}

/// Runs as the unprivileged uid. Twice: the entry is used again, at whatever generation it has.
pub(super) fn user_uses_the_entry(fs: &dyn TsmFs, entry: &str) -> Outcome {
    let options = Options { entry: Some(entry.to_owned()), ..options() };
    for inblob in [[0x44; 64], [0x55; 64]] {
        let report = report(fs, &inblob, &options)?.map_err(|error| error.to_string())?;
        ensure!(report.outblob().get(0x50..0x90) == Some(&inblob), "the report is for other bytes");
    }
    Ok(())
}

pub(super) fn refused_entry_of_a_bad_name(rig: &dyn Rig) -> Outcome {
    for name in ["", "..", "a/b", "/sys"] {
        let error = refused(rig, &Options { entry: Some(name.to_owned()), ..options() })?;
        ensure!(error == Error::EntryName, "{name}: {error}");
    }
    Ok(())
}

pub(super) fn refused_plain_directory_in_configfs_s_place(rig: &dyn Rig) -> Outcome {
    match Tsm::open(&*rig.plain_directory(), boot()) {
        Err(Error::NotConfigfs { .. }) => Ok(()),
        Err(other) => Err(other.to_string()),
        Ok(_) => Err("it was believed".to_owned()),
    }
}

pub(super) fn refused_report_beyond_the_cap_and_its_entry_is_gone(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &Options { max_blob: 1183, ..options() })?;
    ensure!(error == Error::TooLarge { attribute: "outblob", max: 1183 }, "{error}");
    Ok(())
}

pub(super) fn refused_service_where_there_is_no_svsm(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &Options { service: Some(Service::default()), ..options() })?;
    ensure!(error == Error::NoService, "{error}");
    Ok(())
}

pub(super) fn no_auxblob_is_none(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(report.auxblob().is_none(), "{report:?}");
    Ok(())
}

pub(super) fn a_service_comes_with_its_manifest(rig: &dyn Rig) -> Outcome {
    // The attestation service's own GUID: SVSM specification, section 7.
    let guid = Some("c476f1eb-0123-45a5-9641-b4e7dde5bfe3".to_owned());
    let service = Some(Service { guid, manifest_version: Some(0) });
    let report = good(rig, &INBLOB, &Options { service, ..options() })?;
    ensure!(report.manifest() == Some(MANIFEST), "{:?}", report.manifest());
    ensure!(report.auxblob().is_some() && report.echo() == Echo::Same, "{report:?}");
    ensure!(report.generation() == Some(5), "generation {:?}", report.generation());
    let without = good(rig, &INBLOB, &options())?;
    ensure!(without.manifest().is_none(), "a manifest that nobody asked for");
    Ok(())
}

pub(super) fn refused_service_of_a_bad_guid(rig: &dyn Rig) -> Outcome {
    for guid in ["", "c476f1eb", "c476f1eb-0123-45a5-9641-b4e7dde5bfeg", "c476f1eb-0123-45a5-9641-b4e7dde5bfe3\n"] {
        let service = Some(Service { guid: Some(guid.to_owned()), manifest_version: None });
        let error = refused(rig, &Options { service, ..options() })?;
        ensure!(error == Error::ServiceGuid, "{guid}: {error}");
    }
    Ok(())
}

pub(super) fn tdx_echo_is_found(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(report.provider() == Provider::Tdx && report.echo() == Echo::Same, "{report:?}");
    ensure!(report.privlevel().is_none() && report.auxblob().is_none(), "{report:?}");
    ensure!(report.generation() == Some(1), "generation {:?}", report.generation());
    Ok(())
}

pub(super) fn cca_is_passed_on_unparsed(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(report.provider() == Provider::Cca && report.echo() == Echo::Opaque, "{report:?}");
    Ok(())
}

pub(super) fn ebusy_is_waited_out(rig: &dyn Rig) -> Outcome {
    passes(rig, Errno::BUSY)
}

pub(super) fn eintr_is_waited_out(rig: &dyn Rig) -> Outcome {
    passes(rig, Errno::INTR)
}

/// The signer refuses twice: once to a plain read, so that the errno is seen to arrive, and once to
/// us.
fn passes(rig: &dyn Rig, errno: Errno) -> Outcome {
    let own = Own::make(&*rig.fs(), "passing")?;
    own.write("inblob", &INBLOB).map_err(|errno| format!("inblob: {errno:?}"))?;
    let first = own.read("outblob");
    ensure!(first == Err(errno), "the first read: {first:?}");
    good(rig, &INBLOB, &options()).map(drop)
}

pub(super) fn refused_when_the_host_times_out(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(matches!(error, Error::Call { errno: Errno::TIMEDOUT, tries: 2, .. }), "{error}");
    Ok(())
}

pub(super) fn refused_at_once_when_the_firmware_fails(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(matches!(error, Error::Call { errno: Errno::IO, tries: 1, .. }), "{error}");
    Ok(())
}

pub(super) fn refused_empty_outblob(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(error == Error::Empty { provider: Provider::Tdx }, "{error}");
    ensure!(error.finding().why.contains("quote generation service"), "{}", error.finding());
    Ok(())
}

pub(super) fn an_outblob_of_16_kib_is_read_whole(rig: &dyn Rig) -> Outcome {
    let report = good(rig, &INBLOB, &options())?;
    ensure!(report.outblob().len() == BIG, "{} bytes", report.outblob().len());
    Ok(())
}

pub(super) fn refused_report_for_other_bytes(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(error == Error::Echo { provider: Provider::Snp }, "{error}");
    Ok(())
}

pub(super) fn refused_report_of_another_shape(rig: &dyn Rig) -> Outcome {
    let error = refused(rig, &options())?;
    ensure!(error == Error::Shape { provider: Provider::Snp, bytes: 64 }, "{error}");
    Ok(())
}

/// Two callers: the second is held up by the first one's hang, and leaves at its deadline too.
pub(super) fn refused_at_the_deadline_when_the_provider_hangs(rig: &dyn Rig) -> Outcome {
    let tsm = tsm(&*rig.fs())?;
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = tsm.report_blocking(&INBLOB, &options(), begun + Duration::from_millis(500));
        ensure!(matches!(answer, Err(Error::Deadline { .. })), "{answer:?}");
        ensure!(begun.elapsed() < Duration::from_secs(20), "only after {:?}", begun.elapsed());
    }
    Ok(())
}

/// The same directory with another process in it, which writes to each entry right after we did.
struct Meddled {
    fs: Arc<dyn TsmFs>,
    times: usize,
}

struct MeddledDir {
    dir: Arc<dyn TsmDir>,
    left: AtomicUsize,
}

impl TsmFs for Meddled {
    fn open(&self) -> Result<Arc<dyn TsmDir>, OpenError> {
        Ok(Arc::new(MeddledDir { dir: self.fs.open()?, left: AtomicUsize::new(self.times) }))
    }

    fn path(&self) -> Option<std::path::PathBuf> {
        self.fs.path()
    }
}

impl TsmDir for MeddledDir {
    fn magic(&self) -> Result<u64, Errno> {
        self.dir.magic()
    }
    fn list(&self, most: usize) -> Result<Vec<String>, Errno> {
        self.dir.list(most)
    }
    fn mkdir(&self, entry: &str) -> Result<(), Errno> {
        self.dir.mkdir(entry)
    }
    fn rmdir(&self, entry: &str) -> Result<(), Errno> {
        self.dir.rmdir(entry)
    }
    fn read(&self, entry: &str, attribute: &str, most: usize) -> Result<Vec<u8>, Errno> {
        // Right before our outblob is read, the other one asks for its own.
        if attribute == "outblob"
            && self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
        {
            self.dir.write(entry, "inblob", &[0x66; 64])?;
        }
        self.dir.read(entry, attribute, most)
    }
    fn write(&self, entry: &str, attribute: &str, bytes: &[u8]) -> Result<usize, Errno> {
        self.dir.write(entry, attribute, bytes)
    }
}

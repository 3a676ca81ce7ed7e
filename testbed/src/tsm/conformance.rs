//! ONE list, run against the double (`testbed/tests/tsm.rs`) and against a real kernel
//! (`tsm-conformance` in the guest). A check that holds for one and not for the other is a fault of
//! the double, or of our belief; never to be written around.
//!
//! Checks of `abi` speak to the kernel in single calls; those of `ours` to the product's `Tsm`.

mod abi;
mod ours;

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::ports::tsm_fs::{TsmDir, TsmFs};
use countersign::tsm::{Boot, Error, KernelReport, Options, Tsm};
use rustix::io::Errno;

use super::setup::Setup;

/// How a check ends; the text says what was other than expected.
pub type Outcome = Result<(), String>;

/// Time for what has to succeed. A kernel under TCG on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a check runs on.
pub trait Rig: Sync {
    /// The directory of the reports, as root sees it.
    fn fs(&self) -> Arc<dyn TsmFs>;
    /// A plain directory in configfs's place, with the same names in it.
    fn plain_directory(&self) -> Arc<dyn TsmFs>;
    /// Gives an entry to an unprivileged uid (`chown -R`) and runs one of [`AS_USER`] as that uid.
    fn as_user(&self, entry: &str, inner: &'static AsUser) -> Outcome;
}

/// A part of a check that another uid has to run.
#[derive(Clone, Copy)]
pub struct AsUser {
    /// Its name, for a program that starts itself again.
    pub name: &'static str,
    /// The part: the directory as that uid sees it, and the entry that was given to it.
    pub run: fn(&dyn TsmFs, &str) -> Outcome,
}

/// All of those parts.
pub static AS_USER: [AsUser; 2] = [
    AsUser { name: "makes-an-entry", run: ours::user_makes_an_entry },
    AsUser { name: "uses-the-entry", run: ours::user_uses_the_entry },
];

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// The provider it needs.
    pub setup: Setup,
    /// Its name: a promise.
    pub name: &'static str,
    /// The check.
    pub run: fn(&dyn Rig) -> Outcome,
}

macro_rules! list {
    ($($setup:ident: $($room:ident::$name:ident),+;)+) => {
        /// The list, by setup.
        pub const LIST: &[Check] = &[
            $($(Check { setup: Setup::$setup, name: stringify!($name), run: $room::$name },)+)+
        ];
    };
}

list! {
    NoProvider: abi::mkdir_without_a_provider_is_enxio, ours::no_provider_is_an_absent_way;
    UnknownProvider: ours::refused_provider_that_nobody_knows;
    SnpEcho:
        abi::a_new_entry_has_generation_0,
        abi::inblob_is_taken_over_at_close,
        abi::each_write_is_one_generation,
        abi::a_write_of_65_bytes_is_efbig_and_commits_nothing_at_close,
        abi::a_short_inblob_is_einval_at_outblob_only,
        abi::outblob_before_inblob_is_einval,
        abi::an_empty_inblob_takes_the_report_away,
        abi::a_report_is_kept_until_the_generation_changes,
        abi::privlevel_is_decimal_and_bounded,
        abi::files_are_read_only_or_write_only_for_root_too,
        abi::what_is_not_shown_is_enoent,
        abi::an_entry_can_be_made_once,
        abi::a_removed_entry_is_gone,
        ours::a_report_is_for_the_bytes_asked_and_its_entry_is_gone,
        ours::the_vmpl_of_the_report_is_the_one_asked_for,
        ours::a_second_writer_is_waited_out,
        ours::refused_when_the_second_writer_stays,
        ours::readers_at_once_get_each_their_own,
        ours::the_entry_of_a_killed_process_is_swept_and_no_other,
        ours::an_unprivileged_uid_cannot_make_an_entry,
        ours::an_unprivileged_uid_uses_the_entry_made_for_it,
        ours::refused_entry_of_a_bad_name,
        ours::refused_plain_directory_in_configfs_s_place,
        ours::refused_report_beyond_the_cap_and_its_entry_is_gone,
        ours::refused_service_where_there_is_no_svsm;
    SnpDash: ours::a_report_is_for_the_bytes_asked_and_its_entry_is_gone;
    SnpFloor:
        abi::privlevel_below_the_floor_is_einval,
        ours::the_floor_is_the_default_level,
        ours::refused_level_below_the_floor;
    SnpNoAuxblob: abi::auxblob_that_is_not_shown_is_enoent, ours::no_auxblob_is_none;
    SnpEmptyAuxblob: abi::an_empty_auxblob_reads_as_nothing, ours::no_auxblob_is_none;
    Svsm: ours::a_service_comes_with_its_manifest, ours::refused_service_of_a_bad_guid;
    TdxV4: abi::privlevel_is_not_shown_without_levels, ours::tdx_echo_is_found, ours::refused_level_where_there_are_none;
    TdxV5: ours::tdx_echo_is_found;
    Cca: ours::cca_is_passed_on_unparsed;
    Busy: ours::ebusy_is_waited_out;
    Interrupted: ours::eintr_is_waited_out;
    TimedOut: ours::refused_when_the_host_times_out;
    IoError: ours::refused_at_once_when_the_firmware_fails;
    EmptyOutblob: ours::refused_empty_outblob;
    BigOutblob: ours::an_outblob_of_16_kib_is_read_whole, ours::refused_report_beyond_the_cap_and_its_entry_is_gone;
    WrongEcho: ours::refused_report_for_other_bytes;
    WrongShape: ours::refused_report_of_another_shape;
    Hang: ours::refused_at_the_deadline_when_the_provider_hangs;
}

/// The checks of one setup.
pub fn of(setup: Setup) -> impl Iterator<Item = &'static Check> {
    LIST.iter().filter(move |check| check.setup == setup)
}

/// Fails a check, saying what was seen.
macro_rules! ensure {
    ($holds:expr, $($saw:tt)+) => {
        if !$holds {
            return Err(format!($($saw)+));
        }
    };
}
use ensure;

fn open(fs: &dyn TsmFs) -> Result<Arc<dyn TsmDir>, String> {
    fs.open().map_err(|error| format!("open: {error:?}"))
}

fn boot() -> Boot {
    Boot::kernel(std::path::Path::new("/proc"))
}

fn tsm(fs: &dyn TsmFs) -> Result<Tsm, String> {
    Tsm::open(fs, boot()).map_err(|error| error.to_string())
}

/// One report with all the patience there is.
fn report(fs: &dyn TsmFs, inblob: &[u8; 64], options: &Options) -> Result<Result<KernelReport, Error>, String> {
    Ok(tsm(fs)?.report_blocking(inblob, options, Instant::now() + PATIENCE))
}

/// One report that has to come, and leave no entry behind.
fn good(rig: &dyn Rig, inblob: &[u8; 64], options: &Options) -> Result<KernelReport, String> {
    let fs = rig.fs();
    let report = report(&*fs, inblob, options)?.map_err(|error| error.to_string())?;
    ensure!(report.asked() == inblob, "the report was asked for other bytes");
    nothing_left(&*fs)?;
    Ok(report)
}

/// One report that has to be refused, and leave no entry behind.
fn refused(rig: &dyn Rig, options: &Options) -> Result<Error, String> {
    let fs = rig.fs();
    match report(&*fs, &[0x77; 64], options)? {
        Ok(report) => Err(format!("a report came: {report:?}")),
        Err(error) => nothing_left(&*fs).map(|()| error),
    }
}

fn nothing_left(fs: &dyn TsmFs) -> Outcome {
    let names = open(fs)?.list(1000).map_err(|errno| format!("list: {errno:?}"))?;
    let ours: Vec<&String> = names.iter().filter(|name| name.starts_with("countersign-")).collect();
    ensure!(ours.is_empty(), "left behind: {ours:?}");
    Ok(())
}

/// An entry of the check's own, removed when dropped.
struct Own {
    dir: Arc<dyn TsmDir>,
    name: String,
}

impl Own {
    fn make(fs: &dyn TsmFs, name: &str) -> Result<Self, String> {
        let dir = open(fs)?;
        dir.mkdir(name).map_err(|errno| format!("mkdir {name}: {errno:?}"))?;
        Ok(Self { dir, name: name.to_owned() })
    }

    fn read(&self, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.dir.read(&self.name, attribute, 1024 * 1024)
    }

    fn write(&self, attribute: &str, bytes: &[u8]) -> Result<usize, Errno> {
        self.dir.write(&self.name, attribute, bytes)
    }

    fn generation(&self) -> Result<u64, String> {
        let text = self.read("generation").map_err(|errno| format!("generation: {errno:?}"))?;
        String::from_utf8_lossy(&text).trim_end().parse().map_err(|_| format!("generation is {text:?}"))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Best effort: the check has ended, and the next one uses another name.
        let _ = self.dir.rmdir(&self.name);
    }
}

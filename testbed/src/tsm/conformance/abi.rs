//! What the kernel does with single calls. Measured on Linux 6.12 and 7.3 with the fake module.

use rustix::io::Errno;

use super::{Outcome, Own, Rig, ensure, open};

const INBLOB: [u8; 64] = [0x11; 64];

/// Compares what a call gave with the errno expected.
fn fails<T: std::fmt::Debug>(call: &str, got: Result<T, Errno>, errno: Errno) -> Outcome {
    match got {
        Err(found) if found == errno => Ok(()),
        other => Err(format!("{call}: {other:?}, expected {errno:?}")),
    }
}

fn works<T>(call: &str, got: Result<T, Errno>) -> Result<T, String> {
    got.map_err(|errno| format!("{call}: {errno:?}"))
}

pub(super) fn mkdir_without_a_provider_is_enxio(rig: &dyn Rig) -> Outcome {
    fails("mkdir", open(&*rig.fs())?.mkdir("abi-enxio"), Errno::NXIO)
}

pub(super) fn a_new_entry_has_generation_0(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-new")?;
    let generation = own.generation()?;
    ensure!(generation == 0, "generation is {generation}");
    Ok(())
}

pub(super) fn inblob_is_taken_over_at_close(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-close")?;
    ensure!(works("inblob", own.write("inblob", &INBLOB))? == 64, "a short write");
    let generation = own.generation()?;
    ensure!(generation == 1, "generation is {generation} after the close");
    let outblob = works("outblob", own.read("outblob"))?;
    ensure!(outblob.windows(64).any(|window| window == INBLOB), "the report does not hold the 64 bytes");
    ensure!(own.generation()? == 1, "reading changed the generation");
    Ok(())
}

pub(super) fn each_write_is_one_generation(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-writes")?;
    for (expected, (attribute, bytes)) in (1_u64..).zip([
        ("privlevel", &b"0"[..]),
        ("inblob", &INBLOB),
        ("inblob", &INBLOB),
        ("privlevel", b"0\n"),
        ("inblob", &INBLOB),
    ]) {
        works(attribute, own.write(attribute, bytes))?;
        let generation = own.generation()?;
        ensure!(generation == expected, "generation is {generation} after {expected} writes");
    }
    Ok(())
}

pub(super) fn a_write_of_65_bytes_is_efbig_and_commits_nothing_at_close(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-65")?;
    fails("a write of 65 bytes", own.write("inblob", &[1; 65]), Errno::FBIG)?;
    let generation = own.generation()?;
    ensure!(generation == 1, "generation is {generation}: the close did not commit");
    fails("outblob", own.read("outblob"), Errno::INVAL)
}

pub(super) fn a_short_inblob_is_einval_at_outblob_only(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-short")?;
    ensure!(works("inblob", own.write("inblob", &[1; 8]))? == 8, "a short write");
    ensure!(own.generation()? == 1, "the short inblob was not committed");
    fails("outblob", own.read("outblob"), Errno::INVAL)
}

pub(super) fn outblob_before_inblob_is_einval(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-before")?;
    fails("outblob", own.read("outblob"), Errno::INVAL)?;
    fails("auxblob", own.read("auxblob"), Errno::INVAL)
}

pub(super) fn an_empty_inblob_takes_the_report_away(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-empty")?;
    works("inblob", own.write("inblob", &INBLOB))?;
    works("outblob", own.read("outblob"))?;
    fails("a write of 65 bytes", own.write("inblob", &[1; 65]), Errno::FBIG)?;
    fails("outblob", own.read("outblob"), Errno::INVAL)
}

pub(super) fn a_report_is_kept_until_the_generation_changes(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-kept")?;
    works("inblob", own.write("inblob", &INBLOB))?;
    let first = works("outblob", own.read("outblob"))?;
    ensure!(works("outblob", own.read("outblob"))? == first, "the same generation gave two reports");
    works("inblob", own.write("inblob", &[0x22; 64]))?;
    let second = works("outblob", own.read("outblob"))?;
    ensure!(second.windows(64).any(|window| window == [0x22; 64]), "the old report stayed");
    Ok(())
}

pub(super) fn privlevel_is_decimal_and_bounded(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-level")?;
    for bad in [&b"9"[..], b"4", b"-1", b"x", b"\0", b""] {
        match own.write("privlevel", bad) {
            // A write of nothing is nothing.
            Ok(0) if bad.is_empty() => {}
            other => fails("privlevel", other, Errno::INVAL)
                .or_else(|problem| if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}: {problem}")) })?,
        }
    }
    let generation = own.generation()?;
    ensure!(generation == 0, "refused levels made generation {generation}");
    works("privlevel", own.write("privlevel", b"3")).map(drop)
}

pub(super) fn privlevel_below_the_floor_is_einval(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-floor")?;
    ensure!(works("floor", own.read("privlevel_floor"))? == b"2\n", "the floor is not 2");
    fails("privlevel 1", own.write("privlevel", b"1"), Errno::INVAL)?;
    works("privlevel 2", own.write("privlevel", b"2")).map(drop)
}

pub(super) fn privlevel_is_not_shown_without_levels(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-levels")?;
    fails("privlevel_floor", own.read("privlevel_floor"), Errno::NOENT)?;
    fails("privlevel", own.write("privlevel", b"0"), Errno::NOENT)
}

pub(super) fn files_are_read_only_or_write_only_for_root_too(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-modes")?;
    fails("read inblob", own.read("inblob"), Errno::ACCESS)?;
    fails("read privlevel", own.read("privlevel"), Errno::ACCESS)?;
    fails("write outblob", own.write("outblob", b"x"), Errno::ACCESS)?;
    fails("write provider", own.write("provider", b"x"), Errno::ACCESS)?;
    fails("write generation", own.write("generation", b"0"), Errno::ACCESS)
}

pub(super) fn what_is_not_shown_is_enoent(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-absent")?;
    fails("read", own.read("nothing"), Errno::NOENT)?;
    fails("service_provider", own.write("service_provider", b"svsm"), Errno::NOENT)?;
    fails("manifestblob", own.read("manifestblob"), Errno::NOENT)
}

pub(super) fn an_entry_can_be_made_once(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-once")?;
    fails("mkdir", own.dir.mkdir("abi-once"), Errno::EXIST)
}

pub(super) fn a_removed_entry_is_gone(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-gone")?;
    works("rmdir", own.dir.rmdir("abi-gone"))?;
    fails("rmdir", own.dir.rmdir("abi-gone"), Errno::NOENT)?;
    fails("read", own.read("generation"), Errno::NOENT)
}

pub(super) fn auxblob_that_is_not_shown_is_enoent(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-noaux")?;
    works("inblob", own.write("inblob", &INBLOB))?;
    fails("auxblob", own.read("auxblob"), Errno::NOENT)
}

pub(super) fn an_empty_auxblob_reads_as_nothing(rig: &dyn Rig) -> Outcome {
    let own = Own::make(&*rig.fs(), "abi-emptyaux")?;
    works("inblob", own.write("inblob", &INBLOB))?;
    let auxblob = works("auxblob", own.read("auxblob"))?;
    ensure!(auxblob.is_empty(), "{} bytes", auxblob.len());
    Ok(())
}

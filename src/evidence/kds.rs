//! Where AMD's key server (KDS) has what belongs to a report: paths of its interface.
//!
//! Source: AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
//! (document 57230), §4, and its amendment for Turin (a chip id of 8 bytes, and `fmcSPL` first).

use super::snp::{Generation, Report, Tcb};
use crate::formats::hex;

/// AMD's own. Caches in front of it have the same paths.
pub const SERVER: &str = "https://kdsintf.amd.com";

/// What stands in a path where the chip's id is not to be shown.
pub const SOME_CHIP: &str = "<chip id>";

/// Bytes of a chip id from Turin on.
const SHORT_ID: usize = 8;

/// The path of a chip's certificate (VCEK) for a TCB. `chip` is hex, or [`SOME_CHIP`].
pub fn vcek(line: Generation, chip: &str, tcb: Tcb) -> String {
    let fmc = tcb.fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
    format!(
        "/vcek/v1/{}/{chip}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        name(line),
        tcb.bootloader,
        tcb.tee,
        tcb.snp,
        tcb.microcode
    )
}

/// The path of a line's revocation list: about the authority of its chips' keys, or of its clouds' keys.
pub fn crl(line: Generation, of_clouds: bool) -> String {
    format!("/{}/v1/{}/crl", if of_clouds { "vlek" } else { "vcek" }, name(line))
}

/// The chip id of a report as the server writes it, hex. `None` where the report hides it.
pub fn chip(report: &Report) -> Option<String> {
    let shown = report.chip_id.iter().any(|byte| *byte != 0);
    let short = report.reported_tcb.fmc.is_some();
    let id = if short { report.chip_id.get(..SHORT_ID)? } else { &report.chip_id };
    shown.then(|| hex::encode(id))
}

/// The server's name of a line.
fn name(line: Generation) -> &'static str {
    match line {
        Generation::Milan => "Milan",
        Generation::Genoa => "Genoa",
        Generation::Turin => "Turin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_amds_document() {
        let tcb = Tcb { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 115 };
        assert_eq!(
            vcek(Generation::Milan, "3ac3", tcb),
            "/vcek/v1/Milan/3ac3?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
        );
        let tcb = Tcb { fmc: Some(1), ..tcb };
        assert_eq!(
            vcek(Generation::Turin, SOME_CHIP, tcb),
            "/vcek/v1/Turin/<chip id>?fmcSPL=01&blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
        );
        assert_eq!(crl(Generation::Genoa, false), "/vcek/v1/Genoa/crl");
        assert_eq!(crl(Generation::Genoa, true), "/vlek/v1/Genoa/crl");
    }

    #[test]
    fn a_chip_is_named_as_wide_as_its_line_has_ids() {
        let mut bytes = [0; 1184];
        bytes[0] = 3;
        bytes[0x188] = 0x19;
        let mut report = Report::parse(&bytes).unwrap();
        assert_eq!(chip(&report), None, "zeros are nobody's id");
        report.chip_id[0] = 0xc1;
        assert_eq!(chip(&report).unwrap().len(), 128);
        report.reported_tcb.fmc = Some(0);
        assert_eq!(chip(&report), Some("c100000000000000".to_owned()));
    }
}

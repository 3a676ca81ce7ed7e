//! `countersign evidence`: what this guest can prove of itself, by the first way that it offers.

use std::time::Duration;

use super::{Ended, ended, report};
use crate::access::Deadline;
use crate::access::rcar::EvidenceSource as _;
use crate::access::reports;
use crate::access::standing::Standing;
use crate::cli::{Evidence, EvidenceFormat};
use crate::config::Via;
use crate::evidence::shown::{self, Shown};
use crate::evidence::twin::{self, Ids};
use crate::finding::{Class, Finding};
use crate::formats::hex;
use crate::ports::Ports;

/// All of it: two reports, each of which SNP firmware may hold back for 2 s, and a TDX quote takes 1 s.
const DEADLINE: Duration = Duration::from_secs(60);

/// Prints the evidence; returns the exit code.
pub(super) fn run(ports: &Ports, arguments: &Evidence) -> u8 {
    let mut printed = Vec::new();
    let work = async {
        let result = evidence(ports, arguments).await;
        let result = result.map(|(bytes, summary)| {
            printed = bytes;
            summary
        });
        Ended::new("evidence", None, result)
    };
    let ended = ended("evidence", work);
    ports.write(&printed);
    report::end(ports, &ended)
}

/// What to print, and one line about it.
async fn evidence(ports: &Ports, arguments: &Evidence) -> Result<(Vec<u8>, String), Finding> {
    let report_data = report_data(arguments.report_data.as_deref())?;
    let deadline = Deadline::after(DEADLINE);
    let standing = Standing::new(ports, deadline, false);
    let (source, by) = reports::first(&standing, &Via::ALL).await?;
    let tee = source.tee().await?;
    let json = source.evidence(&report_data).await?;
    let summary = format!("evidence of {tee}, {by}");
    let bytes = match arguments.format {
        EvidenceFormat::Json => format!("{json}\n").into_bytes(),
        EvidenceFormat::Raw => raw(&json)?,
        EvidenceFormat::Text => text(&json, &tee, by, arguments.show_ids)?.into_bytes(),
    };
    Ok((bytes, summary))
}

/// Up to 64 bytes, filled with zeros; random ones where nothing is asked for.
fn report_data(given: Option<&str>) -> Result<[u8; 64], Finding> {
    let Some(text) = given else {
        let mut bytes = [0; 64];
        return match aws_lc_rs::rand::fill(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(Finding::new(Class::NoEvidence, "the kernel gives no randomness")
                .next("give the value to be signed with --report-data")),
        };
    };
    let bytes = hex::decode(text).filter(|bytes| !bytes.is_empty() && bytes.len() <= 64);
    let bytes = bytes.ok_or_else(|| {
        Finding::new(Class::Usage, "--report-data is not 1 to 64 bytes of hex")
            .why("what is signed must be what was asked for, to the byte")
            .next("write --report-data as 2 to 128 hex digits")
    })?;
    Ok(crate::formats::runtime_data::report_data(&bytes))
}

fn raw(json: &str) -> Result<Vec<u8>, Finding> {
    match shown::detect(json.as_bytes()) {
        Ok(Shown::Snp(evidence)) => Ok(evidence.report.to_bytes()),
        Ok(Shown::Tdx { raw, .. }) => Ok(raw),
        _ => Err(Finding::new(Class::Usage, "the evidence of this TEE has no raw form that is known here")
            .why("only SEV-SNP reports and TDX quotes are taken apart")
            .next("give --format json")),
    }
}

/// Every field, and what is beside them.
fn text(json: &str, tee: &str, by: &str, show_ids: bool) -> Result<String, Finding> {
    let ids = if show_ids { Ids::Whole } else { Ids::Short };
    let (kind, fields, beside) = match shown::detect(json.as_bytes()) {
        Ok(Shown::Snp(evidence)) => {
            let beside = format!("{} certificates came with it", evidence.certificates.len());
            ("an SEV-SNP report", twin::snp(&evidence.report, ids), beside)
        }
        Ok(Shown::Tdx { quote, .. }) => ("a TDX quote", twin::tdx(&quote, ids), String::new()),
        Ok(Shown::Other(other)) => {
            return Ok(format!("{}, {by}; its fields are not known here: give --format json\n", other.label()));
        }
        _ => {
            return Err(Finding::new(Class::NoEvidence, format!("the evidence of {tee} cannot be read"))
                .why("what the guest's services gave is in no form that is known here")
                .next("give --format json, and compare it with the form of this TEE's evidence"));
        }
    };
    let beside = if beside.is_empty() { String::new() } else { format!("; {beside}") };
    Ok(format!("{kind}, {by}{beside}\n{}", twin::table(&fields)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_is_what_was_asked_for_or_random() {
        let mut wanted = [0; 64];
        wanted[1] = 0xff;
        assert_eq!(report_data(Some("00FF")), Ok(wanted));
        for text in ["", "0", "xx", &"00".repeat(65)] {
            assert_eq!(report_data(Some(text)).unwrap_err().class, Class::Usage, "{text}");
        }
        assert_ne!(report_data(None), report_data(None));
    }

    #[test]
    fn evidence_that_is_not_known_has_no_raw_form() {
        assert_eq!(raw(r#"{"svn":"1","report_data":""}"#).unwrap_err().class, Class::Usage);
        assert!(text("nothing", "cca", "by hand", false).is_err());
    }
}

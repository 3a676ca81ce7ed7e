//! Whether genuine evidence is the expected evidence.
//!
//! Genuine is not enough: an attacker has genuine machines too. Two things have to be said by whoever
//! asks: what ties the evidence to this moment or this key ([`Expected::report_data`]), and what must
//! run there ([`Expected::measurements`] or [`Expected::init_data`]). With one of them missing the
//! verdict is [`Word::NotAppraised`], whatever else holds.

use serde::Serialize;

use super::check::{Check, State};
use super::launch::LaunchField;
use super::{snp, tdx};
use crate::evidence::snp::Tcb;
use crate::formats::hex;
use tdx::TcbStatus;

/// What evidence has to be. Nothing has a default here: whoever asks says each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What the guest must have had signed, as wide as the hardware's field.
    pub report_data: Option<[u8; 64]>,
    /// The launch measurement (SNP `MEASUREMENT`, TDX `MRTD`): one of these, 48 bytes each. Empty:
    /// nothing is said.
    pub measurements: Vec<Vec<u8>>,
    /// The digest of the initdata that the guest must have been launched with, by its own algorithm.
    pub init_data: Option<Vec<u8>>,
    /// The hardware: one of these chip ids (SNP, 64 bytes). Empty: any.
    pub chip_ids: Vec<Vec<u8>>,
    /// The privilege level that asked for the report (SNP).
    pub vmpl: u32,
    /// The least TCB (SNP), part by part.
    pub min_tcb: Option<Tcb>,
    /// The least security version number of the guest (SNP).
    pub min_guest_svn: u32,
    /// TCB statuses that are good enough (TDX), where somebody says which: then the status must be known.
    /// None: the one that Intel calls up to date, as far as there is collateral.
    pub tcb_statuses: Option<Vec<TcbStatus>>,
    /// A guest whose memory the host may read is good enough.
    pub allow_debug: bool,
    /// A guest that a migration agent may take elsewhere is good enough (SNP).
    pub allow_migration: bool,
    /// Checks that must have been made, by the part of their id after the dot (`crl`, `tcb`, `chip-id`).
    pub require: Vec<String>,
}

/// The verdict in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Genuine, and all that was expected holds.
    Appraised,
    /// Genuine, and too little was expected to say more.
    NotAppraised,
    /// Genuine, and not what was expected.
    Unexpected,
    /// Not genuine, or not shown to be.
    NotGenuine,
}

impl Word {
    /// As printed for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Appraised => "genuine, and as expected",
            Self::NotAppraised => "genuine, not appraised",
            Self::Unexpected => "genuine, and not what was expected",
            Self::NotGenuine => "not shown to be genuine",
        }
    }
}

impl Expected {
    /// Nothing is expected beyond what a guest that keeps secrets must be: no debugging, no migration,
    /// VMPL 0, a TCB that Intel calls up to date.
    pub fn nothing() -> Self {
        Self {
            report_data: None,
            measurements: Vec::new(),
            init_data: None,
            chip_ids: Vec::new(),
            vmpl: 0,
            min_tcb: None,
            min_guest_svn: 0,
            tcb_statuses: None,
            allow_debug: false,
            allow_migration: false,
            require: Vec::new(),
        }
    }

    /// What is not said, and without which nothing is appraised. Empty when both are.
    pub fn missing(&self) -> Vec<&'static str> {
        missing(self.report_data.is_some(), !self.measurements.is_empty() || self.init_data.is_some())
    }

    /// Whether nothing at all is said of who or what it must be.
    pub fn is_silent(&self) -> bool {
        self.report_data.is_none()
            && self.measurements.is_empty()
            && self.init_data.is_none()
            && self.chip_ids.is_empty()
    }
}

/// What has to be said before anything is appraised, and was not.
pub fn missing(bound: bool, known: bool) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !bound {
        missing.push("what ties it to this moment or this key (report data; or nonce and key)");
    }
    if !known {
        missing.push("what must run there (measurement, or initdata)");
    }
    missing
}

/// Holds a genuine report to what is expected: a check for each thing.
pub fn snp(genuine: &snp::Genuine, expected: &Expected) -> Vec<Check> {
    let report = genuine.report();
    let launch = LaunchField { name: "HOST_DATA", value: report.host_data.to_vec() };
    let mut checks = common(&report.report_data, &report.measurement, &launch, expected);
    checks.push(allowed("expect.debug", "debugging", report.debug_allowed(), expected.allow_debug));
    checks.push(allowed("expect.migration", "migration", report.migration_allowed(), expected.allow_migration));
    checks.push(judge("expect.vmpl", report.vmpl == expected.vmpl, || {
        format!("asked for from VMPL {}, expected VMPL {}", report.vmpl, expected.vmpl)
    }));
    if let Some(least) = expected.min_tcb {
        checks.push(judge("expect.min-tcb", at_least(report.reported_tcb, least), || {
            format!("reported TCB {}, expected at least {}", tcb_text(report.reported_tcb), tcb_text(least))
        }));
    }
    if expected.min_guest_svn > 0 {
        checks.push(judge("expect.min-guest-svn", report.guest_svn >= expected.min_guest_svn, || {
            format!("guest SVN {}, expected at least {}", report.guest_svn, expected.min_guest_svn)
        }));
    }
    if !expected.chip_ids.is_empty() {
        let known = !genuine.chip_is_hidden()
            && genuine.key == snp::KeyKind::Vcek
            && expected.chip_ids.iter().any(|id| id.as_slice() == report.chip_id);
        checks.push(judge("expect.chip-id", known, || {
            if known { "the chip is one of those expected" } else { "the chip is hidden, or none of those expected" }
                .to_owned()
        }));
    }
    if expected.tcb_statuses.is_some() {
        // What is demanded and cannot be had is a refusal.
        checks.push(Check::failed("expect.tcb-status", "expected, and an SEV-SNP report has no such status"));
    }
    checks.extend(required(&genuine.checks, expected));
    checks
}

/// Holds a genuine quote to what is expected.
pub fn tdx(genuine: &tdx::Genuine, expected: &Expected) -> Vec<Check> {
    let body = &genuine.quote().body;
    let launch = LaunchField { name: "MRCONFIGID", value: body.mr_config_id.to_vec() };
    let mut checks = common(&body.report_data, &body.mr_td, &launch, expected);
    checks.push(allowed("expect.debug", "debugging or profiling", body.debug(), expected.allow_debug));
    checks.push(allowed(
        "expect.migration",
        "migration, or a service guest beside it",
        body.migratable(),
        expected.allow_migration,
    ));
    let accepted = accepted_statuses(expected);
    checks.push(match genuine.tcb {
        Some(status) => judge("expect.tcb-status", accepted.contains(&status), || {
            format!("TCB status {}, accepted: {}", status.label(), labels(accepted))
        }),
        None if expected.tcb_statuses.is_some() => Check::failed(
            "expect.tcb-status",
            format!("expected {}, and without collateral nobody knows", labels(accepted)),
        ),
        None => Check::not_checked("expect.tcb-status", "TCB not checked: no collateral was given"),
    });
    let only_snp = [
        ("expect.min-tcb", expected.min_tcb.is_some()),
        ("expect.min-guest-svn", expected.min_guest_svn > 0),
        ("expect.vmpl", expected.vmpl != 0),
        ("expect.chip-id", !expected.chip_ids.is_empty()),
    ];
    // What is demanded and cannot be had is a refusal.
    for (id, _) in only_snp.into_iter().filter(|(_, demanded)| *demanded) {
        checks.push(Check::failed(id, "expected, and a TDX quote does not say it"));
    }
    checks.extend(required(&genuine.checks, expected));
    checks
}

/// The verdict on genuine evidence. `checks` are those of [`snp()`] or [`tdx()`].
pub fn word(checks: &[Check], silent: bool, missing: &[&str]) -> Word {
    if silent {
        Word::NotAppraised
    } else if checks.iter().any(|check| check.state == State::Failed) {
        Word::Unexpected
    } else if missing.is_empty() {
        Word::Appraised
    } else {
        Word::NotAppraised
    }
}

fn accepted_statuses(expected: &Expected) -> &[TcbStatus] {
    expected.tcb_statuses.as_deref().unwrap_or(&[TcbStatus::UpToDate])
}

/// Statuses as Intel writes them, in one line.
pub(super) fn labels(statuses: &[TcbStatus]) -> String {
    let labels: Vec<_> = statuses.iter().map(|status| status.label()).collect();
    labels.join(", ")
}

fn common(report_data: &[u8; 64], measurement: &[u8; 48], launch: &LaunchField, expected: &Expected) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(wanted) = &expected.report_data {
        checks.push(judge("expect.report-data", report_data == wanted, || {
            format!("report data {}, expected {}", hex::encode(report_data), hex::encode(wanted))
        }));
    }
    if !expected.measurements.is_empty() {
        let known = expected.measurements.iter().any(|wanted| wanted.as_slice() == measurement);
        checks.push(judge("expect.measurement", known, || {
            let among = if known { "one of those expected" } else { "none of those expected" };
            format!("measurement {}: {among}", hex::encode(measurement))
        }));
    }
    if let Some(digest) = &expected.init_data {
        checks.push(match launch.holds(digest) {
            Ok(()) => {
                Check::held("expect.init-data", format!("{} is the digest of the expected initdata", launch.name))
            }
            Err(mismatch) if mismatch.none_at_launch => Check::failed(
                "expect.init-data",
                format!("{} is all zeros: the guest was launched without initdata", launch.name),
            ),
            Err(mismatch) => Check::failed(
                "expect.init-data",
                format!("{} is {}, expected {}", launch.name, mismatch.launched, mismatch.found),
            ),
        });
    }
    checks
}

fn required(made: &[Check], expected: &Expected) -> Vec<Check> {
    let missing = expected.require.iter().filter(|name| {
        let is = |check: &&Check| check.id.rsplit('.').next() == Some(name.as_str());
        !made.iter().filter(is).any(|check| check.state == State::Held)
    });
    missing.map(|name| Check::failed("expect.require", format!("`{name}` had to be checked, and was not"))).collect()
}

fn judge(id: &'static str, holds: bool, said: impl FnOnce() -> String) -> Check {
    if holds { Check::held(id, said()) } else { Check::failed(id, said()) }
}

fn allowed(id: &'static str, what: &str, is: bool, allowed: bool) -> Check {
    match (is, allowed) {
        (false, _) => Check::held(id, format!("{what}: no")),
        (true, true) => Check::held(id, format!("{what}: yes, and that is allowed here")),
        (true, false) => Check::failed(id, format!("{what}: yes; such a guest keeps no secret from its host")),
    }
}

/// Part by part. Where one has the fifth part and the other has not, nothing can be compared.
fn at_least(reported: Tcb, least: Tcb) -> bool {
    let fmc = match (reported.fmc, least.fmc) {
        (Some(reported), Some(least)) => reported >= least,
        (_, None) => true,
        (None, Some(_)) => false,
    };
    fmc && reported.bootloader >= least.bootloader
        && reported.tee >= least.tee
        && reported.snp >= least.snp
        && reported.microcode >= least.microcode
}

/// `bootloader=3,tee=0,snp=8,microcode=115`, with `fmc` first where there is one.
pub fn tcb_text(tcb: Tcb) -> String {
    let fmc = tcb.fmc.map(|fmc| format!("fmc={fmc},")).unwrap_or_default();
    format!("{fmc}bootloader={},tee={},snp={},microcode={}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)
}

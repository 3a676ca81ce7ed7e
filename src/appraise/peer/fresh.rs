//! Whether the hardware itself vouches for a statement: a report that was made for it now, of the guest that
//! the attestation result is about.
//!
//! The attestation result says what the guest was when its key was made; the key signs for it since. A fresh
//! report over the statement shows that the machine still holds that guest: whoever has stolen the key has
//! not the machine. It is judged by the makers' roots, here, and held to what the verifier was shown.

use serde_json::{Map, Value};

use super::{Appraised, INSTANCE, PROVIDER};
use crate::appraise::launch::LaunchField;
use crate::appraise::{Makers, snp, tdx};
use crate::evidence::snp::Tcb;
use crate::evidence::tdx::Quote;
use crate::evidence::trustee::{self, SnpEvidence};
use crate::formats::ear::EarToken;
use crate::formats::hex;

/// What a fresh report must be. The guest that it must be of is the attestation result's.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'e> {
    /// What the hardware was asked to report over.
    pub report_data: &'e [u8; 64],
    /// Whose keys make it genuine.
    pub makers: &'e Makers,
    /// Seconds since 1970, by a clock that the host cannot turn back.
    pub now: u64,
}

/// Why a fresh report is refused. Each message continues "the fresh report …" and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None was sent.
    #[error("is missing")]
    Missing,
    /// Not Trustee's JSON of a report or quote.
    #[error("cannot be read")]
    Form,
    /// The attestation result has nothing to hold it to, or is of another TEE.
    #[error("cannot be held to the attestation result: that is of another TEE, or says no measurement")]
    OtherTee,
    /// Over other bytes: an old one, or one for another connection.
    #[error("was not made for this connection")]
    ReportData,
    /// By no chip of AMD's.
    #[error("is not genuine: it {0}")]
    Snp(snp::Error),
    /// By no quoting enclave of Intel's.
    #[error("is not genuine: it {0}")]
    Tdx(tdx::Error),
    /// The host may read its memory, or take it elsewhere.
    #[error("is of a guest that can be debugged or migrated")]
    Open,
    /// Not the most privileged level of the guest.
    #[error("was asked for from another privilege level than VMPL 0")]
    Vmpl,
    /// Another guest.
    #[error("has another measurement than the attestation result")]
    Measurement,
    /// Firmware that is older than what was appraised: its keys may have leaked.
    #[error("reports an older TCB than the attestation result")]
    Tcb,
    /// Another initdata.
    #[error("has another initdata than the attestation result")]
    InitData,
    /// Another machine.
    #[error("was not made on the machine that the attestation result names, if it names any")]
    Machine,
}

/// A genuine report over the bytes that were asked for, of a guest that keeps its secrets.
#[derive(Debug)]
pub enum Vouched {
    /// By a chip of AMD's.
    Snp(snp::Genuine),
    /// By Intel's quoting enclave.
    Tdx(tdx::Genuine),
}

/// Holds a fresh report, as it came, to the attestation result and to the statement.
pub fn fresh(report: &[u8], appraised: &Appraised, expected: &Expected<'_>) -> Result<(), Error> {
    // Judged before: the signature over it is not checked again.
    let claims = EarToken::parse(&appraised.ear).and_then(|token| token.claims_unverified());
    let claims = claims.map_err(|_| Error::OtherTee)?;
    let said = |tee: &str| claims.cpu().evidence.get(tee).and_then(Value::as_object).ok_or(Error::OtherTee);
    match vouched(report, expected)? {
        Vouched::Snp(genuine) => of_snp(&genuine, said("snp")?, appraised),
        Vouched::Tdx(genuine) => of_tdx(&genuine, said("tdx")?, appraised),
    }
}

/// Whether a report, as it came, is genuine, and over these bytes. Of which guest is another question.
pub fn vouched(report: &[u8], expected: &Expected<'_>) -> Result<Vouched, Error> {
    if let Ok(came) = trustee::read_snp(report) {
        snp(&came, expected).map(Vouched::Snp)
    } else {
        let raw = trustee::read_tdx(report).map_err(|_| Error::Form)?;
        tdx(&raw, expected).map(Vouched::Tdx)
    }
}

fn snp(came: &SnpEvidence, expected: &Expected<'_>) -> Result<snp::Genuine, Error> {
    // What costs nothing comes before what costs signatures.
    if came.report.report_data != *expected.report_data {
        return Err(Error::ReportData);
    }
    let beside = snp::Beside { certificates: &came.certificates, crl: came.crl.as_deref() };
    let genuine = snp::genuine(&came.report, &beside, &expected.makers.amd, expected.now).map_err(Error::Snp)?;
    let report = genuine.report();
    if report.debug_allowed() || report.migration_allowed() {
        return Err(Error::Open);
    }
    if report.vmpl == 0 { Ok(genuine) } else { Err(Error::Vmpl) }
}

fn tdx(raw: &[u8], expected: &Expected<'_>) -> Result<tdx::Genuine, Error> {
    let quote = Quote::parse(raw).map_err(|_| Error::Form)?;
    if quote.body.report_data != *expected.report_data {
        return Err(Error::ReportData);
    }
    // Whether the platform's TCB is a good one, the verifier has judged with Intel's collateral.
    let genuine = tdx::genuine(&quote, raw, None, &expected.makers.intel, expected.now).map_err(Error::Tdx)?;
    let body = &genuine.quote().body;
    if body.debug() || body.migratable() { Err(Error::Open) } else { Ok(genuine) }
}

fn of_snp(genuine: &snp::Genuine, said: &Map<String, Value>, appraised: &Appraised) -> Result<(), Error> {
    let report = genuine.report();
    let measurement = said_bytes(said.get("measurement")).ok_or(Error::OtherTee)?;
    if report.measurement.as_slice() != measurement {
        return Err(Error::Measurement);
    }
    same_launch("HOST_DATA", &report.host_data, appraised)?;
    let Tcb { bootloader, tee, snp, microcode, .. } = report.reported_tcb;
    let parts = [
        ("reported_tcb_bootloader", bootloader),
        ("reported_tcb_tee", tee),
        ("reported_tcb_snp", snp),
        ("reported_tcb_microcode", microcode),
    ];
    // Part by part, as far as the verifier names them. It may have risen since.
    let older =
        |(member, now): (&str, u8)| said.get(member).and_then(Value::as_u64).is_some_and(|then| u64::from(now) < then);
    if parts.into_iter().any(older) {
        return Err(Error::Tcb);
    }
    // Zeros are no machine, and nothing but zeros where the pin allows any machine.
    if said_bytes(said.get("chip_id")).is_some_and(|id| id == report.chip_id) { Ok(()) } else { Err(Error::Machine) }
}

fn of_tdx(genuine: &tdx::Genuine, said: &Map<String, Value>, appraised: &Appraised) -> Result<(), Error> {
    let body = &genuine.quote().body;
    let measurement = said.get("quote").and_then(|quote| quote.get("body")?.get("mr_td"));
    let measurement = said_bytes(measurement).ok_or(Error::OtherTee)?;
    if body.mr_td.as_slice() != measurement {
        return Err(Error::Measurement);
    }
    same_launch("MRCONFIGID", &body.mr_config_id, appraised)?;
    let platform = genuine.platform().ok_or(Error::Machine)?;
    // The verifier may know the machine by one of its names or by both: all that it says must hold, and
    // where it says none there is nothing to hold the report to.
    let names = [(PROVIDER, Some(platform.provider)), (INSTANCE, platform.instance)];
    let said =
        names.map(|(member, id)| said.get(member).filter(|said| said.as_str() != Some("")).map(|said| (said, id)));
    let mut known = said.into_iter().flatten().peekable();
    let same = known.peek().is_some() && known.all(|(said, id)| id.is_some() && said_bytes(Some(said)) == id);
    if same { Ok(()) } else { Err(Error::Machine) }
}

/// The initdata of the attestation result, which the pin has named.
fn same_launch(name: &'static str, value: &[u8], appraised: &Appraised) -> Result<(), Error> {
    let field = LaunchField { name, value: value.to_vec() };
    if field.is_set() && field.value == appraised.init_data { Ok(()) } else { Err(Error::InitData) }
}

fn said_bytes(value: Option<&Value>) -> Option<Vec<u8>> {
    hex::decode(value?.as_str()?)
}

#[cfg(test)]
mod tests;

//! Evidence of this guest: from the kernel, from the device beside it, or from the agent.

use std::path::PathBuf;

use super::Deadline;
use super::rcar::EvidenceSource;
use crate::appraise::launch::LaunchField;
use crate::evidence::{cert_table, eventlog, snp, tdx, trustee};
use crate::finding::{Class, Finding, Who};
use crate::guest_api::{Asked, GuestApi};
use crate::tsm::{self, KernelReport, Options, Provider, SevGuest, Tsm};

/// Privilege level at which the device is asked: a guest without SVSM runs at the most privileged.
const DEVICE_VMPL: u32 = 0;

/// Where evidence comes from.
#[derive(Clone)]
pub enum Source {
    /// configfs-tsm.
    Kernel {
        /// The kernel's directory of reports.
        tsm: Tsm,
        /// Who signs, as an earlier report said.
        provider: Provider,
        /// Where sysfs is mounted.
        sys: PathBuf,
        /// When it must be over.
        deadline: Deadline,
    },
    /// `/dev/sev-guest`.
    Device {
        /// The device.
        device: SevGuest,
        /// When it must be over.
        deadline: Deadline,
    },
    /// `/aa/evidence`, passed on as it comes.
    Agent {
        /// The guest's REST service.
        api: GuestApi,
        /// What `/info` says the TEE is.
        tee: String,
    },
}

impl Source {
    /// The same, to be over by `deadline`.
    #[must_use]
    pub fn until(mut self, until: Deadline) -> Self {
        if let Self::Kernel { deadline, .. } | Self::Device { deadline, .. } = &mut self {
            *deadline = until;
        }
        self
    }
}

impl EvidenceSource for Source {
    async fn tee(&self) -> Result<String, Finding> {
        Ok(match self {
            Self::Kernel { provider, .. } => trustee_name(*provider).to_owned(),
            Self::Device { .. } => "snp".to_owned(),
            Self::Agent { tee, .. } => tee.clone(),
        })
    }

    async fn evidence(&self, report_data: &[u8]) -> Result<String, Finding> {
        match self {
            Self::Kernel { tsm, sys, deadline, .. } => {
                let report = ask_kernel(tsm, &padded(report_data)?, *deadline).await?;
                let log = if report.provider() == Provider::Tdx { read_log(sys) } else { None };
                to_json(&report, log.as_deref())
            }
            Self::Device { device, deadline } => {
                to_json(&ask_device(device, &padded(report_data)?, *deadline).await?, None)
            }
            Self::Agent { api, .. } => api.evidence(report_data).await.map_err(|error| error.finding(Asked::Evidence)),
        }
    }
}

pub(super) async fn ask_kernel(tsm: &Tsm, data: &[u8; 64], deadline: Deadline) -> Result<KernelReport, tsm::Error> {
    tsm.report(data, &Options::default(), deadline.at().into_std()).await
}

pub(super) async fn ask_device(
    device: &SevGuest,
    data: &[u8; 64],
    deadline: Deadline,
) -> Result<KernelReport, tsm::Error> {
    device.report(data, DEVICE_VMPL, deadline.at().into_std()).await
}

/// Trustee's name of the TEE.
pub(super) fn trustee_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Snp => "snp",
        Provider::Tdx => "tdx",
        Provider::Cca => "cca",
    }
}

/// What the guest was launched with, as its own report says. `None` where the report is not parsed
/// here (Arm CCA). `sys` is where sysfs is mounted: it knows a TD's `MRCONFIGID` too.
pub(super) fn launch_field(report: &KernelReport, sys: &std::path::Path) -> Result<Option<LaunchField>, Finding> {
    match report.provider() {
        Provider::Snp => {
            let report = snp::Report::parse(report.outblob()).map_err(|error| unreadable(&error))?;
            Ok(Some(snp_field(&report.host_data)))
        }
        Provider::Tdx => {
            let quote = tdx::Quote::parse(report.outblob()).map_err(|error| unreadable(&error))?;
            let claimed = quote.body.mr_config_id;
            if let Some(measured) = tsm::mr_config_id(sys)? {
                measured.confirm(&claimed)?;
            }
            Ok(Some(tdx_field(&claimed)))
        }
        Provider::Cca => Ok(None),
    }
}

pub(super) fn snp_field(host_data: &[u8; 32]) -> LaunchField {
    LaunchField { name: "HOST_DATA", value: host_data.to_vec() }
}

pub(super) fn tdx_field(mr_config_id: &[u8; 48]) -> LaunchField {
    LaunchField { name: "MRCONFIGID", value: mr_config_id.to_vec() }
}

fn to_json(report: &KernelReport, log: Option<&[u8]>) -> Result<String, Finding> {
    let json = match report.provider() {
        Provider::Snp => {
            let parsed = snp::Report::parse(report.outblob()).map_err(|error| unreadable(&error))?;
            trustee::snp(&parsed, certificates(report.auxblob()))
        }
        Provider::Tdx => {
            let log = log.and_then(|log| match eventlog::trim(log) {
                Ok(log) => Some(log),
                Err(error) => {
                    tracing::warn!("the event log of the firmware {error}; the quote is sent without it");
                    None
                }
            });
            trustee::tdx(report.outblob(), log)
        }
        Provider::Cca => trustee::cca(report.outblob()),
    };
    json.map_err(|_| Finding::new(Class::Bug, "the evidence could not be written as JSON"))
}

/// The certificates that the host handed to the guest. They are a help for the verifier, which else
/// fetches them from AMD: a table that does not parse costs nothing but that help.
fn certificates(table: Option<&[u8]>) -> Vec<cert_table::Entry> {
    let Some(table) = table else { return Vec::new() };
    cert_table::parse(table).unwrap_or_else(|error| {
        tracing::warn!("the host's table of certificates {error}; the report is sent without it");
        Vec::new()
    })
}

/// Without the log the verifier can still check the quote, but not replay the runtime registers.
fn read_log(sys: &std::path::Path) -> Option<Vec<u8>> {
    match tsm::event_log(sys) {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!("{error}; the quote is sent without the event log");
            None
        }
    }
}

/// In a field of the hardware, filled with zeros on the right.
fn padded(report_data: &[u8]) -> Result<[u8; 64], Finding> {
    let mut field = [0; 64];
    let part = field.get_mut(..report_data.len());
    let part = part.ok_or_else(|| Finding::new(Class::Bug, "more than 64 bytes of report data were asked for"))?;
    part.copy_from_slice(report_data);
    Ok(field)
}

fn unreadable(error: &dyn std::fmt::Display) -> Finding {
    Finding::new(Class::NoEvidence, format!("the kernel's report cannot be read: it {error}"))
        .why("what is not understood cannot be held to what this guest was launched with")
        .next("upgrade countersign, or take another way in `[kbs].via`")
        .who(Who::Platform)
}

impl From<tsm::Error> for Finding {
    fn from(error: tsm::Error) -> Self {
        error.finding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_is_filled_up_and_never_cut() {
        assert_eq!(padded(&[7; 48]).unwrap()[..50], [[7; 48].as_slice(), &[0, 0]].concat());
        assert!(padded(&[7; 64]).is_ok());
        assert_eq!(padded(&[7; 65]).unwrap_err().class, Class::Bug);
    }

    #[test]
    fn a_hosts_broken_table_of_certificates_is_left_out() {
        assert!(certificates(Some(&[1; 30])).is_empty());
        assert!(certificates(None).is_empty());
    }
}

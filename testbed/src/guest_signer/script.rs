//! What the signer answers, in a form that fits into a table's column:
//! `errno:16*3,snp+other-key` is EBUSY three times, then reports by a key of nobody.

use std::str::FromStr;

/// Bytes of SNP's `HOST_DATA`, and of TDX's MRCONFIGID.
const SNP_HOST_DATA: usize = 32;
const TDX_HOST_DATA: usize = 48;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `snp`, with `+change`s: a signed SEV-SNP report and its certificate table.
    Snp(Vec<Change>),
    /// `tdx`, with `+change`s: a signed TDX quote.
    Tdx(Vec<Change>),
    /// `cca`: opaque bytes with the challenge in them.
    Cca,
    /// `bytes:N`: an outblob of so many bytes, the inblob over and over.
    Bytes(usize),
    /// `errno:N`: report generation fails with this errno.
    Errno(u32),
    /// `silence`: no answer at all.
    Silence,
}

/// What is wrong, or otherwise, with a report or quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `+replay`: it is for the inblob of the script's first request, and properly signed.
    Replay,
    /// `+wrong-data`: it is for an inblob of nobody, and properly signed.
    WrongData,
    /// `+other-key`: signed by a key that no vendor vouches for.
    OtherKey,
    /// `+tampered`: the measurement was changed after signing.
    Tampered,
    /// `+other-measurement`: the launch measurement is another.
    OtherMeasurement,
    /// `+debug`: the host may debug the guest.
    Debug,
    /// `+host-data=HEX`: another `HOST_DATA` or `MRCONFIGID`, which commits to initdata; filled
    /// with zeros.
    HostData(Vec<u8>),
    /// `+no-certificates`: the certificate table is empty. SNP only.
    NoCertificates,
    /// `+manifest`: with an SVSM's manifest. SNP only.
    Manifest,
}

/// Answers in their order. The last one stays.
#[derive(Clone, Debug)]
pub struct Script {
    steps: Vec<(Answer, usize)>,
}

impl Script {
    /// The next answer.
    pub(crate) fn next_answer(&mut self) -> Answer {
        if self.steps.len() > 1 && self.steps.first().is_some_and(|(_, left)| *left == 0) {
            self.steps.remove(0);
        }
        let (answer, left) = self.steps.first_mut().expect("a script has a step");
        *left = left.saturating_sub(1);
        answer.clone()
    }

    /// Name of the kernel's provider whose reports these are.
    pub(crate) fn provider(&self) -> &'static str {
        let of = |answer: &Answer| match answer {
            Answer::Tdx(_) => Some("tdx_guest"),
            Answer::Cca => Some("arm_cca_guest"),
            Answer::Snp(_) => Some("sev_guest"),
            Answer::Bytes(_) | Answer::Errno(_) | Answer::Silence => None,
        };
        self.steps.iter().find_map(|(answer, _)| of(answer)).unwrap_or("sev_guest")
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(step).collect::<Result<_, _>>().map(|steps| Self { steps })
    }
}

/// `ANSWER` or `ANSWER*COUNT`.
fn step(text: &str) -> Result<(Answer, usize), String> {
    let (answer, count) = text.split_once('*').unwrap_or((text, "1"));
    let count =
        count.parse().ok().filter(|count| *count > 0).ok_or_else(|| format!("`{text}`: `{count}` is no count"))?;
    Ok((answer_of(answer)?, count))
}

fn answer_of(text: &str) -> Result<Answer, String> {
    let unknown = || format!("`{text}` is no answer: write snp or tdx[+CHANGE], cca, bytes:N, errno:N or silence");
    let mut words = text.split('+');
    let kind = words.next().unwrap_or_default();
    let changes = words.map(change).collect::<Result<Vec<_>, _>>()?;
    let fits = |snp: bool| {
        changes.iter().all(|change| match change {
            Change::NoCertificates | Change::Manifest => snp,
            Change::HostData(bytes) => !snp || bytes.len() <= SNP_HOST_DATA,
            _ => true,
        })
    };
    match kind.split_once(':') {
        None if kind == "snp" && fits(true) => Ok(Answer::Snp(changes)),
        None if kind == "tdx" && fits(false) => Ok(Answer::Tdx(changes)),
        _ if !changes.is_empty() => Err(unknown()),
        None if kind == "cca" => Ok(Answer::Cca),
        None if kind == "silence" => Ok(Answer::Silence),
        Some(("bytes", count)) => count.parse().map(Answer::Bytes).map_err(|_| unknown()),
        Some(("errno", number)) => number.parse().map(Answer::Errno).map_err(|_| unknown()),
        _ => Err(unknown()),
    }
}

fn change(text: &str) -> Result<Change, String> {
    match text {
        "replay" => Ok(Change::Replay),
        "wrong-data" => Ok(Change::WrongData),
        "other-key" => Ok(Change::OtherKey),
        "tampered" => Ok(Change::Tampered),
        "other-measurement" => Ok(Change::OtherMeasurement),
        "debug" => Ok(Change::Debug),
        "no-certificates" => Ok(Change::NoCertificates),
        "manifest" => Ok(Change::Manifest),
        _ => {
            let hex = text.strip_prefix("host-data=").ok_or_else(|| format!("`{text}` is no change to a report"))?;
            host_data(hex).map(Change::HostData).ok_or_else(|| format!("`{text}`: write up to 96 hex digits"))
        }
    }
}

fn host_data(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(high << 4 | low),
            _ => None,
        })
        .collect::<Option<_>>()?;
    Some(bytes).filter(|bytes| !bytes.is_empty() && bytes.len() <= TDX_HOST_DATA)
}

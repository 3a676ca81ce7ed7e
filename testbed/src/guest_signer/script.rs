//! What the signer answers, in a form that fits into a table's column:
//! `errno:16*3,snp+other-key` is EBUSY three times, then reports by a key of nobody.

use std::str::FromStr;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `snp`, with `+change`s: a signed SEV-SNP report and its certificate table.
    Snp(Vec<Change>),
    /// `tdx`: a TDX quote in shape. It is signed by nobody.
    Tdx,
    /// `cca`: opaque bytes with the challenge in them.
    Cca,
    /// `bytes:N`: an outblob of so many bytes, the inblob over and over.
    Bytes(usize),
    /// `errno:N`: report generation fails with this errno.
    Errno(u32),
    /// `silence`: no answer at all.
    Silence,
}

/// What is wrong, or otherwise, with an SNP report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `+replay`: it holds the inblob of the first request.
    Replay,
    /// `+wrong-data`: it holds an inblob of nobody.
    WrongData,
    /// `+other-key`: signed by another key than the certificate table's.
    OtherKey,
    /// `+other-measurement`: the launch measurement is another.
    OtherMeasurement,
    /// `+debug`: the policy allows the host to debug the guest.
    Debug,
    /// `+no-certificates`: the certificate table is empty.
    NoCertificates,
    /// `+manifest`: with an SVSM's manifest.
    Manifest,
    /// `+host-data=HEX`: `HOST_DATA`, which commits to initdata; 32 bytes.
    HostData([u8; 32]),
}

/// Answers in their order. The last one stays.
#[derive(Clone, Debug)]
pub struct Script {
    steps: Vec<(Answer, usize)>,
}

impl Script {
    /// The next answer.
    pub(crate) fn next_answer(&mut self) -> &Answer {
        if self.steps.len() > 1 && self.steps.first().is_some_and(|(_, left)| *left == 0) {
            self.steps.remove(0);
        }
        let (answer, left) = self.steps.first_mut().expect("a script has a step");
        *left = left.saturating_sub(1);
        answer
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
    let unknown = || format!("`{text}` is no answer: write snp[+CHANGE], tdx, cca, bytes:N, errno:N or silence");
    let mut words = text.split('+');
    let kind = words.next().unwrap_or_default();
    if kind == "snp" {
        return words.map(change).collect::<Result<_, _>>().map(Answer::Snp);
    }
    if words.next().is_some() {
        return Err(unknown());
    }
    match kind.split_once(':') {
        None if kind == "tdx" => Ok(Answer::Tdx),
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
        "other-measurement" => Ok(Change::OtherMeasurement),
        "debug" => Ok(Change::Debug),
        "no-certificates" => Ok(Change::NoCertificates),
        "manifest" => Ok(Change::Manifest),
        _ => {
            let hex = text.strip_prefix("host-data=").ok_or_else(|| format!("`{text}` is no change to a report"))?;
            host_data(hex).map(Change::HostData).ok_or_else(|| format!("`{text}`: write 64 hex digits"))
        }
    }
}

fn host_data(hex: &str) -> Option<[u8; 32]> {
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
    bytes.try_into().ok()
}

//! What was expected, from flags and `verify.toml`, understood before anything is read.

use std::path::{Path, PathBuf};

use super::proof::Proof;
use crate::appraise::expect::Expected;
use crate::appraise::tdx::TcbStatus;
use crate::cli::Expectations;
use crate::config::spiffe::PeerPattern;
use crate::evidence::snp::Tcb;
use crate::finding::{Class, Finding, printable};
use crate::formats::hex;
use crate::formats::initdata::Initdata;
use crate::formats::jwk::EcPublicJwk;
use crate::formats::runtime_data::{Hash, RuntimeData, report_data};
use crate::ports::files::read;

/// Most bytes of `verify.toml`, 64 KiB. A bound of ours.
const MAX_POLICY: usize = 64 * 1024;

/// Most bytes of a key's file, 16 KiB: a JWK has 200. A bound of ours.
pub(super) const MAX_KEY: usize = 16 * 1024;

/// Most bytes of initdata in any form, 4 MiB. What is too long unpacked, its parser says.
const MAX_INITDATA: usize = 4 * 1024 * 1024;

/// Bytes of a launch measurement.
const MEASUREMENT: usize = 48;

/// Bytes of a chip id, and of one of Turin.
const CHIP_IDS: [usize; 2] = [64, 8];

/// Widths of the digests that initdata may name.
const DIGESTS: [usize; 3] = [32, 48, 64];

/// What `--require` may name: the last part of a check's id.
const REQUIRABLE: [&str; 3] = ["crl", "tcb", "chip-id"];

/// All of it, understood.
pub(in crate::tool) struct Wanted {
    pub(super) hardware: Expected,
    /// The report data that was said as such; `hardware` has also what follows from nonce and key.
    pub(super) report_data: Option<[u8; 64]>,
    pub(super) nonce: Option<String>,
    pub(super) key: Option<EcPublicJwk>,
    pub(in crate::tool) identity: Option<String>,
    pub(super) roots: Option<PathBuf>,
    /// What a live peer must prove, where it must.
    pub(in crate::tool) proof: Option<Proof>,
}

impl Wanted {
    /// Flags and file together; what both say is a mistake, never a precedence.
    pub(in crate::tool) fn read(flags: &Expectations, policy: Option<&Path>) -> Result<Self, Finding> {
        let all = match policy {
            Some(path) => merged(flags, from_file(path)?)?,
            None => flags.clone(),
        };
        Self::understand(&all)
    }

    fn understand(said: &Expectations) -> Result<Self, Finding> {
        let key = said.key.as_deref().map(read_key).transpose()?;
        let mut hardware = Expected::nothing();
        let given = said.report_data.as_deref().map(parse_report_data).transpose()?;
        let by_nonce = match (&said.nonce, &key) {
            (Some(nonce), Some(key)) => Some(rcar_report_data(nonce, key)?),
            _ => None,
        };
        if given.is_some() && by_nonce.is_some() {
            return Err(usage(
                "--report-data stands beside --nonce with --key",
                "give one of the two: the report data follows from nonce and key",
            ));
        }
        hardware.report_data = given.or(by_nonce);
        hardware.measurements = bytes_of("--measurement", &said.measurement, &[MEASUREMENT])?;
        hardware.init_data = init_data(said)?;
        hardware.chip_ids = bytes_of("--chip-id", &said.chip_id, &CHIP_IDS)?
            .into_iter()
            .map(|mut id| {
                // The report's field is 64 bytes wide, whatever the chip.
                id.resize(64, 0);
                id
            })
            .collect();
        hardware.vmpl = said.vmpl.unwrap_or(0);
        hardware.min_tcb = said.min_tcb.as_deref().map(parse_tcb).transpose()?;
        hardware.min_guest_svn = said.min_guest_svn.unwrap_or(0);
        if !said.tcb_status.is_empty() {
            let statuses = said.tcb_status.iter().map(|word| parse_status(word)).collect::<Result<_, _>>()?;
            hardware.tcb_statuses = Some(statuses);
        }
        for what in &said.allow {
            match what.as_str() {
                "debug" => hardware.allow_debug = true,
                "migration" => hardware.allow_migration = true,
                _ => {
                    return Err(usage(
                        format!("--allow {} is neither debug nor migration", printable(what, 40)),
                        "write --allow debug or --allow migration",
                    ));
                }
            }
        }
        for name in &said.require {
            if !REQUIRABLE.contains(&name.as_str()) {
                return Err(usage(
                    format!("--require {} names no check", printable(name, 40)),
                    format!("write one of --require {}", REQUIRABLE.join(", --require ")),
                ));
            }
        }
        hardware.require.clone_from(&said.require);
        Ok(Self {
            hardware,
            report_data: given,
            nonce: said.nonce.clone(),
            key,
            identity: said.expect.clone(),
            roots: said.roots.clone(),
            proof: Proof::understand(said)?,
        })
    }

    /// Whether something is said of a guest: of a certificate or a live peer, only pins can say it.
    pub(in crate::tool) fn of_a_guest(&self) -> bool {
        self.of_hardware() || self.nonce.is_some() || self.key.is_some()
    }

    /// Whether something is said that a report or a token could show.
    pub(super) fn of_hardware(&self) -> bool {
        self.hardware != Expected::nothing()
    }

    /// Who must answer, or must have signed.
    pub(super) fn peer(&self) -> Result<PeerPattern, Finding> {
        let Some(identity) = &self.identity else {
            return Err(usage(
                "--expect is missing: nobody is named who must answer",
                "give --expect the identity, as spiffe://…",
            ));
        };
        PeerPattern::parse(identity).map_err(|why| {
            usage(format!("--expect {why}"), "write --expect as spiffe://<trust domain>/<path>, or dns:<name>")
        })
    }

    /// What is said that only a token can show, by its flag: hardware signs nonce and key together.
    pub(super) fn half_a_binding(&self) -> Option<&'static str> {
        match (&self.nonce, &self.key) {
            (Some(_), None) => Some("--nonce"),
            (None, Some(_)) => Some("--key"),
            _ => None,
        }
    }
}

/// Keys that list what is good enough.
const GOOD_ENOUGH: [&str; 3] = ["measurement", "chip_id", "tcb_status"];

fn from_file(path: &Path) -> Result<Expectations, Finding> {
    let text = String::from_utf8(read(path, MAX_POLICY)?).map_err(|_| policy_error(path, "it is not UTF-8"))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| policy_error(path, error.message()))?;
    // Of an empty list of what is good enough nobody knows whether it means nothing, or anything.
    let empty = |key: &&str| table.get(*key).and_then(toml::Value::as_array).is_some_and(Vec::is_empty);
    if let Some(key) = GOOD_ENOUGH.iter().find(|key| empty(key)) {
        return Err(policy_error(path, &format!("`{key}` is an empty list: write what it must be, or remove the key")));
    }
    let mut said: Expectations = table.try_into().map_err(|error| policy_error(path, error.message()))?;
    if said.init_data.is_some() && said.init_data_digest.is_some() {
        return Err(policy_error(path, "it has both `init_data` and `init_data_digest`"));
    }
    // Files that it names lie beside it.
    let beside = |file: PathBuf| path.parent().map_or_else(|| file.clone(), |directory| directory.join(&file));
    said.key = said.key.map(beside);
    said.init_data = said.init_data.map(beside);
    for file in [&mut said.roots, &mut said.token_roots, &mut said.pins, &mut said.cert, &mut said.cert_key] {
        *file = file.take().map(beside);
    }
    Ok(said)
}

fn policy_error(path: &Path, why: &str) -> Finding {
    Finding::new(Class::Config, format!("{} cannot be used: {}", path.display(), printable(why, 200)))
        .why("an expectation that is not understood would be one that is not held to")
        .next(format!("correct {}; docs/verify.md lists its keys", path.display()))
}

fn merged(flags: &Expectations, file: Expectations) -> Result<Expectations, Finding> {
    let (f, p) = (flags.clone(), file);
    Ok(Expectations {
        report_data: one("report-data", f.report_data, p.report_data)?,
        nonce: one("nonce", f.nonce, p.nonce)?,
        key: one("key", f.key, p.key)?,
        measurement: list("measurement", f.measurement, p.measurement)?,
        init_data: one("init-data", f.init_data, p.init_data)?,
        init_data_digest: one("init-data-digest", f.init_data_digest, p.init_data_digest)?,
        chip_id: list("chip-id", f.chip_id, p.chip_id)?,
        vmpl: one("vmpl", f.vmpl, p.vmpl)?,
        min_tcb: one("min-tcb", f.min_tcb, p.min_tcb)?,
        min_guest_svn: one("min-guest-svn", f.min_guest_svn, p.min_guest_svn)?,
        tcb_status: list("tcb-status", f.tcb_status, p.tcb_status)?,
        allow: list("allow", f.allow, p.allow)?,
        require: list("require", f.require, p.require)?,
        expect: one("expect", f.expect, p.expect)?,
        roots: one("roots", f.roots, p.roots)?,
        token_roots: one("token-roots", f.token_roots, p.token_roots)?,
        pins: one("pins", f.pins, p.pins)?,
        max_age: one("max-age", f.max_age, p.max_age)?,
        level: one("level", f.level, p.level)?,
        cert: one("cert", f.cert, p.cert)?,
        cert_key: one("cert-key", f.cert_key, p.cert_key)?,
    })
}

fn one<T>(name: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>, Finding> {
    match (flag, file) {
        (Some(_), Some(_)) => Err(twice(name)),
        (flag, file) => Ok(flag.or(file)),
    }
}

fn list<T>(name: &str, flags: Vec<T>, file: Vec<T>) -> Result<Vec<T>, Finding> {
    match (flags.is_empty(), file.is_empty()) {
        (false, false) => Err(twice(name)),
        (true, _) => Ok(file),
        (false, true) => Ok(flags),
    }
}

fn twice(name: &str) -> Finding {
    usage(
        format!("--{name} stands on the command line and in the policy file"),
        format!("remove --{name}, or the key from the policy file"),
    )
}

fn parse_report_data(text: &str) -> Result<[u8; 64], Finding> {
    let bytes = hex::decode(text).filter(|bytes| !bytes.is_empty() && bytes.len() <= 64);
    let bytes = bytes.ok_or_else(|| {
        usage("--report-data is not 1 to 64 bytes of hex", "write --report-data as 2 to 128 hex digits")
    })?;
    Ok(report_data(&bytes))
}

/// What Trustee's protocol has the hardware sign over a nonce and a key.
fn rcar_report_data(nonce: &str, key: &EcPublicJwk) -> Result<[u8; 64], Finding> {
    let data = RuntimeData::new(nonce.to_owned(), key.clone())
        .map_err(|error| usage(format!("--nonce {error}"), "give --nonce as the KBS sent it"))?;
    Ok(report_data(&data.digest(Hash::default(), "")))
}

fn read_key(path: &Path) -> Result<EcPublicJwk, Finding> {
    EcPublicJwk::parse(&read(path, MAX_KEY)?).map_err(|error| {
        usage(
            format!("the key in {} {error}", path.display()),
            "give --key a file with a P-256 JWK, as in `tee-pubkey`",
        )
    })
}

fn init_data(said: &Expectations) -> Result<Option<Vec<u8>>, Finding> {
    if said.init_data.is_some() && said.init_data_digest.is_some() {
        return Err(usage("--init-data stands beside --init-data-digest", "give one of the two"));
    }
    if let Some(path) = &said.init_data {
        let bytes = read(path, MAX_INITDATA)?;
        let initdata = Initdata::parse(&bytes).map_err(|error| {
            Finding::new(Class::Config, format!("the initdata in {} {error}", path.display()))
                .next(format!("run `kubectl countersign initdata check {}`", path.display()))
        })?;
        return Ok(Some(initdata.digest()));
    }
    let Some(text) = &said.init_data_digest else { return Ok(None) };
    let digest = hex::decode(text).filter(|digest| DIGESTS.contains(&digest.len()));
    let digest = digest.filter(|digest| digest.iter().any(|byte| *byte != 0));
    digest.map(Some).ok_or_else(|| {
        usage(
            "--init-data-digest is no digest",
            "write it as 64, 96 or 128 hex digits; `kubectl countersign initdata digest` prints it",
        )
    })
}

fn bytes_of(flag: &str, texts: &[String], widths: &[usize]) -> Result<Vec<Vec<u8>>, Finding> {
    let parse = |text: &String| hex::decode(text).filter(|bytes| widths.contains(&bytes.len()));
    let digits: Vec<_> = widths.iter().map(|width| width.saturating_mul(2).to_string()).collect();
    texts
        .iter()
        .map(|text| {
            parse(text).ok_or_else(|| {
                usage(
                    format!("{flag} is not {} hex digits", digits.join(" or ")),
                    format!("write {flag} as {} hex digits", digits.join(" or ")),
                )
            })
        })
        .collect()
}

fn parse_status(word: &str) -> Result<TcbStatus, Finding> {
    TcbStatus::parse(word).ok_or_else(|| {
        usage(
            format!("--tcb-status {} is no word of Intel's that can be accepted", printable(word, 60)),
            format!("write one of {}", TcbStatus::labels().join(", ")),
        )
    })
}

/// `fmc=1,bootloader=3,tee=0,snp=8,microcode=115`: every part once, `fmc` where there is one.
fn parse_tcb(text: &str) -> Result<Tcb, Finding> {
    let wrong = || {
        usage(
            "--min-tcb is not of the form bootloader=3,tee=0,snp=8,microcode=115",
            "write --min-tcb with all four parts (and fmc=… first on Turin), each from 0 to 255",
        )
    };
    let (mut fmc, mut parts) = (None, [None; 4]);
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let value: u8 = value.parse().map_err(|_| wrong())?;
        let [bootloader, tee, snp, microcode] = &mut parts;
        let slot = match name {
            "fmc" => &mut fmc,
            "bootloader" => bootloader,
            "tee" => tee,
            "snp" => snp,
            "microcode" => microcode,
            _ => return Err(wrong()),
        };
        if slot.replace(value).is_some() {
            return Err(wrong());
        }
    }
    match parts {
        [Some(bootloader), Some(tee), Some(snp), Some(microcode)] => Ok(Tcb { fmc, bootloader, tee, snp, microcode }),
        _ => Err(wrong()),
    }
}

/// The command line, or the policy, is not understood.
pub(in crate::tool) fn usage(saw: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding::new(Class::Usage, saw)
        .why("an expectation that is not understood would be one that is not held to")
        .next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(said: &Expectations) -> Result<Expected, Class> {
        Wanted::understand(said).map(|wanted| wanted.hardware).map_err(|finding| finding.class)
    }

    #[test]
    fn what_is_said_twice_is_refused() {
        let said = Expectations { vmpl: Some(0), measurement: vec!["00".to_owned()], ..Expectations::default() };
        for twice in [
            Expectations { vmpl: Some(0), ..Expectations::default() },
            Expectations { measurement: vec!["11".to_owned()], ..Expectations::default() },
        ] {
            assert_eq!(merged(&said, twice).unwrap_err().class, Class::Usage);
        }
        assert!(merged(&said, Expectations { nonce: Some("n".to_owned()), ..Expectations::default() }).is_ok());
    }

    #[test]
    fn an_unknown_key_of_the_policy_is_refused() {
        assert!(toml::from_str::<Expectations>("mesurement = [\"00\"]").is_err());
        let read: Expectations = toml::from_str("measurement = [\"00\"]\nvmpl = 1\nallow = [\"debug\"]").unwrap();
        assert_eq!((read.vmpl, read.measurement.len(), read.allow.len()), (Some(1), 1, 1));
    }

    #[test]
    fn an_empty_list_in_a_policy_is_refused_by_its_key() {
        let path = std::env::temp_dir().join(format!("countersign-empty-{}.toml", std::process::id()));
        for key in GOOD_ENOUGH {
            std::fs::write(&path, format!("vmpl = 0\n{key} = []\n")).unwrap();
            let finding = from_file(&path).unwrap_err();
            assert_eq!(finding.class, Class::Config);
            assert!(finding.saw.contains(&format!("`{key}` is an empty list")), "{finding}");
        }
        std::fs::write(&path, "allow = []\nrequire = []\n").unwrap();
        assert!(from_file(&path).is_ok(), "nothing more is allowed, nothing more is demanded");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn report_data_is_filled_up_with_zeros_and_never_cut() {
        let of =
            |text: &str| understood(&Expectations { report_data: Some(text.to_owned()), ..Expectations::default() });
        let mut wanted = [0; 64];
        wanted[0] = 0xff;
        assert_eq!(of("ff").unwrap().report_data, Some(wanted));
        for text in ["", "f", "zz", &"00".repeat(65)] {
            assert_eq!(of(text), Err(Class::Usage), "{text}");
        }
    }

    #[test]
    fn a_digest_of_zeros_is_no_expectation() {
        for text in ["00".repeat(32), "00".repeat(31), "ab".repeat(33)] {
            let said = Expectations { init_data_digest: Some(text.clone()), ..Expectations::default() };
            assert_eq!(understood(&said), Err(Class::Usage), "{text}");
        }
    }

    #[test]
    fn a_least_tcb_needs_every_part_once() {
        let of = |text: &str| understood(&Expectations { min_tcb: Some(text.to_owned()), ..Expectations::default() });
        let tcb = of("bootloader=3,tee=0,snp=8,microcode=115").unwrap().min_tcb.unwrap();
        assert_eq!((tcb.fmc, tcb.bootloader, tcb.microcode), (None, 3, 115));
        assert_eq!(of("fmc=1,bootloader=3,tee=0,snp=8,microcode=115").unwrap().min_tcb.unwrap().fmc, Some(1));
        for text in [
            "",
            "bootloader=3",
            "bootloader=3,tee=0,snp=8,microcode=256",
            "bootloader=3,bootloader=3,tee=0,snp=8,microcode=1",
            "bootloader=3,tee=0,snp=8,micro=1",
        ] {
            assert_eq!(of(text), Err(Class::Usage), "{text}");
        }
    }

    #[test]
    fn words_that_are_not_known_are_refused() {
        for said in [
            Expectations { tcb_status: vec!["Revoked".to_owned()], ..Expectations::default() },
            Expectations { allow: vec!["anything".to_owned()], ..Expectations::default() },
            Expectations { require: vec!["signature".to_owned()], ..Expectations::default() },
            Expectations { chip_id: vec!["00".to_owned()], ..Expectations::default() },
        ] {
            assert_eq!(understood(&said), Err(Class::Usage), "{said:?}");
        }
    }
}

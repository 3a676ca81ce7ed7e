//! Whether an attestation token says what is expected of the guest that it is about.
//!
//! That a trusted key signed it, and that it has not expired, `formats::ear` checks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::check::Check;
use super::expect;
use super::launch::LaunchField;
use super::tdx::TcbStatus;
use crate::formats::ear::{Claims, Status, Submod};
use crate::formats::hex;
use crate::formats::initdata::launch::{HOST_DATA_LEN, MRCONFIGID_LEN, azure_pcr8};
use crate::formats::jwk::EcPublicJwk;
use serde_json::Value;

/// What a token has to say. Nothing has a default here.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected<'a> {
    /// The nonce of the challenge that it must answer.
    pub nonce: Option<&'a str>,
    /// The key that must have been attested (`tee-pubkey`).
    pub key: Option<&'a EcPublicJwk>,
    /// What the guest must have had signed, 64 bytes.
    pub report_data: Option<&'a [u8; 64]>,
    /// The launch measurement: one of these. Empty: nothing is said.
    pub measurements: &'a [Vec<u8>],
    /// The digest of the initdata that the guest must have been launched with.
    pub init_data: Option<&'a [u8]>,
    /// TCB statuses that are good enough (TDX), where somebody says which.
    pub tcb_statuses: Option<&'a [TcbStatus]>,
}

impl Expected<'_> {
    /// Whether something ties the token to this moment or this key.
    pub fn is_bound(&self) -> bool {
        self.nonce.is_some() || self.key.is_some() || self.report_data.is_some()
    }
}

/// Holds a token's claims to what is expected. They must be a trusted signer's.
pub fn judge(claims: &Claims, expected: &Expected<'_>) -> Vec<Check> {
    let cpu = claims.cpu();
    let tee = Tee::of(cpu);
    let mut checks: Vec<Check> = claims.submods.iter().map(|(name, submod)| status(name, submod)).collect();
    if let Some(nonce) = expected.nonce {
        let holds = cpu.runtime.as_ref().is_some_and(|runtime| runtime.nonce == nonce);
        checks.push(told(holds, "expect.nonce", "it answers the expected challenge", "it answers another challenge"));
    }
    if let Some(key) = expected.key {
        let mut attested = claims.submods.values().filter_map(|submod| submod.runtime.as_ref()).peekable();
        let holds = attested.peek().is_some() && attested.all(|runtime| runtime.tee_pubkey.is_same_key(key));
        checks.push(told(holds, "expect.key", "the expected key was attested", "another key was attested, or none"));
    }
    if let Some(wanted) = expected.report_data {
        let holds = evidence_text(cpu, &["report_data"]).and_then(hex::decode).is_some_and(|said| fits(&said, wanted));
        checks.push(told(
            holds,
            "expect.report-data",
            "the report data is the expected one",
            "the report data is another",
        ));
    }
    if !expected.measurements.is_empty() {
        let said = tee.and_then(|tee| tee.measurement(cpu));
        let holds = said.as_ref().is_some_and(|said| expected.measurements.contains(said));
        let no = match (tee, said) {
            (_, Some(_)) => "the measurement is none of those expected",
            (Some(_), None) => "the token names no measurement",
            (None, None) => "the token is of hardware whose measurement this build cannot read",
        };
        checks.push(told(holds, "expect.measurement", "the measurement is one of those expected", no));
    }
    if let Some(digest) = expected.init_data {
        let field = tee.and_then(|tee| tee.launch_field(cpu));
        // The vTPM holds no digest, but what its register becomes of one.
        let wanted = match tee.filter(|tee| tee.is_azure()) {
            Some(_) => azure_pcr8(digest).map(|pcr| pcr.to_vec()),
            None => Some(digest.to_vec()),
        };
        let holds = field.as_ref().zip(wanted.as_ref()).is_some_and(|(field, wanted)| field.holds(wanted).is_ok());
        let no = match (field, wanted) {
            (_, None) => {
                "Azure's vTPM holds initdata of `algorithm = \"sha256\"` only, and the expected digest is another's"
            }
            (Some(_), _) => "the guest was launched with other initdata, or none",
            (None, _) => {
                "the token does not say with which initdata the guest was launched, or it came from hardware that this build does not know"
            }
        };
        checks.push(told(holds, "expect.init-data", "the guest was launched with the expected initdata", no));
    }
    if let Some(accepted) = expected.tcb_statuses {
        checks.push(tcb_status(tee.and_then(|tee| tee.tcb_status(cpu)), accepted));
    }
    checks
}

/// The status that the attestation service found, held to those that are good enough.
fn tcb_status(said: Option<&str>, accepted: &[TcbStatus]) -> Check {
    const ID: &str = "expect.tcb-status";
    let expected = expect::labels(accepted);
    match said.map(TcbStatus::parse) {
        None => Check::failed(ID, format!("expected {expected}, and the token names no TCB status")),
        // Words that nobody can accept are not repeated: text from outside stays outside.
        Some(None) => Check::failed(ID, format!("a TCB status that nobody can accept, accepted: {expected}")),
        Some(Some(status)) => {
            let said = format!("TCB status {}, accepted: {expected}", status.label());
            if accepted.contains(&status) { Check::held(ID, said) } else { Check::failed(ID, said) }
        }
    }
}

/// A verdict other than affirming is not one to rely on, and a sample's is none at all.
fn status(name: &str, submod: &Submod) -> Check {
    const ID: &str = "token.status";
    let name = crate::finding::printable(name, 40);
    if submod.is_sample() {
        return Check::failed(ID, format!("{name}: the `sample` attester attests nothing"));
    }
    let said = format!("{name}: ear.status is {}", submod.status.label());
    if submod.status == Status::Affirming { Check::held(ID, said) } else { Check::failed(ID, said) }
}

/// Hardware whose claims are known: Trustee v0.21, `deps/verifier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tee {
    Snp,
    Tdx,
    AzSnp,
    AzTdx,
}

impl Tee {
    /// By the member that is named like it. None where there is none, or more than one.
    fn of(cpu: &Submod) -> Option<Self> {
        let mut found = [Self::Snp, Self::Tdx, Self::AzSnp, Self::AzTdx]
            .into_iter()
            .filter(|tee| cpu.evidence.contains_key(tee.name()));
        let tee = found.next()?;
        found.next().is_none().then_some(tee)
    }

    /// Trustee's.
    fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::AzSnp => "az-snp-vtpm",
            Self::AzTdx => "az-tdx-vtpm",
        }
    }

    fn is_azure(self) -> bool {
        matches!(self, Self::AzSnp | Self::AzTdx)
    }

    /// The launch measurement. Of SEV-SNP on Azure Trustee writes it in base64, else in hex.
    fn measurement(self, cpu: &Submod) -> Option<Vec<u8>> {
        let text = |path: &[&str]| evidence_text(cpu, &[&[self.name()], path].concat());
        match self {
            Self::Snp => hex::decode(text(&["measurement"])?),
            Self::AzSnp => STANDARD.decode(text(&["measurement"])?).ok(),
            Self::Tdx | Self::AzTdx => hex::decode(text(&["quote", "body", "mr_td"])?),
        }
    }

    /// The field that initdata is held to, as wide as the hardware's. On Azure Trustee puts PCR 8 there.
    fn launch_field(self, cpu: &Submod) -> Option<LaunchField> {
        let value = cpu.init_data.as_deref().and_then(hex::decode)?;
        let (name, width) = match self {
            Self::Snp => ("HOST_DATA", HOST_DATA_LEN),
            Self::Tdx => ("MRCONFIGID", MRCONFIGID_LEN),
            Self::AzSnp | Self::AzTdx => ("PCR 8", 32),
        };
        (value.len() == width).then_some(LaunchField { name, value })
    }

    /// What the attestation service found of a TDX platform.
    fn tcb_status(self, cpu: &Submod) -> Option<&str> {
        matches!(self, Self::Tdx | Self::AzTdx).then(|| evidence_text(cpu, &[self.name(), "tcb_status"])).flatten()
    }
}

fn evidence_text<'a>(cpu: &'a Submod, path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let start = cpu.evidence.get(*first)?;
    rest.iter().try_fold(start, |value, name| value.get(*name)).and_then(Value::as_str)
}

/// The claim is the whole field, or what was put into it before the zeros.
fn fits(said: &[u8], wanted: &[u8; 64]) -> bool {
    let rest = wanted.strip_prefix(said);
    !said.is_empty() && rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

fn told(holds: bool, id: &'static str, yes: &str, no: &str) -> Check {
    if holds { Check::held(id, yes) } else { Check::failed(id, no) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appraise::check::State;
    use crate::formats::ear::testing::{NOW, World, claims};
    use crate::formats::ear::{EarToken, Signer};
    use serde_json::json;

    /// Where nothing is expected.
    const NOTHING: Expected<'_> =
        Expected { nonce: None, key: None, report_data: None, measurements: &[], init_data: None, tcb_statuses: None };

    /// The verdicts on a signed token whose evidence has these members in place of an SNP guest's.
    fn judged(evidence: &Value, expected: &Expected<'_>) -> Vec<Check> {
        let world = World::new();
        let mut payload = claims(&world.guest);
        let place = &mut payload["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        place.as_object_mut().unwrap().remove("snp");
        for (name, value) in evidence.as_object().unwrap() {
            place[name] = value.clone();
        }
        let token = EarToken::parse(&world.token(&payload)).unwrap();
        judge(&token.signed_claims(Signer::EndorsedBy(&world.anchors), NOW).unwrap(), expected)
    }

    fn found<'c>(checks: &'c [Check], id: &str) -> &'c Check {
        checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no {id}: {checks:?}"))
    }

    #[test]
    fn a_tcb_status_that_is_expected_must_be_there_and_be_accepted() {
        let accepted = [TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded];
        let expected = Expected { tcb_statuses: Some(&accepted), ..NOTHING };
        for (evidence, state) in [
            (json!({"tdx": {"tcb_status": "UpToDate"}}), State::Held),
            (json!({"tdx": {"tcb_status": "SWHardeningNeeded"}}), State::Held),
            (json!({"az-tdx-vtpm": {"tcb_status": "UpToDate"}}), State::Held),
            (json!({"tdx": {"tcb_status": "OutOfDate"}}), State::Failed),
            (json!({"az-tdx-vtpm": {"tcb_status": "OutOfDate"}}), State::Failed),
            (json!({"tdx": {"tcb_status": "Revoked"}}), State::Failed),
            (json!({"tdx": {"tcb_status": "uptodate"}}), State::Failed),
            (json!({"tdx": {"tcb_status": ["UpToDate"]}}), State::Failed),
            (json!({"tdx": {}, "tcb_status": "UpToDate"}), State::Failed),
            (json!({"snp": {"measurement": "00"}}), State::Failed),
        ] {
            assert_eq!(found(&judged(&evidence, &expected), "expect.tcb-status").state, state, "{evidence}");
        }
        let both = json!({"tdx": {"tcb_status": "UpToDate"}, "az-tdx-vtpm": {"tcb_status": "OutOfDate"}});
        assert_eq!(found(&judged(&both, &expected), "expect.tcb-status").state, State::Failed, "of which of them?");
        // Where nobody says it, the attestation service's own policy has judged it.
        let silent = judged(&json!({"tdx": {"tcb_status": "OutOfDate"}}), &NOTHING);
        assert!(silent.iter().all(|check| check.id != "expect.tcb-status"), "{silent:?}");
    }

    /// The claims of Azure's guests as Trustee writes them (`az_snp_vtpm`, `az_tdx_vtpm`).
    fn azure(tee: &str, pcr8: &[u8]) -> Value {
        let claims = if tee == "az-snp-vtpm" {
            json!({"measurement": STANDARD.encode([0xab; 48]), "policy_debug_allowed": "false"})
        } else {
            json!({"quote": {"body": {"mr_td": "ab".repeat(48)}}, "tcb_status": "UpToDate"})
        };
        json!({tee: claims, "init_data": hex::encode(pcr8), "report_data": "07".repeat(48)})
    }

    #[test]
    fn azures_guests_are_held_to_measurement_initdata_and_report_data() {
        let (right, wrong) = ([vec![0xab; 48]], [vec![0xac; 48]]);
        let (ours, other) = ([5; 32], [6; 32]);
        let mut data = [0; 64];
        data[..48].fill(7);
        for tee in ["az-snp-vtpm", "az-tdx-vtpm"] {
            let token = azure(tee, &azure_pcr8(&ours).unwrap());
            for (measurements, digest, state) in
                [(&right, &ours[..], State::Held), (&wrong, &other, State::Failed), (&wrong, &[5; 48], State::Failed)]
            {
                let expected = Expected { measurements, init_data: Some(digest), report_data: Some(&data), ..NOTHING };
                let checks = judged(&token, &expected);
                assert_eq!(found(&checks, "expect.measurement").state, state, "{tee}: {checks:?}");
                assert_eq!(found(&checks, "expect.init-data").state, state, "{tee}: {checks:?}");
                assert_eq!(found(&checks, "expect.report-data").state, State::Held, "{tee}: {checks:?}");
            }
            // A register that nothing was extended into, and one with the digest itself in it.
            for pcr8 in [[0; 32], ours] {
                let checks = judged(&azure(tee, &pcr8), &Expected { init_data: Some(&ours), ..NOTHING });
                assert_eq!(found(&checks, "expect.init-data").state, State::Failed, "{tee}: {checks:?}");
            }
        }
    }

    #[test]
    fn claims_of_no_known_hardware_or_of_two_are_held_to_nothing() {
        let measurements = [vec![0xab; 48]];
        let expected = Expected { measurements: &measurements, init_data: Some(&[5; 32]), ..NOTHING };
        let measured = json!({"measurement": "ab".repeat(48)});
        for evidence in [
            json!({"cca": measured, "init_data": hex::encode(&[5; 32])}),
            json!({"snp": measured, "tdx": {}, "init_data": hex::encode(&[5; 32])}),
            // Base64 where hex belongs, and the other way round.
            json!({"snp": {"measurement": STANDARD.encode([0xab; 48])}, "init_data": ""}),
            json!({"az-snp-vtpm": measured, "init_data": hex::encode(&[5; 32])}),
        ] {
            for id in ["expect.measurement", "expect.init-data"] {
                assert_eq!(found(&judged(&evidence, &expected), id).state, State::Failed, "{id}: {evidence}");
            }
        }
        let honest = json!({"snp": measured, "init_data": hex::encode(&[5; 32])});
        for id in ["expect.measurement", "expect.init-data"] {
            assert_eq!(found(&judged(&honest, &expected), id).state, State::Held, "{id}");
        }
    }
}

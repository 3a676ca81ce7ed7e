//! Whether an attestation token says what is expected of the guest that it is about.
//!
//! That a trusted key signed it, and that it has not expired, `formats::ear` checks.

use super::check::Check;
use super::expect;
use super::launch::LaunchField;
use super::tdx::TcbStatus;
use crate::formats::ear::{Claims, Status, Submod};
use crate::formats::hex;
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
        let said = measurement(cpu);
        let holds = said.as_ref().is_some_and(|said| expected.measurements.contains(said));
        checks.push(told(
            holds,
            "expect.measurement",
            "the measurement is one of those expected",
            if said.is_some() { "the measurement is none of those expected" } else { "the token names no measurement" },
        ));
    }
    if let Some(digest) = expected.init_data {
        let field = launch_field(cpu);
        let holds = field.as_ref().is_some_and(|field| field.holds(digest).is_ok());
        checks.push(told(
            holds,
            "expect.init-data",
            "the guest was launched with the expected initdata",
            if field.is_some() { "the guest was launched with other initdata, or none" } else { "the token does not say with which initdata the guest was launched, or it came from hardware that this build does not know" },
        ));
    }
    if let Some(accepted) = expected.tcb_statuses {
        checks.push(tcb_status(cpu, accepted));
    }
    checks
}

/// The status that the attestation service found, held to those that are good enough.
fn tcb_status(cpu: &Submod, accepted: &[TcbStatus]) -> Check {
    const ID: &str = "expect.tcb-status";
    let expected = expect::labels(accepted);
    let said = ["tdx", "az-tdx-vtpm"].iter().find_map(|tee| evidence_text(cpu, &[tee, "tcb_status"]));
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

/// The launch measurement, where the claims are those of a TEE that has one.
fn measurement(cpu: &Submod) -> Option<Vec<u8>> {
    let text = evidence_text(cpu, &["snp", "measurement"])
        .or_else(|| evidence_text(cpu, &["tdx", "quote", "body", "mr_td"]))?;
    hex::decode(text)
}

/// The launch field, as wide as the hardware's.
fn launch_field(cpu: &Submod) -> Option<LaunchField> {
    let value = cpu.init_data.as_deref().and_then(hex::decode)?;
    let (name, width) = match (cpu.evidence.contains_key("snp"), cpu.evidence.contains_key("tdx")) {
        (true, false) => ("HOST_DATA", 32),
        (false, true) => ("MRCONFIGID", 48),
        _ => return None,
    };
    (value.len() == width).then_some(LaunchField { name, value })
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
        // Where nobody says it, the attestation service's own policy has judged it.
        let silent = judged(&json!({"tdx": {"tcb_status": "OutOfDate"}}), &NOTHING);
        assert!(silent.iter().all(|check| check.id != "expect.tcb-status"), "{silent:?}");
    }
}

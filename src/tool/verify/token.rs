//! Attestation tokens, judged.

use super::hardware::conclusion;
use super::verdict::Verdict;
use super::wanted::usage;
use super::{Question, time};
use crate::appraise::check::Check;
use crate::appraise::expect::{self, Word};
use crate::appraise::token::{self, Expected};
use crate::evidence::twin::Field;
use crate::finding::{Class, Finding, printable};
use crate::formats::ear::{Claims, EarToken, Error, Signer, TrustAnchors};

pub(super) fn judge(text: &str, question: &Question<'_>) -> Result<Verdict, Finding> {
    only_for_hardware(question)?;
    let what = "an attestation token (EAR)".to_owned();
    let refused = |error: &Error, fields: Vec<Field>| {
        let finding =
            Finding::new(Class::EvidenceRejected, format!("the attestation token {}", crate::finding::chain(error)))
                .why("whatever a token says, anybody could have written it unless a trusted key signed it")
                .next(next(*error));
        let check = Check::failed("token.signature", format!("the attestation token {error}"));
        Verdict {
            kind: "token",
            what: what.clone(),
            word: Word::NotGenuine,
            finding: Some(finding),
            checks: vec![check],
            fields,
        }
    };
    let unverified = match EarToken::parse(text) {
        Ok(unverified) => unverified,
        Err(error) => return Ok(refused(&error, Vec::new())),
    };
    let shown = unverified.claims_unverified().map(|claims| fields(&claims)).unwrap_or_default();
    let Some(pem) = question.roots else { return Ok(refused(&Error::NoKeys, shown)) };
    let anchors = TrustAnchors::from_pem(pem).map_err(|error| {
        usage(
            format!("the trusted certificates in --roots {error}"),
            "give --roots a PEM file with the CA of the attestation service",
        )
    })?;
    let claims = match unverified.signed_claims(Signer::EndorsedBy(&anchors), question.now) {
        Ok(claims) => claims,
        Err(error) => return Ok(refused(&error, shown)),
    };
    let hardware = &question.wanted.hardware;
    let expected = Expected {
        nonce: question.wanted.nonce.as_deref(),
        key: question.wanted.key.as_ref(),
        report_data: question.wanted.report_data.as_ref(),
        measurements: &hardware.measurements,
        init_data: hardware.init_data.as_deref(),
        tcb_statuses: hardware.tcb_statuses.as_deref(),
    };
    let judged = token::judge(&claims, &expected);
    let known = !hardware.measurements.is_empty() || hardware.init_data.is_some();
    let missing = expect::missing(expected.is_bound(), known);
    let word = expect::word(&judged, !expected.is_bound() && !known, &missing);
    let mut checks = vec![
        Check::held("token.signature", "ES256, by a key that the trusted certificates vouch for"),
        Check::held("token.validity", "issued before this time, and not expired"),
    ];
    let finding = conclusion(word, &judged, &missing);
    checks.extend(judged);
    Ok(Verdict { kind: "token", what, word, finding, checks, fields: shown })
}

/// What a token does not say cannot be held to it, and is never passed over.
fn only_for_hardware(question: &Question<'_>) -> Result<(), Finding> {
    let h = &question.wanted.hardware;
    let said = [
        ("--chip-id", !h.chip_ids.is_empty()),
        ("--vmpl", h.vmpl != 0),
        ("--min-tcb", h.min_tcb.is_some()),
        ("--min-guest-svn", h.min_guest_svn > 0),
        ("--allow", h.allow_debug || h.allow_migration),
        ("--require", !h.require.is_empty()),
    ];
    match said.iter().find(|(_, said)| *said) {
        Some((flag, _)) => Err(usage(
            format!("{flag} cannot be held to an attestation token"),
            format!("remove {flag}: the attestation service's own policy judges that, and the token's status says how"),
        )),
        None => Ok(()),
    }
}

fn next(error: Error) -> &'static str {
    match error {
        Error::NoKeys => "give --roots the CA certificate of the attestation service (PEM)",
        Error::Expired => "take a new token; to judge it as of another time, give --at",
        Error::NotYet => "compare this machine's clock with the attestation service's, or correct --at",
        Error::Chain(_) | Error::NoHeaderKey | Error::KeyMismatch => {
            "check that --roots is the CA of the attestation service that issued the token, and that the service signs with a certificate"
        }
        _ => "take the token anew, as the KBS or /aa/token answers it",
    }
}

/// The token in words.
pub(super) fn fields(claims: &Claims) -> Vec<Field> {
    let field = |name, value: String, says: String| Field { name, value, says };
    let mut fields = vec![
        field("iat", time::text(claims.issued_at), "issued".to_owned()),
        field("exp", time::text(claims.expires_at), "until then it may be shown to the KBS".to_owned()),
    ];
    for (name, submod) in &claims.submods {
        let name = printable(name, 40);
        let policy = submod.policy_id.as_deref().map_or("no policy named".to_owned(), |id| printable(id, 80));
        fields.push(field("submod", name.clone(), format!("judged by the attestation policy {policy}")));
        fields.push(field("ear.status", submod.status.label().to_owned(), format!("of {name}")));
        for claim in submod.vector.words() {
            let next = if claim.next.is_empty() { String::new() } else { format!("; {}", claim.next) };
            fields.push(field(
                claim.name,
                claim.value.to_string(),
                format!("{}: {}{next}", claim.status.label(), claim.says),
            ));
        }
        if submod.is_sample() {
            fields.push(field("evidence", "sample".to_owned(), "no hardware stands behind it".to_owned()));
        }
        if let Some(init_data) = &submod.init_data {
            fields.push(field("init_data", printable(init_data, 128), "as the hardware has it".to_owned()));
        }
        if let Some(claims) = &submod.init_data_claims {
            let names: Vec<_> = claims.keys().map(|name| printable(name, 40)).collect();
            fields.push(field(
                "init_data_claims",
                names.join(", "),
                "parts of the initdata that the guest sent".to_owned(),
            ));
        }
        if let Some(runtime) = &submod.runtime {
            fields.push(field("nonce", printable(&runtime.nonce, 64), "of the challenge that it answers".to_owned()));
            let [x, _] = runtime.tee_pubkey.coordinates();
            fields.push(field("tee-pubkey", format!("P-256, x {x}"), "the key that was attested".to_owned()));
        }
    }
    fields
}

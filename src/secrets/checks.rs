//! What `diagnose` asks about each gate, each secret, and the canary: fetched and checked as for
//! publishing, and published nowhere.

use std::sync::Arc;

use super::fetch::{self, Resources};
use super::{MAX_GATE_BYTES, check, content};
use crate::check::{Check, Outcome};
use crate::config::{Format, Gate, SecretFile, Source};
use crate::finding::{Class, Finding, Who};
use crate::formats::jwk::EcPublicJwk;
use crate::formats::kbs_uri::KbsUri;
use crate::secret::Secret;

/// Most bytes of the canary that are taken: it is not looked at.
const MAX_CANARY: usize = 64 * 1024;

const WAY: &[&str] = &["attest.way"];

/// A gate.
pub const GATE: Check =
    Check::new("secrets.gate", "does the gate hold", "nothing is fetched before every gate holds").needs(WAY);

/// A sealed secret.
pub const SEALED: Check = Check::new(
    "secrets.sealed",
    "is the sealed secret authentic",
    "whoever writes the manifest can put any text there; only a listed key makes it a secret",
)
.needs(WAY);

/// A secret.
pub const FILE: Check = Check::new(
    "secrets.file",
    "is the secret released, and as expected",
    "one that is not keeps the whole set from being published",
)
.needs(WAY);

/// What must be denied.
pub const CANARY: Check = Check::new(
    "secrets.canary",
    "is `[kbs].canary` denied",
    "a KBS that gives this resource away gives every resource away",
)
.needs(WAY);

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&GATE, &SEALED, &FILE, &CANARY]
}

/// One gate.
pub async fn gate(road: &Arc<impl Resources>, gate: &Gate) -> Outcome {
    let value = match road.fetch(&gate.from, MAX_GATE_BYTES).await {
        Ok(value) => value,
        Err(finding) => return Outcome::Fail(finding),
    };
    let held = check::check_equals(gate.equals.as_bytes(), value.expose());
    let name = gate.from.to_string();
    held.map(|()| format!("{name} has the expected value")).map_err(|error| content(&name, &name, &error)).into()
}

/// The keys that sealed secrets are believed under. Empty where nothing is sealed.
pub async fn keys(
    road: &Arc<impl Resources>,
    files: &[SecretFile],
    uris: &[KbsUri],
) -> Result<Vec<(KbsUri, EcPublicJwk)>, Finding> {
    if files.iter().any(|file| matches!(file.from, Source::Sealed(_))) {
        fetch::sealing_keys(road, uris).await
    } else {
        Ok(Vec::new())
    }
}

/// Whether a sealed secret may be opened, and which resource it is. `None` where it is not sealed.
pub fn sealed(
    file: &SecretFile,
    keys: &Result<Vec<(KbsUri, EcPublicJwk)>, Finding>,
) -> Option<(Outcome, Option<KbsUri>)> {
    if !matches!(file.from, Source::Sealed(_)) {
        return None;
    }
    let named = keys.as_ref().map_err(Clone::clone).and_then(|keys| fetch::resource_of(file, keys));
    Some(match named {
        Ok((uri, origin)) => (Outcome::Pass(format!("{origin}, signed by a listed key")), Some(uri)),
        Err(finding) => (Outcome::Fail(finding), None),
    })
}

/// One value, checked as far as it can be alone. With the value, for files that need it.
pub async fn file(road: &Arc<impl Resources>, file: &SecretFile, uri: &KbsUri) -> (Outcome, Option<Secret>) {
    let value = match road.fetch(uri, file.expect.max_bytes).await {
        Ok(value) => value,
        Err(finding) => return (Outcome::Fail(finding), None),
    };
    // A key of another file is there once all are: see `pair`.
    let alone = if matches!(file.expect.format, Format::TlsPair { key: Some(_) }) {
        check::check(&crate::config::Expect { format: Format::Pem, ..file.expect.clone() }, value.expose(), None)
    } else {
        check::check(&file.expect, value.expose(), None)
    };
    let outcome = alone
        .map(|()| format!("{uri} is released, and as expected"))
        .map_err(|error| content(file.path.as_str(), &uri.to_string(), &error));
    (outcome.into(), Some(value))
}

/// A certificate and the key that another file of the set holds.
pub fn pair(file: &SecretFile, uri: &KbsUri, value: &Secret, key: Option<&Secret>) -> Outcome {
    check::check(&file.expect, value.expose(), key.map(Secret::expose))
        .map(|()| format!("{uri} is released, and fits its key"))
        .map_err(|error| content(file.path.as_str(), &uri.to_string(), &error))
        .into()
}

/// The canary must be refused by policy. Any other refusal shows nothing; a release shows everything.
pub async fn canary(road: &Arc<impl Resources>, uri: &KbsUri) -> Outcome {
    match road.fetch(uri, MAX_CANARY).await {
        Ok(_) => Outcome::Fail(
            Finding::new(Class::Config, format!("the KBS released {uri}, which no guest may read"))
                .why("kbs-policy-lax: its resource policy does not look at what is asked for, as Trustee's default does not")
                .next("replace the KBS's resource policy with policies/trustee/resource.rego (`kbs-client set-resource-policy`)")
                .who(Who::AppSecurity),
        ),
        Err(finding) if finding.class == Class::PolicyDenied => Outcome::Pass(format!("{uri} is denied by policy")),
        // CDH answers every cause with the same 500.
        Err(finding) if finding.class == Class::Backend => {
            Outcome::Pass(format!("{uri} is not released; by policy, or because it does not exist"))
        }
        Err(finding) => Outcome::Skip(format!("it shows nothing: {}", finding.saw)),
    }
}

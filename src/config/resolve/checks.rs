//! What no single key can show: whether the values fit together, and fit their provenance.

use std::collections::BTreeMap;

use super::super::env::Role;
use super::super::raw::{Raw, RawKbs, RawSecrets};
use super::super::roles::Roles;
use super::super::types::{CEILING_TOTAL_BYTES, For, Format, Provenance, SecretFile, Source, Via};

/// A problem before its place is known: the same rule holds for a document and for variables.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) key: String,
    pub(super) message: String,
    pub(super) hint: String,
}

fn complain(key: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Complaint {
    Complaint { key: key.into(), message: message.into(), hint: hint.into() }
}

/// Whom the document was written for. A KBS that delivers documents can be asked for any of them:
/// without this check one workload could be given the configuration of another.
pub(super) fn audience(
    stated: Option<&For>,
    provenance: Provenance,
    required: Option<&For>,
    named: Option<&For>,
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    if matches!(provenance, Provenance::DeliveredUnproven | Provenance::Delivered) {
        match (stated, required) {
            (None, _) => complaints.push(complain(
                "for",
                "is missing, and a delivered document must say whom it was written for",
                "add `for = { namespace = \"…\", workload = \"…\" }`",
            )),
            (Some(_), None) => complaints.push(complain(
                "for",
                "cannot be compared: nothing says which workload this is",
                "set `COUNTERSIGN_NAMESPACE` and `COUNTERSIGN_WORKLOAD`",
            )),
            (Some(_), Some(_)) => {}
        }
    }
    let differs = |other: Option<&For>| matches!((stated, other), (Some(stated), Some(other)) if stated != other);
    if differs(required) || differs(named) {
        complaints.push(complain(
            "for",
            "names another workload than this one",
            "upload this workload's own document, or correct `for` in it",
        ));
    }
    complaints
}

/// `[kbs]`.
pub(super) fn kbs(kbs: &RawKbs, provenance: Provenance) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let unmeasured = provenance == Provenance::Unmeasured;
    if kbs.url.iter().any(|url| url.tls) && kbs.ca.is_none() && !kbs.system_roots {
        complaints.push(complain(
            "kbs.url",
            "is https, and nothing says which certificates to trust",
            "add the KBS's own roots as `ca`, or write `system_roots = true`",
        ));
    }
    if kbs.allow_http && unmeasured {
        complaints.push(complain(
            "kbs.allow_http",
            "can be set by trusted configuration only, and this document is unmeasured",
            "remove `allow_http`, or deliver the document through initdata or the KBS",
        ));
    } else if kbs.url.iter().any(|url| !url.tls && !url.is_loopback()) && !kbs.allow_http {
        complaints.push(complain(
            "kbs.url",
            "is plain http to another host: nothing would prove who answers",
            "write https with `ca`, or add `allow_http = true`",
        ));
    }
    let Some(via) = &kbs.via else { return complaints };
    if unmeasured && via.iter().any(|via| *via != Via::Cdh) {
        complaints.push(complain(
            "kbs.via",
            "can only be `cdh` in an unmeasured document: another way would trust a KBS that nobody vouches for",
            "write `via = [\"cdh\"]`, or deliver the document through initdata or the KBS",
        ));
    } else if kbs.url.is_empty() && !via.contains(&Via::Cdh) && provenance == Provenance::DeliveredUnproven {
        // Whatever is believed more came with initdata, which names a KBS too.
        complaints.push(complain(
            "kbs.via",
            "names only ways that need `url`, and there is none",
            "add `url`, or add \"cdh\" to `via`",
        ));
    }
    complaints
}

/// `[secrets]`: the set as a whole.
pub(super) fn set(secrets: &RawSecrets, provenance: Provenance) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, file) in &secrets.files {
        if let Some(first) = seen.insert(file.path.as_str(), key) {
            let message = format!("is the path of `{first}` too");
            complaints.push(complain(format!("{key}.path"), message, "choose another path, or remove one of the two"));
        }
    }
    for (key, file) in &secrets.files {
        let path = file.path.as_str();
        for (slash, _) in path.match_indices('/') {
            if let Some(other) = path.get(..slash).and_then(|above| seen.get(above)) {
                let message = format!("needs a directory where `{other}` is a file");
                complaints.push(complain(format!("{key}.path"), message, "choose another path for one of the two"));
            }
        }
        if let Format::TlsPair { key: Some(other) } = &file.expect.format {
            if other == &file.path {
                let message = "names its own file";
                complaints.push(complain(
                    format!("{key}.expect.key"),
                    message,
                    "remove `key`: one file is the default",
                ));
            } else if !seen.contains_key(other.as_str()) {
                let message = "names no file of this set";
                complaints.push(complain(format!("{key}.expect.key"), message, "write the `path` of another file"));
            }
        }
        complaints.extend(sealed(key, file, secrets.sealed_keys.is_empty(), provenance));
    }
    let total = secrets.files.iter().fold(0_usize, |sum, (_, file)| sum.saturating_add(file.expect.max_bytes));
    if total > CEILING_TOTAL_BYTES {
        let hint = "lower `max_bytes` of the largest files";
        complaints.push(complain("secrets.file", "may need more than 256 MiB of memory together", hint));
    }
    complaints
}

fn sealed(key: &str, file: &SecretFile, no_keys: bool, provenance: Provenance) -> Option<Complaint> {
    let from = format!("{key}.from");
    match (&file.from, &file.resource) {
        (Source::Resource(_), Some(_)) => {
            Some(complain(format!("{key}.resource"), "has a meaning only beside a sealed `from`", "remove `resource`"))
        }
        (Source::Sealed(_), _) if !provenance.may_unseal() => Some(complain(
            from,
            "is a sealed secret, and those need keys that the control plane did not choose",
            "deliver the configuration through the KBS or initdata, or name the resource as `kbs:///…`",
        )),
        (Source::Sealed(_), _) if no_keys => Some(complain(
            from,
            "is a sealed secret, and no key is listed that it may be signed with",
            "add the resource of the key to `[secrets] sealed_keys`",
        )),
        (Source::Sealed(_), None) if provenance == Provenance::DeliveredUnproven => Some(complain(
            from,
            "is a sealed secret in a document whose transport is unproven, so it must say what it unseals",
            "add `resource = \"kbs:///…\"` beside it",
        )),
        (Source::Resource(_), None) | (Source::Sealed(_), _) => None,
    }
}

/// Whether there is something to do. An `init` that fetches nothing would succeed, and the app
/// would start without what its author believed to be asked for.
pub(super) fn purpose(raw: &Raw, role: Option<Role>) -> Option<Complaint> {
    let fetches = !raw.secrets.files.is_empty() || !raw.secrets.gates.is_empty();
    let serves = raw.roles != Roles::default();
    let enough = match role {
        Some(Role::Init) => fetches,
        Some(Role::Get | Role::Sidecar | Role::Diagnose | Role::Issuer) => true,
        None => fetches || serves,
    };
    let hint = "add `[[secrets.file]]` or `[[secrets.gate]]`, or set `COUNTERSIGN_SECRETS`";
    (!enough).then(|| complain("secrets.file", "is missing: there is nothing to fetch and nothing to check", hint))
}

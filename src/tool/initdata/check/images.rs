//! The image policy of the data hub, and what it says of an image.
//!
//! Source: containers-policy.json(5), of which the data hub reads the transport `docker` and the
//! requirements below.

use serde_json::{Map, Value};

use super::document::Document;
use super::pod::Manifest;
use super::report::Report;
use super::rules;
use super::services::Inner;
use super::source::Place;
use crate::finding::printable;
use crate::formats::kbs_uri::KbsUri;

/// Keys of `[image]` that are URIs.
const URIS: [&str; 4] = [
    "image_security_policy_uri",
    "sigstore_config_uri",
    "authenticated_registry_credentials_uri",
    "registry_configuration_uri",
];

/// What the initdata says of images.
pub(super) enum Images {
    /// An inline policy.
    Inline(Policy),
    /// A policy at the KBS: nobody sees it here.
    Elsewhere,
}

/// An inline policy, good enough to be evaluated.
pub(super) struct Policy {
    default: Vec<Value>,
    docker: Map<String, Value>,
}

/// What a policy says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Any image of that name may be pulled.
    Accepted,
    /// It must be signed with a key that the policy names.
    IfSigned,
    /// It may not be pulled.
    Rejected,
}

/// Checks `[image]` of cdh.toml. `None`: there is no policy, or none that can be evaluated.
pub(super) fn check(document: &Document<'_>, report: &mut Report) -> Option<Images> {
    // A broken document has been reported by the services' rules.
    let inner = Inner::read(document, "cdh.toml", &mut Report::new("", false));
    let Some((image, line)) = inner.as_ref().and_then(|inner| inner.table(&["image"], report)) else {
        if inner.is_some() {
            report.at(&rules::IMAGE_POLICY_ABSENT, document.data_line, "cdh.toml has no `[image]`");
        }
        return None;
    };
    let inner = inner.as_ref()?;
    for key in URIS {
        if let Some(uri) = inner.text(image, key, report) {
            let file = uri.text.strip_prefix("file://").is_some_and(|path| path.starts_with('/'));
            if !file && KbsUri::parse(uri.text).is_err() {
                report.at(
                    &rules::IMAGE_URI,
                    uri.nth(1),
                    format!("cdh.toml: `{key}` is not a URI that the data hub fetches"),
                );
            } else if file && key == "image_security_policy_uri" {
                report.at(&rules::IMAGE_POLICY_FILE, uri.nth(1), format!("cdh.toml: `{key}` is a file of the guest"));
            }
        }
    }
    let uri = inner.text(image, "image_security_policy_uri", report).is_some();
    let written = inner.text(image, "image_security_policy", report);
    match (uri, written) {
        (true, Some(policy)) => {
            report.at(&rules::IMAGE_POLICY_TWICE, policy.nth(1), "cdh.toml: the image policy stands there twice");
            parse(policy, report);
            Some(Images::Elsewhere)
        }
        (true, None) => Some(Images::Elsewhere),
        (false, Some(policy)) => parse(policy, report).map(Images::Inline),
        (false, None) => {
            report.at(&rules::IMAGE_POLICY_ABSENT, line, "cdh.toml: `[image]` names no policy");
            None
        }
    }
}

fn parse(place: Place<'_>, report: &mut Report) -> Option<Policy> {
    let policy: Value = match serde_json::from_str(place.text) {
        Ok(policy) => policy,
        Err(error) => {
            report.at(&rules::IMAGE_POLICY_FORM, place.nth(error.line()), "the image policy is not JSON");
            return None;
        }
    };
    let mut faults = Vec::new();
    let default = policy.get("default");
    if default.and_then(Value::as_array).is_none_or(Vec::is_empty) {
        faults.push(("\"default\"", "has no list `default`".to_owned()));
    }
    let docker = match policy.pointer("/transports/docker") {
        None => Map::new(),
        Some(Value::Object(scopes)) => scopes.clone(),
        Some(_) => {
            faults.push(("\"docker\"", "has a `transports.docker` that is not an object".to_owned()));
            Map::new()
        }
    };
    for (scope, list) in
        docker.iter().map(|(scope, list)| (scope.as_str(), list)).chain(default.map(|l| ("default", l)))
    {
        let shown = printable(scope, 100);
        match list.as_array() {
            Some(list) if !list.is_empty() => {
                faults.extend(list.iter().filter_map(wrong).map(|what| (scope, format!("has in `{shown}` {what}"))));
            }
            _ => faults.push((scope, format!("has no requirements for `{shown}`"))),
        }
    }
    for (near, fault) in &faults {
        let at = place.text.find(near).map_or(place.nth(1), |at| place.line(at));
        report.at(&rules::IMAGE_POLICY_FORM, at, format!("the image policy {fault}"));
    }
    let default = default?.as_array()?.clone();
    if faults.is_empty() && verdict_of(&default) == Verdict::Accepted {
        let at = place.text.find("\"default\"").map_or(place.nth(1), |at| place.line(at));
        report.at(&rules::IMAGE_POLICY_LAX, at, "the image policy accepts any image by default");
    }
    faults.is_empty().then_some(Policy { default, docker })
}

/// What is wrong with one requirement.
fn wrong(requirement: &Value) -> Option<&'static str> {
    let kind = requirement.get("type").and_then(Value::as_str);
    match kind {
        Some("insecureAcceptAnything" | "reject") => None,
        Some("signedBy" | "sigstoreSigned") => {
            let inline = requirement.get("keyData").and_then(Value::as_str).is_some();
            let by_path = requirement.get("keyPath").and_then(Value::as_str);
            match by_path {
                None if inline => None,
                Some(path) if KbsUri::parse(path).is_ok() || path.starts_with("file:///") => None,
                Some(_) => Some("a `keyPath` that is neither kbs:///repository/type/tag nor file:///path"),
                None => Some("a signature without `keyPath` or `keyData`"),
            }
        }
        Some(_) => Some("a requirement of an unknown type"),
        None => Some("a requirement without `type`"),
    }
}

/// All requirements must hold.
fn verdict_of(requirements: &[Value]) -> Verdict {
    let kind = |value: &Value| match value.get("type").and_then(Value::as_str) {
        Some("insecureAcceptAnything") => Verdict::Accepted,
        Some("signedBy" | "sigstoreSigned") => Verdict::IfSigned,
        _ => Verdict::Rejected,
    };
    let kinds: Vec<Verdict> = requirements.iter().map(kind).collect();
    if kinds.is_empty() || kinds.contains(&Verdict::Rejected) {
        Verdict::Rejected
    } else if kinds.contains(&Verdict::IfSigned) {
        Verdict::IfSigned
    } else {
        Verdict::Accepted
    }
}

impl Policy {
    /// What the policy says of an image: the most exact scope counts.
    pub(super) fn verdict(&self, image: &str) -> Verdict {
        let requirements = scopes(image).iter().find_map(|scope| self.docker.get(scope));
        requirements.map_or_else(
            || verdict_of(&self.default),
            |list| list.as_array().map_or(Verdict::Rejected, |list| verdict_of(list)),
        )
    }
}

impl Policy {
    /// Whether it accepts any image of some name without a signature.
    pub(super) fn accepts_unsigned(&self) -> bool {
        let open = |scope: &str, list: &Value| {
            !is_pinned(scope) && list.as_array().is_some_and(|list| verdict_of(list) == Verdict::Accepted)
        };
        verdict_of(&self.default) == Verdict::Accepted || self.docker.iter().any(|(scope, list)| open(scope, list))
    }
}

/// Scopes of an image, most exact first: the reference, the repository, each namespace above it,
/// the host, its parent domains as `*.domain`, and the transport as a whole.
fn scopes(image: &str) -> Vec<String> {
    let image = normal(image);
    let repository = repository(&image).to_owned();
    let mut all = vec![image];
    let mut rest = repository.as_str();
    loop {
        all.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    let host = rest.split(':').next().unwrap_or_default();
    let mut domain = host;
    while let Some((_, above)) = domain.split_once('.') {
        all.push(format!("*.{above}"));
        domain = above;
    }
    all.push(String::new());
    all
}

/// `nginx` is docker.io/library/nginx:latest.
pub(super) fn normal(image: &str) -> String {
    let has_host = image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
    let full = match (has_host, image.contains('/')) {
        (true, _) => image.to_owned(),
        (false, true) => format!("docker.io/{image}"),
        (false, false) => format!("docker.io/library/{image}"),
    };
    if repository(&full).len() == full.len() { full + ":latest" } else { full }
}

/// The reference without tag and digest.
pub(super) fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        // A colon before a slash belongs to the port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// Whether the reference names one image and no other.
pub(super) fn is_pinned(image: &str) -> bool {
    image.split_once("@sha256:").is_some_and(|(_, hex)| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Evaluates the images of a manifest.
pub(super) fn pod(manifest: &Manifest, images: Option<&Images>, report: &mut Report) {
    for container in &manifest.containers {
        let shown = printable(&container.image, 200);
        let place = |report: &mut Report, rule, saw: String| report.in_file(rule, &manifest.file, container.line, saw);
        if !is_pinned(&container.image) {
            place(report, &rules::POD_IMAGE_TAG, format!("container `{}`: {shown} has no digest", container.name));
        }
        match images {
            Some(Images::Inline(policy)) if policy.verdict(&container.image) == Verdict::Rejected => {
                place(report, &rules::POD_IMAGE, format!("container `{}`: {shown} is rejected", container.name));
            }
            _ => {}
        }
    }
    if matches!(images, Some(Images::Elsewhere)) {
        report.in_file(&rules::POD_IMAGE_UNKNOWN, &manifest.file, None, "the image policy is at the KBS");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        parse(Place::file(text), &mut Report::new("", false)).unwrap()
    }

    #[test]
    fn names_are_read_as_the_guest_reads_them() {
        for (image, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.2", "docker.io/library/nginx:1.2"),
            ("bitnami/nginx", "docker.io/bitnami/nginx:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
        ] {
            assert_eq!(normal(image), full);
        }
        assert_eq!(repository("localhost:5000/a/b:1@sha256:00"), "localhost:5000/a/b");
    }

    #[test]
    fn the_most_exact_scope_decides() {
        let policy = policy(
            r#"{ "default": [{"type":"reject"}], "transports": { "docker": {
                "quay.io/a": [{"type":"insecureAcceptAnything"}],
                "quay.io/a/b": [{"type":"sigstoreSigned","keyPath":"kbs:///default/cosign/key"}],
                "quay.io/a/b:bad": [{"type":"reject"}],
                "*.example.com": [{"type":"insecureAcceptAnything"}],
                "docker.io": [{"type":"insecureAcceptAnything"},{"type":"reject"}] } } }"#,
        );
        for (image, verdict) in [
            ("quay.io/a/c:1", Verdict::Accepted),
            ("quay.io/a/b:1", Verdict::IfSigned),
            ("quay.io/a/b@sha256:00", Verdict::IfSigned),
            ("quay.io/a/b:bad", Verdict::Rejected),
            ("quay.io/other", Verdict::Rejected),
            ("r.example.com/x", Verdict::Accepted),
            ("nginx", Verdict::Rejected),
        ] {
            assert_eq!(policy.verdict(image), verdict, "{image}");
        }
    }
}

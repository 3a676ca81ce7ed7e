//! A tier: what the platform decides once for every pod of a kind of namespace.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The tiers that come with the tool, with their files.
const BUILT_IN: &[(&str, &str)] = &[
    ("dev", include_str!("../../../policies/tiers/dev.toml")),
    ("prod-snp", include_str!("../../../policies/tiers/prod-snp.toml")),
    ("prod-tdx", include_str!("../../../policies/tiers/prod-tdx.toml")),
    ("peer-pods", include_str!("../../../policies/tiers/peer-pods.toml")),
];

/// The image that the built-in tiers name, until the platform names its own.
pub(super) const NO_IMAGE: &str = "registry.example/countersign:0.1.0";

/// What differs from tier to tier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tier {
    /// The value of the namespace's label, and the end of the policy's name.
    pub(super) name: String,
    /// `runtimeClassName` of its pods.
    pub(super) runtime_class: String,
    /// How our containers reach the evidence.
    pub(super) shape: Shape,
    /// Whether the sidecar is injected.
    pub(super) sidecar: bool,
    /// The image of our containers, by digest in production.
    pub(super) image: String,
    /// Variables for the app's containers that do not set them. Only with the sidecar: they tell
    /// common frameworks to listen on loopback.
    #[serde(default)]
    pub(super) app_env: BTreeMap<String, String>,
    /// Named ports of the app that the sidecar takes over.
    #[serde(default = "Port::http")]
    pub(super) ports: Vec<Port>,
    #[serde(default = "Resources::init")]
    pub(super) init_resources: Resources,
    #[serde(default = "Resources::sidecar")]
    pub(super) sidecar_resources: Resources,
    #[serde(default = "Resources::issuer")]
    pub(super) issuer_resources: Resources,
    /// `sizeLimit` of the memory volume for the secrets.
    #[serde(default = "secrets_size")]
    pub(super) secrets_size: String,
}

/// How our containers reach the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// Through 127.0.0.1:8006, as the app's own user.
    Rest,
    /// Through the kernel's configfs, as uid 0 without capabilities.
    Direct,
}

/// A named port of the app, and the sidecar's in front of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    /// As in `ports` of the app's container, and in `targetPort` of its Service.
    pub(super) name: String,
    /// Where the sidecar listens: `[[inbound]].listen`.
    pub(super) port: u16,
}

/// `resources` of a container, quantities as Kubernetes writes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) requests: BTreeMap<String, String>,
    pub(super) limits: BTreeMap<String, String>,
}

impl Port {
    fn http() -> Vec<Self> {
        vec![Self { name: "http".to_owned(), port: 8443 }]
    }
}

impl Resources {
    /// A guest has little memory and init ends before the app starts, so its request is not added
    /// to the app's: Kubernetes takes the larger of the two.
    fn init() -> Self {
        Self::of("50m", "32Mi", "64Mi")
    }

    fn sidecar() -> Self {
        Self::of("100m", "64Mi", "128Mi")
    }

    /// Less than a core signs for a mesh (docs/performance.md).
    fn issuer() -> Self {
        Self::of("50m", "64Mi", "128Mi")
    }

    /// No limit of CPU: throttling a TLS handshake helps nobody.
    fn of(cpu: &str, memory: &str, limit: &str) -> Self {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { requests: map(&[("cpu", cpu), ("memory", memory)]), limits: map(&[("memory", limit)]) }
    }
}

fn secrets_size() -> String {
    "16Mi".to_owned()
}

/// What is wrong with a tier.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TierError {
    #[error("there is no tier of that name")]
    Unknown,
    #[error("it is not a tier: {0}")]
    Syntax(String),
    #[error("`{0}` is empty, longer than Kubernetes takes, or has characters that it does not")]
    Name(&'static str),
    #[error("`image` has no digest, and only the tier `dev` may name an image without one")]
    NoDigest,
    #[error("`ports` names a port twice")]
    SamePort,
}

impl Tier {
    /// The names of the tiers that come with the tool.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A tier that comes with the tool.
    pub(super) fn built_in(name: &str) -> Result<Self, TierError> {
        let (_, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name).ok_or(TierError::Unknown)?;
        Self::parse(text)
    }

    /// A tier out of its file.
    pub(super) fn parse(text: &str) -> Result<Self, TierError> {
        let tier: Self = toml::from_str(text).map_err(|error| TierError::Syntax(error.message().to_owned()))?;
        tier.checked()
    }

    /// The same with another image.
    pub(super) fn with_image(self, image: &str) -> Result<Self, TierError> {
        Self { image: image.to_owned(), ..self }.checked()
    }

    fn checked(self) -> Result<Self, TierError> {
        // They go into the YAML of a policy and into CEL: nothing but names may.
        if !label(&self.name) {
            return Err(TierError::Name("name"));
        }
        if !self.runtime_class.split('.').all(label) {
            return Err(TierError::Name("runtime_class"));
        }
        if self.app_env.keys().any(|name| !variable(name)) {
            return Err(TierError::Name("app_env"));
        }
        if self.ports.iter().any(|port| !label(&port.name) || port.name.len() > 15 || port.port == 0) {
            return Err(TierError::Name("ports"));
        }
        let same = |port: &Port, other: &Port| port.name == other.name || port.port == other.port;
        let mut rest = self.ports.as_slice();
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|other| same(first, other)) {
                return Err(TierError::SamePort);
            }
            rest = others;
        }
        if !is_image(&self.image) {
            return Err(TierError::Name("image"));
        }
        if self.name != "dev" && !has_digest(&self.image) {
            return Err(TierError::NoDigest);
        }
        Ok(self)
    }
}

/// RFC 1123: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
fn label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn variable(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with("COUNTERSIGN_")
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_image(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte))
}

fn has_digest(image: &str) -> bool {
    image.rsplit_once("@sha256:").is_some_and(|(name, digest)| {
        !name.is_empty() && digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(line: &str) -> Result<Tier, TierError> {
        let text = BUILT_IN.iter().find(|(name, _)| *name == "prod-snp").unwrap().1;
        let key = line.split(' ').next().unwrap();
        let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with(key)).collect();
        Tier::parse(&format!("{line}\n{}", kept.join("\n")))
    }

    #[test]
    fn every_built_in_tier_parses_and_is_named_as_its_file() {
        for name in Tier::names() {
            assert_eq!(Tier::built_in(name).unwrap().name, name);
        }
        assert_eq!(Tier::built_in("prod").unwrap_err(), TierError::Unknown);
    }

    #[test]
    fn what_would_break_out_of_a_policy_is_refused() {
        for bad in [
            "name = \"x\\n\"",
            "name = \"\"",
            "runtime_class = \"kata\\\"}\"",
            "runtime_class = \"kata..x\"",
            "app_env = { \"A-B\" = \"x\" }",
            "app_env = { COUNTERSIGN_ROLE = \"init\" }",
            "ports = [{ name = \"http\", port = 0 }]",
            "ports = [{ name = \"a-name-of-16-char\", port = 1 }]",
            "image = \"a b@sha256:0\"",
        ] {
            let error = with(bad).unwrap_err();
            assert!(matches!(error, TierError::Name(_)), "{bad}: {error}");
        }
        assert_eq!(
            with("ports = [{ name = \"http\", port = 1 }, { name = \"grpc\", port = 1 }]").unwrap_err(),
            TierError::SamePort
        );
        assert!(matches!(with("colour = 1").unwrap_err(), TierError::Syntax(_)));
    }

    #[test]
    fn production_takes_no_image_without_a_digest() {
        for bad in ["registry.example/c:1", "registry.example/c@sha256:abc", "@sha256:00"] {
            assert_eq!(with(&format!("image = \"{bad}\"")).unwrap_err(), TierError::NoDigest, "{bad}");
        }
        assert!(Tier::built_in("dev").unwrap().with_image("registry.example/c:1").is_ok());
    }
}

//! What an HTTP body is, when it is not what was asked for: the KBS's error JSON, a gateway's page,
//! or something else. The answer is one of a few fixed words; no text of the body is kept.
//!
//! Trustee answers nearly every refusal with status 401, so the `type` member is the only way to
//! tell the causes apart. The proxies in front of it answer with HTML under any status.

use serde::Deserialize;

use super::json;

/// Most bytes of a body that are looked at, 64 KiB. A KBS error has about 220 bytes; the start of a
/// page is enough to know it for one.
pub const MAX_BYTES: usize = 64 * 1024;

/// What a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// Trustee's error JSON.
    KbsError(KbsError),
    /// A page for people: a gateway, a login form, an ingress's default backend.
    Html,
    /// Nothing, or white space.
    Empty,
    /// Other JSON.
    Json,
    /// Other text.
    Text,
    /// Not UTF-8.
    Binary,
}

/// Trustee's error: `{"type": "https://…/kbs/errors/<Variant>", "detail": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KbsError {
    /// Which.
    pub variant: Variant,
    /// The protocol version that the KBS demands, where the detail says that ours is another.
    pub expects: Option<ProtocolVersion>,
}

/// The variants that Trustee is known to send (trustee v0.21, `kbs/src/error.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Something is wrong with /auth or /attest; on /attest the cause is in the KBS's log only.
    AttestationError,
    /// No attested session and no token.
    TokenNotFound,
    /// The token is bad, expired, or not one.
    TokenVerifierError,
    /// The resource policy says no.
    PolicyDeny,
    /// Resource absent, path bad, or the store behind it broken.
    PluginInternalError,
    /// No such plugin.
    PluginNotFound,
    /// The KBS could not encrypt to our key.
    JweError,
    /// A path that the KBS does not know.
    InvalidRequestPath,
    /// Admin rights were asked for and not found.
    AdminAuth,
    /// A policy that the KBS cannot read or evaluate.
    Policy,
    /// Another fault inside the KBS.
    Internal,
    /// A name that this build does not know.
    Unknown,
}

/// A protocol version as digits and dots, at most 16 characters: safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolVersion(String);

impl ProtocolVersion {
    /// The text, like `0.4.0`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Variant {
    /// As printed; for unknown names a fixed phrase.
    pub fn label(self) -> &'static str {
        match self {
            Self::AttestationError => "AttestationError",
            Self::TokenNotFound => "TokenNotFound",
            Self::TokenVerifierError => "TokenVerifierError",
            Self::PolicyDeny => "PolicyDeny",
            Self::PluginInternalError => "PluginInternalError",
            Self::PluginNotFound => "PluginNotFound",
            Self::JweError => "JweError",
            Self::InvalidRequestPath => "InvalidRequestPath",
            Self::AdminAuth => "an admin error",
            Self::Policy => "a policy error",
            Self::Internal => "an internal error",
            Self::Unknown => "an error of a kind that this build does not know",
        }
    }

    fn of(name: &str) -> Self {
        match name {
            "AttestationError" => Self::AttestationError,
            "TokenNotFound" => Self::TokenNotFound,
            "TokenVerifierError" => Self::TokenVerifierError,
            "PolicyDeny" => Self::PolicyDeny,
            "PluginInternalError" => Self::PluginInternalError,
            "PluginNotFound" => Self::PluginNotFound,
            "JweError" => Self::JweError,
            "InvalidRequestPath" => Self::InvalidRequestPath,
            "AdminAuthInitialization" | "AdminAuthAccess" => Self::AdminAuth,
            "PolicyEngineError" | "ParsePolicyError" => Self::Policy,
            "HTTPFailed"
            | "HTTPSFailed"
            | "PluginManagerInitialization"
            | "RvpsError"
            | "SerdeError"
            | "StorageBackendInitialization"
            | "PrometheusError" => Self::Internal,
            _ => Self::Unknown,
        }
    }
}

impl BodyKind {
    /// In a few fixed words, for messages.
    pub fn label(&self) -> &'static str {
        match self {
            Self::KbsError(error) => error.variant.label(),
            Self::Html => "an HTML page",
            Self::Empty => "an empty body",
            Self::Json => "JSON of another kind",
            Self::Text => "plain text",
            Self::Binary => "binary data",
        }
    }
}

/// Says what a body is. Looks at its first [`MAX_BYTES`].
pub fn classify_body(body: &[u8]) -> BodyKind {
    let body = body.get(..MAX_BYTES).unwrap_or(body);
    let start = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    if start.is_empty() {
        return BodyKind::Empty;
    }
    if is_html(start) {
        return BodyKind::Html;
    }
    if let Some(error) = parse(start) {
        return BodyKind::KbsError(error);
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(start).is_ok() {
        return BodyKind::Json;
    }
    // A cut in the middle of a character is still text.
    match std::str::from_utf8(start) {
        Ok(_) => BodyKind::Text,
        Err(error) if error.error_len().is_none() => BodyKind::Text,
        Err(_) => BodyKind::Binary,
    }
}

#[derive(Deserialize)]
struct Raw {
    r#type: String,
    detail: Option<String>,
}

fn parse(body: &[u8]) -> Option<KbsError> {
    let raw: Raw = json::object(body)?;
    let (_, name) = raw.r#type.rsplit_once("/kbs/errors/")?;
    let expects = raw.detail.as_deref().and_then(expected_version);
    Some(KbsError { variant: Variant::of(name), expects })
}

/// From `… Version Mismatch: expect =0.4.0 while the request is …`.
fn expected_version(detail: &str) -> Option<ProtocolVersion> {
    let (_, rest) = detail.split_once("Version Mismatch: expect ")?;
    let version = rest.split(' ').next()?.trim_start_matches('=');
    let plain = version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (plain && !version.is_empty() && version.len() <= 16).then(|| ProtocolVersion(version.to_owned()))
}

fn is_html(start: &[u8]) -> bool {
    let head = start.get(..1024).unwrap_or(start).to_ascii_lowercase();
    head.starts_with(b"<")
        && [&b"<!doctype html"[..], b"<html", b"<head", b"<body", b"<center"]
            .iter()
            .any(|tag| head.windows(tag.len()).any(|window| window == *tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "https://github.com/confidential-containers/kbs/errors";

    fn error(variant: &str, detail: &str) -> String {
        format!(r#"{{"type":"{TYPE}/{variant}","detail":"{detail}"}}"#)
    }

    #[test]
    fn every_variant_that_trustee_sends_is_known() {
        for (name, variant) in [
            ("AttestationError", Variant::AttestationError),
            ("TokenNotFound", Variant::TokenNotFound),
            ("TokenVerifierError", Variant::TokenVerifierError),
            ("PolicyDeny", Variant::PolicyDeny),
            ("PluginInternalError", Variant::PluginInternalError),
            ("PluginNotFound", Variant::PluginNotFound),
            ("JweError", Variant::JweError),
            ("InvalidRequestPath", Variant::InvalidRequestPath),
            ("AdminAuthInitialization", Variant::AdminAuth),
            ("AdminAuthAccess", Variant::AdminAuth),
            ("PolicyEngineError", Variant::Policy),
            ("ParsePolicyError", Variant::Policy),
            ("RvpsError", Variant::Internal),
            ("SomethingNew", Variant::Unknown),
        ] {
            let kind = classify_body(error(name, "secret-canary").as_bytes());
            assert_eq!(kind, BodyKind::KbsError(KbsError { variant, expects: None }), "{name}");
            assert!(!format!("{kind:?}{}", kind.label()).contains("canary"));
        }
    }

    #[test]
    fn the_expected_version_is_the_only_part_of_a_detail_that_is_kept() {
        let expects = |detail: &str| match classify_body(error("AttestationError", detail).as_bytes()) {
            BodyKind::KbsError(error) => error.expects.map(|version| version.0),
            other => panic!("{other:?}"),
        };
        let prefix = "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect ";
        assert_eq!(expects(&format!("{prefix}=0.2.0 while the request is 0.4.0")).as_deref(), Some("0.2.0"));
        assert_eq!(expects(&format!("{prefix}0.1.1")).as_deref(), Some("0.1.1"));
        for hostile in ["=<script>", "=0.4.0\\u001b[31m", "", "=", "=11111111111111111", "=0.4.0;rm"] {
            assert_eq!(expects(&format!("{prefix}{hostile} while")), None, "{hostile}");
        }
    }

    #[test]
    fn other_bodies_are_told_apart() {
        for (body, kind) in [
            (&b""[..], BodyKind::Empty),
            (b" \r\n", BodyKind::Empty),
            (b"<!DOCTYPE html><p>login</p>", BodyKind::Html),
            (b"\xef\xbb\xbf\n<HTML>", BodyKind::Html),
            (b"<!-- x --><html lang=en>", BodyKind::Html),
            (b"<?xml version=\"1.0\"?><Error/>", BodyKind::Text),
            (b"upstream connect error", BodyKind::Text),
            (b"{\"type\":\"https://example/errors/x\"}", BodyKind::Json),
            (b"{\"type\":7}", BodyKind::Json),
            (b"[1]", BodyKind::Json),
            (b"\xff\xfe\x00", BodyKind::Binary),
            ("é".as_bytes(), BodyKind::Text),
        ] {
            assert_eq!(classify_body(body), kind, "{body:?}");
        }
        let long = "é".repeat(MAX_BYTES);
        assert_eq!(classify_body(&long.as_bytes()[1..]), BodyKind::Binary);
        assert_eq!(classify_body(format!("a{long}").as_bytes()), BodyKind::Text);
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = classify_body(&bytes).label();
        }

        #[test]
        fn a_kept_version_is_digits_and_dots(text in "\\PC{0,40}") {
            let detail = format!("Version Mismatch: expect {text}");
            if let Some(version) = expected_version(&detail) {
                prop_assert!(version.0.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
            }
        }
    }
}

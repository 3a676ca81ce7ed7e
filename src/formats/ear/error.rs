//! Why a token, a chain or a set of anchors is refused. No message holds a word of them.

use crate::formats::jwk;

/// Why a token is refused. Each message continues "the attestation token …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over the cap.
    #[error("is longer than 1 MiB")]
    TooLong,
    /// Not three parts.
    #[error("does not have the form <header>.<payload>.<signature>")]
    Parts,
    /// A part is not in its base64.
    #[error("has a {0} that is not well-formed base64")]
    Encoding(&'static str),
    /// The header is not one JSON object.
    #[error("has a header that is not one JSON object whose members have the right type and stand once")]
    Header,
    /// No `alg`.
    #[error("has no `alg` in its header")]
    NoAlgorithm,
    /// An `alg` other than ES256, by its name where it is a known one.
    #[error("is signed with `alg` {0}, and only ES256 is accepted")]
    Algorithm(&'static str),
    /// A `typ` other than JWT.
    #[error("has a `typ` other than JWT in its header")]
    Type,
    /// `crit` or `b64`.
    #[error("has `crit` or `b64` in its header: an extension that this build does not have")]
    Extension,
    /// The key in the header cannot be one.
    #[error("has a `jwk` in its header that cannot be used")]
    HeaderKey(#[source] jwk::Error),
    /// Not 64 bytes.
    #[error("has a signature that is not 64 bytes (r then s)")]
    SignatureForm,
    /// No trusted key was given.
    #[error("cannot be believed: no key is trusted to sign one")]
    NoKeys,
    /// The token brings no key, and anchors are all that is trusted.
    #[error("has no `jwk` in its header, so that nothing leads to a trusted anchor")]
    NoHeaderKey,
    /// The chain does not lead to an anchor.
    #[error("is signed by a key that is not trusted")]
    Chain(#[from] ChainError),
    /// The certificate is another key's.
    #[error("has a `jwk` whose first certificate is of another key")]
    KeyMismatch,
    /// Not signed by that key.
    #[error("has a signature that does not hold: it was changed, or is by another key")]
    Signature,
    /// The claims are not what they should be.
    #[error("has a payload that is not one JSON object with the claims of an attestation result")]
    Claims,
    /// Another profile.
    #[error("has an `eat_profile` other than Trustee's")]
    Profile,
    /// No submod for the CPU.
    #[error("has no submod `cpu0`")]
    NoCpu,
    /// More submods than any machine has devices.
    #[error("has more than 32 submods")]
    Submods,
    /// The runtime data is not what it should be.
    #[error("has `runtime_data_claims` without a `nonce` and a `tee-pubkey` of the right type")]
    RuntimeData,
    /// The attested key is of another kind.
    #[error("has a `tee-pubkey` that cannot be used")]
    TeePubkey(#[source] jwk::Error),
    /// Issued in the future.
    #[error("was issued in the future: one of the clocks is wrong")]
    NotYet,
    /// Too old.
    #[error("is too old")]
    Expired,
    /// Nothing says which key was attested.
    #[error("does not say which key was attested (no `runtime_data_claims`)")]
    NoRuntimeData,
    /// For another challenge.
    #[error("answers another challenge than ours")]
    Nonce,
    /// For another key.
    #[error("is for another key (`tee-pubkey`) than the expected one")]
    OtherKey,
}

/// Why a chain endorses no key. Each message continues "the certificate chain …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No certificates at all.
    #[error("is missing (no `x5c`)")]
    Missing,
    /// More than any chain has.
    #[error("has more than 8 certificates")]
    TooLong,
    /// One does not parse, or has a critical extension that is not understood.
    #[error("has a certificate that cannot be read (number {0}, counted from 1)")]
    Certificate(usize),
    /// The signer's certificate is not valid now.
    #[error("starts with a certificate that is not valid at this time")]
    NotValidNow,
    /// The signer's certificate is not for signatures.
    #[error("starts with a certificate whose key usage forbids signatures")]
    Usage,
    /// No way leads to an anchor.
    #[error("does not lead to a trusted certificate that is valid at this time")]
    NoAnchor,
}

/// Why a text gives no anchors. Each message continues "the trusted certificates …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorsError {
    /// Over the cap.
    #[error("are longer than 256 KiB")]
    TooLong,
    /// Not PEM, or something else than certificates in it.
    #[error("are not well-formed PEM of certificates and nothing else")]
    Pem,
    /// One does not parse.
    #[error("hold one that cannot be read (number {0}, counted from 1)")]
    Certificate(usize),
    /// None.
    #[error("are none: without one no token can be believed")]
    None,
    /// More than anybody needs.
    #[error("are more than 16")]
    TooMany,
}

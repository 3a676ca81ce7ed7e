//! Why a sealed secret is refused, and what to do about each.

use crate::finding::{Class, Finding, Who};
use crate::formats::kbs_uri;

/// Why a sealed secret is refused. Each message continues "the sealed secret …"; none holds a word
/// of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over the cap.
    #[error("is longer than 65536 bytes")]
    TooLong,
    /// No `sealed.` in front.
    #[error("does not start with `sealed.`")]
    Prefix,
    /// `sealed.sealed.`: upstream trims it as often as it occurs.
    #[error("starts with `sealed.` twice")]
    PrefixTwice,
    /// White space or control characters anywhere, a newline at the end above all.
    #[error("holds white space or a newline")]
    Whitespace,
    /// Not three parts after the prefix.
    #[error("does not have the form sealed.<header>.<payload>.<signature>")]
    Parts,
    /// A part is not base64url without padding.
    #[error("has a {0} that is not base64url without padding")]
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
    /// No `kid`.
    #[error("has no `kid` in its header")]
    NoKid,
    /// Any `crit`.
    #[error("has `crit` in its header: an extension that must be understood")]
    Critical,
    /// `b64` false.
    #[error("has `b64` false in its header: an unencoded payload")]
    Unencoded,
    /// Not 64 bytes: DER or empty.
    #[error("has a signature that is not 64 bytes (r then s; DER is another form)")]
    SignatureForm,
    /// The configuration lists no key.
    #[error("cannot be believed: the configuration lists no key")]
    NoKeys,
    /// `kid` selects no listed key.
    #[error("names a key in `kid` that the configuration does not list")]
    UnlistedKey,
    /// The signature is not one by a listed key over these bytes.
    #[error("has a signature that is not by the key it names")]
    Signature,
    /// The payload is not one JSON object.
    #[error("has a payload that is not one JSON object whose members have the right type and stand once")]
    Payload,
    /// Another payload version.
    #[error("has a payload `version` other than 0.1.0")]
    Version,
    /// A member that must be there is not.
    #[error("has no `{0}` in its payload")]
    Missing(&'static str),
    /// `envelope`.
    #[error("is of `type` envelope, which needs a cloud's key service; only vault is supported")]
    Envelope,
    /// Another type.
    #[error("has a `type` other than vault")]
    Type,
    /// Another provider, by its name where it is a known one.
    #[error("asks the `provider` {0}, and only kbs is supported")]
    Provider(&'static str),
    /// The name is not that of a KBS resource.
    #[error("has a `name` that is not a KBS resource")]
    Name(#[from] kbs_uri::Error),
}

impl Error {
    /// The finding, for the sealed secret that was given for `path` (a path in the set, or whatever
    /// the reader knows it by; from configuration, never from the secret itself).
    pub fn finding(&self, path: &str) -> Finding {
        let finding = Finding::new(Class::Sealed, format!("the sealed secret for {path} {self}")).why(self.why());
        let finding = finding.next(format!("{} (it stands for {path})", self.next()));
        match self {
            Self::Prefix | Self::PrefixTwice | Self::Whitespace | Self::TooLong => finding.who(Who::AppDeveloper),
            _ => finding,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::TooLong
            | Self::Prefix
            | Self::PrefixTwice
            | Self::Whitespace
            | Self::Parts
            | Self::Encoding(_)
            | Self::Header
            | Self::Payload => {
                "it was damaged on the way or never was a sealed secret; what cannot be read is not guessed"
            }
            Self::NoAlgorithm | Self::Algorithm(_) | Self::SignatureForm => {
                "the header does not choose how it is checked: ES256 is the only signature of this format"
            }
            Self::Critical | Self::Unencoded => {
                "it demands a reading that this build does not have (RFC 7515 §4.1.11, RFC 7797), and must not be read in another"
            }
            Self::NoKid | Self::NoKeys | Self::UnlistedKey => {
                "`kid` is chosen by whoever wrote the sealed secret: it selects among the listed keys and is never fetched"
            }
            Self::Signature => "it was changed after it was sealed, or sealed with another key",
            Self::Version | Self::Missing(_) => "the guest's own unsealer demands it too",
            Self::Envelope | Self::Type | Self::Provider(_) => {
                "only what the KBS itself can serve is supported: other stores would need their credentials in the guest"
            }
            Self::Name(_) => "only resources of the form kbs:///<repository>/<type>/<tag> can be fetched",
        }
    }

    fn next(self) -> &'static str {
        match self {
            Self::Prefix | Self::PrefixTwice | Self::TooLong | Self::Parts | Self::Encoding(_) => {
                "copy the whole sealed secret, once, into `from`"
            }
            Self::Whitespace => {
                "remove the white space and the newline from the value in `from` (`printf %s` writes none)"
            }
            Self::NoKeys | Self::UnlistedKey => {
                "list the KBS resource of the sealing key in `[secrets].sealed_keys`, or seal again with a listed one"
            }
            Self::Signature => "seal it again with a key listed in `[secrets].sealed_keys`, and copy it unchanged",
            Self::Envelope | Self::Type | Self::Provider(_) => {
                "upload the secret to the KBS and seal its URI with `secret seal … vault --provider kbs`"
            }
            Self::Name(_) => "seal again with a `--resource-uri` of the form kbs:///<repository>/<type>/<tag>",
            Self::Header
            | Self::NoAlgorithm
            | Self::Algorithm(_)
            | Self::NoKid
            | Self::Critical
            | Self::Unencoded
            | Self::SignatureForm
            | Self::Payload
            | Self::Version
            | Self::Missing(_) => "seal it again with the `secret seal` command of guest-components",
        }
    }
}

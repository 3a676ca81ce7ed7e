//! Where a certificate comes from: our own signature ([`own`]), the KBS, ready made ([`ready`]), or the
//! mesh's issuer, by a request ([`request`]). And the issuer's half: its CA ([`ca`]), and who is given what
//! ([`desk`]).
//!
//! What comes out is only issued, not checked: [`crate::tls::leaf::Leaf::check`] does that for all.

pub mod ca;
pub mod desk;
mod key;
pub mod own;
mod profile;
pub mod quota;
pub mod ready;
pub mod request;

/// Why nothing was issued. Each message continues "the certificate …", and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No key could be made, or the one at hand is not P-256.
    #[error("needs a P-256 key, and there is none")]
    Key,
    /// rcgen refused.
    #[error("could not be made")]
    Make,
    /// The time does not fit into a certificate.
    #[error("cannot be dated: this guest's clock is out of range")]
    Time,
    /// Not PEM.
    #[error("resource is not well-formed PEM")]
    Pem,
    /// No certificate in it.
    #[error("resource holds no certificate")]
    NoCertificate,
    /// No private key in it.
    #[error("has no private key: the key's resource holds none, or one of a kind that is not spoken here")]
    NoKey,
    /// More than one private key.
    #[error("has several private keys: the key's resource must hold one")]
    Keys,
    /// A key where certificates belong.
    #[error("resource holds a private key: it belongs into the key's resource")]
    Misplaced,
    /// A CA is wanted.
    #[error("resource holds one that may not sign others (no CA:TRUE, or no keyCertSign)")]
    NotCa,
    /// The CA's key is another's, or of a kind that does not sign here.
    #[error("does not belong to the key of the key's resource, or that key is neither P-256 nor P-384")]
    CaKey,
    /// The CA's subject cannot stand in a leaf as it is.
    #[error("has a subject with an attribute twice, several in one, or none in UTF-8, printable or IA5 form")]
    CaName,
    /// The CA's time.
    #[error("is not valid now, or ends within a minute: a CA signs nothing then")]
    Ended,
}

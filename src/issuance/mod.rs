//! Where a certificate comes from: our own signature ([`own`]), or the KBS, ready made ([`ready`]). The
//! mesh's issuer is to be the third.
//!
//! What comes out is only issued, not checked: [`crate::tls::leaf::Leaf::check`] does that for all.

pub mod own;
pub mod ready;

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
}

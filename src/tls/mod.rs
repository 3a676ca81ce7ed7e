//! rustls in one place: how we speak TLS, and what its failures mean.
//!
//! TLS 1.3 only, aws-lc-rs only, hybrid post-quantum key exchange first, no resumption. Towards a
//! KBS the configured CA is the only root: the web's roots are not compiled in, and in an image of
//! one file there is no `/etc/ssl` to read.

mod anchored;
pub mod client;
pub mod demand;
pub mod exchange;
pub mod issue;
pub mod leaf;
mod look;
pub mod peer;
mod problem;
pub mod prover;
pub mod reports;
pub mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod trust;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

use crate::clock::Clock;
use crate::finding::{Class, Finding};
pub use anchored::Anchored;
pub use look::Look;
pub use problem::{TlsProblem, explain, explain_io};

/// Most bytes of a CA's PEM, 256 KiB: as much as a whole configuration may have.
const MAX_PEM: usize = 256 * 1024;

/// Why there is no TLS configuration. Each message continues "`[kbs].ca` …"; none quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither a CA nor anything else to trust.
    #[error("is missing: without it no server can be trusted")]
    NoRoots,
    /// `system_roots = true`.
    #[error("is the only trust there is: `system_roots = true` has no effect in this build, which holds no web roots")]
    SystemRoots,
    /// Over the cap.
    #[error("is longer than 256 KiB")]
    TooLong,
    /// Not PEM.
    #[error("is not well-formed PEM")]
    Pem,
    /// PEM, but no certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// A private key among the certificates.
    #[error("holds a private key: only certificates belong there, and the key must be replaced")]
    PrivateKey,
    /// Something else among the certificates.
    #[error("holds a PEM block that is not a certificate")]
    OtherBlock,
    /// A certificate that does not parse.
    #[error("holds a certificate that cannot be read (number {0}, counted from 1)")]
    Certificate(usize),
    /// rustls refuses our own choice of algorithms: a bug.
    #[error("cannot be used: TLS 1.3 is not available in this build")]
    Provider,
}

impl Error {
    /// The finding. The field it names is `[kbs].ca`.
    pub fn finding(&self) -> Finding {
        let class = if *self == Self::Provider { Class::Bug } else { Class::Config };
        let finding = Finding::new(class, format!("`[kbs].ca` {self}"));
        match self {
            Self::Provider => finding,
            Self::SystemRoots => finding
                .why("trusting every CA of the web would let any of them stand in for the KBS")
                .next("remove `system_roots` and write the PEM of the KBS's CA into `[kbs].ca`"),
            _ => finding
                .why("https to the KBS trusts the certificates of `[kbs].ca` and nothing else, so every one must be readable")
                .next("write the PEM of the KBS's CA, certificates only, into `[kbs].ca`"),
        }
    }
}

/// A client's TLS, trusting exactly the certificates in `ca_pem`, by `clock`. Sends no client
/// certificate and offers no ALPN.
pub fn client(ca_pem: Option<&str>, system_roots: bool, clock: &Clock) -> Result<Anchored, Error> {
    if system_roots {
        return Err(Error::SystemRoots);
    }
    Anchored::new(roots(ca_pem.ok_or(Error::NoRoots)?)?, clock)
}

/// Whether a CA's PEM could be trusted by [`client()`]: what it says of a fault is what a guest would say.
pub fn check_ca(ca_pem: &str) -> Result<(), Error> {
    roots(ca_pem).map(drop)
}

/// A client's TLS that trusts nobody: for HTTP clients that want one and speak plain http only.
pub fn client_without_roots(clock: &Clock) -> Result<Anchored, Error> {
    Anchored::new(RootCertStore::empty(), clock)
}

/// aws-lc-rs with our order of key exchanges: what is recorded today must not be read later.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    Arc::new(provider)
}

fn roots(pem: &str) -> Result<RootCertStore, Error> {
    if pem.len() > MAX_PEM {
        return Err(Error::TooLong);
    }
    let mut roots = RootCertStore::empty();
    for (index, block) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()).enumerate() {
        match block.map_err(|_| Error::Pem)? {
            (SectionKind::Certificate, der) => {
                roots.add(CertificateDer::from(der)).map_err(|_| Error::Certificate(index.saturating_add(1)))?;
            }
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _) => {
                return Err(Error::PrivateKey);
            }
            _ => return Err(Error::OtherBlock),
        }
    }
    if roots.is_empty() { Err(Error::NoCertificate) } else { Ok(roots) }
}

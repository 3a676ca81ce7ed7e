//! A key and a certificate that somebody made and uploaded to the KBS. The key was not born here:
//! whoever uploaded it, and the KBS, have it too.

use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::Error;
use crate::secret::Secret;
use crate::tls::leaf::Issued;

/// Reads both resources. The key must be PKCS#8 (`BEGIN PRIVATE KEY`), or SEC 1 (`BEGIN EC PRIVATE
/// KEY`) on P-256; with feature `compat` also PKCS#1 (`BEGIN RSA PRIVATE KEY`).
pub fn read(certificate: &Secret, key: &Secret) -> Result<Issued, Error> {
    let mut chain = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(certificate.expose()) {
        match block.map_err(|_| Error::Pem)? {
            (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
            (SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, _) => {
                return Err(Error::Misplaced);
            }
            _ => return Err(Error::Pem),
        }
    }
    if chain.is_empty() {
        return Err(Error::NoCertificate);
    }
    let mut found: Option<Secret> = None;
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(key.expose()) {
        let (kind, der) = block.map_err(|_| Error::NoKey)?;
        let der = Secret::new(der);
        let this = match kind {
            SectionKind::PrivateKey => der,
            SectionKind::EcPrivateKey => pkcs8(&der)?,
            #[cfg(feature = "compat")]
            SectionKind::RsaPrivateKey => rsa(&der)?,
            // `openssl ecparam` writes the curve beside the key.
            _ => continue,
        };
        if found.replace(this).is_some() {
            return Err(Error::Keys);
        }
    }
    Ok(Issued { chain, key: found.ok_or(Error::NoKey)? })
}

/// SEC 1 → PKCS#8.
fn pkcs8(sec1: &Secret) -> Result<Secret, Error> {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    let key = PrivateKey::from_private_key_der(&ECDH_P256, sec1.expose()).map_err(|_| Error::NoKey)?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| Error::NoKey)?;
    let der = PrivatePkcs8KeyDer::from(der.as_ref());
    Ok(Secret::new(der.secret_pkcs8_der().to_vec()))
}

/// PKCS#1 → PKCS#8.
#[cfg(feature = "compat")]
fn rsa(pkcs1: &Secret) -> Result<Secret, Error> {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    let key = aws_lc_rs::rsa::KeyPair::from_der(pkcs1.expose()).map_err(|_| Error::NoKey)?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| Error::NoKey)?;
    Ok(Secret::new(der.as_ref().to_vec()))
}

//! The mesh's CA, in the issuer's memory: what it signs is made anew, from a key and names that have been
//! judged.

use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, Issuer, KeyIdMethod, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::key::Key;
use super::{Error, profile, ready};
use crate::config::spiffe::PeerId;
use crate::formats::csr::RequestedKey;
use crate::formats::hex;
use crate::secret::Secret;
use crate::tls::leaf::Issued;

/// Shortest life of a certificate that is worth signing, 60 s: a CA that ends sooner is not used.
const LEAST: u64 = 60;

/// A CA that may sign now, for as long as its certificate is valid.
pub struct Ca {
    issuer: Issuer<'static, Key>,
    /// What goes behind a leaf: the CA and what stands above it, without roots.
    above: Vec<CertificateDer<'static>>,
    from: u64,
    until: u64,
}

/// What the CA has signed.
pub struct Given {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's serial number, hex.
    pub serial: String,
    /// When the leaf ends, seconds since 1970.
    pub until: u64,
}

impl Ca {
    /// Reads both resources: the CA's certificate first, then what stands between it and the root, PEM; and
    /// its key, on P-256 or P-384. Whether it leads to the mesh's roots, the first leaf shows.
    pub fn read(certificate: &Secret, key: &Secret) -> Result<Self, Error> {
        let Issued { chain, key } = ready::read(certificate, key)?;
        let key = Key::of_ca(&key)?;
        let (mut from, mut until) = (0, u64::MAX);
        let mut above = Vec::new();
        let mut params = None;
        for certificate in chain {
            let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| Error::Pem)?;
            let signs = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
            if !(parsed.is_ca() && signs) {
                return Err(Error::NotCa);
            }
            let seconds = |moment: i64| u64::try_from(moment).unwrap_or(0);
            from = from.max(seconds(parsed.validity().not_before.timestamp()));
            until = until.min(seconds(parsed.validity().not_after.timestamp()));
            if params.is_none() {
                if parsed.public_key().raw != key.subject_public_key_info() {
                    return Err(Error::CaKey);
                }
                params = Some(signer(&parsed)?);
            }
            // A root is trusted by whoever has it, and nobody believes one that is sent along.
            if parsed.subject().as_raw() != parsed.issuer().as_raw() {
                above.push(certificate);
            }
        }
        let issuer = Issuer::new(params.ok_or(Error::NoCertificate)?, key);
        Ok(Self { issuer, above, from, until })
    }

    /// Certifies a key for these names, until `lifetime` after `now` (seconds since 1970), and never longer
    /// than the CA itself.
    pub fn certify(&self, key: &RequestedKey, names: &[PeerId], now: u64, lifetime: Duration) -> Result<Given, Error> {
        self.sign(&Key::requested(key), names, now, lifetime)
    }

    /// The issuer's own certificate.
    pub fn own(&self, key: Secret, names: &[PeerId], now: u64, lifetime: Duration) -> Result<Issued, Error> {
        let Given { chain, .. } = self.sign(&Key::own(&key)?, names, now, lifetime)?;
        Ok(Issued { chain, key })
    }

    fn sign(&self, key: &Key, names: &[PeerId], now: u64, lifetime: Duration) -> Result<Given, Error> {
        if now < self.from || now.saturating_add(LEAST) >= self.until {
            return Err(Error::Ended);
        }
        let until = now.saturating_add(lifetime.as_secs()).min(self.until);
        let mut params = profile::leaf(names, now, until)?;
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(|serial| hex::encode(serial.as_ref())).unwrap_or_default();
        let leaf = params.signed_by(key, &self.issuer).map_err(|_| Error::Make)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.above.iter().cloned());
        Ok(Given { chain, serial, until })
    }
}

/// What a leaf says of the CA: its subject, byte for byte, and its key's identifier.
fn signer(ca: &X509Certificate<'_>) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = Vec::new();
    for attributes in ca.subject().iter() {
        let mut attributes = attributes.iter();
        // Several in one, and one kind twice: rcgen cannot write them.
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else { return Err(Error::CaName) };
        let oid = attribute.attr_type().iter().ok_or(Error::CaName)?.collect();
        let kind = DnType::CustomDnType(oid);
        if params.distinguished_name.get(&kind).is_some() {
            return Err(Error::CaName);
        }
        let text = std::str::from_utf8(attribute.attr_value().data).map_err(|_| Error::CaName)?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().map_err(|_| Error::CaName)?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().map_err(|_| Error::CaName)?),
            _ => return Err(Error::CaName),
        };
        params.distinguished_name.push(kind, value);
    }
    for extension in ca.extensions() {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id.0.to_vec());
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests;

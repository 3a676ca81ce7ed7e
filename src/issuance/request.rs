//! A request to the mesh's issuer: this guest's key, and nothing else that the issuer would look at.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData as _};

use super::Error;
use super::key::Key;
use crate::secret::Secret;

/// A request for one key.
pub struct Request {
    /// PKCS#10, DER.
    pub der: Vec<u8>,
    /// The key in it: `SubjectPublicKeyInfo`, DER.
    pub spki: Vec<u8>,
}

/// Of a key (PKCS#8, P-256), signed by it.
pub fn make(key: &Secret) -> Result<Request, Error> {
    let key = Key::own(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|_| Error::Make)?;
    Ok(Request { der: request.der().to_vec(), spki: key.subject_public_key_info() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::csr::RequestedKey;
    use crate::kbs::TeeKey;

    #[test]
    fn a_request_is_for_the_attested_key() {
        let key = TeeKey::generate().unwrap();
        let request = make(&key.to_pkcs8().unwrap()).unwrap();
        let read = RequestedKey::of(&request.der).ok().unwrap();
        assert_eq!((read.point(), read.spki()), (key.public().point(), &request.spki[..]));
    }
}

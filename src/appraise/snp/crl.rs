//! AMD's revocation list: signed by the root, about the authorities below it (57230 §3.3).

use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::Error;
use crate::formats::x509::signed_by;

/// Most bytes of a list, 1 MiB: AMD's have less than 1 KiB. A bound of ours.
const MAX_BYTES: usize = 1024 * 1024;

/// Holds an authority to the root's list, at `now`.
pub(super) fn check(
    list: &[u8],
    root: &X509Certificate<'_>,
    authority: &X509Certificate<'_>,
    now: u64,
) -> Result<(), Error> {
    if list.len() > MAX_BYTES {
        return Err(Error::Crl);
    }
    let Ok((rest, list)) = CertificateRevocationList::from_der(list) else { return Err(Error::Crl) };
    let about_root = list.issuer().as_raw() == root.subject().as_raw();
    let signed = list.signature_algorithm.algorithm == list.tbs_cert_list.signature.algorithm
        && signed_by(root, &list.signature_algorithm, list.tbs_cert_list.as_ref(), &list.signature_value.data);
    let understood = list.extensions().iter().all(|extension| !extension.critical);
    if !rest.is_empty() || !about_root || !signed || !understood {
        return Err(Error::Crl);
    }
    let now = i64::try_from(now).map_err(|_| Error::CrlTime)?;
    // A list without an end says nothing about today.
    let next = list.next_update().ok_or(Error::CrlTime)?.timestamp();
    if now < list.last_update().timestamp() || now > next {
        return Err(Error::CrlTime);
    }
    let named = list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == authority.raw_serial());
    if named { Err(Error::Revoked) } else { Ok(()) }
}

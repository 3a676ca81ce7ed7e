//! What stands in every certificate that is made here, whoever signs it, and nothing else: no word of it
//! is taken from whoever asks, but key and names that have been judged.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::Error;
use crate::config::spiffe::PeerId;

/// How far before now a certificate begins: peers' clocks may be behind ours by as much.
const EARLIER: Duration = Duration::from_secs(5 * 60);

/// A leaf's: from five minutes before `now` until `until` (seconds since 1970), for TLS servers and clients,
/// for signatures only.
pub(super) fn leaf(names: &[PeerId], now: u64, until: u64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = moment(now.saturating_sub(EARLIER.as_secs()))?;
    params.not_after = moment(until)?;
    params.serial_number = Some(serial()?);
    for name in names {
        params.subject_alt_names.push(match name {
            PeerId::Spiffe(id) => SanType::URI(id.as_str().try_into().map_err(|_| Error::Make)?),
            PeerId::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(|_| Error::Make)?),
            // What has no name is not certified.
            #[cfg(feature = "compat")]
            PeerId::Certificate(_) => return Err(Error::Make),
        });
    }
    Ok(params)
}

/// 16 random bytes, positive (RFC 5280 §4.1.2.2).
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Make)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn moment(unix: u64) -> Result<OffsetDateTime, Error> {
    let seconds = i64::try_from(unix).map_err(|_| Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Error::Time)
}

//! A certificate that we sign ourselves. It proves nothing by itself: peers must ask for evidence.

use std::time::Duration;

use super::key::Key;
use super::{Error, profile};
use crate::config::spiffe::PeerId;
use crate::secret::Secret;
use crate::tls::leaf::Issued;

/// Signs `key`'s certificate for `names` with `key`: from five minutes before `now` (seconds since 1970)
/// until `lifetime` after it, for TLS servers and clients, for signatures only.
pub fn sign(key: Secret, names: &[PeerId], now: u64, lifetime: Duration) -> Result<Issued, Error> {
    let params = profile::leaf(names, now, now.saturating_add(lifetime.as_secs()))?;
    let certificate = params.self_signed(&Key::own(&key)?).map_err(|_| Error::Make)?;
    Ok(Issued { chain: vec![certificate.der().clone()], key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spiffe::SpiffeId;
    use crate::kbs::TeeKey;
    use crate::tls::leaf::{Expected, Leaf, LeafError};
    use x509_parser::parse_x509_certificate;

    const NOW: u64 = 1_800_000_000;

    fn fresh_key() -> Secret {
        TeeKey::generate().unwrap().to_pkcs8().unwrap()
    }

    fn issued() -> (Issued, SpiffeId) {
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/sa/api").unwrap();
        let names = [PeerId::Spiffe(id.clone()), PeerId::Dns("api.payments.svc".to_owned())];
        let issued = sign(fresh_key(), &names, NOW, Duration::from_secs(3600)).unwrap();
        (issued, id)
    }

    fn expected(now: u64, id: &SpiffeId) -> Expected<'_> {
        Expected { spiffe: Some(id), dns: &[], roots: None, rsa: false, now }
    }

    #[test]
    fn our_own_certificate_has_the_profile_and_no_more() {
        let (issued, id) = issued();
        let (_, certificate) = parse_x509_certificate(&issued.chain[0]).unwrap();
        assert!(!certificate.is_ca());
        assert_eq!(certificate.validity().not_before.timestamp(), 1_800_000_000 - 300);
        assert_eq!(certificate.validity().not_after.timestamp(), 1_800_000_000 + 3600);
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert_eq!(usage.flags, 1, "digitalSignature alone");
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any);
        Leaf::check(issued, &expected(NOW, &id)).unwrap();
    }

    #[test]
    fn a_certificate_that_is_not_ours_now_is_not_shown() {
        let check = |now, with: &dyn Fn(&mut Issued)| {
            let (mut issued, id) = issued();
            with(&mut issued);
            Leaf::check(issued, &expected(now, &id)).unwrap_err()
        };
        assert_eq!(check(NOW + 3600, &|_| {}), LeafError::Expired(0));
        assert_eq!(check(NOW - 301, &|_| {}), LeafError::NotYetValid(1));
        assert_eq!(check(NOW, &|it| it.key = fresh_key()), LeafError::OtherKey);
        assert_eq!(check(NOW, &|it| it.chain.clear()), LeafError::Chain(0));
        assert_eq!(check(NOW, &|it| it.chain[0] = vec![1, 2].into()), LeafError::Unreadable);
        let (issued, _) = issued();
        let other = SpiffeId::parse("spiffe://example.org/ns/payments/sa/other").unwrap();
        assert_eq!(Leaf::check(issued, &expected(NOW, &other)).unwrap_err(), LeafError::OtherIdentity);
    }

    #[test]
    fn the_attested_key_is_the_leafs() {
        let key = TeeKey::generate().unwrap();
        let issued = sign(key.to_pkcs8().unwrap(), &[], NOW, Duration::from_secs(600));
        let issued = issued.unwrap();
        let (_, certificate) = parse_x509_certificate(&issued.chain[0]).unwrap();
        let point = certificate.public_key().subject_public_key.data.to_vec();
        assert_eq!(point, key.public().point());
    }
}

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use x509_parser::parse_x509_certificate;

use super::*;
use crate::config::spiffe::SpiffeId;
use crate::tls::leaf::{Expected, Leaf};

const NOW: u64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn root_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = date_time_ymd(2049, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "mesh ü");
    params
}

/// A CA of one certificate, `change`d before it was made, and that certificate.
fn read(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Result<(Ca, String), Error> {
    let mut params = root_params();
    change(&mut params);
    let certificate = pem("CERTIFICATE", params.self_signed(key).unwrap().der());
    let ca = Ca::read(&secret(&certificate), &secret(&pem("PRIVATE KEY", &key.serialize_der())))?;
    Ok((ca, certificate))
}

fn names() -> Vec<PeerId> {
    let id = SpiffeId::parse("spiffe://example.org/ns/payments/sa/api").unwrap();
    vec![PeerId::Spiffe(id), PeerId::Dns("api.payments.svc".to_owned())]
}

fn requested(params: &CertificateParams) -> (RequestedKey, Secret) {
    let key = KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap();
    (RequestedKey::of(request.der()).ok().unwrap(), Secret::new(key.serialize_der()))
}

#[test]
fn what_the_ca_signs_leads_to_it_byte_for_byte() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let (ca, root) = read(|_| {}, &key).unwrap();
        let (requested, private) = requested(&CertificateParams::default());
        let given = ca.certify(&requested, &names(), NOW, HOUR).unwrap();
        assert_eq!((given.chain.len(), given.until), (1, NOW + 3600), "the root stays where it is");
        let PeerId::Spiffe(id) = &names()[0] else { panic!() };
        let dns = ["api.payments.svc".to_owned()];
        let expected = Expected { spiffe: Some(id), dns: &dns, roots: Some(&root), rsa: false, now: NOW };
        Leaf::check(Issued { chain: given.chain, key: private }, &expected).unwrap();
    }
}

#[test]
fn a_chain_goes_out_without_its_root() {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = Issuer::new(root_params(), root_key);
    let root_pem = pem("CERTIFICATE", root_params().self_signed(root.key()).unwrap().der());
    let mut params = root_params();
    params.distinguished_name.push(DnType::CommonName, "below");
    let below = params.signed_by(&key, &root).unwrap();
    let chain = format!("{}{root_pem}", pem("CERTIFICATE", below.der()));
    let ca = Ca::read(&secret(&chain), &secret(&pem("PRIVATE KEY", &key.serialize_der()))).unwrap();
    let (requested, private) = requested(&CertificateParams::default());
    let given = ca.certify(&requested, &names(), NOW, HOUR).unwrap();
    assert_eq!(given.chain.len(), 2);
    let expected = Expected { spiffe: None, dns: &[], roots: Some(&root_pem), rsa: false, now: NOW };
    Leaf::check(Issued { chain: given.chain, key: private }, &expected).unwrap();
}

/// What a certificate says, for a request that `asks`.
fn certified(asks: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let (ca, _) = read(|_| {}, &KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    asks(&mut params);
    ca.certify(&requested(&params).0, &names(), NOW, HOUR).unwrap().chain[0].to_vec()
}

fn holds_the_profile(der: &[u8]) {
    let (_, leaf) = parse_x509_certificate(der).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && !extended.code_signing);
    assert!(extended.other.is_empty() && !extended.ocsp_signing && !extended.time_stamping);
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    let names: Vec<String> = names.general_names.iter().map(|name| format!("{name:?}")).collect();
    assert_eq!(names, ["URI(\"spiffe://example.org/ns/payments/sa/api\")", "DNSName(\"api.payments.svc\")"]);
    assert_eq!(leaf.subject().iter().count(), 0, "no subject");
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 300);
    assert_eq!(leaf.validity().not_after.timestamp(), 1_800_000_000 + 3600);
    let known = ["2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.35", "2.5.29.37"];
    for extension in leaf.extensions() {
        let oid = extension.oid.to_id_string();
        assert!(known.contains(&oid.as_str()), "{oid}");
    }
}

#[test]
fn a_request_to_be_a_ca_is_not_granted() {
    holds_the_profile(&certified(|asks| asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)));
}

#[test]
fn a_request_for_other_names_is_not_granted() {
    holds_the_profile(&certified(|asks| {
        asks.subject_alt_names.push(SanType::URI("spiffe://example.org/ns/payments/sa/admin".try_into().unwrap()));
        asks.subject_alt_names.push(SanType::DnsName("kbs.example.org".try_into().unwrap()));
        asks.distinguished_name.push(DnType::CommonName, "admin");
    }));
}

#[test]
fn a_request_for_other_purposes_is_not_granted() {
    holds_the_profile(&certified(|asks| {
        asks.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
    }));
}

#[test]
fn a_request_for_other_uses_of_the_key_is_not_granted() {
    holds_the_profile(&certified(|asks| {
        asks.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyEncipherment];
    }));
}

#[test]
fn a_request_for_an_extension_of_its_own_is_not_granted() {
    holds_the_profile(&certified(|asks| {
        let oid = [1, 3, 6, 1, 5, 5, 7, 1, 35];
        asks.custom_extensions.push(CustomExtension::from_oid_content(&oid, vec![4, 1, 7]));
    }));
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let serials: std::collections::BTreeSet<Vec<u8>> = (0..20)
        .map(|_| {
            let der = certified(|_| {});
            let (_, leaf) = parse_x509_certificate(&der).unwrap();
            let raw = leaf.raw_serial().to_vec();
            assert!(raw.len() == 16 && raw[0] & 0x80 == 0);
            raw
        })
        .collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn nothing_outlives_the_ca_and_a_ca_that_has_ended_signs_nothing() {
    let end = u64::try_from(date_time_ymd(2049, 1, 1).unix_timestamp()).unwrap();
    let (ca, _) = read(|_| {}, &KeyPair::generate().unwrap()).unwrap();
    let certify = |now| ca.certify(&requested(&CertificateParams::default()).0, &names(), now, HOUR);
    assert_eq!(certify(end - 600).unwrap().until, end);
    assert_eq!(certify(end - 60).err(), Some(Error::Ended));
    assert_eq!(certify(end + 1).err(), Some(Error::Ended));
    let (young, _) =
        read(|params| params.not_before = date_time_ymd(2048, 1, 1), &KeyPair::generate().unwrap()).unwrap();
    let asked = requested(&CertificateParams::default()).0;
    assert_eq!(young.certify(&asked, &names(), NOW, HOUR).err(), Some(Error::Ended));
}

#[test]
fn what_is_no_ca_signs_nothing() {
    let key = || KeyPair::generate().unwrap();
    let refused = |change: fn(&mut CertificateParams)| read(change, &key()).err();
    assert_eq!(refused(|params| params.is_ca = IsCa::ExplicitNoCa), Some(Error::NotCa));
    assert_eq!(refused(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]), Some(Error::NotCa));
    assert_eq!(read(|_| {}, &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()).err(), Some(Error::CaKey));
    // Another CA's key.
    let certificate = pem("CERTIFICATE", root_params().self_signed(&key()).unwrap().der());
    let other = pem("PRIVATE KEY", &key().serialize_der());
    assert_eq!(Ca::read(&secret(&certificate), &secret(&other)).err(), Some(Error::CaKey));
    assert_eq!(Ca::read(&secret(""), &secret(&other)).err(), Some(Error::NoCertificate));
    assert_eq!(Ca::read(&secret(&certificate), &secret("")).err(), Some(Error::NoKey));
}

//! Certificates for the KBS double: one good chain, and each way in which one can be wrong.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::encode::pem;

/// A certificate authority.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

/// A certificate with its key, to serve TLS with.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pem: String,
}

/// Years in which a certificate is valid: from the first day of one to the first of the other.
type Years = (i32, i32);

/// Valid whenever the tests run: RFC 5280 tells times apart up to 2049 in the short form.
const NOW: Years = (2020, 2049);
/// Over before the product was written.
const LONG_AGO: Years = (2020, 2021);

impl Ca {
    /// A CA of a new key.
    pub fn new(name: &str) -> Self {
        Self::in_years(name, NOW)
    }

    /// A CA whose certificate expired years ago.
    pub fn expired(name: &str) -> Self {
        Self::in_years(name, LONG_AGO)
    }

    fn in_years(name: &str, years: Years) -> Self {
        let mut params = params(name, &[], years);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("aws-lc-rs makes P-256 keys");
        let der = params.self_signed(&key).expect("a CA signs itself").der().to_vec();
        Self { issuer: Issuer::new(params, key), pem: pem(&der), der }
    }

    /// Its certificate, PEM: what goes into `[kbs].ca`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key, PEM (PKCS#8): for an issuer.
    pub fn key_pem(&self) -> String {
        crate::encode::pem_of("PRIVATE KEY", &self.issuer.key().serialize_der())
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// A server's leaf for these DNS names and IP addresses.
    pub fn leaf(&self, names: &[&str]) -> Identity {
        self.sign(&leaf_params(names, NOW))
    }

    /// A leaf that expired years ago.
    pub fn expired_leaf(&self, names: &[&str]) -> Identity {
        self.sign(&leaf_params(names, LONG_AGO))
    }

    /// A leaf good for clients only.
    pub fn client_leaf(&self, names: &[&str]) -> Identity {
        let mut params = leaf_params(names, NOW);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A member of the mesh: one SPIFFE identity, for servers and clients.
    pub fn member(&self, spiffe: &str) -> Identity {
        self.member_with(&[spiffe], &[], |_| {})
    }

    /// A member with these URIs and DNS names, and whatever else `change` does to it.
    pub fn member_with(&self, uris: &[&str], dns: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = leaf_params(dns, NOW);
        for uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().expect("ASCII")));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.sign(&params)
    }

    /// A member whose certificate is valid from so many seconds before now to so many after.
    pub fn member_for(&self, spiffe: &str, before: i64, after: i64) -> Identity {
        let now = time::OffsetDateTime::now_utc();
        self.member_with(&[spiffe], &[], |params| {
            params.not_before = now - time::Duration::seconds(before);
            params.not_after = now + time::Duration::seconds(after);
        })
    }

    /// A person's certificate as kubectl-coco makes it: for a client, with a common name and no other.
    pub fn developer(&self, name: &str) -> Identity {
        let mut params = params(name, &[], NOW);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A server's leaf with an RSA key of 4096 bits.
    pub fn rsa_leaf(&self, names: &[&str]) -> Identity {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_4096);
        self.sign_for(&leaf_params(names, NOW), &key.expect("aws-lc-rs makes RSA keys"))
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        self.sign_for(params, &KeyPair::generate().expect("aws-lc-rs makes P-256 keys"))
    }

    fn sign_for(&self, params: &CertificateParams, key: &KeyPair) -> Identity {
        let certificate = params.signed_by(key, &self.issuer).expect("our CA signs");
        Identity { chain: vec![certificate.der().clone()], key: key.serialize_der(), pem: pem(certificate.der()) }
    }
}

impl Identity {
    /// Self-signed with `CA:TRUE`, as `openssl req -x509` makes them: people serve these, and give
    /// the same file as the CA.
    pub fn self_signed_ca(names: &[&str]) -> Self {
        let mut params = leaf_params(names, NOW);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        Self::self_signed(&params)
    }

    /// Self-signed, and no CA.
    pub fn self_signed_leaf(names: &[&str]) -> Self {
        Self::self_signed(&leaf_params(names, NOW))
    }

    fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("aws-lc-rs makes P-256 keys");
        let certificate = params.self_signed(&key).expect("a key signs itself");
        Self { chain: vec![certificate.der().clone()], key: key.serialize_der(), pem: pem(certificate.der()) }
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key, PEM (PKCS#8).
    pub fn key_pem(&self) -> String {
        crate::encode::pem_of("PRIVATE KEY", &self.key)
    }

    /// The private key of [`Ca::rsa_leaf`], PEM (PKCS#1).
    pub fn rsa_key_pem(&self) -> String {
        // What PKCS#8 has before the key itself: version, algorithm, and three lengths of two bytes.
        const HEAD: usize = 26;
        crate::encode::pem_of("RSA PRIVATE KEY", self.key.get(HEAD..).expect("a long key"))
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

fn leaf_params(names: &[&str], years: Years) -> CertificateParams {
    let mut params = params("kbs", names, years);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(name: &str, names: &[&str], (from, to): Years) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("DNS names and addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    params
}

//! Two vendors of our own: certificates shaped like AMD's and Intel's, below keys made at run time.
//!
//! What differs from the real ones, and matters to nobody here: AMD signs its ARK and ASK with
//! RSA-PSS, ours are P-384 throughout; of what Intel's PCK certificates say of a machine, ours say the least.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, UnparsedPublicKey,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, RevokedCertParams,
    SerialNumber, SignatureAlgorithm,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::snp::Tcb;
use crate::encode::pem;
use crate::http::lock;

/// AMD's arc below which VCEK extensions live (AMD 57230, table 8), up to the member's number.
const AMD: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];

/// The one TDX machine, as Intel names it: its first processor, and the platform.
pub(super) const PPID: [u8; 16] = [0x81; 16];
pub(super) const INSTANCE: [u8; 16] = [0x07; 16];

/// A certificate with its key.
pub(super) struct Certified {
    pub(super) der: Vec<u8>,
    pub(super) key: EcdsaKeyPair,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

/// Chips are told apart by these.
type ChipKey = ([u8; 64], Tcb);

/// Both vendors: the keys that make evidence genuine. Guests and the KBS of a test share one.
pub struct Vendor {
    ark: Authority,
    ask: Authority,
    sgx_root: Authority,
    sgx_platform: Authority,
    pck: Certified,
    chips: Mutex<BTreeMap<ChipKey, Arc<Certified>>>,
}

impl std::fmt::Debug for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vendor")
    }
}

impl Vendor {
    /// Vendors of new keys: evidence of theirs is genuine to nobody who trusts others.
    pub fn new() -> Arc<Self> {
        let ark = Authority::root("ARK-Genoa", &PKCS_ECDSA_P384_SHA384);
        let ask = ark.intermediate("SEV-Genoa", &PKCS_ECDSA_P384_SHA384);
        let sgx_root = Authority::root("Intel SGX Root CA", &PKCS_ECDSA_P256_SHA256);
        let sgx_platform = sgx_root.intermediate("Intel SGX PCK Platform CA", &PKCS_ECDSA_P256_SHA256);
        let pck = sgx_platform.leaf("Intel SGX PCK Certificate", &PKCS_ECDSA_P256_SHA256, vec![sgx()]);
        Arc::new(Self { ark, ask, sgx_root, sgx_platform, pck, chips: Mutex::default() })
    }

    /// The vendors of this process: what guests are made by, and the KBS trusts, unless told otherwise.
    pub fn ours() -> Arc<Self> {
        static OURS: OnceLock<Arc<Vendor>> = OnceLock::new();
        Arc::clone(OURS.get_or_init(Self::new))
    }

    /// The AMD-like root, DER.
    pub fn ark(&self) -> &[u8] {
        &self.ark.der
    }

    /// The AMD-like intermediate, DER.
    pub fn ask(&self) -> &[u8] {
        &self.ask.der
    }

    /// The AMD-like root with the intermediate, PEM: what is trusted in place of AMD.
    pub fn amd_roots(&self) -> String {
        [pem(self.ark()), pem(self.ask())].concat()
    }

    /// The AMD-like root's revocation list, DER: it names these certificates, and is good from the one
    /// year's beginning to the other's.
    pub fn crl(&self, revoked: &[&[u8]], years: (i32, i32)) -> Vec<u8> {
        self.ark.crl(revoked, years)
    }

    /// A list by the AMD-like intermediate, which is nobody's to ask about itself. DER.
    pub fn crl_of_the_ask(&self, revoked: &[&[u8]], years: (i32, i32)) -> Vec<u8> {
        self.ask.crl(revoked, years)
    }

    /// The Intel-like root, DER.
    pub fn sgx_root(&self) -> &[u8] {
        &self.sgx_root.der
    }

    /// The same, PEM: what is trusted in place of Intel.
    pub fn intel_root(&self) -> String {
        pem(self.sgx_root())
    }

    /// The PCK certificate and those above it, PEM, leaf first: certification data of type 5.
    pub(super) fn pck_chain(&self) -> String {
        [&self.pck.der, &self.sgx_platform.der, &self.sgx_root.der].map(|der| pem(der)).concat()
    }

    pub(super) fn pck(&self) -> &Certified {
        &self.pck
    }

    /// What AMD's key server would answer for a chip at this TCB.
    pub fn vcek(&self, chip_id: &[u8; 64], tcb: Tcb) -> Vec<u8> {
        self.chip(chip_id, tcb).der.clone()
    }

    /// The chip's key at this TCB. A chip that reports another TCB has another key, as AMD's.
    pub(super) fn chip(&self, chip_id: &[u8; 64], tcb: Tcb) -> Arc<Certified> {
        let mut chips = lock(&self.chips);
        let made = chips.entry((*chip_id, tcb)).or_insert_with(|| {
            let mut extensions = vec![(3, 1, tcb.bootloader), (3, 2, tcb.tee), (3, 3, tcb.snp), (3, 8, tcb.microcode)];
            extensions.extend(tcb.fmc.map(|fmc| (3, 9, fmc)));
            let mut extensions: Vec<_> =
                extensions.into_iter().map(|(arc, member, value)| amd(&[arc, member], integer(value))).collect();
            let hwid = if tcb.fmc.is_some() { chip_id.get(..8) } else { None };
            extensions.push(amd(&[4], hwid.unwrap_or(chip_id).to_vec()));
            Arc::new(self.ask.leaf("SEV-VCEK", &PKCS_ECDSA_P384_SHA384, extensions))
        });
        Arc::clone(made)
    }
}

/// What a VCEK says about its chip.
pub(super) struct VcekFacts {
    pub(super) point: Vec<u8>,
    /// By the number below `…3704.1.3`.
    pub(super) levels: BTreeMap<u64, u8>,
    pub(super) hwid: Vec<u8>,
}

/// Reads a VCEK; none when it is not one.
pub(super) fn vcek_facts(der: &[u8]) -> Option<VcekFacts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut facts = VcekFacts { point: point(der)?, levels: BTreeMap::new(), hwid: Vec::new() };
    for extension in certificate.extensions() {
        let oid: Vec<u64> = extension.oid.iter()?.collect();
        match oid.strip_prefix(&AMD) {
            // INTEGER; two bytes of content where the first would read as a sign.
            Some([3, member]) => {
                facts.levels.insert(*member, *extension.value.last()?);
            }
            Some([4]) => facts.hwid = extension.value.to_vec(),
            _ => {}
        }
    }
    Some(facts)
}

/// The uncompressed point of a certificate's key.
pub(super) fn point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

/// Whether each certificate is signed by the next one, all with the curve that fits the last.
/// Validity is not looked at: Trustee does not, either.
pub(super) fn chained(chain: &[&[u8]]) -> bool {
    chain.windows(2).all(|pair| {
        let [below, above] = pair else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(below) else { return false };
        let Some(point) = point(above) else { return false };
        // 97 bytes: an uncompressed P-384 point; 65: P-256.
        let algorithm = if point.len() == 97 { &ECDSA_P384_SHA384_ASN1 } else { &ECDSA_P256_SHA256_ASN1 };
        let signature = &certificate.signature_value.data;
        UnparsedPublicKey::new(algorithm, point).verify(certificate.tbs_certificate.as_ref(), signature).is_ok()
    })
}

impl Authority {
    fn root(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let (params, key) = (ca_params(name), key(algorithm));
        let der = params.self_signed(&key).expect("a root signs itself").der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn intermediate(&self, name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let (params, key) = (ca_params(name), key(algorithm));
        let der = params.signed_by(&key, &self.issuer).expect("a root signs").der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    fn crl(&self, revoked: &[&[u8]], (from, until): (i32, i32)) -> Vec<u8> {
        let beginning = |year| rcgen::date_time_ymd(year, 1, 1);
        let serial = |der: &&[u8]| {
            let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
            SerialNumber::from_slice(certificate.raw_serial())
        };
        let revoked = revoked.iter().map(|der| RevokedCertParams {
            serial_number: serial(der),
            revocation_time: beginning(from),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: beginning(from),
            next_update: beginning(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("an authority signs").der().to_vec()
    }

    fn leaf(&self, name: &str, algorithm: &'static SignatureAlgorithm, extensions: Vec<CustomExtension>) -> Certified {
        let (mut params, key) = (params(name), key(algorithm));
        params.custom_extensions = extensions;
        let der = params.signed_by(&key, &self.issuer).expect("an intermediate signs").der().to_vec();
        let fixed = if algorithm == &PKCS_ECDSA_P384_SHA384 {
            &ECDSA_P384_SHA384_FIXED_SIGNING
        } else {
            &ECDSA_P256_SHA256_FIXED_SIGNING
        };
        let key = EcdsaKeyPair::from_pkcs8(fixed, &key.serialize_der()).expect("the key that rcgen just made");
        Certified { der, key }
    }
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).expect("aws-lc-rs makes this key")
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // Valid whenever the tests run; RFC 5280 tells years apart up to 2049 in the short form.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params
}

fn amd(below: &[u64], content: Vec<u8>) -> CustomExtension {
    let oid: Vec<u64> = AMD.iter().chain(below).copied().collect();
    CustomExtension::from_oid_content(&oid, content)
}

/// Intel's extension of a PCK certificate (Intel, "SGX PCK Certificate and CRL Profile Specification", 1.3.5):
/// which machine, and at which TCB.
fn sgx() -> CustomExtension {
    let octets = |bytes: &[u8]| der(4, bytes);
    let tcb: Vec<u8> = (1..=17).flat_map(|part| member(&[2, part], &integer(1))).collect();
    let tcb = [tcb, member(&[2, 18], &octets(&[1; 16]))].concat();
    let all = [
        member(&[1], &octets(&PPID)),
        member(&[2], &der(0x30, &tcb)),
        member(&[3], &octets(&[0; 2])),
        member(&[4], &octets(&[0xb0, 0xc0, 0x6f, 0, 0, 0])),
        member(&[5], &[10, 1, 1]),
        member(&[6], &octets(&INSTANCE)),
    ];
    CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], der(0x30, &all.concat()))
}

/// A pair of the extension: its own OID with these arcs below, and a value.
fn member(below: &[u8], value: &[u8]) -> Vec<u8> {
    let oid = [&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1][..], below].concat();
    der(0x30, &[der(6, &oid), value.to_vec()].concat())
}

/// DER of less than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("it is short").to_be_bytes();
    let length = match (high, low) {
        (0, 0..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag][..], &length, content].concat()
}

/// DER INTEGER of a byte: a zero goes first where the top bit would read as a sign.
fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 { vec![2, 1, value] } else { vec![2, 2, 0, value] }
}

//! Reports in the shape of AMD's firmware ABI (publication 56860, `ATTESTATION_REPORT`), signed as a
//! VCEK signs them, and quotes in the shape of Intel's.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P384_SHA384};

use super::INBLOB;
use super::script::Change;

/// Bytes of a report, and of that part of it which is signed.
const REPORT: usize = 1184;
const SIGNED: usize = 0x2a0;

/// Bytes that R and S each take in a report: little endian, filled up with zeros.
const HALF: usize = 72;

/// `63da758d-e664-4564-adc5-f4b93be8accd`: the VCEK's entry of a certificate table (GHCB
/// specification, publication 56421). The bytes stand in the order of the text.
const VCEK_GUID: [u8; 16] =
    [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];

/// Bytes of one entry of a certificate table: GUID, offset, length.
const ENTRY: usize = 24;

/// Guest policy: bit 17 is always 1, bit 16 allows SMT, bit 19 debugging.
const POLICY: u64 = 0x3_0000;
const POLICY_DEBUG: u64 = 1 << 19;

/// The launch measurement of every guest here, byte by byte.
const MEASURED: u8 = 0xab;

/// A processor: a VCEK and its certificate. Self-signed: nobody here asks who vouches for it.
pub(super) struct Chip {
    key: EcdsaKeyPair,
    stranger: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl Chip {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("aws-lc-rs makes P-384 keys");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "SEV-VCEK of countersign's guest tests");
        let certificate = params.self_signed(&key).expect("a key signs its own certificate").der().to_vec();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der())
            .expect("aws-lc-rs reads its own keys");
        let stranger = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("randomness");
        Self { key, stranger, certificate }
    }

    /// A report, version 2, of 1184 bytes.
    pub(super) fn report(&self, privlevel: u32, inblob: &[u8; INBLOB], changes: &[Change]) -> Vec<u8> {
        let has = |change| changes.contains(&change);
        let policy = if has(Change::Debug) { POLICY | POLICY_DEBUG } else { POLICY };
        let data = if has(Change::WrongData) { &[0x5a; INBLOB] } else { inblob };
        let measured = if has(Change::OtherMeasurement) { !MEASURED } else { MEASURED };

        let mut report = vec![0; REPORT];
        put(&mut report, 0x00, &2_u32.to_le_bytes());
        put(&mut report, 0x08, &policy.to_le_bytes());
        put(&mut report, 0x30, &privlevel.to_le_bytes());
        put(&mut report, 0x34, &1_u32.to_le_bytes()); // ECDSA P-384 with SHA-384
        put(&mut report, 0x50, data);
        put(&mut report, 0x90, &[measured; 48]);
        for change in changes {
            if let Change::HostData(digest) = change {
                put(&mut report, 0xc0, digest);
            }
        }
        put(&mut report, 0x160, &[0xff; 32]); // no migration agent
        put(&mut report, 0x1a0, &[0xc1; 64]); // chip id

        let key = if has(Change::OtherKey) { &self.stranger } else { &self.key };
        let signed = report.get(..SIGNED).expect("a report is longer").to_vec();
        let signature = key.sign(&SystemRandom::new(), &signed).expect("randomness");
        let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
        for (at, half) in [(SIGNED, r), (SIGNED + HALF, s)] {
            let little_endian: Vec<u8> = half.iter().rev().copied().collect();
            put(&mut report, at, &little_endian);
        }
        report
    }

    /// The certificate table: one entry, an empty one that ends it, the certificate in DER.
    pub(super) fn certificates(&self) -> Vec<u8> {
        let number = |value: usize| u32::try_from(value).expect("a certificate is short").to_le_bytes();
        let mut table = VCEK_GUID.to_vec();
        table.extend(number(2 * ENTRY));
        table.extend(number(self.certificate.len()));
        table.extend([0; ENTRY]);
        table.extend(&self.certificate);
        table
    }
}

/// A version 4 quote as far as its header and the report data of its body go. Its signature is
/// empty: a verifier refuses it.
pub(super) fn tdx_quote(inblob: &[u8; INBLOB]) -> Vec<u8> {
    /// Bytes: header, body of TDX 1.0, length of the signature.
    const QUOTE: usize = 48 + 584 + 4;
    /// Where in the quote `REPORTDATA` is: the last 64 bytes of the body.
    const REPORT_DATA: usize = 48 + 520;
    let mut quote = vec![0; QUOTE];
    put(&mut quote, 0, &4_u16.to_le_bytes());
    put(&mut quote, 2, &2_u16.to_le_bytes()); // ECDSA P-256
    put(&mut quote, 4, &0x81_u32.to_le_bytes()); // TDX
    put(&mut quote, REPORT_DATA, inblob);
    quote
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes.get_mut(at..at + field.len()).expect("a field lies in its structure").copy_from_slice(field);
}

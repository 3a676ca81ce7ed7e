//! What reading evidence and responses costs: `cargo bench --bench parse`.
//!
//! All input is made here. The numbers say whether a parser is worth a thought beside the work
//! around it: a TDX quote takes its host about a second.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::hint::black_box;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin};
use aws_lc_rs::kdf::{SskdfDigestAlgorithmId, get_sskdf_digest_algorithm, sskdf_digest};
use aws_lc_rs::key_wrap::{AES_256, KeyEncryptionKey, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::evidence::{snp, tdx, trustee};
use countersign::formats::jwe;
use countersign::formats::jwk::EcPublicJwk;
use criterion::{Criterion, criterion_group, criterion_main};

criterion_group!(parse, report, quote, open);
criterion_main!(parse);

fn report(c: &mut Criterion) {
    // Version 3, Genoa, all other fields zero.
    let mut bytes = vec![0; snp::LEN];
    (bytes[0], bytes[0x188], bytes[0x189]) = (3, 0x19, 0x11);
    c.bench_function("snp report: parse", |b| b.iter(|| snp::Report::parse(black_box(&bytes))));
    let report = snp::Report::parse(&bytes).unwrap();
    c.bench_function("snp report: to Trustee's JSON", |b| b.iter(|| trustee::snp(black_box(&report), vec![])));
}

fn quote(c: &mut Criterion) {
    // Version 5 with a body of TDX 1.5, and a signature of the usual length.
    let mut bytes = vec![0; 54 + 648];
    (bytes[0], bytes[2], bytes[4], bytes[48]) = (5, 2, 0x81, 3);
    bytes[50..54].copy_from_slice(&648_u32.to_le_bytes());
    bytes.extend_from_slice(&4300_u32.to_le_bytes());
    bytes.resize(bytes.len() + 4300, 0);
    tdx::Quote::parse(&bytes).unwrap();
    c.bench_function("tdx quote: parse", |b| b.iter(|| tdx::Quote::parse(black_box(&bytes))));
}

fn open(c: &mut Criterion) {
    let key = PrivateKey::generate(&ECDH_P256).unwrap();
    for (name, len) in [("jwe: open 32 bytes", 32), ("jwe: open 64 KiB", 64 * 1024)] {
        let body = seal(&key, len);
        assert_eq!(jwe::open(&body, &key).unwrap_or_else(|error| panic!("{error}")).len(), len);
        c.bench_function(name, |b| b.iter(|| jwe::open(black_box(&body), &key).map(|secret| secret.len())));
    }
}

fn point(key: &PrivateKey) -> Vec<u8> {
    let point: EcPublicKeyUncompressedBin<'_> = key.compute_public_key().unwrap().as_be_bytes().unwrap();
    point.as_ref().to_vec()
}

/// A response of `len` bytes, encrypted as the KBS does.
fn seal(to: &PrivateKey, len: usize) -> Vec<u8> {
    let sender = PrivateKey::generate(&ECDH_P256).unwrap();
    let [x, y] = EcPublicJwk::from_point(&point(&sender)).unwrap().coordinates();
    let epk = serde_json::json!({"crv": "P-256", "kty": "EC", "x": x, "y": y});
    let header = serde_json::json!({"alg": jwe::ALG, "enc": "A256GCM", "epk": epk});
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let peer = UnparsedPublicKey::new(&ECDH_P256, point(to));
    let kek = agree(&sender, peer, (), |shared| {
        let mut kek = [0; 32];
        let algorithm = get_sskdf_digest_algorithm(SskdfDigestAlgorithmId::Sha256).ok_or(())?;
        let info = b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0";
        sskdf_digest(algorithm, shared, info, &mut kek).map(|()| kek).map_err(|_| ())
    });
    let mut wrapped = [0; 40];
    KeyEncryptionKey::new(&AES_256, &kek.unwrap()).unwrap().wrap(&[7; 32], &mut wrapped).unwrap();
    let content_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let (nonce, mut text) = (Nonce::try_assume_unique_for_key(&[9; 12]).unwrap(), vec![b'x'; len]);
    let tag = content_key.seal_in_place_separate_tag(nonce, Aad::from(protected.as_bytes()), &mut text).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let flat = serde_json::json!({
        "protected": protected, "encrypted_key": encode(&wrapped), "iv": encode(&[9; 12]),
        "ciphertext": encode(&text), "tag": encode(tag.as_ref()),
    });
    flat.to_string().into_bytes()
}

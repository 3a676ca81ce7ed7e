//! Resources as Trustee seals them: flattened JWE, ECDH-ES+A256KW, A256GCM (RFC 7516, 7518).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P521, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// How a JWE is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// The header names a key that was not used.
    OtherEpk,
    /// The header names a point that is not on the curve.
    EpkOffCurve,
    /// The header names an algorithm that the key is not for.
    OtherAlgorithm,
    /// One byte of the ciphertext was changed.
    Tampered,
}

const ALGORITHM: &str = "ECDH-ES+A256KW";

/// Seals a resource to a `tee-pubkey`; none for a key that Trustee cannot seal to (P-384), and for
/// RSA, which no client of this project has.
pub(super) fn seal(key: &Value, plain: &[u8], flaw: Flaw) -> Option<Value> {
    let member = |name: &str| key.get(name).and_then(Value::as_str);
    let (curve, width) = match (member("kty")?, member("crv")?, member("alg")?) {
        ("EC", "P-256", ALGORITHM) => (&ECDH_P256, 32),
        ("EC", "P-521", ALGORITHM) => (&ECDH_P521, 66),
        _ => return None,
    };
    let coordinate = |name| URL_SAFE_NO_PAD.decode(member(name)?).ok().filter(|bytes| bytes.len() == width);
    let theirs = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let ours = PrivateKey::generate(curve).expect("randomness");
    let z = agreement::agree(&ours, UnparsedPublicKey::new(curve, theirs), (), |z| Ok(z.to_vec())).ok()?;
    let shown = match flaw {
        Flaw::OtherEpk => PrivateKey::generate(curve).expect("randomness").compute_public_key(),
        _ => ours.compute_public_key(),
    };
    let mut point = shown.expect("a private key has a public one").as_ref().get(1..)?.to_vec();
    if flaw == Flaw::EpkOffCurve {
        *point.last_mut()? ^= 1;
    }
    let (x, y) = point.split_at(width);
    let epk = json!({
        "crv": member("crv"), "kty": "EC", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    let named = if flaw == Flaw::OtherAlgorithm { "RSA-OAEP-256" } else { ALGORITHM };
    let header = json!({"alg": named, "enc": "A256GCM", "epk": epk}).to_string();
    let protected = URL_SAFE_NO_PAD.encode(header);
    let (content_key, iv) = (random::<32>(), random::<12>());
    let mut wrapped = [0; 40];
    AesKek::new(&AES_256, &concat_kdf(&z)).ok()?.wrap(&content_key, &mut wrapped).ok()?;
    let mut ciphertext = plain.to_vec();
    let tag = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &content_key).ok()?)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(&protected), &mut ciphertext)
        .ok()?;
    if flaw == Flaw::Tampered
        && let Some(byte) = ciphertext.first_mut()
    {
        *byte ^= 1;
    }
    Some(json!({
        "protected": protected,
        "encrypted_key": URL_SAFE_NO_PAD.encode(wrapped),
        "iv": URL_SAFE_NO_PAD.encode(iv),
        "ciphertext": URL_SAFE_NO_PAD.encode(ciphertext),
        "tag": URL_SAFE_NO_PAD.encode(tag.as_ref()),
    }))
}

/// A new key of the kind that clients send: what a JWE for somebody else is sealed to.
pub(super) fn stranger() -> Value {
    let key = PrivateKey::generate(&ECDH_P256).expect("randomness");
    let point = key.compute_public_key().expect("a private key has a public one");
    jwk(point.as_ref())
}

/// A `tee-pubkey` of P-256 from its uncompressed point.
pub(crate) fn jwk(point: &[u8]) -> Value {
    let (x, y) = point.get(1..).expect("an uncompressed point").split_at(32);
    json!({"kty": "EC", "crv": "P-256", "alg": ALGORITHM,
           "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}

/// RFC 7518 §4.6.2, one round: 256 bits, no apu, no apv.
fn concat_kdf(z: &[u8]) -> Vec<u8> {
    let name_length = u32::try_from(ALGORITHM.len()).expect("14").to_be_bytes();
    let parts: [&[u8]; 7] =
        [&1_u32.to_be_bytes(), z, &name_length, ALGORITHM.as_bytes(), &[0; 4], &[0; 4], &256_u32.to_be_bytes()];
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel has randomness");
    bytes
}

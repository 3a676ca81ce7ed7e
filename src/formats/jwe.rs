//! The encrypted form in which a KBS gives out a resource: flattened JWE (RFC 7516), ECDH-ES+A256KW
//! (RFC 7518 §4.6) with A256GCM, to the P-256 key that was attested.
//!
//! It gives secrecy, not origin: whoever knows the public key can make one. Where it came from is
//! for TLS to say.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::kdf::{SskdfDigestAlgorithmId, get_sskdf_digest_algorithm, sskdf_digest};
use aws_lc_rs::key_wrap::{AES_256, KeyEncryptionKey, KeyWrap as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::json::{self, Present};
use super::jwk::{self, EcPublicJwk};
use crate::secret::Secret;

/// The only key agreement accepted, in a JWE's header and in the JWK that is attested.
pub const ALG: &str = "ECDH-ES+A256KW";

/// The only content encryption accepted.
const ENC: &str = "A256GCM";

/// Most bytes of a JWE, 24 MiB: the largest secret that a configuration may allow (16 MiB) in
/// base64url, with room for the other members. Callers that expect less cap lower.
pub const MAX_BYTES: usize = 24 * 1024 * 1024;

/// Most bytes of the protected header, decoded, 4 KiB: a real one has about 180. A bound of ours.
const MAX_HEADER: usize = 4096;

/// Bytes of a wrapped 256-bit content key: AES key wrap adds eight (RFC 3394).
const WRAPPED_LEN: usize = 40;

/// What the key derivation is told beside the shared secret (RFC 7518 §4.6.2): the algorithm with
/// its length, no `apu`, no `apv`, and 256 bits wanted.
const KDF_INFO: &[u8] = b"\0\0\0\x0eECDH-ES+A256KW\0\0\0\0\0\0\0\0\0\0\x01\0";

/// Why a response is not opened. Each message continues "the KBS's answer …" and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("is longer than 24 MiB")]
    TooLong,
    /// Not the JSON of a flattened JWE.
    #[error("is not a flattened JWE (JSON with protected, encrypted_key, iv, ciphertext, tag)")]
    Shape,
    /// A header outside the protected one: it would be read and not be authentic.
    #[error("has a header that is not protected")]
    Unprotected,
    /// A member is not base64url without padding.
    #[error("has a member `{0}` that is not base64url without padding")]
    Base64(&'static str),
    /// The protected header is no JSON object with `alg`, `enc` and `epk`.
    #[error("has a protected header that is not one JSON object with `alg` and `enc`")]
    Header,
    /// The header demands what this build does not do.
    #[error("has `{0}` in its protected header, which this build does not support")]
    Extension(&'static str),
    /// `alg` is another than ours, by its name where it is a known one.
    #[error("is encrypted with `alg` {0}; only ECDH-ES+A256KW is supported")]
    Algorithm(&'static str),
    /// `enc` is another than ours.
    #[error("is encrypted with an `enc` other than A256GCM")]
    Encryption,
    /// The sender's ephemeral key is missing.
    #[error("has no ephemeral key (`epk`)")]
    NoEphemeralKey,
    /// The sender's ephemeral key is no point of P-256.
    #[error("has an ephemeral key (`epk`) that cannot be used")]
    EphemeralKey(#[source] jwk::Error),
    /// Made for another key than ours, or altered.
    #[error("is not encrypted to this guest's key, or was altered on the way")]
    Decrypt,
}

#[derive(Deserialize)]
struct Flat<'a> {
    protected: &'a str,
    encrypted_key: &'a str,
    iv: &'a str,
    ciphertext: &'a str,
    tag: &'a str,
    aad: Option<&'a str>,
    #[serde(default)]
    header: Present,
    #[serde(default)]
    unprotected: Present,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    epk: Option<serde_json::Value>,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    zip: Present,
    #[serde(default)]
    apu: Present,
    #[serde(default)]
    apv: Present,
}

/// Opens a response that was encrypted to `key`. An empty resource gives an empty secret.
pub fn open(json: &[u8], key: &PrivateKey) -> Result<Secret, Error> {
    if json.len() > MAX_BYTES {
        return Err(Error::TooLong);
    }
    let flat: Flat<'_> = json::object(json).ok_or(Error::Shape)?;
    if flat.header.0 || flat.unprotected.0 {
        return Err(Error::Unprotected);
    }
    let epk = read_header(flat.protected)?;
    let content_key = unwrap_content_key(key, &epk, &decode("encrypted_key", flat.encrypted_key)?)?;
    decrypt(&flat, &content_key)
}

/// Reads the protected header: which key the sender made for this one message.
fn read_header(protected: &str) -> Result<EcPublicJwk, Error> {
    if protected.len() > MAX_HEADER.saturating_mul(2) {
        return Err(Error::Header);
    }
    let header: Header = json::object(&decode("protected", protected)?).ok_or(Error::Header)?;
    match header.alg.as_str() {
        ALG => {}
        "RSA-OAEP-256" => return Err(Error::Algorithm("RSA-OAEP-256")),
        "RSA1_5" => return Err(Error::Algorithm("RSA1_5")),
        "ML-KEM-768+A192KW" => return Err(Error::Algorithm("ML-KEM-768+A192KW")),
        _ => return Err(Error::Algorithm("another one")),
    }
    if header.enc != ENC {
        return Err(Error::Encryption);
    }
    // `crit` must be understood, `zip` changes the plaintext, `apu` and `apv` enter the key
    // derivation. Trustee sends none of them.
    for (name, present) in [("crit", header.crit), ("zip", header.zip), ("apu", header.apu), ("apv", header.apv)] {
        if present.0 {
            return Err(Error::Extension(name));
        }
    }
    let epk = header.epk.ok_or(Error::NoEphemeralKey)?.to_string();
    EcPublicJwk::parse(epk.as_bytes()).map_err(Error::EphemeralKey)
}

fn unwrap_content_key(key: &PrivateKey, epk: &EcPublicJwk, wrapped: &[u8]) -> Result<LessSafeKey, Error> {
    if wrapped.len() != WRAPPED_LEN {
        return Err(Error::Decrypt);
    }
    let peer = UnparsedPublicKey::new(&ECDH_P256, epk.point());
    let kek = agree(key, peer, Error::Decrypt, derive)?;
    let kek = KeyEncryptionKey::new(&AES_256, kek.as_slice()).map_err(|_| Error::Decrypt)?;
    let mut content_key = Zeroizing::new([0_u8; 32]);
    let length = kek.unwrap(wrapped, content_key.as_mut_slice()).map_err(|_| Error::Decrypt)?.len();
    if length != content_key.len() {
        return Err(Error::Decrypt);
    }
    UnboundKey::new(&AES_256_GCM, content_key.as_slice()).map(LessSafeKey::new).map_err(|_| Error::Decrypt)
}

/// The Concat KDF of NIST SP 800-56A with SHA-256: from the shared secret to the wrapping key.
fn derive(shared: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut kek = Zeroizing::new([0; 32]);
    let algorithm = get_sskdf_digest_algorithm(SskdfDigestAlgorithmId::Sha256).ok_or(Error::Decrypt)?;
    sskdf_digest(algorithm, shared, KDF_INFO, kek.as_mut_slice()).map_err(|_| Error::Decrypt)?;
    Ok(kek)
}

fn decrypt(flat: &Flat<'_>, key: &LessSafeKey) -> Result<Secret, Error> {
    // The header as received, never a rendering of our own: another serialiser orders members
    // differently. RFC 7516 §5.1 step 14 appends the member `aad` where there is one.
    let aad = match flat.aad {
        Some(aad) => format!("{}.{aad}", flat.protected),
        None => flat.protected.to_owned(),
    };
    let iv = decode("iv", flat.iv)?;
    let tag = decode("tag", flat.tag)?;
    // A shorter tag would be a weaker one.
    if tag.len() != AES_256_GCM.tag_len() {
        return Err(Error::Decrypt);
    }
    // Room for everything at once: growing would leave a copy of plaintext behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(flat.ciphertext.len().saturating_add(tag.len())));
    URL_SAFE_NO_PAD.decode_vec(flat.ciphertext, &mut buffer).map_err(|_| Error::Base64("ciphertext"))?;
    buffer.extend_from_slice(&tag);
    let nonce = Nonce::try_assume_unique_for_key(&iv).map_err(|_| Error::Decrypt)?;
    let aad = Aad::from(aad.as_bytes());
    let length = key.open_in_place(nonce, aad, &mut buffer).map_err(|_| Error::Decrypt)?.len();
    buffer.truncate(length);
    Ok(Secret::new(std::mem::take(&mut *buffer)))
}

fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::Base64(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn key() -> PrivateKey {
        PrivateKey::generate(&ECDH_P256).unwrap()
    }

    fn point(key: &PrivateKey) -> Vec<u8> {
        let point: EcPublicKeyUncompressedBin<'_> = key.compute_public_key().unwrap().as_be_bytes().unwrap();
        point.as_ref().to_vec()
    }

    fn jwk(key: &PrivateKey) -> Value {
        let point = point(key);
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    /// Encrypts as the KBS does; `header` changes its protected header, `aad` adds that member.
    fn seal(to: &PrivateKey, plain: &[u8], header: &dyn Fn(&mut Value), aad: Option<&str>) -> Value {
        let sender = key();
        let mut head = json!({"alg": ALG, "enc": ENC, "epk": jwk(&sender)});
        header(&mut head);
        let protected = URL_SAFE_NO_PAD.encode(head.to_string());
        let kek = agree(&sender, UnparsedPublicKey::new(&ECDH_P256, point(to)), Error::Decrypt, derive).unwrap();
        let mut wrapped = [0; WRAPPED_LEN];
        KeyEncryptionKey::new(&AES_256, kek.as_slice()).unwrap().wrap(&[7; 32], &mut wrapped).unwrap();
        let covered = aad.map_or_else(|| protected.clone(), |aad| format!("{protected}.{aad}"));
        let mut text = plain.to_vec();
        let content_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&[9; 12]).unwrap();
        let tag = content_key.seal_in_place_separate_tag(nonce, Aad::from(covered.as_bytes()), &mut text).unwrap();
        let mut flat = json!({
            "protected": protected,
            "encrypted_key": URL_SAFE_NO_PAD.encode(wrapped),
            "iv": URL_SAFE_NO_PAD.encode([9; 12]),
            "ciphertext": URL_SAFE_NO_PAD.encode(&text),
            "tag": URL_SAFE_NO_PAD.encode(tag.as_ref()),
        });
        if let Some(aad) = aad {
            flat["aad"] = json!(aad);
        }
        flat
    }

    fn sealed(to: &PrivateKey) -> Value {
        seal(to, b"secret", &|_| {}, None)
    }

    /// What opening gives, or why not.
    fn opened(flat: &Value, key: &PrivateKey) -> Result<Vec<u8>, Error> {
        open(flat.to_string().as_bytes(), key).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn a_response_to_our_key_is_opened() {
        let key = key();
        assert_eq!(opened(&sealed(&key), &key).unwrap(), b"secret");
        assert_eq!(opened(&seal(&key, b"", &|_| {}, None), &key).unwrap(), b"");
        let mut more = sealed(&key);
        more["unknown"] = json!(1);
        assert_eq!(opened(&more, &key).unwrap(), b"secret");
    }

    #[test]
    fn a_response_to_another_key_is_refused() {
        assert_eq!(opened(&sealed(&key()), &key()), Err(Error::Decrypt));
    }

    #[test]
    fn an_altered_member_is_refused() {
        let key = key();
        for name in ["encrypted_key", "iv", "ciphertext", "tag"] {
            let mut flat = sealed(&key);
            let mut bytes = URL_SAFE_NO_PAD.decode(flat[name].as_str().unwrap()).unwrap();
            bytes[0] ^= 1;
            flat[name] = json!(URL_SAFE_NO_PAD.encode(&bytes));
            assert_eq!(opened(&flat, &key), Err(Error::Decrypt), "{name}");
            flat[name] = json!(URL_SAFE_NO_PAD.encode(&bytes[1..]));
            assert_eq!(opened(&flat, &key), Err(Error::Decrypt), "{name}");
            flat[name] = json!("*");
            assert_eq!(opened(&flat, &key), Err(Error::Base64(name)));
        }
        // The same header, one space more: the bytes as received are what counts.
        let mut flat = sealed(&key);
        let header = URL_SAFE_NO_PAD.decode(flat["protected"].as_str().unwrap()).unwrap();
        flat["protected"] = json!(URL_SAFE_NO_PAD.encode([&header[..], b" "].concat()));
        assert_eq!(opened(&flat, &key), Err(Error::Decrypt));
    }

    #[test]
    fn an_aad_member_is_authenticated_too() {
        let key = key();
        let mut flat = seal(&key, b"secret", &|_| {}, Some("YWFk"));
        assert_eq!(opened(&flat, &key).unwrap(), b"secret");
        flat["aad"] = json!("YWFl");
        assert_eq!(opened(&flat, &key), Err(Error::Decrypt));
        flat.as_object_mut().unwrap().remove("aad");
        assert_eq!(opened(&flat, &key), Err(Error::Decrypt));
    }

    #[test]
    fn other_algorithms_and_extensions_are_refused_by_name() {
        let key = key();
        let with = |change: &dyn Fn(&mut Value)| opened(&seal(&key, b"secret", change, None), &key);
        for name in ["RSA-OAEP-256", "RSA1_5", "ML-KEM-768+A192KW"] {
            assert_eq!(with(&|head| head["alg"] = json!(name)), Err(Error::Algorithm(name)));
        }
        assert_eq!(with(&|head| head["alg"] = json!("ECDH-ES")), Err(Error::Algorithm("another one")));
        assert_eq!(with(&|head| head["alg"] = json!(1)), Err(Error::Header));
        assert_eq!(with(&|head| head["enc"] = json!("A128GCM")), Err(Error::Encryption));
        for name in ["crit", "zip", "apu", "apv"] {
            assert_eq!(with(&|head| head[name] = json!(null)), Err(Error::Extension(name)));
        }
    }

    #[test]
    fn an_ephemeral_key_that_is_no_point_of_p256_is_refused() {
        let key = key();
        let with = |change: &dyn Fn(&mut Value)| opened(&seal(&key, b"secret", change, None), &key);
        assert_eq!(with(&|head| head["epk"] = json!(null)), Err(Error::NoEphemeralKey));
        let refused = |change: &dyn Fn(&mut Value)| match with(change) {
            Err(Error::EphemeralKey(error)) => error,
            other => panic!("{:?}", other.map(drop)),
        };
        assert_eq!(refused(&|head| head["epk"]["y"] = head["epk"]["x"].clone()), jwk::Error::OffCurve);
        assert_eq!(refused(&|head| head["epk"]["crv"] = json!("P-521")), jwk::Error::P521);
        assert_eq!(refused(&|head| head["epk"]["kty"] = json!("RSA")), jwk::Error::Rsa);
        assert_eq!(refused(&|head| head["epk"] = json!([])), jwk::Error::NotJson);
    }

    #[test]
    fn what_is_no_flattened_jwe_is_refused() {
        let key = key();
        for text in ["", "{}", "[]", r#"{"protected":1}"#, "<html>", r#"{"type":"PolicyDeny"}"#] {
            assert_eq!(open(text.as_bytes(), &key).err(), Some(Error::Shape), "{text}");
        }
        for name in ["protected", "encrypted_key", "iv", "ciphertext", "tag"] {
            let mut flat = sealed(&key);
            flat.as_object_mut().unwrap().remove(name);
            assert_eq!(opened(&flat, &key), Err(Error::Shape), "{name}");
        }
        for name in ["header", "unprotected"] {
            let mut flat = sealed(&key);
            flat[name] = json!({});
            assert_eq!(opened(&flat, &key), Err(Error::Unprotected), "{name}");
        }
        assert_eq!(open(&vec![b' '; MAX_BYTES + 1], &key).err(), Some(Error::TooLong));
    }

    proptest! {
        // Each case makes two keys.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_secret_is_opened_as_it_was_sealed(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let key = key();
            prop_assert_eq!(opened(&seal(&key, &plain, &|_| {}, None), &key), Ok(plain));
        }

        #[test]
        fn one_changed_byte_never_panics(at in 0_usize..400, byte in any::<u8>()) {
            let key = key();
            let mut text = sealed(&key).to_string().into_bytes();
            if let Some(slot) = text.get_mut(at) {
                *slot = byte;
            }
            let _ = open(&text, &key);
        }
    }
}

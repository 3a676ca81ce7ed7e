//! Public keys in JWK form (RFC 7517): elliptic curve P-256 and nothing else.
//!
//! P-256 is what sealed secrets are signed with (ES256) and what the KBS encrypts to. The members
//! are those of RFC 7518 §6.2: `kty`, `crv`, `x`, `y`; `kid` is kept as a name, never as a place.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::json::{self, Present};

/// Most bytes of a JWK, 4 KiB: a P-256 key with all its registered members and no certificates has
/// about 300. A bound of ours; the RFC has none.
pub const MAX_BYTES: usize = 4096;

/// Bytes of one coordinate on P-256 (RFC 7518 §6.2.1.2: full length, left-padded).
const COORDINATE: usize = 32;

/// Bytes of an uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
const POINT: usize = 1 + 2 * COORDINATE;

/// A public key on P-256, its point proven to be on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct EcPublicJwk {
    point: [u8; POINT],
    kid: Option<String>,
    has_private: bool,
}

/// Why bytes are not such a key. Each message continues "the key …" and quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("is longer than 4096 bytes")]
    TooLong,
    /// PEM in place of JSON.
    #[error("is PEM, not a JWK (JSON with kty, crv, x, y)")]
    Pem,
    /// Not one JSON object, a member of the wrong type, or one that stands twice.
    #[error("is not one JSON object whose members are text and stand once")]
    NotJson,
    /// A key set.
    #[error("is a set of keys (`keys`), not one key")]
    Set,
    /// No `kty`.
    #[error("has no member `kty`")]
    NoKeyType,
    /// RSA.
    #[error("is an RSA key (`kty`); only EC on P-256 is supported")]
    Rsa,
    /// A symmetric key: whoever can check can forge.
    #[error("is a symmetric key (`kty` is oct); only EC on P-256 is supported")]
    Symmetric,
    /// `OKP` (Ed25519, X25519).
    #[error("is an OKP key (`kty`: Ed25519 and the like); only EC on P-256 is supported")]
    Okp,
    /// Another `kty`.
    #[error("has a `kty` other than EC")]
    KeyType,
    /// No `crv`.
    #[error("has no member `crv`")]
    NoCurve,
    /// P-384.
    #[error("is on the curve P-384; only P-256 is supported")]
    P384,
    /// P-521.
    #[error("is on the curve P-521; only P-256 is supported")]
    P521,
    /// Another `crv`.
    #[error("has a `crv` other than P-256")]
    Curve,
    /// `x` or `y` missing, or not 32 bytes of base64url.
    #[error("has no `{0}` of exactly 32 bytes in base64url without padding")]
    Coordinate(&'static str),
    /// The point is not on the curve.
    #[error("is a point that is not on the curve P-256")]
    OffCurve,
}

#[derive(Deserialize)]
struct Raw {
    kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    /// The private half. Noted, never read.
    #[serde(default)]
    d: Present,
    #[serde(default)]
    keys: Present,
}

impl EcPublicJwk {
    /// Parses a JWK of at most [`MAX_BYTES`]. White space around it is accepted: people store
    /// files with a newline at the end.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err(Error::Pem);
        }
        let raw: Raw = json::object(bytes).ok_or(Error::NotJson)?;
        check_names(&raw)?;
        let x = coordinate("x", raw.x.as_deref())?;
        let y = coordinate("y", raw.y.as_deref())?;
        let mut point = [0; POINT];
        for (to, from) in point.iter_mut().zip([0x04].iter().chain(&x).chain(&y)) {
            *to = *from;
        }
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| Error::OffCurve)?;
        Ok(Self { point, kid: raw.kid, has_private: raw.d.0 })
    }

    /// A key from its uncompressed point: 65 bytes (0x04, x, y; SEC 1 §2.3.3).
    pub fn from_point(point: &[u8]) -> Result<Self, Error> {
        let point: [u8; POINT] = point.try_into().map_err(|_| Error::OffCurve)?;
        // Bytes of this length are an uncompressed point only with this in front.
        if point.first() != Some(&0x04) {
            return Err(Error::OffCurve);
        }
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| Error::OffCurve)?;
        Ok(Self { point, kid: None, has_private: false })
    }

    /// Whether both are the same key, whatever they are called.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.point == other.point
    }

    /// The members `x` and `y`: base64url without padding.
    pub fn coordinates(&self) -> [String; 2] {
        let (x, y) = self.point.get(1..).unwrap_or_default().split_at(COORDINATE);
        [x, y].map(|half| URL_SAFE_NO_PAD.encode(half))
    }

    /// The key's own name, `kid`, if it has one.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether the private half (`d`) stood beside it. Whoever may read such a key can sign with
    /// it: worth a warning. The private half is not kept.
    pub fn has_private(&self) -> bool {
        self.has_private
    }

    /// The point, uncompressed: 0x04, x, y.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// Whether `signature` (64 bytes, r then s) over `message` is this key's ES256 signature.
    pub fn verifies_es256(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point).verify(message, signature).is_ok()
    }
}

/// Names the key by `kid` only; coordinates say nothing to a reader.
impl fmt::Debug for EcPublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcPublicJwk")
            .field("kid", &self.kid)
            .field("has_private", &self.has_private)
            .finish_non_exhaustive()
    }
}

fn check_names(raw: &Raw) -> Result<(), Error> {
    match raw.kty.as_deref() {
        Some("EC") => {}
        None if raw.keys.0 => return Err(Error::Set),
        None => return Err(Error::NoKeyType),
        Some("RSA") => return Err(Error::Rsa),
        Some("oct") => return Err(Error::Symmetric),
        Some("OKP") => return Err(Error::Okp),
        Some(_) => return Err(Error::KeyType),
    }
    match raw.crv.as_deref() {
        Some("P-256") => Ok(()),
        None => Err(Error::NoCurve),
        Some("P-384") => Err(Error::P384),
        Some("P-521") => Err(Error::P521),
        Some(_) => Err(Error::Curve),
    }
}

fn coordinate(name: &'static str, text: Option<&str>) -> Result<[u8; COORDINATE], Error> {
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Error::Coordinate(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use proptest::prelude::*;

    // The base point of P-256 (FIPS 186-4 D.1.2.3): a public key that everybody has.
    const X: &str = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
    const Y: &str = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

    fn jwk(members: &str) -> Vec<u8> {
        format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}"{members}}}"#).into_bytes()
    }

    #[test]
    fn a_p256_key_is_read_with_its_name() {
        let key = EcPublicJwk::parse(&jwk(r#","kid":"seal-2026","alg":"ES256","use":"sig","x5c":["AAAA"]"#)).unwrap();
        assert_eq!(key.kid(), Some("seal-2026"));
        assert!(!key.has_private());
        assert_eq!(key.point().len(), 65);
        assert_eq!(EcPublicJwk::parse(&[&jwk("")[..], b"\n"].concat()).unwrap().kid(), None);
    }

    #[test]
    fn a_private_half_is_flagged_and_not_kept() {
        for d in [r#","d":"c2VjcmV0LWNhbmFyeQ""#, r#","d":null"#, r#","d":7"#] {
            let key = EcPublicJwk::parse(&jwk(d)).unwrap();
            assert!(key.has_private(), "{d}");
            assert!(!format!("{key:?}").contains("c2VjcmV0"));
        }
    }

    #[test]
    fn other_kinds_of_keys_are_refused_by_name() {
        for (text, error) in [
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, Error::Rsa),
            (r#"{"kty":"oct","k":"AQAB"}"#, Error::Symmetric),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AQAB"}"#, Error::Okp),
            (r#"{"kty":"AKP","alg":"ML-DSA-44"}"#, Error::KeyType),
            (r#"{"kty":"ec"}"#, Error::KeyType),
            (r#"{"crv":"P-256"}"#, Error::NoKeyType),
            (r#"{"keys":[]}"#, Error::Set),
            (r#"{"kty":"EC"}"#, Error::NoCurve),
            (r#"{"kty":"EC","crv":"P-384"}"#, Error::P384),
            (r#"{"kty":"EC","crv":"P-521"}"#, Error::P521),
            (r#"{"kty":"EC","crv":"secp256k1"}"#, Error::Curve),
            (r#"{"kty":"EC","crv":"P-256"}"#, Error::Coordinate("x")),
            ("-----BEGIN PUBLIC KEY-----", Error::Pem),
            ("\n-----BEGIN PUBLIC KEY-----", Error::Pem),
            ("", Error::NotJson),
            (r#"["EC","P-256"]"#, Error::NotJson),
            (r#"{"kty":"EC","kty":"EC","crv":"P-256"}"#, Error::NotJson),
        ] {
            assert_eq!(EcPublicJwk::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn coordinates_are_full_length_base64url_without_padding() {
        let parse = |x: &str, y: &str| {
            EcPublicJwk::parse(format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#).as_bytes())
        };
        let y = Error::Coordinate("y");
        assert!(parse(X, Y).is_ok());
        let short = Y.trim_end_matches('U');
        for bad in [&format!("{Y}="), short, &format!("{Y}AAA"), &Y.replace('-', "+"), ""] {
            assert_eq!(parse(X, bad).unwrap_err(), y, "{bad}");
        }
        // Not canonical: the last character carries two bits that stand for nothing.
        assert_eq!(parse(X, &format!("{short}V")).unwrap_err(), y);
        assert_eq!(parse(Y, X).unwrap_err(), Error::OffCurve);
        let zero = "A".repeat(43);
        assert_eq!(parse(&zero, &zero).unwrap_err(), Error::OffCurve);
    }

    #[test]
    fn a_key_from_its_point_is_the_key_from_its_members() {
        let key = EcPublicJwk::parse(&jwk(r#","kid":"k""#)).unwrap();
        let again = EcPublicJwk::from_point(key.point()).unwrap();
        assert!(again.is_same_key(&key));
        assert_eq!(again.coordinates(), [X.to_owned(), Y.to_owned()]);
        let mut point = key.point().to_vec();
        for bad in [&point[1..], &[0; 65], b""] {
            assert_eq!(EcPublicJwk::from_point(bad), Err(Error::OffCurve));
        }
        point[64] ^= 1;
        assert_eq!(EcPublicJwk::from_point(&point), Err(Error::OffCurve));
    }

    #[test]
    fn an_oversize_key_is_refused_before_it_is_read() {
        assert_eq!(EcPublicJwk::parse(&vec![b' '; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    #[test]
    fn only_the_keys_own_signature_verifies() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        let key =
            EcPublicJwk::parse(format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#).as_bytes()).unwrap();
        let signature: [u8; 64] = pair.sign(&SystemRandom::new(), b"m").unwrap().as_ref().try_into().unwrap();
        assert!(key.verifies_es256(b"m", &signature));
        assert!(!key.verifies_es256(b"n", &signature));
        assert!(!key.verifies_es256(b"m", &[0; 64]));
        assert!(!EcPublicJwk::parse(&jwk("")).unwrap().verifies_es256(b"m", &signature));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = EcPublicJwk::parse(&bytes);
        }

        #[test]
        fn a_key_with_one_changed_byte_never_panics(at in 0_usize..120, byte in any::<u8>()) {
            let mut bytes = jwk("");
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            let _ = EcPublicJwk::parse(&bytes);
        }
    }
}

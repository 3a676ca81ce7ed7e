//! Tests on sealed secrets that are made here, so that a clone without the captured ones tests
//! everything too.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use proptest::prelude::*;

use super::*;
use crate::finding::Class;
use crate::formats::kbs_uri;

const HEADER: &str = r#"{"alg":"ES256","kid":"kbs:///payments/seal/key"}"#;
const PAYLOAD: &str = r#"{"version":"0.1.0","type":"vault","name":"kbs:///payments/db/password","provider":"kbs","provider_settings":{},"annotations":{}}"#;

struct Sealer {
    pair: EcdsaKeyPair,
}

impl Sealer {
    fn new() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn seal(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("sealed.{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn listed(&self, uri: &str, kid: &str) -> (KbsUri, EcPublicJwk) {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"{kid}"}}"#);
        (KbsUri::parse(uri).unwrap(), EcPublicJwk::parse(jwk.as_bytes()).unwrap())
    }
}

fn verdict(text: &str, keys: &[(KbsUri, EcPublicJwk)]) -> Result<Verified, Error> {
    SealedSecret::parse(text)?.verify(keys)
}

#[test]
fn a_secret_sealed_with_a_listed_key_names_its_resource() {
    let sealer = Sealer::new();
    let keys = [sealer.listed("kbs:///payments/seal/key", "seal-2026")];
    let verified = verdict(&sealer.seal(HEADER, PAYLOAD), &keys).unwrap();
    assert_eq!(verified.name().to_string(), "kbs:///payments/db/password");
    assert_eq!(verified.signed_by().to_string(), "kbs:///payments/seal/key");
}

#[test]
fn kid_selects_among_listed_keys_and_does_nothing_else() {
    let sealer = Sealer::new();
    let keys = [sealer.listed("kbs:///payments/seal/key", "seal-2026")];
    let with_kid = |kid: &str| sealer.seal(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), PAYLOAD);
    for kid in ["kbs:///payments/seal/key", "kbs://any.example:1/payments/seal/key", "key", "seal-2026"] {
        assert!(verdict(&with_kid(kid), &keys).is_ok(), "{kid}");
    }
    for kid in
        ["kbs:///payments/seal/other", "kbs:///payments/seal/key?v=1", "other", "payments/seal/key", "/etc/passwd"]
    {
        assert_eq!(verdict(&with_kid(kid), &keys), Err(Error::UnlistedKey), "{kid}");
    }
    assert_eq!(verdict(&with_kid("key"), &[]), Err(Error::NoKeys));
}

#[test]
fn a_key_of_the_same_name_does_not_stand_in_for_the_one_that_signed() {
    let (signer, other) = (Sealer::new(), Sealer::new());
    let sealed = signer.seal(r#"{"alg":"ES256","kid":"key"}"#, PAYLOAD);
    let theirs = other.listed("kbs:///a/b/key", "x");
    assert_eq!(verdict(&sealed, std::slice::from_ref(&theirs)), Err(Error::Signature));
    // Where two listed keys bear the name, the one that signed is found.
    let verified = verdict(&sealed, &[theirs, signer.listed("kbs:///c/d/key", "y")]).unwrap();
    assert_eq!(verified.signed_by().to_string(), "kbs:///c/d/key");
}

#[test]
fn headers_that_ask_for_another_reading_are_refused() {
    let sealer = Sealer::new();
    for (members, error) in [
        (r#""alg":"ES256","kid":"key","crit":[]"#, Error::Critical),
        (r#""alg":"ES256","kid":"key","crit":null"#, Error::Critical),
        (r#""alg":"ES256","kid":"key","b64":false"#, Error::Unencoded),
        (r#""alg":"ES256","kid":"key","b64":null"#, Error::Header),
        (r#""alg":"ES256","kid":"key","b64":"false""#, Error::Header),
        (r#""alg":"ES256","kid":"a","kid":"key""#, Error::Header),
        (r#""alg":"ES256","kid":7"#, Error::Header),
        (r#""alg":"ES256","kid":"""#, Error::NoKid),
        (r#""alg":"ES256""#, Error::NoKid),
        (r#""kid":"key""#, Error::NoAlgorithm),
        (r#""alg":"none","kid":"key""#, Error::Algorithm("none")),
        (r#""alg":"HS256","kid":"key""#, Error::Algorithm("another one")),
        (r#""alg":"es256","kid":"key""#, Error::Algorithm("another one")),
    ] {
        assert_eq!(
            SealedSecret::parse(&sealer.seal(&format!("{{{members}}}"), PAYLOAD)).err(),
            Some(error),
            "{members}"
        );
    }
    for members in [r#""b64":true"#, r#""typ":"JOSE""#, r#""jwk":{"kty":"oct"}"#, r#""jku":"https://evil.example""#] {
        let header = format!(r#"{{"alg":"ES256","kid":"key",{members}}}"#);
        assert!(verdict(&sealer.seal(&header, PAYLOAD), &[sealer.listed("kbs:///a/b/key", "x")]).is_ok(), "{members}");
    }
}

#[test]
fn payloads_are_read_after_the_signature_and_strictly() {
    let sealer = Sealer::new();
    let keys = [sealer.listed("kbs:///payments/seal/key", "x")];
    for (from, to, error) in [
        (r#""0.1.0""#, r#""0.1""#, Error::Version),
        (r#""version":"0.1.0","#, "", Error::Missing("version")),
        (r#""vault""#, r#""envelope""#, Error::Envelope),
        (r#""vault""#, r#""Vault""#, Error::Type),
        (r#""type":"vault","#, "", Error::Missing("type")),
        (r#""provider":"kbs""#, r#""provider":"AWS""#, Error::Provider("aws")),
        (r#""provider":"kbs""#, r#""provider":"canary""#, Error::Provider("unknown to this build")),
        (r#""provider":"kbs","#, "", Error::Missing("provider")),
        (r#""provider_settings":{},"#, "", Error::Missing("provider_settings")),
        (r#""provider_settings":{}"#, r#""provider_settings":[]"#, Error::Payload),
        (r#","annotations":{}"#, "", Error::Missing("annotations")),
        (r#""annotations":{}"#, r#""annotations":null"#, Error::Missing("annotations")),
        (r#""name":"kbs:///payments/db/password","#, "", Error::Missing("name")),
        ("kbs:///payments/db/password", "kbs:///a/../b", Error::Name(kbs_uri::Error::Character)),
        ("kbs:///payments/db/password", "kbs:///a/b/c?x=1", Error::Name(kbs_uri::Error::Query)),
        (r#"{"version""#, r#"{"name":"kbs:///a/b/c","version""#, Error::Payload),
    ] {
        let payload = PAYLOAD.replacen(from, to, 1);
        assert_eq!(verdict(&sealer.seal(HEADER, &payload), &keys), Err(error), "{payload}");
    }
    // Signed by a stranger: refused for that, whatever it says.
    let stranger = Sealer::new().seal(HEADER, "not even JSON");
    assert_eq!(verdict(&stranger, &keys), Err(Error::Signature));
}

#[test]
fn only_the_one_written_form_is_read() {
    let sealed = Sealer::new().seal(HEADER, PAYLOAD);
    let inner = sealed.strip_prefix("sealed.").unwrap();
    let (signed, signature) = inner.rsplit_once('.').unwrap();
    for (text, error) in [
        (inner.to_owned(), Error::Prefix),
        (format!("sealed.{sealed}"), Error::PrefixTwice),
        (format!("{sealed}\n"), Error::Whitespace),
        (format!(" {sealed}"), Error::Prefix),
        (format!("sealed.{signed}"), Error::Parts),
        (format!("{sealed}.x"), Error::Parts),
        (format!("sealed.{signed}."), Error::SignatureForm),
        (format!("sealed.{signed}.{}", signature.get(..80).unwrap()), Error::SignatureForm),
        (format!("{sealed}=="), Error::Encoding("signature")),
        (format!("sealed.{signed}.{}", "+".repeat(86)), Error::Encoding("signature")),
        ("sealed.fakejwsheader.e30.fakesignature".to_owned(), Error::Encoding("header")),
        (String::new(), Error::Prefix),
        ("sealed.".to_owned(), Error::Parts),
        ("sealed.".repeat(MAX_BYTES), Error::TooLong),
    ] {
        assert_eq!(SealedSecret::parse(&text).err(), Some(error), "{}", text.len());
    }
}

#[test]
fn no_word_of_a_sealed_secret_gets_into_a_message() {
    let sealer = Sealer::new();
    let keys = [sealer.listed("kbs:///payments/seal/key", "x")];
    let payload = PAYLOAD.replace("\"kbs\"", "\"canary\"");
    for text in [
        sealer.seal(HEADER, &payload),
        sealer.seal(r#"{"alg":"canary","kid":"canary"}"#, PAYLOAD),
        sealer.seal(r#"{"alg":"ES256","kid":"canary"}"#, PAYLOAD),
        sealer.seal(HEADER, &PAYLOAD.replace("kbs:///payments/db/password", "canary")),
        sealer.seal(HEADER, &PAYLOAD.replace("0.1.0", "canary")),
    ] {
        let error = verdict(&text, &keys).unwrap_err();
        let finding = error.finding("db/password");
        assert_eq!(finding.class, Class::Sealed);
        assert!(!format!("{error:?} {finding}").contains("canary"), "{finding}");
        assert!(finding.saw.contains("db/password"));
    }
    assert_eq!(format!("{:?}", SealedSecret::parse(&sealer.seal(HEADER, PAYLOAD)).unwrap()), "Unverified { .. }");
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}", prefix in any::<bool>()) {
        let _ = SealedSecret::parse(&if prefix { format!("sealed.{text}") } else { text });
    }

    #[test]
    fn any_header_and_payload_are_read_or_refused(header in "\\PC{0,100}", payload in "\\PC{0,100}") {
        let _ = read_header(header.as_bytes());
        let _ = payload_name(payload.as_bytes());
    }

    #[test]
    fn one_changed_byte_is_never_believed(at in 7_usize..300, byte in 33_u8..127) {
        let sealer = Sealer::new();
        let mut bytes = sealer.seal(HEADER, PAYLOAD).into_bytes();
        let Some(slot) = bytes.get_mut(at) else { return Ok(()) };
        prop_assume!(*slot != byte);
        *slot = byte;
        let text = String::from_utf8(bytes).unwrap();
        prop_assert!(verdict(&text, &[sealer.listed("kbs:///payments/seal/key", "x")]).is_err());
    }
}

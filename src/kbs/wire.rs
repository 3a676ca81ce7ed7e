//! What the attestation protocol says on the wire, 0.4.0: the bodies of `/auth` and `/attest`, and the
//! one cookie. Pure: bytes in, bytes out. What the hardware signs is `formats::runtime_data`'s.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::PROTOCOL_VERSION;
use crate::formats::runtime_data::{Hash, MAX_NONCE, RuntimeData};

/// Name of the session's cookie. The only cookie that is kept.
const COOKIE: &str = "kbs-session-id";

/// Most bytes of the cookie's value. Trustee's are UUIDs, 32; room for a gateway that signs it.
const MAX_COOKIE: usize = 256;

/// Longest name of a kind of TEE, bytes. The longest known has 12 (`az-snp-vtpm`, `sampledevice`).
const MAX_TEE: usize = 32;

/// Most bytes of evidence, 8 MiB. Trustee reads 2 MiB of a request unless told otherwise; what is
/// longer than this is a fault of whoever made it.
const MAX_EVIDENCE: usize = 8 * 1024 * 1024;

/// What the guest shows of itself: one JSON value, sent as its maker wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence(String);

/// Why bytes are not evidence that can be sent. Continues "the evidence …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Over 8 MiB.
    #[error("is longer than 8 MiB")]
    TooLong,
    /// Not one JSON value.
    #[error("is not one JSON value")]
    NotJson,
}

impl Evidence {
    /// Takes one JSON value of at most 8 MiB.
    pub fn new(json: String) -> Result<Self, EvidenceError> {
        if json.len() > MAX_EVIDENCE {
            return Err(EvidenceError::TooLong);
        }
        // It is put into the request as text: what is not one value could add members of its own.
        serde_json::from_str::<IgnoredAny>(&json).map_err(|_| EvidenceError::NotJson)?;
        Ok(Self(json))
    }
}

/// Evidence is a bearer's proof and holds hardware ids: its length only.
impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence(<{} bytes>)", self.0.len())
    }
}

/// The answer to `/auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Opaque text, sent back and hashed as it came.
    pub(super) nonce: String,
    /// The hash over the runtime data.
    pub(super) hash: Hash,
}

/// Why an answer of status 200 is not what it should be. Continues "the KBS …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// `/auth`.
    #[error("answered /auth with something other than a challenge, or with half of one")]
    Challenge,
    /// `/auth` without the session's cookie.
    #[error("answered /auth without the cookie `kbs-session-id`")]
    NoCookie,
    /// `/attest`.
    #[error("answered /attest with something other than a token, or with half of one")]
    Token,
}

/// Body of `POST /kbs/v0/auth`. `tee` is checked for its form: it comes from the guest.
pub(super) fn auth_body(tee: &str) -> Option<String> {
    let plain = tee.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || tee.is_empty() || tee.len() > MAX_TEE {
        return None;
    }
    Some(format!(
        r#"{{"version":"{PROTOCOL_VERSION}","tee":"{tee}","extra-params":{{"supported-hash-algorithms":["sha256","sha384","sha512"]}}}}"#
    ))
}

/// Body of `POST /kbs/v0/attest`. `additional` is the text that was hashed with the runtime data.
pub(super) fn attest_body(
    runtime_data: &RuntimeData,
    evidence: &Evidence,
    additional: &str,
    init_data: Option<&str>,
) -> String {
    let init_data = init_data.map_or(Value::Null, |body| json!({"format": "toml", "body": body}));
    let runtime_data = runtime_data.to_json();
    let additional = Value::from(additional);
    // The evidence is not parsed and rendered again: numbers and order stay as its maker wrote them.
    format!(
        r#"{{"init-data":{init_data},"runtime-data":{runtime_data},"tee-evidence":{{"primary_evidence":{},"additional_evidence":{additional}}}}}"#,
        evidence.0
    )
}

#[derive(Deserialize)]
struct RawChallenge {
    nonce: String,
    #[serde(default, rename = "extra-params")]
    extra_params: Value,
}

/// Reads the answer to `/auth`, capped by the caller. `Ok(None)`: it wants a hash that we did not
/// offer.
pub(super) fn challenge(body: &[u8]) -> Result<Option<Challenge>, Malformed> {
    let raw: RawChallenge = serde_json::from_slice(body).map_err(|_| Malformed::Challenge)?;
    if raw.nonce.is_empty() || raw.nonce.len() > MAX_NONCE {
        return Err(Malformed::Challenge);
    }
    // Trustee sends an empty text in place of an object where it chose nothing.
    let hash = match raw.extra_params.get("selected-hash-algorithm") {
        None | Some(Value::Null) => Some(Hash::default()),
        Some(Value::String(name)) => Hash::parse(name),
        Some(_) => return Err(Malformed::Challenge),
    };
    Ok(hash.map(|hash| Challenge { nonce: raw.nonce, hash }))
}

/// The session's cookie as it is sent back, `kbs-session-id=…`, from the values of `Set-Cookie`.
/// All others are dropped. The last one counts (RFC 6265 §5.3).
pub(super) fn session_cookie<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<Zeroizing<String>> {
    headers.filter_map(cookie_value).last().map(|value| Zeroizing::new(format!("{COOKIE}={value}")))
}

fn cookie_value(header: &[u8]) -> Option<&str> {
    let pair = std::str::from_utf8(header).ok()?.split(';').next()?;
    let (name, value) = pair.split_once('=')?;
    let value = value.trim_matches([' ', '\t']);
    // The octets that RFC 6265 §4.1.1 allows: nothing that could start another header or cookie.
    let plain = value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\'));
    (name.trim_matches([' ', '\t']) == COOKIE && plain && !value.is_empty() && value.len() <= MAX_COOKIE)
        .then_some(value)
}

/// The attestation token, not verified: it is the KBS's word about us, and we only carry it.
pub(super) struct Token {
    pub(super) text: Zeroizing<String>,
    /// `exp` - `iat`, seconds. The span, not the moment: our clock is the host's.
    pub(super) lifetime: Option<u64>,
    /// `iat`, seconds since 1970.
    pub(super) issued_at: Option<u64>,
}

#[derive(Deserialize)]
struct RawToken {
    token: String,
}

#[derive(Deserialize)]
struct Claims {
    iat: Option<u64>,
    exp: Option<u64>,
}

/// Reads the answer to `/attest`, capped by the caller.
pub(super) fn token(body: &[u8]) -> Result<Token, Malformed> {
    let raw: RawToken = serde_json::from_slice(body).map_err(|_| Malformed::Token)?;
    read_token(Zeroizing::new(raw.token))
}

/// Reads the token itself.
pub(super) fn read_token(text: Zeroizing<String>) -> Result<Token, Malformed> {
    let mut parts = text.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Malformed::Token);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Malformed::Token)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| Malformed::Token)?;
    let lifetime = claims.exp.zip(claims.iat).and_then(|(exp, iat)| exp.checked_sub(iat));
    Ok(Token { text, lifetime, issued_at: claims.iat })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kbs::TeeKey;
    use proptest::prelude::*;

    fn cookie(headers: &[&str]) -> Option<String> {
        session_cookie(headers.iter().map(|text| text.as_bytes())).map(|cookie| cookie.to_string())
    }

    #[test]
    fn the_request_names_version_tee_and_hashes() {
        assert_eq!(
            auth_body("az-snp-vtpm").unwrap(),
            r#"{"version":"0.4.0","tee":"az-snp-vtpm","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
        );
        for hostile in ["", "snp\",\"x\":\"", "SNP", "a b", &"a".repeat(33)] {
            assert_eq!(auth_body(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn extra_params_may_be_a_text_an_object_or_absent() {
        let hash = |extra: &str| challenge(format!(r#"{{"nonce":"n"{extra}}}"#).as_bytes()).unwrap().map(|c| c.hash);
        for extra in ["", r#","extra-params":"""#, r#","extra-params":{}"#, r#","extra-params":null"#] {
            assert_eq!(hash(extra), Some(Hash::Sha384), "{extra}");
        }
        let chosen = |name: &str| hash(&format!(r#","extra-params":{{"selected-hash-algorithm":"{name}"}}"#));
        assert_eq!(chosen("sha512"), Some(Hash::Sha512));
        assert_eq!(chosen("SHA256"), Some(Hash::Sha256));
        assert_eq!(chosen("Sha384"), Some(Hash::Sha384));
        assert_eq!(chosen("sm3"), None);
        assert_eq!(chosen("md5"), None);
    }

    #[test]
    fn half_a_challenge_and_other_json_are_refused() {
        let long = format!(r#"{{"nonce":"{}"}}"#, "n".repeat(MAX_NONCE + 1));
        for body in [
            r#"{"nonce":"gon"#,
            r#"{"nonce":""}"#,
            r#"{"nonce":1}"#,
            r#"{"nonce":"a","nonce":"b"}"#,
            r#"{"extra-params":""}"#,
            r#"{"nonce":"a","extra-params":{"selected-hash-algorithm":1}}"#,
            r#"{"nonce":"a"} x"#,
            "",
            &long,
        ] {
            assert_eq!(challenge(body.as_bytes()), Err(Malformed::Challenge), "{body:.40}");
        }
    }

    #[test]
    fn only_the_session_cookie_is_kept() {
        let real = "kbs-session-id=aaa2c04ef7dc480489bd736414df2db4; Expires=Mon, 23 Nov 2026 16:23:40 GMT";
        assert_eq!(cookie(&["other=1", real]).as_deref(), Some("kbs-session-id=aaa2c04ef7dc480489bd736414df2db4"));
        assert_eq!(cookie(&["kbs-session-id=a", "kbs-session-id=b"]).as_deref(), Some("kbs-session-id=b"));
        let long = format!("kbs-session-id={}", "a".repeat(MAX_COOKIE + 1));
        for hostile in ["other=1", "kbs-session-id", "kbs-session-id=", "KBS-Session-Id=a", "kbs-session-id=a,b", &long]
        {
            assert_eq!(cookie(&[hostile]), None, "{hostile:.40}");
        }
        assert_eq!(cookie(&[]), None);
    }

    #[test]
    fn evidence_that_could_add_members_is_refused() {
        for json in ["", "{", "{},\"x\":1", "{} {}", "null}"] {
            assert_eq!(Evidence::new(json.to_owned()), Err(EvidenceError::NotJson), "{json}");
        }
        let long = format!("\"{}\"", "a".repeat(MAX_EVIDENCE));
        assert_eq!(Evidence::new(long), Err(EvidenceError::TooLong));
        let evidence = Evidence::new(r#"{"canary":1}"#.to_owned()).unwrap();
        assert_eq!(format!("{evidence:?}"), "Evidence(<12 bytes>)");
    }

    #[test]
    fn the_evidence_is_sent_as_its_maker_wrote_it() {
        let evidence = Evidence::new(r#"{"b": 1.50, "a":[1]}"#.to_owned()).unwrap();
        let data = RuntimeData::new("n\"".to_owned(), TeeKey::generate().unwrap().public().clone()).unwrap();
        let body = attest_body(&data, &evidence, "{}", Some("version = \"0.1.0\"\n"));
        let runtime_data = data.to_json();
        assert_eq!(
            body,
            format!(
                r#"{{"init-data":{{"body":"version = \"0.1.0\"\n","format":"toml"}},"runtime-data":{runtime_data},"tee-evidence":{{"primary_evidence":{{"b": 1.50, "a":[1]}},"additional_evidence":"{{}}"}}}}"#
            )
        );
        assert!(attest_body(&data, &evidence, "", None).starts_with(r#"{"init-data":null,"#));
    }

    #[test]
    fn a_token_gives_its_lifetime_as_a_span() {
        let jwt = |claims: &str| format!(r#"{{"token":"e30.{}.sig"}}"#, URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(token(jwt(r#"{"iat":100,"exp":400}"#).as_bytes()).unwrap().lifetime, Some(300));
        assert_eq!(token(jwt(r#"{"exp":400}"#).as_bytes()).unwrap().lifetime, None);
        assert_eq!(token(jwt(r#"{"iat":400,"exp":100}"#).as_bytes()).unwrap().lifetime, None);
        for body in [r#"{"token":"e30"#, r#"{"token":"a.b"}"#, r#"{"token":"a.b.c.d"}"#, r#"{"token":"a.!.c"}"#, "{}"] {
            assert!(token(body.as_bytes()).is_err(), "{body}");
        }
        assert!(token(jwt("[").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = challenge(&bytes);
            let _ = token(&bytes);
            if let Some(cookie) = session_cookie([bytes.as_slice()].into_iter()) {
                prop_assert!(cookie.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}

//! What a value must look like before any value is published.
//!
//! An error names what was expected and what kind of thing arrived, never a byte of it.

use aws_lc_rs::{constant_time, digest};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::config::{Expect, Format};

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// Fewer than `min_bytes`.
    #[error("has fewer than {min} bytes")]
    TooShort {
        /// The bound.
        min: usize,
    },
    /// More than `max_bytes`.
    #[error("has more than {max} bytes")]
    TooLong {
        /// The bound.
        max: usize,
    },
    /// `sha256` differs.
    #[error("has another SHA-256 than `expect.sha256`")]
    Digest,
    /// `equals` differs.
    #[error("is not the expected value")]
    NotEqual,
    /// `equals` differs by what `echo` adds.
    #[error("is the expected value with a line end after it")]
    NotEqualLineEnd,
    /// Not UTF-8.
    #[error("is not text in UTF-8")]
    NotUtf8,
    /// Not one JSON value.
    #[error("is not one JSON value")]
    NotJson,
    /// Not PEM.
    #[error("is not PEM: {0}")]
    NotPem(&'static str),
    /// No certificate, no key, or not of one pair.
    #[error("is no TLS pair: {0}")]
    NotTlsPair(&'static str),
}

impl Error {
    /// What to do about it, starting with a verb. `from` names the resource.
    pub fn next(&self, from: &str) -> String {
        match self {
            Self::Empty => format!("upload a value to {from}; if it may be empty, set `expect.min_bytes = 0`"),
            Self::TooShort { .. } | Self::TooLong { .. } => {
                format!("upload the right value to {from}, or change `expect.min_bytes` / `expect.max_bytes`")
            }
            Self::Digest => format!("upload the expected value to {from}, or correct `expect.sha256`"),
            Self::NotEqual => format!("upload the expected value to {from}, or correct `equals`"),
            Self::NotEqualLineEnd => {
                format!("upload the value to {from} without a line end (`printf %s`, not `echo`)")
            }
            Self::NotUtf8 | Self::NotJson | Self::NotPem(_) => {
                format!("upload the right value to {from}, or correct `expect.format`")
            }
            Self::NotTlsPair(_) => {
                format!("upload a certificate chain and the private key of its first certificate ({from})")
            }
        }
    }
}

/// Checks one value. `key` is the value of the file that `expect.key` names, where it names one.
pub fn check(expect: &Expect, value: &[u8], key: Option<&[u8]>) -> Result<(), Error> {
    check_size(expect, value)?;
    if let Some(sha256) = &expect.sha256 {
        let actual = digest::digest(&digest::SHA256, value);
        constant_time::verify_slices_are_equal(actual.as_ref(), sha256).map_err(|_| Error::Digest)?;
    }
    if let Some(equals) = &expect.equals {
        check_equals(equals.as_bytes(), value)?;
    }
    match &expect.format {
        Format::Any => Ok(()),
        Format::Utf8 => std::str::from_utf8(value).map(|_| ()).map_err(|_| Error::NotUtf8),
        Format::Json => serde_json::from_slice::<serde::de::IgnoredAny>(value).map(|_| ()).map_err(|_| Error::NotJson),
        Format::Pem => check_pem(value),
        Format::TlsPair { key: None } => check_tls_pair(value, value),
        Format::TlsPair { key: Some(_) } => {
            check_tls_pair(value, key.ok_or(Error::NotTlsPair("the file that `expect.key` names is not in the set"))?)
        }
    }
}

/// Whether a value is exactly the expected one; compared in constant time.
pub fn check_equals(expected: &[u8], value: &[u8]) -> Result<(), Error> {
    if constant_time::verify_slices_are_equal(value, expected).is_ok() {
        return Ok(());
    }
    let trimmed = value.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    match trimmed {
        Some(rest) if constant_time::verify_slices_are_equal(rest, expected).is_ok() => Err(Error::NotEqualLineEnd),
        _ => Err(Error::NotEqual),
    }
}

fn check_size(expect: &Expect, value: &[u8]) -> Result<(), Error> {
    if value.is_empty() && expect.min_bytes > 0 {
        return Err(Error::Empty);
    }
    if value.len() < expect.min_bytes {
        return Err(Error::TooShort { min: expect.min_bytes });
    }
    if value.len() > expect.max_bytes {
        return Err(Error::TooLong { max: expect.max_bytes });
    }
    Ok(())
}

/// Nothing but PEM blocks and blank lines: text around a block is how an error page, or the end of
/// another file, hides beside a key.
fn check_pem(value: &[u8]) -> Result<(), Error> {
    use base64::Engine as _;
    let text = std::str::from_utf8(value).map_err(|_| Error::NotPem("it is not text"))?;
    let mut label: Option<&str> = None;
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    let mut blocks = 0_usize;
    for line in text.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            if label.replace(name).is_some() {
                return Err(Error::NotPem("a block begins inside another"));
            }
            body.clear();
        } else if let Some(name) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
            if label.take() != Some(name) {
                return Err(Error::NotPem("a block ends that did not begin"));
            }
            let mut bytes = Zeroizing::new(vec![0_u8; body.len()]);
            match base64::engine::general_purpose::STANDARD.decode_slice(body.as_bytes(), &mut bytes) {
                Ok(length) if length > 0 => blocks = blocks.saturating_add(1),
                _ => return Err(Error::NotPem("a block is empty or not base64")),
            }
        } else if label.is_some() {
            body.push_str(line);
        } else if !line.is_empty() {
            return Err(Error::NotPem("there is text outside the blocks"));
        }
    }
    if label.is_some() {
        return Err(Error::NotPem("the last block is cut off"));
    }
    if blocks == 0 {
        return Err(Error::NotPem("there is no block"));
    }
    Ok(())
}

fn check_tls_pair(chain: &[u8], key: &[u8]) -> Result<(), Error> {
    check_pem(chain)?;
    check_pem(key)?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::NotTlsPair("a certificate does not parse"))?;
    if certificates.is_empty() {
        return Err(Error::NotTlsPair("there is no certificate"));
    }
    let mut keys = PrivateKeyDer::pem_slice_iter(key);
    let key = match (keys.next(), keys.next()) {
        (Some(Ok(key)), None) => key,
        (None, _) => return Err(Error::NotTlsPair("there is no private key")),
        (Some(Ok(_)), Some(_)) => return Err(Error::NotTlsPair("there is more than one private key")),
        (Some(Err(_)), _) => return Err(Error::NotTlsPair("the private key does not parse")),
    };
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|_| Error::NotTlsPair("the private key is of no kind that TLS uses"))?;
    CertifiedKey::new(certificates, key)
        .keys_match()
        .map_err(|_| Error::NotTlsPair("the private key is not the first certificate's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(format: Format) -> Expect {
        Expect { format, ..Expect::default() }
    }

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["api.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn an_empty_value_is_refused_unless_allowed() {
        assert_eq!(check(&expect(Format::Any), b"", None), Err(Error::Empty));
        let allowed = Expect { min_bytes: 0, ..Expect::default() };
        assert_eq!(check(&allowed, b"", None), Ok(()));
    }

    #[test]
    fn sizes_are_bounds_and_both_ends_belong() {
        let bounds = Expect { min_bytes: 2, max_bytes: 3, ..Expect::default() };
        assert_eq!(check(&bounds, b"a", None), Err(Error::TooShort { min: 2 }));
        assert_eq!(check(&bounds, b"ab", None), Ok(()));
        assert_eq!(check(&bounds, b"abc", None), Ok(()));
        assert_eq!(check(&bounds, b"abcd", None), Err(Error::TooLong { max: 3 }));
    }

    #[test]
    fn a_digest_or_a_value_that_differs_is_refused() {
        let mut sha256 = [0_u8; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, b"right").as_ref());
        let by_digest = Expect { sha256: Some(sha256), ..Expect::default() };
        assert_eq!(check(&by_digest, b"right", None), Ok(()));
        assert_eq!(check(&by_digest, b"wrong", None), Err(Error::Digest));
        let by_value = Expect { equals: Some("success".to_owned()), ..Expect::default() };
        assert_eq!(check(&by_value, b"success", None), Ok(()));
        assert_eq!(check(&by_value, b"succes", None), Err(Error::NotEqual));
        assert_eq!(check(&by_value, b"success\n", None), Err(Error::NotEqualLineEnd));
        assert_eq!(check(&by_value, b"success\n\n", None), Err(Error::NotEqual));
    }

    #[test]
    fn an_error_page_is_neither_json_nor_pem() {
        let page = b"<html><body>403 Forbidden</body></html>";
        assert_eq!(check(&expect(Format::Json), page, None), Err(Error::NotJson));
        assert_eq!(check(&expect(Format::Pem), page, None), Err(Error::NotPem("there is text outside the blocks")));
        assert_eq!(check(&expect(Format::Utf8), b"\xff\xfe", None), Err(Error::NotUtf8));
        assert_eq!(check(&expect(Format::Json), b"{\"a\":1} trailing", None), Err(Error::NotJson));
        assert_eq!(check(&expect(Format::Json), b"{\"a\":1}\n", None), Ok(()));
    }

    #[test]
    fn pem_with_trailing_junk_or_cut_off_is_refused() {
        let (certificate, _) = pair();
        assert_eq!(check(&expect(Format::Pem), certificate.as_bytes(), None), Ok(()));
        for broken in [
            format!("{certificate}junk"),
            format!("junk\n{certificate}"),
            certificate.replace("-----END CERTIFICATE-----", ""),
            certificate.replace("-----END CERTIFICATE-----", "-----END PRIVATE KEY-----"),
            certificate.replacen("MII", "M!!", 1),
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(),
            "\n\n".to_owned(),
        ] {
            assert!(matches!(check(&expect(Format::Pem), broken.as_bytes(), None), Err(Error::NotPem(_))), "{broken}");
        }
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let in_one = expect(Format::TlsPair { key: None });
        assert_eq!(check(&in_one, format!("{certificate}{key}").as_bytes(), None), Ok(()));
        assert_eq!(
            check(&in_one, format!("{certificate}{other}").as_bytes(), None),
            Err(Error::NotTlsPair("the private key is not the first certificate's"))
        );
        assert_eq!(check(&in_one, certificate.as_bytes(), None), Err(Error::NotTlsPair("there is no private key")));
        assert_eq!(
            check(&in_one, format!("{certificate}{key}{other}").as_bytes(), None),
            Err(Error::NotTlsPair("there is more than one private key"))
        );
        let path = crate::config::RelativePath::parse("tls/tls.key").unwrap();
        let in_two = expect(Format::TlsPair { key: Some(path) });
        assert_eq!(check(&in_two, certificate.as_bytes(), Some(key.as_bytes())), Ok(()));
        assert!(check(&in_two, certificate.as_bytes(), Some(other.as_bytes())).is_err());
        assert!(check(&in_two, certificate.as_bytes(), None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_check_panic(value in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
            for format in [Format::Any, Format::Utf8, Format::Json, Format::Pem, Format::TlsPair { key: None }] {
                let _ = check(&expect(format), &value, None);
            }
        }
    }
}

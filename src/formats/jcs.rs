//! Canonical JSON (RFC 8785), for the values that the attestation protocol hashes.
//!
//! Depth is the caller's: `serde_json` reads no more than 128 levels.

use serde_json::Value;

/// The canonical bytes of a value: members sorted, no spaces, nothing escaped that need not be.
///
/// Numbers: integers only, which is all that the protocol hashes. A fraction gives `None`, since
/// its canonical form is a matter of ECMAScript's number printing.
pub fn canonical(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Some(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            // Above 2^53 ECMAScript has no exact integers, so RFC 8785 has no form for them.
            const EXACT: u64 = 1 << 53;
            let exact = number.as_u64().is_some_and(|n| n <= EXACT)
                || number.as_i64().is_some_and(|n| n.unsigned_abs() <= EXACT);
            if !exact {
                return None;
            }
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            // RFC 8785 sorts by UTF-16 code units, which differs from UTF-8 order above U+FFFF.
            names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                write(members.get(name)?, out)?;
            }
            out.push(b'}');
        }
    }
    Some(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{9}' => out.extend_from_slice(b"\\t"),
            '\u{a}' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\u{d}' => out.extend_from_slice(b"\\r"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => {
                let mut buffer = [0_u8; 4];
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_runtime_data_of_a_real_handshake_has_these_bytes() {
        let value = serde_json::json!({
            "tee-pubkey": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "9W", "y": "5_"},
            "nonce": "gon+/=", "additional-evidence": ""
        });
        assert_eq!(
            String::from_utf8(canonical(&value).unwrap()).unwrap(),
            r#"{"additional-evidence":"","nonce":"gon+/=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"9W","y":"5_"}}"#
        );
    }

    #[test]
    fn rfc_8785_escapes_and_sorts() {
        // §3.2.3 and §3.2.2.2 of the RFC; U+1F600 sorts before U+FB33 by its surrogates.
        let value = serde_json::json!({"\u{20ac}": "\u{20ac}$\u{f}\nA'B\"\\\\\"/", "\r": 1, "1": [true, null], "\u{1f600}": 2, "\u{fb33}": 3});
        assert_eq!(
            String::from_utf8(canonical(&value).unwrap()).unwrap(),
            "{\"\\r\":1,\"1\":[true,null],\"\u{20ac}\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\",\"\u{1f600}\":2,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn numbers_without_an_exact_form_have_none() {
        for number in ["1.5", "1e3", "-0.0", "18446744073709551615", "9007199254740993", "-9007199254740993"] {
            let value: Value = serde_json::from_str(&format!("[{{\"n\":{number}}}]")).unwrap();
            assert_eq!(canonical(&value), None, "{number}");
        }
        for number in ["0", "-1", "9007199254740992", "-9007199254740992"] {
            let value: Value = serde_json::from_str(number).unwrap();
            assert_eq!(canonical(&value).unwrap(), number.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same_and_is_written_the_same(
            members in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..8),
            nested in any::<String>(),
        ) {
            let value = serde_json::json!([members, {nested: null}, true]);
            let bytes = canonical(&value).unwrap();
            let again: Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&again, &value);
            prop_assert_eq!(canonical(&again).unwrap(), bytes);
        }
    }
}

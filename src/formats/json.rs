//! JSON objects from hostile bytes, read strictly and without keeping what nobody asked for.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Reads one JSON object into a struct: UTF-8, an object at the top, nothing behind it. A member
/// that the struct knows may stand once only; serde refuses the second. Members that it does not
/// know are skipped without a copy.
///
/// `None` for everything else. serde's own message is dropped on purpose: it quotes the input.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let text = std::str::from_utf8(bytes).ok()?;
    // A derived struct would also accept an array of its members in order.
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Whether a member is there at all, whatever its value, `null` included. Its value is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present(pub(crate) bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Self(true))
    }
}

/// An object whose members do not matter, only that it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<AnyObject, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyObject)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Sample {
        a: Option<String>,
        #[serde(default)]
        b: Present,
        c: Option<AnyObject>,
    }

    #[test]
    fn an_object_is_read_and_unknown_members_are_skipped() {
        let read: Sample = object(br#" {"a":"x","b":null,"c":{"d":[1]},"z":{"z":1}} "#).unwrap();
        assert_eq!(read, Sample { a: Some("x".to_owned()), b: Present(true), c: Some(AnyObject) });
    }

    #[test]
    fn what_is_not_exactly_one_object_is_refused() {
        for text in
            [r#"["x"]"#, r#"{"a":"x","a":"y"}"#, r#"{"a":"x"} {}"#, r#"{"a":1}"#, r#"{"c":[]}"#, "", "null", "{"]
        {
            assert_eq!(object::<Sample>(text.as_bytes()), None, "{text}");
        }
        assert_eq!(object::<Sample>(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn deep_nesting_does_not_use_up_the_stack() {
        let deep = format!("{{\"z\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = object::<Sample>(deep.as_bytes());
        let deep = format!("{{\"c\":{}1{}}}", "{\"c\":".repeat(100_000), "}".repeat(100_000));
        let _ = object::<Sample>(deep.as_bytes());
    }
}

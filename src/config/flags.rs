//! Values of `countersign get`'s flags, in the grammar of the file's keys.

use std::time::Duration;

use super::grammar;
use super::types::{CEILING_MAX_BYTES, Expect, Format};

/// Keys of `--expect`, as in `[[secrets.file]] expect`; `key` needs a set and is the file's alone.
const KEYS: &str = "format, min_bytes, max_bytes, sha256, equals";

/// `--expect format=utf8,max_bytes=4096`, given once or more often.
pub fn expect(flags: &[String]) -> Result<Expect, String> {
    let mut expect = Expect::default();
    let mut seen: Vec<&str> = Vec::new();
    for pair in flags.iter().flat_map(|flag| split(flag)) {
        let (key, value) = pair.split_once('=').ok_or("wants key=value")?;
        if seen.contains(&key) {
            return Err(format!("names {key} twice"));
        }
        match key {
            "format" => expect.format = format(value)?,
            "min_bytes" => expect.min_bytes = size(key, value)?,
            "max_bytes" => expect.max_bytes = size(key, value)?,
            "sha256" => expect.sha256 = Some(grammar::sha256(value).map_err(|why| format!("sha256 {why}"))?),
            "equals" => expect.equals = Some(value.to_owned()),
            _ => return Err(format!("has a key that it does not know; it knows {KEYS}")),
        }
        seen.push(key);
    }
    if expect.min_bytes > expect.max_bytes {
        return Err("has a min_bytes above max_bytes".to_owned());
    }
    Ok(expect)
}

/// `--mode 0440`.
pub fn mode(text: &str) -> Result<u32, &'static str> {
    grammar::mode(text)
}

/// `--deadline 5m`.
pub fn deadline(text: &str) -> Result<Duration, &'static str> {
    match grammar::duration(text) {
        Some(duration) if (Duration::from_secs(10)..=Duration::from_secs(3600)).contains(&duration) => Ok(duration),
        Some(_) => Err("must lie between 10s and 1h"),
        None => Err("is no duration"),
    }
}

/// A time for `diagnose`: a person waits for it.
pub fn timeout(text: &str) -> Result<Duration, &'static str> {
    match grammar::duration(text) {
        Some(duration) if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&duration) => Ok(duration),
        Some(_) => Err("must lie between 1s and 10m"),
        None => Err("is no duration"),
    }
}

/// Pairs between commas. `equals` may hold commas: it takes the rest.
fn split(flag: &str) -> Vec<&str> {
    let mut pairs = Vec::new();
    let mut rest = flag;
    while !rest.starts_with("equals=") {
        match rest.split_once(',') {
            Some((pair, more)) => {
                pairs.push(pair);
                rest = more;
            }
            None => break,
        }
    }
    pairs.push(rest);
    pairs
}

fn format(value: &str) -> Result<Format, String> {
    match value {
        "any" => Ok(Format::Any),
        "utf8" => Ok(Format::Utf8),
        "json" => Ok(Format::Json),
        "pem" => Ok(Format::Pem),
        "tls-pair" => Ok(Format::TlsPair { key: None }),
        _ => Err("has a format that it does not know; it knows any, utf8, json, pem, tls-pair".to_owned()),
    }
}

fn size(key: &str, value: &str) -> Result<usize, String> {
    match value.parse::<usize>() {
        Ok(size) if size <= CEILING_MAX_BYTES => Ok(size),
        _ => Err(format!("{key} wants a number of bytes up to {CEILING_MAX_BYTES}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Expect, String> {
        expect(&flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn pairs_add_up_over_flags_and_commas() {
        let parsed = parse(&["format=pem,max_bytes=64", "min_bytes=2"]).unwrap();
        assert_eq!(parsed, Expect { format: Format::Pem, min_bytes: 2, max_bytes: 64, ..Expect::default() });
        assert_eq!(parse(&[]).unwrap(), Expect::default());
    }

    #[test]
    fn an_expected_value_may_hold_commas_and_equal_signs() {
        assert_eq!(parse(&["format=utf8,equals=a,b=c"]).unwrap().equals.as_deref(), Some("a,b=c"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for flag in ["", "format", "format=xml", "formt=utf8", "max_bytes=-1", "max_bytes=99999999999", "sha256=00"] {
            assert!(parse(&[flag]).is_err(), "{flag}");
        }
        assert!(parse(&["min_bytes=9,max_bytes=8"]).is_err());
        assert!(parse(&["format=pem", "format=json"]).is_err());
        assert!(deadline("9s").is_err() && deadline("2h").is_err() && deadline("soon").is_err());
        assert_eq!(deadline("90s"), Ok(Duration::from_secs(90)));
    }
}

//! The KBS's address. Written by hand and strict: a URL that two parsers read differently is how
//! a request ends up at another server than the one that was reviewed.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::types::KbsUrl;

/// Longest URL accepted, bytes: a DNS name has at most 253, the rest is a path prefix.
const MAX_LEN: usize = 1024;

/// Longest DNS name and longest label of one, bytes. RFC 1035 §2.3.4.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

impl KbsUrl {
    /// Parses `http(s)://host[:port][/prefix]`. The message says what is wrong with it.
    ///
    /// Refused: user names, queries, fragments, percent escapes, backslashes, anything but ASCII,
    /// IPv4 in other forms than four decimal numbers, and a prefix that already has `/kbs/v0`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_LEN {
            return Err("is longer than 1024 bytes");
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("must start with `https://` (or `http://`), in lower case"),
        };
        if rest.contains('@') {
            return Err("must not have a user name or password");
        }
        if rest.contains(['?', '#']) {
            return Err("must not have a query or fragment");
        }
        if !rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'%')) {
            return Err("may hold only printable ASCII, without `%` and `\\`");
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, prefix: prefix(path)? })
    }

    /// Whether the host is a literal loopback address. `localhost` is not: names resolve through
    /// files and servers that the control plane writes.
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || self.host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Splits `host[:port]` or `[v6][:port]` and checks both. The host comes back in lower case and
/// without brackets.
pub(crate) fn host_and_port(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    if let Some(inner) = authority.strip_prefix('[') {
        let (address, after) = inner.split_once(']').ok_or("has `[` without `]`")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "has no IPv6 address between the brackets")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port_number(port)?),
            None if after.is_empty() => None,
            None => return Err("has something other than `:port` after the brackets"),
        };
        return Ok((address.to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port)?)),
        None => (authority, None),
    };
    let host = host.to_ascii_lowercase();
    if host.parse::<Ipv4Addr>().is_err() {
        dns_name(&host)?;
    }
    Ok((host, port))
}

/// Checks a DNS name of letters, digits and hyphens, in lower case, without a dot at the end.
pub(crate) fn dns_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("names no host");
    }
    if text.len() > MAX_NAME {
        return Err("has a host name longer than 253 bytes");
    }
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !text.split('.').all(is_label) {
        return Err("has a host that is neither a DNS name (a-z 0-9 - and dots) nor an address (IPv6 in brackets)");
    }
    // `127.1` and `0x7f000001` are names here and addresses to other parsers.
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return Err("has a host that others would read as a number: write an IPv4 address as four decimal numbers");
    }
    Ok(())
}

fn port_number(text: &str) -> Result<u16, &'static str> {
    const WRONG: &str = "has a port that is not a number from 1 to 65535";
    if text.is_empty() || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WRONG);
    }
    text.parse().map_err(|_| WRONG)
}

/// Turns `a/b/` into `/a/b`.
fn prefix(path: &str) -> Result<String, &'static str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(String::new());
    }
    let is_plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
    };
    if !path.split('/').all(is_plain) {
        return Err("has a path with empty, `.` or `..` parts, or characters other than a-z A-Z 0-9 - _ . ~");
    }
    let path = format!("/{path}");
    if path.ends_with("/kbs/v0") || path.contains("/kbs/v0/") {
        return Err("must not have `/kbs/v0` in it: countersign adds that");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> KbsUrl {
        KbsUrl::parse(text).unwrap_or_else(|why| panic!("{text} {why}"))
    }

    #[test]
    fn the_parts_of_a_url_are_found() {
        assert_eq!(parse("https://kbs.example").to_string(), "https://kbs.example:443");
        assert_eq!(parse("http://127.0.0.1/").to_string(), "http://127.0.0.1:80");
        assert_eq!(parse("https://KBS.Example:8443/a/b/").to_string(), "https://kbs.example:8443/a/b");
        assert_eq!(parse("https://[2001:DB8:0::1]:8443").to_string(), "https://[2001:db8::1]:8443");
        assert_eq!(parse("https://[::1]").host, "::1");
    }

    #[test]
    fn only_literal_loopback_is_loopback() {
        for text in ["http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:1"] {
            assert!(parse(text).is_loopback(), "{text}");
        }
        for text in ["http://localhost", "http://10.0.0.1", "http://[::ffff:127.0.0.1]", "http://127.0.0.1.example"] {
            assert!(!parse(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn whatever_two_parsers_could_read_differently_is_refused() {
        for text in [
            "",
            "kbs.example",
            "HTTPS://kbs.example",
            "ftp://kbs.example",
            "https://",
            "https:///path",
            "https://user@kbs.example",
            "https://user:pass@kbs.example",
            "https://kbs.example?x",
            "https://kbs.example#x",
            "https://kbs.example\\evil.example",
            "https://kbs.example/%2e%2e",
            "https://kbs.example/../x",
            "https://kbs.example//x",
            "https://kbs.example /x",
            "https://kbs.example\n",
            "https://kbs.exämple",
            "https://kbs_.example",
            "https://-kbs.example",
            "https://kbs..example",
            "https://kbs.example.",
            "https://kbs.example:",
            "https://kbs.example:0",
            "https://kbs.example:080",
            "https://kbs.example:65536",
            "https://kbs.example:+80",
            "https://kbs.example:80:80",
            "https://127.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://256.0.0.1",
            "https://::1",
            "https://[::1",
            "https://[::1]x",
            "https://[fe80::1%25eth0]",
            "https://[kbs.example]",
            "https://kbs.example/kbs/v0",
            "https://kbs.example/kbs/v0/auth",
        ] {
            assert!(KbsUrl::parse(text).is_err(), "{text}");
        }
        assert!(KbsUrl::parse(&format!("https://{}.example", "a".repeat(64))).is_err());
        assert!(KbsUrl::parse(&format!("https://kbs.example/{}", "a".repeat(2000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,80}", tail in "[-a-z0-9.:\\[\\]/@?#%]{0,60}") {
            let _ = KbsUrl::parse(&text);
            let _ = KbsUrl::parse(&format!("https://{tail}"));
        }

        #[test]
        fn a_url_survives_being_printed_and_parsed(
            tls: bool,
            host in "[a-z][a-z0-9-]{0,8}[a-z0-9](\\.[a-z][a-z0-9]{0,8}){0,3}|127\\.0\\.0\\.[0-9]",
            port in 1u16..,
            prefix in "(/[a-z0-9_~]{1,6}){0,3}",
        ) {
            let url = KbsUrl { tls, host, port, prefix };
            prop_assert_eq!(KbsUrl::parse(&url.to_string()), Ok(url));
        }

        #[test]
        fn an_ipv6_url_survives_being_printed_and_parsed(bits: u128, port in 1u16..) {
            let url = KbsUrl { tls: true, host: Ipv6Addr::from(bits).to_string(), port, prefix: String::new() };
            prop_assert_eq!(KbsUrl::parse(&url.to_string()), Ok(url));
        }
    }
}

//! The forms that texts in the configuration have, and the parsers that no other room owns.
//!
//! Each form stands here once: its name in the documentation, its pattern in the JSON Schema, and
//! its limit in bytes. The pattern is what an editor checks while typing; the parser decides. The
//! parser may refuse more, never less (`schema.rs` tests that).

use core::net::SocketAddr;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::types::{For, Source};
use super::url::{dns_name, host_and_port};
use crate::formats::kbs_uri::{self, KbsUri};

/// The form of a text.
#[derive(Debug)]
pub struct Grammar {
    /// As named in the documentation and in messages.
    pub name: &'static str,
    /// One that is right, for messages.
    pub example: &'static str,
    /// ECMA regular expression for the JSON Schema. Empty: any text.
    pub pattern: &'static str,
    /// Longest text, bytes.
    pub max: usize,
}

/// Longest sealed secret in a configuration, bytes: a 16 KiB value after two rounds of base64,
/// with room for its header. Trustee seals keys and passwords, not files.
pub const MAX_SEALED: usize = 64 * 1024;

/// Any text of a few lines: what `equals` compares with.
pub const EXACT: Grammar = Grammar { name: "text", example: "success", pattern: "", max: 4096 };
/// PEM, with at least one certificate. 64 KiB is about 40 of them.
pub const PEM: Grammar = Grammar {
    name: "PEM certificates",
    example: "-----BEGIN CERTIFICATE-----…",
    pattern: "-----BEGIN CERTIFICATE-----",
    max: 64 * 1024,
};
/// A resource.
pub const KBS_URI: Grammar = Grammar {
    name: "kbs:///repository/type/tag",
    example: "kbs:///payments/db/password",
    pattern: "^kbs:///[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
    max: 800,
};
/// A resource or a sealed secret.
pub const SOURCE: Grammar = Grammar {
    name: "kbs:///… or sealed.…",
    example: "kbs:///payments/db/password",
    pattern: "^(kbs:///[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+|sealed\\.[A-Za-z0-9_.=-]+)$",
    max: MAX_SEALED,
};
/// The KBS's address.
pub const KBS_URL: Grammar = Grammar {
    name: "https://host[:port][/prefix]",
    example: "https://kbs.example:8443",
    pattern: "^https?://[^\\s@?#%\\\\]+$",
    max: 1024,
};
/// A path below the secrets directory.
pub const RELATIVE: Grammar = Grammar {
    name: "a relative path",
    example: "db/password",
    pattern: "^[A-Za-z0-9_@+.-]+(/[A-Za-z0-9_@+.-]+)*$",
    max: 512,
};
/// A directory.
pub const ABSOLUTE: Grammar = Grammar {
    name: "an absolute path",
    example: "/run/countersign/secrets",
    pattern: "^(/[A-Za-z0-9_@+.-]+)+$",
    max: 512,
};
/// Permission bits.
pub const MODE: Grammar = Grammar { name: "an octal mode", example: "0440", pattern: "^0?[0-7]{2}[0145]$", max: 4 };
/// A digest.
pub const SHA256: Grammar =
    Grammar { name: "64 hex digits", example: "9f86d081…", pattern: "^[0-9A-Fa-f]{64}$", max: 64 };
/// A Kubernetes namespace.
pub const NAMESPACE: Grammar = Grammar {
    name: "a Kubernetes namespace",
    example: "payments",
    pattern: "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
    max: 63,
};
/// A Kubernetes workload. 190 bytes, so that `<namespace>.<workload>` fits into one file name.
pub const WORKLOAD: Grammar =
    Grammar { name: "a Kubernetes name", example: "api", pattern: "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max: 190 };
/// One SPIFFE identity.
pub const SPIFFE: Grammar = Grammar {
    name: "spiffe://domain/path",
    example: "spiffe://example.org/ns/web/sa/api",
    pattern: "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$",
    max: 2048,
};
/// A set of peers.
pub const PEER_PATTERN: Grammar = Grammar {
    name: "spiffe://domain/path, `*` for one segment, or dns:name",
    example: "spiffe://example.org/ns/web/sa/*",
    pattern: "^(spiffe://[a-z0-9._-]+(/([A-Za-z0-9._-]+|\\*))+|dns:[a-z0-9-]+(\\.[a-z0-9-]+)*)$",
    max: 2048,
};
/// A DNS name.
pub const DNS: Grammar =
    Grammar { name: "a DNS name", example: "api.payments.svc", pattern: "^[a-z0-9-]+(\\.[a-z0-9-]+)*$", max: 253 };
/// An address to listen on.
pub const SOCKET: Grammar =
    Grammar { name: "address:port", example: "[::]:8443", pattern: "^[0-9A-Fa-f.:\\[\\]]+:[0-9]+$", max: 64 };
/// An address that only this pod can reach.
pub const LOCAL: Grammar = Grammar {
    name: "a loopback address:port, or unix:/path",
    example: "127.0.0.1:8080",
    pattern: "^([0-9A-Fa-f.:\\[\\]]+:[0-9]+|unix:(/[A-Za-z0-9_@+.-]+)+)$",
    max: 512,
};
/// A name and port to dial.
pub const HOST_PORT: Grammar = Grammar {
    name: "host:port",
    example: "db.payments.svc:5432",
    pattern: "^[A-Za-z0-9.:\\[\\]-]+:[1-9][0-9]{0,4}$",
    max: 300,
};
/// A path of the app's HTTP server.
pub const HTTP_PATH: Grammar =
    Grammar { name: "an HTTP path", example: "/healthz", pattern: "^/[A-Za-z0-9/._~-]*$", max: 256 };

/// An address that only this pod can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A literal loopback address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host, not resolved yet, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// DNS name or literal address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Source {
    /// Parses `kbs:///…` or `sealed.…`. A sealed secret is only recognised here, not verified.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("sealed.") {
            return KbsUri::parse(text).map(Self::Resource).map_err(|error| match error {
                kbs_uri::Error::Scheme => "must start with `kbs:///` or `sealed.`".to_owned(),
                other => other.to_string(),
            });
        }
        if text.len() > MAX_SEALED {
            return Err("is a sealed secret longer than 64 KiB".to_owned());
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=');
        if text.len() == "sealed.".len() || !text.bytes().all(plain) {
            return Err("is a sealed secret with characters that base64url does not have".to_owned());
        }
        Ok(Self::Sealed(text.to_owned()))
    }
}

impl For {
    /// Parses and checks both names.
    pub fn new(namespace_text: &str, workload_text: &str) -> Result<Self, &'static str> {
        Ok(Self { namespace: namespace(namespace_text)?, workload: workload(workload_text)? })
    }

    /// The compiled-in resource that holds this workload's configuration. A namespace has no dot,
    /// so no two pairs of names give the same resource.
    pub fn resource(&self) -> String {
        format!("kbs:///default/countersign/{}.{}", self.namespace, self.workload)
    }
}

/// A namespace: one DNS label.
pub(crate) fn namespace(text: &str) -> Result<String, &'static str> {
    if text.len() <= NAMESPACE.max && !text.contains('.') && dns_shape(text) {
        return Ok(text.to_owned());
    }
    Err("must be the name of a Kubernetes namespace: at most 63 of a-z 0-9 and `-`")
}

/// A workload's name: DNS labels with dots.
pub(crate) fn workload(text: &str) -> Result<String, &'static str> {
    if text.len() <= WORKLOAD.max && text.split('.').all(dns_shape) {
        return Ok(text.to_owned());
    }
    Err("must be the name of a Kubernetes workload: at most 190 of a-z 0-9 `-` and `.`")
}

fn dns_shape(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// `90s`, `5m`, `1h`: a whole number and one unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, factor) = [('s', 1), ('m', 60), ('h', 3600)]
        .into_iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))?;
    if number.is_empty() || number.len() > 9 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_secs)
}

/// Writes a duration as the configuration has it, in the largest unit that stays whole.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => "0s".to_owned(),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// Permission bits of a published file.
pub(crate) fn mode(text: &str) -> Result<u32, &'static str> {
    const WRONG: &str = "must be three or four octal digits, at most 0777";
    if !(3..=4).contains(&text.len()) || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return Err(WRONG);
    }
    match u32::from_str_radix(text, 8).map_err(|_| WRONG)? {
        bits if bits > 0o777 => Err(WRONG),
        bits if bits & 0o002 != 0 => Err("must not let others write"),
        bits => Ok(bits),
    }
}

/// A SHA-256 digest in hex.
pub(crate) fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    const WRONG: &str = "must be 64 hex digits";
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(WRONG);
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| WRONG)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| WRONG)?;
    }
    Ok(digest)
}

/// An absolute path of plain components, without a slash at the end.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    if text.len() > ABSOLUTE.max {
        return Err("is longer than 512 bytes");
    }
    let rest = text.strip_prefix('/').ok_or("must be absolute: start with `/`")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b'+');
    for part in rest.split('/') {
        if matches!(part, "" | "." | "..") {
            return Err("must be normalised: no `//`, `.`, `..` or `/` at the end, and not the root itself");
        }
        if !part.bytes().all(plain) {
            return Err("may hold only a-z A-Z 0-9 _ - . @ + and /");
        }
    }
    Ok(PathBuf::from(text))
}

/// A literal address and port to listen on.
pub(crate) fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err("must name a port from 1 to 65535"),
        Err(_) => Err("must be a literal address with a port, such as `[::]:8443` or `127.0.0.1:8443`"),
    }
}

/// A loopback address or a unix socket.
pub(crate) fn local(text: &str) -> Result<Local, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return absolute(path).map(Local::Unix);
    }
    match socket(text)? {
        address if address.ip().is_loopback() => Ok(Local::Tcp(address)),
        _ => Err("must be a loopback address (`127.0.0.1:8080`) or `unix:/path`: others would see it in plain"),
    }
}

/// A host and a port.
pub(crate) fn host_port(text: &str) -> Result<HostPort, &'static str> {
    let (host, port) = host_and_port(text)?;
    Ok(HostPort { host, port: port.ok_or("must name a port, such as `db.payments.svc:5432`")? })
}

/// A DNS name, in lower case.
pub(crate) fn dns(text: &str) -> Result<String, &'static str> {
    dns_name(text).map(|()| text.to_owned())
}

/// A path for a probe's GET: no query, nothing that needs escaping.
pub(crate) fn http_path(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'~' | b'-');
    if text.len() <= HTTP_PATH.max && text.starts_with('/') && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("must be a path such as `/healthz`: at most 256 of a-z A-Z 0-9 / . _ ~ -")
}

/// A non-empty text of limited length.
pub(crate) fn exact(text: &str) -> Result<String, &'static str> {
    match text.len() {
        0 => Err("is empty"),
        1..=4096 => Ok(text.to_owned()),
        _ => Err("is longer than 4096 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        for text in ["", "5", "m", "-5m", "+5m", "1.5h", "1h30m", "5 m", "5M", "9999999999h", "٣s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn no_mode_lets_others_write() {
        assert_eq!(mode("0440"), Ok(0o440));
        assert_eq!(mode("644"), Ok(0o644));
        for text in ["", "0", "0o440", "0442", "0777", "0666", "4755", "0888", "00440", "-440"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_is_absolute_and_normalised() {
        assert!(absolute("/run/countersign/secrets").is_ok());
        for text in ["", "/", "run", "/run/", "//run", "/run/../etc", "/run/./x", "/run/a b", "/run/\n"] {
            assert!(absolute(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_local_cannot_be_reached_from_outside() {
        for text in ["127.0.0.1:8080", "[::1]:8080", "unix:/run/app.sock"] {
            assert!(local(text).is_ok(), "{text}");
        }
        for text in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "localhost:80", "127.0.0.1:0", "unix:app.sock"] {
            assert!(local(text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_pairs_of_names_never_share_a_resource() {
        assert_eq!(For::new("payments", "api.v2").unwrap().resource(), "kbs:///default/countersign/payments.api.v2");
        for (namespace, workload) in
            [("pay.ments", "api"), ("", "api"), ("a", ""), ("A", "b"), ("a", "b/c"), ("a", "b.")]
        {
            assert!(For::new(namespace, workload).is_err(), "{namespace} {workload}");
        }
        let longest = For::new(&"a".repeat(63), &["b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".")).unwrap();
        assert!(KbsUri::parse(&longest.resource()).unwrap().tag().len() <= 255);
    }

    #[test]
    fn a_sealed_secret_is_recognised_and_bounded() {
        assert!(matches!(Source::parse("sealed.fake.e30.x"), Ok(Source::Sealed(_))));
        assert!(matches!(Source::parse("kbs:///a/b/c"), Ok(Source::Resource(_))));
        for text in ["", "sealed.", "sealed.a b", "sealed.\n", "Sealed.a", "http://x"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        assert!(Source::parse(&format!("sealed.{}", "a".repeat(MAX_SEALED))).is_err());
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_printed(seconds in 0u64..999_999_999) {
            let whole = Duration::from_secs(seconds);
            prop_assert_eq!(duration(&show_duration(whole)), Some(whole));
        }

        #[test]
        fn no_parser_panics(text in "\\PC{0,40}") {
            let _ = (duration(&text), mode(&text), sha256(&text), absolute(&text), socket(&text), local(&text));
            let _ = (host_port(&text), dns(&text), http_path(&text), Source::parse(&text), For::new(&text, &text));
        }
    }
}

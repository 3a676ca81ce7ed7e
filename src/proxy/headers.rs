//! Which headers of a caller never reach the app, and what is told in their place.

use std::net::SocketAddr;

use hyper::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::config::spiffe::PeerId;

/// Envoy's header, which apps and frameworks read.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers by which some server, proxy or framework says who calls. A caller's copy is a lie by
/// definition: who calls is what the handshake proved.
const FORGED: &[&str] = &[
    "forwarded",
    "x-real-ip",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-client-dn",
    "x-client-verify",
    "l5d-client-id",
];

/// The same, by how they begin.
const FORGED_PREFIXES: &[&str] = &["x-forwarded-", "x-ssl-client", "ssl-client", "x-tls-client", "x-spiffe"];

/// Whether a header claims who calls. `_` counts as `-`: CGI and WSGI make the two the same
/// (CVE-2025-64484).
pub fn is_forged(name: &str) -> bool {
    // In place: this is asked of every header of every request.
    let begins = |with: &str| {
        let plain = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
        name.len() >= with.len() && plain.zip(with.bytes()).all(|(byte, other)| byte == other)
    };
    FORGED.iter().any(|forged| forged.len() == name.len() && begins(forged))
        || FORGED_PREFIXES.iter().any(|prefix| begins(prefix))
}

/// Hop-by-hop without being named (RFC 9110 §7.6.1).
const HOPS: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// Removes what `Connection` names, and what is hop-by-hop without being named.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Those that say where a message ends, or whom it is for, are nobody's to take away.
        .filter(|name| *name != HOST && *name != hyper::header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove_where(headers, |name| HOPS.contains(name));
}

/// Most messages have none of those that are asked for: to look at each name costs less than to look for each.
fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Removes what is hop-by-hop from a caller's request, then every spelling of what claims who calls.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_hops(headers);
    strip_forged(headers);
}

/// Removes what is hop-by-hop from a request.
pub fn strip_hops(headers: &mut HeaderMap) {
    let trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")))
    });
    strip_hop_by_hop(headers);
    // What is expected was ours to answer, and is answered.
    remove_where(headers, |name| name == TE || name == EXPECT);
    if trailers {
        // gRPC servers insist on it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes one of the pieces that a cookie may come in over HTTP/2, and over HTTP/2 only (RFC 9113 §8.2.3). An app
/// that takes the first one would lack the others.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Removes every spelling of what claims who calls: of headers, and of trailers.
pub fn strip_forged(headers: &mut HeaderMap) {
    remove_where(headers, |name| is_forged(name.as_str()));
}

/// Removes what is hop-by-hop from the app's answer. `Trailer` stays: it is a promise to the caller.
pub fn strip_response(headers: &mut HeaderMap) {
    let trailer = headers.get(TRAILER).cloned();
    strip_hop_by_hop(headers);
    if let Some(trailer) = trailer {
        headers.insert(TRAILER, trailer);
    }
    headers.remove(XFCC);
}

/// What is told of one peer's connection. Made once for all its requests.
#[derive(Clone, Debug)]
pub struct Told {
    xfcc: Option<HeaderValue>,
    from: HeaderValue,
}

impl Told {
    /// Of `peer`, whose certificate has the SHA-256 `hash` and who calls from `from`; `ours` is who we
    /// are. `xfcc` is whether identity is told at all.
    pub fn new(xfcc: bool, ours: Option<&PeerId>, peer: &PeerId, hash: &str, from: SocketAddr) -> Self {
        // Identities have no character that would need quotes.
        let by = match ours {
            Some(PeerId::Spiffe(id)) => format!("By={id};"),
            Some(PeerId::Dns(_)) | None => String::new(),
            #[cfg(feature = "compat")]
            Some(PeerId::Certificate(_)) => String::new(),
        };
        let who = match peer {
            PeerId::Spiffe(id) => format!(";URI={id}"),
            PeerId::Dns(name) => format!(";DNS={name}"),
            // `Hash` has said it.
            #[cfg(feature = "compat")]
            PeerId::Certificate(_) => String::new(),
        };
        let value = |text: String| HeaderValue::from_str(&text).ok();
        let address = from.ip().to_canonical().to_string();
        Self {
            xfcc: if xfcc { value(format!("{by}Hash={hash}{who}")) } else { None },
            from: value(address).unwrap_or_else(|| HeaderValue::from_static("unknown")),
        }
    }

    /// Tells it. Comes after stripping.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if let Some(xfcc) = &self.xfcc {
            headers.insert(XFCC, xfcc.clone());
        }
        headers.insert(FORWARDED_FOR, self.from.clone());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spiffe::SpiffeId;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn every_spelling_of_a_claim_is_stripped() {
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "X_FORWARDED_FOR",
            "x-forwarded-for",
            "x-forwarded-anything-new",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "client-cert",
            "ssl-client-subject-dn",
            "x-ssl-client-verify",
            "l5d-client-id",
        ] {
            let mut headers = map(&[(name, "spiffe://evil/a"), ("accept", "*/*")]);
            strip_request(&mut headers);
            assert_eq!(headers.len(), 1, "{name}");
        }
        for name in ["x-forward", "accept", "x-request-id", "traceparent", "authorization", "cookie"] {
            assert!(!is_forged(name), "{name}");
        }
    }

    #[test]
    fn what_connection_names_goes_before_we_say_who_calls() {
        let mut headers = map(&[
            ("connection", "close, X-Forwarded-Client-Cert, x-mine, host, content-length"),
            ("x-mine", "1"),
            ("host", "api"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("te", "gzip, trailers"),
            ("expect", "100-continue"),
        ]);
        strip_request(&mut headers);
        let peer = PeerId::Spiffe(SpiffeId::parse("spiffe://example.org/ns/web/sa/api").unwrap());
        let told = Told::new(true, Some(&peer), &peer, "ab12", "[::ffff:10.1.2.3]:99".parse().unwrap());
        told.tell(&mut headers);
        let get = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(
            get("x-forwarded-client-cert"),
            Some("By=spiffe://example.org/ns/web/sa/api;Hash=ab12;URI=spiffe://example.org/ns/web/sa/api")
        );
        assert_eq!((get("x-mine"), get("upgrade"), get("expect"), get("connection")), (None, None, None, None));
        assert_eq!((get("host"), get("content-length"), get("te")), (Some("api"), Some("3"), Some("trailers")));
        assert_eq!((get("x-forwarded-for"), get("x-forwarded-host")), (Some("10.1.2.3"), Some("api")));
    }

    #[test]
    fn the_pieces_of_a_cookie_are_one() {
        let mut headers = map(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
        join_cookies(&mut headers);
        let whole: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(whole, ["a=1; b=2; c=3; d=4"]);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn nothing_is_told_where_nothing_is_to_be() {
        let peer = PeerId::Dns("web.example".to_owned());
        let told = Told::new(false, None, &peer, "ab12", "10.1.2.3:99".parse().unwrap());
        let mut headers = map(&[]);
        told.tell(&mut headers);
        assert!(headers.get(XFCC).is_none());
    }
}

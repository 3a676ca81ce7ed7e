//! SPIFFE identities, and patterns over them. <https://github.com/spiffe/spiffe> (SPIFFE-ID §2).

use std::fmt;

/// `spiffe://<trust domain>/<path>`, one identity: at least one path segment, no `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(String);

/// As [`SpiffeId`], where a segment may be `*`: exactly one whole segment, whatever it is. The
/// trust domain is never a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffePattern(String);

impl SpiffeId {
    /// Parses; the message says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        check(text, false).map(|()| Self(text.to_owned()))
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffePattern {
    /// Parses; the message says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        check(text, true).map(|()| Self(text.to_owned()))
    }

    /// Whether `id` is one of the identities meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let (mut ours, mut theirs) = (self.0.split('/'), id.0.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(mine), Some(other)) if mine == "*" || mine == other => {}
                _ => return false,
            }
        }
    }

    /// Whether there is an identity that both mean.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(mine), Some(other)) if mine == "*" || other == "*" || mine == other => {}
                _ => return false,
            }
        }
    }

    /// The whole pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who a peer's certificate says it is: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// Its one URI.
    Spiffe(SpiffeId),
    /// Its one DNS name, where it has no URI. Lower case.
    Dns(String),
    /// No name was asked for: the SHA-256 of its certificate, hex. On no list, so no list lets it in.
    #[cfg(feature = "compat")]
    Certificate(String),
}

impl PeerId {
    /// Parses what [`PeerId`] prints of a name, `spiffe://…` or `dns:…`; the message says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("dns:") {
            Some(name) => super::grammar::dns(name).map(Self::Dns),
            None => SpiffeId::parse(text).map(Self::Spiffe),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => id.fmt(f),
            Self::Dns(name) => write!(f, "dns:{name}"),
            #[cfg(feature = "compat")]
            Self::Certificate(hash) => write!(f, "certificate:{hash}"),
        }
    }
}

/// An entry of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerPattern {
    /// `spiffe://…`, where a segment may be `*`.
    Spiffe(SpiffePattern),
    /// `dns:name`, exactly.
    Dns(String),
}

impl PeerPattern {
    /// Parses; the message says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("dns:") {
            Some(name) => super::grammar::dns(name).map(Self::Dns),
            None if text.starts_with("spiffe://") => SpiffePattern::parse(text).map(Self::Spiffe),
            None => Err("must start with `spiffe://` or `dns:`"),
        }
    }

    /// Whether `id` is one of those meant.
    pub fn matches(&self, id: &PeerId) -> bool {
        match (self, id) {
            (Self::Spiffe(pattern), PeerId::Spiffe(id)) => pattern.matches(id),
            (Self::Dns(name), PeerId::Dns(other)) => name == other,
            _ => false,
        }
    }
}

impl PeerPattern {
    /// Whether there is an identity that both mean.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Spiffe(one), Self::Spiffe(other)) => one.overlaps(other),
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(pattern) => pattern.fmt(f),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, pattern: bool) -> Result<(), &'static str> {
    // SPIFFE-ID §2.3: at most 2048 bytes in all, 255 for the trust domain.
    if text.len() > 2048 {
        return Err("is longer than 2048 bytes");
    }
    let rest = text.strip_prefix("spiffe://").ok_or("must start with `spiffe://`")?;
    let (domain, path) = rest.split_once('/').ok_or("must have a path after the trust domain")?;
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(in_domain) {
        return Err("must have a trust domain of a-z 0-9 . - _ (no port, no `*`)");
    }
    let in_segment = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") {
            return Err("must not have empty, `.` or `..` segments, or a `/` at the end");
        }
        if segment == "*" && pattern {
            continue;
        }
        if segment.contains('*') {
            return Err(if pattern {
                "may have `*` only as a whole segment"
            } else {
                "must be one identity: `*` is not allowed here"
            });
        }
        if !segment.bytes().all(in_segment) {
            return Err("may have only a-z A-Z 0-9 . - _ in its segments");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_is_exactly_one_whole_segment() {
        let pattern = SpiffePattern::parse("spiffe://example.org/ns/web/sa/*").unwrap();
        let matches = |text| pattern.matches(&SpiffeId::parse(text).unwrap());
        assert!(matches("spiffe://example.org/ns/web/sa/api"));
        for text in [
            "spiffe://example.org/ns/web/sa",
            "spiffe://example.org/ns/web/sa/api/admin",
            "spiffe://example.org/ns/other/sa/api",
            "spiffe://example.org.evil/ns/web/sa/api",
        ] {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn patterns_overlap_where_one_identity_is_meant_by_both() {
        let overlap = |a, b| PeerPattern::parse(a).unwrap().overlaps(&PeerPattern::parse(b).unwrap());
        assert!(overlap("spiffe://a.org/*/x", "spiffe://a.org/y/*"));
        assert!(overlap("spiffe://a.org/y/x", "spiffe://a.org/y/*"));
        assert!(overlap("dns:a", "dns:a"));
        assert!(!overlap("spiffe://a.org/y/x", "spiffe://a.org/y/x/*"));
        assert!(!overlap("spiffe://a.org/*/x", "spiffe://a.org/*/y"));
        assert!(!overlap("spiffe://a.org/*", "spiffe://b.org/*"));
        assert!(!overlap("dns:a", "spiffe://a/a"));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe:///ns/a",
            "https://example.org/a",
            "SPIFFE://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org:443/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/a//b",
            "spiffe://example.org/a/",
            "spiffe://example.org/%61",
            "spiffe://example.org/a?b",
            "spiffe://*/a",
            "spiffe://example.org/a*",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
            assert!(SpiffePattern::parse(text).is_err(), "{text}");
        }
        assert!(SpiffeId::parse("spiffe://example.org/*").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,60}") {
            let _ = (SpiffeId::parse(&text), SpiffePattern::parse(&text));
        }

        #[test]
        fn an_identity_matches_itself_as_a_pattern(path in "(/[A-Za-z0-9_-]{1,8}){1,6}") {
            let text = format!("spiffe://example.org{path}");
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert!(SpiffePattern::parse(&text).unwrap().matches(&id));
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

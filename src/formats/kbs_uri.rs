//! Names of KBS resources: `kbs:///<repository>/<type>/<tag>`.

use std::fmt;

/// A resource at the KBS, in the form that Trustee accepts: exactly three segments, each
/// `[a-zA-Z0-9_-]+[a-zA-Z0-9_.-]*`. No host, no query: a value of this type can be put into a URL
/// path as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KbsUri {
    path: String,
}

/// Longest URI accepted, bytes. Trustee has no limit of its own; file systems behind it stop at
/// 255 per segment.
const MAX_LEN: usize = 800;

/// Why a text is not the name of a KBS resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another scheme, or none.
    #[error("does not start with `kbs:///`")]
    Scheme,
    /// `kbs+plugin://…`.
    #[error("names a KBS plugin (`kbs+…`); only the resource plugin can be read through the guest")]
    Plugin,
    /// `kbs://host/…`.
    #[error("has a host part: Trustee's tools ignore it, so it would not choose the KBS; write `kbs:///…`")]
    Host,
    /// A query or fragment.
    #[error("has a query or fragment, which the guest's REST service does not pass on")]
    Query,
    /// Not three segments.
    #[error("must have exactly three segments: kbs:///<repository>/<type>/<tag>")]
    Segments,
    /// A character that Trustee refuses.
    #[error("has a segment that is empty, starts with a dot, or holds a character other than a-z A-Z 0-9 _ - .")]
    Character,
    /// Absurdly long.
    #[error("is longer than 800 bytes")]
    Length,
}

impl KbsUri {
    /// Parses the strict form. What our own configuration must be written in.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (host, path) = split(text)?;
        if !host.is_empty() {
            return Err(Error::Host);
        }
        Self::from_path(path)
    }

    /// Parses as Trustee's own tools do: a host part is allowed and ignored. For names inside
    /// sealed secrets, which those tools write.
    pub fn parse_ignoring_host(text: &str) -> Result<Self, Error> {
        split(text).and_then(|(_, path)| Self::from_path(path))
    }

    fn from_path(path: &str) -> Result<Self, Error> {
        if path.contains(['?', '#']) {
            return Err(Error::Query);
        }
        let segments: Vec<&str> = path.split('/').collect();
        if segments.len() != 3 {
            return Err(Error::Segments);
        }
        if !segments.iter().all(|segment| is_segment(segment)) {
            return Err(Error::Character);
        }
        Ok(Self { path: path.to_owned() })
    }

    /// `<repository>/<type>/<tag>`, safe as a URL path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The last segment.
    pub fn tag(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for KbsUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kbs:///{}", self.path)
    }
}

/// Whether `text` could stand as one segment.
pub fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn split(text: &str) -> Result<(&str, &str), Error> {
    if text.len() > MAX_LEN {
        return Err(Error::Length);
    }
    if text.starts_with("kbs+") {
        return Err(Error::Plugin);
    }
    let rest = text.strip_prefix("kbs://").ok_or(Error::Scheme)?;
    rest.split_once('/').ok_or(Error::Segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_form_that_trustee_accepts() {
        let uri = KbsUri::parse("kbs:///payments/db/password.v-1_2").unwrap();
        assert_eq!(uri.path(), "payments/db/password.v-1_2");
        assert_eq!(uri.tag(), "password.v-1_2");
        assert_eq!(uri.to_string(), "kbs:///payments/db/password.v-1_2");
    }

    #[test]
    fn refuses_what_trustee_refuses_or_would_not_mean() {
        for (text, error) in [
            ("http://a/b/c", Error::Scheme),
            ("kbs+pkcs11:///a/b/c", Error::Plugin),
            ("kbs://kbs.example:8080/a/b/c", Error::Host),
            ("kbs:///a/b/c?x=1", Error::Query),
            ("kbs:///a/b", Error::Segments),
            ("kbs:///a/b/c/d", Error::Segments),
            ("kbs://a", Error::Segments),
            ("kbs:///a/../c", Error::Character),
            ("kbs:///a/%2e/c", Error::Character),
            ("kbs:///a//c", Error::Character),
            ("kbs:///a/b/é", Error::Character),
            ("kbs:///a/b/c\n", Error::Character),
        ] {
            assert_eq!(KbsUri::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_host_is_ignored_only_where_asked() {
        let uri = KbsUri::parse_ignoring_host("kbs://other.example:8080/a/b/c").unwrap();
        assert_eq!(uri.to_string(), "kbs:///a/b/c");
    }
}

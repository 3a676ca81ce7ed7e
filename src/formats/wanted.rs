//! The names that somebody wants a certificate for (`docs/protocol.md` §7): text, a name a line, the
//! identity first.

use crate::config::spiffe::{PeerId, SpiffeId};

/// Most bytes, 4 KiB: a SPIFFE identity of the largest size, and some names.
pub const MAX_BYTES: usize = 4 * 1024;

/// Most names: an identity, and as many as `identity.dns` may hold.
const MAX_NAMES: usize = 17;

/// Names of one certificate: one SPIFFE identity and any DNS names, or exactly one DNS name. Else nobody
/// could tell whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    names: Vec<PeerId>,
}

/// Why a text names nobody. Each message continues "the names …" and quotes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`], or not text.
    #[error("are not text of at most 4 KiB")]
    Text,
    /// None, or too many.
    #[error("are none, or more than 17")]
    Count,
    /// One that is no name. A pattern is none.
    #[error("hold one that is no exact `spiffe://…` and no exact `dns:…`")]
    Name,
    /// A name twice.
    #[error("hold one twice")]
    Twice,
    /// Several that could be the identity.
    #[error("are not one SPIFFE identity, first, with DNS names behind it, or one DNS name alone")]
    Identity,
}

impl Wanted {
    /// Of configuration. `None` where it names nobody, or several.
    pub fn of(spiffe: Option<&SpiffeId>, dns: &[String]) -> Option<Self> {
        let names = spiffe.cloned().map(PeerId::Spiffe).into_iter().chain(dns.iter().cloned().map(PeerId::Dns));
        let wanted = Self { names: names.collect() };
        (wanted.check().is_ok() && wanted.text().len() <= MAX_BYTES).then_some(wanted)
    }

    /// Parses, strictly: what is accepted is exactly what [`Wanted::text`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_BYTES).ok_or(Error::Text)?;
        let names: Result<Vec<_>, _> = text.split('\n').take(MAX_NAMES.saturating_add(1)).map(PeerId::parse).collect();
        let wanted = Self { names: names.map_err(|_| Error::Name)? };
        wanted.check().map(|()| wanted)
    }

    fn check(&self) -> Result<(), Error> {
        let Some((first, others)) = self.names.split_first().filter(|_| self.names.len() <= MAX_NAMES) else {
            return Err(Error::Count);
        };
        let alone = matches!(first, PeerId::Dns(_)) && !others.is_empty();
        if alone || others.iter().any(|name| !matches!(name, PeerId::Dns(_))) {
            return Err(Error::Identity);
        }
        let twice = (1_usize..).zip(others).any(|(at, name)| self.names.iter().take(at).any(|before| before == name));
        if twice { Err(Error::Twice) } else { Ok(()) }
    }

    /// As sent.
    pub fn text(&self) -> String {
        self.names.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// Who whoever bears them is to peers.
    pub fn identity(&self) -> Option<&PeerId> {
        self.names.first()
    }

    /// All of them, the identity first.
    pub fn names(&self) -> &[PeerId] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const API: &str = "spiffe://example.org/ns/payments/sa/api";

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [API.to_owned(), format!("{API}\ndns:api.payments.svc\ndns:api"), "dns:api".to_owned()] {
            assert_eq!(Wanted::parse(text.as_bytes()).map(|wanted| wanted.text()), Ok(text));
        }
        let id = SpiffeId::parse(API).unwrap();
        let wanted = Wanted::of(Some(&id), &["api".to_owned()]).unwrap();
        assert_eq!((wanted.text(), wanted.identity()), (format!("{API}\ndns:api"), Some(&PeerId::Spiffe(id))));
        assert_eq!(Wanted::of(None, &[]), None);
        assert_eq!(Wanted::of(None, &["a".to_owned(), "b".to_owned()]), None);
    }

    #[test]
    fn a_pattern_or_several_identities_are_nobodys_names() {
        let refused = |text: &str| Wanted::parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused(""), Error::Name);
        assert_eq!(refused("spiffe://example.org/ns/*/sa/api"), Error::Name, "a pattern is no identity");
        assert_eq!(refused("dns:*.payments.svc"), Error::Name);
        assert_eq!(refused(&format!("{API}\n")), Error::Name, "a line without a name");
        assert_eq!(refused(&format!("{API}\r\ndns:api")), Error::Name);
        assert_eq!(refused(&format!("{API}\nspiffe://example.org/x")), Error::Identity);
        assert_eq!(refused("dns:a\ndns:b"), Error::Identity);
        assert_eq!(refused(&format!("dns:a\n{API}")), Error::Identity, "the identity stands first");
        assert_eq!(refused(&format!("{API}\ndns:a\ndns:a")), Error::Twice);
        assert_eq!(refused(&format!("{API}{}", "\ndns:a".repeat(17))), Error::Count);
        assert_eq!(Wanted::parse(&[0xff]), Err(Error::Text));
        assert_eq!(Wanted::parse(&[b'a'; MAX_BYTES + 1]), Err(Error::Text));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wanted) = Wanted::parse(&bytes) {
                prop_assert_eq!(wanted.text().into_bytes(), bytes);
            }
        }
    }
}

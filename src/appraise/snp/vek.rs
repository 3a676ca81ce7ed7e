//! What the certificate of a chip's key (VCEK) or a cloud's key (VLEK) says beside the key: the TCB
//! that the key was derived for, the chip, the cloud.
//!
//! Source: AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
//! (document 57230), tables 8 and 9, and its VLEK counterpart.

use x509_parser::prelude::X509Certificate;

use crate::evidence::snp::Tcb;
use crate::finding::printable;

/// AMD's arc of extensions: 1.3.6.1.4.1.3704.1.
const ARC: [u64; 8] = [1, 3, 6, 1, 4, 1, 3704, 1];

/// Bytes of a chip id before Turin.
const LONG_ID: usize = 64;

/// Bytes of a chip id from Turin on.
const SHORT_ID: usize = 8;

/// Which key signs reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The chip's own.
    Vcek,
    /// A cloud's, the same on all of its chips.
    Vlek,
}

/// A certificate's extensions, and what kind it is.
pub(super) struct Vek {
    pub(super) kind: KeyKind,
    pub(super) tcb: Tcb,
    /// The chip: 8 or 64 bytes. A VLEK has none.
    pub(super) hwid: Option<Vec<u8>>,
    /// The cloud, printable. A VCEK has none.
    pub(super) csp: Option<String>,
}

impl KeyKind {
    /// AMD's name of it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        }
    }

    /// By the subject that AMD gives.
    pub fn of(certificate: &X509Certificate<'_>) -> Option<Self> {
        match common_name(certificate)? {
            "SEV-VCEK" => Some(Self::Vcek),
            "SEV-VLEK" => Some(Self::Vlek),
            _ => None,
        }
    }
}

impl Vek {
    /// Reads it; `None` where a part that must be there is absent, stands twice, or has another form.
    pub(super) fn read(certificate: &X509Certificate<'_>) -> Option<Self> {
        let kind = KeyKind::of(certificate)?;
        let level = |member| extension(certificate, &[3, member])?.map_or(Some(None), |value| small(value).map(Some));
        let tcb =
            Tcb { bootloader: level(1)??, tee: level(2)??, snp: level(3)??, microcode: level(8)??, fmc: level(9)? };
        let hwid = match extension(certificate, &[4])? {
            Some(value) => Some(chip(value)?),
            None => None,
        };
        let csp = extension(certificate, &[5])?.map(text);
        // Each kind has its own: a VCEK without a chip is none.
        let fits = match kind {
            KeyKind::Vcek => hwid.is_some() && csp.is_none(),
            KeyKind::Vlek => hwid.is_none() && csp.is_some(),
        };
        fits.then_some(Self { kind, tcb, hwid, csp })
    }

    /// Whether it is for this chip. The report's field is wider than a short id.
    pub(super) fn is_for(&self, chip_id: &[u8; LONG_ID]) -> bool {
        self.hwid.as_deref().is_some_and(|hwid| is_chip(hwid, chip_id))
    }
}

/// Whether a certificate's chip id, 8 or 64 bytes, is the report's.
pub(super) fn is_chip(hwid: &[u8], chip_id: &[u8; LONG_ID]) -> bool {
    let (ours, rest) = chip_id.split_at_checked(hwid.len()).unwrap_or((&[], chip_id));
    ours == hwid && rest.iter().all(|byte| *byte == 0)
}

/// The one common name of the subject.
pub(super) fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    names.next().is_none().then_some(name)
}

/// An extension of AMD's: outer `None` where it stands twice.
/// Where it stands twice it cannot be read, which is another thing than that it is not there.
#[allow(clippy::option_option)]
fn extension<'a>(certificate: &'a X509Certificate<'_>, below: &[u64]) -> Option<Option<&'a [u8]>> {
    let mut found = certificate.extensions().iter().filter(|extension| {
        let oid: Option<Vec<u64>> = extension.oid.iter().map(Iterator::collect);
        oid.is_some_and(|oid| oid.strip_prefix(&ARC) == Some(below))
    });
    let first = found.next().map(|extension| extension.value);
    if found.next().is_some() { None } else { Some(first) }
}

/// A DER INTEGER from 0 to 255, in its shortest form.
fn small(der: &[u8]) -> Option<u8> {
    match der {
        [2, 1, value @ 0..=0x7f] | [2, 2, 0, value @ 0x80..=0xff] => Some(*value),
        _ => None,
    }
}

/// A chip id: the bare bytes, as AMD writes them, or an OCTET STRING of them, as newer ones are.
fn chip(value: &[u8]) -> Option<Vec<u8>> {
    let bytes = match value {
        [4, 64, bytes @ ..] if bytes.len() == LONG_ID => bytes,
        [4, 8, bytes @ ..] if bytes.len() == SHORT_ID => bytes,
        bytes => bytes,
    };
    matches!(bytes.len(), LONG_ID | SHORT_ID).then(|| bytes.to_vec())
}

/// An `IA5String`'s or `UTF8String`'s content, printable.
fn text(der: &[u8]) -> String {
    let content = match der {
        [0x16 | 0x0c, length, content @ ..] if usize::from(*length) == content.len() => content,
        other => other,
    };
    printable(&String::from_utf8_lossy(content), 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_version_numbers_are_small_integers_in_their_shortest_form() {
        for (der, value) in [(&[2, 1, 0][..], Some(0)), (&[2, 1, 127], Some(127)), (&[2, 2, 0, 0xd1], Some(0xd1))] {
            assert_eq!(small(der), value);
        }
        for der in [&[2, 1, 0x80][..], &[2, 2, 0, 1], &[2, 2, 1, 0], &[2, 1], &[4, 1, 1], &[2, 1, 1, 0], &[]] {
            assert_eq!(small(der), None, "{der:?}");
        }
    }

    #[test]
    fn a_chip_id_has_8_or_64_bytes_bare_or_wrapped() {
        assert_eq!(chip(&[7; 64]).unwrap().len(), 64);
        assert_eq!(chip(&[7; 8]), Some(vec![7; 8]));
        assert_eq!(chip(&[&[4, 8][..], &[7; 8]].concat()), Some(vec![7; 8]));
        assert_eq!(chip(&[&[4, 64][..], &[7; 64]].concat()), Some(vec![7; 64]));
        for length in [0, 1, 7, 9, 63, 65] {
            assert_eq!(chip(&vec![4; length]), None, "{length}");
        }
    }
}

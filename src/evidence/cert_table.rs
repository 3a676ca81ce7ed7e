//! The certificate table that comes with an SNP report (configfs `auxblob`, or `SNP_GET_EXT_REPORT`).
//!
//! The host fills it. Nothing in it is believed: certificates prove themselves by their chain.
//! Form: AMD's "Guest-Hypervisor Communication Block Standardization" (document 56421), §4.1.8.1.

use serde::Serialize;

use super::bytes::{array, put, slice, u32_at};

/// Bytes of one entry: GUID 16, offset 4, length 4.
const ENTRY: usize = 24;

/// Most entries read, the closing one included. AMD defines five kinds; a bound of ours.
const MAX_ENTRIES: usize = 32;

/// Most bytes of a table, 64 KiB. The kernel's buffer for it has 16 KiB (`SEV_FW_BLOB_MAX_SIZE`).
pub const MAX_BYTES: usize = 64 * 1024;

/// Kinds that AMD defines, with their GUIDs, bytes in the order of the printed text.
const KINDS: [(&str, [u8; 16]); 5] = [
    ("VCEK", *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd"),
    ("VLEK", *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1"),
    ("ASK", *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82"),
    ("ARK", *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae"),
    ("CRL", *b"\x92\xf8\x1b\xc3\x58\x11\x4d\x3d\x97\xff\xd1\x9f\x88\xdc\x67\xea"),
];

/// Why bytes are no table. Each message continues "the certificate table …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("is longer than 65536 bytes")]
    TooLong,
    /// No entry of zeros ends it.
    #[error("has no entry of zeros at its end")]
    NoEnd,
    /// An entry points outside.
    #[error("has an entry that points outside it")]
    OutOfBounds,
}

/// One certificate, in Trustee's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `VCEK`, `VLEK`, `ASK`, `ARK` or `CRL`.
    pub cert_type: &'static str,
    /// DER, as it stood in the table.
    pub data: Vec<u8>,
}

/// Reads a table. Left out are kinds that AMD does not define, for which Trustee has no use, and
/// entries without bytes.
///
/// An empty table is a host that gave no certificates, which is usual; so is one of zeros, since
/// the kernel hands on its buffer.
pub fn parse(table: &[u8]) -> Result<Vec<Entry>, Error> {
    if table.len() > MAX_BYTES {
        return Err(Error::TooLong);
    }
    let mut entries = Vec::new();
    if table.is_empty() {
        return Ok(entries);
    }
    for index in 0..MAX_ENTRIES {
        let at = index.saturating_mul(ENTRY);
        let guid: [u8; 16] = array(table, at).ok_or(Error::NoEnd)?;
        let offset = u32_at(table, at.saturating_add(16)).ok_or(Error::NoEnd)?;
        let length = u32_at(table, at.saturating_add(20)).ok_or(Error::NoEnd)?;
        if guid == [0; 16] && offset == 0 && length == 0 {
            return Ok(entries);
        }
        let start = usize::try_from(offset).map_err(|_| Error::OutOfBounds)?;
        let data = slice(table, start, length).ok_or(Error::OutOfBounds)?;
        if let Some((cert_type, _)) = KINDS.iter().find(|(_, known)| *known == guid)
            && !data.is_empty()
        {
            entries.push(Entry { cert_type, data: data.to_vec() });
        }
    }
    Err(Error::NoEnd)
}

/// A table of these entries, as a host lays it out: entries, the closing one, certificates. For the
/// testbed. Entries of a kind that AMD does not define are left out.
pub fn to_bytes(entries: &[Entry]) -> Vec<u8> {
    let known: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            KINDS.iter().find(|(name, _)| *name == entry.cert_type).map(|(_, guid)| (guid, &entry.data))
        })
        .collect();
    let mut out = vec![0; known.len().saturating_add(1).saturating_mul(ENTRY)];
    for (index, (guid, data)) in known.into_iter().enumerate() {
        let at = index.saturating_mul(ENTRY);
        put(&mut out, at, guid);
        // A table of more than 4 GiB cannot be written down; saturated, it does not parse.
        let [offset, length] = [out.len(), data.len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut out, at.saturating_add(16), &offset);
        put(&mut out, at.saturating_add(20), &length);
        out.extend_from_slice(data);
    }
    out
}

/// The entries as Trustee takes them: `None` where there is no VCEK and no VLEK, since it refuses a
/// list without one; given none, it fetches the VCEK itself.
pub fn chain(entries: Vec<Entry>) -> Option<Vec<Entry>> {
    entries.iter().any(|entry| matches!(entry.cert_type, "VCEK" | "VLEK")).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(cert_type: &'static str, data: &[u8]) -> Entry {
        Entry { cert_type, data: data.to_vec() }
    }

    #[test]
    fn a_table_gives_its_certificates_in_order() {
        let entries = vec![entry("VCEK", b"vcek"), entry("ASK", b"ask"), entry("CRL", b"crl")];
        assert_eq!(parse(&to_bytes(&entries)), Ok(entries.clone()));
        assert_eq!(chain(entries.clone()), Some(entries));
    }

    #[test]
    fn a_host_without_certificates_is_no_error() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(&[0; 4096]), Ok(vec![]));
    }

    #[test]
    fn a_chain_without_a_signing_certificate_is_none_never_an_empty_list() {
        assert_eq!(chain(vec![]), None);
        assert_eq!(chain(vec![entry("ASK", b"ask"), entry("ARK", b"ark")]), None);
        assert!(chain(vec![entry("VLEK", b"vlek")]).is_some());
    }

    #[test]
    fn unknown_kinds_and_empty_entries_are_left_out() {
        let mut table = to_bytes(&[entry("VCEK", b"vcek"), entry("ARK", b""), entry("ASK", b"ask")]);
        table[0] ^= 1;
        assert_eq!(parse(&table), Ok(vec![entry("ASK", b"ask")]));
    }

    #[test]
    fn an_entry_that_points_outside_is_refused() {
        for at in [16, 20] {
            let mut table = to_bytes(&[entry("VCEK", b"vcek")]);
            table[at..at + 4].fill(0xff);
            assert_eq!(parse(&table), Err(Error::OutOfBounds));
        }
    }

    #[test]
    fn a_table_without_an_end_is_refused() {
        let table = to_bytes(&[entry("VCEK", b"vcek")]);
        assert_eq!(parse(&table[..ENTRY]), Err(Error::OutOfBounds));
        assert_eq!(parse(&[0; ENTRY - 1]), Err(Error::NoEnd));
        let endless: Vec<u8> =
            std::iter::repeat_n(&table[..16], 64).flat_map(|guid| [guid, &[0; 8]].concat()).collect();
        assert_eq!(parse(&endless), Err(Error::NoEnd));
    }

    #[test]
    fn an_oversize_table_is_refused_before_it_is_read() {
        assert_eq!(parse(&vec![0; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes).map(chain);
        }

        #[test]
        fn a_table_with_one_changed_byte_never_panics(at in 0_usize..60, byte in any::<u8>()) {
            let mut table = to_bytes(&[entry("VCEK", b"vcek"), entry("ASK", b"ask")]);
            table[at] = byte;
            let _ = parse(&table);
        }
    }
}

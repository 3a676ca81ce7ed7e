//! Confidential computing event logs (ACPI table CCEL): where the last event ends.
//!
//! The table is a fixed area that firmware fills from the front; the rest is padding of zeros or
//! ones. Format: TCG "PC Client Platform Firmware Profile", §10: one event in the old form that
//! names the digest algorithms, then events in the crypto-agile form.
//!
//! The rules are those of Trustee's own guest (guest-components v0.21, `attester/src/utils.rs`), so
//! that what we send is what it would send. In one thing we are more tolerant: a log that fills its
//! table to the last byte has no padding, and is taken whole.

use super::bytes::{slice, u16_at, u32_at};

/// Most bytes of a log, 4 MiB: tables of 64 KiB and 1 MiB have been seen, and Trustee takes 2 MiB
/// in a request. A bound of ours.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of the first event before its data: register 4, type 4, SHA-1 digest 20, length 4.
const FIRST_HEAD: usize = 32;

/// Type of the first event: it measures nothing, it names the algorithms (`EV_NO_ACTION`).
const EV_NO_ACTION: u32 = 3;

/// Bytes that end the log where they stand in place of an event.
const PADDING: usize = 8;

/// Most digests of one event. The specification lists seven algorithms; a bound of ours.
const MAX_DIGESTS: u32 = 16;

/// Why bytes are no event log. Each message continues "the event log …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("is longer than 4 MiB")]
    TooLong,
    /// The first event is not the one that names the algorithms.
    #[error("does not start with the event that names its algorithms")]
    FirstEvent,
    /// An event ends outside the log.
    #[error("ends in the middle of an event")]
    Truncated,
    /// A digest whose length is not known.
    #[error("has a digest of an algorithm other than SHA-256, SHA-384, SHA-512 and SM3")]
    Algorithm,
    /// More digests than there are algorithms.
    #[error("has an event with more digests than there are algorithms")]
    Digests,
}

/// A log and the events in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// The log without what follows its last event.
    pub bytes: &'a [u8],
    /// How many events it has, without the first, which measures nothing.
    pub events: usize,
}

/// One event of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Which register it was measured into, as the CC measurement protocol of UEFI counts (2.10,
    /// §38.4.1): 0 is MRTD, 1 to 4 are RTMR 0 to 3.
    pub register: u32,
    /// Its type (`EV_…`).
    pub kind: u32,
    /// Its SHA-384 digest, where it has one: the one that a TD's registers are extended with.
    pub sha384: Option<&'a [u8]>,
    /// What it says of what was measured. For some types that is what was measured.
    pub data: &'a [u8],
}

/// `TPM_ALG_SHA384` (TCG "Algorithm Registry", table 3).
const SHA384: u16 = 0x000c;

/// The events of a trimmed log, in order, without the first, which measures nothing.
pub fn events<'a>(log: &EventLog<'a>) -> Result<Vec<Event<'a>>, Error> {
    let mut events = Vec::with_capacity(log.events);
    let mut at = after(log.bytes, FIRST_HEAD)?;
    for _ in 0..log.events {
        let (event, end) = event(log.bytes, at)?;
        events.push(event);
        at = end;
    }
    Ok(events)
}

/// The event at `at`, and where it ends.
fn event(log: &[u8], at: usize) -> Result<(Event<'_>, usize), Error> {
    let end = event_end(log, at)?;
    let number = |place: usize| u32_at(log, at.saturating_add(place)).ok_or(Error::Truncated);
    let (register, kind, count) = (number(0)?, number(4)?, number(8)?);
    let mut place = at.saturating_add(12);
    let mut sha384 = None;
    for _ in 0..count {
        let algorithm = u16_at(log, place).ok_or(Error::Truncated)?;
        let length = digest_len(algorithm)?;
        place = place.saturating_add(2);
        if algorithm == SHA384 {
            sha384 = log.get(place..place.saturating_add(length));
        }
        place = place.saturating_add(length);
    }
    let data = log.get(place.saturating_add(4)..end).ok_or(Error::Truncated)?;
    Ok((Event { register, kind, sha384, data }, end))
}

/// Finds the end of the last event.
pub fn trim(log: &[u8]) -> Result<EventLog<'_>, Error> {
    if log.len() > MAX_BYTES {
        return Err(Error::TooLong);
    }
    if u32_at(log, 4).ok_or(Error::Truncated)? != EV_NO_ACTION {
        return Err(Error::FirstEvent);
    }
    let mut at = after(log, FIRST_HEAD)?;
    let mut events: usize = 0;
    while !is_padding(log, at) {
        at = event_end(log, at)?;
        events = events.saturating_add(1);
    }
    Ok(EventLog { bytes: log.get(..at).ok_or(Error::Truncated)?, events })
}

/// Whether eight bytes of zeros or of ones stand here, or nothing at all. No event starts with
/// either: register 0 is never measured with type 0 (`EV_PREBOOT_CERT`, which nobody writes).
fn is_padding(log: &[u8], at: usize) -> bool {
    let rest = log.get(at..).unwrap_or_default();
    let head = rest.get(..PADDING).unwrap_or(rest);
    head.iter().all(|byte| *byte == 0) || head.iter().all(|byte| *byte == 0xff)
}

/// Where the event at `at` ends: register 4, type 4, count 4, digests, length 4, data.
fn event_end(log: &[u8], at: usize) -> Result<usize, Error> {
    let count = u32_at(log, at.saturating_add(8)).ok_or(Error::Truncated)?;
    if count > MAX_DIGESTS {
        return Err(Error::Digests);
    }
    let mut at = at.saturating_add(12);
    for _ in 0..count {
        let algorithm = u16_at(log, at).ok_or(Error::Truncated)?;
        at = at.saturating_add(2).saturating_add(digest_len(algorithm)?);
    }
    after(log, at.saturating_add(4))
}

/// Where the data ends whose length stands in the four bytes before `start`.
fn after(log: &[u8], start: usize) -> Result<usize, Error> {
    let length = start.checked_sub(4).and_then(|at| u32_at(log, at)).ok_or(Error::Truncated)?;
    let data = slice(log, start, length).ok_or(Error::Truncated)?;
    Ok(start.saturating_add(data.len()))
}

/// Bytes of a digest, by `TPM_ALG_ID` (TCG "Algorithm Registry", table 3). Fixed, not as the first
/// event says: the verifier that replays the log goes by the algorithm too.
fn digest_len(algorithm: u16) -> Result<usize, Error> {
    match algorithm {
        0x000b | 0x0012 => Ok(32),
        0x000c => Ok(48),
        0x000d => Ok(64),
        _ => Err(Error::Algorithm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_HEAD];
        bytes[4] = 3;
        bytes[28] = u8::try_from(data.len()).unwrap();
        [&bytes, data].concat()
    }

    fn event(register: u8, digests: &[(u8, usize)], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![register, 0, 0, 0, 13, 0, 0, 0, u8::try_from(digests.len()).unwrap(), 0, 0, 0];
        for (algorithm, len) in digests {
            bytes.extend([*algorithm, 0]);
            bytes.extend(vec![0xab; *len]);
        }
        bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        [&bytes, data].concat()
    }

    fn sample() -> Vec<u8> {
        let events = [event(1, &[(12, 48)], b"one"), event(0, &[(11, 32), (13, 64), (18, 32)], b"")];
        [first(b"Spec ID Event03\0"), events.concat()].concat()
    }

    #[test]
    fn padding_of_zeros_or_ones_is_cut_off() {
        let log = sample();
        for padding in [vec![0; 400], vec![0xff; 400], vec![0xff; 8], vec![0; 3], vec![]] {
            let padded = [&log[..], &padding].concat();
            assert_eq!(trim(&padded), Ok(EventLog { bytes: &log, events: 2 }));
        }
        // Ones, then whatever the firmware left behind them.
        let padded = [&log[..], &[0xff; 8], &[7; 40]].concat();
        assert_eq!(trim(&padded).unwrap().bytes, log);
    }

    #[test]
    fn a_log_without_events_keeps_its_first() {
        let log = first(b"");
        assert_eq!(trim(&[&log[..], &[0xff; 64]].concat()), Ok(EventLog { bytes: &log, events: 0 }));
    }

    #[test]
    fn a_log_that_ends_in_an_event_is_refused() {
        let log = sample();
        let ends =
            [first(b"Spec ID Event03\0").len(), log.len() - event(0, &[(11, 32), (13, 64), (18, 32)], b"").len()];
        // From the type on: what is shorter is no first event either.
        for len in (8..log.len()).filter(|len| !ends.contains(len)) {
            // A head of an event that is cut within its first bytes may look like padding of zeros.
            let tail = &log[ends.iter().copied().filter(|end| *end < len).max().unwrap_or(0)..len];
            if len > FIRST_HEAD && tail.iter().all(|byte| *byte == 0) {
                continue;
            }
            assert_eq!(trim(&log[..len]), Err(Error::Truncated), "{len}");
        }
        assert_eq!(trim(b""), Err(Error::Truncated));
    }

    #[test]
    fn another_first_event_is_refused() {
        let mut log = sample();
        log[4] = 4;
        assert_eq!(trim(&log), Err(Error::FirstEvent));
    }

    #[test]
    fn unknown_algorithms_and_too_many_digests_are_refused() {
        let log = [first(b""), event(1, &[(4, 20)], b"")].concat();
        assert_eq!(trim(&log), Err(Error::Algorithm));
        let log = [first(b""), event(1, &[(11, 32); 17], b"")].concat();
        assert_eq!(trim(&log), Err(Error::Digests));
    }

    #[test]
    fn an_oversize_log_is_refused_before_it_is_read() {
        assert_eq!(trim(&vec![0; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_log_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = trim(&bytes);
        }

        #[test]
        fn a_log_with_one_changed_byte_never_panics(at in 0_usize..200, byte in any::<u8>()) {
            let mut log = [sample(), vec![0xff; 64]].concat();
            log[at] = byte;
            if let Ok(trimmed) = trim(&log) {
                prop_assert!(log.starts_with(trimmed.bytes));
            }
        }
    }
}

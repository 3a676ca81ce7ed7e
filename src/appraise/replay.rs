//! Whether a log of events is what a TD's runtime registers were extended with.
//!
//! The quote signs the registers, and nobody signs the log. Extending zeros with each digest in turn
//! must give what the quote has (Intel TDX module ABI, `TDG.MR.RTMR.EXTEND`). Where it does not, the
//! first event that differs is named, as far as the bytes show it.

use aws_lc_rs::digest::{SHA384, digest};

use crate::evidence::eventlog::Event;

/// Types whose digest is that of their own data (TCG "PC Client Platform Firmware Profile", table 27):
/// separator, variable, GPT, action, authority. Other types measure something that is not in the log.
const MEASURES_ITSELF: [u32; 5] = [0x0000_0004, 0x8000_0001, 0x8000_0006, 0x8000_0007, 0x8000_00e0];

/// Registers that firmware and boot loader extend. The fourth is left to programs, whose events stand in
/// other logs.
const REGISTERS: usize = 3;

/// Bytes of a register.
const LEN: usize = 48;

/// The first thing that does not fit. Events count from 1, without the one that names the algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Differs {
    /// Its digest is not that of its data: one of them was changed.
    #[error("event {event} has another digest than its own data")]
    Digest {
        /// Which.
        event: usize,
    },
    /// The register has what it had before this event.
    #[error("event {event} was never measured into RTMR{register}, and what follows it neither")]
    NotMeasured {
        /// Which.
        event: usize,
        /// The register.
        register: usize,
    },
    /// The register fits no beginning of the log.
    #[error("RTMR{register} is not what its events give: one of them is missing or was changed")]
    Register {
        /// The register.
        register: usize,
    },
}

/// Replays the events, and compares with the first three runtime registers of a quote. Gives how many
/// events count for them.
pub fn replay(events: &[Event<'_>], rtmr: &[[u8; LEN]; 4]) -> Result<usize, Differs> {
    for (place, event) in events.iter().enumerate() {
        let own = digest(&SHA384, event.data);
        if MEASURES_ITSELF.contains(&event.kind) && event.sha384.is_some_and(|said| said != own.as_ref()) {
            return Err(Differs::Digest { event: place.saturating_add(1) });
        }
    }
    let mut counted: usize = 0;
    for (register, quoted) in rtmr.iter().enumerate().take(REGISTERS) {
        counted = counted.saturating_add(one(events, register, quoted)?);
    }
    Ok(counted)
}

fn one(events: &[Event<'_>], register: usize, quoted: &[u8; LEN]) -> Result<usize, Differs> {
    let index = u32::try_from(register).unwrap_or(u32::MAX).saturating_add(1);
    let own = events.iter().enumerate().filter(|(_, event)| event.register == index);
    let mut value = vec![0_u8; LEN];
    let mut next_after_quoted = None;
    let mut counted: usize = 0;
    for (place, event) in own {
        let Some(digest_of_it) = event.sha384 else { continue };
        if value == quoted {
            next_after_quoted = Some(place.saturating_add(1));
        }
        value = digest(&SHA384, &[value.as_slice(), digest_of_it].concat()).as_ref().to_vec();
        counted = counted.saturating_add(1);
    }
    match next_after_quoted {
        _ if value == quoted => Ok(counted),
        Some(event) => Err(Differs::NotMeasured { event, register }),
        None => Err(Differs::Register { register }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(bytes: &[u8]) -> Vec<u8> {
        digest(&SHA384, bytes).as_ref().to_vec()
    }

    /// Register, type, digest, data.
    type Logged = (u32, u32, Vec<u8>, Vec<u8>);

    /// Events of two registers, and what they give.
    fn logged() -> (Vec<Logged>, [[u8; LEN]; 4]) {
        let mut rtmr = [[0; LEN]; 4];
        let mut events = Vec::new();
        for (register, kind, data) in [(1, 4, b"sep"), (2, 13, b"ini"), (1, 0x8000_0007, b"act"), (2, 4, b"end")] {
            let measured = sha(data);
            let place = usize::try_from(register).unwrap() - 1;
            rtmr[place] = sha(&[&rtmr[place][..], &measured].concat()).try_into().unwrap();
            events.push((register, kind, measured, data.to_vec()));
        }
        (events, rtmr)
    }

    fn judged(events: &[Logged], rtmr: &[[u8; LEN]; 4]) -> Result<usize, Differs> {
        let events: Vec<Event<'_>> = events
            .iter()
            .map(|(register, kind, sha384, data)| Event {
                register: *register,
                kind: *kind,
                sha384: Some(sha384),
                data,
            })
            .collect();
        replay(&events, rtmr)
    }

    #[test]
    fn a_log_that_gives_the_registers_holds() {
        let (events, rtmr) = logged();
        assert_eq!(judged(&events, &rtmr), Ok(4));
        assert_eq!(judged(&[], &[[0; LEN]; 4]), Ok(0));
    }

    #[test]
    fn the_first_event_that_differs_is_named() {
        let (events, rtmr) = logged();
        let mut changed = events.clone();
        changed[2].3 = b"ACT".to_vec();
        assert_eq!(judged(&changed, &rtmr), Err(Differs::Digest { event: 3 }));
        let mut more = events.clone();
        more.push((1, 13, sha(b"late"), b"late".to_vec()));
        assert_eq!(judged(&more, &rtmr), Err(Differs::NotMeasured { event: 5, register: 0 }));
        let mut fewer = events.clone();
        fewer.remove(1);
        assert_eq!(judged(&fewer, &rtmr), Err(Differs::Register { register: 1 }));
        let mut swapped = events;
        swapped.swap(0, 2);
        assert_eq!(judged(&swapped, &rtmr), Err(Differs::Register { register: 0 }));
    }
}

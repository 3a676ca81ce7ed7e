//! The script's answers, made by the testbed's guests: the same reports and quotes that the KBS
//! double of this process believes.

use super::script::{Answer, Change};
use super::{Blobs, INBLOB, Request};
use crate::tee::snp::POLICY_DEBUG;
use crate::tee::tdx::ATTRIBUTES_DEBUG;
use crate::tee::{Certificates, Lie, SnpGuest, TdxGuest, padded};

/// The manifest of `+manifest`; the conformance list knows it.
const MANIFEST: &[u8] = b"a service manifest";

/// An inblob that nobody asked for.
const NOBODYS: [u8; INBLOB] = [0x5a; INBLOB];

/// What an answer is for this request. `first` is the inblob of the script's first request.
pub(super) fn blobs(answer: &Answer, request: &Request, first: [u8; INBLOB], guests: &Guests) -> Result<Blobs, Quiet> {
    let only = |out| Ok(Blobs { out, ..Blobs::default() });
    match answer {
        Answer::Silence => Err(Quiet::Silence),
        Answer::Errno(errno) => Err(Quiet::Errno(*errno)),
        Answer::Snp(changes) => Ok(snp(&guests.snp, request, first, changes)),
        Answer::Tdx(changes) => only(tdx(&guests.tdx, changes).quote(&shown(request.inblob, first, changes))),
        // Passed on unparsed by us, so opaque: a CBOR tag 399 (CCA token collection) and the challenge.
        Answer::Cca => only([&[0xd9, 0x01, 0x8f][..], &request.inblob].concat()),
        Answer::Bytes(length) => only(request.inblob.iter().copied().cycle().take(*length).collect()),
    }
}

/// An answer without blobs.
pub(super) enum Quiet {
    /// None at all.
    Silence,
    /// An error of the firmware's.
    Errno(u32),
}

/// Whom a signer speaks for.
#[derive(Clone, Debug)]
pub(super) struct Guests {
    pub(super) snp: SnpGuest,
    pub(super) tdx: TdxGuest,
}

impl Default for Guests {
    fn default() -> Self {
        Self { snp: SnpGuest::genoa(), tdx: TdxGuest::v4() }
    }
}

fn snp(guest: &SnpGuest, request: &Request, first: [u8; INBLOB], changes: &[Change]) -> Blobs {
    let mut guest = SnpGuest { vmpl: request.privlevel, lie: lie(changes), ..guest.clone() };
    let mut manifest = Vec::new();
    for change in changes {
        match change {
            Change::OtherMeasurement => guest.measurement = guest.measurement.map(|byte| !byte),
            Change::Debug => guest.policy |= POLICY_DEBUG,
            Change::HostData(bytes) => guest.host_data = padded(bytes),
            Change::NoCertificates => guest.certificates = Certificates::None,
            Change::Manifest => manifest = MANIFEST.to_vec(),
            // The signature's and the report data's.
            Change::Replay | Change::WrongData | Change::OtherKey | Change::Tampered => {}
        }
    }
    Blobs { out: guest.report(&shown(request.inblob, first, changes)), aux: guest.auxblob(), manifest }
}

fn tdx(guest: &TdxGuest, changes: &[Change]) -> TdxGuest {
    let mut guest = guest.clone().lying(lie(changes));
    for change in changes {
        match change {
            Change::OtherMeasurement => guest.mr_td = guest.mr_td.map(|byte| !byte),
            Change::Debug => guest.attributes |= ATTRIBUTES_DEBUG,
            Change::HostData(bytes) => guest.mr_config_id = padded(bytes),
            // The signature's and the report data's; what a quote has no place for does not parse.
            _ => {}
        }
    }
    guest
}

/// What is done to the signature. What is signed for is [`shown`].
fn lie(changes: &[Change]) -> Lie {
    if changes.contains(&Change::OtherKey) {
        Lie::OtherKey
    } else if changes.contains(&Change::Tampered) {
        Lie::Tampered
    } else {
        Lie::None
    }
}

/// The report data.
fn shown(asked: [u8; INBLOB], first: [u8; INBLOB], changes: &[Change]) -> [u8; INBLOB] {
    if changes.contains(&Change::WrongData) {
        NOBODYS
    } else if changes.contains(&Change::Replay) {
        first
    } else {
        asked
    }
}

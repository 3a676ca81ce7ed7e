//! The providers that the conformance list asks for, by name.
//!
//! The double plays them in process. Whoever boots a real kernel plays them with the fake module's
//! parameters and a signer, as the table in [`Setup::wants`] says, and then starts
//! `tsm-conformance --setup NAME` in the guest.

use std::sync::Arc;

use rustix::io::Errno;

use super::fake::{FakeTsm, Reply, Request, Shape};
use crate::tee::{QuoteKind, SnpGuest, TdxGuest, padded};

/// Bytes of the outblob of [`Setup::BigOutblob`].
pub const BIG: usize = 16 * 1024;

/// Requests that the signer of [`Setup::Busy`] and [`Setup::Interrupted`] refuses, from the start.
pub const REFUSED: usize = 2;

/// Manifest of [`Setup::Svsm`].
pub const MANIFEST: &[u8] = b"a service manifest";

/// A provider, and what the signer behind it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // `wants` says it of each, where the program can print it.
pub enum Setup {
    NoProvider,
    UnknownProvider,
    SnpEcho,
    SnpDash,
    SnpFloor,
    SnpNoAuxblob,
    SnpEmptyAuxblob,
    Svsm,
    TdxV4,
    TdxV5,
    Cca,
    Busy,
    Interrupted,
    TimedOut,
    IoError,
    EmptyOutblob,
    BigOutblob,
    WrongEcho,
    WrongShape,
    Hang,
}

impl Setup {
    /// All of them. `Hang` is last: on a real kernel nothing comes after it.
    pub const ALL: [Self; 20] = [
        Self::NoProvider,
        Self::UnknownProvider,
        Self::SnpEcho,
        Self::SnpDash,
        Self::SnpFloor,
        Self::SnpNoAuxblob,
        Self::SnpEmptyAuxblob,
        Self::Svsm,
        Self::TdxV4,
        Self::TdxV5,
        Self::Cca,
        Self::Busy,
        Self::Interrupted,
        Self::TimedOut,
        Self::IoError,
        Self::EmptyOutblob,
        Self::BigOutblob,
        Self::WrongEcho,
        Self::WrongShape,
        Self::Hang,
    ];

    /// As `--setup` takes it, and what the kernel and its signer have to be.
    pub fn wants(self) -> (&'static str, &'static str) {
        match self {
            Self::NoProvider => ("no-provider", "tsm_report.ko loaded, no provider module"),
            Self::UnknownProvider => ("unknown-provider", "provider=other_guest mode=echo"),
            Self::SnpEcho => ("snp-echo", "provider=sev_guest mode=echo, or a signer that answers reports"),
            Self::SnpDash => ("snp-dash", "provider=sev-guest mode=echo"),
            Self::SnpFloor => ("privlevel-floor", "provider=sev_guest mode=echo privlevel_floor=2"),
            Self::SnpNoAuxblob => ("no-auxblob", "provider=sev_guest mode=echo auxblob=0"),
            Self::SnpEmptyAuxblob => ("empty-auxblob", "provider=sev_guest; signer: report, auxblob of 0 bytes"),
            Self::Svsm => ("svsm", "provider=sev_guest svsm=1; signer: report, table, manifest `a service manifest`"),
            Self::TdxV4 => ("tdx-shape", "provider=tdx_guest privlevel=0 auxblob=0; signer: quote v4"),
            Self::TdxV5 => ("tdx-v5", "provider=tdx_guest privlevel=0 auxblob=0; signer: quote v5"),
            Self::Cca => ("cca-shape", "provider=arm_cca_guest privlevel=0 auxblob=0; signer: any bytes"),
            Self::Busy => ("busy", "provider=sev_guest; signer: EBUSY (16) two or three times, then reports"),
            Self::Interrupted => ("intr", "provider=sev_guest; signer: EINTR (4) two or three times, then reports"),
            Self::TimedOut => ("timeout", "provider=sev_guest; signer: ETIMEDOUT (110), or silent and timeout_ms=200"),
            Self::IoError => ("io-error", "provider=sev_guest; signer: EIO (5)"),
            Self::EmptyOutblob => {
                ("empty-outblob", "the double only: 0 bytes and no error, of which the fake module makes EIO")
            }
            Self::BigOutblob => ("big-outblob", "provider=sev_guest; signer: 16384 bytes, the inblob over and over"),
            Self::WrongEcho => ("wrong-echo", "provider=sev_guest; signer: report with report_data[63] flipped"),
            Self::WrongShape => ("wrong-shape", "provider=sev_guest; signer: 64 bytes"),
            Self::Hang => ("hang", "provider=sev_guest timeout_ms=60000; signer: silent"),
        }
    }

    /// By the name that `--setup` takes.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setup| setup.wants().0 == name)
    }

    /// The double of it.
    pub fn fake(self) -> FakeTsm {
        FakeTsm::new(self.shape())
    }

    /// What the double is told.
    pub fn shape(self) -> Shape {
        let snp = Shape {
            provider: Some("sev_guest".to_owned()),
            floor: Some(0),
            auxblob: true,
            svsm: false,
            inblob_min: 64,
            outblob_max: 32 * 1024,
            script: Arc::new(move |request| self.answer(request)),
        };
        let named = |name: &str| Some(name.to_owned());
        match self {
            Self::NoProvider => Shape { provider: None, ..snp },
            Self::UnknownProvider => Shape { provider: named("other_guest"), ..snp },
            Self::SnpDash => Shape { provider: named("sev-guest"), ..snp },
            Self::SnpFloor => Shape { floor: Some(2), ..snp },
            Self::SnpNoAuxblob => Shape { auxblob: false, ..snp },
            Self::Svsm => Shape { svsm: true, ..snp },
            Self::TdxV4 | Self::TdxV5 | Self::EmptyOutblob => {
                Shape { provider: named("tdx_guest"), floor: None, auxblob: false, ..snp }
            }
            Self::Cca => Shape { provider: named("arm_cca_guest"), floor: None, auxblob: false, inblob_min: 32, ..snp },
            _ => snp,
        }
    }

    fn answer(self, request: &Request) -> Reply {
        let guest = SnpGuest { vmpl: request.privlevel, ..SnpGuest::genoa() };
        let report = || guest.report(&padded(&request.inblob));
        let quote = |kind| TdxGuest { kind, ..TdxGuest::v4() }.quote(&padded(&request.inblob));
        let only = |outblob| Reply::Blobs(outblob, Vec::new(), Vec::new());
        match self {
            Self::Busy if request.number < REFUSED => Reply::Errno(Errno::BUSY),
            Self::Interrupted if request.number < REFUSED => Reply::Errno(Errno::INTR),
            Self::TimedOut => Reply::Errno(Errno::TIMEDOUT),
            Self::IoError => Reply::Errno(Errno::IO),
            Self::Hang => Reply::Hang,
            Self::TdxV4 => only(quote(QuoteKind::V4)),
            Self::TdxV5 => only(quote(QuoteKind::V5Tdx15)),
            // Nobody here parses a CCA token: a CBOR tag and the challenge.
            Self::Cca => only([&[0xd9, 0x01, 0x8f][..], &request.inblob].concat()),
            Self::EmptyOutblob => only(Vec::new()),
            Self::SnpEmptyAuxblob => only(report()),
            Self::WrongShape => only(vec![0xff; 64]),
            Self::WrongEcho => {
                let mut flipped = request.inblob.clone();
                if let Some(last) = flipped.last_mut() {
                    *last ^= 1;
                }
                only(guest.report(&padded(&flipped)))
            }
            Self::BigOutblob => {
                // The list asks for 64 equal bytes here, so the echo stands wherever it is looked for.
                only(request.inblob.iter().copied().cycle().take(BIG).collect())
            }
            Self::Svsm => Reply::Blobs(report(), guest.auxblob(), MANIFEST.to_vec()),
            _ => Reply::Blobs(report(), guest.auxblob(), Vec::new()),
        }
    }
}

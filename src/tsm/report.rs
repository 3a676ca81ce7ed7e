//! What the kernel handed out, as a proof value.

use std::fmt;

use super::provider::{Echo, Provider};

/// Which interface of the kernel gave a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// configfs-tsm.
    ConfigfsTsm,
    /// The ioctl of `/dev/sev-guest`.
    SevGuest,
}

impl Source {
    /// As in `[kbs].via`.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConfigfsTsm => "configfs-tsm",
            Self::SevGuest => "sev-guest",
        }
    }
}

/// A report that this guest's kernel made for 64 bytes of ours.
///
/// Only this room makes one, and only of what came out of configfs itself (`fstatfs` said so, and
/// nothing is mounted over what was read) or out of the character device that sysfs lists. It
/// proves where the bytes came from. It does NOT prove that a TEE signed them: that is a verifier's
/// work, or `appraise/`'s.
#[derive(Clone)]
pub struct KernelReport {
    pub(super) source: Source,
    pub(super) provider: Provider,
    pub(super) asked: [u8; 64],
    pub(super) echo: Echo,
    pub(super) outblob: Vec<u8>,
    pub(super) auxblob: Option<Vec<u8>>,
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) generation: Option<u64>,
    pub(super) privlevel: Option<u32>,
}

impl KernelReport {
    /// Which interface gave it.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Who signs it.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The 64 bytes that it was asked for.
    pub fn asked(&self) -> &[u8; 64] {
        &self.asked
    }

    /// Whether those 64 bytes were found in it.
    pub fn echo(&self) -> Echo {
        self.echo
    }

    /// The report, quote or token, as the provider made it. Never empty.
    pub fn outblob(&self) -> &[u8] {
        &self.outblob
    }

    /// What goes with it: on SNP the certificate table that the host handed to the guest. Hostile.
    /// `None` where there is none, or where it is empty.
    pub fn auxblob(&self) -> Option<&[u8]> {
        self.auxblob.as_deref()
    }

    /// The SVSM's manifest of services, where a service was asked.
    pub fn manifest(&self) -> Option<&[u8]> {
        self.manifest.as_deref()
    }

    /// The entry's generation, the same before and after each blob was read. `None` from the
    /// device, which has none.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// The privilege level (VMPL) that was asked for, where the provider has levels.
    pub fn privlevel(&self) -> Option<u32> {
        self.privlevel
    }
}

/// Sizes only: a report names the machine, and is a bearer's proof while it is fresh.
impl fmt::Debug for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelReport")
            .field("source", &self.source)
            .field("provider", &self.provider)
            .field("echo", &self.echo)
            .field("outblob_bytes", &self.outblob.len())
            .field("auxblob_bytes", &self.auxblob.as_ref().map(Vec::len))
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

//! What may be asked beside the 64 bytes.

/// Most bytes of one blob by default: 64 KiB. An SNP report has 1184, a quote 5 to 8 KiB, a table
/// of certificates up to 16 KiB. The kernel's own limit is 32 KiB (6.12) or 16 MiB (later).
pub const MAX_BLOB: usize = 64 * 1024;

/// How a report is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The privilege level (VMPL on SNP) that the report is to name. `None`: the kernel's
    /// `privlevel_floor`, which is the most privileged that it gives to us. Below it is refused.
    pub privlevel: Option<u32>,
    /// Ask the SVSM for the report, of itself or of a service.
    pub service: Option<Service>,
    /// Most bytes of each blob.
    pub max_blob: usize,
    /// An entry that root made for us, for processes that may not make one. It is used as it is and
    /// not removed. Letters, digits, `-`, `_` and `.`, at most 64.
    pub entry: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { privlevel: None, service: None, max_blob: MAX_BLOB, entry: None }
    }
}

/// Which service of the SVSM, `service_provider = svsm`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// GUID of one service; `None` for all of them.
    pub guid: Option<String>,
    /// Version of the manifest wanted; `None` for the newest.
    pub manifest_version: Option<u32>,
}

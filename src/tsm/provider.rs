//! Who signs a report, and where in it the caller's 64 bytes come back.

/// The provider of a report, as the kernel's `provider` attribute names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// AMD SEV-SNP: an attestation report of 1184 bytes.
    Snp,
    /// Intel TDX: a quote, version 4 or 5.
    Tdx,
    /// Arm CCA: a CBOR token. Passed on, not parsed.
    Cca,
}

/// The names in the kernel: `drivers/virt/coco/{sev-guest,tdx-guest,arm-cca-guest}`.
/// `sev-guest` is what early kernels wrote (`KBUILD_MODNAME` before it became `sev_guest`).
const NAMES: [(&str, Provider); 4] = [
    ("sev_guest", Provider::Snp),
    ("sev-guest", Provider::Snp),
    ("tdx_guest", Provider::Tdx),
    ("arm_cca_guest", Provider::Cca),
];

/// `REPORT_DATA` in an SNP attestation report: offset in bytes (AMD 56860, table 23).
const SNP_REPORT_DATA: usize = 0x50;

/// Where the signed part of an SNP report ends and its signature begins: what is shorter is none.
const SNP_LEAST: usize = 0x2A0;

/// Bytes of a TDX quote's header, before the body (v4) or before the body's descriptor (v5)
/// (Intel TDX DCAP Quoting Library API, appendix 3).
const TDX_HEADER: usize = 48;

/// v5: `u16` type and `u32` size of the body stand between header and body.
const TDX_BODY_DESCRIPTOR: usize = 6;

/// `REPORTDATA` in a TD report body: offset in bytes.
const TDX_REPORT_DATA: usize = 520;

/// `TEE_TYPE` of a quote that is a TD's, not an SGX enclave's: `u32` at offset 4.
const TDX_TEE_TYPE: u32 = 0x81;

/// Sizes of the TD report body in bytes: type 2 (TDX 1.0) and type 3 (TDX 1.5).
const TDX_BODIES: [(u16, u32); 2] = [(2, 584), (3, 648)];

/// What a report says about the 64 bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// They stand in it, at the provider's place.
    Same,
    /// The form is not parsed here: the verifier has to find them.
    Opaque,
}

/// Why a report does not show the 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// Too short, or of a version that has another form.
    Shape,
    /// Other bytes stand there: somebody else's report, or an old one.
    Other,
}

impl Provider {
    /// From the attribute's text. `None` for a provider that we do not know: its reports mean
    /// nothing to us, and may mean something else to others.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('\n').unwrap_or(text);
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, provider)| *provider)
    }

    /// As people write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Snp => "SEV-SNP",
            Self::Tdx => "TDX",
            Self::Cca => "Arm CCA",
        }
    }

    /// Compares the echo in `outblob`, which is hostile, with what was asked for.
    pub(super) fn echo(self, outblob: &[u8], asked: &[u8; 64]) -> Result<Echo, Mismatch> {
        let at = match self {
            Self::Snp if outblob.len() < SNP_LEAST => return Err(Mismatch::Shape),
            Self::Snp => SNP_REPORT_DATA,
            Self::Tdx => tdx_body(outblob).and_then(|at| at.checked_add(TDX_REPORT_DATA)).ok_or(Mismatch::Shape)?,
            Self::Cca => return Ok(Echo::Opaque),
        };
        match array::<64>(outblob, at) {
            Some(echo) if echo == *asked => Ok(Echo::Same),
            Some(_) => Err(Mismatch::Other),
            None => Err(Mismatch::Shape),
        }
    }
}

/// Where the TD report body of a quote begins.
fn tdx_body(quote: &[u8]) -> Option<usize> {
    if u32::from_le_bytes(array(quote, 4)?) != TDX_TEE_TYPE {
        return None;
    }
    match u16::from_le_bytes(array(quote, 0)?) {
        4 => Some(TDX_HEADER),
        5 => {
            let kind = u16::from_le_bytes(array(quote, TDX_HEADER)?);
            let size = u32::from_le_bytes(array(quote, TDX_HEADER.checked_add(2)?)?);
            TDX_BODIES.contains(&(kind, size)).then_some(TDX_HEADER.saturating_add(TDX_BODY_DESCRIPTOR))
        }
        _ => None,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: [u8; 64] = [7; 64];

    fn with_echo(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at..at + 64].copy_from_slice(&ASKED);
        bytes
    }

    fn quote(version: u16, descriptor: &[u8], at: usize) -> Vec<u8> {
        let mut bytes = vec![0; 1300];
        bytes[..2].copy_from_slice(&version.to_le_bytes());
        bytes[4] = 0x81;
        bytes[48..48 + descriptor.len()].copy_from_slice(descriptor);
        with_echo(bytes, at)
    }

    #[test]
    fn the_known_providers_are_known_and_no_other() {
        assert_eq!(Provider::parse("sev_guest\n"), Some(Provider::Snp));
        assert_eq!(Provider::parse("sev-guest\n"), Some(Provider::Snp));
        assert_eq!(Provider::parse("tdx_guest"), Some(Provider::Tdx));
        assert_eq!(Provider::parse("arm_cca_guest\n"), Some(Provider::Cca));
        for other in ["", "\n", "sev_guest\n\n", " sev_guest", "SEV_GUEST", "sample", "tdx_guest2"] {
            assert_eq!(Provider::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_echo_is_found_where_each_provider_puts_it() {
        let v5 = |kind: u16, size: u32| [&kind.to_le_bytes()[..], &size.to_le_bytes()].concat();
        for (provider, bytes) in [
            (Provider::Snp, with_echo(vec![0; 1184], 0x50)),
            (Provider::Tdx, quote(4, &[], 568)),
            (Provider::Tdx, quote(5, &v5(2, 584), 574)),
            (Provider::Tdx, quote(5, &v5(3, 648), 574)),
        ] {
            assert_eq!(provider.echo(&bytes, &ASKED), Ok(Echo::Same));
            assert_eq!(provider.echo(&bytes, &[8; 64]), Err(Mismatch::Other));
        }
        assert_eq!(Provider::Cca.echo(b"any", &ASKED), Ok(Echo::Opaque));
    }

    #[test]
    fn refused_reports_of_another_shape() {
        let v5 = [9, 0, 72, 2, 0, 0];
        let mut enclave = quote(4, &[], 568);
        enclave[4] = 0;
        for (provider, bytes) in [
            (Provider::Snp, with_echo(vec![0; 0x29f], 0x50)),
            (Provider::Snp, Vec::new()),
            (Provider::Tdx, Vec::new()),
            (Provider::Tdx, quote(4, &[], 568)[..631].to_vec()),
            (Provider::Tdx, quote(3, &[], 568)),
            (Provider::Tdx, quote(5, &v5, 574)),
            (Provider::Tdx, enclave),
        ] {
            assert_eq!(provider.echo(&bytes, &ASKED), Err(Mismatch::Shape));
        }
    }
}

//! Whether a TDX quote is genuine: made by Intel's quoting enclave on a platform that Intel certified.
//!
//! Two steps. The signatures in the quote, up to Intel's root, are checked here and need nothing
//! beside the quote. Whether the platform's TCB is a good one, and nothing of it is revoked, only
//! Intel's collateral can say; the crate `dcap-qvl` judges that. Without collateral the answer says
//! so. Whether a genuine quote is the expected one is another question: [`super::expect`].

mod collateral;
mod signature;

use super::check::Check;
use crate::evidence::quote_signature::QuoteSignature;
use crate::evidence::tdx::Quote;
use crate::formats::x509::{pem_certificates, read};
use collateral::platform;
pub use collateral::{Collateral, MAX_COLLATERAL, TcbStatus};

/// Intel's SGX root, which TDX shares. See `roots/README.md`.
const INTEL: &[u8] = include_bytes!("../roots/intel-sgx-root.der");

/// The root, DER.
#[derive(Clone)]
pub struct Root {
    der: Vec<u8>,
    replaced: bool,
}

/// A quote that Intel's quoting enclave made. Comes from [`genuine`] only.
#[derive(Clone, Debug)]
pub struct Genuine {
    quote: Quote,
    /// What Intel's collateral says of the platform. None where there was none.
    pub tcb: Option<TcbStatus>,
    /// Advisories that Intel names for this TCB, by its ids.
    pub advisories: Vec<String>,
    /// What was checked, and what could not be.
    pub checks: Vec<Check>,
}

/// Why a quote is not genuine. Each message continues "the quote …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The signature's parts are not there.
    #[error("has a signature whose parts are not those of an ECDSA quote")]
    Form,
    /// Another key type.
    #[error("is signed with another algorithm than ECDSA P-256")]
    Algorithm,
    /// Another vendor's quoting enclave.
    #[error("is by another vendor's quoting enclave than Intel's")]
    Vendor,
    /// The PCK certificate is not there.
    #[error("comes without the PCK certificate: it names it only, and the collateral has none")]
    NoPck,
    /// A certificate does not parse.
    #[error("comes with a PCK certificate chain that cannot be read")]
    Certificates,
    /// The chain does not end at the root.
    #[error("is signed below a PCK certificate that no trusted root of Intel's vouches for")]
    Chain,
    /// A certificate of the chain is not valid.
    #[error("comes with a PCK certificate chain that is not valid at this time")]
    Time,
    /// The quoting enclave's report is not signed by the PCK.
    #[error("has a quoting enclave's report that the PCK did not sign")]
    QeSignature,
    /// The quoting enclave did not vouch for the key.
    #[error("is signed by a key that the quoting enclave did not vouch for")]
    QeBinding,
    /// It is not Intel's quoting enclave.
    #[error("was made by an enclave that is not Intel's quoting enclave for TDX")]
    QuotingEnclave,
    /// The quote's signature does not hold.
    #[error("has a signature that does not hold: it was changed, or is by another key")]
    Signature,
    /// Another TDX module than Intel's, or one that is debugged.
    #[error("was made under a TDX module that Intel did not sign for production")]
    Module,
    /// Attributes that Intel's rules refuse.
    #[error(
        "is of a TD that Intel's rules refuse: it may be migrated, lacks SEPT_VE_DISABLE, or has reserved attributes"
    )]
    Attributes,
    /// Collateral that is past its time.
    #[error("comes with collateral that has expired at this time")]
    CollateralExpired,
    /// Collateral of a later time.
    #[error("comes with collateral that was issued after this time")]
    CollateralEarly,
    /// Collateral for another platform.
    #[error("comes with collateral for another kind of platform")]
    CollateralOther,
    /// Collateral that is not Intel's, or does not fit.
    #[error("comes with collateral that Intel did not sign, or that does not fit the quote")]
    CollateralInvalid,
    /// The platform is revoked.
    #[error("is by a platform or key that Intel has revoked")]
    Revoked,
    /// The TCB is below every level that Intel lists.
    #[error("is by a platform whose TCB is below every level that Intel lists")]
    TcbUnknown,
}

impl Error {
    /// Whether the signatures held, and the collateral says the rest.
    pub fn is_of_collateral(self) -> bool {
        matches!(
            self,
            Self::CollateralExpired
                | Self::CollateralEarly
                | Self::CollateralOther
                | Self::CollateralInvalid
                | Self::Revoked
                | Self::TcbUnknown
        )
    }
}

impl Root {
    /// Intel's, as it comes with this build.
    pub fn intel() -> Self {
        Self { der: INTEL.to_vec(), replaced: false }
    }

    /// Another in place of Intel's: PEM with one certificate. `None` for anything else.
    pub fn replaced(pem: &[u8]) -> Option<Self> {
        let der = pem_certificates(pem, 1)?.pop()?;
        read(&der)?;
        Some(Self { der, replaced: true })
    }

    /// Whether it is somebody else's than Intel's. A verdict repeats it.
    pub fn is_replaced(&self) -> bool {
        self.replaced
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root(replaced: {})", self.replaced)
    }
}

impl Genuine {
    /// The quote, believed as far as its maker is.
    pub fn quote(&self) -> &Quote {
        &self.quote
    }

    /// The machine that it was made on, as Intel certified it. `None` where the quote only names its PCK
    /// certificate, or that has not Intel's extension.
    pub fn platform(&self) -> Option<Platform> {
        let chain = QuoteSignature::parse(&self.quote.signature)?.pck_chain?;
        platform(pem_certificates(chain, signature::MAX_CHAIN)?.first()?)
    }
}

/// A machine, by its PCK certificate. Of the owner's, not for strangers.
#[derive(Clone, PartialEq, Eq)]
pub struct Platform {
    /// `PPID`, 16 bytes: of its first processor.
    pub provider: Vec<u8>,
    /// `Platform Instance ID`, 16 bytes: where it is certified as a platform.
    pub instance: Option<Vec<u8>>,
}

/// Whether a quote is genuine at `now`, seconds since 1970. `raw` is the quote as it came; what
/// follows its signature is not looked at.
pub fn genuine(
    quote: &Quote,
    raw: &[u8],
    collateral: Option<&Collateral>,
    root: &Root,
    now: u64,
) -> Result<Genuine, Error> {
    let parts = QuoteSignature::parse(&quote.signature).ok_or(Error::Form)?;
    let pck_chain = parts.pck_chain.or_else(|| collateral.and_then(Collateral::pck_chain)).ok_or(Error::NoPck)?;
    signature::check(quote, raw, &parts, pck_chain, root, now)?;
    // Only Intel's module keeps a TD from its host, and so it is asked for without collateral too.
    if !quote.body.is_of_intels_module() {
        return Err(Error::Module);
    }
    let whose = if root.replaced { "a root given in place of Intel's" } else { "Intel's SGX root" };
    let mut checks = vec![
        Check::held("tdx.signature", "ECDSA P-256 over header and body, by the attestation key"),
        Check::held(
            "tdx.quoting-enclave",
            "the quoting enclave's report vouches for the key, and the PCK for the report",
        ),
        Check::held("tdx.chain", format!("the PCK certificate leads to {whose}")),
        Check::held("tdx.validity", "all certificates of the chain are valid at this time"),
        Check::held("tdx.module", "the TDX module's signer is Intel, and its attributes are production's"),
    ];
    if root.replaced {
        checks.push(Check::not_checked("tdx.qe-identity", "the quoting enclave's signer: the root is not Intel's"));
    }
    let Some(collateral) = collateral else {
        checks.push(Check::not_checked("tdx.tcb", "TCB not checked: no collateral was given"));
        checks.push(Check::not_checked("tdx.crl", "revocation: no collateral was given"));
        return Ok(Genuine { quote: quote.clone(), tcb: None, advisories: Vec::new(), checks });
    };
    let judged = collateral.judge(quote, raw, &root.der, now)?;
    checks.push(Check::held("tdx.tcb", format!("Intel's collateral says: {}", judged.status.label())));
    checks.push(Check::held("tdx.crl", "Intel's revocation lists name nothing of the chain"));
    Ok(Genuine { quote: quote.clone(), tcb: Some(judged.status), advisories: judged.advisories, checks })
}

//! Who may vouch for a chip's key: AMD's own roots, or those that somebody named in their place.

use crate::evidence::snp::Generation;
use crate::formats::x509::{pem_certificates, read};

/// Most certificates of a file of roots, and of a chain that comes with a report.
pub const MAX_CERTIFICATES: usize = 16;

/// Most bytes of one certificate, 16 KiB: the largest of AMD's has 1.7 KiB. A bound of ours.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// AMD's lines of processors: root, authority of VCEKs, authority of VLEKs. See `roots/README.md`.
const AMD: [(Generation, [&[u8]; 3]); 3] = [
    (
        Generation::Milan,
        [
            include_bytes!("../roots/milan-ark.der"),
            include_bytes!("../roots/milan-ask.der"),
            include_bytes!("../roots/milan-asvk.der"),
        ],
    ),
    (
        Generation::Genoa,
        [
            include_bytes!("../roots/genoa-ark.der"),
            include_bytes!("../roots/genoa-ask.der"),
            include_bytes!("../roots/genoa-asvk.der"),
        ],
    ),
    (
        Generation::Turin,
        [
            include_bytes!("../roots/turin-ark.der"),
            include_bytes!("../roots/turin-ask.der"),
            include_bytes!("../roots/turin-asvk.der"),
        ],
    ),
];

/// Roots, and authorities below them.
#[derive(Clone)]
pub struct Roots {
    pub(super) lines: Vec<Line>,
    replaced: bool,
}

/// One root with what is known below it, DER.
#[derive(Clone)]
pub(super) struct Line {
    /// Which processors it is for; none where somebody else's root does not say.
    pub(super) generation: Option<Generation>,
    pub(super) root: Vec<u8>,
    pub(super) below: Vec<Vec<u8>>,
}

/// Why a text gives no roots. Each message continues "the roots …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// Not PEM, or something else in it.
    #[error("are not PEM with 1 to 16 certificates and nothing else")]
    Pem,
    /// One of them does not parse.
    #[error("hold one that cannot be read (number {0}, counted from 1)")]
    Certificate(usize),
    /// No certificate among them issued itself.
    #[error("hold no certificate that issued itself")]
    NoRoot,
}

impl Roots {
    /// AMD's, as they come with this build: Milan, Genoa, Turin.
    pub fn amd() -> Self {
        let lines = AMD.iter().map(|(generation, [root, below @ ..])| Line {
            generation: Some(*generation),
            root: root.to_vec(),
            below: below.iter().map(|der| der.to_vec()).collect(),
        });
        Self { lines: lines.collect(), replaced: false }
    }

    /// Others in place of AMD's: PEM with roots, and the authorities below them in any order.
    pub fn replaced(pem: &[u8]) -> Result<Self, RootsError> {
        let mut roots = Vec::new();
        let mut below = Vec::new();
        for (index, der) in pem_certificates(pem, MAX_CERTIFICATES).ok_or(RootsError::Pem)?.into_iter().enumerate() {
            let certificate = read(&der).ok_or(RootsError::Certificate(index.saturating_add(1)))?;
            let own = certificate.subject().as_raw() == certificate.issuer().as_raw();
            if own { roots.push(der) } else { below.push(der) }
        }
        if roots.is_empty() {
            return Err(RootsError::NoRoot);
        }
        let lines = roots.into_iter().map(|root| Line { generation: None, root, below: below.clone() });
        Ok(Self { lines: lines.collect(), replaced: true })
    }

    /// Whether they are somebody else's than AMD's. A verdict repeats it.
    pub fn are_replaced(&self) -> bool {
        self.replaced
    }
}

/// Counts them.
impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roots({}, replaced: {})", self.lines.len(), self.replaced)
    }
}

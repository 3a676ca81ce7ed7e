//! Judges: pure functions that hold what was found to what was expected. Expectations are mandatory
//! arguments; nothing here reads a file, a socket or a clock.

pub mod check;
pub mod delivery;
pub mod expect;
pub mod launch;
pub mod peer;
pub mod replay;
pub mod snp;
pub mod tdx;
pub mod token;
pub mod words;

/// Whose keys make evidence genuine, where this program judges it itself.
#[derive(Clone, Debug)]
pub struct Makers {
    /// Of SEV-SNP reports.
    pub amd: snp::Roots,
    /// Of TDX quotes.
    pub intel: tdx::Root,
}

impl Makers {
    /// AMD and Intel, as they come with this build.
    pub fn real() -> Self {
        Self { amd: snp::Roots::amd(), intel: tdx::Root::intel() }
    }
}

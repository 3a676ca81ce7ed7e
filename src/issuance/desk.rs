//! Who is given a certificate: what an issuer knows at one moment, and its judgement of one request.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::time::Instant;

use super::Error;
use super::ca::{Ca, Given};
use super::quota::{Full, Quota};
use crate::appraise::peer::{Error as Unproven, Proven};
use crate::clock::Clock;
use crate::formats::frames::Refused;
use crate::tls::demand::Demand;
use crate::tls::issue::Heard;
use crate::tls::prover::Prover;

/// One epoch of an issuer: its CA, its own certificate, and what it demands. Replaced as a whole.
pub struct Desk {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// What the issuer shows to those who demand its evidence. `None`: it has nothing to show.
    pub prover: Option<Arc<Prover>>,
    /// When the certificate that it shows ends, seconds since 1970.
    pub until: u64,
    /// What requesters must show.
    pub demand: Arc<Demand>,
    /// What signs.
    pub ca: Ca,
    /// Longest life of what it signs.
    pub lifetime: Duration,
    /// By which it is dated.
    pub clock: Clock,
}

/// Why somebody who was heard is given nothing. For the log; [`Denied::refused`] is what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its evidence, or what it may be by that.
    #[error("the requester's evidence {0}")]
    Unproven(Unproven),
    /// Too many.
    #[error("more certificates in a minute than `{}`", match .0 { Full::All => "issuer.per_minute", Full::Identity => "issuer.per_identity" })]
    Full(Full),
    /// The CA.
    #[error("the CA's certificate {0}")]
    Ca(Error),
}

impl Denied {
    /// As much as the requester is told.
    pub fn refused(self) -> Refused {
        match self {
            Self::Unproven(Unproven::NoPin | Unproven::InitData | Unproven::Hardware | Unproven::Serial) => {
                Refused::Identity
            }
            Self::Unproven(_) => Refused::Evidence,
            Self::Full(_) => Refused::Busy,
            Self::Ca(_) => Refused::Unready,
        }
    }
}

impl Desk {
    /// Judges a request. The names that stand in the certificate are those for which the pins have an entry
    /// that its evidence is good for, all of them; of the request itself only the key is taken.
    pub fn judge(&self, heard: &Heard, quota: &Quota) -> Result<(Given, Proven), Denied> {
        let names = heard.wanted.names();
        let proven = self.demand.judge_wanted(names, &heard.proof.shown(), &heard.expected);
        let proven = proven.map_err(Denied::Unproven)?;
        quota.take(proven.appraised().peer(), Instant::now()).map_err(Denied::Full)?;
        let given = self.ca.certify(&heard.key, names, self.clock.now(), self.lifetime).map_err(Denied::Ca)?;
        Ok((given, proven))
    }
}

//! The KBS, spoken to directly: attestation and resources, protocol 0.4.0 of Trustee v0.14 and later.
//!
//! [`Client`] asks for a [`Challenge`]; a [`TeeKey`] is bound to it ([`Binding`]), which gives the
//! report data that the hardware must sign; with the evidence it becomes a [`Session`], and a session
//! gives resources. No step can be left out, and none of them tries twice: that is the road's to say.
//!
//! [`probe`] asks one question without evidence: are you there, are you the configured one, and do
//! you speak our version?

pub mod checks;
mod dial;
mod dns;
pub mod endorsements;
mod error;
mod health;
mod http;
mod key;
pub mod probe;
mod session;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

pub use dial::{Undialled, dial};
pub use dns::{DnsProblem, Names, Resolver};
pub use error::{Error, Problem, Remedy, Step};
pub use key::{KeyError, TeeKey};
pub use session::{Binding, Challenge, Client, Session, Trust};
pub use wire::{Evidence, EvidenceError, Malformed};

/// The version of the attestation protocol that this build speaks: Trustee v0.14 and later. The KBS
/// compares it for equality; nothing is negotiated.
pub const PROTOCOL_VERSION: &str = "0.4.0";

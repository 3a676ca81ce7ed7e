//! The tables of the long-running roles: identity, peers, inbound, outbound, health, metrics.
//!
//! One file serves all roles, so `init` must accept, and check, what it has no use for.

use core::net::SocketAddr;
use std::time::Duration;

use super::grammar::{HostPort, Local};
use super::spiffe::{SpiffeId, SpiffePattern};
use crate::formats::kbs_uri::KbsUri;

/// What the long-running roles need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// `[identity]`.
    pub identity: Option<Identity>,
    /// `[peers]`.
    pub peers: Option<Peers>,
    /// `[[inbound]]`.
    pub inbound: Vec<Inbound>,
    /// `[[outbound]]`.
    pub outbound: Vec<Outbound>,
    /// `[health] listen`.
    pub health: Option<SocketAddr>,
    /// `[metrics] listen`.
    pub metrics: Option<SocketAddr>,
}

/// `[identity]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who certifies the key.
    pub source: IdentitySource,
    /// Its SPIFFE identity.
    pub spiffe: Option<SpiffeId>,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// Life of one certificate.
    pub lifetime: Duration,
}

/// `identity.source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// Self-signed; peers demand evidence.
    Own,
    /// A ready key and certificate, as resources of the KBS.
    KbsCertificate,
    /// The mesh's issuer.
    Issuer,
}

/// `[peers]`. With `trust` and what it needs in one value, so that neither can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// A chain to these roots.
    Roots(KbsUri),
    /// Evidence, on a certificate that nobody signed.
    Evidence(PeerEvidence),
    /// A chain to these roots, and evidence.
    Both(KbsUri, PeerEvidence),
}

/// `[peers.evidence]`. Every check in it is mandatory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEvidence {
    /// Resource with the roots of the verifier's tokens.
    pub token_roots: KbsUri,
    /// Resource with the digests allowed for each identity.
    pub pins: KbsUri,
    /// Oldest attestation that counts.
    pub max_age: Duration,
}

/// `[[inbound]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where the app listens.
    pub app: Local,
    /// What is spoken.
    pub protocol: Protocol,
    /// Who may connect. Never empty.
    pub allow: Vec<SpiffePattern>,
    /// How the app learns who calls.
    pub forward_identity: ForwardIdentity,
    /// Paths of the app that the health port asks for.
    pub probes: Vec<String>,
    /// What happens when the app listens on more than loopback.
    pub exposure: Exposure,
}

/// `inbound.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// Bytes.
    Tcp,
}

/// `inbound.forward_identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardIdentity {
    /// The `X-Forwarded-Client-Cert` header. HTTP only.
    Xfcc,
    /// PROXY protocol v2 TLVs. TCP only.
    ProxyV2,
    /// Not at all.
    None,
}

/// `inbound.exposure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Not ready until it is corrected.
    Refuse,
    /// Said in the log.
    Warn,
}

/// `[[outbound]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where the app dials.
    pub listen: Local,
    /// Where the peer listens.
    pub to: HostPort,
    /// Who must answer there.
    pub peer: SpiffeId,
}

//! The tables of the long-running roles: identity, peers, inbound, outbound, health, metrics.
//!
//! One file serves all roles, so `init` must accept, and check, what it has no use for.

use core::net::SocketAddr;
use std::time::Duration;

use super::grammar::{HostPort, Local};
use super::spiffe::{PeerPattern, SpiffeId};
use crate::formats::kbs_uri::KbsUri;

/// What the long-running roles need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// `[identity]`.
    pub identity: Option<Identity>,
    /// `[peers]`.
    pub peers: Option<Peers>,
    /// `peers.refresh`: how often, at least, roots and allow-lists are read again.
    pub refresh: Option<Duration>,
    /// `[[inbound]]`.
    pub inbound: Vec<Inbound>,
    /// `[[outbound]]`.
    pub outbound: Vec<Outbound>,
    /// `[limits]`.
    pub limits: Limits,
    /// `drain`: how long open connections may go on after SIGTERM.
    pub drain: Option<Duration>,
    /// `[health] listen`.
    pub health: Option<SocketAddr>,
    /// `[metrics]`.
    pub metrics: Option<Metrics>,
    /// `[issuer]`.
    pub issuer: Option<Issuing>,
}

impl Roles {
    /// How often, at least, roots and allow-lists are read again.
    pub fn refresh(&self) -> Duration {
        self.refresh.unwrap_or(Duration::from_secs(15 * 60))
    }

    /// How long open connections may go on after SIGTERM: inside the 30 s that Kubernetes gives a pod
    /// by default, with room for what comes after.
    pub fn drain(&self) -> Duration {
        self.drain.unwrap_or(Duration::from_secs(25))
    }

    /// Whether anything is said of identity, peers or listeners.
    pub fn serves(&self) -> bool {
        self.identity.is_some() || self.peers.is_some() || !self.inbound.is_empty() || !self.outbound.is_empty()
    }

    /// Whether this is kubectl-coco's contract, in its own image. Never, in the strict one.
    pub fn is_kubectl_coco(&self) -> bool {
        #[cfg(feature = "compat")]
        {
            matches!(self.inbound.as_slice(), [inbound] if inbound.allow == Allow::AnyOfTheRoots)
        }
        #[cfg(not(feature = "compat"))]
        {
            false
        }
    }

    /// Where kubelet asks: the port that the mutating policies write into probes.
    pub fn health(&self) -> SocketAddr {
        self.health.unwrap_or(SocketAddr::from(([0; 16], 15821)))
    }
}

impl Limits {
    /// Connections of authenticated peers at once.
    pub fn connections(&self) -> usize {
        self.connections.unwrap_or(10_000)
    }

    /// Connections that have not authenticated yet, at once.
    pub fn unauthenticated(&self) -> usize {
        self.unauthenticated.unwrap_or(512)
    }

    /// New handshakes each second: about a quarter of one core, at 0.25 ms each (docs/performance.md).
    pub fn handshakes(&self) -> u32 {
        self.handshakes.unwrap_or(1000)
    }
}

/// `[limits]`: what strangers, and peers, may take of this pod. `None`: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of authenticated peers at once.
    pub connections: Option<usize>,
    /// Connections that have not authenticated yet, at once.
    pub unauthenticated: Option<usize>,
    /// New handshakes each second, of everybody together.
    pub handshakes: Option<u32>,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Who may read them, over mTLS. `None`: whoever is in the pod, in plain; then `listen` is loopback.
    pub allow: Option<Allow>,
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

/// `identity.source`, with what each needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// Self-signed; peers demand evidence.
    Own,
    /// A ready key and certificate, as resources of the KBS.
    KbsCertificate {
        /// PEM of the leaf, and of what stands between it and the root.
        certificate: KbsUri,
        /// PEM of the private key.
        key: KbsUri,
    },
    /// The mesh's issuer.
    Issuer {
        /// Where it is reached. Names are not believed.
        address: HostPort,
        /// Who must answer there, by a certificate that leads to `peers.roots`.
        spiffe: SpiffeId,
    },
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

impl Peers {
    /// The mesh's roots, where certificates must lead to them.
    pub fn roots(&self) -> Option<&KbsUri> {
        match self {
            Self::Roots(roots) | Self::Both(roots, _) => Some(roots),
            Self::Evidence(_) => None,
        }
    }

    /// The evidence that is demanded, if any.
    pub fn evidence(&self) -> Option<&PeerEvidence> {
        match self {
            Self::Evidence(evidence) | Self::Both(_, evidence) => Some(evidence),
            Self::Roots(_) => None,
        }
    }
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
    /// What must vouch for a peer on each connection.
    pub level: EvidenceLevel,
}

/// `peers.evidence.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceLevel {
    /// The key that was attested.
    Key,
    /// That, and a fresh report of the hardware.
    Hardware,
}

/// `[issuer]`: what the role that certifies needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuing {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Who it is to those who ask.
    pub spiffe: SpiffeId,
    /// Resource with the CA's certificate, and with what stands between it and the root. PEM.
    pub certificate: KbsUri,
    /// Resource with the CA's private key, PEM.
    pub key: KbsUri,
    /// Longest life of a certificate.
    pub lifetime: Duration,
    /// Most certificates in a minute, of one replica.
    pub per_minute: u32,
    /// Most of those for one identity.
    pub per_identity: u32,
    /// Whether the audit line of a certificate says on which machine its evidence was made.
    pub audit_hardware: bool,
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
    /// Who may connect.
    pub allow: Allow,
    /// How the app learns who calls.
    pub forward_identity: ForwardIdentity,
    /// Paths of the app that the health port asks for.
    pub probes: Vec<String>,
    /// What happens when the app listens on more than loopback.
    pub exposure: Exposure,
    /// How long the app may take for the head of its answer.
    pub response_timeout: Duration,
    /// Whether each request, or connection, is told in the log.
    pub access_log: bool,
}

impl Inbound {
    /// By which names the health port asks for its app, each with the path that is asked for. `None`: whether the
    /// app takes connections, which can always be asked: what a tcpSocket probe asked for.
    pub fn probed(&self) -> impl Iterator<Item = (String, Option<&str>)> {
        let place = match &self.app {
            Local::Tcp(address) => address.port().to_string(),
            Local::Unix(_) => "unix".to_owned(),
        };
        let connects = self.protocol == Protocol::Tcp || self.probes.is_empty();
        let connects = connects.then(|| (place.clone(), None));
        let paths = self.probes.iter().map(move |path| (format!("{place}{path}"), Some(path.as_str())));
        paths.chain(connects)
    }
}

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// `inbound.allow`. Never empty.
    Listed(Vec<PeerPattern>),
    /// `inbound.allow_from`: a resource with the list, read again like the roots.
    Resource(KbsUri),
    /// Anybody with a certificate by `peers.roots`, whatever it is called. kubectl-coco's rule. No
    /// document can say it: [`super::compat`] alone makes one.
    #[cfg(feature = "compat")]
    AnyOfTheRoots,
}

/// `inbound.protocol`, `outbound.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// Bytes.
    Tcp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        })
    }
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
    /// Permission bits of a unix socket there.
    pub mode: u32,
    /// Where the peer listens.
    pub to: HostPort,
    /// Who must answer there.
    pub peer: SpiffeId,
    /// What the app speaks.
    pub protocol: Protocol,
    /// How long the peer may take for the head of its answer (http).
    pub response_timeout: Duration,
    /// Whether each request, or connection, is told in the log.
    pub access_log: bool,
}

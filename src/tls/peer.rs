//! Who a peer's certificate says it is, and why a peer is turned away.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::appraise::peer::{Error as Unproven, FreshError, Proven};
use crate::config::spiffe::{PeerId, SpiffeId};
use crate::finding::printable;
use crate::formats::ear;
use crate::formats::statement::LeafBinding;

/// A peer that has shown a certificate, a possession of its key, and an identity on an allow-list. It may
/// not come in yet: [`super::trust::Door::admit`] may want evidence. Only [`super::trust::Door`] makes one.
#[derive(Clone, Debug)]
pub struct Known {
    seen: Arc<Seen>,
    since: u64,
}

/// A known peer that has also proven whatever is demanded beyond that. Only [`super::trust::Door`] makes
/// one.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    known: Known,
    proven: Option<Proven>,
}

/// What a chain of certificates shows. Shared by all connections that show the same one.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) id: PeerId,
    /// `None`: it names nobody, which kubectl-coco's callers may.
    pub(super) leaf: Option<LeafBinding>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the leaf, hex: what XFCC calls `Hash`.
    pub(super) hash: String,
    /// When the first certificate of the chain to expire does, seconds since 1970.
    pub(super) until: u64,
}

impl Known {
    /// `since`: when its chain was judged, seconds since 1970.
    pub(super) fn new(seen: Arc<Seen>, since: u64) -> Self {
        Self { seen, since }
    }

    /// Who it is.
    pub fn id(&self) -> &PeerId {
        &self.seen.id
    }

    /// SHA-256 of its certificate, in hex.
    pub fn hash(&self) -> &str {
        &self.seen.hash
    }

    /// Its certificate, as statements name it. `None`: it names nobody, and can be in none.
    pub fn leaf(&self) -> Option<LeafBinding> {
        self.seen.leaf
    }
}

impl VerifiedPeer {
    pub(super) fn new(known: Known, proven: Option<Proven>) -> Self {
        Self { known, proven }
    }

    /// Who it is.
    pub fn id(&self) -> &PeerId {
        self.known.id()
    }

    /// SHA-256 of its certificate, in hex.
    pub fn hash(&self) -> &str {
        self.known.hash()
    }

    /// From when on its evidence is too old, seconds since 1970. `None` where none was demanded.
    pub fn until(&self) -> Option<u64> {
        self.proven.as_ref().map(|proven| proven.appraised().until())
    }

    /// Its attestation result, as it was judged. `None` where none was demanded.
    pub fn ear(&self) -> Option<&str> {
        self.proven.as_ref().map(|proven| proven.appraised().ear())
    }

    pub(super) fn proven(&self) -> Option<&Proven> {
        self.proven.as_ref()
    }

    /// When its chain was found good, seconds since 1970.
    pub(super) fn since(&self) -> u64 {
        self.known.since
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.known.seen.chain
    }
}

/// Why a peer is turned away. A label for the log and for metrics, nothing of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No certificate was shown.
    NoCertificate,
    /// Not by the mesh's roots.
    UnknownIssuer,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// May not be used by a client.
    WrongPurpose,
    /// It cannot be used for another reason.
    BadCertificate,
    /// No SPIFFE URI and no DNS name.
    NoIdentity,
    /// More than one URI, or more than one DNS name and no URI.
    SeveralIdentities,
    /// A URI that is no SPIFFE identity.
    BadIdentity,
    /// Not on the allow-list.
    NotAllowed,
    /// No TLS 1.3, no common algorithm or protocol.
    Incompatible,
    /// Not TLS at all.
    NotTls,
    /// Evidence is demanded, and it gives none, or does not speak our protocol.
    NoEvidence,
    /// What it says in the exchange of evidence is malformed.
    BadExchange,
    /// Its identity is pinned nowhere.
    NotPinned,
    /// Its attestation result is not to be believed.
    BadEvidence,
    /// Its attestation result is too old.
    StaleEvidence,
    /// The verifier's verdict on it is not good, or not by an accepted policy.
    NotAffirming,
    /// Another initdata, or an older configuration, than is pinned for its identity.
    OtherInitdata,
    /// On a machine that is not pinned for its identity.
    OtherHardware,
    /// Its hardware's fresh report is missing, is not genuine, or is of another guest.
    BadReport,
    /// It proves something else than this connection: evidence was relayed, reflected or replayed.
    OtherSession,
    /// Took too long.
    TooSlow,
    /// Sent more than any handshake needs.
    TooMuch,
    /// Went away, or ended the handshake itself.
    Gone,
    /// Anything else.
    Other,
}

impl Reason {
    /// All of them, for metrics.
    pub const ALL: [Self; 26] = [
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongPurpose,
        Self::BadCertificate,
        Self::NoIdentity,
        Self::SeveralIdentities,
        Self::BadIdentity,
        Self::NotAllowed,
        Self::Incompatible,
        Self::NotTls,
        Self::NoEvidence,
        Self::BadExchange,
        Self::NotPinned,
        Self::BadEvidence,
        Self::StaleEvidence,
        Self::NotAffirming,
        Self::OtherInitdata,
        Self::OtherHardware,
        Self::BadReport,
        Self::OtherSession,
        Self::TooSlow,
        Self::TooMuch,
        Self::Gone,
        Self::Other,
    ];

    /// Stable name.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::WrongPurpose => "wrong-purpose",
            Self::BadCertificate => "bad-certificate",
            Self::NoIdentity => "no-identity",
            Self::SeveralIdentities => "several-identities",
            Self::BadIdentity => "bad-identity",
            Self::NotAllowed => "not-allowed",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not-tls",
            Self::NoEvidence => "no-evidence",
            Self::BadExchange => "bad-exchange",
            Self::NotPinned => "not-pinned",
            Self::BadEvidence => "bad-evidence",
            Self::StaleEvidence => "stale-evidence",
            Self::NotAffirming => "not-affirming",
            Self::OtherInitdata => "other-initdata",
            Self::OtherHardware => "other-hardware",
            Self::BadReport => "bad-report",
            Self::OtherSession => "other-session",
            Self::TooSlow => "too-slow",
            Self::TooMuch => "too-much",
            Self::Gone => "gone",
            Self::Other => "other",
        }
    }
}

impl From<Unproven> for Reason {
    fn from(why: Unproven) -> Self {
        match why {
            Unproven::NoPin => Self::NotPinned,
            Unproven::Token(ear::Error::Expired) => Self::StaleEvidence,
            Unproven::Token(_) => Self::BadEvidence,
            Unproven::MissingSubmod | Unproven::Verdict(_) | Unproven::Sample | Unproven::Policy => Self::NotAffirming,
            Unproven::NoInitData | Unproven::InitData | Unproven::Serial | Unproven::Fresh(FreshError::InitData) => {
                Self::OtherInitdata
            }
            Unproven::NoHardware | Unproven::Hardware | Unproven::Fresh(FreshError::Machine) => Self::OtherHardware,
            Unproven::Statement(_) | Unproven::Signature | Unproven::Fresh(FreshError::ReportData) => {
                Self::OtherSession
            }
            Unproven::Fresh(_) => Self::BadReport,
        }
    }
}

/// A refusal with what the certificate said of itself, made printable: for the log only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", reason.label())]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The certificate's subject.
    pub subject: String,
    /// Its subject alternative names.
    pub names: String,
}

impl Refusal {
    pub(super) fn of(reason: Reason, leaf: &CertificateDer<'_>) -> Self {
        let (mut subject, mut names) = (String::new(), String::new());
        if let Ok((_, certificate)) = parse_x509_certificate(leaf) {
            subject = printable(&certificate.subject().to_string(), 120);
            let all = general_names(&certificate).iter().take(4).map(ToString::to_string).collect::<Vec<_>>();
            names = printable(&all.join(", "), 240);
        }
        Self { reason, subject, names }
    }
}

struct Shown<'n>(&'n GeneralName<'n>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            GeneralName::URI(uri) => f.write_str(uri),
            GeneralName::DNSName(name) => write!(f, "dns:{name}"),
            _ => f.write_str("another kind of name"),
        }
    }
}

fn general_names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    names.value.general_names.iter().map(|name| Shown(name).to_string()).collect()
}

/// The one identity in a leaf: its URI, which must be a SPIFFE identity; where it has none, its DNS
/// name. Of two of a kind nobody could say which one counts. Believes nothing: whoever asks has
/// verified the chain, or will.
pub fn identity(leaf: &CertificateDer<'_>) -> Result<PeerId, Reason> {
    let (_, certificate) = parse_x509_certificate(leaf).map_err(|_| Reason::BadCertificate)?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names,
        Ok(None) => return Err(Reason::NoIdentity),
        Err(_) => return Err(Reason::BadCertificate),
    };
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns.push(*name),
            _ => {}
        }
    }
    match (uris.as_slice(), dns.as_slice()) {
        ([uri], _) => SpiffeId::parse(uri).map(PeerId::Spiffe).map_err(|_| Reason::BadIdentity),
        ([], [name]) => {
            let name = name.to_ascii_lowercase();
            // A wildcard is a set of names, not one.
            crate::config::grammar::dns(&name).map(PeerId::Dns).map_err(|_| Reason::BadIdentity)
        }
        ([], []) => Err(Reason::NoIdentity),
        _ => Err(Reason::SeveralIdentities),
    }
}

/// From when to when a certificate is valid, seconds since 1970.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let validity = certificate.validity();
    // Before 1970 is long over.
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Some((seconds(validity.not_before), seconds(validity.not_after)))
}

//! Whom to believe, as a caller and as one who is called: roots, one identity, a list, and where
//! evidence is demanded, evidence. The first three are judged in the handshake, before a byte of the
//! peer's is looked at; evidence right after it ([`super::exchange`]). All of it is judged again for live
//! connections when any of it was read anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use x509_parser::parse_x509_certificate;

use super::demand::Demand;
use super::peer::{self, Known, Reason, Refusal, Seen, VerifiedPeer};
use super::{Error, provider, roots};
use crate::appraise::peer::Proven;
use crate::clock::Clock;
use crate::config::spiffe::{PeerId, PeerPattern};
use crate::formats::hex;
use crate::formats::statement::LeafBinding;

/// Most certificates that a peer may show: a leaf and a few intermediates.
const MAX_CHAIN: usize = 8;

/// Most chains that are remembered; beyond, each takes the place of another. A mesh has as many as it has
/// pods that call this one.
const MAX_REMEMBERED: usize = 1024;

/// Most bytes of a chain that is remembered. A handshake may bring 64 KiB, most of it anybody's, before its key is
/// proven: strangers with a copy of a peer's certificate could make us hold as much a thousand times. A leaf and
/// two intermediates of RSA have 5 KiB. Longer ones are verified each time.
const MAX_REMEMBERED_CHAIN: usize = 8 * 1024;

/// Who calls whom. A certificate says which of both it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Peers call us, as clients.
    Them,
    /// We call peers, which are servers.
    Us,
}

/// Whom to believe, as read at one moment.
///
/// Remembers chains that were verified, by the hash of the whole chain, until the first of its
/// certificates ends. It is never carried over: reading the roots or a list anew makes a new `Trust`,
/// which remembers nothing. That the peer holds the key is proven in each handshake all the same.
pub struct Trust {
    vouch: Vouch,
    calls: Calls,
    demand: Option<Arc<Demand>>,
    algorithms: WebPkiSupportedAlgorithms,
    clock: Clock,
    /// Whether a peer needs no identity.
    #[cfg(feature = "compat")]
    nameless: bool,
    remembered: Mutex<HashMap<[u8; 32], Arc<Seen>>>,
}

/// Who vouches for a certificate.
enum Vouch {
    /// The mesh's roots.
    Roots { store: Arc<RootCertStore>, clients: Arc<dyn ClientCertVerifier> },
    /// Nobody, whoever signed it: its names are what the peer says of itself, until evidence proves them.
    Evidence,
}

impl Trust {
    /// Trusts exactly the certificates in `pem`, by `clock`; and demands evidence beside them, where
    /// there is a demand.
    pub fn by_roots(pem: &str, calls: Calls, demand: Option<Arc<Demand>>, clock: &Clock) -> Result<Self, Error> {
        let store: Arc<RootCertStore> = Arc::new(roots(pem)?);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
            .build()
            .map_err(|_| Error::Provider)?;
        Ok(Self::new(Vouch::Roots { store, clients }, calls, demand, clock))
    }

    /// Trusts evidence, and no certificate.
    pub fn by_evidence(demand: Arc<Demand>, calls: Calls, clock: &Clock) -> Self {
        Self::new(Vouch::Evidence, calls, Some(demand), clock)
    }

    fn new(vouch: Vouch, calls: Calls, demand: Option<Arc<Demand>>, clock: &Clock) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self {
            vouch,
            calls,
            demand,
            algorithms,
            clock: clock.clone(),
            #[cfg(feature = "compat")]
            nameless: false,
            remembered: Mutex::default(),
        }
    }

    /// Verifies a chain, leaf first: its signatures to a root where there are roots, its times at `now`
    /// (seconds since 1970), its purpose, its identity.
    fn verify(&self, chain: &[CertificateDer<'_>], now: u64) -> Result<Arc<Seen>, Reason> {
        let Some((leaf, others)) = chain.split_first() else { return Err(Reason::NoCertificate) };
        if chain.len() > MAX_CHAIN {
            return Err(Reason::BadCertificate);
        }
        // Without roots what stands behind the leaf means nothing, and is not kept.
        let has_roots = matches!(self.vouch, Vouch::Roots { .. });
        let chain = if has_roots { chain } else { std::slice::from_ref(leaf) };
        let key = hash_of(chain);
        if let Some(seen) = self.lock().get(&key).filter(|seen| now < seen.until) {
            return Ok(Arc::clone(seen));
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
        match (&self.vouch, self.calls) {
            (Vouch::Roots { clients, .. }, Calls::Them) => {
                clients.verify_client_cert(leaf, others, time).map(drop).map_err(|error| reason(&error))?;
            }
            // Not by name: names are resolved by whoever the control plane lets answer.
            (Vouch::Roots { store, .. }, Calls::Us) => {
                let parsed = ParsedCertificate::try_from(leaf).map_err(|_| Reason::BadCertificate)?;
                verify_server_cert_signed_by_trust_anchor(&parsed, store, others, time, self.algorithms.all)
                    .map_err(|error| reason(&error))?;
            }
            (Vouch::Evidence, calls) => profile(leaf, calls, now)?,
        }
        let hash = hex::encode(digest::digest(&SHA256, leaf).as_ref());
        #[cfg(feature = "compat")]
        let id = if self.nameless { PeerId::Certificate(hash.clone()) } else { peer::identity(leaf)? };
        #[cfg(not(feature = "compat"))]
        let id = peer::identity(leaf)?;
        let until = chain.iter().map(|each| peer::validity(each).map(|(_, until)| until));
        let until = until.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min());
        let seen = Arc::new(Seen {
            id,
            leaf: LeafBinding::of(leaf),
            chain: chain.iter().map(|each| each.clone().into_owned()).collect(),
            hash,
            until: until.ok_or(Reason::BadCertificate)?,
        });
        // Without roots anybody can make any number of certificates: none of them takes memory, or another's place.
        if has_roots && chain.iter().map(|each| each.len()).sum::<usize>() <= MAX_REMEMBERED_CHAIN {
            remember(&mut self.lock(), key, &seen);
        }
        Ok(seen)
    }

    /// Whether a chain that was good when its connection began leads to these roots. A certificate that
    /// has since ended does not end its connections: peers renew theirs, and keep what is open. So it is judged
    /// at that moment: of one that has ended, no root would be asked for.
    fn still(&self, peer: &VerifiedPeer) -> Result<(), Reason> {
        self.verify(peer.chain(), peer.since())?;
        match (&self.demand, peer.proven()) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Reason::NoEvidence),
            (Some(demand), Some(proven)) => demand.still(peer.hash(), proven),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Seen>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest is kept: [`Door::known`] asks for it again when the handshake has ended.
fn remember(remembered: &mut HashMap<[u8; 32], Arc<Seen>>, key: [u8; 32], seen: &Arc<Seen>) {
    if remembered.len() >= MAX_REMEMBERED
        && let Some(any) = remembered.keys().next().copied()
    {
        remembered.remove(&any);
    }
    remembered.insert(key, Arc::clone(seen));
}

fn hash_of(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    for certificate in chain {
        // With its length: no two chains have the same input.
        context.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(certificate);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// What a certificate must be that nobody of ours has signed.
fn profile(leaf: &CertificateDer<'_>, calls: Calls, now: u64) -> Result<(), Reason> {
    let (from, until) = peer::validity(leaf).ok_or(Reason::BadCertificate)?;
    let (_, parsed) = parse_x509_certificate(leaf).map_err(|_| Reason::BadCertificate)?;
    if now >= until {
        return Err(Reason::Expired);
    }
    if now < from {
        return Err(Reason::NotYetValid);
    }
    if parsed.is_ca() {
        return Err(Reason::BadCertificate);
    }
    let Ok(Some(usage)) = parsed.extended_key_usage() else { return Err(Reason::WrongPurpose) };
    let fits = match calls {
        Calls::Them => usage.value.client_auth,
        Calls::Us => usage.value.server_auth,
    };
    if fits { Ok(()) } else { Err(Reason::WrongPurpose) }
}

pub(super) fn reason(error: &rustls::Error) -> Reason {
    let rustls::Error::InvalidCertificate(error) = error else { return Reason::Other };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Reason::UnknownIssuer,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Reason::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Reason::NotYetValid,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Reason::WrongPurpose,
        _ => Reason::BadCertificate,
    }
}

/// One listener's rule: whom these roots vouch for, and who of them is on the list.
pub struct Door {
    trust: Arc<Trust>,
    rule: Rule,
}

/// Who of those that the roots vouch for may come in.
enum Rule {
    /// Who is on the list. Never empty.
    Listed(Vec<PeerPattern>),
    /// Each of them. kubectl-coco's.
    #[cfg(feature = "compat")]
    Anyone,
}

impl Door {
    /// A door for those whom `trust` vouches for and `allow` names. `None` where the list is empty: that
    /// is a mistake, never a rule.
    pub fn new(trust: Arc<Trust>, allow: Vec<PeerPattern>) -> Option<Self> {
        (!allow.is_empty()).then_some(Self { trust, rule: Rule::Listed(allow) })
    }

    /// A door for everybody whom `trust` vouches for, with a name or without. It takes the roots for
    /// itself: no other door has peers without names.
    #[cfg(feature = "compat")]
    pub fn for_anyone(trust: Trust) -> Self {
        Self { trust: Arc::new(Trust { nameless: true, ..trust }), rule: Rule::Anyone }
    }

    /// The peer of a handshake that has just ended well, by the chain that it showed there. It may not
    /// come in yet.
    pub fn known(&self, chain: &[CertificateDer<'_>]) -> Result<Known, Reason> {
        let now = self.trust.clock.now();
        let seen = self.trust.verify(chain, now)?;
        self.allows(&seen.id)?;
        Ok(Known::new(seen, now))
    }

    /// Lets a known peer in, with its proof where one is demanded.
    pub fn admit(&self, known: Known, proven: Option<Proven>) -> Result<VerifiedPeer, Reason> {
        if self.trust.demand.is_some() && proven.is_none() {
            return Err(Reason::NoEvidence);
        }
        // A proof for another certificate, or of another identity: nobody makes one, and it would be none.
        let fits = |proven: &Proven| Some(proven.leaf()) == known.leaf() && proven.appraised().peer() == known.id();
        if proven.as_ref().is_some_and(|proven| !fits(proven)) {
            return Err(Reason::OtherSession);
        }
        Ok(VerifiedPeer::new(known, proven))
    }

    /// What evidence is demanded, if any.
    pub fn demand(&self) -> Option<&Arc<Demand>> {
        self.trust.demand.as_ref()
    }

    /// How many chains are remembered.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.trust.lock().len()
    }

    /// Whether certificates prove who a peer is. Where they do not, evidence alone does.
    pub fn has_roots(&self) -> bool {
        matches!(self.trust.vouch, Vouch::Roots { .. })
    }

    /// Whether a peer that came in through an earlier door would come in through this one.
    pub fn still(&self, peer: &VerifiedPeer) -> Result<(), Reason> {
        self.trust.still(peer)?;
        self.allows(peer.id())
    }

    /// In the handshake.
    fn judge(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(others).cloned().collect();
        self.known(&chain).map(drop).map_err(|reason| {
            let refusal = Arc::new(Refusal::of(reason, leaf));
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))
        })
    }

    fn allows(&self, id: &PeerId) -> Result<(), Reason> {
        let listed = match &self.rule {
            Rule::Listed(patterns) => patterns.iter().any(|pattern| pattern.matches(id)),
            #[cfg(feature = "compat")]
            Rule::Anyone => true,
        };
        if listed { Ok(()) } else { Err(Reason::NotAllowed) }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = match &self.rule {
            Rule::Listed(patterns) => patterns.len().to_string(),
            #[cfg(feature = "compat")]
            Rule::Anyone => "anyone".to_owned(),
        };
        f.debug_struct("Door").field("allow", &allow).finish_non_exhaustive()
    }
}

/// The time that rustls hands in is the machine's, and is not looked at.
impl ClientCertVerifier for Door {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of the mesh's roots are for members, not for whoever connects.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// The name that was dialled is not looked at: which identity must answer is configured, and is the list.
impl ServerCertVerifier for Door {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(leaf, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// TLS 1.3 is the only version that is spoken.
fn only_tls13() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic)
}

#[cfg(test)]
mod tests;

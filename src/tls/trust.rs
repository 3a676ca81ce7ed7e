//! Who may come in: roots, one identity, an allow-list. Judged in the handshake, before a byte of
//! the peer's is looked at, and again for live connections when any of the three was read anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use super::peer::{self, Reason, Refusal, Seen, VerifiedPeer};
use super::{Error, provider, roots};
use crate::clock::Clock;
use crate::config::spiffe::{PeerId, PeerPattern};
use crate::formats::hex;

/// Most certificates that a peer may show: a leaf and a few intermediates.
const MAX_CHAIN: usize = 8;

/// Most chains that are remembered; beyond, each takes the place of another. A mesh has as many as it has
/// pods that call this one.
const MAX_REMEMBERED: usize = 1024;

/// The mesh's roots, as read at one moment.
///
/// Remembers chains that were verified, by the hash of the whole chain, until the first of its
/// certificates ends. It is never carried over: reading the roots or a list anew makes a new `Trust`,
/// which remembers nothing. That the peer holds the key is proven in each handshake all the same.
pub struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Clock,
    /// Whether a peer needs no identity.
    #[cfg(feature = "compat")]
    nameless: bool,
    remembered: Mutex<HashMap<[u8; 32], Arc<Seen>>>,
}

impl Trust {
    /// Trusts exactly the certificates in `pem`, by `clock`.
    pub fn new(pem: &str, clock: &Clock) -> Result<Self, Error> {
        let store: RootCertStore = roots(pem)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|_| Error::Provider)?;
        Ok(Self {
            verifier,
            clock: clock.clone(),
            #[cfg(feature = "compat")]
            nameless: false,
            remembered: Mutex::default(),
        })
    }

    /// Verifies a chain, leaf first: its signatures to a root, its times, its purpose, its identity.
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<Seen>, Reason> {
        let Some((leaf, others)) = chain.split_first() else { return Err(Reason::NoCertificate) };
        if chain.len() > MAX_CHAIN {
            return Err(Reason::BadCertificate);
        }
        let now = self.clock.now();
        let key = hash_of(chain);
        if let Some(seen) = self.lock().get(&key).filter(|seen| now < seen.until) {
            return Ok(Arc::clone(seen));
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
        self.verifier.verify_client_cert(leaf, others, time).map_err(|error| reason(&error))?;
        let hash = hex::encode(digest::digest(&SHA256, leaf).as_ref());
        #[cfg(feature = "compat")]
        let id = if self.nameless { PeerId::Certificate(hash.clone()) } else { peer::identity(leaf)? };
        #[cfg(not(feature = "compat"))]
        let id = peer::identity(leaf)?;
        let until = chain.iter().map(|each| peer::validity(each).map(|(_, until)| until));
        let until = until.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min());
        let seen = Arc::new(Seen {
            id,
            chain: chain.iter().map(|each| each.clone().into_owned()).collect(),
            hash,
            until: until.ok_or(Reason::BadCertificate)?,
        });
        remember(&mut self.lock(), key, &seen);
        Ok(seen)
    }

    /// Whether a chain that was good when its connection began still leads to these roots. A leaf that
    /// has since ended does not end its connections: peers renew theirs, and keep what is open.
    fn still(&self, peer: &VerifiedPeer) -> Result<(), Reason> {
        match self.verify(peer.chain()) {
            Ok(_) | Err(Reason::Expired) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Seen>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest is always kept: [`Door::peer`] asks for it again when the handshake has ended.
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

    /// The peer of a handshake that has just ended well, by the chain that it showed there.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Result<VerifiedPeer, Reason> {
        let seen = self.trust.verify(chain)?;
        self.allows(&seen.id)?;
        Ok(VerifiedPeer::new(seen))
    }

    /// Whether a peer that came in through an earlier door would come in through this one.
    pub fn still(&self, peer: &VerifiedPeer) -> Result<(), Reason> {
        self.trust.still(peer)?;
        self.allows(peer.id())
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
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(others).cloned().collect();
        match self.peer(&chain) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(reason) => {
                let refusal = Arc::new(Refusal::of(reason, leaf));
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal))))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.3 is the only version that is spoken.
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verifier.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_without_end_take_bounded_memory_and_the_newest_is_remembered() {
        let id = PeerId::Dns("web.example".to_owned());
        let seen = Arc::new(Seen { id, chain: Vec::new(), hash: String::new(), until: 0 });
        let mut remembered = HashMap::new();
        for n in 0..3 * u64::try_from(MAX_REMEMBERED).unwrap() {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            remember(&mut remembered, key, &seen);
            assert!(remembered.contains_key(&key) && remembered.len() <= MAX_REMEMBERED);
        }
    }
}

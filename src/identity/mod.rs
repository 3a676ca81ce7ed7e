//! Who this pod is to its peers, and who its peers must be: kept true for as long as the pod lives.
//!
//! One epoch is: attest → key → leaf → our own checks → publish. Each has an attestation of its own,
//! and the key that was attested is the leaf's key where the road gives it to us. A new epoch is
//! published whole; what was accepted under the one before goes on. [`keep()`] drives it by the clock.

mod asking;
pub mod checks;
mod evidence;
pub mod issuer;
mod keep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use keep::{Ask, Keeper, keep};

use zeroize::Zeroizing;

use crate::appraise::Makers;
use crate::clock::Clock;
use crate::config::Provenance;
use crate::config::roles::{Allow, Identity, IdentitySource, Peers, Protocol, Roles};
use crate::config::spiffe::{PeerId, PeerPattern, SpiffeId};
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::formats::wanted::Wanted;
use crate::issuance::{self, own, ready};
use crate::kbs::TeeKey;
use crate::secret::Secret;
use crate::tls::client::Exit;
use crate::tls::demand::Demand;
use crate::tls::exchange::{OURS_H2, OURS_HTTP1, OURS_TCP};
use crate::tls::leaf::{Expected, Issued, Leaf};
use crate::tls::prover::Prover;
use crate::tls::reports::Reports;
use crate::tls::server::{Entrance, H2, HTTP1, Served};
use crate::tls::trust::{Calls, Door, Trust};
use evidence::SeenPins;

/// Most bytes of a bundle of roots, of a certificate chain, of an allow-list: as `[kbs].ca`.
const MAX_RESOURCE: usize = 64 * 1024;

/// Most bytes of a private key, PEM.
const MAX_KEY: usize = 16 * 1024;

/// Most entries of an allow-list in a resource: as `inbound.allow`.
const MAX_ALLOW: usize = 256;

/// What is spoken behind a door, in the order of preference.
#[derive(Clone, Copy, Debug)]
struct Protocols {
    /// Behind the exchange of evidence.
    ours: &'static [&'static [u8]],
    /// Without it.
    plain: &'static [&'static [u8]],
}

impl Protocols {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self { ours: &[OURS_H2, OURS_HTTP1], plain: &[H2, HTTP1] },
            Protocol::Tcp => Self { ours: &[OURS_TCP], plain: &[] },
        }
    }

    /// What is offered to peers. The exchange costs a round trip: only where somebody may want it. Where it
    /// does not come first, bytes have no name, and HTTP has.
    fn offered(self, exchange: bool) -> Vec<&'static [u8]> {
        let ours = if exchange { self.ours } else { &[] };
        ours.iter().chain(self.plain).copied().collect()
    }
}

/// What the page of metrics is read by. A reader behind an `[[outbound]]` of its own sends it as bytes.
const METRICS: Protocols = Protocols { ours: &[OURS_HTTP1, OURS_TCP], plain: &[HTTP1] };

/// Attests anew, each time it is asked.
pub trait Attest: Send + Sync {
    /// What one attestation gives.
    type One: Attested;

    /// A fresh attestation of this guest, to be used within `budget`.
    fn attest(&self, budget: Duration) -> impl Future<Output = Result<Self::One, Finding>> + Send;
}

/// One attestation.
pub trait Attested: Send + Sync {
    /// Fetches a resource that the KBS releases on it.
    fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> impl Future<Output = Result<Secret, Finding>> + Send;

    /// What the attestation says of this guest. `None` where the guest's services keep it to themselves.
    fn guest(&self) -> impl Future<Output = Result<Option<Guest>, Finding>> + Send;
}

/// What an attestation says of this guest.
pub struct Guest {
    /// The key that the KBS believes to be this guest's, PKCS#8.
    pub key: Secret,
    /// The attestation token that names it.
    pub token: Zeroizing<String>,
}

/// This guest's hardware, for peers that want its own word, and whose keys make a peer's genuine.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Where fresh reports come from.
    pub reports: Arc<Reports>,
    /// By which a peer's are judged.
    pub makers: Makers,
}

/// What configuration says of identity and peers, in the shape that an epoch needs.
#[derive(Clone, Debug)]
pub struct Terms {
    identity: Identity,
    peers: Peers,
    /// Of each `[[inbound]]`, in order, then of `[metrics]` where it has a list: who may come in, and by
    /// which protocols.
    doors: Vec<(Allow, Protocols)>,
    /// Who must answer, and what is spoken, for each `[[outbound]]`.
    exits: Vec<(SpiffeId, Protocols)>,
    refresh: Duration,
    /// Where fresh reports come from, and whose keys make a peer's genuine.
    hardware: Hardware,
    /// Whether this guest may show evidence of itself to peers.
    gives: bool,
    pins: SeenPins,
    /// Whether this is kubectl-coco's contract: a certificate by whomever, and callers without names.
    kubectl_coco: bool,
}

impl Terms {
    /// Of the tables of the long-running roles, as believed as `provenance` says. Refuses what is missing,
    /// and what this release lacks.
    pub fn of(roles: &Roles, provenance: Provenance, hardware: Hardware) -> Result<Self, Finding> {
        let refuse = |saw: &str, next: &str| Err(Finding::new(Class::Config, saw).next(next));
        let Some(identity) = roles.identity.clone() else {
            return refuse(
                "there is no `[identity]`: the sidecar would have no certificate",
                "add `[identity]` with `source` and `spiffe`",
            );
        };
        let Some(peers) = roles.peers.clone() else {
            return refuse(
                "there is no `[peers]`: nothing says who may connect",
                "add `[peers]` with `trust`, and `roots` or `[peers.evidence]`",
            );
        };
        // Evidence goes to peers that the configuration chooses. Over a transport that nobody saw it may
        // be anybody's choice.
        let gives = provenance > Provenance::DeliveredUnproven;
        if peers.evidence().is_some() && !gives {
            return refuse(
                "`peers.trust` demands evidence, and this configuration came over CDH, whose transport cannot be seen",
                "put countersign.toml into the initdata, or let initdata name a KBS over https with its CA, or write `trust = \"roots\"` in `[peers]`",
            );
        }
        if matches!(identity.source, IdentitySource::Issuer { .. }) {
            if peers.roots().is_none() {
                return refuse(
                    "`identity.source = \"issuer\"`, and `[peers]` has no `roots`: nothing says which certificates to take",
                    "write `trust = \"both\"` or `trust = \"roots\"` in `[peers]`, and `roots`",
                );
            }
            // As for peers: the attestation result goes to whom the configuration chooses.
            if !gives {
                return refuse(
                    "`identity.source = \"issuer\"`, and this configuration came over CDH, whose transport cannot be seen",
                    "put countersign.toml into the initdata, or let initdata name a KBS over https with its CA",
                );
            }
        }
        let kubectl_coco = roles.is_kubectl_coco();
        if identity.spiffe.is_none() && identity.dns.is_empty() && !kubectl_coco {
            return refuse(
                "`[identity]` has neither `spiffe` nor `dns`: a certificate without a name is nobody's",
                "add `spiffe = \"spiffe://…\"` to `[identity]`",
            );
        }
        if matches!(identity.source, IdentitySource::Issuer { .. }) && wanted(&identity).is_none() {
            return refuse(
                "`[identity]` has several `dns` and no `spiffe`: nobody could tell whose its certificate is",
                "add `spiffe = \"spiffe://…\"` to `[identity]`, or leave one name in `dns`",
            );
        }
        if roles.inbound.is_empty() && roles.outbound.is_empty() {
            return refuse(
                "there is no `[[inbound]]` and no `[[outbound]]`: the sidecar would have nothing to serve",
                "add `[[inbound]]` with `listen`, `app` and `allow`, or `[[outbound]]` with `listen`, `to` and `peer`",
            );
        }
        let inbound = roles.inbound.iter().map(|inbound| (inbound.allow.clone(), Protocols::of(inbound.protocol)));
        let metrics = roles.metrics.iter().filter_map(|metrics| Some((metrics.allow.clone()?, METRICS)));
        let doors = inbound.chain(metrics).collect();
        let exits = roles.outbound.iter().map(|to| (to.peer.clone(), Protocols::of(to.protocol))).collect();
        let (refresh, pins) = (roles.refresh(), SeenPins::default());
        Ok(Self { identity, peers, doors, exits, refresh, hardware, gives, pins, kubectl_coco })
    }

    /// Oldest evidence that counts, where evidence is demanded. Peers of the same mesh demand the same of us.
    fn max_age(&self) -> Option<Duration> {
        self.peers.evidence().map(|evidence| evidence.max_age)
    }

    /// Every resource that an epoch reads, for whoever explains.
    pub fn resources(&self) -> Vec<&KbsUri> {
        let mut all: Vec<&KbsUri> = self.peers.roots().into_iter().collect();
        all.extend(self.peers.evidence().into_iter().flat_map(|evidence| [&evidence.token_roots, &evidence.pins]));
        all.extend(self.doors.iter().filter_map(|(allow, _)| match allow {
            Allow::Resource(uri) => Some(uri),
            Allow::Listed(_) => None,
            #[cfg(feature = "compat")]
            Allow::AnyOfTheRoots => None,
        }));
        if let IdentitySource::KbsCertificate { certificate, key } = &self.identity.source {
            all.extend([certificate, key]);
        }
        all
    }
}

/// One epoch, ready to be published.
async fn epoch(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Result<(Arc<Leaf>, Served), Finding> {
    let rules = rules(terms, attested, clock).await?;
    let (leaf, prover) = show(terms, attested, &rules, clock).await?;
    let served = serve(terms, &leaf, rules, prover, clock)?;
    Ok((leaf, served))
}

/// What peers are shown: a certificate, after our own checks, and what proves this guest.
async fn show(
    terms: &Terms,
    attested: &impl Attested,
    rules: &Rules,
    clock: &Clock,
) -> Result<(Arc<Leaf>, Option<Arc<Prover>>), Finding> {
    let guest = attested.guest().await?;
    let issued = issue(terms, attested, guest.as_ref(), rules, clock).await?;
    let by_others = !matches!(terms.identity.source, IdentitySource::Own);
    let expected = Expected {
        spiffe: terms.identity.spiffe.as_ref(),
        dns: &terms.identity.dns,
        // kubectl-coco's peers look at another CA than its sidecar does, or (`curl -k`) at none.
        roots: if by_others && !terms.kubectl_coco { rules.pem.as_deref() } else { None },
        rsa: terms.kubectl_coco,
        now: clock.now(),
    };
    let leaf = Leaf::check(issued, &expected).map_err(|error| not_shown(&terms.identity.source, &error))?;
    let leaf = Arc::new(leaf);
    let prover = evidence::prover(terms, guest, &leaf)?;
    if let Some(evidence) = terms.peers.evidence() {
        evidence::vouched(evidence, &terms.hardware, clock).await?;
    }
    Ok((leaf, prover))
}

/// The same leaf, and what proves it, behind rules that were read again.
async fn refresh(
    terms: &Terms,
    attested: &impl Attested,
    leaf: &Arc<Leaf>,
    prover: Option<Arc<Prover>>,
    clock: &Clock,
) -> Result<Served, Finding> {
    serve(terms, leaf, rules(terms, attested, clock).await?, prover, clock)
}

fn serve(
    terms: &Terms,
    leaf: &Arc<Leaf>,
    rules: Rules,
    prover: Option<Arc<Prover>>,
    clock: &Clock,
) -> Result<Served, Finding> {
    let mut entrances = Vec::with_capacity(rules.doors.len());
    for (door, (_, Protocols { ours, plain })) in rules.doors.into_iter().zip(&terms.doors) {
        entrances.push(Entrance::new(Arc::clone(leaf), door, ours, plain).map_err(|error| bug(&error))?);
    }
    let mut exits = Vec::with_capacity(rules.exits.len());
    for (door, (_, protocols)) in rules.exits.into_iter().zip(&terms.exits) {
        let alpn = protocols.offered(door.demand().is_some() || prover.is_some());
        exits.push(Exit::new(leaf, door, &alpn).map_err(|error| bug(&error))?);
    }
    Ok(Served { entrances, exits, prover, until: leaf.until(), since: clock.now() })
}

/// The peers' half: roots, lists and demands as read at one moment.
struct Rules {
    pem: Option<String>,
    /// For each `[[inbound]]`, then for `[metrics]` where it has a list.
    doors: Vec<Arc<Door>>,
    /// For each `[[outbound]]`.
    exits: Vec<Arc<Door>>,
    /// For the issuer, where there is one.
    issuer: Option<Arc<Door>>,
}

async fn rules(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Result<Rules, Finding> {
    let pem = match terms.peers.roots() {
        Some(uri) => Some(text(&attested.fetch(uri, MAX_RESOURCE).await?, uri)?),
        None => None,
    };
    let demand = match terms.peers.evidence() {
        Some(evidence) => Some(evidence::demand(evidence, &terms.hardware, &terms.pins, attested, clock).await?),
        None => None,
    };
    let trust = trust_of(&terms.peers, pem.as_deref(), demand.as_ref(), Calls::Them, clock)?;
    #[cfg(feature = "compat")]
    if terms.kubectl_coco {
        return Ok(Rules { pem, doors: vec![Arc::new(Door::for_anyone(trust))], exits: Vec::new(), issuer: None });
    }
    let trust = Arc::new(trust);
    let mut lists: BTreeMap<String, Vec<PeerPattern>> = BTreeMap::new();
    let mut doors = Vec::with_capacity(terms.doors.len());
    for (allow, _) in &terms.doors {
        doors.push(door(&trust, allow, attested, &mut lists).await?);
    }
    let trust = Arc::new(trust_of(&terms.peers, pem.as_deref(), demand.as_ref(), Calls::Us, clock)?);
    let exit = |peer: &SpiffeId| {
        let pattern = PeerPattern::parse(peer.as_str()).ok()?;
        Door::new(Arc::clone(&trust), vec![pattern]).map(Arc::new)
    };
    let exits: Option<Vec<_>> = terms.exits.iter().map(|(peer, _)| exit(peer)).collect();
    let exits = exits.ok_or_else(|| Finding::new(Class::Bug, "an identity is no pattern of itself"))?;
    let issuer = match &terms.identity.source {
        IdentitySource::Issuer { spiffe, .. } => exit(spiffe),
        _ => None,
    };
    Ok(Rules { pem, doors, exits, issuer })
}

/// Whom one listener lets in. A list that several of them have is read once.
async fn door(
    trust: &Arc<Trust>,
    allow: &Allow,
    attested: &impl Attested,
    lists: &mut BTreeMap<String, Vec<PeerPattern>>,
) -> Result<Arc<Door>, Finding> {
    let patterns = match allow {
        Allow::Listed(patterns) => patterns.clone(),
        // In `rules`, and never beside another listener.
        #[cfg(feature = "compat")]
        Allow::AnyOfTheRoots => return Err(Finding::new(Class::Bug, "a listener for anyone among others")),
        Allow::Resource(uri) => {
            if let Some(patterns) = lists.get(&uri.to_string()) {
                patterns.clone()
            } else {
                let patterns = allow_list(&attested.fetch(uri, MAX_RESOURCE).await?, uri)?;
                lists.insert(uri.to_string(), patterns.clone());
                patterns
            }
        }
    };
    let door = Door::new(Arc::clone(trust), patterns);
    Ok(Arc::new(door.ok_or_else(|| Finding::new(Class::Config, "an allow-list is empty"))?))
}

/// Whom to believe, by what was read.
fn trust_of(
    peers: &Peers,
    pem: Option<&str>,
    demand: Option<&Arc<Demand>>,
    calls: Calls,
    clock: &Clock,
) -> Result<Trust, Finding> {
    match (peers.roots(), pem, demand) {
        (None, _, Some(demand)) => Ok(Trust::by_evidence(Arc::clone(demand), calls, clock)),
        (Some(uri), Some(pem), demand) => Trust::by_roots(pem, calls, demand.cloned(), clock).map_err(|error| {
            Finding::new(Class::Content, format!("{uri}, the roots of `peers.roots`, {error}"))
                .why("peers are judged by these certificates alone, so every one must be readable")
                .next(format!("upload the PEM of the mesh's roots, certificates only, to {uri}"))
        }),
        // What configuration names has been fetched.
        _ => Err(Finding::new(Class::Bug, "there is nothing to judge peers by")),
    }
}

fn allow_list(bytes: &Secret, uri: &KbsUri) -> Result<Vec<PeerPattern>, Finding> {
    let refuse = |what: String| {
        Finding::new(Class::Content, format!("{uri}, the list of `allow_from`, {what}"))
            .why("a list that cannot be read whole lets nobody in, and replaces none that stands")
            .next(format!("upload a JSON array of 1 to {MAX_ALLOW} of `spiffe://…` or `dns:…` to {uri}"))
    };
    let texts: Vec<String> =
        serde_json::from_slice(bytes.expose()).map_err(|_| refuse("is not a JSON array of texts".to_owned()))?;
    if texts.is_empty() || texts.len() > MAX_ALLOW {
        return Err(refuse(format!("has {} entries", texts.len())));
    }
    let parse = |(index, text): (usize, &String)| {
        PeerPattern::parse(text).map_err(|why| refuse(format!("has an entry (number {}) that {why}", index + 1)))
    };
    texts.iter().enumerate().map(parse).collect()
}

async fn issue(
    terms: &Terms,
    attested: &impl Attested,
    guest: Option<&Guest>,
    rules: &Rules,
    clock: &Clock,
) -> Result<Issued, Finding> {
    let Identity { source, spiffe, dns, lifetime } = &terms.identity;
    let refuse = |error: issuance::Error| not_issued(source, error);
    match source {
        IdentitySource::Own => {
            let key = match guest {
                Some(guest) => Secret::new(guest.key.expose().to_vec()),
                None => fresh_key().ok_or_else(|| refuse(issuance::Error::Key))?,
            };
            let names = spiffe.iter().cloned().map(PeerId::Spiffe).chain(dns.iter().cloned().map(PeerId::Dns));
            own::sign(key, &names.collect::<Vec<_>>(), clock.now(), *lifetime).map_err(refuse)
        }
        IdentitySource::KbsCertificate { certificate, key } => {
            let certificate = attested.fetch(certificate, MAX_RESOURCE).await?;
            let key = attested.fetch(key, MAX_KEY).await?;
            ready::read(&certificate, &key).map_err(refuse)
        }
        IdentitySource::Issuer { address, spiffe } => {
            let (door, wanted) = rules.issuer.clone().zip(wanted(&terms.identity)).ok_or_else(|| {
                Finding::new(Class::Bug, "there is nobody to ask for a certificate, or no name to ask for")
            })?;
            asking::ask((address, spiffe), door, (guest, &terms.hardware), &wanted).await
        }
    }
}

/// The names that the issuer is asked for.
fn wanted(identity: &Identity) -> Option<Wanted> {
    Wanted::of(identity.spiffe.as_ref(), &identity.dns)
}

/// Where the guest's services keep the attested key to themselves.
fn fresh_key() -> Option<Secret> {
    TeeKey::generate().and_then(|key| key.to_pkcs8()).ok()
}

fn text(bytes: &Secret, uri: &KbsUri) -> Result<String, Finding> {
    std::str::from_utf8(bytes.expose()).map(ToOwned::to_owned).map_err(|_| {
        Finding::new(Class::Content, format!("{uri} is not text"))
            .next(format!("upload the PEM of the mesh's roots to {uri}"))
    })
}

fn whose(source: &IdentitySource) -> String {
    match source {
        IdentitySource::KbsCertificate { certificate, .. } => format!("the certificate of {certificate}"),
        IdentitySource::Issuer { address, .. } => format!("the certificate of the issuer at {address}"),
        IdentitySource::Own => "our own certificate".to_owned(),
    }
}

fn not_issued(source: &IdentitySource, error: issuance::Error) -> Finding {
    let finding = Finding::new(Class::Certificate, format!("{} {error}", whose(source)));
    match source {
        IdentitySource::KbsCertificate { certificate, key } => finding
            .why("without a certificate and the key that belongs to it nobody can be served")
            .next(format!("upload the chain, PEM, leaf first, to {certificate}, and its one key, PEM, to {key}")),
        _ => finding
            .why("a certificate is made in this guest, from a key of this guest")
            .next("check the guest's clock, and report this with the version and the whole message where it is right"),
    }
}

fn not_shown(source: &IdentitySource, error: &crate::tls::leaf::LeafError) -> Finding {
    let finding = Finding::new(Class::Certificate, format!("{} {error}", whose(source)))
        .why("a certificate that peers would refuse, or that is not this workload's, is never shown");
    match source {
        IdentitySource::KbsCertificate { certificate, .. } => finding.next(format!(
            "upload a certificate by a CA of `peers.roots`, valid now, for `identity.spiffe`, with extendedKeyUsage \
             serverAuth and clientAuth, to {certificate}"
        )),
        IdentitySource::Issuer { .. } => finding.next(
            "upload the root of the issuer's CA to the resource of `peers.roots`, beside the one before it, and check the guest's clock",
        ),
        IdentitySource::Own => finding.next("correct `identity.spiffe` and `identity.dns`, and check the guest's clock"),
    }
}

fn bug(error: &crate::tls::Error) -> Finding {
    Finding::new(Class::Bug, format!("TLS for peers: the configuration {error}"))
}

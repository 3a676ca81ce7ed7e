//! Who this pod is to its peers, and who its peers must be: kept true for as long as the pod lives.
//!
//! One epoch is: attest → key → leaf → our own checks → publish. Each has an attestation of its own,
//! and the key that was attested is the leaf's key where the road gives it to us. A new epoch is
//! published whole; what was accepted under the one before goes on. [`keep()`] drives it by the clock.

pub mod checks;
mod keep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use keep::{Ask, Keeper, keep};

use crate::clock::Clock;
use crate::config::roles::{Allow, Identity, IdentitySource, Peers, Protocol, Roles};
use crate::config::spiffe::PeerPattern;
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::issuance::{self, own, ready};
use crate::kbs::TeeKey;
use crate::secret::Secret;
use crate::tls::leaf::{Expected, Issued, Leaf};
use crate::tls::server::{Entrance, H2, HTTP1, Served};
use crate::tls::trust::{Door, Trust};

/// Most bytes of a bundle of roots, of a certificate chain, of an allow-list: as `[kbs].ca`.
const MAX_RESOURCE: usize = 64 * 1024;

/// Most bytes of a private key, PEM.
const MAX_KEY: usize = 16 * 1024;

/// Most entries of an allow-list in a resource: as `inbound.allow`.
const MAX_ALLOW: usize = 256;

/// What the page of metrics is read by.
const METRICS: &[&[u8]] = &[HTTP1];

fn alpn(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Http => &[H2, HTTP1],
        Protocol::Tcp => &[],
    }
}

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

    /// The key that the KBS believes to be this guest's, PKCS#8. `None` where the guest's services keep
    /// it to themselves.
    fn key(&self) -> impl Future<Output = Result<Option<Secret>, Finding>> + Send;
}

/// What configuration says of identity and peers, in the shape that an epoch needs.
#[derive(Clone, Debug)]
pub struct Terms {
    identity: Identity,
    roots: KbsUri,
    /// Of each `[[inbound]]`, in order, then of `[metrics]` where it has a list: who may come in, and by
    /// which protocols.
    doors: Vec<(Allow, &'static [&'static [u8]])>,
    refresh: Duration,
    /// Whether this is kubectl-coco's contract: a certificate by whomever, and callers without names.
    kubectl_coco: bool,
}

impl Terms {
    /// Of the tables of the long-running roles. Refuses what is missing, and what this release lacks.
    pub fn of(roles: &Roles) -> Result<Self, Finding> {
        let refuse = |saw: &str, next: &str| Err(Finding::new(Class::Config, saw).next(next));
        let Some(identity) = roles.identity.clone() else {
            return refuse(
                "there is no `[identity]`: the sidecar would have no certificate",
                "add `[identity]` with `source` and `spiffe`",
            );
        };
        let roots = match &roles.peers {
            Some(Peers::Roots(roots)) => roots.clone(),
            Some(Peers::Evidence(_) | Peers::Both(..)) => {
                return refuse(
                    "`peers.trust` asks for evidence, and this release exchanges none between peers",
                    "write `trust = \"roots\"` and `roots = \"kbs:///…\"` in `[peers]`, or use a later release",
                );
            }
            None => {
                return refuse(
                    "there is no `[peers]`: nothing says who may connect",
                    "add `[peers]` with `trust = \"roots\"` and `roots = \"kbs:///…\"`",
                );
            }
        };
        if identity.source == IdentitySource::Issuer {
            return refuse(
                "`identity.source = \"issuer\"` is not in this release",
                "write `source = \"self\"` or `source = \"kbs-certificate\"` in `[identity]`, or use a later release",
            );
        }
        let kubectl_coco = roles.is_kubectl_coco();
        if identity.spiffe.is_none() && identity.dns.is_empty() && !kubectl_coco {
            return refuse(
                "`[identity]` has neither `spiffe` nor `dns`: a certificate without a name is nobody's",
                "add `spiffe = \"spiffe://…\"` to `[identity]`",
            );
        }
        if !roles.outbound.is_empty() {
            return refuse(
                "there is an `[[outbound]]`, and this release has inbound only",
                "remove `[[outbound]]`, or use a later release",
            );
        }
        if roles.inbound.is_empty() {
            return refuse(
                "there is no `[[inbound]]`: the sidecar would have nothing to serve",
                "add `[[inbound]]` with `listen`, `app` and `allow`",
            );
        }
        let inbound = roles.inbound.iter().map(|inbound| (inbound.allow.clone(), alpn(inbound.protocol)));
        let metrics = roles.metrics.iter().filter_map(|metrics| Some((metrics.allow.clone()?, METRICS)));
        let doors = inbound.chain(metrics).collect();
        Ok(Self { identity, roots, doors, refresh: roles.refresh(), kubectl_coco })
    }

    /// Every resource that an epoch reads, for whoever explains.
    pub fn resources(&self) -> Vec<&KbsUri> {
        let mut all = vec![&self.roots];
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

/// The peers' half: roots and lists as read at one moment.
struct Rules {
    pem: String,
    doors: Vec<Arc<Door>>,
}

/// One epoch, ready to be published.
async fn epoch(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Result<(Arc<Leaf>, Served), Finding> {
    let rules = rules(terms, attested, clock).await?;
    let leaf = leaf_of(terms, issue(terms, attested, clock).await?, &rules, clock)?;
    let served = serve(terms, &leaf, rules, clock)?;
    Ok((leaf, served))
}

/// What was issued, after our own checks.
fn leaf_of(terms: &Terms, issued: Issued, rules: &Rules, clock: &Clock) -> Result<Arc<Leaf>, Finding> {
    let ready_made = matches!(terms.identity.source, IdentitySource::KbsCertificate { .. });
    let expected = Expected {
        spiffe: terms.identity.spiffe.as_ref(),
        dns: &terms.identity.dns,
        // kubectl-coco's peers look at another CA than its sidecar does, or (`curl -k`) at none.
        roots: (ready_made && !terms.kubectl_coco).then_some(rules.pem.as_str()),
        rsa: terms.kubectl_coco,
        now: clock.now(),
    };
    Leaf::check(issued, &expected).map(Arc::new).map_err(|error| not_shown(&terms.identity.source, &error))
}

/// The same leaf behind rules that were read again.
async fn refresh(terms: &Terms, attested: &impl Attested, leaf: &Arc<Leaf>, clock: &Clock) -> Result<Served, Finding> {
    serve(terms, leaf, rules(terms, attested, clock).await?, clock)
}

fn serve(terms: &Terms, leaf: &Arc<Leaf>, rules: Rules, clock: &Clock) -> Result<Served, Finding> {
    let mut entrances = Vec::with_capacity(rules.doors.len());
    for (door, (_, alpn)) in rules.doors.into_iter().zip(&terms.doors) {
        entrances.push(Entrance::new(Arc::clone(leaf), door, alpn).map_err(|error| bug(&error))?);
    }
    Ok(Served { entrances, until: leaf.until(), since: clock.now() })
}

async fn rules(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Result<Rules, Finding> {
    let pem = text(&attested.fetch(&terms.roots, MAX_RESOURCE).await?, &terms.roots)?;
    let trust = Trust::new(&pem, clock).map_err(|error| {
        Finding::new(Class::Content, format!("{}, the roots of `peers.roots`, {error}", terms.roots))
            .why("peers are judged by these certificates alone, so every one must be readable")
            .next(format!("upload the PEM of the mesh's roots, certificates only, to {}", terms.roots))
    })?;
    #[cfg(feature = "compat")]
    if terms.kubectl_coco {
        return Ok(Rules { pem, doors: vec![Arc::new(Door::for_anyone(trust))] });
    }
    let trust = Arc::new(trust);
    let mut lists: BTreeMap<String, Vec<PeerPattern>> = BTreeMap::new();
    let mut doors = Vec::with_capacity(terms.doors.len());
    for (allow, _) in &terms.doors {
        let patterns = match allow {
            Allow::Listed(patterns) => patterns.clone(),
            // Above, and never beside another listener.
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
        let door = Door::new(Arc::clone(&trust), patterns);
        doors.push(Arc::new(door.ok_or_else(|| Finding::new(Class::Config, "an allow-list is empty"))?));
    }
    Ok(Rules { pem, doors })
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

async fn issue(terms: &Terms, attested: &impl Attested, clock: &Clock) -> Result<Issued, Finding> {
    let Identity { source, spiffe, dns, lifetime } = &terms.identity;
    let refuse = |error: issuance::Error| not_issued(source, error);
    match source {
        IdentitySource::Own => {
            let key = match attested.key().await? {
                Some(key) => key,
                None => fresh_key().ok_or_else(|| refuse(issuance::Error::Key))?,
            };
            let names = own::Names { spiffe: spiffe.as_ref(), dns };
            own::sign(key, names, clock.now(), *lifetime).map_err(refuse)
        }
        IdentitySource::KbsCertificate { certificate, key } => {
            let certificate = attested.fetch(certificate, MAX_RESOURCE).await?;
            let key = attested.fetch(key, MAX_KEY).await?;
            ready::read(&certificate, &key).map_err(refuse)
        }
        IdentitySource::Issuer => Err(refuse(issuance::Error::Make)),
    }
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
        _ => "our own certificate".to_owned(),
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
        _ => finding.next("correct `identity.spiffe` and `identity.dns`, and check the guest's clock"),
    }
}

fn bug(error: &crate::tls::Error) -> Finding {
    Finding::new(Class::Bug, format!("TLS for peers: the configuration {error}"))
}

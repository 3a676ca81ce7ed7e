//! The ordered ways to the KBS: the first that this guest offers is taken, and which, and why not the
//! others, is said.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::direct::{DirectRoad, Pace};
use super::rcar::Rcar;
use super::source::Source;
use super::standing::{Kernel, Refusal, Standing};
use super::token::ByToken;
use super::vouch::MeasuredConfig;
use super::{Deadline, cdh};
use crate::clock::Clock;
use crate::config::{Kbs, KbsUrl, Via};
use crate::finding::{Class, Finding, printable};
use crate::formats::ear::{Claims, EarToken, Status};
use crate::formats::kbs_uri::KbsUri;
use crate::guest_api::Info;
use crate::kbs::probe::{CONFIG, in_words_of};
use crate::kbs::{Client, Names, Trust};
use crate::secret::Secret;

/// Fetches under way at once where a road carries many: as many as one HTTP/2 connection is given.
const CONCURRENT: usize = 64;

/// The same over CDH. The guest's services take one at a time for long stretches, and a pod starts
/// beside hundreds of others.
const CONCURRENT_CDH: usize = 4;

/// Where the KBS is and whom to believe that it is the KBS, by somebody who may say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Tried in order.
    pub url: Vec<KbsUrl>,
    /// PEM of the only roots for https.
    pub ca: Option<String>,
    /// `system_roots = true`.
    pub system_roots: bool,
    /// Plain http to other hosts than loopback.
    pub allow_http: bool,
    /// Which document named it, for messages.
    pub named_in: &'static str,
}

impl Endpoint {
    /// Of `[kbs]`, where it names one.
    pub fn of_config(kbs: &Kbs) -> Option<Self> {
        (!kbs.url.is_empty()).then(|| Self {
            url: kbs.url.clone(),
            ca: kbs.ca.clone(),
            system_roots: kbs.system_roots,
            allow_http: kbs.allow_http,
            named_in: CONFIG,
        })
    }

    /// Of initdata that is this guest's own: the KBS that the guest's services use.
    pub fn of_initdata(config: &MeasuredConfig) -> Result<Option<Self>, Finding> {
        let Some(kbs) = &config.content().kbs else { return Ok(None) };
        let url = KbsUrl::parse(&kbs.url).map_err(|error| {
            Finding::new(Class::Config, format!("the KBS's url in the initdata's aa.toml or cdh.toml {error}"))
                .next("correct `url` in `[token_configs.kbs]` of aa.toml, or in `[kbc]` of cdh.toml")
        })?;
        let ca = kbs.cert.clone();
        // Initdata is trusted configuration: http in it is its author's word.
        Ok(Some(Self { url: vec![url], ca, system_roots: false, allow_http: true, named_in: "the initdata" }))
    }

    /// Whether a KBS there proves who it is before anything is said to it.
    pub fn proves_itself(&self) -> bool {
        self.ca.is_some() && self.url.iter().all(|url| url.tls)
    }

    fn client(&self, clock: &Clock) -> Result<Client, Finding> {
        let Self { ca, system_roots, allow_http, .. } = self;
        let trust = Trust { ca: ca.as_deref(), system_roots: *system_roots, allow_http: *allow_http, clock };
        Client::new(&self.url, &trust, Names::system()).map_err(|error| in_words_of(self.named_in, error.finding()))
    }
}

/// A way to the KBS that was taken.
#[derive(Clone)]
pub struct Road {
    via: Via,
    named_in: &'static str,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Rcar(Arc<DirectRoad<Rcar<Source>>>),
    Token(Arc<DirectRoad<ByToken>>),
    Cdh(Arc<cdh::Road>),
}

impl Road {
    /// The road over CDH.
    pub fn cdh(road: Arc<cdh::Road>) -> Self {
        Self { via: Via::Cdh, named_in: CONFIG, kind: Kind::Cdh(road) }
    }

    /// Which way it is.
    pub fn via(&self) -> Via {
        self.via
    }

    /// How many fetches may be under way at once.
    pub fn concurrent(&self) -> usize {
        if self.via == Via::Cdh { CONCURRENT_CDH } else { CONCURRENT }
    }

    /// Fetches one resource, at most `max_bytes` long.
    pub async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        let fetched = match &self.kind {
            Kind::Rcar(road) => road.fetch(uri, max_bytes).await,
            Kind::Token(road) => road.fetch(uri, max_bytes).await,
            Kind::Cdh(road) => return road.fetch(uri, max_bytes).await,
        };
        fetched.map_err(|finding| in_words_of(self.named_in, finding))
    }

    /// The key that the KBS attested, PKCS#8, and the attestation token that names it; attests if nobody
    /// has. `None` over CDH: the guest's services keep theirs to themselves.
    pub async fn attested(&self) -> Result<Option<(Secret, Zeroizing<String>)>, Finding> {
        let attested = match &self.kind {
            Kind::Rcar(road) => road.attested().await,
            Kind::Token(road) => road.attested().await,
            Kind::Cdh(_) => return Ok(None),
        };
        let (key, token) = attested.map_err(|finding| in_words_of(self.named_in, finding))?;
        let key = key.to_pkcs8().map_err(|_| Finding::new(Class::Bug, "the attested key cannot be exported"))?;
        Ok(Some((key, token)))
    }

    /// What the verifier says of this guest; attests if nobody has. Not verified: for a report to people, by
    /// which nothing is decided. `None` over CDH, and for a token that is none of Trustee's.
    pub async fn claims(&self) -> Result<Option<Claims>, Finding> {
        let token = match &self.kind {
            Kind::Rcar(road) => road.token().await,
            Kind::Token(road) => road.token().await,
            Kind::Cdh(_) => return Ok(None),
        };
        let token = token.map_err(|finding| in_words_of(self.named_in, finding))?;
        Ok(EarToken::parse(&token).and_then(|unverified| unverified.claims_unverified()).ok())
    }

    /// The verdict of the attestation that resources were released on, where it is not good: the
    /// KBS's resource policy releases to guests that its own verifier does not affirm.
    pub async fn released_without_affirming(&self) -> Option<&'static str> {
        let token = match &self.kind {
            Kind::Rcar(road) if road.attestations() > 0 => road.token().await.ok()?,
            Kind::Token(road) if road.attestations() > 0 => road.token().await.ok()?,
            _ => return None,
        };
        // For a report to people: nothing is decided by it, so nobody's signature is needed.
        match EarToken::parse(&token).ok()?.claims_unverified().ok()?.worst() {
            Status::Affirming => None,
            Status::None => Some("none"),
            Status::Warning => Some("warning"),
            Status::Contraindicated => Some("contraindicated"),
        }
    }
}

/// What the choice depends on.
pub struct Choice<'c> {
    /// The guest.
    pub standing: &'c Standing,
    /// The ways that configuration allows, in order.
    pub via: &'c [Via],
    /// The KBS, where somebody who may has named it.
    pub endpoint: Option<&'c Endpoint>,
    /// The initdata that is this guest's own.
    pub vouched: Option<&'c MeasuredConfig>,
    /// When everything must be over.
    pub deadline: Deadline,
    /// By whose time certificates are judged.
    pub clock: &'c Clock,
    /// It has been told before: a renewal takes the same way.
    pub again: bool,
}

impl Choice<'_> {
    /// Takes the first way that this guest offers. `cdh` is the road over CDH, if that is reached.
    ///
    /// A way that is there and fails is a refusal: the next one would hide what is broken.
    pub async fn take(&self, cdh: impl FnOnce() -> Arc<cdh::Road>) -> Result<Road, Finding> {
        let mut passed_over: Vec<String> = Vec::new();
        for via in self.via {
            if *via == Via::Cdh {
                return Ok(told(Road::cdh(cdh()), &passed_over, self.again));
            }
            match self.offered(*via).await? {
                Ok(kind) => {
                    let named_in = self.endpoint.map_or(CONFIG, |endpoint| endpoint.named_in);
                    return Ok(told(Road { via: *via, named_in, kind }, &passed_over, self.again));
                }
                Err(why) => passed_over.push(format!("{via}: {why}")),
            }
        }
        Err(Finding::new(
            Class::NoEvidence,
            format!("this guest offers no way to the KBS that `[kbs].via` allows ({})", passed_over.join("; ")),
        )
        .why("evidence comes from the kernel, from the agent behind the REST service, or CDH shows its own")
        .next("expose one of these ways to the container (docs/roles/platform.md), or add another one to `[kbs].via`"))
    }

    /// The road, or why this way is passed over.
    async fn offered(&self, via: Via) -> Result<Result<Kind, String>, Finding> {
        let Some(endpoint) = self.endpoint else {
            return Ok(Err("no KBS is named in `[kbs].url` or in initdata that is this guest's own".to_owned()));
        };
        if via != Via::AaToken && self.vouched.is_some_and(|vouched| vouched.text().is_none()) {
            return Ok(Err(
                "the guest has initdata whose text is not mounted here, and a KBS may want it with the evidence"
                    .to_owned(),
            ));
        }
        let source = match via {
            Via::ConfigfsTsm | Via::SevGuest => match self.standing.kernel(via).await {
                Ok(Kernel { source, .. }) => source.clone().until(self.deadline),
                Err(Refusal { absent: true, finding }) => return Ok(Err(finding.saw.clone())),
                Err(Refusal { finding, .. }) => return Err(finding.clone()),
            },
            Via::AaEvidence | Via::AaToken | Via::Cdh => {
                let Some(info) = self.standing.agent().await? else {
                    return Ok(Err("the guest's REST service has its feature `attestation` off".to_owned()));
                };
                if via == Via::AaToken {
                    let attester = ByToken::new(self.standing.api(), self.standing.take_passport().await);
                    let road = DirectRoad::with(endpoint.client(self.clock)?, attester, self.deadline, Pace::default());
                    return Ok(Ok(Kind::Token(road)));
                }
                match agent(info, self.standing) {
                    Some(source) => source,
                    None => return Ok(Err("the guest's REST service names no TEE".to_owned())),
                }
            }
        };
        let init_data = self.vouched.and_then(MeasuredConfig::text).map(ToOwned::to_owned);
        let client = endpoint.client(self.clock)?;
        Ok(Ok(Kind::Rcar(DirectRoad::new(client, source, init_data, self.deadline, Pace::default()))))
    }
}

fn agent(info: &Info, standing: &Standing) -> Option<Source> {
    let tee = info.tee.clone()?;
    if !info.additional_tees.is_empty() {
        let devices = info.additional_tees.iter().map(|name| printable(name, 32)).collect::<Vec<_>>().join(", ");
        tracing::warn!(%devices, "the evidence of these devices is not sent: the CPU's alone is");
    }
    Some(Source::Agent { api: standing.api(), tee })
}

fn told(road: Road, passed_over: &[String], again: bool) -> Road {
    let why = passed_over.join("; ");
    let not = if why.is_empty() { "-" } else { &why };
    if again {
        tracing::debug!(via = road.via.label(), %not, "way to the KBS");
    } else {
        tracing::info!(via = road.via.label(), %not, "way to the KBS");
    }
    road
}

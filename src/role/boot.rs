//! Bootstrap: which configuration, from where, believed how far.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::standing::Standing;
use crate::access::vouch::{self, MeasuredConfig};
use crate::access::ways::{Choice, Endpoint, Road};
use crate::access::{Deadline, cdh, hint, reports};
use crate::config::{
    self, Config, Document, For, Inputs, MAX_DOCUMENT, Origin, Problem, Provenance, Role, Via, problem,
};
use crate::finding::{Class, Finding};
use crate::formats::ear::Claims;
use crate::formats::kbs_uri::KbsUri;
use crate::identity;
use crate::observe;
use crate::ports::Ports;
use crate::secret::Secret;
use crate::secrets;

/// Why there is no configuration, and how far the refused one was to be believed.
pub(super) type Refused = (Option<Provenance>, Finding);

/// How long `init` may take to get its configuration: its own deadline by default, since the one in
/// the configuration is not known yet.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(300);

/// Whether anything says that this is a pod. Advice for waits and words; decides no check, since
/// all of it is written by the control plane.
pub(super) fn in_a_pod(ports: &Ports) -> bool {
    ports.env.iter().any(|(name, _)| name == "KUBERNETES_SERVICE_HOST")
        || std::process::id() == 1
        || ports.termination_log.exists()
        || ports.initdata.exists()
}

/// Whether the environment asks for anything but a role.
pub(super) fn has_settings(ports: &Ports) -> bool {
    ports.env.keys().filter_map(|name| name.to_str()).any(|n| n.starts_with("COUNTERSIGN_") && n != "COUNTERSIGN_ROLE")
}

/// A configuration, and what was found out on the way to it.
pub(super) struct Booted {
    pub(super) config: Config,
    pub(super) standing: Arc<Standing>,
    vouched: Option<MeasuredConfig>,
    /// The road that the configuration itself came by, with its end.
    taken: Option<(Endpoint, Road)>,
}

/// The configuration of a role: of the highest provenance that there is. What was named and cannot
/// be had is a refusal, never a reason to believe less.
pub(super) async fn configuration(ports: &Ports, file: Option<&Path>, role: Role) -> Result<Booted, Refused> {
    let asked = Asked::read(ports, file).map_err(|finding| (None, finding))?;
    let standing = Arc::new(Standing::new(ports, Deadline::after(DEADLINE), in_a_pod(ports)));
    let vouched = vouch::vouched(&standing).await.map_err(|finding| (None, finding))?;
    if let Some(vouched) = &vouched {
        tracing::info!(
            provenance = vouched.provenance().label(),
            by = vouched.by(),
            policy = vouched.content().policy.label(),
            "initdata"
        );
    }
    asked.configuration(ports, standing, vouched, role).await
}

/// Which configuration whoever started us asks for.
pub(super) struct Asked {
    audience: Option<For>,
    file: Option<PathBuf>,
}

impl Asked {
    /// Of the environment and the command line.
    pub(super) fn read(ports: &Ports, file: Option<&Path>) -> Result<Self, Finding> {
        let bootstrap = config::bootstrap(&ports.env).map_err(|problems| told(ports, &problems))?;
        if let (Some(_), Some(file)) = (&bootstrap.audience, file) {
            return Err(two_documents(
                file,
                "COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD name a delivered configuration",
            ));
        }
        Ok(Self { audience: bootstrap.audience, file: file.map(Path::to_owned) })
    }

    /// Whether a KBS must deliver it: nothing in the guest holds it.
    pub(super) fn is_delivered(&self, vouched: Option<&MeasuredConfig>) -> bool {
        self.audience.is_some() && vouched.and_then(in_initdata).is_none()
    }

    /// Whether there is a document, or a KBS that is to deliver one.
    pub(super) fn names_one(&self, vouched: Option<&MeasuredConfig>) -> bool {
        self.audience.is_some() || self.file.is_some() || vouched.and_then(in_initdata).is_some()
    }

    /// The configuration, with what this guest has `vouched` for.
    pub(super) async fn configuration(
        self,
        ports: &Ports,
        standing: Arc<Standing>,
        vouched: Option<MeasuredConfig>,
        role: Role,
    ) -> Result<Booted, Refused> {
        let (config, taken) = match (vouched.as_ref().and_then(in_initdata), self.audience, self.file.as_deref()) {
            (Some(_), _, Some(file)) => {
                return Err((None, two_documents(file, "this guest's initdata holds a countersign.toml")));
            }
            (Some(document), _, None) => (resolve(ports, Some(document), role)?, None),
            (None, Some(audience), _) => delivered(ports, &audience, &standing, vouched.as_ref(), role).await?,
            (None, None, Some(file)) => {
                let refuse = |finding| (Some(Provenance::Unmeasured), finding);
                let text = read_file(file).map_err(refuse)?;
                let origin = Origin::file(file.display().to_string());
                let document =
                    Document { text: &text, origin, provenance: Provenance::Unmeasured, required_audience: None };
                (resolve(ports, Some(document), role)?, None)
            }
            (None, None, None) => (resolve(ports, None, role)?, None),
        };
        Ok(Booted { config, standing, vouched, taken })
    }
}

fn in_initdata(vouched: &MeasuredConfig) -> Option<Document<'_>> {
    Some(Document {
        text: vouched.content().countersign.as_deref()?,
        origin: Origin::file("countersign.toml of the initdata"),
        provenance: vouched.provenance(),
        required_audience: None,
    })
}

impl Booted {
    /// The way to the KBS for this configuration.
    pub(super) async fn road(&self, ports: &Ports, deadline: Deadline) -> Result<Arc<ByRoad>, Finding> {
        let endpoint = self.endpoint()?;
        if let (Some((end, road)), Some(endpoint)) = (&self.taken, &endpoint)
            && end == endpoint
            && self.config.kbs.via.contains(&road.via())
            && self.config.deadline >= DEADLINE
        {
            // One attestation for the configuration and for what it asks for.
            return Ok(Arc::new(ByRoad(road.clone())));
        }
        self.take(ports, deadline, false).await
    }

    /// The way to the KBS for this configuration, with an attestation of its own.
    pub(super) async fn fresh_road(&self, ports: &Ports, deadline: Deadline) -> Result<Arc<ByRoad>, Finding> {
        self.take(ports, deadline, true).await
    }

    async fn take(&self, ports: &Ports, deadline: Deadline, again: bool) -> Result<Arc<ByRoad>, Finding> {
        let endpoint = self.endpoint()?;
        let choice = Choice {
            standing: &self.standing,
            via: &self.config.kbs.via,
            endpoint: endpoint.as_ref(),
            vouched: self.vouched.as_ref(),
            deadline,
            clock: &ports.clock,
            again,
        };
        let road = choice.take(|| cdh(ports, &self.standing, endpoint.as_ref(), deadline)).await?;
        Ok(Arc::new(ByRoad(road)))
    }

    /// The ports of every KBS that may be asked: where resources come from, and where the road over CDH
    /// asks why there are none.
    pub(super) fn kbs_ports(&self, ports: &Ports) -> BTreeSet<u16> {
        // What cannot be read is refused where it is used.
        let named = self.endpoint().ok().flatten();
        let hinted = hint::find(named.as_ref(), &ports.initdata);
        let taken = self.taken.iter().flat_map(|(endpoint, _)| &endpoint.url);
        taken.chain(named.iter().flat_map(|endpoint| &endpoint.url)).chain(&hinted.url).map(|url| url.port).collect()
    }

    /// The KBS that trusted configuration names. An unmeasured one names none.
    pub(super) fn endpoint(&self) -> Result<Option<Endpoint>, Finding> {
        let own = Endpoint::of_config(&self.config.kbs);
        match (own, &self.vouched) {
            (Some(own), _) => Ok(Some(own)),
            (None, Some(vouched)) => Endpoint::of_initdata(vouched),
            (None, None) => Ok(None),
        }
    }
}

/// kubectl-coco's contract, in its own image: seven variables, and nothing that is believed more beside
/// them. Which pod this says it is comes back too.
#[cfg(feature = "compat")]
pub(super) async fn kubectl_coco(ports: &Ports) -> Result<(Booted, config::compat::Contract), Refused> {
    let refuse = |finding| (Some(Provenance::Unmeasured), finding);
    let contract = config::compat::read(&ports.env).map_err(|problems| refuse(told(ports, &problems)))?;
    observe::log::install(contract.config.log, ports.banner);
    let standing = Arc::new(Standing::new(ports, Deadline::after(DEADLINE), in_a_pod(ports)));
    let vouched = vouch::vouched(&standing).await.map_err(refuse)?;
    if vouched.as_ref().and_then(in_initdata).is_some() {
        return Err(refuse(
            Finding::new(
                Class::Config,
                "this guest's initdata holds a countersign.toml, and the environment has kubectl-coco's variables",
            )
            .why("only one can hold; what is measured is believed more, and the environment must not replace it")
            .next("remove TLS_CERT_URI and the others from the container's env, and set COUNTERSIGN_ROLE=sidecar"),
        ));
    }
    Ok((Booted { config: contract.config.clone(), standing, vouched, taken: None }, contract))
}

/// The configuration of `get`: log settings from the environment, nothing else.
pub(super) fn environment(ports: &Ports) -> Result<Config, Finding> {
    let inputs = Inputs { document: None, env: &ports.env, args: &[], role: Some(Role::Get) };
    let config = config::resolve(&inputs).map_err(|problems| told(ports, &problems))?;
    observe::log::install(config.log, ports.banner);
    Ok(config)
}

async fn delivered(
    ports: &Ports,
    audience: &For,
    standing: &Standing,
    vouched: Option<&MeasuredConfig>,
    role: Role,
) -> Result<(Config, Option<(Endpoint, Road)>), Refused> {
    let refuse = |provenance| move |finding| (Some(provenance), finding);
    let unproven = refuse(Provenance::DeliveredUnproven);
    let name = audience.resource();
    let uri = KbsUri::parse(&name).map_err(|error| {
        unproven(Finding::new(
            Class::Config,
            format!("the resource {name} that COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD name {error}"),
        ))
    })?;
    let endpoint = vouched.map(Endpoint::of_initdata).transpose().map_err(unproven)?.flatten();
    // Only a KBS that proves itself, to us, delivers what may be believed like initdata.
    let proven = endpoint.as_ref().filter(|endpoint| endpoint.proves_itself());
    let (choice, deadline) = (Via::ALL, standing.deadline());
    let choice =
        Choice { standing, via: &choice, endpoint: proven, vouched, deadline, clock: &ports.clock, again: false };
    let road = choice.take(|| cdh(ports, standing, endpoint.as_ref(), deadline)).await.map_err(unproven)?;
    let provenance = if road.via() == Via::Cdh { Provenance::DeliveredUnproven } else { Provenance::Delivered };
    let refuse = refuse(provenance);
    let text = road.fetch(&uri, MAX_DOCUMENT).await.map_err(|finding| {
        let saw = format!("the configuration of this workload is not to be had: {}", finding.saw);
        refuse(Finding { saw, ..finding })
    })?;
    let text = std::str::from_utf8(text.expose()).map_err(|_| {
        refuse(
            Finding::new(Class::Config, format!("{uri} is not text in UTF-8"))
                .next(format!("upload the workload's countersign.toml to {uri}")),
        )
    })?;
    let origin = Origin::Resource { uri: uri.to_string() };
    let config = resolve(ports, Some(Document { text, origin, provenance, required_audience: Some(audience) }), role)?;
    Ok((config, proven.cloned().map(|endpoint| (endpoint, road))))
}

fn resolve(ports: &Ports, document: Option<Document<'_>>, role: Role) -> Result<Config, Refused> {
    let provenance = document.as_ref().map_or(Provenance::Unmeasured, |document| document.provenance);
    let inputs = Inputs { document, env: &ports.env, args: &[], role: Some(role) };
    let config = config::resolve(&inputs).map_err(|problems| (Some(provenance), told(ports, &problems)))?;
    observe::log::install(config.log, ports.banner);
    Ok(config)
}

/// The road, as the flow of secrets wants it: the one place where the two flows meet.
pub(super) struct ByRoad(Road);

impl ByRoad {
    /// Which way it is.
    pub(super) fn via(&self) -> Via {
        self.0.via()
    }

    /// What the verifier says of this guest, as far as this way shows it. Attests if nobody has.
    pub(super) async fn claims(&self) -> Result<Option<Claims>, Finding> {
        self.0.claims().await
    }

    /// What the way is called, and a word where the KBS's policy is too lax.
    pub(super) async fn describe(&self) -> String {
        let via = self.0.via();
        match self.0.released_without_affirming().await {
            None => format!("road {via}"),
            Some(verdict) => {
                tracing::warn!(
                    verdict,
                    "kbs-policy-lax: the KBS released secrets although its verifier's verdict on this guest is not \
                     `affirming`; replace Trustee's default resource policy (docs/roles/app-security.md)"
                );
                format!("road {via}; kbs-policy-lax: released although the verifier's verdict is `{verdict}`")
            }
        }
    }
}

/// This guest's hardware, for its peers.
pub(super) fn hardware(ports: &Ports, config: &Config) -> identity::Hardware {
    let reports = Arc::new(reports::fresh(ports, &config.kbs.via));
    identity::Hardware { reports, makers: ports.makers.clone() }
}

impl identity::Attested for Arc<ByRoad> {
    async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        self.0.fetch(uri, max_bytes).await
    }

    async fn guest(&self) -> Result<Option<identity::Guest>, Finding> {
        Ok(self.0.attested().await?.map(|(key, token)| identity::Guest { key, token }))
    }
}

impl secrets::Resources for ByRoad {
    async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        self.0.fetch(uri, max_bytes).await
    }

    fn concurrent(&self) -> usize {
        self.0.concurrent()
    }

    fn label(&self) -> &'static str {
        self.0.via().label()
    }
}

/// The road over CDH.
pub(super) fn cdh(
    ports: &Ports,
    standing: &Standing,
    endpoint: Option<&Endpoint>,
    deadline: Deadline,
) -> Arc<cdh::Road> {
    let hint = hint::find(endpoint, &ports.initdata);
    cdh::Road::new(standing.api(), deadline, standing.boot_until(), in_a_pod(ports), hint, &ports.clock)
}

/// Prints every problem; the finding has room for the first only.
fn told(ports: &Ports, problems: &[Problem]) -> Finding {
    for problem in problems {
        ports.say_err(&problem.to_string());
    }
    problem::finding(problems)
}

fn two_documents(file: &Path, other: &str) -> Finding {
    Finding::new(Class::Config, format!("--config {} is given, and {other}", file.display()))
        .why("only one document can hold; the other one is believed more, and a file must not replace it")
        .next("remove --config from the container's args, or the two variables from its env")
}

/// Reads a configuration file.
fn read_file(path: &Path) -> Result<String, Finding> {
    let refuse = |why: &dyn std::fmt::Display| {
        Finding::new(Class::Config, format!("{} cannot be read: {why}", path.display()))
            .next(format!("correct the path in --config, or mount the file at {}", path.display()))
    };
    // Asked before opening: opening a pipe would wait for a writer that never comes.
    if !std::fs::metadata(path).map_err(|error| refuse(&error.kind()))?.is_file() {
        return Err(refuse(&"it is not a plain file"));
    }
    let file = std::fs::File::open(path).map_err(|error| refuse(&error.kind()))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| refuse(&error.kind()))?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(refuse(&format_args!("it is larger than {} KiB", MAX_DOCUMENT / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| refuse(&"it is not text in UTF-8"))
}

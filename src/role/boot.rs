//! Bootstrap: which configuration, from where, believed how far.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::access::Deadline;
use crate::access::cdh::{KbsHint, Road};
use crate::access::hint;
use crate::config::{self, Config, Document, For, Inputs, MAX_DOCUMENT, Origin, Problem, Provenance, Role, problem};
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::guest_api::GuestApi;
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
}

/// Whether the environment asks for anything but a role.
pub(super) fn has_settings(ports: &Ports) -> bool {
    ports.env.keys().filter_map(|name| name.to_str()).any(|n| n.starts_with("COUNTERSIGN_") && n != "COUNTERSIGN_ROLE")
}

/// The configuration of `init`: of the highest provenance that is named. What was named and cannot
/// be had is a refusal, never a reason to believe less.
pub(super) async fn configuration(ports: &Ports, file: Option<&Path>) -> Result<Config, Refused> {
    let bootstrap = config::bootstrap(&ports.env).map_err(|problems| (None, told(ports, &problems)))?;
    match (bootstrap.audience, file) {
        (Some(_), Some(file)) => Err((None, two_documents(file))),
        (Some(audience), None) => delivered(ports, &audience).await,
        (None, Some(file)) => {
            let refuse = |finding| (Some(Provenance::Unmeasured), finding);
            let text = read_file(file).map_err(refuse)?;
            let origin = Origin::file(file.display().to_string());
            resolve(
                ports,
                Some(Document { text: &text, origin, provenance: Provenance::Unmeasured, required_audience: None }),
            )
        }
        (None, None) => resolve(ports, None),
    }
}

/// The configuration of `get`: log settings from the environment, nothing else.
pub(super) fn environment(ports: &Ports) -> Result<Config, Finding> {
    let inputs = Inputs { document: None, env: &ports.env, args: &[], role: Some(Role::Get) };
    let config = config::resolve(&inputs).map_err(|problems| told(ports, &problems))?;
    observe::log::install(config.log, ports.banner);
    Ok(config)
}

async fn delivered(ports: &Ports, audience: &For) -> Result<Config, Refused> {
    let provenance = Provenance::DeliveredUnproven;
    let refuse = |finding| (Some(provenance), finding);
    let name = audience.resource();
    let uri = KbsUri::parse(&name).map_err(|error| {
        refuse(Finding::new(
            Class::Config,
            format!("the resource {name} that COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD name {error}"),
        ))
    })?;
    let text = road(ports, Deadline::after(DEADLINE), hint::find(None, &ports.initdata))
        .fetch(&uri, MAX_DOCUMENT)
        .await
        .map_err(|finding| {
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
    resolve(ports, Some(Document { text, origin, provenance, required_audience: Some(audience) }))
}

fn resolve(ports: &Ports, document: Option<Document<'_>>) -> Result<Config, Refused> {
    let provenance = document.as_ref().map_or(Provenance::Unmeasured, |document| document.provenance);
    let inputs = Inputs { document, env: &ports.env, args: &[], role: Some(Role::Init) };
    let config = config::resolve(&inputs).map_err(|problems| (Some(provenance), told(ports, &problems)))?;
    observe::log::install(config.log, ports.banner);
    Ok(config)
}

/// The road, as the flow of secrets wants it: the one place where the two flows meet.
pub(super) struct ByRoad(Arc<Road>);

impl secrets::Resources for ByRoad {
    async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        self.0.fetch(uri, max_bytes).await
    }
}

/// The same road for many fetches at once.
pub(super) fn resources(road: Arc<Road>) -> Arc<ByRoad> {
    Arc::new(ByRoad(road))
}

/// A road that takes the boot into account.
pub(super) fn road(ports: &Ports, deadline: Deadline, hint: KbsHint) -> Arc<Road> {
    Road::new(GuestApi::new(ports.guest_api), deadline, in_a_pod(ports), hint)
}

/// Prints every problem; the finding has room for the first only.
fn told(ports: &Ports, problems: &[Problem]) -> Finding {
    for problem in problems {
        ports.say_err(&problem.to_string());
    }
    problem::finding(problems)
}

fn two_documents(file: &Path) -> Finding {
    Finding::new(
        Class::Config,
        format!(
            "--config {} is given, and COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD name a delivered configuration",
            file.display()
        ),
    )
    .why("only one document can hold; the delivered one is believed more, and a file must not replace it")
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

//! `countersign init`: the list of secrets, all or nothing, before the app starts.

use std::sync::Arc;

use super::{Ended, boot, confine, diagnose};
use crate::access::Deadline;
use crate::cli::Init;
use crate::config::{Config, Provenance, Role};
use crate::finding::{Class, Finding};
use crate::ports::Ports;
use crate::sandbox::Outcome;
use crate::sandbox::calls::Calls;
use crate::secrets;

pub(super) async fn run(ports: &Ports, arguments: &Init, calls: Outcome<Calls>) -> Ended {
    let started = tokio::time::Instant::now();
    let booted = match configuration(ports, arguments).await {
        Ok(booted) => Arc::new(booted),
        Err((provenance, finding)) => return refused(ports, provenance, finding, None).await,
    };
    let (provenance, deadline) = (Some(booted.config.provenance), Deadline::since(started, booted.config.deadline));
    match init(ports, &booted, deadline, calls).await {
        Ok(summary) => Ended::new("init", provenance, Ok(summary)),
        Err(finding) => refused(ports, provenance, finding, Some(booted)).await,
    }
}

/// A refusal, and what the cheap part of `diagnose` finds beside it.
async fn refused(
    ports: &Ports,
    provenance: Option<Provenance>,
    finding: Finding,
    booted: Option<Arc<boot::Booted>>,
) -> Ended {
    let broken = diagnose::after(ports, &finding, booted).await;
    Ended { broken, ..Ended::new("init", provenance, Err(finding)) }
}

async fn configuration(ports: &Ports, arguments: &Init) -> Result<boot::Booted, boot::Refused> {
    if arguments.config.is_none() && !boot::has_settings(ports) && !boot::in_a_pod(ports) {
        return Err((None, not_here()));
    }
    boot::configuration(ports, arguments.config.as_deref(), Role::Init).await
}

async fn init(
    ports: &Ports,
    booted: &boot::Booted,
    deadline: Deadline,
    calls: Outcome<Calls>,
) -> Result<String, Finding> {
    let config = &booted.config;
    tracing::info!(provenance = config.provenance.label(), serial = config.serial, "configuration read");
    let directory = secrets::preflight(config, ports)?;
    confine::confine(ports, booted, calls);
    let road = booted.road(ports, deadline).await?;
    let delivered = secrets::deliver(config, &road, directory.as_ref(), ports).await?;
    let place = directory.as_ref().map(|directory| directory.describe().to_string());
    Ok(summary(config, &delivered, place, &road.describe().await))
}

fn summary(config: &Config, delivered: &secrets::Delivered, place: Option<String>, road: &str) -> String {
    let gates = match config.secrets.gates.len() {
        0 => String::new(),
        1 => "1 gate open; ".to_owned(),
        many => format!("{many} gates open; "),
    };
    let files = match (delivered.files, place) {
        (_, None) => "nothing to publish".to_owned(),
        (files, Some(place)) => format!(
            "{files} secret{} {} {} ({place})",
            if files == 1 { "" } else { "s" },
            if delivered.unchanged { "unchanged in" } else { "published in" },
            config.secrets.directory.display(),
        ),
    };
    format!("{gates}{files}; configuration {}, {road}", config.provenance)
}

/// `init` at a person's prompt.
fn not_here() -> Finding {
    Finding::new(Class::Usage, "`countersign init` is the pod's role, and this does not look like a pod")
        .why("secrets are released inside a confidential guest only; on a workstation there is nothing to fetch them from")
        .next(
            "run `kubectl countersign initdata new --help` here to write the pod's initdata, and put \
             COUNTERSIGN_ROLE=init and COUNTERSIGN_SECRETS into the pod's manifest",
        )
}

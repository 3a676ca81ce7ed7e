//! `countersign init`: the list of secrets, all or nothing, before the app starts.

use super::{Ended, boot};
use crate::access::Deadline;
use crate::access::hint;
use crate::cli::Init;
use crate::config::Config;
use crate::finding::{Class, Finding};
use crate::ports::Ports;
use crate::secrets;

pub(super) async fn run(ports: &Ports, arguments: &Init) -> Ended {
    let started = tokio::time::Instant::now();
    let config = match configuration(ports, arguments).await {
        Ok(config) => config,
        Err((provenance, finding)) => return Ended { role: "init", provenance, result: Err(finding) },
    };
    let provenance = Some(config.provenance);
    Ended { role: "init", provenance, result: init(ports, &config, Deadline::since(started, config.deadline)).await }
}

async fn configuration(ports: &Ports, arguments: &Init) -> Result<Config, boot::Refused> {
    if arguments.config.is_none() && !boot::has_settings(ports) && !boot::in_a_pod(ports) {
        return Err((None, not_here()));
    }
    boot::configuration(ports, arguments.config.as_deref()).await
}

async fn init(ports: &Ports, config: &Config, deadline: Deadline) -> Result<String, Finding> {
    tracing::info!(provenance = config.provenance.label(), serial = config.serial, "configuration read");
    let directory = secrets::preflight(config, ports)?;
    let hint = hint::find(Some(&config.kbs), &ports.initdata);
    let road = boot::resources(boot::road(ports, deadline, hint));
    let delivered = secrets::deliver(config, &road, directory.as_ref(), ports).await?;
    Ok(summary(config, &delivered, directory.as_ref().map(|directory| directory.describe().to_string())))
}

fn summary(config: &Config, delivered: &secrets::Delivered, place: Option<String>) -> String {
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
    format!("{gates}{files}; configuration {}, road cdh", config.provenance)
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

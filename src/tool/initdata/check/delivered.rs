//! The configuration that the guest will have: the one of the initdata, or the one that a KBS delivers,
//! and whether the pod fits it.

use std::path::Path;

use super::pod::Manifest;
use super::report::Report;
use super::rules;
use super::services::told;
use super::source::Place;
use crate::config::{self, Config, For};
use crate::tool::initdata::read_text;

/// A file that is to be uploaded.
pub(super) struct Delivered {
    /// Its path, for messages.
    pub(super) file: String,
    /// What it says, not parsed yet.
    pub(super) text: String,
}

/// A good configuration, and where it stands.
pub(super) struct Held {
    /// The delivered file; `None`: the initdata.
    pub(super) file: Option<String>,
    /// What it says.
    pub(super) config: Config,
}

/// Reads a file that is to be uploaded.
pub(super) fn read(path: &Path, report: &mut Report) -> Option<Delivered> {
    let file = path.display().to_string();
    match read_text(path) {
        Ok(text) => Some(Delivered { file, text }),
        Err(finding) => {
            report.in_file_next(&rules::DELIVERED, &file, None, finding.saw, finding.next);
            None
        }
    }
}

impl Delivered {
    /// Resolves it as what the guest takes it for, where least is proven.
    pub(super) fn config(&self, place: Place<'_>, report: &mut Report) -> Option<Config> {
        match config::resolve::as_delivered(&self.text, &self.file) {
            Ok(config) => Some(config),
            Err(problems) => {
                told(&problems, place, &rules::DELIVERED, report);
                None
            }
        }
    }
}

/// Whether the pod is the one that the configuration is for, and its probes are answered.
pub(super) fn pod(manifest: &Manifest, held: &Held, report: &mut Report) {
    if let (Some(file), Some(audience)) = (&held.file, &held.config.audience) {
        for container in &manifest.containers {
            if let Some(other) = other_workload(&container.env, audience) {
                let whom = format!("{}/{}", audience.namespace, audience.workload);
                let saw = format!("{file} is for {whom}, and container {} says {other}", container.name);
                report.in_file(&rules::DELIVERED_FOR, &manifest.file, container.line, saw);
            }
        }
    }
    for (probe, line) in &manifest.probes {
        if let Some(lack) = probe.lacks(&held.config) {
            report.in_file_next(&rules::POD_PROBE, &manifest.file, *line, probe.asks(), probe.next(&lack));
        }
    }
}

/// The first of a container's variables that names another workload.
fn other_workload<'e>(env: &'e [String], audience: &For) -> Option<&'e str> {
    env.iter().map(String::as_str).find(|variable| match variable.split_once('=') {
        Some(("COUNTERSIGN_NAMESPACE", namespace)) => namespace != audience.namespace,
        Some(("COUNTERSIGN_WORKLOAD", workload)) => workload != audience.workload,
        _ => false,
    })
}

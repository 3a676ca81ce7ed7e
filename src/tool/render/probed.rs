//! Whether the probes of a rendered pod will be answered: admission leads them through the sidecar,
//! whose configuration has to list their paths.

use std::path::PathBuf;

use serde_json::Value;

use super::usage;
use crate::config::{self, Config, For};
use crate::finding::Finding;
use crate::formats::initdata::Initdata;
use crate::tool::initdata::pack::ANNOTATION;
use crate::tool::initdata::read_text;
use crate::tool::probes::{self, Lack, Probe};

/// What becomes of a probe that no `[[inbound]]` lists.
const REFUSED: &str = "which the sidecar answers with 404, so that the pod is never ready";

/// The configurations that a KBS delivers, with whom they are for.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<(For, Config)>, Finding> {
    let mut delivered = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = read_text(file)?;
        let resolved = config::resolve::as_delivered(&text, &name).ok();
        let resolved = resolved.and_then(|config| Some((config.audience.clone()?, config)));
        delivered.push(resolved.ok_or_else(|| {
            usage(format!("--delivered: {name} is not a configuration that a KBS can deliver"))
                .next(format!("run `kubectl countersign config check {name}`, and write `for` into it"))
        })?);
    }
    Ok(delivered)
}

/// A line for each probe of the pod that the sidecar will not answer, or that nobody can tell of.
pub(super) fn unanswered(name: &str, pod: &Value, delivered: &[(For, Config)]) -> Vec<String> {
    let probes = probes::of(pod);
    if probes.is_empty() {
        return Vec::new();
    }
    let note =
        |probe: &Probe, lack: &Lack, but: &str| format!("note: {name}: {}, {but}: {}", probe.asks(), probe.next(lack));
    match configuration(pod, delivered) {
        Known::Good(config) => probes
            .iter()
            .filter_map(|probe| Some((probe, probe.lacks(&config)?)))
            .map(|(probe, lack)| note(probe, &lack, REFUSED))
            .collect(),
        Known::Bad => {
            vec![format!("note: {name}: its countersign.toml has mistakes: run `kubectl countersign initdata check`")]
        }
        Known::Not => {
            let but = "which is answered only where the configuration lists it (name it with --initdata, --configmap or \
                       --delivered to have that compared)";
            let told = |probe: &Probe| match probe.never() {
                Some(lack) => note(probe, &lack, REFUSED),
                None => note(probe, &Lack::Inbound, but),
            };
            probes.iter().map(told).collect()
        }
    }
}

/// What is known of a pod's configuration.
enum Known {
    Good(Box<Config>),
    Bad,
    Not,
}

/// Of its initdata, else the delivered one that is for it.
fn configuration(pod: &Value, delivered: &[(For, Config)]) -> Known {
    let annotation = pod.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION)?.as_str());
    let initdata = annotation.and_then(|value| Initdata::parse(value.as_bytes()).ok());
    if let Some(text) = initdata.as_ref().and_then(Initdata::countersign) {
        return config::parse(text).map_or(Known::Bad, |config| Known::Good(Box::new(config)));
    }
    let named = |variable: &str| {
        let env = pod.pointer("/spec/initContainers/0/env").and_then(Value::as_array)?;
        env.iter().find(|one| one.get("name").is_some_and(|name| name == variable))?.get("value")?.as_str()
    };
    let (namespace, workload) = (named("COUNTERSIGN_NAMESPACE"), named("COUNTERSIGN_WORKLOAD"));
    let ours =
        |audience: &For| Some(audience.namespace.as_str()) == namespace && Some(audience.workload.as_str()) == workload;
    delivered
        .iter()
        .find(|(audience, _)| ours(audience))
        .map_or(Known::Not, |(_, config)| Known::Good(Box::new(config.clone())))
}

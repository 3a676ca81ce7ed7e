//! Secrets: fetch → unseal → check → publish. Every value is checked before any is published.

pub mod check;
pub mod checks;
pub mod fetch;
mod receipt;

use std::sync::Arc;

use crate::config::{Config, Format, Gate, SecretFile};
use crate::finding::{Class, Finding};
use crate::formats::delivery::Delivery;
use crate::ports::Ports;
use crate::ramdir::{Entry, Needs, RamDir};

use fetch::Value;

pub use fetch::Resources;

/// Most bytes of a gate's value: a word.
const MAX_GATE_BYTES: usize = 4096;

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    /// How many files the published set has.
    pub files: usize,
    /// The set that stood there already was the same, and was left.
    pub unchanged: bool,
}

/// Proves the destination, before anything is fetched. `None` where nothing is to be published.
pub fn preflight(config: &Config, ports: &Ports) -> Result<Option<RamDir>, Finding> {
    let files = &config.secrets.files;
    if files.is_empty() {
        return Ok(None);
    }
    let owners: Vec<u32> = files.iter().filter_map(|file| file.owner).collect();
    // Sizes are not known yet: one page each, so that a full volume is refused before a secret is
    // asked for. The exact sizes are checked when publishing.
    let groups: Vec<u32> = files.iter().filter_map(|file| file.group).collect();
    let needs = Needs { files: files.len(), bytes: 0, owners: &owners, groups: &groups };
    let directory = RamDir::prove(&config.secrets.directory, &needs, &ports.proc).map_err(|error| error.finding())?;
    never_lower(config, &directory)?;
    Ok(Some(directory))
}

/// The set that stands was published by a configuration whose serial this one may not be below: an
/// old configuration must not come back while the pod lives.
fn never_lower(config: &Config, directory: &RamDir) -> Result<(), Finding> {
    let receipt = directory.receipt().map_err(|error| error.finding())?;
    let Some(standing) = receipt.as_deref().and_then(receipt::serial) else { return Ok(()) };
    if config.serial >= standing {
        return Ok(());
    }
    let saw = format!(
        "the configuration has serial {}, and the set in {} was published under serial {standing}",
        config.serial,
        config.secrets.directory.display()
    );
    Err(Finding::new(Class::Config, saw)
        .why("a serial never goes down: an older configuration has been put in a newer one's place")
        .next("raise `serial` in the configuration above the one that was published, and deliver it again"))
}

/// What the receipt says of the set that stands; `None` where none does. The directory is proven again first.
pub fn standing(directory: &RamDir) -> Result<Option<Delivery>, Finding> {
    directory.recheck().map_err(|error| error.finding())?;
    let Some(receipt) = directory.receipt().map_err(|error| error.finding())? else { return Ok(None) };
    Delivery::parse(&receipt).map(Some).map_err(|error| {
        Finding::new(Class::Destination, format!("beside the published files the receipt {error}"))
            .why("it is not as countersign writes it: something else in the pod wrote to the directory")
            .next("mount the `emptyDir` of `[secrets].directory` read-only into every other container")
    })
}

/// Opens the gates, fetches, checks and publishes the whole set, or nothing.
pub async fn deliver(
    config: &Config,
    road: &Arc<impl Resources>,
    directory: Option<&RamDir>,
    ports: &Ports,
) -> Result<Delivered, Finding> {
    open_gates(road, &config.secrets.gates).await?;
    let directory = match directory {
        Some(directory) => directory,
        None if config.secrets.files.is_empty() => return Ok(Delivered { files: 0, unchanged: false }),
        // Success here would start an app without the secrets that its configuration asks for.
        None => return Err(Finding::new(Class::Bug, "there are files to publish and no proven directory")),
    };
    let values = fetch::values(road, &config.secrets).await?;
    if values.len() != config.secrets.files.len() {
        // What follows pairs files with values; a missing one must not shorten the set.
        return Err(Finding::new(Class::Bug, "there are not as many values as files"));
    }
    check_all(&config.secrets.files, &values)?;
    let entries: Vec<Entry<'_>> = config
        .secrets
        .files
        .iter()
        .zip(&values)
        .map(|(file, value)| Entry {
            path: &file.path,
            bytes: value.bytes.expose(),
            mode: file.mode,
            owner: file.owner,
            group: file.group,
        })
        .collect();
    let receipt = receipt::write(config, &values, road.label(), ports.clock.now());
    let published = directory.publish(&entries, &receipt, &ports.fail).map_err(|error| error.finding())?;
    if published.left_behind {
        tracing::warn!("the new set is published, but an older one could not be removed; the next run tries again");
    }
    Ok(Delivered { files: published.files, unchanged: published.unchanged })
}

/// Each gate's resource must hold its value exactly.
async fn open_gates(road: &Arc<impl Resources>, gates: &[Gate]) -> Result<(), Finding> {
    let requests = gates.iter().map(|gate| (gate.from.to_string(), gate.from.clone(), MAX_GATE_BYTES)).collect();
    let values = fetch::all_or_none(fetch::many(road, requests).await)?;
    if values.len() != gates.len() {
        return Err(Finding::new(Class::Bug, "there are not as many values as gates"));
    }
    for (gate, value) in gates.iter().zip(values) {
        check::check_equals(gate.equals.as_bytes(), value.expose())
            .map_err(|error| content(&gate.from.to_string(), &gate.from.to_string(), &error))?;
        tracing::info!(gate = %gate.from, "gate open");
    }
    Ok(())
}

fn check_all(files: &[SecretFile], values: &[Value]) -> Result<(), Finding> {
    for (file, value) in files.iter().zip(values) {
        let key = match &file.expect.format {
            Format::TlsPair { key: Some(path) } => {
                files.iter().zip(values).find(|(other, _)| other.path == *path).map(|(_, other)| other.bytes.expose())
            }
            _ => None,
        };
        check::check(&file.expect, value.bytes.expose(), key)
            .map_err(|error| content(file.path.as_str(), &value.origin, &error))?;
    }
    Ok(())
}

/// The finding for a value that is not what it should be.
pub fn content(what: &str, origin: &str, error: &check::Error) -> Finding {
    let saw = if what == origin {
        format!("the value of {origin} {error}")
    } else {
        format!("the value for {what} (from {origin}) {error}")
    };
    Finding::new(Class::Content, saw).next(error.next(origin))
}

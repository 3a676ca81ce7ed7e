//! From what was written, by whomever, to the one configuration that holds.
//!
//! The document, where there is one, wins. The environment and the command line may repeat it, or
//! set what it leaves open in `[overrides] allow_env`; anything else is a problem, never a
//! silent choice of one over the other.

mod checks;
mod given;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::decode::Decoder;
use super::env::{self, AllGiven, Arg, Role};
use super::keys::SAFE;
use super::problem::{MAX_PROBLEMS, Mark, Origin, Problem};
use super::raw::{self, Raw, RawSecrets};
use super::types::{Config, DEFAULT_DEADLINE, DEFAULT_DIRECTORY, For, Kbs, Log, Provenance, SecretFile, Secrets, Via};
use checks::Complaint;
use given::Settings;

/// Everything that can say something about the configuration.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The document of the highest provenance there is, if there is one.
    pub document: Option<Document<'a>>,
    /// The environment. Untrusted.
    pub env: &'a BTreeMap<OsString, OsString>,
    /// Values from the command line. Untrusted, and before the environment.
    pub args: &'a [Arg<'a>],
    /// What the configuration is for; `None`: any role. `init` needs a file or a gate; any role needs
    /// those, or a table of the long-running roles.
    pub role: Option<Role>,
}

/// A configuration as text.
#[derive(Debug)]
pub struct Document<'a> {
    /// TOML. Untrusted until its provenance says otherwise, and a hostile input even then.
    pub text: &'a str,
    /// What to call it in messages: [`Origin::File`] or [`Origin::Resource`].
    pub origin: Origin,
    /// How far it can be believed: established by the caller.
    pub provenance: Provenance,
    /// Whom a delivered document must be written for: this very workload.
    pub required_audience: Option<&'a For>,
}

/// Where each value of a [`Config`] came from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The document.
    pub(super) document: Option<Origin>,
    /// Places of the keys in it, by full path.
    pub(super) marks: BTreeMap<String, Mark>,
    /// Keys that the environment or the command line set, with the name of the variable or flag.
    pub(super) given: BTreeMap<&'static str, String>,
}

/// Resolves, or says everything that is wrong.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Config, Vec<Problem>> {
    resolve_with_sources(inputs).map(|(config, _)| config)
}

/// Resolves a text alone, as if it were measured: the provenance that may use every key. For tests
/// and fuzzing; whoever acts on a configuration says where it came from.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let origin = Origin::file("countersign.toml");
    let document = Document { text, origin, provenance: Provenance::Measured, required_audience: None };
    resolve(&Inputs { document: Some(document), env: &BTreeMap::new(), args: &[], role: Some(Role::Diagnose) })
}

/// Resolves a text alone as what a KBS delivers with the least proof, through the guest's data hub, to
/// whom its `for` names; one without `for` is refused. For tools, which see the file before the KBS
/// does.
pub fn as_delivered(text: &str, name: &str) -> Result<Config, Vec<Problem>> {
    let audience = parse(text)?.audience;
    let document = Document {
        text,
        origin: Origin::file(name),
        provenance: Provenance::DeliveredUnproven,
        required_audience: audience.as_ref(),
    };
    resolve(&Inputs { document: Some(document), env: &BTreeMap::new(), args: &[], role: Some(Role::Diagnose) })
}

/// As [`resolve`], with where each value came from.
pub fn resolve_with_sources(inputs: &Inputs<'_>) -> Result<(Config, Sources), Vec<Problem>> {
    let mut problems = Vec::new();
    let given = env::collect(inputs.env, inputs.args, &mut problems);
    env::role(&given, &mut problems);
    let audience = env::audience(&given, &mut problems);
    let settings = given::read(&given, &mut problems);
    let resolved = match &inputs.document {
        Some(document) => from_document(document, inputs.role, &given, &settings, audience.as_ref(), &mut problems),
        None => Some(from_env(inputs.role, &given, settings, audience.as_ref(), &mut problems)),
    };
    problems.truncate(MAX_PROBLEMS);
    match resolved {
        Some(resolved) if problems.is_empty() => Ok(resolved),
        _ => Err(problems),
    }
}

fn from_document(
    document: &Document<'_>,
    role: Option<Role>,
    given: &AllGiven,
    settings: &Settings,
    named: Option<&For>,
    problems: &mut Vec<Problem>,
) -> Option<(Config, Sources)> {
    let (mut decoder, raw) = raw::read(document.text, document.origin.clone());
    let Some(raw) = raw else {
        problems.extend(decoder.problems);
        return None;
    };
    let provenance = document.provenance;
    let mut complaints = checks::audience(raw.audience.as_ref(), provenance, document.required_audience, named);
    complaints.extend(checks::kbs(&raw.kbs, provenance));
    complaints.extend(checks::set(&raw.secrets, provenance));
    // A file that was not understood must not make the set look empty.
    if decoder.problems.is_empty() {
        complaints.extend(checks::purpose(&raw, role));
    }
    for Complaint { key, message, hint } in complaints {
        decoder.problem(&key, message, hint);
    }
    problems.append(&mut decoder.problems);
    let mut sources = sources_of(document, decoder);
    let mut config = build(raw, provenance);
    override_with(&mut config, &mut sources, document, given, settings, problems);
    Some((config, sources))
}

fn sources_of(document: &Document<'_>, decoder: Decoder) -> Sources {
    Sources { document: Some(document.origin.clone()), marks: decoder.marks, given: BTreeMap::new() }
}

fn from_env(
    role: Option<Role>,
    given: &AllGiven,
    settings: Settings,
    named: Option<&For>,
    problems: &mut Vec<Problem>,
) -> (Config, Sources) {
    if let (Some(_), Some(value)) = (named, given.get(env::WORKLOAD)) {
        // To go on with the rest of the environment would let it replace what was asked for.
        problems.push(
            value
                .problem("asks for a configuration from the KBS, and none was fetched")
                .hint("upload it to `kbs:///default/countersign/<namespace>.<workload>`, or remove the variable"),
        );
    }
    let mut sources = Sources::default();
    for variable in env::VARIABLES.iter().filter(|variable| !variable.key.is_empty()) {
        if let Some(value) = given.get(variable.name) {
            sources.given.insert(variable.key, value.name.clone());
        }
    }
    let raw = Raw {
        deadline: settings.deadline,
        level: settings.level,
        format: settings.format,
        secrets: RawSecrets {
            directory: settings.directory,
            files: numbered("secrets.file", settings.files.unwrap_or_default()),
            gates: numbered("secrets.gate", settings.gates.unwrap_or_default()),
            ..RawSecrets::default()
        },
        ..Raw::default()
    };
    let mut complaints = checks::set(&raw.secrets, Provenance::Unmeasured);
    if problems.is_empty() {
        complaints.extend(checks::purpose(&raw, role));
    }
    for Complaint { key, message, hint } in complaints {
        let name = if key.starts_with("secrets.gate") { env::GATE } else { env::SECRETS };
        problems.push(match given.get(name) {
            Some(value) => value.problem(message).hint(hint),
            None => Problem::new(Origin::Env, name, message).hint(hint),
        });
    }
    (build(raw, Provenance::Unmeasured), sources)
}

fn numbered<T>(key: &str, items: Vec<T>) -> Vec<(String, T)> {
    items.into_iter().enumerate().map(|(index, item)| (format!("{key}[{index}]"), item)).collect()
}

/// Puts the defaults in. What is invalid has been reported; the caller throws the result away then.
fn build(raw: Raw, provenance: Provenance) -> Config {
    // Evidence of this guest goes only to a KBS that trusted configuration named, and secrets come
    // only from there. Without such configuration the guest's own CDH knows the KBS.
    let via = match (provenance, raw.kbs.via) {
        (Provenance::Unmeasured, _) => vec![Via::Cdh],
        (_, Some(via)) => via,
        (_, None) => Via::ALL.to_vec(),
    };
    let log = Log::default();
    Config {
        provenance,
        serial: raw.serial.unwrap_or(0),
        deadline: raw.deadline.unwrap_or(DEFAULT_DEADLINE),
        audience: raw.audience,
        kbs: Kbs {
            url: raw.kbs.url,
            ca: raw.kbs.ca,
            system_roots: raw.kbs.system_roots,
            allow_http: raw.kbs.allow_http,
            via,
            canary: raw.kbs.canary,
        },
        secrets: Secrets {
            directory: raw.secrets.directory.unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY)),
            sealed_keys: raw.secrets.sealed_keys,
            refresh: raw.secrets.refresh,
            files: raw.secrets.files.into_iter().map(|(_, file)| file).collect(),
            gates: raw.secrets.gates.into_iter().map(|(_, gate)| gate).collect(),
        },
        log: Log { level: raw.level.unwrap_or(log.level), format: raw.format.unwrap_or(log.format) },
        roles: raw.roles,
        allow_env: raw.allow_env,
    }
}

/// Bounds of `COUNTERSIGN_DEADLINE` where a document lets it differ: an untrusted value may not
/// make a pod hang for an hour, nor give up before a guest can answer.
const OVERRIDE_DEADLINE: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(30 * 60);

/// Holds what was given against the document, and applies what the document leaves open.
fn override_with(
    config: &mut Config,
    sources: &mut Sources,
    document: &Document<'_>,
    given: &AllGiven,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) {
    let mut differs: Vec<&'static str> = Vec::new();
    let mut compare = |name: &'static str, same: Option<bool>| {
        if same == Some(false) {
            differs.push(name);
        }
    };
    compare(env::DEADLINE, settings.deadline.map(|it| it == config.deadline));
    compare(env::LOG, settings.level.map(|it| it == config.log.level));
    compare(env::LOG_FORMAT, settings.format.map(|it| it == config.log.format));
    compare(env::DIRECTORY, settings.directory.as_ref().map(|it| *it == config.secrets.directory));
    compare(env::GATE, settings.gates.as_ref().map(|it| *it == config.secrets.gates));
    compare(env::SECRETS, settings.files.as_ref().map(|it| same_files(it, &config.secrets.files)));
    for name in differs {
        let Some(value) = given.get(name) else { continue };
        let variable = env::VARIABLES.iter().find(|variable| variable.name == name);
        let key = variable.map_or("", |variable| variable.key);
        if !config.allow_env.contains(&name) {
            let hint = if SAFE.contains(&name) {
                format!("remove it, or let the document list `{name}` in `[overrides] allow_env`")
            } else {
                format!("remove it, or change `{key}` in the document: it cannot be left to the environment")
            };
            let message = format!("differs from `{}`, which holds ({})", document.origin, document.provenance);
            problems.push(value.problem(message).hint(hint));
            continue;
        }
        if name == env::DEADLINE && settings.deadline.is_some_and(|it| !OVERRIDE_DEADLINE.contains(&it)) {
            problems.push(value.problem("must be from 10s to 30m where it overrides a document").hint("write `5m`"));
            continue;
        }
        sources.given.insert(key, value.name.clone());
        match name {
            env::DEADLINE => config.deadline = settings.deadline.unwrap_or(config.deadline),
            env::LOG => config.log.level = settings.level.unwrap_or(config.log.level),
            env::LOG_FORMAT => config.log.format = settings.format.unwrap_or(config.log.format),
            // Not on the safe list, so `allow_env` cannot hold it.
            _ => problems.push(value.problem("cannot be left to the environment").hint("remove it")),
        }
    }
}

/// Whether the environment repeats the document's list: the same paths from the same places, in
/// any order. What else the document says of a file holds.
fn same_files(given: &[SecretFile], ours: &[SecretFile]) -> bool {
    let key = |files: &[SecretFile]| {
        let mut pairs: Vec<_> = files.iter().map(|file| (file.path.to_string(), file.from.clone())).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    };
    key(given) == key(ours)
}

#[cfg(test)]
mod tests;

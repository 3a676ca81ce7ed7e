//! `kubectl countersign render` and `policies emit`: what admission makes of a plain manifest, from
//! one table, without a cluster.

mod cel;
mod eval;
mod expr;
mod merge;
mod pods;
mod policy;
mod probed;
mod table;
mod tier;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

use self::eval::{Cluster, Fault, Scope};
use self::table::{Change, mutations, variables};
use self::tier::{NO_IMAGE, Tier, TierError};
use super::Output;
use super::initdata::{configmaps, load, read_text};
use crate::cli::{Render, TierChoice};
use crate::finding::{Class, Finding, printable};

/// The label of a namespace that chooses the tier of its pods.
const TIER_LABEL: &str = "countersign.dev/tier";

/// The label of a pod that opts out.
const OPT_OUT: &str = "coco.io/skip-initdata";

/// Most characters of a kind and a name in a message.
const MAX_NAME: usize = 300;

/// Most documents in one run.
const MAX_DOCUMENTS: usize = 10_000;

/// `policies emit`.
pub(super) fn emit(choice: &TierChoice) -> Result<Output, Finding> {
    let tier = chosen(choice)?;
    let mut output = Output::text(policy::policy(&tier));
    output.err.extend(unset_image(&tier));
    Ok(output)
}

/// `render`.
pub(super) fn run(arguments: &Render) -> Result<Output, Finding> {
    let tier = chosen(&arguments.tier)?;
    let mut documents = Vec::new();
    for file in &arguments.file {
        read_documents(file, &mut documents)?;
    }
    let mut clusters = Clusters { default: &arguments.namespace, of: BTreeMap::new() };
    for document in &documents {
        clusters.add(document);
    }
    for file in &arguments.configmap {
        let mut given = Vec::new();
        read_documents(file, &mut given)?;
        for document in &given {
            clusters.add(document);
        }
    }
    if let Some(file) = &arguments.initdata {
        clusters.add_initdata(file, &documents)?;
    }
    let delivered = probed::read(&arguments.delivered)?;
    let mut notes: Vec<String> = unset_image(&tier).into_iter().collect();
    let mut out = String::new();
    let mut pods = 0_usize;
    for mut document in documents {
        let cluster = clusters.of_object(&document);
        if let Some(mut created) = pods::created(&document, &cluster.namespace) {
            pods = pods.saturating_add(1);
            let name = named(&document);
            if arguments.before {
                // As it is.
            } else if created.pod.pointer("/metadata/labels").is_some_and(|labels| labels.get(OPT_OUT).is_some()) {
                notes.push(format!("note: {name} has the label {OPT_OUT}: it stays as it is, and gets no secrets"));
            } else {
                mutate(&mut created.pod, &tier, cluster).map_err(|fault| refused(&name, &fault))?;
                notes.extend(missing(&name, &created.pod));
                notes.extend(probed::unanswered(&name, &created.pod, &delivered));
            }
            if arguments.pods || arguments.before {
                document = created.pod;
            } else {
                pods::put_back(&mut document, &created);
            }
        } else if arguments.pods || arguments.before {
            continue;
        }
        write_document(&mut out, &document)?;
    }
    if pods == 0 {
        return Err(usage("the manifests have no pod, and nothing that makes one")
            .next("name a Deployment, StatefulSet, DaemonSet, Job, CronJob or Pod with --file"));
    }
    Ok(Output { out: out.into_bytes(), err: notes, code: 0 })
}

/// What the policy of the tier does to a pod that is being created.
fn mutate(pod: &mut Value, tier: &Tier, cluster: &Cluster) -> Result<(), Fault> {
    let mut known = BTreeMap::new();
    for variable in variables() {
        let is = Scope { object: pod, cluster, variables: &known }.eval(&variable.is)?;
        known.insert(variable.name, is);
    }
    for mutation in mutations(tier) {
        let scope = Scope { object: pod, cluster, variables: &known };
        if let Some(when) = &mutation.when
            && scope.eval(when)? != Value::Bool(true)
        {
            continue;
        }
        match &mutation.change {
            Change::Merge(fields) => {
                let patch = scope.eval(fields)?;
                merge::merge(pod, patch);
            }
            Change::Spec(name, list) => {
                let list = scope.eval(list)?;
                let spec = pod.get_mut("spec").and_then(Value::as_object_mut).ok_or(Fault::Type("spec"))?;
                spec.insert((*name).to_owned(), list);
            }
        }
    }
    Ok(())
}

/// The `ConfigMap`s that were given, by namespace.
struct Clusters<'a> {
    default: &'a str,
    of: BTreeMap<String, Cluster>,
}

impl Clusters<'_> {
    fn of_object(&mut self, object: &Value) -> &mut Cluster {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(self.default);
        let new = || Cluster { namespace: namespace.to_owned(), config_maps: BTreeMap::new() };
        self.of.entry(namespace.to_owned()).or_insert_with(new)
    }

    fn add(&mut self, object: &Value) {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        if let (Some("ConfigMap"), Some(name)) = (object.get("kind").and_then(Value::as_str), name) {
            let (name, object) = (name.to_owned(), object.clone());
            self.of_object(&object).config_maps.insert(name, object);
        }
    }

    /// As if `initdata configmap` had been run for the one workload of the manifests.
    fn add_initdata(&mut self, file: &Path, documents: &[Value]) -> Result<(), Finding> {
        let initdata = load(file)?;
        let mut workloads = BTreeSet::new();
        for document in documents {
            let cluster = self.of_object(document);
            if let Some(created) = pods::created(document, &cluster.namespace) {
                let [workload, map] = ["workload", "named"]
                    .map(|name| known(&created.pod, cluster, name).map_err(|fault| refused(&named(document), &fault)));
                workloads.insert((cluster.namespace.clone(), workload?, map?));
            }
        }
        let mut workloads = workloads.into_iter();
        let (Some((namespace, _, map)), None) = (workloads.next(), workloads.next()) else {
            return Err(usage("--initdata is for one workload, and the manifests have none or several")
                .why("each workload has an initdata of its own: its agent policy admits no other containers")
                .next("name the workloads' ConfigMaps with --configmap instead"));
        };
        // Under the name where the pod looks: its workload's, or one that it says itself, which may be
        // that of this very release.
        let made = |name: &str| parse_documents("--initdata", &configmaps(name, &namespace, &initdata)?);
        let released = map.rsplit_once('-').map(|(name, _)| made(name)).transpose()?;
        let released =
            released.filter(|made| made.iter().any(|one| one.pointer("/metadata/name") == Some(&json!(map))));
        for document in released.map_or_else(|| made(&map), Ok)? {
            self.add(&document);
        }
        Ok(())
    }
}

/// A variable of the table, as text: its `workload`, or the `ConfigMap` that is `named`.
fn known(pod: &Value, cluster: &Cluster, wanted: &'static str) -> Result<String, Fault> {
    let mut known = BTreeMap::new();
    for variable in variables() {
        let is = Scope { object: pod, cluster, variables: &known }.eval(&variable.is)?;
        if variable.name == wanted {
            return is.as_str().map(str::to_owned).ok_or(Fault::Type(wanted));
        }
        known.insert(variable.name, is);
    }
    Err(Fault::Undefined(wanted))
}

fn chosen(choice: &TierChoice) -> Result<Tier, Finding> {
    let refuse = |error: &TierError| {
        let (flag, next) = match (error, &choice.tier_file) {
            (TierError::Unknown, _) => {
                let names: Vec<&str> = Tier::names().collect();
                ("--tier", format!("write one of {}, or name a file with --tier-file", names.join(", ")))
            }
            (TierError::NoDigest, _) => ("--image", "name the image by digest: registry/name@sha256:…".to_owned()),
            (_, Some(file)) => ("--tier-file", format!("correct {}", file.display())),
            (_, None) => ("--image", "correct --image: registry/name@sha256:…".to_owned()),
        };
        usage(format!("{flag}: {error}")).next(next)
    };
    let tier = match (&choice.tier, &choice.tier_file) {
        (_, Some(file)) => Tier::parse(&read_text(file)?),
        (Some(name), None) => Tier::built_in(name),
        (None, None) => Err(TierError::Unknown),
    };
    match &choice.image {
        Some(image) => tier.and_then(|tier| tier.with_image(image)),
        None => tier,
    }
    .map_err(|error| refuse(&error))
}

/// The image of the built-in tiers exists nowhere.
fn unset_image(tier: &Tier) -> Option<String> {
    tier.image.starts_with(NO_IMAGE).then(|| {
        format!("note: the image is a placeholder ({NO_IMAGE}): name yours with --image, by digest, before a cluster sees this")
    })
}

/// Says that no initdata was found: good enough for genpolicy, not for a cluster.
fn missing(name: &str, pod: &Value) -> Option<String> {
    let annotations = pod.pointer("/metadata/annotations");
    if annotations.is_some_and(|all| all.get(super::initdata::pack::ANNOTATION).is_some()) {
        return None;
    }
    Some(format!(
        "note: {name} has no initdata: the annotation is left out, and the volume names a ConfigMap that does not \
         exist. genpolicy pins neither. Otherwise name the ConfigMaps with --configmap, or the initdata with --initdata"
    ))
}

fn read_documents(file: &Path, into: &mut Vec<Value>) -> Result<(), Finding> {
    into.extend(parse_documents(&file.display().to_string(), &read_text(file)?)?);
    Ok(())
}

/// The objects of a YAML stream, with those of its lists.
fn parse_documents(file: &str, text: &str) -> Result<Vec<Value>, Finding> {
    let mut documents = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        let document = Value::deserialize(document).map_err(|error| {
            let place = error.location().map_or_else(String::new, |at| format!(", line {}", at.line()));
            usage(format!("{file}{place}: it is not YAML")).next(format!("correct {file}"))
        })?;
        match document.get("items").and_then(Value::as_array) {
            Some(items) => documents.extend(items.iter().cloned()),
            None if document.is_null() => {}
            None => documents.push(document),
        }
        if documents.len() > MAX_DOCUMENTS {
            return Err(usage(format!("{file} has more than {MAX_DOCUMENTS} documents"))
                .next(format!("split {file} into several")));
        }
    }
    Ok(documents)
}

fn write_document(out: &mut String, document: &Value) -> Result<(), Finding> {
    let text = yaml_serde::to_string(document).map_err(|_| usage("the result cannot be written as YAML"))?;
    if !out.is_empty() {
        out.push_str("---\n");
    }
    out.push_str(&text);
    Ok(())
}

/// `Deployment api`, for messages.
fn named(object: &Value) -> String {
    let of = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("without a name");
    printable(&format!("{} {}", of("/kind"), of("/metadata/name")), MAX_NAME)
}

fn refused(name: &str, fault: &Fault) -> Finding {
    usage(format!("{name}: {fault}"))
        .why("Kyverno refuses a pod that its policy cannot be evaluated for")
        .next("correct that field in the manifest")
}

fn usage(saw: impl Into<String>) -> Finding {
    Finding::new(Class::Usage, saw.into())
        .why("what is printed is what the policies would make of the manifests, nothing less")
        .next("run `kubectl countersign render --help` and correct the command")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place in a value, as a JSON pointer.
    fn places(value: &Value, at: &str, into: &mut Vec<String>) {
        into.push(at.to_owned());
        match value {
            Value::Object(map) => {
                for (name, field) in map {
                    places(field, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), into);
                }
            }
            Value::Array(list) => {
                for (n, item) in list.iter().enumerate() {
                    places(item, &format!("{at}/{n}"), into);
                }
            }
            _ => {}
        }
    }

    /// The API server refuses most of these; the tool gets them before it does.
    #[test]
    fn a_pod_of_any_shape_is_rendered_or_refused_and_what_is_rendered_is_stable() {
        let text = include_str!("../../../policies/corpus/workloads.yaml");
        let tier = Tier::parse(include_str!("../../../policies/corpus/tiers/sidecar.toml")).unwrap();
        let cluster = Cluster { namespace: "payments".to_owned(), ..Cluster::default() };
        let (mut rendered, mut refused) = (0, 0);
        for document in parse_documents("corpus", text).unwrap() {
            let pod = pods::created(&document, "payments").unwrap().pod;
            let mut all = Vec::new();
            places(&pod, "", &mut all);
            for place in all {
                for odd in [json!(null), json!(""), json!(0), json!([]), json!([null]), json!({})] {
                    let mut changed = pod.clone();
                    *changed.pointer_mut(&place).unwrap() = odd;
                    if mutate(&mut changed, &tier, &cluster).is_err() {
                        refused += 1;
                        continue;
                    }
                    rendered += 1;
                    let once = changed.clone();
                    mutate(&mut changed, &tier, &cluster).unwrap();
                    assert_eq!(changed, once, "{place}");
                }
            }
        }
        assert!(rendered > 500 && refused > 500, "{rendered} {refused}");
    }
}

//! The manifest that the initdata travels with: its containers, and its annotation.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;
use serde_json::Value;

use super::report::Report;
use super::rules;
use crate::finding::printable;
use crate::formats::initdata::Initdata;
use crate::tool::initdata::pack::ANNOTATION;
use crate::tool::initdata::read_text;
use crate::tool::probes::{self, Probe};

/// The annotation that Kata read before 3.8 and ignores now.
const OLD_ANNOTATION: &str = "io.katacontainers.config.runtime.cc_init_data";

/// Most documents in one file.
const MAX_DOCUMENTS: usize = 100;

/// The pod's containers.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) file: String,
    pub(super) containers: Vec<Container>,
    /// Probes that go through the sidecar, with the lines of their paths.
    pub(super) probes: Vec<(Probe, Option<usize>)>,
}

/// One of them, init containers included.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    /// `command` and `args`, where the manifest says a command.
    pub(super) command: Option<Vec<String>>,
    /// `args`, where the manifest leaves the command to the image.
    pub(super) args: Vec<String>,
    /// Variables with a value in the manifest, `NAME=value`.
    pub(super) env: Vec<String>,
    /// Names of variables whose value the kubelet takes from elsewhere, or expands.
    pub(super) taken: Vec<String>,
    /// Whether variables come from a `ConfigMap` or a Secret as a whole (`envFrom`).
    pub(super) env_from: bool,
    pub(super) mounts: Vec<Mount>,
    /// `runAsUser` and `runAsGroup`, its own or the pod's.
    pub(super) user: Option<i64>,
    pub(super) group: Option<i64>,
    pub(super) privileged: bool,
    pub(super) line: Option<usize>,
}

/// A volume in a container.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) path: String,
    pub(super) read_only: bool,
    /// Whether it is an emptyDir: of other kinds the kubelet may decide that they are read-only.
    pub(super) empty_dir: bool,
}

/// Reads a manifest and checks what it says of the initdata.
pub(super) fn read(path: &Path, initdata: Option<&Initdata>, report: &mut Report) -> Option<Manifest> {
    let file = path.display().to_string();
    let mut manifest = Manifest { file: file.clone(), containers: Vec::new(), probes: Vec::new() };
    let mut pods = 0_usize;
    let text = match read_text(path) {
        Ok(text) => text,
        Err(finding) => {
            report.in_file(&rules::POD_MANIFEST, &file, None, finding.saw);
            return None;
        }
    };
    for document in yaml_serde::Deserializer::from_str(&text).take(MAX_DOCUMENTS) {
        let Ok(document) = Value::deserialize(document) else {
            report.in_file(&rules::POD_MANIFEST, &file, None, "the manifest is not YAML");
            return None;
        };
        for object in items(&document) {
            if let Some((template, own)) = pod_of(object) {
                pods = pods.saturating_add(1);
                let one = Pod { file: &file, text: &text, template, object: own.then_some(object) };
                one.annotations(initdata, report);
                one.containers(&mut manifest.containers);
                for probe in probes::of(template) {
                    let line = one.line(&probe.written);
                    manifest.probes.push((probe, line));
                }
            }
        }
    }
    if pods == 0 {
        report.in_file(&rules::POD_MANIFEST, &file, None, "the manifest has no pod, and nothing that makes one");
        return None;
    }
    Some(manifest)
}

/// The objects of a `List`, or the one object.
fn items(document: &Value) -> Vec<&Value> {
    match document.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().collect(),
        None => vec![document],
    }
}

/// The pod in an object, and whether it is a template in it.
fn pod_of(object: &Value) -> Option<(&Value, bool)> {
    match object.get("kind")?.as_str()? {
        "Pod" => Some((object, false)),
        "CronJob" => Some((object.pointer("/spec/jobTemplate/spec/template")?, true)),
        _ => Some((object.pointer("/spec/template")?, true)),
    }
    .filter(|(pod, _)| pod.pointer("/spec/containers").is_some())
}

struct Pod<'m> {
    file: &'m str,
    text: &'m str,
    template: &'m Value,
    /// The workload around it, if it is a template.
    object: Option<&'m Value>,
}

impl Pod<'_> {
    fn annotations(&self, initdata: Option<&Initdata>, report: &mut Report) {
        let of = |object: &Value, name: &str| {
            let annotations = object.pointer("/metadata/annotations")?;
            annotations.get(name)?.as_str().map(str::to_owned)
        };
        for object in [Some(self.template), self.object].into_iter().flatten() {
            if of(object, OLD_ANNOTATION).is_some() {
                report.in_file(
                    &rules::ANNOTATION_KEY,
                    self.file,
                    self.line(OLD_ANNOTATION),
                    "the old annotation is used",
                );
            }
        }
        let line = self.line(ANNOTATION);
        if self.object.is_some_and(|object| of(object, ANNOTATION).is_some()) {
            report.in_file(&rules::ANNOTATION_PLACE, self.file, line, "the annotation is on the workload itself");
        }
        match of(self.template, ANNOTATION) {
            None => report.in_file(&rules::ANNOTATION_ABSENT, self.file, None, "the pod has no initdata"),
            Some(value) => {
                // As the shims read it: no line end, nothing but base64 of gzip.
                let exact = STANDARD.decode(&value).ok().filter(|bytes| bytes.starts_with(&[0x1f, 0x8b]));
                match exact.and_then(|bytes| Initdata::parse(&bytes).ok()) {
                    None => report.in_file(
                        &rules::ANNOTATION_FORM,
                        self.file,
                        line,
                        "the annotation is not a packed initdata",
                    ),
                    Some(other) if initdata.is_some_and(|this| this.toml() != other.toml()) => {
                        report.in_file(
                            &rules::ANNOTATION_OTHER,
                            self.file,
                            line,
                            "the annotation holds another initdata",
                        );
                    }
                    Some(_) => {}
                }
            }
        }
        if self.template.pointer("/spec/runtimeClassName").and_then(Value::as_str).is_none_or(str::is_empty) {
            report.in_file(&rules::RUNTIME_CLASS, self.file, None, "the pod has no `runtimeClassName`");
        }
    }

    fn containers(&self, out: &mut Vec<Container>) {
        for list in ["/spec/initContainers", "/spec/containers"] {
            let list = self.template.pointer(list).and_then(Value::as_array);
            for container in list.into_iter().flatten() {
                let text = |name: &str| container.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let image = text("image");
                let (env, taken) = env(container);
                let number = |key: &str| self.security(container, key).and_then(Value::as_i64);
                out.push(Container {
                    name: printable(&text("name"), 63),
                    line: self.line(&image),
                    image,
                    command: command(container),
                    args: if texts(container.get("command")).is_empty() {
                        plain(container.get("args"))
                    } else {
                        Vec::new()
                    },
                    env,
                    taken,
                    env_from: container.get("envFrom").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
                    mounts: self.mounts(container),
                    user: number("runAsUser"),
                    group: number("runAsGroup"),
                    privileged: container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)),
                });
            }
        }
    }

    /// A key of the container's security context, or of the pod's.
    fn security<'a>(&'a self, container: &'a Value, key: &str) -> Option<&'a Value> {
        [container.get("securityContext"), self.template.pointer("/spec/securityContext")]
            .into_iter()
            .flatten()
            .find_map(|context| context.get(key))
    }

    fn mounts(&self, container: &Value) -> Vec<Mount> {
        let volumes = self.template.pointer("/spec/volumes").and_then(Value::as_array);
        let is_empty_dir = |name: &Value| {
            volumes.into_iter().flatten().any(|v| v.get("name") == Some(name) && v.get("emptyDir").is_some())
        };
        let list = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|mount| {
            Some(Mount {
                path: mount.get("mountPath")?.as_str()?.to_owned(),
                read_only: mount.get("readOnly") == Some(&Value::Bool(true)),
                empty_dir: mount.get("name").is_some_and(is_empty_dir),
            })
        })
        .collect()
    }

    /// The first line that has this text in it: the parser forgets lines.
    fn line(&self, needle: &str) -> Option<usize> {
        let at = self.text.lines().position(|line| !needle.is_empty() && line.contains(needle))?;
        Some(at.saturating_add(1))
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `None` where the image's own entry point is used, or the kubelet expands variables in it.
fn command(container: &Value) -> Option<Vec<String>> {
    let command = texts(container.get("command"));
    let all = [command.clone(), texts(container.get("args"))].concat();
    (!command.is_empty() && !all.iter().any(|word| word.contains("$("))).then_some(all)
}

/// Words that the kubelet takes as they are; none where it expands one of them.
fn plain(words: Option<&Value>) -> Vec<String> {
    let words = texts(words);
    if words.iter().any(|word| word.contains("$(")) { Vec::new() } else { words }
}

/// Variables with their values, and the names of those whose value is not known here: the kubelet
/// takes it from elsewhere (`valueFrom`), or expands it.
fn env(container: &Value) -> (Vec<String>, Vec<String>) {
    let (mut known, mut taken) = (Vec::new(), Vec::new());
    for variable in container.get("env").and_then(Value::as_array).into_iter().flatten() {
        let Some(name) = variable.get("name").and_then(Value::as_str) else { continue };
        match variable.get("value").and_then(Value::as_str) {
            Some(value) if !value.contains("$(") => known.push(format!("{name}={value}")),
            None if variable.get("valueFrom").is_none() => known.push(format!("{name}=")),
            _ => taken.push(name.to_owned()),
        }
    }
    (known, taken)
}

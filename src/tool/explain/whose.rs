//! Whose a container or a failed probe is. Numbers do not say it: any program may end with 77, and any may
//! answer 509.

use serde_json::Value;

use super::input::{Input, Line};
use super::table::after;
use crate::tool::HEALTH;
use crate::tool::probes::PREFIX;

/// Names of the containers that admission writes (`render/table.rs`). Not all that begins so: anybody may
/// have a `countersign-demo`.
const NAMES: [&str; 3] = ["countersign", "countersign-init", "countersign-issuer"];

/// The last part of our images' repositories.
const IMAGES: [&str; 2] = ["countersign", "countersign-compat"];

/// Above the containers in `kubectl describe`.
const CONTAINERS: [&str; 3] = ["Init Containers:", "Containers:", "Ephemeral Containers:"];

/// What comes next below them. No other line ends them: a message of several lines goes on at the margin.
const BELOW: [&str; 3] = ["Conditions:", "Readiness Gates:", "Volumes:"];

/// Kinds of probes, as `describe` and the kubelet's messages have them.
pub(super) const KINDS: [&str; 3] = ["Startup", "Readiness", "Liveness"];

/// Whether a container is one of ours, by its name or its image's.
pub(super) fn is_ours(name: &str, image: &str) -> bool {
    let repository = image.split('@').next().unwrap_or_default();
    let last = repository.rsplit('/').next().unwrap_or_default();
    NAMES.contains(&name) || IMAGES.contains(&last.split(':').next().unwrap_or_default())
}

/// A pod in `kubectl describe`.
#[derive(Default)]
pub(super) struct Pod {
    pub(super) containers: Vec<Container>,
    /// Which of the input's lines are its events, in order.
    events: Vec<usize>,
}

#[derive(Default)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    /// Exit codes, with their places.
    pub(super) ended: Vec<(u8, String)>,
    /// Kinds of its HTTP probes whose answer may have the status of a class.
    probes: Vec<&'static str>,
    /// The field that the lines below belong to.
    field: String,
}

/// The pods that `kubectl describe` printed, where the input is that.
pub(super) fn described(lines: &[Line]) -> Vec<Pod> {
    let mut pods: Vec<Pod> = Vec::new();
    let (mut containers, mut events) = (false, false);
    for (index, line) in lines.iter().enumerate() {
        let text = line.text.trim_end();
        let heading = CONTAINERS.contains(&text);
        if text.starts_with("Name:") || heading && pods.is_empty() {
            pods.push(Pod::default());
            (containers, events) = (false, false);
        }
        if heading || BELOW.contains(&text) || text.starts_with("Events:") {
            (containers, events) = (heading, text.starts_with("Events:"));
            continue;
        }
        let Some(pod) = pods.last_mut() else { continue };
        if containers {
            pod.read(text, &line.place);
        } else if events && text.starts_with(' ') {
            pod.events.push(index);
        }
    }
    pods
}

impl Pod {
    /// A line below `Containers:`. Names stand at two spaces, fields at four, what belongs to one at six.
    fn read(&mut self, text: &str, place: &str) {
        let words = text.trim_start();
        let indent = text.len().saturating_sub(words.len());
        if let (2, Some(name)) = (indent, words.strip_suffix(':')) {
            self.containers.push(Container { name: name.to_owned(), ..Container::default() });
            return;
        }
        let (Some(container), Some((key, value))) = (self.containers.last_mut(), words.split_once(':')) else { return };
        let value = value.trim();
        match (indent, key) {
            (4, _) => container.field(key, value),
            (6, "Exit Code") if container.field.ends_with("State") => {
                container.ended.extend(value.parse().ok().map(|code| (code, place.to_owned())));
            }
            _ => {}
        }
    }
}

impl Container {
    /// `Image:  …`, `State:  Terminated`, `Startup:  http-get http://:15821/startupz delay=0s …`.
    fn field(&mut self, key: &str, value: &str) {
        key.clone_into(&mut self.field);
        if key == "Image" {
            value.clone_into(&mut self.image);
        }
        // These two pages of ours have no class in their status: 200, and the app's answer as 200 or 503.
        let without = ["/livez", PREFIX].iter().any(|page| value.contains(&format!(":{HEALTH}{page}")));
        if value.starts_with("http-get ") && !without {
            self.probes.extend(KINDS.iter().find(|kind| **kind == key));
        }
    }

    fn is_ours(&self) -> bool {
        is_ours(&self.name, &self.image)
    }
}

/// Whose a failed probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Others,
    /// One of ours and another's fit.
    Either,
    /// The input does not say.
    Unsaid,
}

/// Whose probe of this kind failed, by a line of the input. `describe` leaves out the event's `fieldPath`,
/// which names the container: there the pod's probes of the kind are all that may be meant.
pub(super) fn probe(kind: &str, index: usize, input: &Input, pods: &[Pod]) -> Whose {
    let Some(line) = input.lines.get(index) else { return Whose::Unsaid };
    if after(&line.text, &format!(":{HEALTH}")).is_some() {
        return Whose::Ours;
    }
    if let Some(name) = container(&line.text).or_else(|| container(input.field_path(line)?)) {
        return if named(name, input, pods) { Whose::Ours } else { Whose::Others };
    }
    let Some(pod) = pods.iter().find(|pod| pod.events.binary_search(&index).is_ok()) else { return Whose::Unsaid };
    let asked = pod.containers.iter().filter(|container| container.probes.contains(&kind));
    let (ours, others): (Vec<_>, Vec<_>) = asked.partition(|container| container.is_ours());
    match (ours.is_empty(), others.is_empty()) {
        (false, true) => Whose::Ours,
        (true, false) => Whose::Others,
        (false, false) => Whose::Either,
        (true, true) => Whose::Unsaid,
    }
}

/// `app` of `spec.containers{app}`: an event's `fieldPath`, and a column of `kubectl get events -o wide`.
fn container(text: &str) -> Option<&str> {
    ["spec.containers{", "spec.initContainers{"].iter().find_map(|list| {
        let (_, rest) = text.split_once(list)?;
        Some(rest.split_once('}')?.0)
    })
}

/// Whether a container of this name is ours: by the name, or by the image of all that the input has of it.
fn named(name: &str, input: &Input, pods: &[Pod]) -> bool {
    let mut images: Vec<&str> = Vec::new();
    let described = pods.iter().flat_map(|pod| &pod.containers).filter(|container| container.name == name);
    images.extend(described.map(|container| container.image.as_str()));
    for object in &input.objects {
        for list in ["/spec/initContainers", "/spec/containers"] {
            let containers = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
            let same = containers.filter(|container| container.get("name").and_then(Value::as_str) == Some(name));
            images.extend(same.map(|container| container.get("image").and_then(Value::as_str).unwrap_or_default()));
        }
    }
    is_ours(name, "") || !images.is_empty() && images.iter().all(|image| is_ours(name, image))
}

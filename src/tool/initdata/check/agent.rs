//! The agent policy, judged by its answers.

use serde_json::{Map, Value, json};

use super::document::Document;
use super::engine::{Answer, Engine};
use super::images::{self, Images, Verdict};
use super::pod::{Container, Manifest};
use super::report::Report;
use super::request::{Data, Request};
use super::rules;
use crate::finding::printable;
use crate::formats::initdata::{AgentPolicy, policy_data};

/// An image that nobody has.
const FOREIGN: &str = "registry.invalid/evil/image";
/// A digest that no image has.
const DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000deadbeef";

/// Variables that change what runs, and one that nothing knows. Each is asked for with [`OTHER`].
const VARIABLES: [&str; 5] = ["PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "COUNTERSIGN_ROLE", "COUNTERSIGN_EVIL"];
/// A value that none of genpolicy's own patterns admits: they are for host names, ports, addresses and
/// ids, none of which has a slash first.
const OTHER: &str = "/tmp/evil.so";
/// Commands that nobody may execute: one name can be refused and its neighbour forgotten.
const COMMANDS: [&[&str]; 10] = [
    &["/bin/sh"],
    &["sh"],
    &["/bin/sh", "-c", "id"],
    &["sh", "-c", "id"],
    &["/bin/bash"],
    &["bash"],
    &["/bin/bash", "-c", "id"],
    &["bash", "-c", "id"],
    &["busybox", "sh"],
    &["cat", "/run/countersign/secrets/db/password"],
];
/// What our image does by its role: a pattern that lists some of them pins none.
const ROLES: [&str; 4] = ["init", "sidecar", "diagnose", "issuer"];
/// What a cluster might put into a variable: a word, a number, an address.
const TAKEN: [&str; 3] = ["a", "1", "10.0.0.7"];
/// Most names in one line of the report.
const MAX_NAMES: usize = 5;

pub(super) fn check(
    document: &Document<'_>,
    images: Option<&Images>,
    manifest: Option<&Manifest>,
    report: &mut Report,
) {
    let section = document.section("policy.rego");
    let kind = AgentPolicy::of(section.map(|(place, _)| place.text));
    let Some((place, line)) = section.filter(|_| kind != AgentPolicy::Absent) else {
        let line = section.map_or(document.data_line, |(_, line)| line);
        report.at(&rules::POLICY_ABSENT, line, "there is no agent policy (`policy.rego`)");
        return;
    };
    let mut engine = match Engine::new(place.text) {
        Ok(engine) => engine,
        Err(fault) => {
            let at = fault.line.map_or(line, |number| place.nth(number));
            report.at(&rules::POLICY_REGO, at, format!("the agent policy {}", fault.what));
            return;
        }
    };
    if kind == AgentPolicy::Permissive {
        report.at(&rules::POLICY_PERMISSIVE, line, "the agent policy pins no containers");
    }
    let mut asked = Asked {
        engine: &mut engine,
        place_of: &|name| line_of(place.text, name).map_or(line, |at| place.line(at)),
        report,
    };
    asked.fixed();
    if kind == AgentPolicy::Generated
        && let Some(data) = policy_data(place.text).and_then(|text| serde_json::from_str::<Value>(text).ok())
    {
        let data_line = line_of(place.text, "policy_data").map_or(line, |at| place.line(at));
        asked.containers(&data, data_line, images, manifest);
    } else {
        asked.exec("", &Map::new(), &[], |args| json!({ "container_id": "0", "process": { "Args": args, "Env": [] } }));
    }
    if engine.is_slow() {
        report.at(&rules::POLICY_REGO, line, "the agent policy does not answer within 5 seconds");
    }
}

/// Where a policy first says something about a request: its default, or its first rule.
fn line_of(policy: &str, name: &str) -> Option<usize> {
    let at_start = |prefix: &str| policy.find(&format!("\n{prefix}{name}")).map(|at| at.saturating_add(1));
    at_start("default ").or_else(|| at_start("")).or_else(|| policy.starts_with(name).then_some(0))
}

struct Asked<'a> {
    engine: &'a mut Engine,
    /// The line of the file where the policy speaks of a request.
    place_of: &'a dyn Fn(&str) -> usize,
    report: &'a mut Report,
}

impl Asked<'_> {
    /// Questions whose answer is the same for every pod.
    fn fixed(&mut self) {
        let mut ask = |request: &str, input: &Value| self.engine.ask(request, input, &Map::new()).admitted();
        let silent = !ask("ReadStreamRequest", &json!({ "container_id": "0", "exec_id": "0", "len": 1 }))
            && !ask("GetDiagnosticDataRequest", &json!({ "container_id": "0", "log_path": "/dev/termination-log" }));
        for (rule, request, input, what) in [
            (&rules::POLICY_FAILURES, "AllowRequestsFailingPolicy", json!({}), "what it refuses is allowed"),
            (
                &rules::POLICY_SET,
                "SetPolicyRequest",
                json!({ "policy": "package agent_policy" }),
                "another policy is admitted",
            ),
            (&rules::POLICY_SWAP, "AddSwapRequest", json!({ "PCIPath": [1] }), "swap is admitted"),
            (
                &rules::POLICY_MOUNTS,
                "UpdateEphemeralMountsRequest",
                json!({ "storages": [{ "driver": "ephemeral", "fstype": "tmpfs", "mount_point": "/run/x" }] }),
                "changed memory mounts are admitted",
            ),
        ] {
            if ask(request, &input) {
                self.report.at(rule, (self.place_of)(request), what);
            }
        }
        if silent && !ask("AllowRequestsFailingPolicy", &json!({})) {
            let line = (self.place_of)("ReadStreamRequest");
            self.report.at(&rules::POLICY_SILENT, line, "neither logs nor the termination message get out");
        }
    }

    /// Commands that would read or change what the pod holds, its own among them.
    fn exec(&mut self, of: &str, state: &Map<String, Value>, own: &[String], request: impl Fn(&[String]) -> Value) {
        let mut commands: Vec<Vec<String>> = COMMANDS.iter().map(|words| owned(words)).collect();
        commands.extend((!own.is_empty()).then(|| own.to_vec()));
        let admitted =
            commands.iter().find(|args| self.engine.ask("ExecProcessRequest", &request(args), state).admitted());
        if let Some(args) = admitted {
            let what =
                if own == args.as_slice() { "its own command".to_owned() } else { format!("`{}`", args.join(" ")) };
            let at = (self.place_of)("ExecProcessRequest");
            self.report.at(&rules::POLICY_EXEC, at, format!("{what} may be executed{of}"));
        }
    }

    fn creates(&mut self, input: &Value) -> bool {
        self.engine.ask("CreateContainerRequest", input, &Map::new()).admitted()
    }

    /// Every container of the data: as it is, and with one thing changed.
    fn containers(&mut self, data: &Value, line: usize, images: Option<&Images>, manifest: Option<&Manifest>) {
        let commands = data.pointer("/request_defaults/ExecProcessRequest").is_some_and(has_commands)
            || data
                .get("containers")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|c| c.get("exec_commands").is_some_and(not_empty));
        if commands {
            self.report.at(&rules::POLICY_COMMANDS, line, "commands are listed that may be executed");
        }
        let mut known = Vec::new();
        for ways in Data::new(data).requests() {
            let mut admitted = None;
            for way in &ways {
                if let Answer::Admitted(operations) = self.engine.ask("CreateContainerRequest", &way.input, &Map::new())
                {
                    admitted = Some((way, operations));
                    break;
                }
            }
            if self.engine.is_slow() {
                return;
            }
            let Some((request, operations)) = admitted else {
                let name = ways.first().map(|way| printable(&way.name, 63)).unwrap_or_default();
                self.report.at(&rules::POLICY_OWN, line, format!("its own container `{name}` is not admitted"));
                continue;
            };
            self.variations(request, line, images);
            let of = format!(" in `{}`", printable(&request.name, 63));
            self.exec(&of, &applied(&operations), &request.args(), |args| request.exec(args));
            known.push(request.clone());
        }
        let Some(manifest) = manifest else { return };
        for container in &manifest.containers {
            let told = |report: &mut Report, rule, what: &str| {
                report.in_file(rule, &manifest.file, container.line, format!("container `{}`: {what}", container.name));
            };
            if let Some(what) = self.pod_container(container, &known) {
                told(self.report, &rules::POD_CONTAINER, &what);
            }
            if container.env_from {
                told(
                    self.report,
                    &rules::POD_ENV_FROM,
                    "it takes variables from a whole ConfigMap or Secret (`envFrom`)",
                );
            }
        }
    }

    fn variations(&mut self, request: &Request, line: usize, images: Option<&Images>) {
        let name = printable(&request.name, 63);
        let shell = owned(&["/bin/sh", "-c", "id"]);
        for (rule, input, what) in [
            (&rules::POLICY_OTHER_ARGS, request.with_args(&shell), "another command"),
            (&rules::POLICY_OTHER_MOUNT, request.with_mount(), "another mount"),
        ] {
            if self.creates(&input) {
                self.report.at(rule, line, format!("`{name}` is admitted with {what}"));
            }
        }
        let loose = self.loose_variables(request);
        if !loose.is_empty() {
            let saw = format!("`{name}` is admitted with another value of {}", listed(&loose));
            self.report.at(&rules::POLICY_OTHER_ENV, line, saw);
        }
        let mut covered: Vec<String> = Vec::new();
        for (destination, input) in request.with_sources() {
            if !covered.contains(&destination) && self.creates(&input) {
                covered.push(destination);
            }
        }
        if !covered.is_empty() {
            let saw = format!("`{name}` is admitted with other files at {}", listed(&covered));
            self.report.at(&rules::POLICY_OTHER_MOUNT, line, saw);
        }
        if request.sandbox {
            return;
        }
        if !request.pulls() {
            let saw = format!(
                "`{name}` is admitted only without an image pulled in the guest: whether it is pinned could not be shown"
            );
            self.report.at(&rules::POLICY_OWN, line, saw);
            return;
        }
        let accepted = |image: &str| match images {
            Some(Images::Inline(policy)) => policy.verdict(image) == Verdict::Accepted,
            Some(Images::Elsewhere) | None => true,
        };
        let twin = format!("{}@{DIGEST}", images::repository(request.image.as_deref().unwrap_or(FOREIGN)));
        let foreign = format!("{FOREIGN}@{DIGEST}");
        for other in [twin, foreign] {
            let pulled = match images {
                // Which repository is meant is not known: any that is open will do.
                Some(Images::Inline(policy)) if request.image.is_none() => policy.accepts_unsigned(),
                _ => accepted(&other),
            };
            if pulled && self.creates(&request.with_image(&other)) {
                self.report.at(
                    &rules::POLICY_OTHER_IMAGE,
                    line,
                    format!("`{name}` is admitted with another image, and no image policy rejects it"),
                );
                return;
            }
        }
        if let Some(image) = request.image.as_deref().filter(|image| !images::is_pinned(image) && accepted(image)) {
            let saw = format!("`{name}` has the image {}, and nothing says which that is", printable(image, 200));
            self.report.at(&rules::POLICY_IMAGE_TAG, line, saw);
        }
    }

    /// The variables that are not pinned: each is asked for alone, with another value.
    fn loose_variables(&mut self, request: &Request) -> Vec<String> {
        let mut names: Vec<&str> = VARIABLES.to_vec();
        names.extend(request.fixed.iter().map(String::as_str).filter(|name| !VARIABLES.contains(name)));
        let mut loose = Vec::new();
        for name in names {
            let roles: &[&str] = if name == "COUNTERSIGN_ROLE" { &ROLES } else { &[] };
            let own = request.value_of(name);
            let mut others = roles.iter().chain([&OTHER]).filter(|value| own != Some(**value));
            if others.any(|value| self.creates(&request.with_env(&format!("{name}={value}")))) {
                loose.push(name.to_owned());
            }
        }
        loose
    }

    /// Why a container of the manifest would be denied, as far as the manifest tells.
    fn pod_container(&mut self, container: &Container, known: &[Request]) -> Option<String> {
        let Some(request) = known.iter().find(|request| printable(&request.name, 63) == container.name) else {
            return Some("the policy has no container of that name, or does not admit it".to_owned());
        };
        // The rules compare an image by its digest, if at all; the data names the one it was made for.
        let same =
            request.image.as_deref().is_none_or(|image| images::normal(image) == images::normal(&container.image));
        if !same || !self.creates(&request.with_image(&container.image)) {
            return Some("the policy was made for another image".to_owned());
        }
        let own_command = container.command.as_ref().is_none_or(|command| self.creates(&request.with_args(command)));
        if !own_command || !request.args().ends_with(&container.args) {
            return Some("another command than the policy's".to_owned());
        }
        let denied = container.env.iter().find(|variable| !self.creates(&request.with_env(variable)));
        let denied = denied.map(|variable| variable.split('=').next().unwrap_or_default());
        // What the kubelet will put there is not known: a name of the policy's, or one that a pattern admits.
        let denied = denied.or_else(|| {
            container.taken.iter().map(String::as_str).find(|name| {
                request.value_of(name).is_none()
                    && !TAKEN.iter().any(|value| self.creates(&request.with_env(&format!("{name}={value}"))))
            })
        });
        if let Some(name) = denied {
            return Some(format!("the variable `{}` differs from the policy's, or is not in it", printable(name, 63)));
        }
        for mount in &container.mounts {
            let path = printable(&mount.path, 200);
            match request.mount_at(&mount.path) {
                None => return Some(format!("the policy has no mount at {path}")),
                Some(options) if mount.empty_dir && options.contains(&access(!mount.read_only)) => {
                    return Some(format!("the mount at {path} is not `{}` in the policy", access(mount.read_only)));
                }
                Some(_) => {}
            }
        }
        for (key, id) in [("UID", container.user), ("GID", container.group)] {
            if let Some(id) = id.filter(|id| !self.creates(&request.with_user(key, *id))) {
                return Some(format!("it runs with the {key} {id}, which is not the policy's"));
            }
        }
        (container.privileged && request.is_privileged() == Some(false))
            .then(|| "it is privileged, and not in the policy".to_owned())
    }
}

/// As options of a mount say it.
fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Some names of a policy, safe to print.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(MAX_NAMES).map(|name| format!("`{}`", printable(name, 63))).collect();
    let more = if names.len() > MAX_NAMES { " and others" } else { "" };
    shown.join(", ") + more
}

fn not_empty(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty())
}

fn has_commands(value: &Value) -> bool {
    // Older settings are a list; newer ones have two.
    not_empty(value)
        || ["allowed_commands", "commands", "regex"].iter().any(|key| value.get(key).is_some_and(not_empty))
}

/// The state after these operations, as the agent keeps it: `add` below `/pstate/`.
fn applied(operations: &[Value]) -> Map<String, Value> {
    let one = |operation: &Value| {
        let path = operation.get("path")?.as_str()?.strip_prefix("/pstate/")?.to_owned();
        Some((path, operation.get("value")?.clone()))
    };
    operations.iter().filter_map(one).collect()
}

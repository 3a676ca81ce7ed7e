//! Requests as Kata's shim sends them to the agent, made from what a policy says it admits.
//!
//! A generated policy describes each container by values, patterns and placeholders. From these a
//! request is filled in that fits. If the rules admit it, then the same request with one thing
//! changed shows whether that thing is pinned: a denial of a request that would have been denied
//! anyway shows nothing.
//!
//! Source: the shapes of Kata's agent protocol as the agent hands them to its policy.

use serde_json::{Map, Value, json};

use super::sample::sample;

/// Ids of containerd: 64 hexadecimal digits. The sandbox has one, each container another.
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SANDBOX: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

const NAME: &str = "io.kubernetes.cri.sandbox-name";
const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
pub(super) const IMAGE: &str = "io.kubernetes.cri.image-name";
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
const TYPE: &str = "io.kubernetes.cri.container-type";

/// The data of a policy.
pub(super) struct Data<'p> {
    common: &'p Value,
    containers: Vec<&'p Value>,
}

/// One container of it, as a request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// `nginx`, or `the pause container`.
    pub(super) name: String,
    /// The image that the policy names, if it names one.
    pub(super) image: Option<String>,
    /// Whether it is the pod's sandbox, whose image is part of the guest's.
    pub(super) sandbox: bool,
    /// Names of the variables to which the policy gives a value. What it leaves to the cluster, as a
    /// placeholder, is not among them.
    pub(super) fixed: Vec<String>,
    /// The request itself.
    pub(super) input: Value,
}

impl<'p> Data<'p> {
    pub(super) fn new(policy_data: &'p Value) -> Self {
        let containers = policy_data.get("containers").and_then(Value::as_array);
        Self {
            common: policy_data.get("common").unwrap_or(&Value::Null),
            containers: containers.into_iter().flatten().collect(),
        }
    }

    /// The ways in which each container may be asked for, most likely first: with its image pulled
    /// in the guest, and without.
    pub(super) fn requests(&self) -> impl Iterator<Item = Vec<Request>> {
        self.containers.iter().map(|container| {
            let base = self.request(container);
            let image = base.image.clone().unwrap_or_else(|| "pause".to_owned());
            let mut pulled = base.clone();
            let root = pulled.input.pointer("/OCI/Root/Path").cloned().unwrap_or(Value::Null);
            if let Some(storages) = pulled.input.get_mut("storages").and_then(Value::as_array_mut) {
                storages.push(json!({
                    "driver": "image_guest_pull", "driver_options": [], "fs_group": null, "fstype": "overlay",
                    "mount_point": root, "options": [], "source": image,
                }));
            }
            vec![pulled, base]
        })
    }

    fn request(&self, container: &Value) -> Request {
        let oci = container.get("OCI").unwrap_or(&Value::Null);
        let annotation = |key: &str| oci.pointer("/Annotations").and_then(|all| all.get(key)).and_then(Value::as_str);
        let pod = sample(annotation(NAME).unwrap_or("pod"));
        let namespace = annotation(NAMESPACE).map(sample).filter(|name| !name.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let fill = Fill { common: self.common, pod: &pod, namespace: &namespace };
        let is_sandbox = annotation(TYPE) == Some("sandbox");
        let name = annotation(CONTAINER_NAME).map_or_else(
            || if is_sandbox { "the pause container".to_owned() } else { "a container without a name".to_owned() },
            str::to_owned,
        );
        let list = |key: &str| container.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let storages: Vec<Value> = list("storages").iter().map(|storage| fill.storage(storage)).collect();
        Request {
            name,
            image: annotation(IMAGE).map(str::to_owned),
            sandbox: is_sandbox,
            fixed: fixed(oci),
            input: json!({
                "container_id": CONTAINER, "exec_id": CONTAINER, "string_user": null,
                "devices": list("devices"), "storages": storages, "OCI": fill.oci(oci),
                "sandbox_pidns": container.get("sandbox_pidns").cloned().unwrap_or(Value::Bool(false)),
                "shared_mounts": [], "rootfs_mounts": [], "stdin_port": null, "stdout_port": null, "stderr_port": null,
            }),
        }
    }
}

impl Request {
    /// The same container with another image.
    pub(super) fn with_image(&self, image: &str) -> Value {
        let mut input = self.input.clone();
        if let Some(annotations) = input.pointer_mut("/OCI/Annotations").and_then(Value::as_object_mut) {
            annotations.insert(IMAGE.to_owned(), image.into());
        }
        let storages = input.get_mut("storages").and_then(Value::as_array_mut);
        for storage in storages.into_iter().flatten().filter(|storage| is_pull(storage)) {
            if let Some(storage) = storage.as_object_mut() {
                storage.insert("source".to_owned(), image.into());
            }
        }
        input
    }

    /// Whether its image is pulled in the guest, by this request.
    pub(super) fn pulls(&self) -> bool {
        self.input.get("storages").and_then(Value::as_array).is_some_and(|list| list.iter().any(is_pull))
    }

    /// Its command.
    pub(super) fn args(&self) -> Vec<String> {
        let args = self.input.pointer("/OCI/Process/Args").and_then(Value::as_array);
        args.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The value of one of its variables.
    pub(super) fn value_of(&self, name: &str) -> Option<&str> {
        let variables = self.input.pointer("/OCI/Process/Env").and_then(Value::as_array)?;
        let mut named = variables.iter().filter_map(|variable| variable.as_str()?.split_once('='));
        named.find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The same container with another command.
    pub(super) fn with_args(&self, args: &[String]) -> Value {
        self.with("/OCI/Process/Args", |value| *value = json!(args))
    }

    /// The same container with one more variable, `NAME=value`; one of that name is replaced.
    pub(super) fn with_env(&self, variable: &str) -> Value {
        let name = variable.split('=').next().unwrap_or_default();
        self.with("/OCI/Process/Env", |value| {
            if let Some(list) = value.as_array_mut() {
                list.retain(|other| other.as_str().and_then(|other| other.split('=').next()) != Some(name));
                list.push(variable.into());
            }
        })
    }

    /// The same container with one more mount.
    pub(super) fn with_mount(&self) -> Value {
        self.with("/OCI/Mounts", |value| {
            if let Some(list) = value.as_array_mut() {
                list.push(json!({
                    "destination": "/run/countersign", "type_": "bind", "options": ["rbind", "rprivate", "rw"],
                    "source": shared(),
                }));
            }
        })
    }

    /// The same container under another user, or another group.
    pub(super) fn with_user(&self, key: &str, id: i64) -> Value {
        self.with(&format!("/OCI/Process/User/{key}"), |value| *value = id.into())
    }

    /// Whether its capabilities are those of a privileged container. `None` where it lists none.
    pub(super) fn is_privileged(&self) -> Option<bool> {
        let bounding = self.input.pointer("/OCI/Process/Capabilities/Bounding")?.as_array()?;
        Some(bounding.iter().filter_map(Value::as_str).any(|name| name.ends_with("SYS_ADMIN")))
    }

    /// The options of what it mounts at this path.
    pub(super) fn mount_at(&self, path: &str) -> Option<Vec<&str>> {
        let bare = |path: &str| if path == "/" { path.to_owned() } else { path.trim_end_matches('/').to_owned() };
        let mounts = self.input.pointer("/OCI/Mounts").and_then(Value::as_array)?;
        let is_there = |mount: &&Value| {
            mount.get("destination").and_then(Value::as_str).is_some_and(|other| bare(other) == bare(path))
        };
        let options = mounts.iter().find(is_there)?.get("options").and_then(Value::as_array);
        Some(options.into_iter().flatten().filter_map(Value::as_str).collect())
    }

    /// The same container with one file or directory of the host's choice in the place of another: once
    /// from elsewhere in the guest, once from among what the host shares. With the path that it covers.
    pub(super) fn with_sources(&self) -> Vec<(String, Value)> {
        let mounts = self.input.pointer("/OCI/Mounts").and_then(Value::as_array);
        let mut changed = Vec::new();
        for (index, mount) in mounts.into_iter().flatten().enumerate() {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            if !matches!(text("type_"), "bind" | "") {
                continue;
            }
            for source in ["/run/evil".to_owned(), shared()] {
                let pointer = format!("/OCI/Mounts/{index}/source");
                changed.push((text("destination").to_owned(), self.with(&pointer, |value| *value = source.into())));
            }
        }
        changed
    }

    fn with(&self, pointer: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut input = self.input.clone();
        if let Some(value) = input.pointer_mut(pointer) {
            change(value);
        }
        input
    }

    /// A command in this container, beside its own.
    pub(super) fn exec(&self, args: &[String]) -> Value {
        let part = |pointer: &str| self.input.pointer(pointer).cloned().unwrap_or(Value::Null);
        json!({
            "container_id": CONTAINER, "exec_id": "exec", "string_user": null,
            "process": {
                "Args": args, "Env": part("/OCI/Process/Env"), "Cwd": part("/OCI/Process/Cwd"),
                "User": part("/OCI/Process/User"), "NoNewPrivileges": part("/OCI/Process/NoNewPrivileges"),
                "Terminal": false, "Capabilities": null, "SelinuxLabel": "", "ApparmorProfile": "",
                "Rlimits": [], "ConsoleSize": null, "OOMScoreAdj": 0,
            },
        })
    }
}

/// A directory that the host shares with the guest, under a name that no pod has.
fn shared() -> String {
    format!("/run/kata-containers/shared/containers/{CONTAINER}-0123456789abcdef-evil")
}

fn fixed(oci: &Value) -> Vec<String> {
    let variables = oci.pointer("/Process/Env").and_then(Value::as_array).into_iter().flatten();
    let named = variables.filter_map(|variable| variable.as_str()?.split_once('='));
    named.filter(|(_, value)| !value.contains("$(")).map(|(name, _)| name.to_owned()).collect()
}

fn is_pull(storage: &Value) -> bool {
    storage.get("driver").and_then(Value::as_str) == Some("image_guest_pull")
}

/// Each text of a list, changed.
fn texts(value: Option<&Value>, one: impl Fn(&str) -> String) -> Value {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(|text| Value::String(one(text))).collect()
}

/// What placeholders stand for in a request.
struct Fill<'a> {
    common: &'a Value,
    pod: &'a str,
    namespace: &'a str,
}

impl Fill<'_> {
    /// Replaces placeholders; what they stand for may hold others.
    fn placeholders(&self, text: &str) -> String {
        let common = |key: &str| self.common.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut text = text.to_owned();
        for (name, value) in [
            ("$(sfprefix)", common("sfprefix")),
            ("$(spath)", common("spath")),
            ("$(root_path)", common("root_path")),
            ("$(mount_source_cpath)", common("mount_source_cpath")),
            ("$(cpath)", common("cpath")),
            ("$(bundle-id)", CONTAINER),
            ("$(sandbox-id)", SANDBOX),
            ("$(sandbox-name)", self.pod),
            ("$(sandbox-namespace)", self.namespace),
            ("$(host-name)", "host"),
            ("$(node-name)", "node"),
            ("$(pod-uid)", "00000000-0000-4000-8000-000000000000"),
            ("$(pod-ip)", "10.0.0.7"),
            ("$(host-ip)", "10.0.0.1"),
            ("$(resource-field)", "1"),
            ("$(todo-annotation)", "1"),
        ] {
            text = text.replace(name, value);
        }
        text
    }

    /// A value for a placeholder or a pattern.
    fn value(&self, text: &str) -> String {
        sample(&self.placeholders(text))
    }

    fn capabilities(&self, all: Option<&Value>) -> Value {
        let all = all.and_then(Value::as_object).cloned().unwrap_or_default();
        let expanded = all.into_iter().map(|(kind, list)| {
            let name = list.get(0).and_then(Value::as_str).and_then(|name| name.strip_prefix("$(")?.strip_suffix(')'));
            let known = name.and_then(|name| self.common.get(name)).cloned();
            (kind, known.unwrap_or(list))
        });
        Value::Object(expanded.collect())
    }

    fn storage(&self, storage: &Value) -> Value {
        let mut storage = storage.clone();
        for key in ["source", "mount_point"] {
            if let Some(Value::String(text)) = storage.get_mut(key) {
                *text = self.value(text);
            }
        }
        storage
    }

    fn oci(&self, oci: &Value) -> Value {
        let part = |pointer: &str| oci.pointer(pointer).cloned();
        let text = |pointer: &str| oci.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mounts: Vec<Value> = oci
            .pointer("/Mounts")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|mount| {
                let mut mount = mount.clone();
                if let Some(Value::String(source)) = mount.get_mut("source") {
                    *source = self.value(source);
                }
                mount
            })
            .collect();
        let annotations = part("/Annotations").and_then(|all| all.as_object().cloned()).unwrap_or_default();
        let mut annotations: Map<String, Value> = annotations
            .into_iter()
            .map(|(key, value)| {
                let filled = self.placeholders(value.as_str().unwrap_or_default());
                // An image's name is no pattern, though its dots would make it one.
                let value = if filled.starts_with('^') { sample(&filled) } else { filled };
                (key, value.into())
            })
            .collect();
        annotations.insert(NAME.to_owned(), self.pod.into());
        annotations.insert(NAMESPACE.to_owned(), self.namespace.into());
        json!({
            "Version": part("/Version"), "Hooks": null, "Solaris": null, "Windows": null, "Hostname": "",
            "Annotations": annotations, "Mounts": mounts,
            "Root": { "Path": self.value(&text("/Root/Path")), "Readonly": part("/Root/Readonly") },
            "Process": {
                "Terminal": part("/Process/Terminal"), "Cwd": part("/Process/Cwd"), "User": part("/Process/User"),
                "NoNewPrivileges": part("/Process/NoNewPrivileges"),
                "Args": texts(oci.pointer("/Process/Args"), |arg| self.placeholders(&arg.replace("$$", "$"))),
                "Env": texts(oci.pointer("/Process/Env"), |variable| self.placeholders(variable)),
                "Capabilities": self.capabilities(oci.pointer("/Process/Capabilities")),
                "SelinuxLabel": "", "ApparmorProfile": "", "OOMScoreAdj": 0, "Rlimits": [], "ConsoleSize": null,
            },
            "Linux": {
                "Namespaces": part("/Linux/Namespaces"), "Devices": part("/Linux/Devices"),
                "MaskedPaths": part("/Linux/MaskedPaths"), "ReadonlyPaths": part("/Linux/ReadonlyPaths"),
                "Sysctl": {}, "CgroupsPath": "", "MountLabel": "", "RootfsPropagation": "",
                "GIDMappings": [], "UIDMappings": [], "IntelRdt": null, "Seccomp": null,
                "Resources": {
                    "BlockIO": null, "CPU": null, "Devices": [], "HugepageLimits": [], "Memory": null,
                    "Network": null, "Pids": null,
                },
            },
        })
    }
}

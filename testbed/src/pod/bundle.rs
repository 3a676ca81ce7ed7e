//! One container as an OCI bundle: what the runtime is given for a container of a pod.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Where a container's message is by default.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a bundle is made of.
pub(super) struct Parts<'a> {
    pub(super) pod: &'a Value,
    pub(super) container: &'a Value,
    /// Inside the world: the file that the image has as its entrypoint; none for the app's images,
    /// which have the machine's own programs.
    pub(super) binary: Option<PathBuf>,
    /// Inside the world, by name.
    pub(super) volumes: &'a BTreeMap<String, PathBuf>,
    /// Whether the runtime brings messages out.
    pub(super) messages: bool,
    /// The bundle's directory, as the runtime sees it: it may be written elsewhere.
    pub(super) seen: &'a Path,
}

/// Writes the bundle, and says where the message will be.
pub(super) fn write(directory: &Path, parts: &Parts<'_>) -> io::Result<Option<PathBuf>> {
    let root = directory.join("rootfs");
    for below in ["proc", "dev", "sys", "tmp", "usr", "run", "etc"] {
        fs::create_dir_all(root.join(below))?;
    }
    // The test's own build needs the machine's libraries; the app's image has its programs. The
    // shipped binary is static: 50-static and the QEMU guest run it in an empty root.
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(to, root.join(link))?;
    }
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] }),
        bind(Path::new("/usr"), "/usr", true),
    ];
    if let Some(binary) = &parts.binary {
        File::create(root.join("countersign"))?;
        mounts.push(bind(binary, "/countersign", true));
    }
    for mount in list(parts.container, "volumeMounts") {
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        let volume = parts.volumes.get(name).ok_or_else(|| other(format!("no volume {name}")))?;
        fs::create_dir_all(root.join(path.trim_start_matches('/')))?;
        mounts.push(bind(volume, path, mount.get("readOnly").and_then(Value::as_bool).unwrap_or(false)));
    }
    let message = parts.messages.then(|| directory.join("message"));
    if let Some(message) = &message {
        File::create(message)?.set_permissions(fs::Permissions::from_mode(0o666))?;
        let on = parts.container.get("terminationMessagePath").and_then(Value::as_str).unwrap_or(TERMINATION_LOG);
        mounts.push(bind(&parts.seen.join("message"), on, false));
    }
    let config = json!({
        "ociVersion": "1.0.2",
        "process": process(parts)?,
        "root": { "path": "rootfs", "readonly": security(parts, "readOnlyRootFilesystem").and_then(|v| v.as_bool()).unwrap_or(false) },
        "mounts": mounts,
        // The pod's network is the world's.
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
    });
    fs::write(directory.join("config.json"), config.to_string())?;
    Ok(message)
}

fn process(parts: &Parts<'_>) -> io::Result<Value> {
    let id = |field| security(parts, field).and_then(|value| value.as_u64()).unwrap_or(0);
    let uid = id("runAsUser");
    // The kubelet's own refusal.
    if uid == 0 && security(parts, "runAsNonRoot") == Some(true.into()) {
        return Err(other(format!("container {} must not run as root", text(parts.container, "name"))));
    }
    let groups: Vec<&Value> = parts.pod.pointer("/spec/securityContext/fsGroup").into_iter().collect();
    let mut args: Vec<String> = list(parts.container, "command")
        .chain(list(parts.container, "args"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if list(parts.container, "command").next().is_none() && parts.binary.is_some() {
        args.insert(0, "/countersign".to_owned());
    }
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    // As every container has it: no variable of ours, and they must not mind.
    env.push("KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned());
    for one in list(parts.container, "env") {
        let value = match one.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
            None => text(one, "value"),
            Some("metadata.name") => parts.pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default(),
            Some("metadata.namespace") => {
                parts.pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default")
            }
            Some(path) => return Err(other(format!("fieldRef {path} is not run here"))),
        };
        env.push(format!("{}={value}", text(one, "name")));
    }
    let dropped = security(parts, "capabilities").is_some_and(|all| all.get("drop") == Some(&json!(["ALL"])));
    let none: [&str; 0] = [];
    // What containerd gives a container that says nothing, as far as these tests need it.
    let usual = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];
    let held: &[&str] = if dropped || uid != 0 { &none } else { &usual };
    Ok(json!({
        "user": { "uid": uid, "gid": id("runAsGroup"), "additionalGids": groups },
        "cwd": "/",
        "args": args,
        "env": env,
        "capabilities": { "bounding": held, "effective": held, "permitted": held, "inheritable": none, "ambient": none },
        "noNewPrivileges": security(parts, "allowPrivilegeEscalation") == Some(false.into()),
    }))
}

/// The container's own, else the pod's.
fn security(parts: &Parts<'_>, field: &str) -> Option<Value> {
    let of = |value: &Value, pointer: &str| value.pointer(pointer).cloned();
    of(parts.container, &format!("/securityContext/{field}"))
        .or_else(|| of(parts.pod, &format!("/spec/securityContext/{field}")))
}

fn bind(from: &Path, on: &str, read_only: bool) -> Value {
    json!({ "destination": on, "type": "bind", "source": from, "options": ["bind", if read_only { "ro" } else { "rw" }] })
}

pub(super) fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn other(text: String) -> io::Error {
    io::Error::other(text)
}

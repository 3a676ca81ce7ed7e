//! A pod for a guest with a kernel of its own: the bundles of its containers, and what the guest has to
//! do with them in the kubelet's place, as lines that a shell can read.
//!
//! | file | |
//! |---|---|
//! | `volumes` | `memory NAME GROUP`, `config NAME`, `guest NAME PATH`: what is behind each volume |
//! | `order` | `init NAME`, `sidecar NAME PORT PATH` (waits for that startup probe), `app NAME` |
//! | `NAME/config.json` | the bundle of a container |
//! | `volume-NAME/` | a `ConfigMap`, in the kubelet's layout |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bundle::{self, Parts, list, other, text};
use super::{fields, project};

/// Where the guest mounts memory volumes, a directory for each.
const MEMORY: &str = "/run/volumes";

/// A manifest, its `ConfigMap`s, and how they are run.
#[derive(Debug)]
pub struct Laid<'a> {
    /// The pod, as admission leaves it.
    pub pod: Value,
    /// What is in its namespace.
    pub config_maps: &'a [Value],
    /// The image that stands for the binary under test.
    pub ours: &'a str,
    /// Where the guest has that binary.
    pub binary: &'a Path,
    /// The program of every container of the app.
    pub app: &'a [String],
}

/// Writes the pod into `directory`, which the guest will see as `seen`. A field that is not run, or a
/// volume that is not there, is an error that names it.
pub fn lay_out(laid: Laid<'_>, directory: &Path, seen: &Path) -> io::Result<()> {
    let Laid { mut pod, config_maps, ours, binary, app } = laid;
    for container in pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut).into_iter().flatten() {
        container["command"] = json!(app);
    }
    fields::check_for_guest(&pod).map_err(other)?;
    fs::create_dir(directory)?;
    let volumes = volumes(&pod, config_maps, directory, seen)?;
    let mut order = String::new();
    for (path, default) in [("initContainers", "init"), ("containers", "app")] {
        for container in pod.get("spec").into_iter().flat_map(|spec| list(spec, path)) {
            let name = text(container, "name");
            let kind = if text(container, "restartPolicy") == "Always" { "sidecar" } else { default };
            let probe = container.pointer("/startupProbe/httpGet").unwrap_or(&Value::Null);
            // Writing to memory does not fail.
            let _ = match kind {
                "sidecar" => writeln!(order, "{kind} {name} {} {}", probe["port"], text(probe, "path")),
                _ => writeln!(order, "{kind} {name}"),
            };
            fs::create_dir(directory.join(name))?;
            let parts = Parts {
                pod: &pod,
                container,
                binary: (text(container, "image") == ours).then(|| binary.to_path_buf()),
                volumes: &volumes,
                messages: true,
                seen: &seen.join(name),
            };
            bundle::write(&directory.join(name), &parts)?;
        }
    }
    fs::write(directory.join("order"), order)
}

/// Each volume's place in the guest.
fn volumes(pod: &Value, config_maps: &[Value], directory: &Path, seen: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let group = pod.pointer("/spec/securityContext/fsGroup").and_then(Value::as_u64).unwrap_or(0);
    let (mut places, mut lines) = (BTreeMap::new(), String::new());
    for volume in list(&pod["spec"], "volumes") {
        let name = text(volume, "name");
        let (place, line) = if text(&volume["emptyDir"], "medium") == "Memory" {
            (Path::new(MEMORY).join(name), format!("memory {name} {group}"))
        } else if let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) {
            (PathBuf::from(path), format!("guest {name} {path}"))
        } else {
            let wanted = text(&volume["configMap"], "name");
            let map = config_maps.iter().find(|map| text(&map["metadata"], "name") == wanted);
            let map = map.ok_or_else(|| other(format!("volume {name}: configmap \"{wanted}\" not found")))?;
            let below = format!("volume-{name}");
            fs::create_dir(directory.join(&below))?;
            project(map, &directory.join(&below))?;
            (seen.join(below), format!("config {name}"))
        };
        // Writing to memory does not fail.
        let _ = writeln!(lines, "{line}");
        places.insert(name.to_owned(), place);
    }
    fs::write(directory.join("volumes"), lines)?;
    Ok(places)
}

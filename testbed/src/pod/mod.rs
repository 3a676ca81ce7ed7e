//! A runner of pods: one manifest, under the kubelet's rules, over `crun`.
//!
//! `podman kube play` is not a kubelet: it gives each container its own tmpfs for one memory
//! emptyDir, waits for native sidecars to end, and has no termination message. This runs exactly the
//! fields that our policies write and plain apps use; any other field is an error that names it.
//!
//! A pod is a [`World`]: its network namespace is the pod's, with the guest's REST service on
//! 127.0.0.1:8006. Containers have their own root, processes and mounts. What is not here: control
//! groups, seccomp profiles, image pulls.

mod bundle;
pub mod fields;
pub mod guest;
mod probe;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::bundle::{Parts, list, other, text};
use self::probe::Probe;
use crate::world::{Run, Started, Volume, World};

/// The pod's address. Probes go there, as the kubelet's do: not to loopback.
pub const POD_IP: &str = "10.88.0.2";

/// How long a whole pod may take to start.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at what changes. The kubelet's is a second; these tests are many.
const POLL: Duration = Duration::from_millis(20);

/// How often a failing container is started again before the runner gives up. The kubelet never
/// does, and waits longer each time; a test has to end.
const RESTARTS: usize = 20;

/// The machine's `crun`.
pub fn crun() -> Option<PathBuf> {
    ["/usr/bin/crun", "/usr/local/bin/crun"].into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// A pod to run.
pub struct Pod<'w> {
    world: &'w World,
    manifest: Value,
    config_maps: BTreeMap<String, Value>,
    ours: String,
    messages: bool,
}

/// One container's end.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// Its exit code.
    pub code: Option<i32>,
    /// The last 4096 bytes of its message.
    pub message: String,
    /// Its output, which a pod without logs does not show.
    pub output: String,
}

/// A pod that runs, or has ended.
pub struct Running<'w> {
    world: &'w World,
    grace: Duration,
    /// Native sidecars, in the order of their start.
    sidecars: Vec<Live<'w>>,
    apps: Vec<Live<'w>>,
    /// Every end so far, in order.
    pub ended: Vec<Ended>,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub phase: &'static str,
}

struct Live<'w> {
    name: String,
    id: String,
    message: Option<PathBuf>,
    started: Started<'w>,
    readiness: Option<Probe>,
}

impl<'w> Pod<'w> {
    /// The pod of a manifest. `ours` is the image reference that stands for the binary under test;
    /// every other image has the machine's own programs.
    pub fn new(world: &'w World, manifest: Value, ours: &str) -> io::Result<Self> {
        fields::check(&manifest).map_err(other)?;
        Ok(Self { world, manifest, config_maps: BTreeMap::new(), ours: ours.to_owned(), messages: true })
    }

    /// A `ConfigMap` of its namespace.
    #[must_use]
    pub fn config_map(mut self, map: &Value) -> Self {
        let name = map.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        self.config_maps.insert(name.to_owned(), map.clone());
        self
    }

    /// A guest whose agent policy lets no message out.
    #[must_use]
    pub fn without_messages(mut self) -> Self {
        self.messages = false;
        self
    }

    /// Runs the init containers in order, and starts the app's. Comes back when the app's containers
    /// run, or when the pod has failed.
    pub fn start(self) -> io::Result<Running<'w>> {
        self.world.one_cgroup_tree()?;
        let ip = self.world.run("ip", &["address", "replace", &format!("{POD_IP}/32"), "dev", "lo"]).run();
        if ip.code != Some(0) {
            return Err(other(ip.output()));
        }
        let volumes = self.volumes()?;
        let spec = self.manifest.get("spec").unwrap_or(&Value::Null);
        let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
        let mut running = Running {
            world: self.world,
            grace: Duration::from_secs(grace),
            sidecars: Vec::new(),
            apps: Vec::new(),
            ended: Vec::new(),
            phase: "Pending",
        };
        let again = text(spec, "restartPolicy") != "Never";
        for container in list(spec, "initContainers") {
            if text(container, "restartPolicy") == "Always" {
                let live = self.launch(container, &volumes)?;
                let startup = container.get("startupProbe").map(|probe| Probe::new(probe, container)).transpose()?;
                running.sidecars.push(live);
                if let Some(probe) = startup {
                    // The next container waits for it: that is the gate.
                    probe.wait(self.world, TIME_LIMIT)?;
                }
                continue;
            }
            let mut tries = 0;
            loop {
                let ended = end(self.launch(container, &volumes)?);
                let code = ended.code;
                running.ended.push(ended);
                tries += 1;
                match code {
                    Some(0) => break,
                    _ if again && tries <= RESTARTS => std::thread::sleep(POLL),
                    _ => {
                        running.stop_sidecars();
                        running.phase = "Failed";
                        return Ok(running);
                    }
                }
            }
        }
        for container in list(spec, "containers") {
            running.apps.push(self.launch(container, &volumes)?);
        }
        running.phase = "Running";
        Ok(running)
    }

    fn launch(&self, container: &Value, volumes: &BTreeMap<String, PathBuf>) -> io::Result<Live<'w>> {
        let name = text(container, "name").to_owned();
        let directory = self.world.scratch(&format!("container-{name}"))?;
        let binary = (text(container, "image") == self.ours).then(|| self.world.countersign_path());
        let parts =
            Parts { pod: &self.manifest, container, binary, volumes, messages: self.messages, seen: &directory };
        let message = bundle::write(&directory, &parts)?;
        let id = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let started = self
            .world
            .run(crun().ok_or_else(|| other("no crun on this machine".to_owned()))?, &["--root"])
            .arg(self.world.directory().join("crun"))
            .args(&["--cgroup-manager=disabled", "run", "--no-new-keyring", "--bundle"])
            .arg(&directory)
            .arg(&id)
            .time_limit(TIME_LIMIT)
            .start();
        let readiness = container.get("readinessProbe").map(|probe| Probe::new(probe, container)).transpose()?;
        Ok(Live { name, id, message, started, readiness })
    }

    /// One directory for each volume, shared by all containers, as Kata makes them.
    fn volumes(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        let group = self.manifest.pointer("/spec/securityContext/fsGroup").and_then(Value::as_u64);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let mut volumes = BTreeMap::new();
        for volume in list(self.manifest.get("spec").unwrap_or(&Value::Null), "volumes") {
            let name = text(volume, "name");
            let path = if let Some(empty) = volume.get("emptyDir") {
                let kind = if text(empty, "medium") == "Memory" { Volume::memory() } else { Volume::ramfs() };
                if text(empty, "medium") == "Memory" {
                    self.world.volume(&group.map_or(kind.clone(), |group| kind.fs_group(group)))?
                } else {
                    // The node's disk.
                    let directory = self.world.scratch(&format!("volume-{name}"))?;
                    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
                    directory
                }
            } else {
                self.projected(name, text(&volume["configMap"], "name"))?
            };
            volumes.insert(name.to_owned(), path);
        }
        Ok(volumes)
    }

    /// A `ConfigMap` in the kubelet's layout. One that does not exist keeps the pod from starting.
    fn projected(&self, volume: &str, name: &str) -> io::Result<PathBuf> {
        let map = self.config_maps.get(name).ok_or_else(|| other(format!("configmap \"{name}\" not found")))?;
        let directory = self.world.scratch(&format!("volume-{volume}"))?;
        project(map, &directory)?;
        Ok(directory)
    }
}

/// Writes a `ConfigMap` into a directory, in the kubelet's layout.
fn project(map: &Value, directory: &Path) -> io::Result<()> {
    let data = directory.join("..2026_11_24_00_00_00.1");
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    symlink("..2026_11_24_00_00_00.1", directory.join("..data"))?;
    for (key, value) in map["data"].as_object().into_iter().flatten() {
        fs::write(data.join(key), value.as_str().unwrap_or_default())?;
        fs::set_permissions(data.join(key), fs::Permissions::from_mode(0o644))?;
        symlink(format!("..data/{key}"), directory.join(key))?;
    }
    Ok(())
}

impl Running<'_> {
    /// Waits until every container with a readiness probe is ready.
    pub fn ready(&self) -> io::Result<()> {
        let probes = self.sidecars.iter().chain(&self.apps).filter_map(|live| live.readiness.as_ref());
        probes.into_iter().try_for_each(|probe| probe.wait(self.world, TIME_LIMIT))
    }

    /// Waits until the app's containers have ended, as a Job's do; then the sidecars are stopped.
    pub fn complete(&mut self) {
        for live in std::mem::take(&mut self.apps) {
            self.ended.push(end(live));
        }
        let failed = self.ended.iter().any(|ended| ended.code != Some(0));
        self.stop_sidecars();
        self.phase = if failed { "Failed" } else { "Succeeded" };
    }

    /// Deletes the pod: SIGTERM to the app's containers, after the grace period SIGKILL; then the
    /// sidecars, last started first.
    pub fn delete(&mut self) {
        let apps = std::mem::take(&mut self.apps);
        for live in apps {
            self.terminate(live);
        }
        self.stop_sidecars();
        self.phase = "Succeeded";
    }

    fn stop_sidecars(&mut self) {
        while let Some(live) = self.sidecars.pop() {
            self.terminate(live);
        }
    }

    fn terminate(&mut self, live: Live<'_>) {
        self.kill(&live.id, "TERM");
        let begun = Instant::now();
        while begun.elapsed() < self.grace && live.started.is_running() {
            std::thread::sleep(POLL);
        }
        if live.started.is_running() {
            self.kill(&live.id, "KILL");
        }
        self.ended.push(end(live));
    }

    fn kill(&self, id: &str, signal: &str) {
        let Some(crun) = crun() else { return };
        let root = self.world.directory().join("crun");
        self.world.run(crun, &["--root"]).arg(root).args(&["--cgroup-manager=disabled", "kill", id, signal]).run();
    }

    /// The end of a container, the last one if it was started more than once.
    ///
    /// # Panics
    /// When it has not ended.
    pub fn end_of(&self, name: &str) -> &Ended {
        self.ended.iter().rev().find(|ended| ended.name == name).expect("the container has ended")
    }
}

fn end(live: Live<'_>) -> Ended {
    let run: Run = live.started.wait();
    let message = live.message.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let last = message.len().saturating_sub(4096);
    Ended {
        name: live.name,
        code: run.code,
        message: String::from_utf8_lossy(message.get(last..).unwrap_or_default()).into_owned(),
        output: run.output(),
    }
}

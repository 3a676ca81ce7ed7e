//! A machine that is no TEE, with what its owner has: a certificate of the mesh, roots and pins.

use std::path::PathBuf;
use std::time::Duration;

use countersign_testbed::eventually;
use countersign_testbed::pki::Ca;
use countersign_testbed::world::{Run, Started};
use serde_json::{Value, json};

use crate::scene::{API, IN, Scene, WEB};

/// Where the laptop's app dials.
pub(crate) const NEAR: &str = "127.0.0.1:15999";

/// A directory with everything that a laptop has.
pub(crate) struct Laptop<'s> {
    scene: &'s Scene,
    pub(crate) directory: PathBuf,
}

impl<'s> Laptop<'s> {
    /// Shows the certificate of a member `WEB`, and holds `api` to its pins.
    pub(crate) fn new(scene: &'s Scene, name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("countersign-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let laptop = Self { scene, directory };
        laptop.is(&scene.mesh);
        laptop.file("roots.pem", scene.mesh.pem());
        laptop.file("token-ca.pem", &scene.kbs.token_root());
        laptop.file("pins.json", &scene.pins(1, |_| {}));
        laptop.policy(|_| {});
        laptop
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A certificate of `ca`.
    pub(crate) fn is(&self, ca: &Ca) {
        let member = ca.member(WEB);
        self.file("cert.pem", member.pem());
        self.file("key.pem", &member.key_pem());
    }

    pub(crate) fn policy(&self, change: impl FnOnce(&mut Value)) {
        let mut policy = json!({
            "expect": API, "roots": "roots.pem", "token_roots": "token-ca.pem", "pins": "pins.json", "max_age": "1h",
            "cert": "cert.pem", "cert_key": "key.pem",
        });
        change(&mut policy);
        let lines = policy.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        let lines: Vec<_> = lines.map(|(key, value)| format!("{key} = {value}")).collect();
        self.file("verify.toml", &lines.join("\n"));
    }

    pub(crate) fn policy_file(&self) -> String {
        self.directory.join("verify.toml").display().to_string()
    }

    pub(crate) fn verify(&self) -> Run {
        self.verify_that(&format!("https://{IN}"), &[])
    }

    /// What is shown, by the policy.
    pub(crate) fn verify_that(&self, shown: &str, more: &[&str]) -> Run {
        let policy = self.policy_file();
        let arguments = ["verify", shown, "--policy", &policy, "--json"];
        self.scene.world.countersign(&[&arguments[..], more].concat()).run()
    }

    pub(crate) fn connect(&self, more: &[&str]) -> Run {
        let policy = self.policy_file();
        self.scene.world.countersign(&[&["connect", IN, "--policy", &policy][..], more].concat()).run()
    }

    pub(crate) fn tunnel(&self, at: &str) -> Started<'s> {
        let policy = self.policy_file();
        let connect = self.scene.world.countersign(&["connect", IN, "--policy", &policy, "--listen", at]);
        let started = connect.time_limit(Duration::from_secs(90)).start();
        eventually("the tunnel is open", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            started.said().contains("has proven itself")
        });
        started
    }

    /// Whether anybody listens where the laptop's app dials.
    pub(crate) fn is_open(&self) -> bool {
        self.scene.world.connect(NEAR).is_ok()
    }
}

impl Drop for Laptop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The check with this id.
pub(crate) fn check(run: &Run, id: &str) -> String {
    let said: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.output()));
    let checks = said["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}: {said:#}"));
    found["state"].as_str().unwrap().to_owned()
}

//! Probes that admission leads through the sidecar, held to the configuration that answers them: what
//! `[[inbound]].probes` does not list gets 404, and the pod is never ready.

use serde_json::Value;

use super::HEALTH;
use crate::config::Config;
use crate::config::grammar::{self, Local};
use crate::finding::printable;

/// Where the sidecar answers for the app: `/probe/<app's port><path>` of the health port.
pub(super) const PREFIX: &str = "/probe/";

/// Most characters of a name or a path in a message.
const MAX_SHOWN: usize = 200;

/// A probe of a rendered pod that asks the sidecar for the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Name of the container, for messages.
    container: String,
    /// `readinessProbe`, as in the manifest.
    kind: &'static str,
    /// The app's port; 0 where the manifest names a port that no container has. `None` where there is no
    /// port behind the prefix.
    port: Option<u16>,
    /// The path, as the app knows it.
    path: String,
    /// As in the manifest, to find its line.
    pub(super) written: String,
}

/// What a configuration lacks for a probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// There is no `[[inbound]]` for the app's port.
    Inbound,
    /// There is one, and its `probes` do not list the path.
    Path,
    /// No configuration can have it: paths in `probes` have no query, and none of some characters.
    Never,
    /// It is not as admission writes it, so the sidecar takes it for nobody's.
    Form,
}

/// The probes of a pod, or of a template, that go through the sidecar.
pub(super) fn of(pod: &Value) -> Vec<Probe> {
    let mut probes = Vec::new();
    for list in ["/spec/initContainers", "/spec/containers"] {
        for container in pod.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let get = container.get(kind).and_then(|probe| probe.get("httpGet"));
                // An app may have such a path of its own.
                let get = get.filter(|get| get.get("port").and_then(Value::as_u64) == Some(HEALTH.into()));
                let written = get.and_then(|get| get.get("path")?.as_str());
                let asked = written.and_then(|written| Some((written, written.strip_prefix(PREFIX)?)));
                let Some((written, rest)) = asked else { continue };
                let (port, path) = rest.split_once('/').map_or((None, ""), |(port, path)| (port.parse().ok(), path));
                probes.push(Probe {
                    container: container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    kind,
                    port,
                    path: format!("/{path}"),
                    written: written.to_owned(),
                });
            }
        }
    }
    probes
}

impl Probe {
    /// What the configuration lacks for it; `None` where it is answered.
    pub(super) fn lacks(&self, config: &Config) -> Option<Lack> {
        if let Some(lack) = self.never() {
            return Some(lack);
        }
        let mut of_port = config.roles.inbound.iter().filter(|inbound| match &inbound.app {
            Local::Tcp(address) => Some(address.port()) == self.port,
            Local::Unix(_) => false,
        });
        if of_port.clone().any(|inbound| inbound.probes.contains(&self.path)) {
            return None;
        }
        Some(if of_port.next().is_some() { Lack::Path } else { Lack::Inbound })
    }

    /// What no configuration mends.
    pub(super) fn never(&self) -> Option<Lack> {
        match self.port {
            None => Some(Lack::Form),
            Some(0) => None,
            Some(_) => grammar::http_path(&self.path).is_err().then_some(Lack::Never),
        }
    }

    /// `readinessProbe of container api asks for /healthz of port 8080`.
    pub(super) fn asks(&self) -> String {
        let shown = |text: &str| printable(text, MAX_SHOWN);
        let what = match self.port {
            Some(port) => format!("{} of port {port}", shown(&self.path)),
            None => format!("{} of the sidecar", shown(&self.written)),
        };
        format!("{} of container {} asks for {what}", self.kind, shown(&self.container))
    }

    /// The key to add. Starts with a verb.
    pub(super) fn next(&self, lack: &Lack) -> String {
        let (port, path) = (self.port.unwrap_or_default(), printable(&self.path, MAX_SHOWN));
        match lack {
            Lack::Form => {
                format!("write the app's own path and port into the {}; admission writes `{PREFIX}…`", self.kind)
            }
            Lack::Never => format!(
                "remove the query, and whatever is none of a-z A-Z 0-9 / . _ ~ -, from the path of the {}: the sidecar asks for plain paths only",
                self.kind
            ),
            _ if port == 0 => "declare the port that the probe names in `ports` of its container".to_owned(),
            Lack::Path => format!(
                "add `probes = [\"{path}\"]` to the `[[inbound]]` of port {port} (`app = \"127.0.0.1:{port}\"`) in countersign.toml"
            ),
            Lack::Inbound => format!(
                "add an `[[inbound]]` with `app = \"127.0.0.1:{port}\"` and `probes = [\"{path}\"]` to countersign.toml"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;

    fn probe(path: &str) -> Vec<Probe> {
        of(
            &json!({ "spec": { "containers": [{ "name": "api", "readinessProbe": { "httpGet": { "path": path, "port": 15821 } } }] } }),
        )
    }

    fn config(inbound: &str) -> Config {
        let text = format!(
            "version = 1\nserial = 1\n[identity]\nsource = \"self\"\nspiffe = \"spiffe://example.org/ns/a/sa/b\"\n[peers]\n\
             trust = \"roots\"\nroots = \"kbs:///a/b/c\"\n{inbound}"
        );
        config::parse(&text).unwrap()
    }

    const INBOUND: &str =
        "[[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\nallow = [\"spiffe://example.org/ns/a/sa/c\"]\n";

    #[test]
    fn a_probe_that_no_inbound_lists_is_named_with_the_key_to_add() {
        let probe = probe("/probe/8080/healthz").remove(0);
        assert_eq!(probe.asks(), "readinessProbe of container api asks for /healthz of port 8080");
        let lack = probe.lacks(&config(INBOUND)).unwrap();
        assert_eq!(lack, Lack::Path);
        assert!(probe.next(&lack).starts_with("add `probes = [\"/healthz\"]` to the `[[inbound]]` of port 8080"));
        let elsewhere = INBOUND.replace("8080", "9090");
        assert_eq!(probe.lacks(&config(&elsewhere)), Some(Lack::Inbound));
        assert_eq!(probe.lacks(&config(&format!("{INBOUND}probes = [\"/healthz/\"]\n"))), Some(Lack::Path));
        assert_eq!(probe.lacks(&config(&format!("{INBOUND}probes = [\"/\", \"/healthz\"]\n"))), None);
    }

    #[test]
    fn probes_that_do_not_go_through_the_sidecar_are_not_ours_to_judge() {
        for path in ["/startupz", "/healthz", "/probe"] {
            assert_eq!(probe(path), [], "{path}");
        }
        let own = json!({ "httpGet": { "path": "/probe/8080/x", "port": 8080 } });
        assert_eq!(of(&json!({ "spec": { "containers": [{ "name": "api", "readinessProbe": own }] } })), []);
    }

    #[test]
    fn what_the_sidecar_takes_for_nobodys_is_told_whatever_the_configuration() {
        for path in ["/probe/", "/probe/8080", "/probe/8080healthz", "/probe/http/x", "/probe/80800/x"] {
            let probe = probe(path).remove(0);
            assert_eq!(probe.lacks(&config(INBOUND)), Some(Lack::Form), "{path}");
            assert_eq!(probe.asks(), format!("readinessProbe of container api asks for {path} of the sidecar"));
            assert!(probe.next(&Lack::Form).starts_with("write the app's own path"), "{path}");
        }
    }

    #[test]
    fn a_path_that_no_configuration_takes_is_not_told_to_be_added_to_one() {
        for path in ["/healthz?ready=1", "/a%20b", "/a#b"] {
            let probe = probe(&format!("/probe/8080{path}")).remove(0);
            let lack = probe.lacks(&config(INBOUND)).unwrap();
            assert_eq!(lack, Lack::Never, "{path}");
            let next = probe.next(&lack);
            assert!(next.starts_with("remove the query") && !next.contains("add `probes"), "{next}");
        }
    }

    #[test]
    fn a_port_name_that_nobody_declares_is_told_as_that() {
        let probe = probe("/probe/0/").remove(0);
        let lack = probe.lacks(&config(INBOUND)).unwrap();
        assert!(probe.next(&lack).starts_with("declare the port"), "{}", probe.next(&lack));
    }
}

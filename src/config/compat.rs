//! The contract of kubectl-coco's sidecar: seven variables, in place of a configuration.
//!
//! In the image `countersign-compat` only. Its values come from the pod's manifest, so the control plane
//! chooses the resources, the ports, and with them who may call. That is the contract; which image runs
//! is what the agent policy pins.

use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::env::{self, LOG, LOG_FORMAT, Role};
use super::grammar::Local;
use super::problem::{Origin, Problem};
use super::resolve::{Inputs, resolve};
use super::roles::{Allow, Exposure, ForwardIdentity, Identity, IdentitySource, Inbound, Peers, Protocol, Roles};
use super::types::Config;
use crate::finding::printable;
use crate::formats::kbs_uri::KbsUri;

const CERTIFICATE: &str = "TLS_CERT_URI";
const KEY: &str = "TLS_KEY_URI";
const CA: &str = "CLIENT_CA_URI";
const LISTEN: &str = "HTTPS_PORT";
const APP: &str = "FORWARD_PORT";
const POD: &str = "POD_NAME";
const NAMESPACE: &str = "POD_NAMESPACE";

/// Where kubectl-coco's sidecar listens when nothing is said.
const DEFAULT_LISTEN: u16 = 8443;

/// How often the certificate is fetched again at least: twice in it, as `kbs-certificate` is.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long the app may take for the head of its answer: as `inbound.response_timeout` by default.
const RESPONSE: Duration = Duration::from_secs(60);

/// Longest name of a pod or a namespace: a DNS subdomain (RFC 1123).
const MAX_NAME: usize = 253;

/// What the variables say.
#[derive(Clone, Debug)]
pub struct Contract {
    /// As configuration, unmeasured, with the one listener that [`Allow::AnyOfTheRoots`] has.
    pub config: Config,
    /// `POD_NAME`, empty where it is not given.
    pub pod: String,
    /// `POD_NAMESPACE`, empty where it is not given.
    pub namespace: String,
}

/// Reads the variables, or says everything that is wrong. Of countersign's own only the log's count.
pub fn read(environment: &BTreeMap<OsString, OsString>) -> Result<Contract, Vec<Problem>> {
    let mut problems = Vec::new();
    let ours = env::collect(environment, &[], &mut problems);
    for (name, value) in ours.iter().filter(|(name, _)| ![LOG, LOG_FORMAT].contains(name)) {
        problems.push(value.problem(format!("has no meaning beside {CERTIFICATE}")).hint(format!(
            "remove `{name}`, or kubectl-coco's variables with `COUNTERSIGN_ROLE=sidecar` in their place"
        )));
    }
    let mut wrong = |name: &str, message: String, hint: &str| {
        problems.push(Problem::new(Origin::Env, name, message).hint(hint));
    };
    let text = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string_lossy());
    let mut resource = |name: &str| {
        let hint = "write `kbs:///repository/type/tag`";
        match text(name) {
            None => wrong(name, "is missing".to_owned(), hint),
            Some(value) => match KbsUri::parse(&value) {
                Ok(uri) => return Some(uri),
                Err(error) => wrong(name, error.to_string(), hint),
            },
        }
        None
    };
    let (certificate, key, roots) = (resource(CERTIFICATE), resource(KEY), resource(CA));
    let mut port = |name: &str, default: Option<u16>| match text(name).filter(|value| !value.is_empty()) {
        None if default.is_some() => default,
        None => {
            wrong(name, "is missing: there is no app to stand in front of".to_owned(), "write the port of the app");
            None
        }
        Some(value) => {
            let port = value.parse::<u16>().ok().filter(|port| *port != 0);
            if port.is_none() {
                wrong(name, "is not a port".to_owned(), "write a number from 1 to 65535");
            }
            port
        }
    };
    let (listen, app) = (port(LISTEN, Some(DEFAULT_LISTEN)), port(APP, None));
    if listen.is_some() && listen == app {
        wrong(APP, format!("is the port of {LISTEN} too"), "write the port of the app");
    }
    let name = |name: &str| text(name).map(|value| printable(&value, MAX_NAME)).unwrap_or_default();
    let (pod, namespace) = (name(POD), name(NAMESPACE));
    // The log's variables, checked as ever; all else has its default.
    let inputs = Inputs { document: None, env: environment, args: &[], role: Some(Role::Sidecar) };
    let base = match resolve(&inputs) {
        Ok(base) => Some(base),
        Err(more) if problems.is_empty() => return Err(more),
        Err(_) => None,
    };
    let (Some(mut config), Some(certificate), Some(key), Some(roots), Some(listen), Some(app), true) =
        (base, certificate, key, roots, listen, app, problems.is_empty())
    else {
        return Err(problems);
    };
    config.roles = Roles {
        identity: Some(Identity {
            source: IdentitySource::KbsCertificate { certificate, key },
            spiffe: None,
            dns: Vec::new(),
            lifetime: LIFETIME,
        }),
        peers: Some(Peers::Roots(roots)),
        inbound: vec![Inbound {
            listen: SocketAddr::from(([0; 16], listen)),
            app: Local::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, app))),
            protocol: Protocol::Http,
            allow: Allow::AnyOfTheRoots,
            access_log: false,
            // Its app is told nothing of who calls.
            forward_identity: ForwardIdentity::None,
            probes: Vec::new(),
            // Its apps listen where they please, and nothing in its manifests asks whether we are ready.
            exposure: Exposure::Warn,
            response_timeout: RESPONSE,
        }],
        ..Roles::default()
    };
    Ok(Contract { config, pod, namespace })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Provenance;

    const GOOD: [(&str, &str); 4] = [
        (CERTIFICATE, "kbs:///demo/sidecar-tls-app/server-cert"),
        (KEY, "kbs:///demo/sidecar-tls-app/server-key"),
        (CA, "kbs:///default/sidecar-tls/client-ca"),
        (APP, "8080"),
    ];

    fn with(change: &[(&str, Option<&str>)]) -> Result<Contract, Vec<String>> {
        let mut env: BTreeMap<OsString, OsString> = GOOD.iter().map(|(k, v)| (k.into(), v.into())).collect();
        for (name, value) in change {
            match value {
                Some(value) => env.insert(name.into(), value.into()),
                None => env.remove(std::ffi::OsStr::new(name)),
            };
        }
        read(&env).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_contract_is_one_listener_and_unmeasured() {
        let contract = with(&[(POD, Some("app-1")), (NAMESPACE, Some("demo"))]).unwrap();
        assert_eq!((contract.pod.as_str(), contract.namespace.as_str()), ("app-1", "demo"));
        assert_eq!(contract.config.provenance, Provenance::Unmeasured);
        assert!(contract.config.roles.is_kubectl_coco());
        assert_eq!(contract.config.roles.inbound[0].listen.port(), 8443);
        let other = with(&[(LISTEN, Some("9443")), (LOG, Some("debug"))]).unwrap();
        assert_eq!(other.config.roles.inbound[0].listen.port(), 9443);
        assert_eq!(other.config.log.level, tracing::Level::DEBUG);
    }

    #[test]
    fn whatever_is_missing_or_wrong_is_named_at_once() {
        let said =
            with(&[(CERTIFICATE, None), (KEY, Some("http://x/y")), (LISTEN, Some("0")), (APP, None)]).unwrap_err();
        assert_eq!(said.len(), 4, "{said:?}");
        for (name, said) in [CERTIFICATE, KEY, LISTEN, APP].iter().zip(&said) {
            assert!(said.starts_with(name), "{said}");
        }
        assert!(with(&[(APP, Some("8443"))]).unwrap_err()[0].contains("HTTPS_PORT too"));
        for port in ["", "65536", "-1", "80 ", "http"] {
            assert_eq!(with(&[(APP, Some(port))]).unwrap_err().len(), 1, "{port:?}");
        }
    }

    #[test]
    fn countersigns_own_variables_are_not_mixed_in() {
        for name in ["COUNTERSIGN_SECRETS", "COUNTERSIGN_WORKLOAD", "COUNTERSIGN_DEADLINE", "COUNTERSIGN_ALLOW"] {
            assert!(!with(&[(name, Some("10s"))]).unwrap_err().is_empty(), "{name}");
        }
        assert!(with(&[(LOG, Some("loud"))]).is_err());
    }

    #[test]
    fn no_document_can_let_anyone_in() {
        let text = "version = 1\n[identity]\nsource = \"self\"\nspiffe = \"spiffe://a/b\"\n[peers]\ntrust = \"roots\"\n\
                    roots = \"kbs:///a/b/c\"\n[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"\n";
        for allow in ["allow = [\"*\"]", "allow = []", "allow = \"any\"", "allow = [\"spiffe://*\"]", ""] {
            let parsed = crate::config::parse(&format!("{text}{allow}\n"));
            assert!(parsed.is_err_and(|problems| !problems.is_empty()), "{allow}");
        }
    }
}

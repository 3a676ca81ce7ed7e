//! THE table: what a pod of a tier gets. The policy of Kyverno and the rendering here are both made
//! of it, and `policies/test` holds one to the other.
//!
//! Rules of the table. It is idempotent: what is ours is taken out and put in again, what is the
//! app's is merged. A variable reads nothing that a mutation writes, since it is evaluated once.
//! Whole containers and volumes are set as lists, single fields are merged: a merge may not touch
//! lists that the schema calls atomic (`args`, `capabilities.drop`).

use serde_json::{Value, json};

use super::expr::{Expr, all, any, config_map, item, metadata, record, spec, text, value, variable, when};
use super::tier::{Port, Shape, Tier};
use crate::tool::HEALTH;
use crate::tool::initdata::pack::ANNOTATION;
use crate::tool::probes::PREFIX;

/// Our containers.
pub(super) const INIT: &str = "countersign-init";
pub(super) const SIDECAR: &str = "countersign";
/// The one container of an issuer's pod.
const ISSUER: &str = "countersign-issuer";

/// A container of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Init,
    Sidecar,
    Issuer,
}

/// Our volumes.
const SECRETS: &str = "countersign-secrets";
const INITDATA: &str = "countersign-initdata";
const CONFIGFS: &str = "countersign-configfs";

/// What names a pod's workload, where its controller does not.
const WORKLOAD: &str = "countersign.dev/workload";

/// What makes a pod an issuer's. It chooses a role as the container's env does, and no more: what an issuer
/// may sign with, and for whom, its initdata says.
pub(super) const ROLE: &str = "countersign.dev/role";

/// Where `examples/issuer` has `[issuer].listen`.
const ISSUE: u16 = 8444;

/// uid, gid and fsGroup where the app says none: `nonroot` of distroless images.
const NOBODY: u32 = 65532;

/// One thing that is done to the pod.
pub(super) struct Mutation {
    /// For the comment of the policy and for messages.
    pub(super) why: &'static str,
    /// Left out where this does not hold.
    pub(super) when: Option<Expr>,
    pub(super) change: Change,
}

impl Mutation {
    /// The same, for pods of which this holds alone.
    fn only(self, pods: Expr) -> Self {
        let when = match self.when {
            None => pods,
            Some(when) => all([pods, when]),
        };
        Self { when: Some(when), ..self }
    }
}

/// How it is done.
pub(super) enum Change {
    /// Fields merged by the schema's rules (an apply configuration).
    Merge(Expr),
    /// A field of the pod's `spec` put in place of what was there (a JSON patch).
    Spec(&'static str, Expr),
}

/// A variable of the table.
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) is: Expr,
}

/// The variables, each of which may use the ones before it.
pub(super) fn variables() -> Vec<Named> {
    let nothing = || Expr::Value(json!({}));
    let map_of = |object: Expr, field| object.get(&[field], nothing());
    let data_of = |name| when(variable(name).absent(), nothing(), map_of(variable(name), "data"));
    let named = |name, is| Named { name, is };
    vec![
        named("annotations", map_of(metadata(), "annotations")),
        named("labels", map_of(metadata(), "labels")),
        named("issuer", variable("annotations").key(ROLE, value("")).is("issuer")),
        named("owners", metadata().list("ownerReferences").filter("o", item("o").get(&["controller"], value(false)))),
        named("hash", text([value("-"), variable("labels").key("pod-template-hash", value(""))])),
        named("controller", controller()),
        named(
            "workload",
            variable("labels").key(WORKLOAD, variable("annotations").key(WORKLOAD, variable("controller"))),
        ),
        named("named", variable("annotations").key("coco.io/initdata-configmap", variable("workload"))),
        named("pointer", when(variable("named").empty(), Expr::Value(Value::Null), config_map(variable("named")))),
        named("held", data_of("pointer")),
        named("moved", variable("held").key("initdata-configmap", value(""))),
        named("target", when(variable("moved").empty(), variable("pointer"), config_map(variable("moved")))),
        named("data", data_of("target")),
        // `INITDATA` is ours and the validated pattern's, `data` the policy library's.
        named("initdata", variable("data").key("INITDATA", variable("data").key("data", value("")))),
        // A ConfigMap that does not exist keeps the pod from starting, and the event names it.
        named(
            "volume",
            when(
                variable("initdata").empty(),
                text([variable("named"), value("-initdata-missing")]),
                variable("target").field("metadata").field("name"),
            ),
        ),
    ]
}

/// The name of what made the pod, as its author knows it.
fn controller() -> Expr {
    let owner = || variable("owners").first();
    let name = || owner().field("name");
    // A CronJob names its Jobs by the minute. A Job may end in a date as well: then it has a pointer
    // of its own name.
    let scheduled = all([owner().field("kind").is("Job"), name().ends_in_digits(), config_map(name()).absent()]);
    let deployed = all([owner().field("kind").is("ReplicaSet"), name().ends_in(variable("hash"))]);
    when(
        variable("owners").empty(),
        metadata().get(&["name"], value("")),
        when(deployed, name().without(variable("hash")), when(scheduled, name().without(value("-00000000")), name())),
    )
}

/// The mutations, in order.
pub(super) fn mutations(tier: &Tier) -> Vec<Mutation> {
    let mut of_app = app_containers(tier);
    if tier.sidecar {
        // Before the ports: a probe may name one.
        of_app.extend(probes());
        of_app.push(app_ports(tier));
    }
    of_app.push(own_containers(tier));
    of_app.push(volumes(tier, &[memory(tier)], "Memory for the secrets, and the initdata to hold to the hardware."));
    let issuer = || variable("issuer");
    let mut mutations = vec![runtime(tier), annotation()];
    mutations.extend(of_app.into_iter().map(|mutation| mutation.only(issuer().not())));
    mutations.extend(of_issuer(tier).into_iter().map(|mutation| mutation.only(issuer())));
    mutations
}

fn runtime(tier: &Tier) -> Mutation {
    let group = spec().get(&["securityContext", "fsGroup"], value(NOBODY));
    Mutation {
        why: "The runtime class of the tier. The group that may read the secrets, where the app names none.",
        when: None,
        change: Change::Merge(record([(
            "spec",
            record([
                ("runtimeClassName", value(tier.runtime_class.as_str())),
                ("securityContext", record([("fsGroup", group)])),
            ]),
        )])),
    }
}

fn annotation() -> Mutation {
    Mutation {
        why: "The initdata that the hardware will commit to.",
        when: Some(variable("initdata").empty().not()),
        change: Change::Merge(record([(
            "metadata",
            record([("annotations", record([(ANNOTATION, variable("initdata"))]))]),
        )])),
    }
}

/// The app's containers: their image is pulled in the guest, and they see the secrets.
fn app_containers(tier: &Tier) -> Vec<Mutation> {
    let mount = || {
        record([("name", value(SECRETS)), ("mountPath", value("/run/countersign/secrets")), ("readOnly", value(true))])
    };
    let changed = |env: Option<Expr>| {
        let mut fields = vec![("name", item("c").field("name")), ("imagePullPolicy", value("Always"))];
        fields.extend(env.map(|env| ("env", env)));
        fields.push(("volumeMounts", Expr::List(vec![mount()])));
        record(fields)
    };
    let env = (tier.sidecar && !tier.app_env.is_empty()).then(|| {
        let ours: Vec<Expr> = tier
            .app_env
            .iter()
            .map(|(name, of)| record([("name", value(name.as_str())), ("value", value(of.as_str()))]))
            .collect();
        let set = item("c").list("env").exists("o", item("o").field("name").equals(item("e").field("name")));
        Expr::List(ours).filter("e", set.not())
    });
    let each = |path: &'static str, env| spec().list(path).filter("c", is_ours("c").not()).each("c", changed(env));
    vec![
        Mutation {
            why: "The app's containers: pulled in the guest and not taken from the node's cache; they see the secrets.",
            when: None,
            change: Change::Merge(record([("spec", record([("containers", each("containers", env))]))])),
        },
        Mutation {
            why: "The app's init containers, likewise.",
            when: Some(some_own_init()),
            change: Change::Merge(record([("spec", record([("initContainers", each("initContainers", None))]))])),
        },
    ]
}

/// Whether the app has init containers.
fn some_own_init() -> Expr {
    spec().list("initContainers").exists("c", is_ours("c").not())
}

fn is_ours(container: &'static str) -> Expr {
    any([item(container).field("name").is(INIT), item(container).field("name").is(SIDECAR)])
}

/// The kubelet cannot reach an app on loopback: it asks the sidecar, which asks the app.
fn probes() -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for containers in ["containers", "initContainers"] {
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let get = || item("c").field(probe).field("httpGet");
            let port = || get().field("port");
            let to_us = all([
                port().equals(value(HEALTH)),
                // As we write it, and nobody else.
                get().get(&["path"], value("/")).starts_with(PREFIX),
            ]);
            let theirs = all([is_ours("c").not(), item("c").has(&[probe, "httpGet"]), to_us.not()]);
            let numbered = item("c").list("ports").filter("p", item("p").get(&["name"], value("")).equals(port()));
            let number = when(
                port().textual(),
                when(numbered.clone().empty(), value(0), numbered.first().field("containerPort")),
                port(),
            );
            // The kubelet puts a `/` before a path that has none.
            let asked = || get().get(&["path"], value("/"));
            let asked = when(asked().starts_with("/"), asked(), text([value("/"), asked()]));
            let path = text([value(PREFIX), number.written(), asked]);
            let made = record([
                ("name", item("c").field("name")),
                (
                    probe,
                    record([("httpGet", record([("path", path), ("port", value(HEALTH)), ("scheme", value("HTTP"))]))]),
                ),
            ]);
            let list_of = || spec().list(containers);
            mutations.push(Mutation {
                why: "Probes of the app go through the sidecar's health port: the app listens on loopback only.",
                when: Some(list_of().exists("c", theirs.clone())),
                change: Change::Merge(record([(
                    "spec",
                    record([(containers, list_of().filter("c", theirs).each("c", made))]),
                )])),
            });
        }
    }
    mutations
}

/// A Service finds its port by name: the name goes to the sidecar.
fn app_ports(tier: &Tier) -> Mutation {
    let names =
        || any(tier.ports.iter().map(|port| item("p").get(&["name"], value("")).is(&port.name)).collect::<Vec<_>>());
    let ports = || item("c").list("ports");
    let renamed = record([
        ("containerPort", item("p").field("containerPort")),
        ("protocol", item("p").get(&["protocol"], value("TCP"))),
        ("name", text([value("app-"), item("p").field("containerPort").written()])),
    ]);
    let such = || ports().exists("p", names());
    Mutation {
        why: "The app's named ports that the sidecar takes over lose their name.",
        when: Some(spec().list("containers").exists("c", such())),
        change: Change::Merge(record([(
            "spec",
            record([(
                "containers",
                spec().list("containers").filter("c", such()).each(
                    "c",
                    record([
                        ("name", item("c").field("name")),
                        ("ports", ports().filter("p", names()).each("p", renamed)),
                    ]),
                ),
            )]),
        )])),
    }
}

/// Ours first: nothing of the app runs before the gate.
fn own_containers(tier: &Tier) -> Mutation {
    let mut ours = vec![container(tier, Own::Init)];
    if tier.sidecar {
        ours.push(container(tier, Own::Sidecar));
    }
    let theirs = spec().list("initContainers").filter("c", is_ours("c").not());
    Mutation {
        why: "Our containers, before the app's own init containers.",
        when: None,
        change: Change::Spec("initContainers", Expr::Chain(vec![Expr::List(ours), theirs])),
    }
}

/// An issuer's pod is ours alone: no gate before it, no app behind it, and its key is on no volume. What else
/// the author puts into it stays, and is refused by the validating policy: it could have the CA's key.
fn of_issuer(tier: &Tier) -> Vec<Mutation> {
    let theirs = spec().list("containers").filter("c", item("c").field("name").is(ISSUER).not());
    vec![
        Mutation {
            why: "An issuer asks nothing of the API server.",
            when: None,
            change: Change::Merge(record([("spec", record([("automountServiceAccountToken", value(false))]))])),
        },
        Mutation {
            why: "An issuer's container, whatever the author has written under its name.",
            when: None,
            change: Change::Spec(
                "containers",
                Expr::Chain(vec![Expr::List(vec![container(tier, Own::Issuer)]), theirs]),
            ),
        },
        volumes(tier, &[], "The initdata to hold to the hardware."),
    ]
}

fn container(tier: &Tier, own: Own) -> Expr {
    let (name, role, resources) = match own {
        Own::Init => (INIT, init_role(), &tier.init_resources),
        Own::Sidecar => (SIDECAR, value("sidecar"), &tier.sidecar_resources),
        Own::Issuer => (ISSUER, value("issuer"), &tier.issuer_resources),
    };
    let env = |name: &str, is: Expr| record([("name", value(name)), ("value", is)]);
    let mut mounts = vec![json!({ "name": INITDATA, "mountPath": "/run/countersign/initdata", "readOnly": true })];
    if own != Own::Issuer {
        mounts.insert(0, json!({ "name": SECRETS, "mountPath": "/run/countersign/secrets" }));
    }
    if tier.shape == Shape::Direct {
        mounts.push(json!({ "name": CONFIGFS, "mountPath": "/sys/kernel/config" }));
    }
    let mut fields = vec![
        ("name", value(name)),
        ("image", value(tier.image.as_str())),
        ("imagePullPolicy", value("Always")),
        ("terminationMessagePath", value("/dev/termination-log")),
        ("terminationMessagePolicy", value("File")),
        (
            "env",
            Expr::List(vec![
                env("COUNTERSIGN_ROLE", role),
                env("COUNTERSIGN_NAMESPACE", Expr::Namespace),
                env("COUNTERSIGN_WORKLOAD", variable("workload")),
            ]),
        ),
        ("resources", value(json!({ "requests": resources.requests, "limits": resources.limits }))),
        ("securityContext", security(tier.shape)),
        ("volumeMounts", value(mounts)),
    ];
    match own {
        Own::Init => {}
        Own::Sidecar => {
            fields.push(("restartPolicy", value("Always")));
            fields.push(("ports", sidecar_ports(tier)));
        }
        Own::Issuer => {
            let port = json!({ "name": "issue", "containerPort": ISSUE, "protocol": "TCP" });
            fields.push(("ports", value(vec![port])));
        }
    }
    if own != Own::Init {
        // A start may wait for a KBS that is not there yet: 5 minutes, as `deadline` of `init`.
        fields.push(("startupProbe", probe("/startupz", 1, 300)));
        fields.push(("readinessProbe", probe("/readyz", 5, 1)));
        fields.push(("livenessProbe", probe("/livez", 10, 3)));
    }
    record(fields)
}

/// `diagnose` where the pod asks for it.
fn init_role() -> Expr {
    let asked = variable("annotations").key("countersign.dev/diagnose", value("")).is("true");
    when(asked, value("diagnose"), value("init"))
}

/// By name, whether the app declares them or not: a Service that asks for the name finds us.
fn sidecar_ports(tier: &Tier) -> Expr {
    let port = |port: &Port| json!({ "name": port.name, "containerPort": port.port, "protocol": "TCP" });
    value(tier.ports.iter().map(port).collect::<Vec<Value>>())
}

fn probe(path: &str, period: u32, failures: u32) -> Expr {
    value(json!({
        "httpGet": { "path": path, "port": HEALTH, "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }))
}

/// As `PodSecurity`'s `restricted` asks. The shape `direct` needs uid 0, without any capability: only
/// root may use configfs.
fn security(shape: Shape) -> Expr {
    let mut fields = vec![
        ("allowPrivilegeEscalation", value(false)),
        ("capabilities", value(json!({ "drop": ["ALL"] }))),
        ("readOnlyRootFilesystem", value(true)),
        ("seccompProfile", value(json!({ "type": "RuntimeDefault" }))),
    ];
    match shape {
        Shape::Direct => {
            fields.extend([("runAsUser", value(0)), ("runAsGroup", value(0)), ("runAsNonRoot", value(false))]);
        }
        Shape::Rest => {
            fields.extend([
                ("runAsUser", as_the_app("runAsUser")),
                ("runAsGroup", as_the_app("runAsGroup")),
                ("runAsNonRoot", value(true)),
            ]);
        }
    }
    record(fields)
}

/// As the app's first container runs, but never as root.
fn as_the_app(field: &'static str) -> Expr {
    let of_pod = spec().get(&["securityContext", field], value(NOBODY));
    let of_app = spec().list("containers").first().get(&["securityContext", field], of_pod);
    when(of_app.clone().equals(value(0)), value(NOBODY), of_app)
}

fn memory(tier: &Tier) -> Value {
    json!({ "name": SECRETS, "emptyDir": { "medium": "Memory", "sizeLimit": tier.secrets_size } })
}

/// Those for `secrets`, and the initdata's.
fn volumes(tier: &Tier, secrets: &[Value], why: &'static str) -> Mutation {
    let mut names = vec![SECRETS, INITDATA];
    let mut ours: Vec<Expr> = secrets.iter().cloned().map(Expr::Value).collect();
    ours.push(record([("name", value(INITDATA)), ("configMap", record([("name", variable("volume"))]))]));
    if tier.shape == Shape::Direct {
        names.push(CONFIGFS);
        ours.push(value(
            json!({ "name": CONFIGFS, "hostPath": { "path": "/sys/kernel/config", "type": "Directory" } }),
        ));
    }
    let is_ours = any(names.into_iter().map(|name| item("v").field("name").is(name)).collect::<Vec<_>>());
    let theirs = spec().list("volumes").filter("v", is_ours.not());
    Mutation { why, when: None, change: Change::Spec("volumes", Expr::Chain(vec![theirs, Expr::List(ours)])) }
}

//! Pods as admission makes them, run under the kubelet's rules: `kubectl countersign render` of the
//! examples, the binary under test as the init container, and programs of the machine as the apps.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "pods/issuing.rs"]
mod issuing;

use std::path::{Path, PathBuf};
use std::process::Command;

use countersign::finding::Class;
use countersign::formats::initdata::Initdata;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::mesh::status;
use countersign_testbed::pki::Ca;
use countersign_testbed::pod::{Pod, Running};
use countersign_testbed::tee::{Guest, SnpGuest, hex};
use countersign_testbed::{Need, World, eventually};
use issuing::an_issuer_of_a_plain_manifest_certifies_another_pod;
use serde::Deserialize as _;
use serde_json::{Value, json};

countersign_testbed::main! {
    a_plain_deployment_has_its_secret_on_stock_kata [Pods],
    a_plain_deployment_is_attested_where_the_agent_answers [Pods],
    nothing_of_the_app_runs_before_the_gate [Pods],
    refused_attestation_never_starts_the_app_and_says_why [Pods],
    without_exec_logs_or_messages_the_exit_code_names_the_class [Pods],
    a_kbs_that_comes_back_lets_the_pod_start [Pods],
    a_job_ends [Pods],
    a_job_ends_although_a_native_sidecar_would_not [Pods],
    two_pods_talk_through_the_sidecar [Pods, Curl],
    two_pods_with_everything_demanded_talk_through_both_sidecars [Pods, Curl],
    an_issuer_of_a_plain_manifest_certifies_another_pod [Pods],
    an_app_on_every_address_makes_its_pod_not_ready [Pods],
    a_sidecar_that_does_not_start_up_holds_back_the_app [Pods],
    the_app_gets_sigterm_before_the_sidecar [Pods],
    ours_runs_without_privileges_on_a_read_only_root [Pods],
    one_memory_volume_is_shared_with_the_modes_of_kata [Pods],
    a_pod_without_its_configmap_does_not_start [Pods],
    a_pod_that_nothing_injected_gets_nothing [Pods],
    the_annotation_makes_the_init_container_diagnose [Pods],
    the_role_by_env_diagnoses_and_ends [Pods],
    at_a_guests_shell_diagnose_names_the_broken_link [Pods],
    init_that_fails_leaves_the_first_broken_link_in_its_message [Pods],
}

const IMAGE: &str =
    "registry.example/countersign@sha256:abababababababababababababababababababababababababababababababab";

const CONFIG: &str = "version = 1\nserial = 1\nfor = { namespace = \"payments\", workload = \"NAME\" }\ndeadline = \"20s\"\n\
                      [[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///payments/db/password\"\n";

const INITDATA: &str = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = \"\"\n\"cdh.toml\" = \"\"\n";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("app.yaml")
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml_serde::Deserializer::from_str(yaml).map(|one| Value::deserialize(one).unwrap()).collect()
}

fn tool(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-countersign")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A pod of an example as admission makes it, with its `ConfigMap`s.
struct Made {
    pod: Value,
    maps: Vec<Value>,
}

fn made(world: &World, name: &str, workload: &str, initdata: &str) -> Made {
    made_of(world, &std::fs::read_to_string(example(name)).unwrap(), workload, initdata)
}

/// The same for a manifest at hand.
fn made_of(world: &World, manifest: &str, workload: &str, initdata: &str) -> Made {
    let file = |name: &str, text: &str| {
        let path = world.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let initdata = file("initdata.toml", initdata);
    let maps = tool(&["initdata", "configmap", "--workload", workload, "--namespace", "payments", &initdata]);
    let given = file("maps.yaml", &maps);
    let app = file("app.yaml", manifest);
    let pods = tool(&["render", "-f", &app, "--tier", "dev", "--image", IMAGE, "--configmap", &given, "--pods"]);
    Made { pod: documents(&pods).remove(0), maps: documents(&maps) }
}

impl Made {
    /// The app's program. A readiness probe goes, since a shell answers none.
    fn app(mut self, script: &str) -> Self {
        let container = &mut self.pod["spec"]["containers"][0];
        container["command"] = json!(["/bin/sh", "-c", script]);
        container.as_object_mut().unwrap().remove("readinessProbe");
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.pod);
        self
    }

    fn pod(self, world: &World) -> Pod<'_> {
        let pod = Pod::new(world, self.pod, IMAGE).unwrap();
        self.maps.iter().fold(pod, Pod::config_map)
    }

    fn start(self, world: &World) -> Running<'_> {
        self.pod(world).start().unwrap()
    }
}

/// Kata as it comes: 8006 answers `/cdh/resource` and nothing else.
fn stock(workload: &str) -> GuestApi {
    GuestApi::healthy()
        .secret(&format!("default/countersign/payments.{workload}"), CONFIG.replace("NAME", workload))
        .secret("payments/db/password", "alpha")
}

fn world(api: GuestApi) -> World {
    World::private().unwrap().guest(api)
}

const READ: &str = "printf 'the app as %s reads ' $(id -u); cat \"$PASSWORD_FILE\"";

fn a_plain_deployment_has_its_secret_on_stock_kata() {
    let world = world(stock("api"));
    let mut pod = made(&world, "http-api", "api", INITDATA).app(READ).start(&world);
    pod.complete();
    assert_eq!(pod.end_of("countersign-init").code, Some(0), "{:?}", pod.ended);
    assert!(pod.end_of("api").output.contains("the app as 65532 reads alpha"), "{:?}", pod.ended);
    let message: Value = serde_json::from_str(pod.end_of("countersign-init").message.trim()).unwrap();
    assert_eq!(message["class"], "ok");
    assert!(!pod.end_of("countersign-init").message.contains("alpha"));
    // Another uid than ours, as a second container may have: the group is what counts.
    let made = made(&world, "http-api", "api", INITDATA).app(READ);
    drop(pod);
    let world = self::world(stock("api"));
    let other = made.change(|pod| pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1234));
    let mut pod = other.start(&world);
    pod.complete();
    assert!(pod.end_of("api").output.contains("the app as 1234 reads alpha"), "{:?}", pod.ended);
}

/// An initdata that names the KBS of this CA, with a generated agent policy.
fn initdata_of(ca: &Ca) -> String {
    format!(
        "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \
         \"https://127.0.0.1:8443\"\ncert = \"\"\"\n{}\"\"\"\n'''\n\"cdh.toml\" = \"\"\n\"policy.rego\" = '''\npackage \
         agent_policy\ndefault CreateContainerRequest := false\npolicy_data := {{\"containers\": [{{}}]}}\n'''\n",
        ca.pem(),
    )
}

/// A guest whose agent attests, with a KBS; the pod's initdata holds its configuration.
fn attested(policy: Policy) -> (World, String) {
    let world = World::private().unwrap();
    let ca = Ca::new("the KBS's");
    let kbs = Kbs::healthy().policy(policy).resource("payments/db/password", "alpha");
    let kbs = world.kbs("127.0.0.1:8443", kbs.tls(ca.leaf(&["127.0.0.1"])));
    let initdata = initdata_of(&ca) + &format!("\"countersign.toml\" = '''\n{}'''\n", CONFIG.replace("NAME", "api"));
    let digest = Initdata::parse(initdata.as_bytes()).unwrap().digest();
    let guest = Guest::Snp(SnpGuest::genoa().initdata(&digest));
    let world = world.guest(GuestApi::healthy().attester(guest).kbs(&kbs).initdata(&initdata));
    (world, initdata)
}

fn a_plain_deployment_is_attested_where_the_agent_answers() {
    let (world, initdata) = attested(Policy::AllowAll);
    let mut pod = made(&world, "http-api", "api", &initdata).app(READ).start(&world);
    pod.complete();
    let init = pod.end_of("countersign-init");
    assert_eq!(init.code, Some(0), "{}", init.output);
    assert!(init.output.contains("guest-attested"), "{}", init.output);
    assert!(pod.end_of("api").output.contains("reads alpha"), "{:?}", pod.ended);
}

fn nothing_of_the_app_runs_before_the_gate() {
    let world = world(stock("api").answer("payments/db/password", Answer::Refused));
    let made = made(&world, "http-api", "api", INITDATA).app("echo ran").change(|pod| {
        let own = json!({ "name": "own", "image": "app", "command": ["/bin/sh", "-c", "echo ran"] });
        pod["spec"]["initContainers"].as_array_mut().unwrap().push(own);
        pod["spec"]["restartPolicy"] = json!("Never");
    });
    let pod = made.start(&world);
    assert_eq!(pod.phase, "Failed");
    let names: Vec<&str> = pod.ended.iter().map(|ended| ended.name.as_str()).collect();
    assert_eq!(names, ["countersign-init"]);
}

fn refused_attestation_never_starts_the_app_and_says_why() {
    let (world, initdata) = attested(Policy::DenyAll);
    let made = made(&world, "http-api", "api", &initdata).app(READ);
    let pod = made.change(|pod| pod["spec"]["restartPolicy"] = json!("Never")).start(&world);
    assert_eq!(pod.phase, "Failed");
    assert_eq!(pod.ended.len(), 1, "the app never ran");
    let init = pod.end_of("countersign-init");
    assert_eq!(init.code, Some(i32::from(Class::PolicyDenied.code())), "{}", init.output);
    let message: Value = serde_json::from_str(init.message.trim()).unwrap();
    assert_eq!(message["code"], 77);
    for field in ["saw", "why", "next", "who"] {
        assert!(message[field].as_str().is_some_and(|text| !text.is_empty()), "{message:#}");
    }
}

fn without_exec_logs_or_messages_the_exit_code_names_the_class() {
    for (api, class) in [
        (GuestApi::healthy().feature_off(), Class::GuestApi),
        (stock("api").answer("payments/db/password", Answer::LoginPage200), Class::GuestApi),
        (stock("other"), Class::Backend),
    ] {
        let world = world(api);
        let made = made(&world, "http-api", "api", INITDATA).app(READ);
        let pod = made.change(|pod| pod["spec"]["restartPolicy"] = json!("Never")).pod(&world);
        let pod = pod.without_messages().start().unwrap();
        assert_eq!(pod.phase, "Failed");
        let init = pod.end_of("countersign-init");
        assert_eq!(init.code, Some(i32::from(class.code())), "{}", init.output);
        assert!(init.message.is_empty());
    }
}

fn a_kbs_that_comes_back_lets_the_pod_start() {
    // CDH fails for more tries than one start of `init` makes: the kubelet starts it again.
    let world = world(stock("api").fails_then(6, "payments/db/password", "alpha"));
    let mut pod = made(&world, "http-api", "api", INITDATA).app(READ).start(&world);
    assert_eq!(pod.phase, "Running");
    pod.complete();
    let codes: Vec<Option<i32>> = pod.ended.iter().map(|ended| ended.code).collect();
    assert_eq!(codes.first(), Some(&Some(i32::from(Class::Backend.code()))), "{:?}", pod.ended);
    assert_eq!(codes.iter().rev().take(2).collect::<Vec<_>>(), [&Some(0), &Some(0)]);
    assert!(pod.end_of("api").output.contains("reads alpha"), "{:?}", pod.ended);
}

fn a_job_ends() {
    let world = world(stock("settle"));
    let mut pod = made(&world, "job", "settle", INITDATA).app(READ).start(&world);
    pod.complete();
    assert_eq!(pod.phase, "Succeeded", "{:?}", pod.ended);
    assert!(pod.end_of("settle").output.contains("reads alpha"));
}

/// Answers 200 to everything, until it is told to stop; says when.
const SERVER: &str = "use IO::Socket::INET; $SIG{TERM} = sub { print \"told to stop\\n\"; exit 0 };
    my $s = IO::Socket::INET->new(Listen => 5, LocalPort => 15821, ReuseAddr => 1) or die;
    while (my $c = $s->accept) { while (<$c>) { last if /^\\r?$/ } print $c \"HTTP/1.1 STATUS x\\r\\n\\r\\n\"; close $c }";

fn with_sidecar(made: Made, status: &str, failures: u32) -> Made {
    made.change(|pod| {
        let sidecar = json!({
            "name": "stand-in", "image": "app", "restartPolicy": "Always",
            "command": ["/usr/bin/perl", "-e", SERVER.replace("STATUS", status)],
            "startupProbe": { "httpGet": { "path": "/startupz", "port": 15821 }, "periodSeconds": 1, "failureThreshold": failures },
        });
        let containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
        containers.retain(|container| container["name"] != "countersign");
        containers.push(sidecar);
    })
}

fn a_job_ends_although_a_native_sidecar_would_not() {
    let world = world(stock("settle"));
    let mut pod = made(&world, "job", "settle", INITDATA).app(READ).start(&world);
    pod.complete();
    assert_eq!(pod.phase, "Succeeded", "{:?}", pod.ended);
    let order: Vec<&str> = pod.ended.iter().map(|ended| ended.name.as_str()).collect();
    assert_eq!(order, ["countersign-init", "settle", "countersign"]);
    let sidecar = pod.end_of("countersign");
    assert_eq!(sidecar.code, Some(0), "{}", sidecar.output);
    assert!(sidecar.output.contains("nobody is served"), "{}", sidecar.output);
}

/// A mesh, and a guest whose KBS has what both sides of it need.
fn meshed() -> World {
    let ca = Ca::new("mesh");
    let client = ca.member("spiffe://example.org/ns/payments/sa/settle");
    let server = "version = 1\nserial = 1\nfor = { namespace = \"payments\", workload = \"api\" }\n\
         [[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///payments/db/password\"\n\
         [identity]\nsource = \"self\"\nspiffe = \"spiffe://example.org/ns/payments/sa/api\"\n\
         [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\nprobes = [\"/healthz\"]\n\
         allow = [\"spiffe://example.org/ns/payments/sa/settle\"]\n";
    let caller = "version = 1\nserial = 1\nfor = { namespace = \"payments\", workload = \"settle\" }\n\
         [[secrets.file]]\npath = \"cert\"\nfrom = \"kbs:///payments/mesh/cert\"\n\
         [[secrets.file]]\npath = \"key\"\nfrom = \"kbs:///payments/mesh/key\"\n";
    world(
        GuestApi::healthy()
            .secret("default/countersign/payments.api", server)
            .secret("default/countersign/payments.settle", caller)
            .secret("payments/db/password", "alpha")
            .secret("payments/mesh/roots", ca.pem())
            .secret("payments/mesh/cert", client.pem())
            .secret("payments/mesh/key", client.key_pem()),
    )
}

/// Answers on loopback with who calls, as it is told.
const APP: &str = "use IO::Socket::INET; $| = 1; $SIG{TERM} = sub { exit 0 };
    my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 8080, ReuseAddr => 1) or die;
    while (my $c = $s->accept) { my $who = 'nobody';
        while (<$c>) { last if /^\\r?$/; $who = $1 if /^x-forwarded-client-cert: (.*)\\r/i }
        print $c \"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: \".length($who).\"\\r\\n\\r\\n$who\"; close $c }";

fn two_pods_talk_through_the_sidecar() {
    let world = meshed();
    let made_api = made(&world, "http-api", "api", INITDATA).change(|pod| {
        pod["spec"]["containers"][0]["command"] = json!(["/usr/bin/perl", "-e", APP]);
    });
    let mut api = made_api.start(&world);
    // The app's own probe, by the sidecar's port.
    api.ready().unwrap();
    let call = "cd /run/countersign/secrets; curl -sSk --cert cert --key key https://127.0.0.1:8443/pay; echo; \
                curl -sSk https://127.0.0.1:8443/pay || echo refused";
    // The two share one network here, and there is one port for kubelet.
    let settle = made(&world, "job", "settle", INITDATA).app(call).change(|pod| {
        let containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
        containers.retain(|container| container["name"] != "countersign");
    });
    let mut settle = settle.start(&world);
    settle.complete();
    let said = &settle.end_of("settle").output;
    assert!(said.contains("By=spiffe://example.org/ns/payments/sa/api;Hash="), "{said}");
    assert!(said.contains(";URI=spiffe://example.org/ns/payments/sa/settle"), "{said}");
    assert!(said.contains("refused"), "{said}");
    api.delete();
    let order: Vec<&str> = api.ended.iter().skip(1).map(|ended| ended.name.as_str()).collect();
    assert_eq!(order, ["api", "countersign"]);
    let sidecar = api.end_of("countersign");
    assert_eq!(sidecar.code, Some(0), "{}", sidecar.output);
    assert!(sidecar.output.contains("reason=\"no-certificate\""), "{}", sidecar.output);
    // In a container, as everywhere: what the kernel has holds, and is said.
    for ours in [sidecar, api.end_of("countersign-init")] {
        let whole = ours.output.contains("landlock=\"ABI ") && ours.output.contains("seccomp=\"");
        assert!(whole || Need::Landlock.check().is_err(), "{}", ours.output);
    }
}

/// A guest whose agent attests, and a KBS that delivers both workloads' configuration: each must show
/// evidence to the other.
fn proven() -> (World, String) {
    let world = World::private().unwrap();
    let ca = Ca::new("the KBS's");
    let initdata = initdata_of(&ca);
    let digest = Initdata::parse(initdata.as_bytes()).unwrap().digest();
    let guest = Guest::Snp(SnpGuest::genoa().initdata(&digest));
    let (api, settle) = ("spiffe://example.org/ns/payments/sa/api", "spiffe://example.org/ns/payments/sa/settle");
    let config = |workload: &str, id: &str, rest: &str| {
        format!(
            "{}[identity]\nsource = \"self\"\nspiffe = \"{id}\"\n[peers]\ntrust = \"evidence\"\n[peers.evidence]\n\
             token_roots = \"kbs:///payments/trustee/token-ca\"\npins = \"kbs:///payments/mesh/pins\"\nmax_age = \"1h\"\n{rest}",
            CONFIG.replace("NAME", workload)
        )
    };
    let inbound = format!(
        "[[inbound]]\nlisten = \"[::]:9443\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nprobes = [\"/healthz\"]\nallow = [\"{settle}\"]\n"
    );
    // The two share one network here, and there is one port for kubelet.
    let outbound = format!(
        "[health]\nlisten = \"[::]:15831\"\n[[outbound]]\nlisten = \"127.0.0.1:15432\"\nto = \"127.0.0.1:9443\"\npeer = \"{api}\"\n"
    );
    let pin = json!({ "init_data": [hex(&digest)], "hardware": "any" });
    let pins = json!({ "serial": 1, "policy_ids": ["default"], "peers": { api: pin, settle: pin } });
    let kbs = Kbs::healthy()
        .tls(ca.leaf(&["127.0.0.1"]))
        .policy(Policy::Affirming)
        .reference(&guest)
        .resource("payments/db/password", "alpha")
        .resource("payments/mesh/pins", pins.to_string())
        .resource("default/countersign/payments.api", config("api", api, &inbound))
        .resource("default/countersign/payments.settle", config("settle", settle, &outbound));
    let kbs = world.kbs("127.0.0.1:8443", kbs);
    kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
    let world = world.guest(GuestApi::healthy().attester(guest).kbs(&kbs).initdata(&initdata));
    (world, initdata)
}

/// The sidecar's probes of the second pod of a network.
fn second_health(pod: &mut Value) {
    let containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
    let sidecar = containers.iter_mut().find(|container| container["name"] == "countersign").unwrap();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        sidecar[probe]["httpGet"]["port"] = json!(15831);
    }
}

fn two_pods_with_everything_demanded_talk_through_both_sidecars() {
    let (world, initdata) = proven();
    let app = |pod: &mut Value| pod["spec"]["containers"][0]["command"] = json!(["/usr/bin/perl", "-e", APP]);
    let mut api = made(&world, "http-api", "api", &initdata).change(app).start(&world);
    api.ready().unwrap();
    let call = "curl -sS http://127.0.0.1:15432/pay; echo; curl -sSk https://127.0.0.1:9443/pay || echo refused";
    let settle = made(&world, "job", "settle", &initdata).app(call).change(second_health);
    let mut settle = settle.start(&world);
    settle.complete();
    let said = &settle.end_of("settle").output;
    // Bytes are carried as they are: the app is told nothing, and answers.
    assert!(said.contains("nobody"), "{said} {:?}", settle.ended);
    assert!(said.contains("refused"), "{said}");
    api.delete();
    let sidecar = api.end_of("countersign");
    assert_eq!(sidecar.code, Some(0), "{}", sidecar.output);
    assert!(sidecar.output.contains("reason=\"no-certificate\""), "{}", sidecar.output);
}

fn an_app_on_every_address_makes_its_pod_not_ready() {
    let world = meshed();
    let made = made(&world, "http-api", "api", INITDATA).change(|pod| {
        let exposed = APP.replace("'127.0.0.1'", "$ENV{HOST}");
        pod["spec"]["containers"][0]["command"] = json!(["/usr/bin/perl", "-e", exposed]);
    });
    let mut api = made.start(&world);
    eventually("the pod is not ready", || status(&world, "127.0.0.1:15821", "/readyz") == 523);
    api.delete();
    let said = &api.end_of("countersign").output;
    assert!(said.contains("app-exposed") && said.contains("HOST=127.0.0.1"), "{said}");
}

fn a_sidecar_that_does_not_start_up_holds_back_the_app() {
    let world = world(stock("settle"));
    let made =
        with_sidecar(made(&world, "job", "settle", INITDATA).app("touch /run/countersign/secrets/ran"), "519", 1);
    let error = made.pod(&world).start().err().unwrap().to_string();
    // The status is the class: 500 + (79 - 60).
    assert!(error.contains("/startupz HTTP probe failed with statuscode: 519"), "{error}");
}

fn the_app_gets_sigterm_before_the_sidecar() {
    let world = world(stock("api"));
    let app = "trap 'echo told to stop; exit 0' TERM; while :; do sleep 0.05; done";
    let mut pod = with_sidecar(made(&world, "http-api", "api", INITDATA).app(app), "200", 30).start(&world);
    pod.ready().unwrap();
    pod.delete();
    let order: Vec<&str> = pod.ended.iter().skip(1).map(|ended| ended.name.as_str()).collect();
    assert_eq!(order, ["api", "stand-in"]);
    assert!(pod.end_of("stand-in").output.contains("told to stop"));
}

fn ours_runs_without_privileges_on_a_read_only_root() {
    let world = world(stock("api"));
    // The same container, with a shell in place of ours: what it sees.
    let script = "id -u; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; touch /x 2>&1; ls /run/countersign/initdata";
    let made = made(&world, "http-api", "api", INITDATA).app("true").change(|pod| {
        let ours = &mut pod["spec"]["initContainers"][0];
        ours["image"] = json!("app");
        ours["command"] = json!(["/bin/sh", "-c", script]);
    });
    let pod = made.start(&world);
    let said = &pod.end_of("countersign-init").output;
    for seen in [
        "65532\n65532\n",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Read-only file system",
        "INITDATA",
        "initdata.toml",
    ] {
        assert!(said.contains(seen), "{seen}: {said}");
    }
}

fn one_memory_volume_is_shared_with_the_modes_of_kata() {
    let world = world(stock("api"));
    let look = "stat -f -c %T /run/countersign/secrets; stat -c '%a %u %g' /run/countersign/secrets; ls -a /run/countersign/secrets; touch /run/countersign/secrets/x 2>&1";
    let mut pod = made(&world, "http-api", "api", INITDATA).app(look).start(&world);
    pod.complete();
    let said = &pod.end_of("api").output;
    for seen in ["tmpfs", "3777 0 65532", "..countersign", "Read-only file system"] {
        assert!(said.contains(seen), "{seen}: {said}");
    }
}

fn a_pod_without_its_configmap_does_not_start() {
    let world = world(stock("api"));
    let app = example("http-api").display().to_string();
    let pods = tool(&["render", "-f", &app, "--tier", "dev", "--image", IMAGE, "--pods"]);
    let error = Pod::new(&world, documents(&pods).remove(0), IMAGE).unwrap().start().err().unwrap().to_string();
    assert_eq!(error, "configmap \"api-initdata-missing\" not found");
}

fn a_pod_that_nothing_injected_gets_nothing() {
    // A guest that was started without initdata: its data hub knows no KBS.
    let world = world(GuestApi::healthy());
    let app = example("http-api").display().to_string();
    let plain = documents(&tool(&["render", "-f", &app, "--tier", "dev", "--before"])).remove(0);
    let ask = "exec 3<>/dev/tcp/127.0.0.1/8006; printf 'GET /cdh/resource/payments/db/password HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3; ls /run";
    let made = Made { pod: plain, maps: Vec::new() }.app("");
    let made = made.change(|pod| pod["spec"]["containers"][0]["command"] = json!(["/bin/bash", "-c", ask]));
    let mut pod = made.start(&world);
    pod.complete();
    let said = &pod.end_of("api").output;
    assert!(said.contains(" 500 ") && !said.contains("countersign/secrets"), "{said}");
}

/// The pod's message of the init container, and how it ended.
fn init_of(pod: &Running<'_>) -> (Option<i32>, Value, String) {
    let init = pod.end_of("countersign-init");
    (init.code, serde_json::from_str(init.message.trim()).unwrap_or(Value::Null), init.output.clone())
}

fn the_annotation_makes_the_init_container_diagnose() {
    let world = world(stock("api").answer("payments/db/password", Answer::Empty));
    let plain = std::fs::read_to_string(example("http-api")).unwrap();
    let (with, without) = (
        "metadata:\n      annotations: { countersign.dev/diagnose: \"true\" }\n      labels",
        "metadata:\n      labels",
    );
    let made = made_of(&world, &plain.replacen(without, with, 1), "api", INITDATA).app(READ);
    let pod = made.change(|pod| pod["spec"]["restartPolicy"] = json!("Never")).start(&world);
    assert_eq!(pod.phase, "Failed");
    let (code, message, output) = init_of(&pod);
    assert_eq!(code, Some(i32::from(Class::Content.code())), "{output}");
    assert_eq!((&message["role"], &message["broken"]), (&json!("diagnose"), &json!("secrets.file")), "{message:#}");
    assert!(output.contains("FAIL  secrets.file") && output.contains("SKIP  guest.configfs"), "{output}");
    assert!(output.contains("broken: secrets.file (content-refused, exit 65); to act: app security"), "{output}");
}

fn the_role_by_env_diagnoses_and_ends() {
    let world = world(stock("api"));
    let made = made(&world, "http-api", "api", INITDATA).app("echo the app ran");
    let mut pod = made
        .change(|pod| {
            let env = pod["spec"]["initContainers"][0]["env"].as_array_mut().unwrap();
            let role = env.iter_mut().find(|one| one["name"] == "COUNTERSIGN_ROLE").unwrap();
            role["value"] = json!("diagnose");
        })
        .start(&world);
    pod.complete();
    let (code, message, output) = init_of(&pod);
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(message["class"], "ok", "{message:#}");
    assert!(output.contains("PASS  secrets.file") && output.contains("nothing is broken"), "{output}");
    assert!(pod.end_of("api").output.contains("the app ran"));
}

fn at_a_guests_shell_diagnose_names_the_broken_link() {
    let world = world(stock("api").answer("payments/db/password", Answer::LoginPage200));
    let made = made(&world, "http-api", "api", INITDATA).app("true").change(|pod| {
        let ours = &mut pod["spec"]["initContainers"][0];
        ours["command"] = json!(["/bin/sh", "-c", "/countersign diagnose --skip sidecar; echo it ended with $?"]);
        // The sidecar would not start up in this world.
        pod["spec"]["initContainers"].as_array_mut().unwrap().truncate(1);
    });
    let pod = made.start(&world);
    let (_, message, output) = init_of(&pod);
    assert!(output.contains("broken: secrets.file (guest-api, exit 72); to act: app developer"), "{output}");
    assert!(output.contains("it ended with 72"), "{output}");
    assert_eq!(message, Value::Null, "the message is the container's own, not that of whoever is at its shell");
}

fn init_that_fails_leaves_the_first_broken_link_in_its_message() {
    let world = world(stock("api").path("/info", [Answer::LoginPage200]));
    let made = made(&world, "http-api", "api", INITDATA).app(READ);
    let pod = made.change(|pod| pod["spec"]["restartPolicy"] = json!("Never")).start(&world);
    let (code, message, output) = init_of(&pod);
    assert_eq!(code, Some(i32::from(Class::GuestApi.code())), "{output}");
    assert!(message["broken"].as_str().unwrap().starts_with("guest.api: "), "{message:#}");
    assert_eq!(message["role"], "init");
}

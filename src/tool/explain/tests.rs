//! Every row by its own phrase, and what must not be taken for one.

use super::*;

fn ids(text: &str) -> Vec<String> {
    causes(text).into_iter().map(|cause| cause.id).collect()
}

#[track_caller]
fn only(text: &str, id: &str) -> Cause {
    let found = causes(text);
    assert_eq!(found.iter().map(|cause| cause.id.as_str()).collect::<Vec<_>>(), [id], "{text}");
    found.into_iter().next().unwrap()
}

#[test]
fn known_messages_are_named() {
    for (text, id) in [
        (
            "Failed to create pod sandbox: annotation io.katacontainers.config.hypervisor.cc_init_data is not enabled",
            "shim-initdata-not-enabled",
        ),
        ("annotation io.katacontainers.config.hypervisor.kernel_params is not enabled", "shim-annotation-not-enabled"),
        ("initdata create gzip reader error: gzip: invalid header", "initdata-not-gzip"),
        ("uncompressing initdata with gzip error: unexpected EOF", "initdata-gzip-broken"),
        ("parsing initdata annotation failed: toml: line 1", "initdata-not-toml"),
        ("unsupported version: 0.2.0, expected: 0.1.0", "initdata-version"),
        ("kata-agent: initdata: unsupported algorithm: sha-256", "initdata-algorithm"),
        ("WARN If initdata check failed, AA will failed to launch", "initdata-refused-by-agent"),
        ("rpc error: CreateContainerRequest is blocked by policy: \"x\"", "agent-policy-container"),
        ("cannot exec: ExecProcessRequest is blocked by policy:", "agent-policy-exec"),
        ("ReadStreamRequest is blocked by policy:", "agent-policy-logs"),
        ("SetPolicyRequest is blocked by policy:", "agent-policy-other"),
        (
            "failed to create shim task: failed to mount \"/run/kata-containers/shared/containers/ab/rootfs\" to \"x\", with error: ENOENT: No such file or directory",
            "image-cached-on-host",
        ),
        ("[CDH] [ERROR]: Image Pull error: Failed to pull image x: Failed to unpack layer", "image-does-not-fit"),
        ("[CDH] [ERROR]: Image Pull error: Image policy rejected: Denied by policy", "image-policy-denied"),
        (
            "error unpacking image: failed to extract layer sha256:ab: failed to get reader from content store: content digest sha256:cd: not found",
            "image-layers-discarded",
        ),
        ("timed out connecting to vsock 1234:1024", "vm-not-up"),
        (
            "[adaptor/proxy] Retrying failed agent proxy connection: dial tcp 10.0.0.1:15150: connect: connection refused",
            "peer-pod-unreachable",
        ),
        ("dial tcp 127.0.0.1:8006: connect: connection refused", "guest-api-refused"),
        (
            "curl: (7) Failed to connect to 127.0.0.1 port 8006 after 0 ms: Couldn't connect to server",
            "guest-api-refused",
        ),
        ("GET http://10.1.1.1:8006/cdh/resource/a/b/c 403 Forbidden", "guest-api-not-loopback"),
        ("404 Attestation Feature Not Enabled", "guest-api-attestation-off"),
        ("404 Resource Feature Not Enabled", "guest-api-resource-off"),
        ("http://127.0.0.1:8006/x: 404 URL NOT FOUND", "guest-api-path"),
        (
            "rpc status: Status { code: INTERNAL, message: \"[CDH] [ERROR]: Get Resource failed\", details: [] }",
            "cdh-get-resource",
        ),
        ("[ERROR:attestation-agent] AA-KBC get token failed", "agent-no-token"),
        ("[ERROR:attestation-agent] AA-KBC get evidence failed", "agent-no-evidence"),
        ("get composite evidence failed", "agent-no-evidence"),
        ("RCAR handshake failed: Unable to get token. RCAR handshake retried 5 times. Final error:", "rcar-failed"),
        ("KBS attest unauthorized, Error Info: ErrorInformation", "rcar-unauthorized"),
        ("KBS resource not found", "kbs-resource-not-found"),
        ("KBS internal error", "kbs-internal-error"),
        ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "server-certificate-is-a-ca"),
        ("invalid peer certificate: Other(CaUsedAsEndEntity)", "server-certificate-is-a-ca"),
        (
            "error sending request for url (https://trustee:8080/kbs/v0/auth): error trying to connect: invalid peer certificate: Other(CaUsedAsEndEntity)",
            "kbs-certificate-is-a-ca",
        ),
        ("attestation-agent: invalid peer certificate: UnknownIssuer", "server-certificate-unknown-issuer"),
        (
            r#"{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied by policy"}"#,
            "kbs-PolicyDeny",
        ),
        (
            r#"{"type":"https://github.com/confidential-containers/kbs/errors/PluginInternalError","detail":"Plugin internal error"}"#,
            "kbs-PluginInternalError",
        ),
        (
            r#""https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.1.0""#,
            "kbs-protocol-version",
        ),
        ("password is sealed.eyJhbGciOiJFUzI1NiJ9.eyJ2ZXJzaW9uIjoiMC4xLjAifQ.c2ln", "sealed-residue"),
        ("sealed.fakejwsheader.eyJ2ZXJzaW9uIjoiMC4xLjAifQ.fakesignature", "sealed-residue"),
        (
            "thread 'main' panicked at src/libs/kata-types/src/annotations/mod.rs:913:60: called `Result::unwrap()` on an `Err` value",
            "initdata-panics-the-runtime",
        ),
        ("curl -d x http://127.0.0.1:8006/cdh/resource/a/b/c: 405 Method Not Allowed", "guest-api-method"),
        ("http://127.0.0.1:8006/aa/token: 400 BAD REQUEST", "guest-api-parameters"),
        (
            "[CDH] [ERROR]: Image Pull error: Failed to pull image x: Failed to decode layer data stream",
            "image-does-not-fit",
        ),
        ("attestation-agent: request unauthorized", "rcar-not-authorized"),
        ("kbs_protocol: http request failed", "kbs-not-reached"),
        ("attestation-agent: invalid peer certificate: Expired", "server-certificate-expired"),
        (
            "invalid peer certificate: certificate expired: verification time 3 (UNIX), but, for the KBS",
            "server-certificate-expired",
        ),
        ("https://kbs:8443: self-signed certificate in certificate chain", "server-certificate-self-signed"),
        ("attestation-agent: invalid peer certificate: NotValidForName", "server-certificate-name"),
        (
            "MountVolume.SetUp failed for volume \"i\" : configmap \"api-initdata-missing\" not found",
            "initdata-configmap-missing",
        ),
    ] {
        only(text, id);
    }
}

#[test]
fn what_only_looks_alike_is_not_known() {
    for text in [
        "",
        "Started container api",
        "annotation prometheus.io/scrape is not enabled",
        "initdata packed",
        "unsupported version: 2, expected: 3",
        "ssh: unsupported algorithm: ssh-dss",
        "the request is blocked by policy of the firewall",
        "failed to mount \"/run/other/rootfs\": ENOENT",
        "failed to mount \"/run/kata-containers/shared/containers/ab/rootfs\": EBUSY",
        "Failed to pull image \"x\": not found",
        "timed out connecting to vsock 3:2048",
        "dial tcp 10.0.0.1:8006: connect: connection refused",
        "dial tcp 127.0.0.1:80061: connect: no route to host",
        "dial tcp 127.0.0.1:9000: connect: connection refused",
        "403 Forbidden",
        "404 page not found: URL NOT FOUND",
        "context deadline exceeded",
        "request unauthorized",
        "http request failed",
        "invalid peer certificate: Expired",
        "the registry has a self-signed certificate in certificate chain",
        "nginx: 405 Method Not Allowed\ncurl http://127.0.0.1:8006/x",
        "flask: 400 BAD REQUEST\ncurl http://127.0.0.1:8006/aa/token",
        "app: http request failed\nattestation-agent started",
        "app: request unauthorized\nattestation-agent started",
        "thread 'main' panicked at src/annotations/mod.rs:9:1",
        "invalid peer certificate: UnknownIssuer",
        "policyDeny",
        r#"{"type":"https://github.com/confidential-containers/kbs/errors/SomethingNew"}"#,
        r#"{"type":"https://example.org/errors/PolicyDeny"}"#,
        "the envelope was sealed.",
        "sealed.abc.def.ghi",
        "unsealed.eyJa.eyJb.c",
        "Exit Code: 77",
        "Readiness probe failed: HTTP probe failed with statuscode: 503",
        "Readiness probe failed: HTTP probe failed with statuscode: 504",
        "Readiness probe failed: HTTP probe failed with statuscode: 526",
        "refused: policy-denied (exit 78)",
        "refused: something (exit 77)",
        r#"{"v":1,"role":"init","code":77,"class":"ok"}"#,
        r#"{"v":2,"role":"init","code":77,"class":"policy-denied"}"#,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, env: [{name: S, value: sealed.eyJa.eyJb.c}]}]}",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {log: 'KBS internal error'}",
    ] {
        assert_eq!(ids(text), Vec::<String>::new(), "{text}");
    }
}

/// A pod of ours that is well: what `describe` has of every one.
const DESCRIBED: &str = "Name:         api-0\nAnnotations:  io.katacontainers.config.hypervisor.cc_init_data: H4sI\n\
    Init Containers:\n  countersign-init:\n    Image:          ghcr.io/acme/countersign@sha256:ab\n    \
    Environment:\n      COUNTERSIGN_SECRETS:  a=kbs:///payments/db/password\n\
    Containers:\n  app:\n    Image:          acme/app:1\n    State:          Running\n\
    Conditions:\n  Type    Status\n  Ready   False\n";

#[track_caller]
fn says_nothing_of(line: &str) {
    for text in [line.to_owned(), format!("{DESCRIBED}{line}\n")] {
        assert_eq!(ids(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn an_apps_own_certificate_trouble_is_not_the_kbss() {
    for line in [
        "https://api.stripe.com/v1/charges: invalid peer certificate: UnknownIssuer",
        "https://api.stripe.com/v1/charges: invalid peer certificate: Expired",
        "https://api.stripe.com/v1/charges: invalid peer certificate: NotValidForName",
        "self-signed certificate in certificate chain (postgres.db.svc:5432)",
        "reading kbs:///a/b/c; https://api.stripe.com/: invalid peer certificate: UnknownIssuer",
        "linkbsd.example: invalid peer certificate: UnknownIssuer",
    ] {
        says_nothing_of(line);
    }
    // Nor the KBS's what the guest says of a registry.
    says_nothing_of(
        "[CDH] [ERROR]: Image Pull error: Failed to pull image x: https://registry.example: invalid peer certificate: UnknownIssuer",
    );
    only(
        "https://kbs.security.example:8443/kbs/v0/auth: invalid peer certificate: UnknownIssuer",
        "server-certificate-unknown-issuer",
    );
}

#[test]
fn an_apps_unsupported_algorithm_is_not_initdatas() {
    says_nothing_of("jwt error: unsupported algorithm: RS512");
}

#[test]
fn a_firewalls_policy_is_not_the_agents() {
    says_nothing_of("Your Request is blocked by policy of the WAF");
    says_nothing_of("HttpRequest is blocked by policy of the WAF");
    says_nothing_of("Request is blocked by policy: 7");
    only("Error: \"SignalProcessRequest is blocked by policy: agent_policy:1\"", "agent-policy-other");
    only("message: \\\"WriteStreamRequest is blocked by policy\\\"", "agent-policy-other");
}

#[test]
fn a_number_in_another_one_is_not_the_guests_port() {
    says_nothing_of("Failed to pull image \"ghcr.io/acme/app@sha256:1f2e8006aa\": 403 Forbidden");
    says_nothing_of("Failed to pull image \"registry.example:8006/acme/app\": 403 Forbidden");
    says_nothing_of("dial tcp 127.0.0.1:80061: connect: connection refused");
    says_nothing_of("Failed to connect to 127.0.0.1 port 80060: Connection refused");
    says_nothing_of("dial tcp 227.127.0.0.1:80060: connect: connection refused");
    says_nothing_of("dump 8006 bytes\nURL NOT FOUND");
    says_nothing_of("dump 8006 bytes: URL NOT FOUND");
    says_nothing_of("timed out connecting to vsock 3:10240");
    only("http://10.1.1.1:8006/aa/token: 403 Forbidden", "guest-api-not-loopback");
}

#[test]
fn messages_with_escaped_quotes_are_read_as_they_were_written() {
    for line in [
        r#"time="2026-11-26T03:12:09Z" level=error msg="CreateContainer failed" error="failed to create containerd task: failed to create shim task: failed to mount \"/run/kata-containers/shared/containers/ab/rootfs\" to \"/run/kata-containers/ab/rootfs\", with error: ENOENT: No such file or directory: unknown""#,
        r#"{"log":"level=error error=\"failed to mount \\\"/run/kata-containers/shared/containers/ab/rootfs\\\" to \\\"x\\\", with error: ENOENT\""}"#,
    ] {
        only(line, "image-cached-on-host");
    }
    only(
        r#"kubelet: err="MountVolume.SetUp failed for volume \"i\" : configmap \"api-initdata-missing\" not found""#,
        "initdata-configmap-missing",
    );
    says_nothing_of(r#"failed to mount \"/run/other/rootfs\": ENOENT"#);
}

#[test]
fn every_class_of_ours_is_named_by_its_exit_code_its_line_and_its_log() {
    for row in crate::finding::TABLE {
        let (code, label) = (row.code, row.label);
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: api}}\nstatus:\n  initContainerStatuses:\n  - image: registry.example/countersign@sha256:ab\n    lastState: {{terminated: {{exitCode: {code}}}}}\n    name: countersign-init\n"
        );
        only(&yaml, label);
        let described = format!(
            "Name: api\nInit Containers:\n  countersign-init:\n    Image:         x\n    State:          Terminated\n      Exit Code:    {code}\nEvents: <none>\n"
        );
        only(&described, label);
        let line = format!(
            r#"      Message:  {{"v":1,"role":"init","code":{code},"class":"{label}","saw":"s","why":"w","next":"n","who":"kbs-operator","version":"0.1.0"}}"#
        );
        let cause = only(&line, label);
        assert_eq!((cause.saw.as_str(), cause.next.as_str(), cause.who), ("s", "n", Who::KbsOperator));
        let log = format!(
            "countersign init: refused: {label} (exit {code})\n  saw:  it\n  why:  because\n  next: do\n  who:  platform\n"
        );
        let cause = only(&log, label);
        assert_eq!(
            (cause.saw.as_str(), cause.why.as_str(), cause.next.as_str(), cause.who),
            ("it", "because", "do", Who::Platform)
        );
    }
}

fn failed(kind: &str, status: u16) -> String {
    format!("Warning  Unhealthy  2s  kubelet  {kind} probe failed: HTTP probe failed with statuscode: {status}")
}

/// A `kubectl describe` of two containers with these probes, and one event.
fn described(app: &str, ours: &str, event: &str) -> String {
    format!(
        "Name:             api-0\nInit Containers:\n  countersign:\n    Image:          ghcr.io/acme/countersign@sha256:ab\n    \
         State:          Running\n      Started:      Thu\n{ours}    Environment:   <none>\n\
         Containers:\n  app:\n    Image:          acme/app:1\n{app}\
         Conditions:\n  Type    Status\n  Ready   False\nEvents:\n  Type     Reason     Age  From     Message\n  {event}\n"
    )
}

const OURS: &str = "    Startup:    http-get http://:15821/startupz delay=0s timeout=1s period=1s #success=1 #failure=300\n    \
    Readiness:  http-get http://:15821/readyz delay=0s timeout=1s period=5s #success=1 #failure=1\n    \
    Liveness:   http-get http://:15821/livez delay=0s timeout=1s period=10s #success=1 #failure=3\n";

#[test]
fn a_probe_is_ours_where_only_ours_has_one_of_its_kind() {
    only(&described("", OURS, &failed("Startup", 509)), "kbs-unreachable");
    only(&described("", OURS, &failed("Readiness", 522)), "certificate");
    let app = "    Readiness:  http-get http://:8080/healthz delay=0s timeout=1s period=5s #success=1 #failure=3\n    \
               Startup:    exec [true] delay=0s timeout=1s period=5s #success=1 #failure=3\n";
    only(&described(app, OURS, &failed("Startup", 511)), "no-evidence");
    // What admission makes of an app's probe is answered by us, and never with a class.
    let led = "    Readiness:  http-get http://:15821/probe/8080/healthz delay=0s timeout=1s period=5s\n";
    only(&described(led, OURS, &failed("Readiness", 509)), "kbs-unreachable");
}

#[test]
fn a_probe_that_may_be_the_apps_is_told_with_an_if() {
    let app = "    Readiness:  http-get http://:8080/healthz delay=0s timeout=1s period=5s #success=1 #failure=3\n";
    for status in [505, 509, 510, 511, 517, 522] {
        let found = causes(&described(app, OURS, &failed("Readiness", status)));
        let [cause] = found.as_slice() else { panic!("{status}: {found:?}") };
        assert!(cause.id.starts_with("perhaps-") && cause.why.contains("if it is the one on port 15821"), "{cause:?}");
        assert!(cause.next.starts_with("read `kubectl get events -o yaml`"), "{cause:?}");
        assert_eq!(cause.who, Who::AppDeveloper, "who has the pod finds out first");
    }
    // Nobody but us is known to send it, and still an app may.
    only(&failed("Startup", 517), "perhaps-policy-denied");
    // What is certain is told once.
    let both = format!("{}countersign sidecar: refused: policy-denied (exit 77)\n", failed("Startup", 517) + "\n");
    only(&both, "policy-denied");
}

#[test]
fn an_apps_own_probe_is_not_ours() {
    let app = "    Readiness:  http-get http://:8080/healthz delay=0s timeout=1s period=5s #success=1 #failure=3\n    \
               Liveness:   http-get http://:8080/livez delay=0s timeout=1s period=5s #success=1 #failure=3\n";
    let without = "    Startup:    http-get http://:15821/startupz delay=0s timeout=1s\n";
    for status in 500..=530 {
        assert_eq!(ids(&described(app, without, &failed("Readiness", status))), Vec::<String>::new(), "{status}");
        assert_eq!(ids(&described(app, OURS, &failed("Liveness", status))), Vec::<String>::new(), "{status}");
    }
    // A refused command line never listens: a 504 is some gateway's, whoever else has a probe.
    assert_eq!(ids(&described(app, OURS, &failed("Readiness", 504))), Vec::<String>::new());
}

#[test]
fn a_status_that_others_send_is_not_known_where_nothing_says_whose_it_is() {
    for status in (500..=511).chain(520..=530) {
        says_nothing_of(&failed("Readiness", status));
    }
    only(&format!("http://10.0.0.1:15821/readyz: {}", failed("Readiness", 522)), "certificate");
    says_nothing_of(&format!("http://10.0.0.1:158210/readyz: {}", failed("Readiness", 522)));
}

#[test]
fn an_event_that_names_its_container_is_that_containers() {
    let event = |path: &str, status: u16| {
        format!(
            "- apiVersion: v1\n  kind: Event\n  metadata: {{name: e}}\n  involvedObject: {{kind: Pod, name: api-0, fieldPath: '{path}'}}\n  \
             message: 'Readiness probe failed: HTTP probe failed with statuscode: {status}'\n"
        )
    };
    let list = |items: &str| format!("apiVersion: v1\nkind: List\nitems:\n{items}");
    for status in [504, 505, 509, 510, 511, 517, 522] {
        assert_eq!(ids(&list(&event("spec.containers{app}", status))), Vec::<String>::new(), "{status}");
    }
    only(&list(&event("spec.initContainers{countersign}", 509)), "kbs-unreachable");
    let newer = event("spec.initContainers{countersign}", 509).replace("involvedObject", "regarding");
    only(&list(&newer.replace("message", "note")), "kbs-unreachable");
    // By the image, where the pod is there too.
    let pod = "- apiVersion: v1\n  kind: Pod\n  metadata: {name: api-0}\n  spec: {containers: [{name: tls, image: 'ghcr.io/acme/countersign:1'}, {name: app, image: acme/app}]}\n";
    only(&list(&format!("{pod}{}", event("spec.containers{tls}", 509))), "kbs-unreachable");
    assert_eq!(ids(&list(&format!("{pod}{}", event("spec.containers{app}", 509)))), Vec::<String>::new());
    // `kubectl get events -o wide`
    let wide = |name: &str| {
        format!("2s  Warning  Unhealthy  pod/api-0  spec.containers{{{name}}}  kubelet  {}", failed("Readiness", 517))
    };
    only(&wide("countersign"), "policy-denied");
    assert_eq!(ids(&wide("app")), Vec::<String>::new());
}

#[test]
fn a_message_of_several_lines_hides_no_container() {
    let app = "    State:          Terminated\n      Message:      Traceback:\nat the margin: x\n  at two\n      Exit Code:    77\n    \
               Readiness:  http-get http://:8080/ delay=0s\n";
    only(&described(app, OURS, &failed("Readiness", 509)), "perhaps-kbs-unreachable");
}

#[test]
fn another_containers_exit_code_is_not_ours() {
    let described = "Containers:\n  api:\n    Image:  example/api\n      Exit Code:    77\n  countersign-sidecar:\n    Image:  countersign\n      Exit Code:    0\n";
    assert_eq!(ids(described), Vec::<String>::new());
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {containerStatuses: [{name: api, image: x/mycountersign-fork/api, state: {terminated: {exitCode: 77}}}]}";
    assert_eq!(ids(yaml), Vec::<String>::new());
    let ended = |name: &str, image: &str| {
        format!(
            "Containers:\n  {name}:\n    Image:         {image}\n    State:          Terminated\n      Exit Code:    77\n"
        )
    };
    for (name, image) in
        [("countersign-demo", "acme/shop:1"), ("app", "acme/countersign-demo:1"), ("app", "countersign/app")]
    {
        assert_eq!(ids(&ended(name, image)), Vec::<String>::new(), "{name} {image}");
    }
    for (name, image) in
        [("countersign", "x"), ("countersign-init", "x"), ("app", "reg:5000/a/countersign:1@sha256:ab")]
    {
        only(&ended(name, image), "policy-denied");
    }
    // A variable of the container is no field of it.
    let told = "Containers:\n  app:\n    Image:         acme/app\n    Environment:\n      Image:      a/countersign\n      Exit Code:  77\n";
    assert_eq!(ids(told), Vec::<String>::new());
}

#[test]
fn the_silent_annotations_are_found() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    io.katacontainers.config.runtime.cc_init_data: H4sI\n";
    only(pod, "annotation-old");
    only("Annotations:  io.katacontainers.config.runtime.cc_init_data: H4sI", "annotation-old");
    let both = format!("{pod}    io.katacontainers.config.hypervisor.cc_init_data: H4sI\n");
    assert_eq!(ids(&both), Vec::<String>::new());
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\n  annotations:\n    io.katacontainers.config.hypervisor.cc_init_data: H4sI\nspec: {template: {metadata: {}}}\n";
    let next = only(deployment, "annotation-misplaced").next;
    assert_eq!(next, "move the annotation to spec.template.metadata.annotations");
}

#[test]
fn an_annotation_that_a_cronjobs_pods_do_not_get_is_found() {
    let annotated = "annotations: {io.katacontainers.config.hypervisor.cc_init_data: H4sI}";
    let cronjob = |cron: &str, job: &str, pod: &str| {
        format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: a, {cron}}}\nspec: {{jobTemplate: {{metadata: {{{job}}}, spec: {{template: {{metadata: {{{pod}}}}}}}}}}}\n"
        )
    };
    for (text, place) in [
        (cronjob(annotated, "", ""), "metadata.annotations"),
        (cronjob("", annotated, ""), "spec.jobTemplate.metadata.annotations"),
    ] {
        let cause = only(&text, "annotation-misplaced");
        assert_eq!(cause.place, place);
        assert_eq!(cause.next, "move the annotation to spec.jobTemplate.spec.template.metadata.annotations");
    }
    assert_eq!(ids(&cronjob(annotated, "", annotated)), Vec::<String>::new());
    let old = annotated.replace("hypervisor", "runtime");
    let cause = only(&cronjob("", "", &old), "annotation-old");
    assert_eq!(cause.place, "spec.jobTemplate.spec.template.metadata.annotations");
}

#[test]
fn several_causes_stand_in_the_order_in_which_they_must_be_put_right() {
    let text = "countersign init: refused: policy-denied (exit 77)\n[CDH] [ERROR]: Get Resource failed\n\
                CreateContainerRequest is blocked by policy: x\n\
                annotation io.katacontainers.config.hypervisor.cc_init_data is not enabled\n\
                CreateContainerRequest is blocked by policy: again\n";
    assert_eq!(ids(text), ["shim-initdata-not-enabled", "agent-policy-container", "cdh-get-resource", "policy-denied"]);
}

#[test]
fn messages_that_yaml_folds_are_read_whole() {
    let events = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Event\n  metadata: {name: e}\n  message: 'Error: failed to create containerd task: CreateContainerRequest\n    is blocked by policy: no'\n";
    only(events, "agent-policy-container");
}

#[test]
fn every_next_step_starts_with_a_verb_and_every_id_is_one() {
    for known in table::phrases() {
        let (id, next) = known;
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id}");
        let first = next.split(' ').next().unwrap();
        let verbs = [
            "add", "read", "check", "run", "write", "compare", "use", "allow", "set", "raise", "correct", "start",
            "call", "make", "put", "issue",
        ];
        assert!(verbs.contains(&first), "{id}: {next}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(?s).{0,400}") {
        let _ = causes(&text);
    }

    #[test]
    fn nothing_is_read_into_letters_and_numbers(text in "[a-zA-Z0-9 :=\n]{0,400}") {
        proptest::prop_assert!(causes(&text).is_empty());
    }
}

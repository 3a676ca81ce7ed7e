//! One mistake for each rule that a replacement can make, and where it is told.

/// Where the agent's rules are reported: the last part of the policy.
pub(crate) const DATA_LINE: &str = "policy_data := {";

/// The end of the policy, and an end that no generator writes.
pub(crate) const LAST_LINE: &str = "/shared/containers\" }\n}\n";
pub(crate) const AFTER_IT: &str = "/shared/containers\" }\n}\nlater := 1\n";

/// A place where a problem is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// The first line that has this text in it.
    First(&'static str),
    /// This line.
    Line(usize),
    /// No line.
    Nowhere,
}

impl At {
    pub(crate) fn line(self, text: &str) -> Option<u64> {
        let found = |needle: &str| text.lines().position(|line| line.contains(needle));
        let index = match self {
            Self::Nowhere => return None,
            Self::Line(line) => line - 1,
            Self::First(needle) => found(needle).unwrap_or_else(|| panic!("{needle} is not there")),
        };
        Some(u64::try_from(index).unwrap() + 1)
    }
}

/// Rule, what is replaced by what in the good document, where the problem is expected.
pub(crate) type Sample = (&'static str, &'static str, &'static str, At);

pub(crate) const SAMPLES: &[Sample] = &[
    ("toml", "algorithm = \"sha256\"", "algorithm = sha256", At::Line(2)),
    ("toml", "version = \"0.1.0\"", "version = \"0.1\\x2e0\"", At::Line(3)),
    ("toml", "version = \"0.1.0\"", "version = \"0.1.0\"\nx = {\ny = 1 }", At::Line(4)),
    ("inner-toml", "[kbc]\n", "x = { y = 1, }\n[kbc]\n", At::First("x = { y")),
    ("inner-toml", "name = \"cc_kbc\"", "name = \"cc\\x5fkbc\"", At::First("x5fkbc")),
    ("version", "version = \"0.1.0\"", "version = \"0.2.0\"", At::Line(3)),
    ("version", "version = \"0.1.0\"\n", "", At::Line(1)),
    ("algorithm", "algorithm = \"sha256\"", "algorithm = \"sha-256\"", At::Line(2)),
    ("algorithm", "algorithm = \"sha256\"\n", "", At::Line(1)),
    ("algorithm", "algorithm = \"sha256\"", "algorithm = 256", At::Line(2)),
    ("data", "\"aa.toml\" = '''\n[token_configs", "x = 7\n\"aa.toml\" = '''\n[token_configs", At::First("x = 7")),
    ("data", "\"aa.toml\" =", "aa.toml =", At::First("aa.toml =")),
    ("data", "[data]", "[dato]", At::Line(1)),
    ("top-key", "version = \"0.1.0\"", "version = \"0.1.0\"\npod_name = \"pod1\"", At::Line(4)),
    ("top-key", "[data]", "[dato]", At::First("[dato]")),
    ("section-name", "\"policy.rego\" =", "\"policy.reg\" =", At::First("policy.reg")),
    ("inner-toml", "[token_configs.kbs]", "[token_configs.kbs", At::First("[token_configs.kbs")),
    ("inner-toml", "name = \"cc_kbc\"\nurl =", "name = \"cc_kbc\"\nurl = 7 #", At::First("url = 7")),
    ("inner-toml", "[kbc]", "kbc = 7\n[other]", At::First("kbc = 7")),
    ("inner-toml", "kbs_cert = \"\"\"", "kbs_cert = 7\nx = \"\"\"", At::First("kbs_cert = 7")),
    ("aa-kbs", "[token_configs.kbs]", "[token_configs.coco_as]", At::First("coco_as")),
    ("aa-kbs", "\"aa.toml\" =", "\"some.toml\" =", At::First("[data]")),
    ("aa-kbs", "url = \"https://kbs.example:8443\"   # of aa", "", At::First("[token_configs.kbs]")),
    ("cdh-kbs", "[kbc]", "[kbd]", At::First("[kbd]")),
    ("cdh-kbs", "\"cdh.toml\" =", "\"some.toml\" =", At::First("[data]")),
    ("kbc-name", "name = \"cc_kbc\"", "name = \"offline_fs_kbc\"", At::First("offline_fs_kbc")),
    ("kbc-name", "name = \"cc_kbc\"\n", "", At::First("[kbc]")),
    ("kbs-url", "kbs.example:8443\"   # of aa", "kbs.example:844300\"", At::First("844300")),
    ("kbs-url", "https://kbs.example:8443\"   # of cdh", "kbs.example:8443\" # cdh", At::First("# cdh")),
    (
        "kbs-http",
        "https://kbs.example:8443\"   # of cdh",
        "http://kbs.example:8443\"   # of cdh",
        At::First("# of cdh"),
    ),
    ("ca-without-tls", "https://kbs.example:8443\"   # of aa", "http://127.0.0.1:1\"   # of aa", At::First("# of aa")),
    ("kbs-ca", "cert = \"\"\"", "cert = \"\"\nx = \"\"\"", At::First("# of aa")),
    ("pem", "kbs_cert = \"\"\"\n-----BEGIN", "kbs_cert = \"\"\"\n-----BEGUN", At::First("BEGUN")),
    ("pem", "kbs_cert = \"\"\"\n", "kbs_cert = \"\"\"\nnone\"\"\"\nx = \"\"\"\n", At::First("none")),
    (
        "pem",
        "kbs_cert = \"\"\"\n",
        "kbs_cert = \"\"\"\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        At::First("BEGIN PRIVATE KEY"),
    ),
    (
        "pem",
        "kbs_cert = \"\"\"\n",
        "kbs_cert = \"\"\"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        At::First("kbs_cert = "),
    ),
    ("kbs-differ", "kbs.example:8443\"   # of cdh", "kbs.example:9443\"   # of cdh", At::First("# of cdh")),
    ("kbs-differ", "url = [\"https://kbs.example:8443\"]", "url = [\"https://other.example\"]", At::First("[kbs]")),
    (
        "sealed-unverified",
        "[kbc]",
        "skip_sealed_secret_verification = true\n[kbc]",
        At::First("skip_sealed_secret_verification"),
    ),
    (
        "credential",
        "[image]",
        "[[credentials]]\npath = \"/etc/x\"\nresource_uri = \"kbs:///a/b/c\"\n[image]",
        At::First("/etc/x"),
    ),
    (
        "credential",
        "[image]",
        "[[credentials]]\npath = \"/run/confidential-containers/cdh/kbs/x\"\nresource_uri = \"kbs://h/a/b/c\"\n[image]",
        At::First("kbs://h"),
    ),
    ("countersign", "serial = 7", "serail = 7", At::First("serail")),
    (
        "countersign",
        "from = \"kbs:///payments/db/password\"",
        "from = \"kbs:///payments\"",
        At::First("\"kbs:///payments\""),
    ),
    ("configuration-absent", "\"countersign.toml\" =", "\"some.toml\" =", At::First("[data]")),
    ("image-policy-absent", "[image]\nimage_security_policy", "[other]\nimage_security_policy", At::First("[data]")),
    ("image-policy-absent", "[image]\nimage_security_policy", "[image]\nsecurity_policy", At::First("[image]")),
    ("image-uri", "[image]\n", "[image]\nsigstore_config_uri = \"https://x/y\"\n", At::First("https://x/y")),
    ("image-uri", "[image]\n", "[image]\nregistry_configuration_uri = \"kbs:///a/b\"\n", At::First("kbs:///a/b\"")),
    (
        "image-policy-file",
        "[image]\nimage_security_policy =",
        "[image]\nimage_security_policy_uri = \"file:///etc/policy.json\"\nx =",
        At::First("file:///etc"),
    ),
    (
        "image-policy-twice",
        "[image]\n",
        "[image]\nimage_security_policy_uri = \"kbs:///default/security-policy/x\"\n",
        At::First("{"),
    ),
    ("image-policy-form", "\"transports\": {", "\"transports\": ", At::First("\"docker\"")),
    ("image-policy-form", "\"sigstoreSigned\"", "\"sigstore\"", At::First("\"sigstore\"")),
    ("image-policy-form", "kbs:///default/cosign/key", "/cosign.key", At::First("/cosign.key")),
    ("image-policy-form", "\"default\": [{ \"type\": \"reject\" }],", "", At::First("{")),
    ("image-policy-lax", "\"reject\"", "\"insecureAcceptAnything\"", At::First("\"default\"")),
    ("agent-policy-absent", "\"policy.rego\" =", "\"some.rego\" =", At::First("[data]")),
    ("agent-policy-permissive", LAST_LINE, AFTER_IT, At::First("\"policy.rego\"")),
    ("agent-policy-rego", "mounts_are(wanted) if {", "mounts_are(wanted) if )", At::First("if )")),
    ("agent-policy-rego", "package agent_policy", "package other", At::First("# A small policy")),
    (
        "agent-policy-failures",
        "default AllowRequestsFailingPolicy := false",
        "AllowRequestsFailingPolicy if { true }",
        At::First("AllowRequestsFailingPolicy"),
    ),
    (
        "agent-policy-exec",
        "    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands\n    command == input",
        "    data.pstate[input.container_id] >= 0\n    input",
        At::First("ExecProcessRequest"),
    ),
    (
        "agent-policy-set",
        "default SetPolicyRequest := false",
        "SetPolicyRequest if { true }",
        At::First("SetPolicyRequest"),
    ),
    ("agent-policy-swap", "default AddSwapRequest := false", "AddSwapRequest if { true }", At::First("AddSwapRequest")),
    (
        "agent-policy-mounts",
        "default UpdateEphemeralMountsRequest := false",
        "UpdateEphemeralMountsRequest if { count(input.storages) > 0 }",
        At::First("UpdateEphemeralMountsRequest"),
    ),
    // One shell is refused, and the others are forgotten.
    (
        "agent-policy-exec",
        "    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands\n    command == input.process.Args\n",
        "    input.process.Args[0] != \"/bin/sh\"\n",
        At::First("ExecProcessRequest"),
    ),
    (
        "agent-policy-exec",
        "    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands\n    command == input.process.Args\n",
        "    input.process.Args[0] == \"cat\"\n",
        At::First("ExecProcessRequest"),
    ),
    // Its own command, a second time.
    (
        "agent-policy-exec",
        "    some command in policy_data.containers[data.pstate[input.container_id]].exec_commands\n    command == input.process.Args\n",
        "    policy_data.containers[data.pstate[input.container_id]].OCI.Process.Args == input.process.Args\n",
        At::First("ExecProcessRequest"),
    ),
    ("agent-policy-other-args", "    command_is(wanted)\n", "", At::First(DATA_LINE)),
    ("agent-policy-other-env", "    variables_are(wanted)\n", "", At::First(DATA_LINE)),
    // Variables that a pattern admits: one of everybody's, one of its own, one of our roles.
    (
        "agent-policy-other-env",
        "variable in wanted.OCI.Process.Env\n",
        "count([1 | variable in wanted.OCI.Process.Env]) + count([1 | regex.match(\"^PATH=\", variable)]) > 0\n",
        At::First(DATA_LINE),
    ),
    (
        "agent-policy-other-env",
        "variable in wanted.OCI.Process.Env\n",
        "count([1 | variable in wanted.OCI.Process.Env]) + count([1 | regex.match(\"^HOST=\", variable)]) > 0\n",
        At::First(DATA_LINE),
    ),
    (
        "agent-policy-other-env",
        "variable in wanted.OCI.Process.Env\n",
        "count([1 | variable in wanted.OCI.Process.Env]) + count([1 | regex.match(\"^COUNTERSIGN_ROLE=(init|diagnose)$\", variable)]) > 0\n",
        At::First(DATA_LINE),
    ),
    ("agent-policy-other-mount", "    mounts_are(wanted)\n", "", At::First(DATA_LINE)),
    ("agent-policy-other-mount", "^$(cpath)/[a-z]{16}-\\\\d-secrets$", "^.*$", At::First(DATA_LINE)),
    ("agent-policy-other-mount", "^$(cpath)/[a-z]{16}-\\\\d-secrets$", "^$(cpath)/.*$", At::First(DATA_LINE)),
    ("agent-policy-own", "\"Args\": [\"/api\", \"--serve\"]", "\"Args\": \"/api\"", At::First(DATA_LINE)),
    (
        "agent-policy-own",
        "every storage in input.storages {",
        "count(input.storages) == 0\n    every storage in input.storages {",
        At::First(DATA_LINE),
    ),
    ("agent-policy-commands", "\"exec_commands\": []", "\"exec_commands\": [[\"/probe\"]]", At::First(DATA_LINE)),
    (
        "agent-policy-silent",
        "default GetDiagnosticDataRequest := true",
        "default GetDiagnosticDataRequest := false",
        At::First("ReadStreamRequest"),
    ),
];

/// The same for what the manifest says: the manifest's text is changed, or the document's.
pub(crate) const IN_MANIFEST: &[Sample] = &[
    ("pod-manifest", "kind: Deployment", "kind: [", At::Nowhere),
    ("pod-manifest", "  template:", "  tomplate:", At::Nowhere),
    ("pod-image", "registry.example/payments/api@", "registry.example/other@", At::First("registry.example/other@")),
    ("pod-image-tag", "payments/api@sha256:22", "payments/api:22", At::First("payments/api:22")),
    ("pod-container", "  - name: api\n", "  - name: other\n", At::First("payments/api@")),
    ("pod-container", "payments/api@sha256:22", "payments/api@sha256:32", At::First("payments/api@sha256:32")),
    ("pod-container", "\"--serve\"", "\"--debug\"", At::First("payments/api@")),
    ("pod-container", "value: init", "value: sidecar", At::First("payments/countersign@")),
    ("pod-container", "{ name: HOST,", "{ name: HOSTS,", At::First("payments/api@")),
    ("pod-container", "command: [\"/api\", \"--serve\"]", "args: [\"--debug\"]", At::First("payments/api@")),
    ("pod-container", "- { name: HOST, value: 127.0.0.1 }", "- { name: HOST }", At::First("payments/api@")),
    (
        "pod-container",
        "- { name: HOST, value: 127.0.0.1 }",
        "- { name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }",
        At::First("payments/api@"),
    ),
    ("pod-container", "mountPath: /data/", "mountPath: /sys/kernel/config", At::First("payments/api@")),
    ("pod-container", "mountPath: /data/", "mountPath: /data, readOnly: true", At::First("payments/api@")),
    ("pod-container", "runAsUser: 1000", "runAsUser: 0", At::First("payments/api@")),
    ("pod-container", "runAsGroup: 1000", "runAsGroup: 0", At::First("payments/api@")),
    ("pod-container", "runAsUser: 1000", "privileged: true", At::First("payments/api@")),
    (
        "pod-env-from",
        "        securityContext:",
        "        envFrom: [{ configMapRef: { name: more } }]\n        securityContext:",
        At::First("payments/api@"),
    ),
    ("annotation-key", "config.hypervisor.cc_init_data", "config.runtime.cc_init_data", At::First("config.runtime")),
    (
        "annotation-place",
        "  name: api\nspec:",
        "  name: api\n  annotations:\n    io.katacontainers.config.hypervisor.cc_init_data: H4sI\nspec:",
        At::First("cc_init_data: H4sI"),
    ),
    ("annotation-form", "ANNOTATION", "not-base64", At::First("not-base64")),
    ("annotation-form", "ANNOTATION", "YWxnb3JpdGhtID0gInNoYTI1NiI=", At::First("YWxnb3JpdGht")),
    ("annotation-other", "ANNOTATION", "OTHER", At::First("cc_init_data")),
    ("annotation-absent", "        io.katacontainers.config.hypervisor.cc_init_data: ANNOTATION\n", "", At::Nowhere),
    ("runtime-class", "      runtimeClassName: kata-qemu-snp\n", "", At::Nowhere),
];

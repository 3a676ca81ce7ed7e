//! The policy of the Kata agent: the text, and what it answers when it is asked.

use super::{Level, Rule, rules};

rules! { AGENT_RULES
    POLICY_ABSENT "agent-policy-absent" Prod {
        "There is no policy.rego.",
        "The guest image's default admits everything: the host can start any container under this digest, and no check inside the guest means anything.",
        "run genpolicy on the rendered pod and put its policy.rego into the initdata"
    }
    POLICY_PERMISSIVE "agent-policy-permissive" Prod {
        "policy.rego pins no containers: it does not end in readable `policy_data`, or answers yes by default.",
        "The host can start any container under this digest, and no check inside the guest means anything.",
        "run genpolicy on the rendered pod and put its policy.rego into the initdata"
    }
    POLICY_REGO "agent-policy-rego" Refuse {
        "policy.rego is not Rego of the package `agent_policy`, or cannot be evaluated.",
        "The agent refuses it and the sandbox fails, or it refuses every request.",
        "correct the line, or generate the policy again"
    }
    POLICY_FAILURES "agent-policy-failures" Prod {
        "The policy allows what it refuses (`AllowRequestsFailingPolicy`).",
        "Every refusal becomes a line in a log of the guest.",
        "remove `AllowRequestsFailingPolicy`"
    }
    POLICY_EXEC "agent-policy-exec" Prod {
        "Evaluated: the policy admits a shell, `cat` of a secret or the container's own command beside it (ExecProcessRequest).",
        "Whoever holds the cluster reads every secret of the pod.",
        "remove the commands and patterns of ExecProcessRequest from genpolicy's settings"
    }
    POLICY_SET "agent-policy-set" Prod {
        "Evaluated: the policy admits its own replacement (SetPolicyRequest).",
        "The host replaces it by one that admits everything.",
        "write `default SetPolicyRequest := false`"
    }
    POLICY_SWAP "agent-policy-swap" Prod {
        "Evaluated: the policy admits swap (AddSwapRequest).",
        "Secrets in memory are then written to a disk of the host.",
        "write `default AddSwapRequest := false`"
    }
    POLICY_MOUNTS "agent-policy-mounts" Prod {
        "Evaluated: the policy admits changed memory mounts (UpdateEphemeralMountsRequest).",
        "The host then resizes or remounts what secrets are written to.",
        "write `default UpdateEphemeralMountsRequest := false`"
    }
    POLICY_OTHER_IMAGE "agent-policy-other-image" Prod {
        "Evaluated: the policy admits one of its containers with another image, and no inline image policy refuses that image.",
        "The arguments and variables are pinned, but not the program that is started with them.",
        "name images by digest and generate with a genpolicy that pins them, or accept digests and signatures only in the image policy"
    }
    POLICY_IMAGE_TAG "agent-policy-image-tag" Prod {
        "The policy names an image without a digest, and no inline image policy demands a signature of it.",
        "The registry, or the host between it and the guest, moves the tag: another program starts under the same digest of initdata.",
        "name the image by digest in the pod, and run genpolicy on it again"
    }
    POLICY_OTHER_ARGS "agent-policy-other-args" Prod {
        "Evaluated: the policy admits one of its containers with another command.",
        "The host starts a shell in place of the app.",
        "run genpolicy on the rendered pod again, without loosening its rules"
    }
    POLICY_OTHER_ENV "agent-policy-other-env" Prod {
        "Evaluated: the policy admits one of its containers with another variable, or another value of one.",
        "LD_PRELOAD, PATH and COUNTERSIGN_ROLE choose what runs: a variable is as good as a command.",
        "remove the pattern from `allow_env_regex` of genpolicy's settings, and run genpolicy on the rendered pod again"
    }
    POLICY_OTHER_MOUNT "agent-policy-other-mount" Prod {
        "Evaluated: the policy admits one of its containers with another mount, or with a mount from another place.",
        "The host lays its own files over the app's or over ours.",
        "run genpolicy on the rendered pod again, without loosening its rules"
    }
    POLICY_OWN "agent-policy-own" Prod {
        "Evaluated: the policy does not admit a container of its own `policy_data`, as this tool understands it.",
        "Rules and data do not fit, or the rules are newer than this tool. What they deny could then not be shown.",
        "run genpolicy and its rules from one version, or report the version of genpolicy with this message"
    }
    POLICY_COMMANDS "agent-policy-commands" Prod {
        "The policy lists commands that may be executed in a container.",
        "Each is at the host's service, with output that it reads. Exec probes would need them.",
        "use httpGet probes, and remove the commands and patterns of ExecProcessRequest from genpolicy's settings"
    }
    POLICY_SILENT "agent-policy-silent" Warn {
        "Evaluated: the policy denies ReadStreamRequest and GetDiagnosticDataRequest.",
        "That is safe, and you will see exit codes only: no logs, no termination message. docs/errors.md lists the codes.",
        "allow GetDiagnosticDataRequest if you want the termination message; it holds no secrets"
    }
}

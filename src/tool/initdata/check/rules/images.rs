//! Which images the guest may pull, and the pod that brings the initdata.

use super::{Level, Rule, rules};

rules! { IMAGES_RULES
    IMAGE_POLICY_ABSENT "image-policy-absent" Warn {
        "cdh.toml names no image policy.",
        "The guest then pulls any image. The agent policy alone says which ones may be started.",
        "write `image_security_policy` or `image_security_policy_uri` into `[image]` of cdh.toml"
    }
    IMAGE_URI "image-uri" Refuse {
        "A URI in `[image]` is neither kbs:///repository/type/tag nor file:///path.",
        "The data hub cannot fetch it and pulls no image.",
        "correct the URI: kbs:///default/security-policy/production"
    }
    IMAGE_POLICY_FILE "image-policy-file" Prod {
        "The image policy is a file of the guest image.",
        "It is measured with the image, not with the initdata, and nobody who reads the initdata knows it.",
        "upload the policy to the KBS and name it as kbs:///…, or write it inline"
    }
    IMAGE_POLICY_TWICE "image-policy-twice" Warn {
        "Both `image_security_policy` and `image_security_policy_uri` are there.",
        "The URI wins; the inline one is dead text that reviewers believe.",
        "remove one of the two"
    }
    IMAGE_POLICY_FORM "image-policy-form" Refuse {
        "The inline image policy is not what the data hub reads: JSON with `default` and `transports`, known requirement types, keys by URI.",
        "The data hub refuses every image.",
        "correct the policy in `image_security_policy`"
    }
    IMAGE_POLICY_LAX "image-policy-lax" Warn {
        "The image policy accepts any image by default.",
        "It then protects only what it names, and a host can name another.",
        "write `\"default\": [{ \"type\": \"reject\" }]` and list the repositories that are used"
    }
    POD_MANIFEST "pod-manifest" Refuse {
        "With --pod: the manifest cannot be read, or has no pod in it.",
        "Nothing could be evaluated against it.",
        "name the manifest as it is applied, rendered, in YAML or JSON"
    }
    POD_IMAGE "pod-image" Refuse {
        "With --pod: the image policy rejects an image of the pod.",
        "The guest refuses to pull it: `Image policy rejected`.",
        "add the repository to the image policy"
    }
    POD_IMAGE_UNKNOWN "pod-image-unknown" Warn {
        "With --pod: the image policy lies at the KBS, so the images could not be evaluated.",
        "Only the guest will see it.",
        "check the images against the policy that lies there"
    }
    POD_IMAGE_TAG "pod-image-tag" Prod {
        "With --pod: an image is named by its tag, not by its digest.",
        "A tag can be moved to another image after the policy was written.",
        "name the image as repository@sha256:…"
    }
    POD_CONTAINER "pod-container" Refuse {
        "With --pod: the agent policy does not admit a container of the pod.",
        "The container fails with `CreateContainerRequest is blocked by policy`.",
        "run genpolicy again on exactly this manifest"
    }
    POD_ENV_FROM "pod-env-from" Warn {
        "With --pod: a container takes variables from a whole ConfigMap or Secret (`envFrom`), which is not in the manifest.",
        "Which variables those are is not known here: each that the agent policy does not admit stops the container.",
        "write the variables into `env`, or give genpolicy the ConfigMap with the pod"
    }
    POD_PROBE "pod-probe" Refuse {
        "With --pod: a probe goes through the sidecar, and no `[[inbound]]` of the configuration lists its path in `probes`.",
        "The sidecar answers such a probe with 404: the container is never ready, or is restarted for ever.",
        "add the path to `probes` of the `[[inbound]]` of that port"
    }
    ANNOTATION_KEY "annotation-key" Refuse {
        "With --pod: the initdata stands in the annotation io.katacontainers.config.runtime.cc_init_data.",
        "Current Kata ignores that name: the pod starts without initdata, and nobody is told.",
        "rename the annotation to io.katacontainers.config.hypervisor.cc_init_data"
    }
    ANNOTATION_PLACE "annotation-place" Refuse {
        "With --pod: the annotation stands on the workload, not on its pod template.",
        "The shim sees the annotations of the pod only: it starts without initdata, and nobody is told.",
        "move the annotation to `spec.template.metadata.annotations`"
    }
    ANNOTATION_FORM "annotation-form" Refuse {
        "With --pod: the annotation's value is not standard base64 of gzip of an initdata, on one line.",
        "Kata's Rust shim panics on it, the Go shim refuses or crashes: the pod never starts.",
        "write the value that `kubectl countersign initdata pack` prints"
    }
    ANNOTATION_OTHER "annotation-other" Refuse {
        "With --pod: the annotation holds another initdata than the one that is checked.",
        "What was reviewed is not what the hardware will hold.",
        "write the value that `kubectl countersign initdata pack` prints for this file"
    }
    ANNOTATION_ABSENT "annotation-absent" Warn {
        "With --pod: the pod has no initdata annotation.",
        "Unless admission adds it, the guest starts without initdata.",
        "add the annotation, or check the manifest as admission leaves it"
    }
    RUNTIME_CLASS "runtime-class" Warn {
        "With --pod: the pod has no runtimeClassName.",
        "Unless admission adds it, it runs on the host without any guest.",
        "add `runtimeClassName` of a confidential runtime"
    }
}

//! The document itself: its form, its frame, its size.

use super::{Level, Rule, rules};

rules! { DOCUMENT_RULES
    FORM "form" Refuse {
        "The file is neither TOML, nor gzip, nor standard base64 of gzip on one line; or it is empty, cut off, not UTF-8, or too long.",
        "Kata's Go shim refuses it and its Rust shim panics on it: the pod never starts and no event says why.",
        "write the value with `kubectl countersign initdata pack`"
    }
    TOML "toml" Refuse {
        "The document is not TOML, or is TOML 1.1 where Kata's agent reads 0.5.",
        "A shim, the agent or the KBS cannot read it, and the guest does not start.",
        "correct the line"
    }
    VERSION "version" Refuse {
        "`version` is missing, or is not \"0.1.0\".",
        "The Kata agent refuses every other version, and the sandbox fails.",
        "write `version = \"0.1.0\"`"
    }
    ALGORITHM "algorithm" Refuse {
        "`algorithm` is missing, or is not exactly sha256, sha384 or sha512.",
        "Kata's Go shim crashes on a name it does not know (sha-384, SHA384); the others refuse it.",
        "write `algorithm = \"sha384\"`"
    }
    DATA "data" Refuse {
        "`data` is missing, or holds something other than texts.",
        "Every section is a text, whatever is in it; the parsers of shim, agent and KBS refuse anything else.",
        "write each section as `\"name\" = '''…'''` below `[data]`"
    }
    TOP_KEY "top-key" Warn {
        "A key beside `algorithm`, `version` and `data`.",
        "It is measured, and nothing in the guest reads it. A section above `[data]` is such a key.",
        "move it below `[data]`, or remove it unless a policy of the KBS asks for it"
    }
    SECTION_NAME "section-name" Warn {
        "A section whose name is nearly one that is read.",
        "The guest reads aa.toml, cdh.toml, policy.rego and countersign.toml, and silently ignores other names.",
        "rename the section"
    }
    ANNOTATION_SIZE "annotation-size" Refuse {
        "The packed value does not fit into a pod's annotations, which hold 256 KiB together.",
        "The API server refuses the pod.",
        "remove what the guest does not need: most of it is usually the agent policy"
    }
    ANNOTATION_HALF "annotation-half" Warn {
        "The packed value takes more than half of the 256 KiB that annotations may have.",
        "`kubectl apply` keeps a second copy in an annotation of its own, and both count.",
        "use `kubectl create` or server-side apply for this pod, or shorten the agent policy"
    }
    CONFIGMAP_SIZE "configmap-size" Warn {
        "The ConfigMap of `initdata configmap`, with the document and its packed value, takes more than 255 KiB.",
        "`kubectl apply` repeats it in an annotation, and the API server refuses annotations of more than 256 KiB.",
        "use `kubectl apply --server-side`, which writes no such annotation"
    }
    PEER_POD_SIZE "peer-pod-size" Refuse {
        "With --peer-pods: the packed value does not fit into the cloud's user data.",
        "Azure takes 64 KiB of base64 for all user data, and the initdata is encoded a second time in it.",
        "remove what the guest does not need: most of it is usually the agent policy"
    }
    PEER_POD_ALGORITHM "peer-pod-algorithm" Warn {
        "With --peer-pods: the algorithm is not sha256.",
        "Azure's vTPM measures the initdata into PCR 8 with sha256 only.",
        "write `algorithm = \"sha256\"` for guests on Azure"
    }
}

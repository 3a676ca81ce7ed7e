//! The guest's services: where they attest, whom they trust, and our own configuration.

use super::{Level, Rule, rules};

rules! { SERVICES_RULES
    INNER_TOML "inner-toml" Refuse {
        "aa.toml or cdh.toml is not TOML, is TOML 1.1, or a value in it has another type than the service reads.",
        "The service does not start, and every request for a secret fails without a reason.",
        "correct the line"
    }
    AA_KBS "aa-kbs" Prod {
        "aa.toml is missing, or names no KBS in `[token_configs.kbs]`.",
        "The attestation agent then attests to whatever the kernel's command line names, or to nobody.",
        "write `[token_configs.kbs]` with `url` into aa.toml"
    }
    CDH_KBS "cdh-kbs" Prod {
        "cdh.toml is missing, or names no KBS in `[kbc]`.",
        "The data hub then fetches from whatever the kernel's command line names, or from nobody.",
        "write `[kbc]` with `name` and `url` into cdh.toml"
    }
    KBC_NAME "kbc-name" Refuse {
        "`[kbc].name` is not cc_kbc.",
        "The data hub knows cc_kbc and offline_fs_kbc; the second reads secrets from files of the guest image.",
        "write `name = \"cc_kbc\"` into `[kbc]` of cdh.toml"
    }
    KBS_URL "kbs-url" Refuse {
        "The URL of a KBS is not https://host:port (or http://).",
        "A URL that two parsers read differently leads to another server than the one that was reviewed.",
        "correct the URL"
    }
    KBS_HTTP "kbs-http" Prod {
        "The KBS is reached by http, and not over loopback.",
        "The host can answer in its place. What it sends is encrypted for the guest, but nobody says by whom.",
        "write an https URL, and the CA beside it"
    }
    KBS_CA "kbs-ca" Prod {
        "The KBS is reached by https, and no certificate is named.",
        "The guest's services then trust every CA of the web.",
        "write the PEM of the KBS's CA beside the URL (`cert` in aa.toml, `kbs_cert` in cdh.toml)"
    }
    CA_WITHOUT_TLS "ca-without-tls" Warn {
        "A certificate is named, and the URL is http.",
        "Nothing checks the certificate: whoever reads the file believes in protection that is not there.",
        "write the URL with https"
    }
    PEM "pem" Refuse {
        "A certificate is not PEM, cannot be read, or is something else: a private key, for one.",
        "The service does not start, or ignores it and trusts nobody.",
        "write the PEM of the CA, certificates only"
    }
    CERTIFICATE_TIME "certificate-time" Refuse {
        "A certificate has expired, or is not valid yet.",
        "No handshake succeeds with it, and the guest only says `Get Resource failed`.",
        "replace the certificate by one that is valid"
    }
    CERTIFICATE_KIND "certificate-kind" Warn {
        "A certificate is not a CA's (CA:TRUE, and keyCertSign where usages are named), or is signed with SHA-1 or MD5.",
        "TLS libraries differ in whether they take such a certificate for a root.",
        "issue a CA, and a certificate for the KBS below it"
    }
    KBS_DIFFER "kbs-differ" Warn {
        "aa.toml, cdh.toml and countersign.toml name different KBSs, or trust different certificates.",
        "The guest attests to one and fetches from another, which knows no token of it.",
        "write the same URL and certificate into all of them, unless it is meant so"
    }
    SEALED_UNVERIFIED "sealed-unverified" Prod {
        "`skip_sealed_secret_verification` is on in cdh.toml.",
        "Anybody can then write a sealed secret, and the guest opens it.",
        "remove `skip_sealed_secret_verification`"
    }
    CREDENTIAL "credential" Refuse {
        "An entry of `[[credentials]]` in cdh.toml has a path or a resource that the data hub refuses.",
        "The data hub takes paths below /run/confidential-containers/cdh/kbs and resources kbs:///r/t/t only, and does not start.",
        "correct `path` and `resource_uri`"
    }
    COUNTERSIGN "countersign" Refuse {
        "countersign.toml is not a good configuration.",
        "`init` in the guest refuses it with exit code 78, and the pod does not start.",
        "correct the line; `kubectl countersign config check` tests the file alone"
    }
    CONFIGURATION_ABSENT "configuration-absent" Warn {
        "There is no countersign.toml in the initdata, and --delivered names no file.",
        "The guest then takes what lies at the KBS as kbs:///default/countersign/<namespace>.<workload>; where nothing does, `init` ends with exit code 66.",
        "name the file that lies there with --delivered, so that it is checked too"
    }
    DELIVERED "delivered" Refuse {
        "With --delivered: the file is not a configuration that a KBS can deliver. It has a mistake, or no `for`.",
        "`init` in the guest refuses it with exit code 78, and the pod does not start.",
        "correct the line; `kubectl countersign config explain --as delivered-unproven` tests the file alone"
    }
    DELIVERED_FOR "delivered-for" Refuse {
        "With --delivered and --pod: `for` names another workload than the variables of a container do.",
        "The guest fetches the file of the workload that the variables name, and refuses one that is written for another (78).",
        "correct `for`, or render the pod of that workload"
    }
    DELIVERED_SHADOWED "delivered-shadowed" Warn {
        "With --delivered: the initdata has a countersign.toml as well.",
        "The one in the initdata holds where the guest can prove it, and where it cannot `init` ends with exit code 71: the delivered one is never read.",
        "remove countersign.toml from the initdata, or do not upload the file"
    }
}

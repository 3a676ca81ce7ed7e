//! `initdata new`: a commented starter that parses, and that `check` accepts outside production. Our
//! own configuration is in it, or beside it for the KBS to deliver.

use std::fmt::Write as _;
use std::path::Path;

use super::{Output, read_text, refuse, write_new};
use crate::cli::New;
use crate::config::{self, For, KbsUrl, Problem};
use crate::finding::{Class, Finding};
use crate::formats::initdata::Initdata;

/// What goes into the document, each part already read.
struct Parts<'a> {
    url: &'a KbsUrl,
    ca: Option<&'a str>,
    /// Namespace and workload.
    audience: Option<(&'a str, &'a str)>,
    images: &'a [String],
    policy: Option<&'a str>,
    /// Whether our own configuration stays out of it.
    delivered: bool,
}

/// What comes out.
struct Made {
    initdata: String,
    /// countersign.toml; where it is not delivered, the initdata holds it too.
    config: String,
}

pub(super) fn run(arguments: &New) -> Result<Output, Finding> {
    let url = KbsUrl::parse(&arguments.kbs_url)
        .map_err(|error| refuse(format!("--kbs-url {error}")).next("correct --kbs-url: https://host:port"))?;
    let ca = arguments.kbs_ca.as_deref().map(read_text).transpose()?;
    if url.tls && ca.is_none() {
        return Err(refuse("--kbs-url is https and --kbs-ca is missing".to_owned())
            .why("without a CA the guest would trust any certificate of the web")
            .next("name the PEM file of the KBS's CA with --kbs-ca"));
    }
    let policy = arguments.policy.as_deref().map(read_text).transpose()?;
    for image in &arguments.image {
        if !is_repository(image) {
            return Err(refuse("--image is not a repository".to_owned())
                .why("it becomes a scope of the image policy, which is compared with image names as they are pulled")
                .next("correct --image: registry.example/payments/api, without scheme, tag and digest"));
        }
    }
    let made = render(&Parts {
        url: &url,
        ca: ca.as_deref(),
        audience: arguments.namespace.as_deref().zip(arguments.workload.as_deref()),
        images: &arguments.image,
        policy: policy.as_deref(),
        delivered: arguments.delivered.is_some(),
    })?;
    // What is printed is what the guest's own parsers accept.
    let initdata = Initdata::parse(made.initdata.as_bytes())
        .map_err(|error| refuse(format!("the initdata that came out does not parse: {error}")))?;
    let config = config::parse(initdata.countersign().unwrap_or(&made.config)).map_err(|problems| unfit(&problems))?;
    let mut output = Output::text(made.initdata);
    if let (Some(file), Some(audience)) = (&arguments.delivered, &config.audience) {
        config::resolve::as_delivered(&made.config, "countersign.toml").map_err(|problems| unfit(&problems))?;
        write_new(file, &made.config)?;
        output.err = notes(file, audience, &url, arguments.kbs_ca.as_deref());
    }
    Ok(output)
}

fn unfit(problems: &[Problem]) -> Finding {
    let finding = config::problem::finding(problems);
    Finding { class: Class::Usage, ..finding }.next("correct --workload, --namespace or --kbs-ca")
}

/// What to do with the delivered file, and what it will count for.
fn notes(file: &Path, audience: &For, url: &KbsUrl, ca: Option<&Path>) -> Vec<String> {
    let resource = audience.resource();
    let path = resource.trim_start_matches("kbs:///");
    let ca = ca.map(|ca| format!(" --cert-file {}", ca.display())).unwrap_or_default();
    vec![
        format!("note: {} is the configuration, and not in the initdata. Upload it before the pod starts:", file.display()),
        format!(
            "  kbs-client --url {url}{ca} config --auth-private-key admin.key set-resource --path {path} --resource-file {}",
            file.display()
        ),
        "note: where the guest shows 8006 with `resource` only, as stock Kata does, it counts as `delivered-unproven`; \
         where the hardware or the agent vouches for this initdata and the KBS is https, as `delivered` \
         (docs/roles/init.md)"
            .to_owned(),
    ]
}

fn render(parts: &Parts<'_>) -> Result<Made, Finding> {
    for (name, text) in [("--kbs-ca", parts.ca), ("--policy", parts.policy)] {
        if text.is_some_and(|text| text.contains("'''") || (name == "--kbs-ca" && text.contains(['"', '\\']))) {
            return Err(refuse(format!("the file of {name} holds quotes that would end a TOML string"))
                .next(format!("remove the quotes from the file of {name}: a PEM has none, a policy no row of three")));
        }
    }
    let url = parts.url;
    let pem =
        |key: &str| parts.ca.map(|pem| format!("{key} = \"\"\"\n{}\n\"\"\"\n", pem.trim_end())).unwrap_or_default();
    let mut out = String::from(HEAD);
    let _ = write!(
        out,
        "# Where the attestation agent attests, and the CA it should know.\n\
         \"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"{url}\"\n{}'''\n\n\
         # Where the confidential data hub fetches resources, and which images it may pull.\n\
         \"cdh.toml\" = '''\n[kbc]\nname = \"cc_kbc\"\nurl = \"{url}\"\n{}\n{}'''\n\n",
        pem("cert"),
        pem("kbs_cert"),
        images(parts.images),
    );
    let config = own(parts, &pem("ca"));
    match parts.audience {
        Some((namespace, workload)) if parts.delivered => {
            let _ = write!(
                out,
                "# No countersign.toml: the KBS delivers it, as kbs:///default/countersign/{namespace}.{workload}.\n\n"
            );
        }
        _ => {
            let _ = write!(
                out,
                "# Our own configuration. `kubectl countersign config check` tests it as a file of its own.\n\
                 \"countersign.toml\" = '''\n{config}'''\n\n"
            );
        }
    }
    match parts.policy {
        Some(text) => {
            let _ = write!(
                out,
                "# The kata-agent policy: which containers, images, variables and mounts the host may start here.\n\
                 \"policy.rego\" = '''\n{}\n'''\n",
                text.trim_end()
            );
        }
        None => out.push_str(NO_POLICY),
    }
    Ok(Made { initdata: out, config })
}

/// countersign.toml.
fn own(parts: &Parts<'_>, ca: &str) -> String {
    let url = parts.url;
    let audience = parts.audience.map_or_else(
        || "# for = { namespace = \"payments\", workload = \"api\" }   # whom this is written for\n".to_owned(),
        |(namespace, workload)| format!("for = {{ namespace = \"{namespace}\", workload = \"{workload}\" }}\n"),
    );
    let http = if url.tls || url.is_loopback() {
        ""
    } else {
        "allow_http = true   # no TLS: the host can answer in its place\n"
    };
    format!(
        "version = 1\nserial = 1   # never goes down; raise it with each change\n{audience}\n[kbs]\nurl = \
         [\"{url}\"]\n{ca}{http}{SECRETS}"
    )
}

const HEAD: &str = "\
# Initdata: the hardware commits to the digest of these exact bytes before the guest starts.
# One changed space is another digest. It holds no secrets: every verifier reads it.
#   kubectl countersign initdata check --prod initdata.toml
algorithm = \"sha384\"   # sha256 for Azure's vTPM, sha512 for Arm CCA
version = \"0.1.0\"

[data]
";

const SECRETS: &str = "
[[secrets.gate]]   # nothing is published unless this holds; upload `success` there
from = \"kbs:///default/attestation-status/status\"
equals = \"success\"

# [[secrets.file]]
# path = \"db/password\"                     # below /run/countersign/secrets
# from = \"kbs:///payments/db/password\"     # the resource at the KBS
";

const NO_POLICY: &str = "\
# No kata-agent policy yet: without one the host can start any container in this guest, and no
# check inside it means anything. Generate it with genpolicy from the rendered pod, our container
# included, and pass it with --policy.
";

/// The image policy of `cdh.toml`: everything is rejected but the repositories named.
fn images(repositories: &[String]) -> String {
    let Some((last, others)) = repositories.split_last() else {
        return "# No image policy: any image may be pulled. Name yours with --image, or write\n\
                # [image]\n# image_security_policy_uri = \"kbs:///default/security-policy/production\"\n"
            .to_owned();
    };
    let scope = |name: &String| format!("      \"{name}\": [{{ \"type\": \"insecureAcceptAnything\" }}]");
    let mut scopes: Vec<String> = others.iter().map(scope).collect();
    scopes.push(scope(last));
    format!(
        "# Which repositories may be pulled from. `insecureAcceptAnything` takes any image of the repository:\n\
         # the kata-agent policy pins the digests. `sigstoreSigned` with a key at the KBS says who built them.\n\
         [image]\nimage_security_policy = \"\"\"\n{{\n  \"default\": [{{ \"type\": \"reject\" }}],\n  \"transports\": {{\n    \
         \"docker\": {{\n{}\n    }}\n  }}\n}}\n\"\"\"\n",
        scopes.join(",\n")
    )
}

/// `host[:port]/path`, in the characters that image names have.
fn is_repository(text: &str) -> bool {
    let Some((host, path)) = text.split_once('/') else { return false };
    let plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    };
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    text.len() <= 255 && plain(name) && port.parse::<u16>().is_ok() && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    fn with<'a>(url: &'a KbsUrl, ca: Option<&'a str>, policy: Option<&'a str>) -> Result<String, Finding> {
        render(&Parts { url, ca, audience: Some(("payments", "api")), images: &[], policy, delivered: false })
            .map(|made| made.initdata)
    }

    #[test]
    fn a_new_initdata_parses_and_names_the_kbs() {
        let url = KbsUrl::parse("https://kbs.example:8443").unwrap();
        let text = with(&url, Some(PEM), Some("package agent_policy\n")).unwrap();
        let initdata = Initdata::parse(text.as_bytes()).unwrap();
        for kbs in [initdata.aa_kbs(), initdata.cdh_kbs()] {
            let kbs = kbs.unwrap().unwrap();
            assert_eq!(kbs.url, "https://kbs.example:8443");
            assert_eq!(kbs.cert.unwrap().trim(), PEM.trim());
        }
        assert_eq!(initdata.policy().unwrap().trim(), "package agent_policy");
        assert!(initdata.countersign().unwrap().contains("namespace = \"payments\", workload = \"api\""));
    }

    #[test]
    fn images_become_a_policy_that_rejects_the_rest() {
        let text = images(&["registry.example/payments/api".to_owned(), "localhost:5000/x".to_owned()]);
        let table: toml::Table = text.parse().unwrap();
        let policy: serde_json::Value =
            serde_json::from_str(table["image"]["image_security_policy"].as_str().unwrap()).unwrap();
        assert_eq!(policy["default"][0]["type"], "reject");
        assert_eq!(policy["transports"]["docker"].as_object().unwrap().len(), 2);
        for bad in [
            "nginx",
            "https://registry.example/a",
            "registry.example/a:1",
            "registry.example/a@sha256:0",
            "a/\"",
            "A/b",
            "/a",
            "a/",
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn a_file_cannot_break_out_of_its_string() {
        let url = KbsUrl::parse("https://kbs.example:8443").unwrap();
        for evil in ["'''\n[data.x]", "\"\"\"\nurl=1", "\\"] {
            assert!(with(&url, Some(evil), None).is_err());
        }
        assert!(with(&url, None, Some("'''")).is_err());
    }
}

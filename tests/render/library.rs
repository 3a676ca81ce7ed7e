//! `policies/mpol`: the emitted policies, in the layout of Kyverno's policy library.
//!
//! After a change of the table or of a tier: `COUNTERSIGN_BLESS=1 cargo test --test render`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::documents;
use super::tool::Desk;

/// The day of the first release, for the package index.
const CREATED: &str = "2026-11-24T00:00:00Z";

pub(crate) fn compare(desk: &Desk, policies: &Path) {
    #[allow(clippy::disallowed_methods)]
    let bless = std::env::var_os("COUNTERSIGN_BLESS").is_some();
    for tier in ["dev", "prod-snp", "prod-tdx", "peer-pods"] {
        let name = format!("countersign-inject-{tier}");
        for (file, text) in package(desk, policies, tier, &name) {
            let path = policies.join("mpol").join(&name).join(file);
            if bless {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == text,
                "{} differs from the table in src/tool/render: run `COUNTERSIGN_BLESS=1 cargo test --test render`",
                path.display()
            );
        }
    }
}

/// The files of one policy.
fn package(desk: &Desk, policies: &Path, tier: &str, name: &str) -> Vec<(String, String)> {
    let run = |arguments: &[&str]| {
        let said = desk.tool(arguments);
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    let policy = run(&["policies", "emit", "--tier", tier]);
    let corpus = policies.join("corpus/library.yaml").display().to_string();
    let cluster = policies.join("corpus/cluster.yaml");
    let maps = cluster.display().to_string();
    let render =
        |more: &[&str]| run(&[&["render", "-f", &corpus, "--tier", tier, "--configmap", &maps], more].concat());
    let before = render(&["--before"]);
    let patched = render(&["--pods"]);
    let mut context = String::from(
        "apiVersion: cli.kyverno.io/v1alpha1\nkind: Context\nmetadata:\n  name: cluster\nspec:\n  resources:\n",
    );
    for map in documents(&std::fs::read_to_string(&cluster).unwrap()) {
        let _ = writeln!(context, "    - {map}");
    }
    let values = format!(
        "apiVersion: cli.kyverno.io/v1alpha1\nkind: Values\nmetadata:\n  name: values\nnamespaceSelector:\n  - name: \
         payments\n    labels:\n      countersign.dev/tier: {tier}\n"
    );
    let test = ".kyverno-test";
    vec![
        (format!("{name}.yaml"), policy.clone()),
        ("artifacthub-pkg.yml".to_owned(), artifact(tier, name, &policy)),
        (format!("{test}/resources.yaml"), before.clone()),
        (format!("{test}/patched.yaml"), patched),
        (format!("{test}/context.yaml"), context),
        (format!("{test}/values.yaml"), values),
        (format!("{test}/kyverno-test.yaml"), results(name, &documents(&before))),
    ]
}

fn results(name: &str, pods: &[Value]) -> String {
    let mut text = format!(
        "apiVersion: cli.kyverno.io/v1alpha1\nkind: Test\nmetadata:\n  name: {name}\npolicies:\n  - ../{name}.yaml\n\
         resources:\n  - resources.yaml\nvariables: values.yaml\ncontext: context.yaml\nresults:\n"
    );
    for pod in pods {
        let metadata = &pod["metadata"];
        let out = metadata["labels"]["coco.io/skip-initdata"].is_string();
        let (result, patched) = if out { ("skip", "") } else { ("pass", "    patchedResources: patched.yaml\n") };
        let _ = write!(
            text,
            "  - policy: {name}\n    isMutatingPolicy: true\n    kind: Pod\n    resources:\n      - {}/{}\n{patched}    \
             result: {result}\n",
            metadata["namespace"].as_str().unwrap(),
            metadata["name"].as_str().unwrap()
        );
    }
    text
}

/// The package index's file; the digest is of the policy's.
fn artifact(tier: &str, name: &str, policy: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, policy.as_bytes());
    let hex = digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    format!(
        "name: {name}\nversion: 1.0.0\ndisplayName: Inject countersign ({tier})\ncreatedAt: \"{CREATED}\"\ndescription: >-\n  \
         Makes pods of namespaces labelled countersign.dev/tier={tier} confidential: runtime class, initdata,\n  memory \
         volume, and an init container that attests before the app starts.\ninstall: |-\n  ```shell\n  kubectl \
         countersign policies emit --tier {tier} --image registry.example/countersign@sha256:… | kubectl apply -f -\n  \
         ```\nkeywords:\n  - kyverno\n  - Confidential Computing\n  - MutatingPolicy\nreadme: |\n  The image in the \
         policy is a placeholder. Emit the policy with yours.\nannotations:\n  kyverno/category: Confidential \
         Computing\n  kyverno/subject: Pod\n  kyverno/kubernetesVersion: \"1.30-1.36\"\ndigest: {hex}\n"
    )
}

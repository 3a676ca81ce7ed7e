//! `initdata configmap`: what a release puts into the cluster.
//!
//! Two objects. `<workload>-<digest8>` is immutable and holds the document twice: as TOML, which
//! the pod mounts, and as the annotation's value, under the key that the field's admission policies
//! read (`INITDATA`). `<workload>` is the pointer that a release moves: it names the other one and
//! the digest. Neither is believed by a guest: it compares what is mounted with the hardware.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::pack::packed;
use super::{hex, load, refuse};
use crate::cli::Configmap;
use crate::finding::Finding;
use crate::formats::initdata::Initdata;
use crate::tool::Output;

/// Digits of the digest in the name. Enough to tell releases apart, and no proof of anything.
const DIGITS: usize = 8;

/// Most bytes of a DNS label, RFC 1123.
const MAX_LABEL: usize = 63;

/// Most bytes of a `ConfigMap`'s data: what etcd and the API server accept.
const MAX_DATA: usize = 1024 * 1024;

/// Most bytes of the object that `kubectl apply` repeats in its annotation
/// `kubectl.kubernetes.io/last-applied-configuration`: Kubernetes' limit for all annotations of an
/// object, less a KiB for the object's own names.
const MAX_APPLIED: usize = 255 * 1024;

pub(super) fn run(arguments: &Configmap) -> Result<Output, Finding> {
    let longest = MAX_LABEL.saturating_sub(DIGITS).saturating_sub(1);
    label("--workload", &arguments.workload, longest)?;
    label("--namespace", &arguments.namespace, MAX_LABEL)?;
    let initdata = load(&arguments.file)?;
    let mut output = Output::text(configmaps(&arguments.workload, &arguments.namespace, &initdata)?);
    if server_side(initdata.toml(), packed(&initdata)?.len()) {
        output.err.push(
            "note: too long for a plain `kubectl apply`, which repeats it in an annotation: use `kubectl apply --server-side -f -`"
                .to_owned(),
        );
    }
    Ok(output)
}

/// Whether the object is longer than `kubectl apply` can repeat in its annotation. Server-side apply writes
/// none.
pub(super) fn server_side(toml: &str, packed: usize) -> bool {
    // In JSON as Go writes it.
    let written = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        b'<' | b'>' | b'&' | 0..0x20 => 6,
        _ => 1_usize,
    };
    toml.bytes().map(written).fold(packed, usize::saturating_add) > MAX_APPLIED
}

/// Both objects, as YAML.
pub(in crate::tool) fn configmaps(workload: &str, namespace: &str, initdata: &Initdata) -> Result<String, Finding> {
    let annotation = packed(initdata)?;
    if initdata.toml().len().saturating_add(annotation.len()) > MAX_DATA {
        return Err(refuse("the TOML and the annotation together are longer than 1 MiB".to_owned())
            .why("no ConfigMap holds more")
            .next("remove what the guest does not need from the initdata"));
    }
    Ok(render(workload, namespace, initdata, &annotation))
}

fn render(workload: &str, namespace: &str, initdata: &Initdata, annotation: &str) -> String {
    let digest = hex(&initdata.digest());
    let short: String = digest.chars().take(DIGITS).collect();
    let algorithm = initdata.algorithm().label();
    // Our mount accepts all three forms; TOML is the one that people can read.
    let (key, toml) = match block(initdata.toml()) {
        Some(block) => ("data", format!("  initdata.toml: {block}")),
        None => ("binaryData", format!("  initdata.toml: {}\n", STANDARD.encode(initdata.toml()))),
    };
    let data = if key == "data" {
        format!("data:\n  INITDATA: {annotation}\n{toml}")
    } else {
        format!("data:\n  INITDATA: {annotation}\n{key}:\n{toml}")
    };
    // Quoted: a name of digits alone would be read as a number.
    let object = |name: &str, kind: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{name}\"\n  namespace: \"{namespace}\"\n  \
             labels:\n    coco.io/type: {kind}\n    countersign.dev/workload: \"{workload}\"\n{rest}"
        )
    };
    let immutable = object(&format!("{workload}-{short}"), "initdata", &format!("immutable: true\n{data}"));
    let moved = format!("data:\n  initdata-configmap: \"{workload}-{short}\"\n  digest: \"{algorithm}:{digest}\"\n");
    format!("{immutable}---\n{}", object(workload, "initdata-pointer", &moved))
}

/// A YAML block scalar that reads back as exactly this text, or `None` where no block scalar can:
/// carriage returns, control characters, and leading spaces would not come back.
fn block(text: &str) -> Option<String> {
    let plain = |c: char| {
        c == '\n' || c == '\t' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    if !text.chars().all(plain) || text.starts_with([' ', '\n', '\t']) {
        return None;
    }
    // Chomping: exactly as many line ends as the text has.
    let indicator = if text.ends_with('\n') { "|+" } else { "|-" };
    let mut out = format!("{indicator}\n");
    for line in text.split_inclusive('\n') {
        if line != "\n" {
            out.push_str("    ");
        }
        out.push_str(line);
    }
    if !text.ends_with('\n') {
        out.push('\n');
    }
    Some(out)
}

/// RFC 1123: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`.
fn label(flag: &str, text: &str, longest: usize) -> Result<(), Finding> {
    let good = (1..=longest).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if good {
        return Ok(());
    }
    Err(refuse(format!("{flag} is not a name of Kubernetes (RFC 1123) of at most {longest} characters"))
        .why("it becomes the name of a ConfigMap, with a hyphen and 8 digits behind it for the workload")
        .next(format!("correct {flag}: a-z, 0-9 and hyphens inside")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initdata(data: &str) -> Initdata {
        Initdata::parse(format!("algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n{data}").as_bytes()).unwrap()
    }

    #[test]
    fn what_the_pod_mounts_is_byte_for_byte_what_was_given() {
        for data in [
            "\"aa.toml\" = '''\n[token_configs]\n\n  deep: \"x\" # y\n'''\n",
            "\"a\" = \"no line end\"",
            "\"a\" = 'many ends'\n\n\n",
            "\"a\" = '''\ntab\there ---\n---\n- x: {{y}}\n'''\n",
            "\"a\" = \"crlf\"\r\n",
            "\"a\" = '\u{2028}'\n",
        ] {
            let initdata = initdata(data);
            let text = render("api", "payments", &initdata, &packed(&initdata).unwrap());
            let mut documents = yaml_serde::Deserializer::from_str(&text)
                .map(|document| <serde_json::Value as serde::Deserialize>::deserialize(document).unwrap());
            let (first, pointer) = (documents.next().unwrap(), documents.next().unwrap());
            let mounted = first["data"]["initdata.toml"].as_str().map_or_else(
                || STANDARD.decode(first["binaryData"]["initdata.toml"].as_str().unwrap()).unwrap(),
                |text| text.as_bytes().to_vec(),
            );
            assert_eq!(mounted, initdata.toml().as_bytes(), "{text}");
            let annotation = first["data"]["INITDATA"].as_str().unwrap();
            assert_eq!(Initdata::parse(annotation.as_bytes()).unwrap().toml(), initdata.toml());
            assert_eq!(first["immutable"], true);
            assert_eq!(pointer["data"]["initdata-configmap"], first["metadata"]["name"]);
            assert_eq!(pointer["metadata"]["name"], "api");
            assert_eq!(pointer.get("immutable"), None, "a release moves the pointer");
            assert!(documents.next().is_none());
        }
    }

    #[test]
    fn names_that_kubernetes_would_refuse_are_refused_here() {
        for bad in ["", "Api", "-api", "api-", "a_b", "a.b", "a/b", "a\nb"] {
            assert!(label("--workload", bad, 54).is_err(), "{bad}");
        }
        assert!(label("--workload", &"a".repeat(55), 54).is_err());
        assert!(label("--workload", &"a".repeat(54), 54).is_ok());
    }
}

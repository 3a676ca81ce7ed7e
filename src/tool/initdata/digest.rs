//! `initdata digest`: what the hardware will hold, and where each value goes.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{hex, load};
use crate::cli::DigestFormat;
use crate::finding::{Finding, printable};
use crate::formats::initdata::{Algorithm, Initdata};

/// One field of one kind of hardware.
struct Field {
    /// Its name in JSON.
    id: &'static str,
    /// Its name as its makers write it.
    name: &'static str,
    /// Where it goes.
    purpose: &'static str,
    /// The bytes, or why there are none.
    value: Result<Vec<u8>, &'static str>,
}

pub(super) fn run(file: &Path, format: DigestFormat) -> Result<String, Finding> {
    let initdata = load(file)?;
    Ok(match format {
        DigestFormat::Text => text(&file.display().to_string(), &initdata),
        DigestFormat::Json => as_json(&initdata),
    })
}

fn fields(initdata: &Initdata) -> [Field; 5] {
    [
        Field {
            id: "digest",
            name: "digest",
            purpose: "the whole digest, under the document's own algorithm; a ConfigMap's name has its first 8 digits",
            value: Ok(initdata.digest()),
        },
        Field {
            id: "host_data",
            name: "HOST_DATA",
            purpose: "SEV-SNP: `init_data` in the claims of Trustee, in its reference values and in pins",
            value: Ok(initdata.host_data().to_vec()),
        },
        Field {
            id: "mrconfigid",
            name: "MRCONFIGID",
            purpose: "TDX: `init_data` in the claims of Trustee, in its reference values and in pins",
            value: Ok(initdata.mrconfigid().to_vec()),
        },
        Field {
            id: "cca_rpv",
            name: "CCA RPV",
            purpose: "Arm CCA: the realm personalization value; Trustee accepts it with sha512 only",
            value: Ok(initdata.cca_rpv().to_vec()),
        },
        Field {
            id: "azure_pcr8",
            name: "Azure PCR8",
            purpose: "Azure vTPM (peer pods): the reference value of PCR 8",
            value: initdata.azure_pcr8().map(|value| value.to_vec()).ok_or("needs algorithm = \"sha256\""),
        },
    ]
}

fn text(name: &str, initdata: &Initdata) -> String {
    let mut out = format!("{}: algorithm {}\n", printable(name, 200), initdata.algorithm().label());
    for field in fields(initdata) {
        let _ = write!(out, "\n{}\n  {}\n", field.name, field.purpose);
        let _ = match field.value {
            Ok(value) => writeln!(out, "  hex     {}\n  base64  {}", hex(&value), STANDARD.encode(&value)),
            Err(why) => writeln!(out, "  none: it {why}"),
        };
    }
    let (snp, tdx) = (hex(&initdata.host_data()), hex(&initdata.mrconfigid()));
    let _ = write!(
        out,
        "\nA resource policy of the KBS (Rego), both kinds of hardware:\n\n{}\n\
         \nReference values (RVPS), as a list under the name that the attestation policy asks for:\n\n  \
         [\"{snp}\", \"{tdx}\"]\n\
         \nPins of peers (`init_data` of this identity):\n\n  \
         init_data = [\"{snp}\", \"{tdx}\"]\n",
        rego(&snp, &tdx)
    );
    if initdata.algorithm() != Algorithm::Sha256 {
        out.push_str("\nHOST_DATA holds the first 32 bytes of the digest. That is how SEV-SNP is specified.\n");
    }
    out
}

fn rego(snp: &str, tdx: &str) -> String {
    format!(
        "  import rego.v1\n  allowed_init_data := {{\"{snp}\", \"{tdx}\"}}\n  \
         input.submods.cpu0[\"ear.veraison.annotated-evidence\"].init_data in allowed_init_data"
    )
}

fn as_json(initdata: &Initdata) -> String {
    let mut out = serde_json::Map::new();
    out.insert("algorithm".to_owned(), initdata.algorithm().label().into());
    for field in fields(initdata) {
        let value = field
            .value
            .map_or(serde_json::Value::Null, |value| json!({ "hex": hex(&value), "base64": STANDARD.encode(&value) }));
        out.insert(field.id.to_owned(), value);
    }
    let (snp, tdx) = (hex(&initdata.host_data()), hex(&initdata.mrconfigid()));
    out.insert("reference_values".to_owned(), json!([snp, tdx]));
    out.insert("pins".to_owned(), json!({ "init_data": [snp, tdx] }));
    out.insert("rego".to_owned(), rego(&snp, &tdx).into());
    format!("{:#}\n", serde_json::Value::Object(out))
}

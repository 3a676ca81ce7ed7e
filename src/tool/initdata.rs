//! `kubectl countersign initdata new|pack`: a starter, and the annotation value.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use flate2::{Compression, GzBuilder};

use crate::cli::{Initdata as Command, New};
use crate::config::KbsUrl;
use crate::finding::{Class, Finding};
use crate::formats::initdata::Initdata;

pub(super) fn run(command: &Command) -> Result<String, Finding> {
    match command {
        Command::New(arguments) => new(arguments),
        Command::Pack { file } => pack(file),
    }
}

fn new(arguments: &New) -> Result<String, Finding> {
    let url = KbsUrl::parse(&arguments.kbs_url)
        .map_err(|error| refuse(format!("--kbs-url {error}")).next("correct --kbs-url: https://host:port"))?;
    let ca = arguments.kbs_ca.as_deref().map(read).transpose()?;
    if url.tls && ca.is_none() {
        return Err(refuse("--kbs-url is https and --kbs-ca is missing".to_owned())
            .why("without a CA the guest would trust any certificate of the web")
            .next("name the PEM file of the KBS's CA with --kbs-ca"));
    }
    let policy = arguments.policy.as_deref().map(read).transpose()?;
    let text = render(&url, ca.as_deref(), policy.as_deref())?;
    // What is printed is what the guest's own parser accepts.
    Initdata::parse(text.as_bytes())
        .map_err(|error| refuse(format!("the initdata that came out does not parse: {error}")))?;
    Ok(text)
}

fn render(url: &KbsUrl, ca: Option<&str>, policy: Option<&str>) -> Result<String, Finding> {
    for (name, text) in [("--kbs-ca", ca), ("--policy", policy)] {
        if text.is_some_and(|text| text.contains("'''") || (name == "--kbs-ca" && text.contains("\"\"\""))) {
            return Err(refuse(format!("the file of {name} holds a row of three quotes, which ends a TOML string"))
                .next(format!("remove the row of quotes from the file of {name}")));
        }
    }
    let (aa_cert, cdh_cert) = ca.map_or_else(Default::default, |pem| {
        let pem = pem.trim_end();
        (format!("cert = \"\"\"\n{pem}\n\"\"\"\n"), format!("kbs_cert = \"\"\"\n{pem}\n\"\"\"\n"))
    });
    let policy = match policy {
        Some(text) => format!("\"policy.rego\" = '''\n{}\n'''\n", text.trim_end()),
        None => "# No kata-agent policy yet: without one the host can start any container in this guest, and no\n\
                 # check inside it means anything. Generate it with genpolicy and pass it with --policy.\n"
            .to_owned(),
    };
    Ok(format!(
        "# Initdata: the hardware commits to the digest of these exact bytes before the guest starts.\n\
         # One changed space is another digest.\n\
         algorithm = \"sha384\"\n\
         version = \"0.1.0\"\n\
         \n\
         [data]\n\
         # Where the attestation agent attests, and the CA it should know.\n\
         \"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"{url}\"\n{aa_cert}'''\n\
         # Where the confidential data hub fetches resources.\n\
         \"cdh.toml\" = '''\n[kbc]\nname = \"cc_kbc\"\nurl = \"{url}\"\n{cdh_cert}'''\n\
         {policy}"
    ))
}

fn pack(file: &Path) -> Result<String, Finding> {
    let text = read(file)?;
    let initdata = Initdata::parse(text.as_bytes())
        .map_err(|error| refuse(format!("{}: {error}", file.display())).next(format!("correct {}", file.display())))?;
    // No time stamp, no name: the same file gives the same annotation everywhere.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let packed = gzip.write_all(initdata.toml().as_bytes()).and_then(|()| gzip.finish());
    let packed = packed.map_err(|error| Finding::new(Class::Bug, format!("gzip failed: {error}")))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(packed))
}

fn read(path: &Path) -> Result<String, Finding> {
    std::fs::read_to_string(path).map_err(|error| {
        refuse(format!("{} cannot be read: {}", path.display(), error.kind()))
            .next(format!("correct the path {}", path.display()))
    })
}

fn refuse(saw: String) -> Finding {
    Finding::new(Class::Usage, saw)
        .why("initdata is what the hardware vouches for: it is written from checked parts only")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_new_initdata_parses_and_names_the_kbs() {
        let url = KbsUrl::parse("https://kbs.example:8443").unwrap();
        let text = render(&url, Some(PEM), Some("package agent_policy\n")).unwrap();
        let initdata = Initdata::parse(text.as_bytes()).unwrap();
        let kbs = initdata.kbs().unwrap();
        assert_eq!(kbs.url, "https://kbs.example:8443");
        assert_eq!(kbs.cert.unwrap().trim(), PEM.trim());
        assert!(text.contains("package agent_policy"));
    }

    #[test]
    fn a_file_cannot_break_out_of_its_string() {
        let url = KbsUrl::parse("https://kbs.example:8443").unwrap();
        for evil in ["'''\n[data.x]", "\"\"\"\nurl=1"] {
            assert!(render(&url, Some(evil), None).is_err());
        }
        assert!(render(&url, None, Some("'''")).is_err());
    }
}

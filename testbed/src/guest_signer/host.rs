//! A KBS beside a guest under QEMU, in the signer's own process: it believes the signer's guests,
//! whose keys nobody else has. And a port where the guest's test program asks for the next lie.
//!
//! | request to the control port | |
//! |---|---|
//! | `POST /script`, a signer's script | the signer follows it; what the KBS is asked counts from 0 |
//! | `GET /kbs` | `requests=N attestations=N refusals=Signature,…` of the KBS since then |
//!
//! Both listen on the host's loopback, which the guest sees as [`GATEWAY`].

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::Signer;
use crate::http::{Act, Handler, Seen, Server, Wrap, Wrapped, lock, response};
use crate::kbs::{Kbs, Policy, RunningKbs};
use crate::pki::Ca;
use crate::sim;
use crate::tee::{Document, Guest, SnpGuest, TdxGuest, Vendor, hex};

/// The host's loopback, as QEMU's user network shows it to the guest.
pub const GATEWAY: &str = "10.0.2.2";

/// The one resource that the KBS holds, and its value.
pub const RESOURCE: (&str, &str) = ("payments/db/password", "s3cret");

/// Where the programs in the guest look for it, but those that run a pod.
pub const SECRETS: &str = "/run/pod/secrets";

/// The one identity of a mesh of one: it calls itself.
pub const MEMBER: &str = "spiffe://example.org/ns/payments/sa/api";

/// What the guest's `countersign.toml` is for.
#[derive(Clone, Copy, Debug)]
pub enum For<'d> {
    /// One secret, published in this directory.
    Secrets(&'d str),
    /// A sidecar that calls itself, with everything demanded on both ways.
    Peers,
}

/// The KBS and the control port. Both end when dropped.
#[derive(Debug)]
pub struct Host {
    kbs: RunningKbs,
    control: (Server, SocketAddr),
    ca: String,
    document: Document,
}

/// The KBS's counts when the script was set.
#[derive(Clone, Copy, Debug, Default)]
struct Base {
    requests: usize,
    attestations: usize,
    refusals: usize,
}

impl Host {
    /// Starts both. The KBS releases to affirming guests only, and has reference values for those
    /// of [`Signer::new`].
    pub fn start(what: For<'_>) -> io::Result<(Self, Signer)> {
        let kbs_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ca = Ca::new("guest tests");
        let url = format!("https://{GATEWAY}:{}", kbs_port.local_addr()?.port());
        let (resource, value) = RESOURCE;
        let mesh = Ca::new("mesh");
        let member = mesh.member(MEMBER);
        let kbs = Kbs::healthy()
            .resource("payments/mesh/roots", mesh.pem())
            .resource("payments/api/cert", member.pem())
            .resource("payments/api/key", member.key_pem())
            .tls(ca.leaf(&[GATEWAY, "127.0.0.1"]))
            .resource(resource, value)
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()))
            .reference(&Guest::Tdx(TdxGuest::v4()))
            .serve(kbs_port)?;
        let rest = match what {
            For::Secrets(directory) => secrets(directory, resource),
            For::Peers => peers(),
        };
        let head =
            format!("version = 1\ndeadline = \"90s\"\n[kbs]\nurl = [\"{url}\"]\nca = \"\"\"\n{}\"\"\"\n", ca.pem());
        let document = Document::of_kbs(&url, ca.pem()).countersign(&format!("{head}{rest}"));
        kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
        kbs.set_resource("payments/mesh/pins", pins(&document));
        let signer = Signer::answering("snp").launched_with(&document.digest());
        let control = control(&kbs, &signer)?;
        Ok((Self { kbs, control, ca: ca.pem().to_owned(), document }, signer))
    }

    /// The initdata that the signer's guests were launched with.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The KBS.
    pub fn kbs(&self) -> &RunningKbs {
        &self.kbs
    }

    /// The control port.
    pub fn control(&self) -> SocketAddr {
        self.control.1
    }

    /// Writes what the guest is to have: `initdata.toml`, `ca.pem`, the `kbs`'s URL as the guest sees
    /// it, the number of the `control` port, and `makers` for `--sim-makers`.
    pub fn lay_out(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("initdata.toml"), self.document.text())?;
        fs::write(directory.join("ca.pem"), &self.ca)?;
        fs::write(directory.join("kbs"), self.kbs.url().replace("127.0.0.1", GATEWAY))?;
        fs::write(directory.join("control"), self.control.1.port().to_string())?;
        let (makers, vendor) = (directory.join("makers"), Vendor::ours());
        fs::create_dir_all(&makers)?;
        fs::write(makers.join(sim::AMD), vendor.amd_roots())?;
        fs::write(makers.join(sim::INTEL), vendor.intel_root())
    }
}

/// One secret, by the direct road or not at all.
fn secrets(directory: &str, resource: &str) -> String {
    format!(
        "[secrets]\ndirectory = \"{directory}\"\n\
         [[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///{resource}\"\n"
    )
}

/// A sidecar whose app calls itself through both of its ways.
fn peers() -> String {
    format!(
        "[identity]\nsource = \"kbs-certificate\"\ncertificate = \"kbs:///payments/api/cert\"\n\
         key = \"kbs:///payments/api/key\"\nspiffe = \"{MEMBER}\"\n\
         [peers]\ntrust = \"both\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\npins = \"kbs:///payments/mesh/pins\"\n\
         max_age = \"1h\"\nlevel = \"hardware\"\n\
         [metrics]\nlisten = \"127.0.0.1:15822\"\n\
         [[inbound]]\nlisten = \"127.0.0.1:8443\"\napp = \"127.0.0.1:8080\"\nprotocol = \"tcp\"\nexposure = \"warn\"\n\
         allow = [\"{MEMBER}\"]\n\
         [[outbound]]\nlisten = \"127.0.0.1:15432\"\nto = \"127.0.0.1:8443\"\npeer = \"{MEMBER}\"\n"
    )
}

/// Everything that pins can demand of the one guest.
fn pins(document: &Document) -> String {
    let chip = hex(&SnpGuest::genoa().chip_id);
    let pin = json!({"init_data": [hex(&document.digest())], "hardware_ids": [chip]});
    json!({"serial": 1, "policy_ids": ["default"], "peers": {MEMBER: pin}}).to_string()
}

fn control(kbs: &RunningKbs, signer: &Signer) -> io::Result<(Server, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (kbs, signer, base) = (kbs.clone(), signer.clone(), Mutex::new(Base::default()));
    let handler: Handler = Arc::new(move |seen| {
        let (status, text) = match controlled(seen, &kbs, &signer, &mut lock(&base)) {
            Ok(text) => ("200 OK", text),
            Err(why) => ("400 Bad Request", why),
        };
        vec![Act::Send(response(status, &[("connection", "close")], text.as_bytes())), Act::Close]
    });
    let wrap: Wrap = Arc::new(|raw| Ok(Wrapped::One(Box::new(raw))));
    let server = Server::start(move || listener.try_clone(), Duration::ZERO, wrap, handler)?;
    Ok((server, address))
}

fn controlled(seen: &Seen, kbs: &RunningKbs, signer: &Signer, base: &mut Base) -> Result<String, String> {
    let refusals = kbs.refusals();
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/script") => {
            signer.set(String::from_utf8_lossy(&seen.body).trim())?;
            *base = Base { requests: kbs.count(), attestations: kbs.attestations(), refusals: refusals.len() };
            Ok("set".to_owned())
        }
        ("GET", "/kbs") => {
            let refusals: Vec<String> = refusals.iter().skip(base.refusals).map(|why| format!("{why:?}")).collect();
            let requests = kbs.count().saturating_sub(base.requests);
            let attestations = kbs.attestations().saturating_sub(base.attestations);
            Ok(format!("requests={requests} attestations={attestations} refusals={}", refusals.join(",")))
        }
        _ => Err("ask for POST /script or GET /kbs".to_owned()),
    }
}

//! The command lines of both binaries. Plain types: what they mean is decided by the roles and tools.

mod connect;
mod explain;
mod initdata;
mod render;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Provenance;

pub use connect::Connect;
pub use explain::Explain;
pub use initdata::{Check, Configmap, DigestFormat, Initdata, New};
pub use render::{Policies, Render, TierChoice};
pub use verify::{Evidence, EvidenceFormat, Expectations, Verify};

/// What happens inside a confidential pod before the app may trust anything.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    about,
    max_term_width = 100,
    after_help = "\
Without a command, COUNTERSIGN_ROLE=init|sidecar|diagnose|issuer names the role (the image needs no arguments).
Exit codes name the class of a refusal; docs/errors.md lists them.

Examples:
  COUNTERSIGN_ROLE=init COUNTERSIGN_NAMESPACE=payments COUNTERSIGN_WORKLOAD=api countersign
  countersign diagnose --config /etc/countersign/countersign.toml"
)]
pub struct Countersign {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands of this release.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch a list of secrets, publish them on memory, exit (an init container)
    #[command(after_help = "\
Examples:
  # plain environment, in the pod's manifest
  COUNTERSIGN_SECRETS=\"db/password=kbs:///payments/db/password\" countersign init
  # a file
  countersign init --config /etc/countersign/countersign.toml")]
    Init(Init),
    /// Hold a certificate, and terminate mTLS in front of the app (a native sidecar)
    #[command(after_help = "\
Examples:
  # in the pod's manifest: the configuration is initdata's, or the KBS delivers it
  COUNTERSIGN_ROLE=sidecar COUNTERSIGN_NAMESPACE=payments COUNTERSIGN_WORKLOAD=api countersign
  # the same in a guest of one's own, and what kubelet asks
  COUNTERSIGN_NAMESPACE=payments COUNTERSIGN_WORKLOAD=api countersign sidecar
  curl -i http://localhost:15821/readyz
Signals: TERM drains, a second TERM cuts; HUP renews the certificate now.")]
    Sidecar,
    /// Hold the mesh's CA, and certify attested workloads (a pod of its own)
    #[command(after_help = "\
Examples:
  # in the manifest of a confidential pod: the configuration is initdata's
  COUNTERSIGN_ROLE=issuer countersign
  # the same, and what kubelet asks
  countersign issuer
  curl -i http://localhost:15821/readyz
Signals: TERM drains, a second TERM cuts; HUP reads CA, roots and pins now.")]
    Issuer,
    /// Walk the chain from the hardware to the app, and name the first broken link
    #[command(after_help = "\
Examples:
  # at a guest's shell, with the pod's configuration
  countersign diagnose --config /etc/countersign/countersign.toml
  # for a ticket: the way to the KBS alone, and a bundle without secrets
  countersign diagnose --only kbs,attest --timeout 30s --bundle /tmp/diagnose.tar.gz
As a container's role: COUNTERSIGN_ROLE=diagnose, or the annotation countersign.dev/diagnose on the pod.
The exit code is the class of the first broken link, 0 where there is none.")]
    Diagnose(Diagnose),
    /// Fetch one secret into one file on memory (in place of `curl 127.0.0.1:8006`)
    #[command(after_help = "\
Examples:
  countersign get kbs:///payments/db/password --to /run/countersign/secrets/db/password
  countersign get kbs:///payments/tls/key --to /run/countersign/tls/key.pem --expect format=pem,max_bytes=8192")]
    Get(Get),
    /// Show what this guest can prove of itself
    #[command(after_help = "\
Examples:
  countersign evidence
  countersign evidence --report-data 00ff --format json | kubectl countersign verify - --report-data 00ff --init-data initdata.toml")]
    Evidence(Evidence),
    /// Judge evidence, a token, a certificate, a receipt or a live sidecar
    #[command(after_help = "\
Exit 0 takes an expectation: what ties it to this moment or key, and what must run there. Without it the
verdict is `genuine, not appraised` (85). Not as expected: 86. Not genuine: 79. Not known: 87.

Examples:
  countersign verify evidence.json --nonce \"$NONCE\" --key tee-pubkey.jwk --init-data initdata.toml
  countersign verify report.bin --kds https://kdsintf.amd.com --report-data 1f2e --measurement 91eb… --require crl
  countersign verify quote.bin --collateral collateral.json --report-data 1f2e… --measurement 91eb… --json
  countersign verify https://api.payments.svc:8443 --roots mesh.pem --expect spiffe://example.org/ns/payments/sa/api
  countersign verify https://api.payments.svc:15822/receipt --policy verify.toml
  countersign verify receipt.json --policy verify.toml --nonce \"$NONCE\" --json")]
    Verify(Box<Verify>),
    /// Carry bytes to a sidecar that has proven itself, from a machine that is no TEE
    #[command(after_help = "\
Each connection is proven anew; docs/verify.md says what stands in the policy.

Examples:
  countersign connect db.payments.svc:5432 --policy verify.toml --listen 127.0.0.1:15432
  countersign connect shell.payments.svc:2222 --policy verify.toml --stdio")]
    Connect(Connect),
    /// Check or explain a configuration, without fetching anything
    #[command(subcommand, after_help = CONFIG_EXAMPLES)]
    Config(Config),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// A configuration file. Its provenance is `unmeasured`: whoever mounts it wrote it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `diagnose`.
#[derive(Clone, Debug, Default, Args)]
pub struct Diagnose {
    /// A configuration file, in place of the environment's. Believed as `init` believes it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One JSON object on standard output, when all is asked
    #[arg(long)]
    pub json: bool,
    /// Only these checks, and what they need: ids, or a room's name for all of its checks
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these out, and what needs them
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Print every check's id, and what it asks
    #[arg(long)]
    pub list: bool,
    /// All of it
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub timeout: String,
    /// Certificates of the key that signs this guest's reports: VCEK or VLEK, and authorities (PEM or
    /// DER), in place of those that the host gives. May be repeated
    #[arg(long, value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// Intel's collateral for this guest's quotes, in dcap-qvl's JSON
    #[arg(long, value_name = "FILE")]
    pub collateral: Option<PathBuf>,
    /// Print measurements and digests in full
    #[arg(long)]
    pub show_ids: bool,
    /// Write what was found into a new file, without secrets, for somebody else to read
    #[arg(long, value_name = "FILE.tar.gz")]
    pub bundle: Option<PathBuf>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The resource
    #[arg(value_name = "URI", help = "The resource: kbs:///<repository>/<type>/<tag>")]
    pub from: String,
    /// The file. Its directory must be on memory (an emptyDir with `medium: Memory`)
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// What the value must look like
    #[arg(
        long,
        value_name = "KEY=VALUE[,…]",
        help = "What the value must look like: format=utf8|json|pem|tls-pair, min_bytes=N, max_bytes=N, sha256=HEX, equals=TEXT"
    )]
    pub expect: Vec<String>,
    /// Permission bits of the file
    #[arg(long, value_name = "OCTAL", default_value = "0440")]
    pub mode: String,
    /// All of it, from start to exit
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub deadline: String,
}

/// Both binaries have these commands.
const CONFIG_EXAMPLES: &str = "\
Examples:
  countersign config check countersign.toml
  countersign config explain countersign.toml";

/// Workstation tools for the people who own initdata and configuration.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-countersign",
    bin_name = "kubectl countersign",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  kubectl countersign initdata check --prod --pod rendered.yaml initdata.toml
  kubectl describe pod api-0 -n payments | kubectl countersign explain"
)]
pub struct Kubectl {
    /// What to do.
    #[command(subcommand)]
    pub command: Tool,
}

/// The tools of this release.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Write, check and pack initdata: what the hardware commits to before the guest starts
    #[command(
        subcommand,
        after_help = "\
Examples:
  kubectl countersign initdata new --kbs-url https://kbs.example:8443 --kbs-ca ca.pem --workload api --namespace payments > initdata.toml
  kubectl countersign initdata check --prod initdata.toml"
    )]
    Initdata(Initdata),
    /// Print the manifest that admission makes of a plain one, for genpolicy and for reviewers
    #[command(after_help = "\
Examples:
  kubectl countersign render -f app.yaml --tier prod-snp --image registry.example/countersign@sha256:… > rendered.yaml
  kubectl countersign render -f app.yaml --tier prod-snp --configmap configmap.yaml --pods | kubectl diff -f -")]
    Render(Render),
    /// Write the admission policies of a tier
    #[command(
        subcommand,
        after_help = "\
Examples:
  kubectl countersign policies emit --tier prod-snp --image registry.example/countersign@sha256:… | kubectl apply -f -
  kubectl countersign policies emit --tier-file tiers/gpu.toml > policies/inject-gpu.yaml"
    )]
    Policies(Policies),
    /// Judge evidence, a token, a certificate, a receipt or a live sidecar
    #[command(after_help = "\
Exit 0 takes an expectation: what ties it to this moment or key, and what must run there. Without it the
verdict is `genuine, not appraised` (85). Not as expected: 86. Not genuine: 79. Not known: 87.

Examples:
  kubectl countersign verify evidence.json --nonce \"$NONCE\" --key tee-pubkey.jwk --init-data initdata.toml
  kubectl countersign verify report.bin --kds https://kdsintf.amd.com --report-data 1f2e --measurement 91eb… --require crl
  kubectl countersign verify quote.bin --collateral collateral.json --report-data 1f2e… --measurement 91eb… --json
  kubectl countersign verify https://api.payments.svc:8443 --roots mesh.pem --expect spiffe://example.org/ns/payments/sa/api
  kubectl countersign verify https://api.payments.svc:15822/receipt --policy verify.toml
  kubectl countersign verify receipt.json --policy verify.toml --nonce \"$NONCE\" --json")]
    Verify(Box<Verify>),
    /// Carry bytes to a sidecar that has proven itself, from a machine that is no TEE
    #[command(after_help = "\
Each connection is proven anew; docs/verify.md says what stands in the policy.

Examples:
  kubectl countersign connect db.payments.svc:5432 --policy verify.toml --listen 127.0.0.1:15432
  kubectl countersign connect shell.payments.svc:2222 --policy verify.toml --stdio")]
    Connect(Connect),
    /// Name the cause and the next step for what pods, events and logs say, without asking anybody
    #[command(after_help = "\
Exit 0: something is known, and named. 87: nothing in it is known; that is an answer too.

Examples:
  kubectl describe pod api-0 -n payments | kubectl countersign explain
  kubectl get pod api-0 -n payments -o yaml | kubectl countersign explain --json")]
    Explain(Explain),
    /// Check or explain a configuration
    #[command(subcommand, after_help = CONFIG_EXAMPLES)]
    Config(Config),
}

/// Commands of `config`, the same in both binaries.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Name every mistake in the files, with its line
    #[command(after_help = "\
Examples:
  countersign config check countersign.toml
  countersign config check deploy/*/countersign.toml")]
    Check {
        /// The files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Show each value, where it came from, and its provenance
    #[command(after_help = "\
Examples:
  countersign config explain countersign.toml --as delivered-unproven
  COUNTERSIGN_SECRETS=\"a=kbs:///x/y/z\" countersign config explain")]
    Explain {
        /// The file; without one, the environment alone
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// The provenance to read the file as
        #[arg(long = "as", value_name = "PROVENANCE", default_value = "unmeasured", value_parser = provenance)]
        provenance: Provenance,
    },
    /// Print the JSON Schema of the configuration
    #[command(after_help = "\
Examples:
  countersign config schema > countersign.schema.json
  countersign config schema | jq .properties.secrets")]
    Schema,
}

/// Every provenance, by its label.
fn provenance(text: &str) -> Result<Provenance, String> {
    const ALL: [Provenance; 5] = [
        Provenance::Unmeasured,
        Provenance::DeliveredUnproven,
        Provenance::Delivered,
        Provenance::GuestAttested,
        Provenance::Measured,
    ];
    ALL.into_iter()
        .find(|provenance| provenance.label() == text)
        .ok_or_else(|| format!("it is one of {}", ALL.map(Provenance::label).join(", ")))
}

//! The command line of `kubectl countersign initdata …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Commands of `initdata`. Each that reads a file takes all three forms of it (TOML, gzip, and the
/// base64 of the annotation), and `-` for standard input.
#[derive(Debug, Subcommand)]
pub enum Initdata {
    /// Print a commented initdata for one workload
    #[command(after_help = "\
Examples:
  kubectl countersign initdata new --kbs-url https://kbs.example:8443 --kbs-ca ca.pem --workload api --namespace payments > initdata.toml
  kubectl countersign initdata new --kbs-url https://kbs.example:8443 --kbs-ca ca.pem --image registry.example/payments/api --policy policy.rego > initdata.toml
  kubectl countersign initdata new --kbs-url https://kbs.example:8443 --kbs-ca ca.pem --workload api --namespace payments --delivered countersign.toml > initdata.toml")]
    New(New),
    /// Print the value of the pod annotation
    #[command(after_help = "\
Examples:
  kubectl countersign initdata pack initdata.toml
  kubectl annotate --local -f pod.yaml -o yaml io.katacontainers.config.hypervisor.cc_init_data=\"$(kubectl countersign initdata pack initdata.toml)\"")]
    Pack {
        /// The initdata
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the exact TOML, or write each section into a file
    #[command(after_help = "\
Examples:
  kubectl get pod api -o jsonpath='{.metadata.annotations.io\\.katacontainers\\.config\\.hypervisor\\.cc_init_data}' | kubectl countersign initdata unpack -
  kubectl countersign initdata unpack annotation.txt --to parts")]
    Unpack {
        /// The initdata
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write `initdata.toml` and each section into this directory; nothing is overwritten
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Name every mistake, with its line, why it matters and what to do
    #[command(after_help = "\
Every rule: docs/initdata-checks.md. Exit code 78 when something is refused, 0 with warnings alone.

Examples:
  kubectl countersign initdata check initdata.toml
  kubectl countersign initdata check --prod --pod rendered.yaml initdata.toml
  kubectl countersign initdata check --prod --pod rendered.yaml --delivered countersign.toml initdata.toml")]
    Check(Check),
    /// Print what the hardware will hold, and where each value goes
    #[command(after_help = "\
Examples:
  kubectl countersign initdata digest initdata.toml
  kubectl countersign initdata digest --format json initdata.toml | jq -r .host_data.hex")]
    Digest {
        /// The initdata
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How to print it
        #[arg(long, value_enum, default_value_t = DigestFormat::Text)]
        format: DigestFormat,
    },
    /// Compare two initdata, section by section (exit 1 when they differ)
    #[command(after_help = "\
Examples:
  kubectl countersign initdata diff old.toml new.toml
  kubectl get configmap api-52af3178 -o jsonpath='{.data.INITDATA}' | kubectl countersign initdata diff - initdata.toml")]
    Diff {
        /// The older one
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The newer one
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// Print the objects (`ConfigMap`) of a release: an immutable one, and the pointer to it
    #[command(after_help = "\
Examples:
  kubectl countersign initdata configmap --workload api --namespace payments initdata.toml | kubectl apply -f -
  kubectl countersign initdata configmap --workload api --namespace payments initdata.toml > configmap.yaml")]
    Configmap(Configmap),
}

/// Arguments of `initdata new`.
#[derive(Debug, Args)]
pub struct New {
    /// https URL of the KBS
    #[arg(long, value_name = "URL")]
    pub kbs_url: String,
    /// PEM file with the CA of the KBS's certificate
    #[arg(long, value_name = "FILE")]
    pub kbs_ca: Option<PathBuf>,
    /// Name of the workload that this is for
    #[arg(long, value_name = "NAME", requires = "namespace")]
    pub workload: Option<String>,
    /// Namespace of the workload
    #[arg(long, value_name = "NAME", requires = "workload")]
    pub namespace: Option<String>,
    /// A repository whose images may be pulled; every other one is rejected. May be repeated
    #[arg(long, value_name = "REPOSITORY")]
    pub image: Vec<String>,
    /// The kata-agent policy of the pod (genpolicy writes it)
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Leave countersign.toml out, and write it to this file for the KBS to deliver; nothing is overwritten
    #[arg(long, value_name = "FILE", requires = "workload")]
    pub delivered: Option<PathBuf>,
}

/// Arguments of `initdata check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The initdata
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Refuse what production must not have: above all an absent or permissive agent policy
    #[arg(long)]
    pub prod: bool,
    /// Also hold it to the limits of peer pods, whose initdata travels in the cloud's user data
    #[arg(long)]
    pub peer_pods: bool,
    /// Evaluate the images and the annotation of this rendered manifest (YAML or JSON)
    #[arg(long, value_name = "FILE")]
    pub pod: Option<PathBuf>,
    /// Check the configuration that the KBS will deliver, too
    #[arg(long, value_name = "FILE")]
    pub delivered: Option<PathBuf>,
    /// Print one JSON document, for CI
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `initdata configmap`.
#[derive(Debug, Args)]
pub struct Configmap {
    /// The initdata
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Name of the workload: the pointer's name, and the start of the other's
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    /// Namespace of both
    #[arg(long, value_name = "NAME")]
    pub namespace: String,
}

/// How `initdata digest` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DigestFormat {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

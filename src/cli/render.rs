//! The command lines of `kubectl countersign render` and `policies`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which tier, and what the platform changed about it.
#[derive(Debug, Args)]
pub struct TierChoice {
    /// The tier: dev, prod-snp, prod-tdx or peer-pods
    #[arg(long, value_name = "TIER", required_unless_present = "tier_file", conflicts_with = "tier_file")]
    pub tier: Option<String>,
    /// A tier of your own (policies/tiers has the ones that come with the tool)
    #[arg(long, value_name = "FILE")]
    pub tier_file: Option<PathBuf>,
    /// The image of countersign, by digest
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
}

/// Arguments of `render`.
#[derive(Debug, Args)]
pub struct Render {
    /// The manifests (YAML or JSON), `-` for standard input. May be repeated
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// The tier.
    #[command(flatten)]
    pub tier: TierChoice,
    /// What `initdata configmap` printed. May be repeated
    #[arg(long, value_name = "FILE")]
    pub configmap: Vec<PathBuf>,
    /// The initdata itself, where the manifests have one workload
    #[arg(long, value_name = "FILE", conflicts_with = "configmap")]
    pub initdata: Option<PathBuf>,
    /// The configuration that the KBS delivers, to hold the probes to. May be repeated
    #[arg(long, value_name = "FILE")]
    pub delivered: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// Print the pods that the controllers would create, not the workloads
    #[arg(long)]
    pub pods: bool,
    /// Print those pods as they are before admission, for `diff`
    #[arg(long)]
    pub before: bool,
}

/// Commands of `policies`.
#[derive(Debug, Subcommand)]
pub enum Policies {
    /// Print the mutating policy of a tier
    #[command(after_help = "\
Examples:
  kubectl countersign policies emit --tier prod-snp --image registry.example/countersign@sha256:… | kubectl apply -f -
  kubectl countersign policies emit --tier-file tiers/gpu.toml > policies/inject-gpu.yaml")]
    Emit(TierChoice),
}

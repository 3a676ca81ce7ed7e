//! The command line of `kubectl countersign explain`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// What to read: `kubectl get pod -o yaml`, `kubectl describe`, events or logs; standard input
    /// where nothing is named
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

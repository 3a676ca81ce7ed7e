//! The command line of `connect`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

/// Arguments of `connect`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("near").required(true)))]
pub struct Connect {
    /// The peer's sidecar, where it listens
    #[arg(value_name = "HOST:PORT")]
    pub to: String,
    /// Who it must be and what it must prove, and what it is shown (TOML, the keys of verify's policy)
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Where the app dials: a loopback address, or a unix socket
    #[arg(long, value_name = "ADDRESS|unix:PATH", group = "near")]
    pub listen: Option<String>,
    /// Carry one connection over standard input and output instead
    #[arg(long, group = "near")]
    pub stdio: bool,
}

//! The command lines of `verify` and `evidence`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The evidence, token, certificate or receipt: a file, `-` for standard input; https://HOST:PORT of a
    /// live sidecar, or https://HOST:PORT/receipt for what was delivered to it
    #[arg(value_name = "FILE|URL|-")]
    pub shown: String,
    /// Expectations in a file (TOML, keys as the flags below with `_`)
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// What it must be.
    #[command(flatten)]
    pub expected: Expectations,
    /// Certificates that belong to a report: VCEK or VLEK, and authorities (PEM or DER). May be repeated
    #[arg(long, value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// AMD's revocation list (DER or PEM)
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
    /// Intel's collateral for a quote, in dcap-qvl's JSON
    #[arg(long, value_name = "FILE")]
    pub collateral: Option<PathBuf>,
    /// Fetch what a report lacks, its VCEK and AMD's revocation list, from this server (AMD's own is at
    /// kdsintf.amd.com). It learns which chip is asked about. Without it nothing is fetched
    #[arg(long, value_name = "URL")]
    pub kds: Option<String>,
    /// Fetch Intel's collateral for a quote from this PCCS (version 4). It learns which platform is asked
    /// about
    #[arg(long, value_name = "URL", conflicts_with = "collateral")]
    pub pccs: Option<String>,
    /// PEM: whom to trust for https to --kds and --pccs, in place of this machine's bundle
    /// (/etc/ssl/certs/ca-certificates.crt)
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Judge by this time (2026-11-26T12:00:00Z, or seconds since 1970); the verdict repeats it
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Show ids of chips and guests whole
    #[arg(long)]
    pub show_ids: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What evidence must be: as flags, or as keys of `verify.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expectations {
    /// The report data: up to 64 bytes of hex, filled with zeros
    #[arg(long, value_name = "HEX")]
    pub report_data: Option<String>,
    /// The KBS's nonce, as text. Hardware signs it together with --key. Of a receipt: the nonce that it was
    /// asked for with
    #[arg(long, value_name = "TEXT")]
    pub nonce: Option<String>,
    /// The attested key (`tee-pubkey`): a file with a JWK
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The launch measurement (SNP MEASUREMENT, TDX MRTD), 96 hex digits. May be repeated: one of them
    #[arg(long, value_name = "HEX")]
    pub measurement: Vec<String>,
    /// The initdata that the guest must have been launched with
    #[arg(long, value_name = "FILE", conflicts_with = "init_data_digest")]
    pub init_data: Option<PathBuf>,
    /// Its digest instead: 64, 96 or 128 hex digits
    #[arg(long, value_name = "HEX")]
    pub init_data_digest: Option<String>,
    /// The chip (SNP): 128 hex digits, or 16 for Turin. May be repeated: one of them
    #[arg(long, value_name = "HEX")]
    pub chip_id: Vec<String>,
    /// The privilege level that asked (SNP); 0 where nothing is said
    #[arg(long, value_name = "N")]
    pub vmpl: Option<u32>,
    /// The least TCB (SNP): bootloader=3,tee=0,snp=8,microcode=115 (fmc=… first on Turin)
    #[arg(long, value_name = "PARTS")]
    pub min_tcb: Option<String>,
    /// The guest's least security version number (SNP)
    #[arg(long, value_name = "N")]
    pub min_guest_svn: Option<u32>,
    /// A TCB status that is good enough (TDX), in Intel's words; `UpToDate` where nothing is said. May be
    /// repeated
    #[arg(long, value_name = "STATUS")]
    pub tcb_status: Vec<String>,
    /// What else a guest refused might have: debug, migration. May be repeated
    #[arg(long, value_name = "WHAT")]
    pub allow: Vec<String>,
    /// What must have been checked: crl, tcb, chip-id. May be repeated
    #[arg(long, value_name = "CHECK")]
    pub require: Vec<String>,
    /// The identity of a live sidecar, a certificate (with --roots) or a receipt: spiffe://…
    #[arg(long, value_name = "IDENTITY")]
    pub expect: Option<String>,
    /// PEM: who is trusted, in place of AMD and Intel; of whom tokens, certificates and sidecars must be
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// A live sidecar must prove itself: PEM of the attestation service's CA. With --pins, --max-age,
    /// --cert and --cert-key; the last two not for a receipt in a file
    #[arg(long, value_name = "FILE")]
    pub token_roots: Option<PathBuf>,
    /// What its evidence must show: the mesh's pins (JSON)
    #[arg(long, value_name = "FILE")]
    pub pins: Option<PathBuf>,
    /// Oldest attestation of it that counts: 1h
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
    /// What must vouch for it on the connection: key, as where nothing is said; hardware, a fresh report of its
    /// machine too
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// The certificate that it is shown (PEM, with the chain)
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub cert_key: Option<PathBuf>,
}

/// Arguments of `evidence`.
#[derive(Debug, Args)]
pub struct Evidence {
    /// What to have signed: up to 64 bytes of hex, filled with zeros; random bytes where nothing is said
    #[arg(long, value_name = "HEX")]
    pub report_data: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = EvidenceFormat::Text)]
    pub format: EvidenceFormat,
    /// Show ids of chips and guests whole (in text; json and raw always hold them)
    #[arg(long)]
    pub show_ids: bool,
}

/// How `evidence` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvidenceFormat {
    /// As Trustee takes it.
    Json,
    /// The bytes of the report or quote.
    Raw,
    /// Every field, for people.
    Text,
}

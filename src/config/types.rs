//! What a resolved configuration is. A value of these types is valid by construction.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::roles::Roles;
use crate::formats::kbs_uri::KbsUri;

/// How far the configuration can be believed. Ordered: later is more.
///
/// Printed in every log, receipt and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// Plain environment, arguments or a local file: whoever writes the manifest wrote it.
    Unmeasured,
    /// The compiled-in resource, through the guest's CDH: its KBS is set by measured
    /// configuration, its transport we cannot see.
    DeliveredUnproven,
    /// Fetched by us from a KBS whose URL and CA came from a higher provenance.
    Delivered,
    /// Initdata as the KBS vouches for it in this guest's own attestation result.
    GuestAttested,
    /// Initdata whose digest the hardware reports.
    Measured,
}

impl Provenance {
    /// All of them, the least believed first.
    pub const ALL: [Self; 5] =
        [Self::Unmeasured, Self::DeliveredUnproven, Self::Delivered, Self::GuestAttested, Self::Measured];

    /// As printed.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unmeasured => "unmeasured",
            Self::DeliveredUnproven => "delivered-unproven",
            Self::Delivered => "delivered",
            Self::GuestAttested => "guest-attested",
            Self::Measured => "measured",
        }
    }

    /// Whether it may name keys that sealed secrets are believed under.
    pub fn may_unseal(self) -> bool {
        self >= Self::DeliveredUnproven
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Everything that a role may need, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it came from.
    pub provenance: Provenance,
    /// Counts changes of the file; never goes down.
    pub serial: u64,
    /// All of `init`, from start to exit.
    pub deadline: Duration,
    /// Whom the file was written for.
    pub audience: Option<For>,
    /// How to reach the KBS.
    pub kbs: Kbs,
    /// What to fetch, and where to put it.
    pub secrets: Secrets,
    /// What to log.
    pub log: Log,
    /// The tables of the long-running roles.
    pub roles: Roles,
    /// Variables that the document leaves to the environment, from the published safe list.
    pub allow_env: Vec<&'static str>,
}

/// `for = { namespace, workload }`: whom a delivered file was written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct For {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the workload (Deployment, Job, …).
    pub workload: String,
}

/// `[kbs]`.
#[derive(Clone, Debug)]
pub struct Kbs {
    /// Tried in order. May be empty on the CDH road, where the guest's own `cdh.toml` decides.
    pub url: Vec<KbsUrl>,
    /// PEM of the only roots that https to the KBS trusts.
    pub ca: Option<String>,
    /// Trust the web's roots too. Needs to be written out.
    pub system_roots: bool,
    /// Plain http to the KBS outside loopback. Only trusted configuration may say so.
    pub allow_http: bool,
    /// Ordered ways to the KBS.
    pub via: Vec<Via>,
    /// A resource that no guest may read: released, it shows that the KBS's policy is too lax.
    pub canary: Option<KbsUri>,
}

/// `http(s)://host[:port]`, without user, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KbsUrl {
    /// https (true) or plain http.
    pub tls: bool,
    /// DNS name or literal address (without brackets), lower case.
    pub host: String,
    /// Port; 443 or 80 where the URL names none.
    pub port: u16,
    /// Path prefix in front of `/kbs/v0`, without a trailing slash; empty where there is none.
    pub prefix: String,
}

impl fmt::Display for KbsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.prefix)
        } else {
            write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.prefix)
        }
    }
}

/// A way to the KBS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Our own attestation, evidence through the kernel's configfs-tsm.
    ConfigfsTsm,
    /// Our own attestation, evidence through `/dev/sev-guest`.
    SevGuest,
    /// Our own attestation, evidence from `/aa/evidence`.
    AaEvidence,
    /// The attestation agent's token and key.
    AaToken,
    /// The confidential data hub.
    Cdh,
}

impl Via {
    /// All of them, in the order that holds where none is written.
    pub const ALL: [Self; 5] = [Self::ConfigfsTsm, Self::SevGuest, Self::AaEvidence, Self::AaToken, Self::Cdh];

    /// As written.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConfigfsTsm => "configfs-tsm",
            Self::SevGuest => "sev-guest",
            Self::AaEvidence => "aa-evidence",
            Self::AaToken => "aa-token",
            Self::Cdh => "cdh",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// `[secrets]`.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Absolute path of the directory that will hold the published set.
    pub directory: PathBuf,
    /// The only keys a sealed secret may be signed with.
    pub sealed_keys: Vec<KbsUri>,
    /// How often a long-running role fetches the set again.
    pub refresh: Option<Duration>,
    /// What to publish.
    pub files: Vec<SecretFile>,
    /// What must hold before anything is published.
    pub gates: Vec<Gate>,
}

/// `[[secrets.file]]`: one secret, one file.
#[derive(Clone, Debug)]
pub struct SecretFile {
    /// Below the directory.
    pub path: RelativePath,
    /// Where the value comes from.
    pub from: Source,
    /// The resource that a sealed secret for this path must name.
    pub resource: Option<KbsUri>,
    /// Permission bits, at most 0777, never writable for others.
    pub mode: u32,
    /// Numeric owner; needs `CAP_CHOWN` unless it is ours.
    pub owner: Option<u32>,
    /// Numeric group; the directory's own where absent.
    pub group: Option<u32>,
    /// What the value must look like.
    pub expect: Expect,
}

/// `[[secrets.gate]]`: a resource that must hold an exact value.
#[derive(Clone, PartialEq, Eq)]
pub struct Gate {
    /// The resource.
    pub from: KbsUri,
    /// Its value, exactly.
    pub equals: String,
}

/// The expected value is not shown: it may be a secret that somebody wrote into `equals`.
impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("from", &self.from).field("equals", &Hidden(&self.equals)).finish()
    }
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A resource of the KBS.
    Resource(KbsUri),
    /// A sealed secret (`sealed.…`), not yet verified.
    Sealed(String),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(uri) => f.debug_tuple("Resource").field(uri).finish(),
            Self::Sealed(text) => f.debug_tuple("Sealed").field(&Hidden(text)).finish(),
        }
    }
}

/// Stands for a text that must not be printed: its length only.
struct Hidden<'t>(&'t str);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// What a value must look like before it is published.
#[derive(Clone, PartialEq, Eq)]
pub struct Expect {
    /// The form of the content.
    pub format: Format,
    /// Fewest bytes; 1 by default: an empty secret is a fault of somebody.
    pub min_bytes: usize,
    /// Most bytes.
    pub max_bytes: usize,
    /// SHA-256 of the whole value.
    pub sha256: Option<[u8; 32]>,
    /// The whole value, exactly.
    pub equals: Option<String>,
}

/// Most bytes of one secret by default: what a Kubernetes Secret may hold, 1 MiB.
pub const DEFAULT_MAX_BYTES: usize = 1024 * 1024;

/// Most bytes that `max_bytes` may be raised to: 16 MiB, since every value is held in memory twice.
pub const CEILING_MAX_BYTES: usize = 16 * 1024 * 1024;

/// The expected value is not shown: it may be a secret that somebody wrote into `equals`.
impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expect")
            .field("format", &self.format)
            .field("min_bytes", &self.min_bytes)
            .field("max_bytes", &self.max_bytes)
            .field("sha256", &self.sha256.map(|_| "<digest>"))
            .field("equals", &self.equals.as_deref().map(Hidden))
            .finish()
    }
}

/// Most bytes of all files of one set together: 256 files of the default size.
pub const CEILING_TOTAL_BYTES: usize = 256 * DEFAULT_MAX_BYTES;

/// Permission bits where none are written: the owner and the group (fsGroup) read.
pub const DEFAULT_MODE: u32 = 0o440;

/// Where the set is published if nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/run/countersign/secrets";

/// All of `init`, where nothing else is said. A first attestation takes seconds; a guest whose
/// network comes up late takes minutes.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

impl Default for Expect {
    fn default() -> Self {
        Self { format: Format::Any, min_bytes: 1, max_bytes: DEFAULT_MAX_BYTES, sha256: None, equals: None }
    }
}

/// `expect.format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any bytes.
    Any,
    /// Text in UTF-8.
    Utf8,
    /// One JSON value.
    Json,
    /// One or more PEM blocks and nothing else.
    Pem,
    /// A certificate chain whose leaf belongs to a private key: the key stands in the same file,
    /// or is the file of the same set that `key` names.
    TlsPair {
        /// Path of the file with the private key.
        key: Option<RelativePath>,
    },
}

/// A path below the secrets directory: relative, one or more plain components.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

impl RelativePath {
    /// Parses; the message says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        if text.len() > 512 {
            return Err("is longer than 512 bytes");
        }
        if text.starts_with('/') {
            return Err("must be relative to the secrets directory");
        }
        for part in text.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return Err("must not have empty, `.` or `..` components");
            }
            if part.starts_with("..") {
                return Err("must not have components that start with `..`: such names are the publisher's own");
            }
            if part.len() > 255 {
                return Err("has a component longer than 255 bytes");
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b'+')) {
                return Err("may hold only a-z A-Z 0-9 _ - . @ + and / between components");
            }
        }
        if text == RECEIPT {
            return Err("is the name of the receipt");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of the receipt beside the published files.
pub const RECEIPT: &str = ".countersign-receipt.json";

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Most detailed level that is written.
    pub level: tracing::Level,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: LogFormat::Text }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `level message key=value`, for people.
    Text,
    /// One JSON object a line.
    Json,
}

//! The one table of configuration keys.
//!
//! The decoder takes types, bounds, words and what is required from here; the JSON Schema and the
//! table in `docs/configuration.md` are generated from here. So they cannot disagree.
//!
//! In a path, `[]` stands for every element of an array of tables.

use super::grammar::{
    ABSOLUTE, DNS, EXACT, Grammar, HOST_PORT, HTTP_PATH, KBS_URI, KBS_URL, LOCAL, MODE, NAMESPACE, PEER_PATTERN, PEM,
    RELATIVE, SHA256, SOCKET, SOURCE, SPIFFE, WORKLOAD,
};
use super::types::CEILING_MAX_BYTES;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `secrets.file[].mode`.
    pub path: &'static str,
    /// What stands there.
    pub kind: Kind,
    /// Whether the table it belongs to is refused without it.
    pub required: bool,
    /// What holds where it is absent, as it would be written. Empty: nothing does.
    pub default: &'static str,
    /// The variable that sets it where there is no file.
    pub env: &'static str,
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// Which roles read it.
    pub reader: &'static str,
}

/// What stands at a key.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// Least, inclusive.
        min: u64,
        /// Most, inclusive.
        max: u64,
    },
    /// `true` or `false`.
    Bool,
    /// `90s`, `5m`, `1h`.
    Duration {
        /// Shortest, seconds, inclusive.
        min: u64,
        /// Longest, seconds, inclusive.
        max: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of at least one of these words, each once.
    Words(&'static [&'static str]),
    /// A text.
    Text(&'static Grammar),
    /// A list of texts.
    Texts {
        /// The form of each.
        of: &'static Grammar,
        /// Fewest.
        min: usize,
        /// Most.
        max: usize,
    },
    /// A table.
    Table,
    /// An array of tables.
    Tables {
        /// Most.
        max: usize,
    },
}

/// Most secrets in one set. A directory of more is not a set that one pod needs, and each costs a
/// request to the KBS.
pub const MAX_FILES: usize = 256;

/// Most gates. Each is a request before the first secret.
pub const MAX_GATES: usize = 32;

/// The ways to the KBS, as written.
pub const VIA: &[&str] = &["configfs-tsm", "sev-guest", "aa-evidence", "aa-token", "cdh"];

/// The variables that trusted configuration may leave open. None of them can name a KBS, an
/// anchor, a peer or a destination, or switch a check off.
pub const SAFE: &[&str] = &["COUNTERSIGN_LOG", "COUNTERSIGN_LOG_FORMAT", "COUNTERSIGN_DEADLINE"];

const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];
const FORMATS: &[&str] = &["any", "utf8", "json", "pem", "tls-pair"];

/// A group or user id. The highest one means "no change" to chown(2).
const MAX_ID: u64 = 4_294_967_294;
const MAX_BYTES: u64 = 16 * 1024 * 1024;
const HOUR: u64 = 3600;
const _: () = assert!(CEILING_MAX_BYTES == 16 * 1024 * 1024, "MAX_BYTES is CEILING_MAX_BYTES as u64");

const ALL: &str = "all";
const FETCH: &str = "init, sidecar";
const SIDECAR: &str = "sidecar";
const ISSUER: &str = "issuer";
const PEERS: &str = "sidecar, issuer";

const fn key(path: &'static str, kind: Kind, reader: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, required: false, default: "", env: "", meaning, reader }
}

impl Key {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }

    const fn env(mut self, name: &'static str) -> Self {
        self.env = name;
        self
    }

    /// The last part: the name within its table.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path).trim_end_matches("[]")
    }

    /// The path of the table it stands in; empty for the top.
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }
}

/// The key with this path (`[]` for every index).
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path.trim_end_matches("[]") == path)
}

/// Every key, in the order of the documentation. A table stands before what is in it.
#[rustfmt::skip] // One key, one line or two: it is read as a table.
pub const KEYS: &[Key] = &[
    key("version", Kind::Integer { min: 1, max: 1 }, ALL, "Version of this format.").required(),
    key("serial", Kind::Integer { min: 0, max: i64::MAX.cast_unsigned() }, ALL, "Counts changes of the file. Never goes down; raised by the tools.").default("0"),
    key("deadline", Kind::Duration { min: 10, max: HOUR }, "init, sidecar, issuer", "All of `init`, from start to exit. Of the others: from start to the first certificate, and each refresh of the secrets.").default("\"5m\"").env("COUNTERSIGN_DEADLINE"),
    key("for", Kind::Table, ALL, "Whom the file was written for. Needed where a KBS delivers it."),
    key("for.namespace", Kind::Text(&NAMESPACE), ALL, "Kubernetes namespace.").required().env("COUNTERSIGN_NAMESPACE"),
    key("for.workload", Kind::Text(&WORKLOAD), ALL, "Name of the Deployment, StatefulSet, Job, …").required().env("COUNTERSIGN_WORKLOAD"),

    key("kbs", Kind::Table, ALL, "How to reach the KBS."),
    key("kbs.url", Kind::Texts { of: &KBS_URL, min: 0, max: 8 }, ALL, "Addresses, tried in order. May be empty: then initdata names the KBS, or CDH knows it.").default("[]"),
    key("kbs.ca", Kind::Text(&PEM), ALL, "The ONLY roots that https to the KBS trusts (unless `system_roots`)."),
    key("kbs.system_roots", Kind::Bool, ALL, "Trust the web's roots too.").default("false"),
    key("kbs.allow_http", Kind::Bool, ALL, "Let `url` be plain http outside loopback. Secrets stay encrypted; who sent them is not proven. Not in an unmeasured file.").default("false"),
    key("kbs.via", Kind::Words(VIA), ALL, "Ways to the KBS; the first that the guest offers is taken. Only `cdh` in an unmeasured file.").default("all, in this order"),
    key("kbs.canary", Kind::Text(&KBS_URI), "diagnose", "A resource that no guest may read. If the KBS releases it, its policy is too lax."),

    key("secrets", Kind::Table, FETCH, "What to fetch, and where to put it."),
    key("secrets.directory", Kind::Text(&ABSOLUTE), FETCH, "Where the set is published. Must be memory: tmpfs or ramfs.").default("\"/run/countersign/secrets\"").env("COUNTERSIGN_SECRETS_DIRECTORY"),
    key("secrets.sealed_keys", Kind::Texts { of: &KBS_URI, min: 0, max: 16 }, FETCH, "The only keys a sealed secret may be signed with.").default("[]"),
    key("secrets.refresh", Kind::Duration { min: 60, max: 24 * HOUR }, SIDECAR, "How often the set is fetched again. Absent: never."),
    key("secrets.file", Kind::Tables { max: MAX_FILES }, FETCH, "One secret, one file.").env("COUNTERSIGN_SECRETS"),
    key("secrets.file[].path", Kind::Text(&RELATIVE), FETCH, "Where the file stands below `directory`.").required(),
    key("secrets.file[].from", Kind::Text(&SOURCE), FETCH, "Where the value comes from: a resource, or a sealed secret.").required(),
    key("secrets.file[].resource", Kind::Text(&KBS_URI), FETCH, "The resource that a sealed `from` must name. Required beside it in a delivered-unproven file."),
    key("secrets.file[].mode", Kind::Text(&MODE), FETCH, "Permission bits. Others never write.").default("\"0440\""),
    key("secrets.file[].owner", Kind::Integer { min: 0, max: MAX_ID }, FETCH, "Numeric owner. Needs CAP_CHOWN. Absent: countersign's own uid."),
    key("secrets.file[].group", Kind::Integer { min: 0, max: MAX_ID }, FETCH, "Numeric group. Absent: the directory's (fsGroup)."),
    key("secrets.file[].expect", Kind::Table, FETCH, "What the value must look like before anything is published."),
    key("secrets.file[].expect.format", Kind::Word(FORMATS), FETCH, "Form of the content.").default("\"any\""),
    key("secrets.file[].expect.key", Kind::Text(&RELATIVE), FETCH, "With `tls-pair`: the file of this set that holds the private key. Absent: the same file."),
    key("secrets.file[].expect.min_bytes", Kind::Integer { min: 0, max: MAX_BYTES }, FETCH, "Fewest bytes.").default("1"),
    key("secrets.file[].expect.max_bytes", Kind::Integer { min: 1, max: MAX_BYTES }, FETCH, "Most bytes. All files together: at most 256 MiB.").default("1048576"),
    key("secrets.file[].expect.sha256", Kind::Text(&SHA256), FETCH, "SHA-256 of the whole value."),
    key("secrets.file[].expect.equals", Kind::Text(&EXACT), FETCH, "The whole value, exactly."),
    key("secrets.gate", Kind::Tables { max: MAX_GATES }, FETCH, "What must hold before anything is published.").env("COUNTERSIGN_GATE"),
    key("secrets.gate[].from", Kind::Text(&KBS_URI), FETCH, "The resource to read.").required(),
    key("secrets.gate[].equals", Kind::Text(&EXACT), FETCH, "Its value, exactly.").required(),

    key("identity", Kind::Table, SIDECAR, "Who this workload is to its peers."),
    key("identity.source", Kind::Word(&["self", "kbs-certificate", "issuer"]), SIDECAR, "Who certifies the key.").required(),
    key("identity.certificate", Kind::Text(&KBS_URI), SIDECAR, "Resource with the certificate chain, PEM, leaf first. With `kbs-certificate`."),
    key("identity.key", Kind::Text(&KBS_URI), SIDECAR, "Resource with its private key, PEM. With `kbs-certificate`."),
    key("identity.issuer", Kind::Table, SIDECAR, "Who is asked for a certificate. With `issuer`."),
    key("identity.issuer.address", Kind::Text(&HOST_PORT), SIDECAR, "Where the issuer listens.").required(),
    key("identity.issuer.spiffe", Kind::Text(&SPIFFE), SIDECAR, "Who must answer there, by `peers.roots`; and by evidence, where `[peers.evidence]` stands.").required(),
    key("identity.spiffe", Kind::Text(&SPIFFE), SIDECAR, "Its SPIFFE identity."),
    key("identity.dns", Kind::Texts { of: &DNS, min: 0, max: 16 }, SIDECAR, "Its DNS names.").default("[]"),
    key("identity.lifetime", Kind::Duration { min: 300, max: 24 * HOUR }, SIDECAR, "Life of one certificate.").default("\"1h\""),

    key("peers", Kind::Table, PEERS, "Who peers must prove to be."),
    key("peers.trust", Kind::Word(&["roots", "evidence", "both"]), PEERS, "What makes a peer's certificate count.").required(),
    key("peers.roots", Kind::Text(&KBS_URI), PEERS, "Resource with the roots of the mesh. Required unless `trust = \"evidence\"`."),
    key("peers.refresh", Kind::Duration { min: 5, max: 24 * HOUR }, PEERS, "How often, at least, roots, `allow_from`, token roots and pins are read again.").default("\"15m\""),
    key("peers.evidence", Kind::Table, PEERS, "What a peer's evidence must show. Required unless `trust = \"roots\"`."),
    key("peers.evidence.token_roots", Kind::Text(&KBS_URI), PEERS, "Resource with the roots of the verifier's tokens.").required(),
    key("peers.evidence.pins", Kind::Text(&KBS_URI), PEERS, "Resource with the digests allowed for each identity.").required(),
    key("peers.evidence.max_age", Kind::Duration { min: 60, max: 24 * HOUR }, PEERS, "Oldest attestation that counts.").required(),
    key("peers.evidence.level", Kind::Word(&["key", "hardware"]), PEERS, "What vouches for a peer on each connection: the key that was attested, or with `hardware` a fresh report of its machine too.").default("\"key\""),

    key("inbound", Kind::Tables { max: 32 }, SIDECAR, "A port that peers reach the app through."),
    key("inbound[].listen", Kind::Text(&SOCKET), SIDECAR, "Address to listen on.").required(),
    key("inbound[].app", Kind::Text(&LOCAL), SIDECAR, "Where the app listens.").required(),
    key("inbound[].protocol", Kind::Word(&["http", "tcp"]), SIDECAR, "What is spoken.").default("\"http\""),
    key("inbound[].allow", Kind::Texts { of: &PEER_PATTERN, min: 1, max: 256 }, SIDECAR, "Who may connect. `*` is exactly one whole segment. This or `allow_from`."),
    key("inbound[].allow_from", Kind::Text(&KBS_URI), SIDECAR, "Resource with the list: JSON, an array of what `allow` may hold. Read again like the roots."),
    key("inbound[].forward_identity", Kind::Word(&["xfcc", "proxy-v2", "none"]), SIDECAR, "How the app learns who calls.").default("\"xfcc\" for http, \"none\" for tcp"),
    key("inbound[].probes", Kind::Texts { of: &HTTP_PATH, min: 0, max: 8 }, SIDECAR, "Paths of the app that the health port asks for.").default("[]"),
    key("inbound[].exposure", Kind::Word(&["refuse", "warn"]), SIDECAR, "What happens when the app listens on more than loopback.").default("\"refuse\""),

    key("inbound[].response_timeout", Kind::Duration { min: 1, max: HOUR }, SIDECAR, "How long the app may take for the head of its answer (http).").default("\"60s\""),
    key("inbound[].access_log", Kind::Bool, SIDECAR, "A line in the log (level `info`) for each request or tcp connection. The host reads the log.").default("false"),

    key("outbound", Kind::Tables { max: 32 }, SIDECAR, "A local port that reaches one peer."),
    key("outbound[].listen", Kind::Text(&LOCAL), SIDECAR, "Where the app dials.").required(),
    key("outbound[].mode", Kind::Text(&MODE), SIDECAR, "Permission bits of a unix socket. Others never write.").default("\"0660\""),
    key("outbound[].to", Kind::Text(&HOST_PORT), SIDECAR, "Where the peer listens.").required(),
    key("outbound[].peer", Kind::Text(&SPIFFE), SIDECAR, "Who must answer there.").required(),
    key("outbound[].protocol", Kind::Word(&["http", "tcp"]), SIDECAR, "What the app speaks: `http` shares connections among requests.").default("\"tcp\""),
    key("outbound[].response_timeout", Kind::Duration { min: 1, max: HOUR }, SIDECAR, "How long the peer may take for the head of its answer (http).").default("\"60s\""),
    key("outbound[].access_log", Kind::Bool, SIDECAR, "A line in the log (level `info`) for each request or tcp connection. The host reads the log.").default("false"),

    key("drain", Kind::Duration { min: 1, max: HOUR }, SIDECAR, "How long open connections may go on after SIGTERM. Below the pod's grace period.").default("\"25s\""),
    key("limits", Kind::Table, SIDECAR, "What callers may take of this pod."),
    key("limits.connections", Kind::Integer { min: 1, max: 1_000_000 }, SIDECAR, "Connections of authenticated peers at once.").default("10000"),
    key("limits.unauthenticated", Kind::Integer { min: 1, max: 100_000 }, SIDECAR, "Connections that have not authenticated yet, at once.").default("512"),
    key("limits.handshakes", Kind::Integer { min: 1, max: 1_000_000 }, SIDECAR, "New handshakes each second, of everybody together.").default("1000"),

    key("health", Kind::Table, ALL, "`/startupz`, `/livez`, `/readyz`."),
    key("health.listen", Kind::Text(&SOCKET), ALL, "Address to listen on.").required(),
    key("metrics", Kind::Table, ALL, "Prometheus metrics; over mTLS also the signed receipt of what was delivered."),
    key("metrics.listen", Kind::Text(&SOCKET), ALL, "Address to listen on. Other than loopback it needs `allow` or `allow_from`.").required(),
    key("metrics.allow", Kind::Texts { of: &PEER_PATTERN, min: 1, max: 256 }, PEERS, "Who may read them and the receipt, over mTLS as for peers. Absent: plain, on loopback only, without the receipt."),
    key("metrics.allow_from", Kind::Text(&KBS_URI), PEERS, "Resource with that list, as `inbound.allow_from`."),

    key("issuer", Kind::Table, ISSUER, "What the role `issuer` certifies with. Whom, `[peers]` says."),
    key("issuer.listen", Kind::Text(&SOCKET), ISSUER, "Address to listen on.").required(),
    key("issuer.spiffe", Kind::Text(&SPIFFE), ISSUER, "Who it is to those who ask: in a certificate that it signs for itself.").required(),
    key("issuer.certificate", Kind::Text(&KBS_URI), ISSUER, "Resource with the CA's certificate, then what stands between it and the root. PEM.").required(),
    key("issuer.key", Kind::Text(&KBS_URI), ISSUER, "Resource with the CA's private key, PEM. For the issuer's pod alone.").required(),
    key("issuer.lifetime", Kind::Duration { min: 300, max: HOUR }, ISSUER, "Longest life of a certificate.").default("\"1h\""),
    key("issuer.per_minute", Kind::Integer { min: 1, max: 1_000_000 }, ISSUER, "Most certificates in a minute, of one replica.").default("6000"),
    key("issuer.per_identity", Kind::Integer { min: 1, max: 1_000_000 }, ISSUER, "Most of those for one identity.").default("600"),
    key("issuer.audit_hardware", Kind::Bool, ISSUER, "Name the machine of its evidence in the audit line of each certificate. The host, and whoever collects logs, then read who runs where.").default("false"),

    key("log", Kind::Table, ALL, "What is logged."),
    key("log.level", Kind::Word(LEVELS), ALL, "Most detailed level that is written.").default("\"info\"").env("COUNTERSIGN_LOG"),
    key("log.format", Kind::Word(&["text", "json"]), ALL, "How lines look.").default("\"text\"").env("COUNTERSIGN_LOG_FORMAT"),

    key("overrides", Kind::Table, ALL, "What this file leaves to the environment."),
    key("overrides.allow_env", Kind::Words(SAFE), ALL, "Variables that may differ from this file."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_once_and_below_its_table() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS.iter().skip(index + 1).all(|other| other.path != key.path), "{} twice", key.path);
            let parent = key.parent();
            if !parent.is_empty() {
                let above = KEYS.iter().take(index).find(|k| k.path == parent.trim_end_matches("[]"));
                let above = above.unwrap_or_else(|| panic!("{} stands before its table", key.path));
                let array = matches!(above.kind, Kind::Tables { .. });
                assert_eq!(array, parent.ends_with("[]"), "{}", key.path);
            }
        }
    }

    #[test]
    fn every_key_says_what_it_means_in_a_sentence() {
        for key in KEYS {
            assert!(key.meaning.ends_with(['.', '…']) && key.meaning.len() < 160, "{}", key.path);
            assert!(!key.required || key.default.is_empty(), "{} is required and has a default", key.path);
        }
    }
}

//! The product's one word for a problem, and the one table of its classes.
//!
//! Every room turns its errors into a [`Finding`]. Exit code, termination line, log, probe status
//! and generated documentation all read the same [`Row`], so they cannot disagree.
//!
//! Everything in a finding may be read by the host (termination message, pod events, logs). A
//! finding therefore never quotes bytes that came from outside: it names what kind of answer it
//! was. Names that trusted configuration chose (resource URIs, paths, keys) may stand in it.

use std::fmt;

use serde::Serialize;

/// What kind of problem a finding is. The order is the order of the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The command line cannot be understood, or the command does not belong here.
    Usage,
    /// A secret arrived, but its content is not what the configuration expects.
    Content,
    /// The secret is missing, or the store behind the KBS fails.
    Backend,
    /// No KBS could be reached before the deadline.
    Unreachable,
    /// A fault of countersign itself.
    Bug,
    /// The guest gave no evidence.
    NoEvidence,
    /// The guest's REST service on 127.0.0.1:8006 is absent, or the feature is off.
    GuestApi,
    /// The destination of the secrets is not proven to be safe.
    Destination,
    /// The server's TLS certificate is not the configured KBS's.
    KbsIdentity,
    /// The KBS speaks another version of the protocol.
    ProtocolVersion,
    /// The KBS's resource policy said no.
    PolicyDenied,
    /// The configuration is wrong, or something untrusted tried to change it.
    Config,
    /// The verifier did not accept the evidence.
    EvidenceRejected,
    /// The initdata is not the one that the hardware vouches for.
    InitdataMismatch,
    /// A sealed secret is not authentic.
    Sealed,
    /// No certificate was issued, or it could not be renewed.
    Certificate,
    /// The app can be called past the sidecar.
    AppExposed,
    /// Connections were cut at the end of the drain.
    DrainForced,
    /// Evidence is genuine, and too little was expected to say more.
    NotAppraised,
    /// Evidence is genuine, and not what was expected.
    Unexpected,
    /// The input is nothing that is known.
    Unknown,
}

/// Who has to act on a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Whoever writes the pod's manifest.
    AppDeveloper,
    /// Whoever owns initdata, sealed secrets and the KBS's contents and policies.
    AppSecurity,
    /// Whoever runs the cluster, its runtime classes and guest images.
    Platform,
    /// Whoever runs the KBS.
    KbsOperator,
    /// The people who build countersign.
    Countersign,
}

/// How loud a finding of a class is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The pod cannot go on.
    Error,
    /// Something outside has to change; we work as designed.
    Warn,
}

/// Whether trying again by itself can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// Nothing changes until a person acts.
    Never,
    /// Transient by nature: retried inside the deadline, worth a restart after it.
    Transient,
    /// May be either: a few tries, then a person.
    Few,
}

/// All that is fixed about a class.
#[derive(Debug)]
pub struct Row {
    /// The class this row describes.
    pub class: Class,
    /// Process exit code.
    pub code: u8,
    /// Stable name in logs, metrics and JSON.
    pub label: &'static str,
    /// One sentence: what it means.
    pub meaning: &'static str,
    /// What to do when nothing more exact is known. Starts with a verb.
    pub hint: &'static str,
    /// Who acts when nothing more exact is known.
    pub who: Who,
    /// Log level.
    pub level: Level,
    /// Retry rule.
    pub retry: Retry,
}

impl Row {
    /// HTTP status of `/startupz` and `/readyz` while the class stands: 500 + (code - 60), so that
    /// the pod's event names the class even where logs and exec are denied.
    pub fn probe_status(&self) -> u16 {
        500 + u16::from(self.code.saturating_sub(60))
    }
}

/// The table of classes. `docs/errors.md` is generated from it.
pub const TABLE: &[Row] = &[
    Row {
        class: Class::Usage,
        code: 64,
        label: "usage",
        meaning: "The command line cannot be understood, or the command does not belong on this machine.",
        hint: "run `countersign --help` and correct the command or the container's args",
        who: Who::AppDeveloper,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::Content,
        code: 65,
        label: "content-refused",
        meaning: "A secret was released, but its content is not what the configuration expects. Nothing was published.",
        hint: "upload the right content to the KBS resource, or correct `expect` for it",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::Backend,
        code: 66,
        label: "secret-unavailable",
        meaning: "The secret does not exist at the KBS, the store behind the KBS fails, or the guest hides which of the two it is.",
        hint: "check that the resource exists at the KBS and read the KBS's log for the reason",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Few,
    },
    Row {
        class: Class::Unreachable,
        code: 69,
        label: "kbs-unreachable",
        meaning: "No KBS answered before the deadline.",
        hint: "check that the KBS runs, that its name resolves from the guest, and that no network policy stands between",
        who: Who::Platform,
        level: Level::Error,
        retry: Retry::Transient,
    },
    Row {
        class: Class::Bug,
        code: 70,
        label: "bug",
        meaning: "countersign met a state that it believed impossible and stopped.",
        hint: "report this with the version and the whole message",
        who: Who::Countersign,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::NoEvidence,
        code: 71,
        label: "no-evidence",
        meaning: "The guest gave no evidence of itself.",
        hint: "run the pod with a confidential runtimeClass, and expose a way to evidence in it",
        who: Who::Platform,
        level: Level::Error,
        retry: Retry::Few,
    },
    Row {
        class: Class::GuestApi,
        code: 72,
        label: "guest-api",
        meaning: "The guest's REST service on 127.0.0.1:8006 is absent, or the feature is off.",
        hint: "run the pod with a CoCo runtimeClass whose guest starts api-server-rest",
        who: Who::Platform,
        level: Level::Error,
        retry: Retry::Transient,
    },
    Row {
        class: Class::Destination,
        code: 73,
        label: "destination-unsafe",
        meaning: "The directory for the secrets is not proven to be memory that nothing can write to disk, or not ours alone.",
        hint: "mount an `emptyDir` with `medium: Memory` there",
        who: Who::AppDeveloper,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::KbsIdentity,
        code: 74,
        label: "kbs-certificate",
        meaning: "The server at the KBS's address does not prove to be the configured KBS.",
        hint: "compare the KBS's certificate with `[kbs].ca`",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::ProtocolVersion,
        code: 76,
        label: "protocol-version",
        meaning: "The KBS speaks another version of the attestation protocol (this build speaks 0.4.0).",
        hint: "upgrade the older side: Trustee v0.14 and later speak 0.4.0",
        who: Who::KbsOperator,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::PolicyDenied,
        code: 77,
        label: "policy-denied",
        meaning: "The KBS's resource policy refused to release the secret to this guest.",
        hint: "read the KBS's resource policy against this pod's claims",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Never,
    },
    Row {
        class: Class::Config,
        code: 78,
        label: "configuration",
        meaning: "The configuration is wrong, or something untrusted tried to change it.",
        hint: "run `countersign config check` on the file and correct every line it names",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::EvidenceRejected,
        code: 79,
        label: "evidence-rejected",
        meaning: "The verifier did not accept this guest's evidence.",
        hint: "read the KBS's log for the cause, and register the reference values of this guest",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Few,
    },
    Row {
        class: Class::InitdataMismatch,
        code: 80,
        label: "initdata-mismatch",
        meaning: "The initdata shown to the pod is not the one that the hardware vouches for.",
        hint: "compare the digest of the pod's initdata with the one it was started with",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::Sealed,
        code: 81,
        label: "sealed-not-authentic",
        meaning: "A sealed secret is malformed, or not signed by a key that the configuration lists.",
        hint: "seal the secret again with a key listed in `[secrets].sealed_keys`",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::Certificate,
        code: 82,
        label: "certificate",
        meaning: "No certificate was issued to this pod, or it could not be renewed.",
        hint: "read the issuer's log for this pod's identity",
        who: Who::AppSecurity,
        level: Level::Error,
        retry: Retry::Transient,
    },
    Row {
        class: Class::AppExposed,
        code: 83,
        label: "app-exposed",
        meaning: "The app listens on more than loopback: it can be called without the sidecar.",
        hint: "set the address that the app listens on to 127.0.0.1 (`HOST=127.0.0.1` in many frameworks)",
        who: Who::AppDeveloper,
        level: Level::Error,
        retry: Retry::Never,
    },
    Row {
        class: Class::DrainForced,
        code: 84,
        label: "drain-forced",
        meaning: "The pod ended while callers were still connected, and they were cut.",
        hint: "raise `drain` in the configuration, below the pod's terminationGracePeriodSeconds",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Never,
    },
    Row {
        class: Class::NotAppraised,
        code: 85,
        label: "not-appraised",
        meaning: "`verify` found the evidence genuine, and nobody said what it has to be: that is no verdict to rely on.",
        hint: "give `countersign verify` what ties it to this moment or key (--report-data, or --nonce and --key), and what must run there (--measurement or --init-data)",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Never,
    },
    Row {
        class: Class::Unexpected,
        code: 86,
        label: "not-as-expected",
        meaning: "`verify` found the evidence genuine, and it is not what was expected.",
        hint: "compare the checks that `countersign verify` names as failed with what was to run there",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Never,
    },
    Row {
        class: Class::Unknown,
        code: 87,
        label: "not-known",
        meaning: "`verify` or `explain` was given something that this build does not know. It does not guess.",
        hint: "run `countersign verify --help` or `kubectl countersign explain --help` for what can be given",
        who: Who::AppSecurity,
        level: Level::Warn,
        retry: Retry::Never,
    },
];

impl Class {
    /// The row of this class. [`TABLE`] has one for each (a test holds it to that); were one
    /// missing, the first row is still a refusal.
    pub fn row(self) -> &'static Row {
        static FALLBACK: Row = Row {
            class: Class::Bug,
            code: 70,
            label: "bug",
            meaning: "A class without a row.",
            hint: "report this with the version and the whole message",
            who: Who::Countersign,
            level: Level::Error,
            retry: Retry::Never,
        };
        TABLE.iter().find(|row| row.class == self).unwrap_or(&FALLBACK)
    }

    /// Process exit code.
    pub fn code(self) -> u8 {
        self.row().code
    }

    /// Stable name.
    pub fn label(self) -> &'static str {
        self.row().label
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One problem, told so that the person who must fix it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which kind.
    pub class: Class,
    /// What was observed.
    pub saw: String,
    /// Why that is refused, or what it usually means.
    pub why: String,
    /// The next step. Starts with a verb; names a file, field, key or command.
    pub next: String,
    /// Who should take it.
    pub who: Who,
}

impl Finding {
    /// A finding whose `why`, `next` and `who` are the class's own until made more exact.
    pub fn new(class: Class, saw: impl Into<String>) -> Self {
        let row = class.row();
        Self { class, saw: saw.into(), why: row.meaning.to_owned(), next: row.hint.to_owned(), who: row.who }
    }

    /// Says why, in place of the class's meaning.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Says what to do, in place of the class's hint. Starts with a verb.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Says who acts, in place of the class's.
    #[must_use]
    pub fn who(mut self, who: Who) -> Self {
        self.who = who;
        self
    }
}

impl Who {
    /// As printed for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::AppDeveloper => "app developer",
            Self::AppSecurity => "app security",
            Self::Platform => "platform",
            Self::KbsOperator => "KBS operator",
            Self::Countersign => "countersign's maintainers",
        }
    }
}

/// The human form: four lines, no colour, readable in `kubectl logs`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "refused: {} (exit {})", self.class.label(), self.class.code())?;
        writeln!(f, "  saw:  {}", self.saw)?;
        writeln!(f, "  why:  {}", self.why)?;
        writeln!(f, "  next: {}", self.next)?;
        write!(f, "  who:  {}", self.who.label())
    }
}

/// Joins an error and its sources, outermost first. `Display` of our errors prints one level only.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Makes untrusted short text (a key's name, a path) printable on one line: control and
/// non-ASCII-graphic characters are escaped, and at most `max` characters stay.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        if c == ' ' || c.is_ascii_graphic() {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Class; 21] = [
        Class::Usage,
        Class::Content,
        Class::Backend,
        Class::Unreachable,
        Class::Bug,
        Class::NoEvidence,
        Class::GuestApi,
        Class::Destination,
        Class::KbsIdentity,
        Class::ProtocolVersion,
        Class::PolicyDenied,
        Class::Config,
        Class::EvidenceRejected,
        Class::InitdataMismatch,
        Class::Sealed,
        Class::Certificate,
        Class::AppExposed,
        Class::DrainForced,
        Class::NotAppraised,
        Class::Unexpected,
        Class::Unknown,
    ];

    #[test]
    fn every_class_has_exactly_one_row_in_order_of_its_code() {
        assert_eq!(TABLE.len(), ALL.len());
        for (row, class) in TABLE.iter().zip(ALL) {
            assert_eq!(row.class, class);
            assert_eq!(class.row().code, row.code);
        }
        assert!(TABLE.windows(2).all(|pair| matches!(pair, [a, b] if a.code < b.code)));
    }

    #[test]
    fn probe_status_carries_the_class() {
        assert_eq!(Class::Usage.row().probe_status(), 504);
        assert_eq!(Class::Certificate.row().probe_status(), 522);
    }

    #[test]
    fn untrusted_text_stays_on_one_line() {
        assert_eq!(printable("a\nb\u{1b}[31m", 40), "a\\nb\\u{1b}[31m");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}

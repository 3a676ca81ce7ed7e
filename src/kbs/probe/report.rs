//! What asking the KBS showed, in words.

use std::time::Duration;

use crate::config::KbsUrl;
use crate::finding::{Class, Finding, Who};
use crate::formats::kbs_error::{ProtocolVersion, Variant};
use crate::kbs::dns::DnsProblem;
use crate::tls::{self, TlsProblem};

/// Where a KBS is named if not in a document of somebody else's.
pub const CONFIG: &str = "[kbs].url";

/// One question to one KBS, and how far it got. Holds no text of any server.
#[derive(Clone, Debug)]
pub struct Report {
    url: KbsUrl,
    stages: Vec<Stage>,
    verdict: Verdict,
    date: Option<u64>,
}

/// One stage, passed or broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which.
    pub name: StageName,
    /// Whether the next one was reached.
    pub passed: bool,
    /// How long it took.
    pub took: Duration,
}

/// The stages, in order. A literal address has no first, plain http no third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageName {
    /// Name to addresses.
    Name,
    /// TCP, to the first address that accepts.
    Connection,
    /// TLS, against the configured CA only.
    Certificate,
    /// `POST …/kbs/v0/auth`.
    Answer,
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The name gave no address.
    Name(DnsProblem),
    /// Every address refused the connection.
    ConnectRefused,
    /// No address answered in time.
    ConnectTimeout,
    /// No address could be reached.
    NoRoute,
    /// https, and no CA to check it against. Nothing was asked.
    NoCa,
    /// The configured CA cannot be used.
    BadCa(tls::Error),
    /// The handshake failed.
    Tls(TlsProblem),
    /// The connection was closed in this stage.
    Closed(StageName),
    /// Nothing came in this stage in time.
    Silent(StageName),
    /// The answer is not HTTP/1.1.
    NotHttp,
    /// The answer is not a KBS's.
    NotAKbs {
        /// Its HTTP status.
        status: u16,
        /// What its body is, in a few fixed words.
        body: &'static str,
    },
    /// A KBS, and it wants another version.
    OtherVersion {
        /// The one that it wants.
        theirs: ProtocolVersion,
    },
    /// A KBS, and it gives us no challenge for another reason.
    RefusesUs(Variant),
    /// A KBS of our version.
    SpeaksOurs,
}

impl StageName {
    /// As printed: what passing it showed.
    pub fn label(self) -> &'static str {
        match self {
            Self::Name => "name resolves",
            Self::Connection => "connects",
            Self::Certificate => "certificate is by the configured CA",
            Self::Answer => "answers",
        }
    }
}

/// A finding about the KBS in the words of the document that names it: [`CONFIG`], or another by its
/// name, whose fields are then the ones to mend.
pub fn in_words_of(named_in: &str, finding: Finding) -> Finding {
    if named_in == CONFIG {
        return finding;
    }
    let reword = |text: &str| {
        text.replace("`[kbs].url`", &format!("the KBS's `url` in {named_in}"))
            .replace("`[kbs].ca`", &format!("`kbs_cert` in {named_in}"))
    };
    Finding { saw: reword(&finding.saw), why: reword(&finding.why), next: reword(&finding.next), ..finding }
}

impl Report {
    pub(super) fn new(url: KbsUrl, stages: Vec<Stage>, verdict: Verdict, date: Option<u64>) -> Self {
        Self { url, stages, verdict, date }
    }

    /// Of which KBS.
    pub fn url(&self) -> &KbsUrl {
        &self.url
    }

    /// What time it was by the answer's `Date`, seconds since 1970. For people: whether it is the KBS that
    /// answered, the verdict says.
    pub fn date(&self) -> Option<u64> {
        self.date
    }

    /// What it came to.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The stages, in order, up to the one that broke.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Whether a KBS of our version answered.
    pub fn speaks_ours(&self) -> bool {
        self.verdict == Verdict::SpeaksOurs
    }

    /// One line, to stand behind another finding's words.
    pub fn summary(&self) -> String {
        let passed: Vec<&str> =
            self.stages.iter().filter(|stage| stage.passed).map(|stage| stage.name.label()).collect();
        let passed = if passed.is_empty() { String::new() } else { format!(" ({})", passed.join(", ")) };
        format!("{}: {}{passed}", self.url, self.saw())
    }

    /// What is wrong with the KBS or the way to it, if this shows anything wrong: class 69, 74, 76,
    /// or 78 for a CA that cannot be used. `None` for a KBS of our version, and where nothing was
    /// asked for want of a CA. `named_in` is where the KBS was named: [`CONFIG`], or a document by its
    /// name, whose fields are then the ones to mend.
    pub fn finding_named_in(&self, named_in: &str) -> Option<Finding> {
        self.finding().map(|finding| in_words_of(named_in, finding))
    }

    /// The same for a KBS that `[kbs]` names.
    pub fn finding(&self) -> Option<Finding> {
        let url = &self.url;
        let finding = match &self.verdict {
            Verdict::SpeaksOurs | Verdict::NoCa => return None,
            Verdict::Tls(problem) => return Some(problem.finding(&url.to_string())),
            Verdict::BadCa(error) => return Some(error.finding()),
            Verdict::OtherVersion { .. } | Verdict::RefusesUs(_) => Class::ProtocolVersion,
            _ => Class::Unreachable,
        };
        let finding = Finding::new(finding, format!("{url}: {}", self.saw()));
        Some(match &self.verdict {
            Verdict::Name(problem) => name_finding(finding, *problem, &url.host),
            Verdict::ConnectRefused => finding
                .why("the host is there, and nothing listens on that port")
                .next(format!("check that the KBS runs, and the port {} in `[kbs].url`", url.port))
                .who(Who::KbsOperator),
            Verdict::ConnectTimeout | Verdict::NoRoute => finding
                .why("packets to that address are dropped or have no way: a network policy, a firewall, or a wrong address")
                .next(format!("allow egress from the pod to {}:{} in its NetworkPolicy, and check the route", url.host, url.port)),
            Verdict::NotAKbs { .. } | Verdict::NotHttp => finding
                .why("a gateway, an ingress or another service stands at that address, and no KBS behind it gave the answer")
                .next(format!("check host, port and path of `[kbs].url` ({url}), and the gateway's route to the KBS")),
            Verdict::OtherVersion { theirs } => finding
                .why(format!(
                    "this build speaks {}, the KBS {}, and the KBS compares for equality",
                    crate::kbs::PROTOCOL_VERSION,
                    theirs.as_str()
                ))
                .next("upgrade the older side: Trustee v0.14 and later speak 0.4.0"),
            Verdict::RefusesUs(_) => finding
                .why("it is a KBS, but gives no challenge to a request of the form that 0.4.0 has")
                .next("read the KBS's log for `POST /kbs/v0/auth`, and compare its version with Trustee v0.14 and later"),
            _ => finding
                .why("the connection stands, and what is behind it does not answer: overloaded, starting, or a dead load balancer")
                .next(format!("read the log of the KBS, or of the load balancer at {url}"))
                .who(Who::KbsOperator),
        })
    }

    fn saw(&self) -> String {
        match &self.verdict {
            Verdict::Name(problem) => format!("the name {} did not resolve: {problem}", self.url.host),
            Verdict::ConnectRefused => "the connection was refused".to_owned(),
            Verdict::ConnectTimeout => "no connection in time".to_owned(),
            Verdict::NoRoute => "it cannot be reached".to_owned(),
            Verdict::NoCa => "not asked further: no CA is configured to check its certificate against".to_owned(),
            Verdict::BadCa(error) => format!("not asked further: its CA {error}"),
            Verdict::Tls(TlsProblem::Alert(code)) => format!("the server ended the TLS handshake with alert {code}"),
            Verdict::Tls(problem) => format!("the server {}", problem.label()),
            Verdict::Closed(StageName::Certificate) => "the connection was closed during the TLS handshake".to_owned(),
            Verdict::Closed(_) => "the connection was closed without a whole answer".to_owned(),
            Verdict::Silent(StageName::Certificate) => "no answer to the TLS handshake in time".to_owned(),
            Verdict::Silent(_) => "no answer to `POST /kbs/v0/auth` in time".to_owned(),
            Verdict::NotHttp => "what answers is not HTTP/1.1".to_owned(),
            Verdict::NotAKbs { status, body } => format!("status {status} with {body}, which is no answer of a KBS"),
            Verdict::OtherVersion { theirs } => format!("a KBS that speaks protocol version {}", theirs.as_str()),
            Verdict::RefusesUs(variant) => format!("a KBS that gives no challenge ({})", variant.label()),
            Verdict::SpeaksOurs => format!("a KBS that speaks our version {}", crate::kbs::PROTOCOL_VERSION),
        }
    }
}

fn name_finding(finding: Finding, problem: DnsProblem, host: &str) -> Finding {
    match problem {
        DnsProblem::NoServers => finding
            .why("a name cannot be looked up without a name server")
            .next("mount `/etc/resolv.conf` (the kubelet does, unless `dnsPolicy: None` has no servers), or put an address into `[kbs].url`")
            .who(Who::AppDeveloper),
        DnsProblem::NoSuchName | DnsProblem::NoAddress | DnsProblem::BadName => finding
            .why("the pod's name servers answer, and know no address for the name")
            .next(format!("correct the host {host} in `[kbs].url`, or add it to DNS")),
        DnsProblem::NoAnswer => finding
            .why("the pod's name servers are silent, failing, or blocked")
            .next("check the `nameserver` lines of the pod's `/etc/resolv.conf`, and allow egress to them in its NetworkPolicy"),
    }
}

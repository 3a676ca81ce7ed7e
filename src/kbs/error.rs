//! What can go wrong with a KBS, whether trying again can help, and what to do about it.
//!
//! Trustee answers nearly every refusal with 401 and hides the cause; only the error's `type` tells
//! refusals apart. Gateways answer with pages. Nothing of either's text is kept.

use std::fmt;

use super::PROTOCOL_VERSION;
use super::dns::DnsProblem;
use super::wire::{EvidenceError, Malformed};
use crate::finding::{Class, Finding, Who};
use crate::formats::jwe;
use crate::formats::kbs_error::{KbsError, Variant};
use crate::formats::kbs_uri::KbsUri;
use crate::tls::{self, TlsProblem};

/// What was asked of the KBS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: the client was being set up.
    Setup,
    /// `POST /auth`: a challenge.
    Auth,
    /// `POST /attest`: to accept the evidence.
    Attest,
    /// `GET /resource/…`.
    Resource(KbsUri),
}

/// What went wrong. Continues "the KBS …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// `[kbs].url` is empty.
    #[error("is not named: `[kbs].url` is empty")]
    NoUrl,
    /// Plain http, and nothing allows it.
    #[error("is named with plain http")]
    PlainHttp,
    /// `[kbs].ca` cannot be used.
    #[error("cannot be trusted: `[kbs].ca` {0}")]
    Ca(tls::Error),
    /// Our own parts do not fit together: a bug.
    #[error("cannot be asked: the HTTP client did not start")]
    Setup,
    /// The name of the kind of TEE is not one.
    #[error("cannot be asked: the guest gives no proper name of its kind of TEE")]
    Tee,
    /// The evidence cannot be sent.
    #[error("cannot be shown the evidence, which {0}")]
    Evidence(EvidenceError),
    /// Its name has no address.
    #[error("has no address: {0}")]
    Name(DnsProblem),
    /// Nothing listens there.
    #[error("refuses connections")]
    ConnectionRefused,
    /// No connection, for another reason.
    #[error("cannot be connected to")]
    NoConnection,
    /// The TLS handshake failed.
    #[error("{}", .0.label())]
    Tls(TlsProblem),
    /// No whole answer in time.
    #[error("did not answer in time")]
    Late,
    /// The connection ended in the middle.
    #[error("ended the connection before its answer was whole")]
    Closed,
    /// What answers does not speak HTTP.
    #[error("does not answer in HTTP")]
    NotHttp,
    /// An answer that no KBS gives.
    #[error("answered with status {status} and {body}, which no KBS does")]
    NotAKbs {
        /// HTTP status.
        status: u16,
        /// What the body was, in fixed words.
        body: &'static str,
    },
    /// A redirect. Never followed.
    #[error("answered with a redirect (status {status})")]
    Redirect {
        /// HTTP status.
        status: u16,
    },
    /// The request is larger than the KBS accepts.
    #[error("does not accept a request of this size (status 413)")]
    RequestTooLarge,
    /// The answer is longer than it may be.
    #[error("answered with more than it may")]
    TooLong,
    /// The KBS's own refusal.
    #[error("refused: {}", .0.variant.label())]
    Refused(KbsError),
    /// Status 200, and not what it should be.
    #[error("{0}")]
    Malformed(Malformed),
    /// A hash that was not offered.
    #[error("chose a hash that this build does not have")]
    Hash,
    /// The answer is not encrypted to us as agreed.
    #[error("answered with something that {0}")]
    Jwe(jwe::Error),
    /// The resource is longer than the configuration allows.
    #[error("released more than {max} bytes")]
    ResourceTooLong {
        /// The most that was asked for.
        max: usize,
    },
}

/// What may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing, until a person acts.
    Never,
    /// The same again, a few times.
    Few,
    /// The same again, or another KBS of the list, until the deadline.
    Again,
    /// A new attestation, once.
    Attest,
}

/// One exchange that failed: what was asked, of whom, and what went wrong. Its text is safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What was asked.
    pub step: Step,
    /// The URL of the KBS, from the configuration.
    pub url: String,
    /// What went wrong.
    pub problem: Problem,
    /// Among the KBSes of the list that failed with this one, some may recover: worth trying again,
    /// whatever is wrong with this one.
    pub others_may_recover: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup => f.write_str("asked for nothing yet"),
            Self::Auth => f.write_str("asked for a challenge"),
            Self::Attest => f.write_str("shown evidence"),
            Self::Resource(uri) => write!(f, "asked for {uri}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step == Step::Setup && self.url.is_empty() {
            return write!(f, "the KBS {}", self.problem);
        }
        write!(f, "the KBS at {} {} ({})", self.url, self.problem, self.step)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn new(step: Step, url: impl fmt::Display, problem: Problem) -> Self {
        Self { step, url: url.to_string(), problem, others_may_recover: false }
    }

    /// What may help.
    pub fn remedy(&self) -> Remedy {
        if self.others_may_recover { Remedy::Again } else { self.own_remedy() }
    }

    fn own_remedy(&self) -> Remedy {
        match &self.problem {
            Problem::Name(_)
            | Problem::ConnectionRefused
            | Problem::NoConnection
            | Problem::Late
            | Problem::Closed
            | Problem::NotHttp
            | Problem::NotAKbs { .. } => Remedy::Again,
            // Cut off on the way, by someone who leaves no trace of it.
            Problem::Malformed(_) | Problem::Jwe(jwe::Error::Shape) => Remedy::Few,
            Problem::Refused(error) => self.after_refusal(error.variant),
            _ => Remedy::Never,
        }
    }

    fn after_refusal(&self, variant: Variant) -> Remedy {
        match (variant, &self.step) {
            (Variant::TokenNotFound | Variant::TokenVerifierError, Step::Resource(_)) => Remedy::Attest,
            // The cause of an AttestationError is in the KBS's log only: a session too old, AMD's key
            // service overloaded, or a measurement that will never fit.
            (Variant::AttestationError, Step::Attest)
            | (Variant::PluginInternalError | Variant::Internal | Variant::Policy, _) => Remedy::Few,
            _ => Remedy::Never,
        }
    }

    /// Whether another KBS of the list may do better: this one gave no answer of a KBS.
    pub(super) fn is_of_the_connection(&self) -> bool {
        match self.problem {
            Problem::Tls(_) | Problem::Redirect { .. } | Problem::Malformed(_) => true,
            // A resource may well be longer than its reader wants.
            Problem::TooLong => !matches!(self.step, Step::Resource(_)),
            _ => self.own_remedy() == Remedy::Again,
        }
    }

    /// The class alone.
    pub fn class(&self) -> Class {
        match &self.problem {
            Problem::NoUrl | Problem::PlainHttp => Class::Config,
            Problem::Ca(error) => error.finding().class,
            Problem::Setup => Class::Bug,
            Problem::Tee | Problem::Evidence(_) => Class::NoEvidence,
            Problem::Tls(_) => Class::KbsIdentity,
            Problem::Name(_)
            | Problem::ConnectionRefused
            | Problem::NoConnection
            | Problem::Late
            | Problem::Closed
            | Problem::NotHttp
            | Problem::NotAKbs { .. }
            | Problem::Redirect { .. }
            | Problem::TooLong
            | Problem::Malformed(_)
            | Problem::Jwe(jwe::Error::Shape) => Class::Unreachable,
            Problem::RequestTooLarge => Class::EvidenceRejected,
            Problem::Hash => Class::ProtocolVersion,
            Problem::Jwe(_) | Problem::ResourceTooLong { .. } => Class::Content,
            Problem::Refused(error) => self.class_of_refusal(error),
        }
    }

    fn class_of_refusal(&self, error: &KbsError) -> Class {
        if self.other_version(error).is_some() {
            return Class::ProtocolVersion;
        }
        match error.variant {
            Variant::PolicyDeny => Class::PolicyDenied,
            Variant::AttestationError => Class::EvidenceRejected,
            Variant::InvalidRequestPath => Class::Config,
            _ => Class::Backend,
        }
    }

    /// The version that the KBS demands in place of ours.
    fn other_version<'e>(&self, error: &'e KbsError) -> Option<&'e str> {
        let theirs = error.expects.as_ref().filter(|theirs| theirs.as_str() != PROTOCOL_VERSION)?;
        (self.step == Step::Auth).then_some(theirs.as_str())
    }

    /// The finding.
    pub fn finding(&self) -> Finding {
        let finding = Finding::new(self.class(), self.to_string());
        match &self.problem {
            Problem::Ca(error) => Finding { saw: self.to_string(), ..error.finding() },
            Problem::Tls(problem) => Finding { saw: self.to_string(), ..problem.finding(&self.url) },
            Problem::Refused(error) => self.refusal(error, finding),
            _ => self.plain(finding),
        }
    }

    fn plain(&self, finding: Finding) -> Finding {
        match &self.problem {
            Problem::NoUrl => finding
                .why("our own attestation needs the address of a KBS")
                .next("name the KBS in `[kbs].url`"),
            Problem::PlainHttp => finding
                .why("over plain http anyone on the way can answer in the KBS's place; what it releases would prove nothing")
                .next("write https in `[kbs].url` and the KBS's CA in `[kbs].ca`, or set `allow_http = true` there"),
            Problem::Tee | Problem::Evidence(_) => {
                finding.why("what the guest gives is not evidence that can be sent").next(
                    "read the guest's log for `attestation-agent`, and compare its version with Trustee's",
                )
            }
            Problem::Name(problem) => name(*problem, finding),
            Problem::ConnectionRefused | Problem::NoConnection | Problem::NotHttp => finding
                .why("the KBS does not run there, or a network policy stands between")
                .next("check that the KBS of `[kbs].url` runs, and that a NetworkPolicy lets this pod reach it"),
            Problem::Late | Problem::Closed => finding
                .why("the KBS is overloaded or restarting, or something on the way cuts connections")
                .next("read the log of the KBS and of the gateway in front of it, or raise `deadline`")
                .who(Who::KbsOperator),
            Problem::NotAKbs { .. } | Problem::TooLong | Problem::Malformed(_) | Problem::Jwe(jwe::Error::Shape) => {
                finding
                    .why("a gateway, a login page or another service answers in the KBS's place, or answers are cut short on the way")
                    .next("check host, port and path of `[kbs].url`, and the routes of the gateway in front of the KBS")
                    .who(Who::KbsOperator)
            }
            Problem::Redirect { .. } => finding
                .why("a KBS never redirects, and evidence is not carried to where an answer points")
                .next("write the KBS's own address into `[kbs].url`"),
            Problem::RequestTooLarge => finding
                .why("evidence and initdata together are larger than the KBS, or the gateway in front of it, accepts")
                .next("raise `payload_request_size` in the KBS's `[http_server]`, and the body limit of its gateway")
                .who(Who::KbsOperator),
            Problem::Hash => finding
                .why("this build offers sha256, sha384 and sha512, and the KBS must choose one of them")
                .next("check `[attestation_service]` of the KBS: its verifier demands a hash that was not offered"),
            Problem::ResourceTooLong { max } => finding
                .why(format!("the resource is allowed {max} bytes, and no more than that is kept"))
                .next("upload the right content, or raise `expect.max_bytes` of the secret"),
            Problem::Jwe(_) => finding
                .why(
                    "the KBS encrypts to the key that was attested: an answer for another key was mixed up by a proxy \
                     or a cache, or made by somebody who is not the KBS",
                )
                .next("check that no cache stands in front of the KBS of `[kbs].url`, and upgrade the KBS to v0.14 or later")
                .who(Who::KbsOperator),
            _ => finding,
        }
    }

    fn refusal(&self, error: &KbsError, finding: Finding) -> Finding {
        if let Some(theirs) = self.other_version(error) {
            let saw =
                format!("the KBS at {} demands protocol {theirs}, and this build speaks {PROTOCOL_VERSION}", self.url);
            return Finding { saw, ..finding };
        }
        match (error.variant, &self.step) {
            (Variant::PolicyDeny, Step::Resource(uri)) => finding
                .why("the evidence was accepted; the resource policy does not give this resource to such a guest")
                .next(format!("read the KBS's resource policy for {uri} against this pod's claims in the KBS's log")),
            (Variant::AttestationError, Step::Auth) => finding
                .why("the KBS does not know this kind of TEE, or was built without its verifier")
                .next("read the KBS's log for `RCAR handshake Auth failed`, and run a KBS with the verifier of this TEE")
                .who(Who::KbsOperator),
            (Variant::AttestationError, _) => finding
                .why("the KBS gives one answer to every cause: wrong measurement, signature, init-data, or no way to the vendor's certificates")
                .next("read the KBS's log for `RCAR handshake Attest failed`: the cause is written there and nowhere else"),
            (Variant::PluginInternalError, Step::Resource(uri)) => finding
                .why("the resource does not exist, or the store behind the KBS fails: the KBS does not say which")
                .next(format!("upload {uri} to the KBS, or read its log for `Plugin internal error`")),
            (Variant::TokenNotFound, _) => finding
                .why("the KBS forgot the session right after it accepted the evidence, as replicas without a shared store do")
                .next("set `[storage_backend]` of the KBS to a shared store, or turn on session stickiness for `kbs-session-id`")
                .who(Who::KbsOperator),
            (Variant::TokenVerifierError, _) => finding
                .why("the KBS does not believe the token that it issued itself")
                .next("check `[attestation_token]` in the KBS's configuration: its trusted certificates and its clock")
                .who(Who::KbsOperator),
            (Variant::JweError, _) => finding
                .why("the KBS could not encrypt to a P-256 key with ECDH-ES+A256KW")
                .next("upgrade the KBS to v0.14 or later")
                .who(Who::KbsOperator),
            (Variant::PluginNotFound | Variant::InvalidRequestPath, _) => finding
                .why("the KBS does not serve this path")
                .next("check the path of `[kbs].url`, and that the KBS has `[[plugins]]` with name `resource`")
                .who(Who::KbsOperator),
            _ => finding
                .next("read the KBS's log for the reason")
                .who(Who::KbsOperator),
        }
    }
}

fn name(problem: DnsProblem, finding: Finding) -> Finding {
    match problem {
        DnsProblem::NoServers => finding
            .why("without a name server only literal addresses can be reached")
            .next("check `dnsPolicy` of the pod, which writes /etc/resolv.conf, or write an address into `[kbs].url`"),
        DnsProblem::NoAnswer => finding
            .why("the guest's network is not up, or a network policy blocks DNS")
            .next("check that a NetworkPolicy lets this pod reach the cluster's DNS, and that its servers run"),
        _ => finding
            .why("the name is wrong, or known elsewhere only")
            .next("correct the host in `[kbs].url`, or add it to the DNS that the pod asks"),
    }
}

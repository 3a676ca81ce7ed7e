//! How a call to the guest's REST service fails, and what each failure means.

use std::{fmt, io};

use crate::finding::{Class, Finding, Who};
use crate::formats::kbs_uri::KbsUri;

/// How a call fails. Each message continues "the guest's REST service …"; none holds a word of the
/// answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("{}", if *.refused { "is not there: the connection was refused" } else { "cannot be connected to" })]
    Connect {
        /// Nothing listens there, as early in boot.
        refused: bool,
    },
    /// Closed or reset before there was an answer.
    #[error("closed the connection without an answer")]
    Closed,
    /// The body ended before its announced end.
    #[error("broke off in the middle of its answer")]
    Truncated,
    /// Not HTTP/1.1, or a head beyond all bounds.
    #[error("does not answer in HTTP/1.1, or with a head beyond 64 KiB")]
    Protocol,
    /// A 200 that does not say where it ends.
    #[error("answered without saying how long the answer is")]
    NoLength,
    /// A 200 in a `Content-Encoding`.
    #[error("answered in a Content-Encoding, which nobody asked for")]
    Encoded,
    /// 403.
    #[error("answered 403: it serves callers on loopback only")]
    Forbidden,
    /// 404 with the text that names a feature.
    #[error("answered 404: its feature `{}` is off", .which.label())]
    FeatureOff {
        /// The feature.
        which: Feature,
    },
    /// 404 with the text for an unknown path.
    #[error("answered 404: it does not know the path")]
    UrlNotFound,
    /// 500: CDH's one answer to every cause.
    #[error("answered 500: CDH could not get it, and does not say why")]
    CdhFailed,
    /// 500 of the attestation agent behind it.
    #[error("answered 500: the attestation agent could not do it, and does not say why")]
    AgentFailed,
    /// A 200 whose body is not what it should be.
    #[error("answered 200 with something that {0}")]
    Malformed(&'static str),
    /// 3xx.
    #[error("answered with a redirect, which is not followed")]
    Redirect,
    /// 200 of another kind.
    #[error("answered 200 with {}, not with what was asked for", if *.html { "an HTML page" } else { "another content type" })]
    OtherKind {
        /// A page.
        html: bool,
    },
    /// More than was asked for.
    #[error("answered with more than {max} bytes")]
    TooLarge {
        /// The most that was asked for.
        max: usize,
    },
    /// Any other status.
    #[error("answered with status {0}, which it never does")]
    Status(u16),
}

/// What was asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'u> {
    /// A resource, of CDH.
    Resource(&'u KbsUri),
    /// What it offers.
    Info,
    /// A token with its key, of the attestation agent.
    Token,
    /// Evidence, of the attestation agent.
    Evidence,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(uri) => write!(f, "{uri}"),
            Self::Info => f.write_str("/info"),
            Self::Token => f.write_str("a token: /aa/token"),
            Self::Evidence => f.write_str("evidence: /aa/evidence"),
        }
    }
}

/// A feature of the REST service, switched on the guest's kernel command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `/cdh/…`
    Resource,
    /// `/aa/…`
    Attestation,
}

/// What the guest must be started with, in words for the platform.
const PARAMETERS: &str = "set the guest's kernel parameters `agent.guest_components_procs=api-server-rest` and \
                          `agent.guest_components_rest_api=resource` (or `all`) in the runtime's `configuration.toml`";

impl Feature {
    fn parameters(self) -> &'static str {
        match self {
            Self::Resource => PARAMETERS,
            Self::Attestation => {
                "set the guest's kernel parameter `agent.guest_components_rest_api=all` in the runtime's \
                 `configuration.toml`"
            }
        }
    }

    /// As the kernel parameter spells it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Attestation => "attestation",
        }
    }
}

impl Error {
    pub(super) fn connect(error: &io::Error) -> Self {
        Self::Connect { refused: error.kind() == io::ErrorKind::ConnectionRefused }
    }

    /// Whether nothing listens there (yet): early in boot that is no failure.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { refused: true })
    }

    /// Whether the guest does not offer what was asked for: nothing listens, or a service that knows
    /// nothing of it. All else is a service that is there and fails.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect { refused: true } | Self::UrlNotFound | Self::FeatureOff { .. })
    }

    /// Whether it is CDH's one answer to every cause, so that the reason has to be found elsewhere.
    pub fn is_cdh_failure(&self) -> bool {
        matches!(self, Self::CdhFailed)
    }

    /// Whether the attestation agent failed, and hides why.
    pub fn is_agent_failure(&self) -> bool {
        matches!(self, Self::AgentFailed)
    }

    /// Whether the same call may end differently without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Closed
                | Self::Truncated
                | Self::CdhFailed
                | Self::AgentFailed
                | Self::Status(502..=504)
        )
    }

    /// The finding, for what was asked.
    pub fn finding(&self, asked: Asked<'_>) -> Finding {
        let saw = format!("the guest's REST service on 127.0.0.1:8006 {self} (asked for {asked})");
        match (self, asked) {
            (Self::TooLarge { max }, Asked::Resource(uri)) => {
                return Finding::new(Class::Content, saw)
                    .why(format!("{uri} is allowed {max} bytes, and no more than that is read"))
                    .next("upload the right content, or raise `expect.max_bytes` of the secret");
            }
            (Self::CdhFailed, Asked::Resource(uri)) => {
                return Finding::new(Class::Backend, saw)
                    .why(
                        "CDH answers every cause with the same 500: the resource may be missing, the resource policy \
                         may deny it, the evidence may be rejected, or the KBS may be unreachable",
                    )
                    .next(format!(
                        "check that {uri} exists at the KBS, and read the KBS's log for this guest's requests"
                    ));
            }
            (Self::AgentFailed, Asked::Evidence) => {
                return Finding::new(Class::NoEvidence, saw)
                    .why("the agent reads evidence from the kernel and the host's quoting service; one of them failed")
                    .next("read the guest's log for `attestation-agent`, and check the host's quoting service");
            }
            (Self::AgentFailed, _) => {
                return Finding::new(Class::EvidenceRejected, saw)
                    .why(
                        "the agent answers every cause with the same 500: the KBS of `aa.toml` may be unreachable, may \
                         reject the evidence, or none may be named there",
                    )
                    .next(
                        "check `[token_configs.kbs]` in `aa.toml`, and read the KBS's log for this guest's requests",
                    );
            }
            _ => {}
        }
        self.of_the_service(saw)
    }

    fn of_the_service(&self, saw: String) -> Finding {
        match self {
            Self::Connect { refused: true } => Finding::new(Class::GuestApi, saw)
                .why("nothing listens on its address: this is no CoCo guest, or its REST service was not started")
                .next(format!("run the pod with a CoCo runtimeClass, and {PARAMETERS}")),
            Self::FeatureOff { which } => Finding::new(Class::GuestApi, saw)
                .why(format!("the guest's kernel command line leaves the feature `{}` out", which.label()))
                .next(which.parameters()),
            Self::Forbidden => Finding::new(Class::GuestApi, saw)
                .why("the request did not arrive from loopback: a mesh's redirect or a proxy stands between")
                .next("exclude 127.0.0.1:8006 from the mesh's traffic redirection in the pod's annotations")
                .who(Who::AppDeveloper),
            Self::UrlNotFound => Finding::new(Class::GuestApi, saw)
                .why("the service is of another version, or another one listens in its place")
                .next("check the version of `api-server-rest` in the guest image, and that no container listens on 127.0.0.1:8006"),
            Self::Redirect
            | Self::OtherKind { .. }
            | Self::Status(_)
            | Self::Protocol
            | Self::Encoded
            | Self::CdhFailed
            | Self::AgentFailed
            | Self::Malformed(_)
            | Self::TooLarge { .. } => {
                Finding::new(Class::GuestApi, saw)
                    .why("CoCo's REST service never answers so: something else listens on 127.0.0.1:8006, or stands between")
                    .next("remove the container that listens on 127.0.0.1:8006, or exclude that port from the mesh")
                    .who(Who::AppDeveloper)
            }
            Self::NoLength | Self::Truncated | Self::Closed | Self::Connect { refused: false } => {
                Finding::new(Class::GuestApi, saw)
                    .why("what is not known to be whole is not published")
                    .next("read the guest's log for `api-server-rest` and `confidential-data-hub`, and check the guest's memory")
            }
        }
    }
}

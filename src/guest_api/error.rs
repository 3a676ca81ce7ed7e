//! How a call to the guest's REST service fails, and what each failure means.

use std::io;

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
    /// 3xx.
    #[error("answered with a redirect, which is not followed")]
    Redirect,
    /// 200 of another kind.
    #[error("answered 200 with {}, not with a secret", if *.html { "an HTML page" } else { "another content type" })]
    NotOctetStream {
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

    /// Whether it is CDH's one answer to every cause, so that the reason has to be found elsewhere.
    pub fn is_cdh_failure(&self) -> bool {
        matches!(self, Self::CdhFailed)
    }

    /// Whether the same call may end differently without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Closed | Self::Truncated | Self::CdhFailed | Self::Status(502..=504)
        )
    }

    /// The finding, for the resource that was asked for.
    pub fn finding(&self, uri: &KbsUri) -> Finding {
        let saw = format!("the guest's REST service on 127.0.0.1:8006 {self} (asked for {uri})");
        match self {
            Self::CdhFailed => Finding::new(Class::Backend, saw)
                .why(
                    "CDH answers every cause with the same 500: the resource may be missing, the resource policy may \
                     deny it, the evidence may be rejected, or the KBS may be unreachable",
                )
                .next(format!("check that {uri} exists at the KBS, and read the KBS's log for this guest's requests")),
            Self::TooLarge { max } => Finding::new(Class::Content, saw)
                .why(format!("{uri} is allowed {max} bytes, and no more than that is read"))
                .next("upload the right content, or raise `expect.max_bytes` of the secret"),
            Self::Connect { refused: true } => Finding::new(Class::GuestApi, saw)
                .why("nothing listens on its address: this is no CoCo guest, or its REST service was not started")
                .next(format!("run the pod with a CoCo runtimeClass, and {PARAMETERS}")),
            Self::FeatureOff { which } => Finding::new(Class::GuestApi, saw)
                .why(format!("the guest's kernel command line leaves the feature `{}` out", which.label()))
                .next(PARAMETERS),
            Self::Forbidden => Finding::new(Class::GuestApi, saw)
                .why("the request did not arrive from loopback: a mesh's redirect or a proxy stands between")
                .next("exclude 127.0.0.1:8006 from the mesh's traffic redirection in the pod's annotations")
                .who(Who::AppDeveloper),
            Self::UrlNotFound => Finding::new(Class::GuestApi, saw)
                .why("the service is of another version, or another one listens in its place")
                .next("check the version of `api-server-rest` in the guest image, and that no container listens on 127.0.0.1:8006"),
            Self::Redirect | Self::NotOctetStream { .. } | Self::Status(_) | Self::Protocol | Self::Encoded => {
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

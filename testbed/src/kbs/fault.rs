//! What can go wrong at a KBS, and when: a list of rules, each good for some requests.

use std::time::Duration;

use crate::http::Seen;

/// Part of the protocol that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `POST /kbs/v0/auth`
    Auth,
    /// `POST /kbs/v0/attest`
    Attest,
    /// `/kbs/v0/resource/…`
    Resource,
    /// Whatever is asked.
    Any,
}

/// What goes wrong. Those that name a step make sense there only, and do nothing elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 401 with an HTML body, as a gateway in front answers.
    Html401,
    /// A login page with 200.
    GatewayPage,
    /// 413 as text, Trustee's for a body above 2 MiB.
    TooLarge,
    /// 404 with an empty body.
    Empty404,
    /// 302 to this place.
    Redirect(String),
    /// Any status line (`502 Bad Gateway`) with this text as HTML.
    Status(String, String),
    /// A problem of Trustee's: 401 with this type and detail.
    Problem(&'static str, &'static str),
    /// The proper answer, after a while.
    Late(Duration),
    /// The proper answer, one byte at a time.
    Drip(Duration),
    /// A proper head, and half the JSON: nothing but the JSON is wrong.
    TruncatedJson,
    /// Half the body, then a proper close.
    CloseMidBody,
    /// Half the body, then a TCP reset.
    ResetMidBody,
    /// A TCP reset in place of an answer.
    Reset,
    /// No answer.
    Silent,
    /// Answers the request, after forgetting every session: as a KBS that was restarted.
    SessionsLost,
    /// At `/auth`: chooses this hash (`sha512`), and says so in an object, as for SE and with ITA.
    SelectsHash(&'static str),
    /// At `/auth`: `extra-params` is an object with members that nobody knows.
    UnknownExtraParams,
    /// At `/auth`: no cookie.
    NoCookie,
    /// At `/attest`: the token lacks `init_data_claims`.
    NoInitDataClaims,
    /// At `/attest`: the token is so many seconds old already: the verifier's clock is behind.
    DatedBack(u64),
    /// At `/attest`: the token is signed by a stranger, who has a chain of his own.
    ForeignToken,
    /// At a resource: the JWE names another key than was used.
    WrongEpk,
    /// At a resource: the JWE names a point that is not on the curve.
    EpkOffCurve,
    /// At a resource: the JWE names RSA.
    WrongAlgorithm,
    /// At a resource: sealed to somebody else's key.
    ForKeyOfAnother,
    /// At a resource: the ciphertext was changed on the way.
    TamperedCiphertext,
}

/// A fault, with the requests that meet it: every one of its step, unless narrowed.
#[derive(Clone, Debug)]
pub struct Rule {
    step: Step,
    path: Option<String>,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// This fault at this step, always.
    pub fn on(step: Step, fault: Fault) -> Self {
        Self { step, path: None, skip: 0, times: usize::MAX, fault }
    }

    /// Only at this resource (`payments/db/password`).
    #[must_use]
    pub fn at(mut self, resource: &str) -> Self {
        self.path = Some(format!("/kbs/v0/resource/{resource}"));
        self
    }

    /// Not for the first so many requests.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// For so many requests, and no more.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// Whether this request meets the fault; counts it.
    pub(super) fn meets(&mut self, seen: &Seen) -> Option<Fault> {
        let path = seen.path.split('?').next().unwrap_or_default();
        let step = match path {
            "/kbs/v0/auth" => Step::Auth,
            "/kbs/v0/attest" => Step::Attest,
            _ if path.starts_with("/kbs/v0/resource/") => Step::Resource,
            _ => Step::Any,
        };
        if (self.step != Step::Any && self.step != step) || self.path.as_ref().is_some_and(|own| own != path) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.fault.clone())
    }
}

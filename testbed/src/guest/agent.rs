//! What api-server-rest asks the attestation agent and CDH behind it: tokens, evidence, resources.
//!
//! Order of checks, statuses and texts are those of api-server-rest's router (v0.21.0 and after).
//! The agent's own failures are known by their form only: no recording has one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::Answer;
use crate::http::{Act, Seen, response};
use crate::kbs::RunningKbs;
use crate::tee::Guest;

/// Widest report data that hardware takes, bytes.
const REPORT_DATA: usize = 64;

/// The kernel parameter `agent.guest_components_rest_api`: what the service offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feature {
    /// Only `/cdh/…`: Kata's default.
    #[default]
    Resource,
    /// Only `/aa/…`.
    Attestation,
    /// Both.
    All,
}

/// Agent and CDH of one guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    pub(super) guest: Option<Guest>,
    pub(super) kbs: Option<RunningKbs>,
    pub(super) initdata: Option<String>,
    pub(super) feature: Feature,
    pub(super) additional_tees: Vec<String>,
}

impl Agent {
    /// The answer where the feature is off: nothing that a test scripted comes before it.
    pub(super) fn off(&self, seen: &Seen) -> Option<Answer> {
        let refused = |text: &str| Some(Answer::Status("404 Not Found".to_owned(), text.into()));
        if seen.path.starts_with("/aa/") && self.feature == Feature::Resource {
            refused("Attestation Feature Not Enabled")
        } else if seen.path.starts_with("/cdh/") && self.feature == Feature::Attestation {
            refused("Resource Feature Not Enabled")
        } else {
            None
        }
    }

    /// The answer to a request that no test spoke of.
    pub(super) fn answer(&self, seen: &Seen) -> Answer {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        match (seen.method.as_str(), path, &self.guest) {
            ("GET", "/info", _) => self.info(),
            (_, "/info", _) => Answer::Status("405 Method Not Allowed".to_owned(), b"Method Not Allowed".to_vec()),
            ("GET", "/aa/token", Some(guest)) => self.token(guest, query),
            ("GET", "/aa/evidence", Some(guest)) => evidence(guest, query),
            _ => match path.strip_prefix("/cdh/resource/") {
                Some(resource) => self.resource(resource),
                None => Answer::NotFound,
            },
        }
    }

    fn info(&self) -> Answer {
        // Without an agent of a test's own this is what was recorded: a sample guest.
        let tee = self.guest.as_ref().map_or("sample", Guest::tee);
        let tee = if self.feature == Feature::Resource { String::new() } else { format!("\"tee\":\"{tee}\",") };
        let devices = if self.additional_tees.is_empty() || self.feature == Feature::Resource {
            String::new()
        } else {
            format!("\"additional_tees\":{},", json!(self.additional_tees))
        };
        let feature = match self.feature {
            Feature::Resource => "resource",
            Feature::Attestation => "attestation",
            Feature::All => "all",
        };
        let version = "Guest Components Version: v0.21.0-dirty";
        let body = format!("{{\"version\":\"{version}\",{tee}{devices}\"feature\":\"{feature}\"}}");
        let json = [("content-type", "application/json")];
        Answer::Raw(vec![Act::Send(response("200 OK", &json, body.as_bytes()))])
    }

    /// A handshake with a new key each time: the agent keeps neither.
    fn token(&self, guest: &Guest, query: &str) -> Answer {
        let made = match parameter(query, "token_type") {
            None => return bad_request(),
            Some("kbs") => self.kbs.as_ref().and_then(|kbs| kbs.handshake(guest, self.initdata.as_deref())),
            Some(_) => None,
        };
        match made {
            Some(answer) => Answer::Bytes(answer.to_string().into_bytes()),
            None => failed("AA-KBC get token failed"),
        }
    }

    fn resource(&self, resource: &str) -> Answer {
        // CDH without an agent of a test's own is that of a sample guest, too.
        let guest = self.guest.as_ref().unwrap_or(&Guest::Sample);
        let fetched = self.kbs.as_ref().and_then(|kbs| kbs.fetch(guest, self.initdata.as_deref(), resource));
        fetched.map_or(Answer::Refused, Answer::Bytes)
    }
}

fn evidence(guest: &Guest, query: &str) -> Answer {
    let Some(text) = parameter(query, "runtime_data") else { return bad_request() };
    let data = match parameter(query, "encoding") {
        None => percent_decoded(text),
        Some("base64") => URL_SAFE_NO_PAD.decode(text).ok(),
        Some(_) => None,
    };
    match data {
        None => bad_request(),
        // Only hardware has a width.
        Some(data) if data.len() > REPORT_DATA && matches!(guest, Guest::Snp(_) | Guest::Tdx(_)) => {
            failed("AA get evidence failed")
        }
        Some(data) => Answer::Bytes(guest.evidence(&data).to_string().into_bytes()),
    }
}

fn bad_request() -> Answer {
    Answer::Status("400 Bad Request".to_owned(), b"BAD REQUEST".to_vec())
}

fn failed(what: &str) -> Answer {
    let text = format!(
        "rpc status: Status {{ code: INTERNAL, message: \"[ERROR:attestation-agent] {what}\", details: [], \
         special_fields: SpecialFields {{ unknown_fields: UnknownFields {{ fields: None }}, cached_size: CachedSize \
         {{ size: 0 }} }} }}"
    );
    Answer::Status("500 Internal Server Error".to_owned(), text.into_bytes())
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(own, _)| *own == name)).map(|(_, value)| value)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    Some(decoded)
}

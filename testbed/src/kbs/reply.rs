//! Answers as Trustee's server writes them.

use serde_json::{Value, json};

use crate::http::response;

/// An answer before it is written.
pub(super) struct Reply {
    status: String,
    headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: &str, body: &str) -> Self {
        Self { status: status.to_owned(), headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    pub(super) fn json(body: &str) -> Self {
        Self::new("200 OK", body).with("content-type", "application/json")
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        response(&self.status, &headers, &self.body)
    }

    /// The head with its true length, and half the body.
    pub(super) fn half(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(bytes.len() - self.body.len() + self.body.len() / 2);
        bytes
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    /// The body of a 200.
    pub(super) fn success(&self) -> Option<Value> {
        if self.status == "200 OK" { serde_json::from_slice(&self.body).ok() } else { None }
    }
}

/// An error of Trustee's: no content type, whatever the documents say.
pub(super) fn problem(status: &str, kind: &str, detail: &str) -> Reply {
    let kind = format!("https://github.com/confidential-containers/kbs/errors/{kind}");
    Reply::new(status, &format!("{{\"type\":{},\"detail\":{}}}", json!(kind), json!(detail)))
}

pub(super) fn too_large() -> Reply {
    let text = "payload reached size limit";
    Reply::new("413 Payload Too Large", text).with("content-type", "text/plain; charset=utf-8")
}

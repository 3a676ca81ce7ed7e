//! `initdata check`: every rule over one document, all problems at once, each on its line.
//!
//! The document is read leniently here, so that one mistake does not hide the next; whether it is
//! accepted at all is decided by [`Initdata::parse`], the guest's own parser, as well.

mod agent;
mod delivered;
mod document;
mod engine;
mod images;
mod pod;
mod report;
mod request;
pub mod rules;
mod sample;
mod services;
mod source;

use serde_json::{Value, json};

use super::{Output, hex, pack, read};
use crate::cli::Check;
use crate::finding::{Class, Finding};
use crate::formats::initdata::Initdata;
use document::Document;
use report::Report;

/// What is asked of the document.
pub(super) struct Asked {
    /// `--peer-pods`.
    peer_pods: bool,
    /// Seconds since 1970, to judge certificates by.
    now: i64,
}

pub(super) fn run(arguments: &Check, now: u64) -> Result<Output, Finding> {
    let bytes = read(&arguments.file)?;
    let mut report = Report::new(&arguments.file.display().to_string(), arguments.prod);
    let asked = Asked { peer_pods: arguments.peer_pods, now: i64::try_from(now).unwrap_or(i64::MAX) };
    let about = document(&bytes, arguments, &asked, &mut report);
    let code = if report.refused() { Class::Config.code() } else { 0 };
    Ok(if arguments.json {
        Output { out: format!("{:#}\n", report.json(&about)).into_bytes(), err: Vec::new(), code }
    } else {
        let held = about.get("host_data").and_then(Value::as_str);
        let about = held.map(|value| format!("; HOST_DATA {value}")).unwrap_or_default();
        let summary = report.summary(&about);
        if code == 0 {
            Output { out: summary.into_bytes(), err: report.lines(), code }
        } else {
            let mut err = report.lines();
            err.push(summary.trim_end().to_owned());
            Output { out: Vec::new(), err, code }
        }
    })
}

/// Runs every rule, and says what the document is.
fn document(bytes: &[u8], arguments: &Check, asked: &Asked, report: &mut Report) -> Value {
    let Some(toml) = document::unfold(bytes, report) else { return Value::Null };
    let Some(document) = Document::read(&toml, report) else { return Value::Null };
    let initdata = Initdata::parse(toml.as_bytes());
    if let Ok(initdata) = &initdata {
        if let Ok(packed) = pack::packed(initdata) {
            document::sizes(packed.len(), asked, initdata, report);
        }
    } else if !report.refused() {
        // The guest's parser is the last word; the rules above should have said why.
        report.at(&rules::TOML, None, "the guest's own parser refuses it");
    }
    let delivered = arguments.delivered.as_deref().and_then(|path| delivered::read(path, report));
    let config = services::check(&document, delivered.as_ref(), asked, report);
    let images = images::check(&document, report);
    let manifest = arguments.pod.as_deref().and_then(|path| pod::read(path, initdata.as_ref().ok(), report));
    if let Some(manifest) = &manifest {
        images::pod(manifest, images.as_ref(), report);
        if let Some(config) = &config {
            delivered::pod(manifest, config, report);
        }
    }
    agent::check(&document, images.as_ref(), manifest.as_ref(), report);
    initdata.map_or(Value::Null, |initdata| {
        json!({
            "algorithm": initdata.algorithm().label(),
            "digest": hex(&initdata.digest()),
            "host_data": hex(&initdata.host_data()),
            "mrconfigid": hex(&initdata.mrconfigid()),
            "agent_policy": initdata.agent_policy().label(),
            "sections": initdata.names().collect::<Vec<_>>(),
        })
    })
}

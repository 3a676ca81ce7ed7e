//! The end of a run, told three ways from one finding: standard error, termination message, code.

use super::Ended;
use crate::config::{Log, Provenance};
use crate::finding::{Class, Finding};
use crate::observe::log;
use crate::observe::termination::{self, Message};
use crate::ports::Ports;

/// Tells how a role ended; returns the exit code.
pub(super) fn end(ports: &Ports, ended: &Ended) -> u8 {
    // Where the configuration was refused nobody has said what to log: what was held is told now.
    log::install(Log::default(), ports.banner);
    let provenance = ended.provenance.map(Provenance::label);
    match &ended.result {
        Ok(summary) => {
            ports.say_err(&format!("countersign {}: {summary}", ended.role));
            termination::write(&ports.termination_log, &Message::done(ended.role, summary, provenance));
            0
        }
        Err(finding) => {
            let role = if ended.role == "countersign" { String::new() } else { format!(" {}", ended.role) };
            ports.say_err(&format!("countersign{role}: {finding}"));
            if let Some(broken) = &ended.broken {
                ports.say_err(&format!("  first broken link: {broken}"));
            }
            let message = Message::refusal(ended.role, finding, provenance).broken(ended.broken.as_deref());
            termination::write(&ports.termination_log, &message);
            finding.class.code()
        }
    }
}

/// A command line that was not understood: clap's own words for the person at the prompt, the
/// class for the pod.
pub(super) fn usage(ports: &Ports, text: &str) -> u8 {
    ports.say_err(text.trim_end());
    let finding = Finding::new(Class::Usage, "the command line is not understood");
    termination::write(&ports.termination_log, &Message::refusal("countersign", &finding, None));
    finding.class.code()
}

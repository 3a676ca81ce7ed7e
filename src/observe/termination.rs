//! The termination message: one JSON line of at most 4096 bytes, which the kubelet copies into the
//! container's status. Under a strict agent policy it may never get out; the exit code always does.

use std::io::Write as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use serde::Serialize;

use crate::finding::{Finding, Who};

/// The kubelet keeps 4096 bytes of a termination message and cuts the rest.
pub const MAX_BYTES: usize = 4096;

/// What is said. Field order is the order in the line.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// Version of this shape.
    pub v: u8,
    /// Which role ran.
    pub role: &'a str,
    /// Exit code.
    pub code: u8,
    /// `ok`, or the class's label.
    pub class: &'a str,
    /// What was observed, or what was done.
    pub saw: &'a str,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
    /// The next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
    /// Who takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// The first broken link that `diagnose` names, by its id, and after a colon what was seen there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<&'a str>,
    /// Provenance of the configuration, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<&'a str>,
    /// Version of countersign.
    pub version: &'a str,
}

impl<'a> Message<'a> {
    /// The message of a refusal.
    pub fn refusal(role: &'a str, finding: &'a Finding, provenance: Option<&'a str>) -> Self {
        Self {
            v: 1,
            role,
            code: finding.class.code(),
            class: finding.class.label(),
            saw: &finding.saw,
            why: Some(&finding.why),
            next: Some(&finding.next),
            who: Some(finding.who),
            broken: None,
            provenance,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The message of a run that ended well.
    pub fn done(role: &'a str, summary: &'a str, provenance: Option<&'a str>) -> Self {
        Self {
            v: 1,
            role,
            code: 0,
            class: "ok",
            saw: summary,
            why: None,
            next: None,
            who: None,
            broken: None,
            provenance,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Names the first broken link.
    #[must_use]
    pub fn broken(mut self, broken: Option<&'a str>) -> Self {
        self.broken = broken;
        self
    }

    /// The line, newline included. Longer texts are shortened, `next` last: it is what helps.
    pub fn line(&self) -> String {
        // Shortening steps: bytes left for `saw` and `why`, then for `next` too; for `broken` what is left.
        for (saw, why, next, broken) in [
            (usize::MAX, usize::MAX, usize::MAX, usize::MAX),
            (1000, 600, usize::MAX, 300),
            (600, 300, 900, 200),
            (150, 80, 280, 60),
        ] {
            let cut = Message {
                saw: shorten(self.saw, saw),
                why: self.why.map(|text| shorten(text, why)),
                next: self.next.map(|text| shorten(text, next)),
                broken: self.broken.map(|text| shorten(text, broken)),
                ..*self
            };
            if let Ok(mut line) = serde_json::to_string(&cut) {
                line.push('\n');
                if line.len() <= MAX_BYTES {
                    return line;
                }
            }
        }
        format!("{{\"v\":1,\"code\":{},\"class\":\"{}\"}}\n", self.code, self.class)
    }
}

/// The first `max` bytes, or fewer, so as not to cut a character.
fn shorten(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// Writes the line into the kubelet's file, if there is one. Never creates a file, never follows a
/// symlink, never writes into anything but a regular file: the path is given by the manifest.
pub fn write(path: &Path, message: &Message<'_>) {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return };
    let regular =
        rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if regular {
        // The exit code says the same; a failed write changes nothing.
        let _ = std::fs::File::from(fd).write_all(message.line().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Class, TABLE};

    #[test]
    fn every_class_fits_and_is_json() {
        for row in TABLE {
            let finding = Finding::new(row.class, "x");
            let message = Message::refusal("init", &finding, Some("unmeasured"));
            let line = message.line();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["code"], row.code);
            assert_eq!(value["class"], row.label);
            assert!(line.ends_with('\n') && line.len() <= MAX_BYTES);
        }
    }

    #[test]
    fn the_longest_finding_still_fits_and_keeps_its_next_step() {
        // Escapes make each of these characters six bytes.
        for filler in ["a", "é", "\u{1}", "\""] {
            let long = filler.repeat(5000);
            let finding = Finding::new(Class::Config, long.clone()).why(long.clone()).next(format!("correct {long}"));
            let line = Message::refusal("init", &finding, None).broken(Some(&long)).line();
            assert!(line.len() <= MAX_BYTES, "{}", line.len());
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(value["next"].as_str().unwrap().starts_with("correct "));
        }
    }

    #[test]
    fn a_symlink_is_not_written_through() {
        let dir = std::env::temp_dir().join(format!("countersign-term-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (target, link) = (dir.join("target"), dir.join("link"));
        std::fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, &Message::done("init", "x", None));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "untouched");
        write(&target, &Message::done("init", "x", None));
        assert!(std::fs::read_to_string(&target).unwrap().contains("\"class\":\"ok\""));
        write(&dir.join("absent"), &Message::done("init", "x", None));
        assert!(!dir.join("absent").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

//! Log lines on standard error.
//!
//! Only our own events are written, at every level: dependencies' log lines are not ours to vouch
//! for (TLS and HTTP libraries print what they carry at `trace`), so their targets are dropped
//! before formatting.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::config::{Log, LogFormat};

/// Every target of ours starts with this.
const OURS: &str = "countersign";

/// Most lines that are held before configuration says which of them are wanted. A run has a dozen.
const MAX_HELD: usize = 64;

/// What is known of the log so far. One for the process, as the subscriber is.
static STATE: Mutex<State> = Mutex::new(State { log: None, held: Vec::new() });

struct State {
    log: Option<Log>,
    held: Vec<(Level, Fields)>,
}

/// Installs the subscriber for the rest of the process, and holds what is logged until [`install`] says
/// what is wanted: where configuration comes from is told before there is any. `banner` is put before
/// every line. A second call changes nothing.
pub fn hold(banner: Option<&'static str>) {
    // Fails only when a subscriber is there already, which is what a second call finds.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(Lines { banner }));
}

/// Writes what was held, and from now on everything that `log` wants, at once. The first call decides.
pub fn install(log: Log, banner: Option<&'static str>) {
    hold(banner);
    let mut state = lock();
    let log = *state.log.get_or_insert(log);
    for (level, fields) in std::mem::take(&mut state.held) {
        if level <= log.level {
            write(log, banner, level, &fields);
        }
    }
    drop(state);
    // What each place in the code was told when it first spoke may have changed.
    tracing::callsite::rebuild_interest_cache();
}

struct Lines {
    banner: Option<&'static str>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let most = lock().log.map_or(Level::DEBUG, |log| log.level);
        *metadata.level() <= most && is_ours(metadata.target())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let mut state = lock();
        match state.log {
            Some(log) if level <= log.level => write(log, self.banner, level, &fields),
            None if state.held.len() < MAX_HELD => state.held.push((level, fields)),
            _ => {}
        }
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(log: Log, banner: Option<&'static str>, level: Level, fields: &Fields) {
    let mut line = match log.format {
        LogFormat::Text => fields.text(level),
        LogFormat::Json => fields.json(level),
    };
    if let Some(banner) = banner {
        line.insert_str(0, banner);
    }
    line.push('\n');
    // Nobody reads a failed write to standard error.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn is_ours(target: &str) -> bool {
    target.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }
}

impl Fields {
    fn keep(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.rest.push((field.name(), value));
        }
    }

    fn text(&self, level: Level) -> String {
        let mut line = format!("{level:<5} {}", self.message);
        for (name, value) in &self.rest {
            // Writing to a String cannot fail.
            let _ = write!(line, " {name}={value:?}");
        }
        line
    }

    fn json(&self, level: Level) -> String {
        let mut map = serde_json::Map::new();
        map.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
        map.insert("message".to_owned(), self.message.clone().into());
        for (name, value) in &self.rest {
            map.insert((*name).to_owned(), value.clone().into());
        }
        serde_json::Value::Object(map).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_targets_are_ours() {
        assert!(is_ours("countersign"));
        assert!(is_ours("countersign::access"));
        assert!(!is_ours("countersignature"));
        assert!(!is_ours("hyper::proto::h1"));
        assert!(!is_ours("rustls::client"));
    }

    #[test]
    fn a_field_cannot_break_a_line() {
        let fields = Fields { message: "published".to_owned(), rest: vec![("path", "a\nb".to_owned())] };
        assert_eq!(fields.text(Level::INFO), "INFO  published path=\"a\\nb\"");
        assert_eq!(fields.json(Level::INFO), r#"{"level":"info","message":"published","path":"a\nb"}"#);
    }
}

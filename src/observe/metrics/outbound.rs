//! Of one `[[outbound]]`.

use std::sync::Arc;

use super::{Answers, Counter, Gauge, Page};
use crate::tls::peer::Reason;

/// Of one `[[outbound]]`. Its name is where the app dials.
#[derive(Debug, Default)]
pub struct Outbound {
    name: String,
    /// Peers that were reached, and are who they must be.
    pub connected: Counter,
    refused: [Counter; Reason::ALL.len()],
    /// The name has no address, or nobody takes connections there.
    pub unreachable: Counter,
    /// The app's connections that were closed at once: no certificate to show, or too many.
    pub shed: Counter,
    /// Live connections that were cut because their peer may no longer be trusted.
    pub withdrawn: Counter,
    /// Connections to peers.
    pub open: Arc<Gauge>,
    /// Requests (http) or connections (tcp) of the app under way: what a drain waits for.
    pub active: Arc<Gauge>,
    /// Answers to the app (http).
    pub answers: Answers,
}

impl Outbound {
    /// All at zero.
    pub fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// What answered is not the peer, or does not let us in.
    pub fn refuse(&self, reason: Reason) {
        for (counter, each) in self.refused.iter().zip(Reason::ALL) {
            if each == reason {
                counter.add(1);
            }
        }
    }
}

/// How a number of each is read.
type Number = fn(&Outbound) -> u64;
/// The same of one that goes up and down.
type Gauges = fn(&Outbound) -> i64;

pub(super) fn write(page: &mut Page, all: &[Arc<Outbound>]) {
    if all.is_empty() {
        return;
    }
    let name = "countersign_outbound_handshakes_total";
    page.head(name, "counter", "Handshakes with peers that the app dialled, by how they ended.");
    for outbound in all {
        page.line(name, &[("outbound", &outbound.name), ("result", "connected")], outbound.connected.get());
        for (counter, reason) in outbound.refused.iter().zip(Reason::ALL) {
            page.line(name, &[("outbound", &outbound.name), ("result", reason.label())], counter.get());
        }
    }
    let gauges: [(&str, &str, Gauges); 2] = [
        ("countersign_outbound_connections_open", "Connections to peers that the app dialled.", |o| o.open.get()),
        ("countersign_outbound_requests_active", "Requests (http) or connections (tcp) of the app under way.", |o| {
            o.active.get()
        }),
    ];
    for (name, help, get) in gauges {
        page.head(name, "gauge", help);
        for outbound in all {
            page.line(name, &[("outbound", &outbound.name)], get(outbound));
        }
    }
    let counters: [(&str, &str, Number); 3] = [
        ("countersign_outbound_unreachable_total", "Peers without an address, or that take no connections.", |o| {
            o.unreachable.get()
        }),
        (
            "countersign_outbound_shed_total",
            "Connections and requests of the app that were closed, or told 503, at once.",
            |o| o.shed.get(),
        ),
        ("countersign_outbound_withdrawn_total", "Live connections cut because trust was withdrawn.", |o| {
            o.withdrawn.get()
        }),
    ];
    for (name, help, get) in counters {
        page.head(name, "counter", help);
        for outbound in all {
            page.line(name, &[("outbound", &outbound.name)], get(outbound));
        }
    }
    let name = "countersign_outbound_responses_total";
    page.head(name, "counter", "Answers to the app, by class of status (http).");
    for outbound in all {
        for (counter, status) in outbound.answers.classes() {
            page.line(name, &[("outbound", &outbound.name), ("status", status)], counter.get());
        }
    }
    let name = "countersign_outbound_response_seconds";
    page.head(name, "histogram", "From the head of a request of the app to the head of its answer (http).");
    for outbound in all {
        page.histogram(name, ("outbound", &outbound.name), &outbound.answers.latency);
    }
}

//! What is counted, and the text that Prometheus reads.
//!
//! Names and labels are stable (`docs/sidecar.md`). Labels come from configuration and from fixed
//! tables, never from a peer: nobody can make them grow.

mod issued;
mod outbound;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::finding::{Class, TABLE};
use crate::tls::peer::Reason;
pub use issued::Issued;
pub use outbound::Outbound;

/// Upper bounds of the latency buckets, seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one until the returned value is dropped.
    #[must_use]
    pub fn hold(self: &std::sync::Arc<Self>) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(std::sync::Arc::clone(self))
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of a gauge.
#[derive(Debug)]
pub struct Held(std::sync::Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection was closed that nobody had refused: for want of room, or of a certificate of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Too many handshakes each second.
    Rate,
    /// Too many that have not authenticated.
    Unauthenticated,
    /// Too many of peers: after TLS, since strangers take none of these places.
    Connections,
    /// No certificate to show.
    NoCertificate,
}

impl Shed {
    const ALL: [Self; 4] = [Self::Rate, Self::Unauthenticated, Self::Connections, Self::NoCertificate];

    /// Stable name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Unauthenticated => "unauthenticated",
            Self::Connections => "connections",
            Self::NoCertificate => "no-certificate",
        }
    }
}

/// Of one `[[inbound]]`.
#[derive(Debug, Default)]
pub struct Inbound {
    name: String,
    /// Handshakes that ended well.
    pub accepted: Counter,
    refused: [Counter; Reason::ALL.len()],
    shed: [Counter; Shed::ALL.len()],
    /// Connections before and during the handshake.
    pub handshaking: std::sync::Arc<Gauge>,
    /// Connections of authenticated peers.
    pub open: std::sync::Arc<Gauge>,
    /// Requests, or streams, under way.
    pub active: std::sync::Arc<Gauge>,
    /// Bytes from peers, TLS included.
    pub received: Counter,
    /// Bytes to peers, TLS included.
    pub sent: Counter,
    /// Live connections that were cut because their peer may no longer connect.
    pub withdrawn: Counter,
    /// The app took no connection (tcp).
    pub app_unreachable: Counter,
    /// Answers to requests (http).
    pub answers: Answers,
}

/// Answers to requests.
#[derive(Debug, Default)]
pub struct Answers {
    /// By the first digit of the status.
    by_class: [Counter; 6],
    /// From the head of the request to the head of the answer.
    latency: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [Counter; BUCKETS.len()],
    count: Counter,
    micros: Counter,
}

impl Inbound {
    /// A peer was turned away in the handshake.
    pub fn refuse(&self, reason: Reason) {
        for (counter, each) in self.refused.iter().zip(Reason::ALL) {
            if each == reason {
                counter.add(1);
            }
        }
    }

    /// A connection was closed for want of room, or of a certificate of ours.
    pub fn shed(&self, why: Shed) {
        for (counter, each) in self.shed.iter().zip(Shed::ALL) {
            if each == why {
                counter.add(1);
            }
        }
    }
}

impl Answers {
    /// A request was answered with `status` after `took`.
    pub fn count(&self, status: u16, took: std::time::Duration) {
        if let Some(counter) = self.by_class.get(usize::from(status / 100).min(5)) {
            counter.add(1);
        }
        for (bucket, bound) in self.latency.buckets.iter().zip(BUCKETS) {
            if took.as_secs_f64() <= bound {
                bucket.add(1);
            }
        }
        self.latency.count.add(1);
        self.latency.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// With the class of the status, as labels say it.
    fn classes(&self) -> impl Iterator<Item = (&Counter, &'static str)> {
        self.by_class.iter().zip(["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"]).skip(1)
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    inbound: Vec<std::sync::Arc<Inbound>>,
    /// Of the port where all this is read, where that is over mTLS.
    port: Option<std::sync::Arc<Inbound>>,
    outbound: Vec<std::sync::Arc<Outbound>>,
    /// Of an issuer.
    issued: Option<std::sync::Arc<Issued>>,
    certificate_ends: AtomicU64,
    renewals: Counter,
    renewal_failures: [Counter; TABLE.len()],
    sandbox: [AtomicU64; 2],
}

impl Metrics {
    /// For listeners of these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let inbound = names.into_iter().map(|name| std::sync::Arc::new(Inbound { name, ..Inbound::default() }));
        Self { inbound: inbound.collect(), ..Self::default() }
    }

    /// Counts at the port where metrics are read, too.
    #[must_use]
    pub fn read_at(mut self, name: String) -> Self {
        self.port = Some(std::sync::Arc::new(Inbound { name, ..Inbound::default() }));
        self
    }

    /// Of that port.
    pub fn port(&self) -> std::sync::Arc<Inbound> {
        self.port.clone().unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = &Inbound> {
        self.inbound.iter().chain(&self.port).map(std::sync::Arc::as_ref)
    }

    /// The same, and for what the app dials, by these names.
    #[must_use]
    pub fn dialling(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.outbound = names.into_iter().map(|name| std::sync::Arc::new(Outbound::new(name))).collect();
        self
    }

    /// The same, and for what an issuer gives.
    #[must_use]
    pub fn issuing(mut self) -> Self {
        self.issued = Some(std::sync::Arc::default());
        self
    }

    /// Of an issuer.
    pub fn issued(&self) -> std::sync::Arc<Issued> {
        self.issued.clone().unwrap_or_default()
    }

    /// Of the `[[outbound]]` with this place in configuration.
    pub fn outbound(&self, place: usize) -> std::sync::Arc<Outbound> {
        self.outbound.get(place).cloned().unwrap_or_default()
    }

    /// Of the listener with this place in configuration.
    pub fn inbound(&self, place: usize) -> std::sync::Arc<Inbound> {
        self.inbound.get(place).cloned().unwrap_or_default()
    }

    /// A certificate that ends then is served.
    pub fn renewed(&self, until: u64) {
        self.certificate_ends.store(until, Ordering::Relaxed);
        self.renewals.add(1);
    }

    /// What the sandbox is: whether system calls are filtered, and by which ABI of Landlock files and ports
    /// are. 0 is not at all.
    pub fn sandboxed(&self, seccomp: bool, landlock: u8) {
        for (gauge, value) in self.sandbox.iter().zip([u8::from(seccomp), landlock]) {
            gauge.store(value.into(), Ordering::Relaxed);
        }
    }

    /// A renewal failed.
    pub fn renewal_failed(&self, class: Class) {
        for (counter, row) in self.renewal_failures.iter().zip(TABLE) {
            if row.class == class {
                counter.add(1);
            }
        }
    }

    /// Connections of authenticated peers, and what the app asks of peers: all that is the app's, together.
    pub fn open(&self) -> i64 {
        let to: i64 = self.outbound.iter().map(|outbound| outbound.active.get()).sum();
        self.inbound.iter().map(|inbound| inbound.open.get()).sum::<i64>().saturating_add(to)
    }

    /// The text (Prometheus exposition format 0.0.4).
    pub fn text(&self) -> String {
        let mut page = Page(String::with_capacity(8192));
        page.head("countersign_build_info", "gauge", "Version of countersign.");
        page.line("countersign_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.head("countersign_sandbox", "gauge", "Layers of the sandbox: 1, or the ABI of Landlock; 0 is off.");
        for (layer, gauge) in ["seccomp", "landlock"].iter().zip(&self.sandbox) {
            page.line("countersign_sandbox", &[("layer", layer)], gauge.load(Ordering::Relaxed));
        }
        page.head("countersign_certificate_expiry_seconds", "gauge", "When the certificate ends, seconds since 1970.");
        page.line("countersign_certificate_expiry_seconds", &[], self.certificate_ends.load(Ordering::Relaxed));
        page.head("countersign_certificate_renewals_total", "counter", "Certificates that were published.");
        page.line("countersign_certificate_renewals_total", &[], self.renewals.get());
        page.head("countersign_certificate_renewal_failures_total", "counter", "Renewals that failed, by class.");
        for (counter, row) in self.renewal_failures.iter().zip(TABLE) {
            page.line("countersign_certificate_renewal_failures_total", &[("class", row.label)], counter.get());
        }
        self.listeners(&mut page);
        outbound::write(&mut page, &self.outbound);
        if let Some(issued) = &self.issued {
            issued::write(&mut page, issued);
        }
        page.0
    }

    fn listeners(&self, page: &mut Page) {
        let name = "countersign_handshakes_total";
        page.head(name, "counter", "Handshakes with peers, by how they ended.");
        for inbound in self.all() {
            page.line(name, &[("inbound", &inbound.name), ("result", "accepted")], inbound.accepted.get());
            for (counter, reason) in inbound.refused.iter().zip(Reason::ALL) {
                page.line(name, &[("inbound", &inbound.name), ("result", reason.label())], counter.get());
            }
        }
        let name = "countersign_connections_shed_total";
        page.head(name, "counter", "Connections closed unserved, by limit: before TLS, of `connections` after it.");
        for inbound in self.all() {
            for (counter, why) in inbound.shed.iter().zip(Shed::ALL) {
                page.line(name, &[("inbound", &inbound.name), ("limit", why.label())], counter.get());
            }
        }
        let gauges: [(&str, &str, Gauges); 3] = [
            ("countersign_connections_handshaking", "Connections before and during the handshake.", |i| {
                i.handshaking.get()
            }),
            ("countersign_connections_open", "Connections of authenticated peers.", |i| i.open.get()),
            ("countersign_requests_active", "Requests (http) or streams (tcp) under way.", |i| i.active.get()),
        ];
        for (name, help, get) in gauges {
            page.head(name, "gauge", help);
            for inbound in self.all() {
                page.line(name, &[("inbound", &inbound.name)], get(inbound));
            }
        }
        let counters: [(&str, &str, Counters); 4] = [
            ("countersign_app_unreachable_total", "Connections that the app did not take (tcp).", |i| {
                i.app_unreachable.get()
            }),
            ("countersign_received_bytes_total", "Bytes from peers, TLS included.", |i| i.received.get()),
            ("countersign_sent_bytes_total", "Bytes to peers, TLS included.", |i| i.sent.get()),
            ("countersign_connections_withdrawn_total", "Live connections cut because trust was withdrawn.", |i| {
                i.withdrawn.get()
            }),
        ];
        for (name, help, get) in counters {
            page.head(name, "counter", help);
            for inbound in self.all() {
                page.line(name, &[("inbound", &inbound.name)], get(inbound));
            }
        }
        let name = "countersign_responses_total";
        page.head(name, "counter", "Answers to peers, by class of status (http).");
        for inbound in self.all() {
            for (counter, status) in inbound.answers.classes() {
                page.line(name, &[("inbound", &inbound.name), ("status", status)], counter.get());
            }
        }
        let name = "countersign_response_seconds";
        page.head(name, "histogram", "From the head of a request to the head of its answer (http).");
        for inbound in self.all() {
            page.histogram(name, ("inbound", &inbound.name), &inbound.answers.latency);
        }
    }
}

/// How a number of each listener is read.
type Gauges = fn(&Inbound) -> i64;
/// The same of one that only grows.
type Counters = fn(&Inbound) -> u64;

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect::<Vec<_>>().join(",");
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn histogram(&mut self, name: &str, of: (&str, &str), histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        for (counter, bound) in histogram.buckets.iter().zip(BUCKETS) {
            self.line(&bucket, &[of, ("le", &bound.to_string())], counter.get());
        }
        self.line(&bucket, &[of, ("le", "+Inf")], histogram.count.get());
        let micros = histogram.micros.get();
        let sum = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        self.line(&format!("{name}_sum"), &[of], sum);
        self.line(&format!("{name}_count"), &[of], histogram.count.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_name_with_its_help_and_no_label_of_a_peers() {
        let metrics = Metrics::new(["[::]:8443".to_owned()]).dialling(["127.0.0.1:5432".to_owned()]);
        metrics.outbound(0).refuse(Reason::OtherInitdata);
        metrics.inbound(0).refuse(Reason::NotAllowed);
        metrics.inbound(0).shed(Shed::Rate);
        metrics.inbound(0).answers.count(502, std::time::Duration::from_millis(3));
        let text = metrics.text();
        for line in [
            "countersign_handshakes_total{inbound=\"[::]:8443\",result=\"not-allowed\"} 1",
            "countersign_outbound_handshakes_total{outbound=\"127.0.0.1:5432\",result=\"other-initdata\"} 1",
            "countersign_connections_shed_total{inbound=\"[::]:8443\",limit=\"rate\"} 1",
            "countersign_responses_total{inbound=\"[::]:8443\",status=\"5xx\"} 1",
            "countersign_response_seconds_bucket{inbound=\"[::]:8443\",le=\"0.005\"} 1",
            "countersign_response_seconds_sum{inbound=\"[::]:8443\"} 0.003000",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap().trim_end_matches("_bucket");
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}

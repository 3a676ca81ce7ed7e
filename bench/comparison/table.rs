//! The cases, and what must come out. Limits are the project's own; `aim` is what was seen to be possible.

use crate::load::{Kx, Work};
use crate::proxies::{Kind, Mode};

/// Of a ratio, ours / theirs, unless a case says otherwise.
#[derive(Clone, Copy)]
pub struct Limit {
    pub must: f64,
    pub aim: f64,
    /// More is better.
    pub more: bool,
}

const fn most(must: f64, aim: f64) -> Limit {
    Limit { must, aim, more: false }
}

const fn least(must: f64, aim: f64) -> Limit {
    Limit { must, aim, more: true }
}

/// A case that costs processor time.
pub struct Case {
    pub name: &'static str,
    pub mode: Mode,
    pub work: Work,
    /// Ours; theirs is X25519, for OpenSSL 3.0 has no hybrid.
    pub kx: Kx,
    pub peer: Kind,
    pub limit: Option<Limit>,
}

const fn case(name: &'static str, mode: Mode, work: Work, kx: Kx, peer: Kind, limit: Option<Limit>) -> Case {
    Case { name, mode, work, kx, peer, limit }
}

/// Processor time.
pub const CASES: &[Case] = &[
    case("handshake_http", Mode::Http, Work::Connect, Kx::Hybrid, Kind::Haproxy, Some(most(0.45, 0.30))),
    case("handshake_http", Mode::Http, Work::Connect, Kx::X25519, Kind::Haproxy, None),
    case("handshake_tcp", Mode::Tcp, Work::Connect, Kx::Hybrid, Kind::Nginx, Some(most(0.50, 0.35))),
    case("handshake_tcp", Mode::Tcp, Work::Connect, Kx::X25519, Kind::Nginx, None),
    case("keepalive_http1", Mode::Http, Work::Http1, Kx::Hybrid, Kind::Haproxy, Some(most(1.10, 0.95))),
    case("keepalive_http2", Mode::Http, Work::Http2, Kx::Hybrid, Kind::Haproxy, Some(most(1.15, 1.0))),
    case("keepalive_tcp", Mode::Tcp, Work::Http1, Kx::Hybrid, Kind::Nginx, Some(most(1.0, 0.90))),
    case("bulk_down_http", Mode::Http, Work::Down, Kx::Hybrid, Kind::Haproxy, Some(least(1.6, 2.0))),
    case("bulk_down_tcp", Mode::Tcp, Work::Down, Kx::Hybrid, Kind::Haproxy, Some(least(1.6, 2.0))),
    case("bulk_up_http", Mode::Http, Work::Up, Kx::Hybrid, Kind::Haproxy, Some(least(1.3, 1.6))),
    case("bulk_up_tcp", Mode::Tcp, Work::Up, Kx::Hybrid, Kind::Haproxy, Some(least(1.3, 1.6))),
];

/// Memory of idle connections.
pub const MEMORY: &[(&str, Mode, Kind, Option<Limit>)] = &[
    ("memory_per_idle_http", Mode::Http, Kind::Haproxy, Some(most(1.5, 1.0))),
    ("memory_per_idle_tcp", Mode::Tcp, Kind::Haproxy, Some(most(0.8, 0.6))),
];

/// A handshake with the exchange of evidence, the verdict on it remembered: beside our own without, and beside
/// the named peer's of certificates alone.
pub const EVIDENCE: [Option<Limit>; 2] = [Some(most(1.8, 1.5)), Some(most(0.8, 0.55))];

/// The same with a verdict that is not remembered, beside one that is.
pub const APPRAISED: Option<Limit> = Some(most(2.2, 1.8));

/// A certificate of the issuer, connection and handshake included, beside the named peer's handshake.
pub const ISSUED: Option<Limit> = Some(most(1.2, 0.9));

/// Memory of an idle connection with evidence, beside one without.
pub const EVIDENCE_MEMORY: Option<Limit> = Some(most(1.5, 1.2));

/// Round trips from TCP's own to the app's first byte, beside the handshake's one: the exchange adds one.
pub const ROUND_TRIPS: Option<Limit> = Some(most(2.0, 2.0));

/// Latency while our certificate is renewed every second, beside the same load without.
pub const P99: Option<Limit> = Some(most(2.0, 1.2));

/// Of our own resident memory without a connection, KiB.
pub const RSS: Option<Limit> = Some(most(8.0 * 1024.0, 5.0 * 1024.0));

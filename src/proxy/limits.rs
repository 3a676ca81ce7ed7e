//! What callers may take of this pod, cheapest first: rate, before any crypto; connections that have
//! not authenticated, in a budget of their own; connections in all.
//!
//! Strangers are counted by prefix (/24, /64), and one prefix has a quarter. Prefixes that authenticated lately
//! keep a quarter of the rate and of the budget for themselves: a flood of strangers cannot use up what peers
//! need. One of those leaves the others half: a neighbour of a peer is nobody's peer yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::roles;
use crate::observe::metrics::Shed;

/// Most prefixes that are kept apart. Strangers beyond share one place.
const MAX_PREFIXES: usize = 4096;

/// How long an authentication speaks for its prefix.
const LATELY: Duration = Duration::from_secs(3600);

/// The limits of one listener's process. Shared by all listeners.
pub struct Limits {
    table: Arc<Mutex<Table>>,
    connections: Arc<Semaphore>,
    rate: f64,
    unauthenticated: usize,
}

struct Table {
    all: Bucket,
    strangers: Bucket,
    places: HashMap<Prefix, Place>,
    waiting: usize,
    waiting_strangers: usize,
}

struct Place {
    bucket: Bucket,
    waiting: usize,
    authenticated: Option<Instant>,
    last: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 3]),
    V6([u16; 4]),
    Others,
}

fn prefix(address: IpAddr) -> Prefix {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Prefix::V4([a, b, c])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Prefix::V6([a, b, c, d])
        }
    }
}

/// Tokens that come back with time, never more than a second's.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: f64, now: Instant) -> Self {
        Self { tokens: rate.max(1.0), at: now }
    }

    fn refill(&mut self, rate: f64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(rate.max(1.0));
        self.at = now;
    }

    fn take(&mut self) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    fn has(&self) -> bool {
        self.tokens >= 1.0
    }
}

/// A connection that has not authenticated yet. Gives its place back when dropped.
pub struct Stranger {
    table: Arc<Mutex<Table>>,
    prefix: Prefix,
    known: bool,
}

impl Limits {
    /// As configured; never more connections than `descriptors` allow, at two for each.
    pub fn new(limits: roles::Limits, descriptors: usize) -> Self {
        let rate = f64::from(limits.handshakes());
        let now = Instant::now();
        let table = Table {
            all: Bucket::full(rate, now),
            strangers: Bucket::full(rate * 0.75, now),
            places: HashMap::new(),
            waiting: 0,
            waiting_strangers: 0,
        };
        // Beside the connections: listeners, logs, the KBS, probes, and those that have not authenticated.
        let room = descriptors.saturating_sub(128).saturating_sub(limits.unauthenticated()) / 2;
        let connections = limits.connections().min(room.max(1));
        if limits.connections.is_some() && connections < limits.connections() {
            tracing::warn!(
                connections,
                descriptors,
                "fewer connections than `limits.connections`: too few descriptors"
            );
        }
        Self {
            table: Arc::new(Mutex::new(table)),
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            rate,
            unauthenticated: limits.unauthenticated(),
        }
    }

    /// Whether a connection from `address` may begin a handshake.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<Stranger, Shed> {
        let mut guard = lock(&self.table);
        let table = &mut *guard;
        table.all.refill(self.rate, now);
        table.strangers.refill(self.rate * 0.75, now);
        let prefix = table.place(prefix(address), self.rate, now);
        let Some(place) = table.places.get_mut(&prefix) else { return Err(Shed::Rate) };
        place.last = now;
        let known = place.authenticated.is_some_and(|at| now.saturating_duration_since(at) < LATELY);
        // What one prefix may have.
        let (rate, each) = if known {
            (self.rate / 2.0, self.unauthenticated.div_ceil(2))
        } else {
            (self.rate / 4.0, self.unauthenticated.div_ceil(4))
        };
        place.bucket.refill(rate, now);
        let may = if known {
            // Where all come from one address, behind a load balancer: more than half, while no others want it.
            place.bucket.has() || table.all.tokens > self.rate / 2.0
        } else {
            place.bucket.has() && table.strangers.has()
        };
        if !(may && table.all.has()) {
            return Err(Shed::Rate);
        }
        let strangers = self.unauthenticated.saturating_mul(3).div_ceil(4);
        let crowded = place.waiting >= each || (!known && table.waiting_strangers >= strangers);
        if table.waiting >= self.unauthenticated || crowded {
            return Err(Shed::Unauthenticated);
        }
        table.all.take();
        place.bucket.take();
        table.waiting = table.waiting.saturating_add(1);
        place.waiting = place.waiting.saturating_add(1);
        if !known {
            table.strangers.take();
            table.waiting_strangers = table.waiting_strangers.saturating_add(1);
        }
        Ok(Stranger { table: Arc::clone(&self.table), prefix, known })
    }

    /// The stranger has authenticated: its place is free again, and it takes one of the connections.
    pub fn authenticated(&self, stranger: Stranger, now: Instant) -> Result<OwnedSemaphorePermit, Shed> {
        // Those that share one place are no prefix: one of them speaks for none of the others.
        if stranger.prefix != Prefix::Others
            && let Some(place) = lock(&self.table).places.get_mut(&stranger.prefix)
        {
            place.authenticated = Some(now);
        }
        drop(stranger);
        Arc::clone(&self.connections).try_acquire_owned().map_err(|_| Shed::Connections)
    }
}

impl Table {
    /// The prefix to count under: its own, while there is room.
    fn place(&mut self, prefix: Prefix, rate: f64, now: Instant) -> Prefix {
        if !self.places.contains_key(&prefix) && self.places.len() >= MAX_PREFIXES {
            self.places.retain(|_, place| {
                let quiet = now.saturating_duration_since(place.last);
                place.waiting > 0
                    || quiet < if place.authenticated.is_some() { LATELY } else { Duration::from_secs(10) }
            });
        }
        let prefix =
            if self.places.contains_key(&prefix) || self.places.len() < MAX_PREFIXES { prefix } else { Prefix::Others };
        self.places.entry(prefix).or_insert_with(|| Place {
            bucket: Bucket::full(rate / 4.0, now),
            waiting: 0,
            authenticated: None,
            last: now,
        });
        prefix
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.waiting = table.waiting.saturating_sub(1);
        if !self.known {
            table.waiting_strangers = table.waiting_strangers.saturating_sub(1);
        }
        if let Some(place) = table.places.get_mut(&self.prefix) {
            place.waiting = place.waiting.saturating_sub(1);
        }
    }
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(handshakes: u32, unauthenticated: usize, connections: usize) -> Limits {
        let limits = roles::Limits {
            connections: Some(connections),
            unauthenticated: Some(unauthenticated),
            handshakes: Some(handshakes),
        };
        Limits::new(limits, 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn strangers_cannot_use_up_what_peers_need() {
        let limits = limits(100, 1000, 10);
        let now = Instant::now();
        let known = limits.admit(ip("10.0.0.1"), now).unwrap();
        drop(limits.authenticated(known, now).unwrap());
        let mut let_in = 0;
        for net in 0..=255_u8 {
            let from = IpAddr::from([192, 168, net, 1]);
            let_in += (0..10).filter(|_| limits.admit(from, now).is_ok()).count();
        }
        assert_eq!(let_in, 75 - 1, "three quarters, and the first of the peer's own came out of them");
        let peers = (0..50).filter(|_| limits.admit(ip("10.0.0.2"), now).is_ok()).count();
        assert_eq!(peers, 24, "the quarter that a new prefix has, less the first");
        assert_eq!(limits.admit(ip("10.0.0.2"), now).err(), Some(Shed::Rate));
        assert!(limits.admit(ip("10.0.0.2"), now + Duration::from_secs(1)).is_ok(), "it comes back");
    }

    #[test]
    fn one_prefix_of_strangers_has_a_quarter() {
        let limits = limits(1000, 40, 10);
        let now = Instant::now();
        let held: Vec<_> = (0..40).filter_map(|_| limits.admit(ip("192.0.2.7"), now).ok()).collect();
        assert_eq!(held.len(), 10);
        assert!(limits.admit(ip("2001:db8::1"), now).is_ok(), "others have their own");
        drop(held);
        assert!(limits.admit(ip("192.0.2.7"), now).is_ok(), "a place that is given back is free");
    }

    #[test]
    fn a_neighbour_of_a_peer_leaves_other_peers_their_share() {
        let limits = limits(100, 40, 10);
        let now = Instant::now();
        for peer in ["10.0.0.1", "10.0.1.1"] {
            let known = limits.admit(ip(peer), now).unwrap();
            drop(limits.authenticated(known, now).unwrap());
        }
        // Silent ones, in the prefix of the first peer.
        let held: Vec<_> = (0..100).filter_map(|_| limits.admit(ip("10.0.0.66"), now).ok()).collect();
        assert_eq!(held.len(), 20, "half of the places");
        assert!(limits.admit(ip("10.0.1.1"), now).is_ok());
        drop(held);
        let later = now + Duration::from_secs(10);
        let let_in = (0..100).filter(|_| limits.admit(ip("10.0.0.66"), later).is_ok()).count();
        assert_eq!(let_in, 50, "half of the rate");
        assert!(limits.admit(ip("10.0.1.1"), later).is_ok());
        // One after the other, while nobody else comes: all of it.
        let after = |tenths: u64| later + Duration::from_secs(10) + Duration::from_millis(100 * tenths);
        let ones = |now| (0..10).filter(|_| limits.admit(ip("10.0.0.66"), now).is_ok()).count();
        assert_eq!((0..100).map(|tenths| ones(after(tenths))).sum::<usize>(), 1000);
    }

    #[test]
    fn strangers_who_share_one_place_are_not_known_by_one_of_them() {
        let limits = limits(1_000_000, 100_000, 10);
        let now = Instant::now();
        for n in 0..4096_u32 {
            drop(limits.admit(IpAddr::from((n << 8).to_be_bytes()), now).unwrap());
        }
        let one = limits.admit(ip("192.0.2.1"), now).unwrap();
        assert!(one.prefix == Prefix::Others);
        drop(limits.authenticated(one, now).unwrap());
        assert!(!limits.admit(ip("198.51.100.1"), now).unwrap().known);
    }

    #[test]
    fn connections_of_peers_have_a_limit_of_their_own() {
        let limits = limits(1000, 40, 1);
        let now = Instant::now();
        let first = limits.admit(ip("::ffff:10.0.0.1"), now).unwrap();
        let permit = limits.authenticated(first, now).unwrap();
        let second = limits.admit(ip("10.0.0.1"), now).unwrap();
        assert_eq!(limits.authenticated(second, now).err(), Some(Shed::Connections));
        drop(permit);
        let third = limits.admit(ip("10.0.0.1"), now).unwrap();
        assert!(limits.authenticated(third, now).is_ok());
    }

    #[test]
    fn prefixes_without_end_take_bounded_memory() {
        let limits = limits(1_000_000, 100_000, 10);
        let now = Instant::now();
        for n in 0..100_000_u32 {
            drop(limits.admit(IpAddr::from(n.rotate_left(8).to_be_bytes()), now));
        }
        assert!(lock(&limits.table).places.len() <= MAX_PREFIXES + 1);
    }
}

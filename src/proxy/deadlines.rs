//! Every wait of the data plane, with its reason and where the number comes from.
//!
//! All of them are about silence or slowness. None limits how long an exchange that makes progress may
//! take.

use std::time::Duration;

/// From the accepted connection over the handshake to the first request's head (http), or to the app's
/// accepted connection (tcp): all that a stranger can make us wait. ghostunnel: 10 s for the handshake.
pub const FIRST: Duration = Duration::from_secs(10);

/// Dialling the app. It is in the same pod: whatever takes longer is a full accept queue.
pub const DIAL: Duration = Duration::from_secs(2);

/// Dialling one address of a peer. Two of Linux's retransmissions of a SYN (1 s, then 2 s) fit, and two
/// addresses inside [`FIRST`].
pub const DIAL_PEER: Duration = Duration::from_secs(4);

/// From one answer to the head of the next request on an HTTP/1.1 connection, head included. nginx's
/// `keepalive_timeout`: 75 s.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Between two HTTP/2 pings while a connection is silent. Envoy's edge guide and gRPC servers: 1 min or
/// more.
pub const PING: Duration = Duration::from_secs(60);

/// For the answer to a ping. hyper's default.
pub const PONG: Duration = Duration::from_secs(20);

/// An HTTP/2 connection without a stream. Envoy's `idle_timeout` is 1 h; callers reconnect at no cost
/// to them, so a quarter of it.
pub const IDLE_H2: Duration = Duration::from_secs(15 * 60);

/// Between two pieces of a body, of the request's or of the answer's. As long as Envoy's `idle_timeout`
/// of connections: streams of events may be silent for long.
pub const BODY: Duration = Duration::from_secs(3600);

/// Between two bytes of a `tcp` connection, either way: Envoy's `idle_timeout`, 1 h.
pub const IDLE_TCP: Duration = Duration::from_secs(3600);

/// The same once one side has said that it sends no more. Counted from the last byte, so that a long
/// download after a half-close is not cut (ghostunnel issue 795: a fixed cap cuts it).
pub const HALF_CLOSED: Duration = Duration::from_secs(5 * 60);

/// Bytes that the peer's kernel does not take (`TCP_USER_TIMEOUT`). Also ends who reads nothing: of HTTP/2 the
/// stream whose answer finds no window. Linux's own retransmissions give up after about 15 min.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Silence before TCP asks whether the other side is there, and between questions. ztunnel: 180 s, 9
/// times. It is not hop-by-hop: a proxy that sets none takes the app's away.
pub const TCP_KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(180), Duration::from_secs(20), 9);

/// A connection to the app that no request uses. Below the 5 s after which Node.js closes it
/// (`server.keepAliveTimeout`), so that no request meets a connection that is being closed.
pub const APP_IDLE: Duration = Duration::from_secs(4);

/// A connection of HTTP/1.1 to a peer that no request uses. Below the 60 s of common load balancers and our
/// own [`KEEP_ALIVE`], so that few requests meet a connection that is being closed.
pub const PEER_IDLE: Duration = Duration::from_secs(50);

/// Between two tries to replace a connection to a peer whose evidence grows old. The shortest `max_age` is a
/// minute, of which a quarter is left then.
pub const PEER_AGAIN: Duration = Duration::from_secs(5);

/// Pause after `accept` failed for want of descriptors or memory. ghostunnel: 5 ms to 1 s.
pub const ACCEPT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A probe's GET to the app. Kubelet's own default (`timeoutSeconds`) is 1 s.
pub const PROBE: Duration = Duration::from_millis(900);

/// How long a probe's answer is given to those who ask again.
pub const PROBE_CACHE: Duration = Duration::from_secs(1);

/// Between two looks at who listens on the app's port.
pub const EXPOSURE: Duration = Duration::from_secs(10);

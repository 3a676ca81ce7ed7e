//! From a connection to a peer that may be here, as the side that was connected to: handshake, then the
//! exchange of evidence where both speak it.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Metered;
use crate::tls::exchange::{self, Failure, Side, is_ours};
use crate::tls::peer::{Known, VerifiedPeer};
use crate::tls::prover::Prover;
use crate::tls::server::Entrance;

/// The handshake. What the client offers decides which protocols it is offered.
pub(super) async fn accept(entrance: &Entrance, stream: Metered) -> io::Result<TlsStream<Metered>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = entrance.config(&start.client_hello());
    start.into_stream(config).await
}

/// Whether a known peer may be here: with our protocol it can prove itself, without it it cannot.
pub(super) async fn admit(
    entrance: &Entrance,
    prover: Option<&Arc<Prover>>,
    known: Known,
    tls: &mut TlsStream<Metered>,
) -> Result<VerifiedPeer, Failure> {
    let door = &entrance.door;
    if !is_ours(tls.get_ref().1.alpn_protocol()) {
        return door.admit(known, None).map_err(Failure::Refused);
    }
    tls.get_mut().0.known();
    exchange::accept(tls, Side { door, prover: prover.map(AsRef::as_ref), known }).await
}

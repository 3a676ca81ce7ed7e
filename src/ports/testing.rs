//! Addresses for tests of this crate. Not compiled into anything else.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback that refuses connections for as long as this lives. It is bound and does
/// not listen: a port that was only free a moment ago may be another test's server by now.
pub(crate) struct RefusingPort {
    _bound: TcpSocket,
    at: SocketAddr,
}

impl RefusingPort {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
        let at = socket.local_addr().unwrap();
        Self { _bound: socket, at }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.at
    }

    pub(crate) fn port(&self) -> u16 {
        self.at.port()
    }
}

//! A connection to a name and port of configuration, for whoever proves over TLS who is there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dns::{DnsProblem, MAX_ADDRESSES, Resolver};
use crate::config::grammar::HostPort;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undialled {
    /// The name has no address.
    #[error("has no address: {0}")]
    Name(DnsProblem),
    /// Nobody takes connections at any of its addresses.
    #[error("takes no connection: {0}")]
    Unreachable(io::ErrorKind),
}

/// The first of the name's addresses that takes a connection, each within `each`.
pub async fn dial(to: &HostPort, each: Duration) -> Result<TcpStream, Undialled> {
    let addresses = match to.host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        // Made anew each time: the kubelet writes /etc/resolv.conf when it pleases.
        Err(_) => match Resolver::system() {
            Ok(resolver) => resolver.lookup(&to.host).await.map_err(Undialled::Name)?,
            Err(problem) => return Err(Undialled::Name(problem)),
        },
    };
    let mut last = io::ErrorKind::AddrNotAvailable;
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        match timeout(each, TcpStream::connect(SocketAddr::new(address, to.port))).await {
            Ok(Ok(stream)) => {
                // What is said in several small pieces would wait for an acknowledgement between them, 40 ms each.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.kind(),
            Err(_) => last = io::ErrorKind::TimedOut,
        }
    }
    Err(Undialled::Unreachable(last))
}

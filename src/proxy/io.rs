//! One type for whatever HTTP is spoken over, by us as a server and as a client: hyper and h2 are compiled
//! for it once, and not once for each kind of connection.

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection of any kind.
pub type Io = Box<dyn Duplex>;

/// Of hyper's client: nothing is known of it beyond its bytes.
impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

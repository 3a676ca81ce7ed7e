//! Where metrics are read: in plain on loopback, or by those on a list, over mTLS. Alike for every role that has
//! a certificate to show.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::sidecar::listen;
use crate::config::roles;
use crate::finding::Finding;
use crate::observe::metrics::Metrics;
use crate::observe::plain::{Page, serve};
use crate::proxy::checks::cannot_listen;
use crate::proxy::socket::{self, Held};

/// The port of those on a list: held, until there is a certificate to show.
pub(super) struct Reading {
    listen: SocketAddr,
    held: Held,
}

/// The same metrics, which count at that port too, where there is one.
pub(super) fn counted(metrics: Metrics, port: Option<&roles::Metrics>) -> Arc<Metrics> {
    Arc::new(match port {
        Some(port) if port.allow.is_some() => metrics.read_at(port.listen.to_string()),
        _ => metrics,
    })
}

/// Serves `plain` where there is no list of readers: configuration has it on loopback only. Else holds the
/// address.
pub(super) fn hold(port: Option<&roles::Metrics>, plain: Page) -> Result<Option<Reading>, Finding> {
    let Some(port) = port else { return Ok(None) };
    if port.allow.is_some() {
        let held = socket::hold(port.listen).map_err(|error| cannot_listen("metrics.listen", port.listen, &error))?;
        return Ok(Some(Reading { listen: port.listen, held }));
    }
    tokio::spawn(serve(listen("metrics.listen", port.listen)?, plain));
    Ok(None)
}

impl Reading {
    /// Listens.
    pub(super) fn listen(self) -> Result<(SocketAddr, TcpListener), Finding> {
        let Self { listen, held } = self;
        let socket = held.listen().map_err(|error| cannot_listen("metrics.listen", listen, &error))?;
        Ok((listen, socket))
    }
}

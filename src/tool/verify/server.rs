//! A live sidecar: whose certificate it shows, judged.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::verdict::Verdict;
use super::wanted::usage;
use super::{Question, certificate, peer};
use crate::config::grammar::HostPort;
use crate::finding::{Class, Finding, Who};
use crate::kbs::Resolver;
use crate::tls::{Look, explain_io};

/// Name, connection and handshake together: a person is waiting. Three lost packets cost 7 s (RFC 6298).
pub(in crate::tool) const DEADLINE: Duration = Duration::from_secs(15);

/// The port of https (RFC 9110 §4.2.2).
const HTTPS: u16 = 443;

/// `place` is what follows `https://`.
pub(super) fn judge(place: &str, question: &Question<'_>) -> Result<Verdict, Finding> {
    certificate::only_identity(question)?;
    let (host, port) = parse(place)?;
    if let Some(proof) = &question.wanted.proof {
        return peer::judge(&HostPort { host, port }, proof, question);
    }
    // A deadline of tokio's is made where its clock runs.
    let chain = super::in_runtime(async { look(&host, port, Instant::now() + DEADLINE).await })??;
    certificate::member("sidecar", &chain, question)
}

/// Host and port; a path would be asked for, and nothing is, but a receipt, whose path the caller has taken off.
pub(super) fn parse(place: &str) -> Result<(String, u16), Finding> {
    let wrong = || {
        usage(
            "the URL is not of the form https://HOST:PORT",
            "write https://api.payments.svc:8443 without a path, or with /receipt",
        )
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.len() > 300 || place.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong());
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) };
            (host, port)
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(HTTPS), str::parse).ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

async fn look(host: &str, port: u16, deadline: Instant) -> Result<Vec<Vec<u8>>, Finding> {
    let late = || unreachable("it did not answer within 15 s", "check the address, and the NetworkPolicies on the way");
    let addresses = if let Ok(address) = host.parse::<IpAddr>() {
        vec![address]
    } else {
        let resolver = Resolver::system().map_err(|problem| unreachable(problem, "name the sidecar by its address"))?;
        let found = timeout_at(deadline, resolver.lookup(host)).await.map_err(|_| late())?;
        found
            .map_err(|problem| unreachable(problem, "check the name in the URL; inside a cluster it ends in `.svc`"))?
    };
    // A certificate names a workload, not an address: the name in the hello is only for gateways.
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| usage("the host of the URL is no name", "write a DNS name or an address"))?;
    let tls = Look::new().map_err(|error| error.finding())?;
    let mut last = None;
    for address in addresses {
        let connected =
            timeout_at(deadline, TcpStream::connect(SocketAddr::new(address, port))).await.map_err(|_| late())?;
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                last = Some(error.kind());
                continue;
            }
        };
        let shaken = timeout_at(deadline, TlsConnector::from(tls.config()).connect(name.clone(), stream)).await;
        // A sidecar that wants our certificate ends the connection once it has shown its own; by then the
        // handshake has proven that it holds the key, else there is no connection.
        match shaken.map_err(|_| late())? {
            Ok(_) => return Ok(tls.chain().iter().map(|der| der.as_ref().to_vec()).collect()),
            Err(error) => {
                let why = explain_io(&error).map_or("it does not speak TLS 1.3", |problem| problem.label());
                return Err(unreachable(
                    format!("the handshake failed: {why}"),
                    "check that the port is the sidecar's `listen`, not its health port",
                ));
            }
        }
    }
    let kind = last.map_or_else(|| "it has no address".to_owned(), |kind| format!("no connection: {kind}"));
    Err(unreachable(kind, "check the port, and that the sidecar is ready (/readyz)"))
}

fn unreachable(why: impl std::fmt::Display, next: &str) -> Finding {
    Finding::new(Class::Unreachable, format!("the sidecar could not be looked at: {why}"))
        .why("what does not answer cannot be judged")
        .next(next)
        .who(Who::Platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_and_all_else_is_refused() {
        for (place, host, port) in [
            ("api.payments.svc:8443", "api.payments.svc", 8443),
            ("api.payments.svc", "api.payments.svc", 443),
            ("10.0.0.1:1/", "10.0.0.1", 1),
            ("[::1]:8443", "::1", 8443),
            ("[::1]", "::1", 443),
        ] {
            assert_eq!(parse(place), Ok((host.to_owned(), port)), "{place}");
        }
        for place in ["", ":1", "a:0", "a:b", "a:99999", "a/b", "u@a", "[::1", "[::1]8443", "[a]:1", "a:1:2", "a?b"] {
            assert!(parse(place).is_err(), "{place}");
        }
    }
}

//! `connect`: a tunnel to a peer that must prove itself, from a machine that is no TEE. The outbound half
//! of the sidecar, with files in place of the KBS's resources.
//!
//! The policy is read whole, and the peer has proven itself once, before anybody can dial us. Each
//! connection is proven anew; none outlives the peer's evidence.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};

use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::verify::peer::{finding, silent};
use super::verify::runtime;
use super::verify::server::DEADLINE;
use super::verify::wanted::{Wanted, usage};
use super::{Output, print};
use crate::appraise::Makers;
use crate::cli::{self, Expectations};
use crate::clock::Clock;
use crate::config::grammar::{self, HostPort, Local};
use crate::config::roles::{Outbound, Protocol};
use crate::config::spiffe::SpiffeId;
use crate::config::{Log, LogFormat};
use crate::finding::{Class, Finding, printable};
use crate::observe::{log, metrics};
use crate::ports::Ports;
use crate::proxy::backend::App;
use crate::proxy::outbound::{self, Near, Outlet, reach};
use crate::proxy::watch::{Phase, passed};
use crate::tls::exchange::{OURS_HTTP1, OURS_TCP};
use crate::tls::server::Served;

/// What may follow the exchange: the app's bytes as they are.
const ALPN: &[&[u8]] = &[OURS_TCP, OURS_HTTP1];

/// Connections at once. One person's apps: a pool of `psql`'s server has 100.
const MAX_CONNECTIONS: usize = 128;

/// Permission bits of a unix socket: whoever can dial it speaks with our certificate.
const MODE: u32 = 0o600;

/// Runs `connect …`; returns the exit code.
pub fn run(ports: &Ports, arguments: &cli::Connect) -> u8 {
    // Standard output may be the tunnel's.
    log::install(Log { level: tracing::Level::INFO, format: LogFormat::Text }, ports.banner);
    print(ports, connect(ports, arguments))
}

fn connect(ports: &Ports, arguments: &cli::Connect) -> Result<Output, Finding> {
    let to = grammar::host_port(&arguments.to)
        .map_err(|why| usage(format!("HOST:PORT {why}"), "write HOST:PORT as db.payments.svc:5432"))?;
    let listen = arguments.listen.as_deref().map(|text| {
        grammar::local(text)
            .map_err(|why| usage(format!("--listen {why}"), "write --listen as 127.0.0.1:15432, or unix:/path"))
    });
    let listen = listen.transpose()?;
    // Held to the end: whoever drives the phases is never gone.
    let (_serving, phase) = watch::channel(Phase::Serving);
    let outlet = outlet((&ports.clock, &ports.makers), (to, listen.clone()), &arguments.policy, phase)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        match listen {
            Some(at) => serve(ports, outlet, &at).await,
            None => stdio(outlet).await,
        }
    });
    // What waits for standard input waits for ever.
    runtime.shutdown_background();
    ended.map(|()| Output::text(""))
}

/// What a sidecar would have of one `[[outbound]]`, from the policy. Nothing is dialled yet.
fn outlet(
    (clock, makers): (&Clock, &Makers),
    (to, listen): (HostPort, Option<Local>),
    policy: &Path,
    phase: watch::Receiver<Phase>,
) -> Result<Outlet, Finding> {
    let wanted = Wanted::read(&Expectations::default(), Some(policy))?;
    let incomplete = |what: &str| {
        Finding::new(Class::Config, format!("{} {what}", policy.display()))
            .why("a tunnel to whoever answers would be worse than none")
            .next(format!(
                "write `expect`, `token_roots`, `pins`, `max_age`, `cert` and `cert_key` into {}",
                policy.display()
            ))
    };
    let proof = wanted.proof.as_ref().ok_or_else(|| incomplete("does not say what the peer must prove"))?;
    if wanted.of_a_guest() {
        return Err(incomplete("has expectations of a guest, which are not held to a peer")
            .next("remove all keys but those of a live sidecar: what its evidence must show stands in its pins"));
    }
    let peer = wanted.identity.as_deref().and_then(|id| SpiffeId::parse(id).ok());
    let peer = peer.ok_or_else(|| incomplete("has no `expect` with one spiffe://… that must answer"))?;
    let call = proof.call(&wanted, (clock, makers), ALPN)?;
    let served =
        Served { entrances: Vec::new(), exits: vec![call.exit], prover: None, until: call.until, since: clock.now() };
    let listen = listen.unwrap_or_else(|| Local::Unix("-".into()));
    let counts = metrics::Outbound::new(listen.to_string());
    Ok(Outlet {
        outbound: Outbound {
            listen,
            mode: MODE,
            to,
            peer,
            protocol: Protocol::Tcp,
            // Of http alone.
            response_timeout: DEADLINE,
            access_log: false,
        },
        place: 0,
        // Nobody publishes another: what stands, stands.
        served: watch::channel(Some(Arc::new(served))).1,
        phase,
        clock: clock.clone(),
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        counts: Arc::new(counts),
        pool: outbound::Pool::default(),
    })
}

/// The peer's first proof, then a door for the app, until our certificate ends.
async fn serve(ports: &Ports, outlet: Outlet, at: &Local) -> Result<(), Finding> {
    drop(prove(&outlet).await?);
    let taken = |error: io::Error| {
        usage(
            format!("--listen {at} cannot be had: {}", error.kind()),
            "write another port, or another path, into --listen",
        )
    };
    let near = outbound::hold(at, MODE).and_then(outbound::Held::listen).map_err(taken)?;
    let place = match &near {
        Near::Tcp(listener) => listener.local_addr().map_or_else(|_| at.to_string(), |address| address.to_string()),
        Near::Unix(_) => at.to_string(),
    };
    ports.say_err(&format!("{} at {} has proven itself; dial {place}", outlet.outbound.peer, outlet.outbound.to));
    let clock = outlet.clock.clone();
    let until = outlet.served.borrow().as_ref().map_or(0, |served| served.until);
    tokio::select! {
        () = outbound::accept(Arc::new(outlet), near) => Ok(()),
        () = passed(&clock, Some(until)) => Err(Finding::new(Class::Certificate, "the certificate that peers are shown has ended")
            .why("no peer takes it any more")
            .next("renew the certificate of `cert` and `cert_key`, and run `connect` again")),
    }
}

/// One connection, between our own standard input and output.
async fn stdio(outlet: Outlet) -> Result<(), Finding> {
    let (tls, peer) = prove(&outlet).await?;
    let broken = |error: io::Error| {
        usage(
            format!("standard input or output cannot be used: {}", error.kind()),
            "run `connect --stdio` with both of them open",
        )
    };
    let (near, out) = pump().map_err(broken)?;
    let whole = outlet.carry(App::Unix(UnixStream::from_std(near).map_err(broken)?), tls, peer).await;
    // What the peer has sent is written before we end; it cannot wait for the peer any more.
    let _ = out.join();
    if whole {
        return Ok(());
    }
    Err(Finding::new(Class::Unreachable, "the connection ended before both sides had said that they send no more")
        .why("what came over it may be cut short")
        .next("run `connect` again; the lines above say whether the peer is trusted no longer"))
}

/// Standard input and output as one socket. Threads: a file is never waited for by the runtime.
fn pump() -> io::Result<(Blocking, JoinHandle<()>)> {
    let (near, far) = Blocking::pair()?;
    near.set_nonblocking(true)?;
    let (mut stdin, mut stdout) = (file(io::stdin())?, file(io::stdout())?);
    let (mut to, mut from) = (far.try_clone()?, far);
    spawn(move || {
        let _ = io::copy(&mut stdin, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let out = spawn(move || {
        let _ = io::copy(&mut from, &mut stdout);
    });
    Ok((near, out))
}

/// Without the buffers of the standard library: half a line is to be seen too.
fn file(stream: impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

type Proven = (tokio_rustls::client::TlsStream<tokio::net::TcpStream>, crate::tls::peer::VerifiedPeer);

async fn prove(outlet: &Outlet) -> Result<Proven, Finding> {
    let served = outlet.served.borrow().clone();
    let Some(exit) = served.as_ref().and_then(|served| served.exits.first()) else {
        return Err(Finding::new(Class::Bug, "there is no way out"));
    };
    let reached = timeout_at(Instant::now() + DEADLINE, reach(&outlet.outbound.to, exit, None)).await;
    reached.map_err(|_| silent())?.map_err(|broken| {
        let finding = finding(&broken);
        let saw = format!("{}: {}", printable(&outlet.outbound.to.to_string(), 300), finding.saw);
        Finding { saw, ..finding }
    })
}

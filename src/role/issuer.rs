//! `countersign issuer`: attest, hold the mesh's CA in memory, certify attested workloads.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::sidecar::{Opening, Roads, Signals, begun, drain, listen, raise_descriptors, until_over};
use super::{Ended, boot, confine, pages, reading};
use crate::access::Deadline;
use crate::config::Role;
use crate::finding::{Class, Finding, Who};
use crate::identity::issuer::{DeskKeeper, IssuerTerms, keep_desk};
use crate::issuance::quota::Quota;
use crate::observe::health::{self, Health};
use crate::observe::metrics::Metrics;
use crate::ports::Ports;
use crate::proxy::checks::cannot_listen;
use crate::proxy::issuing::{self, Counter};
use crate::proxy::limits::Limits;
use crate::proxy::watch::Phase;
use crate::proxy::{probes, socket};
use crate::sandbox::Outcome;
use crate::sandbox::calls::Calls;

pub(super) async fn run(ports: &Ports, calls: Outcome<Calls>) -> Ended {
    let started = Instant::now();
    let ended = |provenance, result| Ended::new("issuer", provenance, result);
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(finding) => return ended(None, Err(finding)),
    };
    if !boot::has_settings(ports) && !boot::in_a_pod(ports) {
        return ended(None, Err(not_here()));
    }
    let booted = tokio::select! {
        booted = boot::configuration(ports, None, Role::Issuer) => booted,
        _ = signals.end.recv() => return ended(None, Ok("ended before it served".to_owned())),
    };
    match booted {
        Ok(booted) => {
            let booted = Arc::new(booted);
            let provenance = Some(booted.config.provenance);
            ended(provenance, issuer(ports, &booted, started, &mut signals, calls).await)
        }
        Err((provenance, finding)) => ended(provenance, Err(finding)),
    }
}

async fn issuer(
    ports: &Ports,
    booted: &Arc<boot::Booted>,
    started: Instant,
    signals: &mut Signals,
    calls: Outcome<Calls>,
) -> Result<String, Finding> {
    let config = &booted.config;
    tracing::info!(provenance = config.provenance.label(), serial = config.serial, "configuration read");
    let terms = IssuerTerms::of(&config.roles, config.provenance, boot::hardware(ports, config))?;
    let issuing = terms.issuing().clone();
    let descriptors = raise_descriptors();
    let health = Health::new(&ports.clock);
    let port = config.roles.metrics.as_ref();
    let metrics = reading::counted(Metrics::new([issuing.listen.to_string()]).issuing(), port);
    let held = socket::hold(issuing.listen).map_err(|error| cannot_listen("issuer.listen", issuing.listen, &error))?;
    let asked = listen("health.listen", config.roles.health())?;
    tokio::spawn(health::serve(asked, Arc::clone(&health), probes::of(&[])));
    let reading = reading::hold(port, pages::numbers(&metrics))?;
    let deadline = Deadline::since(started, config.deadline);
    let (seccomp, landlock) = confine::confine(ports, booted, calls);
    metrics.sandboxed(seccomp, landlock);
    let road = tokio::select! {
        road = booted.road(ports, deadline) => road?,
        _ = signals.end.recv() => return Ok("ended before it served".to_owned()),
    };
    let (desks, epochs) = watch::channel(None);
    let (served, shown) = watch::channel(None);
    let (phase, phases) = watch::channel(Phase::Serving);
    let (renew, ask) = mpsc::channel(1);
    let (started_once, has_begun) = oneshot::channel();
    let keeper = DeskKeeper {
        terms,
        attest: Roads { ports: ports.clone(), booted: Arc::clone(booted) },
        clock: ports.clock.clone(),
        desks,
        served,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let mut keeping = tokio::spawn(keep_desk(keeper, road, ask, started_once));
    if !begun(&mut keeping, has_begun, deadline, signals).await? {
        return Ok("ended before it served".to_owned());
    }
    let opening = Opening {
        epochs: shown,
        clock: ports.clock.clone(),
        limits: Arc::new(Limits::new(config.roles.limits, descriptors)),
        metrics: Arc::clone(&metrics),
    };
    // They may be read to the very end, as a sidecar's.
    let (_to_the_end, end) = watch::channel(Phase::Serving);
    if let Some(reading) = reading {
        opening.readers(reading, 0, end, pages::numbers(&metrics))?;
    }
    let counter = Counter {
        desks: epochs,
        phase: phases,
        clock: ports.clock.clone(),
        limits: opening.limits,
        quota: Quota::new(issuing.per_minute, issuing.per_identity),
        audit_hardware: issuing.audit_hardware,
        counts: metrics.inbound(0),
        issued: metrics.issued(),
    };
    let socket = held.listen().map_err(|error| cannot_listen("issuer.listen", issuing.listen, &error))?;
    tokio::spawn(issuing::accept(Arc::new(counter), socket));
    health.listening();
    tracing::info!(listen = %issuing.listen, id = %issuing.spiffe, "issuing");
    let revoked = until_over(&mut keeping, &renew, signals).await;
    health.draining();
    phase.send_replace(Phase::Draining);
    let cut = drain(&metrics, Instant::now() + config.roles.drain(), signals).await;
    match (revoked, cut) {
        (Some(finding), _) => Err(finding),
        (None, 0) => Ok("drained".to_owned()),
        (None, cut) => Err(Finding::new(Class::DrainForced, format!("{cut} requests were cut"))),
    }
}

fn not_here() -> Finding {
    Finding::new(Class::Usage, "`countersign issuer` is a pod's role, and this does not look like a pod")
        .why("the CA's key is for an attested guest; on a workstation there is nothing to attest")
        .next("put COUNTERSIGN_ROLE=issuer into the manifest of a confidential pod of its own (examples/issuer.yaml), or let the policies of `policies/` inject it")
        .who(Who::AppDeveloper)
}

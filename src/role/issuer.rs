//! `countersign issuer`: attest, hold the mesh's CA in memory, certify attested workloads.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::sidecar::{Roads, Signals, begun, drain, listen, raise_descriptors, until_over};
use super::{Ended, boot, confine, pages};
use crate::access::Deadline;
use crate::config::Role;
use crate::finding::{Class, Finding, Who};
use crate::identity::issuer::{DeskKeeper, IssuerTerms, keep_desk};
use crate::issuance::quota::Quota;
use crate::observe::health::{self, Health};
use crate::observe::metrics::Metrics;
use crate::observe::plain;
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
    let metrics = Arc::new(Metrics::new([issuing.listen.to_string()]).issuing());
    let held = socket::hold(issuing.listen).map_err(|error| cannot_listen("issuer.listen", issuing.listen, &error))?;
    let asked = listen("health.listen", config.roles.health())?;
    tokio::spawn(health::serve(asked, Arc::clone(&health), probes::of(&[])));
    if let Some(port) = &config.roles.metrics {
        if port.allow.is_some() {
            return Err(readers());
        }
        tokio::spawn(plain::serve(listen("metrics.listen", port.listen)?, pages::numbers(&metrics)));
    }
    let deadline = Deadline::since(started, config.deadline);
    let (seccomp, landlock) = confine::confine(ports, booted, calls);
    metrics.sandboxed(seccomp, landlock);
    let road = tokio::select! {
        road = booted.road(ports, deadline) => road?,
        _ = signals.end.recv() => return Ok("ended before it served".to_owned()),
    };
    let (desks, epochs) = watch::channel(None);
    let (phase, phases) = watch::channel(Phase::Serving);
    let (renew, ask) = mpsc::channel(1);
    let (started_once, has_begun) = oneshot::channel();
    let keeper = DeskKeeper {
        terms,
        attest: Roads { ports: ports.clone(), booted: Arc::clone(booted) },
        clock: ports.clock.clone(),
        desks,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let mut keeping = tokio::spawn(keep_desk(keeper, road, ask, started_once));
    if !begun(&mut keeping, has_begun, deadline, signals).await? {
        return Ok("ended before it served".to_owned());
    }
    let counter = Counter {
        desks: epochs,
        phase: phases,
        clock: ports.clock.clone(),
        limits: Limits::new(config.roles.limits, descriptors),
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

fn readers() -> Finding {
    Finding::new(
        Class::Config,
        "`[metrics]` has a list of readers, and the issuer serves metrics in plain, on loopback only",
    )
    .why("the issuer's listeners judge requests for certificates, and nobody else")
    .next("remove `allow` or `allow_from` from `[metrics]`, and write `listen = \"127.0.0.1:15822\"`")
}

fn not_here() -> Finding {
    Finding::new(Class::Usage, "`countersign issuer` is a pod's role, and this does not look like a pod")
        .why("the CA's key is for an attested guest; on a workstation there is nothing to attest")
        .next("put COUNTERSIGN_ROLE=issuer into the manifest of a confidential pod of its own (examples/issuer.yaml), or let the policies of `policies/` inject it")
        .who(Who::AppDeveloper)
}

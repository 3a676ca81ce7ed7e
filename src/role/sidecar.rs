//! `countersign sidecar`: attest, publish what `init` has not, hold a certificate, serve callers; then
//! drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::boot::{Booted, ByRoad};
use super::pages::{self, Delivered};
use super::reading::{self, Reading};
use super::{Ended, boot, confine};
use crate::access::Deadline;
use crate::clock::Clock;
use crate::config::grammar::Local;
use crate::config::roles::{Inbound, Outbound, Roles};
use crate::config::{Provenance, Role};
use crate::finding::{Class, Finding, Who};
use crate::identity::{self, Keeper, Terms, keep};
use crate::observe::health::{self, Health};
use crate::observe::metrics::{self, Metrics};
use crate::observe::plain::Page;
use crate::ports::Ports;
#[cfg(feature = "compat")]
use crate::proxy::about::About;
use crate::proxy::checks::cannot_listen;
use crate::proxy::deadlines::EXPOSURE;
use crate::proxy::limits::Limits;
use crate::proxy::outbound::{self, Outlet};
use crate::proxy::socket::{self, Held};
use crate::proxy::watch::Phase;
use crate::proxy::{self, Behind, Listener, exposure, http, probes};
use crate::ramdir::RamDir;
use crate::sandbox::Outcome;
use crate::sandbox::calls::Calls;
use crate::secrets;
use crate::tls::server::Served;

/// How often the secrets' directory is proven again.
const RECHECK: Duration = Duration::from_secs(10);

/// How often a drain looks whether anybody is still connected.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(ports: &Ports, calls: Outcome<Calls>) -> Ended {
    let started = Instant::now();
    let ended = |provenance, result| Ended::new("sidecar", provenance, result);
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(finding) => return ended(None, Err(finding)),
    };
    if !boot::has_settings(ports) && !boot::in_a_pod(ports) {
        return ended(None, Err(not_here()));
    }
    let booted = tokio::select! {
        booted = boot::configuration(ports, None, Role::Sidecar) => booted,
        _ = signals.end.recv() => return ended(None, Ok("ended before it served".to_owned())),
    };
    let booted = match booted {
        Ok(booted) => Arc::new(booted),
        Err((provenance, finding)) => return ended(provenance, Err(finding)),
    };
    let provenance = Some(booted.config.provenance);
    ended(provenance, sidecar(ports, &booted, started, &mut signals, calls, &Pages::default()).await)
}

/// kubectl-coco's contract, in its own image.
#[cfg(feature = "compat")]
pub(super) async fn for_kubectl_coco(ports: &Ports, calls: Outcome<Calls>) -> Ended {
    for line in NOT_CHECKED {
        ports.say_err(line);
    }
    let started = Instant::now();
    let ended = |provenance, result| Ended::new("sidecar", provenance, result);
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(finding) => return ended(None, Err(finding)),
    };
    let booted = tokio::select! {
        booted = boot::kubectl_coco(ports) => booted,
        _ = signals.end.recv() => return ended(None, Ok("ended before it served".to_owned())),
    };
    let (booted, contract) = match booted {
        Ok((booted, contract)) => (Arc::new(booted), contract),
        Err((provenance, finding)) => return ended(provenance, Err(finding)),
    };
    let about = About { pod: contract.pod, namespace: contract.namespace };
    let provenance = Some(booted.config.provenance);
    let pages = Pages { about: Some(about) };
    ended(provenance, sidecar(ports, &booted, started, &mut signals, calls, &pages).await)
}

/// Said at every start, whatever the log's level: this image is not the strict one.
#[cfg(feature = "compat")]
const NOT_CHECKED: [&str; 5] = [
    "countersign-compat: kubectl-coco's contract; NOT checked, as in kubectl-coco's own sidecar:",
    "countersign-compat: - WHO calls: anybody with a certificate by the CA of CLIENT_CA_URI is let in, with a name or without",
    "countersign-compat: - WHO SAYS SO: resources and ports come from the pod's env, which the control plane writes",
    "countersign-compat: - WHOSE KEY this is: it was uploaded to the KBS, and whoever uploaded it has it too",
    "countersign-compat: - whether the app can be reached past this sidecar: that is said in the log, and not refused",
];

/// Pages that are answered in the app's place: none, but for kubectl-coco's.
#[derive(Default)]
struct Pages {
    #[cfg(feature = "compat")]
    about: Option<About>,
}

impl Pages {
    /// The app of one listener, with them.
    fn app(&self, inbound: &Inbound, counts: &Arc<metrics::Inbound>) -> http::Backend {
        let backend = http::Backend::new(inbound, Arc::clone(counts));
        #[cfg(feature = "compat")]
        {
            backend.about(self.about.clone())
        }
        #[cfg(not(feature = "compat"))]
        {
            let Self {} = self;
            backend
        }
    }
}

/// What the pod's owner says to us.
pub(super) struct Signals {
    pub(super) end: Signal,
    pub(super) renew: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Finding> {
        let listen = |kind| {
            signal(kind).map_err(|error| Finding::new(Class::Bug, format!("signals cannot be heard: {}", error.kind())))
        };
        Ok(Self { end: listen(SignalKind::terminate())?, renew: listen(SignalKind::hangup())? })
    }
}

/// A fresh attestation for each epoch.
pub(super) struct Roads {
    pub(super) ports: Ports,
    pub(super) booted: Arc<Booted>,
}

impl identity::Attest for Roads {
    type One = Arc<ByRoad>;

    async fn attest(&self, budget: Duration) -> Result<Arc<ByRoad>, Finding> {
        self.booted.fresh_road(&self.ports, Deadline::after(budget)).await
    }
}

async fn sidecar(
    ports: &Ports,
    booted: &Arc<Booted>,
    started: Instant,
    signals: &mut Signals,
    calls: Outcome<Calls>,
    pages: &Pages,
) -> Result<String, Finding> {
    let config = &booted.config;
    tracing::info!(provenance = config.provenance.label(), serial = config.serial, "configuration read");
    if !config.roles.serves() {
        return keep_secrets(ports, booted, started, signals, calls).await;
    }
    if config.provenance == Provenance::Unmeasured && !config.roles.is_kubectl_coco() {
        return Err(unmeasured());
    }
    let terms = Terms::of(&config.roles, config.provenance, boot::hardware(ports, config))?;
    let descriptors = raise_descriptors();
    let health = Health::new(&ports.clock);
    let metrics = counted(&config.roles);
    let sockets = bind(&config.roles.inbound)?;
    let nearby = hold_near(&config.roles.outbound)?;
    let asked = listen("health.listen", config.roles.health())?;
    tokio::spawn(health::serve(asked, Arc::clone(&health), probes::of(&config.roles.inbound)));
    let reading = reading::hold(config.roles.metrics.as_ref(), pages::in_plain(&metrics))?;

    let deadline = Deadline::since(started, config.deadline);
    let directory = secrets::preflight(config, ports)?.map(Arc::new);
    let (seccomp, landlock) = confine::confine(ports, booted, calls);
    metrics.sandboxed(seccomp, landlock);
    let prepared = tokio::select! {
        prepared = prepare(ports, booted, directory.as_deref(), deadline) => prepared,
        _ = signals.end.recv() => return Ok("ended before it served".to_owned()),
    };
    let road = prepared?;

    let (served, epochs) = watch::channel(None);
    let (phase, phases) = watch::channel(Phase::Serving);
    let (renew, ask) = mpsc::channel(1);
    let (started_once, has_begun) = oneshot::channel();
    let keeper = Keeper {
        terms,
        attest: Roads { ports: ports.clone(), booted: Arc::clone(booted) },
        clock: ports.clock.clone(),
        served,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let mut keeping = tokio::spawn(keep(keeper, road, ask, started_once));
    if !begun(&mut keeping, has_begun, deadline, signals).await? {
        return Ok("ended before it served".to_owned());
    }

    let opening = Opening {
        epochs,
        clock: ports.clock.clone(),
        limits: Arc::new(Limits::new(config.roles.limits, descriptors)),
        metrics: Arc::clone(&metrics),
    };
    // They may be read to the very end: a drain is worth watching.
    let (_to_the_end, end) = watch::channel(Phase::Serving);
    if let Some(reading) = reading {
        let (epochs, clock) = (opening.epochs.clone(), opening.clock.clone());
        let pages = pages::for_readers(&metrics, Delivered { directory: directory.clone(), epochs, clock });
        opening.readers(reading, config.roles.inbound.len(), end, pages)?;
    }
    for (place, (inbound, held)) in config.roles.inbound.iter().zip(sockets).enumerate() {
        opening.callers(inbound, held, place, phases.clone(), pages)?;
    }
    opening.calls(&config.roles, nearby, &phases)?;
    tokio::spawn(guard(ports.clone(), config.roles.inbound.clone(), Arc::clone(&health)));
    if let Some(directory) = directory {
        tokio::spawn(tend(ports.clone(), Arc::clone(booted), directory, Arc::clone(&health)));
    }
    health.listening();
    let (listeners, outbound) = (config.roles.inbound.len(), config.roles.outbound.len());
    tracing::info!(listeners, outbound, descriptors, "serving");

    let revoked = until_over(&mut keeping, &renew, signals).await;
    if let Some(finding) = &revoked {
        tracing::warn!(class = finding.class.label(), saw = %finding.saw, "no longer entitled to serve");
    }
    health.draining();
    phase.send_replace(Phase::Draining);
    let (left, budget) = (metrics.open(), config.roles.drain());
    tracing::info!(connections = left, budget_s = budget.as_secs(), "draining");
    let cut = drain(&metrics, Instant::now() + budget, signals).await;
    phase.send_replace(Phase::Forced);
    match (revoked, cut) {
        (Some(finding), _) => Err(finding),
        (None, 0) => Ok(format!("drained: {left} still connected at the signal, none was cut")),
        (None, cut) => Err(Finding::new(Class::DrainForced, format!("{cut} connections were cut, {left} were open"))),
    }
}

/// Waits for the first epoch. `false`: told to end before there was one.
pub(super) async fn begun(
    keeping: &mut JoinHandle<Finding>,
    has_begun: oneshot::Receiver<()>,
    deadline: Deadline,
    signals: &mut Signals,
) -> Result<bool, Finding> {
    tokio::select! {
        begun = timeout_at(deadline.at(), has_begun) => match begun {
            Ok(Ok(())) => Ok(true),
            // The keeper ended instead, and says why.
            Ok(Err(_)) => Err(why(keeping.await)),
            Err(_) => Err(Finding::new(Class::Certificate, "there was no certificate before the deadline")
                .next("check that the KBS answers in time, or raise `deadline` in the configuration")),
        },
        _ = signals.end.recv() => Ok(false),
    }
}

/// Waits until it is told to end, or until the KBS says that this guest may no longer have what it needs.
/// Renews when it is asked to.
pub(super) async fn until_over(
    keeping: &mut JoinHandle<Finding>,
    renew: &mpsc::Sender<()>,
    signals: &mut Signals,
) -> Option<Finding> {
    loop {
        tokio::select! {
            ended = &mut *keeping => return Some(why(ended)),
            _ = signals.end.recv() => return None,
            _ = signals.renew.recv() => {
                // One that is asked for already is asked for once.
                let _ = renew.try_send(());
            }
        }
    }
}

/// What every listener is opened with.
pub(super) struct Opening {
    pub(super) epochs: watch::Receiver<Option<Arc<Served>>>,
    pub(super) clock: Clock,
    pub(super) limits: Arc<Limits>,
    pub(super) metrics: Arc<Metrics>,
}

impl Opening {
    /// Lets callers of the app in.
    fn callers(
        &self,
        inbound: &Inbound,
        held: Held,
        place: usize,
        phase: watch::Receiver<Phase>,
        pages: &Pages,
    ) -> Result<(), Finding> {
        let counts = self.metrics.inbound(place);
        let backend = Arc::new(pages.app(inbound, &counts));
        let behind = Behind::App { inbound: inbound.clone(), backend };
        let socket = held.listen().map_err(|error| cannot_listen("inbound.listen", inbound.listen, &error))?;
        self.open(socket, inbound.listen, behind, place, phase, counts);
        Ok(())
    }

    /// Lets readers of the metrics, and of what else is on these pages, in.
    pub(super) fn readers(
        &self,
        reading: Reading,
        place: usize,
        phase: watch::Receiver<Phase>,
        pages: Page,
    ) -> Result<(), Finding> {
        let (address, socket) = reading.listen()?;
        self.open(socket, address, Behind::Pages(pages), place, phase, self.metrics.port());
        Ok(())
    }

    /// Lets the app call peers.
    fn calls(&self, roles: &Roles, nearby: Vec<outbound::Held>, phase: &watch::Receiver<Phase>) -> Result<(), Finding> {
        let places = Arc::new(Semaphore::new(roles.limits.connections().min(Semaphore::MAX_PERMITS)));
        for (place, (outbound, held)) in roles.outbound.iter().zip(nearby).enumerate() {
            let near = held.listen().map_err(|error| cannot_dial(outbound, &error))?;
            let outlet = Outlet {
                outbound: outbound.clone(),
                place,
                served: self.epochs.clone(),
                phase: phase.clone(),
                clock: self.clock.clone(),
                places: Arc::clone(&places),
                counts: self.metrics.outbound(place),
                pool: outbound::Pool::default(),
            };
            tokio::spawn(outbound::accept(Arc::new(outlet), near));
        }
        Ok(())
    }

    fn open(
        &self,
        socket: TcpListener,
        listen: std::net::SocketAddr,
        behind: Behind,
        place: usize,
        phase: watch::Receiver<Phase>,
        counts: Arc<metrics::Inbound>,
    ) {
        let (served, clock, limits) = (self.epochs.clone(), self.clock.clone(), Arc::clone(&self.limits));
        let listener = Listener { listen, behind, place, served, phase, clock, limits, counts };
        tokio::spawn(proxy::accept(Arc::new(listener), socket));
    }
}

/// A configuration without identity, peers or listeners: there is nobody to serve, and the secrets are
/// kept fresh.
async fn keep_secrets(
    ports: &Ports,
    booted: &Arc<Booted>,
    started: Instant,
    signals: &mut Signals,
    calls: Outcome<Calls>,
) -> Result<String, Finding> {
    let config = &booted.config;
    let health = Health::idle(&ports.clock);
    let asked = listen("health.listen", config.roles.health())?;
    tokio::spawn(health::serve(asked, Arc::clone(&health), probes::of(&[])));
    let directory = secrets::preflight(config, ports)?.map(Arc::new);
    confine::confine(ports, booted, calls);
    let deadline = Deadline::since(started, config.deadline);
    tokio::select! {
        prepared = prepare(ports, booted, directory.as_deref(), deadline) => drop(prepared?),
        _ = signals.end.recv() => return Ok("ended before it served".to_owned()),
    }
    health.listening();
    tracing::info!("the configuration has no `[[inbound]]`: nobody is served, the secrets are kept");
    if let Some(directory) = directory {
        tokio::spawn(tend(ports.clone(), Arc::clone(booted), directory, Arc::clone(&health)));
    }
    signals.end.recv().await;
    Ok("ended; nobody was served".to_owned())
}

/// Waits until nobody is connected. Returns how many are, when time is over or a second SIGTERM comes.
pub(super) async fn drain(metrics: &Metrics, until: Instant, signals: &mut Signals) -> i64 {
    loop {
        match metrics.open() {
            0 => return 0,
            open if Instant::now() >= until => return open,
            _ => {}
        }
        tokio::select! {
            () = sleep_until(until.min(Instant::now() + LOOK)) => {}
            _ = signals.end.recv() => return metrics.open(),
        }
    }
}

fn why(ended: Result<Finding, tokio::task::JoinError>) -> Finding {
    ended.unwrap_or_else(|_| Finding::new(Class::Bug, "the keeper of the certificate ended"))
}

/// Attests, and publishes the set where `init` has not: one container, one attestation.
async fn prepare(
    ports: &Ports,
    booted: &Booted,
    directory: Option<&RamDir>,
    deadline: Deadline,
) -> Result<Arc<ByRoad>, Finding> {
    let road = booted.road(ports, deadline).await?;
    if let Some(directory) = directory
        && directory.receipt().map_err(|error| error.finding())?.is_some()
    {
        tracing::info!("the secrets stand already");
        return Ok(road);
    }
    let delivered = secrets::deliver(&booted.config, &road, directory, ports).await?;
    if delivered.files > 0 {
        tracing::info!(files = delivered.files, "secrets published");
    }
    Ok(road)
}

/// Proves the secrets' directory again and again, and keeps the set fresh.
async fn tend(ports: Ports, booted: Arc<Booted>, directory: Arc<RamDir>, health: Arc<Health>) {
    let refresh = booted.config.secrets.refresh;
    let mut due = refresh.map(|every| Instant::now() + every);
    loop {
        sleep(RECHECK.min(refresh.unwrap_or(RECHECK))).await;
        let class = match directory.recheck() {
            Ok(()) => None,
            Err(error) => {
                let finding = error.finding();
                if health.problem("secrets", Some(finding.class)) {
                    tracing::error!(class = finding.class.label(), saw = %finding.saw, next = %finding.next, "the secrets' directory is no longer safe");
                }
                Some(finding.class)
            }
        };
        if class.is_some() {
            continue;
        }
        if health.problem("secrets", None) {
            tracing::info!("the secrets' directory is safe again");
        }
        if let (Some(every), Some(at)) = (refresh, due)
            && Instant::now() >= at
        {
            due = Some(Instant::now() + every);
            let fresh = async {
                let road = booted.fresh_road(&ports, Deadline::after(booted.config.deadline)).await?;
                secrets::deliver(&booted.config, &road, Some(&directory), &ports).await
            };
            match fresh.await {
                Ok(delivered) if delivered.unchanged => tracing::debug!("secrets unchanged"),
                Ok(delivered) => tracing::info!(files = delivered.files, "secrets published anew"),
                Err(finding) => tracing::warn!(
                    class = finding.class.label(), saw = %finding.saw, next = %finding.next,
                    "secrets not refreshed; the set that stands was left"
                ),
            }
        }
    }
}

/// Looks who listens on the apps' ports.
async fn guard(ports: Ports, inbound: Vec<Inbound>, health: Arc<Health>) {
    let mut guard = exposure::Guard::default();
    loop {
        guard.look(&ports.proc, &inbound, &health);
        sleep(EXPOSURE).await;
    }
}

/// Holds every address before anything is asked for: a port that is taken is told at once.
fn bind(inbound: &[Inbound]) -> Result<Vec<Held>, Finding> {
    let bind = |inbound: &Inbound| {
        socket::hold(inbound.listen).map_err(|error| cannot_listen("inbound.listen", inbound.listen, &error))
    };
    inbound.iter().map(bind).collect()
}

/// The same for where the app dials.
fn hold_near(outbound: &[Outbound]) -> Result<Vec<outbound::Held>, Finding> {
    let hold = |outbound: &Outbound| {
        outbound::hold(&outbound.listen, outbound.mode).map_err(|error| cannot_dial(outbound, &error))
    };
    outbound.iter().map(hold).collect()
}

fn cannot_dial(outbound: &Outbound, error: &std::io::Error) -> Finding {
    match &outbound.listen {
        Local::Tcp(address) => cannot_listen("outbound.listen", *address, error),
        Local::Unix(path) => {
            let path = path.display();
            Finding::new(Class::Config, format!("`outbound.listen` unix:{path} cannot be made: {}", error.kind()))
                .why("the directory is not there or not ours to write, or something else than a socket has that name")
                .next(format!(
                    "mount a directory that both containers have at the parent of {path}, or correct `outbound.listen`"
                ))
        }
    }
}

pub(super) fn listen(key: &str, address: std::net::SocketAddr) -> Result<TcpListener, Finding> {
    socket::hold(address).and_then(Held::listen).map_err(|error| cannot_listen(key, address, &error))
}

fn counted(roles: &Roles) -> Arc<Metrics> {
    let metrics = Metrics::new(roles.inbound.iter().map(|inbound| inbound.listen.to_string()))
        .dialling(roles.outbound.iter().map(|outbound| outbound.listen.to_string()));
    reading::counted(metrics, roles.metrics.as_ref())
}

/// As many open files as the container may have. Returns how many.
pub(super) fn raise_descriptors() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.and_then(|count| usize::try_from(count).ok()).unwrap_or(1_000_000)
}

pub(super) fn unmeasured() -> Finding {
    Finding::new(Class::Config, "the sidecar was given no configuration that it may believe")
        .why("who may call, and by whose certificates, is not for the control plane to say: plain variables and files are")
        .next(
            "put countersign.toml into the initdata, or upload it to kbs:///default/countersign/<namespace>.<workload> \
             and set COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD",
        )
}

fn not_here() -> Finding {
    Finding::new(Class::Usage, "`countersign sidecar` is the pod's role, and this does not look like a pod")
        .why("a certificate is for attested guests; on a workstation there is nothing to attest")
        .next("put COUNTERSIGN_ROLE=sidecar into the pod's manifest, or let the policies of `policies/` inject it")
        .who(Who::AppDeveloper)
}

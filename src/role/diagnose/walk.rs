//! The walk itself: from this program to the app's port, one question after the other.

use std::sync::Arc;
use std::time::Duration;

use super::book::Book;
use crate::access::checks as access;
use crate::access::genuine::{self, Beside};
use crate::access::standing::Standing;
use crate::access::vouch::{self, MeasuredConfig};
use crate::access::{Deadline, hint};
use crate::check::{Check, Outcome};
use crate::cli::Diagnose;
use crate::clock;
use crate::config::{Config, Format, Provenance, Role, Source, Via};
use crate::finding::{Class, Finding};
use crate::guest_api;
use crate::identity::checks as identity;
use crate::kbs::checks as kbs;
use crate::kbs::probe;
use crate::ports::{Ports, host};
use crate::proxy::checks as proxy;
use crate::ramdir::{self, Needs};
use crate::role::boot::{self, Booted, ByRoad};
use crate::role::sidecar;
use crate::secrets::checks as secrets;
use crate::tsm;

/// Longest wait for one KBS. It is asked for a challenge, which costs it nothing.
const PROBE: Duration = Duration::from_secs(10);

/// Where the configuration is read from.
pub(super) const DOCUMENT: Check = Check::new(
    "config.document",
    "is the configuration without mistakes",
    "a configuration that is not understood whole is not followed at all",
)
.after(&["initdata.own"])
.cheap();

/// Whether the KBS delivers it.
pub(super) const DELIVERED: Check = Check::new(
    "config.delivered",
    "does the KBS deliver the workload's configuration",
    "what COUNTERSIGN_NAMESPACE and COUNTERSIGN_WORKLOAD name must be there, and be for this workload",
)
.needs(&["guest.configfs", "guest.device", "guest.api"])
.after(&["initdata.own", "config.document"]);

/// What is found out on the way.
pub(super) struct Walk<'a> {
    ports: &'a Ports,
    arguments: &'a Diagnose,
    beside: &'a Beside,
    standing: Arc<Standing>,
    booted: Option<Arc<Booted>>,
    /// A configuration that the KBS is to deliver, and what is vouched for by then.
    delivered: Option<(boot::Asked, Option<MeasuredConfig>)>,
}

type Vouched = Result<Option<MeasuredConfig>, Finding>;

impl<'a> Walk<'a> {
    /// A walk that ends at `until`. `booted` is a configuration that somebody has read already.
    pub(super) fn new(
        ports: &'a Ports,
        (arguments, beside): (&'a Diagnose, &'a Beside),
        until: Deadline,
        booted: Option<Arc<Booted>>,
    ) -> Self {
        // A kernel that hangs must not take the time of all that comes after it.
        let (half, third) = (Deadline::after(until.left() / 2), until.left() / 3);
        let standing = Standing::new(ports, half, boot::in_a_pod(ports)).waiting(third);
        Self { ports, arguments, beside, standing: Arc::new(standing), booted, delivered: None }
    }

    /// All of it. Gives the configuration, where there is one.
    pub(super) async fn all(mut self, book: &mut Book<'_>) -> Option<Arc<Booted>> {
        self.guest(book).await;
        let vouched = self.initdata(book).await;
        self.document(book, vouched.as_ref()).await;
        book.ask(&clock::FLOOR, async { clock::floor(&self.ports.clock) }).await;
        book.ask(&kbs::RESOLVER, async { kbs::resolver() }).await;
        book.ask(&kbs::PROXIES, async { kbs::proxies(&host::proxies(self.ports)) }).await;
        self.kbs(book, vouched.as_ref()).await;
        self.delivered(book).await;
        if let Some(booted) = self.booted.clone() {
            self.resources(book, &booted).await;
        }
        book.finish();
        self.booted
    }

    /// This program, the machine, and what it shows.
    async fn guest(&self, book: &mut Book<'_>) {
        let ports = self.ports;
        book.ask(&host::BINARY, async { host::binary() }).await;
        book.ask(&host::KERNEL, async { host::kernel(&ports.proc) }).await;
        book.ask(&host::PLACE, async { host::place(boot::in_a_pod(ports)) }).await;
        book.ask(&tsm::checks::CONFIGFS, async { tsm::checks::configfs(&*ports.tsm, &ports.proc) }).await;
        book.ask(&tsm::checks::DEVICE, async { tsm::checks::device(&ports.sys) }).await;
        let kernel = self.kernel_reports(book).await;
        // At a person's prompt on any machine the service's absence is no surprise.
        let expected = boot::in_a_pod(ports) || boot::has_settings(ports) || self.arguments.config.is_some();
        let api = &guest_api::checks::API;
        book.ask(api, async {
            let info = if kernel.is_some() { self.standing.info_at_once().await } else { self.standing.info().await };
            guest_api::checks::api(info, kernel.is_some() || !expected)
        })
        .await;
        let answers = book.passed(api.id);
        let (failed, told) = (book.failed(api.id), self.told(answers).await);
        book.ask(&host::TEE, async {
            match host::tee(ports, kernel.clone(), answers, told.as_deref()) {
                // What is broken is the service: it is told above.
                Outcome::Fail(_) if failed => Outcome::Skip("guest.api failed".to_owned()),
                outcome => outcome,
            }
        })
        .await;
        let given = book.ask_for(&access::REPORT, None, access::report(&self.standing)).await;
        self.evidence(book, given.as_ref()).await;
    }

    /// What the evidence says, and whether its maker vouches for it.
    async fn evidence(&self, book: &mut Book<'_>, given: Option<&access::Given<'_>>) {
        let (ports, none) = (self.ports, || Outcome::Skip("no evidence to read".to_owned()));
        let Some(given) = given else {
            for check in [&access::POLICY, &genuine::GENUINE, &genuine::TCB, &access::LOG] {
                book.note(check, None, none(), Duration::ZERO);
            }
            return;
        };
        let shown = given.shown.as_ref();
        book.ask(&access::POLICY, async { access::policy(shown, self.arguments.show_ids) }).await;
        let begun = tokio::time::Instant::now();
        let judged = genuine::judge(shown, self.beside, &ports.makers, ports.clock.now());
        book.note(&genuine::GENUINE, None, judged.genuine, begun.elapsed());
        book.note(&genuine::TCB, None, judged.tcb, Duration::ZERO);
        let log = given.kernel.map_or_else(none, |kernel| access::log(kernel, &ports.sys));
        book.note(&access::LOG, None, log, Duration::ZERO);
    }

    /// Whose reports the kernel gives. A directory without a provider behind it gives none.
    async fn kernel_reports(&self, book: &Book<'_>) -> Option<String> {
        let ways = [(&tsm::checks::CONFIGFS, Via::ConfigfsTsm), (&tsm::checks::DEVICE, Via::SevGuest)];
        for (check, via) in ways {
            if !book.passed(check.id) {
                continue;
            }
            // The first report is asked for where evidence is a question anyway.
            if !book.wants(&access::REPORT) {
                return Some(format!("the kernel offers reports by {via}"));
            }
            match self.standing.kernel(via).await {
                Ok(kernel) => return Some(format!("the kernel gives reports of {}", kernel.report.provider().label())),
                Err(refusal) if refusal.absent => {}
                Err(_) => return Some(format!("the kernel offers reports by {via}, and fails")),
            }
        }
        None
    }

    /// What the agent calls its TEE.
    async fn told(&self, answers: bool) -> Option<String> {
        if answers { self.standing.info().await.ok()?.tee.clone() } else { None }
    }

    /// The initdata, and who vouches for it.
    async fn initdata(&self, book: &mut Book<'_>) -> Option<Vouched> {
        let mounted = vouch::mounted(&self.ports.initdata);
        book.ask(&access::MOUNT, async { access::mount(&mounted) }).await;
        let vouched = if let Err(finding) = &mounted {
            book.note(&access::OWN, None, Outcome::Skip("initdata.mount failed".to_owned()), Duration::ZERO);
            Some(Err(finding.clone()))
        } else {
            let asked = async {
                let vouched = vouch::vouched(&self.standing).await;
                (access::own(&vouched, &self.ports.initdata), Some(vouched))
            };
            book.ask_for(&access::OWN, None, asked).await
        };
        let own = vouched.as_ref().and_then(|vouched| vouched.as_ref().ok()?.as_ref());
        let policy = match (own, &mounted) {
            (Some(own), _) => Some(own.content().policy),
            (None, Ok(Some(initdata))) => Some(initdata.agent_policy()),
            _ => None,
        };
        let outcome = policy.map_or_else(|| Outcome::Skip("no initdata to read".to_owned()), access::agent_policy);
        book.note(&access::AGENT_POLICY, None, outcome, Duration::ZERO);
        vouched
    }

    /// A configuration that is in the guest already. One that the KBS delivers is only remembered.
    async fn document(&mut self, book: &mut Book<'_>, vouched: Option<&Vouched>) {
        if let Some(booted) = &self.booted {
            book.note(&DOCUMENT, None, Outcome::Pass(described(&booted.config)), Duration::ZERO);
            return;
        }
        if book.is_cheap() {
            // Whoever asks for the cheap part has tried, and told.
            return;
        }
        let (ports, file, standing) = (self.ports, self.arguments.config.as_deref(), Arc::clone(&self.standing));
        let mut delivered = None;
        let answer = Box::pin(async {
            let skip = |why: &str| (Outcome::Skip(why.to_owned()), None);
            let vouched = match vouched {
                Some(Err(_)) => return skip("initdata.own failed, and nothing less may be believed in its place"),
                Some(Ok(vouched)) => vouched.clone(),
                None => None,
            };
            let asked = match boot::Asked::read(ports, file) {
                Ok(asked) => asked,
                Err(finding) => return (Outcome::Fail(finding), None),
            };
            if asked.is_delivered(vouched.as_ref()) {
                delivered = Some((asked, vouched));
                return skip("the KBS delivers it: see config.delivered");
            }
            if !asked.names_one(vouched.as_ref()) && !boot::has_settings(ports) {
                return skip("nothing configures this run; --config FILE does, or the pod's own variables");
            }
            read(asked.configuration(ports, standing, vouched, Role::Diagnose).await)
        });
        self.booted = book.ask_for(&DOCUMENT, None, answer).await;
        self.delivered = delivered;
    }

    async fn delivered(&mut self, book: &mut Book<'_>) {
        let (ports, standing) = (self.ports, Arc::clone(&self.standing));
        let Some((asked, vouched)) = self.delivered.take() else {
            let skip = Outcome::Skip("config.document asks for no delivery".to_owned());
            book.note(&DELIVERED, None, skip, Duration::ZERO);
            return;
        };
        let answer = Box::pin(async { read(asked.configuration(ports, standing, vouched, Role::Diagnose).await) });
        self.booted = book.ask_for(&DELIVERED, None, answer).await;
    }

    /// Each KBS that anybody names, asked without evidence.
    async fn kbs(&self, book: &mut Book<'_>, vouched: Option<&Vouched>) {
        let all = [&kbs::NAME, &kbs::CONNECT, &kbs::CERTIFICATE, &kbs::ANSWER, &kbs::TIME];
        if !all.iter().any(|check| book.wants(check)) {
            return;
        }
        let endpoint = match (&self.booted, vouched) {
            (Some(booted), _) => booted.endpoint(),
            (None, Some(Ok(Some(own)))) => crate::access::ways::Endpoint::of_initdata(own),
            _ => Ok(None),
        };
        let hint = match endpoint {
            Ok(endpoint) => hint::find(endpoint.as_ref(), &self.ports.initdata),
            Err(finding) => {
                book.note(&kbs::NAME, None, Outcome::Fail(finding), Duration::ZERO);
                return;
            }
        };
        if hint.url.is_empty() {
            for check in all {
                let skip = "nothing here names a KBS: over CDH the guest's own cdh.toml does".to_owned();
                book.note(check, None, Outcome::Skip(skip), Duration::ZERO);
            }
            return;
        }
        for url in &hint.url {
            let clock = &self.ports.clock;
            let report = probe::probe(url, hint.ca.as_deref(), clock, book.until().left().min(PROBE)).await;
            let subject = Some(url.to_string());
            for (check, outcome, took) in kbs::stages(&report, hint.named_in) {
                book.note(check, subject.clone(), outcome, took);
            }
            let time = if report.speaks_ours() {
                kbs::time(report.date(), clock.wall())
            } else {
                Outcome::Skip("no KBS of ours answered".to_owned())
            };
            book.note(&kbs::TIME, subject, time, Duration::ZERO);
        }
    }

    /// What the configuration asks for.
    async fn resources(&self, book: &mut Book<'_>, booted: &Booted) {
        let until = book.until();
        let road = book
            .ask_for(&access::WAY, None, async {
                match booted.road(self.ports, until).await {
                    Ok(road) => (access::way(road.via(), booted.config.provenance), Some(road)),
                    Err(finding) => (Outcome::Fail(finding), None),
                }
            })
            .await;
        if let Some(road) = &road {
            self.attest(book, road).await;
            self.secrets(book, &booted.config, road).await;
        }
        let files = &booted.config.secrets.files;
        let outcome = if files.is_empty() {
            Outcome::Skip("nothing is to be published".to_owned())
        } else {
            let owners: Vec<u32> = files.iter().filter_map(|file| file.owner).collect();
            let groups: Vec<u32> = files.iter().filter_map(|file| file.group).collect();
            let needs = Needs { files: files.len(), bytes: 0, owners: &owners, groups: &groups };
            ramdir::checks::destination(&booted.config.secrets.directory, &needs, &self.ports.proc)
        };
        book.note(&ramdir::checks::DESTINATION, None, outcome, Duration::ZERO);
        self.sidecar(book, &booted.config, road.as_ref()).await;
    }

    async fn attest(&self, book: &mut Book<'_>, road: &Arc<ByRoad>) {
        if road.via() == Via::Cdh {
            let skip = "CDH attests by itself, and shows nothing of it".to_owned();
            book.note(&access::SESSION, None, Outcome::Skip(skip), Duration::ZERO);
            let none = || Outcome::Skip("the guest's agent gave no token to read".to_owned());
            let answer =
                async { access::told_by_the_agent(&self.standing).await.map_or_else(none, |c| access::verdict(&c)) };
            book.ask(&access::VERDICT, answer).await;
            return;
        }
        let claims = book
            .ask_for(&access::SESSION, None, async {
                match road.claims().await {
                    Ok(claims) => (Outcome::Pass(format!("accepted, by {}", road.via())), Some(claims)),
                    Err(finding) => (Outcome::Fail(finding), None),
                }
            })
            .await;
        let none = || Outcome::Skip("attest.session brought no token to read".to_owned());
        let outcome = claims.flatten().map_or_else(none, |claims| access::verdict(&claims));
        book.note(&access::VERDICT, None, outcome, Duration::ZERO);
    }

    async fn secrets(&self, book: &mut Book<'_>, config: &Config, road: &Arc<ByRoad>) {
        let attested = !book.failed(access::SESSION.id);
        let unattested = || Outcome::Skip("attest.session failed".to_owned());
        for gate in &config.secrets.gates {
            let answer = Box::pin(async { if attested { secrets::gate(road, gate).await } else { unattested() } });
            book.ask_about(&secrets::GATE, gate.from.to_string(), answer).await;
        }
        let files = &config.secrets.files;
        if book.wants(&secrets::FILE) || book.wants(&secrets::SEALED) {
            let keys = if attested {
                Box::pin(secrets::keys(road, files, &config.secrets.sealed_keys)).await
            } else {
                Err(Finding::new(Class::EvidenceRejected, "attest.session failed"))
            };
            let mut values = Vec::with_capacity(files.len());
            for file in files {
                let subject = Some(file.path.to_string());
                let uri = match (&file.from, secrets::sealed(file, &keys)) {
                    (Source::Resource(uri), _) => Some(uri.clone()),
                    (_, Some((outcome, uri))) => {
                        let outcome = if attested { outcome } else { unattested() };
                        book.note(&secrets::SEALED, subject.clone(), outcome, Duration::ZERO);
                        uri
                    }
                    _ => None,
                };
                let answer = Box::pin(async {
                    match uri {
                        _ if !attested => (unattested(), None),
                        None => (Outcome::Skip("secrets.sealed failed".to_owned()), None),
                        Some(uri) => {
                            let (outcome, value) = secrets::file(road, file, &uri).await;
                            (outcome, value.map(|value| (uri, value)))
                        }
                    }
                });
                values.push(book.ask_for(&secrets::FILE, subject, answer).await);
            }
            for (file, value) in files.iter().zip(&values) {
                let Format::TlsPair { key: Some(path) } = &file.expect.format else { continue };
                let Some((uri, value)) = value else { continue };
                let key = files.iter().zip(&values).find(|(other, _)| other.path == *path);
                let key = key.and_then(|(_, key)| key.as_ref()).map(|(_, key)| key);
                let outcome = secrets::pair(file, uri, value, key);
                book.note(&secrets::FILE, Some(format!("{} with its key", file.path)), outcome, Duration::ZERO);
            }
        }
        if let Some(uri) = &config.kbs.canary {
            let answer = Box::pin(async { if attested { secrets::canary(road, uri).await } else { unattested() } });
            book.ask_about(&secrets::CANARY, uri.to_string(), answer).await;
        } else {
            let skip = Outcome::Skip("`[kbs].canary` names no resource that must be denied".to_owned());
            book.note(&secrets::CANARY, None, skip, Duration::ZERO);
        }
    }

    async fn sidecar(&self, book: &mut Book<'_>, config: &Config, road: Option<&Arc<ByRoad>>) {
        let clock = &self.ports.clock;
        let (mut outcome, terms) =
            identity::terms(&config.roles, config.provenance, boot::hardware(self.ports, config));
        // Terms that demand evidence are refused for that very reason, in words for what is delivered.
        let demands = config.roles.peers.as_ref().is_some_and(|peers| peers.evidence().is_some());
        if config.provenance == Provenance::Unmeasured && (terms.is_some() || demands) {
            // `init` reads such a document all the same.
            outcome = Outcome::Warn(sidecar::unmeasured());
        }
        book.note(&identity::TERMS, None, outcome, Duration::ZERO);
        let Some(terms) = terms else { return };
        if let Some(road) = road.filter(|_| !book.failed(access::SESSION.id)) {
            book.ask(&identity::TRUST, Box::pin(identity::trust(&terms, road, clock))).await;
            book.ask(&identity::CERTIFICATE, Box::pin(identity::certificate(&terms, road, clock))).await;
        }
        for inbound in &config.roles.inbound {
            let subject = Some(inbound.listen.to_string());
            book.note(&proxy::LISTENER, subject.clone(), proxy::listener(inbound), Duration::ZERO);
            book.note(&proxy::EXPOSURE, subject, proxy::app(inbound, &self.ports.proc), Duration::ZERO);
        }
    }
}

fn read(booted: Result<Booted, boot::Refused>) -> (Outcome, Option<Arc<Booted>>) {
    match booted {
        Ok(booted) => (Outcome::Pass(described(&booted.config)), Some(Arc::new(booted))),
        Err((_, finding)) => (Outcome::Fail(finding), None),
    }
}

fn described(config: &Config) -> String {
    format!(
        "{}, serial {}; secrets: {}, gates: {}, listeners: {}",
        config.provenance,
        config.serial,
        config.secrets.files.len(),
        config.secrets.gates.len(),
        config.roles.inbound.len()
    )
}

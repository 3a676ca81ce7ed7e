//! What this guest can show of itself, asked once: the kernel's reports, the device, the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, sleep, timeout_at};

use super::source::{Source, ask_device, ask_kernel, launch_field, trustee_name};
use super::{Deadline, token};
use crate::appraise::launch::LaunchField;
use crate::config::Via;
use crate::finding::{Class, Finding};
use crate::guest_api::{self, Asked, GuestApi, Info, Passport};
use crate::ports::Ports;
use crate::ports::tsm_fs::TsmFs;
use crate::tsm::{self, Boot, KernelReport, SevGuest, Tsm};

/// How long a refused connection is waited out early in boot: init containers have met a guest
/// whose REST service was not up yet (kata-containers issue 8870).
const BOOT_WAIT: Duration = Duration::from_secs(30);

/// The same where nothing says that this is a pod: a person at a prompt is waiting.
const BOOT_WAIT_OUTSIDE_A_POD: Duration = Duration::from_secs(1);

/// Pause between two connection attempts while the REST service is not up.
const BOOT_PAUSE: Duration = Duration::from_millis(200);

/// This guest, as far as it was asked.
pub struct Standing {
    fs: Arc<dyn TsmFs>,
    proc: PathBuf,
    pub(super) sys: PathBuf,
    pub(super) initdata: PathBuf,
    pub(super) api: GuestApi,
    deadline: Deadline,
    boot_until: Instant,
    configfs: OnceCell<Shown>,
    device: OnceCell<Shown>,
    info: OnceCell<Result<Info, guest_api::Error>>,
    passport: Mutex<Option<Passport>>,
}

/// What the kernel showed, or why it does not.
type Shown = Result<Kernel, Refusal>;

/// A kernel that makes reports.
#[derive(Clone)]
pub struct Kernel {
    /// To ask it for more.
    pub source: Source,
    /// What the guest was launched with, where reports of this TEE are parsed here.
    pub launch: Option<LaunchField>,
    /// Trustee's name of the TEE.
    pub tee: &'static str,
    /// The report itself, over bytes of ours.
    pub report: Arc<KernelReport>,
    /// How long the first report took.
    pub took: Duration,
}

/// Why a way gives no evidence.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The guest does not offer it, so the next one may be taken. Else it is there, and fails.
    pub absent: bool,
    /// What to say of it.
    pub finding: Finding,
}

impl Standing {
    /// Asks nothing yet. `in_a_pod` is advice for how long to wait, nothing else.
    pub fn new(ports: &Ports, deadline: Deadline, in_a_pod: bool) -> Self {
        let wait = if in_a_pod { BOOT_WAIT } else { BOOT_WAIT_OUTSIDE_A_POD };
        Self {
            fs: Arc::clone(&ports.tsm),
            proc: ports.proc.clone(),
            sys: ports.sys.clone(),
            initdata: ports.initdata.clone(),
            api: GuestApi::new(ports.guest_api),
            deadline,
            boot_until: Deadline::after(wait).at().min(deadline.at()),
            configfs: OnceCell::new(),
            device: OnceCell::new(),
            info: OnceCell::new(),
            passport: Mutex::new(None),
        }
    }

    /// Waits for a REST service that is not there yet no longer than this from now.
    #[must_use]
    pub fn waiting(mut self, at_most: Duration) -> Self {
        self.boot_until = self.boot_until.min(Deadline::after(at_most).at());
        self
    }

    /// When everything must be over.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Until when a REST service that is not there yet is waited for.
    pub fn boot_until(&self) -> Instant {
        self.boot_until
    }

    /// The kernel's own report through `via`, which is one of the two ways of the kernel. The first
    /// call takes as long as a report does; later ones know.
    pub async fn kernel(&self, via: Via) -> Result<&Kernel, &Refusal> {
        let shown = match via {
            Via::SevGuest => self.device.get_or_init(|| self.ask_device()).await,
            _ => self.configfs.get_or_init(|| self.ask_configfs()).await,
        };
        shown.as_ref()
    }

    async fn ask_configfs(&self) -> Shown {
        let begun = Instant::now();
        let tsm = Tsm::open(&*self.fs, Boot::kernel(&self.proc)).map_err(|error| refusal(&error))?;
        // Over bytes of our own: an old report, or somebody else's, does not echo them.
        let fresh = random()?;
        let report = ask_kernel(&tsm, &fresh, self.deadline).await.map_err(|error| refusal(&error))?;
        let provider = report.provider();
        Ok(Kernel {
            launch: launch_field(&report, &self.sys).map_err(failing)?,
            tee: trustee_name(provider),
            source: Source::Kernel { tsm, provider, sys: self.sys.clone(), deadline: self.deadline },
            report: Arc::new(report),
            took: begun.elapsed(),
        })
    }

    async fn ask_device(&self) -> Shown {
        let begun = Instant::now();
        let device = SevGuest::open(&self.sys).map_err(|error| refusal(&error))?;
        let report = ask_device(&device, &random()?, self.deadline).await.map_err(|error| refusal(&error))?;
        Ok(Kernel {
            launch: launch_field(&report, &self.sys).map_err(failing)?,
            tee: trustee_name(report.provider()),
            source: Source::Device { device, deadline: self.deadline },
            report: Arc::new(report),
            took: begun.elapsed(),
        })
    }

    /// What the guest's REST service says of itself. A refused connection is waited out early in boot.
    pub async fn info(&self) -> Result<&Info, guest_api::Error> {
        self.info_until(self.boot_until).await
    }

    /// The same without waiting, for a guest that has another way. Whoever asks later is told the same.
    pub async fn info_at_once(&self) -> Result<&Info, guest_api::Error> {
        self.info_until(Instant::now()).await
    }

    async fn info_until(&self, boot_until: Instant) -> Result<&Info, guest_api::Error> {
        let asked = self.info.get_or_init(|| async {
            loop {
                let Ok(answer) = timeout_at(self.deadline.at(), self.api.info()).await else {
                    return Err(guest_api::Error::Closed);
                };
                match answer {
                    Err(error) if error.is_refused() && Instant::now() < boot_until => {
                        tracing::debug!("the guest's REST service is not up yet");
                        sleep(BOOT_PAUSE).await;
                    }
                    answer => return answer,
                }
            }
        });
        asked.await.as_ref().map_err(|error| *error)
    }

    /// What the agent behind the REST service says of itself. `None` where its feature is off or there is
    /// no such service; a service that is there and fails is a refusal.
    pub async fn agent(&self) -> Result<Option<&Info>, Finding> {
        match self.info().await {
            Ok(info) => Ok(Some(info).filter(|info| info.attestation)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error.finding(Asked::Info)),
        }
    }

    /// The guest's REST service.
    pub fn api(&self) -> GuestApi {
        self.api
    }

    /// A token of the agent, with its key. Each is an attestation.
    pub(super) async fn fetch_passport(&self) -> Result<Passport, Finding> {
        token::fetch(self.api, self.deadline).await
    }

    /// Keeps a token that was fetched for another purpose.
    pub(super) async fn keep_passport(&self, passport: Passport) {
        *self.passport.lock().await = Some(passport);
    }

    /// The token that was fetched for another purpose, once.
    pub async fn take_passport(&self) -> Option<Passport> {
        self.passport.lock().await.take()
    }
}

/// 64 bytes that nobody could know before.
pub(super) fn random_bytes() -> Result<[u8; 64], Finding> {
    let mut bytes = [0; 64];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Finding::new(Class::NoEvidence, "the kernel gives no randomness")
            .why("a report over bytes that somebody can know beforehand may be an old one")
            .next("check that the guest's kernel has a source of randomness, and restart the pod")),
    }
}

fn random() -> Result<[u8; 64], Refusal> {
    random_bytes().map_err(failing)
}

fn refusal(error: &tsm::Error) -> Refusal {
    Refusal { absent: error.is_absent(), finding: error.finding() }
}

fn failing(finding: Finding) -> Refusal {
    Refusal { absent: false, finding }
}

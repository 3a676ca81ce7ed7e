//! Whether this pod may be sent callers, and the plain port where kubelet asks.
//!
//! Logs and exec are denied under a strict agent policy, so the status carries the class: 200, 503
//! while starting or draining, else 500 + (exit code - 60) (`docs/errors.md`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;

use super::plain::{self, Answer, Page};
use crate::clock::Clock;
use crate::finding::Class;

/// What is known of the pod's readiness.
pub struct Health {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the certificate ends, seconds since 1970.
    until: Option<u64>,
    /// When what peers are shown beside it is too old for them, where they demand it.
    evidence: Option<u64>,
    listening: bool,
    draining: bool,
    /// Why the last renewal failed. Counts only once the certificate has ended, or the evidence.
    renewal: Option<Class>,
    /// What stands against serving, by who noticed.
    problems: BTreeMap<&'static str, Class>,
}

/// An answer: a status and one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// HTTP status.
    pub status: u16,
    /// `ok`, `starting`, `draining`, or the label of a class.
    pub word: &'static str,
}

const OK: Verdict = Verdict { status: 200, word: "ok" };
const STARTING: Verdict = Verdict { status: 503, word: "starting" };
const DRAINING: Verdict = Verdict { status: 503, word: "draining" };

fn of(class: Class) -> Verdict {
    Verdict { status: class.row().probe_status(), word: class.label() }
}

impl Health {
    /// Nothing known yet.
    pub fn new(clock: &Clock) -> Arc<Self> {
        Arc::new(Self { clock: clock.clone(), state: Mutex::default() })
    }

    /// For a pod that shows no certificate: it has nobody to serve.
    pub fn idle(clock: &Clock) -> Arc<Self> {
        let health = Self::new(clock);
        health.renewed(u64::MAX, None);
        health
    }

    /// A certificate is served until then. `evidence`: from when on peers that demand evidence find ours too old,
    /// where they do. Both in seconds since 1970.
    pub fn renewed(&self, until: u64, evidence: Option<u64>) {
        let mut state = self.lock();
        state.until = Some(until);
        state.evidence = evidence;
        state.renewal = None;
    }

    /// The certificate could not be renewed.
    pub fn renewal_failed(&self, class: Class) {
        self.lock().renewal = Some(class);
    }

    /// The listeners take connections.
    pub fn listening(&self) {
        self.lock().listening = true;
    }

    /// No new callers.
    pub fn draining(&self) {
        self.lock().draining = true;
    }

    /// `who` has noticed something that stands against serving, or (`None`) that it is over. Tells whether
    /// that is news.
    pub fn problem(&self, who: &'static str, class: Option<Class>) -> bool {
        let mut state = self.lock();
        match class {
            Some(class) => state.problems.insert(who, class) != Some(class),
            None => state.problems.remove(who).is_some(),
        }
    }

    /// `/startupz`: whether it has once been ready to serve.
    pub fn startup(&self) -> Verdict {
        let state = self.lock();
        match state.problems.values().next() {
            Some(class) if !(state.listening && state.until.is_some()) => of(*class),
            _ if state.listening && state.until.is_some() => OK,
            _ => STARTING,
        }
    }

    /// `/readyz`: whether callers may be sent now.
    pub fn ready(&self) -> Verdict {
        let state = self.lock();
        if state.draining {
            return DRAINING;
        }
        if let Some(class) = state.problems.values().next() {
            return of(*class);
        }
        let ended = |until: u64| self.clock.now() >= until;
        match state.until {
            Some(until) if ended(until) => of(state.renewal.unwrap_or(Class::Certificate)),
            // Every peer that demands evidence would refuse this pod, and it them: callers have better ones.
            Some(_) if state.evidence.is_some_and(ended) => of(state.renewal.unwrap_or(Class::NoEvidence)),
            Some(_) if state.listening => OK,
            _ => STARTING,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the app on behalf of a probe. `None`: no such probe is configured.
pub type Ask = Arc<dyn Fn(&str) -> Option<Pin<Box<dyn Future<Output = bool> + Send>>> + Send + Sync>;

/// Answers kubelet on `listener` for as long as it is polled.
pub async fn serve(listener: TcpListener, health: Arc<Health>, probes: Ask) {
    let answer: Page = Arc::new(move |path: &str| {
        let asked = path.strip_prefix("/probe/").map(|rest| probes(rest));
        let verdict = match (path, asked) {
            ("/startupz", _) => health.startup(),
            ("/livez", _) => OK,
            ("/readyz", _) => health.ready(),
            (_, Some(Some(asked))) => {
                return Box::pin(async move {
                    let good = asked.await;
                    Some(told(if good { OK } else { Verdict { status: 503, word: "app-not-ready" } }))
                });
            }
            _ => return Box::pin(std::future::ready(None)),
        };
        Box::pin(std::future::ready(Some(told(verdict))))
    });
    plain::serve(listener, answer).await;
}

fn told(verdict: Verdict) -> Answer {
    Answer::text(verdict.status, verdict.word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, SystemTime};

    fn at(seconds: &Arc<AtomicU64>) -> Clock {
        let seconds = Arc::clone(seconds);
        let wall = move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed));
        Clock::new(Arc::new(wall), Arc::new(|| Duration::ZERO))
    }

    const NOW: u64 = 4_000_000_000;

    #[test]
    fn ready_only_while_there_is_a_valid_certificate_and_a_listener() {
        let seconds = Arc::new(AtomicU64::new(NOW));
        let health = Health::new(&at(&seconds));
        assert_eq!((health.startup(), health.ready()), (STARTING, STARTING));
        health.renewed(NOW + 10, None);
        assert_eq!(health.ready(), STARTING);
        health.listening();
        assert_eq!((health.startup(), health.ready()), (OK, OK));
        seconds.store(NOW + 10, Ordering::Relaxed);
        assert_eq!(health.ready(), of(Class::Certificate));
        assert_eq!(health.startup(), OK, "a pod that has started is not started again for it");
        health.renewed(NOW + 20, None);
        assert_eq!(health.ready(), OK);
        health.draining();
        assert_eq!(health.ready(), DRAINING);
    }

    #[test]
    fn an_outage_counts_only_once_the_certificate_has_ended() {
        let seconds = Arc::new(AtomicU64::new(NOW));
        let health = Health::new(&at(&seconds));
        health.listening();
        health.renewed(NOW + 10, None);
        health.renewal_failed(Class::Unreachable);
        assert_eq!(health.ready(), OK);
        seconds.store(NOW + 11, Ordering::Relaxed);
        assert_eq!(health.ready(), Verdict { status: 509, word: "kbs-unreachable" });
    }

    #[test]
    fn evidence_that_is_too_old_for_peers_makes_the_pod_not_ready() {
        let seconds = Arc::new(AtomicU64::new(NOW));
        let health = Health::new(&at(&seconds));
        health.listening();
        health.renewed(NOW + 100, Some(NOW + 10));
        seconds.store(NOW + 9, Ordering::Relaxed);
        assert_eq!(health.ready(), OK);
        seconds.store(NOW + 10, Ordering::Relaxed);
        assert_eq!(health.ready(), of(Class::NoEvidence));
        health.renewal_failed(Class::Unreachable);
        assert_eq!(health.ready(), of(Class::Unreachable), "what keeps it from being renewed");
        health.renewed(NOW + 100, Some(NOW + 20));
        assert_eq!(health.ready(), OK);
    }

    #[test]
    fn a_problem_is_news_once_and_ends() {
        let health = Health::new(&at(&Arc::new(AtomicU64::new(NOW))));
        health.listening();
        health.renewed(NOW + 10, None);
        assert!(health.problem("ram", Some(Class::Destination)));
        assert!(!health.problem("ram", Some(Class::Destination)));
        assert_eq!(health.ready().status, 513);
        assert!(health.problem("ram", None));
        assert_eq!(health.ready(), OK);
    }
}

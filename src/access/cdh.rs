//! The road through the guest's CDH: `http://127.0.0.1:8006/cdh/resource/…`.
//!
//! CDH answers every cause with the same 500. So there are few tries, and on giving up the KBS that
//! configuration or initdata names is asked directly, without evidence: is there a name, a
//! connection, the right certificate, a KBS, our version? That answer decides the class.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout_at};

use super::Deadline;
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::finding::{Class, Finding};
use crate::formats::kbs_uri::KbsUri;
use crate::guest_api::{self, Asked, GuestApi};
use crate::kbs::probe::{self, Report};
use crate::secret::Secret;

/// Tries of one resource that ended in an answer or a broken connection. CDH retries three times by
/// itself, and each of its tries may attest; more only hides the reason for longer.
const MAX_TRIES: u32 = 4;

/// First pause between tries; doubles, and each pause is a random part of it (full jitter), so that
/// the pods of a rollout do not come back together.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Pause between two connection attempts while the REST service is not up.
const BOOT_PAUSE: Duration = Duration::from_millis(200);

/// Kept back from the deadline for asking the KBS why.
const PROBE_RESERVE: Duration = Duration::from_secs(10);

/// The KBS to ask when CDH gives no reason.
#[derive(Clone, Debug, Default)]
pub struct KbsHint {
    /// Tried in order.
    pub url: Vec<KbsUrl>,
    /// PEM of its CA.
    pub ca: Option<String>,
    /// Which document named it, for the message.
    pub named_in: &'static str,
}

/// The road. Cheap to share between concurrent fetches.
pub struct Road {
    api: GuestApi,
    deadline: Deadline,
    boot_until: Instant,
    in_a_pod: bool,
    hint: KbsHint,
    clock: Clock,
    probed: OnceCell<Vec<Report>>,
}

impl Road {
    /// A road that ends at `deadline`. Until `boot_until` a refused connection is waited out. `in_a_pod`
    /// is advice for the words of a message, nothing else.
    pub fn new(
        api: GuestApi,
        deadline: Deadline,
        boot_until: Instant,
        in_a_pod: bool,
        hint: KbsHint,
        clock: &Clock,
    ) -> Arc<Self> {
        Arc::new(Self { api, deadline, boot_until, in_a_pod, hint, clock: clock.clone(), probed: OnceCell::new() })
    }

    /// Fetches one resource, at most `max_bytes` long.
    pub async fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Finding> {
        // A short deadline gives up at most half of itself to the question why.
        let reserve = PROBE_RESERVE.min(self.deadline.left() / 2);
        let until = self.deadline.before(reserve).at();
        let mut tries: u32 = 0;
        let mut last: Option<guest_api::Error> = None;
        loop {
            let Ok(answer) = timeout_at(until, self.api.resource(uri, max_bytes)).await else {
                return Err(self.out_of_time(uri, tries, last.as_ref()).await);
            };
            let error = match answer {
                Ok(secret) => return Ok(secret),
                Err(error) => error,
            };
            let pause = if error.is_refused() && Instant::now() < self.boot_until {
                tracing::debug!(resource = %uri, "the guest's REST service is not up yet");
                BOOT_PAUSE
            } else {
                tries = tries.saturating_add(1);
                tracing::debug!(resource = %uri, tries, error = %error, "no answer to use");
                if !error.is_retryable() || tries >= MAX_TRIES || error.is_refused() {
                    return Err(self.give_up(uri, tries, &error).await);
                }
                jitter(pause_after(tries))
            };
            // CDH answered, and there is no time to ask again: nothing was slow.
            if error.is_cdh_failure() && Instant::now() + pause >= until {
                return Err(self.give_up(uri, tries, &error).await);
            }
            if timeout_at(until, sleep(pause)).await.is_err() {
                return Err(self.out_of_time(uri, tries, Some(&error)).await);
            }
            last = Some(error);
        }
    }

    async fn give_up(&self, uri: &KbsUri, tries: u32, error: &guest_api::Error) -> Finding {
        let finding = error.finding(Asked::Resource(uri));
        if error.is_refused() {
            return self.nothing_listens(finding);
        }
        if !error.is_cdh_failure() {
            return finding;
        }
        let finding = Finding { saw: format!("{} ({tries} tries)", finding.saw), ..finding };
        self.ask_the_kbs(finding).await
    }

    fn nothing_listens(&self, finding: Finding) -> Finding {
        if self.in_a_pod {
            finding
        } else {
            finding.why(
                "this does not look like a pod: there is no guest service, and Kubernetes set no variables here; \
                 secrets are released inside a confidential guest only",
            )
        }
    }

    async fn out_of_time(&self, uri: &KbsUri, tries: u32, last: Option<&guest_api::Error>) -> Finding {
        if let Some(error) = last.filter(|error| error.is_refused()) {
            return self.nothing_listens(error.finding(Asked::Resource(uri)));
        }
        let saw = match last {
            Some(error) => format!("no secret from {uri} before the deadline: {tries} tries, the last {error}"),
            None => format!("no answer for {uri} from the guest's CDH before the deadline"),
        };
        let finding = Finding::new(Class::Unreachable, saw)
            .why("CDH waits for the KBS; it did not come back in time, so the KBS is slow or cannot be reached")
            .next("check that the KBS named in the guest's `cdh.toml` runs and is reachable, or raise `deadline`");
        self.ask_the_kbs(finding).await
    }

    /// Adds what the KBS itself says. Where it cannot be reached or is not ours, that is the class.
    async fn ask_the_kbs(&self, finding: Finding) -> Finding {
        if self.hint.url.is_empty() {
            let next = format!(
                "{}; name the KBS in `[kbs].url` and its CA in `[kbs].ca`, and the next refusal will say more",
                finding.next
            );
            return finding.next(next);
        }
        let reports = self.probed.get_or_init(|| self.probe()).await;
        let said = reports.iter().map(Report::summary).collect::<Vec<_>>().join("; ");
        let saw = format!("{}; asked the KBS of {}: {said}", finding.saw, self.hint.named_in);
        if reports.iter().any(Report::speaks_ours) {
            return Finding { saw, ..finding };
        }
        match reports.iter().find_map(|report| report.finding_named_in(self.hint.named_in)) {
            Some(reason) => Finding { saw, ..reason },
            None => Finding { saw, ..finding },
        }
    }

    async fn probe(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for url in &self.hint.url {
            let report =
                probe::probe(url, self.hint.ca.as_deref(), &self.clock, self.deadline.left().min(PROBE_RESERVE)).await;
            let ours = report.speaks_ours();
            reports.push(report);
            if ours {
                break;
            }
        }
        reports
    }
}

/// 1 s, 2 s, 4 s … up to the longest.
pub(super) fn pause_after(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(LONGEST_PAUSE)
}

/// A random part of `pause`. Without randomness (which would be a broken machine), half.
pub(super) fn jitter(pause: Duration) -> Duration {
    let mut byte = [128_u8; 1];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [part] = byte;
    pause.mul_f64(f64::from(part) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let pauses: Vec<u64> = (1..=7).map(|tries| pause_after(tries).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert!((0..200).all(|_| jitter(FIRST_PAUSE) <= FIRST_PAUSE));
    }
}

//! The agent's token in place of our own evidence: `/aa/token` gives an attestation token and the key
//! that it names, and the KBS takes both.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout_at};

use super::cdh::{jitter, pause_after};
use super::{Attester, Deadline};
use crate::finding::{Class, Finding};
use crate::guest_api::{self, Asked, GuestApi, Passport};
use crate::kbs::{Client, Error, Session, TeeKey};

/// Calls of `/aa/token` that ended in an answer. Each is a whole attestation, and the agent hides
/// whether another one could end differently.
const MAX_TRIES: u32 = 4;

/// Attests by the agent's token.
pub struct ByToken {
    api: GuestApi,
    /// One that was fetched already, to be used first.
    first: Mutex<Option<Passport>>,
    shown: AtomicU64,
}

impl ByToken {
    /// `first` is a token that was fetched already.
    pub fn new(api: GuestApi, first: Option<Passport>) -> Self {
        Self { api, first: Mutex::new(first), shown: AtomicU64::new(0) }
    }
}

impl Attester for ByToken {
    async fn attest(&self, client: &Client, deadline: Deadline) -> Result<Result<Session, Error>, Finding> {
        let first = self.first.lock().await.take();
        let passport = match first {
            Some(passport) => passport,
            None => fetch(self.api, deadline).await?,
        };
        let key = TeeKey::from_pkcs8(passport.key.expose()).map_err(|_| other_key())?;
        self.shown.fetch_add(1, Ordering::Relaxed);
        Ok(client.with_token(passport.token, key))
    }

    fn attestations(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }
}

/// A token from the agent, in a few tries.
pub(super) async fn fetch(api: GuestApi, deadline: Deadline) -> Result<Passport, Finding> {
    let mut tries: u32 = 0;
    loop {
        let answer = timeout_at(deadline.at(), api.passport()).await;
        let error: guest_api::Error = match answer {
            Ok(Ok(passport)) => return Ok(passport),
            Ok(Err(error)) => error,
            Err(_) => return Err(no_token_in_time()),
        };
        tries = tries.saturating_add(1);
        tracing::debug!(tries, error = %error, "no token");
        if !error.is_retryable() || tries >= MAX_TRIES {
            return Err(counted(error.finding(Asked::Token), tries));
        }
        if timeout_at(deadline.at(), sleep(jitter(pause_after(tries)))).await.is_err() {
            return Err(counted(error.finding(Asked::Token), tries));
        }
    }
}

fn counted(finding: Finding, tries: u32) -> Finding {
    Finding { saw: format!("{} ({tries} tries)", finding.saw), ..finding }
}

pub(super) fn other_key() -> Finding {
    Finding::new(Class::GuestApi, "the attestation agent's key is not on P-256")
        .why("what the KBS encrypts to the token's key is opened with that key, and only P-256 is spoken here")
        .next("use a guest image whose `attestation-agent` makes P-256 keys, as its own default is, or take another way in `[kbs].via`")
}

fn no_token_in_time() -> Finding {
    Finding::new(Class::Unreachable, "the attestation agent gave no token before the deadline")
        .why("it attests to the KBS of `aa.toml` and waits for it")
        .next("check that the KBS named in the guest's `aa.toml` runs and is reachable, or raise `deadline`")
}

//! What a live peer is called with, and must prove: files in place of the KBS's resources, the rest as in
//! the sidecar. `connect` calls with the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Wanted;
use super::wanted::{MAX_KEY, usage};
use crate::appraise::Makers;
use crate::cli::Expectations;
use crate::clock::Clock;
use crate::config::grammar;
use crate::config::roles::EvidenceLevel;
use crate::finding::{Class, Finding};
use crate::formats::ear::TrustAnchors;
use crate::formats::pins::{self, Pins};
use crate::issuance::ready;
use crate::ports::files::{MAX_CERTIFICATES, read};
use crate::secret::Secret;
use crate::tls::client::Exit;
use crate::tls::demand::{Demand, Level};
use crate::tls::leaf::{self, Leaf};
use crate::tls::trust::{Calls, Door, Trust};

/// Seconds of `--max-age`: as of `peers.evidence.max_age`.
const MAX_AGE: std::ops::RangeInclusive<u64> = 60..=24 * 3600;

/// What is demanded, and shown. All that is demanded, or nothing: half of it would be a weaker check.
pub(in crate::tool) struct Proof {
    token_roots: PathBuf,
    pins: PathBuf,
    max_age: Duration,
    level: EvidenceLevel,
    /// Certificate and key. None is shown where nobody is called: beside a receipt that was kept.
    shown: Option<(PathBuf, PathBuf)>,
}

/// All of it, read.
pub(in crate::tool) struct Call {
    pub(in crate::tool) exit: Exit,
    /// When the certificate that is shown ends, seconds since 1970.
    pub(in crate::tool) until: u64,
}

impl Proof {
    /// `None` where nothing of it is said.
    pub(super) fn understand(said: &Expectations) -> Result<Option<Self>, Finding> {
        let Expectations { token_roots, pins, max_age, level, cert, cert_key, .. } = said;
        let shown = match (cert, cert_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            _ => return Err(half(&missing(said))),
        };
        let (token_roots, pins, max_age) = match (token_roots, pins, max_age) {
            (None, None, None) if shown.is_none() && level.is_none() => return Ok(None),
            (Some(roots), Some(pins), Some(age)) => (roots, pins, age),
            _ => return Err(half(&missing(said))),
        };
        let max_age = grammar::duration(max_age).filter(|age| MAX_AGE.contains(&age.as_secs())).ok_or_else(|| {
            usage(
                "--max-age is not a duration from 1m to 24h",
                "write --max-age as 1h, or as `[peers.evidence].max_age` has it",
            )
        })?;
        let level = match level.as_deref() {
            None | Some("key") => EvidenceLevel::Key,
            // On a connection: nothing can vouch now for what was kept.
            Some("hardware") if shown.is_some() => EvidenceLevel::Hardware,
            Some("hardware") => return Err(half(&["--cert", "--cert-key"])),
            Some(_) => {
                return Err(usage(
                    "--level is neither key nor hardware",
                    "write --level hardware, or as `[peers.evidence].level` has it",
                ));
            }
        };
        let [token_roots, pins] = [token_roots, pins].map(Clone::clone);
        Ok(Some(Self { token_roots, pins, max_age, level, shown }))
    }

    /// Reads the files. `alpn` is what is offered.
    pub(in crate::tool) fn call(
        &self,
        wanted: &Wanted,
        (clock, makers): (&Clock, &Makers),
        alpn: &[&[u8]],
    ) -> Result<Call, Finding> {
        let Some(shown) = &self.shown else { return Err(half(&["--cert", "--cert-key"])) };
        let peer = wanted.peer()?;
        let demand = Arc::new(self.demand(clock, makers)?);
        let trust = match &wanted.roots {
            Some(path) => {
                let pem = String::from_utf8(read(path, MAX_CERTIFICATES)?).unwrap_or_default();
                Trust::by_roots(&pem, Calls::Us, Some(demand), clock).map_err(|error| {
                    cannot(path, format!("it {error}"), "give --roots a PEM file with the mesh's roots")
                })?
            }
            None => Trust::by_evidence(demand, Calls::Us, clock),
        };
        let leaf = leaf(shown, clock)?;
        let bug = || Finding::new(Class::Bug, "TLS cannot be set up");
        let door = Door::new(Arc::new(trust), vec![peer]).ok_or_else(bug)?;
        let exit = Exit::new(&leaf, Arc::new(door), alpn).map_err(|_| bug())?;
        Ok(Call { exit, until: leaf.until() })
    }

    fn demand(&self, clock: &Clock, makers: &Makers) -> Result<Demand, Finding> {
        let (token_roots, pins) = self.trusted()?;
        let level = if self.wants_report() { Level::Hardware(makers.clone()) } else { Level::Key };
        Ok(Demand::new(token_roots, pins, self.max_age, level, clock))
    }

    /// Whether the peer's machine must vouch for it too.
    pub(super) fn wants_report(&self) -> bool {
        self.level == EvidenceLevel::Hardware
    }

    /// Whom attestation results must be signed by, and what they must show, read from their files.
    pub(super) fn trusted(&self) -> Result<(TrustAnchors, Pins), Finding> {
        let token_roots = TrustAnchors::from_pem(&read(&self.token_roots, MAX_CERTIFICATES)?).map_err(|error| {
            cannot(
                &self.token_roots,
                format!("the trusted certificates {error}"),
                "give --token-roots a PEM file with the CA of the attestation service",
            )
        })?;
        let pins = Pins::parse(&read(&self.pins, pins::MAX_BYTES)?).map_err(|error| {
            cannot(
                &self.pins,
                format!("the pins {error}"),
                "give --pins the mesh's pins, as the KBS has them (docs/sidecar.md)",
            )
        })?;
        Ok((token_roots, pins))
    }

    /// Oldest attestation that counts.
    pub(super) fn max_age(&self) -> Duration {
        self.max_age
    }
}

fn leaf((certificate, key): &(PathBuf, PathBuf), clock: &Clock) -> Result<Leaf, Finding> {
    let chain = Secret::new(read(certificate, MAX_CERTIFICATES)?);
    let key = Secret::new(read(key, MAX_KEY)?);
    let next = "give --cert and --cert-key a certificate of the peer's mesh and its key, in PEM";
    let refuse = |error: &dyn std::fmt::Display| cannot(certificate, format!("the certificate {error}"), next);
    let issued = ready::read(&chain, &key).map_err(|error| refuse(&error))?;
    let expected = leaf::Expected { spiffe: None, dns: &[], roots: None, rsa: false, now: clock.now() };
    Leaf::check(issued, &expected).map_err(|error| refuse(&error))
}

/// Which of the five are not said.
fn missing(said: &Expectations) -> Vec<&'static str> {
    let all = [
        ("--token-roots", said.token_roots.is_some()),
        ("--pins", said.pins.is_some()),
        ("--max-age", said.max_age.is_some()),
        ("--cert", said.cert.is_some()),
        ("--cert-key", said.cert_key.is_some()),
    ];
    all.iter().filter(|(_, said)| !said).map(|(flag, _)| *flag).collect()
}

fn half(missing: &[&str]) -> Finding {
    let missing = missing.join(", ");
    usage(
        format!("{missing} not given, and others of the five that a peer's proof takes are"),
        format!("give {missing} too, or keys of the same names in the policy file"),
    )
}

fn cannot(path: &Path, why: impl std::fmt::Display, next: &str) -> Finding {
    Finding::new(Class::Usage, format!("{} cannot be used: {why}", path.display()))
        .why("an expectation that is not understood would be one that is not held to")
        .next(next)
}

//! `countersign diagnose`: walk the whole way, from the hardware to the app's port; name the first
//! broken link, the next step, and who should take it.
//!
//! Four ways to run it: at a guest's shell; as a container's role (`COUNTERSIGN_ROLE=diagnose`), which
//! the annotation `countersign.dev/diagnose` sets; and by `init` when it has failed, for what costs
//! nothing. It changes nothing: what it fetches is checked and forgotten.

mod book;
mod bundle;
mod print;
mod walk;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use super::boot::{self, Booted};
use crate::access::Deadline;
use crate::access::genuine::Beside;
use crate::check::Check;
use crate::cli::Diagnose;
use crate::config::{self, Log};
use crate::finding::{Class, Finding, printable};
use crate::observe::log;
use crate::observe::termination::{self, Message};
use crate::ports::{Ports, files, host};
use crate::{access, clock, guest_api, identity, kbs, proxy, ramdir, secrets, tsm};
use book::{Book, Chosen, Record};
use walk::Walk;

/// All of it as a role, where nobody gives a time: as long as kubelet's patience with a slow start.
const AS_A_ROLE: Duration = Duration::from_secs(60);

/// The cheap part, after `init` has failed: a pod that failed must not seem to hang.
const AFTER_A_FAILURE: Duration = Duration::from_secs(5);

/// Every question, in the order of the walk.
pub(super) fn order() -> Vec<&'static Check> {
    let access = access::checks::checks();
    let of = |prefix: &'static str| access.iter().copied().filter(move |check| check.id.starts_with(prefix));
    let host = host::checks();
    let (tee, before): (Vec<_>, Vec<_>) = host.into_iter().partition(|check| check.id == host::TEE.id);
    let mut all = before;
    all.extend(tsm::checks::checks());
    all.extend(guest_api::checks::checks());
    all.extend(tee);
    all.extend(of("evidence."));
    all.extend(of("initdata."));
    all.push(&walk::DOCUMENT);
    all.extend(clock::checks());
    all.extend(kbs::checks::checks());
    all.push(&walk::DELIVERED);
    all.extend(of("attest."));
    all.extend(secrets::checks::checks());
    all.extend(ramdir::checks::checks());
    all.extend(identity::checks::checks());
    all.extend(proxy::checks::checks());
    all
}

/// How the walk is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// At a prompt: to standard output.
    ByHand,
    /// As a container's role: to standard error, and one line into the termination message.
    AsARole,
}

/// Walks, tells, and gives the exit code: see [`Book::code`].
pub(super) async fn run(ports: &Ports, arguments: &Diagnose, told: Told) -> u8 {
    // The walk says what the log would; what the log says beside it is for `COUNTERSIGN_LOG` of the roles.
    log::install(Log { level: tracing::Level::ERROR, ..Log::default() }, ports.banner);
    if arguments.list {
        ports.say(&print::list(&order()));
        return 0;
    }
    let (chosen, budget, beside) = match understood(arguments) {
        Ok(understood) => understood,
        Err(finding) => {
            ports.say_err(&format!("countersign diagnose: {finding}"));
            return finding.class.code();
        }
    };
    let text = !arguments.json;
    let colour = told == Told::ByHand && text && std::io::stdout().is_terminal() && !no_colour(ports);
    let say = |line: &str| if told == Told::ByHand { ports.say(line) } else { ports.say_err(line) };
    let tell = |record: &Record| {
        if text {
            say(&print::record(record, colour));
        }
    };
    let until = Deadline::after(budget);
    let mut book = Book::new(chosen, until, Box::new(tell));
    let booted = Walk::new(ports, (arguments, &beside), until, None).all(&mut book).await;
    let provenance = booted.as_ref().map(|booted| booted.config.provenance.label());
    if text {
        say(&print::verdict(&book));
    } else {
        let json = print::json(&book, provenance);
        ports.say(&serde_json::to_string_pretty(&json).unwrap_or_default());
    }
    if told == Told::AsARole {
        leave_message(ports, &book, provenance);
    }
    if let Some(file) = &arguments.bundle
        && let Err(finding) =
            bundle::write(file, ports, booted.as_ref().map(|booted| &booted.config), &print::json(&book, provenance))
    {
        ports.say_err(&format!("countersign diagnose: {finding}"));
        return finding.class.code();
    }
    book.code()
}

/// As a role: the environment names nothing but the role.
pub(super) fn as_a_role() -> Diagnose {
    Diagnose { timeout: format!("{}s", AS_A_ROLE.as_secs()), ..Diagnose::default() }
}

/// What the cheap part finds after `init` was refused, in one line: the id of the first broken link and
/// what was seen there. `None` where it finds nothing, and where the refusal says all there is to say.
pub(super) async fn after(ports: &Ports, refused: &Finding, booted: Option<Arc<Booted>>) -> Option<String> {
    if !boot::in_a_pod(ports) || matches!(refused.class, Class::Usage | Class::Bug | Class::Content) {
        return None;
    }
    // Whoever was refused by the KBS has reached it; and a KBS that nobody vouches for is not asked.
    let of_the_kbs = matches!(refused.class, Class::Unreachable | Class::Backend | Class::KbsIdentity);
    let skip = if of_the_kbs { Vec::new() } else { vec!["kbs".to_owned()] };
    let until = Deadline::after(AFTER_A_FAILURE);
    let mut book = Book::new(Chosen { skip, cheap: true, ..Chosen::default() }, until, Box::new(|_| {}));
    Walk::new(ports, (&Diagnose::default(), &Beside::default()), until, booted).all(&mut book).await;
    let (record, finding) = book.broken()?;
    Some(format!("{}: {}", record.check.id, finding.saw))
}

fn leave_message(ports: &Ports, book: &Book<'_>, provenance: Option<&str>) {
    let verdict = print::verdict(book);
    let message = match book.broken() {
        Some((record, finding)) => Message::refusal("diagnose", finding, provenance).broken(Some(record.check.id)),
        None => Message::done("diagnose", &verdict, provenance),
    };
    termination::write(&ports.termination_log, &message);
}

fn understood(arguments: &Diagnose) -> Result<(Chosen, Duration, Beside), Finding> {
    let known = |word: &String| order().iter().any(|check| Chosen::names(word, check.id));
    if let Some(word) = arguments.only.iter().chain(&arguments.skip).find(|word| !known(word)) {
        return Err(Finding::new(Class::Usage, format!("there is no check `{}`", printable(word, 40))).next(
            "run `countersign diagnose --list` for the ids; a room's name (`kbs`) stands for all of its checks",
        ));
    }
    let budget = config::flags::timeout(&arguments.timeout).map_err(|why| {
        Finding::new(Class::Usage, format!("--timeout {why}")).next("write --timeout as 30s or 5m, from 1s to 10m")
    })?;
    let chosen = Chosen { only: arguments.only.clone(), skip: arguments.skip.clone(), cheap: false };
    let mut beside = Beside::default();
    for path in &arguments.certificates {
        beside.certificates.extend(files::certificates(path)?);
    }
    beside.collateral = arguments.collateral.as_deref().map(files::collateral).transpose()?;
    Ok((chosen, budget, beside))
}

/// <https://no-color.org>: set and not empty.
fn no_colour(ports: &Ports) -> bool {
    let set = |name: &str| ports.env.iter().any(|(key, value)| key == name && !value.is_empty());
    let dumb = ports.env.iter().any(|(key, value)| key == "TERM" && value == "dumb");
    set("NO_COLOR") || dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_an_id_of_its_own_and_needs_only_earlier_ones() {
        let all = order();
        for (place, check) in all.iter().enumerate() {
            let earlier = all.get(..place).unwrap();
            assert!(earlier.iter().all(|other| other.id != check.id), "{} twice", check.id);
            assert!(!check.asks.is_empty() && !check.matters.is_empty(), "{}", check.id);
            for need in check.needs {
                assert!(earlier.iter().any(|other| other.id == *need), "{} needs {need}", check.id);
            }
        }
    }
}

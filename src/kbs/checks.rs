//! What `diagnose` asks about the way to a KBS, and about the KBS at its end.

use super::PROTOCOL_VERSION;
use super::dns::{DnsProblem, Resolver};
use super::probe::{Report, StageName};
use crate::check::{Check, Outcome};
use crate::finding::{Class, Finding, Who};

/// Whatever names the KBS.
const NAMED: &[&str] = &["initdata.own", "config.document"];

/// How far our clock and a KBS's may be apart before somebody is told, seconds. Certificates and tokens
/// live for minutes; NTP keeps machines within a second.
const APART: u64 = 120;

/// Name servers.
pub const RESOLVER: Check = Check::new(
    "net.resolver",
    "are there name servers",
    "without one only literal addresses and /etc/hosts can be reached",
)
.cheap();

/// Proxies.
pub const PROXIES: Check = Check::new(
    "net.proxies",
    "does the environment name a proxy",
    "none is used: whoever writes the pod's environment must not choose whom we talk through",
)
.cheap();

/// Name to address.
pub const NAME: Check =
    Check::new("kbs.name", "does the KBS's name resolve", "nothing can be fetched from a name without address")
        .after(NAMED)
        .cheap();

/// TCP.
pub const CONNECT: Check =
    Check::new("kbs.connect", "can the KBS be connected to", "evidence and secrets take this connection")
        .after(NAMED)
        .cheap();

/// TLS.
pub const CERTIFICATE: Check = Check::new(
    "kbs.certificate",
    "is its certificate by the configured CA",
    "only the configured KBS may see evidence and hand out secrets",
)
.after(NAMED)
.cheap();

/// Who answers.
pub const ANSWER: Check = Check::new(
    "kbs.answer",
    "is it a KBS of our version",
    "gateways answer too, and a KBS of another version refuses every attestation",
)
.after(NAMED)
.cheap();

/// What time it says it is.
pub const TIME: Check = Check::new(
    "kbs.time",
    "does its clock agree with ours",
    "a wrong clock makes good certificates and fresh tokens look bad",
)
.after(NAMED)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&RESOLVER, &PROXIES, &NAME, &CONNECT, &CERTIFICATE, &ANSWER, &TIME]
}

/// Name servers, as `/etc/resolv.conf` lists them. A broken link only where a name has to be resolved:
/// that shows at the name.
pub fn resolver() -> Outcome {
    match Resolver::system() {
        Ok(resolver) if resolver.servers() > 0 => {
            Outcome::Pass(format!("{} in /etc/resolv.conf", plural(resolver.servers(), "name server")))
        }
        Ok(_) | Err(DnsProblem::NoServers) => Outcome::Warn(
            Finding::new(Class::Unreachable, "no name server is configured (/etc/resolv.conf)")
                .why("only literal addresses and names of /etc/hosts can be reached")
                .next(
                    "check `dnsPolicy` of the pod, which writes /etc/resolv.conf, or write an address into `[kbs].url`",
                )
                .who(Who::AppDeveloper),
        ),
        Err(problem) => Outcome::Warn(
            Finding::new(Class::Unreachable, format!("the resolver does not start: {problem}"))
                .next("correct the pod's `dnsConfig`, which writes /etc/resolv.conf")
                .who(Who::AppDeveloper),
        ),
    }
}

/// Proxies by the names of their variables.
pub fn proxies(named: &[&str]) -> Outcome {
    if named.is_empty() {
        return Outcome::Pass("none".to_owned());
    }
    Outcome::Warn(
        Finding::new(Class::Unreachable, format!("the environment has {}", named.join(", ")))
            .why("countersign uses no proxy; where the KBS is reached through one only, it is not reached")
            .next(format!("remove {} from the container's env, and allow egress to the KBS directly", named.join(", ")))
            .who(Who::AppDeveloper),
    )
}

/// The stages of one question to one KBS, as answers to [`NAME`], [`CONNECT`], [`CERTIFICATE`] and
/// [`ANSWER`], each with the time it took. `named_in` is the document that names the KBS.
pub fn stages(report: &Report, named_in: &str) -> Vec<(&'static Check, Outcome, std::time::Duration)> {
    let last = report.stages().last().map(|stage| stage.name);
    let mut broken: Option<&'static str> = None;
    let mut outcomes = Vec::new();
    for (stage, check) in [
        (StageName::Name, &NAME),
        (StageName::Connection, &CONNECT),
        (StageName::Certificate, &CERTIFICATE),
        (StageName::Answer, &ANSWER),
    ] {
        let reached = report.stages().iter().find(|reached| reached.name == stage);
        let outcome = match (broken, reached) {
            (Some(id), _) => Outcome::Skip(format!("{id} failed")),
            (None, None) if stage == StageName::Name => Outcome::Skip("the URL has a literal address".to_owned()),
            (None, None) => Outcome::Skip("the URL is plain http".to_owned()),
            // Passed is a stage when something came; whether it is what should come, the verdict says.
            (None, Some(_)) if last == Some(stage) => verdict(report, named_in),
            (None, Some(_)) => Outcome::Pass(stage.label().to_owned()),
        };
        if broken.is_none() && last == Some(stage) && !report.speaks_ours() {
            broken = Some(check.id);
        }
        outcomes.push((check, outcome, reached.map(|reached| reached.took).unwrap_or_default()));
    }
    outcomes
}

fn verdict(report: &Report, named_in: &str) -> Outcome {
    match report.finding_named_in(named_in) {
        Some(finding) => Outcome::Fail(finding),
        None if report.speaks_ours() => Outcome::Pass(format!("a KBS that speaks our version {PROTOCOL_VERSION}")),
        None => Outcome::Skip("no CA is configured to check its certificate against".to_owned()),
    }
}

/// Our time against the KBS's, both in seconds since 1970. `wall` is the guest's own clock, without floor.
pub fn time(theirs: Option<u64>, wall: u64) -> Outcome {
    let Some(theirs) = theirs else { return Outcome::Skip("its answer has no `Date`".to_owned()) };
    let apart = theirs.abs_diff(wall);
    if apart <= APART {
        return Outcome::Pass(format!("{} apart", plural_u64(apart, "second")));
    }
    let (side, count) = (if wall > theirs { "ahead of" } else { "behind" }, in_words(apart));
    Outcome::Warn(
        Finding::new(Class::KbsIdentity, format!("this guest's clock is {count} {side} the KBS's"))
            .why("the host sets a guest's clock; certificates and tokens are judged by it, within a floor")
            .next("set the host's clock with NTP (`timedatectl status` on the node), and restart the pod")
            .who(Who::Platform),
    )
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..7200 => plural_u64(seconds / 60, "minute"),
        7200..172_800 => plural_u64(seconds / 3600, "hour"),
        _ => plural_u64(seconds / 86_400, "day"),
    }
}

fn plural(count: usize, what: &str) -> String {
    plural_u64(u64::try_from(count).unwrap_or(u64::MAX), what)
}

fn plural_u64(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

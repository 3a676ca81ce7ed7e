//! What `diagnose` asks about evidence, about initdata, and about the way to the KBS.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::genuine;
use super::standing::{Kernel, Standing};
use super::vouch::{self, MeasuredConfig};
use crate::appraise::{replay, words};
use crate::check::{Check, Outcome};
use crate::config::{Provenance, Via};
use crate::evidence::shown::{self, Shown};
use crate::evidence::{eventlog, snp, tdx};
use crate::finding::{Class, Finding, Who, printable};
use crate::formats::ear::{Claims, Status};
use crate::formats::hex;
use crate::formats::initdata::{AgentPolicy, Initdata};
use crate::tsm::{self, Provider};

/// A report that takes longer than this was held up: SNP firmware answers in milliseconds and admits one
/// request in about two seconds, a TDX quote takes about a second.
const SLOW: Duration = Duration::from_secs(5);

/// Hex digits shown of a measurement or a digest: enough to compare by eye.
const SHORT: usize = 16;

const OFFERED: &[&str] = &["guest.configfs", "guest.device", "guest.api"];
const CONFIG: &[&str] = &["config.document", "config.delivered"];

/// Fresh evidence.
pub const REPORT: Check = Check::new(
    "evidence.report",
    "does the guest give evidence over bytes of ours",
    "a report that does not echo fresh bytes is an old one, or somebody else's",
)
.needs(OFFERED);

/// What it says.
pub const POLICY: Check = Check::new(
    "evidence.policy",
    "what does the evidence say of this guest",
    "a guest that its host may debug keeps no secret; measurement and TCB must be known to the verifier",
)
.needs(&["evidence.report"]);

/// The firmware's log.
pub const LOG: Check = Check::new(
    "evidence.log",
    "does the event log give the quote's registers",
    "the verifier replays it to know which kernel and command line booted",
)
.needs(&["evidence.report"]);

/// The mounted initdata.
pub const MOUNT: Check = Check::new(
    "initdata.mount",
    "is the mounted initdata well-formed",
    "Kata refuses or ignores what is not, and then the guest knows no KBS",
)
.cheap();

/// Whose it is.
pub const OWN: Check = Check::new(
    "initdata.own",
    "is the initdata this guest's own",
    "only initdata that the hardware or the KBS vouches for may configure anything",
)
.needs(OFFERED);

/// The agent policy in it.
pub const AGENT_POLICY: Check = Check::new(
    "initdata.policy",
    "does its agent policy pin the containers",
    "without it the host can start any process in the guest, and no check inside means anything",
)
.after(&["initdata.own"])
.cheap();

/// Which way.
pub const WAY: Check =
    Check::new("attest.way", "which way to the KBS is taken", "it decides who attests, and what can be seen of it")
        .needs(CONFIG);

/// Attestation for real.
pub const SESSION: Check = Check::new(
    "attest.session",
    "does the KBS accept this guest's evidence",
    "secrets are released on this attestation",
)
.needs(&["attest.way"]);

/// The verdict.
pub const VERDICT: Check = Check::new(
    "attest.verdict",
    "what does the verifier say of this guest",
    "resource policies decide by it; a good one releases to `affirming` guests only",
)
.needs(&["attest.way"]);

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![
        &REPORT,
        &POLICY,
        &genuine::GENUINE,
        &genuine::TCB,
        &LOG,
        &MOUNT,
        &OWN,
        &AGENT_POLICY,
        &WAY,
        &SESSION,
        &VERDICT,
    ]
}

/// Evidence over fresh bytes.
pub struct Given<'a> {
    /// The kernel that gave it; none where the agent did.
    pub kernel: Option<&'a Kernel>,
    /// Taken apart. `None` for kinds of evidence that are not known here.
    pub shown: Option<Shown>,
}

/// Asks for evidence over fresh bytes, by the first way that gives it.
pub async fn report(standing: &Standing) -> (Outcome, Option<Given<'_>>) {
    for via in [Via::ConfigfsTsm, Via::SevGuest] {
        match standing.kernel(via).await {
            Ok(kernel) => {
                let bytes = kernel.report.outblob().len();
                let what = format!("{} by {via}: {bytes} bytes, for bytes of ours", kernel.report.provider().label());
                let given = Given { kernel: Some(kernel), shown: genuine::of_kernel(&kernel.report) };
                return (in_time(what, kernel.took), Some(given));
            }
            Err(refusal) if refusal.absent => {}
            Err(refusal) => return (Outcome::Fail(refusal.finding.clone()), None),
        }
    }
    agents(standing).await
}

async fn agents(standing: &Standing) -> (Outcome, Option<Given<'_>>) {
    let info = match standing.agent().await {
        Ok(Some(info)) => info,
        Ok(None) => {
            let skip = "this guest shows the container no evidence: CDH attests by itself".to_owned();
            return (Outcome::Skip(skip), None);
        }
        Err(finding) => return (Outcome::Fail(finding), None),
    };
    let tee = info.tee.clone().unwrap_or_default();
    let begun = tokio::time::Instant::now();
    match vouch::agents_field(standing, &tee).await {
        Ok(Some((_, json))) => {
            let given = Given { kernel: None, shown: shown::detect(json.as_bytes()).ok() };
            (in_time(format!("`{tee}` by aa-evidence, for bytes of ours"), begun.elapsed()), Some(given))
        }
        Ok(None) => (Outcome::Skip(format!("evidence of `{}` is passed on unparsed", printable(&tee, 32))), None),
        Err(finding) => (Outcome::Fail(finding), None),
    }
}

fn in_time(what: String, took: Duration) -> Outcome {
    if took < SLOW {
        return Outcome::Pass(what);
    }
    Outcome::Warn(
        Finding::new(Class::NoEvidence, format!("{what}, after {} s", took.as_secs()))
            .why("the firmware is rate limited for the whole node, and a quote waits for the host's service")
            .next("start fewer pods at a time on the node, and raise `deadline` of the configuration")
            .who(Who::Platform),
    )
}

/// What the evidence says. Ids are shortened unless `in_full`.
pub fn policy(shown: Option<&Shown>, in_full: bool) -> Outcome {
    let id = |bytes: &[u8]| {
        let text = hex::encode(bytes);
        let cut = if in_full { None } else { text.get(..SHORT) };
        cut.map_or(text.clone(), |short| format!("{short}…"))
    };
    match shown {
        Some(Shown::Snp(evidence)) => snp_policy(&evidence.report, id),
        Some(Shown::Tdx { quote, .. }) => tdx_policy(quote, id),
        _ => Outcome::Skip(genuine::UNKNOWN.to_owned()),
    }
}

fn snp_policy(report: &snp::Report, id: impl Fn(&[u8]) -> String) -> Outcome {
    let line = report.generation().map_or(String::new(), |generation| format!(" ({generation:?})"));
    let tcb = report.reported_tcb;
    let debug = if report.debug_allowed() { "on" } else { "off" };
    let migration = if report.migration_allowed() { "on" } else { "off" };
    let saw = format!(
        "SNP report v{}{line}: debug {debug}, migration {migration}, VMPL {}, TCB bootloader {} tee {} snp {} \
         microcode {}, measurement {}, HOST_DATA {}",
        report.version,
        report.vmpl,
        tcb.bootloader,
        tcb.tee,
        tcb.snp,
        tcb.microcode,
        id(&report.measurement),
        id(&report.host_data),
    );
    if report.debug_allowed() {
        return open(
            saw,
            "guest policy has bit 19 (DEBUG) set: the host may read its memory",
            "`sev_snp_guest_policy`",
        );
    }
    if report.migration_allowed() {
        return open(
            saw,
            "guest policy has bit 18 (MIGRATE_MA) set: a migration agent may take its memory away",
            "`sev_snp_guest_policy`",
        );
    }
    if report.vmpl > 0 {
        return Outcome::Warn(
            Finding::new(Class::EvidenceRejected, saw)
                .why("Trustee takes reports of VMPL 0 only: below this guest's kernel runs a service module")
                .next("use a runtimeClass without SVSM, or a verifier that takes reports of this VMPL")
                .who(Who::Platform),
        );
    }
    Outcome::Pass(saw)
}

fn tdx_policy(quote: &tdx::Quote, id: impl Fn(&[u8]) -> String) -> Outcome {
    let body = &quote.body;
    let debug = if body.debug() { "on" } else { "off" };
    let migration = if body.migratable() { "on" } else { "off" };
    let saw = format!(
        "TDX quote v{}: debug {debug}, migration {migration}, MRTD {}, MRCONFIGID {}, TDX module {}",
        quote.version,
        id(&body.mr_td),
        id(&body.mr_config_id),
        id(&body.tee_tcb_svn),
    );
    if body.debug() {
        return open(
            saw,
            "TD is under debug (its attributes have one of bits 0 to 7 set): the host may read its memory",
            "`tdx` object of the VM",
        );
    }
    if body.migratable() {
        return open(
            saw,
            "TD may be migrated (bit 29 or 17 of its attributes, or a service guest): another guest may take its memory away",
            "`tdx` object of the VM",
        );
    }
    Outcome::Pass(saw)
}

/// A guest that keeps no secret.
fn open(saw: String, what: &str, place: &str) -> Outcome {
    Outcome::Fail(
        Finding::new(Class::EvidenceRejected, saw)
            .why(format!("the {what}, so it keeps no secret"))
            .next(format!("remove that flag from the {place} in the runtime's `configuration.toml`"))
            .who(Who::Platform),
    )
}

/// Replays the firmware's event log against a TD's quote. `sys` is where sysfs is mounted.
pub fn log(kernel: &Kernel, sys: &Path) -> Outcome {
    if kernel.report.provider() != Provider::Tdx {
        return Outcome::Skip("only a TD's registers are extended with a log".to_owned());
    }
    let bytes = match tsm::event_log(sys) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Outcome::Skip("the firmware's log is not shown here: runtimes mask /sys/firmware".to_owned());
        }
        Err(error) => return Outcome::Warn(error.finding()),
    };
    let Ok(quote) = tdx::Quote::parse(kernel.report.outblob()) else {
        return Outcome::Skip("evidence.policy failed".to_owned());
    };
    let events = eventlog::trim(&bytes).and_then(|log| eventlog::events(&log));
    let differs = match &events {
        Ok(events) => match replay::replay(events, &quote.body.rtmr) {
            Ok(counted) => return Outcome::Pass(format!("{counted} events give RTMR0 to RTMR2 of the quote")),
            Err(differs) => differs.to_string(),
        },
        Err(error) => format!("the event log {error}"),
    };
    Outcome::Warn(
        Finding::new(Class::EvidenceRejected, differs)
            .why("a verifier that replays the log finds another boot than the registers show")
            .next("check the guest's firmware and boot loader: the log is `/sys/firmware/acpi/tables/data/CCEL`")
            .who(Who::Platform),
    )
}

/// What is mounted, believed by nobody yet.
pub fn mount(mounted: &Result<Option<Initdata>, Finding>) -> Outcome {
    match mounted {
        Ok(None) => Outcome::Skip("no initdata is mounted for us".to_owned()),
        Ok(Some(initdata)) => {
            let names = initdata.names().map(|name| printable(name, 40)).collect::<Vec<_>>().join(", ");
            Outcome::Pass(format!("version 0.1.0, {}, with {names}", initdata.algorithm().label()))
        }
        Err(finding) => Outcome::Fail(finding.clone()),
    }
}

/// What was established about it.
pub fn own(vouched: &Result<Option<MeasuredConfig>, Finding>, mount: &Path) -> Outcome {
    match vouched {
        Ok(Some(config)) => Outcome::Pass(format!("{}: {} vouches for it", config.provenance(), config.by())),
        Ok(None) if mount.exists() => Outcome::Warn(
            Finding::new(
                Class::NoEvidence,
                format!("nothing in this guest shows that the initdata mounted at {} is its own", mount.display()),
            )
            .why("it holds no countersign.toml, so it is used as a hint for messages only")
            .next("expose configfs to the container, or set `agent.guest_components_rest_api=all` (docs/roles/platform.md)")
            .who(Who::Platform),
        ),
        Ok(None) => Outcome::Skip("no initdata is mounted, and no attestation result holds any".to_owned()),
        Err(finding) => Outcome::Fail(finding.clone()),
    }
}

/// What kind of agent policy there is, and where it was read.
pub fn agent_policy(policy: AgentPolicy) -> Outcome {
    if policy == AgentPolicy::Generated {
        return Outcome::Pass("agent_policy = generated".to_owned());
    }
    Outcome::Warn(
        Finding::new(Class::Config, format!("agent_policy = {}", policy.label()))
            .why("the host can start any container in this guest under the same digest, ours and the app's with other arguments included")
            .next("generate `policy.rego` of the initdata with genpolicy, and check it with `kubectl countersign initdata check --prod`")
            .who(Who::AppSecurity),
    )
}

/// The way that was taken.
pub fn way(via: Via, provenance: Provenance) -> Outcome {
    let row = match via {
        Via::ConfigfsTsm => "this program attests, with the kernel's reports",
        Via::SevGuest => "this program attests, with reports of /dev/sev-guest",
        Via::AaEvidence => "this program attests, with evidence from the guest's agent",
        Via::AaToken => "the guest's agent attests, and hands out its token",
        Via::Cdh => "the guest's CDH attests and fetches; why it fails it does not say",
    };
    Outcome::Pass(format!("{via}: {row}; configuration {provenance}"))
}

/// The claims of a token that the agent gave for another question. `None` where there was none.
pub async fn told_by_the_agent(standing: &Standing) -> Option<Claims> {
    vouch::read_token(&standing.take_passport().await?.token)
}

/// The verifier's verdict in words. The claims are not verified: nothing is decided by them here.
pub fn verdict(claims: &Claims) -> Outcome {
    if claims.cpu().is_sample() {
        return Outcome::Warn(
            Finding::new(Class::EvidenceRejected, "the verifier calls this guest `sample`: a TEE that proves nothing")
                .why("Trustee's default resource policy releases nothing to a sample, and no policy should")
                .next("run the pod with a confidential runtimeClass, or set a policy for development at the KBS with `kbs-client set-resource-policy`")
                .who(Who::Platform),
        );
    }
    let status = match claims.worst() {
        Status::Affirming => return Outcome::Pass(format!("affirming, by policy {}", policy_ids(claims))),
        Status::None => "none",
        Status::Warning => "warning",
        Status::Contraindicated => "contraindicated",
    };
    let (mut saw, mut next) = (format!("{status}, by policy {}", policy_ids(claims)), Vec::new());
    for (name, submod) in &claims.submods {
        for weak in words::weak(submod) {
            let _ = write!(saw, "; {} {} = {}: {}", printable(name, 16), weak.claim, weak.value, weak.meaning);
            if !next.contains(&weak.register) {
                next.push(weak.register);
            }
        }
    }
    let next = if next.is_empty() {
        "read the attestation policy that the KBS's log names for this guest".to_owned()
    } else {
        format!("{} (RVPS of the KBS; the values stand in evidence.policy with --show-ids)", next.join("; "))
    };
    Outcome::Warn(
        Finding::new(Class::EvidenceRejected, saw)
            .why("the evidence is genuine, and the verifier's reference values do not know what it shows")
            .next(next)
            .who(Who::AppSecurity),
    )
}

fn policy_ids(claims: &Claims) -> String {
    let ids: std::collections::BTreeSet<String> =
        claims.submods.values().filter_map(|submod| submod.policy_id.as_deref()).map(|id| printable(id, 40)).collect();
    if ids.is_empty() { "-".to_owned() } else { ids.into_iter().collect::<Vec<_>>().join(", ") }
}

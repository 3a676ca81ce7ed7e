//! Who vouches for initdata: the hardware of this guest, or the KBS in this guest's own attestation
//! result. Initdata that nobody vouches for is a hint about where to ask, and nothing more.
//!
//! The host commits to the digest of the initdata before the guest starts. What is mounted into a
//! container later is the control plane's; it is believed when its digest is the one in a report
//! that this guest's kernel made for bytes of ours. Where the kernel shows a container nothing, the
//! agent's answers stand in, which any process of the pod could give in its place: so they count
//! only where a generated agent policy says which processes there are.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::source::{snp_field, tdx_field};
use super::standing::{Standing, random_bytes};
use super::token::other_key;
use crate::appraise::launch::{LaunchField, Mismatch};
use crate::config::{Provenance, Via};
use crate::evidence::tdx;
use crate::finding::{Class, Finding, Who};
use crate::formats::ear::{Claims, EarToken};
use crate::formats::initdata::{AgentPolicy, Content, Initdata};
use crate::formats::jwk::EcPublicJwk;
use crate::guest_api::Asked;
use crate::kbs::TeeKey;

/// Most bytes of mounted initdata that are read: a `ConfigMap` holds 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// Names under which the initdata may lie in the mounted `ConfigMap`.
const KEYS: [&str; 4] = ["initdata.toml", "INITDATA", "data", "initdata"];

/// Initdata that is this guest's own. Only this file makes one, after one of the checks above.
#[derive(Clone, Debug)]
pub struct MeasuredConfig {
    provenance: Provenance,
    content: Content,
    text: Option<String>,
    by: String,
}

impl MeasuredConfig {
    /// [`Provenance::Measured`] or [`Provenance::GuestAttested`].
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// What is in it.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The exact document, where it is mounted: a KBS is shown it with evidence. An attestation result
    /// holds the contents, not the text.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// What vouches for it, in words: "`HOST_DATA` of this guest's report".
    pub fn by(&self) -> &str {
        &self.by
    }
}

/// The initdata of this guest, where there is some and somebody vouches for it.
///
/// What is mounted and is not this guest's is a refusal. So is what asks to be believed (it holds a
/// `countersign.toml`) where nothing can vouch for it. Without a mount the agent is asked, where its
/// feature is on: taking the mount away does not take the configuration away.
pub async fn vouched(standing: &Standing) -> Result<Option<MeasuredConfig>, Finding> {
    match mounted(&standing.initdata)? {
        Some(initdata) => prove(standing, &initdata).await,
        None => by_token(standing).await,
    }
}

/// The initdata that is mounted for us, if it is. Not believed.
pub fn mounted(mount: &Path) -> Result<Option<Initdata>, Finding> {
    let mut found = None;
    for path in KEYS.iter().map(|key| mount.join(key)).chain([mount.to_path_buf()]) {
        // What is there and cannot be read must not count as absent: less would be believed, silently.
        if let Some(bytes) = read(&path).map_err(|kind| unreadable(&path, kind))? {
            found = Some((path, bytes));
            break;
        }
    }
    let Some((path, bytes)) = found else { return no_known_key(mount) };
    Initdata::parse(&bytes).map(Some).map_err(|error| {
        Finding::new(Class::InitdataMismatch, format!("the initdata in {} {error}", path.display()))
            .why("what does not parse is not what this guest was launched with: its own services have read theirs")
            .next(format!("mount the ConfigMap that holds the pod's initdata, unchanged, at {}", mount.display()))
    })
}

/// `None` where there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ErrorKind> {
    // Asked before opening: opening a pipe would wait for a writer that never comes.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) if metadata.is_dir() => return Ok(None),
        Ok(_) => return Err(ErrorKind::InvalidInput),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error.kind()),
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.kind())?;
    // One byte more than may be: what is cut must not parse.
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.kind())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(ErrorKind::FileTooLarge);
    }
    Ok(Some(bytes))
}

fn unreadable(path: &Path, kind: ErrorKind) -> Finding {
    Finding::new(Class::Config, format!("the initdata in {} cannot be read: {kind}", path.display()))
        .why("it may hold the configuration of this pod; without it less would be believed, and nobody would know")
        .next(format!(
            "mount the ConfigMap of the initdata there as plain files that this uid may read, of 1 MiB at most ({})",
            path.display()
        ))
}

/// A directory without any of the names: empty, it is an optional `ConfigMap` that is not there.
fn no_known_key(mount: &Path) -> Result<Option<Initdata>, Finding> {
    let others = std::fs::read_dir(mount).map_or(0, Iterator::count);
    if others == 0 {
        return Ok(None);
    }
    Err(Finding::new(Class::Config, format!("{} is mounted and holds no initdata", mount.display()))
        .why(format!("it is looked for under the names {}", KEYS.join(", ")))
        .next("rename the key of the initdata's ConfigMap to `initdata.toml`"))
}

async fn prove(standing: &Standing, initdata: &Initdata) -> Result<Option<MeasuredConfig>, Finding> {
    for via in [Via::ConfigfsTsm, Via::SevGuest] {
        match standing.kernel(via).await {
            Ok(kernel) => {
                let Some(field) = &kernel.launch else { break };
                compare(field, initdata, standing)?;
                let by = format!("{} of this guest's own report ({via})", field.name);
                return measured(initdata, Provenance::Measured, by).map(Some);
            }
            Err(refusal) if refusal.absent => {}
            Err(refusal) => return Err(refusal.finding.clone()),
        }
    }
    let Some(agent) = standing.agent().await? else { return unproven(initdata, standing) };
    let tee = agent.tee.clone().unwrap_or_default();
    if let Some((field, _)) = agents_field(standing, &tee).await? {
        compare(&field, initdata, standing)?;
        let by = format!("{} of the attestation agent's evidence", field.name);
        let config = measured(initdata, Provenance::GuestAttested, by)?;
        return pinned(config);
    }
    prove_by_token(standing, initdata).await
}

/// For evidence that is not parsed here: the KBS has compared the digest, and says what it was given.
async fn prove_by_token(standing: &Standing, initdata: &Initdata) -> Result<Option<MeasuredConfig>, Finding> {
    let Some(attested) = by_token(standing).await? else { return unproven(initdata, standing) };
    let content = content(initdata)?;
    if content.countersign != attested.content.countersign || content.kbs != attested.content.kbs {
        return Err(Finding::new(
            Class::InitdataMismatch,
            format!(
                "the initdata mounted at {} is not the one in this guest's attestation result",
                standing.initdata.display()
            ),
        )
        .why("the KBS was shown the initdata that the guest was launched with; another one is mounted")
        .next("mount the ConfigMap of the initdata that the pod's annotation holds"));
    }
    Ok(Some(MeasuredConfig { text: Some(initdata.toml().to_owned()), ..attested }))
}

fn measured(initdata: &Initdata, provenance: Provenance, by: String) -> Result<MeasuredConfig, Finding> {
    Ok(MeasuredConfig { provenance, content: content(initdata)?, text: Some(initdata.toml().to_owned()), by })
}

fn content(initdata: &Initdata) -> Result<Content, Finding> {
    Content::of(initdata).map_err(|error| {
        Finding::new(Class::Config, format!("the initdata of this guest {error}"))
            .next("correct that document in the initdata, with `kubectl countersign initdata check`")
    })
}

/// Without a generated agent policy the control plane could have started a process that answers on
/// 8006 in the agent's place: then nothing of it is believed, the KBS that it names included.
fn pinned(config: MeasuredConfig) -> Result<Option<MeasuredConfig>, Finding> {
    if config.content.policy == AgentPolicy::Generated {
        return Ok(Some(config));
    }
    if config.content.countersign.is_none() {
        let policy = config.content.policy.label();
        tracing::warn!(
            policy,
            "only the agent vouches for the initdata, and its policy pins no processes: a hint, no more"
        );
        return Ok(None);
    }
    Err(Finding::new(
        Class::Config,
        format!(
            "the initdata holds a countersign.toml, and its kata-agent policy is {}: only the agent's own answers on \
             127.0.0.1:8006 vouch for it here",
            config.content.policy
        ),
    )
    .why("any process in the pod can give those answers, and without a generated policy the host may start any process")
    .next("generate `policy.rego` of the initdata with genpolicy, or expose configfs to the container (docs/roles/platform.md)")
    .who(Who::AppSecurity))
}

fn compare(field: &LaunchField, initdata: &Initdata, standing: &Standing) -> Result<(), Finding> {
    field.holds(&initdata.digest()).map_err(|mismatch| other_initdata(&mismatch, &standing.initdata))
}

fn other_initdata(mismatch: &Mismatch, mount: &Path) -> Finding {
    let Mismatch { field, launched, found, none_at_launch } = mismatch;
    let finding = Finding::new(
        Class::InitdataMismatch,
        format!(
            "the initdata mounted at {} has the digest {found}, and {field} of this guest is {launched}",
            mount.display()
        ),
    );
    if *none_at_launch {
        return finding
            .why("the guest was launched without initdata: the pod has no annotation, an old one, or one that the node's runtime does not allow")
            .next(
                "set the annotation `io.katacontainers.config.hypervisor.cc_init_data` on the pod itself (not on the \
                 Deployment), and allow it in `enable_annotations` of the runtime's configuration.toml",
            );
    }
    finding
        .why(
            "one changed byte is another digest: the ConfigMap was edited after the annotation was made, the pod still \
             has an older annotation, or somebody gave this guest another configuration",
        )
        .next("run `kubectl countersign initdata pack` on the reviewed initdata, and use its output for annotation and ConfigMap both")
}

fn unproven(initdata: &Initdata, standing: &Standing) -> Result<Option<MeasuredConfig>, Finding> {
    if initdata.countersign().is_none() {
        tracing::warn!(
            "initdata is mounted, and nothing in this guest shows that it is its own: it is a hint, no more"
        );
        return Ok(None);
    }
    Err(Finding::new(
        Class::NoEvidence,
        format!(
            "the initdata mounted at {} holds a countersign.toml, and nothing in this guest shows that it is its own",
            standing.initdata.display()
        ),
    )
    .why("a mount is written by the control plane; it is believed by its digest in the hardware's report, and this guest shows the container none")
    .next(
        "expose configfs to the container, or set the guest's kernel parameter \
         `agent.guest_components_rest_api=all` in the runtime's `configuration.toml`",
    ))
}

/// The launch field in evidence that the agent gives over bytes of ours, and that evidence. `None` for
/// kinds of evidence that are not parsed here.
pub(super) async fn agents_field(standing: &Standing, tee: &str) -> Result<Option<(LaunchField, String)>, Finding> {
    #[derive(Deserialize)]
    struct Snp {
        attestation_report: SnpReport,
    }
    #[derive(Deserialize)]
    struct SnpReport {
        report_data: Vec<u8>,
        host_data: Vec<u8>,
    }
    #[derive(Deserialize)]
    struct Tdx {
        quote: String,
    }
    if !matches!(tee, "snp" | "tdx") {
        return Ok(None);
    }
    let fresh = random_bytes()?;
    let evidence = tokio::time::timeout_at(standing.deadline().at(), standing.api.evidence(&fresh));
    let json = evidence.await.map_err(|_| late())?.map_err(|error| error.finding(Asked::Evidence))?;
    let (echo, field) = if tee == "snp" {
        let report = serde_json::from_str::<Snp>(&json).map_err(|_| odd_evidence())?.attestation_report;
        let host_data: [u8; 32] = report.host_data.try_into().map_err(|_| odd_evidence())?;
        (report.report_data, snp_field(&host_data))
    } else {
        let quote = serde_json::from_str::<Tdx>(&json).map_err(|_| odd_evidence())?.quote;
        let quote = STANDARD.decode(quote).map_err(|_| odd_evidence())?;
        let body = tdx::Quote::parse(&quote).map_err(|_| odd_evidence())?.body;
        (body.report_data.to_vec(), tdx_field(&body.mr_config_id))
    };
    if echo != fresh {
        return Err(Finding::new(
            Class::NoEvidence,
            "the attestation agent's evidence is not for the bytes that were asked for",
        )
        .why("it is an old report, or one made for somebody else: it proves nothing about this guest now")
        .next("read the guest's log for `attestation-agent`, and restart the pod"));
    }
    Ok(Some((field, json)))
}

fn odd_evidence() -> Finding {
    Finding::new(Class::NoEvidence, "the attestation agent's evidence does not have the form of its TEE")
        .why("what is not understood cannot be held to what this guest was launched with")
        .next("check the version of `attestation-agent` in the guest image")
}

fn late() -> Finding {
    Finding::new(Class::NoEvidence, "the attestation agent gave no evidence before the deadline")
        .why("it reads evidence from the kernel and the host's quoting service; one of them hangs")
        .next("read the guest's log for `attestation-agent`, or raise `deadline`")
}

/// The initdata in the attestation result that the agent gets for this guest. `None` where the agent
/// is not there, where the guest was launched without initdata, or where nobody checked it.
async fn by_token(standing: &Standing) -> Result<Option<MeasuredConfig>, Finding> {
    if standing.agent().await?.is_none() {
        return Ok(None);
    }
    let passport = standing.fetch_passport().await?;
    let claims = read_token(&passport.token);
    if let Some(claims) = &claims {
        same_key(claims, passport.key.expose())?;
    }
    standing.keep_passport(passport).await;
    let Some(claims) = claims else { return Ok(None) };
    let cpu = claims.cpu();
    let Some(data) = &cpu.init_data_claims else { return Ok(None) };
    if cpu.is_sample() {
        // Trustee publishes the claims of a sample guest without comparing them with anything.
        tracing::warn!("this guest is a sample TEE, which proves nothing: its initdata is not believed");
        return Ok(None);
    }
    let content = Content::from_claims(data).map_err(|error| {
        Finding::new(Class::Config, format!("in this guest's attestation result the initdata {error}"))
            .next("correct that document in the initdata, with `kubectl countersign initdata check`")
    })?;
    let config = MeasuredConfig {
        provenance: Provenance::GuestAttested,
        content,
        text: None,
        by: "this guest's attestation result (/aa/token)".to_owned(),
    };
    pinned(config)
}

/// The claims, not verified: nobody but the measured configuration, which is what is looked for, could
/// say whose signature counts. Loopback of this guest says that they are ours, as far as it goes.
pub(super) fn read_token(token: &str) -> Option<Claims> {
    match EarToken::parse(token).and_then(|unverified| unverified.claims_unverified()) {
        Ok(claims) => Some(claims),
        Err(error) => {
            tracing::warn!("the attestation agent's token {error}; no initdata is taken from it");
            None
        }
    }
}

/// A token for another key is another guest's.
fn same_key(claims: &Claims, pkcs8: &[u8]) -> Result<(), Finding> {
    let key = TeeKey::from_pkcs8(pkcs8).map_err(|_| other_key())?;
    let ours = EcPublicJwk::parse(key.public_jwk().to_string().as_bytes()).ok();
    let theirs = claims.cpu().runtime.as_ref().map(|runtime| &runtime.tee_pubkey);
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours.is_same_key(theirs) => Ok(()),
        _ => Err(Finding::new(Class::GuestApi, "the attestation agent's token is not for the key that came with it")
            .why("it would be the token of another guest")
            .next("check that no container listens on 127.0.0.1:8006 in the agent's place, and restart the pod")),
    }
}

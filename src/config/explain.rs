//! Every value, where it came from, and how far that can be believed.
//!
//! What could be a secret is shown as its kind and length: sealed secrets, and what `equals`
//! compares with.

use std::fmt::Display;

use super::grammar::show_duration;
use super::raw::count_certificates;
use super::resolve::Sources;
use super::roles::{Allow, Exposure, ForwardIdentity, IdentitySource, Inbound, Peers, Roles};
use super::types::{Config, Expect, Format, Kbs, LogFormat, SecretFile, Secrets, Source};
use crate::finding::printable;

/// Longest value in a line, characters.
const MAX_SHOWN: usize = 120;

/// One line for each value: key, value, origin, provenance; aligned, each line ended.
pub fn explain(config: &Config, sources: &Sources) -> String {
    rows(config, sources).print()
}

fn rows<'a>(config: &Config, sources: &'a Sources) -> Table<'a> {
    let mut table = Table { sources, provenance: config.provenance.label(), rows: Vec::new() };
    table.row("serial", config.serial);
    table.row("deadline", show_duration(config.deadline));
    if let Some(audience) = &config.audience {
        table.row("for.namespace", &audience.namespace);
        table.row("for.workload", &audience.workload);
    }
    kbs(&mut table, &config.kbs);
    secrets(&mut table, &config.secrets);
    roles(&mut table, &config.roles);
    table.row("log.level", config.log.level.to_string().to_ascii_lowercase());
    table.row("log.format", if config.log.format == LogFormat::Json { "json" } else { "text" });
    table.row("overrides.allow_env", list(&config.allow_env));
    table
}

/// Key and value alone, for whoever prints by a list of keys.
pub fn values(config: &Config) -> Vec<(String, String)> {
    let sources = Sources::default();
    rows(config, &sources).rows.into_iter().map(|[key, value, ..]| (key, value)).collect()
}

struct Table<'a> {
    sources: &'a Sources,
    provenance: &'static str,
    rows: Vec<[String; 4]>,
}

impl Table<'_> {
    fn row(&mut self, key: impl AsRef<str>, value: impl Display) {
        let key = key.as_ref();
        let (origin, provenance) = self.origin(key);
        self.rows.push([key.to_owned(), printable(&value.to_string(), MAX_SHOWN), origin, provenance.to_owned()]);
    }

    fn option(&mut self, key: impl AsRef<str>, value: Option<impl Display>) {
        match value {
            Some(value) => self.row(key, value),
            None => self.row(key, "-"),
        }
    }

    fn origin(&self, key: &str) -> (String, &'static str) {
        if let Some(name) = self.given(key) {
            let kind = if name.starts_with('-') { "arg" } else { "env" };
            return (format!("{kind} {}", printable(name, MAX_SHOWN)), "unmeasured");
        }
        match (&self.sources.document, self.sources.marks.get(key)) {
            (Some(document), Some(mark)) => (format!("{document}:{}", mark.line), self.provenance),
            _ => ("default".to_owned(), "built in"),
        }
    }

    /// The variable or flag that set a key. A list of secrets sets only their paths and sources.
    fn given(&self, key: &str) -> Option<&str> {
        let list = match key.split_once("].") {
            Some((element, "path" | "from" | "equals")) => element.split_once('[')?.0,
            Some(_) => return None,
            None => key,
        };
        self.sources.given.get(list).map(String::as_str)
    }

    fn print(&self) -> String {
        let mut widths = [0_usize; 4];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                let padding = width.saturating_sub(cell.chars().count()).saturating_add(2);
                line.extend(std::iter::repeat_n(' ', padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn kbs(table: &mut Table<'_>, kbs: &Kbs) {
    table.row("kbs.url", list(&kbs.url));
    let ca = kbs.ca.as_deref().map(|pem| match count_certificates(pem) {
        1 => "PEM, 1 certificate".to_owned(),
        count => format!("PEM, {count} certificates"),
    });
    table.option("kbs.ca", ca);
    table.row("kbs.system_roots", kbs.system_roots);
    table.row("kbs.allow_http", kbs.allow_http);
    table.row("kbs.via", list(&kbs.via));
    table.option("kbs.canary", kbs.canary.as_ref());
}

fn secrets(table: &mut Table<'_>, secrets: &Secrets) {
    table.row("secrets.directory", secrets.directory.display());
    table.row("secrets.sealed_keys", list(&secrets.sealed_keys));
    table.option("secrets.refresh", secrets.refresh.map(show_duration));
    for (index, file) in secrets.files.iter().enumerate() {
        secret(table, &format!("secrets.file[{index}]"), file);
    }
    for (index, gate) in secrets.gates.iter().enumerate() {
        let key = format!("secrets.gate[{index}]");
        table.row(format!("{key}.from"), &gate.from);
        table.row(format!("{key}.equals"), hidden(&gate.equals));
    }
}

fn secret(table: &mut Table<'_>, key: &str, file: &SecretFile) {
    table.row(format!("{key}.path"), &file.path);
    match &file.from {
        Source::Resource(uri) => table.row(format!("{key}.from"), uri),
        Source::Sealed(text) => table.row(format!("{key}.from"), format!("sealed secret, {} bytes", text.len())),
    }
    if file.resource.is_some() {
        table.option(format!("{key}.resource"), file.resource.as_ref());
    }
    table.row(format!("{key}.mode"), format!("{:04o}", file.mode));
    table.option(format!("{key}.owner"), file.owner);
    table.option(format!("{key}.group"), file.group);
    expect(table, &format!("{key}.expect"), &file.expect);
}

fn expect(table: &mut Table<'_>, key: &str, expect: &Expect) {
    let format = match &expect.format {
        Format::Any => "any",
        Format::Utf8 => "utf8",
        Format::Json => "json",
        Format::Pem => "pem",
        Format::TlsPair { .. } => "tls-pair",
    };
    table.row(format!("{key}.format"), format);
    if let Format::TlsPair { key: Some(path) } = &expect.format {
        table.row(format!("{key}.key"), path);
    }
    table.row(format!("{key}.min_bytes"), expect.min_bytes);
    table.row(format!("{key}.max_bytes"), expect.max_bytes);
    if expect.sha256.is_some() {
        table.row(format!("{key}.sha256"), "a digest");
    }
    if let Some(text) = &expect.equals {
        table.row(format!("{key}.equals"), hidden(text));
    }
}

fn roles(table: &mut Table<'_>, roles: &Roles) {
    if let Some(identity) = &roles.identity {
        let source = match &identity.source {
            IdentitySource::Own => "self",
            IdentitySource::KbsCertificate { .. } => "kbs-certificate",
            IdentitySource::Issuer { .. } => "issuer",
        };
        table.row("identity.source", source);
        if let IdentitySource::KbsCertificate { certificate, key } = &identity.source {
            table.row("identity.certificate", certificate);
            table.row("identity.key", key);
        }
        if let IdentitySource::Issuer { address, spiffe } = &identity.source {
            table.row("identity.issuer.address", address);
            table.row("identity.issuer.spiffe", spiffe);
        }
        table.option("identity.spiffe", identity.spiffe.as_ref());
        table.row("identity.dns", list(&identity.dns));
        table.row("identity.lifetime", show_duration(identity.lifetime));
    }
    if let Some(peers) = &roles.peers {
        let (trust, roots, evidence) = match peers {
            Peers::Roots(roots) => ("roots", Some(roots), None),
            Peers::Evidence(evidence) => ("evidence", None, Some(evidence)),
            Peers::Both(roots, evidence) => ("both", Some(roots), Some(evidence)),
        };
        table.row("peers.trust", trust);
        table.option("peers.roots", roots);
        table.row("peers.refresh", show_duration(roles.refresh()));
        if let Some(evidence) = evidence {
            table.row("peers.evidence.token_roots", &evidence.token_roots);
            table.row("peers.evidence.pins", &evidence.pins);
            table.row("peers.evidence.max_age", show_duration(evidence.max_age));
        }
    }
    for (index, inbound) in roles.inbound.iter().enumerate() {
        self::inbound(table, &format!("inbound[{index}]"), inbound);
    }
    for (index, outbound) in roles.outbound.iter().enumerate() {
        let key = format!("outbound[{index}]");
        table.row(format!("{key}.listen"), &outbound.listen);
        table.row(format!("{key}.to"), &outbound.to);
        table.row(format!("{key}.peer"), &outbound.peer);
        table.row(format!("{key}.protocol"), outbound.protocol);
        table.row(format!("{key}.response_timeout"), show_duration(outbound.response_timeout));
        table.row(format!("{key}.access_log"), outbound.access_log);
    }
    if !roles.inbound.is_empty() {
        table.row("drain", show_duration(roles.drain()));
        table.row("limits.connections", roles.limits.connections());
        table.row("limits.unauthenticated", roles.limits.unauthenticated());
        table.row("limits.handshakes", roles.limits.handshakes());
    }
    if let Some(issuer) = &roles.issuer {
        table.row("issuer.listen", issuer.listen);
        table.row("issuer.spiffe", &issuer.spiffe);
        table.row("issuer.certificate", &issuer.certificate);
        table.row("issuer.key", &issuer.key);
        table.row("issuer.lifetime", show_duration(issuer.lifetime));
        table.row("issuer.per_minute", issuer.per_minute);
        table.row("issuer.per_identity", issuer.per_identity);
        table.row("issuer.audit_hardware", issuer.audit_hardware);
    }
    table.option("health.listen", roles.health);
    table.option("metrics.listen", roles.metrics.as_ref().map(|metrics| metrics.listen));
    match roles.metrics.as_ref().and_then(|metrics| metrics.allow.as_ref()) {
        Some(Allow::Listed(patterns)) => table.row("metrics.allow", list(patterns)),
        Some(Allow::Resource(uri)) => table.row("metrics.allow_from", uri),
        #[cfg(feature = "compat")]
        Some(Allow::AnyOfTheRoots) => {}
        None => {}
    }
}

fn inbound(table: &mut Table<'_>, key: &str, inbound: &Inbound) {
    table.row(format!("{key}.listen"), inbound.listen);
    table.row(format!("{key}.app"), &inbound.app);
    table.row(format!("{key}.protocol"), inbound.protocol);
    match &inbound.allow {
        Allow::Listed(patterns) => table.row(format!("{key}.allow"), list(patterns)),
        Allow::Resource(uri) => table.row(format!("{key}.allow_from"), uri),
        #[cfg(feature = "compat")]
        Allow::AnyOfTheRoots => table.row(format!("{key}.allow"), "any certificate by peers.roots"),
    }
    let forward = match inbound.forward_identity {
        ForwardIdentity::Xfcc => "xfcc",
        ForwardIdentity::ProxyV2 => "proxy-v2",
        ForwardIdentity::None => "none",
    };
    table.row(format!("{key}.forward_identity"), forward);
    table.row(format!("{key}.probes"), list(&inbound.probes));
    table.row(format!("{key}.response_timeout"), show_duration(inbound.response_timeout));
    table.row(format!("{key}.access_log"), inbound.access_log);
    table.row(format!("{key}.exposure"), if inbound.exposure == Exposure::Refuse { "refuse" } else { "warn" });
}

fn hidden(text: &str) -> String {
    format!("text, {} bytes", text.len())
}

fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

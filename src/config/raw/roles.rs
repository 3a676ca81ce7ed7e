//! The tables of the long-running roles, read.

use std::time::Duration;

use super::super::decode::{Decoder, Section};
use super::super::grammar::{Local, dns, host_port, http_path, local, mode, socket};
use super::super::roles::{
    Allow, EvidenceLevel, Exposure, ForwardIdentity, Identity, IdentitySource, Inbound, Issuing, Limits, Metrics,
    Outbound, PeerEvidence, Peers, Protocol, Roles,
};
use super::super::spiffe::{PeerPattern, SpiffeId};
use crate::formats::kbs_uri::KbsUri;

/// Life of one certificate where none is written: short enough that nobody waits for a
/// revocation, long enough for a KBS that is away for a while.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// The app's answer where no time is written: as long as nginx (`proxy_read_timeout`) gives one.
const DEFAULT_RESPONSE: Duration = Duration::from_secs(60);

/// Certificates in a minute where no number is written: a hundred each second, less than half of which one core gives
/// (docs/performance.md).
const DEFAULT_PER_MINUTE: u32 = 6000;

/// Of these, for one identity: a workload of three hundred replicas that starts at once, twice.
const DEFAULT_PER_IDENTITY: u32 = 600;

/// Permission bits of a socket where none are written: the app in its own container, by a common group.
const DEFAULT_SOCKET_MODE: u32 = 0o660;

pub(super) fn read(d: &mut Decoder, top: &mut Section<'_>) -> Roles {
    let mut roles = Roles {
        identity: top.table(d, "identity").and_then(|section| identity(d, section)),
        drain: top.duration(d, "drain"),
        ..Roles::default()
    };
    if let Some(section) = top.table(d, "peers") {
        (roles.peers, roles.refresh) = peers(d, section);
    }
    if let Some(mut section) = top.table(d, "limits") {
        roles.limits = Limits {
            connections: section.integer(d, "connections").and_then(|n| usize::try_from(n).ok()),
            unauthenticated: section.integer(d, "unauthenticated").and_then(|n| usize::try_from(n).ok()),
            handshakes: section.integer(d, "handshakes").and_then(|n| u32::try_from(n).ok()),
        };
        section.finish(d);
    }
    let mut asked = Vec::new();
    for section in top.tables(d, "inbound") {
        let key = section.full("probes");
        if let Some(inbound) = inbound(d, section) {
            ambiguous(d, &key, &inbound, asked.iter().zip(&roles.inbound));
            asked.push(key);
            roles.inbound.push(inbound);
        }
    }
    for section in top.tables(d, "outbound") {
        roles.outbound.extend(outbound(d, section));
    }
    if let Some(mut section) = top.table(d, "health") {
        roles.health = section.text(d, "listen", socket);
        section.finish(d);
    }
    roles.metrics = top.table(d, "metrics").and_then(|section| metrics(d, section));
    roles.issuer = top.table(d, "issuer").and_then(|section| issuer(d, section));
    roles
}

fn identity(d: &mut Decoder, mut section: Section<'_>) -> Option<Identity> {
    let word = section.word(d, "source");
    let before = d.problems.len();
    let certificate = section.text(d, "certificate", KbsUri::parse);
    let key = section.text(d, "key", KbsUri::parse);
    let issuer = section.table(d, "issuer").map(|section| asked(d, section));
    let told = d.problems.len() > before;
    let full = section.full("source");
    if issuer.is_some() && word.is_some_and(|word| word != "issuer") {
        d.problem(&full, "does not use `[identity.issuer]`", "write `source = \"issuer\"`, or remove the table");
    }
    let source = match (word, certificate, key) {
        (Some("kbs-certificate"), Some(certificate), Some(key)) => {
            Some(IdentitySource::KbsCertificate { certificate, key })
        }
        (Some("kbs-certificate"), certificate, _) => {
            if !told {
                let what = if certificate.is_none() { "identity.certificate" } else { "identity.key" };
                d.problem(&full, format!("needs `{what}`"), format!("add `{what}`, or choose another `source`"));
            }
            None
        }
        (Some(_), certificate, key) if certificate.is_some() || key.is_some() => {
            d.problem(
                &full,
                "does not use `certificate` and `key`",
                "write `source = \"kbs-certificate\"`, or remove both",
            );
            None
        }
        (Some("self"), ..) => Some(IdentitySource::Own),
        (Some("issuer"), ..) => {
            if issuer.is_none() {
                let hint = "add `[identity.issuer]` with `address` and `spiffe`, or choose another `source`";
                d.problem(&full, "needs `[identity.issuer]`", hint);
            }
            issuer.flatten()
        }
        _ => None,
    };
    let spiffe = section.text(d, "spiffe", SpiffeId::parse);
    let dns = section.texts(d, "dns", dns).unwrap_or_default();
    let lifetime = section.duration(d, "lifetime").unwrap_or(DEFAULT_LIFETIME);
    section.finish(d);
    Some(Identity { source: source?, spiffe, dns, lifetime })
}

/// `[identity.issuer]`.
fn asked(d: &mut Decoder, mut section: Section<'_>) -> Option<IdentitySource> {
    let address = section.text(d, "address", host_port);
    let spiffe = section.text(d, "spiffe", SpiffeId::parse);
    section.finish(d);
    Some(IdentitySource::Issuer { address: address?, spiffe: spiffe? })
}

fn issuer(d: &mut Decoder, mut section: Section<'_>) -> Option<Issuing> {
    let listen = section.text(d, "listen", socket);
    let spiffe = section.text(d, "spiffe", SpiffeId::parse);
    let certificate = section.text(d, "certificate", KbsUri::parse);
    let key = section.text(d, "key", KbsUri::parse);
    let lifetime = section.duration(d, "lifetime").unwrap_or(DEFAULT_LIFETIME);
    let mut count = |d: &mut Decoder, name| section.integer(d, name).and_then(|count| u32::try_from(count).ok());
    let per_minute = count(d, "per_minute").unwrap_or(DEFAULT_PER_MINUTE);
    let per_identity = count(d, "per_identity").unwrap_or(DEFAULT_PER_IDENTITY);
    let audit_hardware = section.flag(d, "audit_hardware").unwrap_or_default();
    section.finish(d);
    let (listen, spiffe, certificate, key) = (listen?, spiffe?, certificate?, key?);
    Some(Issuing { listen, spiffe, certificate, key, lifetime, per_minute, per_identity, audit_hardware })
}

fn peers(d: &mut Decoder, mut section: Section<'_>) -> (Option<Peers>, Option<Duration>) {
    let refresh = section.duration(d, "refresh");
    let trust = section.word(d, "trust");
    let before = d.problems.len();
    let roots = section.text(d, "roots", KbsUri::parse);
    let evidence = section.table(d, "evidence").and_then(|section| evidence(d, section));
    // What is wrong has been told; that it is missing too would not be true.
    let told = d.problems.len() > before;
    let key = section.full("trust");
    let mut missing = |what: &str| {
        if !told {
            d.problem(&key, format!("needs `{what}`"), format!("add `{what}`, or choose another `trust`"));
        }
        None
    };
    let peers = match (trust, roots, evidence) {
        (Some("roots"), Some(roots), None) => Some(Peers::Roots(roots)),
        (Some("evidence"), None, Some(evidence)) => Some(Peers::Evidence(evidence)),
        (Some("both"), Some(roots), Some(evidence)) => Some(Peers::Both(roots, evidence)),
        (Some("roots" | "both"), None, _) => missing("peers.roots"),
        (Some("evidence" | "both"), _, None) => missing("[peers.evidence]"),
        (Some("roots"), Some(_), Some(_)) => {
            d.problem(&key, "does not use `[peers.evidence]`", "write `trust = \"both\"`, or remove the table");
            None
        }
        (Some("evidence"), Some(_), Some(_)) => {
            d.problem(&key, "does not use `peers.roots`", "write `trust = \"both\"`, or remove `roots`");
            None
        }
        _ => None,
    };
    section.finish(d);
    (peers, refresh)
}

fn evidence(d: &mut Decoder, mut section: Section<'_>) -> Option<PeerEvidence> {
    let token_roots = section.text(d, "token_roots", KbsUri::parse);
    let pins = section.text(d, "pins", KbsUri::parse);
    let max_age = section.duration(d, "max_age");
    let level = match section.word(d, "level") {
        Some("hardware") => EvidenceLevel::Hardware,
        _ => EvidenceLevel::Key,
    };
    section.finish(d);
    Some(PeerEvidence { token_roots: token_roots?, pins: pins?, max_age: max_age?, level })
}

fn inbound(d: &mut Decoder, mut section: Section<'_>) -> Option<Inbound> {
    let listen = section.text(d, "listen", socket);
    let app = section.text(d, "app", local);
    let protocol = match section.word(d, "protocol") {
        Some("tcp") => Protocol::Tcp,
        _ => Protocol::Http,
    };
    let allow = match allow(d, &mut section) {
        List::Given(allow) => Some(allow),
        List::Told => None,
        List::Absent => {
            d.problem(
                &section.full("allow"),
                "is missing: nobody could connect",
                "add `allow`, or `allow_from` with a resource that holds the list",
            );
            None
        }
    };
    let forward_identity = match (section.word(d, "forward_identity"), protocol) {
        (Some("xfcc") | None, Protocol::Http) => ForwardIdentity::Xfcc,
        (Some("proxy-v2"), Protocol::Tcp) => ForwardIdentity::ProxyV2,
        (Some("none"), _) | (None, Protocol::Tcp) => ForwardIdentity::None,
        (Some(_), _) => {
            let key = section.full("forward_identity");
            d.problem(&key, "does not fit `protocol`", "write `xfcc` with http, `proxy-v2` with tcp, or `none`");
            ForwardIdentity::None
        }
    };
    let probes = section.texts(d, "probes", http_path).unwrap_or_default();
    let exposure = match section.word(d, "exposure") {
        Some("warn") => Exposure::Warn,
        _ => Exposure::Refuse,
    };
    let response_timeout = section.duration(d, "response_timeout").unwrap_or(DEFAULT_RESPONSE);
    let access_log = section.flag(d, "access_log").unwrap_or_default();
    section.finish(d);
    let (listen, app, allow) = (listen?, app?, allow?);
    Some(Inbound { listen, app, protocol, allow, forward_identity, probes, exposure, response_timeout, access_log })
}

/// kubelet asks by port and path alone. Of two apps that are asked by one name, it would learn of one only.
fn ambiguous<'i>(
    d: &mut Decoder,
    key: &str,
    inbound: &Inbound,
    before: impl Iterator<Item = (&'i String, &'i Inbound)>,
) {
    let others: Vec<_> = before.filter(|(_, other)| other.app != inbound.app).collect();
    for (name, _) in inbound.probed().filter(|(_, path)| path.is_some()) {
        if let Some((other, _)) = others.iter().find(|(_, other)| other.probed().any(|(each, _)| each == name)) {
            d.problem(
                key,
                format!("has a path of `{other}`, and `/probe/` could not tell the two apps apart: it knows an app by its port, and those on unix sockets as one"),
                "give one of the apps another port, or another path",
            );
            return;
        }
    }
}

/// `allow` or `allow_from` of a table.
enum List {
    Given(Allow),
    Absent,
    /// It is wrong, and that has been told.
    Told,
}

fn allow(d: &mut Decoder, section: &mut Section<'_>) -> List {
    let before = d.problems.len();
    let inline = section.texts(d, "allow", PeerPattern::parse);
    let resource = section.text(d, "allow_from", KbsUri::parse);
    match (inline, resource) {
        (Some(_), Some(_)) => {
            let key = section.full("allow");
            d.problem(&key, "stands beside `allow_from`", "write the list in one place: here, or in the resource");
            List::Told
        }
        _ if d.problems.len() > before => List::Told,
        (Some(patterns), None) => List::Given(Allow::Listed(patterns)),
        (None, Some(resource)) => List::Given(Allow::Resource(resource)),
        (None, None) => List::Absent,
    }
}

fn metrics(d: &mut Decoder, mut section: Section<'_>) -> Option<Metrics> {
    let listen = section.text(d, "listen", socket);
    let allow = match allow(d, &mut section) {
        List::Given(allow) => Some(Some(allow)),
        List::Told => None,
        List::Absent if listen.is_none_or(|address| address.ip().is_loopback()) => Some(None),
        List::Absent => {
            d.problem(
                &section.full("allow"),
                "is missing, and `listen` is not loopback: who calls this pod, and how often, is not for everybody",
                "add `allow` with those who may read, who then need a certificate, or listen on 127.0.0.1",
            );
            None
        }
    };
    section.finish(d);
    Some(Metrics { listen: listen?, allow: allow? })
}

fn outbound(d: &mut Decoder, mut section: Section<'_>) -> Option<Outbound> {
    let listen = section.text(d, "listen", local);
    let mode = section.text(d, "mode", mode);
    if mode.is_some() && matches!(listen, Some(Local::Tcp(_))) {
        let key = section.full("mode");
        d.problem(&key, "is for unix sockets", "remove `mode`, or write `listen = \"unix:/…\"`");
    }
    let to = section.text(d, "to", host_port);
    let peer = section.text(d, "peer", SpiffeId::parse);
    let protocol = match section.word(d, "protocol") {
        Some("http") => Protocol::Http,
        _ => Protocol::Tcp,
    };
    let response_timeout = section.duration(d, "response_timeout").unwrap_or(DEFAULT_RESPONSE);
    let access_log = section.flag(d, "access_log").unwrap_or_default();
    section.finish(d);
    let mode = mode.unwrap_or(DEFAULT_SOCKET_MODE);
    Some(Outbound { listen: listen?, mode, to: to?, peer: peer?, protocol, response_timeout, access_log })
}

#[cfg(test)]
mod tests {
    use super::super::super::resolve::parse;
    use super::*;

    #[test]
    fn a_source_takes_what_it_needs_and_nothing_else() {
        let said = |identity: &str| {
            let problems = parse(&format!("version = 1\n[identity]\n{identity}")).unwrap_err();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let issuer = "issuer = { address = \"issuer:8444\", spiffe = \"spiffe://example.org/i\" }\n";
        assert!(said("source = \"issuer\"\n").contains("identity.source: needs `[identity.issuer]`"));
        assert!(
            said(&format!("source = \"self\"\n{issuer}")).contains("identity.source: does not use `[identity.issuer]`")
        );
        assert!(
            said("source = \"issuer\"\nissuer = { address = \"issuer:8444\" }\n")
                .contains("identity.issuer.spiffe: is missing")
        );
        let any = "source = \"issuer\"\nissuer = { address = \"issuer:8444\", spiffe = \"spiffe://example.org/*\" }\n";
        assert!(said(any).contains("identity.issuer.spiffe"), "no pattern is an issuer");
        assert!(
            said(&format!("source = \"issuer\"\nkey = \"kbs:///a/b/c\"\n{issuer}"))
                .contains("does not use `certificate` and `key`")
        );
    }

    #[test]
    fn an_issuers_certificates_live_for_an_hour_at_most() {
        let issuer = |rest: &str| {
            let table = "[issuer]\nlisten = \"[::]:8444\"\nspiffe = \"spiffe://example.org/i\"\n\
                         certificate = \"kbs:///a/b/c\"\nkey = \"kbs:///a/b/k\"\n";
            parse(&format!("version = 1\n{table}{rest}")).map(|config| config.roles.issuer.unwrap())
        };
        let plain = issuer("").unwrap();
        assert_eq!((plain.lifetime, plain.per_minute, plain.per_identity), (Duration::from_secs(3600), 6000, 600));
        assert!(!plain.audit_hardware && issuer("audit_hardware = true").unwrap().audit_hardware);
        for rest in ["lifetime = \"61m\"", "lifetime = \"1m\"", "per_minute = 0", "per_identity = 0", "next = 1"] {
            assert!(issuer(rest).is_err(), "{rest}");
        }
    }
}

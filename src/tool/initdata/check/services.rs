//! aa.toml, cdh.toml and countersign.toml: whom the guest attests to, fetches from and trusts.

use rustls::pki_types::pem::PemObject as _;
use rustls_pki_types::CertificateDer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::delivered::{Delivered, Held};
use super::document::{Document, toml};
use super::report::Report;
use super::source::Place;
use super::{Asked, rules};
use crate::config::{self, Config, KbsUrl, Problem};
use crate::formats::kbs_uri::KbsUri;
use crate::tls;

/// Where the data hub lets credentials be written: anything else it refuses at its start.
const CREDENTIALS: &str = "/run/confidential-containers/cdh/kbs";

/// A KBS as one of the documents names it.
struct Named {
    document: &'static str,
    /// The file, where it is another than the initdata.
    file: Option<String>,
    line: usize,
    url: String,
    cert: Option<String>,
}

/// A document inside, parsed.
pub(super) struct Inner<'p> {
    pub(super) name: &'static str,
    pub(super) place: Place<'p>,
    pub(super) table: DeTable<'p>,
}

impl<'p> Inner<'p> {
    /// Reads one that must be TOML; `None` where it is absent or broken.
    pub(super) fn read(document: &'p Document<'_>, name: &'static str, report: &mut Report) -> Option<Self> {
        let (place, _) = document.section(name)?;
        let table = toml(place, &rules::INNER_TOML, &format!("{name}: "), report)?;
        Some(Self { name, place, table })
    }

    /// The table at a path. A value of another type on the way is a problem.
    pub(super) fn table(&self, path: &[&str], report: &mut Report) -> Option<(&DeTable<'p>, usize)> {
        let (mut table, mut line) = (&self.table, self.place.nth(1));
        for name in path {
            let (key, value) = table.get_key_value(*name)?;
            line = self.place.line(key.span().start);
            let DeValue::Table(inner) = value.get_ref() else {
                report.at(&rules::INNER_TOML, line, format!("{}: `{name}` is not a table", self.name));
                return None;
            };
            table = inner;
        }
        Some((table, line))
    }

    /// The text at a key: its place. Another type is a problem; an empty one counts as absent.
    pub(super) fn text<'s>(&'s self, table: &'s DeTable<'p>, key: &str, report: &mut Report) -> Option<Place<'s>> {
        let value = table.get(key)?;
        self.text_of(value, key, report)
    }

    fn text_of<'s>(&'s self, value: &'s Spanned<DeValue<'p>>, key: &str, report: &mut Report) -> Option<Place<'s>> {
        match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => None,
            DeValue::String(text) => Some(self.place.inner(&value.span(), text)),
            _ => {
                let line = self.place.line(value.span().start);
                report.at(&rules::INNER_TOML, line, format!("{}: `{key}` is not a text", self.name));
                None
            }
        }
    }

    /// The line of a key, or of the document.
    pub(super) fn line_of(&self, table: &DeTable<'_>, key: &str) -> usize {
        table.get_key_value(key).map_or(self.place.nth(1), |(key, _)| self.place.line(key.span().start))
    }
}

/// Returns the configuration that the guest will have, where it is known and good.
pub(super) fn check(
    document: &Document<'_>,
    delivered: Option<&Delivered>,
    asked: &Asked,
    report: &mut Report,
) -> Option<Held> {
    let mut named = Vec::new();
    match document.section("aa.toml") {
        None => report.at(&rules::AA_KBS, document.data_line, "there is no aa.toml"),
        Some(_) => named.extend(
            Inner::read(document, "aa.toml", report).and_then(|inner| attestation_agent(&inner, asked, report)),
        ),
    }
    match document.section("cdh.toml") {
        None => report.at(&rules::CDH_KBS, document.data_line, "there is no cdh.toml"),
        Some(_) => {
            named.extend(Inner::read(document, "cdh.toml", report).and_then(|inner| data_hub(&inner, asked, report)));
        }
    }
    let held = own(document, delivered, asked, &mut named, report);
    if let Some((first, others)) = named.split_first() {
        for other in others {
            let differ = if other.url != first.url {
                "name different KBSs"
            } else if other.cert != first.cert {
                "trust different certificates"
            } else {
                continue;
            };
            let saw = format!("{} and {} {differ}", first.document, other.document);
            match &other.file {
                Some(file) => report.in_file(&rules::KBS_DIFFER, file, other.line, saw),
                None => report.at(&rules::KBS_DIFFER, other.line, saw),
            }
        }
    }
    held
}

/// Our own configuration: in the initdata, delivered, or nowhere that is seen here.
fn own(
    document: &Document<'_>,
    delivered: Option<&Delivered>,
    asked: &Asked,
    named: &mut Vec<Named>,
    report: &mut Report,
) -> Option<Held> {
    let section = document.section("countersign.toml");
    match (section, delivered) {
        (Some((place, line)), delivered) => {
            if delivered.is_some() {
                report.at(&rules::DELIVERED_SHADOWED, line, "countersign.toml is in the initdata too");
            }
            let config = match config::parse(place.text) {
                Ok(config) => config,
                Err(problems) => {
                    told(&problems, place, &rules::COUNTERSIGN, report);
                    return None;
                }
            };
            named.extend(trusts(&config, place, asked, report));
            Some(Held { file: None, config })
        }
        (None, Some(delivered)) => report.about(&delivered.file, |report| {
            let place = Place::file(&delivered.text);
            let config = delivered.config(place, report)?;
            let trusts = trusts(&config, place, asked, report);
            named.extend(trusts.map(|named| Named { file: Some(delivered.file.clone()), ..named }));
            Some(Held { file: Some(delivered.file.clone()), config })
        }),
        (None, None) => {
            report.at(&rules::CONFIGURATION_ABSENT, document.data_line, "there is no countersign.toml");
            None
        }
    }
}

fn attestation_agent(inner: &Inner<'_>, asked: &Asked, report: &mut Report) -> Option<Named> {
    let Some((table, line)) = inner.table(&["token_configs", "kbs"], report) else {
        report.at(&rules::AA_KBS, inner.place.nth(1), "aa.toml has no `[token_configs.kbs]`");
        return None;
    };
    endpoint(inner, table, line, "cert", &rules::AA_KBS, asked, report)
}

fn data_hub(inner: &Inner<'_>, asked: &Asked, report: &mut Report) -> Option<Named> {
    if matches!(inner.table.get("skip_sealed_secret_verification").map(Spanned::get_ref), Some(DeValue::Boolean(true)))
    {
        let line = inner.line_of(&inner.table, "skip_sealed_secret_verification");
        report.at(
            &rules::SEALED_UNVERIFIED,
            line,
            "cdh.toml: sealed secrets are opened without a check of who signed them",
        );
    }
    credentials(inner, report);
    let Some((table, line)) = inner.table(&["kbc"], report) else {
        report.at(&rules::CDH_KBS, inner.place.nth(1), "cdh.toml has no `[kbc]`");
        return None;
    };
    match inner.text(table, "name", report) {
        Some(name) if name.text == "cc_kbc" => {}
        Some(name) => report.at(&rules::KBC_NAME, name.nth(1), "cdh.toml: `[kbc].name` is not cc_kbc"),
        None => report.at(&rules::KBC_NAME, line, "cdh.toml: `[kbc].name` is missing"),
    }
    endpoint(inner, table, line, "kbs_cert", &rules::CDH_KBS, asked, report)
}

fn credentials(inner: &Inner<'_>, report: &mut Report) {
    let Some(DeValue::Array(entries)) = inner.table.get("credentials").map(Spanned::get_ref) else { return };
    for entry in entries {
        let line = inner.place.line(entry.span().start);
        let DeValue::Table(table) = entry.get_ref() else {
            report.at(&rules::CREDENTIAL, line, "cdh.toml: an entry of `[[credentials]]` is not a table");
            continue;
        };
        match inner.text(table, "path", report) {
            Some(path) if path.text.starts_with(&format!("{CREDENTIALS}/")) && !path.text.contains("..") => {}
            path => report.at(
                &rules::CREDENTIAL,
                path.map_or(line, |path| path.nth(1)),
                format!("cdh.toml: `path` of a credential is not below {CREDENTIALS}"),
            ),
        }
        match inner.text(table, "resource_uri", report) {
            Some(uri) if KbsUri::parse(uri.text).is_ok() => {}
            uri => report.at(
                &rules::CREDENTIAL,
                uri.map_or(line, |uri| uri.nth(1)),
                "cdh.toml: `resource_uri` of a credential is not kbs:///repository/type/tag",
            ),
        }
    }
}

/// `url` and the certificate beside it.
fn endpoint(
    inner: &Inner<'_>,
    table: &DeTable<'_>,
    line: usize,
    cert_key: &str,
    missing: &'static rules::Rule,
    asked: &Asked,
    report: &mut Report,
) -> Option<Named> {
    let Some(value) = table.get("url") else {
        report.at(missing, line, format!("{}: the KBS has no `url`", inner.name));
        return None;
    };
    let line = inner.place.line(value.span().start);
    let DeValue::String(url) = value.get_ref() else {
        report.at(&rules::INNER_TOML, line, format!("{}: `url` is not a text", inner.name));
        return None;
    };
    let cert = match table.get(cert_key).map(|value| (value.span(), value.get_ref())) {
        Some((span, DeValue::String(pem))) if !pem.trim().is_empty() => {
            let place = inner.place.inner(&span, pem);
            certificates(inner.name, place, asked, report);
            Some(pem.trim().to_owned())
        }
        Some((span, value)) if !matches!(value, DeValue::String(_)) => {
            let line = inner.place.line(span.start);
            report.at(&rules::INNER_TOML, line, format!("{}: `{cert_key}` is not a text", inner.name));
            None
        }
        _ => None,
    };
    let parsed = match KbsUrl::parse(url) {
        Ok(parsed) => parsed,
        Err(error) => {
            report.at(&rules::KBS_URL, line, format!("{}: `url` {error}", inner.name));
            return None;
        }
    };
    match (parsed.tls, &cert) {
        (true, None) => report.at(&rules::KBS_CA, line, format!("{}: https, and no `{cert_key}`", inner.name)),
        (false, Some(_)) => {
            report.at(&rules::CA_WITHOUT_TLS, line, format!("{}: `{cert_key}` beside an http URL", inner.name));
        }
        _ => {}
    }
    if !parsed.tls && !parsed.is_loopback() {
        report.at(&rules::KBS_HTTP, line, format!("{}: `url` is http", inner.name));
    }
    Some(Named { document: inner.name, file: None, line, url: parsed.to_string(), cert })
}

/// Every certificate of a PEM text.
fn certificates(document: &str, place: Place<'_>, asked: &Asked, report: &mut Report) {
    // The one reader of PEM that also decides what the guest's TLS trusts.
    if let Err(error) = tls::check_ca(place.text) {
        let line = match error {
            tls::Error::Certificate(number) => begin_line(place, number.saturating_sub(1)),
            _ => place.nth(1),
        };
        report.at(&rules::PEM, line, format!("{document}: the certificate text {error}"));
        return;
    }
    for (index, der) in CertificateDer::pem_slice_iter(place.text.as_bytes()).flatten().enumerate() {
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { continue };
        let line = begin_line(place, index);
        let valid = certificate.validity();
        if asked.now > valid.not_after.timestamp() {
            report.at(&rules::CERTIFICATE_TIME, line, format!("{document}: a certificate has expired"));
        } else if asked.now < valid.not_before.timestamp() {
            report.at(&rules::CERTIFICATE_TIME, line, format!("{document}: a certificate is not valid yet"));
        }
        if let Some(what) = unusual(&certificate) {
            report.at(&rules::CERTIFICATE_KIND, line, format!("{document}: a certificate {what}"));
        }
    }
}

/// The line on which the certificate of this index begins.
fn begin_line(place: Place<'_>, index: usize) -> usize {
    place.text.match_indices("-----BEGIN").nth(index).map_or(place.nth(1), |(at, _)| place.line(at))
}

fn unusual(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    // PKCS #1 md5 and sha1, ECDSA with sha1.
    const WEAK: [&str; 3] = ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"];
    let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|extension| extension.value.ca);
    let signs = certificate.key_usage().ok().flatten().is_none_or(|extension| extension.value.key_cert_sign());
    if !is_ca {
        Some("is not a CA's (CA:TRUE)")
    } else if !signs {
        Some("may not sign others (keyCertSign)")
    } else if WEAK.contains(&certificate.signature_algorithm.algorithm.to_id_string().as_str()) {
        Some("is signed with SHA-1 or MD5")
    } else {
        None
    }
}

/// Each problem of a configuration, on its line of `place`.
pub(super) fn told(problems: &[Problem], place: Place<'_>, rule: &'static rules::Rule, report: &mut Report) {
    for problem in problems {
        let line = problem.line.map_or(place.nth(1), |line| place.nth(usize::try_from(line).unwrap_or(1)));
        let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
        let saw = format!("countersign.toml: {key}{}", problem.message);
        match &problem.hint {
            Some(hint) => report.next(rule, line, saw, hint.clone()),
            None => report.at(rule, line, saw),
        }
    }
}

/// The KBS of our own configuration.
fn trusts(config: &Config, place: Place<'_>, asked: &Asked, report: &mut Report) -> Option<Named> {
    let ca = config.kbs.ca.as_deref();
    let at = |needle: &str| place.text.find(needle).map_or(place.nth(1), |at| place.line(at));
    if let Some(pem) = ca {
        let start = place.text.find(pem.trim_start().lines().next().unwrap_or_default()).unwrap_or_default();
        certificates("countersign.toml", place.from(start, pem.trim_start()), asked, report);
    }
    let url = config.kbs.url.first()?;
    Some(Named {
        document: "countersign.toml",
        file: None,
        line: at("[kbs]"),
        url: url.to_string(),
        cert: ca.map(|pem| pem.trim().to_owned()),
    })
}

use super::*;
use crate::config::types::{Gate, LogFormat, Source};
use crate::formats::kbs_uri::KbsUri;
use proptest::prelude::*;

const EVERYTHING: &str = include_str!("../../../examples/everything.toml");
const FIRST: &str = include_str!("../../../examples/countersign.toml");
const ONE_FILE: &str = "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\n";
const SEALED: &str = "version = 1\nfor = { namespace = \"payments\", workload = \"api\" }\n\
    [secrets]\nsealed_keys = [\"kbs:///a/b/key\"]\n[[secrets.file]]\npath = \"a\"\nfrom = \"sealed.a.b.c\"\n";

fn us() -> For {
    For::new("payments", "api").unwrap()
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn with(text: &str, provenance: Provenance, pairs: &[(&str, &str)]) -> Result<(Config, Sources), Vec<Problem>> {
    let us = us();
    let document =
        Document { text, origin: Origin::file("countersign.toml"), provenance, required_audience: Some(&us) };
    resolve_with_sources(&Inputs { document: Some(document), env: &env(pairs), args: &[], role: Some(Role::Init) })
}

fn measured(text: &str) -> Result<Config, Vec<Problem>> {
    with(text, Provenance::Measured, &[]).map(|(config, _)| config)
}

fn from_pairs(pairs: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    resolve(&Inputs { document: None, env: &env(pairs), args: &[], role: Some(Role::Init) })
}

fn lines<T: std::fmt::Debug>(result: Result<T, Vec<Problem>>) -> Vec<String> {
    result.unwrap_err().iter().map(ToString::to_string).collect()
}

/// Exactly one problem, that starts so.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Vec<Problem>>, start: &str) {
    let lines = lines(result);
    assert!(lines.len() == 1 && lines[0].starts_with(start), "{lines:#?}\nwanted: {start}");
}

#[test]
fn the_first_file_of_a_user_resolves_with_defaults() {
    let (config, _) = with(FIRST, Provenance::Unmeasured, &[]).unwrap();
    assert_eq!(config.secrets.directory.to_str(), Some("/run/countersign/secrets"));
    assert_eq!(config.deadline, Duration::from_secs(300));
    assert_eq!(config.secrets.files.len(), 1);
    assert_eq!(config.secrets.files[0].mode, 0o440);
    assert_eq!(config.secrets.gates[0].equals, "success");
    assert_eq!(config.kbs.via, [Via::Cdh]);
}

#[test]
fn every_key_of_the_table_is_accepted_and_every_key_read_is_in_the_table() {
    let (decoder, raw) = raw::read(EVERYTHING, Origin::file("everything.toml"));
    assert!(raw.is_some());
    assert_eq!(decoder.problems, []);
    let table: std::collections::BTreeSet<String> =
        crate::config::keys::KEYS.iter().map(|key| key.path.to_owned()).collect();
    let index = |key: &str| {
        let mut out = String::new();
        for part in key.split_inclusive(']') {
            match part.split_once('[') {
                Some((name, _)) => out.extend([name, "[]"]),
                None => out.push_str(part),
            }
        }
        out
    };
    let mut present: std::collections::BTreeSet<String> =
        decoder.marks.keys().map(|key| index(key)).filter(|key| !key.ends_with("[]")).collect();
    // Of two keys that exclude each other in the one table there is, the second stands in a comment.
    let (allow, allow_from) = ("\nallow  = [\"spiffe://example.org/ns/monitoring", "\n# allow_from = \"");
    assert!(EVERYTHING.contains(allow) && EVERYTHING.contains(allow_from));
    let other = EVERYTHING.replace(allow, "\n# allow  = [\"spiffe://").replace(allow_from, "\nallow_from = \"");
    let (ready, asked) = ("\nsource      = \"kbs-", "\n# source      = \"issuer\"\n# issuer ");
    assert!(other.contains(ready) && other.contains(asked));
    let other = other.replace(ready, "\n# source = \"").replace("\ncertificate = \"kbs:///payments/mesh", "\n# \"");
    let other = other.replace("\nkey         = \"kbs:///payments/mesh", "\n# \"");
    let other = other.replace(asked, "\nsource = \"issuer\"\nissuer ");
    let (second, _) = raw::read(&other, Origin::file("everything.toml"));
    assert_eq!(second.problems, []);
    let excluded = |key: &&String| *key == "metrics.allow_from" || key.starts_with("identity.issuer");
    present.extend(second.marks.keys().filter(excluded).cloned());
    assert_eq!(&decoder.asked | &second.asked, table);
    assert_eq!(present, table, "examples/everything.toml has every key");
}

#[test]
fn everything_resolves_when_measured() {
    let config = measured(EVERYTHING).unwrap();
    assert_eq!((config.serial, config.kbs.url.len(), config.secrets.files.len()), (7, 2, 5));
    assert_eq!(config.kbs.via, Via::ALL);
    assert_eq!(config.log, Log { level: tracing::Level::INFO, format: LogFormat::Json });
    assert_eq!(config.roles.inbound.len(), 2);
    assert_eq!(config.allow_env, ["COUNTERSIGN_LOG", "COUNTERSIGN_DEADLINE"]);
}

#[test]
fn all_problems_are_told_at_once_each_with_its_line() {
    let text = "serial = \"7\"\ndeadlin = \"5m\"\n[kbs]\nvia = [\"cdh\", \"aa-tokn\"]\n[[secrets.file]]\npath = \"../a\"\n\
        mode = \"0446\"\nfrom = \"kbs:///a\"\nexpect = { format = \"yaml\", max_byts = 3 }\n[log]\nlevel = 3\n[[inbund]]\n";
    assert_eq!(
        lines(measured(text)),
        [
            "countersign.toml: version: is missing; add `version`: Version of this format",
            "countersign.toml:1: serial: must be a number from 0 to 9223372036854775807, and is of type string; \
             write a number from 0 to 9223372036854775807",
            "countersign.toml:4: kbs.via: must be one of configfs-tsm, sev-guest, aa-evidence, aa-token, cdh; \
             write `aa-token` if that was meant",
            "countersign.toml:6: secrets.file[0].path: must not have empty, `.` or `..` components; \
             write a relative path, such as \"db/password\"",
            "countersign.toml:8: secrets.file[0].from: must have exactly three segments: \
             kbs:///<repository>/<type>/<tag>; write kbs:///… or sealed.…, such as \"kbs:///payments/db/password\"",
            "countersign.toml:7: secrets.file[0].mode: must not let others write; write an octal mode, such as \"0440\"",
            "countersign.toml:9: secrets.file[0].expect.format: must be one of any, utf8, json, pem, tls-pair; \
             choose one of these",
            "countersign.toml:9: secrets.file[0].expect.max_byts: unknown key; write `max_bytes` if that was meant",
            "countersign.toml:11: log.level: must be one of error, warn, info, debug, trace, and is of type integer; \
             write one of error, warn, info, debug, trace",
            "countersign.toml:2: deadlin: unknown key; write `deadline` if that was meant",
            "countersign.toml:12: inbund: unknown key; write `inbound` if that was meant",
        ]
    );
}

#[test]
fn broken_syntax_names_every_line_that_is_broken() {
    let lines = lines(measured("version = 1\nserial = = 2\n[kbs\nurl = []\nversion = 1\n"));
    assert!(lines.len() >= 2, "{lines:#?}");
    assert!(lines[0].starts_with("countersign.toml:2: not TOML: "), "{lines:#?}");
}

#[test]
fn a_duplicate_key_or_a_file_too_long_is_refused() {
    refused(measured("version = 1\nversion = 1\n"), "countersign.toml:2: not TOML: duplicate key");
    refused(measured(&format!("#{}", "x".repeat(256 * 1024))), "countersign.toml: is longer than 256 KiB");
}

#[test]
fn a_hostile_document_cannot_make_the_list_of_problems_long() {
    let text = (0..5000).map(|n| format!("k{n} = 1")).collect::<Vec<_>>().join("\n");
    assert_eq!(measured(&text).unwrap_err().len(), MAX_PROBLEMS);
}

#[test]
fn one_endless_line_is_read_in_one_breath() {
    let keys: Vec<String> = (0..20_000).map(|n| format!("k{n}=1")).collect();
    let words = vec!["\"cdh\""; 30_000].join(",");
    for text in [format!("kbs = {{{}}}", keys.join(",")), format!("kbs = {{via=[{words}]}}"), "[a.".repeat(80_000)] {
        let start = std::time::Instant::now();
        assert!(measured(&text).is_err());
        // A tenth of a second in a debug build; quadratic reading takes minutes.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn another_version_is_refused() {
    for version in ["0", "2", "-1", "\"1\"", "1.0", "99999999999999999999"] {
        refused(measured(&ONE_FILE.replace("= 1", &format!("= {version}"))), "countersign.toml:1: version: must be ");
    }
}

#[test]
fn https_without_roots_is_refused() {
    let text = |kbs: &str| format!("{ONE_FILE}[kbs]\n{kbs}\n");
    refused(measured(&text("url = [\"https://kbs.example\"]")), "countersign.toml:6: kbs.url: is https, and nothing");
    assert!(measured(&text("url = [\"https://kbs.example\"]\nsystem_roots = true")).is_ok());
}

#[test]
fn plain_http_needs_loopback_or_trusted_permission() {
    let text = |kbs: &str| format!("{ONE_FILE}[kbs]\n{kbs}\n");
    assert!(measured(&text("url = [\"http://127.0.0.1:8080\"]")).is_ok());
    refused(measured(&text("url = [\"http://localhost:8080\"]")), "countersign.toml:6: kbs.url: is plain http");
    let allowed = text("url = [\"http://kbs.example\"]\nallow_http = true");
    assert!(measured(&allowed).is_ok());
    refused(with(&allowed, Provenance::Unmeasured, &[]), "countersign.toml:7: kbs.allow_http: can be set by trusted");
}

#[test]
fn an_unmeasured_document_goes_through_the_guest_only() {
    let text = format!("{ONE_FILE}[kbs]\nvia = [\"aa-token\"]\nurl = [\"https://a.example\"]\nsystem_roots = true\n");
    assert!(measured(&text).is_ok());
    refused(with(&text, Provenance::Unmeasured, &[]), "countersign.toml:6: kbs.via: can only be `cdh`");
    let (config, _) = with(ONE_FILE, Provenance::Unmeasured, &[]).unwrap();
    assert_eq!(config.kbs.via, [Via::Cdh]);
}

#[test]
fn a_way_that_needs_an_address_needs_one() {
    let text = format!("{ONE_FILE}[kbs]\nvia = [\"aa-token\"]\n");
    assert!(measured(&text).is_ok(), "initdata names a KBS beside it");
    let ours = text.replacen("version = 1", "version = 1\nfor = { namespace = \"payments\", workload = \"api\" }", 1);
    let unproven = with(&ours, Provenance::DeliveredUnproven, &[]);
    refused(unproven, "countersign.toml:7: kbs.via: names only ways that need `url`");
}

#[test]
fn a_ca_must_be_certificates_and_nothing_else() {
    let text = |pem: &str| format!("{ONE_FILE}[kbs]\nca = \"\"\"\n{pem}\n\"\"\"\n");
    for pem in [
        "",
        "none",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nAAAA",
    ] {
        refused(measured(&text(pem)), "countersign.toml:6: kbs.ca: h");
    }
    assert!(measured(&text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")).is_ok());
}

#[test]
fn a_delivered_document_must_be_written_for_us() {
    for provenance in [Provenance::DeliveredUnproven, Provenance::Delivered] {
        refused(with(ONE_FILE, provenance, &[]), "countersign.toml: for: is missing");
        let other = format!("for = {{ namespace = \"payments\", workload = \"web\" }}\n{ONE_FILE}");
        refused(with(&other, provenance, &[]), "countersign.toml:1: for: names another workload");
        assert!(with(&other.replace("web", "api"), provenance, &[]).is_ok());
    }
    let ours = format!("for = {{ namespace = \"payments\", workload = \"api\" }}\n{ONE_FILE}");
    let document = Document {
        text: &ours,
        origin: Origin::Resource { uri: "kbs:///default/countersign/payments.api".to_owned() },
        provenance: Provenance::DeliveredUnproven,
        required_audience: None,
    };
    let inputs = Inputs { document: Some(document), env: &BTreeMap::new(), args: &[], role: None };
    refused(resolve(&inputs), "kbs:///default/countersign/payments.api:1: for: cannot be compared");
}

#[test]
fn a_name_from_the_environment_must_be_the_documents() {
    let text = format!("for = {{ namespace = \"payments\", workload = \"api\" }}\n{ONE_FILE}");
    let pairs = |workload| [("COUNTERSIGN_NAMESPACE", "payments"), ("COUNTERSIGN_WORKLOAD", workload)];
    assert!(with(&text, Provenance::Measured, &pairs("api")).is_ok());
    refused(with(&text, Provenance::Measured, &pairs("web")), "countersign.toml:1: for: names another workload");
}

#[test]
fn a_sealed_secret_needs_trusted_keys() {
    refused(with(SEALED, Provenance::Unmeasured, &[]), "countersign.toml:7: secrets.file[0].from: is a sealed secret");
    assert!(measured(SEALED).is_ok());
    refused(
        measured(&SEALED.replace("\"kbs:///a/b/key\"", "")),
        "countersign.toml:7: secrets.file[0].from: is a sealed",
    );
    refused(from_pairs(&[("COUNTERSIGN_SECRETS", "a=sealed.a.b.c")]), "COUNTERSIGN_SECRETS: is a sealed secret");
}

#[test]
fn a_sealed_secret_from_an_unproven_document_must_say_what_it_unseals() {
    let refusal = "countersign.toml:7: secrets.file[0].from: is a sealed secret in a document whose transport";
    refused(with(SEALED, Provenance::DeliveredUnproven, &[]), refusal);
    let text = format!("{SEALED}resource = \"kbs:///a/b/c\"\n");
    assert!(with(&text, Provenance::DeliveredUnproven, &[]).is_ok());
    assert!(with(SEALED, Provenance::Delivered, &[]).is_ok());
    let useless = format!("{ONE_FILE}resource = \"kbs:///a/b/c\"\n");
    refused(measured(&useless), "countersign.toml:5: secrets.file[0].resource: has a meaning only");
}

#[test]
fn two_files_cannot_stand_at_one_path() {
    let file = |path: &str| format!("[[secrets.file]]\npath = \"{path}\"\nfrom = \"kbs:///a/b/c\"\n");
    let text = |a: &str, b: &str| format!("version = 1\n{}{}", file(a), file(b));
    refused(
        measured(&text("a/b", "a/b")),
        "countersign.toml:6: secrets.file[1].path: is the path of `secrets.file[0]`",
    );
    refused(measured(&text("a/b/c", "a")), "countersign.toml:3: secrets.file[0].path: needs a directory where");
    assert!(measured(&text("a/b", "a/bc")).is_ok());
    refused(
        from_pairs(&[("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c,a/b=kbs:///a/b/d")]),
        "COUNTERSIGN_SECRETS: needs a directory where `secrets.file[0]` is a file",
    );
}

#[test]
fn a_set_has_limits_in_number_and_bytes() {
    let file = |n: usize| format!("[[secrets.file]]\npath = \"f{n}\"\nfrom = \"kbs:///a/b/c\"\n");
    let many = |count: usize| format!("version = 1\n{}", (0..count).map(file).collect::<String>());
    assert!(measured(&many(256)).is_ok());
    refused(measured(&many(257)), "countersign.toml:770: secrets.file: has more than 256 entries");
    let large = many(17).replace("kbs:///a/b/c\"", "kbs:///a/b/c\"\nexpect.max_bytes = 16777216");
    refused(measured(&large), "countersign.toml:2: secrets.file: may need more than 256 MiB");
    let pairs: Vec<String> = (0..257).map(|n| format!("f{n}=kbs:///a/b/c")).collect();
    refused(from_pairs(&[("COUNTERSIGN_SECRETS", &pairs.join(","))]), "COUNTERSIGN_SECRETS: has more than 256 entries");
}

#[test]
fn a_key_of_a_pair_must_be_another_file_of_the_set() {
    let text = |key: &str| format!("{ONE_FILE}expect = {{ format = \"tls-pair\", key = \"{key}\" }}\n");
    refused(measured(&text("a")), "countersign.toml:5: secrets.file[0].expect.key: names its own file");
    refused(measured(&text("b")), "countersign.toml:5: secrets.file[0].expect.key: names no file of this set");
    let lone = format!("{ONE_FILE}expect = {{ key = \"b\" }}\n");
    assert!(lines(measured(&lone))[0].contains("has a meaning only with `format = \"tls-pair\"`"));
}

#[test]
fn bounds_that_exclude_everything_are_refused() {
    let text = |expect: &str| format!("{ONE_FILE}expect = {{ {expect} }}\n");
    assert!(lines(measured(&text("min_bytes = 5, max_bytes = 4")))[0].contains("min_bytes: is more than `max_bytes`"));
    assert!(lines(measured(&text("max_bytes = 1, equals = \"ab\"")))[0].contains("equals: is not within"));
    assert!(lines(measured(&text("max_bytes = 16777217")))[0].contains("must be from 1 to 16777216"));
}

#[test]
fn init_with_nothing_to_do_is_refused() {
    refused(measured("version = 1\n"), "countersign.toml: secrets.file: is missing: there is nothing to fetch");
    refused(from_pairs(&[]), "COUNTERSIGN_SECRETS: is missing: there is nothing to fetch");
    assert!(parse("version = 1\n").is_ok(), "`parse` is for no role");
    assert!(measured("version = 1\n[[secrets.gate]]\nfrom = \"kbs:///a/b/c\"\nequals = \"x\"\n").is_ok());
}

#[test]
fn five_lines_of_environment_are_a_configuration() {
    let config = from_pairs(&[
        ("COUNTERSIGN_SECRETS", "db/password=kbs:///payments/db/password,\n tls.key=kbs:///payments/tls/key"),
        ("COUNTERSIGN_SECRETS_DIRECTORY", "/run/secrets/app"),
        ("COUNTERSIGN_GATE", "kbs:///default/attestation-status/status=success"),
        ("COUNTERSIGN_DEADLINE", "90s"),
        ("COUNTERSIGN_LOG", "debug"),
        ("COUNTERSIGN_LOG_FORMAT", "json"),
        ("COUNTERSIGN_ROLE", "init"),
        ("COUNTERSIGN_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(config.provenance, Provenance::Unmeasured);
    assert_eq!(config.secrets.files[1].path.as_str(), "tls.key");
    assert!(matches!(config.secrets.files[1].from, Source::Resource(_)));
    assert_eq!(config.secrets.directory.to_str(), Some("/run/secrets/app"));
    assert_eq!(config.deadline, Duration::from_secs(90));
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    let uri = KbsUri::parse("kbs:///default/attestation-status/status").unwrap();
    assert_eq!(config.secrets.gates, [Gate { from: uri, equals: "success".to_owned() }]);
}

#[test]
fn no_value_of_the_environment_stands_in_a_message() {
    let canary = "CANARY-8f2a";
    let pairs: Vec<(&str, String)> = env::VARIABLES
        .iter()
        .map(|variable| (variable.name, format!("{canary}/../=sealed.{canary} {canary},{canary}=kbs:///{canary}")))
        .collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for result in [from_pairs(&pairs).map(|_| ()), with(EVERYTHING, Provenance::Measured, &pairs).map(|_| ())] {
        let text = lines(result).join("\n");
        assert!(!text.contains(canary), "{text}");
    }
}

#[test]
fn every_wrong_variable_is_told_at_once() {
    let lines = lines(from_pairs(&[
        ("COUNTERSIGN_SECRETS", "a,=kbs:///a/b/c,b=kbs:///a"),
        ("COUNTERSIGN_SECRETS_DIRECTORY", "run/secrets"),
        ("COUNTERSIGN_GATE", ""),
        ("COUNTERSIGN_DEADLINE", "5"),
        ("COUNTERSIGN_LOG", "inf"),
        ("COUNTERSIGN_LOG_FORMAT", "xml"),
        ("COUNTERSIGN_ROLE", "inti"),
        ("COUNTERSIGN_CONFIG", "/etc/x"),
    ]));
    let variables: Vec<&str> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(
        variables,
        [
            "COUNTERSIGN_CONFIG",
            "COUNTERSIGN_ROLE",
            "COUNTERSIGN_DEADLINE",
            "COUNTERSIGN_LOG",
            "COUNTERSIGN_LOG_FORMAT",
            "COUNTERSIGN_SECRETS_DIRECTORY",
            "COUNTERSIGN_SECRETS",
            "COUNTERSIGN_SECRETS",
            "COUNTERSIGN_SECRETS",
            "COUNTERSIGN_GATE",
        ],
        "{lines:#?}"
    );
}

#[test]
fn the_environment_may_repeat_a_document_and_not_change_it() {
    let text = format!("{ONE_FILE}mode = \"0400\"\n");
    let same = [
        ("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c"),
        ("COUNTERSIGN_SECRETS_DIRECTORY", "/run/countersign/secrets"),
        ("COUNTERSIGN_DEADLINE", "300s"),
        ("COUNTERSIGN_LOG", "info"),
    ];
    let (config, _) = with(&text, Provenance::Measured, &same).unwrap();
    assert_eq!(config.secrets.files[0].mode, 0o400);
    for (name, value) in [
        ("COUNTERSIGN_SECRETS", "a=kbs:///a/b/d"),
        ("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c,b=kbs:///a/b/c"),
        ("COUNTERSIGN_SECRETS_DIRECTORY", "/run/other"),
        ("COUNTERSIGN_GATE", "kbs:///a/b/c=x"),
        ("COUNTERSIGN_DEADLINE", "10m"),
        ("COUNTERSIGN_LOG", "debug"),
        ("COUNTERSIGN_LOG_FORMAT", "json"),
    ] {
        let result = with(&text, Provenance::Measured, &[(name, value)]);
        refused(result, &format!("{name}: differs from `countersign.toml`, which holds (measured); remove it"));
    }
}

#[test]
fn what_a_document_leaves_open_may_differ_within_bounds() {
    let text = format!("{ONE_FILE}[overrides]\nallow_env = [\"COUNTERSIGN_LOG\", \"COUNTERSIGN_DEADLINE\"]\n");
    let open = [("COUNTERSIGN_LOG", "trace"), ("COUNTERSIGN_DEADLINE", "10m")];
    let (config, sources) = with(&text, Provenance::Measured, &open).unwrap();
    assert_eq!((config.log.level, config.deadline), (tracing::Level::TRACE, Duration::from_secs(600)));
    let explained = crate::config::explain(&config, &sources);
    assert!(explained.lines().any(|line| line.starts_with("log.level") && line.ends_with("unmeasured")), "{explained}");
    let long = [("COUNTERSIGN_DEADLINE", "45m")];
    refused(with(&text, Provenance::Measured, &long), "COUNTERSIGN_DEADLINE: must be from 10s to 30m where");
    refused(
        with(&text, Provenance::Measured, &[("COUNTERSIGN_LOG_FORMAT", "json")]),
        "COUNTERSIGN_LOG_FORMAT: differs",
    );
}

#[test]
fn a_document_can_leave_open_only_what_is_safe() {
    for name in ["COUNTERSIGN_SECRETS", "COUNTERSIGN_SECRETS_DIRECTORY", "COUNTERSIGN_GATE", "PATH", "LD_PRELOAD"] {
        let text = format!("{ONE_FILE}[overrides]\nallow_env = [\"COUNTERSIGN_LOG\", \"{name}\"]\n");
        refused(measured(&text), "countersign.toml:6: overrides.allow_env: must be one of COUNTERSIGN_LOG,");
    }
}

#[test]
fn an_argument_is_trusted_no_more_than_a_variable() {
    let us = us();
    let args = [Arg { flag: "--log", variable: "COUNTERSIGN_LOG", value: "debug" }];
    let document = |text| {
        let origin = Origin::file("countersign.toml");
        Some(Document { text, origin, provenance: Provenance::Measured, required_audience: Some(&us) })
    };
    let none = BTreeMap::new();
    let inputs = Inputs { document: document(ONE_FILE), env: &none, args: &args, role: None };
    refused(resolve(&inputs), "--log: differs from `countersign.toml`");
}

#[test]
fn an_asked_for_document_that_was_not_fetched_is_not_replaced_by_the_environment() {
    let pairs = [
        ("COUNTERSIGN_NAMESPACE", "payments"),
        ("COUNTERSIGN_WORKLOAD", "api"),
        ("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c"),
    ];
    refused(from_pairs(&pairs), "COUNTERSIGN_WORKLOAD: asks for a configuration from the KBS, and none was fetched");
}

#[test]
fn tables_of_other_roles_are_checked_too() {
    let text = |tail: &str| format!("{ONE_FILE}{tail}\n");
    for (tail, refusal) in [
        ("[[outbound]]\nlisten = \"127.0.0.1:1\"\nto = \"db:1\"", "countersign.toml:5: outbound[0].peer: is missing"),
        (
            "[[outbound]]\nlisten = \"0.0.0.0:1\"\nto = \"db:1\"\npeer = \"spiffe://a/b\"",
            "countersign.toml:6: outbound[0].listen",
        ),
        (
            "[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"\nallow = []",
            "countersign.toml:8: inbound[0].allow: must have from 1",
        ),
        ("[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"", "countersign.toml:5: inbound[0].allow: is missing"),
        (
            "[[inbound]]\nlisten = \"[::]:1\"\napp = \"10.0.0.1:2\"\nallow = [\"spiffe://a/b\"]",
            "countersign.toml:7: inbound[0].app: must be a loopback",
        ),
        (
            "[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"\nallow = [\"spiffe://a/*\"]\nprotocol = \"tcp\"\nforward_identity = \"xfcc\"",
            "countersign.toml:10: inbound[0].forward_identity: does not fit",
        ),
        (
            "[[inbound]]\nlisten = \"[::]:1\"\napp = \"unix:/a\"\nallow = [\"spiffe://a/b\"]\nprobes = [\"/ok\"]\n\
             [[inbound]]\nlisten = \"[::]:2\"\napp = \"unix:/b\"\nallow = [\"spiffe://a/b\"]\nprobes = [\"/up\", \"/ok\"]",
            "countersign.toml:14: inbound[1].probes: has a path of `inbound[0].probes`",
        ),
        (
            "[identity]\nsource = \"self\"\nspiffe = \"spiffe://a/*\"",
            "countersign.toml:7: identity.spiffe: must be one identity",
        ),
        ("[peers]\ntrust = \"evidence\"", "countersign.toml:6: peers.trust: needs `[peers.evidence]`"),
        ("[peers]\ntrust = \"roots\"", "countersign.toml:6: peers.trust: needs `peers.roots`"),
        (
            "[peers]\ntrust = \"evidence\"\n[peers.evidence]\npins = \"kbs:///a/b/c\"\nmax_age = \"1h\"",
            "countersign.toml:7: peers.evidence.token_roots: is missing",
        ),
        ("[health]\nlisten = \"localhost:80\"", "countersign.toml:6: health.listen: must be a literal address"),
        ("[metrics]", "countersign.toml:5: metrics.listen: is missing"),
        (
            "[metrics]\nlisten = \"[::]:15822\"",
            "countersign.toml:5: metrics.allow: is missing, and `listen` is not loopback",
        ),
        ("[metrics]\nlisten = \"10.0.0.1:15822\"\nallow = []", "countersign.toml:7: metrics.allow: "),
        (
            "[metrics]\nlisten = \"[::]:15822\"\nallow = [\"spiffe://a/b\"]\nallow_from = \"kbs:///a/b/c\"",
            "countersign.toml:7: metrics.allow: stands beside `allow_from`",
        ),
    ] {
        refused(measured(&text(tail)), refusal);
    }
}

#[test]
fn explain_shows_origin_and_provenance_and_no_secret() {
    let (config, sources) = with(EVERYTHING, Provenance::Measured, &[("COUNTERSIGN_LOG", "debug")]).unwrap();
    let text = crate::config::explain(&config, &sources);
    let line = |key: &str| text.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap_or_default();
    assert!(
        line("serial").contains('7')
            && line("serial").contains("countersign.toml:3 ")
            && line("serial").ends_with(" measured"),
        "{text}"
    );
    assert!(line("secrets.file[1].mode").contains("0440") && line("secrets.file[1].mode").contains("default"));
    assert!(line("log.level").contains("debug") && line("log.level").contains("env COUNTERSIGN_LOG"));
    assert!(line("kbs.ca").contains("PEM, 1 certificate"));
    assert!(line("secrets.file[3].from").contains("sealed secret, 61 bytes"), "{text}");
    assert!(line("secrets.gate[0].equals").contains("text, 7 bytes"));
    assert!(!text.contains("fakesignature") && !text.contains("success") && !text.contains("BEGIN"));
    let debug = format!("{config:?}");
    assert!(!debug.contains("fakesignature") && !debug.contains("success"));
    let (config, sources) = resolve_with_sources(&Inputs {
        document: None,
        env: &env(&[("COUNTERSIGN_SECRETS", "a=kbs:///a/b/c")]),
        args: &[],
        role: None,
    })
    .unwrap();
    let text = crate::config::explain(&config, &sources);
    assert!(text.contains("env COUNTERSIGN_SECRETS  unmeasured"), "{text}");
}

proptest! {
    #[test]
    fn no_document_makes_it_panic(text in "\\PC{0,200}", tail in "([a-z.\\[\\]\"= 0-9{},\\n]{0,40}){0,6}") {
        for provenance in [Provenance::Unmeasured, Provenance::DeliveredUnproven, Provenance::Measured] {
            let _ = with(&text, provenance, &[]);
            let _ = with(&format!("version = 1\n{tail}"), provenance, &[]);
        }
    }

    #[test]
    fn no_value_of_a_known_key_makes_it_panic(
        index in 0..crate::config::keys::KEYS.len(),
        value in prop_oneof!["\"\\PC{0,30}\"", "-?[0-9]{1,25}", "\\[\\]", "\\{\\}", "\\[\\{\\}, 1\\]", "true", "1\\.5", "1979-05-27"],
    ) {
        let key = &crate::config::keys::KEYS[index];
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let header = match table.strip_suffix("[]") {
            Some(array) => format!("[[{array}]]\n"),
            None if table.is_empty() => String::new(),
            None => format!("[{}]\n", table.replace("[]", "")),
        };
        let _ = with(&format!("version = 1\n{header}{} = {value}\n", name.trim_end_matches("[]")), Provenance::Measured, &[]);
    }

    #[test]
    fn no_environment_makes_it_panic(value in "\\PC{0,80}", name in "[A-Z_0-9]{0,30}") {
        let mut pairs: Vec<(String, &str)> = vec![(format!("COUNTERSIGN_{name}"), &value)];
        pairs.extend(env::VARIABLES.iter().map(|variable| (variable.name.to_owned(), value.as_str())));
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let _ = from_pairs(&pairs);
        let _ = with(EVERYTHING, Provenance::Measured, &pairs);
    }

    #[test]
    fn a_relative_path_survives_being_printed(text in "[a-z0-9_@+-]{1,8}(/[a-z0-9_@+-]{1,8}){0,4}") {
        let path = crate::config::RelativePath::parse(&text).unwrap();
        prop_assert_eq!(crate::config::RelativePath::parse(&path.to_string()), Ok(path));
    }

    #[test]
    fn a_resource_survives_being_printed(text in "[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,8}(/[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,8}){2}") {
        let uri = KbsUri::parse(&format!("kbs:///{text}")).unwrap();
        prop_assert_eq!(uri.path(), text);
        prop_assert_eq!(KbsUri::parse(&uri.to_string()), Ok(uri));
    }
}

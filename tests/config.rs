//! The configuration's documents and its decoder say the same.
//!
//! `docs/configuration.md` (its tables) and `docs/countersign.schema.json` are generated. After a
//! change of the tables of keys or variables: `COUNTERSIGN_BLESS=1 cargo test --test config`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)] // A test may stop.

use std::fs;
use std::path::{Path, PathBuf};

use countersign::config::{self, keys, schema};
use proptest::prelude::*;
use serde_json::Value;

const EVERYTHING: &str = include_str!("../examples/everything.toml");

#[test]
fn the_schema_in_docs_is_the_one_of_the_table() {
    generated("docs/countersign.schema.json", |_| schema::json_schema());
}

#[test]
fn the_tables_in_docs_are_the_ones_of_the_code() {
    generated("docs/configuration.md", |text| {
        let text = between(&text, "env", &schema::env_table());
        between(&text, "keys", &schema::key_table())
    });
}

#[test]
fn the_configuration_in_the_issuers_manifest_is_good() {
    let text = fs::read_to_string(root().join("examples/issuer.yaml")).unwrap();
    let (_, rest) = text.split_once("\"countersign.toml\" = '''\n").unwrap();
    let (document, _) = rest.split_once("'''").unwrap();
    let document: String = document.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
    assert_eq!(judge(&document), (true, true), "{document}");
}

#[test]
fn every_example_is_good() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            // Other kinds of TOML (initdata) say no `version = 1`.
            if text.lines().any(|line| line.starts_with("version") && line.trim_end().ends_with("= 1")) {
                assert_eq!(judge(&text), (true, true), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 2, "the examples moved");
}

#[test]
fn every_example_in_docs_is_good() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let blocks: Vec<String> = text
        .split("\n\n    version = 1\n")
        .skip(1)
        .map(|block| {
            let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
            let body: Vec<&str> = lines.map(str::trim_start).collect();
            format!("version = 1\n{}", body.join("\n")).replace("sealed.…", "sealed.a.b.c")
        })
        .collect();
    assert_eq!(blocks.len(), 2, "the examples moved");
    for block in blocks {
        assert_eq!(judge(&block), (true, true), "{block}");
    }
}

#[test]
fn schema_and_decoder_agree_on_what_is_good() {
    for text in [
        "version = 1\n",
        "version = 1\nserial = 0x10\ndeadline = \"10s\"\n",
        "version = 1\n[kbs]\nurl = []\nvia = [\"cdh\"]\n",
        "version = 1\n[kbs]\nurl = [\"https://[::1]:8443/x\"]\nsystem_roots = true\n",
        "version = 1\nsecrets.file = [{ path = \"a\", from = \"kbs:///a/b/c\", mode = \"644\" }]\n",
        "version = 1\n[secrets]\nfile = []\nrefresh = \"1m\"\nsealed_keys = [\"kbs:///_a/-b/c.d\"]\n",
        "version = 1\n[[inbound]]\nlisten = \"0.0.0.0:1\"\napp = \"unix:/a\"\nallow = [\"spiffe://a/*\"]\nprotocol = \"tcp\"\n",
        "version = 1\n[[outbound]]\nlisten = \"[::1]:1\"\nto = \"[::1]:1\"\npeer = \"spiffe://a.b/c/d\"\n",
        EVERYTHING,
    ] {
        assert_eq!(judge(text), (true, true), "(schema, decoder) of\n{text}");
    }
}

#[test]
fn schema_and_decoder_agree_on_what_is_bad() {
    for text in [
        "",
        "version = 2\n",
        "version = \"1\"\n",
        "version = 1.5\n",
        "version = 1\nserial = -1\n",
        "version = 1\nsurprise = true\n",
        "version = 1\ndeadline = 300\n",
        "version = 1\ndeadline = \"5 minutes\"\n",
        "version = 1\nfor = { namespace = \"a\" }\n",
        "version = 1\nfor = { namespace = \"A\", workload = \"b\" }\n",
        "version = 1\nkbs = []\n",
        "version = 1\n[kbs]\nurl = \"https://kbs.example\"\nsystem_roots = true\n",
        "version = 1\n[kbs]\nurl = [\"ftp://kbs.example\"]\n",
        "version = 1\n[kbs]\nurl = [\"https://me@kbs.example\"]\nsystem_roots = true\n",
        "version = 1\n[kbs]\nca = \"none\"\n",
        "version = 1\n[kbs]\nvia = []\n",
        "version = 1\n[kbs]\nvia = [\"cdh\", \"cdh\"]\n",
        "version = 1\n[kbs]\nvia = [\"curl\"]\n",
        "version = 1\n[kbs]\nsystem_roots = \"true\"\n",
        "version = 1\n[secrets]\nfile = { path = \"a\", from = \"kbs:///a/b/c\" }\n",
        "version = 1\n[secrets]\ndirectory = \"run\"\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\n",
        "version = 1\n[[secrets.file]]\npath = \"/a\"\nfrom = \"kbs:///a/b/c\"\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs://host/a/b/c\"\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nmode = \"0446\"\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nmode = 440\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nowner = -1\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nexpect = { format = \"xml\" }\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nexpect = { max_bytes = 0 }\n",
        "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nexpect = { sha256 = \"00\" }\n",
        "version = 1\n[[secrets.gate]]\nfrom = \"kbs:///a/b/c\"\nequals = \"\"\n",
        "version = 1\n[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"\nallow = []\n",
        "version = 1\n[[outbound]]\nlisten = \"127.0.0.1:1\"\nto = \"db:1\"\n",
        "version = 1\n[peers.evidence]\npins = \"kbs:///a/b/c\"\n",
        "version = 1\n[log]\nlevel = \"loud\"\n",
        "version = 1\n[overrides]\nallow_env = [\"PATH\"]\n",
    ] {
        assert_eq!(judge(text), (false, false), "(schema, decoder) of\n{text}");
    }
}

proptest! {
    #[test]
    fn an_unknown_key_anywhere_is_refused_by_both(name in "[a-z_]{1,12}", place in 0usize..64) {
        let headers: Vec<usize> = EVERYTHING
            .match_indices("\n[")
            .filter_map(|(at, _)| EVERYTHING[at + 1..].find('\n').map(|end| at + 1 + end))
            .collect();
        let at = headers[place % headers.len()];
        let taken = keys::KEYS.iter().any(|key| key.name() == name);
        prop_assume!(!taken);
        let text = format!("{}\n{name} = 1{}", &EVERYTHING[..at], &EVERYTHING[at..]);
        prop_assert_eq!(judge(&text), (false, false), "{}", text);
        prop_assert_eq!(judge(&format!("{name} = 1\n{EVERYTHING}")), (false, false));
    }

    #[test]
    fn whatever_the_decoder_accepts_the_schema_accepts(
        path in "[a-z/.]{0,6}",
        from in "(kbs:///|sealed\\.)[a-zA-Z0-9/._-]{0,12}",
        mode in "[0-7]{2,5}",
        deadline in "[0-9]{1,3}[smhd]",
        url in "https?://[a-z0-9.:\\[\\]/-]{1,16}",
        spiffe in "spiffe://[a-z./*-]{1,12}",
        listen in "[0-9.:\\[\\]]{3,16}",
    ) {
        let samples = [
            format!("[[secrets.file]]\npath = {path:?}\nfrom = \"kbs:///a/b/c\""),
            format!("secrets.sealed_keys = [\"kbs:///a/b/c\"]\n[[secrets.file]]\npath = \"a\"\nfrom = {from:?}"),
            format!("[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///a/b/c\"\nmode = {mode:?}"),
            format!("deadline = {deadline:?}"),
            format!("[kbs]\nsystem_roots = true\nallow_http = true\nurl = [{url:?}]"),
            format!("[[inbound]]\nlisten = \"[::]:1\"\napp = \"127.0.0.1:2\"\nallow = [{spiffe:?}]"),
            format!("[identity]\nsource = \"self\"\nspiffe = {spiffe:?}"),
            format!("[health]\nlisten = {listen:?}"),
            format!("[[outbound]]\nlisten = {listen:?}\nto = {listen:?}\npeer = \"spiffe://a/b\""),
        ];
        for sample in samples {
            let text = format!("version = 1\n{sample}\n");
            let (schema, decoder) = judge(&text);
            prop_assert!(schema || !decoder, "the decoder accepts, the schema refuses:\n{}", text);
        }
    }
}

/// Whether the schema accepts a text, and whether the decoder does.
fn judge(text: &str) -> (bool, bool) {
    thread_local! {
        static VALIDATOR: jsonschema::Validator =
            jsonschema::validator_for(&serde_json::from_str::<Value>(&schema::json_schema()).unwrap()).unwrap();
    }
    let json: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (VALIDATOR.with(|validator| validator.is_valid(&json)), config::parse(text).is_ok())
}

/// Compares a file with what it should be; writes it instead when blessed.
#[allow(clippy::disallowed_methods)] // A switch for people, read by no shipped code.
fn generated(name: &str, make: impl FnOnce(String) -> String) {
    let path = root().join(name);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let after = make(before.clone());
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        fs::write(&path, after).unwrap();
        return;
    }
    assert!(before == after, "{name} is not what the code says: run `COUNTERSIGN_BLESS=1 cargo test --test config`");
}

/// Puts `new` between the two comments of `name`.
fn between(text: &str, name: &str, new: &str) -> String {
    let (start, end) = (format!("<!-- {name}: generated"), format!("<!-- {name}: end -->"));
    let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no comment `{start}`"));
    let (head, rest) = rest.split_once('\n').unwrap();
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no comment `{end}`"));
    format!("{before}{start}{head}\n\n{new}\n{end}{after}")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

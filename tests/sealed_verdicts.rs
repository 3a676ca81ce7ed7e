//! The table of verdicts: ours beside upstream's, for every sealed secret that was put before the
//! real unsealer. `docs/sealed-secrets.md` shows it to the people who seal.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;

use countersign::formats::jwk::EcPublicJwk;
use countersign::formats::kbs_uri::KbsUri;
use countersign::formats::sealed::SealedSecret;
use countersign_testbed::runner::vectors;

/// One case: file, upstream's verdict (guest-components v0.21, observed), ours, why, in plain words.
struct Row {
    file: &'static str,
    case: &'static str,
    upstream: Verdict,
    /// What our error's message starts with; `None` where we accept.
    ours: Option<&'static str>,
    reason: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Accepts,
    Refuses,
}

use Verdict::{Accepts, Refuses};

impl Row {
    fn stricter(&self) -> bool {
        self.upstream == Accepts && self.ours.is_some()
    }
}

const fn row(
    file: &'static str,
    case: &'static str,
    upstream: Verdict,
    ours: Option<&'static str>,
    reason: &'static str,
) -> Row {
    Row { file, case, upstream, ours, reason }
}

const ROWS: &[Row] = &[
    row("vault-kbs-kid-uri.sealed", "`kid` is the KBS URI of a listed key", Accepts, None, "the usual form"),
    row("vault-kbs-kid-local.sealed", "`kid` is the plain name of a listed key", Accepts, None, "the usual form"),
    row("vault-by-upstream-cli.sealed", "made by upstream's own command", Accepts, None, "`b64: true` changes nothing"),
    row("edge/pretty-json", "payload with line breaks and indentation", Accepts, None, "still the same JSON"),
    row("edge/extra-payload-member", "an unknown member in the payload", Accepts, None, "room for later versions"),
    row("edge/provider-upper", "provider `KBS` in capitals", Accepts, None, "the provider's case does not matter"),
    row("edge/typ-jwt", "`typ: JWT` in the header", Accepts, None, "says nothing about how it is checked"),
    row("edge/x5c-typ", "`typ` and `cty` in the header", Accepts, None, "says nothing about how it is checked"),
    row("edge/unknown-hdr", "an unknown member in the header", Accepts, None, "RFC 7515 lets a reader ignore it"),
    row(
        "edge/name-with-host",
        "the resource's URI has a host",
        Accepts,
        None,
        "the host is ignored: it never chooses the KBS",
    ),
    row(
        "edge/name-missing",
        "points to a resource that does not exist",
        Refuses,
        None,
        "authentic; the fetch that follows is refused (exit 66)",
    ),
    row(
        "edge/crit",
        "`crit` in the header",
        Accepts,
        Some("has `crit`"),
        "RFC 7515 demands refusing what must be understood and is not",
    ),
    row(
        "edge/b64-false",
        "`b64: false` in the header",
        Accepts,
        Some("has `b64` false"),
        "it asks to be read differently",
    ),
    row("edge/double-prefix", "`sealed.` twice", Accepts, Some("starts with `sealed.` twice"), "one form, one reading"),
    row("edge/no-prefix", "no `sealed.` in front", Accepts, Some("does not start with"), "one form, one reading"),
    row(
        "edge/kid-traversal",
        "`kid` is a path that leads back to the key",
        Accepts,
        Some("names a key"),
        "`kid` is compared with the listed keys, never opened",
    ),
    row(
        "edge/kid-traversal2",
        "`kid` is a path that leads outside",
        Refuses,
        Some("names a key"),
        "`kid` is compared with the listed keys, never opened",
    ),
    row("edge/kid-missing", "`kid` names an unknown key", Refuses, Some("names a key"), "only listed keys count"),
    row("edge/no-kid", "no `kid`", Refuses, Some("has no `kid`"), "which key is meant must be said"),
    row("edge/no-alg", "no `alg`", Refuses, Some("has no `alg`"), "how it is signed must be said"),
    row("edge/alg-none", "`alg: none`", Refuses, Some("is signed with `alg` none"), "ES256 only"),
    row("edge/alg-es384", "`alg: ES384`", Refuses, Some("is signed with `alg` ES384"), "ES256 only"),
    row(
        "edge/der-sig",
        "the signature in DER form",
        Refuses,
        Some("has a signature that is not 64"),
        "64 bytes, r then s",
    ),
    row("edge/empty-sig", "no signature", Refuses, Some("has a signature that is not 64"), "64 bytes, r then s"),
    row(
        "edge/padded-payload",
        "the payload's base64 is padded",
        Refuses,
        Some("has a payload that is not base64url"),
        "base64url without padding, as RFC 7515 says",
    ),
    row(
        "edge/trailing-newline",
        "a newline at the end",
        Refuses,
        Some("holds white space"),
        "upstream's command trims it, the guest's unsealer does not",
    ),
    row("edge/type-upper", "type `Vault` with a capital", Refuses, Some("has a `type`"), "the type's case matters"),
    row(
        "edge/unknown-provider",
        "a provider nobody knows",
        Refuses,
        Some("asks the `provider`"),
        "only the KBS is asked",
    ),
    row(
        "edge/name-plain",
        "the resource is not a URI",
        Refuses,
        Some("has a `name`"),
        "kbs:///<repository>/<type>/<tag>",
    ),
    row(
        "edge/no-provider-settings",
        "`provider_settings` is missing",
        Refuses,
        Some("has no `provider_settings`"),
        "required, an empty object will do",
    ),
    row(
        "vault-missing-annotations.sealed",
        "`annotations` is missing",
        Refuses,
        Some("has no `annotations`"),
        "required, an empty object will do",
    ),
    row("vault-bad-version.sealed", "payload version 0.2.0", Refuses, Some("has a payload `version`"), "0.1.0 only"),
    row(
        "vault-tampered.sealed",
        "changed after it was sealed",
        Refuses,
        Some("has a signature that is not by"),
        "forged",
    ),
    row(
        "vault-fakesignature.sealed",
        "`fakejwsheader` and `fakesignature`, as many guides show",
        Refuses,
        Some("has a header that is not base64url"),
        "upstream reads it with its verification switched off only",
    ),
];

fn every_captured_sealed_secret_gets_the_verdict_of_its_row() {
    let dir = vectors().unwrap().join("generated/sealed");
    let jwk = std::fs::read(dir.join("verification-key.jwk.json")).unwrap();
    let listed = KbsUri::parse("kbs:///default/sealing-key/test-key").unwrap();
    let keys = [(listed, EcPublicJwk::parse(&jwk).unwrap())];
    for row in ROWS {
        let text = std::fs::read_to_string(dir.join(row.file)).unwrap();
        let verdict = SealedSecret::parse(&text).and_then(|unverified| unverified.verify(&keys));
        match (row.ours, verdict) {
            (None, Ok(verified)) => assert!(verified.name().path().starts_with("default/test/"), "{}", row.file),
            (Some(start), Err(error)) => assert!(error.to_string().starts_with(start), "{}: {error}", row.file),
            (_, other) => panic!("{}: {other:?}", row.file),
        }
    }
    let mut files: Vec<String> = ["", "edge/"]
        .iter()
        .flat_map(|sub| std::fs::read_dir(dir.join(sub)).unwrap().map(move |entry| (sub, entry.unwrap())))
        .filter(|(_, entry)| entry.file_type().unwrap().is_file())
        .map(|(sub, entry)| format!("{sub}{}", entry.file_name().into_string().unwrap()))
        .filter(|name| name != "verification-key.jwk.json")
        .collect();
    files.sort();
    let mut rows: Vec<&str> = ROWS.iter().map(|row| row.file).collect();
    rows.sort_unstable();
    assert_eq!(files, rows, "every captured file has exactly one row");
}

fn we_never_accept_what_upstream_refuses_as_not_authentic() {
    for row in ROWS {
        // A missing resource is not a matter of authenticity.
        let looser = row.upstream == Refuses && row.ours.is_none() && row.file != "edge/name-missing";
        assert!(!looser, "{}", row.file);
    }
}

const DOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sealed-secrets.md");
const BEGIN: &str = "<!-- table: begin (written by `COUNTERSIGN_BLESS=1 cargo test --test sealed_verdicts`) -->\n";
const END: &str = "<!-- table: end -->\n";

fn table() -> String {
    let mut out = String::from("| sealed secret | guest's unsealer | countersign | why |\n|---|---|---|---|\n");
    for row in ROWS {
        let upstream = if row.upstream == Accepts { "accepts" } else { "refuses" };
        let ours = match (row.ours, row.stricter()) {
            (None, _) => "accepts",
            (Some(_), false) => "refuses",
            (Some(_), true) => "**refuses (stricter)**",
        };
        writeln!(out, "| {} | {upstream} | {ours} | {} |", row.case, row.reason).unwrap();
    }
    out
}

fn with_table(doc: &str) -> String {
    let (before, rest) = doc.split_once(BEGIN).expect("the begin marker");
    let (_, after) = rest.split_once(END).expect("the end marker");
    format!("{before}{BEGIN}{}{END}{after}", table())
}

fn the_page_for_app_security_shows_this_table() {
    let doc = std::fs::read_to_string(DOC).unwrap();
    #[allow(clippy::disallowed_methods)] // A switch of the test, not of the product.
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        std::fs::write(DOC, with_table(&doc)).unwrap();
        return;
    }
    assert_eq!(doc, with_table(&doc), "run `COUNTERSIGN_BLESS=1 cargo test --test sealed_verdicts`");
}

countersign_testbed::main! {
    every_captured_sealed_secret_gets_the_verdict_of_its_row [Vectors],
    we_never_accept_what_upstream_refuses_as_not_authentic,
    the_page_for_app_security_shows_this_table,
}

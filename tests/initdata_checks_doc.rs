//! `docs/initdata-checks.md` is written from the rules of `initdata check`, and may not differ.
//!
//! After a change of the rules: `COUNTERSIGN_BLESS=1 cargo test --test initdata_checks_doc`.

use std::fmt::Write as _;
use std::path::Path;

use countersign::tool::initdata::check::rules;

#[test]
fn the_page_of_checks_says_what_the_rules_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/initdata-checks.md");
    let page = page();
    // A switch for whoever writes the page; the product reads its environment through `Ports`.
    #[allow(clippy::disallowed_methods)]
    let bless = std::env::var_os("COUNTERSIGN_BLESS").is_some();
    if bless {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/initdata-checks.md differs from the rules in src/tool/initdata/check/rules: run \
         `COUNTERSIGN_BLESS=1 cargo test --test initdata_checks_doc`"
    );
}

fn page() -> String {
    let mut page = String::from(HEAD);
    for rule in rules::all() {
        let _ = writeln!(page, "| [{0}](#{0}) | {1} |", rule.id, rule.level.label());
    }
    for rule in rules::all() {
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n- **level**: {}\n- **why**: {}\n- **next**: {}\n",
            rule.id,
            rule.finds,
            rule.level.label(),
            rule.why,
            rule.next
        );
    }
    page
}

const HEAD: &str = "\
<!-- Written by tests/initdata_checks_doc.rs from src/tool/initdata/check/rules. Change those, not this. -->

# What `initdata check` checks

    kubectl countersign initdata check [--prod] [--peer-pods] [--pod rendered.yaml] [--json] initdata.toml

Every problem is told, with file, line, the name of its rule, why it matters and what to do next.
The lines are those of the TOML, also where the file is packed. Exit code 78 when anything is
refused, 0 with warnings alone, 64 when the file cannot be read.

The agent policy is *evaluated*, with the engine that Kata's agent has: for each container that its
`policy_data` lists, a request is made that fits, and then the same with another command, variable,
mount and image. What is then admitted is a problem. A policy whose own containers are not admitted
is one too, since its denials show nothing.

The message at hand is usually more exact than the `next` below.

| rule | level |
|---|---|
";

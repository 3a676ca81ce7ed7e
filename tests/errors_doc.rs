//! `docs/errors.md` is written from the table of classes, and may not differ from it.
//!
//! After a change of the table: `COUNTERSIGN_BLESS=1 cargo test --test errors_doc`.

use std::fmt::Write as _;
use std::path::Path;

use countersign::finding::{Level, Retry, TABLE};

#[test]
fn the_page_of_errors_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
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
        "docs/errors.md differs from src/finding.rs: run `COUNTERSIGN_BLESS=1 cargo test --test errors_doc`"
    );
}

fn page() -> String {
    let mut page = String::from(HEAD);
    for row in TABLE {
        let _ = writeln!(
            page,
            "| [{}](#{}) | {} | `{}` |",
            row.code,
            anchor(row.code, row.label),
            row.probe_status(),
            row.label
        );
    }
    for row in TABLE {
        let _ = write!(
            page,
            "\n## {} {}\n\n{}\n\n- **next**: {}\n- **who**: {}\n- **again**: {}\n- **log level**: {}\n",
            row.code,
            row.label,
            row.meaning,
            row.hint,
            row.who.label(),
            again(row.retry),
            level(row.level),
        );
    }
    page
}

const HEAD: &str = "\
<!-- Written by tests/errors_doc.rs from src/finding.rs. Change those, not this. -->

# Errors

Every refusal has a class. The class is the exit code of `init` and `get`, the `class` of the line
in the container's termination message, and, in long-running roles, the status of the probes:
500 + (code - 60). So it gets out of a pod where logs and exec are denied.

A refusal says what was seen, why that is refused, what to do next, and who should do it. The
`next` below is the class's own; the message at hand is usually more exact. Exit code 0 is success.

| exit code | probe status | class |
|---|---|---|
";

/// The name that Markdown renderers give the heading of a class.
fn anchor(code: u8, label: &str) -> String {
    format!("{code}-{label}")
}

fn again(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "no: nothing changes until a person acts",
        Retry::Transient => "yes: tried again until the deadline, and worth a restart after it",
        Retry::Few => "a few tries, then a person",
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn: something outside has to change; countersign works as designed",
    }
}

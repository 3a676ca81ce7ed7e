//! What every world of the gallery is held to, and the page that is written from it.

use std::path::PathBuf;
use std::sync::Mutex;

use countersign::finding::Class;
use countersign_testbed::expect::starts_with_a_verb;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Document, Guest, SnpGuest, TdxGuest};
use countersign_testbed::world::{Cmd, Run, RunningSigner, World};
use serde_json::Value;

/// One broken world.
pub(crate) struct Case {
    /// The test that makes it.
    pub(crate) name: &'static str,
    /// What is broken, as a heading.
    pub(crate) title: &'static str,
    /// What the guest shows.
    pub(crate) road: &'static str,
    /// The first broken link; where nothing is broken, the first warning.
    pub(crate) first: &'static str,
    /// Its class.
    pub(crate) class: Class,
    /// Whether it is a warning only.
    pub(crate) warning: bool,
    /// What `next` names: a file, field, key or command.
    pub(crate) names: &'static str,
}

pub(crate) const CDH: &str = "127.0.0.1:8006 with CDH, as stock Kata";
pub(crate) const AGENT: &str = "127.0.0.1:8006 with `all`";
pub(crate) const DIRECT: &str = "configfs-tsm (a simulated TEE)";

/// The page's lock: tests run beside each other.
static PAGE: Mutex<()> = Mutex::new(());

/// What was asked, and what came of it.
pub(crate) fn asked(run: &Run) -> Value {
    let json: String = run.stdout.lines().map(|line| line.strip_prefix("SIMULATED: ").unwrap_or(line)).collect();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {}", run.output()))
}

/// The record of this id, the first if there are several.
pub(crate) fn check<'v>(all: &'v Value, id: &str) -> &'v Value {
    all["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap_or(&Value::Null)
}

/// Holds a run to its case, and the page to the run.
#[track_caller]
pub(crate) fn hold(world: &World, case: &Case, all: &[Case], run: &Run) -> Value {
    assert!(!run.timed_out, "{}", run.output());
    let said = asked(run);
    let state = if case.warning { "warn" } else { "fail" };
    let first = said["checks"].as_array().unwrap().iter().find(|check| check["state"] == state);
    let first = first.unwrap_or_else(|| panic!("nothing is said to be {state}: {}", run.output()));
    assert_eq!(first["id"], case.first, "{}", run.output());
    assert_eq!(first["class"], case.class.label(), "{}", run.output());
    let next = first["next"].as_str().unwrap();
    assert!(starts_with_a_verb(next), "{next}");
    assert!(next.contains(case.names), "`next` names {}: {next}", case.names);
    if case.warning {
        assert_eq!(said["broken"], Value::Null, "{}", run.output());
        assert_eq!(run.code, Some(0), "{}", run.output());
    } else {
        assert_eq!(said["broken"]["id"], case.first);
        assert_eq!(run.code, Some(i32::from(case.class.code())), "{}", run.output());
    }
    assert!(said["verdict"].as_str().unwrap().contains(case.first), "{}", run.output());
    page_says(case, all, &section(world, case, first, &said));
    said
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md")
}

/// A switch for whoever writes the page; the product reads its environment through `Ports`.
#[allow(clippy::disallowed_methods)]
fn blessing() -> bool {
    std::env::var_os("COUNTERSIGN_BLESS").is_some()
}

fn section(world: &World, case: &Case, first: &Value, said: &Value) -> String {
    let text = |field: &str| normal(world, first[field].as_str().unwrap_or_default());
    let link = if case.warning { "first warning" } else { "first broken link" };
    let exit = if case.warning { 0 } else { case.class.code() };
    // What the verifier said is often why something later was refused.
    let verdict = check(said, "attest.verdict");
    let beside = if verdict["state"] == "warn" {
        let text = |field: &str| normal(world, verdict[field].as_str().unwrap_or_default());
        format!("- **beside it**: `attest.verdict` warns: {}. {}\n", text("saw"), text("next"))
    } else {
        String::new()
    };
    format!(
        "## {}\n\n- **the guest shows**: {}\n- **{link}**: `{}`, class [{}](errors.md#{}-{}), exit {exit}\n\
         - **saw**: {}\n- **cause**: {}\n- **next**: {}\n- **who**: {}\n{beside}",
        case.title,
        case.road,
        case.first,
        case.class.label(),
        case.class.code(),
        case.class.label(),
        text("saw"),
        text("cause"),
        text("next"),
        text("who"),
    )
}

/// Without what differs from run to run and from machine to machine: directories of the test, digests,
/// counts of tries, file systems.
fn normal(inside: &World, text: &str) -> String {
    const DISKS: [&str; 4] = ["ext4,", "xfs,", "btrfs,", "overlay,"];
    let own = inside.directory().display().to_string();
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let hex: String = word.chars().filter(char::is_ascii_hexdigit).collect();
        let digits = word.trim_start_matches('(');
        let before = words.last().map_or("", String::as_str);
        let end = if word.ends_with(',') { "," } else { "" };
        let word = if word.contains("/countersign-world-") || word.contains(&own) {
            let tail = word.rsplit('/').next().unwrap_or_default();
            // A world counts its directories, and an ordinary user's has one more.
            let tail =
                tail.rsplit_once('-').filter(|(_, count)| count.parse::<u32>().is_ok()).map_or(tail, |(name, _)| name);
            format!("{}/…/{tail}", if word.starts_with('`') { "`" } else { "" })
        } else if hex.len() >= 16 && hex.len() + 2 >= word.chars().count() {
            format!("…{end}")
        } else if digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            "N".to_owned()
        } else if before == "at" && words.iter().rev().nth(1).is_some_and(|word| word == "mounted") {
            "/…,".to_owned()
        } else if DISKS.contains(&word) {
            "ext4,".to_owned()
        } else if matches!(word, "tries)" | "tries") && before.trim_start_matches('(').parse::<u32>().is_ok() {
            let count = if before.starts_with('(') { "(N" } else { "N" };
            words.pop();
            words.push(count.to_owned());
            word.to_owned()
        } else {
            word.to_owned()
        };
        words.push(word);
    }
    words.join(" ")
}

const HEAD: &str = "\
<!-- Written by tests/diagnose_gallery.rs from worlds that are broken on purpose. Change those, not this. -->

# Troubleshooting

Run `countersign diagnose` where it does not work ([diagnose.md](diagnose.md)). Below is what it says in
worlds that were broken on purpose, each by one thing: each entry is a test, and the text is what the
program printed. Words of the message at hand may differ by your names and addresses.
";

#[track_caller]
fn page_says(case: &Case, all: &[Case], section: &str) {
    let _lock = PAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut page = std::fs::read_to_string(path()).unwrap_or_default();
    if blessing() {
        let mut sections: Vec<(usize, String)> = split(&page)
            .into_iter()
            .filter_map(|old| Some((place_of(all, &old)?, old)))
            .filter(|(_, old)| !old.starts_with(&format!("## {}\n", case.title)))
            .collect();
        sections.push((place_of(all, section).unwrap(), section.to_owned()));
        sections.sort();
        let body: Vec<String> = sections.into_iter().map(|(_, text)| text).collect();
        page = format!("{HEAD}\n{}", body.join("\n"));
        std::fs::write(path(), &page).unwrap();
    }
    assert!(
        page.contains(section),
        "docs/troubleshooting.md differs: run `COUNTERSIGN_BLESS=1 cargo test --test diagnose_gallery`; it is now\n{section}"
    );
}

fn split(page: &str) -> Vec<String> {
    page.split("\n## ").skip(1).map(|rest| format!("## {}\n", rest.trim_end())).collect()
}

fn place_of(all: &[Case], section: &str) -> Option<usize> {
    all.iter().position(|case| section.starts_with(&format!("## {}\n", case.title)))
}

/// The page has each case once, in the order of the table, and nothing else.
pub(crate) fn the_page_is_the_table(all: &[Case]) {
    let page = std::fs::read_to_string(path()).unwrap();
    assert!(page.starts_with(HEAD), "the head of docs/troubleshooting.md differs");
    let titles: Vec<String> = split(&page).iter().map(|s| s.lines().next().unwrap().to_owned()).collect();
    let expected: Vec<String> = all.iter().map(|case| format!("## {}", case.title)).collect();
    assert_eq!(titles, expected);
}

/// A guest with hardware of its own, launched with initdata that configures everything, and its KBS.
pub(crate) struct Direct {
    pub(crate) world: World,
    pub(crate) kbs: RunningKbs,
    pub(crate) signer: RunningSigner,
    pub(crate) document: Document,
}

/// An agent policy that pins a container, in the shape of Kata's generator.
const PINNING: &str = "package agent_policy\ndefault CreateContainerRequest := false\n\
                       default ExecProcessRequest := false\npolicy_data := {\"containers\": [{}]}\n";

/// What the configuration in the initdata asks for.
pub(crate) const SECRET: &str = "[[secrets.file]]\npath = \"db/password\"\nfrom = \"kbs:///payments/db/password\"\n";

impl Direct {
    /// `script` is the hardware's; all else is as it should be.
    pub(crate) fn new(script: &str) -> Self {
        Self::with(script, |kbs| kbs, "", |document| document)
    }

    /// `change` makes the KBS another, `kbs_keys` go into `[kbs]`, `document` changes the initdata.
    pub(crate) fn with(
        script: &str,
        change: impl FnOnce(Kbs) -> Kbs,
        kbs_keys: &str,
        document: impl FnOnce(Document) -> Document,
    ) -> Self {
        let world = World::new().unwrap();
        let ca = Ca::new("kbs");
        let kbs = Kbs::healthy()
            .tls(ca.leaf(&["127.0.0.1"]))
            .resource("payments/db/password", "alpha")
            .policy(Policy::Affirming)
            .reference(&Guest::Snp(SnpGuest::genoa()))
            .reference(&Guest::Tdx(TdxGuest::v4()));
        let kbs = world.kbs("127.0.0.1:8443", change(kbs));
        let directory = world.ramdir().unwrap().join("secrets");
        let config = format!(
            "version = 1\n[kbs]\nurl = [\"{}\"]\nca = \"\"\"\n{}\"\"\"\n{kbs_keys}[secrets]\ndirectory = \"{}\"\n{SECRET}",
            kbs.url(),
            ca.pem(),
            directory.display(),
        );
        let document = document(Document::of_kbs(&kbs.url(), ca.pem()).policy(PINNING).countersign(&config));
        let signer = world.signer(Signer::answering(script).launched_with(&document.digest()));
        Self { world, kbs, signer, document }
    }

    pub(crate) fn diagnose(&self) -> Cmd<'_> {
        self.diagnose_with(&self.document.text())
    }

    /// With other initdata mounted than the hardware was launched with.
    pub(crate) fn diagnose_with(&self, initdata: &str) -> Cmd<'_> {
        self.world.sim(&["diagnose", "--json"]).tee(&self.signer).initdata(initdata)
    }
}

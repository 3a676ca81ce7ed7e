//! Keeps the house's layers: a room imports the layers below it, never above, and sideways only
//! inside itself. Facts and judges touch neither network, files nor clock.
//!
//! It reads the sources as text, without comments, strings and test modules. Text is enough: the
//! house writes `crate::room` in full, and macros that hide a path do not get past review.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

use std::fs;
use std::path::{Path, PathBuf};

countersign_testbed::main! {
    the_house_keeps_its_layers,
    every_room_has_a_layer,
    an_import_from_above_is_found,
    an_import_from_beside_is_found,
    grouped_and_relative_imports_are_found,
    an_import_from_below_is_allowed,
    network_files_and_clocks_are_found_in_facts,
    address_types_are_allowed_in_facts,
    comments_strings_and_test_modules_do_not_count,
}

/// From the top down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Facts,
    Judges,
    Ports,
    Flows,
    Roles,
}

/// Every room of the house, those that later issues build too.
const ROOMS: &[(&str, Layer)] = &[
    ("role", Layer::Roles),
    ("tool", Layer::Roles),
    ("access", Layer::Flows),
    ("secrets", Layer::Flows),
    ("identity", Layer::Flows),
    ("proxy", Layer::Flows),
    ("tsm", Layer::Ports),
    ("guest_api", Layer::Ports),
    ("kbs", Layer::Ports),
    ("issuance", Layer::Ports),
    ("ramdir", Layer::Ports),
    ("tls", Layer::Ports),
    ("observe", Layer::Ports),
    ("sandbox", Layer::Ports),
    ("clock", Layer::Ports),
    ("ports", Layer::Ports),
    ("cli", Layer::Ports),
    ("appraise", Layer::Judges),
    ("formats", Layer::Facts),
    ("evidence", Layer::Facts),
    ("config", Layer::Facts),
    ("finding", Layer::Facts),
    ("check", Layer::Facts),
    ("secret", Layer::Facts),
];

/// Beside, and allowed: the outside world's plain types, and TLS and the time, each in one place.
const SHARED: &[(&str, Layer)] = &[("ports", Layer::Ports), ("tls", Layer::Ports), ("clock", Layer::Ports)];

/// What facts and judges may not name, and why not. A trailing `::` would miss `use std::fs;`.
const OUTSIDE: &[(&str, &str)] = &[
    ("tokio", "facts wait for nothing"),
    ("hyper", "facts speak to nobody"),
    ("hyper_util", "facts speak to nobody"),
    ("reqwest", "facts speak to nobody"),
    ("hickory_resolver", "facts speak to nobody"),
    ("rustix", "facts ask the kernel nothing"),
    ("std::fs", "facts read no files"),
    ("std::process", "facts start and end nothing"),
    ("std::env", "facts do not look at the environment"),
    ("std::thread", "facts wait for nothing"),
    ("std::net::TcpStream", "facts speak to nobody"),
    ("std::net::TcpListener", "facts speak to nobody"),
    ("std::net::UdpSocket", "facts speak to nobody"),
    ("std::net::ToSocketAddrs", "it resolves names"),
    ("std::os::unix::net", "facts speak to nobody"),
    ("std::time::Instant", "facts have no clock: time is an argument"),
    ("SystemTime::now", "facts have no clock: time is an argument"),
    ("Instant::now", "facts have no clock: time is an argument"),
];

fn the_house_keeps_its_layers() {
    let mut broken = Vec::new();
    let mut read = 0;
    for path in sources(&root()) {
        read += 1;
        let inside = path.strip_prefix(root()).unwrap();
        broken.extend(judge(inside, &fs::read_to_string(&path).unwrap()));
    }
    assert!(read > 10, "only {read} files below src/: is this the right place?");
    assert!(broken.is_empty(), "the layers are broken:\n  {}", broken.join("\n  "));
}

fn every_room_has_a_layer() {
    for path in sources(&root()) {
        let inside = path.strip_prefix(root()).unwrap();
        let known = room_of(inside).is_none_or(|room| layer_of(&room).is_some());
        assert!(known, "src/{} is in no layer: give its room one in tests/layers.rs", inside.display());
    }
}

fn an_import_from_above_is_found() {
    let found = judge(Path::new("kbs/mod.rs"), "use crate::secrets::publish;\n");
    assert_eq!(found, ["src/kbs/mod.rs:1: kbs (Ports) may not use secrets (Flows)"]);
    assert_eq!(judge(Path::new("finding.rs"), "fn f() {\n    crate::observe::log();\n}").len(), 1);
    assert_eq!(judge(Path::new("secrets/mod.rs"), "use crate::role::init;").len(), 1);
    assert_eq!(judge(Path::new("config/raw.rs"), "use crate::ports::Ports;").len(), 1);
}

fn an_import_from_beside_is_found() {
    assert_eq!(judge(Path::new("kbs/mod.rs"), "use crate::guest_api::Client;").len(), 1);
    assert_eq!(judge(Path::new("secrets/mod.rs"), "use crate::access::Session;").len(), 1);
    assert_eq!(judge(Path::new("role/init.rs"), "use crate::tool::verify;").len(), 1);
}

fn grouped_and_relative_imports_are_found() {
    let grouped = "use crate::{\n    finding::{Class, Finding},\n    secrets::publish,\n    role,\n};";
    let found = judge(Path::new("kbs/mod.rs"), grouped);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("src/kbs/mod.rs:3:"), "{found:?}");
    assert_eq!(judge(Path::new("kbs/mod.rs"), "use super::secrets;").len(), 1);
    assert_eq!(judge(Path::new("kbs/wire.rs"), "use super::super::secrets;").len(), 1);
    assert_eq!(judge(Path::new("finding.rs"), "use super::role;").len(), 1);
    // In a room's inner file `super` is the room itself.
    assert!(judge(Path::new("kbs/wire.rs"), "use super::secrets;").is_empty());
}

fn an_import_from_below_is_allowed() {
    for (file, text) in [
        ("role/init.rs", "use crate::secrets::run;\nuse crate::kbs::probe;\nuse crate::finding::Finding;"),
        ("secrets/mod.rs", "use crate::ramdir::RamDir;\nuse crate::observe::log;\nuse crate::secret::Secret;"),
        ("kbs/mod.rs", "use crate::ports::Ports;\nuse crate::tls::client;\nuse crate::kbs::wire;"),
        ("config/mod.rs", "use crate::formats::kbs_uri::KbsUri;\nuse crate::config::types;"),
        ("lib.rs", "use crate::role;"),
        ("main.rs", "use countersign::ports::Ports;"),
    ] {
        assert!(judge(Path::new(file), text).is_empty(), "{file}: {:?}", judge(Path::new(file), text));
    }
}

fn network_files_and_clocks_are_found_in_facts() {
    for line in [
        "use std::fs;",
        "let text = std::fs::read(path);",
        "use std::{fs, io};",
        "use std::net::TcpStream;",
        "use std::net::{IpAddr, UdpSocket};",
        "use tokio::time::sleep;",
        "let now = SystemTime::now();",
        "use std::time::{Duration, Instant};",
    ] {
        assert_eq!(judge(Path::new("formats/jwk.rs"), line).len(), 1, "{line}");
        assert_eq!(judge(Path::new("appraise/snp.rs"), line).len(), 1, "{line}");
        assert!(judge(Path::new("kbs/mod.rs"), line).is_empty(), "{line}");
    }
}

fn address_types_are_allowed_in_facts() {
    let text = "use std::net::{IpAddr, SocketAddr};\nuse std::time::{Duration, SystemTime};\nuse std::fmt;";
    assert!(judge(Path::new("config/types.rs"), text).is_empty());
    assert!(judge(Path::new("config/types.rs"), "struct tokio_like; fn hyperbole() {}").is_empty());
}

fn comments_strings_and_test_modules_do_not_count() {
    let text = "// use crate::role;\n/* crate::role */\n/// [`crate::role`]\nconst T: &str = \"crate::role\";\n\
                const R: &str = r#\"a \"crate::role\" b\"#;\nfn f() -> char { '\"' }\n\
                #[cfg(test)]\nmod tests {\n    use crate::role;\n    use std::fs;\n}\n";
    assert!(judge(Path::new("formats/jwk.rs"), text).is_empty(), "{:?}", judge(Path::new("formats/jwk.rs"), text));
    let declared = "#[cfg(test)]\nmod tests;\nuse crate::role;\n";
    assert_eq!(judge(Path::new("formats/jwk.rs"), declared).len(), 1, "a declared test module hides nothing");
    let after = "fn f<'a>(c: &'a str) -> char { '\"' }\nuse crate::role;\n";
    assert_eq!(judge(Path::new("formats/jwk.rs"), after).len(), 1);
}

/// What one file, named from `src/`, breaks.
fn judge(file: &Path, text: &str) -> Vec<String> {
    let Some(room) = room_of(file) else { return Vec::new() };
    let Some(layer) = layer_of(&room) else { return Vec::new() };
    let code = code_only(text);
    let mut broken = Vec::new();
    for (line, path) in paths(&code) {
        let place = format!("src/{}:{line}", file.display());
        if let Some(used) = used_room(file, &path)
            && let Some(its_layer) = layer_of(&used)
            && used != room
            && !may_use(&room, layer, &used, its_layer)
        {
            broken.push(format!("{place}: {room} ({layer:?}) may not use {used} ({its_layer:?})"));
        }
        if layer <= Layer::Judges
            && let Some((_, why)) = OUTSIDE.iter().find(|(banned, _)| names(&path, banned))
        {
            broken.push(format!("{place}: {room} ({layer:?}) may not use {path}: {why}"));
        }
    }
    broken
}

fn may_use(room: &str, layer: Layer, used: &str, its_layer: Layer) -> bool {
    // Two words of the same vocabulary: a configuration holds URIs, a finding names them.
    let both_facts = layer == Layer::Facts && its_layer == Layer::Facts;
    // The world has a clock; the clock knows nothing of the world.
    let turned = room == "ports" && used != "clock" || room == "clock";
    let shared = layer >= Layer::Ports && !turned && SHARED.contains(&(used, its_layer));
    its_layer < layer || both_facts || shared
}

/// Whether a path is, or lies inside, what is banned; `SystemTime::now` counts under any prefix.
fn names(path: &str, banned: &str) -> bool {
    let rest = if banned.ends_with("::now") { path.find(banned).map(|at| &path[at..]) } else { Some(path) };
    rest.and_then(|rest| rest.strip_prefix(banned)).is_some_and(|after| after.is_empty() || after.starts_with("::"))
}

/// The room that a path leads into: `crate::x::…`, or `super::x::…` from the right depth.
fn used_room(file: &Path, path: &str) -> Option<String> {
    let mut parts = path.split("::");
    let rest = match parts.next()? {
        "crate" => parts.next()?,
        "super" => {
            let depth = file.components().count() - usize::from(file.ends_with("mod.rs"));
            let mut ups = 1;
            loop {
                match parts.next()? {
                    "super" => ups += 1,
                    other => break (ups == depth).then_some(other)?,
                }
            }
        }
        _ => return None,
    };
    Some(rest.to_owned())
}

fn layer_of(room: &str) -> Option<Layer> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, layer)| *layer)
}

/// The room of a file: its first directory, or its name. `lib.rs`, `main.rs` and `bin/` are above
/// the house.
fn room_of(file: &Path) -> Option<String> {
    let first = file.components().next()?.as_os_str().to_string_lossy();
    let room = first.strip_suffix(".rs").unwrap_or(&first);
    (!["lib", "main", "bin"].contains(&room)).then(|| room.to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text with comments and the insides of strings blanked, newlines kept, and cut at the test
/// module with a body, which by house style ends a file. A module that is only declared
/// (`mod tests;`) lies in a file of its own and cuts nothing.
fn code_only(text: &str) -> String {
    let body = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.trim_end().ends_with('{'));
    let text = match text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at).find(body) {
        Some(at) => &text[..at],
        None => text,
    };
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skipped(rest);
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of the comment, string or character that `rest` begins with; 0 for code.
fn skipped(rest: &str) -> usize {
    let up_to = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return up_to("*/", 2);
    }
    if let Some(raw) = rest.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            return up_to(&format!("\"{}", "#".repeat(hashes)), hashes + 2);
        }
        return 0;
    }
    if rest.starts_with('"') {
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return at + 1,
                _ => {}
            }
        }
        return rest.len();
    }
    // A character, not a lifetime: `'x'` or `'\…'`.
    let mut chars = rest.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), Some(_)) => up_to("'", 3),
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Every path in the code with its line; groups (`a::{b, c::d}`) are written out.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // Prefixes of the groups that are open; braces that are no group push an empty one.
    let mut open: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut line = 1;
    for c in code.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' || c == ':' {
            word.push(c);
            continue;
        }
        let prefix = open.last().cloned().unwrap_or_default();
        if c == '{' {
            let group = if word.ends_with("::") { format!("{prefix}{word}") } else { String::new() };
            open.push(group);
        } else if word.chars().any(char::is_alphanumeric) && (word.contains("::") || !prefix.is_empty()) {
            let path = format!("{prefix}{word}");
            found
                .push((line, path.trim_end_matches("::self").trim_end_matches(':').trim_start_matches(':').to_owned()));
        }
        word.clear();
        if c == '}' {
            open.pop();
        }
        if c == '\n' {
            line += 1;
        }
    }
    found
}

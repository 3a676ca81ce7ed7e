//! `initdata unpack`: back to the exact TOML, or a file for each section.

use std::path::Path;

use super::{Output, load, refuse, write_new};
use crate::finding::{Finding, printable};

/// The whole document, beside its sections.
const WHOLE: &str = "initdata.toml";

pub(super) fn run(file: &Path, to: Option<&Path>) -> Result<Output, Finding> {
    let initdata = load(file)?;
    let Some(directory) = to else {
        return Ok(Output::text(initdata.toml()));
    };
    // Judged before anything is written: the names come from the document.
    if let Some(name) = initdata.names().find(|name| !is_file_name(name)) {
        return Err(refuse(format!("a section is named `{}`, which cannot be a file's name", printable(name, 60)))
            .why("a section's name could lead out of the directory, or hide the file")
            .next("run `initdata unpack` without `--to`, and read the section there"));
    }
    std::fs::create_dir_all(directory).map_err(|error| {
        refuse(format!("{} cannot be made: {}", directory.display(), error.kind()))
            .next("name a new directory with --to")
    })?;
    let mut said = Vec::new();
    let sections = initdata.names().filter_map(|name| Some((name, initdata.get(name)?)));
    for (name, text) in std::iter::once((WHOLE, initdata.toml())).chain(sections) {
        let path = directory.join(name);
        write_new(&path, text)?;
        said.push(format!("{}: {} bytes\n", path.display(), text.len()));
    }
    Ok(Output::text(said.concat()))
}

/// Letters, digits, `.`, `_` and `-`, not beginning with a dot, at most 120 of them.
fn is_file_name(name: &str) -> bool {
    (1..=120).contains(&name.len())
        && !name.starts_with('.')
        && name != WHOLE
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

//! `countersign get`: one secret, one line, in place of `curl 127.0.0.1:8006`.

use std::path::{Path, PathBuf};

use super::{Ended, boot};
use crate::access::Deadline;
use crate::access::standing::Standing;
use crate::cli::Get;
use crate::config::{self, Expect, Provenance, RelativePath};
use crate::finding::{Class, Finding, printable};
use crate::formats::kbs_uri::KbsUri;
use crate::ports::Ports;
use crate::ramdir::{Entry, Needs, RamDir};
use crate::secrets;

pub(super) async fn run(ports: &Ports, arguments: &Get) -> Ended {
    Ended::new("get", Some(Provenance::Unmeasured), get(ports, arguments).await)
}

async fn get(ports: &Ports, arguments: &Get) -> Result<String, Finding> {
    let wanted = Wanted::parse(arguments)?;
    boot::environment(ports)?;
    let deadline = Deadline::after(wanted.deadline);
    let needs = Needs { files: 1, ..Needs::default() };
    let directory = RamDir::prove(&wanted.directory, &needs, &ports.proc).map_err(|error| error.finding())?;
    let standing = Standing::new(ports, deadline, boot::in_a_pod(ports));
    let road = boot::cdh(ports, &standing, None, deadline);
    let value = road.fetch(&wanted.from, wanted.expect.max_bytes).await?;
    let origin = wanted.from.to_string();
    secrets::check::check(&wanted.expect, value.expose(), None)
        .map_err(|error| secrets::content(&origin, &origin, &error))?;
    let entry = Entry { path: &wanted.name, bytes: value.expose(), mode: wanted.mode, owner: None, group: None };
    directory.publish_one(&entry, &ports.fail).map_err(|error| error.finding())?;
    Ok(format!("{} is in {} ({})", wanted.from, arguments.to.display(), directory.describe()))
}

/// The arguments, understood. All of them are read before anything is done.
struct Wanted {
    from: KbsUri,
    directory: PathBuf,
    name: RelativePath,
    expect: Expect,
    mode: u32,
    deadline: std::time::Duration,
}

impl Wanted {
    fn parse(arguments: &Get) -> Result<Self, Finding> {
        let usage = |saw: String, next: &str| Finding::new(Class::Usage, saw).next(next);
        if arguments.from.starts_with("sealed.") {
            return Err(Finding::new(Class::Config, "`get` was given a sealed secret")
                .why("a sealed secret is believed under keys and for resources that the control plane did not choose; a command line is the control plane's")
                .next("list it in `[[secrets.file]]`, with `resource` and `[secrets].sealed_keys`, in a configuration that the KBS delivers, and run `countersign init`"));
        }
        let from = KbsUri::parse(&arguments.from)
            .map_err(|error| usage(format!("the resource {error}"), "write it as kbs:///<repository>/<type>/<tag>"))?;
        let (directory, name) = split(&arguments.to).map_err(|why| {
            usage(
                format!("--to {} {why}", printable(&arguments.to.to_string_lossy(), 200)),
                "name the file with --to, for example /run/countersign/secrets/db/password",
            )
        })?;
        let expect = config::flags::expect(&arguments.expect).map_err(|message| {
            usage(format!("--expect {message}"), "correct --expect; `countersign get --help` lists its keys")
        })?;
        let mode = config::flags::mode(&arguments.mode)
            .map_err(|message| usage(format!("--mode {message}"), "write --mode as octal, for example 0440"))?;
        let deadline = config::flags::deadline(&arguments.deadline)
            .map_err(|message| usage(format!("--deadline {message}"), "write --deadline as 90s, 5m or 1h"))?;
        Ok(Self { from, directory, name, expect, mode, deadline })
    }
}

/// The directory and the name of a file. Both are judged again where they are opened.
fn split(to: &Path) -> Result<(PathBuf, RelativePath), &'static str> {
    if !to.is_absolute() {
        return Err("is not an absolute path");
    }
    let name = to.file_name().and_then(|name| name.to_str()).ok_or("names no file")?;
    let directory = to.parent().ok_or("names no file")?;
    if to.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err("names a directory");
    }
    Ok((directory.to_owned(), RelativePath::parse(name)?))
}

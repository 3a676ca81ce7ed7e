//! `countersign config check | explain | schema`: for whoever writes a configuration.
//!
//! Nothing here believes a file. `check` says as which provenance it would be accepted; `explain`
//! is told which one to assume.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::config::{
    self, Arg, Config, Document, For, Inputs, MAX_DOCUMENT, Origin, Problem, Provenance, resolve, schema,
};
use crate::finding::Class;

/// Every provenance, least believed first.
const PROVENANCES: [Provenance; 5] = [
    Provenance::Unmeasured,
    Provenance::DeliveredUnproven,
    Provenance::Delivered,
    Provenance::GuestAttested,
    Provenance::Measured,
];

/// `config check FILE…`: each problem a line on `err`; for a good file one line on `out` that says
/// what is in it and as which provenance it is accepted, and a note on `out` for each it is not.
/// The environment is not looked at.
///
/// Returns the exit code: 0, 64 without a file, 78 when any file is refused as `measured`, the
/// provenance that may do everything.
pub fn check(files: &[PathBuf], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    if files.is_empty() {
        writeln!(err, "no file named; run `countersign config check countersign.toml`")?;
        return Ok(Class::Usage.code());
    }
    let mut code = 0;
    for path in files {
        match checked(path) {
            Ok(summary) => write!(out, "{summary}")?,
            Err(problems) => {
                code = print(&problems, err)?;
            }
        }
    }
    Ok(code)
}

/// `config explain [FILE]`: every value, where it came from, and its provenance, on `out`. Without
/// a file the environment and the arguments are all there is; a file is taken as `believed`, and
/// as written for whom it says.
///
/// Returns the exit code: 0, or 78 with a line on `err` for each problem.
pub fn explain(
    file: Option<&Path>,
    believed: Provenance,
    env: &BTreeMap<OsString, OsString>,
    args: &[Arg<'_>],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let read = file.map(|path| read(path).map(|text| (path, text))).transpose();
    let document = match &read {
        Ok(document) => document.as_ref(),
        Err(problem) => return print(std::slice::from_ref(problem), err),
    };
    let audience = document.and_then(|(path, text)| stated_audience(path, text));
    let document = document.map(|(path, text)| Document {
        text,
        origin: Origin::file(path.display().to_string()),
        provenance: believed,
        required_audience: audience.as_ref(),
    });
    match config::resolve_with_sources(&Inputs { document, env, args, role: None }) {
        Ok((config, sources)) => {
            write!(out, "{}", config::explain(&config, &sources))?;
            Ok(0)
        }
        Err(problems) => print(&problems, err),
    }
}

/// `config schema`: the JSON Schema on `out`. Returns the exit code, 0.
pub fn schema(out: &mut dyn Write) -> io::Result<u8> {
    write!(out, "{}", schema::json_schema())?;
    Ok(0)
}

fn print(problems: &[Problem], err: &mut dyn Write) -> io::Result<u8> {
    for problem in problems {
        writeln!(err, "{problem}")?;
    }
    Ok(Class::Config.code())
}

fn checked(path: &Path) -> Result<String, Vec<Problem>> {
    let text = read(path).map_err(|problem| vec![problem])?;
    let config = resolve_as(path, &text, Provenance::Measured, None)?;
    let (mut accepted, mut notes) = (Vec::new(), String::new());
    for provenance in PROVENANCES {
        match resolve_as(path, &text, provenance, config.audience.as_ref()) {
            Ok(_) => accepted.push(provenance.label()),
            Err(problems) => {
                notes.extend(problems.iter().map(|problem| format!("  not as {provenance}: {problem}\n")));
            }
        }
    }
    let summary = format!(
        "{}: ok: {}, {}, serial {}; accepted as {}\n{notes}",
        Origin::file(path.display().to_string()),
        count(config.secrets.files.len(), "file"),
        count(config.secrets.gates.len(), "gate"),
        config.serial,
        accepted.join(", "),
    );
    Ok(summary)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn resolve_as(path: &Path, text: &str, provenance: Provenance, audience: Option<&For>) -> Result<Config, Vec<Problem>> {
    let origin = Origin::file(path.display().to_string());
    let document = Document { text, origin, provenance, required_audience: audience };
    resolve(&Inputs { document: Some(document), env: &BTreeMap::new(), args: &[], role: None })
}

/// Whom a file says it was written for, if it is good at all.
fn stated_audience(path: &Path, text: &str) -> Option<For> {
    resolve_as(path, text, Provenance::Measured, None).ok()?.audience
}

/// Reads a plain file of limited length.
fn read(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem::new(Origin::file(path.display().to_string()), "", message);
    // Asked before opening: opening a pipe would wait for a writer that never comes. `-` is no name
    // for the standard input here; messages name a file and a line, which a stream does not have.
    if let Ok(metadata) = std::fs::metadata(path)
        && !metadata.is_file()
    {
        let what = if metadata.is_dir() { "is a directory" } else { "is not a plain file" };
        return Err(problem(what.to_owned()).hint("name a plain file; write what comes from a pipe to one first"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(|error| {
        problem(format!("cannot be read: {}", error.kind())).hint("name a file that exists and that you may read")
    })?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(problem("is longer than 256 KiB".to_owned()).hint("write a shorter file"));
    }
    String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".to_owned()).hint("write the file as plain text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
    }

    fn run(call: impl FnOnce(&mut dyn Write, &mut dyn Write) -> io::Result<u8>) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = call(&mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn file(text: &[u8]) -> (PathBuf, impl Drop) {
        struct Gone(PathBuf);
        impl Drop for Gone {
            fn drop(&mut self) {
                let _ = std::fs::remove_file(&self.0);
            }
        }
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("countersign-config-{}-{next}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        (path.clone(), Gone(path))
    }

    #[test]
    fn check_says_what_is_in_a_good_file_and_as_what_it_is_accepted() {
        let (code, out, err) = run(|out, err| check(&[example("countersign.toml")], out, err));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(
            out.contains("ok: 1 file, 1 gate, serial 0; accepted as unmeasured, guest-attested, measured\n"),
            "{out}"
        );
        assert!(out.contains("  not as delivered: ") && out.contains("for: is missing"), "{out}");
        let (code, out, _) = run(|out, err| check(&[example("everything.toml")], out, err));
        assert_eq!(code, 0);
        assert!(out.contains("accepted as delivered-unproven, delivered, guest-attested, measured\n"), "{out}");
        assert!(out.contains("not as unmeasured: ") && out.contains("allow_http"), "{out}");
    }

    #[test]
    fn check_tells_every_problem_on_its_line_and_ends_with_78() {
        let (bad, _gone) = file(b"version = 1\nserail = 2\n[log]\nlevel = \"loud\"\n");
        let (code, out, err) = run(|out, err| check(&[bad, example("countersign.toml")], out, err));
        assert_eq!(code, 78);
        assert_eq!(err.lines().count(), 2, "{err}");
        assert!(err.contains(":2: serail: unknown key; write `serial`"), "{err}");
        assert!(out.contains("countersign.toml: ok"), "the good one is still checked: {out}");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let (text, _gone) = file(b"\xff\xfe");
        let long = vec![b'#'; 300 * 1024];
        let (long, _gone) = file(&long);
        for (path, why) in [
            (text, "is not UTF-8"),
            (long, "is longer than 256 KiB"),
            (PathBuf::from("/nonexistent.toml"), "cannot be read: entity not found"),
            (PathBuf::from("/"), "is a directory; name a plain file"),
            (PathBuf::from("/dev/zero"), "is not a plain file"),
        ] {
            let (code, _, err) = run(|out, err| check(&[path], out, err));
            assert_eq!(code, 78);
            assert!(err.contains(why), "{err}");
        }
        assert_eq!(run(|out, err| check(&[], out, err)).0, 64);
    }

    #[test]
    fn a_pipe_without_a_writer_is_refused_and_not_waited_for() {
        // A name that is free again, for a pipe in the file's place.
        let (pipe, _gone) = file(b"");
        std::fs::remove_file(&pipe).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let (told, asked) = std::sync::mpsc::channel();
        let checked = pipe.clone();
        std::thread::spawn(move || told.send(run(|out, err| check(&[checked], out, err))));
        let refused = asked.recv_timeout(std::time::Duration::from_secs(20));
        let (code, _, err) = refused.expect("an answer at once: nobody will ever write into the pipe");
        assert_eq!(code, 78);
        assert!(err.contains("is not a plain file; name a plain file"), "{err}");
    }

    #[test]
    fn explain_takes_a_file_or_the_environment() {
        let env = BTreeMap::from([("COUNTERSIGN_SECRETS".into(), "a=kbs:///a/b/c".into())]);
        let (code, out, _) = run(|out, err| explain(None, Provenance::Unmeasured, &env, &[], out, err));
        assert_eq!(code, 0);
        assert!(out.contains("env COUNTERSIGN_SECRETS"), "{out}");
        let path = example("everything.toml");
        let none = BTreeMap::new();
        let (code, out, _) = run(|out, err| explain(Some(&path), Provenance::Delivered, &none, &[], out, err));
        assert_eq!(code, 0);
        assert!(out.contains("everything.toml:3 "), "{out}");
        let (code, _, err) = run(|out, err| explain(Some(&path), Provenance::Delivered, &env, &[], out, err));
        assert_eq!(code, 78);
        assert!(err.starts_with("COUNTERSIGN_SECRETS: differs from"), "{err}");
    }

    #[test]
    fn schema_is_json() {
        let (code, out, _) = run(|out, _| schema(out));
        assert_eq!(code, 0);
        assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok());
    }
}

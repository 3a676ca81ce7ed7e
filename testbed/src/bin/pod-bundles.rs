//! Writes a rendered pod as bundles for a guest: what `kubectl countersign render --pods` prints, by the
//! pod runner's own code. See `testbed::pod::guest` for what comes out.

use std::path::Path;
use std::process::ExitCode;

use countersign_testbed::pod::guest::{Laid, lay_out};
use serde::Deserialize as _;
use serde_json::Value;

const USAGE: &str = "usage: pod-bundles POD.yaml CONFIGMAPS.yaml IMAGE BINARY DIRECTORY SEEN APP… (IMAGE is ours and runs \
                     BINARY of the guest; DIRECTORY is SEEN there; APP is the program of the app's containers)";

// The arguments and the streams of a test program are its own.
#[allow(clippy::disallowed_methods, clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pod, maps, image, binary, directory, seen, app @ ..] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let made = || -> Result<(), String> {
        let config_maps = documents(maps)?;
        let mut pods = documents(pod)?;
        let pod = pods.pop().filter(|_| pods.is_empty()).ok_or_else(|| format!("{pod} has not exactly one pod"))?;
        let laid = Laid { pod, config_maps: &config_maps, ours: image, binary: Path::new(binary), app };
        lay_out(laid, Path::new(directory), Path::new(seen)).map_err(|error| error.to_string())
    };
    match made() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("pod-bundles: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The documents of a YAML file.
fn documents(path: &str) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let all = yaml_serde::Deserializer::from_str(&text).map(Value::deserialize);
    all.collect::<Result<_, _>>().map_err(|error| format!("{path}: {error}"))
}

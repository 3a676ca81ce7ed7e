//! Files that a command line names: read whole, capped, and refused in words.

use std::io::Read as _;
use std::path::Path;

use crate::appraise::tdx;
use crate::evidence::shown;
use crate::finding::{Class, Finding, printable};
use crate::formats::x509;

/// Most bytes of a file with roots or certificates, 256 KiB. A bound of ours.
pub const MAX_CERTIFICATES: usize = 256 * 1024;

/// Bytes that reading begins with, 16 KiB: more than any key has.
const ROOM: usize = 16 * 1024;

/// The first byte of DER that is a certificate or a list (SEQUENCE).
pub const DER: u8 = 0x30;

/// A file, where it is not longer than `most` bytes.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, Finding> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| {
        Finding::new(Class::Usage, format!("{} cannot be opened: {}", printable(&name, 200), error.kind()))
            .why("what cannot be read cannot be judged")
            .next(format!("check the path {}", printable(&name, 200)))
    })?;
    capped(file, &name, most)
}

/// The same of anything that is read, called `name` in what is said.
pub fn capped(from: impl std::io::Read, name: &str, most: usize) -> Result<Vec<u8>, Finding> {
    let name = printable(name, 200);
    // With room: a key of usual size is not moved about while it is read.
    let mut bytes = Vec::with_capacity(most.min(ROOM).saturating_add(1));
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit).read_to_end(&mut bytes).map_err(|error| {
        Finding::new(Class::Usage, format!("{name} cannot be read: {}", error.kind()))
            .why("what cannot be read cannot be judged")
            .next(format!("check what {name} is"))
    })?;
    if bytes.len() > most {
        return Err(Finding::new(Class::Unknown, format!("{name} is longer than {most} bytes"))
            .why("nothing of the field that belongs there is as long")
            .next(format!("check what {name} is")));
    }
    Ok(bytes)
}

/// The certificates of `--certificates`: PEM, or one in DER.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Finding> {
    let bytes = read(path, MAX_CERTIFICATES)?;
    if bytes.first() == Some(&DER) {
        return Ok(vec![bytes]);
    }
    x509::pem_certificates(&bytes, shown::MAX_CERTIFICATES).ok_or_else(|| {
        other(format!("{} holds no certificates", path.display()), "give --certificates PEM, or one certificate in DER")
    })
}

/// Intel's collateral of `--collateral`.
pub fn collateral(path: &Path) -> Result<tdx::Collateral, Finding> {
    tdx::Collateral::parse(&read(path, tdx::MAX_COLLATERAL)?).ok_or_else(|| {
        other(
            format!("{} is no collateral", path.display()),
            "give --collateral dcap-qvl's JSON: eight members with Intel's answers",
        )
    })
}

/// The file holds something else than its flag says.
fn other(saw: String, next: &str) -> Finding {
    Finding::new(Class::Usage, saw)
        .why("an expectation that is not understood would be one that is not held to")
        .next(next)
}

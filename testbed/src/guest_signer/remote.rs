//! The guest's end of a signer's socket, for `countersign-sim`: the in-process configfs-tsm, whose
//! provider asks the signer as the module in a guest's kernel does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::{ANSWER, ANSWER_MAGIC, INBLOB, REQUEST_MAGIC, number};
use crate::tee::padded;
use crate::tsm::fake::Shape;
use crate::tsm::{FakeTsm, Reply, Request, Setup};

/// Most bytes of a blob: what the kernel takes since Linux 6.14 (`TSM_REPORT_OUTBLOB_MAX`).
const MAX_BLOB: u64 = 16 * 1024 * 1024;

/// configfs-tsm of a guest whose kernel has this provider, and whose reports come from the signer
/// that listens on `socket`. `None` for a provider that no kernel has.
///
/// A signer that is silent holds up whoever reads a report, as a hung provider does; one that is
/// not there is an I/O error.
pub fn tsm(socket: PathBuf, provider: &str) -> Option<FakeTsm> {
    let setup = match provider {
        "sev_guest" => Setup::SnpEcho,
        "tdx_guest" => Setup::TdxV4,
        "arm_cca_guest" => Setup::Cca,
        _ => return None,
    };
    let script = Arc::new(move |request: &Request| ask(&socket, request).unwrap_or(Reply::Errno(Errno::IO)));
    Some(FakeTsm::new(Shape { script, ..setup.shape() }))
}

/// One connection a request: nothing of an earlier one can be left in it.
fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut signer = UnixStream::connect(socket)?;
    let seq = u32::try_from(request.number).unwrap_or(u32::MAX);
    let inblob_length = u32::try_from(request.inblob.len()).unwrap_or(u32::MAX);
    let words = [REQUEST_MAGIC, 1, seq, request.privlevel, inblob_length, 0];
    let mut frame: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    frame.extend([0; 16 + 56]); // No service: these providers show no attributes of services.
    frame.extend(padded::<INBLOB>(&request.inblob));
    signer.write_all(&frame)?;
    let mut head = [0; ANSWER];
    signer.read_exact(&mut head)?;
    let word = |index: usize| number(&head, index * 4).unwrap_or_default();
    if word(0) != ANSWER_MAGIC || word(1) != seq {
        return Err(io::Error::other("this is no answer of a signer"));
    }
    if word(2) != 0 {
        let errno = i32::try_from(word(2)).map_or(Errno::IO, Errno::from_raw_os_error);
        return Ok(Reply::Errno(errno));
    }
    let blob = |index: usize| {
        let length = u64::from(word(index));
        let mut bytes = Vec::new();
        (&signer).take(length.min(MAX_BLOB)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()) == Ok(length) { Ok(bytes) } else { Err(io::Error::other("a blob is cut short")) }
    };
    Ok(Reply::Blobs(blob(3)?, blob(4)?, blob(5)?))
}

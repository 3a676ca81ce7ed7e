//! The security processor of a guest under QEMU: answers what `guest-tests/module/tsm_fake.c` asks,
//! from outside the guest, where the real one is too. Its keys are made at start.
//!
//! A unix socket carries frames of fixed length, little endian, as in `struct fake_req` and
//! `struct fake_rsp` of the module:
//!
//! | frame | bytes | what |
//! |---|---|---|
//! | request | 160 | `TSMQ`, version, seq, privlevel, inblob length, manifest version, service GUID (16), service provider (56), inblob (64) |
//! | answer | 24 + blobs | `TSMR`, seq, errno (0 for none), lengths of outblob, auxblob and manifestblob |

mod evidence;
mod script;

use std::io::{self, Read, Write};

use evidence::{Chip, tdx_quote};
pub use script::{Answer, Change, Script};

/// Bytes of a request.
pub const REQUEST: usize = 160;

/// `TSMQ`, as a little-endian number.
const REQUEST_MAGIC: u32 = 0x514d_5354;

/// `TSMR`, as a little-endian number.
const ANSWER_MAGIC: u32 = 0x524d_5354;

/// Where in a request its fields are.
const AT_SEQ: usize = 8;
const AT_PRIVLEVEL: usize = 12;
const AT_INBLOB: usize = 96;

/// Bytes of an inblob, the longest that the kernel takes (`TSM_INBLOB_MAX`).
pub(crate) const INBLOB: usize = 64;

/// One request, as far as an answer needs it.
#[derive(Clone, Copy, Debug)]
struct Request {
    seq: u32,
    privlevel: u32,
    inblob: [u8; INBLOB],
}

/// The blobs of an answer.
#[derive(Debug, Default)]
struct Blobs {
    out: Vec<u8>,
    aux: Vec<u8>,
    manifest: Vec<u8>,
}

/// Serves one guest, which is one connection, until the guest is gone.
///
/// Gives how many requests there were.
pub fn serve(stream: &mut (impl Read + Write), script: &mut Script) -> io::Result<usize> {
    let chip = Chip::new();
    let mut first_inblob = None;
    let mut count = 0;
    while let Some(request) = read_request(stream)? {
        count += 1;
        let replayed = *first_inblob.get_or_insert(request.inblob);
        let answer = script.next_answer();
        if let Some(bytes) = frame(&request, replayed, answer, &chip) {
            stream.write_all(&bytes)?;
            stream.flush()?;
        }
    }
    Ok(count)
}

/// The next request; `None` where the guest has ended. Anything but a request is an error: the
/// bridge in the guest lost a byte, and nothing after that could be believed.
fn read_request(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut bytes = [0; REQUEST];
    match stream.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        // QEMU ends without a farewell.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    let lost = || io::Error::new(io::ErrorKind::InvalidData, "this is no request of tsm_fake");
    if number(&bytes, 0) != Some(REQUEST_MAGIC) {
        return Err(lost());
    }
    let inblob = bytes.get(AT_INBLOB..).and_then(|tail| tail.try_into().ok()).ok_or_else(lost)?;
    let seq = number(&bytes, AT_SEQ).ok_or_else(lost)?;
    let privlevel = number(&bytes, AT_PRIVLEVEL).ok_or_else(lost)?;
    Ok(Some(Request { seq, privlevel, inblob }))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The frame of an answer; `None` for silence.
fn frame(request: &Request, replayed: [u8; INBLOB], answer: &Answer, chip: &Chip) -> Option<Vec<u8>> {
    let blobs = match answer {
        Answer::Silence => return None,
        Answer::Errno(errno) => return Some(framed(request.seq, *errno, &Blobs::default())),
        Answer::Snp(changes) => {
            let stale = changes.contains(&Change::Replay);
            let inblob = if stale { replayed } else { request.inblob };
            let mut blobs = Blobs {
                out: chip.report(request.privlevel, &inblob, changes),
                aux: chip.certificates(),
                ..Blobs::default()
            };
            if changes.contains(&Change::NoCertificates) {
                blobs.aux.clear();
            }
            if changes.contains(&Change::Manifest) {
                blobs.manifest = b"a service manifest".to_vec();
            }
            blobs
        }
        Answer::Tdx => Blobs { out: tdx_quote(&request.inblob), ..Blobs::default() },
        // Passed on unparsed by us, so opaque: a CBOR tag 399 (CCA token collection) and the challenge.
        Answer::Cca => Blobs { out: [&[0xd9, 0x01, 0x8f][..], &request.inblob].concat(), ..Blobs::default() },
        Answer::Bytes(length) => {
            Blobs { out: request.inblob.iter().copied().cycle().take(*length).collect(), ..Blobs::default() }
        }
    };
    Some(framed(request.seq, 0, &blobs))
}

fn framed(seq: u32, errno: u32, blobs: &Blobs) -> Vec<u8> {
    let length = |blob: &[u8]| u32::try_from(blob.len()).expect("blobs of the kernel are at most 16 MiB");
    let head = [ANSWER_MAGIC, seq, errno, length(&blobs.out), length(&blobs.aux), length(&blobs.manifest)];
    let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(blobs.out.iter().chain(&blobs.aux).chain(&blobs.manifest));
    bytes
}

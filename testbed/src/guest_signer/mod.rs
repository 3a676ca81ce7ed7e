//! The security processor of a simulated guest: answers what `guest-tests/module/tsm_fake.c` asks
//! from inside QEMU, and what `countersign-sim --sim-tee` asks on any machine. It stands outside
//! the guest, where the real one does too.
//!
//! A unix socket carries frames of fixed length, little endian, as in `struct fake_req` and
//! `struct fake_rsp` of the module:
//!
//! | frame | bytes | what |
//! |---|---|---|
//! | request | 160 | `TSMQ`, version, seq, privlevel, inblob length, manifest version, service GUID (16), service provider (56), inblob (64) |
//! | answer | 24 + blobs | `TSMR`, seq, errno (0 for none), lengths of outblob, auxblob and manifestblob |
//!
//! | module | what it is |
//! |---|---|
//! | [`script`] | what is answered, lies included |
//! | [`host`] | a KBS that believes the signer's guests, beside a guest under QEMU |
//! | [`remote`] | the guest's end: configfs-tsm in process, its reports from a signer's socket |

mod evidence;
pub mod host;
pub mod remote;
pub mod script;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use evidence::{Guests, Quiet};
pub use script::{Answer, Change, Script};

use crate::http::lock;
use crate::tee::{SnpGuest, TdxGuest};

/// Bytes of a request.
pub const REQUEST: usize = 160;

/// Bytes of an answer before its blobs.
const ANSWER: usize = 24;

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

/// A security processor. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Signer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    script: Script,
    guests: Guests,
    /// What the script was asked first: what `+replay` answers.
    first: Option<[u8; INBLOB]>,
    requests: usize,
}

impl Signer {
    /// One that follows this script, for a guest on a Genoa or with quotes of version 4, made by
    /// [`Vendor::ours`](crate::tee::Vendor::ours).
    pub fn new(script: Script) -> Self {
        let state = State { script, guests: Guests::default(), first: None, requests: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The same, from the script's text.
    ///
    /// # Panics
    /// When that is no script.
    pub fn answering(script: &str) -> Self {
        Self::new(script.parse().expect("a script"))
    }

    /// Speaks for this guest where the script says `snp`.
    #[must_use]
    pub fn snp(self, guest: SnpGuest) -> Self {
        lock(&self.state).guests.snp = guest;
        self
    }

    /// Speaks for this guest where the script says `tdx`.
    #[must_use]
    pub fn tdx(self, guest: TdxGuest) -> Self {
        lock(&self.state).guests.tdx = guest;
        self
    }

    /// Its guests were launched with the initdata of this digest.
    #[must_use]
    pub fn launched_with(self, digest: &[u8]) -> Self {
        {
            let guests = &mut lock(&self.state).guests;
            guests.snp = guests.snp.clone().initdata(digest);
            guests.tdx = guests.tdx.clone().initdata(digest);
        }
        self
    }

    /// Follows another script from now on, and forgets what it was asked.
    ///
    /// # Errors
    /// Says why that is no script.
    pub fn set(&self, script: &str) -> Result<(), String> {
        let script = script.parse()?;
        let mut state = lock(&self.state);
        (state.script, state.first, state.requests) = (script, None, 0);
        Ok(())
    }

    /// How many requests there were since the script was set.
    pub fn requests(&self) -> usize {
        lock(&self.state).requests
    }

    /// The guests' kernel has this provider.
    pub fn provider(&self) -> &'static str {
        lock(&self.state).script.provider()
    }

    /// Serves one guest, which is one connection, until the guest is gone.
    pub fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        while let Some(request) = read_request(stream)? {
            if let Some(bytes) = self.answer(&request) {
                stream.write_all(&bytes)?;
                stream.flush()?;
            }
        }
        Ok(())
    }

    /// The frame of the next answer; `None` for silence.
    fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        let (answer, first, guests) = {
            let mut state = lock(&self.state);
            state.requests += 1;
            let first = *state.first.get_or_insert(request.inblob);
            (state.script.next_answer(), first, state.guests.clone())
        };
        match evidence::blobs(&answer, request, first, &guests) {
            Ok(blobs) => Some(framed(request.seq, 0, &blobs)),
            Err(Quiet::Errno(errno)) => Some(framed(request.seq, errno, &Blobs::default())),
            Err(Quiet::Silence) => None,
        }
    }
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

fn framed(seq: u32, errno: u32, blobs: &Blobs) -> Vec<u8> {
    let length = |blob: &[u8]| u32::try_from(blob.len()).expect("blobs of the kernel are at most 16 MiB");
    let head = [ANSWER_MAGIC, seq, errno, length(&blobs.out), length(&blobs.aux), length(&blobs.manifest)];
    let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(blobs.out.iter().chain(&blobs.aux).chain(&blobs.manifest));
    bytes
}

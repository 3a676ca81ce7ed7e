//! Where each HTTP/1.1 request of a connection begins and ends, followed beside hyper, so that a head that
//! says it twice is refused.
//!
//! hyper reads a request with a length and chunks as chunked, drops the length, and does not show that there
//! were two. RFC 9112 §6.3 lets a server refuse such a request, and we do: it is how smuggling begins.
//!
//! This is a second parser, and two parsers can disagree. Here that lets nothing through: what the app is sent
//! is hyper's reading, and hyper's alone. This one can only refuse more. Where it loses its way it refuses
//! every request that follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::overheard::Ear;

/// Bytes of a line that are kept from its start, and as many from its end. The start names the field, the end
/// of a request line the version. A length or an encoding that needs more than both is refused.
const KEEP: usize = 128;

/// Follows the bytes of one connection, however they are cut into pieces.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// Heads that have ended.
    heads: u64,
    /// The first head that must not be served, counted from 1.
    bad: Option<u64>,
    /// A line that has not ended: its start, and its end if something between was cut out.
    kept: Vec<u8>,
    cut: bool,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// In a head, or before one.
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Length(u64),
    Chunked(Chunked),
    /// Nothing that follows will be served.
    Over,
}

/// Where in a body of chunks. As hyper reads them: lines end with CR LF, never with LF alone.
#[derive(Clone, Copy, Debug)]
enum Chunked {
    /// Before the first digit.
    Start,
    /// Digits so far.
    Size(u64),
    /// Blanks and extensions after the size.
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// After the last chunk, at the beginning of a line.
    Trailers,
    Trailer,
    TrailerLf,
    EndLf,
}

/// What a head has said so far of where its body ends.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// Whether the request line said HTTP/1.0, which has no chunks. `None`: it has not come yet.
    old: Option<bool>,
    length: Option<u64>,
    chunked: bool,
    bad: bool,
}

impl Framing {
    /// The next bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            bytes = match self.state {
                State::Head => self.head(bytes),
                State::Length(left) => {
                    let (rest, left) = skip(bytes, left);
                    self.state = if left == 0 { State::Head } else { State::Length(left) };
                    rest
                }
                State::Chunked(Chunked::Data(left)) => {
                    let (rest, left) = skip(bytes, left);
                    self.state = State::Chunked(if left == 0 { Chunked::DataCr } else { Chunked::Data(left) });
                    rest
                }
                State::Chunked(at) => {
                    match step(at, *first) {
                        Some(next) => self.state = next,
                        None => self.end(self.heads.saturating_add(1)),
                    }
                    bytes.get(1..).unwrap_or_default()
                }
                State::Over => return,
            };
        }
    }

    /// The first head that must not be served, counted from 1. It has ended, or comes next.
    pub fn first_bad(&self) -> Option<u64> {
        self.bad
    }

    /// One line of a head, or a part of one. httparse ends lines with LF, with or without a CR before it.
    fn head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.keep(bytes);
            return &[];
        };
        let (line, rest) = bytes.split_at_checked(end.saturating_add(1)).unwrap_or((bytes, &[]));
        if self.kept.is_empty() {
            self.line(line, line.len() > 2 * KEEP);
        } else {
            self.keep(line);
            let (line, cut) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.cut));
            self.line(&line, cut);
        }
        rest
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() > 2 * KEEP {
            self.kept.drain(KEEP..self.kept.len().saturating_sub(KEEP));
            self.cut = true;
        }
    }

    /// A line with its end. `long`: it has more bytes than are kept of one.
    fn line(&mut self, line: &[u8], long: bool) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (self.head.old, line.is_empty()) {
            // Before a request line empty ones are passed over.
            (None, true) => {}
            (None, false) => self.head.old = Some(line.ends_with(b"HTTP/1.0")),
            (Some(_), false) => self.head.field(line, long),
            (Some(_), true) => self.ended(),
        }
    }

    /// A head has ended.
    fn ended(&mut self) {
        self.heads = self.heads.saturating_add(1);
        let head = std::mem::take(&mut self.head);
        if head.bad || (head.chunked && (head.old == Some(true) || head.length.is_some())) {
            return self.end(self.heads);
        }
        self.state = match head.length {
            _ if head.chunked => State::Chunked(Chunked::Start),
            None | Some(0) => State::Head,
            Some(length) => State::Length(length),
        };
    }

    fn end(&mut self, bad: u64) {
        self.bad = Some(bad);
        self.state = State::Over;
    }
}

impl Head {
    fn field(&mut self, line: &[u8], long: bool) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (written, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        // With blanks around it a name is another one to some parsers and the same to others.
        let name = written.trim_ascii();
        let odd = long || name.len() != written.len();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = digits(value);
            self.bad |= odd || length.is_none() || self.length.is_some();
            self.length = length.or(Some(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.bad |= odd || self.chunked || !value.eq_ignore_ascii_case(b"chunked");
            self.chunked = true;
        }
    }
}

/// What is left of `bytes` after `left` of them, and how many are still to come.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let skipped = u64::try_from(count).unwrap_or(u64::MAX);
    (bytes.get(count..).unwrap_or_default(), left.saturating_sub(skipped))
}

/// Digits and nothing else: no sign, no blank, no list.
fn digits(text: &[u8]) -> Option<u64> {
    let mut number = (!text.is_empty()).then_some(0_u64)?;
    for byte in text {
        let digit = byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))?;
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// One byte of a body of chunks, data apart. `None`: it cannot stand there.
fn step(at: Chunked, byte: u8) -> Option<State> {
    let next = match (at, byte) {
        (Chunked::Start, _) => Chunked::Size(hex(0, byte)?),
        (Chunked::Size(size) | Chunked::Extension(size), b'\r') => Chunked::SizeLf(size),
        (Chunked::Size(size), b' ' | b'\t' | b';') => Chunked::Extension(size),
        (Chunked::Size(size), _) => Chunked::Size(hex(size, byte)?),
        (Chunked::Extension(size), _) => (byte != b'\n').then_some(Chunked::Extension(size))?,
        (Chunked::SizeLf(0) | Chunked::TrailerLf, b'\n') => Chunked::Trailers,
        (Chunked::SizeLf(size), b'\n') => Chunked::Data(size),
        (Chunked::DataCr, b'\r') => Chunked::DataLf,
        (Chunked::DataLf, b'\n') => Chunked::Start,
        (Chunked::Trailers, b'\r') => Chunked::EndLf,
        (Chunked::Trailer, b'\r') => Chunked::TrailerLf,
        (Chunked::Trailers | Chunked::Trailer, _) => Chunked::Trailer,
        (Chunked::EndLf, b'\n') => return Some(State::Head),
        _ => return None,
    };
    Some(State::Chunked(next))
}

fn hex(size: u64, byte: u8) -> Option<u64> {
    let digit = char::from(byte).to_digit(16)?;
    size.checked_mul(16)?.checked_add(u64::from(digit))
}

/// What is known of the requests of one connection: shared by the bytes below hyper and the requests above.
#[derive(Debug)]
pub struct Heads {
    /// The first that must not be served. `u64::MAX`: none is known.
    bad: AtomicU64,
    /// How many have been asked for.
    asked: AtomicU64,
    /// The connection speaks HTTP no more.
    left: AtomicBool,
}

impl Heads {
    /// Of a connection that begins.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { bad: AtomicU64::new(u64::MAX), asked: AtomicU64::new(0), left: AtomicBool::new(false) })
    }

    /// The next request has come out of hyper. Whether it may be served.
    pub fn may_serve_next(&self) -> bool {
        let number = self.asked.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        number < self.bad.load(Ordering::Relaxed)
    }

    /// The connection has been given another protocol (101): what follows are no requests.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// Follows the bytes of a connection on their way to hyper. Each was followed before hyper sees it, so what is
/// known of a head is known before its request is served.
pub struct Follower {
    framing: Framing,
    heads: Arc<Heads>,
}

impl Follower {
    /// Tells `heads` what it sees.
    pub fn new(heads: &Arc<Heads>) -> Self {
        Self { framing: Framing::default(), heads: Arc::clone(heads) }
    }
}

impl Ear for Follower {
    fn read(&mut self, bytes: &[u8]) {
        if self.heads.left.load(Ordering::Relaxed) {
            return;
        }
        self.framing.follow(bytes);
        if let Some(bad) = self.framing.first_bad() {
            self.heads.bad.store(bad, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first_bad(pieces: &[&[u8]]) -> Option<u64> {
        let mut framing = Framing::default();
        for piece in pieces {
            framing.follow(piece);
        }
        framing.first_bad()
    }

    fn request(fields: &str, body: &str) -> String {
        format!("POST / HTTP/1.1\r\nhost: api\r\n{fields}\r\n{body}")
    }

    #[test]
    fn a_head_that_says_its_end_twice_is_bad() {
        for fields in [
            "content-length: 3\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "transfer-encoding: chunked\ncontent-length: 3\n",
            "content-length: 3\r\ncontent-length: 4\r\n",
            "content-length: 3\r\ncontent-length: 3\r\n",
            "content-length: 3, 3\r\n",
            "content-length: +3\r\n",
            "content-length: -3\r\n",
            "content-length: 0x3\r\n",
            "content-length: 3 3\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length : 3\r\n",
            " content-length: 3\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked;q=1\r\n",
            "transfer-encoding: \"chunked\"\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding\t: chunked\r\n",
        ] {
            assert_eq!(first_bad(&[request(fields, "").as_bytes()]), Some(1), "{fields:?}");
        }
        assert_eq!(first_bad(&[b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"]), Some(1));
        let padded = format!("content-length: {}3\r\n", " ".repeat(3 * KEEP));
        assert_eq!(first_bad(&[request(&padded, "").as_bytes()]), Some(1), "more than is kept of a line");
    }

    #[test]
    fn requests_that_end_once_are_not() {
        let long = format!("GET /{} HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(5000), "b".repeat(5000));
        for good in [
            &request("", ""),
            &request("content-length: 0\r\n", ""),
            &request("content-length:  3 \r\n", "abc"),
            &request("Content-Length: 03\n", "abc"),
            &request("transfer-encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            &request("transfer-encoding:chunked\r\n", "A;x=1\r\n0123456789\r\n1 \r\nx\r\n000\r\nt: 1\r\nu: 2\r\n\r\n"),
            &request("x-content-length: 1\r\nx: content-length: 1\r\n", ""),
            &"\r\n\n\r\nGET / HTTP/1.0\r\n\r\n".to_owned(),
            &long,
        ] {
            // Where it ends is where the next one is seen.
            let twice = format!("{good}{}", request("content-length: 1\r\ntransfer-encoding: chunked\r\n", ""));
            assert_eq!(first_bad(&[good.as_bytes()]), None, "{good:?}");
            assert_eq!(first_bad(&[twice.as_bytes()]), Some(2), "{good:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_makes_all_that_follows_bad() {
        for body in [
            "zz\r\n",
            "\r\n",
            "+3\r\n",
            "-3\r\n",
            " 3\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3;x\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "3x\r\n",
            "3\rabc",
            "0\r\nt: 1\rx",
            "0\r\n\rx",
        ] {
            assert_eq!(first_bad(&[request("transfer-encoding: chunked\r\n", body).as_bytes()]), Some(2), "{body:?}");
        }
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut framing = Framing::default();
        for _ in 0..10_000 {
            framing.follow(&[b'x'; 100]);
        }
        assert!(framing.kept.len() <= 2 * KEEP && framing.kept.capacity() <= 8 * KEEP);
        assert_eq!(framing.first_bad(), None, "hyper ends it");
    }

    #[test]
    fn a_request_is_served_only_before_the_first_bad_one() {
        let heads = Heads::new();
        assert!(heads.may_serve_next());
        heads.bad.store(3, Ordering::Relaxed);
        assert!(heads.may_serve_next(), "it came before");
        assert!(!heads.may_serve_next());
        assert!(!heads.may_serve_next(), "nor any after");
    }

    /// Heads, bodies and rubbish, put together at random.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /x HTTP/1.1\n",
            "POST /x HTTP/1.0\r\n",
            "host: api\r\n",
            "content-length: 3\r\n",
            "content-length: 30\n",
            "transfer-encoding: chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "\r\n",
            "\n",
            "abc",
            "3\r\nabc\r\n",
            "1e;x=y\r\n",
            "0\r\n\r\n",
            "0\r\nt: 1\r\n\r\n",
            "x-long: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123",
            "\r",
            ":",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|all| all.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in pieces(), cuts in prop::collection::vec(0_usize..600, 0..8)) {
            let whole = first_bad(&[&bytes]);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(first_bad(&single), whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let cut: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(first_bad(&cut), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = first_bad(&[&bytes]);
        }
    }
}

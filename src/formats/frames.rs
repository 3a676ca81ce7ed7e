//! Frames of the exchange between two peers (`docs/protocol.md` §3): one byte that says what it is, four
//! that say how long it is, and as many bytes as that.
//!
//! Whoever reads says which kinds may come. A head is judged before a byte behind it is read or room
//! for it is made.

use super::{statement, wanted};

/// Bytes of a head.
pub const HEAD: usize = 5;

/// Most bytes of an attestation result, 256 KiB. One for a CPU has 4 KiB, with an initdata of a usual
/// size 20; with a GPU's evidence in it more than 128.
pub const MAX_EVIDENCE: usize = 256 * 1024;

/// Bytes of a hello: flags, nonce.
const HELLO: usize = 1 + statement::LENGTH;

/// Most bytes of a certificate request, 4 KiB. One for a P-256 key without extensions has 200.
pub const MAX_REQUEST: usize = 4 * 1024;

/// Most bytes of a chain, 32 KiB: eight certificates, as many as a chain may have, of the largest kind.
pub const MAX_CHAIN: usize = 32 * 1024;

/// Bytes of a signature, r then s.
pub const SIGNATURE: usize = 64;

/// Most bytes of a fresh report, 64 KiB: Trustee's JSON of an SEV-SNP report with its chain has 30, of a TDX
/// quote 11.
pub const MAX_REPORT: usize = 64 * 1024;

/// Flag of a hello: I demand your evidence.
const DEMANDS: u8 = 1;
/// Flag of a server's hello: and before I show mine.
const PROVE_FIRST: u8 = 2;
/// Flag of a hello: and a fresh report of your hardware over the statement.
const REPORT: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A challenge, and what is demanded.
    Hello,
    /// An attestation result (EAR, a JWT).
    Ear,
    /// A statement.
    Statement,
    /// Its signature, ES256.
    Signature,
    /// In place of all of it: there is no evidence to give.
    Decline,
    /// The names that a certificate is wanted for.
    Names,
    /// The key that it is wanted for: PKCS#10, DER.
    Request,
    /// The certificate, leaf first, and what stands between it and the root: DER after DER.
    Chain,
    /// In its place: why there is none.
    Refusal,
    /// The hardware's own word on a statement: evidence in the JSON that Trustee takes.
    Report,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Hello,
        Self::Ear,
        Self::Statement,
        Self::Signature,
        Self::Decline,
        Self::Names,
        Self::Request,
        Self::Chain,
        Self::Refusal,
        Self::Report,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Ear => 2,
            Self::Statement => 3,
            Self::Signature => 4,
            Self::Decline => 5,
            Self::Names => 6,
            Self::Request => 7,
            Self::Chain => 8,
            Self::Refusal => 9,
            Self::Report => 10,
        }
    }

    /// Least and most bytes behind the head.
    fn bounds(self) -> (usize, usize) {
        match self {
            Self::Hello => (HELLO, HELLO),
            Self::Ear => (1, MAX_EVIDENCE),
            Self::Statement => (1, statement::MAX_BYTES),
            Self::Signature => (SIGNATURE, SIGNATURE),
            Self::Decline => (0, 0),
            Self::Names => (1, wanted::MAX_BYTES),
            Self::Request => (1, MAX_REQUEST),
            Self::Chain => (1, MAX_CHAIN),
            Self::Refusal => (1, 1),
            Self::Report => (1, MAX_REPORT),
        }
    }
}

/// Why an issuer gives no certificate: as much as whoever asks is told. The issuer's log says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What was sent cannot be.
    Malformed,
    /// The key or the names of the request.
    Request,
    /// The attestation result, or the word of its key, is not believed.
    Evidence,
    /// Good evidence, of a guest that may not have these names.
    Identity,
    /// Too many at this time.
    Busy,
    /// The issuer has no CA that it may sign with now.
    Unready,
}

impl Refused {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Request, Self::Evidence, Self::Identity, Self::Busy, Self::Unready];

    /// The byte of its frame.
    pub fn code(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Request => 2,
            Self::Evidence => 3,
            Self::Identity => 4,
            Self::Busy => 5,
            Self::Unready => 6,
        }
    }

    /// Of that byte.
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refused| refused.code() == code)
    }

    /// Stable name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Request => "bad-request",
            Self::Evidence => "bad-evidence",
            Self::Identity => "not-entitled",
            Self::Busy => "too-many",
            Self::Unready => "not-ready",
        }
    }
}

/// Why bytes are no frame that may come now. Each message continues "the frame …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of a kind that may come here, or of no kind at all.
    #[error("is not of the kind that belongs here")]
    Kind,
    /// Too long or too short for its kind.
    #[error("has a length that its kind does not have")]
    Length,
    /// A flag that is not known.
    #[error("has a flag that is not known")]
    Flags,
}

/// A head that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What follows.
    pub kind: Kind,
    /// How many bytes follow: never more than its kind may have.
    pub length: usize,
}

impl Head {
    /// Parses; only the kinds in `expected` may come.
    pub fn parse(bytes: [u8; HEAD], expected: &[Kind]) -> Result<Self, Error> {
        let [code, length @ ..] = bytes;
        let kind = Kind::ALL.into_iter().find(|kind| kind.code() == code && expected.contains(kind));
        let kind = kind.ok_or(Error::Kind)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Error::Length)?;
        let (least, most) = kind.bounds();
        if (least..=most).contains(&length) { Ok(Self { kind, length }) } else { Err(Error::Length) }
    }
}

/// A whole frame. `None` where a frame of this kind cannot hold so much, or so little.
pub fn write(kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
    let (least, most) = kind.bounds();
    if !(least..=most).contains(&payload.len()) {
        return None;
    }
    let length = u32::try_from(payload.len()).ok()?;
    let mut frame = Vec::with_capacity(HEAD.saturating_add(payload.len()));
    frame.push(kind.code());
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    Some(frame)
}

/// A challenge, and what is demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Fresh, of whoever sends it.
    pub nonce: [u8; statement::LENGTH],
    /// Whether whoever sends it wants evidence.
    pub demands: bool,
    /// Whether it wants it before it shows its own. A server's only.
    pub prove_first: bool,
    /// Whether the evidence must have a fresh report in it.
    pub report: bool,
}

impl Hello {
    /// Parses what stands behind the head.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let (flags, nonce) = payload.split_first().ok_or(Error::Length)?;
        if flags & !(DEMANDS | PROVE_FIRST | REPORT) != 0 {
            return Err(Error::Flags);
        }
        let [demands, prove_first, report] = [DEMANDS, PROVE_FIRST, REPORT].map(|flag| flags & flag != 0);
        // First, before what? A report, with what?
        if (prove_first || report) && !demands {
            return Err(Error::Flags);
        }
        Ok(Self { nonce: nonce.try_into().map_err(|_| Error::Length)?, demands, prove_first, report })
    }

    /// What stands behind the head.
    pub fn payload(&self) -> Vec<u8> {
        let flags = [(self.demands, DEMANDS), (self.prove_first, PROVE_FIRST), (self.report, REPORT)];
        let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
        [&[flags][..], &self.nonce].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(code: u8, length: u32) -> [u8; HEAD] {
        let [a, b, c, d] = length.to_be_bytes();
        [code, a, b, c, d]
    }

    #[test]
    fn a_head_is_judged_before_anything_behind_it_is_read() {
        let all = Kind::ALL;
        assert_eq!(Head::parse(head(2, 262_144), &all), Ok(Head { kind: Kind::Ear, length: 262_144 }));
        for (code, length) in [
            (2, 262_145),
            (2, u32::MAX),
            (2, 10 * 1024 * 1024),
            (2, 0),
            (1, 32),
            (1, 34),
            (3, 513),
            (3, 0),
            (4, 63),
            (4, 65),
            (5, 1),
            (6, 4097),
            (7, 4097),
            (8, 32769),
            (9, 2),
            (10, 0),
            (10, 65537),
        ] {
            assert_eq!(Head::parse(head(code, length), &all), Err(Error::Length), "{code} {length}");
        }
    }

    #[test]
    fn a_frame_out_of_turn_is_refused() {
        assert_eq!(Head::parse(head(3, 10), &[Kind::Ear, Kind::Decline]), Err(Error::Kind));
        assert_eq!(Head::parse(head(1, 33), &[]), Err(Error::Kind));
        for code in [0, 11, 0x16, b'G', 255] {
            assert_eq!(Head::parse(head(code, 33), &Kind::ALL), Err(Error::Kind), "{code}");
        }
    }

    #[test]
    fn a_hello_has_exactly_its_flags_and_a_nonce() {
        for (prove_first, report) in [(false, false), (true, false), (false, true), (true, true)] {
            let hello = Hello { nonce: [7; 32], demands: true, prove_first, report };
            assert_eq!(Hello::parse(&hello.payload()), Ok(hello));
        }
        let with = |flags: u8| Hello::parse(&[&[flags][..], &[7; 32]].concat());
        assert_eq!(with(0).map(|hello| (hello.demands, hello.prove_first)), Ok((false, false)));
        for flags in [2, 4, 6, 8, 9, 0x80, 0xff] {
            assert_eq!(with(flags), Err(Error::Flags), "{flags}");
        }
        assert_eq!(Hello::parse(&[0; 32]), Err(Error::Length));
        assert_eq!(Hello::parse(&[0; 34]), Err(Error::Length));
        assert_eq!(Hello::parse(&[]), Err(Error::Length));
    }

    #[test]
    fn each_reason_has_a_byte_and_other_bytes_are_none() {
        for refused in Refused::ALL {
            assert_eq!(Refused::of(refused.code()), Some(refused));
        }
        assert_eq!((Refused::of(0), Refused::of(7)), (None, None));
    }

    #[test]
    fn what_a_kind_cannot_hold_is_not_written() {
        assert_eq!(write(Kind::Ear, &vec![0; MAX_EVIDENCE + 1]), None);
        assert_eq!(write(Kind::Decline, b"x"), None);
        assert_eq!(write(Kind::Decline, b""), Some(vec![5, 0, 0, 0, 0]));
    }

    proptest! {
        #[test]
        fn any_head_is_refused_or_within_its_bounds(bytes: [u8; HEAD]) {
            if let Ok(head) = Head::parse(bytes, &Kind::ALL) {
                prop_assert!(head.length <= MAX_EVIDENCE);
            }
        }

        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 1..300)) {
            let frame = write(Kind::Ear, &payload).unwrap();
            let head = Head::parse(frame[..HEAD].try_into().unwrap(), &[Kind::Ear]).unwrap();
            prop_assert_eq!(&frame[HEAD..], &payload[..]);
            prop_assert_eq!(head.length, payload.len());
        }
    }
}

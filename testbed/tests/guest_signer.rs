//! The signer of the guest tests answers what its script says, and signs what it answers.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use countersign_testbed::guest_signer::{REQUEST, Script, serve};

countersign_testbed::main! {
    a_report_holds_what_was_asked_and_verifies_under_its_own_certificate,
    each_change_to_a_report_changes_that,
    a_report_by_another_key_does_not_verify,
    answers_come_in_order_and_the_last_one_stays,
    silence_is_no_answer_and_the_next_one_is_for_the_next_request,
    what_is_no_request_ends_the_signer,
    what_is_no_script_is_refused,
}

/// An answer as the module reads it.
struct Answered {
    seq: u32,
    errno: u32,
    out: Vec<u8>,
    aux: Vec<u8>,
    manifest: Vec<u8>,
}

/// A guest, whose signer follows this script.
struct Guest {
    port: UnixStream,
    seq: u32,
}

impl Guest {
    fn new(script: &str) -> Self {
        let mut script: Script = script.parse().unwrap();
        let (port, mut theirs) = UnixStream::pair().unwrap();
        port.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        std::thread::spawn(move || serve(&mut theirs, &mut script));
        Self { port, seq: 0 }
    }

    fn send(&mut self, privlevel: u32, inblob: [u8; 64]) {
        self.seq += 1;
        let mut frame = Vec::new();
        for word in [0x514d_5354, 1, self.seq, privlevel, 64, 0] {
            frame.extend(u32::to_le_bytes(word));
        }
        frame.extend([0; 72]);
        frame.extend(inblob);
        assert_eq!(frame.len(), REQUEST);
        // In two pieces: a stream knows no frames.
        self.port.write_all(&frame[..7]).unwrap();
        self.port.write_all(&frame[7..]).unwrap();
    }

    fn answer(&mut self) -> Answered {
        let mut head = [0; 24];
        self.port.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0x524d_5354);
        let mut blob = |length: u32| {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            self.port.read_exact(&mut bytes).unwrap();
            bytes
        };
        let (out, aux, manifest) = (blob(word(12)), blob(word(16)), blob(word(20)));
        Answered { seq: word(4), errno: word(8), out, aux, manifest }
    }

    fn ask(&mut self, inblob: [u8; 64]) -> Answered {
        self.send(1, inblob);
        self.answer()
    }
}

/// Whether the report verifies under the key of the certificate in the table.
fn verifies(answered: &Answered) -> bool {
    let table = &answered.aux;
    let word = |at: usize| usize::try_from(u32::from_le_bytes(table[at..at + 4].try_into().unwrap())).unwrap();
    let certificate = &table[word(16)..word(16) + word(20)];
    assert_eq!(table[24..48], [0; 24], "the table ends with an empty entry");
    // The key is the only uncompressed point of 97 bytes in it: a BIT STRING of 98.
    let at = certificate.windows(4).position(|window| window == [0x03, 0x62, 0x00, 0x04]).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &certificate[at + 3..at + 100]);
    let half = |from: usize| answered.out[from..from + 48].iter().rev().copied().collect::<Vec<u8>>();
    assert_eq!(answered.out[0x2a0 + 48..0x2a0 + 72], [0; 24]);
    key.verify(&answered.out[..0x2a0], &[half(0x2a0), half(0x2e8)].concat()).is_ok()
}

fn a_report_holds_what_was_asked_and_verifies_under_its_own_certificate() {
    let mut guest = Guest::new("snp");
    for fill in [1, 2] {
        let answered = guest.ask([fill; 64]);
        assert_eq!((answered.errno, answered.out.len()), (0, 1184));
        assert_eq!(answered.out[0x50..0x90], [fill; 64]);
        assert_eq!(answered.out[0x30], 1, "the privilege level");
        assert!(answered.manifest.is_empty());
        assert!(verifies(&answered));
    }
}

fn each_change_to_a_report_changes_that() {
    let plain = Guest::new("snp").ask([7; 64]);
    let mut guest = Guest::new("snp+replay");
    guest.ask([1; 64]);
    assert_eq!(guest.ask([7; 64]).out[0x50..0x90], [1; 64]);
    assert_eq!(Guest::new("snp+wrong-data").ask([7; 64]).out[0x50..0x90], [0x5a; 64]);
    assert_ne!(Guest::new("snp+other-measurement").ask([7; 64]).out[0x90..0xc0], plain.out[0x90..0xc0]);
    assert_eq!(plain.out[0x0a] & 8, 0);
    assert_eq!(Guest::new("snp+debug").ask([7; 64]).out[0x0a] & 8, 8);
    assert!(Guest::new("snp+no-certificates").ask([7; 64]).aux.is_empty());
    assert!(!Guest::new("snp+manifest").ask([7; 64]).manifest.is_empty());
    let script = format!("snp+debug+host-data={}", "3c".repeat(32));
    assert_eq!(Guest::new(&script).ask([7; 64]).out[0xc0..0xe0], [0x3c; 32]);
}

fn a_report_by_another_key_does_not_verify() {
    assert!(!verifies(&Guest::new("snp+other-key").ask([7; 64])));
}

fn answers_come_in_order_and_the_last_one_stays() {
    let mut guest = Guest::new("errno:16*2,tdx,cca,bytes:16384");
    let errnos: Vec<u32> = (0..2).map(|_| guest.ask([7; 64]).errno).collect();
    assert_eq!(errnos, [16, 16]);
    assert_eq!(guest.ask([7; 64]).out[48 + 520..48 + 584], [7; 64]);
    assert_eq!(guest.ask([7; 64]).out.len(), 67);
    for _ in 0..2 {
        assert_eq!(guest.ask([7; 64]).out.len(), 16384);
    }
}

fn silence_is_no_answer_and_the_next_one_is_for_the_next_request() {
    let mut guest = Guest::new("silence,snp");
    guest.send(0, [1; 64]);
    let answered = guest.ask([2; 64]);
    assert_eq!(answered.seq, 2);
    assert_eq!(answered.out[0x50..0x90], [2; 64]);
}

fn what_is_no_request_ends_the_signer() {
    let mut guest = Guest::new("snp");
    guest.port.write_all(&[0; REQUEST]).unwrap();
    assert_eq!(guest.port.read(&mut [0]).unwrap(), 0);
}

fn what_is_no_script_is_refused() {
    for text in
        ["", "sgx", "snp+", "snp+nonsense", "tdx+debug", "errno:", "errno:-1", "bytes:x", "snp*0", "snp*x", "snp,"]
    {
        assert!(text.parse::<Script>().is_err(), "`{text}`");
    }
    for hex in ["", "3c", "zz", &"3c".repeat(33), &"c".repeat(63)] {
        assert!(format!("snp+host-data={hex}").parse::<Script>().is_err(), "`{hex}`");
    }
}

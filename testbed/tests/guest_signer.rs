//! The signer of the guest tests answers what its script says, and signs what it answers.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use countersign_testbed::guest_signer::host::{For, GATEWAY, Host, RESOURCE, SECRETS};
use countersign_testbed::guest_signer::{REQUEST, Script, Signer};
use countersign_testbed::tee::snp::signed_by;
use countersign_testbed::tee::{Guest as Hardware, Refusal, SnpGuest, TdxGuest};

countersign_testbed::main! {
    a_report_holds_what_was_asked_and_verifies_under_its_own_certificate,
    a_quote_holds_what_was_asked,
    each_change_to_a_report_changes_that,
    each_change_to_a_quote_changes_that,
    a_report_by_another_key_does_not_verify,
    answers_come_in_order_and_the_last_one_stays,
    another_script_starts_from_its_beginning,
    the_initdata_that_a_guest_was_launched_with_is_in_its_reports,
    silence_is_no_answer_and_the_next_one_is_for_the_next_request,
    what_is_no_request_ends_the_signer,
    what_is_no_script_is_refused,
    the_host_believes_its_own_guests_and_tells_why_not_others,
    the_host_lays_out_what_the_guest_is_to_have,
}

/// An answer as the module reads it.
struct Answered {
    seq: u32,
    errno: u32,
    out: Vec<u8>,
    aux: Vec<u8>,
    manifest: Vec<u8>,
}

/// A guest and its signer.
struct Guest {
    port: UnixStream,
    seq: u32,
    signer: Signer,
}

impl Guest {
    fn new(script: &str) -> Self {
        Self::of(Signer::answering(script))
    }

    fn of(signer: Signer) -> Self {
        let (port, mut theirs) = UnixStream::pair().unwrap();
        port.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let serving = signer.clone();
        std::thread::spawn(move || serving.serve(&mut theirs));
        Self { port, seq: 0, signer }
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
    assert_eq!(table[24..48], [0; 24], "the table ends with an empty entry");
    signed_by(&answered.out, &table[word(16)..word(16) + word(20)])
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

/// Where the body of a quote of version 4 has its fields.
const MR_TD: usize = 48 + 136;
const MR_CONFIG_ID: usize = 48 + 184;
const REPORT_DATA: usize = 48 + 520;

fn a_quote_holds_what_was_asked() {
    let mut guest = Guest::new("tdx");
    for fill in [1, 2] {
        let answered = guest.ask([fill; 64]);
        assert_eq!(answered.out[REPORT_DATA..REPORT_DATA + 64], [fill; 64]);
        assert!(answered.aux.is_empty() && answered.manifest.is_empty());
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
    assert!(!verifies(&Guest::new("snp+tampered").ask([7; 64])));
}

fn each_change_to_a_quote_changes_that() {
    let plain = Guest::new("tdx").ask([7; 64]);
    let mut guest = Guest::new("tdx+replay");
    guest.ask([1; 64]);
    assert_eq!(guest.ask([7; 64]).out[REPORT_DATA..REPORT_DATA + 64], [1; 64]);
    assert_eq!(Guest::new("tdx+wrong-data").ask([7; 64]).out[REPORT_DATA..REPORT_DATA + 64], [0x5a; 64]);
    assert_ne!(Guest::new("tdx+other-measurement").ask([7; 64]).out[MR_TD..MR_TD + 48], plain.out[MR_TD..MR_TD + 48]);
    assert_eq!((plain.out[48 + 120] & 1, Guest::new("tdx+debug").ask([7; 64]).out[48 + 120] & 1), (0, 1));
    let script = format!("tdx+host-data={}", "3c".repeat(48));
    assert_eq!(Guest::new(&script).ask([7; 64]).out[MR_CONFIG_ID..MR_CONFIG_ID + 48], [0x3c; 48]);
}

fn a_report_by_another_key_does_not_verify() {
    assert!(!verifies(&Guest::new("snp+other-key").ask([7; 64])));
}

fn answers_come_in_order_and_the_last_one_stays() {
    let mut guest = Guest::new("errno:16*2,tdx,cca,bytes:16384");
    let errnos: Vec<u32> = (0..2).map(|_| guest.ask([7; 64]).errno).collect();
    assert_eq!(errnos, [16, 16]);
    assert_eq!(guest.ask([7; 64]).out[REPORT_DATA..REPORT_DATA + 64], [7; 64]);
    assert_eq!(guest.ask([7; 64]).out.len(), 67);
    for _ in 0..2 {
        assert_eq!(guest.ask([7; 64]).out.len(), 16384);
    }
}

fn another_script_starts_from_its_beginning() {
    let mut guest = Guest::new("snp+replay");
    guest.ask([1; 64]);
    guest.signer.set("errno:16,snp+replay").unwrap();
    assert_eq!(guest.signer.requests(), 0);
    assert_eq!(guest.ask([2; 64]).errno, 16);
    assert_eq!(guest.ask([3; 64]).out[0x50..0x90], [2; 64]);
    assert_eq!(guest.signer.requests(), 2);
    assert!(guest.signer.set("nonsense").is_err());
    assert_eq!(guest.signer.requests(), 2, "what is no script changes nothing");
}

fn the_initdata_that_a_guest_was_launched_with_is_in_its_reports() {
    let answered = Guest::of(Signer::answering("snp").launched_with(&[0x11; 48])).ask([7; 64]);
    assert_eq!(answered.out[0xc0..0xe0], [0x11; 32]);
    let answered = Guest::of(Signer::answering("tdx").launched_with(&[0x11; 32])).ask([7; 64]);
    assert_eq!(answered.out[MR_CONFIG_ID..MR_CONFIG_ID + 48], [[0x11; 32].as_slice(), &[0; 16]].concat());
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
    for text in [
        "",
        "sgx",
        "snp+",
        "snp+nonsense",
        "tdx+no-certificates",
        "tdx+manifest",
        "cca+debug",
        "errno:",
        "errno:-1",
        "bytes:x",
        "snp*0",
        "snp*x",
        "snp,",
    ] {
        assert!(text.parse::<Script>().is_err(), "`{text}`");
    }
    for hex in ["", "3", "zz", &"3c".repeat(33), &"c".repeat(63)] {
        assert!(format!("snp+host-data={hex}").parse::<Script>().is_err(), "`{hex}`");
    }
    assert!(format!("tdx+host-data={}", "3c".repeat(49)).parse::<Script>().is_err());
}

/// One request to the control port.
fn control(host: &Host, method: &str, path: &str, body: &str) -> String {
    let mut port = std::net::TcpStream::connect(host.control()).unwrap();
    write!(port, "{method} {path} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    port.read_to_string(&mut answer).unwrap();
    answer
}

fn the_host_believes_its_own_guests_and_tells_why_not_others() {
    let (host, signer) = Host::start(For::Secrets(SECRETS)).unwrap();
    let (text, digest) = (host.document().text(), host.document().digest());
    let (resource, value) = RESOURCE;
    for guest in [Hardware::Snp(SnpGuest::genoa().initdata(&digest)), Hardware::Tdx(TdxGuest::v4().initdata(&digest))] {
        let fetched = host.kbs().fetch(&guest, Some(&text), resource);
        assert_eq!(fetched.as_deref(), Some(value.as_bytes()));
    }
    assert!(control(&host, "POST", "/script", "tdx+debug").starts_with("HTTP/1.1 200"));
    assert_eq!(signer.provider(), "tdx_guest");
    let stranger = Hardware::Snp(SnpGuest::genoa());
    assert!(host.kbs().fetch(&stranger, Some(&text), resource).is_none());
    assert_eq!(host.kbs().refusals(), [Refusal::InitData]);
    assert!(control(&host, "GET", "/kbs", "").ends_with("requests=0 attestations=0 refusals=InitData"));
    control(&host, "POST", "/script", "snp");
    assert!(control(&host, "GET", "/kbs", "").ends_with("requests=0 attestations=0 refusals="));
    for (path, body) in [("/script", "nonsense"), ("/other", "snp")] {
        assert!(control(&host, "POST", path, body).starts_with("HTTP/1.1 400"), "{path} {body}");
    }
}

fn the_host_lays_out_what_the_guest_is_to_have() {
    let (host, _signer) = Host::start(For::Secrets(SECRETS)).unwrap();
    let directory = std::env::temp_dir().join(format!("countersign-host-{}", std::process::id()));
    host.lay_out(&directory).unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(read("initdata.toml"), host.document().text());
    assert!(read("ca.pem").starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(read("kbs").starts_with(&format!("https://{GATEWAY}:")));
    assert_eq!(read("control"), host.control().port().to_string());
    std::fs::remove_dir_all(&directory).unwrap();
}

//! Doubles of AMD's key server and of a PCCS, as far as `verify` asks them. Paths, queries and headers are
//! written here anew, from the makers' documents (AMD 57230 §4; Intel's PCS API, version 4): the product's
//! own are what this is there to test.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Act, Handler, Record, Seen, Server, Wrap, Wrapped, in_tls, response};
use crate::pki::Identity;
use crate::tee::{SnpGuest, hex};

/// What is answered at a path.
#[derive(Clone, Debug)]
pub enum Page {
    /// 200, with these headers.
    Found(Vec<(&'static str, String)>, Vec<u8>),
    /// Another status line (`404 Not Found`), without a body.
    Status(&'static str),
    /// 302 to another place of this server, where the answer would be.
    Redirect(&'static str),
    /// A connection that ends before the answer.
    Cut,
    /// A body that does not end.
    Endless,
}

/// A server that is yet to start.
#[derive(Debug, Default)]
pub struct Endorser {
    pages: BTreeMap<String, Page>,
    tls: Option<Identity>,
}

/// One that runs. Derefs to the [`Record`] of what it was asked.
#[derive(Debug)]
pub struct RunningEndorser {
    server: Server,
    address: SocketAddr,
    tls: bool,
}

impl Endorser {
    /// AMD's, which knows this guest's chip at its TCB, and a list of the root's that names nothing and is
    /// good in 2026.
    pub fn kds(guest: &SnpGuest, line: &str) -> Self {
        let tcb = guest.tcb;
        let (chip, fmc) = match tcb.fmc {
            Some(fmc) => (guest.chip_id.get(..8).expect("64 bytes"), format!("fmcSPL={fmc:02}&")),
            None => (&guest.chip_id[..], String::new()),
        };
        let place = format!(
            "/vcek/v1/{line}/{}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
            hex(chip),
            tcb.bootloader,
            tcb.tee,
            tcb.snp,
            tcb.microcode
        );
        let pkix = |bytes| Page::Found(vec![("content-type", "application/pkix-cert".to_owned())], bytes);
        Self::default()
            .page(&place, pkix(guest.vendor.vcek(&guest.chip_id, tcb)))
            .page(&format!("/vcek/v1/{line}/crl"), pkix(guest.vendor.crl(&[], (2026, 2027))))
    }

    /// A PCCS that answers with this collateral (dcap-qvl's JSON) for this platform.
    ///
    /// # Panics
    /// Where that is no such JSON.
    pub fn pccs(collateral: &Value, fmspc: &str, ca: &str) -> Self {
        let text = |name: &str| collateral.get(name).and_then(Value::as_str).expect(name);
        let signed = |member: &str, name: &str| {
            format!("{{\"{member}\":{},\"signature\":\"{}\"}}", text(name), text(&format!("{name}_signature")))
                .into_bytes()
        };
        let chain = |header, name: &str| vec![(header, percent_encoded(text(name)))];
        let der = |name: &str| crate::vectors::unhex(text(name));
        Self::default()
            // Intel's own cache has this list as hex, and the other one as it is.
            .page("/sgx/certification/v4/rootcacrl", Page::Found(vec![], text("root_ca_crl").as_bytes().to_vec()))
            .page(
                &format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"),
                Page::Found(chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain"), der("pck_crl")),
            )
            .page(
                &format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
                Page::Found(chain("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain"), signed("tcbInfo", "tcb_info")),
            )
            .page(
                "/tdx/certification/v4/qe/identity",
                Page::Found(
                    chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
                    signed("enclaveIdentity", "qe_identity"),
                ),
            )
    }

    /// Answers so at this path, query included.
    #[must_use]
    pub fn page(mut self, path: &str, page: Page) -> Self {
        self.pages.insert(path.to_owned(), page);
        self
    }

    /// Answers so wherever the path, without its query, ends like this.
    ///
    /// # Panics
    /// Where no path does.
    #[must_use]
    pub fn instead(mut self, end: &str, page: &Page) -> Self {
        let found: Vec<_> = self.pages.keys().filter(|path| bare(path).ends_with(end)).cloned().collect();
        assert!(!found.is_empty(), "no page ends with {end}");
        self.pages.extend(found.into_iter().map(|path| (path, page.clone())));
        self
    }

    /// Serves https with this identity.
    #[must_use]
    pub fn tls(mut self, identity: Identity) -> Self {
        self.tls = Some(identity);
        self
    }

    /// Starts on a free port of the machine's own 127.0.0.1.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn on_loopback(self) -> RunningEndorser {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let wrap: Wrap = match &self.tls {
            None => Arc::new(|raw| Ok(Wrapped::One(Box::new(raw)))),
            Some(identity) => in_tls(identity, false),
        };
        let pages = self.pages;
        let handler: Handler = Arc::new(move |seen| acts(&pages, seen));
        let server = Server::start(move || listener.try_clone(), Duration::ZERO, wrap, handler).expect("it listens");
        RunningEndorser { server, address, tls: self.tls.is_some() }
    }
}

impl RunningEndorser {
    /// `http(s)://address`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

impl Deref for RunningEndorser {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.server.record()
    }
}

fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

fn acts(pages: &BTreeMap<String, Page>, seen: &Seen) -> Vec<Act> {
    let send = |status: &str, headers: &[(&str, &str)], body: &[u8]| vec![Act::Send(response(status, headers, body))];
    if seen.method != "GET" {
        return send("405 Method Not Allowed", &[], b"");
    }
    match pages.get(&seen.path) {
        Some(Page::Found(headers, body)) => {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            send("200 OK", &headers, body)
        }
        Some(Page::Status(status)) => send(status, &[], b""),
        Some(Page::Redirect(place)) => send("302 Found", &[("location", place)], b""),
        Some(Page::Cut) => vec![Act::Reset],
        Some(Page::Endless) => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n".to_vec();
            vec![Act::Send(head), Act::Endless(vec![0x30; 4096])]
        }
        None => send("404 Not Found", &[], b""),
    }
}

/// As Intel's servers write a chain into a header: all but unreserved characters (RFC 3986 §2.3).
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

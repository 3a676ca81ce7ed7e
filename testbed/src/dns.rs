//! A DNS server of a few names: A records for some, NXDOMAIN for the rest, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http::lock;
use crate::world::Place;

/// Where resolv.conf points inside a world.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// How often the UDP thread looks whether it was told to stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A DNS server to be started. See [`World::dns`](crate::World::dns).
#[derive(Clone, Debug, Default)]
pub struct Dns {
    names: BTreeMap<String, Ipv4Addr>,
    silent: bool,
}

/// One that runs. Stops when dropped.
#[derive(Debug)]
pub struct RunningDns {
    stop: Arc<AtomicBool>,
    tcp: TcpListener,
    asked: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Knows no name: every answer is NXDOMAIN.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Takes questions, and never answers.
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// This name has this address.
    #[must_use]
    pub fn name(mut self, name: &str, address: Ipv4Addr) -> Self {
        self.names.insert(name.trim_end_matches('.').to_ascii_lowercase(), address);
        self
    }

    pub(crate) fn start(self, place: &Arc<Place>) -> io::Result<RunningDns> {
        let (udp, tcp) = (place.udp(ADDRESS)?, place.tcp(ADDRESS)?);
        udp.set_read_timeout(Some(STOP_POLL))?;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let book = Arc::new(self);
        let over_udp = {
            let (book, stop, asked) = (Arc::clone(&book), Arc::clone(&stop), Arc::clone(&asked));
            thread::spawn(move || serve_udp(&udp, &book, &stop, &asked))
        };
        let over_tcp = {
            let (listener, asked) = (tcp.try_clone()?, Arc::clone(&asked));
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = serve_tcp(stream, &book, &asked);
                }
            })
        };
        Ok(RunningDns { stop, tcp, asked, threads: vec![over_udp, over_tcp] })
    }
}

impl RunningDns {
    /// Names that were asked for, lower case, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

impl Drop for RunningDns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, book: &Dns, stop: &AtomicBool, asked: &Mutex<Vec<String>>) {
    // RFC 1035 §4.2.1 allows 512 bytes; EDNS questions may be a little longer.
    let mut buffer = [0_u8; 1500];
    while !stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = buffer.get(..length).and_then(|question| reply(question, book, asked)) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

fn serve_tcp(mut stream: TcpStream, book: &Dns, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut length = [0_u8; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question)?;
    if let Some(reply) = reply(&question, book, asked) {
        stream.write_all(&u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes())?;
        stream.write_all(&reply)?;
    }
    Ok(())
}

/// RFC 1035 §4.1: header, the question again, and one answer or none.
fn reply(question: &[u8], book: &Dns, asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let name = name.join(".");
    let kind = question.get(at..at + 2)?;
    let asked_part = question.get(HEADER..at + 4)?;
    lock(asked).push(name.clone());
    if book.silent {
        return None;
    }
    let address = book.names.get(&name);
    // NXDOMAIN only for names we do not know: NODATA for the AAAA of one that we do.
    let code = if address.is_some() { 0 } else { 3 };
    let answer = address.filter(|_| kind == TYPE_A);
    let mut reply = question.get(..2)?.to_vec();
    reply.extend([0x85, 0x80 | code]); // response, authoritative, recursion desired and available
    reply.extend([0, 1, 0, u8::from(answer.is_some()), 0, 0, 0, 0]);
    reply.extend(asked_part);
    if let Some(address) = answer {
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]); // the name above, A, IN, 30 s, 4 bytes
        reply.extend(address.octets());
    }
    Some(reply)
}

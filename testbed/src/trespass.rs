//! What an intruder would try from inside a process of ours. Only `countersign-sim` does: each try is one
//! line, `trespass WHAT: ANSWER`, and the tests hold the sandbox to the answers.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::net::{AddressFamily, Protocol, SocketType, ipproto};

use crate::sim::BANNER;

/// Every try, in this order.
pub(crate) fn all() {
    let own = std::env::temp_dir().join("countersign-trespass");
    tell("read-file", File::open("/etc/passwd").map(drop));
    tell("list-root", fs::read_dir("/").map(drop));
    tell("write-file", File::create(&own).map(drop));
    let made = rustix::fs::mkdirat(rustix::fs::CWD, &own, rustix::fs::Mode::RWXU);
    tell("make-directory", made.map_err(io::Error::from));
    tell("make-socket", UnixListener::bind(&own).map(drop));
    tell("other-process", File::open("/proc/1/environ").map(drop));
    tell("bind-tcp", TcpListener::bind("127.0.0.1:0").map(drop));
    tell("call-tcp", TcpStream::connect("127.0.0.1:9").map(drop));
    // What the role does itself must still be there, or the refusals prove nothing.
    tell("own-proc", File::open("/proc/self/status").map(drop));
    tell("udp", UdpSocket::bind("127.0.0.1:0").map(drop));
    tell("netlink-socket", socket(AddressFamily::NETLINK, SocketType::RAW, None));
    tell("raw-socket", socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)));
    tell("mptcp-socket", socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)));
    let other = rustix::process::test_kill_process(rustix::process::Pid::INIT);
    tell("signal-other", other.map_err(io::Error::from));
    tell("another-process", Command::new("/bin/true").spawn().map(drop));
    tell(
        "memory-file",
        rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).map(drop).map_err(io::Error::from),
    );
    let _ = fs::remove_file(&own);
}

/// Becomes another program: deadly, or this line is seen.
pub(crate) fn exec() {
    tell("exec", Err(Command::new("/bin/true").exec()));
}

fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> io::Result<()> {
    rustix::net::socket(family, kind, protocol).map(drop).map_err(io::Error::from)
}

fn tell(what: &str, answer: io::Result<()>) {
    let answer = match answer {
        Ok(()) => "done".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| "refused".to_owned(), |errno| format!("errno {errno}")),
    };
    eprintln!("{BANNER}trespass {what}: {answer}");
}

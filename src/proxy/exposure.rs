//! The exposure guard: an app that listens on more than loopback can be called past the sidecar. Read
//! from the pod's own `/proc/net/tcp{,6}`, which needs no privileges.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Most bytes read of one table: a line has 150, and a pod with 100,000 sockets has other worries.
const MAX_TABLE: u64 = 16 * 1024 * 1024;

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Addresses other than loopback that somebody in this network namespace listens on at `port`. `None`:
/// procfs cannot be read, so nobody knows.
pub fn exposed(proc: &Path, port: u16) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    let mut read = false;
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(file) = std::fs::File::open(proc.join(table)) else { continue };
        let mut text = String::new();
        if file.take(MAX_TABLE).read_to_string(&mut text).is_err() {
            continue;
        }
        read = true;
        found.extend(
            text.lines()
                .skip(1)
                .filter_map(listener)
                .filter_map(|(address, at)| (at == port && !address.to_canonical().is_loopback()).then_some(address)),
        );
    }
    read.then_some(found)
}

/// Address and port of a line that is a listener's.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some((parse(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel prints each 32-bit word of an address as a number of this machine.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let text = hex.get(at.checked_mul(8)?..at.checked_add(1)?.checked_mul(8)?)?;
        u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut octets = [0_u8; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_address_and_port() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1 1 0 100 0";
        assert_eq!(listener(line), Some(("127.0.0.1".parse().unwrap(), 8080)));
        let any =
            "   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 2";
        assert_eq!(listener(any), Some(("::".parse().unwrap(), 8080)));
        let mapped = "   1: 0000000000000000FFFF00000100007F:1F90 0:0 0A 0:0 0:0 0 0 0 2";
        assert!(listener(mapped).unwrap().0.to_canonical().is_loopback());
        for line in ["", "sl local", "0: 0100007F:1F90 0:0 01", "0: zz:1F90 0:0 0A", "0: é0100007F:1F90 0:0 0A"] {
            assert_eq!(listener(line), None, "{line}");
        }
    }

    #[test]
    fn what_listens_on_this_machine_is_told() {
        let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
        assert_eq!(exposed(Path::new("/proc"), port(&open)).unwrap().len(), 1);
        assert!(exposed(Path::new("/proc"), port(&closed)).unwrap().is_empty());
        assert_eq!(exposed(Path::new("/nonexistent"), 1), None);
    }
}

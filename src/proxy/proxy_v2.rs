//! The PROXY protocol's binary header, for `tcp` apps that want to know who calls.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt> §2.2.

use std::net::{IpAddr, SocketAddr};

/// The signature, version 2, command PROXY.
const START: [u8; 13] = *b"\r\n\r\n\0\r\nQUIT\n\x21";

/// TCP over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Type of the TLV that holds the peer's identity. ztunnel's number for the same thing; the range from
/// 0xE0 is for experiments, and 0xD0 is what readers of ztunnel's know.
const IDENTITY: u8 = 0xD0;

/// The header: who connected from `from` to `to`, and the identity that was verified.
pub fn header(from: SocketAddr, to: SocketAddr, identity: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + identity.len());
    let family = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP4
        }
        (from, to) => {
            body.extend(v6(from));
            body.extend(v6(to));
            TCP6
        }
    };
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    // An identity has at most 2048 bytes, so both lengths fit.
    body.push(IDENTITY);
    body.extend(u16::try_from(identity.len()).unwrap_or(0).to_be_bytes());
    body.extend(identity.as_bytes());
    let mut header = Vec::with_capacity(16 + body.len());
    header.extend(START);
    header.push(family);
    header.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    header.extend(body);
    header
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_as_the_specification_draws_it() {
        let header =
            header("10.1.2.3:4660".parse().unwrap(), "[::ffff:10.0.0.1]:8443".parse().unwrap(), "spiffe://a/b");
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        expected.extend([0, 12 + 3 + 12]);
        expected.extend([10, 1, 2, 3, 10, 0, 0, 1, 0x12, 0x34, 0x20, 0xfb, 0xd0, 0, 12]);
        expected.extend(b"spiffe://a/b");
        assert_eq!(header, expected);
    }

    #[test]
    fn two_families_become_the_larger() {
        let header = header("[2001:db8::1]:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap(), "");
        assert_eq!(header.get(13), Some(&TCP6));
        assert_eq!(header.len(), 16 + 36 + 3);
    }
}

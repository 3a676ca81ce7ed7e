//! The exposure guard: an app that listens on more than loopback can be called past the sidecar. Read
//! from the pod's own `/proc/net/tcp{,6}`, which needs no privileges.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::config::grammar::Local;
use crate::config::roles::{Exposure, Inbound};
use crate::finding::Class;
use crate::observe::health::Health;

/// Most bytes read of one table: a line has 150, and a pod with 100,000 sockets has other worries. Listeners come
/// first.
const MAX_TABLE: u64 = 16 * 1024 * 1024;

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// What the guard has seen.
#[derive(Debug, Default)]
pub struct Guard {
    /// An app is exposed, and that was said.
    told: bool,
    /// Nobody can tell, and that was said.
    blind: bool,
    /// It could be told once.
    seen: bool,
}

impl Guard {
    /// Looks who listens on the apps' ports, and tells `health`. While nobody can tell, what was last seen
    /// stands; where nothing has been, the pod is not ready.
    pub fn look(&mut self, proc: &Path, inbound: &[Inbound], health: &Health) {
        let guarded = || inbound.iter().filter_map(|inbound| Some((inbound, guarded(inbound)?)));
        let seen: Option<Vec<_>> = guarded()
            .map(|(inbound, port)| exposed(proc, port).map(|found| (inbound, port, found.first().copied())))
            .collect();
        let Some(seen) = seen else {
            if !std::mem::replace(&mut self.blind, true) {
                tracing::warn!(
                    "/proc/net/tcp cannot be read: nobody can tell whether an app can be called without the sidecar; \
                     what was last seen stands, and before that the pod is not ready; mount procfs at /proc, or write \
                     `exposure = \"warn\"` into each `[[inbound]]`"
                );
            }
            let refused = guarded().any(|(inbound, _)| inbound.exposure == Exposure::Refuse);
            if !self.seen {
                health.problem("exposure", refused.then_some(Class::AppExposed));
            }
            return;
        };
        self.seen = true;
        if std::mem::take(&mut self.blind) {
            tracing::info!("/proc/net/tcp can be read again");
        }
        let (mut refused, mut any) = (false, false);
        for (inbound, port, address) in seen {
            let Some(address) = address else { continue };
            refused |= inbound.exposure == Exposure::Refuse;
            any = true;
            if !self.told {
                tracing::warn!(
                    class = Class::AppExposed.label(), %address, port,
                    "the app listens on more than loopback: it can be called without the sidecar; make it listen on \
                     127.0.0.1 (HOST=127.0.0.1 in many frameworks)"
                );
            }
        }
        self.told = any;
        health.problem("exposure", refused.then_some(Class::AppExposed));
    }
}

/// The app's port, where it has one that others could call.
fn guarded(inbound: &Inbound) -> Option<u16> {
    let Local::Tcp(app) = &inbound.app else { return None };
    // Our own listener on the same port is no app's.
    (app.port() != inbound.listen.port()).then_some(app.port())
}

/// Addresses other than loopback that somebody in this network namespace listens on at `port`. `None`:
/// nobody knows, since one of the tables is there and cannot be read, or there is none.
pub fn exposed(proc: &Path, port: u16) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    let mut read = false;
    for table in ["net/tcp", "net/tcp6"] {
        let mut text = String::new();
        match std::fs::File::open(proc.join(table)) {
            Ok(file) => file.take(MAX_TABLE).read_to_string(&mut text).ok()?,
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
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
    use crate::clock::Clock;
    use std::path::PathBuf;

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

    const OPEN: &str = "sl\n 0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1\n";

    /// A procfs of ours, with these tables.
    fn tables(name: &str, tcp: &str) -> PathBuf {
        let proc = std::env::temp_dir().join(format!("countersign-exposure-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&proc);
        std::fs::create_dir_all(proc.join("net")).unwrap();
        std::fs::write(proc.join("net/tcp"), tcp).unwrap();
        proc
    }

    #[test]
    fn a_table_that_cannot_be_read_is_no_table_without_listeners() {
        let proc = tables("table", OPEN);
        assert_eq!(exposed(&proc, 8080).unwrap().len(), 1, "a kernel without IPv6 has one table");
        // Opened by anybody, and read by nobody.
        std::fs::create_dir(proc.join("net/tcp6")).unwrap();
        assert_eq!(exposed(&proc, 8080), None);
        assert_eq!(exposed(&proc, 8081), None);
        std::fs::remove_dir_all(&proc).unwrap();
    }

    /// With this beside its list, and a pod that would be ready but for the guard.
    fn guarded_pod(more: &str) -> (Vec<Inbound>, std::sync::Arc<Health>, Guard) {
        let text = format!(
            "version = 1\n[[inbound]]\nlisten = \"[::]:8443\"\napp = \"127.0.0.1:8080\"\n\
             allow = [\"spiffe://example.org/ns/web/sa/*\"]\n{more}"
        );
        let health = Health::new(&Clock::system());
        health.renewed(u64::MAX, None);
        health.listening();
        (crate::config::resolve::parse(&text).unwrap().roles.inbound, health, Guard::default())
    }

    #[test]
    fn a_pod_of_which_nobody_could_ever_tell_is_not_ready() {
        let proc = Path::new("/nonexistent");
        for (more, word) in [("", "app-exposed"), ("exposure = \"warn\"\n", "ok")] {
            let (inbound, health, mut guard) = guarded_pod(more);
            guard.look(proc, &inbound, &health);
            assert_eq!(health.ready().word, word, "{more}");
            guard.look(Path::new("/proc"), &[], &health);
            assert_eq!(health.ready().word, "ok", "once it can be told");
        }
    }

    #[test]
    fn an_exposed_app_stays_exposed_while_nobody_can_tell() {
        let proc = tables("guard", OPEN);
        let (inbound, health, mut guard) = guarded_pod("");
        guard.look(&proc, &inbound, &health);
        assert_eq!(health.ready().word, "app-exposed");
        std::fs::create_dir(proc.join("net/tcp6")).unwrap();
        guard.look(&proc, &inbound, &health);
        assert_eq!(health.ready().word, "app-exposed", "nobody has seen that it is over");
        std::fs::remove_dir(proc.join("net/tcp6")).unwrap();
        std::fs::write(proc.join("net/tcp"), "sl\n").unwrap();
        guard.look(&proc, &inbound, &health);
        assert_eq!(health.ready().word, "ok");
        std::fs::remove_dir_all(&proc).unwrap();
    }
}

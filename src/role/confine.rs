//! What a role still needs, once its configuration is known, told to the sandbox.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::boot::Booted;
use crate::config::grammar::Local;
use crate::config::roles::IdentitySource;
use crate::config::{Config, Via};
use crate::ports::Ports;
use crate::sandbox::Outcome;
use crate::sandbox::calls::Calls;
use crate::sandbox::places::{self, Places};
use crate::tsm;

/// Where names are asked, where an answer is too long for UDP (RFC 7766).
const DNS: u16 = 53;

/// What the resolver reads. The kubelet mounts both; each may be absent.
const NAMES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Applies the second layer, and says what came of both. Comes after every port is bound and the secrets'
/// directory is made, and before anything is fetched. Returns whether system calls are filtered, and the ABI
/// of Landlock that holds, 0 for none.
pub(super) fn confine(ports: &Ports, booted: &Booted, calls: Outcome<Calls>) -> (bool, u8) {
    let held = places::restrict(&needs(ports, &booted.config, booted.kbs_ports(ports)));
    let filtered = matches!(calls, Outcome::On(_));
    let abi = match held {
        Outcome::On(held) => held.abi,
        Outcome::Off(_) => 0,
    };
    if filtered && abi > 0 {
        tracing::info!(seccomp = %calls, landlock = %held, "sandbox");
    } else {
        tracing::warn!(seccomp = %calls, landlock = %held, "sandbox: not whole; the guest's agent policy is what stands");
    }
    (filtered, abi)
}

/// `kbs` are the ports of every KBS that may be asked.
fn needs(ports: &Ports, config: &Config, kbs: BTreeSet<u16>) -> Places {
    let via = |ways: &[Via]| ways.iter().any(|way| config.kbs.via.contains(way));
    let mut read: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
    read.extend([ports.initdata.clone(), ports.proc.clone()]);
    // Evidence of this guest is asked for on the direct roads only.
    let direct = via(&[Via::ConfigfsTsm, Via::SevGuest, Via::AaEvidence]);
    if direct {
        read.extend(tsm::DIRECTORIES.iter().map(|below| ports.sys.join(below)));
    }
    let publishes = !config.secrets.files.is_empty();
    let mut connect = kbs;
    connect.extend([ports.guest_api.port(), DNS]);
    connect.extend(config.roles.inbound.iter().filter_map(|inbound| match &inbound.app {
        Local::Tcp(app) => Some(app.port()),
        Local::Unix(_) => None,
    }));
    connect.extend(config.roles.outbound.iter().map(|outbound| outbound.to.port));
    if let Some(IdentitySource::Issuer { address, .. }) = config.roles.identity.as_ref().map(|it| &it.source) {
        connect.insert(address.port);
    }
    Places {
        read,
        publish: publishes.then(|| config.secrets.directory.clone()),
        reports: ports.tsm.path().filter(|_| via(&[Via::ConfigfsTsm])),
        devices: via(&[Via::SevGuest]).then(|| PathBuf::from(tsm::DEVICE)).into_iter().collect(),
        write: vec![ports.termination_log.clone()],
        connect,
        proc: ports.proc.clone(),
    }
}

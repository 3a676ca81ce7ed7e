//! What `diagnose` asks about listeners, ours and the app's.

use std::path::Path;

use super::{exposure, socket};
use crate::check::{Check, Outcome};
use crate::config::grammar::Local;
use crate::config::roles::{Exposure, Inbound};
use crate::finding::{Class, Finding};

const TERMS: &[&str] = &["sidecar.terms"];

/// Our listener.
pub const LISTENER: Check =
    Check::new("sidecar.listener", "can the listener's address be had", "a port that is taken serves nobody")
        .needs(TERMS)
        .cheap();

/// The app's listener.
pub const EXPOSURE: Check = Check::new(
    "sidecar.exposure",
    "does the app listen on loopback alone",
    "an app on every address can be called past the sidecar, without any certificate",
)
.needs(TERMS)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&LISTENER, &EXPOSURE]
}

/// Takes the address, and gives it back.
pub fn listener(inbound: &Inbound) -> Outcome {
    match socket::hold(inbound.listen) {
        Ok(_) => Outcome::Pass(format!("{} is free", inbound.listen)),
        // The sidecar itself has it where it runs already.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Outcome::Warn(cannot_listen("inbound.listen", inbound.listen, &error))
        }
        Err(error) => Outcome::Fail(cannot_listen("inbound.listen", inbound.listen, &error)),
    }
}

/// The finding for an address of ours that cannot be listened on.
pub fn cannot_listen(key: &str, address: std::net::SocketAddr, error: &std::io::Error) -> Finding {
    Finding::new(Class::Config, format!("`{key}` {address} cannot be listened on: {}", error.kind()))
        .why("another process of this pod has the port, or it is below 1024 and we have no capability")
        .next(format!("choose another port in `{key}`, or move the other process"))
}

/// Who listens on the app's port.
pub fn app(inbound: &Inbound, proc: &Path) -> Outcome {
    let Local::Tcp(app) = &inbound.app else {
        return Outcome::Pass("the app has a unix socket".to_owned());
    };
    // Our own listener on the same port is no app's.
    if app.port() == inbound.listen.port() {
        return Outcome::Skip("the sidecar and the app have the same port number".to_owned());
    }
    let Some(found) = exposure::exposed(proc, app.port()) else {
        let finding = Finding::new(Class::AppExposed, "/proc/net/tcp cannot be read, so nobody knows who listens")
            .next("mount procfs at /proc, or write `exposure = \"warn\"` into the `[[inbound]]`");
        return of(inbound, finding);
    };
    let Some(address) = found.first() else {
        return Outcome::Pass(format!("nobody listens on port {} but on loopback", app.port()));
    };
    of(inbound, Finding::new(Class::AppExposed, format!("somebody listens on {address}, port {}", app.port())))
}

fn of(inbound: &Inbound, finding: Finding) -> Outcome {
    if inbound.exposure == Exposure::Refuse { Outcome::Fail(finding) } else { Outcome::Warn(finding) }
}

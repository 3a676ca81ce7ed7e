//! A KBS that verifies what it gets: Trustee v0.21.0 with its built-in attestation service, over
//! http or TLS, and everything that can go wrong on the way to it.
//!
//! Answers are held to recorded traffic by `testbed/tests/rcar.rs` and `doubles.rs`. Believed are
//! guests of [`Vendor::ours`](crate::tee::Vendor::ours); why others were not is in
//! [`RunningKbs::refusals`], as it is in the real server's log and nowhere else.

mod attest;
mod core;
mod fault;
mod jwe;
mod reply;
mod running;
mod token;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use self::fault::{Fault, Rule, Step};
pub use self::running::RunningKbs;

use self::core::Core;
use crate::guest::LOGIN_PAGE;
use crate::http::{Act, Handler, Seen, Server, Wrap, Wrapped, in_tls, lock, response};
use crate::pki::Identity;
use crate::tee::{Guest, Vendor};
use crate::world::Place;

/// How long a session lives in Trustee's default configuration.
const SESSION: Duration = Duration::from_secs(300);

/// How long a token lives in Trustee's default configuration, seconds.
const TOKEN: i64 = 300;

/// Whom the KBS gives a resource.
#[derive(Clone)]
pub enum Policy {
    /// Everybody who attested.
    AllowAll,
    /// Trustee's own: everybody but `sample`.
    Default,
    /// Those of whom every submod is affirming.
    Affirming,
    /// Nobody.
    DenyAll,
    /// Whom this says, by the resource's path (`payments/db/password`) and the token's claims.
    Custom(Decision),
}

/// See [`Policy::Custom`].
pub type Decision = Arc<dyn Fn(&str, &Value) -> bool + Send + Sync>;

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AllowAll => "AllowAll",
            Self::Default => "Default",
            Self::Affirming => "Affirming",
            Self::DenyAll => "DenyAll",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What a KBS is set up with.
#[derive(Clone, Debug)]
struct Setup {
    version: &'static str,
    vendor: Arc<Vendor>,
    policy: Policy,
    resources: BTreeMap<String, Vec<u8>>,
    references: Arc<Mutex<Vec<String>>>,
    rules: Vec<Rule>,
    scripted: Vec<(String, String)>,
    session_lifetime: Duration,
    token_seconds: i64,
    round_trip: Duration,
}

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Trustee,
    Gateway,
    Silent,
    Reset,
    Stranger,
}

/// A KBS to be started. See [`World::kbs`](crate::World::kbs).
#[derive(Clone, Debug)]
pub struct Kbs {
    mode: Mode,
    tls: Option<Identity>,
    h2: bool,
    setup: Setup,
}

impl Kbs {
    /// Speaks protocol 0.4.0, as Trustee v0.14 and later do. Holds no resource yet; its policy is
    /// [`Policy::Default`].
    pub fn healthy() -> Self {
        let setup = Setup {
            version: "0.4.0",
            vendor: Vendor::ours(),
            policy: Policy::Default,
            resources: BTreeMap::new(),
            references: Arc::default(),
            rules: Vec::new(),
            scripted: Vec::new(),
            session_lifetime: SESSION,
            token_seconds: TOKEN,
            round_trip: Duration::ZERO,
        };
        Self { mode: Mode::Trustee, tls: None, h2: false, setup }
    }

    /// Accepts only this version of the protocol.
    pub fn version(version: &'static str) -> Self {
        let mut kbs = Self::healthy();
        kbs.setup.version = version;
        kbs
    }

    /// Not a KBS but a gateway, which answers everything with its login page.
    pub fn gateway_page() -> Self {
        Self { mode: Mode::Gateway, ..Self::healthy() }
    }

    /// Accepts connections, and says nothing.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent, ..Self::healthy() }
    }

    /// Resets every request.
    pub fn resets() -> Self {
        Self { mode: Mode::Reset, ..Self::healthy() }
    }

    /// Some other web service: 404 with an empty body.
    pub fn another_service() -> Self {
        Self { mode: Mode::Stranger, ..Self::healthy() }
    }

    /// Serves TLS with this certificate.
    #[must_use]
    pub fn tls(mut self, identity: Identity) -> Self {
        self.tls = Some(identity);
        self
    }

    /// Offers HTTP/2 by ALPN; HTTP/1.1 stays for those who do not ask.
    /// There a reset or close in mid-body ends the stream, not the connection.
    #[must_use]
    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Holds this resource (`payments/db/password`).
    #[must_use]
    pub fn resource(mut self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.setup.resources.insert(path.to_owned(), bytes.as_ref().to_vec());
        self
    }

    /// Releases resources by this policy.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.setup.policy = policy;
        self
    }

    /// Has a reference value for this guest: it is appraised as affirming, unless its policy lets
    /// the host look inside.
    #[must_use]
    pub fn reference(self, guest: &Guest) -> Self {
        // The verifier says this of every sample.
        let value = guest.measurement().unwrap_or_else(|| "abcde".to_owned());
        lock(&self.setup.references).push(value);
        self
    }

    /// Believes guests of these vendors only.
    #[must_use]
    pub fn trusts(mut self, vendor: Arc<Vendor>) -> Self {
        self.setup.vendor = vendor;
        self
    }

    /// Goes wrong by this rule. The first rule that a request meets decides.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.setup.rules.push(rule);
        self
    }

    /// Goes wrong so at this step, always.
    #[must_use]
    pub fn fault(self, step: Step, fault: Fault) -> Self {
        self.rule(Rule::on(step, fault))
    }

    /// Sessions end so long after `/auth`.
    #[must_use]
    pub fn session_lifetime(mut self, time: Duration) -> Self {
        self.setup.session_lifetime = time;
        self
    }

    /// Tokens say that they run out after so many seconds; Trustee counts 60 more. May be negative:
    /// with -61 a token has run out when it is made.
    #[must_use]
    pub fn token_seconds(mut self, seconds: i64) -> Self {
        self.setup.token_seconds = seconds;
        self
    }

    /// The next sessions have these ids and nonces, so that recorded traffic can be replayed.
    #[must_use]
    pub fn sessions(mut self, of: impl IntoIterator<Item = (String, String)>) -> Self {
        self.setup.scripted = of.into_iter().collect();
        self
    }

    /// As far away as this: waited once for a connection, once more for its TLS handshake, and
    /// once for each request.
    #[must_use]
    pub fn round_trip(mut self, time: Duration) -> Self {
        self.setup.round_trip = time;
        self
    }

    pub(crate) fn start(self, place: &Arc<Place>, address: &str) -> RunningKbs {
        let address: SocketAddr = address.parse().expect("a literal address with a port");
        let place = Arc::clone(place);
        self.listen(address, move || place.tcp(address)).expect("the KBS's address is free in this world")
    }

    /// Runs on a free port of the machine's own 127.0.0.1: for callers of the library, which live in
    /// no world. Stops when the last clone is dropped.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn on_loopback(self) -> RunningKbs {
        self.serve(TcpListener::bind("127.0.0.1:0").expect("a free port")).expect("a listener has an address")
    }

    /// Serves on a listener of the caller's, outside any world.
    pub fn serve(self, listener: TcpListener) -> std::io::Result<RunningKbs> {
        let address = listener.local_addr()?;
        self.listen(address, move || listener.try_clone())
    }

    fn listen(
        self,
        address: SocketAddr,
        listen: impl Fn() -> std::io::Result<TcpListener> + Send + 'static,
    ) -> std::io::Result<RunningKbs> {
        let (mode, round_trip, tls) = (self.mode, self.setup.round_trip, self.tls.is_some());
        let core = Arc::new(Core::new(self.setup));
        let handler: Handler = {
            let core = Arc::clone(&core);
            Arc::new(move |seen| answer(mode, &core, seen))
        };
        let inner: Wrap = match self.tls {
            None => Arc::new(|raw| Ok(Wrapped::One(Box::new(raw)))),
            Some(identity) => in_tls(&identity, self.h2),
        };
        let down_until = Arc::new(Mutex::new(None));
        let wrap: Wrap = {
            let down_until: Arc<Mutex<Option<Instant>>> = Arc::clone(&down_until);
            Arc::new(move |raw| {
                if lock(&down_until).is_some_and(|until| Instant::now() < until) {
                    return Err(std::io::Error::other("down"));
                }
                std::thread::sleep(round_trip * if tls { 2 } else { 1 });
                inner(raw)
            })
        };
        let server = Server::start(listen, Duration::ZERO, wrap, handler)?;
        Ok(RunningKbs { server: Arc::new(server), core, down_until, address, tls })
    }
}

fn answer(mode: Mode, core: &Core, seen: &Seen) -> Vec<Act> {
    match mode {
        Mode::Trustee => core.acts(seen),
        Mode::Gateway => {
            let html = [("content-type", "text/html; charset=utf-8")];
            vec![Act::Send(response("200 OK", &html, LOGIN_PAGE.as_bytes()))]
        }
        Mode::Silent => vec![Act::Silence],
        Mode::Reset => vec![Act::Reset],
        Mode::Stranger => vec![Act::Send(response("404 Not Found", &[], b""))],
    }
}

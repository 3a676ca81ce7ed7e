//! The proxies: the same certificate, the same roots, the same app behind them, one thread each, all on
//! one processor.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_testbed::pki::{Ca, Identity};

/// The app.
pub const APP: &str = "127.0.0.1:8080";

/// The processor of the proxies, and the one of everything else.
pub const PROCESSORS: (usize, usize) = (0, 1);

/// Where our own numbers are read.
pub const METRICS: &str = "127.0.0.1:15822";

/// Longest start of a proxy.
const START: Duration = Duration::from_secs(20);

/// Who stands in front of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Countersign,
    /// Ours, which demands evidence of its callers and shows its own.
    Proven,
    /// Ours, as the mesh's issuer.
    Issuer,
    Haproxy,
    Nginx,
}

/// What of HTTP the proxy understands: all of it, or bytes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Http,
    Tcp,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Countersign => "countersign",
            Self::Proven => "countersign with evidence",
            Self::Issuer => "countersign issuer",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx stream",
        }
    }

    /// Where it listens.
    pub fn address(self, mode: Mode) -> SocketAddr {
        let port = match (self, mode) {
            (Self::Countersign, Mode::Http) => 8443,
            (Self::Countersign, Mode::Tcp) => 8444,
            (Self::Proven, _) => 8446,
            (Self::Issuer, _) => 8447,
            (Self::Haproxy, Mode::Http) => 8453,
            (Self::Haproxy, Mode::Tcp) => 8454,
            (Self::Nginx, _) => 8463,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// What it says of its version, and the version of its TLS library where it says that.
    pub fn version(self) -> String {
        let (program, argument) = match self {
            Self::Countersign | Self::Proven | Self::Issuer => (binary(), "--version"),
            Self::Haproxy => ("haproxy".into(), "-vv"),
            Self::Nginx => ("nginx".into(), "-V"),
        };
        let output = Command::new(program).arg(argument).output().expect("the program starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let number =
            first.split([' ', '/']).find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
        let tls = text.lines().find_map(|line| {
            let line = line.strip_prefix("Running on OpenSSL version : ").or_else(|| line.strip_prefix("built with "));
            line.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        });
        let number = number.unwrap_or("unknown");
        tls.map_or_else(|| number.to_owned(), |tls| format!("{number} ({tls})"))
    }
}

fn binary() -> PathBuf {
    std::env::var_os("BENCH_BINARY").expect("bench/compare sets BENCH_BINARY").into()
}

/// Files that all of them read.
pub struct Room(PathBuf);

impl Room {
    pub fn new(directory: &Path, ca: &Ca, server: &Identity) -> Self {
        let room = Self(directory.to_owned());
        room.write("ca.pem", ca.pem());
        room.write("server.pem", &(server.pem().to_owned() + &server.key_pem()));
        room.write("cert.pem", server.pem());
        room.write("key.pem", &server.key_pem());
        room.write("openssl.cnf", NO_TICKETS);
        room
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Starts one, and waits until it takes connections.
    pub fn start(&self, kind: Kind) -> Proxy {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &PROCESSORS.0.to_string()]);
        command.env("OPENSSL_CONF", self.0.join("openssl.cnf"));
        match kind {
            Kind::Countersign | Kind::Proven | Kind::Issuer => {
                let role = if kind == Kind::Issuer { "issuer" } else { "sidecar" };
                command.arg(binary()).env_clear().envs([
                    ("COUNTERSIGN_ROLE", role),
                    ("COUNTERSIGN_NAMESPACE", "payments"),
                    ("COUNTERSIGN_WORKLOAD", "api"),
                    ("PATH", "/usr/bin:/bin"),
                ]);
            }
            Kind::Haproxy => {
                let file = self.write("haproxy.cfg", &haproxy(&self.0));
                command.args(["haproxy", "-db", "-f"]).arg(file);
            }
            Kind::Nginx => {
                let file = self.write("nginx.conf", &nginx(&self.0));
                command.args(["nginx", "-c"]).arg(file).arg("-p").arg(&self.0);
            }
        }
        let log = self.0.join(format!("{}.log", kind.name()));
        let out = File::create(&log).expect("the room is writable");
        command.stdin(Stdio::null()).stderr(out.try_clone().expect("a descriptor")).stdout(out);
        // taskset(1) becomes the proxy: its process id is the proxy's.
        let proxy = Proxy { kind, child: command.spawn().expect("the program starts"), log };
        proxy.wait();
        proxy
    }
}

/// Their own settings turn tickets off in TLS 1.2 only: in 1.3 OpenSSL then sends others.
const NO_TICKETS: &str =
    "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nNumTickets = 0\n";

/// Who may call.
const FRIENDS: &str = "spiffe://example.org/ns/web/sa/*";

/// Who we are, and who calls.
pub const API: &str = "spiffe://example.org/ns/payments/sa/api";
pub const FRIEND: &str = "spiffe://example.org/ns/web/sa/front";

/// Who signs certificates for both.
pub const ISSUER: &str = "spiffe://example.org/ns/mesh/sa/issuer";

/// Our configuration with evidence, as initdata of a guest has it whose KBS is there.
pub fn proven(url: &str, ca: &str) -> String {
    let http = Kind::Proven.address(Mode::Http);
    attested(
        url,
        ca,
        &format!(
            "[identity]\nsource = \"kbs-certificate\"\nspiffe = \"{API}\"\n\
             certificate = \"kbs:///payments/mesh/cert\"\nkey = \"kbs:///payments/mesh/key\"\n\
             [[inbound]]\nlisten = \"{http}\"\napp = \"{APP}\"\nallow = [\"{FRIENDS}\"]\n\
             [health]\nlisten = \"127.0.0.1:15831\"\n[metrics]\nlisten = \"127.0.0.1:15832\"\n"
        ),
    )
}

/// The same of an issuer that gives one identity as many certificates as the loader wants.
pub fn issuer(url: &str, ca: &str) -> String {
    let listen = Kind::Issuer.address(Mode::Tcp);
    attested(
        url,
        ca,
        &format!(
            "[issuer]\nlisten = \"{listen}\"\nspiffe = \"{ISSUER}\"\n\
             certificate = \"kbs:///payments/ca/certificate\"\nkey = \"kbs:///payments/ca/key\"\n\
             per_minute = 1000000\nper_identity = 1000000\n\
             [health]\nlisten = \"127.0.0.1:15841\"\n[metrics]\nlisten = \"127.0.0.1:15842\"\n"
        ),
    )
}

fn attested(url: &str, ca: &str, rest: &str) -> String {
    format!(
        "version = 1\nserial = 1\n[kbs]\nurl = [\"{url}\"]\nca = \"\"\"\n{ca}\"\"\"\n\
         [peers]\ntrust = \"both\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [peers.evidence]\ntoken_roots = \"kbs:///payments/trustee/token-ca\"\npins = \"kbs:///payments/mesh/pins\"\n\
         max_age = \"1h\"\n[limits]\nhandshakes = 1000000\n{rest}"
    )
}

/// Our configuration, as the KBS delivers it.
pub fn ours() -> String {
    let [http, tcp] = [Mode::Http, Mode::Tcp].map(|mode| Kind::Countersign.address(mode));
    // The loader's peers are all on 127.0.0.1, and come faster than a pod's limit lets them.
    format!(
        "version = 1\nserial = 1\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n\
         [kbs]\nvia = [\"cdh\"]\n\
         [identity]\nsource = \"kbs-certificate\"\nspiffe = \"spiffe://example.org/ns/payments/sa/api\"\n\
         certificate = \"kbs:///payments/mesh/cert\"\nkey = \"kbs:///payments/mesh/key\"\n\
         [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\n\
         [[inbound]]\nlisten = \"{http}\"\napp = \"{APP}\"\nallow = [\"{FRIENDS}\"]\n\
         [[inbound]]\nlisten = \"{tcp}\"\napp = \"{APP}\"\nprotocol = \"tcp\"\nallow = [\"{FRIENDS}\"]\n\
         forward_identity = \"none\"\n\
         [metrics]\nlisten = \"{METRICS}\"\n[limits]\nhandshakes = 1000000\n"
    )
}

/// Its fastest settings that do the same: connections to the app are shared by all callers.
fn haproxy(room: &Path) -> String {
    let bind = |mode: Mode, alpn: &str| {
        let room = room.display();
        let address = Kind::Haproxy.address(mode);
        format!("bind {address} ssl crt {room}/server.pem ca-file {room}/ca.pem verify required {alpn}")
    };
    let (http, tcp) = (bind(Mode::Http, "alpn h2,http/1.1"), bind(Mode::Tcp, ""));
    format!(
        "global\n  nbthread 1\n  maxconn 4000\n  tune.ssl.cachesize 0\n\
         \x20 ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\n\
         defaults\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n  timeout http-keep-alive 75s\n\
         frontend http\n  mode http\n  {http}\n  default_backend http\n\
         backend http\n  mode http\n  http-reuse always\n  server app {APP}\n\
         frontend tcp\n  mode tcp\n  {tcp}\n  default_backend tcp\n\
         backend tcp\n  mode tcp\n  server app {APP}\n"
    )
}

fn nginx(room: &Path) -> String {
    let (room, address) = (room.display(), Kind::Nginx.address(Mode::Tcp));
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\nuser root;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
         pid {room}/nginx.pid;\nerror_log stderr warn;\nevents {{ worker_connections 8192; }}\n\
         stream {{\n  server {{\n    listen {address} ssl;\n    proxy_pass {APP};\n\
         \x20   ssl_certificate {room}/cert.pem;\n    ssl_certificate_key {room}/key.pem;\n\
         \x20   ssl_client_certificate {room}/ca.pem;\n    ssl_verify_client on;\n\
         \x20   ssl_protocols TLSv1.3;\n    ssl_session_tickets off;\n    ssl_session_cache off;\n\
         \x20 }}\n}}\n"
    )
}

/// One that runs. Killed when dropped.
pub struct Proxy {
    pub kind: Kind,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until each of its ports takes connections.
    fn wait(&self) {
        let begun = Instant::now();
        for mode in [Mode::Http, Mode::Tcp] {
            while std::net::TcpStream::connect(self.kind.address(mode)).is_err() {
                let said = || fs::read_to_string(&self.log).unwrap_or_default();
                let gone = !Path::new(&format!("/proc/{}/exe", self.pid())).exists();
                assert!(!gone && begun.elapsed() < START, "{} does not start: {}", self.kind.name(), said());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's master takes its worker with it on SIGTERM only.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let hard = self.kind != Kind::Nginx;
        let signal = if hard { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, signal);
        }
        let _ = self.child.wait();
    }
}

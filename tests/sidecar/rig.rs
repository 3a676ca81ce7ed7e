//! A pod with a sidecar: guest, app, peers, and the real binary between them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use countersign_testbed::eventually;
use countersign_testbed::guest::{Answer, GuestApi};
use countersign_testbed::mesh::{self, Peer, Respond, RunningApp};
use countersign_testbed::pki::{Ca, Identity};
use countersign_testbed::world::{Started, World};

pub(crate) const OURS: &str = "spiffe://example.org/ns/payments/sa/api";
pub(crate) const FRIEND: &str = "spiffe://example.org/ns/web/sa/front";
pub(crate) const IN: &str = "127.0.0.1:8443";
pub(crate) const APP: &str = "127.0.0.1:8080";
pub(crate) const HEALTH: &str = "127.0.0.1:15821";
pub(crate) const METRICS: &str = "127.0.0.1:15822";
pub(crate) const CONFIG: &str = "default/countersign/payments.api";

/// Stops whoever looks at the flag when it is dropped: also when a test fails, so that no thread is waited for in
/// vain.
pub(crate) struct Stops<'s>(pub(crate) &'s AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the configuration says beyond the usual.
pub(crate) struct Said {
    pub(crate) identity: &'static str,
    pub(crate) inbound: &'static str,
    pub(crate) top: &'static str,
    /// Of `[metrics]`.
    pub(crate) metrics: &'static str,
    pub(crate) more: &'static str,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            identity: "source = \"self\"",
            inbound: "allow = [\"spiffe://example.org/ns/web/sa/*\"]",
            top: "",
            metrics: "listen = \"127.0.0.1:15822\"",
            more: "",
        }
    }
}

impl Said {
    pub(crate) fn toml(&self) -> String {
        let Self { identity, inbound, top, metrics, more } = self;
        let listen = if inbound.contains("listen =") { "" } else { "listen = \"[::]:8443\"\n" };
        let app = if inbound.contains("app =") { "" } else { "app = \"127.0.0.1:8080\"\n" };
        format!(
            "version = 1\nserial = 1\nfor = {{ namespace = \"payments\", workload = \"api\" }}\n{top}\n\
             [kbs]\nvia = [\"cdh\"]\n\
             [identity]\n{identity}\nspiffe = \"{OURS}\"\n\
             [peers]\ntrust = \"roots\"\nroots = \"kbs:///payments/mesh/roots\"\nrefresh = \"5s\"\n\
             [[inbound]]\n{listen}{app}{inbound}\n[metrics]\n{metrics}\n{more}"
        )
    }
}

/// The pod.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) ca: Ca,
    pub(crate) friend: Identity,
}

impl Rig {
    pub(crate) fn new(said: &Said) -> Self {
        Self::with(said, |guest| guest)
    }

    pub(crate) fn with(said: &Said, change: impl FnOnce(GuestApi) -> GuestApi) -> Self {
        let ca = Ca::new("mesh");
        let own = ca.member(OURS);
        let guest = GuestApi::healthy()
            .secret(CONFIG, said.toml())
            .secret("payments/mesh/roots", ca.pem())
            .secret("payments/mesh/cert", own.pem())
            .secret("payments/mesh/key", own.key_pem());
        let world = World::new().unwrap().guest(change(guest));
        let friend = ca.member(FRIEND);
        Self { world, ca, friend }
    }

    pub(crate) fn app(&self, respond: Respond) -> RunningApp {
        mesh::app(&self.world, APP, respond)
    }

    pub(crate) fn start(&self) -> Started<'_> {
        self.world
            .countersign(&[])
            .env("COUNTERSIGN_ROLE", "sidecar")
            .env("COUNTERSIGN_NAMESPACE", "payments")
            .env("COUNTERSIGN_WORKLOAD", "api")
            .time_limit(Duration::from_secs(600))
            .start()
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn ready(&self) -> Started<'_> {
        let started = self.start();
        eventually("the sidecar is ready", || {
            assert!(started.is_running(), "it ended: {}", started.said());
            self.ask("/readyz") == 200
        });
        started
    }

    pub(crate) fn ask(&self, path: &str) -> u16 {
        mesh::status(&self.world, HEALTH, path)
    }

    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let page = mesh::plain(&self.world, METRICS, "GET /metrics HTTP/1.1\r\nhost: pod\r\n\r\n").ok()?;
        page.body.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok())
    }

    pub(crate) fn gauge(&self, name: &str) -> f64 {
        self.metric(&format!("countersign_{name}{{inbound=\"[::]:8443\"}}")).unwrap_or(-1.0)
    }

    /// A pod whose app listens on a unix socket, at the returned path.
    pub(crate) fn unix(more: &str) -> (Self, std::path::PathBuf) {
        let world = World::new().unwrap();
        let path = world.directory().join("app.sock");
        let ca = Ca::new("mesh");
        let inbound = "app = \"unix:PATH\"\nallow = [\"spiffe://example.org/ns/web/sa/*\"]\nprobes = [\"/healthz\"]";
        let text = Said { inbound, ..Said::default() }.toml().replace("PATH", &path.display().to_string());
        let guest = GuestApi::healthy().secret(CONFIG, format!("{text}{more}")).secret("payments/mesh/roots", ca.pem());
        (Self { world: world.guest(guest), friend: ca.member(FRIEND), ca }, path)
    }

    /// From now on the guest's services give this for a resource.
    pub(crate) fn replace(&self, path: &str, text: &str) {
        self.world.guest_api().set(path, Answer::Bytes(text.as_bytes().to_vec()));
    }

    /// After whatever happened, nothing is held.
    pub(crate) fn quiet(&self) {
        eventually("all gauges are zero", || {
            ["connections_open", "connections_handshaking", "requests_active"]
                .iter()
                .all(|name| self.gauge(name) == 0.0)
        });
    }

    pub(crate) fn refused(&self, reason: &str) -> f64 {
        self.metric(&format!("countersign_handshakes_total{{inbound=\"[::]:8443\",result=\"{reason}\"}}"))
            .unwrap_or(-1.0)
    }

    pub(crate) fn peer(&self, identity: &Identity) -> Peer {
        Peer::connect(&self.world, IN, Some(identity), &["http/1.1"]).expect("a handshake")
    }

    /// What becomes of a caller with this certificate: the status, or an error.
    pub(crate) fn call(&self, identity: Option<&Identity>) -> std::io::Result<u16> {
        Ok(Peer::connect(&self.world, IN, identity, &["http/1.1"])?.get("/")?.status)
    }
}

/// A body of these frames, last first.
struct Frames(Vec<hyper::body::Frame<hyper::body::Bytes>>);

impl hyper::body::Body for Frames {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Ready(self.0.pop().map(Ok))
    }
}

/// A gRPC server: HTTP/2 in plain by prior knowledge, the status in a trailer. Counts its connections.
pub(crate) fn grpc_server(listener: std::net::TcpListener, connections: &AtomicUsize) {
    use hyper::body::{Bytes, Frame, Incoming};
    use hyper::{Request, Response};

    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((socket, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let said = format!(
                    "{} {} te={:?} xfcc={:?} host={:?}",
                    request.uri(),
                    request.method(),
                    request.headers().get("te"),
                    request.headers().get("x-forwarded-client-cert"),
                    request.headers().get("host"),
                );
                // curl 7.88 gives up on an answer that overtakes its request, without a proxy as well.
                let _ = http_body_util::BodyExt::collect(request.into_body()).await;
                let trailers = [("grpc-status", "0"), ("grpc-message", "well")];
                let trailers = trailers.into_iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()));
                let body = Frames(vec![Frame::trailers(trailers.collect()), Frame::data(Bytes::from(said))]);
                let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            });
            let io = hyper_util::rt::TokioIo::new(socket);
            tokio::spawn(async move {
                let executor = hyper_util::rt::TokioExecutor::new();
                let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
            });
        }
    });
}

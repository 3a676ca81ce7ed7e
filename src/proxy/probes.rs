//! Kubelet's questions to the app. Each configured path is asked by a new fixed GET of ours, one at a
//! time; the caller learns yes or no, and no byte of the app's answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::backend::dial;
use super::deadlines::{PROBE, PROBE_CACHE};
use crate::config::grammar::Local;
use crate::config::roles::{Inbound, Protocol};
use crate::observe::health::Ask;

/// The probes of all listeners, by `<app's port><path>`; of an app on a unix socket, by `unix<path>`.
pub fn of(inbound: &[Inbound]) -> Ask {
    let mut probes: HashMap<String, Arc<Probe>> = HashMap::new();
    for inbound in inbound {
        let place = match &inbound.app {
            Local::Tcp(address) => address.port().to_string(),
            Local::Unix(_) => "unix".to_owned(),
        };
        for path in &inbound.probes {
            let probe = Probe { app: inbound.app.clone(), path: path.clone(), last: Mutex::new(None) };
            probes.insert(format!("{place}{path}"), Arc::new(probe));
        }
        if inbound.protocol == Protocol::Tcp || inbound.probes.is_empty() {
            // Whether it takes connections can always be asked: what a tcpSocket probe asked for.
            let probe = Probe { app: inbound.app.clone(), path: String::new(), last: Mutex::new(None) };
            probes.insert(place, Arc::new(probe));
        }
    }
    Arc::new(move |name: &str| {
        let probe = Arc::clone(probes.get(name)?);
        let asked: Pin<Box<dyn Future<Output = bool> + Send>> = Box::pin(async move { probe.ask().await });
        Some(asked)
    })
}

struct Probe {
    app: Local,
    /// Empty: whether it takes a connection.
    path: String,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Probe {
    /// The lock makes it one at a time: who waits gets the answer that has just come.
    async fn ask(&self) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, good)) = *last
            && at.elapsed() < PROBE_CACHE
        {
            return good;
        }
        let good = timeout(PROBE, self.get()).await.unwrap_or(false);
        *last = Some((Instant::now(), good));
        good
    }

    async fn get(&self) -> bool {
        let Ok(stream) = dial(&self.app).await else { return false };
        if self.path.is_empty() {
            return true;
        }
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
            return false;
        };
        let request = Request::get(self.path.as_str())
            .header(HOST, "localhost")
            .header(USER_AGENT, "countersign-probe")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        let Ok(request) = request else { return false };
        // Ends with the answer: the connection is asked to close, and `sender` is dropped.
        tokio::spawn(connection);
        let response = sender.send_request(request).await;
        response.is_ok_and(|response| (200..400).contains(&response.status().as_u16()))
    }
}

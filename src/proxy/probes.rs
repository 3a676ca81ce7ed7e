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
use crate::config::roles::Inbound;
use crate::observe::health::Ask;

/// The probes of all listeners, by `<app's port><path>`; of an app on a unix socket, by `unix<path>`. Where apps
/// share a name without a path, all of them must take connections; with one, configuration is refused.
pub fn of(inbound: &[Inbound]) -> Ask {
    let mut probes: HashMap<String, Vec<Arc<Probe>>> = HashMap::new();
    for inbound in inbound {
        for (name, path) in inbound.probed() {
            let of_it = probes.entry(name).or_default();
            if !of_it.iter().any(|probe| probe.app == inbound.app) {
                let path = path.unwrap_or_default().to_owned();
                of_it.push(Arc::new(Probe { app: inbound.app.clone(), path, last: Mutex::new(None) }));
            }
        }
    }
    Arc::new(move |name: &str| {
        let probes = probes.get(name)?.clone();
        let asked: Pin<Box<dyn Future<Output = bool> + Send>> = Box::pin(async move {
            for probe in probes {
                if !probe.ask().await {
                    return false;
                }
            }
            true
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn apps_that_share_a_name_must_all_take_connections() {
        let directory = std::env::temp_dir().join(format!("countersign-probes-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let app = |name: &str, at: u16| {
            let app = directory.join(name);
            format!(
                "[[inbound]]\nlisten = \"[::]:{at}\"\napp = \"unix:{}\"\nprotocol = \"tcp\"\n\
                 allow = [\"spiffe://a/b\"]\n",
                app.display()
            )
        };
        let text = format!("version = 1\n{}{}", app("a", 1), app("b", 2));
        let inbound = crate::config::resolve::parse(&text).unwrap().roles.inbound;
        let _a = UnixListener::bind(directory.join("a")).unwrap();
        assert!(!of(&inbound)("unix").unwrap().await, "one does not");
        let _b = UnixListener::bind(directory.join("b")).unwrap();
        assert!(of(&inbound)("unix").unwrap().await);
        assert!(of(&inbound)("unix/ok").is_none());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

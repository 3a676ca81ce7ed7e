//! The app over HTTP/2 in plain (gRPC): one connection for one connection of a peer, made when it first asks.
//!
//! Not a pool for all peers. A pool knows its connections by the host that is asked for, which is the caller's to
//! choose: each new one would be a connection more. And streams of one connection share its window: a peer that
//! takes no answers would leave the other peers none.

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Mutex;

use super::backend;
use super::io::Io;
use super::relay::{Sent, Why};
use super::serving;
use crate::config::grammar::Local;

/// How often a request is given to a connection: once more where the one that stood took none of it.
const TRIES: usize = 2;

/// What a peer's connection has of the app's HTTP/2.
#[derive(Default)]
pub(super) struct H2c(Mutex<Option<SendRequest<Sent>>>);

impl H2c {
    /// Gives `app` a request.
    pub(super) async fn ask(&self, app: &Local, mut request: Request<Sent>) -> Result<Response<Incoming>, Why> {
        for _ in 0..TRIES {
            let mut connection = self.connection(app).await?;
            let mut failed = match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            tracing::debug!(error = %crate::finding::chain(failed.error()), "the app did not answer");
            // Not a byte of it was sent.
            let Some(unsent) = failed.take_message() else { break };
            request = unsent;
        }
        Err(Why::Broken)
    }

    /// The one that stands, or a new one. Whoever needs it while it is made waits.
    async fn connection(&self, app: &Local) -> Result<SendRequest<Sent>, Why> {
        let mut stands = self.0.lock().await;
        if let Some(connection) = stands.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let io = backend::dial(app).await.map_err(|error| {
            tracing::debug!(kind = ?error.kind(), "the app takes no connection");
            Why::Unreachable
        })?;
        let io: Io = Box::new(io);
        let begun = serving::client(TokioExecutor::new()).handshake(TokioIo::new(io)).await;
        let (connection, running) = begun.map_err(|error| {
            tracing::debug!(error = %crate::finding::chain(&error), "the app speaks no HTTP/2");
            Why::Broken
        })?;
        // Ends when nobody asks it any more: with the peer's connection.
        tokio::spawn(running);
        *stands = Some(connection.clone());
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;

    use crate::proxy::relay::{Flow, Relayed};
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    fn request() -> Request<Sent> {
        let mut request = Request::new(Relayed::nothing(Flow::ToApp));
        *request.uri_mut() = "http://api/".parse().unwrap();
        *request.version_mut() = hyper::Version::HTTP_2;
        request
    }

    #[tokio::test]
    async fn an_app_that_ends_its_connection_is_given_another_one() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let app = Local::Tcp(listener.local_addr().unwrap());
        let h2c = H2c::default();
        for _ in 0..2 {
            let listener = Arc::clone(&listener);
            let serving = tokio::spawn(async move {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(socket), service).await
            });
            assert_eq!(h2c.ask(&app, request()).await.unwrap().status(), 200);
            assert_eq!(h2c.ask(&app, request()).await.unwrap().status(), 200, "it is kept");
            serving.abort();
            let _ = serving.await;
            while h2c.0.lock().await.as_ref().is_some_and(|connection| !connection.is_closed()) {
                tokio::task::yield_now().await;
            }
        }
        drop(listener);
        assert_eq!(h2c.ask(&app, request()).await.err(), Some(Why::Unreachable));
    }
}

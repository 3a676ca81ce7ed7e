//! A plain HTTP/1.1 port with a few fixed pages, for kubelet and for Prometheus. Whoever asks may be a
//! stranger: one question for each connection, of bounded size, in bounded time, without a body.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// One question: from the accepted connection to the end of the answer. Kubelet's own default is 1 s.
const QUESTION: Duration = Duration::from_secs(5);

/// Most questions at once. Kubelet asks one at a time for each probe.
const MAX_QUESTIONS: usize = 64;

/// Pause after `accept` failed: it fails again at once while descriptors are short.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a page answers.
pub struct Answer {
    status: u16,
    text: String,
    kind: &'static str,
}

/// The page with this path and query, exactly as they were asked for; `None` where there is none.
pub type Page = Arc<dyn Fn(&str) -> Pin<Box<dyn Future<Output = Option<Answer>> + Send>> + Send + Sync>;

impl Answer {
    /// Words, or numbers.
    pub fn text(status: u16, text: String) -> Self {
        // Also what Prometheus wants of its text format.
        Self { status, text, kind: "text/plain; version=0.0.4" }
    }

    /// One JSON object.
    pub fn json(status: u16, text: String) -> Self {
        Self { status, text, kind: "application/json" }
    }
}

/// Answers on `listener` for as long as it is polled.
pub async fn serve(listener: TcpListener, pages: Page) {
    let permits = Arc::new(Semaphore::new(MAX_QUESTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(BACK_OFF).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            question(stream, pages).await;
            drop(permit);
        });
    }
}

/// One connection, one question, in bounded time.
pub async fn question<S>(stream: S, pages: Page)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = timeout(QUESTION, one(stream, pages)).await;
}

async fn one<S>(stream: S, pages: Page)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, &pages).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        // `printf … | nc` has said all that it will say, and waits for its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever goes away has no answer; nothing is lost.
    let _ = connection.await;
}

async fn answer(request: &Request<Incoming>, pages: &Page) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = told(Answer::text(405, "method-not-allowed".to_owned()));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // The target as it was sent, and nothing that only means the same: another spelling is another page.
    let target = request.uri();
    let path = target.path_and_query().map(PathAndQuery::as_str);
    let Some(path) = path.filter(|_| target.scheme().is_none() && target.authority().is_none()) else {
        return told(Answer::text(400, "bad-request".to_owned()));
    };
    told(pages(path).await.unwrap_or_else(|| Answer::text(404, "not-found".to_owned())))
}

fn told(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, text, kind } = answer;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn whoever_asks_and_says_no_more_is_answered() {
        let (mut asks, answers) = duplex(1024);
        asks.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        asks.shutdown().await.unwrap();
        // Late, as on a busy machine: the end has been seen by then.
        let pages: Page = Arc::new(|_| {
            Box::pin(async {
                sleep(Duration::from_millis(50)).await;
                Some(Answer::text(200, "all of it".to_owned()))
            })
        });
        let mut answer = String::new();
        tokio::join!(question(answers, pages), async { asks.read_to_string(&mut answer).await.unwrap() });
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("all of it"), "{answer}");
    }
}

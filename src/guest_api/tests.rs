use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::finding::Class;
use crate::ports::testing::RefusingPort;

const OCTETS: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n";

fn uri() -> KbsUri {
    KbsUri::parse("kbs:///payments/db/password").unwrap()
}

/// A server that takes one request, gives `answer`, closes, and returns the request.
async fn serve(answer: impl Into<Vec<u8>>) -> (GuestApi, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = GuestApi::new(listener.local_addr().unwrap());
    let answer = answer.into();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap() == 0 {
                break;
            }
            request.extend(byte);
        }
        // The client may hang up in the middle; that is what some tests are about.
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        String::from_utf8(request).unwrap()
    });
    (api, task)
}

async fn answer(text: impl Into<Vec<u8>>, max: usize) -> Result<Vec<u8>, Error> {
    let (api, _task) = serve(text).await;
    api.resource(&uri(), max).await.map(|secret| secret.expose().to_vec())
}

fn with_status(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn octets(headers: &str, body: &[u8]) -> Vec<u8> {
    [OCTETS.as_bytes(), headers.as_bytes(), b"\r\n", body].concat()
}

#[tokio::test]
async fn a_secret_is_fetched_over_a_connection_of_its_own() {
    let (api, task) = serve(octets("content-length: 7\r\n", b"hunter2")).await;
    let secret = api.resource(&uri(), 64).await.unwrap();
    assert_eq!(secret.expose(), b"hunter2");
    let request = task.await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /cdh/resource/payments/db/password http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    assert!(request.contains("\r\nhost: 127.0.0.1:"), "{request}");
}

#[tokio::test]
async fn chunks_are_put_together_across_growth() {
    let big = vec![b'x'; 20_000];
    let mut body = format!("{:x}\r\n", big.len()).into_bytes();
    body.extend(&big);
    body.extend(b"\r\n3\r\nend\r\n0\r\n\r\n");
    let got = answer(octets("transfer-encoding: chunked\r\n", &body), 30_000).await.unwrap();
    assert_eq!(got.len(), 20_003);
    assert!(got.ends_with(b"xend"));
}

#[tokio::test]
async fn an_empty_secret_is_the_callers_to_judge() {
    assert_eq!(answer(octets("content-length: 0\r\n", b""), 10).await.unwrap(), b"");
}

#[tokio::test]
async fn a_secret_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() {
    assert_eq!(answer(octets("content-length: 4\r\n", b"1234"), 4).await.unwrap(), b"1234");
    assert_eq!(answer(octets("content-length: 5\r\n", b"12345"), 4).await, Err(Error::TooLarge { max: 4 }));
    let chunks = octets("transfer-encoding: chunked\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(answer(chunks, 4).await, Err(Error::TooLarge { max: 4 }));
}

#[tokio::test]
async fn an_announced_flood_is_refused_before_a_byte_of_it_is_read() {
    let huge = octets("content-length: 9223372036854775807\r\n", b"");
    assert_eq!(answer(huge, 1024).await, Err(Error::TooLarge { max: 1024 }));
    // Lengths that hyper keeps for itself.
    for length in [u64::MAX, u64::MAX - 1] {
        let huge = octets(&format!("content-length: {length}\r\n"), b"hunter2");
        assert_eq!(answer(huge, 1024).await, Err(Error::Protocol));
    }
}

#[tokio::test]
async fn every_refusal_of_the_real_service_is_told_apart() {
    for (status, body, error) in [
        ("403 Forbidden", "Forbidden", Error::Forbidden),
        ("404 Not Found", "Resource Feature Not Enabled", Error::FeatureOff { which: Feature::Resource }),
        ("404 Not Found", "Attestation Feature Not Enabled", Error::FeatureOff { which: Feature::Attestation }),
        ("404 Not Found", "URL NOT FOUND", Error::UrlNotFound),
        ("404 Not Found", "<html>", Error::Status(404)),
        ("500 Internal Server Error", "rpc status: Status { code: INTERNAL }", Error::CdhFailed),
        ("500 Internal Server Error", "", Error::CdhFailed),
        ("500 Internal Server Error", "<!doctype html>", Error::Status(500)),
        ("502 Bad Gateway", "<html>", Error::Status(502)),
        ("302 Found", "", Error::Redirect),
        ("204 No Content", "", Error::Status(204)),
        ("206 Partial Content", "hunt", Error::Status(206)),
    ] {
        assert_eq!(answer(with_status(status, body), 64).await, Err(error), "{status} {body}");
    }
}

#[tokio::test]
async fn a_refusal_longer_than_anyone_reads_is_still_that_refusal() {
    let long = "x".repeat(1_000_000);
    assert_eq!(answer(with_status("403 Forbidden", &long), 64).await, Err(Error::Forbidden));
}

#[tokio::test]
async fn a_200_of_another_kind_is_never_a_secret() {
    for (head, error) in [
        ("content-type: text/html; charset=utf-8", Error::OtherKind { html: true }),
        ("content-type: application/json", Error::OtherKind { html: false }),
        ("x-nothing: 1", Error::OtherKind { html: false }),
        ("content-type: application/octet-stream\r\ncontent-encoding: gzip", Error::Encoded),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(answer(text, 64).await, Err(error), "{head}");
    }
}

#[tokio::test]
async fn a_cut_answer_is_never_a_secret() {
    assert_eq!(answer(octets("content-length: 9\r\n", b"hunt"), 64).await, Err(Error::Truncated));
    let cut = octets("transfer-encoding: chunked\r\n", b"9\r\nhunt");
    assert_eq!(answer(cut, 64).await, Err(Error::Truncated));
    let no_last_chunk = octets("transfer-encoding: chunked\r\n", b"4\r\nhunt\r\n");
    assert_eq!(answer(no_last_chunk, 64).await, Err(Error::Truncated));
    // Ends where the connection does: whole or cut, nobody can say.
    assert_eq!(answer(octets("", b"hunter2"), 64).await, Err(Error::NoLength));
}

#[tokio::test]
async fn a_broken_head_is_never_a_secret() {
    assert_eq!(answer("", 64).await, Err(Error::Closed));
    assert_eq!(answer("HTTP/1.1 200 O", 64).await, Err(Error::Closed));
    for text in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/2.0 200 OK\r\n\r\n", "\x16\x03\x01\x02\x00\x01"] {
        assert_eq!(answer(text, 64).await, Err(Error::Protocol), "{text:?}");
    }
    let two_lengths = octets("content-length: 3\r\ncontent-length: 4\r\n", b"abcd");
    assert_eq!(answer(two_lengths, 64).await, Err(Error::Protocol));
    let endless = format!("{OCTETS}x-long: {}\r\n\r\n", "x".repeat(2 * BUFFER));
    assert_eq!(answer(endless, 64).await, Err(Error::Protocol));
}

#[tokio::test]
async fn a_refused_connection_is_told_apart_from_a_broken_one() {
    let refusing = RefusingPort::new();
    let api = GuestApi::new(refusing.addr());
    let error = api.resource(&uri(), 64).await.err().unwrap();
    assert!(error.is_refused() && error.is_retryable());
}

#[tokio::test]
async fn giving_up_closes_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = GuestApi::new(listener.local_addr().unwrap());
    let call = tokio::spawn(async move { api.resource(&uri(), 64).await.is_ok() });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(stream.read(&mut buffer).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn no_word_of_an_answer_gets_into_a_message() {
    for status in ["200 canary", "404 canary", "500 canary", "302 canary", "418 canary"] {
        let text = format!(
            "HTTP/1.1 {status}\r\nlocation: http://canary\r\ncontent-type: canary/canary\r\ncontent-length: 6\r\n\r\ncanary"
        );
        let error = answer(text, 64).await.unwrap_err();
        assert!(
            !format!("{error} {error:?} {}", error.finding(Asked::Resource(&uri()))).contains("canary"),
            "{status}"
        );
    }
}

#[test]
fn each_failure_has_its_class_and_names_the_next_step() {
    for (error, class, next) in [
        (Error::Connect { refused: true }, Class::GuestApi, "agent.guest_components_procs=api-server-rest"),
        (Error::Connect { refused: false }, Class::GuestApi, "api-server-rest"),
        (Error::FeatureOff { which: Feature::Resource }, Class::GuestApi, "agent.guest_components_rest_api=resource"),
        (Error::Forbidden, Class::GuestApi, "127.0.0.1:8006"),
        (Error::UrlNotFound, Class::GuestApi, "api-server-rest"),
        (Error::CdhFailed, Class::Backend, "kbs:///payments/db/password"),
        (Error::TooLarge { max: 4 }, Class::Content, "expect.max_bytes"),
        (Error::OtherKind { html: true }, Class::GuestApi, "127.0.0.1:8006"),
        (Error::Redirect, Class::GuestApi, "127.0.0.1:8006"),
        (Error::Status(418), Class::GuestApi, "127.0.0.1:8006"),
        (Error::Truncated, Class::GuestApi, "confidential-data-hub"),
    ] {
        let finding = error.finding(Asked::Resource(&uri()));
        assert_eq!(finding.class, class, "{error}");
        assert!(finding.next.contains(next), "{error}: {}", finding.next);
        assert!(finding.saw.contains("kbs:///payments/db/password"), "{}", finding.saw);
        assert_eq!(error.is_cdh_failure(), error == Error::CdhFailed);
    }
    assert!(!Error::Forbidden.is_retryable() && !Error::TooLarge { max: 1 }.is_retryable());
    assert!(Error::CdhFailed.is_retryable() && !Error::CdhFailed.is_refused());
}

#[test]
fn a_call_can_be_made_from_any_task() {
    fn is_send(_: impl Send) {}
    is_send(GuestApi::new(([127, 0, 0, 1], 1).into()).resource(&uri(), 1));
}

#[test]
fn growing_keeps_the_bytes() {
    let mut value = Zeroizing::new(Vec::with_capacity(2));
    for part in [&b"ab"[..], b"", b"cde", b"fghijklmnop"] {
        append(&mut value, part);
    }
    assert_eq!(&value[..], b"abcdefghijklmnop");
}

//! The app behind all proxies: a plain HTTP/1.1 server, in a process of its own.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a body that is longer than any run. Sent in pieces of [`PIECE`].
pub const ENDLESS: u64 = 1 << 40;

/// What is written and read at once, bytes.
pub const PIECE: usize = 256 * 1024;

/// What `GET /` is answered with.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";

/// Serves until it is killed.
pub fn main(address: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        loop {
            let (stream, _) = listener.accept().await.expect("enough descriptors");
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                // Whoever goes away in the middle is done with us.
                let _ = serve(stream).await;
            });
        }
    })
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    // Small, or two thousand idle connections would make the cache cold for everybody.
    let mut head = Vec::with_capacity(1024);
    loop {
        let Some(end) = find(&head, b"\r\n\r\n") else {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        let mut body = head.split_off(end + 4);
        head.clear();
        if text.starts_with("get /endless ") {
            let piece = vec![b'x'; PIECE];
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n").as_bytes()).await?;
            loop {
                stream.write_all(&piece).await?;
            }
        }
        let length = content_length(&text).unwrap_or(0);
        let beyond = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if beyond < length {
            swallow(&mut stream, length - beyond).await?;
        } else {
            head = body.split_off(usize::try_from(length).expect("it is in memory"));
        }
        stream.write_all(ANSWER).await?;
    }
}

async fn swallow(stream: &mut TcpStream, mut left: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while left > 0 {
        match stream.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left = left.saturating_sub(count as u64),
        }
    }
    Ok(())
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Of a head in lower case.
pub fn content_length(head: &str) -> Option<u64> {
    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
}

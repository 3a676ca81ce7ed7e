//! Requests whose end two parsers could place differently, against the real binary.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::float_cmp)]

#[path = "sidecar/rig.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod rig;

use std::io::{Read, Write};

use countersign_testbed::mesh::{Peer, echo};
use rig::{APP, IN, Rig, Said};

countersign_testbed::main! {
    a_request_that_says_its_end_twice_is_refused_and_the_app_sees_nothing [GuestPort, Namespaces],
    malformed_heads_are_refused_and_the_app_sees_nothing [GuestPort, Namespaces],
    bad_chunks_never_become_a_request [GuestPort, Namespaces],
    a_pipelined_request_that_says_it_twice_is_refused_after_a_good_one [GuestPort, Namespaces],
    frames_of_a_websocket_are_not_taken_for_requests [GuestPort, Namespaces],
    the_body_of_a_get_reaches_the_app_where_its_length_is_not_known [GuestPort, Namespaces],
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n";

fn a_request_that_says_its_end_twice_is_refused_and_the_app_sees_nothing() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let sidecar = rig.ready();
    let length = SMUGGLED.len();
    let fields = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        "Transfer-Encoding: chunked\nContent-Length: 5\n".to_owned(),
        "content-length: 5\r\ncontent-length: 5\r\n".to_owned(),
        "transfer-encoding: chunked, chunked\r\n".to_owned(),
        "transfer-encoding: gzip, chunked\r\n".to_owned(),
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n".to_owned(),
        format!("content-length: {}0\r\n", " ".repeat(400)),
    ];
    for fields in &fields {
        let request = format!("POST /both HTTP/1.1\r\nhost: api\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}");
        let mut peer = rig.peer(&rig.friend);
        let reply = peer.ask(&request).unwrap_or_else(|error| panic!("{fields:?}: {error}"));
        assert_eq!((reply.status, reply.body.contains("bad-request")), (400, true), "{fields:?}: {reply:?}");
        assert!(reply.head.to_lowercase().contains("connection: close"), "{}", reply.head);
        assert!(peer.reply().is_err(), "{fields:?}: the connection ends");
        assert_eq!(app.connections(), 0, "{fields:?}: {}", sidecar.said());
    }
    // However it comes. No more than the head: what is written after the answer may reset the connection.
    let head = format!("POST /both HTTP/1.1\r\nhost: api\r\n{}\r\n", fields[0]);
    let mut peer = rig.peer(&rig.friend);
    for byte in head.as_bytes() {
        peer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(peer.reply().unwrap().status, 400);
    assert_eq!(app.connections(), 0);
    drop(peer);
    rig.quiet();
}

fn malformed_heads_are_refused_and_the_app_sees_nothing() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    for (what, line, fields) in [
        ("obs-fold", "POST / HTTP/1.1", "host: api\r\nx: a\r\n b\r\n"),
        ("a folded length", "POST / HTTP/1.1", "host: api\r\ncontent-length:\r\n 3\r\n"),
        ("a blank before the colon", "POST / HTTP/1.1", "host: api\r\ncontent-length : 3\r\n"),
        ("a blank before the colon", "POST / HTTP/1.1", "host: api\r\ntransfer-encoding\t: chunked\r\n"),
        ("a blank before the name", "POST / HTTP/1.1", " host: api\r\n"),
        ("NUL in a value", "POST / HTTP/1.1", "host: api\r\nx: a\0b\r\n"),
        ("CR in a value", "POST / HTTP/1.1", "host: api\r\nx: a\rb: c\r\n"),
        ("CR in a name", "POST / HTTP/1.1", "host: api\r\nx\r: a\r\n"),
        ("NUL in a name", "POST / HTTP/1.1", "host: api\r\nx\0: a\r\n"),
        ("no colon", "POST / HTTP/1.1", "host: api\r\ncontent-length\r\n"),
        ("xchunked", "POST / HTTP/1.1", "host: api\r\ntransfer-encoding: xchunked\r\n"),
        ("chunked is not last", "POST / HTTP/1.1", "host: api\r\ntransfer-encoding: chunked, gzip\r\n"),
        ("an empty encoding", "POST / HTTP/1.1", "host: api\r\ntransfer-encoding:\r\n"),
        ("chunks in HTTP/1.0", "POST / HTTP/1.0", "host: api\r\ntransfer-encoding: chunked\r\n"),
        ("a plus", "POST / HTTP/1.1", "host: api\r\ncontent-length: +3\r\n"),
        ("a minus", "POST / HTTP/1.1", "host: api\r\ncontent-length: -3\r\n"),
        ("a blank inside", "POST / HTTP/1.1", "host: api\r\ncontent-length: 3 3\r\n"),
        ("a list", "POST / HTTP/1.1", "host: api\r\ncontent-length: 3, 3\r\n"),
        ("hexadecimal", "POST / HTTP/1.1", "host: api\r\ncontent-length: 0x3\r\n"),
        ("no length", "POST / HTTP/1.1", "host: api\r\ncontent-length:\r\n"),
        ("2^64", "POST / HTTP/1.1", "host: api\r\ncontent-length: 18446744073709551616\r\n"),
        ("two lengths", "POST / HTTP/1.1", "host: api\r\ncontent-length: 3\r\ncontent-length: 4\r\n"),
        ("HTTP/1.2", "POST / HTTP/1.2", "host: api\r\n"),
        ("HTTP/0.9", "POST /", "host: api\r\n"),
        ("a blank in the target", "POST /a b HTTP/1.1", "host: api\r\n"),
        ("CR in the target", "POST /a\rb HTTP/1.1", "host: api\r\n"),
    ] {
        let mut peer = rig.peer(&rig.friend);
        let request = format!("{line}\r\n{fields}\r\nabc{SMUGGLED}");
        let reply = peer.ask(&request).unwrap_or_else(|error| panic!("{what}, {fields:?}: {error}"));
        assert_eq!(reply.status, 400, "{what}, {fields:?}: {reply:?}");
        assert!(peer.reply().is_err(), "{what}, {fields:?}: what follows could be part of it");
        assert_eq!(app.connections(), 0, "{what}, {fields:?}");
    }
    rig.quiet();
}

fn bad_chunks_never_become_a_request() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    for chunks in [
        "zz\r\nabc\r\n",
        "\r\nabc\r\n",
        "+3\r\nabc\r\n",
        "-3\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3\nabc\r\n",
        "3;a\nb\r\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "3 x\r\nabc\r\n",
        "FFFFFFFFFFFFFFFFFF\r\nabc\r\n",
        "10000000000000003\r\nabc\r\n",
        "0\r\nx: 1\ry\r\n\r\n",
    ] {
        let mut peer = rig.peer(&rig.friend);
        let head = "POST /chunks HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n";
        peer.write_all(format!("{head}{chunks}0\r\n\r\n{SMUGGLED}").as_bytes()).unwrap();
        // The head was good, and may have gone on; its body never ends well.
        let first = peer.reply();
        assert!(first.as_ref().map_or(true, |reply| reply.status >= 400 || reply.body.starts_with("POST /chunks")));
        assert!(peer.reply().is_err(), "{chunks:?}: the connection ends; {first:?}");
        assert_eq!(app.count_of("/smuggled"), 0, "{chunks:?}");
    }
    // A size of 2^64 - 1 is one that has not come yet: nothing is set aside for it.
    let mut peer = rig.peer(&rig.friend);
    let huge = "POST /huge HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n";
    peer.write_all(format!("{huge}{SMUGGLED}").as_bytes()).unwrap();
    drop(peer);
    rig.quiet();
    assert_eq!(app.count_of("/smuggled"), 0);
}

fn a_pipelined_request_that_says_it_twice_is_refused_after_a_good_one() {
    let rig = Rig::new(&Said::default());
    let app = rig.app(echo);
    let _sidecar = rig.ready();
    let both = format!(
        "POST /both HTTP/1.1\r\nhost: api\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
        SMUGGLED.len() + 5
    );
    let good = [
        "GET /good HTTP/1.1\r\nhost: api\r\n\r\n",
        "POST /good HTTP/1.1\r\nhost: api\r\ncontent-length: 6\r\n\r\nabc\r\n\n",
        "\r\nPOST /good HTTP/1.1\nhost: api\ncontent-length: 03\n\nabc",
        "PUT /good HTTP/1.0\r\nhost: api\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nabc",
    ];
    for good in good {
        let before = app.count();
        let mut peer = rig.peer(&rig.friend);
        peer.write_all(format!("{good}{good}{both}").as_bytes()).unwrap();
        for _ in 0..2 {
            let reply = peer.reply().unwrap();
            assert!(reply.status == 200 && reply.body.contains(" /good\n"), "{good:?}: {reply:?}");
        }
        assert_eq!(peer.reply().unwrap().status, 400, "{good:?}");
        assert!(peer.reply().is_err(), "{good:?}");
        assert_eq!((app.count() - before, app.count_of("/both"), app.count_of("/smuggled")), (2, 0, 0), "{good:?}");
    }
    // After chunks with an extension and a trailer: the app is a server that reads chunks.
    drop(app);
    let listener = rig.world.listen(APP).unwrap();
    let app = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        let mut some = [0; 1024];
        while !String::from_utf8_lossy(&seen).ends_with("0\r\n\r\n") {
            let count = socket.read(&mut some).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&some[..count]);
        }
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        let _ = socket.read_to_end(&mut seen);
        String::from_utf8(seen).unwrap()
    });
    let mut peer = rig.peer(&rig.friend);
    let chunked = "POST /good HTTP/1.1\r\nhost: api\r\ntransfer-encoding: Chunked\r\n\r\n\
                   3;name=\"x\"\r\nabc\r\n0A \r\n0123456789\r\n000\r\nx: 1\r\n\r\n";
    peer.write_all(format!("{chunked}{both}").as_bytes()).unwrap();
    assert_eq!(peer.reply().unwrap().status, 204);
    assert_eq!(peer.reply().unwrap().status, 400);
    assert!(peer.reply().is_err());
    drop(peer);
    rig.quiet();
    let seen = app.join().unwrap();
    assert!(seen.starts_with("POST /good ") && !seen.contains("/both") && !seen.contains("/smuggled"), "{seen}");
}

fn frames_of_a_websocket_are_not_taken_for_requests() {
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen(APP).unwrap();
    // What a frame may hold: anything.
    let frames = "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".repeat(3);
    let expected = frames.len();
    let app = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        socket
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .unwrap();
        let mut frames = vec![0; expected];
        socket.read_exact(&mut frames).unwrap();
        socket.write_all(&frames).unwrap();
    });
    let _sidecar = rig.ready();
    let mut peer = rig.peer(&rig.friend);
    let ask = "GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(peer.ask(ask).unwrap().status, 101);
    peer.write_all(frames.as_bytes()).unwrap();
    let mut back = vec![0; expected];
    peer.read_exact(&mut back).unwrap();
    assert_eq!(back, frames.as_bytes());
    app.join().unwrap();
    drop(peer);
    rig.quiet();
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], body].concat()
}

fn the_body_of_a_get_reaches_the_app_where_its_length_is_not_known() {
    let rig = Rig::new(&Said::default());
    let listener = rig.world.listen(APP).unwrap();
    let _sidecar = rig.ready();
    // A connection for each: the app ends it with its answer.
    let seen = || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&seen)));
            seen.push(byte[0]);
        }
        socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8(seen).unwrap().to_lowercase()
    };
    let whole = |seen: &str, method: &str| {
        assert!(seen.starts_with(&format!("{method} / http/1.1\r\n")), "{seen}");
        assert!(seen.contains("\r\ntransfer-encoding: chunked\r\n") && !seen.contains("content-length"), "{seen}");
        assert!(seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{seen}");
    };
    for method in ["get", "head", "delete", "post"] {
        let mut peer = rig.peer(&rig.friend);
        let head = format!("{} / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n", method.to_uppercase());
        peer.write_all(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes()).unwrap();
        whole(&seen(), method);
        assert_eq!(peer.reply().unwrap().status, 204);
    }
    let mut peer = Peer::connect(&rig.world, IN, Some(&rig.friend), &["h2"]).unwrap();
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // `GET /` with `:authority: a` and a cookie in two pieces, in HPACK without a table.
    let head = [&[0x82, 0x87, 0x84, 1, 1, b'a'][..], b"\0\x06cookie\x03a=1", b"\0\x06cookie\x03b=2"].concat();
    peer.write_all(&[frame(1, 4, 1, &head), frame(0, 1, 1, b"hello")].concat()).unwrap();
    let seen = seen();
    whole(&seen, "get");
    assert!(seen.contains("\r\ncookie: a=1; b=2\r\n"), "{seen}");
    drop(peer);
    rig.quiet();
}

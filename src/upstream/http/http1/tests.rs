//! The client side of HTTP/1.1 against scripted bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A connection, and the other side of it.
fn pair(buffer: usize) -> (Http1<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(buffer);
    (Http1::new(near), far)
}

fn begin(connection: &mut Http1<DuplexStream>) {
    connection.out().extend_from_slice(b"POST / HTTP/1.1\r\nhost: a\r\n");
}

/// One exchange, whose response comes in pieces of `piece` bytes.
async fn exchange(
    connection: &mut Http1<DuplexStream>,
    far: &mut DuplexStream,
    response: &[u8],
    piece: usize,
) -> Result<(u16, Bytes), Http1Error> {
    begin(connection);
    let expected = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let near = async {
        let head = connection.send(&Bytes::from_static(b"hi")).await?;
        Ok((head.status.as_u16(), connection.read_body(&head, 100).await?))
    };
    let server = async {
        let mut request = vec![0; expected.len()];
        far.read_exact(&mut request).await.expect("a request");
        assert_eq!(request, expected);
        for piece in response.chunks(piece) {
            // It may have been given up.
            let _ = far.write_all(piece).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(near, server).0
}

#[tokio::test]
async fn one_connection_carries_many_exchanges_however_their_bytes_come() {
    for piece in [1, 2, 7, 1000] {
        let (mut connection, mut far) = pair(4096);
        for (response, status, body) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, "hello"),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 1\r\n\r\n-",
                404,
                "-",
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, "hello"),
            ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", 503, ""),
        ] {
            assert!(connection.is_idle(), "{response}");
            let answer = exchange(&mut connection, &mut far, response.as_bytes(), piece).await.expect("a response");
            assert_eq!(answer, (status, Bytes::from_static(body.as_bytes())), "{response} by {piece}");
            assert!(connection.is_reusable());
        }
    }
}

#[tokio::test]
async fn what_makes_a_connection_useless_is_noticed() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // More than the body.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!",
        // Two ends.
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (mut connection, mut far) = pair(4096);
        let answer = exchange(&mut connection, &mut far, response.as_bytes(), 1000).await.expect("a response");
        assert_eq!(answer, (200, Bytes::from_static(b"ok")), "{response}");
        assert!(!connection.is_idle(), "{response}");
    }
    // What comes, or ends, while it is idle.
    for unasked in ["HTTP/1.1 408 Timeout\r\n\r\n", ""] {
        let (mut connection, mut far) = pair(4096);
        exchange(&mut connection, &mut far, b"HTTP/1.1 204 No\r\n\r\n", 1000).await.expect("a response");
        assert!(connection.is_idle());
        far.write_all(unasked.as_bytes()).await.expect("written");
        drop(far);
        assert!(!connection.is_idle(), "{unasked:?}");
    }
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let (mut connection, mut far) = pair(4096);
    begin(&mut connection);
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.expect("written");
    let head = connection.send(&Bytes::new()).await.expect("a head");
    drop(far);
    assert_eq!(connection.read_body(&head, 5).await.expect("a body"), "hello");
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn errors_say_whether_it_was_http() {
    for (response, size, says) in [
        ("", 100, "closed before"),
        ("HTTP/1.1 200 OK\r\ncontent-len", 100, "closed before"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", 100, "closed before"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", 100, "closed before"),
        ("SSH-2.0-OpenSSH\r\n\r\n", 100, "invalid HTTP response"),
        ("HTTP/1.1 101 Switching\r\n\r\n", 100, "an upgrade"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 4, "too large"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 4, "too large"),
        ("HTTP/1.1 200 OK\r\n\r\nhello", 4, "too large"),
    ] {
        let (mut connection, mut far) = pair(4096);
        begin(&mut connection);
        far.write_all(response.as_bytes()).await.expect("written");
        far.shutdown().await.expect("shut");
        let answered = async {
            let head = connection.send(&Bytes::new()).await?;
            connection.read_body(&head, size).await
        };
        let error = answered.await.expect_err(response).to_string();
        assert!(error.contains(says), "{response}: {error}");
        assert!(!connection.is_idle());
    }
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(3000);
    for endless in [format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(70_000)), interim] {
        let (mut connection, mut far) = pair(1 << 20);
        begin(&mut connection);
        far.write_all(endless.as_bytes()).await.expect("written");
        let error = connection.send(&Bytes::new()).await.map(|head| head.status).expect_err("endless").to_string();
        assert!(error.contains("too long"), "{error}");
    }
}

#[tokio::test]
async fn an_early_answer_is_read_although_the_request_is_not_through() {
    let (mut connection, mut far) = pair(1024);
    let body = Bytes::from(vec![b'x'; 100_000]);
    begin(&mut connection);
    far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.expect("written");
    let head = connection.send(&body).await.expect("a head");
    assert_eq!(head.status, 413);
    connection.read_body(&head, 100).await.expect("a body");
    assert!(!connection.is_reusable(), "half a request is on it");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_leave_no_large_buffers() {
    let (mut connection, mut far) = pair(1000);
    let body = Bytes::from((0..200_000_u32).map(|at| at as u8).collect::<Vec<_>>());
    begin(&mut connection);
    let near = async {
        let head = connection.send(&body).await.expect("a head");
        connection.read_body(&head, 1 << 20).await.expect("a body")
    };
    let server = async {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n";
        let mut request = vec![0; head.len() + body.len()];
        far.read_exact(&mut request).await.expect("a request");
        assert!(request.starts_with(head) && request.ends_with(&body));
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n").await.expect("written");
        far.write_all(&body).await.expect("written");
    };
    let (answer, ()) = tokio::join!(near, server);
    assert_eq!(answer, body);
    assert!(connection.is_idle());
    assert!(connection.read.capacity() <= KEEP_BYTES_MAX && connection.out.capacity() <= KEEP_BYTES_MAX);
}

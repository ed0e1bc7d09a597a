//! Tests the server with clients on the loopback interface. There is no bus, so neither service replies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{MAX_CONNECTIONS, REQUEST_TIME, request, serve};

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METRICS: &str = "wakevirt_up{service=\"capture\"} 0\nwakevirt_up{service=\"actor\"} 0\n";

/// Starts a server, and returns its address.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(vec![listener], "unix:path=/nonexistent".parse().unwrap()));
    address
}

async fn connect(server: SocketAddr) -> TcpStream {
    TcpStream::connect(server).await.unwrap()
}

/// Returns everything that the server sends until it closes the connection.
async fn reply_on(stream: &mut TcpStream) -> String {
    let mut reply = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    reply
}

/// Returns the reply to this request.
async fn reply(server: SocketAddr, request: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    reply_on(&mut stream).await
}

#[tokio::test]
async fn answers_in_the_format_that_the_client_accepts() {
    let server = server().await;
    let classic = reply(server, GET).await;
    let (head, body) = classic.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        head,
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close",
            body.len()
        )
    );
    assert!(body.ends_with(METRICS), "{body}");
    let accept = "GET /metrics?x=y HTTP/1.0\r\naccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    let openmetrics = reply(server, accept).await;
    let media_type = "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(
        openmetrics.contains(media_type) && openmetrics.ends_with(&format!("{METRICS}# EOF\n")),
        "{openmetrics}"
    );
}

#[tokio::test]
async fn refuses_other_requests() {
    let server = server().await;
    let header = "X: y\r\n";
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\n\r\n".to_owned(), "405 Method Not Allowed\r\nAllow: GET\r\n"),
        ("HEAD /metrics HTTP/1.1\r\n\r\n".to_owned(), "405 Method Not Allowed\r\n"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "404 Not Found\r\n"),
        ("GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n".to_owned(), "404 Not Found\r\n"),
        ("GET /metrics\r\n\r\n".to_owned(), "400 Bad Request\r\n"),
        ("\u{16}\u{3}\u{1}\u{2}\0".to_owned(), "400 Bad Request\r\n"),
        (format!("GET /metrics HTTP/1.1\r\n{}\r\n", header.repeat(65)), "431 Request Header"),
        (format!("GET /metrics HTTP/1.1\r\nX: {}", "y".repeat(request::MAX_LENGTH)), "431 Request Header"),
        // Extra data from the client does not reset the connection.
        (format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(20 * 1024)), "431 Request Header"),
        (format!("{GET}{GET}"), "200 OK\r\n"),
    ] {
        let reply = reply(server, &request).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {reply}");
    }
}

#[tokio::test]
async fn closes_a_request_that_is_not_complete_in_time() {
    let server = server().await;
    let start = Instant::now();
    let half = reply(server, "GET /metrics HTTP/1.1\r\nHost:").await;
    assert!(half.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{half}");

    // The limit is the same for a client that continues to send.
    let (mut read, mut write) = connect(server).await.into_split();
    let slow = tokio::spawn(async move {
        for byte in GET.bytes() {
            sleep(Duration::from_millis(100)).await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    });
    let mut reply = [0; 12];
    timeout(Duration::from_secs(10), read.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(&reply, b"HTTP/1.1 408");
    assert!(start.elapsed() < 2 * REQUEST_TIME + Duration::from_secs(6), "{:?}", start.elapsed());
    slow.abort();
}

#[tokio::test]
async fn ignores_clients_that_disconnect() {
    let server = server().await;
    for request in ["", "GET /met", GET] {
        let mut stream = connect(server).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.set_zero_linger().unwrap();
    }
    assert!(reply(server, GET).await.ends_with(METRICS));
}

#[tokio::test]
async fn answers_during_a_flood_of_connections() {
    let server = server().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 50 {
        idle.push(connect(server).await);
    }
    let start = Instant::now();
    assert!(reply(server, GET).await.ends_with(METRICS));
    assert!(start.elapsed() < REQUEST_TIME, "the reply waited for the other clients: {:?}", start.elapsed());
    // The oldest connections are closed without a reply.
    let mut byte = [0];
    for stream in &mut idle[..50] {
        assert_eq!(timeout(REQUEST_TIME / 2, stream.read(&mut byte)).await.unwrap().unwrap_or(0), 0);
    }
    assert!(timeout(Duration::from_millis(50), idle[100].read(&mut byte)).await.is_err(), "this one is open");
}

#[tokio::test]
async fn answers_many_requests_at_once() {
    let server = server().await;
    let requests: Vec<_> = (0..100).map(|_| tokio::spawn(reply(server, GET))).collect();
    for request in requests {
        assert!(request.await.unwrap().ends_with(METRICS));
    }
}

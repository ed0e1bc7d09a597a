//! A request for the metrics: the result does not depend on how many bytes arrive at a time, and only a GET request for
//! `/metrics` is accepted.

#![no_main]

use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::io;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};
use wakevirt_ctl::verbs::metrics::http::request::read;

fuzz_target!(|request: &[u8]| {
    let all = finish(read(&mut &*request));
    let single = finish(read(&mut SingleBytes(request)));
    assert_eq!(all, single);
    if all.is_ok() {
        // Empty lines can precede a request.
        let start = request.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).expect("it is not empty");
        assert!(request[start..].starts_with(b"GET /metrics"), "{request:?}");
    }
});

/// Delivers one byte at a time.
struct SingleBytes<'a>(&'a [u8]);

impl AsyncRead for SingleBytes<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((first, rest)) = self.0.split_first() {
            buffer.put_slice(&[*first]);
            self.0 = rest;
        }
        Poll::Ready(Ok(()))
    }
}

/// The result of a future that never waits.
fn finish<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("the reader is always ready"),
    }
}

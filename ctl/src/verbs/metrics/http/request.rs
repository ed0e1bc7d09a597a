//! Reads a request.

use httparse::{EMPTY_HEADER, Error, Request, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::accept;
use crate::verbs::metrics::text::Format;

/// The maximum length of a request, in bytes.
pub const MAX_LENGTH: usize = 8 * 1024;
/// The maximum number of header fields.
const MAX_HEADERS: usize = 64;
/// The only path.
const PATH: &str = "/metrics";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a valid HTTP request.
    Invalid,
    /// Its path is not `/metrics`.
    Path,
    /// Its method is not GET.
    Method,
    /// It was not complete in time.
    Timeout,
    /// It is too long.
    Length,
    /// The client closed the connection before the request was complete.
    Closed,
}

/// Reads a request for the metrics, and returns the format that the client prefers.
///
/// # Errors
/// If the request is refused.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Format, Refusal> {
    let mut bytes = Vec::new();
    loop {
        let room = MAX_LENGTH.saturating_sub(bytes.len());
        if room == 0 {
            return Err(Refusal::Length);
        }
        let mut limited = stream.take(u64::try_from(room).unwrap_or(u64::MAX));
        if limited.read_buf(&mut bytes).await.map_or(true, |length| length == 0) {
            return Err(Refusal::Closed);
        }
        if let Some(result) = parse(&bytes) {
            return result;
        }
    }
}

/// Parses a request. Returns `None` if it is not complete.
fn parse(bytes: &[u8]) -> Option<Result<Format, Refusal>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Partial) => None,
        Ok(Status::Complete(_)) => Some(format_of(&request)),
        Err(Error::TooManyHeaders) => Some(Err(Refusal::Length)),
        Err(_) => Some(Err(Refusal::Invalid)),
    }
}

/// Checks a complete request, and returns the format that the client prefers.
fn format_of(request: &Request<'_, '_>) -> Result<Format, Refusal> {
    let path = request.path.and_then(|path| path.split('?').next());
    if path != Some(PATH) {
        return Err(Refusal::Path);
    }
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    let accept = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
    Ok(accept::preferred(accept.filter_map(|header| str::from_utf8(header.value).ok())))
}

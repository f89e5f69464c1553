//! What a handler's host sends, through the client side of HTTP/1.1. Input: a line of settings, then what comes for each request, behind
//! one another with `~~` between them; the connection ends behind the last. Held against hyper's client, which gets the same bytes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use holdfast::upstream::http::http1::{Http1, Http1Error};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use super::check;
use super::pipe::Pipe;

const BODY_BYTES_MAX: [usize; 4] = [0, 5, 100, 100_000];
const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\n";
/// The body of a request: what leaves with the head, and what leaves behind it.
const POSTED: [usize; 2] = [2, 6_000];
/// What may be read of a response beside its body: its head, its chunks' lines and what one more read brings.
const SLACK_BYTES: usize = 200 * 1024;

/// The status, the body, and that the connection may carry another request; or why there is none.
type Answered = Result<(StatusCode, Bytes, bool), Http1Error>;

/// The line of settings.
struct Settings<'a> {
    bytes_max: usize,
    posted: usize,
    /// The last byte of the last response comes again and again, instead of an end.
    is_endless: bool,
    /// How many bytes come at once, and how many may leave meanwhile; begins anew when it is used up.
    pieces: &'a [u8],
}

pub fn run(data: &[u8]) {
    let mut rest = data;
    let [first, pieces @ ..] = check::line(&mut rest) else { return };
    let settings = Settings {
        bytes_max: BODY_BYTES_MAX[usize::from(first % 4)],
        posted: POSTED[usize::from(first / 4 % 2)],
        is_endless: first / 8 % 2 == 1,
        pieces,
    };
    let responses = split(rest);
    let pipe = Pipe::default();
    let mut connection = Http1::new(pipe.clone());
    for (at, response) in responses.iter().enumerate() {
        let is_last = at + 1 == responses.len();
        let answered = exchange(&mut connection, &pipe, &settings, response, is_last);
        if !(is_last && settings.is_endless) {
            let whole = Settings { pieces: &[], ..settings };
            let alone = Pipe::default();
            let again = exchange(&mut Http1::new(alone.clone()), &alone, &whole, response, is_last);
            assert_eq!(words(&answered), words(&again), "it matters how the bytes come");
            compare(&settings, response, &answered);
        }
        if !matches!(answered, Ok((_, _, true))) {
            return;
        }
    }
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(2).position(|two| two == b"~~") {
        parts.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    parts.push(rest);
    parts
}

/// One request, and what comes of this response.
fn exchange(
    connection: &mut Http1<Pipe>,
    pipe: &Pipe,
    settings: &Settings<'_>,
    response: &[u8],
    is_last: bool,
) -> Answered {
    assert!(connection.is_idle(), "a connection that was said to be fit for another request");
    let posted = Bytes::from(vec![b'p'; settings.posted]);
    connection.out().extend_from_slice(REQUEST);
    let (mut answered, fed) = {
        let mut call = pin!(async {
            let head = connection.send(&posted).await?;
            let body = connection.read_body(&head, settings.bytes_max).await?;
            Ok::<_, Http1Error>((head.status, body))
        });
        let mut feeder = Feeder { pipe, settings, response, fed: 0, steps: 0, is_last };
        let answered = loop {
            match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answered) => break answered,
                Poll::Pending => feeder.feed(),
            }
        };
        (answered, feeder.fed)
    };
    // What is left comes too late for this request.
    pipe.ends().input.extend(response.get(fed..).unwrap_or_default());
    let is_idle = connection.is_idle();
    assert!(!is_idle || connection.is_reusable());
    let mut ends = pipe.ends();
    let request = [REQUEST, format!("content-length: {}\r\n\r\n", posted.len()).as_bytes(), &posted].concat();
    let sent = std::mem::take(&mut ends.output);
    assert!(request.starts_with(&sent), "another request than was to be sent");
    assert!(!is_idle || sent.len() == request.len(), "half a request is on it");
    if let Ok((status, body)) = &mut answered {
        assert!(body.len() <= settings.bytes_max, "{} bytes, at most {}", body.len(), settings.bytes_max);
        assert!(!status.is_informational());
    }
    answered.map(|(status, body)| (status, body, is_idle))
}

/// What brings a response to the pipe.
struct Feeder<'a> {
    pipe: &'a Pipe,
    settings: &'a Settings<'a>,
    response: &'a [u8],
    fed: usize,
    steps: usize,
    is_last: bool,
}

impl Feeder<'_> {
    fn feed(&mut self) {
        let pieces = self.settings.pieces;
        let count = match pieces.get(self.steps % pieces.len().max(1)) {
            None => usize::MAX,
            Some(piece) => 1 + usize::from(piece % 32) * usize::from(piece / 32),
        };
        self.steps += 1;
        let mut ends = self.pipe.ends();
        assert!(!ends.has_ended, "it waits for more behind the end");
        ends.room = ends.room.saturating_add(count);
        let left = self.response.get(self.fed..).unwrap_or_default();
        let next = &left[..left.len().min(count)];
        ends.input.extend(next);
        self.fed += next.len();
        if !next.is_empty() {
            return;
        }
        match self.response.last() {
            Some(last) if self.settings.is_endless && self.is_last => {
                ends.input.extend([*last; 4096]);
                self.fed += 4096;
                let most = self.response.len() + self.settings.bytes_max + SLACK_BYTES;
                assert!(self.fed <= most, "{} bytes read, and it goes on", self.fed);
            }
            _ => ends.has_ended = true,
        }
    }
}

fn words(answered: &Answered) -> Result<(StatusCode, &Bytes), String> {
    answered.as_ref().map(|(status, body, _)| (*status, body)).map_err(ToString::to_string)
}

/// Holds an answer against hyper's.
fn compare(settings: &Settings<'_>, response: &[u8], answered: &Answered) {
    let theirs = hyper(response);
    match (answered, theirs) {
        (Ok((status, body, is_idle)), Some((their_status, their_body, their_end))) => {
            assert_eq!((*status, body), (their_status, &their_body), "hyper reads another answer");
            assert!(!is_idle || !their_end, "hyper needs the end of the connection, or of the answer's bytes");
        }
        (Err(Http1Error::TooLarge), Some((_, body, _))) => assert!(body.len() > settings.bytes_max, "{}", body.len()),
        (Err(error), Some((status, ..))) => {
            assert!(may_be_refused(status, error), "hyper takes what is refused: {error}")
        }
        (_, None) => {}
    }
}

/// What hyper takes, and we do not.
fn may_be_refused(status: StatusCode, error: &Http1Error) -> bool {
    const STRICTER: [&str; 5] = [
        "a line that is too long",
        "a line that ends wrongly",
        "an invalid transfer-encoding",
        "an invalid content-length",
        "two values of content-length",
    ];
    status == StatusCode::SWITCHING_PROTOCOLS || matches!(error, Http1Error::Parse(why) if STRICTER.contains(why))
}

/// What hyper's client makes of the same bytes: the status, the body, and whether the connection's end was needed for it.
fn hyper(response: &[u8]) -> Option<(StatusCode, Bytes, bool)> {
    let pipe = Pipe::default();
    pipe.ends().room = usize::MAX;
    let mut handshake = pin!(hyper::client::conn::http1::handshake(TokioIo::new(pipe.clone())));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let cx = &mut Context::from_waker(&waker);
    let Poll::Ready(Ok((mut sender, connection))) = handshake.as_mut().poll(cx) else { panic!("no handshake") };
    let mut connection = pin!(connection);
    let mut call = pin!(async {
        let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from_static(b"hi"))).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    });
    let mut is_over = false;
    // Before anything has come a response would belong to no request.
    for step in 0..3 {
        match step {
            0 => {}
            1 => pipe.ends().input.extend(response),
            _ => pipe.ends().has_ended = true,
        }
        woken.0.store(true, Ordering::Relaxed);
        while woken.0.swap(false, Ordering::Relaxed) {
            is_over = is_over || connection.as_mut().poll(cx).is_ready();
            if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                return answer.map(|(status, body)| (status, body, step == 2 || is_over));
            }
        }
    }
    panic!("hyper waits for more behind the end");
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

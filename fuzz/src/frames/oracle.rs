//! RFC 6455 read plainly: the whole wire at once, no buffers, no state but a message's fragments.

/// What a server has to make of a client's bytes.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Text or not, and its bytes.
    Message(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(u16, String),
    /// The connection has to be closed with this code.
    Violation(u16),
}

pub struct Frame {
    pub is_final: bool,
    pub reserved: u8,
    pub opcode: u8,
    pub is_masked: bool,
    pub payload: Vec<u8>,
}

/// A client's frame as far as it has come.
struct Partial<'a> {
    is_final: bool,
    opcode: u8,
    /// Of the payload, as promised.
    len: u64,
    /// What has come of it.
    payload: Vec<u8>,
    /// What comes behind it.
    rest: &'a [u8],
}

/// Reads frames from a client until it closes, breaks the protocol or ends. What is wrong counts from its first wrong byte on.
pub fn read(mut wire: &[u8], limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut fragments: Option<(bool, Vec<u8>)> = None;
    loop {
        let event = match header(wire) {
            Ok(None) => return events,
            Ok(Some(frame)) => {
                let is_whole = frame.payload.len() as u64 == frame.len;
                wire = frame.rest;
                match on_frame(frame, is_whole, &mut fragments, limit) {
                    None if !is_whole => return events,
                    event => event,
                }
            }
            Err(code) => Some(Event::Violation(code)),
        };
        let is_last = matches!(event, Some(Event::Close(..) | Event::Violation(_)));
        events.extend(event);
        if is_last {
            return events;
        }
    }
}

/// The header of a frame and what is there of its payload; none where the header is not whole.
fn header(wire: &[u8]) -> Result<Option<Partial<'_>>, u16> {
    let [first, ..] = wire else { return Ok(None) };
    let (is_final, opcode) = (first & 0x80 != 0, first & 15);
    if matches!(opcode, 3..=7 | 11..=15) || first & 0x70 != 0 || opcode >= 8 && !is_final {
        return Err(1002);
    }
    let [_, second, after @ ..] = wire else { return Ok(None) };
    let short = second & 0x7f;
    if second & 0x80 == 0 || opcode >= 8 && short > 125 {
        return Err(1002);
    }
    let (extended, least) = match short {
        126 => (2, 126),
        127 => (8, 1 << 16),
        _ => (0, 0),
    };
    let Some(bytes) = after.get(..extended) else { return Ok(None) };
    let long = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let len = if extended == 0 { u64::from(short) } else { long };
    if len < least || len >> 63 != 0 {
        return Err(1002);
    }
    let Some(mask) = after.get(extended..extended + 4) else { return Ok(None) };
    let body = &after[extended + 4..];
    let there = usize::try_from(len).map_or(body.len(), |len| len.min(body.len()));
    let payload = body[..there].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok(Some(Partial { is_final, opcode, len, payload, rest: &body[there..] }))
}

/// Every frame of what a server wrote; none where the last one is torn.
pub fn frames(mut wire: &[u8]) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let frame = frame(&mut wire)?;
        assert!(frame.is_final && frame.reserved == 0 && !frame.is_masked, "not a server's frame");
        assert!(frame.opcode < 8 || frame.payload.len() <= 125, "a control frame of {} bytes", frame.payload.len());
        frames.push(frame);
    }
    Some(frames)
}

/// A server's frame; none where it is torn.
fn frame(wire: &mut &[u8]) -> Option<Frame> {
    let [first, second, after @ ..] = *wire else { return None };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let bytes = after.get(..extended)?;
    let long = bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let len = if extended == 0 { usize::from(second & 0x7f) } else { long };
    let payload = after.get(extended..extended + len)?;
    *wire = &after[extended + len..];
    let (is_final, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 15);
    Some(Frame { is_final, reserved, opcode, is_masked: second & 0x80 != 0, payload: payload.to_vec() })
}

fn on_frame(
    frame: Partial<'_>,
    is_whole: bool,
    fragments: &mut Option<(bool, Vec<u8>)>,
    limit: usize,
) -> Option<Event> {
    if frame.opcode >= 8 {
        return is_whole.then(|| on_control(&frame));
    }
    let (is_text, mut bytes) = match (frame.opcode, fragments.take()) {
        (0, Some(fragments)) => fragments,
        (1 | 2, None) => (frame.opcode == 1, Vec::new()),
        _ => return Some(Event::Violation(1002)),
    };
    if frame.len > (limit - bytes.len()) as u64 {
        return Some(Event::Violation(1009));
    }
    bytes.extend(frame.payload);
    let is_end = is_whole && frame.is_final;
    if let (true, Err(error)) = (is_text, std::str::from_utf8(&bytes))
        // What is cut off in the middle of a character may still go on.
        && (is_end || error.error_len().is_some())
    {
        return Some(Event::Violation(1007));
    }
    if is_end {
        return Some(Event::Message(is_text, bytes));
    }
    *fragments = Some((is_text, bytes));
    None
}

fn on_control(frame: &Partial<'_>) -> Event {
    match (frame.opcode, frame.payload.as_slice()) {
        (9, payload) => Event::Ping(payload.to_vec()),
        (10, _) => Event::Pong,
        (_, []) => Event::Close(1005, String::new()),
        (_, [_]) => Event::Violation(1002),
        (_, [high, low, reason @ ..]) => close(u16::from_be_bytes([*high, *low]), reason),
    }
}

fn close(code: u16, reason: &[u8]) -> Event {
    match (code, std::str::from_utf8(reason)) {
        (1000..=1003 | 1007..=1014 | 3000..=4999, Ok(reason)) => Event::Close(code, reason.to_owned()),
        (1000..=1003 | 1007..=1014 | 3000..=4999, Err(_)) => Event::Violation(1007),
        _ => Event::Violation(1002),
    }
}

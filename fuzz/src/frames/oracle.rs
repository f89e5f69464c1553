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

/// Why there is no frame here.
enum Stop {
    /// The bytes end before the frame does.
    Incomplete,
    Violation(u16),
}

/// Reads frames from a client until it closes, breaks the protocol or ends.
pub fn read(mut wire: &[u8], limit: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut fragments: Option<(bool, Vec<u8>)> = None;
    loop {
        let event = match frame(&mut wire, limit) {
            Ok(frame) => on_frame(frame, &mut fragments, limit),
            Err(Stop::Incomplete) => return events,
            Err(Stop::Violation(code)) => Some(Event::Violation(code)),
        };
        let is_last = matches!(event, Some(Event::Close(..) | Event::Violation(_)));
        events.extend(event);
        if is_last {
            return events;
        }
    }
}

/// Every frame of what a server wrote; none where the last one is torn.
pub fn frames(mut wire: &[u8]) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let frame = frame(&mut wire, usize::MAX).ok()?;
        assert!(frame.is_final && frame.reserved == 0 && !frame.is_masked, "not a server's frame");
        assert!(frame.opcode < 8 || frame.payload.len() <= 125, "a control frame of {} bytes", frame.payload.len());
        frames.push(frame);
    }
    Some(frames)
}

fn frame(wire: &mut &[u8], limit: usize) -> Result<Frame, Stop> {
    let mut at = 0;
    let mut take = |count: usize| {
        let taken = wire.get(at..at + count).ok_or(Stop::Incomplete)?;
        at += count;
        Ok(taken)
    };
    let head = take(2)?;
    let (opcode, is_masked) = (head[0] & 15, head[1] & 0x80 != 0);
    let len = match head[1] & 0x7f {
        126 => take(2)?,
        127 => take(8)?,
        _ => &head[1..],
    };
    let len = len.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let len = if head[1] & 0x7f < 126 { len & 0x7f } else { len };
    let mask = if is_masked { take(4)? } else { &[0; 4] };
    if matches!(opcode, 3..=7 | 11..=15) {
        return Err(Stop::Violation(1002));
    }
    // No message is larger than the limit; a control frame may be as large as the protocol lets it.
    if len > limit.max(125) as u64 {
        return Err(Stop::Violation(1009));
    }
    let payload = take(usize::try_from(len).map_err(|_| Stop::Violation(1009))?)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    *wire = &wire[at..];
    Ok(Frame { is_final: head[0] & 0x80 != 0, reserved: head[0] & 0x70, opcode, is_masked, payload })
}

fn on_frame(frame: Frame, fragments: &mut Option<(bool, Vec<u8>)>, limit: usize) -> Option<Event> {
    if !frame.is_masked || frame.reserved != 0 {
        return Some(Event::Violation(1002));
    }
    if frame.opcode >= 8 {
        return Some(on_control(frame));
    }
    let (is_text, mut bytes) = match (frame.opcode, fragments.take()) {
        (0, Some(fragments)) => fragments,
        (1 | 2, None) => (frame.opcode == 1, Vec::new()),
        _ => return Some(Event::Violation(1002)),
    };
    bytes.extend(frame.payload);
    if bytes.len() > limit {
        return Some(Event::Violation(1009));
    }
    if let (true, Err(error)) = (is_text, std::str::from_utf8(&bytes))
        // What is cut off in the middle of a character may still go on.
        && (frame.is_final || error.error_len().is_some())
    {
        return Some(Event::Violation(1007));
    }
    if frame.is_final {
        return Some(Event::Message(is_text, bytes));
    }
    *fragments = Some((is_text, bytes));
    None
}

fn on_control(frame: Frame) -> Event {
    if !frame.is_final || frame.payload.len() > 125 {
        return Event::Violation(1002);
    }
    match (frame.opcode, frame.payload.as_slice()) {
        (9, payload) => Event::Ping(payload.to_vec()),
        (10, _) => Event::Pong,
        (_, []) => Event::Close(1005, String::new()),
        (_, [_]) => Event::Violation(1002),
        (_, [high, low, reason @ ..]) => match std::str::from_utf8(reason) {
            Ok(reason) => close(u16::from_be_bytes([*high, *low]), reason),
            Err(_) => Event::Violation(1007),
        },
    }
}

fn close(code: u16, reason: &str) -> Event {
    match code {
        // 1014 was registered last, and is a gateway's word: tungstenite does not take it from a client.
        1000..=1003 | 1007..=1013 | 3000..=4999 => Event::Close(code, reason.to_owned()),
        _ => Event::Close(1002, "Protocol violation".to_owned()),
    }
}

//! The headers of frames, both ways, and what a close frame carries. Must not know what came before a frame.

use super::Violation;
use crate::codes::{Cause, CloseCode};
use crate::message::assembly::InvalidText;
use crate::message::{Ending, Kind};

/// A masked frame's: two bytes, a length of eight, a mask of four.
pub const HEADER_BYTES_MAX: usize = 14;
/// The largest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASK: u8 = 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Data(Kind),
    Close,
    Ping,
    Pong,
}

/// A frame's header, valid by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub is_final: bool,
    /// The message is compressed.
    pub rsv1: bool,
    pub opcode: Opcode,
    /// Of the payload, as promised.
    pub len: u64,
    pub mask: [u8; 4],
}

impl Opcode {
    pub fn is_data(self) -> bool {
        matches!(self, Self::Continuation | Self::Data(_))
    }

    fn parse(nibble: u8) -> Result<Self, Violation> {
        match nibble {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Data(Kind::Text)),
            2 => Ok(Self::Data(Kind::Binary)),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => Err(Violation::Protocol("reserved opcode")),
        }
    }

    fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Data(Kind::Text) => 1,
            Self::Data(Kind::Binary) => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

impl Header {
    /// Reads a client's header and its length in bytes. None if it is not whole; what is wrong in a part of it is said all the same.
    pub fn parse(bytes: &[u8], allows_packed: bool) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = Opcode::parse(first & 0x0f)?;
        let (is_final, rsv1) = (first & FIN != 0, first & RSV1 != 0);
        if first & RSV2_RSV3 != 0 || rsv1 && !(allows_packed && matches!(opcode, Opcode::Data(_))) {
            return Err(Violation::Protocol("reserved bits are set"));
        }
        if !opcode.is_data() && !is_final {
            return Err(Violation::Protocol("fragmented control frame"));
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASK == 0 {
            return Err(Violation::Protocol("frame without a mask"));
        }
        let short = second & !MASK;
        if !opcode.is_data() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Violation::Protocol("control frame larger than 125 bytes"));
        }
        let Some((len, rest)) = length(short, &bytes[2..])? else { return Ok(None) };
        let Some(&mask) = rest.first_chunk::<4>() else { return Ok(None) };
        let header_len = bytes.len() - rest.len() + mask.len();
        Ok(Some((Self { is_final, rsv1, opcode, len, mask }, header_len)))
    }
}

/// The length of a payload, which has to be in its shortest form (RFC 6455 section 5.2), and the bytes behind it.
fn length(short: u8, bytes: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (len, len_min, rest) = match short {
        126 => match bytes.split_first_chunk::<2>() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), 126, rest),
            None => return Ok(None),
        },
        127 => match bytes.split_first_chunk::<8>() {
            Some((len, rest)) => (u64::from_be_bytes(*len), 1 << 16, rest),
            None => return Ok(None),
        },
        _ => (u64::from(short), 0, bytes),
    };
    match len {
        _ if len < len_min => Err(Violation::Protocol("length not in its shortest form")),
        _ if len > i64::MAX as u64 => Err(Violation::Protocol("length of more than 63 bits")),
        _ => Ok(Some((len, rest))),
    }
}

/// The header of a final, unmasked frame, and how many bytes of it count.
pub fn frame_header(opcode: Opcode, is_packed: bool, len: usize) -> ([u8; 10], u8) {
    let mut header = [0; 10];
    header[0] = FIN | if is_packed { RSV1 } else { 0 } | opcode.nibble();
    match len {
        0..126 => {
            header[1] = len as u8;
            (header, 2)
        }
        126..0x1_0000 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
            (header, 10)
        }
    }
}

/// What a close frame carries: a code that may be sent, and as much of the reason as fits.
pub fn close_frame_payload(ending: &Ending) -> Vec<u8> {
    if !ending.code.is_sendable() {
        return Vec::new();
    }
    let reason_len = ending.reason.floor_char_boundary(CONTROL_BYTES_MAX - 2);
    [&ending.code.0.to_be_bytes(), &ending.reason.as_bytes()[..reason_len]].concat()
}

/// Reads what a close frame carries.
pub fn ending_of(payload: &[u8]) -> Result<Ending, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Ending::new(CloseCode::NO_STATUS, "", Cause::Client)),
            _ => Err(Violation::Protocol("close frame of one byte")),
        };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_sendable() {
        return Err(Violation::Protocol("invalid close code"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| InvalidText)?;
    Ok(Ending::new(code, reason, Cause::Client))
}

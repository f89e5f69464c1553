//! Numbers and times as text, without the machinery of formatting: on the path of every message. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes a number in decimal.
pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(number % 10);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Fills `out` with the low digits of a number in lower-case hexadecimal.
pub fn hex(out: &mut [u8], mut number: u128) {
    for place in out.iter_mut().rev() {
        *place = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// Writes a text as JSON, in quotes.
pub fn quoted(json: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        // Writing a string to a Vec does not fail.
        let _ = serde_json::to_writer(json, text);
        return;
    }
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

/// A time as `2021-02-25T15:02:10.250Z` (RFC 3339); of 1970 to 9999.
pub fn rfc3339(time: SystemTime) -> [u8; 24] {
    const LAST: u64 = 253_402_300_799;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days of years that begin in March, so that a leap day is a year's last (Hinnant, "chrono-compatible date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (end, count, mut number) in [
        (4, 4, year),
        (7, 2, month),
        (10, 2, day),
        (13, 2, second / 3600),
        (16, 2, second / 60 % 60),
        (19, 2, second % 60),
        (23, 3, u64::from(since.subsec_millis())),
    ] {
        for place in text[end - count..end].iter_mut().rev() {
            *place = digit(number % 10);
            number /= 10;
        }
    }
    text
}

/// The text of ASCII that was made here.
pub fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

fn digit(number: u64) -> u8 {
    // Of 0 to 9.
    b'0' + number as u8
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_as_the_standard_library_writes_them(number: u64, wide: u128) {
            let mut out = Vec::new();
            decimal(&mut out, number);
            prop_assert_eq!(ascii(&out), number.to_string());
            let mut out = [0; 32];
            hex(&mut out, wide);
            prop_assert_eq!(ascii(&out), format!("{wide:032x}"));
        }

        #[test]
        fn texts_are_quoted_as_serde_json_quotes_them(text in r#"[a-c"\\\n\x7fé ]{0,8}"#) {
            let mut json = Vec::new();
            quoted(&mut json, &text);
            prop_assert_eq!(json, serde_json::to_vec(&text).expect("JSON"));
        }

        #[test]
        fn times_read_as_humantime_writes_them(millis in 0_u64..253_402_300_800_000) {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            let text = rfc3339(time);
            prop_assert_eq!(ascii(&text), humantime::format_rfc3339_millis(time).to_string());
        }
    }

    #[test]
    fn leap_days_and_ends_of_years() {
        for text in [
            "1970-01-01T00:00:00.000Z",
            "1972-02-29T23:59:59.999Z",
            "2000-02-29T00:00:00.000Z",
            "2000-12-31T23:59:59.999Z",
            "2100-02-28T23:59:59.000Z",
            "2100-03-01T00:00:00.000Z",
            "9999-12-31T23:59:59.000Z",
        ] {
            assert_eq!(ascii(&rfc3339(humantime::parse_rfc3339(text).expect("a time"))), text);
        }
    }
}

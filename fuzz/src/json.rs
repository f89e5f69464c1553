//! JSON read plainly: what a text means, whether it repeats a key, and whether it is JSON at all.

use serde_json::{Map, Value};

/// A whole text.
pub struct Whole {
    /// Of a repeated key the first value counts.
    pub value: Value,
    /// Some object has a key twice, which two readers may take for different values.
    pub repeats: bool,
}

/// Parses a whole text.
pub fn parse(json: &[u8]) -> Result<Whole, serde_json::Error> {
    serde_json::from_slice(json)
}

impl<'de> serde::Deserialize<'de> for Whole {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

impl<T: Into<Value>> From<T> for Whole {
    fn from(value: T) -> Self {
        Self { value: value.into(), repeats: false }
    }
}

struct WholeVisitor;

impl<'de> serde::de::Visitor<'de> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Whole, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Whole, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Whole, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Whole, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Whole, E> {
        Ok(number.into())
    }

    fn visit_unit<E>(self) -> Result<Whole, E> {
        Ok(Value::Null.into())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Whole, A::Error> {
        let (mut list, mut repeats) = (Vec::new(), false);
        while let Some(whole) = seq.next_element::<Whole>()? {
            repeats |= whole.repeats;
            list.push(whole.value);
        }
        Ok(Whole { value: list.into(), repeats })
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Whole, A::Error> {
        let (mut map, mut repeats) = (Map::new(), false);
        while let Some((key, whole)) = entries.next_entry::<String, Whole>()? {
            repeats |= whole.repeats | map.contains_key(&key);
            map.entry(key).or_insert(whole.value);
        }
        Ok(Whole { value: map.into(), repeats })
    }
}

/// True if the bytes are JSON by RFC 8259's grammar, whatever the values mean. Depth is counted on a stack of its own.
pub fn is_json(json: &[u8]) -> bool {
    let mut scan = Scan { rest: json };
    scan.document().is_some() && scan.rest.is_empty()
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl Scan<'_> {
    fn document(&mut self) -> Option<()> {
        // What closes the lists and objects that are open.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.next()? {
                b'{' if !self.closes(b'}') => {
                    open.push(b'}');
                    self.key()?;
                    continue;
                }
                b'[' if !self.closes(b']') => {
                    open.push(b']');
                    continue;
                }
                b'{' | b'[' => {}
                b'"' => self.string()?,
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                first => self.number(first)?,
            }
            // A value ended: so may what is open around it.
            loop {
                self.space();
                let Some(close) = open.last().copied() else { return Some(()) };
                match self.next()? {
                    b',' if close == b'}' => break self.key()?,
                    b',' => break,
                    byte if byte == close => drop(open.pop()),
                    _ => return None,
                }
            }
        }
    }

    /// Takes the end of an empty list or object.
    fn closes(&mut self, close: u8) -> bool {
        self.space();
        let found = self.rest.first() == Some(&close);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn key(&mut self) -> Option<()> {
        self.space();
        self.expect(b'"')?;
        self.string()?;
        self.space();
        self.expect(b':')
    }

    fn string(&mut self) -> Option<()> {
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => (0..4).try_for_each(|_| self.next().filter(u8::is_ascii_hexdigit).map(drop))?,
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self, first: u8) -> Option<()> {
        let first = if first == b'-' { self.next()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.rest.first() == Some(&b'.') {
            self.next();
            self.next().filter(u8::is_ascii_digit)?;
            self.digits();
        }
        if matches!(self.rest.first(), Some(b'e' | b'E')) {
            self.next();
            if matches!(self.rest.first(), Some(b'+' | b'-')) {
                self.next();
            }
            self.next().filter(u8::is_ascii_digit)?;
            self.digits();
        }
        Some(())
    }

    fn digits(&mut self) {
        while self.rest.first().is_some_and(u8::is_ascii_digit) {
            self.next();
        }
    }

    fn word(&mut self, rest: &[u8]) -> Option<()> {
        rest.iter().try_for_each(|byte| self.expect(*byte))
    }

    fn space(&mut self) {
        while matches!(self.rest.first(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.next();
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.next().filter(|found| *found == byte).map(drop)
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }
}

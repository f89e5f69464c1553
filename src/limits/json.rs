//! How deep JSON text is nested and how many values it holds, found in one pass over its bytes before anything is parsed.
//! Says nothing of whether the text is JSON: who parses it does. Must not know what the values are.

/// How large a JSON document may be in its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Arrays and objects inside each other.
    pub depth: usize,
    /// Members of objects and elements of arrays, nested ones too.
    pub values: Option<usize>,
}

/// What a document has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Oversized {
    #[error("expected at most {0} arrays and objects inside each other, found more")]
    Depth(usize),
    #[error("expected at most {0} members and elements, found more")]
    Values(usize),
}

impl JsonLimits {
    /// Holds JSON text against the limits.
    pub fn check(&self, text: &[u8]) -> Result<(), Oversized> {
        // Nearly every message is so small in structure that counting without regard to strings, which is fast, shows it.
        let values_most = self.values.unwrap_or(usize::MAX);
        let opens = count(text, |byte| matches!(byte, b'[' | b'{'));
        if opens <= self.depth && (self.values.is_none() || opens + count(text, |byte| byte == b',') <= values_most) {
            return Ok(());
        }
        self.walk(text, values_most)
    }

    fn walk(&self, text: &[u8], values_most: usize) -> Result<(), Oversized> {
        let (mut depth, mut values) = (0_usize, 0_usize);
        let mut just_opened = false;
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            // Each comma stands before one more value, and the first thing in brackets is one too.
            let is_first = std::mem::take(&mut just_opened);
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => {
                    just_opened = is_first;
                    continue;
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    continue;
                }
                b',' => values += 1,
                _ => values += usize::from(is_first),
            }
            match byte {
                b'[' | b'{' => {
                    depth += 1;
                    just_opened = true;
                }
                b'"' => skip_string(&mut bytes),
                _ => {}
            }
            if depth > self.depth {
                return Err(Oversized::Depth(self.depth));
            }
            if values > values_most {
                return Err(Oversized::Values(values_most));
            }
        }
        Ok(())
    }
}

/// Goes on behind the closing quote.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => _ = bytes.next(),
            _ => {}
        }
    }
}

/// Summed up in bytes over chunks that a byte can count, so that the compiler makes it run over many bytes at once.
fn count(text: &[u8], is_wanted: impl Fn(u8) -> bool) -> usize {
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(is_wanted(*byte))).sum::<u8>();
    text.chunks(255).map(|chunk| usize::from(in_chunk(chunk))).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn check(text: &str, depth: usize, values: usize) -> Result<(), Oversized> {
        JsonLimits { depth, values: Some(values) }.check(text.as_bytes())
    }

    /// The depth and the number of values, as a parser sees them.
    fn measure(value: &Value) -> (usize, usize) {
        let inside: Vec<_> = match value {
            Value::Array(list) => list.iter().map(measure).collect(),
            Value::Object(map) => map.values().map(measure).collect(),
            _ => return (0, 0),
        };
        let depth = inside.iter().map(|(depth, _)| *depth).max().unwrap_or_default();
        (depth + 1, inside.iter().map(|(_, values)| values + 1).sum())
    }

    #[test]
    fn the_limits_are_exact() {
        for (text, depth, values) in [
            ("1", 0, 0),
            ("[]", 1, 0),
            ("[ \n ]", 1, 0),
            ("[[],[],[]]", 2, 3),
            (r#"{"a":1,"b":[1,2,{"c":null}]}"#, 3, 6),
            (r#"{"a":"[[[,,,{{{","b\"[,":"\\"}"#, 1, 2),
            (r#" [ "\\\"[[" , [ ] ] "#, 2, 2),
        ] {
            assert_eq!(check(text, depth, values), Ok(()), "{text}");
            if depth > 0 {
                assert_eq!(check(text, depth - 1, values), Err(Oversized::Depth(depth - 1)), "{text}");
            }
            if values > 0 {
                assert_eq!(check(text, depth, values - 1), Err(Oversized::Values(values - 1)), "{text}");
            }
        }
    }

    #[test]
    fn text_that_is_no_json_is_left_to_the_parser_unless_it_is_too_deep() {
        for text in ["", "]]]]", "\"", "\"\\", "{,,,", "\"[[[[[["] {
            assert_eq!(check(text, 3, 9), Ok(()), "{text}");
        }
        assert_eq!(check(&"[".repeat(100_000), 64, 9), Err(Oversized::Values(9)));
        let deep = JsonLimits { depth: 64, values: None };
        assert_eq!(deep.check("[".repeat(100_000).as_bytes()), Err(Oversized::Depth(64)));
        assert_eq!(deep.check("[".repeat(64).as_bytes()), Ok(()));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[\\[\\]{},\"\\\\a ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[\\[{,\"\\\\]{0,3}", inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_parser(value in json(), depth in 0_usize..7, values in 0_usize..30, pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let (found_depth, found_values) = measure(&value);
            let fits = found_depth <= depth && found_values <= values;
            prop_assert_eq!(check(&text.expect("JSON"), depth, values).is_ok(), fits);
        }
    }
}

//! Connection IDs: `<node>-<key>`, drawn at random, safe in a URL, an AMQP routing key and a NATS subject.
//! Knows nothing but bytes; must not know who holds a connection or where it lives.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use rand::RngExt;

/// Characters of an ID: no capital and no letter that is easily misread.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz0123456";
/// 8 characters of 5 bits: 40 random bits name a node.
const NODE_LEN: usize = 8;
/// 20 characters of 5 bits: 100 random bits name a connection on its node (DESIGN asks for at least 96).
const KEY_LEN: usize = 20;
const ID_LEN: usize = NODE_LEN + 1 + KEY_LEN;

/// The name of one process, drawn anew at each boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; NODE_LEN]);

/// The name of one connection. It names the node too, so no directory is needed to find it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId([u8; ID_LEN]);

/// Why a string is not a connection ID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a connection ID: expected 8 characters, '-' and 20 characters of [a-z0-9]")]
pub struct InvalidId;

impl NodeId {
    /// Draws a node name from the system's random source.
    pub fn random() -> Self {
        Self(random_chars())
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl ConnectionId {
    /// Draws a new connection's name on `node`.
    pub fn random(node: NodeId) -> Self {
        let mut id = [b'-'; ID_LEN];
        id[..NODE_LEN].copy_from_slice(&node.0);
        id[NODE_LEN + 1..].copy_from_slice(&random_chars::<KEY_LEN>());
        Self(id)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The node that owns this connection.
    pub fn node(&self) -> NodeId {
        let mut node = [0; NODE_LEN];
        node.copy_from_slice(&self.0[..NODE_LEN]);
        NodeId(node)
    }

    /// A number that spreads connections evenly: the key is random already, so its bytes will do.
    pub fn spread(&self) -> usize {
        self.0[ID_LEN - 8..].iter().fold(0, |sum, byte| sum.wrapping_mul(33) ^ usize::from(*byte))
    }
}

impl Hash for ConnectionId {
    /// Eight random characters tell connections apart as well as all do.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.spread());
    }
}

impl FromStr for ConnectionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes: [u8; ID_LEN] = text.as_bytes().try_into().map_err(|_| InvalidId)?;
        let fits = bytes.iter().enumerate().all(|(i, b)| match i {
            NODE_LEN => *b == b'-',
            _ => b.is_ascii_lowercase() || b.is_ascii_digit(),
        });
        if fits { Ok(Self(bytes)) } else { Err(InvalidId) }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn random_chars<const N: usize>() -> [u8; N] {
    let mut chars = [0_u8; N];
    rand::rng().fill(&mut chars[..]);
    chars.map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_names_its_node() {
        let node = NodeId::random();
        let id = ConnectionId::random(node);
        assert_eq!(id.as_str().parse(), Ok(id));
        assert_eq!(id.node(), node);
        assert!(id.as_str().starts_with(node.as_str()));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "abc", "ABCDEFGH-abcdefghijklmnopqrst", "abcdefgh_abcdefghijklmnopqrst"] {
            assert_eq!(text.parse::<ConnectionId>(), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn ids_differ() {
        let node = NodeId::random();
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| ConnectionId::random(node)).collect();
        assert_eq!(ids.len(), 1000);
    }
}

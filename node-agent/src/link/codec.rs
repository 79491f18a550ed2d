//! Datagrams of the link: a clear header, and an [`Envelope`] sealed with ChaCha20-Poly1305.
//!
//! ```text
//! "TSLK" | protocol u16 | module hash 8 | life 16 | counter 8 | salt 4 | sealed envelope | tag 16     (big-endian)
//! ```
//!
//! **A (key, nonce) pair never repeats.** The key is derived from the cluster key for one module, one direction
//! and one life of the sending agent; the nonce is `counter | salt`. The counter starts at the boot clock's
//! nanoseconds and goes up by one per datagram, so a link that is closed and opened again in the same life starts
//! above everything it used before; the random salt covers a machine that was rolled back to a snapshot with the
//! same memory. The network's name is authenticated but not sent: a datagram taken from one network is worthless
//! on another, and the direction in the key makes it worthless when thrown back at its sender.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use serde::{Deserialize, Serialize};
use tsugi_core::ids::{LifeId, ModuleName, NodeName};
use tsugi_core::wire::peer::{BEAT_BYTES_MAX, Beat, PROTOCOL};

const MAGIC: [u8; 4] = *b"TSLK";
/// Bytes before the sealed part.
pub const HEADER_BYTES: usize = 4 + 2 + 8 + 16 + 8 + 4;
/// Domain separation: no other use of the cluster key can give the same keys.
const PURPOSE: &[u8] = b"tsugi link 1";

/// What the link layers of the two sides say to each other, around the engine's [`Beat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Sender's boot clock just before sending; only ever compared by the sender itself, in [`Echo::sent_ns`].
    pub sent_ns: u64,
    /// The newest datagram of the receiver that arrived on this network.
    pub echo: Option<Echo>,
    /// Content.
    pub body: Body,
}

/// Proof that the sender is alive *now*: it names a datagram of the receiver's present life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Life of the receiver.
    pub life: LifeId,
    /// Counter of the datagram.
    pub counter: u64,
    /// Its `sent_ns`.
    pub sent_ns: u64,
    /// How long the answer waited at this side.
    pub held_ns: u64,
}

/// Content of a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A heartbeat.
    Beat(Box<Beat>),
    /// "I do not know this life of yours: name this datagram of mine."
    Ask,
    /// The answer to [`Body::Ask`]; the envelope's echo is the content.
    Proof,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Shorter or longer than any datagram of this protocol.
    #[error("impossible size")]
    Size,
    /// Not of this protocol.
    #[error("not a heartbeat")]
    Magic,
    /// Of another version of the protocol.
    #[error("another protocol version: upgrade the older node")]
    Protocol,
    /// Of another module.
    #[error("another module: two modules share this port")]
    Module,
    /// Other key, other network, other direction, or altered.
    #[error("not authentic: the nodes differ in cluster key, node names or network name, or it was altered on the way")]
    Authentic,
    /// Authentic, and yet not understood.
    #[error("unknown content: upgrade the older node")]
    Content,
}

/// Clear part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Life of the sender.
    pub life: LifeId,
    /// Number of the datagram; never twice in a life.
    pub counter: u64,
    salt: [u8; 4],
}

/// Seals and opens datagrams of one direction between two nodes for one module.
pub struct Codec {
    cluster_key: [u8; 32],
    module_hash: [u8; 8],
    /// Length-prefixed `module`, `from`, `to`: no two triples give the same bytes.
    direction: Vec<u8>,
    /// The key used last; one sender lives one life at a time.
    cached: Option<(LifeId, LessSafeKey)>,
}

impl Codec {
    /// For datagrams of `module` that `from` sends to `to`.
    pub fn new(cluster_key: [u8; 32], module: &ModuleName, from: &NodeName, to: &NodeName) -> Codec {
        let mut direction = Vec::new();
        for text in [module.as_str(), from.as_str(), to.as_str()] {
            direction.push(u8::try_from(text.len()).expect("a name has at most 63 bytes"));
            direction.extend_from_slice(text.as_bytes());
        }
        let mut module_hash = [0; 8];
        module_hash.copy_from_slice(&blake3::hash(module.as_str().as_bytes()).as_bytes()[..8]);
        Codec { cluster_key, module_hash, direction, cached: None }
    }

    fn derive(&self, life: LifeId) -> LessSafeKey {
        let prk = Salt::new(HKDF_SHA256, PURPOSE).extract(&self.cluster_key);
        let life_bytes = life.0.to_be_bytes();
        let info = [&self.direction[..], &life_bytes[..]];
        let okm = prk.expand(&info, &CHACHA20_POLY1305).expect("32 bytes are within what HKDF can give");
        LessSafeKey::new(UnboundKey::from(okm))
    }

    /// Seals `envelope` as datagram `counter` of `life` on network `lan`. `None` when it is larger than
    /// [`BEAT_BYTES_MAX`].
    pub fn seal(&mut self, life: LifeId, counter: u64, salt: [u8; 4], lan: &str, envelope: &Envelope) -> Option<Vec<u8>> {
        if self.cached.as_ref().is_none_or(|(of, _)| *of != life) {
            self.cached = Some((life, self.derive(life)));
        }
        let (_, key) = self.cached.as_ref()?;
        let mut out = Vec::with_capacity(BEAT_BYTES_MAX);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&PROTOCOL.to_be_bytes());
        out.extend_from_slice(&self.module_hash);
        out.extend_from_slice(&life.0.to_be_bytes());
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&salt);
        let aad = aad(&out, lan);
        let mut sealed = postcard::to_stdvec(envelope).ok()?;
        key.seal_in_place_append_tag(nonce(counter, salt), Aad::from(aad), &mut sealed).ok()?;
        out.extend_from_slice(&sealed);
        (out.len() <= BEAT_BYTES_MAX).then_some(out)
    }

    /// Opens a datagram received on network `lan`.
    pub fn open(&mut self, lan: &str, datagram: &[u8]) -> Result<(Header, Envelope), Refused> {
        if datagram.len() <= HEADER_BYTES + CHACHA20_POLY1305.tag_len() || datagram.len() > BEAT_BYTES_MAX {
            return Err(Refused::Size);
        }
        let (clear, sealed) = datagram.split_at(HEADER_BYTES);
        if clear[0..4] != MAGIC {
            return Err(Refused::Magic);
        }
        if clear[4..6] != PROTOCOL.to_be_bytes() {
            return Err(Refused::Protocol);
        }
        if clear[6..14] != self.module_hash {
            return Err(Refused::Module);
        }
        let header = Header {
            life: LifeId(u128::from_be_bytes(clear[14..30].try_into().expect("16 bytes"))),
            counter: u64::from_be_bytes(clear[30..38].try_into().expect("8 bytes")),
            salt: clear[38..42].try_into().expect("4 bytes"),
        };
        let derived;
        let key = match &self.cached {
            Some((life, key)) if *life == header.life => key,
            // Not cached before it has proved authentic: garbage must not push out the good key.
            _ => {
                derived = self.derive(header.life);
                &derived
            }
        };
        let mut buffer = sealed.to_vec();
        let aad = aad(clear, lan);
        let plain = key.open_in_place(nonce(header.counter, header.salt), Aad::from(aad), &mut buffer).map_err(|_| Refused::Authentic)?;
        let envelope = postcard::from_bytes(plain).map_err(|_| Refused::Content)?;
        if self.cached.as_ref().is_none_or(|(of, _)| *of != header.life) {
            self.cached = Some((header.life, self.derive(header.life)));
        }
        Ok((header, envelope))
    }
}

fn nonce(counter: u64, salt: [u8; 4]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&counter.to_be_bytes());
    bytes[8..].copy_from_slice(&salt);
    Nonce::assume_unique_for_key(bytes)
}

fn aad(clear: &[u8], lan: &str) -> Vec<u8> {
    let mut aad = clear.to_vec();
    aad.extend_from_slice(lan.as_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }
    fn codec(key: u8, from: &str, to: &str) -> Codec {
        Codec::new([key; 32], &ModuleName::new("m").unwrap(), &name(from), &name(to))
    }
    fn envelope() -> Envelope {
        Envelope { sent_ns: 7, echo: None, body: Body::Ask }
    }

    #[test]
    fn only_the_same_key_network_and_direction_open_a_datagram() {
        let life = LifeId(9);
        let sent = codec(1, "a", "b").seal(life, 5, [1, 2, 3, 4], "lan", &envelope()).unwrap();
        let (header, content) = codec(1, "a", "b").open("lan", &sent).unwrap();
        assert_eq!((header.life, header.counter, content), (life, 5, envelope()));
        assert_eq!(codec(2, "a", "b").open("lan", &sent), Err(Refused::Authentic));
        assert_eq!(codec(1, "b", "a").open("lan", &sent), Err(Refused::Authentic));
        assert_eq!(codec(1, "a", "b").open("other", &sent), Err(Refused::Authentic));
        let mut other = Codec::new([1; 32], &ModuleName::new("n").unwrap(), &name("a"), &name("b"));
        assert_eq!(other.open("lan", &sent), Err(Refused::Module));
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let sent = codec(1, "a", "b").seal(LifeId(9), 5, [0; 4], "lan", &envelope()).unwrap();
        for at in 0..sent.len() {
            let mut altered = sent.clone();
            altered[at] ^= 1;
            assert!(codec(1, "a", "b").open("lan", &altered).is_err(), "byte {at}");
        }
        for length in 0..sent.len() {
            assert!(codec(1, "a", "b").open("lan", &sent[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn each_life_has_a_key_of_its_own() {
        let one = codec(1, "a", "b").seal(LifeId(1), 5, [0; 4], "lan", &envelope()).unwrap();
        let two = codec(1, "a", "b").seal(LifeId(2), 5, [0; 4], "lan", &envelope()).unwrap();
        assert_ne!(one[HEADER_BYTES..], two[HEADER_BYTES..]);
    }
}

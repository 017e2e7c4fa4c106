//! What every connection begins with: who calls, for which session, and what for.

use crate::WireError;
use crate::reader::BodyReader;

/// Version of the protocol that this crate speaks.
pub const VERSION: u16 = 3;

/// First bytes of a preface.
const MAGIC: [u8; 8] = *b"umem\r\n\x1a\x01";
/// First bytes of the answer to it.
const REPLY_MAGIC: [u8; 8] = *b"umem\r\n\x1a\x02";

/// Bytes of a preface.
pub const PREFACE_BYTES: usize = 56;
/// Bytes of the answer.
pub const REPLY_BYTES: usize = 24;

/// A migration, named by its source. Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

/// What proves that a further connection belongs to a session. Random, chosen by its source.
#[derive(Clone, Copy)]
pub struct Secret(pub [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    /// In a time that does not depend on where they differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Opens a session and carries its control messages.
    Control = 1,
    /// Requests for pages, and the pages.
    Demand = 2,
    /// Pages that nobody waits for.
    Bulk = 3,
    /// All three, multiplexed; opens a session.
    Multiplexed = 4,
    /// Asks who runs the guest of a session whose connections were lost.
    Inquiry = 5,
}

impl Role {
    fn decode(value: u8) -> Result<Self, WireError> {
        Ok(match value {
            1 => Self::Control,
            2 => Self::Demand,
            3 => Self::Bulk,
            4 => Self::Multiplexed,
            5 => Self::Inquiry,
            _ => {
                return Err(WireError::Value {
                    field: "role of a connection",
                    value: u64::from(value),
                });
            }
        })
    }
}

/// Optional parts of the protocol that an end knows, as bits. Unknown ones are ignored, and what both
/// ends know is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Pages packed with LZ4.
    pub const LZ4: Self = Self(1);
    /// Pages packed with Zstandard.
    pub const ZSTD: Self = Self(2);
    /// Packed pages of rounds that are differences from the copy placed before.
    pub const DIFFERENCES: Self = Self(4);
    /// All that this crate knows.
    pub const KNOWN: Self = Self(Self::LZ4.0 | Self::ZSTD.0 | Self::DIFFERENCES.0);

    /// What is in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of the other's are here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// First bytes on a connection, from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preface {
    /// What the connection is for.
    pub role: Role,
    /// Optional parts that the source knows.
    pub features: Features,
    /// The migration.
    pub session: SessionId,
    /// Proves that it belongs to it.
    pub secret: Secret,
}

impl Preface {
    /// The preface on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFACE_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.role as u8, 0, 0, 0]);
        out.extend_from_slice(&self.features.0.to_le_bytes());
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.secret.0);
        out
    }

    /// A preface from the wire.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, WireError> {
        let mut body = BodyReader::new(0, bytes);
        let first = body.array()?;
        if first != MAGIC {
            return Err(WireError::Magic { first });
        }
        let (min, max) = (body.u16()?, body.u16()?);
        if !(min..=max).contains(&VERSION) {
            return Err(WireError::Version { min, max });
        }
        let role = Role::decode(body.u8()?)?;
        body.array::<3>()?;
        let features = Features(body.u64()?);
        let session = SessionId(body.array()?);
        let secret = Secret(body.array()?);
        body.finish()?;
        Ok(Self { role, features, session, secret })
    }
}

/// What the destination says to a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Verdict {
    /// The connection is in use from here on.
    Accepted = 1,
    /// Another migration comes in here, or one has.
    Busy = 2,
    /// The session or its secret is not known here.
    UnknownSession = 3,
    /// No version in common.
    Version = 4,
}

/// The destination's answer to a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Whether the connection is taken.
    pub verdict: Verdict,
    /// Optional parts that both know.
    pub features: Features,
}

impl Reply {
    /// The answer on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REPLY_BYTES);
        out.extend_from_slice(&REPLY_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.verdict as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.features.0.to_le_bytes());
        out
    }

    /// An answer from the wire.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; REPLY_BYTES]) -> Result<Self, WireError> {
        let mut body = BodyReader::new(0, bytes);
        let first = body.array()?;
        if first != REPLY_MAGIC {
            return Err(WireError::Magic { first });
        }
        let version = body.u16()?;
        let verdict = match body.u16()? {
            1 => Verdict::Accepted,
            2 => Verdict::Busy,
            3 => Verdict::UnknownSession,
            4 => return Err(WireError::Version { min: version, max: version }),
            value => {
                return Err(WireError::Value {
                    field: "answer to a preface",
                    value: u64::from(value),
                });
            }
        };
        if version != VERSION {
            return Err(WireError::Version { min: version, max: version });
        }
        body.array::<4>()?;
        let features = Features(body.u64()?);
        body.finish()?;
        Ok(Self { verdict, features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn preface(role: Role) -> Preface {
        Preface {
            role,
            features: Features(3),
            session: SessionId([7; 16]),
            secret: Secret([9; 16]),
        }
    }

    fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().unwrap()
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let bytes = preface(Role::Bulk).encode();
        let mut expected = b"umem\r\n\x1a\x01\x03\0\x03\0\x03\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(&[9; 16]);
        assert_eq!(bytes, expected);
        let reply = Reply { verdict: Verdict::Busy, features: Features(1) }.encode();
        assert_eq!(reply, b"umem\r\n\x1a\x02\x03\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    }

    #[test]
    fn both_decode_to_what_they_were() {
        use Role::{Bulk, Control, Demand, Inquiry, Multiplexed};
        for role in [Control, Demand, Bulk, Multiplexed, Inquiry] {
            assert_eq!(Preface::decode(&fixed(&preface(role).encode())), Ok(preface(role)));
        }
        use Verdict::{Accepted, Busy, UnknownSession};
        for verdict in [Accepted, Busy, UnknownSession] {
            let reply = Reply { verdict, features: Features::default() };
            assert_eq!(Reply::decode(&fixed(&reply.encode())), Ok(reply));
        }
        let version = Reply { verdict: Verdict::Version, features: Features::default() };
        assert!(matches!(
            Reply::decode(&fixed(&version.encode())),
            Err(WireError::Version { min: 3, max: 3 })
        ));
    }

    #[test]
    fn another_protocol_and_another_version_are_named() {
        let mut bytes: [u8; PREFACE_BYTES] = fixed(&preface(Role::Control).encode());
        bytes[8] = 4;
        bytes[10] = 5;
        assert_eq!(Preface::decode(&bytes), Err(WireError::Version { min: 4, max: 5 }));
        bytes[..8].copy_from_slice(b"GET / HT");
        let error = Preface::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("47"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::array::uniform32(any::<u8>()), role in any::<u8>()) {
            let mut preface = [role; PREFACE_BYTES];
            preface[..32].copy_from_slice(&bytes);
            let _ = Preface::decode(&preface);
            preface[..12].copy_from_slice(b"umem\r\n\x1a\x01\x03\0\x03\0");
            if let Ok(decoded) = Preface::decode(&preface) {
                prop_assert_eq!(decoded.role as u8, preface[12]);
            }
        }
    }
}

//! Messages on the control channel: one enum for each direction.

use crate::WireError;
use crate::description::MachineDescription;
use crate::frame::{MAX_CONTROL_BODY, framed};
use crate::reader::{BodyReader, put_text};

/// Longest piece of a device-state package in one message, bytes.
pub const STATE_PIECE_BYTES: usize = 60 * 1024;

/// Longest device-state package that a destination takes, bytes.
pub const MAX_STATE_BYTES: u64 = 64 << 20;

const _: () = assert!(STATE_PIECE_BYTES <= MAX_CONTROL_BODY);

/// Longest bitmap of pages in one message, bytes.
pub const DISCARD_PIECE_BYTES: usize = 60 * 1024;

const _: () = assert!(DISCARD_PIECE_BYTES + 8 <= MAX_CONTROL_BODY);

/// A text for people, at most 1 KiB.
pub type Text = String;

/// When pages may be sent, relative to the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Rounds of them come before it.
    pub precopy: bool,
    /// Some may follow after it.
    pub postcopy: bool,
}

impl Mode {
    /// All pages after the switch.
    pub const POSTCOPY: Self = Self { precopy: false, postcopy: true };
    /// All pages before the switch.
    pub const PRECOPY: Self = Self { precopy: true, postcopy: false };
    /// Rounds first, the rest after the switch.
    pub const HYBRID: Self = Self { precopy: true, postcopy: true };

    fn bits(self) -> u8 {
        u8::from(self.precopy) | u8::from(self.postcopy) << 1
    }

    fn from_bits(bits: u8) -> Result<Self, WireError> {
        match bits {
            1..=3 => Ok(Self { precopy: bits & 1 != 0, postcopy: bits & 2 != 0 }),
            _ => Err(WireError::Value { field: "mode of a migration", value: u64::from(bits) }),
        }
    }
}

/// Who runs the guest, as the destination answers an inquiry. Each answer is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ownership {
    /// The destination runs it.
    Running = 1,
    /// The destination has read the handover and refused it; it will never run the guest.
    Refused = 2,
    /// The destination has not read the handover, and will not act on it any more.
    NeverGotIt = 3,
}

/// From the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDestination {
    /// What is to move: the first message of a session.
    Describe {
        /// The machine.
        machine: MachineDescription,
        /// Connections for bulk that the source will open.
        bulk_lanes: u8,
        /// When it will send pages.
        mode: Mode,
    },
    /// Copies of these pages that were sent in rounds are void: the guest has written them since.
    Discard {
        /// The page of the first bit.
        start: u64,
        /// A bit a page, from the low bits of each byte up; at most [`DISCARD_PIECE_BYTES`].
        bits: Vec<u8>,
    },
    /// No more rounds: watch all pages that are not there, and serve them once the guest runs.
    BeginPageService,
    /// The device state follows, in pieces.
    StateLength {
        /// Bytes of the package.
        bytes: u64,
        /// The round whose pages must be in place before it is loaded; 0: none.
        after_round: u32,
    },
    /// The next piece of it.
    StatePiece(Vec<u8>),
    /// The guest is yours.
    Handover {
        /// Time since the guest stopped, nanoseconds, by the source's clock.
        since_stop_ns: u64,
    },
    /// Both ends have the same digest: nothing is needed from here any more.
    DigestAgreed,
    /// They have not.
    DigestDiffers {
        /// What the source has sent.
        digest: u128,
    },
    /// The source gives up before the handover; the guest stays there.
    Cancel(Text),
    /// Who runs the guest? The only message on an inquiry's connection.
    WhoRuns,
}

/// From the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSource {
    /// The machine fits, memory is admitted, page service can begin.
    Ready {
        /// Bytes of bulk that may be under way unacknowledged, on each lane.
        credit_bytes: u32,
    },
    /// All pages of this round and of those before it are in place.
    RoundPlaced {
        /// The round, as its ROUND-END said.
        round: u32,
        /// Over all copies placed and all pages discarded so far.
        digest: u128,
    },
    /// Page service is up: pages may follow after the switch.
    PageServiceReady,
    /// The machine is not taken, or the guest cannot go on here. Before the handover.
    Refused(Text),
    /// Device state is loaded; the guest can run.
    Prepared,
    /// The guest runs here.
    Running,
    /// The handover was read and refused: the guest never runs here.
    HandoverRefused(Text),
    /// All pages are here.
    Complete {
        /// Over all pages that were installed.
        digest: u128,
    },
    /// What the guest's memory held matters no more (it was reset or switched off): nothing is needed
    /// from the source, whatever is missing.
    MemoryVoid(Text),
    /// Something is wrong after the handover; the guest goes on here.
    Trouble(Text),
    /// Answer to an inquiry.
    Owner(Ownership),
}

mod kind {
    pub(super) const DESCRIBE: u8 = 1;
    pub(super) const STATE_LENGTH: u8 = 2;
    pub(super) const STATE_PIECE: u8 = 3;
    pub(super) const HANDOVER: u8 = 4;
    pub(super) const DIGEST_AGREED: u8 = 5;
    pub(super) const DIGEST_DIFFERS: u8 = 6;
    pub(super) const CANCEL: u8 = 7;
    pub(super) const WHO_RUNS: u8 = 8;
    pub(super) const DISCARD: u8 = 9;
    pub(super) const BEGIN_PAGE_SERVICE: u8 = 10;

    pub(super) const READY: u8 = 1;
    pub(super) const REFUSED: u8 = 2;
    pub(super) const PREPARED: u8 = 3;
    pub(super) const RUNNING: u8 = 4;
    pub(super) const HANDOVER_REFUSED: u8 = 5;
    pub(super) const COMPLETE: u8 = 6;
    pub(super) const TROUBLE: u8 = 7;
    pub(super) const OWNER: u8 = 8;
    pub(super) const ROUND_PLACED: u8 = 9;
    pub(super) const PAGE_SERVICE_READY: u8 = 10;
    pub(super) const MEMORY_VOID: u8 = 11;
}

fn unknown(value: u8) -> WireError {
    WireError::Value { field: "kind of a control message", value: u64::from(value) }
}

impl ToDestination {
    /// The message as a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Describe { machine, bulk_lanes, mode } => framed(kind::DESCRIBE, |out| {
                out.extend_from_slice(&[*bulk_lanes, mode.bits()]);
                machine.put(out);
            }),
            Self::Discard { start, bits } => framed(kind::DISCARD, |out| {
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(bits);
            }),
            Self::BeginPageService => framed(kind::BEGIN_PAGE_SERVICE, |_| ()),
            Self::StateLength { bytes, after_round } => framed(kind::STATE_LENGTH, |out| {
                out.extend_from_slice(&bytes.to_le_bytes());
                out.extend_from_slice(&after_round.to_le_bytes());
            }),
            Self::StatePiece(piece) => {
                framed(kind::STATE_PIECE, |out| out.extend_from_slice(piece))
            }
            Self::Handover { since_stop_ns } => {
                framed(kind::HANDOVER, |out| out.extend_from_slice(&since_stop_ns.to_le_bytes()))
            }
            Self::DigestAgreed => framed(kind::DIGEST_AGREED, |_| ()),
            Self::DigestDiffers { digest } => {
                framed(kind::DIGEST_DIFFERS, |out| out.extend_from_slice(&digest.to_le_bytes()))
            }
            Self::Cancel(text) => framed(kind::CANCEL, |out| put_text(out, text)),
            Self::WhoRuns => framed(kind::WHO_RUNS, |_| ()),
        }
    }

    /// A message from its frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut body = BodyReader::new(kind, body);
        let message = match kind {
            kind::DESCRIBE => {
                let (bulk_lanes, mode) = (body.u8()?, Mode::from_bits(body.u8()?)?);
                let machine = MachineDescription::take(&mut body)?;
                Self::Describe { machine, bulk_lanes, mode }
            }
            kind::DISCARD => {
                let start = body.u64()?;
                let bits = body.rest();
                if bits.len() > DISCARD_PIECE_BYTES {
                    let (bytes, limit) = (bits.len() as u64, DISCARD_PIECE_BYTES as u64);
                    return Err(WireError::TooLong { kind, bytes, limit });
                }
                Self::Discard { start, bits: bits.to_vec() }
            }
            kind::BEGIN_PAGE_SERVICE => Self::BeginPageService,
            kind::STATE_LENGTH => {
                let bytes = body.u64()?;
                if bytes > MAX_STATE_BYTES {
                    return Err(WireError::TooLong { kind, bytes, limit: MAX_STATE_BYTES });
                }
                Self::StateLength { bytes, after_round: body.u32()? }
            }
            kind::STATE_PIECE => Self::StatePiece(body.rest().to_vec()),
            kind::HANDOVER => Self::Handover { since_stop_ns: body.u64()? },
            kind::DIGEST_AGREED => Self::DigestAgreed,
            kind::DIGEST_DIFFERS => {
                Self::DigestDiffers { digest: u128::from_le_bytes(body.array()?) }
            }
            kind::CANCEL => Self::Cancel(body.text()?),
            kind::WHO_RUNS => Self::WhoRuns,
            _ => return Err(unknown(kind)),
        };
        body.finish()?;
        Ok(message)
    }
}

impl ToSource {
    /// The message as a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready { credit_bytes } => {
                framed(kind::READY, |out| out.extend_from_slice(&credit_bytes.to_le_bytes()))
            }
            Self::RoundPlaced { round, digest } => framed(kind::ROUND_PLACED, |out| {
                out.extend_from_slice(&round.to_le_bytes());
                out.extend_from_slice(&digest.to_le_bytes());
            }),
            Self::PageServiceReady => framed(kind::PAGE_SERVICE_READY, |_| ()),
            Self::Refused(text) => framed(kind::REFUSED, |out| put_text(out, text)),
            Self::Prepared => framed(kind::PREPARED, |_| ()),
            Self::Running => framed(kind::RUNNING, |_| ()),
            Self::HandoverRefused(text) => {
                framed(kind::HANDOVER_REFUSED, |out| put_text(out, text))
            }
            Self::Complete { digest } => {
                framed(kind::COMPLETE, |out| out.extend_from_slice(&digest.to_le_bytes()))
            }
            Self::MemoryVoid(text) => framed(kind::MEMORY_VOID, |out| put_text(out, text)),
            Self::Trouble(text) => framed(kind::TROUBLE, |out| put_text(out, text)),
            Self::Owner(owner) => framed(kind::OWNER, |out| out.push(*owner as u8)),
        }
    }

    /// A message from its frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut body = BodyReader::new(kind, body);
        let message = match kind {
            kind::READY => Self::Ready { credit_bytes: body.u32()? },
            kind::ROUND_PLACED => {
                Self::RoundPlaced { round: body.u32()?, digest: u128::from_le_bytes(body.array()?) }
            }
            kind::PAGE_SERVICE_READY => Self::PageServiceReady,
            kind::REFUSED => Self::Refused(body.text()?),
            kind::PREPARED => Self::Prepared,
            kind::RUNNING => Self::Running,
            kind::HANDOVER_REFUSED => Self::HandoverRefused(body.text()?),
            kind::COMPLETE => Self::Complete { digest: u128::from_le_bytes(body.array()?) },
            kind::MEMORY_VOID => Self::MemoryVoid(body.text()?),
            kind::TROUBLE => Self::Trouble(body.text()?),
            kind::OWNER => Self::Owner(match body.u8()? {
                1 => Ownership::Running,
                2 => Ownership::Refused,
                3 => Ownership::NeverGotIt,
                value => {
                    return Err(WireError::Value {
                        field: "answer to an inquiry",
                        value: u64::from(value),
                    });
                }
            }),
            _ => return Err(unknown(kind)),
        };
        body.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, FRAME_HEAD_BYTES, FrameHead};
    use proptest::prelude::*;

    fn machine(name: String, numbers: (u32, u64)) -> MachineDescription {
        MachineDescription {
            board: name.clone(),
            vcpus: numbers.0,
            page_bytes: 4096,
            blocks: vec![Block { name: name.clone(), address: 1 << 31, bytes: numbers.1 }],
            devices: vec![name.clone(), name.clone()],
            processor: vec![name.clone(); numbers.0 as usize % 3],
            program: name,
        }
    }

    fn mode() -> impl Strategy<Value = Mode> {
        prop::sample::select(vec![Mode::PRECOPY, Mode::POSTCOPY, Mode::HYBRID])
    }

    fn to_destination() -> impl Strategy<Value = ToDestination> {
        let text = "[ -~äß]{0,40}";
        prop_oneof![
            (text, any::<(u32, u64)>(), any::<u8>(), mode()).prop_map(
                |(name, numbers, bulk_lanes, mode)| ToDestination::Describe {
                    machine: machine(name, numbers),
                    bulk_lanes,
                    mode,
                }
            ),
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(start, bits)| ToDestination::Discard { start, bits }),
            Just(ToDestination::BeginPageService),
            (0..=MAX_STATE_BYTES, any::<u32>()).prop_map(|(bytes, after_round)| {
                ToDestination::StateLength { bytes, after_round }
            }),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(ToDestination::StatePiece),
            any::<u64>().prop_map(|since_stop_ns| ToDestination::Handover { since_stop_ns }),
            Just(ToDestination::DigestAgreed),
            any::<u128>().prop_map(|digest| ToDestination::DigestDiffers { digest }),
            text.prop_map(ToDestination::Cancel),
            Just(ToDestination::WhoRuns),
        ]
    }

    fn to_source() -> impl Strategy<Value = ToSource> {
        let text = "[ -~äß]{0,40}";
        use Ownership::{NeverGotIt, Refused, Running};
        prop_oneof![
            any::<u32>().prop_map(|credit_bytes| ToSource::Ready { credit_bytes }),
            any::<(u32, u128)>()
                .prop_map(|(round, digest)| ToSource::RoundPlaced { round, digest }),
            Just(ToSource::PageServiceReady),
            text.prop_map(ToSource::Refused),
            Just(ToSource::Prepared),
            Just(ToSource::Running),
            text.prop_map(ToSource::HandoverRefused),
            any::<u128>().prop_map(|digest| ToSource::Complete { digest }),
            text.prop_map(ToSource::MemoryVoid),
            text.prop_map(ToSource::Trouble),
            prop::sample::select(vec![Running, Refused, NeverGotIt]).prop_map(ToSource::Owner),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back(there in to_destination(), back in to_source()) {
            let frame = there.encode();
            prop_assert_eq!(ToDestination::decode(frame[0], &frame[8..]).unwrap(), there);
            let frame = back.encode();
            prop_assert_eq!(ToSource::decode(frame[0], &frame[8..]).unwrap(), back);
        }

        #[test]
        fn a_torn_message_is_refused(message in to_destination(), cut in 1usize..20) {
            // These are as long as their frame says, so they cannot be torn.
            use ToDestination::{Discard, StatePiece};
            prop_assume!(!matches!(message, StatePiece(_) | Discard { .. }));
            let frame = message.encode();
            let body = &frame[FRAME_HEAD_BYTES..];
            prop_assume!(cut <= body.len());
            let torn = ToDestination::decode(frame[0], &body[..body.len() - cut]);
            // What is said of the processor may be left out as a whole.
            let whole = |got: &ToDestination| {
                matches!(got, ToDestination::Describe { machine, .. } if machine.processor.is_empty())
            };
            prop_assert!(torn.as_ref().map_or(true, whole), "{torn:?}");
        }

        #[test]
        fn no_bytes_panic(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ToDestination::decode(kind, &body);
            let _ = ToSource::decode(kind, &body);
        }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let handover = ToDestination::Handover { since_stop_ns: 0x1234 }.encode();
        assert_eq!(handover, [4, 0, 0, 0, 8, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ToSource::Refused("no".into()).encode(), b"\x02\0\0\0\x04\0\0\0\x02\0no");
        assert_eq!(ToSource::Owner(Ownership::NeverGotIt).encode(), [8, 0, 0, 0, 1, 0, 0, 0, 3]);
        let describe = ToDestination::Describe {
            machine: machine("m".into(), (1, 2)),
            bulk_lanes: 1,
            mode: Mode::HYBRID,
        };
        let mut golden = vec![1, 0, 0, 0, 50, 0, 0, 0, 1, 3, 1, 0, b'm', 1, 0, 0, 0, 0, 0x10, 0, 0];
        golden.extend_from_slice(&[1, 0, 1, 0, b'm', 0, 0, 0, 0x80, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 1, 0, b'm', 1, 0, b'm', 1, 0, b'm', 1, 0, 1, 0, b'm']);
        golden[4] = (golden.len() - FRAME_HEAD_BYTES) as u8;
        assert_eq!(describe.encode(), golden);
        let discard = ToDestination::Discard { start: 5, bits: vec![0b101] }.encode();
        assert_eq!(discard, [9, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5]);
        let placed = ToSource::RoundPlaced { round: 2, digest: 3 }.encode();
        assert_eq!(placed[..12], [9, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn a_state_that_claims_too_much_is_refused_before_memory_is_taken() {
        let length = ToDestination::StateLength { bytes: MAX_STATE_BYTES + 1, after_round: 0 };
        let frame = length.encode();
        let error = ToDestination::decode(frame[0], &frame[8..]).unwrap_err();
        assert!(matches!(error, WireError::TooLong { .. }), "{error}");
    }

    #[test]
    fn no_message_is_longer_than_its_channel_takes() {
        let long = "x".repeat(100_000);
        for frame in [
            ToDestination::Cancel(long.clone()).encode(),
            ToDestination::Describe {
                machine: machine(long, (1, 1)),
                bulk_lanes: 1,
                mode: Mode::POSTCOPY,
            }
            .encode(),
            ToDestination::Discard { start: 0, bits: vec![0; DISCARD_PIECE_BYTES] }.encode(),
            ToDestination::StatePiece(vec![0; STATE_PIECE_BYTES]).encode(),
        ] {
            let head = frame[..FRAME_HEAD_BYTES].try_into().unwrap();
            assert!(FrameHead::decode(head, MAX_CONTROL_BODY).is_ok());
        }
    }
}

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

/// A text for people, at most 1 KiB.
pub type Text = String;

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
    },
    /// The device state follows, in pieces.
    StateLength {
        /// Bytes of the package.
        bytes: u64,
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

    pub(super) const READY: u8 = 1;
    pub(super) const REFUSED: u8 = 2;
    pub(super) const PREPARED: u8 = 3;
    pub(super) const RUNNING: u8 = 4;
    pub(super) const HANDOVER_REFUSED: u8 = 5;
    pub(super) const COMPLETE: u8 = 6;
    pub(super) const TROUBLE: u8 = 7;
    pub(super) const OWNER: u8 = 8;
}

fn unknown(value: u8) -> WireError {
    WireError::Value { field: "kind of a control message", value: u64::from(value) }
}

impl ToDestination {
    /// The message as a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Describe { machine, bulk_lanes } => framed(kind::DESCRIBE, |out| {
                out.push(*bulk_lanes);
                machine.put(out);
            }),
            Self::StateLength { bytes } => {
                framed(kind::STATE_LENGTH, |out| out.extend_from_slice(&bytes.to_le_bytes()))
            }
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
                let bulk_lanes = body.u8()?;
                Self::Describe { machine: MachineDescription::take(&mut body)?, bulk_lanes }
            }
            kind::STATE_LENGTH => {
                let bytes = body.u64()?;
                if bytes > MAX_STATE_BYTES {
                    return Err(WireError::TooLong { kind, bytes, limit: MAX_STATE_BYTES });
                }
                Self::StateLength { bytes }
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
            Self::Refused(text) => framed(kind::REFUSED, |out| put_text(out, text)),
            Self::Prepared => framed(kind::PREPARED, |_| ()),
            Self::Running => framed(kind::RUNNING, |_| ()),
            Self::HandoverRefused(text) => {
                framed(kind::HANDOVER_REFUSED, |out| put_text(out, text))
            }
            Self::Complete { digest } => {
                framed(kind::COMPLETE, |out| out.extend_from_slice(&digest.to_le_bytes()))
            }
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
            kind::REFUSED => Self::Refused(body.text()?),
            kind::PREPARED => Self::Prepared,
            kind::RUNNING => Self::Running,
            kind::HANDOVER_REFUSED => Self::HandoverRefused(body.text()?),
            kind::COMPLETE => Self::Complete { digest: u128::from_le_bytes(body.array()?) },
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
            harts: numbers.0,
            page_bytes: 4096,
            blocks: vec![Block { name: name.clone(), address: 1 << 31, bytes: numbers.1 }],
            devices: vec![name.clone(), name.clone()],
            program: name,
        }
    }

    fn to_destination() -> impl Strategy<Value = ToDestination> {
        let text = "[ -~äß]{0,40}";
        prop_oneof![
            (text, any::<(u32, u64)>(), any::<u8>()).prop_map(|(name, numbers, bulk_lanes)| {
                ToDestination::Describe { machine: machine(name, numbers), bulk_lanes }
            }),
            (0..=MAX_STATE_BYTES).prop_map(|bytes| ToDestination::StateLength { bytes }),
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
            text.prop_map(ToSource::Refused),
            Just(ToSource::Prepared),
            Just(ToSource::Running),
            text.prop_map(ToSource::HandoverRefused),
            any::<u128>().prop_map(|digest| ToSource::Complete { digest }),
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
            // A piece of state is as long as its frame says, so it cannot be torn.
            prop_assume!(!matches!(message, ToDestination::StatePiece(_)));
            let frame = message.encode();
            let body = &frame[FRAME_HEAD_BYTES..];
            prop_assume!(cut <= body.len());
            prop_assert!(ToDestination::decode(frame[0], &body[..body.len() - cut]).is_err());
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
        let describe =
            ToDestination::Describe { machine: machine("m".into(), (1, 2)), bulk_lanes: 1 };
        let mut golden = vec![1, 0, 0, 0, 50, 0, 0, 0, 1, 1, 0, b'm', 1, 0, 0, 0, 0, 0x10, 0, 0];
        golden.extend_from_slice(&[1, 0, 1, 0, b'm', 0, 0, 0, 0x80, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 1, 0, b'm', 1, 0, b'm', 1, 0, b'm']);
        golden[4] = (golden.len() - FRAME_HEAD_BYTES) as u8;
        assert_eq!(describe.encode(), golden);
    }

    #[test]
    fn a_state_that_claims_too_much_is_refused_before_memory_is_taken() {
        let frame = ToDestination::StateLength { bytes: MAX_STATE_BYTES + 1 }.encode();
        let error = ToDestination::decode(frame[0], &frame[8..]).unwrap_err();
        assert!(matches!(error, WireError::TooLong { .. }), "{error}");
    }

    #[test]
    fn no_message_is_longer_than_its_channel_takes() {
        let long = "x".repeat(100_000);
        for frame in [
            ToDestination::Cancel(long.clone()).encode(),
            ToDestination::Describe { machine: machine(long, (1, 1)), bulk_lanes: 1 }.encode(),
            ToDestination::StatePiece(vec![0; STATE_PIECE_BYTES]).encode(),
        ] {
            let head = frame[..FRAME_HEAD_BYTES].try_into().unwrap();
            assert!(FrameHead::decode(head, MAX_CONTROL_BODY).is_ok());
        }
    }
}

//! A request of the driver: what it asks for, and how that is done (specification, section 5.2.6).

use super::disk::{Disk, SECTOR};
use crate::virtio::chain::{Buffers, Chain, RamSlice};
use crate::virtio::memory::Ram;
use crate::virtio::requests::QueueError;
use std::io;

const TYPE_READ: u32 = 0;
const TYPE_WRITE: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

const STATUS_OK: u8 = 0;
const STATUS_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// Type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of a disk's name.
pub(super) const ID_BYTES: usize = 20;
/// First sector, number of sectors, flags.
const SEGMENT: u64 = 16;
const FLAG_UNMAP: u32 = 1;

/// Most ranges of a discard.
pub(super) const DISCARD_SEGMENTS: u32 = 16;
/// Most sectors of a range to discard: 1 GiB.
pub(super) const DISCARD_SECTORS: u32 = 1 << 21;
/// Most ranges to fill with zeroes in a request.
pub(super) const ZERO_SEGMENTS: u32 = 1;
/// Most sectors of a range to fill with zeroes: 16 MiB. Where the host's file system cannot do it,
/// so much is written while the guest is to stop.
pub(super) const ZERO_SECTORS: u32 = 1 << 15;

/// Most bytes for one system call.
const CHUNK: u64 = 1 << 20;

/// What the driver may ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Negotiated {
    pub(super) flush: bool,
    pub(super) discard: bool,
    pub(super) write_zeroes: bool,
}

/// A range of the disk in bytes.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    bytes: u64,
    unmap: bool,
}

#[derive(Debug)]
enum Operation {
    Read {
        offset: u64,
        data: Buffers,
    },
    Write {
        offset: u64,
        data: Buffers,
    },
    Flush,
    Discard(Vec<Extent>),
    WriteZeroes(Vec<Extent>),
    Name(Buffers),
    /// Nothing is done; the status is known.
    Refuse(u8),
}

/// A request of which everything in guest memory was read but its data.
#[derive(Debug)]
pub(super) struct Request {
    head: u16,
    status_at: Buffers,
    operation: Operation,
    /// Whether what it changes is on the storage before it is completed.
    write_through: bool,
}

/// A request that is done.
#[derive(Debug)]
pub(super) struct Done {
    /// By which it is completed.
    pub(super) head: u16,
    /// Where the status goes.
    pub(super) status_at: Buffers,
    /// The status.
    pub(super) status: u8,
    /// Bytes of data written for the driver.
    pub(super) bytes: u64,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When it has no place for its status or no header.
    pub(super) fn read(
        chain: Chain,
        ram: &Ram,
        disk: &Disk,
        negotiated: Negotiated,
    ) -> Result<Self, QueueError> {
        let Chain { head, mut readable, mut writable } = chain;
        let Some(status_at) = writable.take_back(1) else {
            return Err(QueueError::broken("a request without room for its status"));
        };
        let mut header = [0; HEADER];
        let front = readable.take_front(HEADER as u64);
        if front.read(ram, &mut header)? < HEADER {
            return Err(QueueError::broken(format!("a header of {} bytes", front.bytes())));
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let operation = match u32::from_le_bytes([a, b, c, d]) {
            TYPE_READ => match transfer(disk, sector, writable.bytes()) {
                Some(offset) => Operation::Read { offset, data: writable },
                None => Operation::Refuse(STATUS_ERROR),
            },
            TYPE_WRITE => match transfer(disk, sector, readable.bytes()) {
                Some(offset) => Operation::Write { offset, data: readable },
                None => Operation::Refuse(STATUS_ERROR),
            },
            TYPE_FLUSH => Operation::Flush,
            TYPE_ID => Operation::Name(writable.take_front(ID_BYTES as u64)),
            TYPE_DISCARD if negotiated.discard => {
                match extents(disk, &readable, ram, DISCARD_SEGMENTS, DISCARD_SECTORS)? {
                    // Section 5.2.6.2: the flag is of the other command alone.
                    Ok(all) if all.iter().any(|extent| extent.unmap) => {
                        Operation::Refuse(STATUS_UNSUPPORTED)
                    }
                    Ok(all) => Operation::Discard(all),
                    Err(status) => Operation::Refuse(status),
                }
            }
            TYPE_WRITE_ZEROES if negotiated.write_zeroes => {
                match extents(disk, &readable, ram, ZERO_SEGMENTS, ZERO_SECTORS)? {
                    Ok(all) => Operation::WriteZeroes(all),
                    Err(status) => Operation::Refuse(status),
                }
            }
            _ => Operation::Refuse(STATUS_UNSUPPORTED),
        };
        Ok(Self { head, status_at, operation, write_through: !negotiated.flush })
    }

    /// Whether it goes to the disk, and if so how many bytes of guest memory with it.
    pub(super) fn disk_bytes(&self) -> Option<u64> {
        match &self.operation {
            Operation::Read { data, .. } | Operation::Write { data, .. } => Some(data.bytes()),
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes(_) => Some(0),
            Operation::Name(_) | Operation::Refuse(_) => None,
        }
    }

    /// Does it. `go_on` is asked before every system call; what it interrupted is done again later
    /// from the start, to the same end.
    ///
    /// # Errors
    /// Those of `go_on`, and when guest memory refuses something.
    pub(super) fn run(
        self,
        ram: &Ram,
        disk: &Disk,
        name: &[u8],
        go_on: impl Fn() -> Result<(), QueueError>,
    ) -> Result<Done, QueueError> {
        let Self { head, status_at, operation, write_through } = self;
        let changes = !matches!(operation, Operation::Read { .. } | Operation::Flush);
        let done = |status, bytes| Done { head, status_at, status, bytes };
        let mut bytes = 0;
        let mut result = match operation {
            Operation::Read { offset, data } => {
                bytes = data.bytes();
                in_chunks(offset, data, ram, go_on, |at, slices| disk.read(at, slices))?
            }
            Operation::Write { offset, data } => {
                in_chunks(offset, data, ram, go_on, |at, slices| disk.write(at, slices))?
            }
            Operation::Flush => disk.flush(),
            Operation::Discard(all) => {
                all.iter().try_for_each(|extent| disk.discard(extent.offset, extent.bytes))
            }
            Operation::WriteZeroes(all) => all.iter().try_for_each(|extent| {
                disk.write_zeroes(extent.offset, extent.bytes, extent.unmap)
            }),
            Operation::Name(room) => return Ok(done(STATUS_OK, room.write(ram, name)? as u64)),
            Operation::Refuse(status) => return Ok(done(status, 0)),
        };
        if changes && write_through {
            result = result.and_then(|()| disk.flush());
        }
        Ok(match result {
            Ok(()) => done(STATUS_OK, bytes),
            Err(error) => {
                log::warn!("disk: {error}");
                done(STATUS_ERROR, 0)
            }
        })
    }
}

/// Where on the disk so many bytes from a sector on are, if they are whole sectors of it.
fn transfer(disk: &Disk, sector: u64, bytes: u64) -> Option<u64> {
    let end = sector.checked_add(bytes / SECTOR)?;
    if !bytes.is_multiple_of(SECTOR) || end > disk.sectors() {
        return None;
    }
    sector.checked_mul(SECTOR)
}

/// The ranges of a discard or of zeroes, or the status of a request with an impossible one.
fn extents(
    disk: &Disk,
    data: &Buffers,
    ram: &Ram,
    most_segments: u32,
    most_sectors: u32,
) -> Result<Result<Vec<Extent>, u8>, QueueError> {
    let segments = data.bytes() / SEGMENT;
    if !data.bytes().is_multiple_of(SEGMENT) || segments == 0 || segments > most_segments.into() {
        return Ok(Err(STATUS_ERROR));
    }
    let mut bytes = [0; SEGMENT as usize * DISCARD_SEGMENTS as usize];
    let count = data.read(ram, &mut bytes)?;
    let mut all = Vec::new();
    for segment in bytes.get(..count).unwrap_or_default().as_chunks().0 {
        let [sector @ .., a, b, c, d, e, f, g, h]: [u8; SEGMENT as usize] = *segment;
        let sector = u64::from_le_bytes(sector);
        let sectors = u32::from_le_bytes([a, b, c, d]);
        let flags = u32::from_le_bytes([e, f, g, h]);
        if flags & !FLAG_UNMAP != 0 {
            return Ok(Err(STATUS_UNSUPPORTED));
        }
        let bytes = u64::from(sectors) * SECTOR;
        let Some(offset) = transfer(disk, sector, bytes).filter(|_| sectors <= most_sectors) else {
            return Ok(Err(STATUS_ERROR));
        };
        if bytes > 0 {
            all.push(Extent { offset, bytes, unmap: flags & FLAG_UNMAP != 0 });
        }
    }
    Ok(Ok(all))
}

fn in_chunks(
    mut offset: u64,
    mut data: Buffers,
    ram: &Ram,
    go_on: impl Fn() -> Result<(), QueueError>,
    call: impl Fn(u64, &[RamSlice<'_>]) -> io::Result<()>,
) -> Result<io::Result<()>, QueueError> {
    while data.bytes() > 0 {
        go_on()?;
        let chunk = data.take_front(CHUNK);
        if let Err(error) = call(offset, &chunk.slices(ram)?) {
            return Ok(Err(error));
        }
        offset += chunk.bytes();
    }
    Ok(Ok(()))
}

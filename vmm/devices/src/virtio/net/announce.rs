//! Telling the network where the guest is, from the host's side: drivers without GUEST_ANNOUNCE, and
//! guests that are slow to do it themselves, are found all the same.
//!
//! A RARP request for the guest's own address (RFC 903), to everybody: switches learn behind which of their
//! ports the address is, and nobody has to answer.

use super::link::Link;
use super::tap::Tap;
use std::io;
use std::sync::Arc;

/// `virtio_net_hdr_v1` without any offload.
const HEADER: [u8; 12] = [0; 12];
const EVERYBODY: [u8; 6] = [0xff; 6];
const ETHERTYPE_RARP: [u8; 2] = [0x80, 0x35];
/// Hardware Ethernet, protocol IPv4, lengths 6 and 4, operation "request reverse".
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
/// Shortest frame without its check sum.
const LEAST: usize = 60;

/// Announces one network device.
#[derive(Clone)]
pub struct Announcer {
    pub(super) tap: Arc<Tap>,
    pub(super) link: Arc<Link>,
}

impl Announcer {
    /// Sends one announcement.
    ///
    /// # Errors
    /// When the tap does not take it at once. Nobody waits for it.
    pub fn announce(&self) -> io::Result<()> {
        self.tap.send(&[&HEADER[..], &frame(self.link.mac())].concat())
    }
}

fn frame(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = [&EVERYBODY[..], &mac, &ETHERTYPE_RARP, &REQUEST].concat();
    // Sender and target are the guest; of protocol addresses nothing is known.
    for _ in 0..2 {
        frame.extend([&mac[..], &[0; 4]].concat());
    }
    frame.resize(LEAST, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_a_request_for_the_guest_s_own_address() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let frame = frame(mac);
        assert_eq!(frame.len(), 60);
        assert_eq!(
            frame[..14],
            [255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x80, 0x35]
        );
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&mac[..], &mac[..]));
    }
}

//! A real tap, where the test may make one: in a network namespace of its own.

use super::*;

/// Moves this thread to a new network namespace; whether the user may.
fn own_namespace() -> bool {
    // SAFETY: no memory is involved; only this thread's view of the network changes.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

/// A packet socket on the interface, which is brought up.
fn packet_socket(name: &str) -> std::fs::File {
    // SAFETY: no memory is involved.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from((libc::ETH_P_ALL as u16).to_be()))
    };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: libc::IFF_UP as i16 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the pointer is valid for the `ifreq` that is read.
    let result = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the pointer is valid for the `ifreq` that is written.
    let result = unsafe { libc::ioctl(fd, libc::SIOCGIFINDEX, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: SIOCGIFINDEX has written this member.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer is valid for an address of so many bytes.
    let result = unsafe { libc::bind(fd, (&raw const address).cast(), bytes) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was made here; nobody else has it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

/// A type that nothing else on the interface speaks.
fn marked(number: u8) -> Vec<u8> {
    [[0x33; 6].as_slice(), &MAC, &[0x88, 0xb5], &[number; 60]].concat()
}

#[test]
fn a_real_tap_passes_frames_both_ways() {
    use std::io::{Read, Write};
    if !own_namespace() {
        eprintln!("skipped: the user may not make a network namespace");
        return;
    }
    let tap = match Tap::open("umem-test0") {
        Ok(tap) => tap,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let mut host = packet_socket("umem-test0");
    let mut driver = Driver::new(VirtioNet::new("net", tap, MAC).unwrap(), Arc::new(AllPresent));
    driver.start(3);
    driver.put(DATA, &with_header(&marked(1)));
    driver.submit(1, &[(DATA, 86, READ)]);
    driver.await_used(1);
    let mut bytes = [0; 2000];
    // The interface has things of its own to say.
    while bytes[12..15] != [0x88, 0xb5, 1] {
        assert!(host.read(&mut bytes).unwrap() > 0);
    }
    assert_eq!(bytes[..74], marked(1));
    host.write_all(&marked(2)).unwrap();
    loop {
        driver.submit(0, &[(DATA, 1526, WRITE)]);
        driver.await_used(0);
        if driver.bytes(DATA + 24, 2) == [0x88, 0xb5] {
            break;
        }
    }
    assert_eq!(driver.bytes(DATA + 12, 74), marked(2));
    assert_eq!(driver.bytes(DATA, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert!(matches!(Tap::open("umem-test0").unwrap_err(), TapError::System { .. }));
}

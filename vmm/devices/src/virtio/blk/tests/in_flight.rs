//! Several requests at once: when the device rests, is reset, and moves.

use super::*;

/// Offers so many writes at once: number `n` fills sector `n` with `0x80 + n`.
fn offer_writes(driver: &mut Driver<VirtioBlk>, count: u16) {
    for number in 0..count {
        let [header, data, status] = [0x1000, 0x4000, 0x3000].map(|base| DATA + base);
        let header = header + u64::from(number) * 16;
        let data = data + u64::from(number) * 512;
        driver.put(header, &[1, 0, 0, 0, 0, 0, 0, 0, number as u8, 0, 0, 0, 0, 0, 0, 0]);
        driver.put(data, &[0x80 + number as u8; 512]);
        let first = number * 3;
        driver.write_descriptor(0, first, (header, 16, 1, first + 1));
        driver.write_descriptor(0, first + 1, (data, 512, 1, first + 2));
        driver.write_descriptor(0, first + 2, (status + u64::from(number), 1, WRITE, 0));
        driver.offer(0, first);
    }
}

/// Waits until so many requests of the disk are under way: each has a handle of it, beside the test
/// and the device.
#[track_caller]
fn await_in_flight(disk: &Arc<Disk>, count: usize) {
    await_that("requests are not in flight", || Arc::strong_count(disk) == count + 2);
}

#[test]
fn requests_in_flight_are_completed_before_the_device_rests() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start_with(&disk, FLUSH);
    let held = disk.hold_up();
    offer_writes(&mut driver, 5);
    await_in_flight(&disk, 5);
    let busy = driver.device.quiesce(std::time::Instant::now()).unwrap_err();
    assert!(busy.to_string().contains("test0"), "{busy}");
    assert_eq!(driver.used(0), 0);
    drop(held);
    driver.device.quiesce(soon()).unwrap();
    let saved = driver.device.save().queues[0];
    assert_eq!((driver.used(0), saved.next_used, saved.next_available), (5, 5, 5));
    assert_eq!(driver.bytes(DATA + 0x3000, 5), [0; 5]);
    // One more comes while it rests: it is for whoever goes on.
    std::fs::write(file.path(), vec![0; SECTORS as usize * 512]).unwrap();
    driver.put(DATA + 0x3000, &[0xff]);
    driver.offer(0, 0);
    assert_eq!(driver.used(0), 5);
    let there = Driver::with_ram(
        VirtioBlk::new(disk.clone(), "serial"),
        Arc::new(AllPresent),
        driver.ram.clone(),
    );
    there.device.restore(driver.device.save()).unwrap();
    let there = driver.moved(there);
    drop(driver);
    there.device.resume();
    there.await_used(0);
    let after = std::fs::read(file.path()).unwrap();
    assert_eq!(after[0], 0x80);
    assert!(after[512..].iter().all(|&byte| byte == 0), "a request is done twice");
}

#[test]
fn a_device_that_did_not_rest_in_time_goes_on() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start(&disk);
    let held = disk.hold_up();
    offer_writes(&mut driver, 4);
    await_in_flight(&disk, 4);
    driver.device.quiesce(std::time::Instant::now()).unwrap_err();
    driver.device.resume();
    drop(held);
    driver.await_used(0);
    assert_eq!(driver.bytes(DATA + 0x3000, 5), [0, 0, 0, 0, 0]);
    assert_eq!(std::fs::read(file.path()).unwrap()[3 * 512], 0x83);
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start(&disk);
    for _ in 0..20 {
        offer_writes(&mut driver, 5);
        driver.set(0x70, 0);
        // Nothing of the guest's is read any more.
        driver.put(DATA + 0x4000, &[0xee; 5 * 512]);
        driver.start(1);
    }
    driver.device.quiesce(soon()).unwrap();
    assert!(!std::fs::read(file.path()).unwrap().contains(&0xee));
}

#[test]
fn a_request_whose_pages_are_missing_is_given_back_and_those_before_it_are_completed() {
    let file = file();
    let disk = disk(&file, false);
    let gate = Arc::new(Gate::default());
    let mut driver = Driver::new(VirtioBlk::new(disk.clone(), "serial"), gate.clone());
    driver.start(1);
    // The data of the last two is beyond what is here.
    gate.shut(DATA + 0x4000 + 3 * 512);
    offer_writes(&mut driver, 5);
    await_that("no page is waited for", || gate.is_waited_for());
    driver.device.quiesce(soon()).unwrap();
    assert_eq!(driver.device.save().queues[0].next_available, 3);
    assert_eq!(driver.used(0), 3);
    gate.open();
    driver.device.resume();
    driver.await_used(0);
    assert_eq!(driver.bytes(DATA + 0x3000, 5), [0; 5]);
}

/// A device elsewhere that has taken the state over, at first without any page.
fn move_on(driver: &Driver<VirtioBlk>, disk: &Arc<Disk>) -> (Driver<VirtioBlk>, Arc<Gate>) {
    driver.device.quiesce(soon()).unwrap();
    let gate = Arc::new(Gate::default());
    gate.shut(RAM_BASE);
    let there = VirtioBlk::new(disk.clone(), "serial");
    let there = Driver::with_ram(there, gate.clone(), driver.ram.clone());
    there.device.restore(driver.device.save()).unwrap();
    (driver.moved(there), gate)
}

#[test]
fn a_disk_that_moves_again_and_again_under_load_does_each_request_once() {
    let file = file();
    let disk = disk(&file, false);
    let mut driver = start_with(&disk, FLUSH);
    let mut taken = 0u16;
    for round in 0..40u8 {
        // What a write of a round before does again is seen.
        std::fs::write(file.path(), vec![0; SECTORS as usize * 512]).unwrap();
        let count = u16::from(round % 5) + 1;
        offer_writes(&mut driver, count);
        let (there, _gate) = move_on(&driver, &disk);
        there.device.resume();
        // It moves on while it waits for the first pages of its rings.
        let (next, gate) = move_on(&there, &disk);
        next.device.resume();
        gate.open();
        next.await_used(0);
        let [_, _, used] = Driver::<VirtioBlk>::rings(0);
        let mut heads: Vec<u32> = (0..count)
            .map(|at| used + 4 + u64::from(taken.wrapping_add(at) % QUEUE_SIZE) * 8)
            .map(|at| u32::from_le_bytes(next.bytes(at, 4).try_into().unwrap()))
            .collect();
        heads.sort_unstable();
        assert_eq!(heads, (0..u32::from(count)).map(|number| number * 3).collect::<Vec<_>>());
        taken = taken.wrapping_add(count);
        let after = std::fs::read(file.path()).unwrap();
        for sector in 0..SECTORS as usize {
            let expected = if sector < count.into() { 0x80 + sector as u8 } else { 0 };
            assert_eq!(after[sector * 512], expected, "sector {sector} of round {round}");
        }
        driver = next;
    }
}

#[test]
fn a_request_too_long_to_be_in_flight_is_done_all_the_same() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(3 << 20).unwrap();
    let mut driver = start(&disk(&file, false));
    let pieces = vec![(DATA, 3 << 18, READ); 4];
    driver.put(DATA, &[0x5a; 3 << 18]);
    assert_eq!(request(&mut driver, 1, 0, &pieces), (0, 1));
    assert_eq!(std::fs::read(file.path()).unwrap().len(), 3 << 20);
    assert!(std::fs::read(file.path()).unwrap().iter().all(|&byte| byte == 0x5a));
}

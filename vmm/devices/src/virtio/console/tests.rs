use super::*;
use crate::Lifecycle;
use crate::output::tests::Terminal;
use crate::virtio::AllPresent;
use crate::virtio::testing::*;
use proptest::prelude::*;
use std::io::{Cursor, Read};
use std::sync::Arc;
use umem_state::SaveRestore;

fn start(typed: &[u8], terminal: &Terminal) -> Driver<VirtioConsole> {
    let reader: Box<dyn Read + Send> = Box::new(Cursor::new(typed.to_vec()));
    let device = VirtioConsole::new("test0", Some(reader), Box::new(terminal.clone())).unwrap();
    let mut driver = Driver::new(device, Arc::new(AllPresent));
    driver.start(2);
    driver
}

#[test]
fn what_is_printed_comes_out_and_what_is_typed_comes_in() {
    let terminal = Terminal::default();
    let mut driver = start(b"typed", &terminal);
    driver.put(DATA, b"hello, world");
    driver.submit(1, &[(DATA, 7, READ), (DATA + 7, 5, READ)]);
    assert_eq!(driver.await_used(1), 0);
    terminal.await_text(b"hello, world");
    driver.submit(0, &[(DATA, 3, WRITE)]);
    assert_eq!(driver.await_used(0), 3);
    assert_eq!(driver.bytes(DATA, 4), b"typl");
    driver.submit(0, &[(DATA, 30, WRITE)]);
    assert_eq!(driver.await_used(0), 2);
    assert_eq!(driver.bytes(DATA, 2), b"ed");
}

#[test]
fn a_request_longer_than_the_room_waits_and_comes_out_once() {
    let terminal = Terminal::default();
    let mut driver = start(b"", &terminal);
    let text: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    driver.put(DATA, &text);
    let blocked = terminal.blocked();
    driver.submit(1, &[(DATA, 200_000, READ)]);
    await_that("nothing is taken", || driver.device.save().device.sent > 0);
    driver.device.quiesce(std::time::Instant::now()).unwrap();
    assert_eq!(driver.used(1), 0);
    driver.device.resume();
    drop(blocked);
    driver.await_used(1);
    terminal.await_text(&text);
}

#[test]
fn what_was_printed_and_typed_moves_and_comes_out_once() {
    let (here, there) = (Terminal::default(), Terminal::default());
    let mut source = start(b"typed", &here);
    let text: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    source.put(DATA, &text);
    let blocked = here.blocked();
    source.submit(1, &[(DATA, 100_000, READ)]);
    await_that("nothing is taken", || source.device.save().device.sent > 60_000);
    await_that("nothing is typed", || !source.device.save().device.input.is_empty());
    source.device.quiesce(std::time::Instant::now()).unwrap();
    let saved = source.device.save();
    let device = VirtioConsole::new("test1", None, Box::new(there.clone())).unwrap();
    let target = Driver::with_ram(device, Arc::new(AllPresent), source.ram.clone());
    target.device.restore(saved.clone()).unwrap();
    assert_eq!(target.device.save(), saved);
    let mut target = source.moved(target);
    drop(source);
    drop(blocked);
    target.device.resume();
    target.await_used(1);
    let kept = saved.device.sent as usize - saved.device.output.len();
    there.await_text(&text[kept..]);
    here.await_text(&text[..kept]);
    target.submit(0, &[(DATA, 30, WRITE)]);
    assert_eq!(target.await_used(0), 5);
    assert_eq!(target.bytes(DATA, 5), b"typed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_guest_does_the_device_comes_to_rest(hostile in hostile()) {
        let mut driver = start(&[7; 9000], &Terminal::default());
        act(&mut driver, 2, &hostile);
    }
}

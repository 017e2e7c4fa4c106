//! Kicks: never lost, from any thread, even while KVM waits for a page.

use crate::code;
use crate::guest::{Guest, at, kick_after};
use crate::host::host;
use accel::{AccessSize, Vcpu, VmEntry, VmExit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_kick_that_came_before_is_seen_before_the_next_instruction() {
    let Some(host) = host("kick before") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(true, &at(code::u_call()));
    guest.vcpus[0].handle().kick();
    assert_eq!(guest.run(), VmExit::Kicked);
    assert_eq!(guest.vcpus[0].general_registers().unwrap().rip, code::u_call());
    let call = |value| VmExit::PortWrite { port: 0x30, size: AccessSize::Word, value };
    assert_eq!(guest.run(), call(1), "it was taken");
    guest.vcpus[0].handle().kick();
    assert!(!guest.vcpus[0].is_settled());
    assert_eq!(guest.run(), VmExit::Kicked);
    assert!(guest.vcpus[0].is_settled(), "the access is over");
    assert_eq!(guest.run(), call(2), "once");
}

/// The thread is kicked at all moments: on its way in, in the guest, on its way out.
#[test]
fn no_kick_is_lost() {
    let Some(host) = host("kicks") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(true, &at(code::u_spin()));
    let vcpu = &mut guest.vcpus[0];
    let handle = vcpu.handle();
    let (taken, done) = (AtomicBool::new(true), AtomicBool::new(false));
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300u32 {
                while !taken.swap(false, Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                // From no time at all to a time in which it is surely in the guest.
                for _ in 0..(round % 100) * (round % 7) {
                    std::hint::spin_loop();
                }
                handle.kick();
            }
            while !taken.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
            handle.kick();
        });
        while !done.load(Ordering::SeqCst) {
            let began = Instant::now();
            assert_eq!(vcpu.run(VmEntry::Run), VmExit::Kicked);
            longest = longest.max(began.elapsed());
            taken.store(true, Ordering::SeqCst);
        }
    });
    eprintln!("longest run of a vCPU that is kicked at once: {longest:?}");
}

#[test]
fn a_vcpu_that_waits_for_interrupts_is_kicked_out() {
    let Some(host) = host("kick in a halt") else { return };
    let mut guest = Guest::new(&host, 2);
    guest.begin(false, &at(code::k_wait()));
    // The second waits to be started.
    for vcpu in &mut guest.vcpus {
        let kick = kick_after(vcpu.handle(), Duration::from_millis(20));
        assert_eq!(vcpu.run(VmEntry::Run), VmExit::Kicked);
        eprintln!("out {:?} after the kick", kick.join().unwrap().elapsed());
    }
}

/// One vCPU, run by one thread after another, as when its thread is replaced.
#[test]
fn it_may_be_run_by_another_thread() {
    let Some(host) = host("threads") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(true, &at(code::u_spin()));
    let (mut counted, mut runs) = (0, 0);
    while runs < 5 {
        let handle = guest.vcpus[0].handle();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| guest.vcpus[0].run(VmEntry::Run));
            std::thread::sleep(Duration::from_millis(5));
            handle.kick();
            assert_eq!(thread.join().unwrap(), VmExit::Kicked);
        });
        let now = guest.vcpus[0].general_registers().unwrap().r14;
        // One that got no processor in that time is tried again.
        runs += u32::from(now > counted);
        assert!(now >= counted, "{now}");
        counted = now;
    }
}

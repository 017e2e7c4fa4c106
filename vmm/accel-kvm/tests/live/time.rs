//! Time: it goes on by what it is told, at once for all vCPUs, and never back.

use crate::code;
use crate::guest::{Guest, at, get, is_call, run, settle};
use crate::host::{host, skip};
use accel::{MachineClock, SavedClock, Vcpu, VmEntry, VmExit};
use accel_kvm::{KvmOptions, KvmVcpu, TscControl};
use ciborium::Value;
use kvm_bindings::kvm_regs;
use std::time::{Duration, Instant};

/// A number of the state's time.
fn time(vcpu: &KvmVcpu, name: &str) -> u64 {
    let form: Value = ciborium::from_reader(&vcpu.save().unwrap()[..]).unwrap();
    let find = |value: &Value, name: &str| {
        let entries = value.as_map().unwrap();
        entries.iter().find(|(key, _)| key.as_text() == Some(name)).unwrap().1.clone()
    };
    let number = find(&find(&find(&form, "state"), "time"), name);
    number.as_integer().unwrap().try_into().unwrap()
}

fn stop(guest: &mut Guest) {
    guest.vcpus.iter_mut().for_each(|vcpu| vcpu.stop_clock().unwrap());
}

fn start(guest: &mut Guest, pause: Duration) {
    guest.vcpus.iter_mut().for_each(|vcpu| vcpu.start_clock(pause).unwrap());
}

/// What a program reads of the time-stamp counter.
fn read(guest: &mut Guest) -> u64 {
    assert!(is_call(guest.run()));
    guest.vcpus[0].general_registers().unwrap().r14
}

#[test]
fn counters_go_on_by_the_pause_and_stay_together() {
    let Some(host) = host("time-stamp counters") else { return };
    let khz = u64::from(host.capabilities().tsc_khz);
    let control = host.capabilities().tsc_control;
    let mut guest = Guest::new(&host, 3);
    guest.begin(true, &at(code::u_time()));
    start(&mut guest, Duration::ZERO);
    let mut last = 0;
    for _ in 0..3 {
        let before = read(&mut guest);
        assert!(before > last);
        settle(&mut guest.vcpus[0]);
        let began = Instant::now();
        stop(&mut guest);
        let stopped = time(&guest.vcpus[0], "tsc");
        std::thread::sleep(Duration::from_millis(20));
        for vcpu in &guest.vcpus {
            let other = time(vcpu, "tsc");
            assert!(other == stopped || control == TscControl::Value, "{other} and {stopped}");
        }
        let pause = began.elapsed();
        start(&mut guest, pause);
        let after = read(&mut guest);
        let least = stopped + pause.as_nanos() as u64 * khz / 1_000_000;
        assert!(stopped >= before, "{before} {stopped}");
        // What was measured began before the stop.
        let early = khz;
        assert!(after + early >= least, "{after} is behind {least}");
        last = after;
    }
}

#[test]
fn without_a_pause_a_counter_stands_still() {
    let Some(host) = host("stopped counter") else { return };
    if host.capabilities().tsc_control == TscControl::None {
        return skip("stopped counter", "guests read the host's own time-stamp counter");
    }
    let mut guest = Guest::new(&host, 1);
    guest.begin(true, &at(code::u_time()));
    let before = read(&mut guest);
    settle(&mut guest.vcpus[0]);
    stop(&mut guest);
    std::thread::sleep(Duration::from_secs(2));
    start(&mut guest, Duration::ZERO);
    let second = u64::from(host.capabilities().tsc_khz) * 1000;
    assert!(read(&mut guest) - before < second);
}

#[test]
fn a_counter_that_would_go_back_is_refused_where_it_cannot_be_set() {
    let Some(host) = host("counter that goes back") else { return };
    let mut guest = Guest::new(&host, 1);
    let saved = guest.vcpus[0].save().unwrap();
    let far = 1u64 << 62;
    let mut form: Value = ciborium::from_reader(&saved[..]).unwrap();
    let mut entries = form.as_map_mut().unwrap();
    for name in ["state", "time", "tsc"] {
        let (_, value) = entries.iter_mut().find(|(key, _)| key.as_text() == Some(name)).unwrap();
        if name == "tsc" {
            *value = Value::from(far);
            break;
        }
        entries = value.as_map_mut().unwrap();
    }
    let mut bytes = Vec::new();
    ciborium::into_writer(&form, &mut bytes).unwrap();
    let result = guest.vcpus[0].restore(&bytes);
    if host.capabilities().tsc_control == TscControl::None {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("would go back by"), "{error}");
        assert!(guest.vcpus[0].save().unwrap() == saved);
    } else {
        result.unwrap();
        let error = guest.vcpus[0].start_clock(Duration::from_secs(1 << 40)).unwrap_err();
        assert!(error.to_string().contains("cannot go on by"), "{error}");
        guest.vcpus[0].start_clock(Duration::ZERO).unwrap();
        assert!(time(&guest.vcpus[0], "tsc") >= far);
    }
}

/// Registers of the local APIC's timer: once or again and again, at vector 0x21.
const ONCE: u64 = 0x21;
const AGAIN: u64 = 0x2_0021;
/// Ticks of the timer in a second, as the kernel sets it up.
const SECOND: u64 = 1_000_000_000 / 16;

fn with_timer(host: &accel_kvm::Host, vcpus: u32, mode: u64, count: u64) -> Guest {
    let mut guest = Guest::new(host, vcpus);
    let registers = kvm_regs {
        rip: code::k_start(),
        r10: code::u_spin(),
        r12: mode,
        r13: count,
        ..kvm_regs::default()
    };
    guest.begin(false, &registers);
    guest
}

/// Lets it run until something is so.
fn run_until(guest: &mut Guest, so: impl Fn(&Guest) -> bool) {
    for _ in 0..1000 {
        let kick = crate::guest::kick_after(guest.vcpus[0].handle(), Duration::from_millis(10));
        assert_eq!(run(&mut guest.vcpus[0]), VmExit::Kicked);
        kick.join().unwrap();
        if so(guest) {
            return;
        }
    }
    panic!("never so: {}", guest.vcpus[0].registers());
}

/// The program counts.
fn counts(guest: &Guest) -> bool {
    guest.vcpus[0].general_registers().unwrap().r14 > 0
}

fn ticks(guest: &Guest) -> u64 {
    get(&guest.ram, 0x7000)
}

#[test]
fn a_timer_that_is_set_stands_still_with_the_guest() {
    let Some(host) = host("one-shot timer") else { return };
    // Much longer than this test, however slow the machine.
    let count = 40 * SECOND;
    let mut guest = with_timer(&host, 1, ONCE, count);
    run_until(&mut guest, counts);
    stop(&mut guest);
    let left = time(&guest.vcpus[0], "timer_left");
    assert!(left > 0 && left < count, "{left}");
    start(&mut guest, Duration::from_secs(10));
    stop(&mut guest);
    let after = time(&guest.vcpus[0], "timer_left");
    assert!(after > 0 && after <= left - 10 * SECOND, "{after} of {left}, less ten seconds");
    start(&mut guest, Duration::ZERO);
    stop(&mut guest);
    let later = time(&guest.vcpus[0], "timer_left");
    assert!(later > 0 && later <= after, "{later} of {after}");
    assert_eq!(ticks(&guest), 0);
    // A pause in which its time came.
    start(&mut guest, Duration::from_secs(60));
    run_until(&mut guest, |guest| ticks(guest) == 1);
}

/// It fires on the host that the guest moved to, and while the guest stood still it did not.
#[test]
fn a_timer_moves_with_the_guest() {
    let Some(host) = host("timer that moves") else { return };
    for (mode, count) in [(ONCE, 30 * SECOND), (AGAIN, SECOND / 1000)] {
        let mut source = with_timer(&host, 1, mode, count);
        run_until(&mut source, |guest| counts(guest) && (mode == ONCE || ticks(guest) > 0));
        stop(&mut source);
        let ticked = ticks(&source);
        assert!(mode == AGAIN || ticked == 0, "{ticked}");
        let (state, chips) = (source.vcpus[0].save().unwrap(), source.vm.chips());
        let chips = umem_state::SaveRestore::save(&*chips);
        let options = KvmOptions::default();
        let mut target = Guest::with(&host, 1, &options, source.ram.clone());
        umem_state::SaveRestore::restore(&*target.vm.chips(), chips).unwrap();
        target.vcpus[0].restore(&state).unwrap();
        assert_eq!(ticks(&target), ticked);
        start(&mut target, Duration::from_secs(31));
        let wanted = if mode == ONCE { 1 } else { ticked + 10 };
        run_until(&mut target, |guest| ticks(guest) >= wanted);
        assert!(mode == AGAIN || ticks(&target) == 1, "{}", ticks(&target));
    }
}

#[test]
fn the_clock_shows_what_it_showed_and_the_pause() {
    let Some(host) = host("clock") else { return };
    let mut guest = Guest::new(&host, 1);
    let clock = guest.vm.clock();
    let first = clock.save().ticks;
    assert!(clock.save().ticks >= first);
    let saved = SavedClock { ticks: 5_000_000_000_000 };
    clock.restore(saved, Duration::from_millis(250)).unwrap();
    let now = clock.save().ticks;
    assert!((5_000_250_000_000..5_060_000_000_000).contains(&now), "{now}");
    for (ticks, pause) in [(u64::MAX, 0), (1 << 63, 0), (1 << 62, 1 << 62), (0, u64::MAX)] {
        let pause = Duration::from_millis(pause);
        assert!(clock.restore(SavedClock { ticks }, pause).is_err(), "{ticks}");
    }
    assert!(clock.save().ticks < 5_060_000_000_000, "unchanged");
    guest.begin(true, &at(code::u_call()));
    assert!(is_call(guest.vcpus[0].run(VmEntry::Run)));
}

/// What KVM writes for the guest's clock (Linux documentation, "KVM-specific MSRs"): how often it did,
/// twice, and the clock's value then.
fn paravirtual(guest: &Guest) -> (u64, u64) {
    (get(&guest.ram, 0xc000) & 0xffff_ffff, get(&guest.ram, 0xc010))
}

#[test]
fn the_clock_that_the_guest_reads_goes_on_where_it_moves() {
    let Some(host) = host("kvm-clock") else { return };
    let mut source = Guest::new(&host, 1);
    source.begin(false, &kvm_regs { r10: code::u_spin(), ..at(code::k_clock()) });
    run_until(&mut source, |guest| counts(guest) && paravirtual(guest).0 > 0);
    let clock = source.vm.clock().save();
    stop(&mut source);
    let (_, before) = paravirtual(&source);
    assert!(before > 0 && before <= clock.ticks, "{before} {clock:?}");
    let state = source.vcpus[0].save().unwrap();
    let options = KvmOptions::default();
    let mut target = Guest::with(&host, 1, &options, source.ram.clone());
    let pause = Duration::from_secs(1000);
    target.vcpus[0].restore(&state).unwrap();
    target.vm.clock().restore(clock, pause).unwrap();
    start(&mut target, pause);
    let moved = clock.ticks + pause.as_nanos() as u64;
    run_until(&mut target, |guest| paravirtual(guest).1 >= moved);
    let (_, after) = paravirtual(&target);
    assert!(after < moved + 600_000_000_000, "{after} {moved}");
}

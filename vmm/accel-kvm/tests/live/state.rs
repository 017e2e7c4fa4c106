//! State goes into another VM and comes back the same; whatever differs is noticed.

use crate::code;
use crate::guest::{DATA, Guest, KERNEL_STACK, PAGE, at, is_call, settle};
use crate::host::host;
use accel::Vcpu;
use accel_kvm::{Host, KvmOptions, KvmVcpu};
use ciborium::Value;
use kvm_bindings::kvm_regs;
use std::collections::BTreeMap;
use std::time::Duration;
use umem_memory::GuestAddress;

/// A guest in a program, registers of all kinds set, its time stopped.
fn busy(host: &Host) -> Guest {
    let mut guest = Guest::new(host, 2);
    let registers = kvm_regs {
        rip: code::u_vectors(),
        rbx: 0x1111,
        rdi: DATA,
        r8: 0x0123_4567_89ab,
        r15: u64::MAX,
        ..kvm_regs::default()
    };
    guest.begin(true, &registers);
    assert!(is_call(guest.run()));
    settle(&mut guest.vcpus[0]);
    stop(&mut guest.vcpus);
    guest
}

fn stop(vcpus: &mut [KvmVcpu]) {
    vcpus.iter_mut().for_each(|vcpu| vcpu.stop_clock().unwrap());
}

/// The sum that the program makes of its vectors: 1 + 2 + 4 + 8 times what it was given.
const SUM: u64 = 15 * 0x0123_4567_89ab;

#[test]
fn state_that_is_moved_is_the_same_again_and_again() {
    let Some(host) = host("state") else { return };
    let source = busy(&host);
    // Where the kernel has what it is about to return to.
    let stack = GuestAddress(KERNEL_STACK - PAGE);
    let mut bytes = [0; PAGE as usize];
    source.ram.read_at(stack, &mut bytes).unwrap();
    let saved: Vec<_> = source.vcpus.iter().map(|vcpu| vcpu.save().unwrap()).collect();
    assert_eq!(saved[0], source.vcpus[0].save().unwrap(), "time stands still");
    let mut target = Guest::with(&host, 2, &KvmOptions::default(), source.ram.clone());
    for round in 0..3 {
        target.ram.write_at(stack, &bytes).unwrap();
        for (vcpu, saved) in target.vcpus.iter_mut().zip(&saved) {
            vcpu.restore(saved).unwrap();
            assert!(vcpu.save().unwrap() == *saved, "round {round}");
        }
        target.vcpus.iter_mut().for_each(|vcpu| vcpu.start_clock(Duration::ZERO).unwrap());
        assert!(is_call(target.run()));
        let registers = target.vcpus[0].general_registers().unwrap();
        assert_eq!((registers.r14, registers.r15), (SUM, u64::MAX), "round {round}");
        assert_eq!(registers.rbx, 0x1111);
    }
}

/// Reset restores what was saved when the vCPU was made.
#[test]
fn a_pristine_state_resets_a_vcpu_that_has_run() {
    let Some(host) = host("reset by restore") else { return };
    let mut guest = Guest::new(&host, 2);
    let pristine: Vec<_> = guest.vcpus.iter().map(|vcpu| vcpu.save().unwrap()).collect();
    for _ in 0..3 {
        guest.begin(true, &at(code::u_vectors()));
        assert!(is_call(guest.run()));
        for (vcpu, saved) in guest.vcpus.iter_mut().zip(&pristine) {
            vcpu.restore(saved).unwrap();
            assert!(vcpu.save().unwrap() == *saved);
        }
    }
    guest.begin(true, &at(code::u_call()));
    assert!(is_call(guest.run()));
    guest.vcpus[0].reset().unwrap();
    assert!(guest.vcpus[0].save().unwrap() == pristine[0], "reset() is the same");
}

/// A number in a saved form: the way to it, by names and places.
type Path = Vec<String>;

/// All numbers of a form; of long strings of bytes those that are told.
fn numbers(value: &mut Value, path: &mut Path, visit: &mut dyn FnMut(&Path, &mut Value)) {
    match value {
        Value::Integer(_) => visit(path, value),
        Value::Map(entries) => {
            for (key, value) in entries {
                path.push(key.as_text().unwrap().to_owned());
                numbers(value, path, visit);
                path.pop();
            }
        }
        Value::Array(values) => {
            // Pairs are a register's number and its value: named by the number.
            if let [Value::Integer(number), value @ Value::Integer(_)] = &mut values[..] {
                path.pop();
                path.push(format!("{:#x}", u64::try_from(*number).unwrap()));
                visit(path, value);
                return;
            }
            for (at, value) in values.iter_mut().enumerate() {
                path.push(at.to_string());
                numbers(value, path, visit);
                path.pop();
            }
        }
        Value::Bytes(_) => {
            let places: &[usize] = match path.last().map(String::as_str) {
                // x87 control word, MXCSR, first and last xmm, upper halves of first and last ymm.
                Some("extended") => &[0, 24, 160, 415, 576, 831],
                // Task priority, spurious vector, timer's vector, its divider.
                Some("apic") => &[0x80, 0xf0, 0x320, 0x3e0],
                _ => &[],
            };
            for place in places {
                path.push(format!("{place:#x}"));
                visit(path, value);
                path.pop();
            }
        }
        _ => {}
    }
}

fn flip(value: &mut Value, path: &Path, bit: u32) {
    match value {
        Value::Integer(number) => {
            let flipped = u64::try_from(*number).unwrap() ^ 1 << bit;
            *value = Value::from(flipped);
        }
        Value::Bytes(bytes) => {
            let place = path.last().unwrap().trim_start_matches("0x");
            bytes[usize::from_str_radix(place, 16).unwrap()] ^= 1 << (bit % 8);
        }
        _ => unreachable!(),
    }
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// What became of a number that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The state with it was refused, and the vCPU as before.
    Refused,
    /// It was taken, and is not in what is saved then.
    Ignored,
    /// It is in what is saved then.
    Moved,
}

/// Each number of the state, changed alone, moves or is refused; but for those that are named here.
#[test]
fn whatever_is_changed_moves_or_is_refused() {
    let Some(host) = host("changed state") else { return };
    let source = busy(&host);
    let saved = source.vcpus[0].save().unwrap();
    let mut target = Guest::with(&host, 2, &KvmOptions::default(), source.ram.clone());
    let vcpu = &mut target.vcpus[0];
    vcpu.restore(&saved).unwrap();
    let form: Value = ciborium::from_reader(&saved[..]).unwrap();
    let mut paths = Vec::new();
    numbers(&mut form.clone(), &mut Vec::new(), &mut |path, _| paths.push(path.clone()));
    let mut fates: BTreeMap<String, Fate> = BTreeMap::new();
    for path in &paths {
        for bit in [0, 1, 3, 12] {
            let mut changed = form.clone();
            numbers(&mut changed, &mut Vec::new(), &mut |at, value| {
                if at == path {
                    flip(value, path, bit);
                }
            });
            let bytes = encode(&changed);
            assert!(bytes != saved);
            let fate = match vcpu.restore(&bytes) {
                Err(_) => Fate::Refused,
                Ok(()) if vcpu.save().unwrap() == bytes => Fate::Moved,
                Ok(()) => Fate::Ignored,
            };
            if fate == Fate::Refused {
                assert!(vcpu.save().unwrap() == saved, "{path:?}: refused, and not as before");
            } else {
                vcpu.restore(&saved).unwrap();
            }
            let name = path.join(".");
            let known = fates.entry(name).or_insert(fate);
            *known = fate.max(*known);
            if fate == Fate::Moved {
                break;
            }
        }
    }
    let with =
        |fate: Fate| fates.iter().filter(move |&(_, &found)| found == fate).map(|(name, _)| name);
    // Which model-specific registers take what depends on the host; these no host may lose.
    for msr in
        [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082u32, 0xc000_0084, 0xc000_0102, 0x277, 0x250]
    {
        let name = format!("state.msrs.{msr:#x}");
        assert_eq!(fates.get(&name), Some(&Fate::Moved), "{name}");
    }
    let ignored: Vec<_> =
        with(Fate::Ignored).filter(|name| !name.starts_with("state.msrs")).collect();
    assert_eq!(
        ignored,
        [
            // Task priority is in both of these: a change of one is one of the other.
            "state.apic.0x80",
            // Of no meaning while no exception and no interrupt is under way.
            "state.events.exception_nr",
            // Says what the kernel knows.
            "state.events.flags",
            "state.events.interrupt_nr",
            "state.events.interrupt_soft",
            // Without system management mode.
            "state.events.latched_init",
            // Never told.
            "state.events.sipi_vector",
            "state.special.cr8",
        ]
        .iter()
        .filter(|name| fates.get(**name) == Some(&Fate::Ignored))
        .collect::<Vec<_>>()
    );
    eprintln!("refused: {}; moved: {}", with(Fate::Refused).count(), with(Fate::Moved).count());
    assert!(with(Fate::Moved).count() > 500);
}

/// Prints what saving and restoring cost here; run with `--run-ignored`, alone.
#[test]
#[ignore = "figures, not a test"]
fn figures() {
    const ROUNDS: u32 = 200;
    let Some(host) = host("figures") else { return };
    let source = busy(&host);
    let mut target = Guest::with(&host, 2, &KvmOptions::default(), source.ram.clone());
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        source.vcpus[0].save().unwrap();
    }
    let saved = source.vcpus[0].save().unwrap();
    eprintln!("save {:?}, {} bytes", began.elapsed() / ROUNDS, saved.len());
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        target.vcpus[0].restore(&saved).unwrap();
    }
    eprintln!("restore {:?}", began.elapsed() / ROUNDS);
    let began = std::time::Instant::now();
    for _ in 0..ROUNDS {
        target.vcpus[0].start_clock(Duration::ZERO).unwrap();
        target.vcpus[0].stop_clock().unwrap();
    }
    eprintln!("start and stop {:?}", began.elapsed() / ROUNDS);
}

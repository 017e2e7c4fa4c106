//! Rate of the software CPU on integer loops, as one line of JSON. With a number of milliseconds as
//! argument, dirty tracking is on and written pages are collected that often.

use accel::{GuestClock, RiscvVcpu, Vcpu, VcpuHandle, VmEntry, VmExit};
use accel_tcg::{Hart, HartConfig, HartWrites};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use umem_memory::{
    Backend, DirtySource, GuestAddress, GuestRam, PageBitmap, PageSize, RamBlockSpec, RamLayout,
};

const BASE: u64 = 0x8000_0000;
const ROUNDS: u32 = 40_000_000;

/// Sums and mixes an array of 64 doublewords again and again; `t2` counts the elements.
const CODE: &[u32] = &[
    0x0000_1517, // auipc a0, 1
    0x0000_0593, // li a1, 0
    0x0000_0613, // li a2, 0
    // element:
    0x1f85_f693, // andi a3, a1, 0x1f8
    0x00d5_06b3, // add a3, a0, a3
    0x0006_b703, // ld a4, 0(a3)
    0x00e6_0633, // add a2, a2, a4
    0x0016_1793, // slli a5, a2, 1
    0x00f7_4733, // xor a4, a4, a5
    0x00e6_b023, // sd a4, 0(a3)
    0x0085_8593, // addi a1, a1, 8
    0xfff3_8393, // addi t2, t2, -1
    0xfc03_9ee3, // bnez t2, element
    0x0000_0073, // ecall
];

/// Collects until told to end; how often, and the longest time that it took, in µs.
fn collect(writes: &HartWrites, every: Duration, end: &AtomicBool) -> Result<(u64, u128), String> {
    let (dirty, mut rounds, mut longest) = (PageBitmap::new(256), 0, 0);
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(every);
        let start = Instant::now();
        writes.collect(&dirty).map_err(|e| e.to_string())?;
        longest = longest.max(start.elapsed().as_micros());
        rounds += 1;
    }
    Ok((rounds, longest))
}

fn run(collect_every: Option<Duration>) -> Result<String, String> {
    let spec =
        RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(BASE), bytes: 1 << 20 };
    let layout = RamLayout::new(PageSize::SMALL, vec![spec]).map_err(|e| e.to_string())?;
    let ram = GuestRam::new(layout, &Backend::Anonymous).map_err(|e| e.to_string())?;
    // lui t2; nop: the array is aligned.
    let prologue = [0x0000_03b7 | (ROUNDS & 0xffff_f000), 0x0000_0013];
    let code: Vec<u8> = prologue.iter().chain(CODE).flat_map(|word| word.to_le_bytes()).collect();
    ram.write_at(GuestAddress(BASE), &code).map_err(|e| e.to_string())?;
    let mut hart = Hart::new(HartConfig {
        id: 0,
        handle: VcpuHandle::new(),
        clock: Arc::new(GuestClock::new()),
        ram,
        presence: None,
    });
    hart.boot(BASE, 0);
    let writes = HartWrites::new(256, vec![(0, hart.handle())]);
    if collect_every.is_some() {
        writes.start().map_err(|e| e.to_string())?;
    }
    let end = AtomicBool::new(false);
    let (exit, seconds, collected) = std::thread::scope(|scope| {
        let (writes, end) = (&writes, &end);
        let collector = collect_every.map(|every| scope.spawn(move || collect(writes, every, end)));
        let start = Instant::now();
        let exit = hart.run(VmEntry::Run);
        let seconds = start.elapsed().as_secs_f64();
        end.store(true, Ordering::Relaxed);
        (exit, seconds, collector.map(|collector| collector.join()))
    });
    if !matches!(exit, VmExit::Sbi { .. }) {
        return Err(format!("ended with {exit:?}"));
    }
    let instructions = hart.instructions();
    let mips = instructions as f64 / seconds / 1e6;
    let collects = match collected {
        None => String::new(),
        Some(Err(_)) => return Err("the collector ended".into()),
        Some(Ok(result)) => {
            let (rounds, longest) = result?;
            format!(",\"collects\":{rounds},\"longest_collect_us\":{longest}")
        }
    };
    Ok(format!(
        "{{\"instructions\":{instructions},\"seconds\":{seconds:.3},\"mips\":{mips:.1}{collects}}}"
    ))
}

fn main() {
    let milliseconds = std::env::args().nth(1).map(|text| text.parse().map(Duration::from_millis));
    let result = match milliseconds.transpose() {
        Ok(collect_every) => run(collect_every),
        Err(error) => Err(format!("how often to collect, in milliseconds: {error}")),
    };
    match result {
        Ok(line) => println!("{line}"),
        Err(reason) => {
            eprintln!("{reason}");
            std::process::exit(1);
        }
    }
}

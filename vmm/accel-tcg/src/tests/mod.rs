//! Small programs on a whole hart.

mod atomics;
mod code;
mod devices;
mod dirty;
mod interrupts;
mod paging;
mod state;

use crate::cpu::Mode;
use crate::{Hart, HartConfig};
use accel::{GuestClock, PagePresence, RiscvVcpu, Vcpu, VcpuHandle, VmEntry, VmExit};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use umem_memory::{Backend, GuestAddress, GuestRam, PageIndex, PageSize, RamBlockSpec, RamLayout};

/// Start of RAM, and of every program.
const BASE: u64 = 0x8000_0000;
const RAM_BYTES: u64 = 8 << 20;
/// A page for data.
const DATA: u64 = BASE + 0x10_0000;
/// Where traps go.
const HANDLER: u64 = BASE + 0x8000;
/// An address where no RAM is.
const DEVICE: u64 = 0x1000_0000;

const A0: u32 = 10;
const A1: u32 = 11;
const A2: u32 = 12;
const A3: u32 = 13;

const ECALL: u32 = 0x0000_0073;
const WFI: u32 = 0x1050_0073;
const SRET: u32 = 0x1020_0073;
const FENCE_I: u32 = 0x0000_100f;
const SFENCE_VMA: u32 = 0x1200_0073;
const NOP: u32 = 0x0000_0013;
/// `j .`
const LOOP: u32 = 0x0000_006f;

fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: i32) -> u32 {
    opcode | rd << 7 | funct3 << 12 | rs1 << 15 | (immediate as u32) << 20
}
fn addi(rd: u32, rs1: u32, immediate: i32) -> u32 {
    i_type(0x13, 0, rd, rs1, immediate)
}
fn ld(rd: u32, rs1: u32, offset: i32) -> u32 {
    i_type(0x03, 3, rd, rs1, offset)
}
fn sd(rs2: u32, rs1: u32, offset: i32) -> u32 {
    let offset = offset as u32;
    0x3023 | (offset & 0x1f) << 7 | rs1 << 15 | rs2 << 20 | (offset >> 5 & 0x7f) << 25
}
fn csrw(csr: u32, rs1: u32) -> u32 {
    0x1073 | rs1 << 15 | csr << 20
}
fn csrs(csr: u32, rs1: u32) -> u32 {
    0x2073 | rs1 << 15 | csr << 20
}
fn csrc(csr: u32, rs1: u32) -> u32 {
    0x3073 | rs1 << 15 | csr << 20
}
fn csrr(rd: u32, csr: u32) -> u32 {
    0x2073 | rd << 7 | csr << 20
}

/// Which pages are missing.
#[derive(Default)]
struct Missing(Mutex<HashSet<PageIndex>>);

impl PagePresence for Missing {
    fn is_present(&self, page: PageIndex) -> bool {
        !self.0.lock().unwrap().contains(&page)
    }
}

struct Board {
    ram: GuestRam,
    hart: Hart,
    clock: Arc<GuestClock>,
    missing: Arc<Missing>,
}

impl Board {
    /// A hart in front of a program; its handler is an SBI call.
    fn new(program: &[u32]) -> Self {
        let spec = RamBlockSpec {
            name: "ram".into(),
            guest_address: GuestAddress(BASE),
            bytes: RAM_BYTES,
        };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
        Self::with_ram(ram, program)
    }

    fn with_ram(ram: GuestRam, program: &[u32]) -> Self {
        let (clock, missing) = (Arc::new(GuestClock::new()), Arc::new(Missing::default()));
        let hart = Hart::new(HartConfig {
            id: 0,
            handle: VcpuHandle::new(),
            clock: clock.clone(),
            ram: ram.clone(),
            presence: Some(missing.clone()),
        });
        let mut board = Self { ram, hart, clock, missing };
        board.hart.boot(BASE, 0);
        board.hart.cpu.csr.stvec = HANDLER;
        board.put_words(BASE, program);
        board.put_words(HANDLER, &[ECALL]);
        board
    }

    fn put_words(&self, address: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ram.write_at(GuestAddress(address), &bytes).unwrap();
    }

    fn put(&self, address: u64, value: u64) {
        self.ram.write_at(GuestAddress(address), &value.to_le_bytes()).unwrap();
    }

    fn get(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read_at(GuestAddress(address), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn x(&mut self, register: u32) -> &mut u64 {
        &mut self.hart.cpu.x[register as usize]
    }

    fn run(&mut self) -> VmExit {
        self.hart.run(VmEntry::Run)
    }

    /// Runs to the program's SBI call.
    #[track_caller]
    fn run_to_call(&mut self) {
        let exit = self.run();
        let cause = self.hart.cpu.csr.scause;
        assert!(matches!(exit, VmExit::Sbi { .. }), "{exit:?}");
        assert!(!self.in_handler(), "trap {cause:#x} {:#x}", self.hart.cpu.csr.stval);
    }

    /// Runs to the handler's SBI call; cause and value of the trap.
    #[track_caller]
    fn run_to_trap(&mut self) -> (u64, u64) {
        let exit = self.run();
        assert!(matches!(exit, VmExit::Sbi { .. }) && self.in_handler(), "{exit:?}");
        (self.hart.cpu.csr.scause, self.hart.cpu.csr.stval)
    }

    fn in_handler(&self) -> bool {
        let physical = self.hart.cpu.pc & 0xf_ffff;
        physical == (HANDLER + 4) & 0xf_ffff
    }

    fn user_mode(&mut self) {
        self.hart.cpu.mode = Mode::User;
        self.hart.cpu.state_replaced();
    }

    fn page(&self, address: u64) -> PageIndex {
        self.ram.layout().page_of(GuestAddress(address)).unwrap()
    }

    fn lose(&self, address: u64) {
        let page = self.page(address);
        self.missing.0.lock().unwrap().insert(page);
    }

    fn find(&self, address: u64) {
        let page = self.page(address);
        self.missing.0.lock().unwrap().remove(&page);
    }
}

#[test]
fn a_kernel_finds_its_number_and_device_tree() {
    let mut board = Board::new(&[ECALL]);
    board.hart.boot(BASE, 0x1234);
    board.run_to_call();
    assert_eq!((*board.x(A0), *board.x(A1)), (0, 0x1234));
}

#[test]
fn a_call_hands_over_its_arguments_and_goes_on_with_the_answer() {
    let mut board = Board::new(&[ECALL, ECALL]);
    for register in 10..18 {
        *board.x(register) = u64::from(register);
    }
    let exit = board.run();
    let arguments = [10, 11, 12, 13, 14, 15];
    assert_eq!(exit, VmExit::Sbi { extension: 17, function: 16, arguments });
    let exit = board.hart.run(VmEntry::Sbi { error: -2, value: 7 });
    assert!(matches!(exit, VmExit::Sbi { .. }));
    assert_eq!((*board.x(A0) as i64, *board.x(A1)), (-2, 7));
    assert_eq!(board.hart.instructions(), 2);
}

#[test]
fn a_user_s_call_and_illegal_instructions_trap() {
    let mut board = Board::new(&[ECALL]);
    board.user_mode();
    assert_eq!(board.run_to_trap(), (8, 0));
    assert_eq!(board.hart.cpu.csr.sepc, BASE);

    // mret; a supervisor's register read by a user; floats while they are off.
    let mut board = Board::new(&[0x3020_0073]);
    assert_eq!(board.run_to_trap(), (2, 0x3020_0073));
    let mut board = Board::new(&[csrr(A0, 0x100)]);
    board.user_mode();
    assert_eq!(board.run_to_trap().0, 2);
    let mut board = Board::new(&[0x0000_0053]);
    assert_eq!(board.run_to_trap().0, 2);
}

#[test]
fn counters_are_open_to_users_as_the_supervisor_says() {
    let mut board = Board::new(&[NOP, csrr(A0, 0xc02), csrr(A1, 0xc01), ECALL]);
    board.run_to_call();
    assert_eq!(*board.x(A0), 1);
    assert!(*board.x(A1) <= board.clock.now());

    let mut board = Board::new(&[csrr(A0, 0xc01), ECALL]);
    board.user_mode();
    assert_eq!(board.run_to_trap().0, 8, "open at the start, as firmware leaves them");

    let mut board = Board::new(&[csrr(A0, 0xc02), csrr(A1, 0xc01)]);
    board.user_mode();
    board.hart.cpu.csr.scounteren = 4;
    assert_eq!(board.run_to_trap().0, 2);
    assert_eq!(board.hart.cpu.csr.sepc, BASE + 4);
}

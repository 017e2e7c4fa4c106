//! Write permissions and fences in every order that threads can run: the crate's own file, compiled with loom's
//! atomics and locks in place of the standard library's.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

#[path = "../src/asks.rs"]
mod asks;

use asks::{Asked, Asks, Fence};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};
use std::sync::Arc;

/// A RAM of one page, and its bit in the log.
struct World {
    asks: Asks<AtomicBool>,
    page: AtomicU64,
}

/// A vCPU as the accelerators have it.
struct Cpu {
    world: Arc<World>,
    seen: u64,
    log: Option<Arc<AtomicBool>>,
    may_write: bool,
}

impl Cpu {
    fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), seen: 0, log: None, may_write: true }
    }

    fn drop_permission(&mut self) {
        let Asked { number, revoked, .. } = self.world.asks.take();
        if let Some(log) = revoked {
            self.log = log;
            self.may_write = false;
        }
        self.seen = number;
        self.world.asks.acknowledge(number);
    }

    fn enter(&mut self) {
        if self.world.asks.enter(self.seen) {
            self.drop_permission();
        }
    }

    fn look_around(&mut self) {
        if self.world.asks.is_asked(self.seen) {
            self.drop_permission();
        }
    }

    fn store(&mut self, value: u64) {
        if !self.may_write {
            if let Some(log) = &self.log
                && !log.load(Ordering::Acquire)
            {
                log.swap(true, Ordering::AcqRel);
            }
            self.may_write = true;
        }
        self.world.page.store(value, Ordering::Relaxed);
    }

    fn leave(&mut self) {
        self.world.asks.leave(self.seen);
    }
}

/// Waits for the acknowledgement by looking twice and then for the vCPU's end: looking for ever has
/// no end in a model.
fn await_revoked(world: &World, vcpu: &mut Option<JoinHandle<()>>) {
    let (number, _) = world.asks.revoke();
    if !world.asks.is_acknowledged(number)
        && !world.asks.is_acknowledged(number)
        && let Some(vcpu) = vcpu.take()
    {
        vcpu.join().unwrap();
    }
    assert!(vcpu.is_some() || world.asks.is_acknowledged(number));
}

/// Runs a vCPU against one that starts logging, collects `rounds` times and copies the page when it
/// is reported; in the end the copy is the page.
fn model(rounds: usize, guest: fn(&mut Cpu)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let world = Arc::new(World { asks: Asks::default(), page: AtomicU64::new(0) });
        let mut cpu = Cpu::new(&world);
        let mut vcpu = Some(thread::spawn(move || guest(&mut cpu)));
        let log = Arc::new(AtomicBool::new(false));
        world.asks.set_log(Some(log.clone()));
        await_revoked(&world, &mut vcpu);
        let mut mirror = world.page.load(Ordering::Relaxed);
        for _ in 0..rounds {
            let dirty = log.swap(false, Ordering::AcqRel);
            await_revoked(&world, &mut vcpu);
            if dirty {
                mirror = world.page.load(Ordering::Relaxed);
            }
        }
        if let Some(vcpu) = vcpu {
            vcpu.join().unwrap();
        }
        if log.load(Ordering::Relaxed) {
            mirror = world.page.load(Ordering::Relaxed);
        }
        assert_eq!(mirror, world.page.load(Ordering::Relaxed), "a store was lost");
    });
}

#[test]
fn a_vcpu_that_just_starts_does_not_write_with_old_permission() {
    model(1, |cpu| {
        cpu.enter();
        cpu.store(1);
        cpu.leave();
    });
}

#[test]
fn a_vcpu_that_runs_on_sets_the_bit_again() {
    model(1, |cpu| {
        cpu.enter();
        cpu.store(1);
        cpu.look_around();
        cpu.store(2);
        cpu.look_around();
        cpu.leave();
    });
}

#[test]
fn a_vcpu_that_stops_and_starts_again_loses_nothing() {
    model(1, |cpu| {
        for value in 1..3 {
            cpu.enter();
            cpu.store(value);
            cpu.leave();
        }
    });
}

#[test]
fn collecting_twice_keeps_the_order() {
    model(2, |cpu| {
        cpu.enter();
        cpu.store(1);
        cpu.leave();
    });
}

/// A hart that uses a mapping for as long as it has it cached, against one that takes the mapping away
/// and fences: behind the fence nobody uses it.
#[test]
fn behind_a_fence_nobody_uses_what_it_had_cached() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = Arc::new(World { asks: Asks::default(), page: AtomicU64::new(0) });
        let mapped = Arc::new(AtomicBool::new(true));
        let fenced = Arc::new(AtomicBool::new(false));
        let hart = {
            let (world, mapped, fenced) = (world.clone(), mapped.clone(), fenced.clone());
            thread::spawn(move || {
                let (mut cached, mut seen) = (false, 0);
                for _ in 0..2 {
                    if world.asks.enter(seen) {
                        let asked = world.asks.take();
                        assert!(asked.fence.contains(Fence::TRANSLATIONS));
                        (cached, seen) = (false, asked.number);
                        world.asks.acknowledge(seen);
                    }
                    // The fence may end while this goes on, but not before it if this uses the mapping.
                    let behind = fenced.load(Ordering::Acquire);
                    cached |= mapped.load(Ordering::Relaxed);
                    assert!(!(cached && behind), "used behind the fence");
                    world.asks.leave(seen);
                }
            })
        };
        mapped.store(false, Ordering::Relaxed);
        let (number, _) = world.asks.fence(Fence::TRANSLATIONS);
        if world.asks.is_acknowledged(number) {
            fenced.store(true, Ordering::Release);
        }
        hart.join().unwrap();
    });
}

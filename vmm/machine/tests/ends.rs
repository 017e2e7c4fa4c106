//! How VMs begin and end. The only test of its process: it counts threads.
#![allow(clippy::unwrap_used)] // What only tests do.

mod rig;

use machine::{ConsoleBackend, ExitReason, FaultPath, RunState, VmConfig, VmControl, VmHandle};
use rig::{Machine, config};
use std::time::{Duration, Instant};

/// Threads of this process that belong to a VM.
fn vm_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let ours = |name: &String| {
        ["vcpu-", "driver", "virtio", "uart", "rtc"].iter().any(|start| name.starts_with(start))
    };
    names.map(|name| name.trim().to_owned()).filter(ours).collect()
}

fn until_no_thread_is_left(after: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !vm_threads().is_empty() {
        assert!(Instant::now() < deadline, "after {after}: {:?}", vm_threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn vms_that_end_or_never_began_leave_no_thread_and_lose_no_output() {
    let missing = VmConfig {
        kernel: Some("/nonexistent/kernel".into()),
        rng: true,
        ..config(false, FaultPath::Vcpu)
    };
    let error = VmHandle::launch(missing, ConsoleBackend::null()).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/kernel"), "{error}");
    until_no_thread_is_left("a launch that failed");

    let quit = Machine::ready();
    quit.vm.quit();
    assert_eq!(quit.vm.wait(), ExitReason::Quit);
    drop(quit);
    until_no_thread_is_left("quit");

    let switched_off = Machine::ready();
    switched_off.press(b'q');
    assert_eq!(switched_off.vm.wait(), ExitReason::GuestShutdown);
    // All of it, although the guest switches off at once.
    switched_off.screen.line(0, "bye");
    drop(switched_off);
    until_no_thread_is_left("a guest that switched itself off");

    let reset = Machine::ready();
    reset.vm.stop().unwrap();
    reset.vm.system_reset().unwrap();
    assert_eq!(reset.vm.status().status, RunState::Paused);
    let mark = reset.screen.mark();
    reset.vm.cont().unwrap();
    reset.screen.line(mark, "ready");
    reset.verify();
    reset.vm.system_reset().unwrap();
    reset.screen.line(mark, "verdict ok");
    let mark = reset.screen.mark();
    reset.screen.line(mark, "h ");
    reset.verify();
}

//! Tasks of the project: what CI runs, and the guests that tests move.

mod apt;
mod bench;
mod cpio;
mod guest;
mod kernels;
mod kvm_check;
mod layers;
mod lint;
mod linux;
mod linux_x86;
mod paths;
mod python;
mod qemu;
mod run;
mod soak;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the project", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI runs: lint and test
    Ci,
    /// Format, clippy, documentation, layers, the guest's image
    Lint,
    /// Make ready what tests need, and run all tests
    Test {
        /// Passed on to cargo test, for example: -- --nocapture
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Find or fetch QEMU's riscv64 and x86-64 emulators and say where they are
    Qemu,
    /// Find or make the Python that has QEMU's QMP client and say where it is
    QmpClient,
    /// Build the guests: the test guests' images in the repository, and Linux in guest/out
    Guest {
        /// Only check that the image in the repository is what its source gives
        #[arg(long, conflicts_with = "only")]
        check: bool,
        /// Only one of them: test, linux, linux-x86 (a kernel alone), or linux-amd64 (for kvm-check; built only
        /// when it is named)
        #[arg(value_parser = ["test", "linux", "linux-x86", "linux-amd64"])]
        only: Option<String>,
    },
    /// Move one busy Linux back and forth many times, and see that nothing grows
    Soak(soak::Options),
    /// Run everything that needs a KVM with the hardware's help: Debian's kernel, moved in every mode
    KvmCheck(kvm_check::Options),
    /// Measure umem beside QEMU on the same images in one run
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Ci => {
            lint::all()?;
            test::all(&[])
        }
        Task::Lint => lint::all(),
        Task::Test { arguments } => test::all(&arguments),
        Task::Qemu => {
            let riscv64 = qemu::ensure()?;
            for program in [riscv64.user, riscv64.system, qemu::ensure_x86()?] {
                println!("{} ({})", program.display(), qemu::version_of(&program)?);
            }
            Ok(())
        }
        Task::QmpClient => {
            println!("{}", python::ensure()?.display());
            Ok(())
        }
        Task::Soak(options) => soak::moves(&options),
        Task::KvmCheck(options) => kvm_check::check(&options),
        Task::Bench(options) => bench::measure(&options),
        Task::Guest { check: true, .. } => guest::check(),
        Task::Guest { only, .. } => {
            let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
            if wanted("test") {
                guest::build()?;
            }
            if wanted("linux") {
                linux::build()?;
            }
            if wanted("linux-x86") {
                linux_x86::build()?;
            }
            if only.as_deref() == Some("linux-amd64") {
                linux::AMD64.build()?;
            }
            Ok(())
        }
    }
}

//! Python with QEMU's own QMP client, which the JSON monitor is tested with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{apt, paths, run};

/// What is installed, each by version and content.
const REQUIREMENTS: &str = "tests/qmp/requirements.txt";

/// The interpreter of a virtual environment that has the client, which is made if it is not there.
pub(crate) fn ensure() -> Result<PathBuf> {
    let requirements = paths::root().join(REQUIREMENTS);
    let wanted = fs::read(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let folder = paths::target()?.join("qmp-client");
    let python = folder.join("bin/python3");
    // Written last: what was made halfway is made again.
    let made = folder.join("made-from.txt");
    if fs::read(&made).is_ok_and(|from| from == wanted) && has_client(&python) {
        return Ok(python);
    }
    eprintln!("xtask: making a Python with QEMU's QMP client in {}", folder.display());
    apt::need(&[("python3", "python3")])?;
    if environment(&folder).is_err() {
        // Debian's Python comes without what this takes.
        apt::install(&["python3-venv"])?;
        environment(&folder)?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
    let pinned = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement"];
    run::output(run::command(&python, pip).args(pinned).arg(&requirements))?;
    anyhow::ensure!(has_client(&python), "{} does not find qemu.qmp", python.display());
    fs::write(&made, wanted)?;
    Ok(python)
}

fn environment(folder: &Path) -> Result<()> {
    run::output(run::command("python3", ["-m", "venv", "--clear"]).arg(folder)).map(drop)
}

fn has_client(python: &Path) -> bool {
    run::output(&mut run::command(python, ["-c", "import qemu.qmp"])).is_ok()
}

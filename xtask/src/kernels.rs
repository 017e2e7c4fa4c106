//! Debian's kernels, taken out of their packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{apt::Apt, paths};

/// Which kernel, and what is fetched beside it.
pub(crate) struct Kernel {
    pub(crate) architecture: &'static str,
    /// The suite, by its code name and by its other name. While a mirror is being renewed the one may not
    /// match its lists, and the other still does: that is tried next, if it is the same release.
    pub(crate) suites: [&'static str; 2],
    /// The package that depends on the newest one.
    pub(crate) package: &'static str,
    pub(crate) beside: &'static [&'static str],
    /// Below the cache.
    pub(crate) folder: &'static str,
}

impl Kernel {
    /// Downloads the packages. Gives the files.
    pub(crate) fn fetch(&self) -> Result<Vec<PathBuf>> {
        let mut errors = Vec::new();
        for suite in self.suites {
            match self.fetch_from(suite) {
                Ok(debs) => return Ok(debs),
                Err(error) => errors.push(format!("{suite}: {error:#}")),
            }
        }
        bail!("cannot fetch the kernel: {}", errors.join("; "))
    }

    fn fetch_from(&self, suite: &str) -> Result<Vec<PathBuf>> {
        let [codename, _] = self.suites;
        let folder = paths::cache().join(self.folder).join(suite);
        let apt = Apt::new(&folder, self.architecture, &[suite], false)?;
        apt.update()?;
        if suite != codename && !apt.is_release(codename)? {
            bail!("is not {codename} any more");
        }
        let depends = apt.depends(self.package)?;
        let kernel = depends
            .iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{} names no kernel", self.package))?;
        let mut packages = vec![kernel.as_str()];
        packages.extend(self.beside);
        apt.download(&packages)
    }
}

/// Copies the kernel out of what its package was unpacked to, and gives its release.
pub(crate) fn take(root: &Path, to: &Path) -> Result<String> {
    for entry in fs::read_dir(root.join("boot")).context("no /boot in the kernel's package")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Debian calls a flat image vmlinux.
        if let Some(release) = name.strip_prefix("vmlinux-").or(name.strip_prefix("vmlinuz-")) {
            fs::copy(&path, to)?;
            return Ok(release.to_owned());
        }
    }
    bail!("no kernel in {}", root.join("boot").display())
}

/// The files' names without their endings: packages with their versions.
pub(crate) fn names(debs: &[PathBuf]) -> String {
    let names = debs.iter().filter_map(|deb| deb.file_stem()).map(|name| name.to_string_lossy());
    names.collect::<Vec<_>>().join(" ")
}

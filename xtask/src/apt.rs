//! Debian packages: installed tools, and packages unpacked without being installed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Makes sure that the programs are there, by installing the packages that hold them.
pub(crate) fn need(programs: &[(&str, &str)]) -> Result<()> {
    let packages: Vec<&str> =
        programs.iter().filter(|(name, _)| missing(name)).map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// A name with a slash is a file, else a program.
fn missing(name: &str) -> bool {
    if name.contains('/') { !Path::new(name).exists() } else { run::find(name).is_none() }
}

/// Installs the packages as root or by `sudo -n`; otherwise says the line to run.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if run::find("apt-get").is_none() {
        bail!("missing tools, and no apt-get to install them with: on Debian, {line}");
    }
    let root = run::text(&mut run::command("id", ["-u"]))?.trim() == "0";
    let sudo = !root && run::output(&mut run::command("sudo", ["-n", "true"])).is_ok();
    if !root && !sudo {
        bail!("missing tools; run: sudo {line}");
    }
    let apt = |arguments: &[&str]| {
        let mut command = if sudo {
            run::command("sudo", ["-n", "apt-get"])
        } else {
            run::command("apt-get", Vec::<&str>::new())
        };
        command.arg("-q").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run::output(&mut command)
    };
    eprintln!("xtask: {line}");
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    // The lists may be missing or old: look again only then.
    if apt(&arguments).is_err() {
        apt(&["update"])?;
        apt(&arguments)?;
    }
    Ok(())
}

/// An apt of our own: other suites or another architecture, without touching the system's.
pub(crate) struct Apt {
    folder: PathBuf,
    architecture: String,
    suites: Vec<String>,
}

impl Apt {
    /// `installed` counts what this machine has when dependencies are sought; only for its own
    /// architecture.
    pub(crate) fn new(
        folder: &Path,
        architecture: &str,
        suites: &[&str],
        installed: bool,
    ) -> Result<Self> {
        for part in ["lists/partial", "parts", "archives/partial", "state"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}", folder.join(part).display()))?;
        }
        let status = folder.join("state/status");
        let _ = fs::remove_file(&status);
        if installed {
            symlink("/var/lib/dpkg/status", &status)?;
        } else {
            fs::write(&status, "")?;
        }
        need(&[(KEYRING, "debian-archive-keyring")])?;
        let apt = Self {
            folder: folder.to_path_buf(),
            architecture: architecture.to_owned(),
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
        };
        let source = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n",
            mirror()?,
            apt.suites.join(" ")
        );
        fs::write(folder.join("parts/own.sources"), source)?;
        Ok(apt)
    }

    /// Fetches the lists of packages.
    pub(crate) fn update(&self) -> Result<()> {
        run::output(self.apt("apt-get").args(["-q", "update"])).map(drop)
    }

    /// Do the lists fetched belong to the release with this code name?
    pub(crate) fn is_release(&self, codename: &str) -> Result<bool> {
        for entry in fs::read_dir(self.folder.join("lists"))? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with("Release") {
                let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                return Ok(text.lines().any(|line| line == format!("Codename: {codename}")));
            }
        }
        Ok(false)
    }

    /// The exact packages that a package depends on, first alternatives only.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = run::text(self.apt("apt-cache").args(["depends", "--important", package]))?;
        let names = shown.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads the packages alone. Gives the files.
    pub(crate) fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        clear_debs(&archives)?;
        run::output(
            self.apt("apt-get").args(["-q", "download"]).args(packages).current_dir(&archives),
        )?;
        debs(&archives)
    }

    /// Downloads the packages and all that they need and this machine lacks. Gives the files.
    pub(crate) fn download_with_dependencies(
        &self,
        packages: &[&str],
        suite: &str,
    ) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        clear_debs(&archives)?;
        run::output(
            self.apt("apt-get")
                .args([
                    "-q",
                    "install",
                    "-y",
                    "--download-only",
                    "--no-install-recommends",
                    "-t",
                    suite,
                ])
                .args(packages),
        )?;
        debs(&archives)
    }

    fn apt(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new(program);
        for option in [
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures::={}", self.architecture),
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={folder}/parts"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/state/status"),
            format!("Dir::Cache::archives={folder}/archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            // Our folders have one user; the system's lock is for its own.
            "Debug::NoLocking=1".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Unpacks packages into a folder.
pub(crate) fn unpack(debs: &[PathBuf], into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    for deb in debs {
        run::output(run::command("dpkg-deb", ["-x"]).arg(deb).arg(into))?;
    }
    Ok(())
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn clear_debs(folder: &Path) -> Result<()> {
    for deb in debs(folder)? {
        fs::remove_file(deb)?;
    }
    Ok(())
}

/// The Debian mirror that the machine's own sources name.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("UMEM_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "list" || end == "sources"))
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .ok_or_else(|| anyhow!("the machine's apt sources name no Debian mirror; set UMEM_DEBIAN_MIRROR to one's URL"))
}

fn mirror_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(|word| word.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn the_mirror_is_found_in_both_forms_of_sources() {
        let one = "deb [signed-by=/k] https://a.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(one).as_deref(), Some("https://a.example/debian"));
        let two = "Types: deb\nURIs: http://b.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(two).as_deref(), Some("http://b.example/debian"));
        assert_eq!(mirror_in("# deb http://c.example/debian x main\n"), None);
        assert_eq!(mirror_in("deb http://c.example/debian-security x main\n"), None);
    }
}

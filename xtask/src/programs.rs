//! Programs that tests need and this repository does not build: from the system, or else from
//! Debian's packages, unpacked under `target/programs` without being installed.

use crate::shell;
use anyhow::{Context, Result};
use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A program, and the argument with which it says its version.
type Program = (&'static str, &'static str);

/// What the tests of TLS speak to.
pub(crate) const OPENSSL: Program = ("openssl", "version");
/// What the soak `crash-points` is checked by.
pub(crate) const STRACE: Program = ("strace", "-V");

/// `PATH` with which `program` is found.
///
/// # Errors
/// The machine has none, and Debian's package, which is called the same, cannot be had either.
pub(crate) fn path_with(program: Program) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let (name, _) = program;
    if runs(Path::new(name), program) {
        return Ok(path);
    }
    let folder = shell::target().join("programs");
    let starter = folder.join("bin").join(name);
    if !runs(&starter, program) {
        unpack(name, &folder, &starter)?;
    }
    let folders = [folder.join("bin")].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("a folder of PATH has a colon")
}

fn runs(path: &Path, (_, version): Program) -> bool {
    Command::new(path).arg(version).output().is_ok_and(|output| output.status.success())
}

/// The program and its libraries, whose packages have other names in each release of Debian.
fn unpack(name: &str, folder: &Path, starter: &Path) -> Result<()> {
    let packages = folder.join("packages").join(name);
    fs::create_dir_all(&packages)?;
    let needs = shell::output(Command::new("apt-cache").args(["depends", name]))?;
    let libraries = needs.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    // The C library is there already, or nothing would run.
    let wanted = libraries.filter(|library| library.starts_with("lib") && *library != "libc6");
    let mut download = Command::new("apt-get");
    download.arg("download").args(wanted).arg(name).current_dir(&packages);
    shell::run(&mut download)?;
    let root = folder.join("root");
    for entry in fs::read_dir(&packages)? {
        shell::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(&root))?;
    }
    let library = root.join("usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    write_starter(starter, &root.join("usr/bin").join(name), &library)
}

/// A program is started with its own library, which the system does not know.
fn write_starter(starter: &Path, program: &Path, library: &Path) -> Result<()> {
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        library.display(),
        program.display()
    );
    fs::create_dir_all(starter.parent().map_or_else(PathBuf::new, Path::to_owned))?;
    fs::write(starter, text)?;
    fs::set_permissions(starter, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starter_hands_its_arguments_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let starter = folder.path().join("bin/say");
        write_starter(&starter, Path::new("/bin/echo"), folder.path()).expect("written");
        // By its shell: where another test starts a program at this moment, that one still holds
        // the file open for writing, and the kernel starts nothing that is ("text file busy").
        let mut command = Command::new("sh");
        let output = command.arg(&starter).args(["one two", "$HOME"]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one two $HOME\n");
        assert!(runs(Path::new("/bin/echo"), OPENSSL) && !runs(&folder.path().join("no"), OPENSSL));
    }
}

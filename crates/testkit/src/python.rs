//! Python scripts that drive the router with the SDKs that users have.

use std::path::Path;
use std::time::Duration;

use crate::process::{self, Finished, Launch, ProcessError};
use crate::tools;

/// A script for the Python of `cargo xtask setup`, which sees `openai` and `anthropic`.
///
/// Add arguments and variables to what these return; then [`run`] it.
pub fn file(script: impl AsRef<Path>) -> Result<Launch, ProcessError> {
    Ok(python()?.arg(script.as_ref()))
}

/// The same with the program's text in place of a file.
pub fn code(text: &str) -> Result<Launch, ProcessError> {
    Ok(python()?.arg("-c").arg(text))
}

fn python() -> Result<Launch, ProcessError> {
    // A proxy of the machine must not come between the SDKs and a server on the loopback address.
    Ok(Launch::new(tools::python()?)
        .env("NO_PROXY", "*")
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Runs the script and returns what it printed; it fails if the script fails or takes too long.
pub async fn run(script: Launch, limit: Duration) -> Result<String, ScriptError> {
    let Finished { status, stdout, stderr } = process::run_to_end(script, limit).await?;
    if !status.success() {
        return Err(ScriptError::Failed { status: status.to_string(), stdout, stderr });
    }
    Ok(stdout)
}

/// Why a script gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the script ended with {status}\n{stdout}\n{stderr}")]
    Failed { status: String, stdout: String, stderr: String },
}

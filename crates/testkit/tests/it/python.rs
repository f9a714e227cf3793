use std::time::Duration;

use router_testkit::python::{self, ScriptError};

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn the_sdks_are_there() -> Result<(), ScriptError> {
    let script =
        python::code("import sys, openai, anthropic; print(openai.__name__, sys.argv[1])")?;
    assert_eq!(python::run(script.arg("x y"), LIMIT).await?, "openai x y");
    Ok(())
}

#[tokio::test]
async fn a_failing_script_shows_its_traceback() -> Result<(), ScriptError> {
    let script = python::code("print('before')\nraise ValueError('that is why')")?;
    let error = python::run(script, LIMIT).await.err().map(|error| error.to_string());
    let message = error.unwrap_or_default();
    assert!(message.contains("ValueError: that is why"), "{message}");
    assert!(message.contains("before"), "{message}");
    Ok(())
}

//! A bug in one plugin must not take the process down, nor the request.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `call` of a plugin; `None` when it panicked. What the plugin leaves behind is only its own: engine
/// state is never changed inside `call`.
pub(crate) fn isolated<T>(
    plugin: &str,
    point: &'static str,
    call: impl FnOnce() -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            tracing::error!(
                plugin,
                extension_point = point,
                panic = message,
                "a plugin panicked; going on without it"
            );
            None
        }
    }
}

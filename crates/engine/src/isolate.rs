//! A bug in one plugin must not take the process down, nor the request.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use router_framework::loader::Ident;
use router_telemetry::RouterMetrics;

/// Runs `call` of a plugin; `None` when it panicked, which is logged and counted. What the plugin leaves
/// behind is only its own: engine state is never changed inside `call`.
pub(crate) fn isolated<T>(
    metrics: &RouterMetrics,
    plugin: &Ident,
    point: &'static str,
    call: impl FnOnce() -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(panic) => {
            note_panic(metrics, plugin, point, &*panic);
            None
        }
    }
}

/// Logs and counts a panic that was caught elsewhere.
pub(crate) fn note_panic(
    metrics: &RouterMetrics,
    plugin: &Ident,
    point: &'static str,
    panic: &(dyn Any + Send),
) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default();
    let Ident { name, plugin_type } = plugin;
    tracing::error!(
        plugin = &**name,
        extension_point = point,
        panic = message,
        "a plugin panicked; going on without it"
    );
    metrics.scheduler.plugin_panics.with([point, plugin_type, name]).inc();
}

//! Profile handlers: they decide which profiles run for a request.

pub mod header;
pub mod single;

use router_core::Rejection;
use router_framework::{Cycle, ProfileIndex};

/// The profile that has run, as the primary one; its error where it failed.
fn only_run(cycle: &Cycle<'_>) -> Result<ProfileIndex, Rejection> {
    let run = (0..cycle.runs.len()).map(ProfileIndex).find(|profile| cycle.has_run(*profile));
    let profile = run.ok_or_else(|| Rejection::internal("no scheduling profile has run"))?;
    match cycle.error(profile) {
        Some(error) => Err(error.clone()),
        None => Ok(profile),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use router_framework::{Instance, ProfileHandler, ProfileRun};
    use router_testkit::scheduling::Scene;

    use super::*;

    /// Names of the profiles that the handler asks for, then of the primary one after they ran.
    pub(crate) fn cycle(
        plugin: &Instance,
        scene: &Scene,
        names: &[&str],
        outcome: Result<(), Rejection>,
    ) -> Result<String, Rejection> {
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        let handler: &dyn ProfileHandler = &**plugin.profile_handler.as_ref().unwrap();
        let mut runs: Vec<_> = names.iter().map(|_| None).collect();
        let wanted = handler.next(&scene.cx(), &Cycle { names: &names, runs: &runs })?;
        assert_eq!(wanted.len(), 1, "one profile per request");
        for profile in &wanted {
            runs[profile.0] = Some(outcome.clone().map(|()| ProfileRun::default()));
        }
        let ran = Cycle { names: &names, runs: &runs };
        assert!(handler.next(&scene.cx(), &ran)?.is_empty(), "the cycle must end");
        let primary = handler.primary(&scene.cx(), &ran)?;
        assert_eq!(primary, wanted[0]);
        Ok(names[primary.0].to_string())
    }
}

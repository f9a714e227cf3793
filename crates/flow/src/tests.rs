//! The flow controller as a whole: against a slow, obviously correct model, and scene by scene.

mod driver;
mod model;
mod model_policy;
mod overload;
mod panics;
mod random;
mod scenes;

//! The flow controller as a whole: against a slow, obviously correct model, and scene by scene.

mod defects;
mod driver;
mod locality;
mod model;
mod model_limit;
mod model_policy;
mod overload;
mod panics;
mod random;
mod scene;
mod scenes;
mod subsets;

//! The executable: command line, wiring and signals.
//!
//! [`App`] holds the plugin types and runs whatever personality the command line names: `serve`, `epp`,
//! `sim`, `replay` or `config`. People who write plugins of their own build an executable of their own from it:
//!
//! ```no_run
//! use llm_d_router::App;
//!
//! // `.plugin(&MY_SCORER)` adds a plugin type, or replaces one of the same name.
//! std::process::exit(llm_d_router::exit_code(App::new().run()));
//! ```
//!
//! What a personality does is in its own module; what several share is below them:
//!
//! | module | what |
//! | --- | --- |
//! | [`cli`] | flags, Go's included |
//! | [`configuration`] | from a document to a loaded pipeline, errors shown with their place |
//! | [`running`] | a router at work: discovery, scraping, gauges, objectives, reload |
//! | [`record`] | live traffic into a file |
//! | [`tls`] | certificates and what flags say about them |
//! | [`capabilities`] | sockets for those who must not have any: fetching pages, looking up names |
//! | [`admin`] | the pages of the metrics port |

mod admin;
mod app;
mod capabilities;
pub mod cli;
mod config_command;
mod configuration;
mod epp;
mod explain;
mod origin;
mod presets;
mod process;
mod record;
mod replay;
mod running;
mod serve;
mod sim;
mod tls;

// Only the build script runs it.
#[cfg(test)]
#[path = "../build/git.rs"]
mod git;
#[cfg(test)]
mod reference;

pub use app::{App, exit_code};

//! Takes the endpoints of the pool from a file.
//!
//! ```text
//! endpoints:
//! - name: vllm-0
//!   namespace: default
//!   address: 10.0.0.1
//!   port: 8000
//!   labels:
//!     llm-d.ai/role: decode
//! - name: vllm-1
//!   address: vllm-1.example
//!   port: "8000"
//!   metricsPort: 9400
//! ```
//!
//! The file is YAML or JSON of at most 1 MiB.
//! An endpoint is known by its namespace, `default` where none is given, and its name; of two with one name the later counts, with a warning.
//! The address is an IPv4 or IPv6 address or a DNS name, the port a number or a text.
//! `metricsAddress` and `metricsPort` say where its metrics are where that is another place.
//! Other keys are ignored.
//!
//! A DNS name is one endpoint: its first address is taken, and kept for as long as the name has it.
//! Names are looked up again every 30 seconds, or 5 while one is unknown.
//! An endpoint whose name was never found is left out until it is; one whose name is lost keeps its last address.
//!
//! The file must be right when the router starts: any fault in it ends the start, with its line.
//! With `watchFile`, it is looked at every second, and changes take effect without a restart, however the file is replaced.
//! A file that is missing, cannot be read or has no list of endpoints changes nothing.
//! A wrong entry keeps what the endpoint of that name was before; faults are logged with file and line.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: file-discovery
//!   parameters:
//!     path: /etc/router/endpoints.yaml
//!     watchFile: true
//! dataLayer:
//!   discovery:
//!     pluginRef: file-discovery
//! ```

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, Either, select};
use parking_lot::Mutex;
use router_core::EndpointSpec;
use router_framework::{
    BuildCx, BuildError, DUMP_LIMIT, Discovery, DiscoveryCx, DiscoveryError, DumpState, Instance,
    PluginDef, Role,
};
use router_rt::{Clock, FileWatch, Offload, WatchOptions, WatchedFile};
use router_telemetry::{
    RouterMetrics,
    router::{Followed, Reloads},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::members::Members;

mod entries;
mod members;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("file-discovery", &[Role::Discovery], file!(), build);

const MAX_FILE_BYTES: u64 = 1 << 20;

/// How often a watched file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Parameters of `file-discovery`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// The file. Must be given.
    pub path: String,
    /// Whether changes of the file take effect while the router runs.
    pub watch_file: bool,
}

struct FileDiscovery {
    path: String,
    watches: bool,
    offload: Offload,
    clock: Clock,
    metrics: Arc<RouterMetrics>,
    /// What was reported last, for the debug page.
    reported: Mutex<Arc<[EndpointSpec]>>,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if params.path.is_empty() {
        return Err(BuildError::at("path", "must be given"));
    }
    let discovery = Arc::new(FileDiscovery {
        path: params.path,
        watches: params.watch_file,
        offload: cx.env().offload.clone(),
        clock: cx.env().clock,
        metrics: Arc::clone(&cx.env().metrics),
        reported: Mutex::new(Arc::new([])),
    });
    Ok(Instance::new().discovery(Arc::clone(&discovery)).dump(discovery))
}

impl FileDiscovery {
    async fn follow(&self, cx: &DiscoveryCx) -> Result<(), DiscoveryError> {
        let options = WatchOptions {
            interval: WATCH_INTERVAL,
            max_file_bytes: MAX_FILE_BYTES,
            ..WatchOptions::default()
        };
        let mut watch = FileWatch::file(&self.path, options);
        let files = watch.changed(&self.offload).await;
        let files = files.map_err(|error| DiscoveryError(error.to_string()))?;
        let mut members = Members::default();
        self.begin(&mut members, &files)?;
        let reloads =
            self.watches.then(|| self.metrics.reloads.follow(Followed::Endpoints, self.now()));
        loop {
            members.look_up(cx).await;
            self.report(&members, cx);
            let changed = async {
                if !self.watches {
                    std::future::pending::<()>().await;
                }
                watch.changed(&self.offload).await
            };
            let due = cx.clock.sleep_until(members.next_look_up());
            match select(pin!(changed), pin!(due)).await {
                Either::Left((Ok(files), _)) => {
                    let is_whole = self.reload(&mut members, &files);
                    self.note(reloads.as_ref(), is_whole);
                }
                Either::Left((Err(error), _)) => {
                    tracing::warn!(%error, "endpoints stay as they are");
                    self.note(reloads.as_ref(), false);
                }
                Either::Right(_) => {}
            }
        }
    }

    /// The first file: any fault ends the start.
    fn begin(&self, members: &mut Members, files: &[WatchedFile]) -> Result<(), DiscoveryError> {
        let listing = self.parse(files).map_err(DiscoveryError)?;
        if listing.bad.is_empty() {
            self.warn_of_repeats(members.adopt(listing));
            return Ok(());
        }
        let faults: Vec<String> = listing
            .bad
            .iter()
            .map(|bad| format!("{}:{}: {}", self.path, bad.line, bad.message))
            .collect();
        Err(DiscoveryError(faults.join("; ")))
    }

    fn now(&self) -> f64 {
        self.clock.unix_now().as_secs_f64()
    }

    fn note(&self, reloads: Option<&Reloads>, is_whole: bool) {
        match reloads {
            Some(reloads) if is_whole => reloads.succeeded(self.now()),
            Some(reloads) => reloads.failed(),
            None => {}
        }
    }

    /// Takes what is right in a changed file; false where not all of it is.
    fn reload(&self, members: &mut Members, files: &[WatchedFile]) -> bool {
        let listing = match self.parse(files) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(error, "endpoints stay as they are");
                return false;
            }
        };
        for bad in &listing.bad {
            let place = format!("{}:{}", self.path, bad.line);
            let endpoint = bad.id.as_deref().unwrap_or_default();
            tracing::warn!(place, endpoint, error = bad.message, "an endpoint stays as it was");
        }
        let is_whole = listing.bad.is_empty();
        self.warn_of_repeats(members.adopt(listing));
        is_whole
    }

    fn parse(&self, files: &[WatchedFile]) -> Result<entries::Listing, String> {
        let contents = files.first().map(|file| file.contents.as_slice()).unwrap_or_default();
        entries::parse(&self.path, contents)
    }

    fn warn_of_repeats(&self, repeats: Vec<(u32, String)>) {
        for (line, endpoint) in repeats {
            let place = format!("{}:{line}", self.path);
            tracing::warn!(place, endpoint, "the endpoint is listed twice, this entry counts");
        }
    }

    fn report(&self, members: &Members, cx: &DiscoveryCx) {
        let specs = members.specs();
        *self.reported.lock() = specs.as_slice().into();
        cx.sink.replace(specs);
    }
}

impl Discovery for FileDiscovery {
    fn run(self: Arc<Self>, cx: DiscoveryCx) -> BoxFuture<'static, Result<(), DiscoveryError>> {
        Box::pin(async move {
            let token = cx.tasks.token().clone();
            token.run_until_cancelled(self.follow(&cx)).await.unwrap_or(Ok(()))
        })
    }
}

impl DumpState for FileDiscovery {
    fn dump(&self) -> serde_json::Value {
        let reported = Arc::clone(&self.reported.lock());
        let shown = reported.iter().take(DUMP_LIMIT).map(|spec| {
            serde_json::json!({
                "endpoint": format!("{}/{}", spec.namespace, spec.name),
                "address": &*spec.address,
                "port": spec.port,
                "host": spec.host.as_deref(),
            })
        });
        serde_json::json!({
            "path": self.path,
            "endpoints": reported.len(),
            "list": shown.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;

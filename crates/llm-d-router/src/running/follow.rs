//! What follows the files of a running router: its configuration and its resources.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use router_engine::{PoolChoice, Resources, ResourcesError, resources::Warning};
use router_rt::{FileWatch, Offload, WatchOptions, WatchedFile};
use router_telemetry::router::Followed;

use super::Running;
use crate::{
    cli::UsageError,
    configuration::{Faulty, MAX_DOCUMENT_BYTES, Source},
};

/// How often files are looked at: a person who has changed one waits for the effect.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// When a configuration is tried again that is right in itself and could not be started, such as one whose
/// endpoints file is not there yet.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How files are watched.
pub(crate) fn watch_options() -> WatchOptions {
    WatchOptions { interval: LOOK_INTERVAL, ..WatchOptions::default() }
}

/// Reloads the configuration whenever the file's text is another than the one that serves.
pub(super) async fn configuration(running: Arc<Running>, path: PathBuf, mut serving: Vec<u8>) {
    let offload = Offload::pool(1);
    let options = WatchOptions { max_file_bytes: MAX_DOCUMENT_BYTES, ..watch_options() };
    let mut watch = FileWatch::file(&path, options);
    let notes = running.follow(Followed::Configuration);
    let mut put_off = None;
    let mut has_failed = false;
    loop {
        let looked = tokio::select! {
            biased;
            looked = watch.changed(&offload) => looked,
            text = later(put_off.as_deref()) => Ok(vec![WatchedFile { path: path.clone(), contents: text }]),
        };
        put_off = None;
        let text = match looked {
            Ok(files) => files.into_iter().next().map(|file| file.contents).unwrap_or_default(),
            Err(error) => {
                has_failed = true;
                notes.take(false);
                tracing::error!(%error, "going on with the last good configuration");
                continue;
            }
        };
        let file = path.display().to_string();
        if text == serving {
            if std::mem::take(&mut has_failed) {
                notes.take(true);
                tracing::info!(file, "the configuration file is as it was, which is what serves");
            }
            continue;
        }
        match running.reload(&Source { name: file.clone(), text: Some(text.clone()) }).await {
            Ok(()) => {
                has_failed = false;
                notes.take(true);
                serving = text;
                tracing::info!(file, "configuration reloaded");
            }
            Err(error) => {
                has_failed = true;
                notes.take(false);
                let is_lasting = error.is::<Faulty>() || error.is::<UsageError>();
                put_off = (!is_lasting).then_some(text);
                let error = format!("{error:#}");
                tracing::error!(file, error, "going on with the last good configuration");
            }
        }
    }
}

/// The text that was put off, when it is its time.
async fn later(put_off: Option<&[u8]>) -> Vec<u8> {
    let Some(text) = put_off else { return std::future::pending().await };
    tokio::time::sleep(RETRY_INTERVAL).await;
    text.to_vec()
}

/// The files of the resources, watched.
pub(super) struct Manifests {
    watch: FileWatch,
    /// Which pool is served. Once a manifest has said it, that stays: the pool's name is in the metrics.
    choice: PoolChoice,
}

impl Manifests {
    /// Reads a file or a directory of them.
    pub(super) fn open(
        path: &Path,
        choice: PoolChoice,
        warn: &mut dyn FnMut(&Warning),
    ) -> Result<(Self, Resources), UsageError> {
        let mut watch = FileWatch::path(path, &["yaml", "yml", "json"], watch_options());
        let files = watch.load().map_err(|error| UsageError::at("--resources", error))?;
        let (resources, warnings) = parse(&files, &choice).map_err(UsageError::of)?;
        warnings.iter().for_each(warn);
        let mut manifests = Self { watch, choice };
        manifests.keep_name(&resources);
        Ok((manifests, resources))
    }

    /// Hands every change to the router.
    pub(super) async fn follow(mut self, running: Arc<Running>) {
        let offload = Offload::pool(1);
        let notes = running.follow(Followed::Resources);
        loop {
            let resources = match self.watch.changed(&offload).await {
                Ok(files) => self.read(files, &offload).await,
                Err(error) => Err(error.to_string()),
            };
            notes.take(resources.is_ok());
            match resources {
                Ok(resources) => {
                    let (objectives, rewrites) =
                        (resources.objectives.len(), resources.rewrites.len());
                    let pool = resources.pool.as_ref().map(|pool| pool.name.clone());
                    running.set_resources(resources);
                    tracing::info!(objectives, rewrites, pool, "resources reloaded");
                }
                Err(error) => tracing::error!(error, "going on with the last good resources"),
            }
        }
    }

    /// Reads what may be thousands of objects, away from the threads that serve.
    async fn read(
        &mut self,
        files: Vec<WatchedFile>,
        offload: &Offload,
    ) -> Result<Resources, String> {
        let choice = self.choice.clone();
        let parsed = offload.run(move || parse(&files, &choice)).await;
        let parsed = parsed.map_err(|error| error.to_string())?;
        let (resources, warnings) = parsed.map_err(|error| error.to_string())?;
        warnings.iter().for_each(log_warning);
        self.keep_name(&resources);
        Ok(resources)
    }

    fn keep_name(&mut self, resources: &Resources) {
        if let (None, Some(pool)) = (&self.choice.name, &resources.pool) {
            self.choice.name = Some(pool.name.clone());
        }
    }
}

fn parse(
    files: &[WatchedFile],
    choice: &PoolChoice,
) -> Result<(Resources, Vec<Warning>), ResourcesError> {
    let named: Vec<_> =
        files.iter().map(|file| (file.path.display().to_string(), &file.contents)).collect();
    let named = named.iter().map(|(name, contents)| (name.as_str(), contents.as_slice()));
    Resources::parse(named, choice)
}

/// Reads resources once.
pub(crate) fn read_resources(
    path: &Path,
    choice: PoolChoice,
    warn: &mut dyn FnMut(&Warning),
) -> Result<Resources, UsageError> {
    Manifests::open(path, choice, warn).map(|(_, resources)| resources)
}

pub(super) fn log_warning(warning: &Warning) {
    let Warning { place, path, message, help } = warning;
    tracing::warn!(place, path, help, "resources: {message}");
}

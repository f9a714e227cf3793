//! Scheduling profiles and the profile handler.

use std::collections::BTreeMap;

use super::{Availability, Checker, Diagnostics, Node, Path, Plugin, Role, Span, Target, quote};
use crate::document::model::{Profile, ProfilePlugin};

/// The one handler that is tied to a number of profiles.
const SINGLE: &str = crate::document::defaults::SINGLE_PROFILE_HANDLER;
/// Without scores it picks at random, though its name says otherwise.
const BY_SCORE: &str = crate::document::defaults::PICKER;

impl Checker<'_> {
    pub(super) fn profiles(&mut self) {
        let document = self.document;
        let mut lines = BTreeMap::new();
        for profile in &document.profiles {
            if !profile.name.is_empty() {
                let name = format!("{}.name", profile.path);
                if let Some(line) = lines.insert(&profile.name, profile.span.line) {
                    let message = format!("a second profile named {}", quote(&profile.name));
                    let help = || Some(format!("the other is on line {line}"));
                    self.diagnostics.error(profile.span, Path::Base(&name), message, help);
                }
            }
            self.profile(profile);
        }
        if document.profiles.is_empty() {
            self.default_profile();
        }
        self.handlers();
    }

    fn profile(&mut self, profile: &Profile) {
        let mut lines = BTreeMap::new();
        let mut picker: Option<&ProfilePlugin> = None;
        for entry in &profile.plugins {
            let reference = &entry.plugin;
            let path = Path::Base(&reference.path);
            let repeated = lines.insert(&reference.name, reference.span.line);
            let Target::Known(info) = self.resolve(reference) else { continue };
            if !info.roles.iter().any(|role| role.is_scheduling()) {
                let message = format!(
                    "{} is no filter, scorer or picker; in a profile it does nothing",
                    quote(&reference.name)
                );
                self.diagnostics.warning(reference.span, path, message, || None);
            }
            if info.has(Role::Picker) {
                if let Some(first) = picker.replace(entry) {
                    second_picker(first, entry, self.diagnostics);
                }
            } else if let Some(line) = repeated {
                let message =
                    format!("{} is listed twice and counts twice", quote(&reference.name));
                let help = || Some(format!("it is on line {line} too"));
                self.diagnostics.warning(reference.span, path, message, help);
            }
        }
        self.weights(profile);
        let plugins = profile.plugins.iter().map(|entry| &entry.plugin);
        self.lone_scorers(plugins.map(|plugin| (plugin.name.as_str(), plugin.span, &plugin.path)));
    }

    /// Says which scorer belongs into a profile alone and is not. The plugins of one profile: name, and where.
    fn lone_scorers<'p>(&mut self, plugins: impl Iterator<Item = (&'p str, Span, &'p String)>) {
        let mut scorers = BTreeMap::new();
        for (name, span, path) in plugins {
            let plugin = self.document.plugin(name);
            let info = plugin.and_then(|plugin| self.catalog.lookup(&plugin.plugin_type));
            if let Some(info) = info.filter(|info| info.has(Role::Scorer)) {
                scorers.entry(name).or_insert((info.alone, span, path));
            }
        }
        for (name, (alone, span, path)) in &scorers {
            let Some((reason, other)) = alone.zip(scorers.keys().find(|other| *other != name))
            else {
                continue;
            };
            let message =
                format!("{} is to be the only scorer of a profile: {reason}", quote(name));
            let help = || Some(format!("leave out {}, or this one", quote(other)));
            self.diagnostics.warning(*span, Path::Base(path), message, help);
        }
    }

    fn weights(&mut self, profile: &Profile) {
        for entry in profile.plugins.iter().filter(|entry| entry.weight.is_some()) {
            if let Target::Known(info) = self.target(&entry.plugin)
                && !info.has(Role::Scorer)
            {
                let path = entry.plugin.path.replace(".pluginRef", ".weight");
                let message =
                    format!("{} is no scorer; its weight is ignored", quote(&entry.plugin.name));
                self.diagnostics.warning(entry.weight_span, path, message, || None);
            }
        }
    }

    /// Without profiles all pickers would come into one.
    fn default_profile(&mut self) {
        let pickers = self.document.having(Role::Picker, self.catalog);
        for pair in pickers.windows(2) {
            if let [first, second] = pair {
                let message = "a second picker, and no profile that says which one to use";
                let path = Path::Base(&second.path);
                self.diagnostics.error(second.span, path, message, || {
                    Some(format!("{} is the first; write `schedulingProfiles`", place(first)))
                });
            }
        }
        let scorers = self.document.having(Role::Scorer, self.catalog).into_iter();
        self.lone_scorers(scorers.map(|scorer| (scorer.name.as_str(), scorer.span, &scorer.path)));
    }

    /// One profile handler, or none where a single profile needs no choice.
    fn handlers(&mut self) {
        let handlers = self.document.having(Role::ProfileHandler, self.catalog);
        let n_profiles = self.document.profiles.len();
        for pair in handlers.windows(2) {
            if let [first, second] = pair {
                let path = Path::Base(&second.path);
                self.diagnostics.error(second.span, path, "a second profile handler", || {
                    Some(format!("{} is the first; there can be only one", place(first)))
                });
            }
        }
        for handler in handlers.iter().filter(|handler| handler.plugin_type == SINGLE) {
            if n_profiles > 1 {
                let message = format!("`{SINGLE}` cannot handle {n_profiles} profiles");
                self.diagnostics.error(handler.span, Path::Base(&handler.path), message, || None);
            }
        }
        // The handler may be the one whose own error is reported elsewhere.
        let n_written = self.root.get("plugins").and_then(Node::as_list).map_or(0, <[_]>::len);
        let all_known = n_written == self.document.plugins.len()
            && self.document.plugins.iter().all(|plugin| {
                let info = self.catalog.lookup(&plugin.plugin_type);
                info.is_some_and(|info| info.availability == Availability::Available)
            });
        if handlers.is_empty() && n_profiles > 1 && all_known {
            let span = self.key_span("schedulingProfiles");
            let path = Path::ROOT;
            let message = "several profiles need a profile handler among the plugins";
            self.diagnostics.error(span, path.key("schedulingProfiles"), message, || None);
        }
    }

    /// Says that nothing is scored. A picker other than the one that is added by itself was chosen by
    /// someone who knows.
    pub(super) fn scorers(&mut self) {
        let (document, catalog) = (self.document, self.catalog);
        let mut pickers = document.having(Role::Picker, catalog).into_iter();
        if pickers.any(|picker| picker.plugin_type != BY_SCORE) {
            return;
        }
        let declared = document.having(Role::Scorer, catalog);
        let listed = document.profiles.iter().flat_map(|profile| &profile.plugins);
        let mut listed = listed.filter_map(|entry| document.plugin(&entry.plugin.name));
        let is_scored = match document.profiles.as_slice() {
            [] => !declared.is_empty(),
            _ => listed.any(|plugin| {
                catalog.lookup(&plugin.plugin_type).is_some_and(|info| info.has(Role::Scorer))
            }),
        };
        if is_scored {
            return;
        }
        let (key, help) = match (declared.first(), document.profiles.as_slice()) {
            (Some(scorer), _) => {
                ("schedulingProfiles", format!("add `- pluginRef: {}` to a profile", scorer.name))
            }
            (None, []) => (
                "plugins",
                "add scorers to `plugins`, such as `- type: queue-scorer` and \
                 `- type: prefix-cache-scorer`; or `- type: random-picker` if chance is meant"
                    .to_owned(),
            ),
            (None, _) => (
                "schedulingProfiles",
                "add scorers, such as `- type: queue-scorer` to `plugins` and \
                 `- pluginRef: queue-scorer` to a profile; or `- type: random-picker` if chance is meant"
                    .to_owned(),
            ),
        };
        let message = "no profile has a scorer: requests go to endpoints at random";
        let span = self.key_span(key);
        self.diagnostics.warning(span, Path::ROOT.key(key), message, || Some(help));
    }

    /// Where a key of the document itself stands.
    pub(super) fn key_span(&self, key: &str) -> Span {
        let entry = self.root.as_map().and_then(|map| map.entry(key));
        entry.map_or(Span::NONE, |entry| entry.key_span)
    }
}

fn second_picker(first: &ProfilePlugin, second: &ProfilePlugin, diagnostics: &mut Diagnostics) {
    let (first, second) = (&first.plugin, &second.plugin);
    let path = Path::Base(&second.path);
    diagnostics.error(second.span, path, "a second picker in this profile", || {
        Some(format!("{} on line {} is the first", quote(&first.name), first.span.line))
    });
}

fn place(plugin: &Plugin) -> String {
    format!("{} on line {}", quote(&plugin.name), plugin.span.line)
}

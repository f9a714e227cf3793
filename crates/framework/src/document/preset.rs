//! Configuration documents that have a name, so that nobody needs to write them.

/// A named configuration document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    /// One line: the rule, and where it comes from.
    pub about: &'static str,
    /// An `EndpointPickerConfig`.
    pub document: &'static str,
}

/// The least predicted time. It runs where no document is given.
pub const ESTIMATED_TTFT: Preset = Preset {
    name: "estimated-ttft",
    about: "the fewest predicted seconds, its own and those it costs others; no weights (ours)",
    document: include_str!("presets/estimated-ttft.yaml"),
};

/// What the Go implementation runs where no document is given.
pub const GO_DEFAULT: Preset = Preset {
    name: "go-default",
    about: "queue 2, KV cache 2, prefix 3 (the default of llm-d's endpoint picker in Go)",
    document: include_str!("presets/go-default.yaml"),
};

/// All presets, the one that runs without a document first.
pub const PRESETS: [Preset; 2] = [ESTIMATED_TTFT, GO_DEFAULT];

/// What the first of them is called as well: the name of what runs without a document.
pub const DEFAULT_NAME: &str = "default";

/// The preset of that name.
pub fn named(name: &str) -> Option<&'static Preset> {
    let name = if name == DEFAULT_NAME { ESTIMATED_TTFT.name } else { name };
    PRESETS.iter().find(|preset| preset.name == name)
}

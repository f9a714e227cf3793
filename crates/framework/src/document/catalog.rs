//! What a document is checked against: the plugin types that exist.

use schemars::Schema;

/// The plugin types that a document may name. The registry implements it; this module knows no
/// plugin.
pub trait Catalog {
    /// What is known about a type; `None` if there is no such type.
    fn lookup(&self, plugin_type: &str) -> Option<TypeInfo<'_>>;

    /// All type names that can be used, for suggestions and the schema.
    fn types(&self) -> Vec<&str>;

    /// Who has a type that there is not here, for who asks for it.
    fn who_has(&self, _plugin_type: &str) -> Option<&str> {
        None
    }
}

/// What is known about a plugin type.
#[derive(Debug, Clone, Copy)]
pub struct TypeInfo<'a> {
    /// Whether this version has it.
    pub availability: Availability<'a>,
    /// How settled it is.
    pub stability: Stability,
    /// Set if it is going away.
    pub deprecation: Option<Deprecation<'a>>,
    /// What it can be used as.
    pub roles: &'a [Role],
    /// The schema of its parameters; `None` if it takes none.
    pub parameters: Option<fn() -> Schema>,
    /// Parameters that name other plugins of the document: `deciders.prefill`, `stages[].decider`.
    pub references: &'a [&'a str],
    /// Why no other scorer belongs into a profile with it.
    pub alone: Option<&'a str>,
    /// One sentence, for editors.
    pub description: &'a str,
}

/// Whether this version has a plugin type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability<'a> {
    /// It can be used.
    Available,
    /// It belongs to a feature that this version does not have.
    Later {
        /// What the feature is called.
        feature: &'a str,
    },
}

/// How settled a plugin type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// An experiment: needs a flag at start-up.
    Alpha,
    /// Ready for use; may still change.
    Beta,
    /// Changes only with notice.
    Stable,
}

/// What to use instead of a type that is going away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecation<'a> {
    /// The type to use instead.
    pub replacement: &'a str,
}

/// What a plugin can be used as: the extension point it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Chooses the profiles of a request.
    ProfileHandler,
    /// Keeps some of the candidates.
    Filter,
    /// Values candidates.
    Scorer,
    /// Chooses among valued candidates.
    Picker,
    /// Reads request and response bodies.
    Parser,
    /// Computes what filters and scorers read.
    DataProducer,
    /// May refuse a request.
    Admitter,
    /// Keeps candidates for all profiles.
    Screener,
    /// Runs on the request's headers.
    RequestHeader,
    /// Runs after the decision.
    PreRequest,
    /// Runs on the response's headers.
    ResponseHeader,
    /// Runs while the response streams.
    ResponseBody,
    /// Fetches signals of endpoints.
    DataSource,
    /// Reads what a data source fetched.
    Extractor,
    /// Finds endpoints.
    Discovery,
    /// Tells how loaded the pool is.
    SaturationDetector,
    /// Orders requests in a queue.
    OrderingPolicy,
    /// Chooses the queue to serve.
    FairnessPolicy,
    /// Bounds what a priority may use.
    UsageLimitPolicy,
    /// Says what may be evicted.
    EvictionFilter,
    /// Orders what is evicted.
    EvictionOrder,
    /// Decides for a profile handler whether a stage runs.
    Decider,
}

impl Role {
    /// The role with its article, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProfileHandler => "a profile handler",
            Self::Filter => "a filter",
            Self::Scorer => "a scorer",
            Self::Picker => "a picker",
            Self::Parser => "a parser",
            Self::DataProducer => "a data producer",
            Self::Admitter => "an admitter",
            Self::Screener => "a screener",
            Self::RequestHeader => "a request header hook",
            Self::PreRequest => "a pre-request hook",
            Self::ResponseHeader => "a response header hook",
            Self::ResponseBody => "a response body hook",
            Self::DataSource => "a data source",
            Self::Extractor => "an extractor",
            Self::Discovery => "a discovery",
            Self::SaturationDetector => "a saturation detector",
            Self::OrderingPolicy => "an ordering policy",
            Self::FairnessPolicy => "a fairness policy",
            Self::UsageLimitPolicy => "a usage limit policy",
            Self::EvictionFilter => "an eviction filter",
            Self::EvictionOrder => "an eviction order",
            Self::Decider => "a decider",
        }
    }

    /// Whether a profile can make use of it.
    pub fn is_scheduling(self) -> bool {
        matches!(self, Self::Filter | Self::Scorer | Self::Picker)
    }
}

impl TypeInfo<'_> {
    /// Whether a plugin of this type can be used as `role`.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

//! Names of the headers and metadata keys that the router reads or writes
//! (`spec/request-path.md` §1.3, §2.1). Where a deprecated alias exists, the current name wins.

use http::{HeaderMap, HeaderName, HeaderValue};

macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: HeaderName = HeaderName::from_static($value);)*
    };
}

headers! {
    REQUEST_ID = "x-request-id";
    OBJECTIVE = "x-llm-d-inference-objective";
    OBJECTIVE_ALIAS = "x-gateway-inference-objective";
    FAIRNESS_ID = "x-llm-d-inference-fairness-id";
    FAIRNESS_ID_ALIAS = "x-gateway-inference-fairness-id";
    MODEL_REWRITE = "x-llm-d-model-name-rewrite";
    MODEL_REWRITE_ALIAS = "x-gateway-model-name-rewrite";
    SLO_TTFT = "x-llm-d-slo-ttft-ms";
    SLO_TTFT_ALIAS = "x-slo-ttft-ms";
    SLO_TPOT = "x-llm-d-slo-tpot-ms";
    SLO_TPOT_ALIAS = "x-slo-tpot-ms";
    VIDEO_FPS = "x-llm-d-video-fps";
    VIDEO_DURATION = "x-llm-d-video-duration-seconds";
    VIDEO_RESOLUTION = "x-llm-d-video-resolution";
    /// `ip:port`, or a list of them where a picker shows several.
    DESTINATION = "x-gateway-destination-endpoint";
    DESTINATION_SERVED = "x-gateway-destination-endpoint-served";
    DESTINATION_SUBSET = "x-gateway-destination-endpoint-subset";
    DROPPED_REASON = "x-llm-d-request-dropped-reason";
    PREFILLER = "x-prefiller-host-port";
    ENCODERS = "x-encoder-hosts-ports";
    DATA_PARALLEL = "x-data-parallel-host-port";
    KV_CACHE_SOURCE = "x-kv-cache-source-host-port";
    ORIGINAL_PATH = "x-original-path";
    FORWARDED_PATH = "x-forwarded-path";
    /// Whole milliseconds that the request may take, as a client asks Envoy for.
    ENVOY_TIMEOUT = "x-envoy-upstream-rq-timeout-ms";
    /// The same, as an Envoy tells those behind it.
    ENVOY_EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms";
    PREFER = "prefer";
    TRACEPARENT = "traceparent";
    TRACESTATE = "tracestate";
    BAGGAGE = "baggage";
}

/// Metadata namespace of Envoy's load balancer, where the destination is written as well.
pub const METADATA_LB: &str = "envoy.lb";
/// Metadata namespace of the candidate subset.
pub const METADATA_SUBSET: &str = "envoy.lb.subset_hint";
/// Metadata key of the scores of all candidates of the primary profile.
pub const SCORES_KEY: &str = "x-gateway-destination-endpoint-scores";

/// Headers that only the router may set towards a model server. What a client sends under these names is
/// removed, so that nobody can choose a destination, a prefill server or a priority for the sidecar.
pub const CONTROL: [HeaderName; 24] = [
    OBJECTIVE,
    OBJECTIVE_ALIAS,
    FAIRNESS_ID,
    FAIRNESS_ID_ALIAS,
    MODEL_REWRITE,
    MODEL_REWRITE_ALIAS,
    SLO_TTFT,
    SLO_TTFT_ALIAS,
    SLO_TPOT,
    SLO_TPOT_ALIAS,
    VIDEO_FPS,
    VIDEO_DURATION,
    VIDEO_RESOLUTION,
    DESTINATION,
    DESTINATION_SERVED,
    DESTINATION_SUBSET,
    DROPPED_REASON,
    PREFILLER,
    ENCODERS,
    DATA_PARALLEL,
    KV_CACHE_SOURCE,
    HeaderName::from_static("x-gateway-destination-endpoint-scores"),
    HeaderName::from_static("x-llm-d-endpoint-scores"),
    HeaderName::from_static("x-conformance-test-served-endpoint"),
];

/// What is to change in a head: the delta only, never the headers that stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadPatch {
    /// Set (overwrite) these.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Remove these; a name that is also set ends up set.
    pub remove: Vec<HeaderName>,
}

impl HeadPatch {
    /// Sets `name`; the last value set for a name counts.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.set.retain(|(have, _)| *have != name);
        self.set.push((name, value));
    }

    pub fn remove(&mut self, name: HeaderName) {
        if !self.remove.contains(&name) {
            self.remove.push(name);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Applies the patch to a header map.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// The value of `name`, else of its deprecated `alias`, when it is UTF-8 and not blank.
pub fn text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    alias: Option<&HeaderName>,
) -> Option<&'a str> {
    let one = |name: &HeaderName| {
        headers
            .get(name)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .map(str::trim)
            .filter(|v| !v.is_empty())
    };
    one(name).or_else(|| alias.and_then(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_name_wins_over_its_alias() {
        let mut headers = HeaderMap::new();
        headers.insert(OBJECTIVE_ALIAS, HeaderValue::from_static("old"));
        assert_eq!(text(&headers, &OBJECTIVE, Some(&OBJECTIVE_ALIAS)), Some("old"));
        headers.insert(OBJECTIVE, HeaderValue::from_static("new"));
        assert_eq!(text(&headers, &OBJECTIVE, Some(&OBJECTIVE_ALIAS)), Some("new"));
    }

    #[test]
    fn text_is_what_is_utf8_and_not_blank() {
        let check = |value: &[u8], expected| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let headers = HeaderMap::from_iter([(FAIRNESS_ID, value)]);
            assert_eq!(text(&headers, &FAIRNESS_ID, Some(&FAIRNESS_ID_ALIAS)), expected);
        };
        check(b" team ", Some("team"));
        check("Zürich 東京".as_bytes(), Some("Zürich 東京"));
        check(b"Z\xfcrich", None);
        check(b"  ", None);
    }

    #[test]
    fn a_patch_removes_first_and_sets_last() {
        let mut headers = HeaderMap::new();
        headers.append(DESTINATION, HeaderValue::from_static("6.6.6.6:1"));
        headers.append(DESTINATION, HeaderValue::from_static("6.6.6.6:2"));
        let mut patch = HeadPatch::default();
        patch.remove(DESTINATION);
        patch.set(DESTINATION, HeaderValue::from_static("10.0.0.1:8000"));
        patch.apply(&mut headers);
        let values: Vec<_> = headers.get_all(DESTINATION).iter().collect();
        assert_eq!(values, ["10.0.0.1:8000"]);
    }
}

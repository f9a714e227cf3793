//! From Envoy's messages to the heads that the engine reads.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use router_core::{Stamp, header};
use router_framework::{RequestHead, SubsetHint, request::DEFAULT_PATH};
use router_proto::{
    ext_proc::{HttpHeaders, Metadata, ProcessingRequest},
    google::Struct,
};
use tonic::Status;

/// Headers of one message; Envoy's own limit is 100 by default.
const MAX_HEADERS: usize = 1_000;

/// A head in parts: pseudo headers apart, the rest as a map that keeps duplicates.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    method: Option<Method>,
    path: Option<Arc<str>>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) headers: HeaderMap,
}

impl Parts {
    /// Headers that are not valid HTTP are left out: Envoy has checked them, so they cannot matter.
    pub(crate) fn read(message: &HttpHeaders) -> Result<Self, Status> {
        let mut parts = Self::default();
        let list = message.headers.as_ref().map(|map| map.headers.as_slice()).unwrap_or_default();
        if list.len() > MAX_HEADERS {
            return Err(Status::invalid_argument("too many headers"));
        }
        parts.headers.reserve(list.len());
        for entry in list {
            match entry.key.as_str() {
                ":method" => parts.method = Method::from_bytes(entry.bytes()).ok(),
                ":path" => parts.path = std::str::from_utf8(entry.bytes()).ok().map(Arc::from),
                ":status" => parts.status = StatusCode::from_bytes(entry.bytes()).ok(),
                key if key.starts_with(':') => {}
                key => {
                    let name = HeaderName::from_bytes(key.as_bytes());
                    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(entry.bytes())) {
                        parts.headers.append(name, value);
                    }
                }
            }
        }
        Ok(parts)
    }

    pub(crate) fn into_request_head(
        self,
        end_of_stream: bool,
        subset: SubsetHint,
        received: Stamp,
    ) -> RequestHead {
        let headers = self.headers;
        let fallback = || {
            header::text(&headers, &header::ORIGINAL_PATH, Some(&header::FORWARDED_PATH))
                .unwrap_or(DEFAULT_PATH)
                .into()
        };
        RequestHead {
            method: self.method.unwrap_or(Method::POST),
            path_and_query: self.path.unwrap_or_else(fallback),
            headers,
            subset,
            end_of_stream,
            received,
        }
    }
}

/// The proxy's subset of endpoints, where the message carries one: a list of `ip:port`, or one string of
/// them with commas (`spec/request-path.md` §1.6).
pub(crate) fn subset(message: &ProcessingRequest) -> Option<SubsetHint> {
    let fields = namespace(message.metadata_context.as_ref(), header::METADATA_SUBSET)?;
    let value = fields.get(header::DESTINATION_SUBSET.as_str())?;
    if let Some(text) = value.as_str() {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        return Some(SubsetHint::Only(entries.map(str::to_owned).collect()));
    }
    let list = value.as_list()?;
    Some(SubsetHint::Only(
        list.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect(),
    ))
}

/// The endpoint that the proxy says served the request.
pub(crate) fn served(message: &ProcessingRequest) -> Option<String> {
    let fields = namespace(message.metadata_context.as_ref(), header::METADATA_LB)?;
    let served = fields.get(header::DESTINATION_SERVED.as_str())?.as_str()?.trim();
    (!served.is_empty()).then(|| served.to_owned())
}

fn namespace<'a>(
    metadata: Option<&'a Metadata>,
    name: &str,
) -> Option<&'a BTreeMap<String, router_proto::google::Value>> {
    let fields: &Struct = metadata?.filter_metadata.get(name)?;
    Some(&fields.fields)
}

#[cfg(test)]
mod tests {
    use router_proto::{ext_proc::HeaderValue as Entry, google::Value};

    use super::*;

    fn message(value: Value) -> ProcessingRequest {
        let fields: Struct = [(header::DESTINATION_SUBSET.as_str(), value)].into_iter().collect();
        let filter_metadata = [(header::METADATA_SUBSET.to_owned(), fields)].into();
        ProcessingRequest {
            metadata_context: Some(Metadata { filter_metadata }),
            ..ProcessingRequest::default()
        }
    }

    #[test]
    fn a_subset_comes_as_list_or_string() {
        let check = |value: Value, expected: Option<&[&str]>| {
            let expected =
                expected.map(|e| SubsetHint::Only(e.iter().map(|e| (*e).to_owned()).collect()));
            assert_eq!(subset(&message(value)), expected);
        };
        check(
            Value::from(vec![Value::from("10.0.0.1:80"), Value::from(7.0)]),
            Some(&["10.0.0.1:80"]),
        );
        check(Value::from("10.0.0.1:80, 10.0.0.2:80"), Some(&["10.0.0.1:80", "10.0.0.2:80"]));
        check(Value::from(Vec::new()), Some(&[]));
        check(Value::from(7.0), None);
        assert_eq!(subset(&ProcessingRequest::default()), None);
    }

    #[test]
    fn a01_a05_pseudo_headers_are_read_and_duplicates_kept() {
        let headers =
            [(":status", "503"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("bad name", "x")];
        let list = headers.map(|(key, value)| Entry::raw(key, value.as_bytes().to_vec())).into();
        let parts = Parts::read(&HttpHeaders::new(list, false)).unwrap();
        assert_eq!(parts.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(parts.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(parts.headers.len(), 2);
    }
}

//! Constructors and accessors for the messages that are nested deepest.

use bytes::Bytes;

use crate::ext_proc::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMap, HeaderValue, HeaderValueOption,
    HeadersResponse, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    StreamedBodyResponse, body_mutation, header_value_option::HeaderAppendAction,
    processing_request, processing_response,
};
use crate::google::{ListValue, NullValue, Struct, Value, value};

// === ext-proc ===

impl From<processing_request::Request> for ProcessingRequest {
    fn from(request: processing_request::Request) -> Self {
        Self { request: Some(request), ..Self::default() }
    }
}

impl From<processing_response::Response> for ProcessingResponse {
    fn from(response: processing_response::Response) -> Self {
        Self { response: Some(response), ..Self::default() }
    }
}

impl HttpHeaders {
    pub fn new(headers: Vec<HeaderValue>, end_of_stream: bool) -> Self {
        Self { headers: Some(HeaderMap { headers }), end_of_stream }
    }
}

impl HttpBody {
    pub fn new(body: Bytes, end_of_stream: bool) -> Self {
        Self { body, end_of_stream }
    }
}

impl HeaderValue {
    /// A header as Envoy sends and reads it: its value in `raw_value`.
    pub fn raw(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: String::new(), raw_value: value.into() }
    }

    /// The value, whichever of the two fields holds it.
    pub fn bytes(&self) -> &[u8] {
        if self.raw_value.is_empty() { self.value.as_bytes() } else { &self.raw_value }
    }
}

impl HeaderValueOption {
    /// Sets a header and drops any other value that it had.
    pub fn overwrite(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            header: Some(HeaderValue::raw(key, value)),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..Self::default()
        }
    }
}

impl From<CommonResponse> for HeadersResponse {
    fn from(common: CommonResponse) -> Self {
        Self { response: Some(common) }
    }
}

impl BodyResponse {
    /// A piece of a body in full-duplex mode.
    pub fn streamed(body: Bytes, end_of_stream: bool) -> Self {
        let piece = StreamedBodyResponse { body, end_of_stream };
        let mutation = Some(body_mutation::Mutation::StreamedResponse(piece));
        let common =
            CommonResponse { body_mutation: Some(BodyMutation { mutation }), ..Default::default() };
        Self { response: Some(common) }
    }

    /// The piece of a body in full-duplex mode, if this answer is one.
    pub fn into_streamed(self) -> Option<StreamedBodyResponse> {
        match self.response?.body_mutation?.mutation? {
            body_mutation::Mutation::StreamedResponse(piece) => Some(piece),
            body_mutation::Mutation::Body(_) | body_mutation::Mutation::ClearBody(_) => None,
        }
    }
}

// === JSON-like values ===

impl Value {
    pub fn null() -> Self {
        value::Kind::NullValue(NullValue::NullValue.into()).into()
    }

    pub fn as_str(&self) -> Option<&str> {
        match self.kind.as_ref()? {
            value::Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self.kind.as_ref()? {
            value::Kind::NumberValue(number) => Some(*number),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match self.kind.as_ref()? {
            value::Kind::ListValue(list) => Some(&list.values),
            _ => None,
        }
    }

    pub fn as_struct(&self) -> Option<&Struct> {
        match self.kind.as_ref()? {
            value::Kind::StructValue(object) => Some(object),
            _ => None,
        }
    }
}

impl From<value::Kind> for Value {
    fn from(kind: value::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        value::Kind::NumberValue(number).into()
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        value::Kind::BoolValue(flag).into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        value::Kind::StringValue(text).into()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Struct> for Value {
    fn from(object: Struct) -> Self {
        value::Kind::StructValue(object).into()
    }
}

impl From<Vec<Value>> for Value {
    fn from(values: Vec<Value>) -> Self {
        value::Kind::ListValue(ListValue { values }).into()
    }
}

impl<K: Into<String>> FromIterator<(K, Value)> for Struct {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(fields: I) -> Self {
        Self { fields: fields.into_iter().map(|(key, value)| (key.into(), value)).collect() }
    }
}

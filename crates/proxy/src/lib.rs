//! The embedded HTTP proxy of serve.

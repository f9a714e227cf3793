//! Envoy's external processing protocol: stream state machine and server.

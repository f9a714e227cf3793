//! The entry point for LLM inference traffic.

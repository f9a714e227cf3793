//! The words of the domain: endpoints, requests, candidates, columns, errors. No I/O, no runtime.

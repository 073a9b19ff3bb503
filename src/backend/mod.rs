//! Backends: who computes the ops.

//! Ops: what the tape records.

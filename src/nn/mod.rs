//! Networks and their parameters.

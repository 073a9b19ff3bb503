//! Presets, configuration files and overrides, resolved into one validated configuration.

//! Which build of the program this is.

/// The package's version, and where the sources stood in git when they were compiled: `0.1.0 (1a2b3c4d5e6f)`.
pub const VERSION: &str = env!("GLMC_VERSION");

/// The commit that the sources were compiled from, with `-modified` behind it where they differed from it; `None` outside a
/// checkout.
pub const COMMIT: Option<&str> = option_env!("GLMC_COMMIT");

//! Stores, readers, long-tailed splits, samplers: everything between files on disk and u8 pixels in memory.

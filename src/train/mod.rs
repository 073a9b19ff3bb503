//! Training: the step as one program, evaluation, checkpoints, the run folder, and the loop that ties them together.

pub mod answers;
pub mod checkpoint;
pub mod engine;
pub mod evaluate;
pub mod features;
pub mod feed;
mod fit;
pub mod losses;
pub mod manifest;
pub mod means;
pub mod metrics;
pub mod optimizer;
pub mod origin;
pub mod parent;
pub mod passes;
pub mod photo_feed;
pub mod posthoc;
pub mod predict;
pub mod preview;
pub mod report;
pub mod run_folder;
pub mod run_record;
pub mod session;
pub mod state_dict;
pub mod step;
pub mod sweep;
pub mod views;

//! Every op on every device: exact on small integers, against PyTorch, against central differences, against the oracle
//! (`cpu f64`) on odd shapes, the same bits when run again, and refusals of what does not fit.
//!
//! `cargo test --release --test ops -- conv2d` runs one op, `-- "on cpu f32"` one device.

mod batch_norm;
mod branches;
mod ceilings;
mod checksum;
#[path = "../common/mod.rs"]
mod common;
mod conv2d;
mod errors;
mod inputs;
mod layers;
mod losses;
mod max_pool;
mod network;
mod optimizer;
mod photos;
mod sgd;
mod supervised_loss;

fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut suite = common::suite::Suite::default();
    conv2d::add(&mut suite);
    batch_norm::add(&mut suite);
    layers::add(&mut suite);
    branches::add(&mut suite);
    max_pool::add(&mut suite);
    losses::add(&mut suite);
    supervised_loss::add(&mut suite);
    inputs::add(&mut suite);
    photos::add(&mut suite);
    sgd::add(&mut suite);
    optimizer::add(&mut suite);
    network::add(&mut suite);
    ceilings::add(&mut suite);
    checksum::add(&mut suite);
    errors::add(&mut suite);
    let conclusion = libtest_mimic::run(&arguments, suite.trials);
    if !arguments.list {
        print!("{}", common::tolerance::report());
    }
    conclusion.exit_code()
}

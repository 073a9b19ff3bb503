//! Every op on every device: exact on small integers, against PyTorch, against central differences, against the oracle
//! (`cpu f64`) on odd shapes, the same bits when run again, and refusals of what does not fit.
//!
//! `cargo test --release --test ops -- conv2d` runs one op, `-- "on cpu f32"` one device.

#[path = "ops/batch_norm.rs"]
mod batch_norm;
#[path = "ops/ceilings.rs"]
mod ceilings;
mod common;
#[path = "ops/conv2d.rs"]
mod conv2d;
#[path = "ops/errors.rs"]
mod errors;
#[path = "ops/inputs.rs"]
mod inputs;
#[path = "ops/layers.rs"]
mod layers;
#[path = "ops/losses.rs"]
mod losses;
#[path = "ops/network.rs"]
mod network;
#[path = "ops/sgd.rs"]
mod sgd;

fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut suite = common::suite::Suite::default();
    conv2d::add(&mut suite);
    batch_norm::add(&mut suite);
    layers::add(&mut suite);
    losses::add(&mut suite);
    inputs::add(&mut suite);
    sgd::add(&mut suite);
    network::add(&mut suite);
    ceilings::add(&mut suite);
    errors::add(&mut suite);
    let conclusion = libtest_mimic::run(&arguments, suite.trials);
    if !arguments.list {
        print!("{}", common::tolerance::report());
    }
    conclusion.exit_code()
}

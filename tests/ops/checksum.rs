//! Checksums: the same on every device, and every infinity and NaN counted, wherever it is.

use glmc_engine::backend::native::Native;
use glmc_engine::memory::write_floats;
use glmc_engine::nn::parameters::{Kind, Specs};
use glmc_engine::nn::{Field, ParameterStore};
use glmc_engine::ops::Backend;
use glmc_engine::ops::checksum::{Checksum, SCRATCH};
use glmc_engine::tensor::{DType, Precision, Tensor};
use glmc_engine::train::checkpoint::State;

use crate::common::suite::Suite;

/// A tensor of these bytes.
fn filled(backend: &dyn Backend, dtype: DType, bytes: &[u8]) -> glmc_engine::Result<Tensor> {
    let tensor = backend.tensor(&[bytes.len() / dtype.bytes()], dtype, "test")?;
    backend.upload(tensor, bytes)?;
    Ok(tensor)
}

/// The checksum, in scratch of its own.
fn sum(backend: &dyn Backend, tensor: Tensor) -> glmc_engine::Result<Checksum> {
    let scratch = backend.tensor(&[SCRATCH], DType::U8, "test")?;
    let sum = backend.checksum(tensor, scratch);
    backend.free(scratch.buffer);
    sum
}

pub fn add(suite: &mut Suite) {
    suite.device("checksum", "is the cpu's", |backend| {
        let native = Native::new(Precision::F32, 1)?;
        // Nothing, less than a word, a word, several chunks and blocks with something left over.
        for count in [0usize, 3, 4, 1021, 300_001] {
            let bytes: Vec<u8> = (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let (here, there) = (filled(backend, DType::U8, &bytes)?, filled(&native, DType::U8, &bytes)?);
            let (found, expected) = (sum(backend, here)?, sum(&native, there)?);
            assert_eq!((found, found.not_finite), (expected, 0), "{count} bytes");
            backend.free(here.buffer);
        }
        Ok(())
    });
    suite.device("checksum", "counts what is not finite", |backend| {
        let precision = backend.precision();
        for dtype in [precision.compute(), precision.accumulate()] {
            // Of an odd number of values.
            let mut values: Vec<f64> = (0..70_001).map(|i| f64::from(i % 997) - 500.0).collect();
            let most = if dtype == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
            values[5] = if dtype == DType::Bf16 { 3.3e38 } else { most };
            let tensor = backend.tensor(&[values.len()], dtype, "test")?;
            write_floats(backend, tensor, &values)?;
            assert_eq!(sum(backend, tensor)?.not_finite, 0, "{dtype:?}");
            let last = values.len() - 1;
            let wrong = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN];
            for (count, (at, value)) in [0, 4097, last - 1, last].into_iter().zip(wrong).enumerate() {
                values[at] = value;
                write_floats(backend, tensor, &values)?;
                assert_eq!(sum(backend, tensor)?.not_finite, count as u64 + 1, "{dtype:?}");
            }
            backend.free(tensor.buffer);
        }
        Ok(())
    });
    suite.device("checksum", "keeps a model that is not finite from being saved", |backend| {
        let mut specs = Specs::default();
        specs.declare("conv.weight".into(), &[5, 3, 3, 3], Kind::ConvWeight);
        specs.declare("norm.running_var".into(), &[5], Kind::RunningVar);
        specs.declare("fc.bias".into(), &[7], Kind::NormBias);
        let store = ParameterStore::new(backend, specs)?;
        store.initialise(backend, 3)?;
        assert!(State::take(backend, &store, &[])?.is_ok());
        for (field, index, elements, name) in [
            (Field::Value, 0, 5 * 27, "conv.weight"),
            (Field::Value, 1, 5, "norm.running_var"),
            (Field::Momentum, 0, 5 * 27, "optimizer.momentum.conv.weight"),
            (Field::Momentum, 2, 7, "optimizer.momentum.fc.bias"),
        ] {
            let good = store.snapshot(backend, field)?;
            let mut bad = store.snapshot(backend, field)?;
            let mut values = vec![0.5; elements];
            values[elements - 1] = f64::NAN;
            bad.set(index, &values);
            store.restore(backend, field, &bad)?;
            assert_eq!(State::take(backend, &store, &[])?.err().as_deref(), Some(name));
            store.restore(backend, field, &good)?;
            assert!(State::take(backend, &store, &[])?.is_ok(), "{name}");
        }
        // The device alone decides: what lies in no parameter is looked at as well.
        let padding = Tensor { offset: 5 * 27 * store.momentum.dtype.bytes(), ..store.momentum };
        let padding = Tensor { shape: glmc_engine::tensor::Shape::new(&[1]), ..padding };
        write_floats(backend, padding, &[f64::NAN])?;
        let refused = State::take(backend, &store, &[])?.err().ok_or("a NaN is saved")?;
        assert_eq!(refused, "what lies between the parameters");
        Ok(())
    });
}

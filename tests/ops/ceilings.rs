//! The loops that a device's ceilings are measured by do what they are said to do: every round adds one to every value, and
//! a copy is whole.

use glmc_engine::bench::Ceilings;
use glmc_engine::memory::{read_floats, write_floats};
use glmc_engine::tensor::{DType, Precision, Tensor};

use crate::common::suite::Suite;

pub fn add(suite: &mut Suite) {
    suite.device("ceilings", "rounds are added exactly", |backend| {
        let (count, dtype) = (2 * backend.ceiling_values(), backend.precision().accumulate());
        let values = Tensor::at_start(backend.alloc(count * dtype.bytes(), "values")?, &[count], dtype);
        let start: Vec<f64> = (0..count).map(|i| (i * 37 % 1013) as f64).collect();
        write_floats(backend, values, &start)?;
        // Of a product of depth 16, or of one multiply-add.
        let depth = if backend.precision() == Precision::Bf16 { 16.0 } else { 1.0 };
        for (rounds, sum) in [(2, 2.0), (6, 8.0)] {
            let flops = backend.ceiling_math(values, rounds)?;
            assert_eq!(flops, 2.0 * depth * f64::from(rounds) * count as f64);
            let got = read_floats(backend, values)?;
            let wrong = got.iter().zip(&start).position(|(got, start)| *got != start + sum);
            assert_eq!(wrong.map(|i| (i, got[i], start[i] + sum)), None, "after {sum} rounds");
        }
        let odd = Tensor::at_start(values.buffer, &[count - 1], dtype);
        let error = backend.ceiling_math(odd, 2).err().ok_or("an odd number of values is taken")?.to_string();
        assert!(error.contains("no multiple of"), "{error}");
        backend.free(values.buffer);
        Ok(())
    });
    suite.device("ceilings", "copies are whole", |backend| {
        // Nothing, one vector, a ragged last block.
        for bytes in [0, 16, 3 * 4096 * 16 + 48] {
            let [from, to] = [backend.alloc(bytes, "from")?, backend.alloc(bytes + 16, "to")?];
            let all = Tensor::at_start(to, &[bytes + 16], DType::U8);
            let [from, to] = [from, to].map(|buffer| Tensor::at_start(buffer, &[bytes], DType::U8));
            let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8 + 1).collect();
            backend.upload(from, &data)?;
            backend.ceilings_copy(from, to)?;
            let mut got = vec![0; bytes + 16];
            backend.download(all, &mut got)?;
            assert!(got[..bytes] == data && got[bytes..] == [0; 16], "{bytes} bytes");
            assert!(backend.ceilings_copy(from, all).is_err(), "sizes differ");
            [from, to].iter().for_each(|tensor| backend.free(tensor.buffer));
        }
        Ok(())
    });
    suite.device("ceilings", "are measured", |backend| {
        let before = backend.allocated().0;
        let ceilings = Ceilings::measure(backend, 0.0)?;
        assert!(ceilings.tflops > 0.0 && ceilings.gbytes > 0.0, "{ceilings:?}");
        assert_eq!(backend.allocated().0, before);
        Ok(())
    });
}

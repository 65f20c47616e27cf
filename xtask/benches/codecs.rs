//! Codecs: decoding of 256 rows of 4,096 values, at each level of vector instructions. `cargo xtask bench codecs` measures encoding.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quant::Simd;
use tensor::DType;
use testkit::SplitMix64;

const COLS: usize = 4096;
const ROWS: usize = 256;

fn codecs(criterion: &mut Criterion) {
    let mut random = SplitMix64(1);
    let x: Vec<f32> = (0..ROWS * COLS).map(|_| random.normal() * 0.02).collect();
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::IQ4_XS] {
        let mut bytes = vec![0; x.len() / dtype.block_len() * dtype.block_bytes()];
        quant::encode(Simd::detect(), dtype, COLS, &x, None, &mut bytes);
        let mut values = vec![0.0; x.len()];
        let mut group = criterion.benchmark_group(dtype.name());
        group.throughput(Throughput::Bytes(4 * x.len() as u64)).sample_size(10);
        for simd in Simd::available() {
            group.bench_function(BenchmarkId::new("decode", simd.name()), |bencher| {
                bencher.iter(|| quant::decode(simd, dtype, &bytes, &mut values));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, codecs);
criterion_main!(benches);

//! Matrix products: f32 products in memory, and products of one to four tokens with stored blocks.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use quant::Simd;
use runtime::gemm::general_mat_mul;
use tensor::DType;
use testkit::SplitMix64;

/// Columns of the weights.
const COLS: usize = 2048;
/// Rows of the weights.
const ROWS: usize = 512;

fn gemm(criterion: &mut Criterion) {
    let mut random = SplitMix64(1);
    let mut fill = |shape| Array2::from_shape_simple_fn(shape, || random.normal());
    let w = fill((ROWS, COLS));
    let mut group = criterion.benchmark_group("f32 products");
    for tokens in [8, 64, 512] {
        let (x, mut y) = (fill((tokens, COLS)), Array2::zeros((tokens, ROWS)));
        group.throughput(Throughput::Elements((tokens * ROWS * COLS) as u64));
        group.bench_function(BenchmarkId::new("tokens", tokens), |bencher| {
            bencher.iter(|| general_mat_mul(1.0, x.view(), w.t(), 0.0, y.view_mut()));
        });
    }
    group.finish();
}

fn dot(criterion: &mut Criterion) {
    let mut random = SplitMix64(1);
    let w: Vec<f32> = (0..ROWS * COLS).map(|_| random.normal()).collect();
    for dtype in [DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K] {
        let mut bytes = vec![0; w.len() / dtype.block_len() * dtype.block_bytes()];
        quant::encode(Simd::detect(), dtype, COLS, &w, None, &mut bytes);
        let mut group = criterion.benchmark_group(format!("dot products with {dtype}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for tokens in [1, 4] {
            let x: Vec<f32> = (0..tokens * COLS).map(|_| random.normal()).collect();
            let mut y = vec![0.0; tokens * ROWS];
            group.bench_function(BenchmarkId::new("tokens", tokens), |bencher| {
                bencher.iter(|| quant::dot(Simd::detect(), dtype, COLS, &bytes, &x, &mut y));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, gemm, dot);
criterion_main!(benches);

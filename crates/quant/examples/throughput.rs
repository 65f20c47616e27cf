//! Prints throughput in millions of weights a second, on one core, for every type and level: encoding, encoding with
//! importance, decoding, the check for invalid blocks. `cargo run --release -p quant --example throughput [TYPE…]`
#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use quant::Simd;
use tensor::DType;

const COLS: usize = 1536;
const ROWS: usize = 256;

/// The best of several runs within a tenth of a second, in millions of weights a second.
fn rate(mut work: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < 0.1 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (COLS * ROWS) as f64 / best / 1e6
}

fn main() {
    let wanted: Vec<DType> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    // Roughly normal, like weights: the sum of four uniforms.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let x: Vec<f32> =
        (0..COLS * ROWS).map(|_| 0.02 * (uniform() + uniform() + uniform() + uniform())).collect();
    let importance: Vec<f32> = (0..COLS).map(|_| 1.0 + uniform()).collect();

    println!(
        "{:8} {:10} {:>10} {:>10} {:>10}   M weights/s",
        "type", "level", "encode", "weighted", "decode"
    );
    for &dtype in DType::ALL.iter().filter(|&&t| quant::can_encode(t)) {
        if !wanted.is_empty() && !wanted.contains(&dtype) {
            continue;
        }
        let mut bytes = vec![0; x.len() / dtype.block_len() * dtype.block_bytes()];
        let mut decoded = vec![0.0; x.len()];
        for simd in Simd::available() {
            let plain = rate(|| quant::encode(simd, dtype, COLS, &x, None, &mut bytes));
            let weighted = rate(|| quant::encode(simd, dtype, COLS, &x, Some(&importance), &mut bytes));
            let decode = rate(|| quant::decode(simd, dtype, &bytes, &mut decoded));
            let check = rate(|| assert_eq!(quant::invalid_block(dtype, &bytes), None));
            let level = format!("{simd:?}");
            println!("{dtype:8} {level:10} {plain:10.0} {weighted:10.0} {decode:10.0} {check:10.0}");
        }
    }
    println!("{:30} {:10.0}", "first_beyond", rate(|| assert_eq!(quant::first_beyond(&x, f32::MAX), None)));
}

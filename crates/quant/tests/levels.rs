//! Every level gives the bytes of the scalar level, on rows that the golden files lack: odd numbers of blocks and
//! super-blocks, values at both ends of the float range, and scales beyond f16.

use quant::Simd;
use tensor::DType;
use testkit::SplitMix64;

/// Rows of different kinds; the kind changes every 256 values, and some blocks of 32 are zero.
fn values(random: &mut SplitMix64, n: usize) -> Vec<f32> {
    let mut kind = 0;
    let mut zero = false;
    (0..n)
        .map(|i| {
            if i % 256 == 0 {
                kind = random.next() % 10;
            }
            if i % 32 == 0 {
                zero = random.next().is_multiple_of(11);
            }
            let u = random.uniform();
            match kind {
                _ if zero => 0.0,
                0 => u * 0.02,
                1 => u * u * u * u * u,
                // Ties: of extrema, and halfway between codes.
                2 => (u * 8.0).round() * 0.25,
                // BF16, with some −0.
                3 if u < -0.9 => -0.0,
                3 => f32::from_bits(u.to_bits() & 0xffff_0000),
                4 => u.abs() * 3.0,
                5 => -u.abs() - 1.0,
                // Scales that are subnormal as f16, or zero.
                6 => u * 1e-6,
                7 => u * 1e-14,
                // Scales that overflow f16.
                8 => u * 1e7,
                // Subnormal f32: infinite inverse scales.
                _ => u * 1e-39,
            }
        })
        .collect()
}

/// Importance of all magnitudes, never negative, and zero for some columns.
fn importance(random: &mut SplitMix64, cols: usize) -> Vec<f32> {
    (0..cols)
        .map(|_| {
            let u = random.uniform();
            if u < -0.8 { 0.0 } else { u.abs() * (random.uniform() * 6.0).exp() }
        })
        .collect()
}

#[test]
fn levels_agree() {
    let mut random = SplitMix64(0x9e37_79b9_7f4a_7c15);
    for &dtype in DType::ALL.iter().filter(|&&t| quant::can_encode(t)) {
        let shapes: &[(usize, usize)] = match dtype.block_len() {
            256 => &[(256, 5), (3 * 256, 9), (5 * 256, 4), (35 * 256, 2), (256, 1)],
            _ => &[(32, 1), (32, 37), (704, 6), (1536, 3)],
        };
        for &(cols, rows) in shapes {
            let x = values(&mut random, cols * rows);
            let weights = importance(&mut random, cols);
            for importance in [None, Some(&weights[..])] {
                let bytes = |simd| {
                    let mut out = vec![0xaa; x.len() / dtype.block_len() * dtype.block_bytes()];
                    quant::encode(simd, dtype, cols, &x, importance, &mut out);
                    out
                };
                let values = |simd, bytes: &[u8]| {
                    let mut out = vec![0.0; x.len()];
                    quant::decode(simd, dtype, bytes, &mut out);
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let expected = bytes(Simd::Scalar);
                let decoded = values(Simd::Scalar, &expected);
                for simd in testkit::available("SIMD level", Simd::ALL, Simd::is_available) {
                    let found = bytes(simd);
                    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
                    assert_eq!(
                        differs.map(|at| at / dtype.block_bytes()),
                        None,
                        "first block that differs: {dtype} {simd:?} {rows} rows of {cols}, weighted: {}",
                        importance.is_some()
                    );
                    assert!(
                        values(simd, &found) == decoded,
                        "decoded {dtype} {simd:?} {rows} rows of {cols}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let mut random = SplitMix64(1);
    let cols = 3 * 256;
    let x = values(&mut random, cols * 5);
    let weights = importance(&mut random, cols);
    for &dtype in DType::ALL.iter().filter(|&&t| quant::can_encode(t)) {
        let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
        for importance in [None, Some(&weights[..])] {
            let mut together = vec![0; row_bytes * 5];
            quant::encode(Simd::detect(), dtype, cols, &x, importance, &mut together);
            for (x, expected) in x.chunks(cols).zip(together.chunks(row_bytes)) {
                let mut alone = vec![0; row_bytes];
                quant::encode(Simd::detect(), dtype, cols, x, importance, &mut alone);
                assert!(alone == expected, "{dtype}");
            }
        }
    }
}

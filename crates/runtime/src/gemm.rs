//! Products of matrices in memory, over the `gemm` crate.
//!
//! A product runs on one thread. Callers divide the work independently of the number of threads, so that results are
//! deterministic.

use ndarray::{ArrayView2, ArrayViewMut2};

/// `c = alpha·a·b + beta·c` with `a` of `[m, k]`, `b` of `[k, n]` and `c` of `[m, n]`, of any strides. With `beta` = 0 the old
/// values of `c` are not read.
///
/// # Panics
/// When the shapes do not fit each other.
pub fn general_mat_mul(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    let ((m, k), n) = (a.dim(), b.ncols());
    assert!(b.nrows() == k && c.dim() == (m, n), "{:?} · {:?} to {:?}", a.dim(), b.dim(), c.dim());
    let ([a_row, a_col], [b_row, b_col], [c_row, c_col]) = (strides(&a), strides(&b), {
        let strides = c.strides();
        [strides[0], strides[1]]
    });
    // SAFETY: the views are valid for their shapes and strides, and `c` is borrowed mutably
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_col,
            c_row,
            beta != 0.0,
            a.as_ptr(),
            a_col,
            a_row,
            b.as_ptr(),
            b_col,
            b_row,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Values from one row to the next, and from one column to the next.
fn strides(view: &ArrayView2<'_, f32>) -> [isize; 2] {
    [view.strides()[0], view.strides()[1]]
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;

    /// Views with strides, transposed views and empty sums, against the product of ndarray.
    #[test]
    fn products_of_views_are_those_of_ndarray() {
        let mut random = testkit::SplitMix64(1);
        let mut fill = |shape| Array2::from_shape_simple_fn(shape, || random.uniform());
        for (m, k, n) in [(1, 1, 1), (3, 40, 7), (33, 64, 65), (5, 0, 4), (0, 3, 4)] {
            let (a, b, old) = (fill((k + 2, m + 3)), fill((n + 1, k + 5)), fill((m + 1, n + 2)));
            let a = a.slice(s![1..k + 1, 2..m + 2]).reversed_axes();
            let b = b.slice(s![..n, 3..k + 3]).reversed_axes();
            for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (-1.0, 1.0)] {
                let mut c = old.clone();
                general_mat_mul(alpha, a, b, beta, c.slice_mut(s![..m, 1..n + 1]));
                let mut expected = old.clone();
                let product = a.dot(&b) * alpha + &old.slice(s![..m, 1..n + 1]) * beta;
                expected.slice_mut(s![..m, 1..n + 1]).assign(&product);
                assert!((c - expected).iter().all(|error| error.abs() < 1e-4), "{m}×{k}×{n}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "(2, 3) · (4, 5) to (2, 5)")]
    fn shapes_that_do_not_fit_panic() {
        let mut c = Array2::zeros((2, 5));
        general_mat_mul(1.0, Array2::zeros((2, 3)).view(), Array2::zeros((4, 5)).view(), 0.0, c.view_mut());
    }
}

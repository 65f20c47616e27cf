//! [`Lanes`] over an array, vectorised by the compiler.

use std::ops::{Add, BitAnd, Div, Mul, Sub};

use super::Lanes;

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct X4([f32; 4]);

/// Booleans of the lanes of [`X4`].
#[derive(Clone, Copy)]
pub(crate) struct Mask4([bool; 4]);

impl BitAnd for Mask4 {
    type Output = Mask4;
    #[inline(always)]
    fn bitand(self, other: Mask4) -> Mask4 {
        let (a, b) = (self.0, other.0);
        Mask4([a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]])
    }
}

macro_rules! operators {
    ($($op:ident $function:ident;)*) => {$(
        impl $op for X4 {
            type Output = X4;
            #[inline(always)]
            fn $function(self, other: X4) -> X4 {
                let (a, b) = (self.0, other.0);
                X4([a[0].$function(b[0]), a[1].$function(b[1]), a[2].$function(b[2]), a[3].$function(b[3])])
            }
        }
    )*};
}
operators! { Add add; Sub sub; Mul mul; Div div; }

impl Lanes for X4 {
    type Mask = Mask4;
    const N: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> X4 {
        X4([value; 4])
    }
    #[inline(always)]
    fn load(values: &[f32]) -> X4 {
        X4([values[0], values[1], values[2], values[3]])
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        values[..4].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn abs(self) -> X4 {
        X4(self.0.map(f32::abs))
    }
    #[inline(always)]
    fn sqrt(self) -> X4 {
        X4(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn nearest_int(self) -> X4 {
        X4(self.0.map(Lanes::nearest_int))
    }
    #[inline(always)]
    fn gt(self, other: X4) -> Mask4 {
        let (a, b) = (self.0, other.0);
        Mask4([a[0] > b[0], a[1] > b[1], a[2] > b[2], a[3] > b[3]])
    }
    #[inline(always)]
    fn eq(self, other: X4) -> Mask4 {
        let (a, b) = (self.0, other.0);
        Mask4([a[0] == b[0], a[1] == b[1], a[2] == b[2], a[3] == b[3]])
    }
    #[inline(always)]
    fn select(mask: Mask4, yes: X4, no: X4) -> X4 {
        let pick = |i: usize| if mask.0[i] { yes.0[i] } else { no.0[i] };
        X4([pick(0), pick(1), pick(2), pick(3)])
    }
    #[inline(always)]
    fn any(mask: Mask4) -> bool {
        mask.0[0] | mask.0[1] | mask.0[2] | mask.0[3]
    }
}

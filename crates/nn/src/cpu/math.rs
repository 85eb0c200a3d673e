//! Functions of one number, without a call: a loop over them becomes vector code.
#![expect(clippy::inline_always, reason = "a call in the loop would keep it scalar")]

/// `e^x` within 2 ulp, without a call: the compiler turns a loop over it into vector code.
///
/// Range reduction by ln 2 in two parts, then a polynomial of degree 6 (Cody and Waite 1980).
/// Results below the smallest normal number are 0; +∞ above 88.7; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.7 { 88.7 } else { clamped };
    let (p, n) = reduced(clamped);
    // 2^n in two factors, so that n = 128 does not overflow the exponent field.
    let half = n >> 1;
    let rest = n - half;
    let power = |e: i32| f32::from_bits(((e + 127) << 23) as u32);
    let y = p * power(half) * power(rest);
    let y = if x < -87.3 { 0.0 } else { y };
    let y = if x > 88.722_83 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// `e^x` within 2 ulp, for x up to 88.3: of a score less the largest, or less the logarithm of a
/// sum. Below −87.3 it is 0; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp_of_difference(x: f32) -> f32 {
    let (p, n) = reduced(if x < -87.3 { -87.3 } else { x });
    let y = p * f32::from_bits(((n + 127) << 23) as u32);
    if x < -87.3 { 0.0 } else { y }
}

/// `1/(1 + e^−x)` within 3e-7 absolute; 0 below −88.4, NaN of NaN.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    // The exponent field holds n up to 127, and 128 makes infinity, which is what comes next.
    // Below, e^−x has no effect on the sum.
    let clamped = if x < -88.7 { -88.7 } else { x };
    let clamped = if clamped > 80.0 { 80.0 } else { clamped };
    let (p, n) = reduced(-clamped);
    1.0 / p.mul_add(f32::from_bits(((n + 127) << 23) as u32), 1.0)
}

/// `e^x = p·2^n`, for x within ±88.7. Products and sums are rounded once: every processor with AVX2
/// or NEON has the instruction, and others have its bits through a call.
#[inline(always)]
fn reduced(x: f32) -> (f32, i32) {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5·2²³ rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    // The last bits of the shifted number are n itself, which costs less than a conversion.
    (p, (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_sigmoid_agree_with_the_library() {
        for i in -870_000..=887_000 {
            let x = i as f32 / 10_000.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "exp({x}) = {got}, not {want}");
            if x <= 88.3 {
                assert_eq!(exp_of_difference(x).to_bits(), exp(x).to_bits(), "{x}");
            }
        }
        for i in -100_000..=100_000 {
            let x = i as f32 / 10_000.0;
            let want = 1.0 / (1.0 + f64::from(-x).exp());
            assert!((f64::from(sigmoid(x)) - want).abs() < 3e-7, "sigmoid({x})");
        }
        assert_eq!(
            (exp(f32::NEG_INFINITY), exp(f32::INFINITY), exp(-100.0)),
            (0.0, f32::INFINITY, 0.0)
        );
        assert_eq!((sigmoid(f32::NEG_INFINITY), sigmoid(f32::INFINITY)), (0.0, 1.0));
        assert_eq!((exp_of_difference(f32::NEG_INFINITY), exp_of_difference(-100.0)), (0.0, 0.0));
        assert!(exp_of_difference(f32::NAN).is_nan());
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
    }
}

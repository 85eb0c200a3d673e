//! Stands in for `blas.rs` in a build without the feature.

use super::view::View;

pub(super) fn library() -> Result<&'static str, &'static str> {
    Err("this build has no BLAS; build it with --features blas")
}

pub(super) fn product(
    _: (&mut [f32], View),
    _: (&[f32], View),
    _: (&[f32], View),
    _: f32,
    _: bool,
) -> bool {
    false
}

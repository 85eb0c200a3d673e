//! Stands in for `blas.rs` in a build without the feature.

use super::view::View;

pub(super) fn is_available() -> bool {
    false
}

pub(super) fn name() -> Option<&'static str> {
    None
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

//! Products of small matrices that lie in the cache: heads of attention.

use super::few_terms::FewTerms;
use super::kernel::InstructionSet;
use super::packed::{self, Addends, Panels, Right, Room, Sums};
use super::vectorized;
use super::view::View;

/// Products by panels of the widest vectors that this processor has; without vectors, by rows as
/// they lie.
#[derive(Debug)]
pub(crate) struct Small {
    set: Option<InstructionSet>,
    room: Room,
}

/// A factor that is read column by column, copied once for many products.
#[derive(Debug)]
pub(crate) enum Turned {
    Panels(Panels),
    Rows(Vec<f32>, View),
}

impl Small {
    pub(crate) fn new() -> Self {
        Self { set: InstructionSet::widest(), room: Room::default() }
    }

    /// Room for `bᵀ`, where `b` has this shape.
    pub(crate) fn room_for_turned(&self, rows: usize, columns: usize) -> Turned {
        match self.set {
            Some(set) => Turned::Panels(Panels::new(set, columns, rows)),
            None => Turned::Rows(vec![0.0; rows * columns], View::row_major(columns, rows)),
        }
    }

    /// `c (+)= scale·a·b`, rows of `b` and `c` contiguous.
    ///
    /// # Panics
    /// If the shapes do not fit each other, rows are not contiguous, or a matrix reaches outside
    /// its slice: our own bug.
    pub(crate) fn product(
        &mut self,
        c: (&mut [f32], View),
        a: (&[f32], View),
        b: (&[f32], View),
        scale: f32,
        accumulate: bool,
    ) {
        check(&c, a, (b.1.rows, b.1.columns));
        assert!(b.1.column_stride == 1 && b.1.is_inside(b.0), "a matrix of rows inside its slice");
        match self.set {
            Some(set) => {
                let sums = Sums { scale, accumulate, addends: Addends::default() };
                packed::product(set, c, a, Right::Matrix(b.0, b.1), sums, &mut self.room);
            }
            None => by_rows(c, a, b, scale, accumulate),
        }
    }

    /// `c (+)= scale·a·bᵀ`, with the first rows of `b`, as many as `c` has columns.
    ///
    /// # Panics
    /// As [`Self::product`].
    pub(crate) fn product_with_turned(
        &mut self,
        c: (&mut [f32], View),
        a: (&[f32], View),
        b: &Turned,
        scale: f32,
    ) {
        match b {
            Turned::Panels(panels) => {
                let (terms, columns) = panels.shape();
                check(&c, a, (terms, c.1.columns));
                assert!(c.1.columns <= columns, "matrix shapes");
                let sums = Sums { scale, accumulate: false, addends: Addends::default() };
                packed::product(panels.set(), c, a, Right::Panels(panels), sums, &mut self.room);
            }
            Turned::Rows(rows, view) => {
                let view = View { columns: c.1.columns, ..*view };
                check(&c, a, (view.rows, view.columns));
                by_rows(c, a, (rows, view), scale, false);
            }
        }
    }
}

impl Turned {
    /// Copies `b`.
    ///
    /// # Panics
    /// If `b` has another shape than the room, or reaches outside its slice.
    pub(crate) fn fill(&mut self, b: &[f32], view: View) {
        assert!(view.is_inside(b), "matrix inside its slice");
        match self {
            Self::Panels(panels) => panels.fill((b, view.transposed())),
            Self::Rows(copy, turned) => {
                assert_eq!(
                    (view.rows, view.columns),
                    (turned.columns, turned.rows),
                    "matrix shapes"
                );
                for row in 0..view.rows {
                    for column in 0..view.columns {
                        let at = view.offset + row * view.row_stride + column * view.column_stride;
                        copy[column * view.rows + row] = b[at];
                    }
                }
            }
        }
    }
}

fn check(c: &(&mut [f32], View), a: (&[f32], View), b: (usize, usize)) {
    let shapes = (c.1.rows, c.1.columns, a.1.columns);
    assert_eq!(shapes, (a.1.rows, b.1, b.0), "matrix shapes");
    assert!(c.1.column_stride == 1, "rows are contiguous");
    assert!(c.1.is_inside(c.0) && a.1.is_inside(a.0), "matrix inside its slice");
}

fn by_rows(
    c: (&mut [f32], View),
    a: (&[f32], View),
    b: (&[f32], View),
    scale: f32,
    accumulate: bool,
) {
    vectorized(FewTerms { c, a, b, scale, accumulate, wants_squares: false });
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Kernel;
    use super::*;

    /// A number that looks random, the same each time.
    fn value(i: usize) -> f32 {
        ((i * 2_654_435_761 % 1_000_003) as f32 / 500_001.5) - 1.0
    }

    #[test]
    fn products_round_alike_by_any_vectors_and_without() {
        let by_panels = Kernel::ALL.into_iter().filter_map(InstructionSet::of).map(Some);
        let ways: Vec<_> = by_panels.chain([None]).collect();
        for (rows, columns, terms) in [(1, 1, 1), (32, 32, 7), (5, 33, 70), (32, 128, 32)] {
            // A part of rows that are longer, as a head is.
            let stride = terms.max(columns) + 3;
            let part = |rows, columns| View {
                offset: 2,
                rows,
                columns,
                row_stride: stride,
                column_stride: 1,
            };
            let matrix = |key: usize| (0..200 * stride).map(|i| value(i + key)).collect::<Vec<_>>();
            let (a, b, turned) = (matrix(1), matrix(2), matrix(3));
            let mut found = Vec::new();
            for set in &ways {
                let mut small = Small { set: *set, room: Room::default() };
                let mut c = matrix(4);
                let (av, cv) = (part(rows, terms), part(rows, columns));
                small.product((&mut c, cv), (&a, av), (&b, part(terms, columns)), 0.5, true);
                let mut keys = small.room_for_turned(columns + 2, terms);
                keys.fill(&turned, part(columns + 2, terms));
                let mut d = matrix(5);
                small.product_with_turned((&mut d, cv), (&a, av), &keys, 0.5);
                // By definition, in 64 bits.
                let (r, q) = (rows - 1, columns - 1);
                let at = |view: View, r, q| view.offset + r * view.row_stride + q;
                let sum = |b: &dyn Fn(usize) -> f32| -> f64 {
                    let of = |k| f64::from(a[at(av, r, k)]) * f64::from(b(k));
                    0.5 * (0..terms).map(of).sum::<f64>()
                };
                let want = f64::from(value(4 + at(cv, r, q)))
                    + sum(&|k| b[at(part(terms, columns), k, q)]);
                assert!((f64::from(c[at(cv, r, q)]) - want).abs() < 1e-5);
                let want = sum(&|k| turned[at(part(columns + 2, terms), q, k)]);
                assert!((f64::from(d[at(cv, r, q)]) - want).abs() < 1e-5);
                found.push([c, d].map(|c| c.iter().map(|c| c.to_bits()).collect::<Vec<_>>()));
            }
            assert!(found.windows(2).all(|two| two[0] == two[1]), "{rows} x {columns} x {terms}");
        }
    }
}

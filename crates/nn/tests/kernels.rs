//! Each kernel that this processor and this build have: the same product, whatever the sizes.

#![expect(clippy::print_stderr, reason = "a test that asks nobody says so")]

use pp_nn::{Kernel, View, gemm};

/// A number that looks random, the same each time.
fn value(i: usize) -> f32 {
    ((i * 2_654_435_761 % 1_000_003) as f32 / 500_001.5) - 1.0
}

/// One past the last position that a matrix touches.
fn end(view: View) -> usize {
    view.offset + (view.rows - 1) * view.row_stride + (view.columns - 1) * view.column_stride + 1
}

/// Each of the two with each kernel that there is here.
fn with_each_kernel(of: [bool; 2]) -> impl Iterator<Item = (bool, Kernel)> {
    let kernels = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
    kernels.flat_map(move |kernel| of.map(|of| (of, kernel)))
}

/// A build for BLAS must not pass without having asked one.
#[test]
fn blas_is_there_where_it_is_wanted() {
    if std::env::var_os("PPTOP_REQUIRE_BLAS").is_some() {
        assert!(Kernel::Blas.is_available(), "no BLAS library, or a build without the feature");
    } else if !Kernel::Blas.is_available() {
        eprintln!("skipped: BLAS (build with --features blas, install libopenblas0-pthread)");
    }
}

#[test]
fn every_kernel_agrees_with_three_loops() {
    // Few rows, few terms and many of both; tiles and vectors that come out even, and rests of
    // each.
    let sizes = [
        (1, 1, 1),
        (1, 40, 33),
        (2, 3, 5),
        (4, 4, 16),
        (5, 7, 33),
        (8, 130, 70),
        (33, 9, 17),
        (9, 1300, 8),
        (64, 35, 130),
        (70, 66, 65),
        (27, 48, 300),
        (530, 20, 5),
    ];
    for (m, n, k) in sizes {
        // With a gap, elements of the left factor are contiguous in neither direction.
        for (a_transposed, b_transposed, gap) in [
            (false, false, 1),
            (false, true, 1),
            (true, false, 1),
            (true, true, 1),
            (false, false, 2),
            (true, true, 2),
        ] {
            for (accumulate, kernel) in with_each_kernel([false, true]) {
                // Each row of a factor is followed by some numbers that are not its own.
                let view = |rows: usize, columns: usize, transposed: bool, gap: usize| {
                    let (r, c) = if transposed { (columns, rows) } else { (rows, columns) };
                    let (row_stride, column_stride) = (gap * (c + 3), gap);
                    let view = View { row_stride, column_stride, ..View::row_major(r, c) };
                    if transposed { view.transposed() } else { view }
                };
                let (av, bv) = (view(m, k, a_transposed, gap), view(k, n, b_transposed, 1));
                let cv = View { offset: 2, row_stride: n + 1, ..View::row_major(m, n) };
                let a: Vec<f32> = (0..end(av)).map(value).collect();
                let b: Vec<f32> = (0..end(bv)).map(|i| value(i + 77)).collect();
                let before: Vec<f32> = (0..=end(cv)).map(|i| value(i + 5)).collect();
                let mut c = before.clone();
                gemm(kernel, (&mut c, cv), (&a, av), (&b, bv), 2.0, accumulate);
                let at =
                    |v: View, r: usize, q: usize| v.offset + r * v.row_stride + q * v.column_stride;
                let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
                for r in 0..m {
                    for q in 0..n {
                        let sum: f64 = (0..k)
                            .map(|i| f64::from(a[at(av, r, i)]) * f64::from(b[at(bv, i, q)]))
                            .sum();
                        let start = if accumulate { want[at(cv, r, q)] } else { 0.0 };
                        want[at(cv, r, q)] = start + 2.0 * sum;
                    }
                }
                for (i, (&got, want)) in c.iter().zip(&want).enumerate() {
                    assert!(
                        (f64::from(got) - want).abs() < 1e-5 * (1.0 + want.abs()),
                        "{kernel}: {m} x {n} x {k}, transposed {a_transposed} {b_transposed}, at {i}: {got}, not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_reaches_its_own_row_and_column_alone() {
    for (m, n, k) in [(8, 33, 70), (8, 130, 8), (40, 40, 40)] {
        for (transposed, kernel) in with_each_kernel([false, true]) {
            let mut a: Vec<f32> = (0..m * k).map(value).collect();
            let mut b: Vec<f32> = (0..k * n).map(|i| value(i + 77)).collect();
            a[k] = f32::NAN;
            let last = if transposed { (n - 1) * k } else { n - 1 };
            b[last] = f32::INFINITY;
            let bv =
                if transposed { View::row_major(n, k).transposed() } else { View::row_major(k, n) };
            // What was there is not read.
            let mut c = vec![f32::NAN; m * n];
            let cv = View::row_major(m, n);
            gemm(kernel, (&mut c, cv), (&a, View::row_major(m, k)), (&b, bv), 1.0, false);
            for (i, v) in c.iter().enumerate() {
                match (i / n, i % n) {
                    (1, _) => assert!(v.is_nan()),
                    (row, column) if column == n - 1 => {
                        assert!(
                            v.is_infinite() && v.signum() == a[row * k].signum(),
                            "row {row}: {v}"
                        );
                    }
                    _ => assert!(v.is_finite(), "{m} x {n} x {k} at {i}"),
                }
            }
        }
    }
}

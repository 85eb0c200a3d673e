//! Which code makes a product of matrices: one value that decides for a whole run.
//!
//! A sum of products rounds by its order, so two ranks that chose differently would not train the
//! same model. The choice is therefore a value that somebody makes once and hands to every layer;
//! [`Kernels::for_processor`] is the default.

use std::fmt;
use std::str::FromStr;

use pulp::{Arch, WithSimd};

/// One way to multiply matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// Reads both factors where they lie, with the widest vectors: for few rows.
    InPlace,
    /// Panels, by vectors of 512 bits.
    Avx512,
    /// Panels, by vectors of 256 bits.
    Avx2,
    /// Panels, by the vectors of an ARM processor.
    Neon,
    /// The `gemm` crate.
    Gemm,
    /// The `cblas_sgemm` of an installed BLAS library (feature `blas`).
    Blas,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::InPlace, Self::Avx512, Self::Avx2, Self::Neon, Self::Gemm, Self::Blas];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Gemm => "gemm",
            Self::Blas => "blas",
        }
    }

    /// Whether this processor and this build have it.
    pub fn is_available(self) -> bool {
        match self {
            Self::InPlace | Self::Gemm => true,
            Self::Blas => super::blas::library().is_ok(),
            Self::Avx512 | Self::Avx2 | Self::Neon => InstructionSet::of(self).is_some(),
        }
    }

    /// The library behind [`Kernel::Blas`], by the name that it was opened with.
    ///
    /// # Errors
    /// Why there is none.
    pub fn blas_library() -> Result<&'static str, &'static str> {
        super::blas::library()
    }

    /// Whether it works on panels, which can be packed once and reused.
    pub fn takes_panels(self) -> bool {
        matches!(self, Self::Avx512 | Self::Avx2 | Self::Neon)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The three products of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `y = x·wᵀ`.
    Output,
    /// `gx = gy·w`.
    InputGradient,
    /// `gw += gyᵀ·x`.
    WeightGradient,
}

impl Product {
    /// All of them, in the order of a step.
    pub const ALL: [Self; 3] = [Self::Output, Self::InputGradient, Self::WeightGradient];

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::InputGradient => "input-gradient",
            Self::WeightGradient => "weight-gradient",
        }
    }
}

/// A micro-batch of up to 16 rows has few, one of up to 64 some, and one of more many.
pub const ROWS_OF_CLASSES: [usize; 2] = [16, 64];

/// A kernel for each product, for few, some and many rows: samples times positions of a
/// micro-batch.
///
/// As text: `output=in-place,avx512,avx512 input-gradient=… weight-gradient=…`, or the name of one
/// kernel for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernels([[Kernel; 3]; 3]);

impl Kernels {
    /// One kernel for everything.
    pub const fn all(kernel: Kernel) -> Self {
        Self([[kernel; 3]; 3])
    }

    /// The rule by the features of this processor: few rows are read where they lie, more are
    /// multiplied in panels with the widest vectors that it has.
    pub fn for_processor() -> Self {
        let many = WIDEST_FIRST.into_iter().find(|k| k.is_available()).unwrap_or(Kernel::Gemm);
        Self([[Kernel::InPlace, many, many]; 3])
    }

    /// The kernel for a product with so many rows.
    pub fn of(&self, product: Product, rows: usize) -> Kernel {
        let class = ROWS_OF_CLASSES.iter().filter(|&&most| rows > most).count();
        self.0[product as usize][class]
    }

    /// The same with another kernel for one product in one class: 0 for few rows, 1 for some, 2 for
    /// many.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn with(mut self, product: Product, class: usize, kernel: Kernel) -> Self {
        self.0[product as usize][class] = kernel;
        self
    }

    /// For people: `in-place up to 16 rows, avx512 above` where all products agree, else the text.
    pub fn summary(&self) -> String {
        let [few, some, many] = self.0[0];
        let [most_few, most_some] = ROWS_OF_CLASSES;
        if self.0 != [self.0[0]; 3] || few == many {
            return self.to_string();
        }
        match some {
            some if some == many => format!("{few} up to {most_few} rows, {many} above"),
            some if some == few => format!("{few} up to {most_some} rows, {many} above"),
            some => format!("{few} up to {most_few} rows, {some} up to {most_some}, {many} above"),
        }
    }

    /// The first of its kernels that this processor or this build does not have.
    pub fn missing(&self) -> Option<Kernel> {
        self.0.into_iter().flatten().find(|kernel| !kernel.is_available())
    }
}

impl Default for Kernels {
    fn default() -> Self {
        Self::for_processor()
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0[0][0];
        if *self == Self::all(first) {
            return f.write_str(first.name());
        }
        for (i, (product, [few, some, many])) in Product::ALL.iter().zip(self.0).enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{}={few},{some},{many}", product.name())?;
        }
        Ok(())
    }
}

/// Why a text cannot be read as a choice of kernels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelsError {
    /// No kernel has this name.
    #[error("unknown kernel '{0}'; use in-place, avx512, avx2, neon, gemm or blas")]
    Kernel(String),
    /// The parts are not as they should be.
    #[error(
        "'{0}' is not a choice of kernels; give one kernel, or three for each product (few, some and many rows), such as \
         'output=in-place,avx2,avx2 input-gradient=in-place,avx2,avx2 weight-gradient=in-place,avx2,avx2'"
    )]
    Form(String),
}

impl FromStr for Kernel {
    type Err = KernelsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|kernel| kernel.name() == text);
        named.ok_or_else(|| KernelsError::Kernel(text.to_owned()))
    }
}

impl FromStr for Kernels {
    type Err = KernelsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains('=') {
            return text.parse().map(Self::all);
        }
        let form = || KernelsError::Form(text.to_owned());
        let mut found = [None; 3];
        for part in text.split_whitespace() {
            let (name, kernels) = part.split_once('=').ok_or_else(form)?;
            let product = Product::ALL.into_iter().find(|product| product.name() == name);
            let slot = &mut found[product.ok_or_else(form)? as usize];
            let kernels: Vec<Kernel> =
                kernels.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let three = kernels.try_into().map_err(|_| form())?;
            if slot.replace(three).is_some() {
                return Err(form());
            }
        }
        match found {
            [Some(output), Some(input), Some(weight)] => Ok(Self([output, input, weight])),
            _ => Err(form()),
        }
    }
}

/// The kernels on panels.
const WIDEST_FIRST: [Kernel; 3] = [Kernel::Avx512, Kernel::Avx2, Kernel::Neon];

/// Vectors that panels are made for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl InstructionSet {
    /// Of a kernel that works on panels, where this processor has it.
    pub(crate) fn of(kernel: Kernel) -> Option<Self> {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => pulp::x86::V4::try_new().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => pulp::x86::V3::try_new().map(Self::Avx2),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => pulp::aarch64::Neon::try_new().map(Self::Neon),
            _ => None,
        }
    }

    /// The widest vectors of this processor.
    pub(crate) fn widest() -> Option<Self> {
        WIDEST_FIRST.into_iter().find_map(Self::of)
    }

    /// Numbers in a vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 8,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => 4,
        }
    }

    /// Runs `work`, compiled for these vectors.
    pub(crate) fn run<W: WithSimd>(self, work: W) -> W::Output {
        let arch = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => Arch::V4(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Arch::V3(simd),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => Arch::Neon(simd),
        };
        arch.dispatch(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_its_text() {
        let mixed = Kernels::for_processor().with(Product::Output, 0, Kernel::Gemm).with(
            Product::WeightGradient,
            2,
            Kernel::Blas,
        );
        for kernels in [Kernels::for_processor(), Kernels::all(Kernel::Avx2), mixed] {
            assert_eq!(kernels.to_string().parse(), Ok(kernels));
        }
        for text in ["", "avx", "output=avx2", "output=avx2,avx2", "output", "a=b c=d e=f"] {
            assert!(text.parse::<Kernels>().is_err(), "{text}");
        }
        let twice = "output=avx2,avx2,avx2 output=avx2,avx2,avx2 weight-gradient=avx2,avx2,avx2";
        assert!(twice.parse::<Kernels>().is_err());
    }

    #[test]
    fn people_read_a_choice_in_words() {
        let rule = Kernels([[Kernel::InPlace, Kernel::Avx2, Kernel::Avx2]; 3]);
        assert_eq!(rule.summary(), "in-place up to 16 rows, avx2 above");
        let three = Kernels([[Kernel::InPlace, Kernel::Gemm, Kernel::Avx2]; 3]);
        assert_eq!(three.summary(), "in-place up to 16 rows, gemm up to 64, avx2 above");
        assert_eq!(Kernels::all(Kernel::Gemm).summary(), "gemm");
        let mixed = rule.with(Product::Output, 2, Kernel::Gemm);
        assert_eq!(mixed.summary(), mixed.to_string());
    }

    #[test]
    fn classes_begin_above_their_bounds() {
        let kernels = Kernels::all(Kernel::Gemm).with(Product::Output, 0, Kernel::InPlace).with(
            Product::Output,
            1,
            Kernel::Avx2,
        );
        let of = |rows| kernels.of(Product::Output, rows);
        assert_eq!([of(1), of(16)], [Kernel::InPlace; 2]);
        assert_eq!([of(17), of(64)], [Kernel::Avx2; 2]);
        assert_eq!(of(65), Kernel::Gemm);
        assert_eq!(kernels.of(Product::InputGradient, 1), Kernel::Gemm);
    }
}

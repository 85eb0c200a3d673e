//! Which kind of processor this is.

use std::fmt;

/// The processor of this machine, as the system names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// What its maker calls it; empty where the system does not say.
    pub name: String,
    /// Its maker, its family and its model, as far as the system tells them: `GenuineIntel`, `6`,
    /// `207`.
    pub parts: Vec<String>,
}

impl Processor {
    /// The one that this process runs on.
    pub fn here() -> Self {
        Self::of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    /// Of a text like `/proc/cpuinfo`: the first processor in it.
    fn of(text: &str) -> Self {
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            })
        };
        let x86 = ["vendor_id", "cpu family", "model"];
        // An ARM processor has numbers alone.
        let arm = ["CPU implementer", "CPU part"];
        let of = |keys: &[&str]| keys.iter().filter_map(|key| value(key)).collect::<Vec<_>>();
        let mut parts = of(&x86);
        if parts.is_empty() {
            parts = of(&arm);
        }
        if parts.is_empty() {
            parts.push(std::env::consts::ARCH.to_owned());
        }
        Self { name: value("model name").unwrap_or_default(), parts }
    }
}

/// `Intel(R) Xeon(R) Processor (GenuineIntel 6 207)`.
impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.join(" ");
        if self.name.is_empty() {
            f.write_str(&parts)
        } else {
            write!(f, "{} ({parts})", self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R) Processor\n";
        let shown = Processor::of(intel).to_string();
        assert_eq!(shown, "Intel(R) Xeon(R) Processor (GenuineIntel 6 207)");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        assert_eq!(Processor::of(arm).to_string(), "0x41 0xd40");
        assert_eq!(Processor::of("").to_string(), std::env::consts::ARCH);
    }
}

//! How a GPU is named: as NVML writes what CUDA gives as numbers.

/// A GPU's UUID, `GPU-` and its bytes in groups.
pub fn gpu_uuid(bytes: [u8; 16]) -> String {
    let mut text = "GPU".to_owned();
    let groups = [0..4, 4..6, 6..8, 8..10, 10..16];
    for group in groups {
        text.push('-');
        text.extend(bytes[group].iter().map(|byte| format!("{byte:02x}")));
    }
    text
}

/// An address on the bus; a GPU is the first function of its device.
pub fn pci_address(domain: u32, bus: u32, device: u32) -> String {
    format!("{domain:08X}:{bus:02X}:{device:02X}.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_nvml_writes_them() {
        let bytes = [0x5f, 0x01, 0x2a, 0xff, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0, 1, 2, 3, 4, 5];
        assert_eq!(gpu_uuid(bytes), "GPU-5f012aff-1020-3040-5060-000102030405");
        assert_eq!(pci_address(0, 0x1a, 0), "00000000:1A:00.0");
    }
}

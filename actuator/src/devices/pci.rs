//! NVIDIA boards as the kernel sees them on the PCI bus, without NVML: a node whose driver is missing or
//! broken has boards all the same, and they draw power.

use std::{fs, path::Path};

const NVIDIA: &str = "0x10de";
/// Display controllers: VGA, 3D and others.
const DISPLAY_CLASS: &str = "0x03";

/// How many NVIDIA boards are under `root` (`/sys/bus/pci/devices`); none when it cannot be read.
#[must_use]
pub fn nvidia_boards(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    let is = |folder: &Path, file: &str, begins: &str| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim().starts_with(begins))
    };
    let board = |folder: &Path| is(folder, "vendor", NVIDIA) && is(folder, "class", DISPLAY_CLASS);
    entries.flatten().filter(|entry| board(&entry.path())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_display_controllers_of_nvidia_are_boards() {
        let root = tempfile::tempdir().unwrap();
        for (address, vendor, class) in [
            ("0000:18:00.0", "0x10de\n", "0x030200\n"), // H100
            ("0000:2a:00.0", "0x10de\n", "0x030000\n"), // a display adapter
            ("0000:05:00.0", "0x10de\n", "0x068000\n"), // NVSwitch
            ("0000:2a:00.1", "0x10de\n", "0x040300\n"), // its audio
            ("0000:00:02.0", "0x8086\n", "0x030000\n"), // another vendor's
        ] {
            let folder = root.path().join(address);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("vendor"), vendor).unwrap();
            fs::write(folder.join("class"), class).unwrap();
        }
        fs::create_dir(root.path().join("0000:ff:00.0")).unwrap();
        assert_eq!(nvidia_boards(root.path()), 2);
        assert_eq!(nvidia_boards(Path::new("/nowhere")), 0);
    }
}

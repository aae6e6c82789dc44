//! The cluster's processes as the kernel sees them: tests share its process namespace.

use std::fs;

/// `/proc/PID/status` of every process of this name.
pub fn processes(name: &str) -> Vec<String> {
    // The kernel keeps 15 characters of a name.
    let name = &name[..name.len().min(15)];
    let of = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        (field(&status, "Name") == name).then_some(status)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// What a line of it says.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

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

/// Likewise of every node agent. The escalating actuator is the same program in another role.
pub fn agents() -> Vec<String> {
    let mut actuators = processes("powercap-actuator");
    actuators.retain(|status| {
        let command = fs::read_to_string(format!("/proc/{}/cmdline", field(status, "Pid"))).unwrap_or_default();
        command.split('\0').nth(1) == Some("node")
    });
    actuators
}

/// What a line of it says.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

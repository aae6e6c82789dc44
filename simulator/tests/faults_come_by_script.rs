//! The `hardware` and `fault` programs together: CPUs of another maker, and a script with its times.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use powercap_simulated_hardware::{Fault, Root};

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simulator(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_powercap-simulator"));
    command.args(arguments);
    command
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_script_makes_boards_and_cpus_fail_at_its_times_and_heals_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let amd = ["--cpufreq-driver", "amd-pstate-epp", "--energy-range-uj", "50000000"];
    let hardware = [&["hardware", "--root", path, "--node", "node-1", "--boards", "2", "--model", "l40s"], &amd[..]];
    let _hardware = Running(simulator(&hardware.concat()).spawn().unwrap());
    let root = Root::new(folder.path());
    until("boot", || root.truth().is_ok_and(|mut truth| truth.read().is_ok_and(|truth| truth.steps > 0)));
    let sysfs = folder.path().join("sysfs");
    assert_eq!(read(&sysfs.join("devices/system/cpu/amd_pstate/status")), "active");
    let policy = sysfs.join("devices/system/cpu/cpufreq/policy0");
    assert_eq!(read(&policy.join("scaling_driver")), "amd-pstate-epp");
    assert_eq!(read(&sysfs.join("class/powercap/intel-rapl:0/max_energy_range_uj")), "50000000");
    assert!(!sysfs.join("class/powercap/intel-rapl:0/constraint_0_power_limit_uw").exists());

    let boards = root.boards().unwrap();
    assert_eq!(boards[0].0.spec.clock_count(), 155);
    let script = folder.path().join("script.yaml");
    let steps = "
- {board: 0, write-code: NO_PERMISSION}
- {at-seconds: 0.1, board: 1, gone: true, return-renamed: true, for-seconds: 5.3}
- {at-seconds: 0.2, control: policy0/scaling_max_freq, control-fault: absent}
- {at-seconds: 5.5, control: policy0/scaling_max_freq}
- {at-seconds: 5.5, board: 0}
";
    std::fs::write(&script, steps).unwrap();
    let start = Instant::now();
    let mut running = Running(simulator(&["fault", "--root", path, "--script"]).arg(&script).spawn().unwrap());
    let fault = |index: usize| boards[index].1.present_fault().and_then(|mut record| record.read()).unwrap_or_default();
    until("the first step", || fault(0) == Fault { write_code: 4, ..Fault::default() });
    until("the second step", || fault(1).gone);
    until("the third step", || !policy.join("scaling_max_freq").exists());
    until("the end", || running.0.try_wait().unwrap().is_some());
    assert!(start.elapsed() >= Duration::from_millis(5500), "each at its time");
    assert!(running.0.wait().unwrap().success());
    assert_eq!(fault(0), Fault::default());
    assert_eq!(read(&policy.join("scaling_max_freq")), "3700000");
    until("another board", || root.boards().unwrap()[1].0.uuid != boards[1].0.uuid);
    assert!(!boards[1].1.path().exists());
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for (arguments, says) in [
        (&["fault", "--root", path][..], "one of uuid, board, library and control"),
        (&["fault", "--root", path, "--board", "0", "--read-code", "31"], "give 1 to 30 or 999"),
        (
            &["fault", "--root", path, "--control", "../node.json", "--control-fault", "absent"],
            "policy0/scaling_max_freq",
        ),
        (&["hardware", "--root", path, "--node", "n", "--model", "l40s", "--mig", "1g.10gb"], "has the profiles []"),
        (&["hardware", "--root", path, "--node", "n", "--cpufreq-driver", "acpi"], "acpi-cpufreq"),
    ] {
        let answer = simulator(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&answer.stderr);
        assert!(!answer.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
}

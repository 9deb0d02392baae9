//! Who we are as a lease holder, and whether another holder's process is gone.
//!
//! A killed process leaves its lease behind. On the same machine, since the same boot, a holder whose process id is
//! free or was given to a younger process is known to be dead and can be replaced at once. Where that cannot be known
//! (another machine, another system than Linux), the lease's term decides. Correctness does not rest on this: a wrong
//! guess is fenced. Tests: at the end of the file.

use std::fs;

/// This engine in its own words: boot, process, start of the process, and a random part that tells two engines of one
/// process apart.
pub(crate) fn describe_self(random: u64) -> String {
    let pid = std::process::id();
    let boot = boot_id().unwrap_or_else(|| "unknown".into());
    let started = start_of(pid).map_or_else(|| "unknown".into(), |ticks| ticks.to_string());
    format!("{boot}/{pid}/{started}/{random:016x}")
}

/// Whether the process that wrote `holder` certainly does not run any more.
pub(crate) fn is_gone(holder: &str) -> bool {
    let mut parts = holder.split('/');
    let (Some(boot), Some(pid), Some(started)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Some(ours), Ok(pid), Ok(started)) = (boot_id(), pid.parse::<u32>(), started.parse::<u64>()) else {
        return false;
    };
    // Another boot of the same machine looks like another machine; its term is waited for.
    boot == ours && start_of(pid) != Some(started)
}

fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// When a process started, in clock ticks since boot: field 22 of its stat line. `None` if there is no such process,
/// or it is a zombie that waits to be buried.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted behind its end.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    if fields.next() == Some("Z") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_not_gone() {
        assert!(!is_gone(&describe_self(1)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_holder_whose_process_ended_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let holder = format!("{}/{}/{}/0", boot_id().unwrap(), child.id(), start_of(child.id()).unwrap());
        assert!(!is_gone(&holder));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&holder));
    }

    #[test]
    fn of_a_stranger_nothing_is_claimed() {
        for holder in ["", "x", "a/b/c/d", "another-boot/1/5/0", "unknown/1/unknown/0"] {
            assert!(!is_gone(holder), "{holder}");
        }
    }
}

//! What to compile for: the GPU's own architecture, or the nearest that a compiler knows.

/// The architecture that runs on every supported GPU, if it is given as PTX, which the driver compiles on.
const OLDEST: i32 = 80;

/// An architecture to compile for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `sm_90a` for a cubin, `compute_80` for PTX.
    pub arch: String,
    /// Whether it is the GPU's own.
    pub exact: bool,
}

/// The architecture of a device of compute capability `major.minor`: the specific one (`a`) where tensor cores of that
/// generation need it.
pub fn arch_of(major: i32, minor: i32) -> String {
    let specific = if (major, minor) == (9, 0) || major == 10 { "a" } else { "" };
    format!("sm_{major}{minor}{specific}")
}

/// The architecture for a device, of those that a compiler knows (`90` for sm_90; none known is all known). A cubin runs on
/// later minor versions of its major one, except code for the specific architectures, and PTX on anything later (CUDA C++
/// Programming Guide, "Binary Compatibility" and "PTX Compatibility").
pub fn nearest(known: &[i32], (major, minor): (i32, i32)) -> Target {
    let own = 10 * major + minor;
    if known.is_empty() || known.contains(&own) {
        return Target { arch: arch_of(major, minor), exact: true };
    }
    let below = known.iter().filter(|number| **number / 10 == major && **number < own).max();
    let arch = below.map_or_else(|| format!("compute_{OLDEST}"), |number| format!("sm_{number}"));
    Target { arch, exact: false }
}

/// Whether `arch` names PTX.
pub fn is_ptx(arch: &str) -> bool {
    arch.starts_with("compute_")
}

/// The number of an architecture's name, 0 without one.
pub fn number(arch: &str) -> i32 {
    let digits = arch.trim_start_matches("sm_").trim_start_matches("compute_").trim_end_matches(char::is_alphabetic);
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_of_devices() {
        let names: Vec<String> =
            [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)].map(|(a, b)| arch_of(a, b)).to_vec();
        assert_eq!(names, ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"]);
        assert_eq!(["sm_90a", "compute_80", "sm_120", "x"].map(number), [90, 80, 120, 0]);
    }

    #[test]
    fn newer_gpus_get_the_nearest_code_that_they_run() {
        let old = [50, 75, 80, 86, 87, 89, 90];
        let target = |known: &[i32], compute| nearest(known, compute);
        assert_eq!(target(&old, (9, 0)), Target { arch: "sm_90a".into(), exact: true });
        assert_eq!(target(&[], (13, 1)), Target { arch: "sm_131".into(), exact: true });
        for (compute, arch) in [
            ((8, 8), "sm_87"),
            ((9, 3), "sm_90"), // code for sm_90a runs on 9.0 alone
            ((10, 0), "compute_80"),
            ((12, 0), "compute_80"),
        ] {
            assert_eq!(target(&old, compute), Target { arch: arch.into(), exact: false }, "{compute:?}");
        }
        // A later minor version is no help.
        assert_eq!(target(&[80, 103], (10, 0)).arch, "compute_80");
    }
}
